//! A recipe file: how a model is trained alone. Reading the file is the caller's.
//!
//! ```json
//! {"optimizer": {"type": "adamw", "lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weightDecay": 0.1,
//!                "gradClip": 1.0},
//!  "schedule": {"warmupSteps": 100, "decayFrom": 900, "decaySteps": 100}}
//! ```
//!
//! `type` may also be `sgd` (`lr`, `momentum`, `nesterov`, `weightDecay`, `gradClip`) or `muon` (`lr`, `momentum`,
//! `nesterov`, `scale`: `original` or `match_rms_adamw`, `weightDecay`, `gradClip`, and for what is no hidden matrix
//! `adamwLr`, `beta1`, `beta2`, `eps`). `gradClip` may be null or missing, which is no clipping. Without a `schedule` the
//! rate stays at its peak; so it does from the start without `warmupSteps`, and to the end without `decaySteps`.

use serde::Deserialize;
use shoal_wire::manifest::{AdamW, Muon, MuonScale, Optimizer, OptimizerError, Sgd};
use thiserror::Error;

use crate::StepSettings;
use crate::schedule::Schedule;

/// What is wrong with a recipe file; the caller knows its name.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum RecipeError {
    #[error("it is not the JSON expected here: {0}")]
    Json(String),
    #[error("optimizer.{field} must be {rule}, and is {value}")]
    Optimizer { field: String, value: String, rule: &'static str },
}

/// How a model is trained alone, step by step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoloRecipe {
    pub optimizer: Optimizer,
    /// Over steps, from 1.
    pub schedule: Schedule,
}

impl Default for SoloRecipe {
    /// AdamW at a learning rate of 1e-3.
    fn default() -> Self {
        let adamw = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) };
        Self { optimizer: adamw.into(), schedule: Schedule::default() }
    }
}

impl SoloRecipe {
    /// Reads a recipe file; refuses unknown fields and numbers out of range.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecipeError> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| RecipeError::Json(error.to_string()))?;
        let optimizer = Optimizer::from(file.optimizer);
        optimizer.check().map_err(|OptimizerError { field, value, rule }| RecipeError::Optimizer {
            field: camel_case(field),
            value,
            rule,
        })?;
        let Times { warmup_steps, decay_from, decay_steps } = file.schedule.unwrap_or_default();
        if decay_steps > 0 && decay_from.is_none() {
            return Err(RecipeError::Json("schedule.decaySteps needs schedule.decayFrom".to_owned()));
        }
        let decay_from = decay_from.unwrap_or(0);
        Ok(Self { optimizer, schedule: Schedule { warmup: warmup_steps, decay_from, decay: decay_steps } })
    }

    /// Of a step, from 1.
    pub fn settings(&self, step: u32) -> StepSettings {
        let lr = self.optimizer.lr() * self.schedule.share(step.into());
        StepSettings { optimizer: self.optimizer, lr, step }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    optimizer: Entry,
    schedule: Option<Times>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Times {
    warmup_steps: u32,
    decay_from: Option<u32>,
    decay_steps: u32,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Entry {
    AdamW {
        lr: f32,
        beta1: f32,
        beta2: f32,
        eps: f32,
        weight_decay: f32,
        grad_clip: Option<f32>,
    },
    Sgd {
        lr: f32,
        momentum: f32,
        nesterov: bool,
        weight_decay: f32,
        grad_clip: Option<f32>,
    },
    Muon {
        lr: f32,
        momentum: f32,
        nesterov: bool,
        scale: MuonScale,
        weight_decay: f32,
        adamw_lr: f32,
        beta1: f32,
        beta2: f32,
        eps: f32,
        grad_clip: Option<f32>,
    },
}

impl From<Entry> for Optimizer {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::AdamW { lr, beta1, beta2, eps, weight_decay, grad_clip } => {
                Self::AdamW(AdamW { lr, beta1, beta2, eps, weight_decay, grad_clip })
            }
            Entry::Sgd { lr, momentum, nesterov, weight_decay, grad_clip } => {
                Self::Sgd(Sgd { lr, momentum, nesterov, weight_decay, grad_clip })
            }
            Entry::Muon { lr, momentum, nesterov, scale, weight_decay, adamw_lr, beta1, beta2, eps, grad_clip } => {
                Self::Muon(Muon { lr, momentum, nesterov, scale, weight_decay, adamw_lr, beta1, beta2, eps, grad_clip })
            }
        }
    }
}

