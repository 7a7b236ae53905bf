//! However many cores compute, the result is the same bits.

#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used)]

use shoal_cpu::CpuEngine;
use shoal_learn::{Batch, Engine, StepSettings, init, presets::Preset};
use shoal_wire::{
    Digest,
    manifest::{AdamW, ModelSpec},
};

/// Losses and parameters after three steps.
fn train(model: &ModelSpec, cores: usize) -> Vec<u32> {
    let (batch, context) = (3, 61);
    let mut engine = CpuEngine::new(model, batch, context).unwrap();
    engine.load(&init::genesis(model, Digest::of(b"cores")).unwrap()).unwrap();
    let adamw = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(cores).build().unwrap();
    for step in 1..=3 {
        let rows: Vec<u32> = (0..batch * (context + 1)).map(|i| (i * i + step) as u32 % model.vocab_size).collect();
        let tokens = Batch::from_rows(&rows, batch, context).unwrap();
        let settings = StepSettings { optimizer: adamw.into(), lr: 1e-2, step: step as u32 };
        pool.install(|| engine.step(&tokens, &settings)).unwrap();
    }
    let losses = pollster::block_on(engine.losses()).unwrap();
    let parameters = pollster::block_on(engine.parameters()).unwrap();
    losses.iter().chain(&parameters).map(|value| value.to_bits()).collect()
}

#[test]
fn training_gives_the_same_bits_on_any_number_of_cores() {
    let model = ModelSpec { num_key_value_heads: 1, max_position_embeddings: 64, ..Preset::Tiny.model() };
    let one = train(&model, 1);
    for cores in [2, 5] {
        assert!(train(&model, cores) == one, "{cores} cores");
    }
}
