//! What must hold in every world, whatever happens in it. Each file holds one promise.

mod agreement;
mod books;
mod memory;
mod replay;
mod votes;

use std::collections::BTreeSet;

use shoal_wire::{
    Digest, PeerId, Round, View,
    record::{Vote, VoteKind},
};

pub(crate) use books::check_books;
pub(crate) use memory::check_memory;
pub(crate) use replay::check_replay;

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two ordinary certificates for one round after the same body.
    TwoCertificates { round: Round, first: Digest, second: Digest },
    /// One body, two models.
    TwoModels { round: Round },
    /// An honest peer sent two votes where it has one.
    Equivocation { peer: PeerId, round: Round, view: View, kind: VoteKind },
    /// An honest peer's vote left before it was stored.
    VoteNotStored { peer: PeerId, round: Round, view: View, kind: VoteKind },
    /// An honest peer closed its link with another honest one, since that one broke the rules.
    HonestDropped { by: PeerId, peer: PeerId, why: String },
    /// Replaying a peer's chain does not give its model.
    Replay { peer: PeerId, round: Round },
    /// Two peers with the same chain pay different credit.
    Credit { first: PeerId, second: PeerId },
    /// A peer remembers more than its limits say.
    Memory { peer: PeerId, what: &'static str, held: usize, limit: usize },
}

/// Watches everything that peers say and certify.
#[derive(Debug, Default)]
pub struct Checker {
    agreement: agreement::Agreement,
    ballots: votes::Ballots,
    /// Peers that lie: what holds of honest peers need not hold of them.
    pub liars: BTreeSet<PeerId>,
    pub recoveries: u64,
    pub violations: Vec<Violation>,
}

impl Checker {
    /// A peer tells that a round is certified, after a body.
    pub(crate) fn certified(
        &mut self,
        peer: PeerId,
        (parent, round): (Digest, Round),
        (body, model): (Digest, Digest),
        recovery: bool,
    ) {
        if self.liars.contains(&peer) {
            return;
        }
        self.recoveries += u64::from(recovery);
        self.violations.extend(self.agreement.certified((parent, round), (body, model), recovery));
    }

    /// A vote left a peer, in whatever life of that peer.
    pub(crate) fn voted(&mut self, peer: PeerId, round: Round, vote: Vote, stored: bool) {
        if !self.liars.contains(&peer) {
            self.violations.extend(self.ballots.voted(peer, round, vote, stored));
        }
    }

    pub(crate) fn dropped(&mut self, by: PeerId, peer: PeerId, why: String) {
        if !self.liars.contains(&by) && !self.liars.contains(&peer) {
            self.violations.push(Violation::HonestDropped { by, peer, why });
        }
    }

    /// Rounds with an ordinary certificate.
    pub fn rounds(&self) -> usize {
        self.agreement.rounds()
    }
}
