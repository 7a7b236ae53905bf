//! A certified round, computed again.

use shoal_learn::{
    Layout,
    layout::LayoutError,
    outer::{self, UpdateError},
};
use shoal_ledger::Step;
use shoal_wire::{Digest, Manifest};
use thiserror::Error;

/// Why a round does not hold.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReplayError {
    #[error("the model cannot be laid out: {0}")]
    Layout(#[from] LayoutError),
    #[error("{have} updates for a round that accepted {accepted}")]
    Updates { have: usize, accepted: usize },
    #[error("the model before it is not valid: {0}")]
    Model(UpdateError),
    #[error("the outer step refuses its updates: {0}")]
    Outer(UpdateError),
    #[error("the updates lead to model {got}, and the certificate says {certified}")]
    OtherModel { got: Digest, certified: Digest },
    #[error("the updates have other median norms than the certificate says")]
    OtherNorms,
}

/// Applies a round's accepted updates, in its order, to the model before it, and compares what comes out with what
/// was certified.
pub fn apply(manifest: &Manifest, model: &[u8], step: &Step, updates: &[Vec<u8>]) -> Result<Vec<u8>, ReplayError> {
    if updates.len() != step.accepted.len() {
        return Err(ReplayError::Updates { have: updates.len(), accepted: step.accepted.len() });
    }
    let next = if updates.is_empty() {
        model.to_vec()
    } else {
        let layout = Layout::of(&manifest.model)?;
        let theta = outer::params_from_bytes(&layout, model).map_err(ReplayError::Model)?;
        let weighed: Vec<(u16, &[u8])> =
            step.accepted.iter().zip(updates).map(|(accepted, bytes)| (accepted.weight, &bytes[..])).collect();
        let (theta, norms) =
            outer::aggregate(&layout, &manifest.recipe.outer, &theta, &weighed, &step.history, step.share)
                .map_err(ReplayError::Outer)?;
        if norms != step.norms {
            return Err(ReplayError::OtherNorms);
        }
        outer::params_to_bytes(&theta)
    };
    let got = Digest::of(&next);
    if got == step.model { Ok(next) } else { Err(ReplayError::OtherModel { got, certified: step.model }) }
}
