//! Causal attention with grouped queries and rotary positions.
//!
//! Rotation follows Hugging Face: value `i` of a head turns together with value `i + width/2`, by the position times the
//! `i`-th frequency. Heads lie as [batch, heads, context, width], so the queries that share
//! one key head form one tall matrix and keys are never repeated. Probabilities exist for a block of queries only.

use std::cell::RefCell;

use crate::dims::Dims;
use crate::math::{exp, max, sum};
use crate::matrix::{Cores, Matrix, Put, product};
use crate::parallel::{self, ROWS};
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
pub fn split_heads(x: &[f32], dims: &Dims, heads: usize, turn: Turn<'_>, out: &mut [f32]) {
    let (context, width) = (dims.context, dims.head_width);
    parallel::each(out.chunks_exact_mut(context * width).enumerate(), |(stack, out)| {
        let (batch, head) = (stack / heads, stack % heads);
        for (position, target) in out.chunks_exact_mut(width).enumerate() {
            target.copy_from_slice(&x[((batch * context + position) * heads + head) * width..][..width]);
            turn.apply(position, target);
        }
    });
}

/// [batch, heads, context, width] to [batch, context, heads, width], turning each head.
pub fn merge_heads(x: &[f32], dims: &Dims, heads: usize, turn: Turn<'_>, out: &mut [f32]) {
    let (context, width) = (dims.context, dims.head_width);
    parallel::each(out.chunks_mut(ROWS * heads * width).enumerate(), |(piece, out)| {
        for (row, out) in out.chunks_exact_mut(heads * width).enumerate() {
            let (batch, position) = ((piece * ROWS + row) / context, (piece * ROWS + row) % context);
            for (head, target) in out.chunks_exact_mut(width).enumerate() {
                target.copy_from_slice(&x[((batch * heads + head) * context + position) * width..][..width]);
                turn.apply(position, target);
            }
        }
    });
}

/// Queries, keys and values by head.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    pub queries: &'a [f32],
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

/// Rows of queries that are worked on together: whole blocks of keys that they cannot see are never touched.
const BLOCK: usize = 32;

thread_local! {
    /// Scores of a block and their gradient, kept from step to step.
    static SCORES: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// A block of queries of one head.
struct Block {
    /// Its first row among all queries that share a key head.
    row: usize,
    /// Position of its first query.
    start: usize,
    rows: usize,
    /// Keys that its last query sees.
    seen: usize,
}

fn blocks(dims: &Dims) -> impl Iterator<Item = Block> {
    let context = dims.context;
    (0..dims.query_rows()).step_by(context).flat_map(move |head| {
        (0..context).step_by(BLOCK).map(move |start| {
            let rows = BLOCK.min(context - start);
            Block { row: head + start, start, rows, seen: start + rows }
        })
    })
}

/// Mixes values by head, and keeps each query's log-sum-exp of its scaled scores (Dao et al. 2022).
pub fn attend(dims: &Dims, heads: Heads<'_>, mixed: &mut [f32], log_sums: &mut [f32]) -> Result<(), EngineError> {
    let (query_size, key_size) = (dims.query_rows() * dims.head_width, dims.context * dims.head_width);
    let inputs = heads.queries.chunks_exact(query_size).zip(heads.keys.chunks_exact(key_size));
    let inputs = inputs.zip(heads.values.chunks_exact(key_size));
    let outputs = mixed.chunks_exact_mut(query_size).zip(log_sums.chunks_exact_mut(dims.query_rows()));
    parallel::try_each(inputs.zip(outputs), |(((queries, keys), values), (mixed, log_sums))| {
        SCORES.with_borrow_mut(|[scores, _]| {
            scores.resize(BLOCK * dims.context, 0.0);
            attend_stack(dims, Heads { queries, keys, values }, mixed, log_sums, scores)
        })
    })
}

#[inline(always)]
#[allow(clippy::inline_always)] // so that it has its caller's vectors
fn attend_stack(
    dims: &Dims,
    heads: Heads<'_>,
    mixed: &mut [f32],
    log_sums: &mut [f32],
    scores: &mut [f32],
) -> Result<(), EngineError> {
    let (width, scale) = (dims.head_width, dims.score_scale());
    for Block { row, start, rows, seen } in blocks(dims) {
        let scores = &mut scores[..rows * seen];
        let queries = Matrix::of(&heads.queries[row * width..][..rows * width], width);
        let keys = Matrix::of(&heads.keys[..seen * width], width);
        product(scores, Put::Over, queries, keys.t(), Cores::One)?;
        for (index, scores) in scores.chunks_exact_mut(seen).enumerate() {
            let (past, future) = scores.split_at_mut(start + index + 1);
            let most = max(past);
            for x in past.iter_mut() {
                *x = exp((*x - most) * scale);
            }
            let sum = sum(past.len(), |i| past[i]);
            log_sums[row + index] = most * scale + sum.ln();
            let share = 1.0 / sum;
            for x in past {
                *x *= share;
            }
            future.fill(0.0);
        }
        let values = Matrix::of(&heads.values[..seen * width], width);
        product(&mut mixed[row * width..][..rows * width], Put::Over, Matrix::of(scores, seen), values, Cores::One)?;
    }
    Ok(())
}

/// Gradients of queries, keys and values by head.
pub struct HeadGradients<'a> {
    pub queries: &'a mut [f32],
    pub keys: &'a mut [f32],
    pub values: &'a mut [f32],
}

