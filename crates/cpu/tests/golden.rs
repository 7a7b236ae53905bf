//! The engine against PyTorch: `docs/golden/make_golden.py` writes the numbers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "golden/world.rs"]
mod world;

use shoal_cpu::{CpuEngine, CpuLoraEngine};
use shoal_learn::{Engine, Layout, StepSettings, lora::LoraSpec};
use world::{Golden, Lora, uniform, weights};

fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        assert!(error <= tolerance * expected.abs().max(1.0), "{what} {i}: {got} is not {expected}");
    }
}

fn agrees_with_pytorch(text: &str) {
    let golden = Golden::parse(text);
    let model = golden.model();
    let layout = Layout::of(&model).unwrap();
    let mut engine = CpuEngine::new(&model, golden.batch, golden.context).unwrap();
    engine.load(&weights(&layout)).unwrap();
    let prompt = golden.prompt();

    let logits = pollster::block_on(engine.next_logits(&prompt)).unwrap();
    assert_close("logit before training", &logits, &golden.logits_before, 1e-4);

    let (_, gradient) = engine.loss_and_gradient(&golden.batch(0)).unwrap();
    for tensor in &layout.tensors {
        let squares: f64 = gradient[tensor.range()].iter().map(|g| f64::from(*g).powi(2)).sum();
        let expected = golden.first_gradient_norms[&tensor.name];
        assert!((squares.sqrt() / expected - 1.0).abs() < 1e-4, "gradient norm of {}", tensor.name);
    }

    for step in 0..golden.losses.len() {
        let settings = StepSettings { optimizer: golden.optimizer, lr: golden.optimizer.lr(), step: step as u32 + 1 };
        engine.step(&golden.batch(step), &settings).unwrap();
    }
    let losses = pollster::block_on(engine.losses()).unwrap();
    assert_close("loss", &losses, &golden.losses, 1e-4);
    for (got, expected) in losses.iter().zip(&golden.losses) {
        assert!((got / expected - 1.0).abs() < 1e-4, "loss {got} is not {expected}");
    }
    let logits = pollster::block_on(engine.next_logits(&prompt)).unwrap();
    assert_close("logit after training", &logits, &golden.logits_after, 1e-4);
    let largest = losses.iter().zip(&golden.losses).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f32::max);
    println!("largest relative difference of {} losses: {largest:.1e}", losses.len());
}

#[test]
fn grouped_queries_and_an_untied_head_train_as_in_pytorch() {
    agrees_with_pytorch(include_str!("golden/grouped_untied.json"));
}

#[test]
fn a_tied_head_trains_as_in_pytorch() {
    agrees_with_pytorch(include_str!("golden/tied.json"));
}

#[test]
fn linearly_scaled_positions_train_as_in_pytorch() {
    agrees_with_pytorch(include_str!("golden/linear.json"));
}

#[test]
fn positions_scaled_as_in_llama_3_train_as_in_pytorch() {
    agrees_with_pytorch(include_str!("golden/llama3.json"));
}

#[test]
fn sgd_with_momentum_trains_as_in_pytorch() {
    agrees_with_pytorch(include_str!("golden/grouped_untied_sgd.json"));
    agrees_with_pytorch(include_str!("golden/tied_sgd.json"));
}

#[test]
fn muon_trains_as_in_pytorch() {
    agrees_with_pytorch(include_str!("golden/grouped_untied_muon.json"));
    agrees_with_pytorch(include_str!("golden/tied_muon.json"));
}

#[test]
fn an_adapter_trains_as_in_peft_and_merges_into_the_same_model() {
    let golden = Golden::parse(include_str!("golden/lora.json"));
    let model = golden.model();
    let Lora { rank, alpha, targets } = golden.lora.as_ref().unwrap();
    let spec = LoraSpec { rank: *rank, alpha: *alpha, targets: targets.clone() };
    let base = weights(&Layout::of(&model).unwrap());
    let mut engine = CpuLoraEngine::new(&model, &base, spec, golden.batch, golden.context).unwrap();
    let values = uniform(3, engine.adapter().layout().len());
    engine.load(&values).unwrap();
    let prompt = golden.prompt();
    let logits = pollster::block_on(engine.next_logits(&prompt)).unwrap();
    assert_close("logit before training", &logits, &golden.logits_before, 1e-4);
    for step in 0..golden.losses.len() {
        let settings = StepSettings { optimizer: golden.optimizer, lr: golden.optimizer.lr(), step: step as u32 + 1 };
        engine.step(&golden.batch(step), &settings).unwrap();
    }
    let losses = pollster::block_on(engine.losses()).unwrap();
    assert_close("loss", &losses, &golden.losses, 1e-4);
    let logits = pollster::block_on(engine.next_logits(&prompt)).unwrap();
    assert_close("logit after training", &logits, &golden.logits_after, 1e-4);
    // The merged weights are a model of their own.
    let mut merged = CpuEngine::new(&model, golden.batch, golden.context).unwrap();
    merged.load(engine.merged()).unwrap();
    let logits = pollster::block_on(merged.next_logits(&prompt)).unwrap();
    assert_close("logit of the merged model", &logits, &golden.logits_after, 1e-4);
    let unchanged = engine.merged().iter().zip(&base).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
    assert!(unchanged > 0 && unchanged < base.len());
}
