//! Losses and their gradients.

use shoal_learn::nets::{Loss, Targets};

use super::pointwise::sigmoid;
use crate::pointwise::cross_entropy_backward;

/// The mean loss; overwrites the outputs with its gradient.
pub fn loss_backward(loss: Loss, outputs: &mut [f32], targets: &Targets, width: usize) -> f32 {
    match (loss, targets) {
        (_, Targets::Classes(classes)) => cross_entropy_backward(outputs, classes, width),
        (Loss::MeanSquared, Targets::Values(values)) => {
            each(outputs, values, |x, y| (f64::from((x - y) * (x - y)), 2.0 * (x - y)))
        }
        (_, Targets::Values(values)) => each(outputs, values, |x, y| {
            // −y ln σ(x) − (1 − y) ln (1 − σ(x)), in a form that no output overflows.
            let (x64, y64) = (f64::from(x), f64::from(y));
            (x64.max(0.0) - x64 * y64 + (-x64.abs()).exp().ln_1p(), sigmoid(x) - y)
        }),
    }
}

fn each(outputs: &mut [f32], values: &[f32], act: impl Fn(f32, f32) -> (f64, f32)) -> f32 {
    let share = 1.0 / outputs.len() as f32;
    let mut total = 0.0;
    for (x, y) in outputs.iter_mut().zip(values) {
        let (loss, slope) = act(*x, *y);
        total += loss;
        *x = slope * share;
    }
    (total / values.len() as f64) as f32
}
