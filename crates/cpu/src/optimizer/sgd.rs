//! Stochastic gradient descent with momentum (Sutskever et al. 2013, in PyTorch's form).

use shoal_wire::manifest::Sgd;

use super::Part;

/// `g ← g + wd·p` on what decays, `b ← μ·b + g`, `p ← p − lr·b`, or with Nesterov's look-ahead `p ← p − lr·(g + μ·b)`.
pub(super) fn step(part: Part<'_>, sgd: &Sgd, lr: f32, decays: bool) {
    let decay = if decays { sgd.weight_decay } else { 0.0 };
    for ((p, g), momentum) in part.parameters.iter_mut().zip(part.gradient).zip(part.mean) {
        let g = g + decay * *p;
        *momentum = sgd.momentum * *momentum + g;
        let direction = if sgd.nesterov { g + sgd.momentum * *momentum } else { *momentum };
        *p -= lr * direction;
    }
}
