//! First weights of a run, the same bits on every platform.
//!
//! Embeddings and projections are about N(0, 0.02²); the projections that write to the residual stream
//! are scaled by 1/√(2·layers), as in GPT-2 (Radford et al. 2019, section 2.3); norms are 1.

use blake3::{Hasher, OutputReader};
use shoal_wire::Digest;
use shoal_wire::manifest::ModelSpec;

use crate::{Layout, layout::LayoutError};

const DOMAIN: &str = "shoal 2026 v1 first weights";
const STANDARD_DEVIATION: f64 = 0.02;

/// The first model of a run: its parameters in layout order.
pub fn genesis(model: &ModelSpec, seed: Digest) -> Result<Vec<f32>, LayoutError> {
    let layout = Layout::of(model)?;
    // A square root and a division are correctly rounded everywhere, unlike the functions of libm.
    let residual = STANDARD_DEVIATION / (2.0 * f64::from(model.num_hidden_layers)).sqrt();
    let mut normals = Normals::new(DOMAIN, seed);
    let mut parameters = Vec::with_capacity(layout.len());
    for tensor in &layout.tensors {
        let scale = if tensor.name.ends_with("o_proj.weight") || tensor.name.ends_with("down_proj.weight") {
            residual
        } else {
            STANDARD_DEVIATION
        };
        for _ in 0..tensor.len() {
            parameters.push(if tensor.decays() { (normals.draw() * scale) as f32 } else { 1.0 });
        }
    }
    Ok(parameters)
}

/// About normal, mean 0 and variance 1: the sum of twelve uniform numbers less its mean (Irwin–Hall).
pub(crate) struct Normals {
    stream: OutputReader,
    buffer: [u8; 6144],
    next: usize,
}

impl Normals {
    /// The numbers that follow from a seed, in a domain of their own.
    pub fn new(domain: &str, seed: Digest) -> Self {
        let mut hasher = Hasher::new_derive_key(domain);
        hasher.update(&seed.0);
        Self { stream: hasher.finalize_xof(), buffer: [0; 6144], next: 6144 }
    }

    pub fn draw(&mut self) -> f64 {
        if self.next == self.buffer.len() {
            self.stream.fill(&mut self.buffer);
            self.next = 0;
        }
        let words = self.buffer[self.next..self.next + 24].as_chunks().0;
        self.next += 24;
        let sum: i64 = words.iter().map(|word| i64::from(u16::from_le_bytes(*word))).sum();
        // Twelve of 0..=65535 have the mean 6 × 65535, and the sum is exact as an integer.
        (sum - 6 * 65_535) as f64 / 65_536.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::presets::Preset;

    fn digest(parameters: &[f32]) -> String {
        let bytes: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
        Digest::of(&bytes).to_string()
    }

    #[test]
    fn the_first_tiny_model_has_these_bits_everywhere() {
        let parameters = genesis(&Preset::Tiny.model(), Digest([7; 32])).unwrap();
        assert_eq!(digest(&parameters), "18ed721173759a36a2e938f3922d3e7bfcb981dbe3fdfb75df001f10474192a4");
    }

    #[test]
    fn another_seed_gives_another_model() {
        let model = Preset::Tiny.model();
        assert_ne!(genesis(&model, Digest([1; 32])).unwrap(), genesis(&model, Digest([2; 32])).unwrap());
    }

    #[test]
    fn tensors_have_the_spread_that_their_role_asks_for() {
        let model = Preset::Small.model();
        let layout = Layout::of(&model).unwrap();
        let parameters = genesis(&model, Digest([7; 32])).unwrap();
        let deviation = |name: &str| {
            let values = &parameters[layout.find(name).unwrap().range()];
            (values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() / values.len() as f64).sqrt()
        };
        assert!((deviation("lm_head.weight") - 0.02).abs() < 5e-4);
        let residual = 0.02 / 8f64.sqrt();
        assert!((deviation("model.layers.3.mlp.down_proj.weight") - residual).abs() < 2e-4);
        assert!((deviation("model.layers.0.self_attn.o_proj.weight") - residual).abs() < 2e-4);
        assert!(
            parameters[layout.find("model.norm.weight").unwrap().range()].iter().all(|v| v.to_bits() == 1f32.to_bits())
        );
    }
}
