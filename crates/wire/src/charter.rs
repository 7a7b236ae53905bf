//! What participants propose to change about a run, and how they vote on it.

use serde::{Deserialize, Serialize};

use crate::{Digest, Round, manifest::DataSource};

/// A proposal, decided by credit-weighted ballots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    pub change: Change,
    /// Why, in words.
    pub reason: String,
    /// The last round whose certificate may carry a ballot on it.
    pub closes: Round,
    /// The round from which it holds when it is accepted; later than `closes`.
    pub effective: Round,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Inner learning rates times this many 1/1024.
    ScaleLearningRate(u32),
    /// No round follows the one before `effective`.
    Stop,
    /// Go on from the model that this round certified.
    RollBack(Round),
    AddSource(DataSource),
}

/// A vote on an amendment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// [`crate::Envelope::id`] of the amendment as it was signed.
    pub amendment: Digest,
    pub approve: bool,
}
