//! What must hold in every world, whatever happens in it.

use std::collections::BTreeMap;

use shoal_wire::{
    Digest, PeerId, Round, View,
    record::{Vote, VoteKind},
};

/// Two peers hold different histories where they must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two ordinary certificates for one round after the same body.
    TwoCertificates { round: Round, first: Digest, second: Digest },
    /// One body, two models.
    TwoModels { round: Round },
    /// A peer sent two votes where it has one.
    Equivocation { peer: PeerId, round: Round, view: View, kind: VoteKind },
}

/// A place for one vote: whose, after which body, in which round, view and step.
type Ballot = (PeerId, Digest, Round, View, VoteKind);

#[derive(Debug, Default)]
pub struct Checker {
    ordinary: BTreeMap<(Round, Digest), Digest>,
    models: BTreeMap<Digest, Digest>,
    votes: BTreeMap<Ballot, Option<Digest>>,
    pub recoveries: u64,
    pub violations: Vec<Violation>,
}

impl Checker {
    pub(crate) fn certified(&mut self, parent: Digest, round: Round, (body, model): (Digest, Digest), recovery: bool) {
        if recovery {
            self.recoveries += 1;
        } else {
            let first = *self.ordinary.entry((round, parent)).or_insert(body);
            if first != body {
                self.violations.push(Violation::TwoCertificates { round, first, second: body });
            }
        }
        if *self.models.entry(body).or_insert(model) != model {
            self.violations.push(Violation::TwoModels { round });
        }
    }

    /// A vote left a peer, in whatever life of that peer.
    pub(crate) fn voted(&mut self, peer: PeerId, round: Round, vote: Vote) {
        let Vote { parent, view, kind, body } = vote;
        if *self.votes.entry((peer, parent, round, view, kind)).or_insert(body) != body {
            self.violations.push(Violation::Equivocation { peer, round, view, kind });
        }
    }

    /// Rounds with an ordinary certificate.
    pub fn rounds(&self) -> usize {
        self.ordinary.len()
    }
}
