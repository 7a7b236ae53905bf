//! What auditors say of the updates of a round.
//!
//! Numbers are integers, since verdicts, trust and bans follow from them and everybody must arrive at the same.

use serde::{Deserialize, Serialize};

use crate::{Digest, Envelope, PeerId};

/// An auditor's measurements of the updates that were drawn for it. One that could not measure an update leaves it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The round's randomness, from which the auditors were drawn.
    pub draw: Digest,
    /// By the update's digest, in the order of their authors.
    pub scores: Vec<(Digest, Score)>,
}

/// What one update does to the model when it alone is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// By how much the loss falls on the data that the author was assigned, in millionths of a nat.
    pub assigned: i32,
    /// By how much it falls on data that nobody was assigned in this round.
    pub other: i32,
    /// By how much the auditor's own update makes the loss on that other data fall; none when it made none.
    pub own: Option<i32>,
    /// Cosine between the update and the auditor's own, in 1/1024.
    pub alignment_1024: Option<i16>,
    /// The author of an earlier commit whose update this one repeats, wholly or almost.
    pub copies: Option<PeerId>,
}

/// Two signed messages that contradict each other: whoever sees both knows that their author lied to somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Equivocation {
    pub first: Envelope,
    pub second: Envelope,
}

/// What the audits of a member add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Evidence that its updates do harm, in milli-nats: at a threshold it is banned.
    pub evidence: u32,
    /// Evidence that it does not train on the data it is assigned, in milli-nats: at a threshold it is banned.
    pub unproven: u32,
    /// By how much more its last tested update helped on these data than elsewhere, in 1/1024 of what is usual.
    pub margin_1024: Option<i16>,
    /// By how much that differs from one of its updates to the next: a running mean, in 1/1024.
    pub scatter_1024: u16,
    /// Evidence that its judgements are false, in milli-nats.
    pub dissent: u32,
    /// How its updates compare with others': Elo points above a newcomer's.
    pub rating: i32,
    /// How often it was banned.
    pub bans: u32,
}
