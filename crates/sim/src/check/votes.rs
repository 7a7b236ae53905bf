//! An honest peer votes once in each place, in all its lives together, and a vote leaves after it is stored.

use std::collections::BTreeMap;

use shoal_wire::{
    Digest, PeerId, Round, View,
    record::{Vote, VoteKind},
};

use super::Violation;

/// A place for one vote: whose, after which body, in which round, view and step.
type Ballot = (PeerId, Digest, Round, View, VoteKind);

#[derive(Debug, Default)]
pub(super) struct Ballots {
    votes: BTreeMap<Ballot, Option<Digest>>,
}

impl Ballots {
    pub fn voted(&mut self, peer: PeerId, round: Round, vote: Vote, stored: bool) -> Vec<Violation> {
        let Vote { parent, view, kind, body } = vote;
        let mut violations = Vec::new();
        if *self.votes.entry((peer, parent, round, view, kind)).or_insert(body) != body {
            violations.push(Violation::Equivocation { peer, round, view, kind });
        }
        if !stored {
            violations.push(Violation::VoteNotStored { peer, round, view, kind });
        }
        violations
    }
}
