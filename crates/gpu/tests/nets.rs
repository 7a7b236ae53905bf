//! Networks for tables and images on the WebGPU engine against the CPU engine, which shares no code with it.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use pollster::block_on;
use shoal_cpu::CpuNetEngine;
use shoal_gpu::GpuNetEngine;
use shoal_learn::nets::{Activation, Checked, Examples, Layer, Loss, Net, NetEngine, Shape, Targets};
use shoal_learn::{EngineError, StepSettings};
use shoal_wire::Digest;
use shoal_wire::manifest::{AdamW, Muon, MuonScale, Optimizer, Sgd};

const IMAGE: Shape = Shape::Image { channels: 2, height: 9, width: 7 };

fn gpu(net: &Net, batch: usize) -> GpuNetEngine {
    block_on(GpuNetEngine::new(net, batch))
        .expect("these tests need a Vulkan device; on Debian, `apt-get install mesa-vulkan-drivers` brings one")
}

/// Values in [-1, 1).
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count + 8).map(|_| next()).skip(8).collect()
}

/// Examples whose targets follow from their first features, so that there is something to learn.
fn examples(net: &Checked, seed: u32, count: usize) -> Examples {
    let width = net.input.values() as usize;
    let features = noise(seed, count * width);
    let first = |row: usize, output: usize| features[row * width + output % width];
    let each = |act: &dyn Fn(f32) -> f32| {
        (0..count * net.outputs).map(|i| act(first(i / net.outputs, i % net.outputs))).collect::<Vec<f32>>()
    };
    let targets = match net.loss {
        Loss::CrossEntropy => {
            let class = |row| (f32::midpoint(first(row, 0), 1.0) * net.outputs as f32) as u32;
            Targets::Classes((0..count).map(|row| class(row).min(net.outputs as u32 - 1)).collect())
        }
        Loss::Binary => Targets::Values(each(&|x| f32::from(x > 0.0))),
        Loss::MeanSquared => Targets::Values(each(&|x| x * 0.7)),
    };
    Examples { features, targets }
}

fn adamw() -> Optimizer {
    AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) }.into()
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let scale = if what == "loss" { b.abs() } else { largest };
        assert!((a - b).abs() <= tolerance * scale, "{what} {index}: {a} against {b}");
    }
}

fn train_both(net: &Net, batch: usize, steps: u32, optimizer: Optimizer) {
    let checked = net.check().unwrap();
    let weights = checked.genesis(Digest::of(b"parity"));
    let (mut cpu, mut gpu) = (CpuNetEngine::new(net, batch).unwrap(), gpu(net, batch));
    cpu.load(&weights).unwrap();
    gpu.load(&weights).unwrap();
    // More than a batch, and no multiple of it.
    let held_out = examples(&checked, 99, 2 * batch + 1);
    let outputs = block_on(gpu.predict(&held_out.features)).unwrap();
    assert_close("output", &outputs, &block_on(cpu.predict(&held_out.features)).unwrap(), 1e-5);
    for step in 1..=steps {
        let (examples, settings) =
            (examples(&checked, step % 5, batch), StepSettings { optimizer, lr: optimizer.lr(), step });
        if step == 1 {
            let expected = cpu.loss_and_gradient(&examples).unwrap().1.to_vec();
            gpu.step(&examples, &settings).unwrap();
            if !matches!(optimizer, Optimizer::Muon(_)) {
                let gradient = block_on(gpu.gradients()).unwrap();
                for tensor in &checked.layout.tensors {
                    assert_close(&tensor.name, &gradient[tensor.range()], &expected[tensor.range()], 1e-4);
                }
            }
        } else {
            gpu.step(&examples, &settings).unwrap();
        }
        cpu.step(&examples, &settings).unwrap();
    }
    let (ours, theirs) = (block_on(gpu.losses()).unwrap(), block_on(cpu.losses()).unwrap());
    assert_close("loss", &ours, &theirs, 1e-4);
    // Batches repeat after five steps.
    let sum = |losses: &[f32]| losses.iter().sum::<f32>();
    assert!(sum(&ours[ours.len() - 5..]) < sum(&ours[..5]), "the network learns: {ours:?}");
    let (a, b) = (block_on(gpu.evaluate(&held_out)).unwrap(), block_on(cpu.evaluate(&held_out)).unwrap());
    assert_close("evaluation", &[a], &[b], 1e-3);
}

fn conv(outputs: u32, kernel: u32, stride: u32, padding: u32) -> Layer {
    Layer::Conv2d { outputs, kernel, stride, padding }
}

fn act(kind: Activation) -> Layer {
    Layer::Activation(kind)
}

#[test]
fn fifty_steps_on_images_give_the_losses_of_the_cpu_engine() {
    train_both(&Net::small_cnn(Shape::Image { channels: 1, height: 12, width: 12 }, 4), 16, 50, adamw());
}

#[test]
fn fifty_steps_on_tables_give_the_losses_of_the_cpu_engine() {
    train_both(&Net::mlp(30, 64, 1, Loss::Binary), 32, 50, adamw());
    train_both(&Net::mlp(7, 20, 3, Loss::CrossEntropy), 9, 50, adamw());
    train_both(&Net::mlp(5, 13, 2, Loss::MeanSquared), 10, 50, adamw());
}