/// Writes the gradients from that of the mixed values; the probabilities are computed again.
pub fn attend_backward(
    dims: &Dims,
    heads: Heads<'_>,
    log_sums: &[f32],
    dmixed: &[f32],
    gradients: HeadGradients<'_>,
) -> Result<(), EngineError> {
    let (query_size, key_size) = (dims.query_rows() * dims.head_width, dims.context * dims.head_width);
    let inputs = heads.queries.chunks_exact(query_size).zip(heads.keys.chunks_exact(key_size));
    let inputs = inputs.zip(heads.values.chunks_exact(key_size));
    let inputs = inputs.zip(log_sums.chunks_exact(dims.query_rows()).zip(dmixed.chunks_exact(query_size)));
    let outputs = gradients.queries.chunks_exact_mut(query_size).zip(gradients.keys.chunks_exact_mut(key_size));
    let outputs = outputs.zip(gradients.values.chunks_exact_mut(key_size));
    parallel::try_each(inputs.zip(outputs), |((((queries, keys), values), (log_sums, dmixed)), outputs)| {
        let ((dqueries, dkeys), dvalues) = outputs;
        let gradients = HeadGradients { queries: dqueries, keys: dkeys, values: dvalues };
        SCORES.with_borrow_mut(|scratch| {
            for scores in scratch.iter_mut() {
                scores.resize(BLOCK * dims.context, 0.0);
            }
            attend_stack_backward(dims, Heads { queries, keys, values }, log_sums, dmixed, gradients, scratch)
        })
    })
}

#[inline(always)]
#[allow(clippy::inline_always)] // so that it has its caller's vectors
fn attend_stack_backward(
    dims: &Dims,
    heads: Heads<'_>,
    log_sums: &[f32],
    dmixed: &[f32],
    gradients: HeadGradients<'_>,
    [scores, dscores]: &mut [Vec<f32>; 2],
) -> Result<(), EngineError> {
    let (width, scale) = (dims.head_width, dims.score_scale());
    gradients.keys.fill(0.0);
    gradients.values.fill(0.0);
    for Block { row, start, rows, seen } in blocks(dims) {
        let (scores, dscores) = (&mut scores[..rows * seen], &mut dscores[..rows * seen]);
        let queries = Matrix::of(&heads.queries[row * width..][..rows * width], width);
        let dmixed = Matrix::of(&dmixed[row * width..][..rows * width], width);
        let keys = Matrix::of(&heads.keys[..seen * width], width);
        product(scores, Put::Over, queries, keys.t(), Cores::One)?;
        let values = Matrix::of(&heads.values[..seen * width], width);
        product(dscores, Put::Over, dmixed, values.t(), Cores::One)?;
        // With p the probabilities: dscores = scale · p · (dp − Σ p·dp).
        for (index, (p, dp)) in scores.chunks_exact_mut(seen).zip(dscores.chunks_exact_mut(seen)).enumerate() {
            let log_sum = log_sums[row + index];
            let past = start + index + 1;
            let (p_past, p_future) = p.split_at_mut(past);
            let (dp_past, dp_future) = dp.split_at_mut(past);
            for x in p_past.iter_mut() {
                *x = exp(*x * scale - log_sum);
            }
            let mean = sum(past, |i| p_past[i] * dp_past[i]);
            for (dp, p) in dp_past.iter_mut().zip(&*p_past) {
                *dp = scale * p * (*dp - mean);
            }
            p_future.fill(0.0);
            dp_future.fill(0.0);
        }
        let (scores, dscores) = (Matrix::of(scores, seen), Matrix::of(dscores, seen));
        product(&mut gradients.values[..seen * width], Put::Added, scores.t(), dmixed, Cores::One)?;
        product(&mut gradients.keys[..seen * width], Put::Added, dscores.t(), queries, Cores::One)?;
        product(&mut gradients.queries[row * width..][..rows * width], Put::Over, dscores, keys, Cores::One)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)] // these results are exact
    use super::*;
    use shoal_learn::presets::Preset;

    #[test]
    fn a_query_sees_no_later_position_across_blocks() {
        let (context, width) = (2 * BLOCK + 5, 4);
        let model = Preset::Tiny.model();
        let dims = Dims { batch: 1, context, heads: 2, key_heads: 1, head_width: width, ..dims(&model) };
        let noise = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7919 + seed) % 1009) as f32 / 300.0 - 1.5).collect()
        };
        let (queries, mut keys, mut values) =
            (noise(2 * context * width, 1), noise(context * width, 2), noise(context * width, 3));
        let run = |keys: &[f32], values: &[f32]| {
            let (mut mixed, mut log_sums) = (vec![0.0; queries.len()], vec![0.0; 2 * context]);
            attend(&dims, Heads { queries: &queries, keys, values }, &mut mixed, &mut log_sums).unwrap();
            (mixed, log_sums)
        };
        let (before, log_sums) = run(&keys, &values);
        // The first query sees itself alone.
        assert!(before[..width].iter().zip(&values).all(|(got, value)| (got - value).abs() < 1e-6));
        let score: f32 = (0..width).map(|i| queries[i] * keys[i]).sum();
        assert!((log_sums[0] - score * 0.5).abs() < 1e-5);
        let changed = (BLOCK + 3) * width;
        keys[changed..].fill(9.0);
        values[changed..].fill(-7.0);
        let (after, _) = run(&keys, &values);
        for head in [0, context * width] {
            assert_eq!(before[head..head + changed], after[head..head + changed]);
            assert_ne!(before[head + changed], after[head + changed]);
        }
    }

    fn dims(model: &ModelSpec) -> Dims {
        Dims::new(model, 1, 4).unwrap()
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
