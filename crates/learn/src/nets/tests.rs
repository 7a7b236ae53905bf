#![allow(clippy::unwrap_used)]
use shoal_wire::{Digest, codec};

use super::*;

const IMAGE: Shape = Shape::Image { channels: 3, height: 9, width: 7 };

fn net(input: Shape, layers: &[Layer]) -> Net {
    Net { input, layers: layers.to_vec(), loss: Loss::CrossEntropy }
}

fn conv(outputs: u32, kernel: u32, stride: u32, padding: u32) -> Layer {
    Layer::Conv2d { outputs, kernel, stride, padding }
}

#[test]
fn shapes_and_names_are_those_of_a_sequential_model() {
    let layers = [
        conv(8, 3, 2, 1),
        Layer::GroupNorm { groups: 2, eps: 1e-5 },
        Layer::Activation(Activation::Relu),
        Layer::MaxPool2d { size: 2, stride: 1 },
        Layer::Flatten,
        Layer::Linear { outputs: 5 },
    ];
    let checked = net(IMAGE, &layers).check().unwrap();
    let shapes: Vec<Shape> = checked.nodes.iter().map(|node| node.output).collect();
    let image = |channels, height, width| Shape::Image { channels, height, width };
    // (9 + 2 − 3) / 2 + 1 = 5 and (7 + 2 − 3) / 2 + 1 = 4.
    let expected = [image(8, 5, 4), image(8, 5, 4), image(8, 5, 4), image(8, 4, 3), Shape::Flat(96), Shape::Flat(5)];
    assert_eq!(shapes, expected);
    let named: Vec<(&str, &[usize])> =
        checked.layout.tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape[..])).collect();
    let expected: [(&str, &[usize]); 6] = [
        ("0.bias", &[8]),
        ("0.weight", &[8, 3, 3, 3]),
        ("1.bias", &[8]),
        ("1.weight", &[8]),
        ("5.bias", &[5]),
        ("5.weight", &[5, 96]),
    ];
    assert_eq!(named, expected);
    assert_eq!(checked.nodes[5].weight, checked.layout.find("5.weight").unwrap().range());
    let decaying = checked.layout.tensors.iter().filter(|tensor| tensor.decays()).map(|tensor| tensor.name.as_str());
    assert_eq!(decaying.collect::<Vec<_>>(), ["0.weight", "5.weight"]);
}

#[test]
fn costs_are_counted_as_by_hand() {
    let checked = net(IMAGE, &[conv(8, 3, 2, 1), Layer::Flatten, Layer::Linear { outputs: 5 }]).check().unwrap();
    let (first, second) = (2 * 8 * 27 * 20, 2 * 160 * 5);
    assert_eq!(checked.training_flops(), 2 * first + 3 * second);
    assert_eq!(checked.activation_values(), 189 + 160 + 160 + 5);
    assert_eq!(checked.column_values(), 20 * 27);
    let parameters = (8 * 27 + 8 + 160 * 5 + 5) as u64;
    assert_eq!(checked.training_bytes(3), 16 * parameters + 3 * 4 * 2 * (514 + 540));
}

