//! AdamW (Loshchilov and Hutter 2019).

use shoal_wire::manifest::AdamW;

use super::Part;
use crate::parallel::{self, VALUES};

/// `p ← p − lr·wd·p` on what decays, then `p ← p − lr·m̂ / (√v̂ + eps)`.
pub(super) fn step(part: Part<'_>, adamw: &AdamW, lr: f32, step: u32, decays: bool) {
    let number = step.min(i32::MAX as u32) as i32;
    let correction = |beta: f32| 1.0 - f64::from(beta).powi(number);
    let rate = (f64::from(lr) / correction(adamw.beta1)) as f32;
    let square_scale = (1.0 / correction(adamw.beta2).sqrt()) as f32;
    let decay = if decays { lr * adamw.weight_decay } else { 0.0 };
    let (beta1, beta2, eps) = (adamw.beta1, adamw.beta2, adamw.eps);
    let values = part.parameters.chunks_mut(VALUES).zip(part.gradient.chunks(VALUES));
    let states = part.mean.chunks_mut(VALUES).zip(part.square.chunks_mut(VALUES));
    parallel::each(values.zip(states), |((parameters, gradient), (means, squares))| {
        for ((p, g), (mean, square)) in parameters.iter_mut().zip(gradient).zip(means.iter_mut().zip(squares)) {
            *mean = beta1 * *mean + (1.0 - beta1) * g;
            *square = beta2 * *square + (1.0 - beta2) * g * g;
            *p = *p * (1.0 - decay) - rate * *mean / (square.sqrt() * square_scale + eps);
        }
    });
}
