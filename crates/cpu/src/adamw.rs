//! Clipping by the global norm, and AdamW (Loshchilov and Hutter 2019) over the flat vectors.

use shoal_learn::{Layout, StepSettings};

/// Scales the gradient so that its norm is at most `limit`, as `clip_grad_norm_` does in PyTorch.
pub fn clip(gradient: &mut [f32], limit: f32) {
    // Rows of f32 sums into f64: exact enough for any model, and still vectorised.
    let squares: f64 = gradient.chunks(256).map(|part| f64::from(part.iter().map(|g| g * g).sum::<f32>())).sum();
    let scale = limit / (squares.sqrt() as f32 + 1e-6);
    if scale < 1.0 {
        for g in gradient {
            *g *= scale;
        }
    }
}

pub struct Moments {
    pub mean: Vec<f32>,
    pub square: Vec<f32>,
}

/// One step: `p ← p − lr·wd·p` on matrices, then `p ← p − lr·m̂ / (√v̂ + eps)`.
pub fn step(layout: &Layout, parameters: &mut [f32], gradient: &[f32], moments: &mut Moments, settings: &StepSettings) {
    let adamw = &settings.adamw;
    let number = settings.step.min(i32::MAX as u32) as i32;
    let correction = |beta: f32| 1.0 - f64::from(beta).powi(number);
    let rate = (f64::from(settings.lr) / correction(adamw.beta1)) as f32;
    let square_scale = (1.0 / correction(adamw.beta2).sqrt()) as f32;
    for tensor in &layout.tensors {
        let decay = if tensor.decays() { settings.lr * adamw.weight_decay } else { 0.0 };
        let range = tensor.range();
        let values = parameters[range.clone()].iter_mut().zip(&gradient[range.clone()]);
        let states = moments.mean[range.clone()].iter_mut().zip(&mut moments.square[range]);
        for ((p, g), (mean, square)) in values.zip(states) {
            *mean = adamw.beta1 * *mean + (1.0 - adamw.beta1) * g;
            *square = adamw.beta2 * *square + (1.0 - adamw.beta2) * g * g;
            *p = *p * (1.0 - decay) - rate * *mean / (square.sqrt() * square_scale + adamw.eps);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use shoal_wire::manifest::{AdamW, ModelSpec};

    #[test]
    fn the_first_step_moves_by_the_rate_and_decays_matrices_only() {
        let model = ModelSpec {
            vocab_size: 2,
            hidden_size: 2,
            intermediate_size: 1,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            max_position_embeddings: 4,
            rms_norm_eps: 1e-5,
            rope_theta: 100.0,
            tie_word_embeddings: true,
        };
        let layout = Layout::of(&model).unwrap();
        let adamw = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.5, grad_clip: None };
        let mut parameters = vec![2.0; layout.len()];
        let mut moments = Moments { mean: vec![0.0; layout.len()], square: vec![0.0; layout.len()] };
        let settings = StepSettings { adamw, lr: 0.1, step: 1 };
        step(&layout, &mut parameters, &vec![-3.0; layout.len()], &mut moments, &settings);
        for tensor in &layout.tensors {
            // With corrected moments m̂ = g and v̂ = g², so the step is the rate, against the gradient's sign.
            let expected = if tensor.decays() { 2.0 * (1.0 - 0.05) + 0.1 } else { 2.0 + 0.1 };
            assert!(parameters[tensor.range()].iter().all(|p| (p - expected).abs() < 1e-6), "{}", tensor.name);
        }
    }

    #[test]
    fn clipping_shortens_only_what_is_too_long() {
        let mut long = [3.0, 4.0];
        clip(&mut long, 1.0);
        assert!((long[0] - 0.6).abs() < 1e-6 && (long[1] - 0.8).abs() < 1e-6);
        let mut short = [0.3, 0.4];
        clip(&mut short, 1.0);
        assert_eq!(short.map(f32::to_bits), [0.3, 0.4].map(f32::to_bits));
    }
}