/// A field's name as recipe files write it.
fn camel_case(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, rest) = word.split_at(word.len().min(1));
        name + &head.to_uppercase() + rest
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;

    const ADAMW: &str = r#"{"type": "adamw", "lr": 0.001, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
        "weightDecay": 0.1, "gradClip": null}"#;
    const SGD: &str = r#"{"type": "sgd", "lr": 0.5, "momentum": 0.9, "nesterov": true, "weightDecay": 0.0}"#;
    const MUON: &str = r#"{"type": "muon", "lr": 0.02, "momentum": 0.95, "nesterov": true, "scale": "original",
        "weightDecay": 0.1, "gradClip": 1.0, "adamwLr": 0.001, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}"#;

    fn parse(optimizer: &str, rest: &str) -> Result<SoloRecipe, RecipeError> {
        SoloRecipe::parse(format!(r#"{{"optimizer": {optimizer}{rest}}}"#).as_bytes())
    }

    #[test]
    fn every_optimizer_is_read() {
        assert_eq!(parse(ADAMW, "").unwrap().optimizer.grad_clip(), None);
        assert!(matches!(
            parse(SGD, "").unwrap().optimizer,
            Optimizer::Sgd(Sgd { nesterov: true, grad_clip: None, .. })
        ));
        let Optimizer::Muon(muon) = parse(MUON, "").unwrap().optimizer else { panic!("it is Muon") };
        assert_eq!((muon.adamw_lr, muon.scale, muon.grad_clip), (0.001, MuonScale::Original, Some(1.0)));
    }

    #[test]
    fn nonsense_is_refused_with_its_field() {
        for (optimizer, field) in [
            (ADAMW.replace("0.001", "-1"), "lr"),
            (ADAMW.replace("null", "0"), "gradClip"),
            (ADAMW.replace("adamw", "adam"), "adam"),
            (ADAMW.replace("beta1", "beta3"), "beta3"),
            (SGD.replace("0.9", "1.0"), "momentum"),
            (MUON.replace("original", "new"), "new"),
            (MUON.replace(r#""adamwLr": 0.001"#, r#""adamwLr": 0"#), "adamwLr"),
            (MUON.replace(r#""nesterov": true, "#, ""), "nesterov"),
        ] {
            let error = parse(&optimizer, "").unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        assert!(SoloRecipe::parse(b"{}").is_err());
        assert!(parse(SGD, r#", "schedule": {"warmup": 3}"#).is_err());
        let error = parse(SGD, r#", "schedule": {"decaySteps": 3}"#).unwrap_err().to_string();
        assert!(error.contains("decayFrom"), "{error}");
    }

    #[test]
    fn the_rate_rises_stays_and_falls_over_steps() {
        let schedule = r#", "schedule": {"warmupSteps": 2, "decayFrom": 4, "decaySteps": 3}"#;
        let recipe = parse(SGD, schedule).unwrap();
        let rates = [1, 2, 3, 4, 5, 6, 7, 8].map(|step| recipe.settings(step).lr);
        assert_eq!(rates, [0.25, 0.5, 0.5, 0.5, 0.375, 0.25, 0.125, 0.125]);
        assert_eq!(recipe.settings(3).step, 3);
        let constant = parse(SGD, "").unwrap();
        assert!([1, 7, u32::MAX].iter().all(|step| constant.settings(*step).lr == 0.5));
    }

    #[test]
    fn both_rates_of_muon_follow_the_schedule() {
        let recipe = parse(MUON, r#", "schedule": {"warmupSteps": 4}"#).unwrap();
        let Optimizer::Muon(muon) = recipe.optimizer else { panic!("it is Muon") };
        let (adamw, lr) = recipe.settings(1).beside(&muon);
        assert!((lr - 0.00025).abs() < 1e-9 && adamw.lr == 0.001);
    }
}
