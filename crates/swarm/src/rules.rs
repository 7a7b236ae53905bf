//! The voting rules of agreement, of what one peer holds: no network, no clock, no bodies, only their names.
//!
//! They are those of Tendermint (Buchman, Kwon, Milosevic, arXiv 1807.04938, algorithm 1) with one height a round.
//! [`crate::Swarm`] asks them before every vote; `shoal_sim::explore` tries them in every order of events.

use std::collections::BTreeMap;

use shoal_wire::{View, record::VoteKind};

/// Steps of a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    #[default]
    Propose,
    Prevote,
    Precommit,
}

/// What a leader proposes, by its body's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer<B> {
    pub body: B,
    /// The view in which more than 2/3 prevoted this body, when it is proposed again.
    pub valid_view: Option<View>,
}

/// Where a peer stands in agreeing on a round, over bodies named by `B`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VoteState<B> {
    pub view: View,
    pub phase: Phase,
    /// The body that this peer precommitted last, and in which view.
    pub lock: Option<(View, B)>,
    /// The newest body that more than 2/3 prevoted, and in which view.
    pub valid: Option<(View, B)>,
    /// Every vote that it decided on: there is never a second one in the same place.
    pub voted: BTreeMap<(VoteKind, View), Option<B>>,
}

impl<B> Default for VoteState<B> {
    fn default() -> Self {
        Self { view: 0, phase: Phase::Propose, lock: None, valid: None, voted: BTreeMap::new() }
    }
}

impl<B: Copy + PartialEq> VoteState<B> {
    pub fn enter(&mut self, view: View) {
        self.view = view;
        self.phase = Phase::Propose;
    }

    /// What this peer must propose when it leads; `None` leaves it free to propose anything.
    pub fn must_offer(&self) -> Option<Offer<B>> {
        self.valid.map(|(view, body)| Offer { body, valid_view: Some(view) })
    }

    /// Whether the lock lets this peer prevote what the leader of its view offers. `is_backed` tells whether more than
    /// 2/3 were seen to prevote the offered body in an earlier view; `None` while that is claimed and not seen.
    pub fn may_prevote(&self, offer: Offer<B>, is_backed: impl Fn(View) -> bool) -> Option<bool> {
        let is_locked_body = self.lock.is_none_or(|(_, body)| body == offer.body);
        match offer.valid_view {
            None => Some(is_locked_body),
            Some(valid_view) if valid_view < self.view => {
                let is_newer = self.lock.is_none_or(|(view, _)| view <= valid_view);
                is_backed(valid_view).then_some(is_newer || is_locked_body)
            }
            Some(_) => Some(false),
        }
    }

    /// Whether a body needs no second look at what it claims: a quorum saw that before, or this peer did.
    pub fn is_known(&self, offer: Offer<B>) -> bool {
        offer.valid_view.is_some() || self.lock.is_some_and(|(_, body)| body == offer.body)
    }

    /// More than 2/3 prevoted a body of this view that holds, or nil. Notes what follows, and returns whether to
    /// precommit the same now.
    pub fn quorum_prevoted(&mut self, body: Option<B>) -> bool {
        let decides = self.phase == Phase::Prevote;
        if let Some(body) = body.filter(|_| self.phase != Phase::Propose) {
            if self.valid.is_none_or(|(view, _)| view < self.view) {
                self.valid = Some((self.view, body));
            }
            if decides {
                self.lock = Some((self.view, body));
            }
        }
        decides
    }

    /// Goes on to the phase that follows a vote of this kind in this peer's view.
    pub fn pass(&mut self, kind: VoteKind) {
        match kind {
            VoteKind::Prevote => self.phase = Phase::Prevote,
            VoteKind::Precommit => self.phase = Phase::Precommit,
            VoteKind::Recovery => {}
        }
    }

    /// Takes the one place that a vote has; false when this peer voted there before.
    pub fn vote(&mut self, kind: VoteKind, view: View, body: Option<B>) -> bool {
        let is_first = !self.voted.contains_key(&(kind, view));
        if is_first {
            self.voted.insert((kind, view), body);
        }
        is_first
    }

    /// Takes up a vote that was stored before a restart, and the lock that was stored with it, in the order in which they
    /// were stored.
    pub fn restore(&mut self, kind: VoteKind, view: View, body: Option<B>, lock: Option<(View, B)>) {
        self.voted.insert((kind, view), body);
        if lock.is_some() {
            self.lock = lock;
            self.valid = lock;
        }
        let reached = match kind {
            VoteKind::Recovery => return,
            VoteKind::Prevote => Phase::Prevote,
            VoteKind::Precommit => Phase::Precommit,
        };
        if view > self.view {
            self.enter(view);
        }
        if view == self.view {
            self.phase = self.phase.max(reached);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(view: View, body: u8, now: View) -> VoteState<u8> {
        VoteState { view: now, lock: Some((view, body)), valid: Some((view, body)), ..VoteState::default() }
    }

    #[test]
    fn a_locked_peer_prevotes_another_body_only_when_a_newer_quorum_backs_it() {
        let standing = locked(3, 7, 6);
        let fresh = |body| standing.may_prevote(Offer { body, valid_view: None }, |_| true);
        assert_eq!((fresh(7), fresh(8)), (Some(true), Some(false)));
        let again = |valid_view, backed| {
            standing.may_prevote(Offer { body: 8, valid_view: Some(valid_view) }, |view| backed && view == valid_view)
        };
        assert_eq!(again(2, true), Some(false), "older than the lock");
        assert_eq!(again(4, true), Some(true));
        assert_eq!(again(4, false), None, "the quorum was not seen yet");
        assert_eq!(again(6, true), Some(false), "no view is earlier than itself");
    }

    #[test]
    fn a_quorum_that_comes_late_is_proposed_again_and_not_voted_for() {
        let mut standing = VoteState::default();
        standing.pass(VoteKind::Prevote);
        standing.pass(VoteKind::Precommit);
        assert!(!standing.quorum_prevoted(Some(5)));
        assert_eq!((standing.lock, standing.must_offer()), (None, Some(Offer { body: 5, valid_view: Some(0) })));
    }

    #[test]
    fn a_place_has_one_vote_also_after_a_restart() {
        let mut standing = VoteState::default();
        standing.restore(VoteKind::Prevote, 2, Some(1), None);
        standing.restore(VoteKind::Precommit, 2, Some(1), Some((2, 1)));
        assert_eq!((standing.view, standing.phase, standing.lock), (2, Phase::Precommit, Some((2, 1))));
        assert!(!standing.vote(VoteKind::Precommit, 2, None));
        assert!(standing.vote(VoteKind::Prevote, 3, None));
    }
}
