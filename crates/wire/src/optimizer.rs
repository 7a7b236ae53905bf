//! What turns gradients into steps between two rounds: the optimiser's name and numbers.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// In JSON `{"adamw": {…}}`, `{"sgd": {…}}` or `{"muon": {…}}`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    AdamW(AdamW),
    Sgd(Sgd),
    Muon(Muon),
}

/// Adam with decoupled weight decay, on matrices only (Loshchilov and Hutter, arXiv 1711.05101).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// Largest global norm of a gradient; `None` means no clipping.
    pub grad_clip: Option<f32>,
}

/// Stochastic gradient descent with momentum, as in PyTorch: g ← g + decay · p on matrices, b ← momentum · b + g,
/// p ← p − lr · b, or with Nesterov's look-ahead p ← p − lr · (g + momentum · b).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sgd {
    pub lr: f32,
    pub momentum: f32,
    pub nesterov: bool,
    /// Coupled: it is added to the gradient, after clipping.
    pub weight_decay: f32,
    /// Largest global norm of a gradient; `None` means no clipping.
    pub grad_clip: Option<f32>,
}

/// Muon (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>): the momentum of each hidden matrix is
/// orthogonalised by five Newton–Schulz steps. A decoder's embeddings and head take
/// AdamW, and so do vectors and convolutions; in a network for a table or images every matrix counts as hidden.
///
/// Weight decay is decoupled and applies to matrices, by each one's own learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Muon {
    /// Of hidden matrices.
    pub lr: f32,
    pub momentum: f32,
    pub nesterov: bool,
    pub scale: MuonScale,
    pub weight_decay: f32,
    /// Of everything else; it follows the same schedule.
    pub adamw_lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Largest global norm of a gradient; `None` means no clipping.
    pub grad_clip: Option<f32>,
}

/// What a matrix's learning rate is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MuonScale {
    /// √max(1, rows / columns), as Jordan et al.
    Original,
    /// 0.2 · √max(rows, columns): steps as large as AdamW's, so that its learning rates serve (Liu et al.,
    /// arXiv 2502.16982).
    MatchRmsAdamw,
}

impl MuonScale {
    pub fn factor(self, rows: usize, columns: usize) -> f32 {
        match self {
            Self::Original => (rows as f32 / columns as f32).max(1.0).sqrt(),
            Self::MatchRmsAdamw => 0.2 * (rows.max(columns) as f32).sqrt(),
        }
    }
}

/// A number that no training makes sense with.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the optimizer's {field} must be {rule}, and is {value}")]
pub struct OptimizerError {
    pub field: &'static str,
    pub value: String,
    pub rule: &'static str,
}

impl Muon {
    /// The part that moves what is no hidden matrix. Clipping is by the norm of all gradients together, before.
    pub fn adamw(&self) -> AdamW {
        let Self { adamw_lr: lr, beta1, beta2, eps, weight_decay, grad_clip, .. } = *self;
        AdamW { lr, beta1, beta2, eps, weight_decay, grad_clip }
    }
}

impl From<AdamW> for Optimizer {
    fn from(adamw: AdamW) -> Self {
        Self::AdamW(adamw)
    }
}

impl Optimizer {
    /// The peak learning rate.
    pub fn lr(&self) -> f32 {
        match self {
            Self::AdamW(adamw) => adamw.lr,
            Self::Sgd(sgd) => sgd.lr,
            Self::Muon(muon) => muon.lr,
        }
    }

    /// The same optimiser at another peak; Muon's two learning rates keep their ratio.
    #[must_use]
    pub fn with_lr(mut self, lr: f32) -> Self {
        match &mut self {
            Self::AdamW(adamw) => adamw.lr = lr,
            Self::Sgd(sgd) => sgd.lr = lr,
            Self::Muon(muon) => (muon.lr, muon.adamw_lr) = (lr, muon.adamw_lr * (lr / muon.lr)),
        }
        self
    }

    pub fn grad_clip(&self) -> Option<f32> {
        match self {
            Self::AdamW(adamw) => adamw.grad_clip,
            Self::Sgd(sgd) => sgd.grad_clip,
            Self::Muon(muon) => muon.grad_clip,
        }
    }

