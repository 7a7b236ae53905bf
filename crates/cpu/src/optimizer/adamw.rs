//! AdamW (Loshchilov and Hutter 2019).

use shoal_wire::manifest::AdamW;

use super::Part;

/// `p ← p − lr·wd·p` on what decays, then `p ← p − lr·m̂ / (√v̂ + eps)`.
pub(super) fn step(part: Part<'_>, adamw: &AdamW, lr: f32, step: u32, decays: bool) {
    let number = step.min(i32::MAX as u32) as i32;
    let correction = |beta: f32| 1.0 - f64::from(beta).powi(number);
    let rate = (f64::from(lr) / correction(adamw.beta1)) as f32;
    let square_scale = (1.0 / correction(adamw.beta2).sqrt()) as f32;
    let decay = if decays { lr * adamw.weight_decay } else { 0.0 };
    let values = part.parameters.iter_mut().zip(part.gradient);
    let states = part.mean.iter_mut().zip(part.square);
    for ((p, g), (mean, square)) in values.zip(states) {
        *mean = adamw.beta1 * *mean + (1.0 - adamw.beta1) * g;
        *square = adamw.beta2 * *square + (1.0 - adamw.beta2) * g * g;
        *p = *p * (1.0 - decay) - rate * *mean / (square.sqrt() * square_scale + adamw.eps);
    }
}
