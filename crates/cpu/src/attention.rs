//! Causal attention with grouped queries and rotary positions.
//!
//! Rotation follows Hugging Face: value `i` of a head turns together with value `i + width/2`, by the position times the
//! `i`-th frequency. Heads lie as [batch, heads, context, width], so the queries that share
//! one key head form one tall matrix and keys are never repeated.

use crate::dims::Dims;
use crate::matrix::{Values, multiply};
use crate::pointwise::max;
use shoal_learn::{EngineError, rope};
use shoal_wire::manifest::ModelSpec;

/// Cosine and sine for each position and each half-width index.
pub struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotation {
    pub fn new(model: &ModelSpec, context: usize) -> Self {
        let (cos, sin) = rope::table(model, context);
        Self { cos, sin }
    }
}

#[derive(Clone, Copy)]
pub enum Turn<'a> {
    None,
    Forward(&'a Rotation),
    /// The gradient of a rotation is the rotation back.
    Back(&'a Rotation),
}

impl Turn<'_> {
    fn apply(self, position: usize, head: &mut [f32]) {
        let (rotation, sign) = match self {
            Turn::None => return,
            Turn::Forward(rotation) => (rotation, 1.0),
            Turn::Back(rotation) => (rotation, -1.0),
        };
        let half = head.len() / 2;
        let (first, second) = head.split_at_mut(half);
        let cos = &rotation.cos[position * half..][..half];
        let sin = &rotation.sin[position * half..][..half];
        for i in 0..half {
            let (a, b, sin) = (first[i], second[i], sin[i] * sign);
            first[i] = a * cos[i] - b * sin;
            second[i] = b * cos[i] + a * sin;
        }
    }
}

/// [batch, context, heads, width] to [batch, heads, context, width], turning each head.
pub fn split_heads(x: &[f32], dims: &Dims, heads: usize, turn: Turn<'_>) -> Values {
    rearrange(x, dims, heads, turn, true)
}

/// [batch, heads, context, width] to [batch, context, heads, width], turning each head.
pub fn merge_heads(x: &[f32], dims: &Dims, heads: usize, turn: Turn<'_>) -> Values {
    rearrange(x, dims, heads, turn, false)
}

fn rearrange(x: &[f32], dims: &Dims, heads: usize, turn: Turn<'_>, split: bool) -> Values {
    let width = dims.head_width;
    let mut out = vec![0.0; x.len()];
    for batch in 0..dims.batch {
        for position in 0..dims.context {
            for head in 0..heads {
                let apart = ((batch * heads + head) * dims.context + position) * width;
                let together = ((batch * dims.context + position) * heads + head) * width;
                let (from, to) = if split { (together, apart) } else { (apart, together) };
                let target = &mut out[to..to + width];
                target.copy_from_slice(&x[from..from + width]);
                turn.apply(position, target);
            }
        }
    }
    out.into()
}

/// Queries, keys and values by head, and the attention probabilities.
pub struct Attention {
    queries: Values,
    keys: Values,
    values: Values,
    probabilities: Values,
}

/// Gradients of queries, keys and values by head.
pub struct AttentionGradient {
    pub queries: Values,
    pub keys: Values,
    pub values: Values,
}

impl Attention {
    /// Returns what the backward pass needs and the mixed values by head.
    pub fn forward(dims: &Dims, queries: Values, keys: Values, values: Values) -> Result<(Self, Values), EngineError> {
        let (stacks, rows, width) = (dims.key_stacks(), dims.query_rows(), dims.head_width);
        let mut scores = multiply(queries.stack(stacks, rows, width), keys.stack(stacks, dims.context, width).t())?;
        causal_softmax(scores.as_mut_slice(), dims.context, dims.score_scale());
        let mixed = multiply(scores.stack(stacks, rows, dims.context), values.stack(stacks, dims.context, width))?;
        Ok((Self { queries, keys, values, probabilities: scores }, mixed))
    }

    pub fn backward(&self, dims: &Dims, dmixed: &Values) -> Result<AttentionGradient, EngineError> {
        let (stacks, rows, width, context) = (dims.key_stacks(), dims.query_rows(), dims.head_width, dims.context);
        let probabilities = self.probabilities.stack(stacks, rows, context);
        let dmixed = dmixed.stack(stacks, rows, width);
        let dvalues = multiply(probabilities.t(), dmixed)?;
        let mut dscores = multiply(dmixed, self.values.stack(stacks, context, width).t())?;
        causal_softmax_backward(self.probabilities.as_slice(), dscores.as_mut_slice(), context, dims.score_scale());
        let dscores = dscores.stack(stacks, rows, context);
        Ok(AttentionGradient {
            queries: multiply(dscores, self.keys.stack(stacks, context, width))?,
            keys: multiply(dscores.t(), self.queries.stack(stacks, rows, width))?,
            values: dvalues,
        })
    }
}

/// Row `r` of each [context, context] block becomes the softmax of its first `r + 1` scaled scores, then zeros.
fn causal_softmax(scores: &mut [f32], context: usize, scale: f32) {
    for (row, scores) in scores.chunks_exact_mut(context).enumerate() {
        let (seen, future) = scores.split_at_mut(row % context + 1);
        let most = max(seen);
        let mut sum = 0.0;
        for x in seen.iter_mut() {
            *x = ((*x - most) * scale).exp();
            sum += *x;
        }
        let share = 1.0 / sum;
        for x in seen {
            *x *= share;
        }
        future.fill(0.0);
    }
}

/// Overwrites gradients of probabilities with those of the unscaled scores: `scale · p · (dp − Σ p·dp)`.
fn causal_softmax_backward(probabilities: &[f32], gradient: &mut [f32], context: usize, scale: f32) {
    let rows = probabilities.chunks_exact(context).zip(gradient.chunks_exact_mut(context));
    for (row, (p, dp)) in rows.enumerate() {
        let (seen, future) = dp.split_at_mut(row % context + 1);
        let mean: f32 = p.iter().zip(seen.iter()).map(|(p, dp)| p * dp).sum();
        for (dp, p) in seen.iter_mut().zip(p) {
            *dp = scale * p * (*dp - mean);
        }
        future.fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)] // these results are exact
    use super::*;
    use shoal_learn::presets::Preset;

    #[test]
    fn softmax_sees_no_later_position() {
        let mut scores = vec![1.0, 9.0, 2.0, 2.0];
        causal_softmax(&mut scores, 2, 0.5);
        assert_eq!(scores, [1.0, 0.0, 0.5, 0.5]);
    }

    #[test]
    fn turning_back_undoes_turning() {
        let model = ModelSpec { hidden_size: 8, num_attention_heads: 2, ..Preset::Tiny.model() };
        let rotation = Rotation::new(&model, 8);
        let mut head = [0.3, -1.0, 0.5, 2.0];
        Turn::Forward(&rotation).apply(7, &mut head);
        assert!((head[0] - 0.3).abs() > 0.1);
        Turn::Back(&rotation).apply(7, &mut head);
        for (got, expected) in head.iter().zip([0.3, -1.0, 0.5, 2.0]) {
            assert!((got - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn a_quarter_turn_pairs_the_halves_of_a_head() {
        let rotation = Rotation { cos: vec![0.0, 1.0], sin: vec![1.0, 0.0] };
        let mut head = [1.0, 2.0, 3.0, 4.0];
        Turn::Forward(&rotation).apply(0, &mut head);
        assert_eq!(head, [-3.0, 2.0, 1.0, 4.0]);
    }
}
