//! What participants propose to change about a run, and how they vote on it.
//!
//! Both travel as signed messages of a round and count once a certified body carries them.

use serde::{Deserialize, Serialize};

use crate::{Digest, Round, manifest::DataSource};

/// A proposal, decided by credit-weighted ballots under the manifest's [`Charter`](crate::manifest::Charter).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    pub change: Change,
    /// Why, in words.
    pub reason: String,
    /// The last round whose certificate may carry a ballot on it.
    pub closes: Round,
    /// The first round in which it holds when it is accepted; later than `closes`.
    pub effective: Round,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Inner learning rates are the recipe's times this many 1/1024, in place of any scale before.
    ScaleLearningRate(u32),
    /// The round before `effective` is the last.
    Stop,
    /// The round at `effective` starts from the model that this round certified; round 0 is the first model.
    RollBack(Round),
    /// This text belongs to the run's data from then on.
    AddSource(DataSource),
}

/// A vote on an amendment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// [`crate::Envelope::id`] of the amendment as it was signed.
    pub amendment: Digest,
    pub approve: bool,
}
