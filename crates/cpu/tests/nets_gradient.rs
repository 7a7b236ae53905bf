//! The network engine's losses, outputs and gradients against independent layers in f64, written as plain loops over
//! [channels, height, width] as PyTorch has them, and their central differences.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use pollster::block_on;
use shoal_cpu::CpuNetEngine;
use shoal_learn::nets::{Activation, Checked, Examples, Layer, Loss, Net, NetEngine, Node, Shape, Targets};
use shoal_learn::{EngineError, StepSettings};
use shoal_wire::manifest::AdamW;

/// One example between layers: a channel is its places.
type Channels = Vec<Vec<f64>>;

fn sides(shape: Shape) -> (usize, usize) {
    match shape {
        Shape::Flat(_) => (1, 1),
        Shape::Image { height, width, .. } => (height as usize, width as usize),
    }
}

/// The values of a window over a channel, `None` where it reaches outside.
fn window(channel: &[f64], node: &Node, place: usize, (size, stride, padding): (u32, u32, u32)) -> Vec<Option<f64>> {
    let ((height, width), (_, wide)) = (sides(node.input), sides(node.output));
    let (size, stride, padding) = (size as usize, stride as usize, padding as usize);
    let at = |step: usize| {
        let y = (place / wide * stride + step / size).checked_sub(padding).filter(|y| *y < height)?;
        let x = (place % wide * stride + step % size).checked_sub(padding).filter(|x| *x < width)?;
        Some(channel[y * width + x])
    };
    (0..size * size).map(at).collect()
}

fn layer(node: &Node, flat: &[f64], x: &Channels) -> Channels {
    let (weight, bias) = (&flat[node.weight.clone()], &flat[node.bias.clone()]);
    let places = node.output.places() as usize;
    let pooled = |size, act: fn(&[f64]) -> f64| {
        let one = |channel: &Vec<f64>, place| {
            let values: Vec<f64> = window(channel, node, place, size).into_iter().flatten().collect();
            act(&values)
        };
        x.iter().map(|channel| (0..places).map(|place| one(channel, place)).collect()).collect()
    };
    match node.layer {
        Layer::Linear { .. } => {
            let rows = weight.chunks(x.len()).zip(bias);
            rows.map(|(row, bias)| vec![row.iter().zip(x).map(|(w, x)| w * x[0]).sum::<f64>() + bias]).collect()
        }
        Layer::Conv2d { kernel, stride, padding, .. } => {
            let area = (kernel * kernel) as usize;
            let one = |filter: &[f64], bias: f64, place| {
                let each = x.iter().zip(filter.chunks(area)).flat_map(|(channel, filter)| {
                    let seen = window(channel, node, place, (kernel, stride, padding));
                    seen.into_iter().zip(filter).map(|(x, w)| x.unwrap_or(0.0) * w).collect::<Vec<_>>()
                });
                each.sum::<f64>() + bias
            };
            let filters = weight.chunks(area * x.len()).zip(bias);
            filters.map(|(filter, bias)| (0..places).map(|place| one(filter, *bias, place)).collect()).collect()
        }
        Layer::MaxPool2d { size, stride } => {
            pooled((size, stride, 0), |values| values.iter().copied().fold(f64::MIN, f64::max))
        }
        Layer::AvgPool2d { size, stride } => {
            pooled((size, stride, 0), |values| values.iter().sum::<f64>() / values.len() as f64)
        }
        Layer::GroupNorm { groups, eps } => {
            let wide = x.len() / groups as usize;
            let mut y = x.clone();
            for (index, channel) in y.iter_mut().enumerate() {
                let group: Vec<f64> = x[index / wide * wide..][..wide].concat();
                let mean = group.iter().sum::<f64>() / group.len() as f64;
                let variance = group.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / group.len() as f64;
                let rate = weight[index] / (variance + f64::from(eps)).sqrt();
                for x in channel {
                    *x = (*x - mean) * rate + bias[index];
                }
            }
            y
        }
        Layer::Activation(kind) => {
            let act = |x: f64| match kind {
                Activation::Relu => x.max(0.0),
                Activation::Silu => x / (1.0 + (-x).exp()),
                Activation::Gelu => {
                    x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
                }
                Activation::Tanh => x.tanh(),
            };
            x.iter().map(|channel| channel.iter().map(|x| act(*x)).collect()).collect()
        }
        Layer::Flatten => x.iter().flatten().map(|x| vec![*x]).collect(),
    }
}

