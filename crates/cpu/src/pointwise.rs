//! What happens between the matrix products, each operation with its gradient. Work is cut into pieces of rows.

use crate::math::{exp, max, sigmoid, sum};
use crate::parallel::{self, ROWS, VALUES};

/// `y = w · x / sqrt(mean(x²) + eps)`, row by row.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    parallel::each(x.chunks(ROWS * width).zip(y.chunks_mut(ROWS * width)), |(x, y)| {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let scale = inverse_rms(x, eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = w * (x * scale);
            }
        }
    });
}

/// Adds the gradient with respect to the input to `dx` and writes that of the weight. `partial` is for sums on the way:
/// a row of the weight's width for each piece of [`ROWS`] rows.
///
/// With s = 1/rms: `dx = s·(w·dy) − x·s³·mean(w·dy·x)` and `dw = Σ dy·x·s`.
pub fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    partial: &mut [f32],
) {
    let width = weight.len();
    let piece = ROWS * width;
    let pieces = x.chunks(piece).zip(dy.chunks(piece)).zip(dx.chunks_mut(piece)).zip(partial.chunks_mut(width));
    parallel::each(pieces, |(((x, dy), dx), partial)| {
        partial.fill(0.0);
        for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let scale = inverse_rms(x, eps);
            let along = sum(width, |i| x[i] * dy[i] * weight[i]);
            let pull = along / width as f32 * scale * scale * scale;
            let both = dx.iter_mut().zip(partial.iter_mut());
            for ((dx, partial), ((x, dy), w)) in both.zip(x.iter().zip(dy).zip(weight)) {
                *dx += w * dy * scale - x * pull;
                *partial += dy * x * scale;
            }
        }
    });
    dweight.fill(0.0);
    for partial in partial.chunks_exact(width).take(x.len().div_ceil(piece)) {
        add(dweight, partial);
    }
}

#[inline(always)]
#[allow(clippy::inline_always)] // so that it has its caller's vectors
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum(x.len(), |i| x[i] * x[i]) / x.len() as f32 + eps).sqrt()
}

/// `silu(gate) · up` with `silu(x) = x·σ(x)`.
pub fn swiglu(gate: &[f32], up: &[f32], y: &mut [f32]) {
    let pieces = gate.chunks(VALUES).zip(up.chunks(VALUES)).zip(y.chunks_mut(VALUES));
    parallel::each(pieces, |((gate, up), y)| {
        for ((gate, up), y) in gate.iter().zip(up).zip(y) {
            *y = gate * sigmoid(*gate) * up;
        }
    });
}

/// Overwrites `gate` and `up` with their gradients.
pub fn swiglu_backward(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    let pieces = gate.chunks_mut(VALUES).zip(up.chunks_mut(VALUES)).zip(dy.chunks(VALUES));
    parallel::each(pieces, |((gate, up), dy)| {
        for ((gate, up), dy) in gate.iter_mut().zip(up).zip(dy) {
            let sigma = sigmoid(*gate);
            let silu = *gate * sigma;
            let slope = sigma + silu * (1.0 - sigma);
            (*gate, *up) = (dy * *up * slope, dy * silu);
        }
    });
}

pub fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// Mean cross-entropy in nats of each row's softmax against its target.
pub fn cross_entropy(logits: &[f32], targets: &[u32], vocab: usize) -> f32 {
    let total: f64 = logits
        .chunks_exact(vocab)
        .zip(targets)
        .map(|(row, &target)| log_sum_exp(row) - f64::from(row[target as usize]))
        .sum();
    (total / targets.len() as f64) as f32
}

/// Like [`cross_entropy`], and overwrites the logits with their gradient `(softmax − one-hot) / rows`.
pub fn cross_entropy_backward(logits: &mut [f32], targets: &[u32], vocab: usize) -> f32 {
    let total = cross_entropy_gradient(logits, targets, vocab, targets.len());
    (total / targets.len() as f64) as f32
}

