//! First weights of a network, the same bits on every platform.

use shoal_wire::Digest;

use super::{Activation, Checked, Layer, Node};
use crate::init::Normals;

const DOMAIN: &str = "shoal 2026 v1 first weights of a net";

impl Checked {
    /// Weights are about N(0, gain² / inputs), where the gain is √2 before a rectifier or its like (He et al., arXiv
    /// 1502.01852) and 1 elsewhere; biases and shifts are 0, scales 1.
    pub fn genesis(&self, seed: Digest) -> Vec<f32> {
        let mut normals = Normals::new(DOMAIN, seed);
        let mut parameters = vec![0.0; self.layout.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            let weight = &mut parameters[node.weight.clone()];
            match node.layer {
                Layer::GroupNorm { .. } => weight.fill(1.0),
                _ if weight.is_empty() => {}
                _ => {
                    let inputs = weight.len() / node.output.channels() as usize;
                    // A square root and a division are correctly rounded everywhere.
                    let scale = (self.squared_gain(index) / inputs as f64).sqrt();
                    weight.fill_with(|| (normals.draw() * scale) as f32);
                }
            }
        }
        parameters
    }

    fn squared_gain(&self, index: usize) -> f64 {
        let halves = |node: &Node| matches!(node.layer, Layer::Activation(kind) if kind != Activation::Tanh);
        let between = |node: &&Node| matches!(node.layer, Layer::GroupNorm { .. });
        let next = self.nodes[index + 1..].iter().find(|node| !between(node));
        if next.is_some_and(halves) { 2.0 } else { 1.0 }
    }
}