#[test]
fn a_network_survives_json_and_postcard() {
    for net in [Net::small_cnn(IMAGE, 4), Net::mlp(5, 8, 1, Loss::Binary)] {
        let text = serde_json::to_string(&net).unwrap();
        assert_eq!(serde_json::from_str::<Net>(&text).unwrap(), net);
        let bytes = codec::encode(&net);
        assert_eq!(codec::decode::<Net>("net", &bytes, 4096).unwrap(), net);
    }
    let text = r#"{"input": {"flat": 3}, "layers": [{"linear": {"outputs": 2}}, {"activation": "tanh"}, "flatten"],
        "loss": "cross_entropy"}"#;
    let net: Net = serde_json::from_str(text).unwrap();
    assert_eq!(net.layers[1..], [Layer::Activation(Activation::Tanh), Layer::Flatten]);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_field() {
    let flat = Shape::Flat(4);
    let linear = Layer::Linear { outputs: 2 };
    let huge = Layer::Linear { outputs: 1 << 16 };
    let norm = |groups, eps| Layer::GroupNorm { groups, eps };
    for (net, words) in [
        (net(flat, &[]), "layers must be between 1 and 256"),
        (net(Shape::Flat(0), &[linear]), "input must be"),
        (net(Shape::Image { channels: 1, height: 0, width: 3 }, &[linear]), "input.height"),
        (net(Shape::Image { channels: 1 << 16, height: 1 << 16, width: 1 << 16 }, &[linear]), "input's size"),
        (net(flat, &[Layer::Linear { outputs: 0 }]), "layers[0].linear.outputs"),
        (net(flat, &[linear, conv(1, 1, 1, 0)]), "layers[1].conv2d takes an image"),
        (net(IMAGE, &[linear]), "layers[0].linear takes a row"),
        (net(IMAGE, &[conv(1, 8, 1, 0)]), "layers[0].conv2d.kernel must be between 1 and 7"),
        (net(IMAGE, &[conv(1, 3, 0, 0)]), "layers[0].conv2d.stride"),
        (net(IMAGE, &[conv(1, 3, 1, 3)]), "layers[0].conv2d.padding"),
        (net(IMAGE, &[conv(1, 3, 1, u32::MAX)]), "layers[0].conv2d.padding"),
        (net(IMAGE, &[conv(1, u32::MAX, 1, 1 << 31)]), "layers[0].conv2d.kernel"),
        (
            net(Shape::Image { channels: 1 << 16, height: 1, width: 1 }, &[conv(1 << 16, 1 << 16, 1 << 16, 65_535)]),
            "parameters",
        ),
        (net(IMAGE, &[conv(1, 0, 1, 0)]), "layers[0].conv2d.kernel"),
        (net(IMAGE, &[Layer::MaxPool2d { size: 9, stride: 1 }]), "layers[0].pool2d.size"),
        (net(flat, &[norm(3, 1e-5), linear]), "layers[0].group_norm.groups 3 does not divide 4"),
        (net(flat, &[norm(2, f32::NAN), linear]), "layers[0].group_norm.eps"),
        (net(IMAGE, &[conv(2, 1, 1, 0)]), "flatten"),
        (net(flat, &[Layer::Linear { outputs: 1 }]), "at least 2 outputs"),
        (net(flat, &[huge, huge, linear]), "parameters"),
        (net(flat, &[Layer::Activation(Activation::Relu)]), "nothing to train"),
    ] {
        let error = net.check().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn first_weights_have_the_spread_that_their_place_asks_for_and_follow_from_the_seed() {
    let checked = Net::mlp(200, 100, 50, Loss::MeanSquared).check().unwrap();
    let first = checked.genesis(Digest([1; 32]));
    assert_eq!(first, checked.genesis(Digest([1; 32])));
    assert_ne!(first, checked.genesis(Digest([2; 32])));
    let deviation = |node: usize| {
        let values = &first[checked.nodes[node].weight.clone()];
        (values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / values.len() as f64).sqrt()
    };
    assert!((deviation(0) - 0.1).abs() < 3e-3 && (deviation(4) - 0.1).abs() < 3e-3);
    assert!(first[checked.nodes[2].bias.clone()].iter().all(|bias| bias.to_bits() == 0));
}

#[test]
fn the_first_weights_of_a_small_network_have_these_bits_everywhere() {
    let parameters = Net::small_cnn(IMAGE, 4).check().unwrap().genesis(Digest([7; 32]));
    let bytes: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(Digest::of(&bytes).to_string(), "d38dd4770ee63a7625926e0b1b8cae529038c5db82acb2b485dacce8435a4e09");
}

#[test]
fn presets_make_sense_for_every_size_of_image() {
    for side in 1..12 {
        let input = Shape::Image { channels: 2, height: side, width: side + 1 };
        assert_eq!(Net::small_cnn(input, 3).check().unwrap().outputs, 3);
    }
    for (height, width) in [(183, 183), (184, 184), (300, 1000), (1, 4000)] {
        let input = Shape::Image { channels: 3, height, width };
        assert_eq!(Net::small_cnn(input, 3).check().unwrap().outputs, 3, "{height} × {width}");
    }
}

#[test]
fn losses_are_those_computed_by_hand() {
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    let (ln2, ln3) = (core::f64::consts::LN_2, 1.098_612_288_668_11);
    // softmax(ln 3, 0) = (3/4, 1/4), so the losses are ln 4 − ln 3 and ln 4.
    let outputs = [ln3 as f32, 0.0, ln3 as f32, 0.0];
    near(mean_loss(Loss::CrossEntropy, &outputs, &Targets::Classes(vec![0, 1])), 2.0 * ln2 - ln3 / 2.0);
    // σ(ln 3) = 3/4 and σ(0) = 1/2.
    near(mean_loss(Loss::Binary, &outputs[..2], &Targets::Values(vec![1.0, 0.0])), (3.0 * ln2 - ln3) / 2.0);
    near(mean_loss(Loss::Binary, &[-1000.0], &Targets::Values(vec![1.0])), 1000.0);
    near(mean_loss(Loss::MeanSquared, &[1.0, 5.0], &Targets::Values(vec![3.0, 4.0])), 2.5);
}

#[test]
fn examples_that_do_not_fit_are_refused() {
    let checked = Net::mlp(2, 4, 3, Loss::CrossEntropy).check().unwrap();
    let good = Examples { features: vec![0.0; 4], targets: Targets::Classes(vec![2, 0]) };
    assert_eq!(good.check(&checked).unwrap(), 2);
    assert_eq!(good.select(&[1, 1, 0], 2).targets, Targets::Classes(vec![0, 0, 2]));
    for bad in [
        Examples { features: vec![0.0; 5], ..good.clone() },
        Examples { targets: Targets::Classes(vec![3, 0]), ..good.clone() },
        Examples { targets: Targets::Values(vec![0.0; 6]), ..good.clone() },
    ] {
        assert!(bad.check(&checked).is_err(), "{bad:?}");
    }
}

#[test]
fn a_report_measures_what_the_loss_is_for() {
    let values = Targets::Values(vec![1.0, 0.0, 1.0, 0.0]);
    let Report::Binary { accuracy, auc, f1, .. } = Report::of(Loss::Binary, &[2.0, -1.0, -0.5, -2.0], &values, 1.0)
    else {
        panic!("one output")
    };
    assert_eq!((accuracy, auc, f1), (Some(0.75), Some(1.0), Some(2.0 / 3.0)));
    let classes = Targets::Classes(vec![0, 2]);
    let report = Report::of(Loss::CrossEntropy, &[3.0, 1.0, 1.0, 0.0, 5.0, 0.0], &classes, 1.0);
    assert!(matches!(report, Report::Classes { accuracy: Some(half), .. } if (half - 0.5).abs() < 1e-12));
    let report = Report::of(Loss::MeanSquared, &[1.0, 1.0, 0.0, 0.0], &values, 10.0);
    let Report::Numbers { mae, rmse, r2 } = report else { panic!("numbers") };
    assert_eq!((mae, rmse, r2), (Some(5.0), Some(50f64.sqrt()), Some(-1.0)));
}
