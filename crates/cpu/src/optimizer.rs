//! Clipping by the global norm, and the optimisers over the flat vectors.

mod adamw;
mod muon;
mod sgd;

use shoal_learn::{EngineError, Layout, StepSettings};
use shoal_wire::manifest::Optimizer;

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

/// What optimisers remember. Momentum lies in `mean`; only AdamW uses `square`.
pub struct Moments {
    pub mean: Vec<f32>,
    pub square: Vec<f32>,
}

/// A tensor's part of the flat vectors.
struct Part<'a> {
    parameters: &'a mut [f32],
    gradient: &'a [f32],
    mean: &'a mut [f32],
    square: &'a mut [f32],
}

/// One step of all parameters along their gradient, which is clipped already.
pub fn step(
    layout: &Layout,
    parameters: &mut [f32],
    gradient: &[f32],
    moments: &mut Moments,
    settings: &StepSettings,
) -> Result<(), EngineError> {
    for tensor in &layout.tensors {
        let range = tensor.range();
        let part = Part {
            parameters: &mut parameters[range.clone()],
            gradient: &gradient[range.clone()],
            mean: &mut moments.mean[range.clone()],
            square: &mut moments.square[range],
        };
        match &settings.optimizer {
            Optimizer::AdamW(adamw) => adamw::step(part, adamw, settings.lr, settings.step, tensor.decays()),
            Optimizer::Sgd(sgd) => sgd::step(part, sgd, settings.lr, tensor.decays()),
            Optimizer::Muon(muon) => {
                if let Some(shape) = tensor.hidden_matrix() {
                    muon::step(part, muon, settings.lr, shape)?;
                } else {
                    let (adamw, lr) = settings.beside(muon);
                    adamw::step(part, &adamw, lr, settings.step, tensor.decays());
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
