//! A fixed outer step whose outcome is known: every engine that runs it must arrive at [`DIGEST`].

use shoal_wire::{
    Digest,
    manifest::{Codec, ModelSpec, Outer, RopeScaling},
    share::Share,
};

use super::{Residual, UpdateError, aggregate, params_to_bytes};
use crate::Layout;

/// BLAKE3 of the resulting parameters.
pub const DIGEST: &str = "e97d76aef91161a53d990b5a5c08fed3c19be7a869fe1e40eeb7b06130a478f7";

/// Runs the fixed outer step: three updates in each codec, two rounds each, with clipping at work.
pub fn run() -> Result<Digest, UpdateError> {
    let model = ModelSpec {
        vocab_size: 61,
        hidden_size: 12,
        intermediate_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        max_position_embeddings: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: false,
    };
    let layout = Layout::of(&model).map_err(|_| UpdateError::Header)?;
    let mut theta = noise(0, layout.len(), 0.05);
    for codec in [Codec::Dense4, Codec::Topk] {
        let outer = Outer { codec, alpha_1024: 717, feedback_1024: 973 };
        let mut residuals = vec![Residual::new(&layout); 3];
        let mut history = Vec::new();
        for round in 0..2 {
            let mut updates = Vec::new();
            for (peer, residual) in residuals.iter_mut().enumerate() {
                let size = [0.01, 0.02, 5.0][peer];
                let delta = noise(1 + round * 3 + peer as u64, layout.len(), size);
                updates.push(residual.compress(&outer, &layout, &delta)?);
            }
            let weighted: Vec<(u16, &[u8])> =
                [4095, 17, 1023].into_iter().zip(updates.iter().map(Vec::as_slice)).collect();
            let (next, norms) = aggregate(&layout, &outer, &theta, &weighted, &history, Share::WHOLE)?;
            theta = next;
            history.push(norms);
        }
    }
    Ok(Digest::of(&params_to_bytes(&theta)))
}

/// Reproducible values between −`size` and `size`, from BLAKE3.
fn noise(seed: u64, count: usize, size: f32) -> Vec<f32> {
    let value = |index: usize| {
        let digest = Digest::in_domain(
            "shoal 2026 v1 golden noise",
            &[seed.to_le_bytes(), (index as u64).to_le_bytes()].concat(),
        );
        let whole = i32::from_le_bytes([digest.0[0], digest.0[1], digest.0[2], digest.0[3]]) >> 8;
        whole as f32 / 8_388_608.0 * size
    };
    (0..count).map(value).collect()
}
