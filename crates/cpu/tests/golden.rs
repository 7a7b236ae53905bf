//! The engine against PyTorch: `docs/golden/make_golden.py` writes the numbers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use serde::Deserialize;
use shoal_cpu::CpuEngine;
use shoal_learn::{Batch, Engine, Layout, StepSettings};
use shoal_wire::manifest::{ModelSpec, Optimizer};

#[derive(Deserialize)]
struct Golden {
    model: ModelSpec,
    batch: usize,
    context: usize,
    optimizer: Optimizer,
    logits_before: Vec<f32>,
    first_gradient_norms: BTreeMap<String, f64>,
    losses: Vec<f32>,
    logits_after: Vec<f32>,
}

/// MurmurHash3's finaliser over a counter, as in the script.
fn hashed(seed: u32, index: u32) -> u32 {
    let mut x = index.wrapping_add(seed.wrapping_mul(0x9E37_79B9));
    x = (x ^ x >> 16).wrapping_mul(0x85EB_CA6B);
    x = (x ^ x >> 13).wrapping_mul(0xC2B2_AE35);
    x ^ x >> 16
}

fn weights(layout: &Layout) -> Vec<f32> {
    let mut flat: Vec<f32> =
        (0..layout.len() as u32).map(|i| ((hashed(1, i) >> 8) as f32 / (1 << 24) as f32 - 0.5) / 2.0).collect();
    for norm in layout.tensors.iter().filter(|tensor| !tensor.decays()) {
        flat[norm.range()].iter_mut().for_each(|x| *x += 1.0);
    }
    flat
}

fn batch(golden: &Golden, index: usize) -> Batch {
    let rows = golden.batch * (golden.context + 1);
    let start = (index % 4 * rows) as u32;
    let tokens: Vec<u32> = (start..start + rows as u32).map(|i| hashed(2, i) % golden.model.vocab_size).collect();
    Batch::from_rows(&tokens, golden.batch, golden.context).unwrap()
}

fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        assert!(error <= tolerance * expected.abs().max(1.0), "{what} {i}: {got} is not {expected}");
    }
}

fn agrees_with_pytorch(text: &str) {
    let golden: Golden = serde_json::from_str(text).unwrap();
    let layout = Layout::of(&golden.model).unwrap();
    let mut engine = CpuEngine::new(&golden.model, golden.batch, golden.context).unwrap();
    engine.load(&weights(&layout)).unwrap();
    let prompt = batch(&golden, 0).inputs[..golden.context].to_vec();

    let logits = pollster::block_on(engine.next_logits(&prompt)).unwrap();
    assert_close("logit before training", &logits, &golden.logits_before, 1e-4);

    let (_, gradient) = engine.loss_and_gradient(&batch(&golden, 0)).unwrap();
    for tensor in &layout.tensors {
        let squares: f64 = gradient[tensor.range()].iter().map(|g| f64::from(*g).powi(2)).sum();
        let expected = golden.first_gradient_norms[&tensor.name];
        assert!((squares.sqrt() / expected - 1.0).abs() < 1e-4, "gradient norm of {}", tensor.name);
    }

    for step in 0..golden.losses.len() {
        let settings = StepSettings { optimizer: golden.optimizer, lr: golden.optimizer.lr(), step: step as u32 + 1 };
        engine.step(&batch(&golden, step), &settings).unwrap();
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
fn sgd_with_momentum_trains_as_in_pytorch() {
    agrees_with_pytorch(include_str!("golden/grouped_untied_sgd.json"));
    agrees_with_pytorch(include_str!("golden/tied_sgd.json"));
}

#[test]
fn muon_trains_as_in_pytorch() {
    agrees_with_pytorch(include_str!("golden/grouped_untied_muon.json"));
    agrees_with_pytorch(include_str!("golden/tied_muon.json"));
}
