//! Muon (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>): the momentum of a matrix, orthogonalised.

use shoal_learn::EngineError;
use shoal_learn::engine::NEWTON_SCHULZ;
use shoal_wire::manifest::Muon;

use super::Part;
use crate::matrix::{Values, multiply};

/// `b ← μ·b + (1 − μ)·g`, then `p ← p − lr·wd·p − lr·scale·orthogonal(b)`, where Nesterov's look-ahead takes
/// `(1 − μ)·g + μ·b` for b.
pub(super) fn step(part: Part<'_>, muon: &Muon, lr: f32, (rows, columns): (usize, usize)) -> Result<(), EngineError> {
    let (mu, rest) = (muon.momentum, 1.0 - muon.momentum);
    let mut direction = Vec::with_capacity(part.mean.len());
    for (momentum, g) in part.mean.iter_mut().zip(part.gradient) {
        *momentum = mu * *momentum + rest * g;
        direction.push(if muon.nesterov { rest * g + mu * *momentum } else { *momentum });
    }
    let direction = orthogonal(direction, rows, columns)?;
    let (kept, rate) = (1.0 - lr * muon.weight_decay, lr * muon.scale.factor(rows, columns));
    for (p, d) in part.parameters.iter_mut().zip(&direction) {
        *p = *p * kept - rate * d;
    }
    Ok(())
}

/// Nearly the orthogonal factor of a row-major matrix: all its singular values come near 1, by five Newton–Schulz steps
/// on the matrix over its Frobenius norm: X ← aX + (bA + cA²)X with A = XXᵀ on the shorter side.
pub(super) fn orthogonal(mut x: Vec<f32>, rows: usize, columns: usize) -> Result<Vec<f32>, EngineError> {
    let norm = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() as f32;
    let scale = 1.0 / norm.max(NEWTON_SCHULZ.least_norm);
    for x in &mut x {
        *x *= scale;
    }
    let mut x = Values::from(x);
    let tall = rows > columns;
    let [a, b, c] = NEWTON_SCHULZ.coefficients;
    for _ in 0..NEWTON_SCHULZ.steps {
        let matrix = x.matrix(columns);
        let gram = if tall { multiply(matrix.t(), matrix)? } else { multiply(matrix, matrix.t())? };
        let side = rows.min(columns);
        let mut polynomial = multiply(gram.matrix(side), gram.matrix(side))?;
        for (square, gram) in polynomial.as_mut_slice().iter_mut().zip(gram.as_slice()) {
            *square = b * gram + c * *square;
        }
        let polynomial = polynomial.matrix(side);
        let mut next = if tall { multiply(matrix, polynomial)? } else { multiply(polynomial, matrix)? };
        for (next, x) in next.as_mut_slice().iter_mut().zip(x.as_slice()) {
            *next += a * x;
        }
        x = next;
    }
    Ok(x.into_vec())
}