/// Overwrites the logits with their share `(softmax − one-hot) / of` of the gradient of a mean over `of` rows, and gives
/// the sum of the rows' cross-entropies.
pub fn cross_entropy_gradient(logits: &mut [f32], targets: &[u32], vocab: usize, of: usize) -> f64 {
    let share = 1.0 / of as f32;
    let mut losses = vec![0.0; targets.len()];
    let pieces = logits.chunks_mut(ROWS * vocab).zip(targets.chunks(ROWS)).zip(losses.chunks_mut(ROWS));
    parallel::each(pieces, |((logits, targets), losses)| {
        for ((row, &target), loss) in logits.chunks_exact_mut(vocab).zip(targets).zip(losses) {
            let target = target as usize;
            let chosen = f64::from(row[target]);
            let most = max(row);
            for x in row.iter_mut() {
                *x = exp(*x - most);
            }
            let sum = sum(vocab, |i| row[i]);
            *loss = f64::from(most) + f64::from(sum).ln() - chosen;
            let scale = share / sum;
            for x in row.iter_mut() {
                *x *= scale;
            }
            row[target] -= share;
        }
    });
    losses.iter().sum()
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let most = max(row);
    let sum = sum(row.len(), |i| exp(row[i] - most));
    f64::from(most) + f64::from(sum).ln()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::needless_range_loop)] // one index into several arrays
    use super::*;

    /// Slope of `f` at `x[i]` by central differences.
    fn slope(x: &[f32], i: usize, f: impl Fn(&[f32]) -> f64) -> f64 {
        let step = 1e-2;
        let (mut low, mut high) = (x.to_vec(), x.to_vec());
        low[i] -= step;
        high[i] += step;
        (f(&high) - f(&low)) / (f64::from(high[i]) - f64::from(low[i]))
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    fn close(got: f32, expected: f64) {
        assert!((f64::from(got) - expected).abs() < 2e-3 * (1.0 + expected.abs()), "{got} is not {expected}");
    }

    const X: [f32; 6] = [0.3, -1.2, 0.7, 2.0, 0.1, -0.4];
    const DY: [f32; 6] = [1.0, 0.5, -0.8, 0.2, -1.5, 0.9];

    #[test]
    fn rms_norm_gradient_matches_differences() {
        let weight = [1.1, 0.8, -0.5];
        let norm = |x: &[f32], weight: &[f32]| {
            let mut y = vec![0.0; x.len()];
            rms_norm(x, weight, 1e-5, &mut y);
            y
        };
        let (mut dx, mut dweight) = ([0.0; 6], [0.0; 3]);
        rms_norm_backward(&X, &weight, 1e-5, &DY, &mut dx, &mut dweight, &mut [7.0; 3]);
        for i in 0..6 {
            close(dx[i], slope(&X, i, |x| dot(&norm(x, &weight), &DY)));
        }
        for i in 0..3 {
            close(dweight[i], slope(&weight, i, |w| dot(&norm(&X, w), &DY)));
        }
    }

    #[test]
    fn swiglu_gradient_matches_differences() {
        let up = [0.5, 1.0, -2.0, 0.3, 0.9, -0.1];
        let product = |gate: &[f32], up: &[f32]| {
            let mut y = vec![0.0; gate.len()];
            swiglu(gate, up, &mut y);
            y
        };
        let (mut dgate, mut dup) = (X, up);
        swiglu_backward(&mut dgate, &mut dup, &DY);
        for i in 0..6 {
            close(dgate[i], slope(&X, i, |x| dot(&product(x, &up), &DY)));
            close(dup[i], slope(&up, i, |up| dot(&product(&X, up), &DY)));
        }
    }

    #[test]
    fn cross_entropy_gradient_matches_differences_and_survives_large_logits() {
        let mut gradient = X;
        let loss = cross_entropy_backward(&mut gradient, &[2, 0], 3);
        close(loss, f64::from(cross_entropy(&X, &[2, 0], 3)));
        for i in 0..6 {
            close(gradient[i], slope(&X, i, |x| f64::from(cross_entropy(x, &[2, 0], 3))));
        }
        close(cross_entropy(&[1000.0, 0.0], &[1], 2), 1000.0);
    }
}
