//! What `docs/golden/make_golden.py` wrote, with the weights and tokens that it made from a counter: for the tests of
//! every engine.
#![allow(dead_code)] // each test takes what it needs

use std::collections::BTreeMap;

use serde::Deserialize;
use shoal_learn::{Batch, Layout, folder};
use shoal_wire::manifest::{ModelSpec, Optimizer};

#[derive(Deserialize)]
pub struct Golden {
    /// The model's `config.json`.
    config: serde_json::Value,
    pub batch: usize,
    pub context: usize,
    pub optimizer: Optimizer,
    pub logits_before: Vec<f32>,
    pub first_gradient_norms: BTreeMap<String, f64>,
    pub losses: Vec<f32>,
    pub logits_after: Vec<f32>,
    /// Of an adapter's golden numbers.
    pub lora: Option<Lora>,
}

#[derive(Deserialize)]
pub struct Lora {
    pub rank: u32,
    pub alpha: f32,
    pub targets: Vec<String>,
}

/// MurmurHash3's finaliser over a counter, as in the script.
fn hashed(seed: u32, index: u32) -> u32 {
    let mut x = index.wrapping_add(seed.wrapping_mul(0x9E37_79B9));
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    x ^ (x >> 16)
}

/// Weights of a model, in layout order.
pub fn weights(layout: &Layout) -> Vec<f32> {
    let mut flat = uniform(1, layout.len());
    for norm in layout.tensors.iter().filter(|tensor| !tensor.decays()) {
        flat[norm.range()].iter_mut().for_each(|x| *x += 1.0);
    }
    flat
}

/// Uniform in [-1/4, 1/4), exact in f32.
pub fn uniform(seed: u32, count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| ((hashed(seed, i) >> 8) as f32 / (1 << 24) as f32 - 0.5) / 2.0).collect()
}

impl Golden {
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap()
    }

    pub fn model(&self) -> ModelSpec {
        folder::parse_config(self.config.to_string().as_bytes()).unwrap()
    }

    /// The batch of a step, counted from 0: four take turns.
    pub fn batch(&self, step: usize) -> Batch {
        let rows = self.batch * (self.context + 1);
        let start = (step % 4 * rows) as u32;
        let vocab = self.model().vocab_size;
        let tokens: Vec<u32> = (start..start + rows as u32).map(|i| hashed(2, i) % vocab).collect();
        Batch::from_rows(&tokens, self.batch, self.context).unwrap()
    }

    /// The tokens whose logits are known: the first sequence.
    pub fn prompt(&self) -> Vec<u32> {
        self.batch(0).inputs[..self.context].to_vec()
    }
}