fn outputs(net: &Checked, flat: &[f64], features: &[f32]) -> Vec<f64> {
    let width = net.input.values() as usize;
    let places = net.input.places() as usize;
    let one = |example: &[f32]| {
        let x = example.chunks(places).map(|channel| channel.iter().copied().map(f64::from).collect()).collect();
        net.nodes.iter().fold(x, |x, node| layer(node, flat, &x)).concat()
    };
    features.chunks(width).flat_map(one).collect()
}

fn loss(net: &Checked, flat: &[f64], examples: &Examples) -> f64 {
    let outputs = outputs(net, flat, &examples.features);
    match &examples.targets {
        Targets::Classes(classes) => {
            let row =
                |(row, class): (&[f64], &u32)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[*class as usize];
            outputs.chunks(net.outputs).zip(classes).map(row).sum::<f64>() / classes.len() as f64
        }
        Targets::Values(values) => {
            let one = |(x, y): (&f64, &f32)| match net.loss {
                Loss::MeanSquared => (x - f64::from(*y)).powi(2),
                _ => {
                    -f64::from(*y) * (1.0 / (1.0 + (-x).exp())).ln()
                        - (1.0 - f64::from(*y)) * (1.0 / (1.0 + x.exp())).ln()
                }
            };
            outputs.iter().zip(values).map(one).sum::<f64>() / values.len() as f64
        }
    }
}

/// Values in [-1, 1) without a pattern that layers could share.
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count + 8).map(|_| next()).skip(8).collect()
}

fn examples(net: &Checked, count: usize) -> Examples {
    let targets = match net.loss {
        Loss::CrossEntropy => Targets::Classes((0..count).map(|i| (i * 5 % net.outputs) as u32).collect()),
        Loss::Binary => Targets::Values((0..count * net.outputs).map(|i| (i % 3 % 2) as f32).collect()),
        Loss::MeanSquared => Targets::Values(noise(77, count * net.outputs)),
    };
    Examples { features: noise(5, count * net.input.values() as usize), targets }
}

fn gradient_matches_differences(net: &Net) {
    let mut engine = CpuNetEngine::new(net, 3).unwrap();
    let checked = net.check().unwrap();
    let parameters = noise(9, checked.layout.len());
    let examples = examples(&checked, 3);
    engine.load(&parameters).unwrap();
    let (got_loss, gradient) = engine.loss_and_gradient(&examples).unwrap();
    let gradient = gradient.to_vec();
    let mut flat: Vec<f64> = parameters.iter().copied().map(f64::from).collect();
    let expected = loss(&checked, &flat, &examples);
    assert!((f64::from(got_loss) - expected).abs() < 1e-5 * (1.0 + expected), "loss {got_loss} is not {expected}");
    let largest = gradient.iter().fold(0.0_f64, |most, g| most.max(f64::from(g.abs())));
    assert!(largest > 1e-3, "there is a gradient: {net:?}");
    for tensor in &checked.layout.tensors {
        let stride = if tensor.len() > 60 { 7 } else { 1 };
        for i in tensor.range().step_by(stride) {
            let (middle, step) = (flat[i], 1e-6);
            flat[i] = middle + step;
            let high = loss(&checked, &flat, &examples);
            flat[i] = middle - step;
            let slope = (high - loss(&checked, &flat, &examples)) / (2.0 * step);
            flat[i] = middle;
            let got = f64::from(gradient[i]);
            assert!((got - slope).abs() < 2e-6 + 2e-5 * largest, "{} at {i}: {got} is not {slope}", tensor.name);
        }
    }
    let outputs = outputs(&checked, &flat, &examples.features);
    let got = block_on(engine.predict(&examples.features)).unwrap();
    let most = outputs.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
    for (got, expected) in got.iter().zip(outputs) {
        assert!((f64::from(*got) - expected).abs() < 1e-5 * most, "output {got} is not {expected}");
    }
}

const IMAGE: Shape = Shape::Image { channels: 2, height: 7, width: 6 };

fn conv(outputs: u32, kernel: u32, stride: u32, padding: u32) -> Layer {
    Layer::Conv2d { outputs, kernel, stride, padding }
}

/// A layer between a convolution, which shows its input's gradient, and a classifier.
fn around(layers: &[Layer]) -> Net {
    let layers = [&[conv(4, 3, 1, 1)], layers, &[Layer::Flatten, Layer::Linear { outputs: 3 }]].concat();
    Net { input: IMAGE, layers, loss: Loss::CrossEntropy }
}