#[test]
fn a_network_that_ends_in_a_pool_gives_the_losses_of_the_cpu_engine() {
    // The last layer only sees the means in another shape.
    let image = Shape::Image { channels: 2, height: 6, width: 6 };
    let layers = vec![
        conv(8, 3, 1, 1),
        act(Activation::Tanh),
        conv(3, 3, 1, 1),
        Layer::AvgPool2d { size: 6, stride: 6 },
        Layer::Flatten,
    ];
    train_both(&Net { input: image, layers, loss: Loss::CrossEntropy }, 12, 50, adamw());
    // And here what it sees is an activation's.
    let layers =
        vec![conv(3, 6, 1, 0), Layer::GroupNorm { groups: 1, eps: 1e-5 }, act(Activation::Tanh), Layer::Flatten];
    train_both(&Net { input: image, layers, loss: Loss::MeanSquared }, 12, 50, adamw());
}

#[test]
fn every_layer_in_odd_sizes_gives_the_losses_of_the_cpu_engine() {
    let layers = vec![
        conv(6, 3, 2, 1),
        Layer::GroupNorm { groups: 3, eps: 1e-5 },
        act(Activation::Gelu),
        Layer::AvgPool2d { size: 2, stride: 1 },
        conv(5, 2, 1, 1),
        act(Activation::Tanh),
        Layer::MaxPool2d { size: 3, stride: 1 },
        Layer::Flatten,
        act(Activation::Relu),
        Layer::Linear { outputs: 9 },
        Layer::GroupNorm { groups: 9, eps: 0.5 },
        act(Activation::Silu),
        Layer::Linear { outputs: 3 },
    ];
    train_both(&Net { input: IMAGE, layers, loss: Loss::CrossEntropy }, 5, 20, adamw());
}

#[test]
fn the_shortest_networks_and_a_first_layer_without_parameters_give_the_losses_of_the_cpu_engine() {
    let linear = Layer::Linear { outputs: 2 };
    let net = |input, layers: &[Layer]| Net { input, layers: layers.to_vec(), loss: Loss::CrossEntropy };
    train_both(&net(Shape::Flat(3), &[linear]), 8, 20, adamw());
    train_both(&net(IMAGE, &[Layer::Flatten, linear]), 4, 20, adamw());
    train_both(&net(IMAGE, &[Layer::MaxPool2d { size: 2, stride: 2 }, Layer::Flatten, linear]), 4, 20, adamw());
    let padded = [conv(3, 9, 1, 4), Layer::Flatten, Layer::Flatten, linear, linear];
    train_both(&net(IMAGE, &padded), 1, 20, adamw());
}

#[test]
fn gradients_from_more_rows_than_a_slice_are_summed_over_slices() {
    let layers = vec![conv(4, 3, 1, 1), act(Activation::Relu), conv(7, 1, 1, 0), Layer::Flatten];
    let layers = [layers, vec![Layer::Linear { outputs: 3 }]].concat();
    train_both(&Net { input: IMAGE, layers, loss: Loss::CrossEntropy }, 40, 10, adamw());
}

#[test]
fn other_optimisers_give_the_losses_of_the_cpu_engine() {
    let net = Net::mlp(6, 16, 3, Loss::CrossEntropy);
    let sgd = Sgd { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 1e-3, grad_clip: Some(1.0) };
    train_both(&net, 8, 20, Optimizer::Sgd(sgd));
    let muon = Muon {
        lr: 0.01,
        momentum: 0.95,
        nesterov: true,
        scale: MuonScale::MatchRmsAdamw,
        weight_decay: 0.1,
        adamw_lr: 3e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        grad_clip: Some(1.0),
    };
    train_both(&net, 8, 20, Optimizer::Muon(muon));
}

#[test]
fn steps_of_networks_make_one_submit_and_few_dispatches() {
    let net = Net::small_cnn(Shape::Image { channels: 1, height: 28, width: 28 }, 10);
    let counters = gpu(&net, 8).counters();
    assert_eq!(counters.submits, 1);
    let most = 8 * net.layers.len() as u64 + 4;
    assert!(counters.dispatches <= most, "{} dispatches, more than {most}", counters.dispatches);
}

#[test]
fn bad_batches_and_sizes_of_networks_are_refused() {
    let net = Net::mlp(3, 4, 2, Loss::CrossEntropy);
    let mut engine = gpu(&net, 2);
    let good = examples(&net.check().unwrap(), 1, 2);
    let settings = StepSettings { optimizer: adamw(), lr: 0.1, step: 1 };
    engine.step(&good, &settings).unwrap();
    assert!(engine.step(&good, &StepSettings { step: 0, ..settings }).is_err());
    assert!(matches!(engine.step(&good.select(&[0], 2), &settings), Err(EngineError::Shape { .. })));
    assert!(engine.step(&Examples { targets: Targets::Classes(vec![0, 2]), ..good.clone() }, &settings).is_err());
    assert!(engine.load(&[0.0; 3]).is_err());
    assert!(block_on(engine.predict(&[0.0; 4])).is_err());
    assert_eq!(block_on(engine.losses()).unwrap().len(), 1);
    assert!(block_on(GpuNetEngine::new(&net, 0)).is_err());
    let large = Net::small_cnn(Shape::Image { channels: 3, height: 128, width: 128 }, 2);
    let error = block_on(GpuNetEngine::new(&large, 1 << 16)).unwrap_err();
    assert!(matches!(error, EngineError::OutOfMemory(_)), "{error}");
}
