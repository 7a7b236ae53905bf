//! Which updates of a round make the next model, and how much of what was promised they are.

use shoal_wire::{
    Digest, Manifest, PeerId,
    record::{Commit, Member, Verdict},
    share::Share,
};

use crate::roster::aggregate_weights;

/// One update that a round accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedUpdate {
    pub peer: PeerId,
    pub update: Digest,
    pub bytes: u64,
    pub weight: u16,
}

/// What the outer step of a round takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub accepted: Vec<AcceptedUpdate>,
    /// The accepted part of the weight of all updates that were promised: accepted, or committed and not available in time.
    /// Who promises and does not deliver makes the step smaller, by its weight at most. What was refused was no promise.
    pub share: Share,
}

impl Taken {
    /// `verdicts` has one entry a commit.
    pub fn of(manifest: &Manifest, roster: &[Member], commits: &[(PeerId, Commit)], verdicts: &[Verdict]) -> Self {
        let with = |wanted: &[Verdict]| -> Vec<(PeerId, &Commit)> {
            let judged = commits.iter().zip(verdicts).filter(|(_, verdict)| wanted.contains(verdict));
            judged.map(|((peer, commit), _)| (*peer, commit)).collect()
        };
        let weights = |of: &[(PeerId, &Commit)]| {
            let tokens: Vec<(PeerId, u64)> = of.iter().map(|(peer, commit)| (*peer, commit.tokens)).collect();
            aggregate_weights(manifest, roster, &tokens)
        };
        let (accepted, promised) = (with(&[Verdict::Accepted]), with(&[Verdict::Accepted, Verdict::Unavailable]));
        let is_accepted = |peer: PeerId| accepted.iter().any(|(author, _)| *author == peer);
        let mut share = Share { taken: 0, promised: 0 };
        for ((peer, _), weight) in promised.iter().zip(weights(&promised)) {
            share.promised += u32::from(weight);
            share.taken += if is_accepted(*peer) { u32::from(weight) } else { 0 };
        }
        let weighed = accepted.iter().zip(weights(&accepted));
        let update = |((peer, commit), weight): (&(PeerId, &Commit), u16)| AcceptedUpdate {
            peer: *peer,
            update: commit.update,
            bytes: commit.update_bytes,
            weight,
        };
        Self { accepted: weighed.map(update).collect(), share }
    }
}