#[test]
fn convolutions_match_differences_for_every_stride_and_padding() {
    for layer in
        [conv(3, 1, 1, 0), conv(3, 3, 1, 1), conv(5, 3, 2, 1), conv(3, 2, 3, 1), conv(3, 5, 1, 0), conv(2, 4, 2, 3)]
    {
        gradient_matches_differences(&around(&[layer]));
    }
}

#[test]
fn pools_match_differences_where_windows_overlap_and_where_they_leave_gaps() {
    for (size, stride) in [(2, 2), (3, 2), (3, 1), (2, 3), (1, 1)] {
        gradient_matches_differences(&around(&[Layer::MaxPool2d { size, stride }]));
        gradient_matches_differences(&around(&[Layer::AvgPool2d { size, stride }]));
    }
}

#[test]
fn group_norms_match_differences_over_images_and_rows() {
    for groups in [1, 2, 4] {
        gradient_matches_differences(&around(&[Layer::GroupNorm { groups, eps: 1e-5 }]));
    }
    let norm = Layer::GroupNorm { groups: 2, eps: 1e-3 };
    let layers = vec![Layer::Linear { outputs: 8 }, norm, Layer::Linear { outputs: 2 }];
    gradient_matches_differences(&Net { input: Shape::Flat(5), layers, loss: Loss::CrossEntropy });
}

#[test]
fn activations_match_differences() {
    for kind in [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::Tanh] {
        gradient_matches_differences(&around(&[Layer::Activation(kind)]));
    }
}

#[test]
fn every_loss_matches_differences() {
    for (loss, outputs) in [(Loss::CrossEntropy, 4), (Loss::Binary, 1), (Loss::Binary, 3), (Loss::MeanSquared, 2)] {
        gradient_matches_differences(&Net::mlp(6, 7, outputs, loss));
    }
}

#[test]
fn any_number_of_examples_is_predicted_and_evaluated() {
    let net = around(&[Layer::MaxPool2d { size: 2, stride: 2 }]);
    let checked = net.check().unwrap();
    let mut engine = CpuNetEngine::new(&net, 4).unwrap();
    engine.load(&noise(1, checked.layout.len())).unwrap();
    let eleven = examples(&checked, 11);
    let all = block_on(engine.predict(&eleven.features)).unwrap();
    assert_eq!(all.len(), 33);
    for (index, expected) in all.chunks(3).enumerate() {
        let one = eleven.select(&[index], 11);
        // Products of other sizes may round otherwise.
        let got = block_on(engine.predict(&one.features)).unwrap();
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?} is not {expected:?}");
    }
    let flat: Vec<f64> = noise(1, checked.layout.len()).into_iter().map(f64::from).collect();
    let evaluated = f64::from(block_on(engine.evaluate(&eleven)).unwrap());
    assert!((evaluated - loss(&checked, &flat, &eleven)).abs() < 1e-5);
}

#[test]
fn bad_batches_and_sizes_are_refused() {
    let net = Net::mlp(3, 4, 2, Loss::CrossEntropy);
    let mut engine = CpuNetEngine::new(&net, 2).unwrap();
    let adamw = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: None };
    let settings = StepSettings { optimizer: adamw.into(), lr: 0.1, step: 1 };
    let good = examples(&net.check().unwrap(), 2);
    engine.step(&good, &settings).unwrap();
    assert!(engine.step(&good, &StepSettings { step: 0, ..settings }).is_err());
    assert!(matches!(engine.step(&good.select(&[0], 2), &settings), Err(EngineError::Shape { .. })));
    assert!(engine.step(&Examples { targets: Targets::Classes(vec![0, 2]), ..good.clone() }, &settings).is_err());
    assert!(engine.loss_and_gradient(&good.select(&[], 2)).is_err());
    assert!(engine.load(&[0.0; 3]).is_err());
    assert!(block_on(engine.predict(&[0.0; 4])).is_err());
    assert_eq!(block_on(engine.losses()).unwrap().len(), 1);
    assert!(CpuNetEngine::new(&net, 0).is_err());
    assert!(matches!(CpuNetEngine::new(&net, 1 << 40), Err(EngineError::OutOfMemory(_))));
    assert!(CpuNetEngine::new(&Net { layers: vec![], ..net }, 1).is_err());
}