    /// Refuses numbers outside their ranges, with the field's name.
    pub fn check(&self) -> Result<(), OptimizerError> {
        match self {
            Self::AdamW(adamw) => adam(adamw, "lr"),
            Self::Sgd(Sgd { lr, momentum, weight_decay, grad_clip, .. }) => {
                above_zero("lr", *lr)?;
                share("momentum", *momentum)?;
                not_negative("weight_decay", *weight_decay)?;
                clip(*grad_clip)
            }
            Self::Muon(muon) => {
                above_zero("lr", muon.lr)?;
                share("momentum", muon.momentum)?;
                adam(&muon.adamw(), "adamw_lr")
            }
        }
    }
}

fn adam(adamw: &AdamW, lr: &'static str) -> Result<(), OptimizerError> {
    above_zero(lr, adamw.lr)?;
    share("beta1", adamw.beta1)?;
    share("beta2", adamw.beta2)?;
    above_zero("eps", adamw.eps)?;
    not_negative("weight_decay", adamw.weight_decay)?;
    clip(adamw.grad_clip)
}

fn above_zero(field: &'static str, value: f32) -> Result<(), OptimizerError> {
    rule(field, value, value > 0.0 && value.is_finite(), "a finite number above 0")
}

fn not_negative(field: &'static str, value: f32) -> Result<(), OptimizerError> {
    rule(field, value, value >= 0.0 && value.is_finite(), "a finite number of at least 0")
}

fn share(field: &'static str, value: f32) -> Result<(), OptimizerError> {
    rule(field, value, (0.0..1.0).contains(&value), "at least 0 and below 1")
}

fn clip(limit: Option<f32>) -> Result<(), OptimizerError> {
    let Some(limit) = limit else { return Ok(()) };
    rule("grad_clip", limit, limit > 0.0 && limit.is_finite(), "a finite number above 0, or null")
}

fn rule(field: &'static str, value: f32, holds: bool, rule: &'static str) -> Result<(), OptimizerError> {
    if holds { Ok(()) } else { Err(OptimizerError { field, value: value.to_string(), rule }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)] // powers of two are exact
    use super::*;

    const MUON: Muon = Muon {
        lr: 0.02,
        momentum: 0.95,
        nesterov: true,
        scale: MuonScale::Original,
        weight_decay: 0.1,
        adamw_lr: 0.001,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        grad_clip: Some(1.0),
    };

    #[test]
    fn each_optimizer_is_one_value_with_one_encoding() {
        let sgd = Sgd { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0, grad_clip: None };
        for optimizer in [Optimizer::from(MUON.adamw()), Optimizer::Sgd(sgd), Optimizer::Muon(MUON)] {
            let bytes = crate::codec::encode(&optimizer);
            assert_eq!(crate::codec::decode::<Optimizer>("optimizer", &bytes, 100).expect("it decodes"), optimizer);
            optimizer.check().expect("its numbers are sound");
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused_by_name() {
        type Change = fn(&mut Muon);
        let cases: [(&str, Change); 8] = [
            ("lr", |m| m.lr = 0.0),
            ("adamw_lr", |m| m.adamw_lr = f32::NAN),
            ("momentum", |m| m.momentum = 1.0),
            ("beta1", |m| m.beta1 = -0.1),
            ("beta2", |m| m.beta2 = 1.5),
            ("eps", |m| m.eps = f32::INFINITY),
            ("weight_decay", |m| m.weight_decay = -1.0),
            ("grad_clip", |m| m.grad_clip = Some(0.0)),
        ];
        for (field, change) in cases {
            let mut muon = MUON;
            change(&mut muon);
            assert_eq!(Optimizer::Muon(muon).check().expect_err(field).field, field);
        }
    }

    #[test]
    fn another_peak_keeps_the_ratio_of_both_learning_rates() {
        let muon = Muon { lr: 0.5, adamw_lr: 0.125, ..MUON };
        let Optimizer::Muon(halved) = Optimizer::Muon(muon).with_lr(0.25) else { panic!("it stays Muon") };
        assert_eq!((halved.lr, halved.adamw_lr), (0.25, 0.0625));
    }

    #[test]
    fn the_scale_of_a_matrix_follows_its_shape() {
        assert_eq!(MuonScale::Original.factor(64, 16), 2.0);
        assert_eq!(MuonScale::Original.factor(16, 64), 1.0);
        assert_eq!(MuonScale::MatchRmsAdamw.factor(16, 64), 0.2 * 8.0);
        assert_eq!(MuonScale::MatchRmsAdamw.factor(64, 16), 0.2 * 8.0);
    }
}
