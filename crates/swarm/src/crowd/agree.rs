//! The committee's agreement: the rules of [`crate::rules`], one seat one vote.

use std::collections::BTreeMap;

use shoal_wire::{
    Digest, PeerId, View,
    crowd::{Certificate, Message, Proposal},
    limits::VIEWS_AHEAD_MAX,
    record::{Lock, Vote, VoteKind},
    sign::Signature,
};

use super::{Crowd, Output, Stored, committee::Committee, panel::Ruling};
use crate::rules::{Offer, Phase, VoteState};

impl Crowd {
    pub(super) fn take_proposal(&mut self, from: PeerId, proposal: &Proposal) {
        let now = self.now;
        let Some(committee) = self.round.committee.as_mut() else { return };
        let in_reach = proposal.view <= committee.standing.view.saturating_add(VIEWS_AHEAD_MAX);
        if in_reach && committee.leader(proposal.view) == from && !committee.proposals.contains_key(&proposal.view) {
            committee.bodies.insert(proposal.body.digest(), proposal.body.clone());
            committee.proposals.insert(proposal.view, (proposal.clone(), now));
        }
    }

    pub(super) fn take_vote(&mut self, from: PeerId, vote: Vote, signature: Signature) {
        let Some(committee) = self.round.committee.as_mut() else { return };
        let in_reach = vote.view <= committee.standing.view.saturating_add(VIEWS_AHEAD_MAX);
        if in_reach && vote.parent == self.parent && committee.seats.contains(&from) {
            committee.votes.entry((vote.kind, vote.view)).or_default().entry(from).or_insert((vote.body, signature));
        }
    }

    pub(super) fn agree(&mut self) {
        if self.round.decided.is_some() || self.round.committee.is_none() {
            return;
        }
        if let Some(certificate) = self.decision() {
            self.round.decided = Some(certificate.into());
            self.changed = true;
            return;
        }
        let (now, has_root) = (self.now, self.round.sums.values().any(|one| one.record.mean.is_some()));
        let Some(committee) = self.round.committee.as_mut() else { return };
        if has_root {
            committee.since.get_or_insert(now);
        }
        if committee.since.is_none() && committee.votes.is_empty() {
            return;
        }
        committee.view_since.get_or_insert(now);
        self.skip_views();
        self.propose_body();
        self.prevote();
        self.precommit();
        self.pass_time();
    }

    /// More than two thirds precommitted one body in one view.
    fn decision(&self) -> Option<Certificate> {
        let committee = self.round.committee.as_ref()?;
        for ((kind, view), votes) in &committee.votes {
            let mut tally: BTreeMap<Digest, Vec<(PeerId, Signature)>> = BTreeMap::new();
            if *kind == VoteKind::Precommit {
                for (peer, (body, signature)) in votes {
                    tally.entry(body.unwrap_or_default()).or_default().push((*peer, *signature));
                }
            }
            for (body, signatures) in tally {
                if let Some(body) = committee.bodies.get(&body).filter(|_| committee.is_quorum(signatures.len())) {
                    return Some(Certificate { body: body.clone(), view: *view, signatures });
                }
            }
        }
        None
    }

    fn committee(&self) -> Option<&Committee> {
        self.round.committee.as_ref()
    }

    /// When more than a third is in a newer view, goes there.
    fn skip_views(&mut self) {
        let Some(committee) = self.committee() else { return };
        let mut newer: BTreeMap<View, std::collections::BTreeSet<PeerId>> = BTreeMap::new();
        for ((_, view), votes) in committee.votes.iter().filter(|((_, view), _)| *view > committee.standing.view) {
            newer.entry(*view).or_default().extend(votes.keys());
        }
        let to = newer.iter().rev().find(|(_, peers)| peers.len() * 3 > committee.seats.len()).map(|(view, _)| *view);
        if let Some(view) = to {
            self.enter_view(view);
        }
    }

    fn enter_view(&mut self, view: View) {
        let now = self.now;
        if let Some(committee) = self.round.committee.as_mut() {
            committee.standing.enter(view);
            committee.view_since = Some(now);
            committee.prevotes_since = None;
            committee.precommits_since = None;
            self.changed = true;
        }
    }

    fn propose_body(&mut self) {
        let Some(committee) = self.committee() else { return };
        let VoteState { view, phase, .. } = committee.standing;
        let mine = committee.leader(view) == self.me && self.durable;
        if !mine || phase != Phase::Propose || committee.proposals.contains_key(&view) {
            return;
        }
        let again = committee.standing.must_offer();
        let again = again.and_then(|offer| Some((offer.valid_view, committee.bodies.get(&offer.body)?.clone())));
        let (valid_view, body) = if let Some(again) = again {
            again
        } else {
            let Some(mut body) = self.draft() else { return };
            body.view = view;
            let Some(body) = self.complete(&body) else { return };
            (None, body)
        };
        let seats = self.seats();
        self.say(seats, Message::Proposal(Box::new(Proposal { view, valid_view, body })));
    }

    fn seats(&self) -> Vec<PeerId> {
        self.committee().map(|committee| committee.seats.clone()).unwrap_or_default()
    }

    fn prevote(&mut self) {
        let Some(committee) = self.committee() else { return };
        let VoteState { view, phase, .. } = committee.standing;
        let Some((proposal, came)) = committee.proposals.get(&view).cloned().filter(|_| phase == Phase::Propose) else {
            return;
        };
        let body = proposal.body.digest();
        let offer = Offer { body, valid_view: proposal.valid_view };
        let backed = |view| committee.is_quorum(committee.voters(VoteKind::Prevote, view, |voted| voted == Some(body)));
        let Some(free) = committee.standing.may_prevote(offer, backed) else { return };
        match self.validity(&proposal.body, came) {
            Ruling::Good if free => self.cast(VoteKind::Prevote, view, Some(body)),
            Ruling::Pending => {}
            _ => self.cast(VoteKind::Prevote, view, None),
        }
    }

    fn precommit(&mut self) {
        let Some(committee) = self.committee() else { return };
        let VoteState { view, phase, .. } = committee.standing;
        let prevoted = |body| committee.is_quorum(committee.voters(VoteKind::Prevote, view, |voted| voted == body));
        let nil = prevoted(None);
        let offered = committee.proposals.get(&view).cloned().filter(|_| phase != Phase::Propose);
        let offered = offered.filter(|(proposal, _)| prevoted(Some(proposal.body.digest())));
        if let Some((proposal, came)) = offered {
            let body = proposal.body.digest();
            if self.validity(&proposal.body, came) == Ruling::Good && self.quorum_prevoted(Some(body)) {
                self.cast(VoteKind::Precommit, view, Some(body));
            }
        }
        if nil && self.quorum_prevoted(None) {
            self.cast(VoteKind::Precommit, view, None);
        }
    }

    fn quorum_prevoted(&mut self, body: Option<Digest>) -> bool {
        self.round.committee.as_mut().is_some_and(|committee| committee.standing.quorum_prevoted(body))
    }

    /// Ends what takes too long.
    fn pass_time(&mut self) {
        let timing = self.config.timing;
        let Some(committee) = self.committee() else { return };
        let VoteState { view, phase, .. } = committee.standing;
        let patience_ms = timing.view_ms * u64::from(view.min(20) + 1);
        let here = committee.leader(view) == self.me || !self.away.contains(&committee.leader(view));
        let first_ms = if view == 0 { timing.level_ms + timing.grace_ms } else { 0 };
        let propose_ms = if here { first_ms + patience_ms } else { timing.view_ms / 2 };
        let since = committee.view_since.unwrap_or(self.now);
        let prevotes = committee.is_quorum(committee.voters(VoteKind::Prevote, view, |_| true));
        let precommits = committee.is_quorum(committee.voters(VoteKind::Precommit, view, |_| true));
        if phase == Phase::Propose && self.due(since + propose_ms) {
            self.cast(VoteKind::Prevote, view, None);
        }
        let now = self.now;
        let Some(committee) = self.round.committee.as_mut() else { return };
        let prevotes_since = prevotes.then(|| *committee.prevotes_since.get_or_insert(now));
        let precommits_since = precommits.then(|| *committee.precommits_since.get_or_insert(now));
        if let Some(since) = prevotes_since.filter(|_| phase == Phase::Prevote)
            && self.due(since + patience_ms)
        {
            self.cast(VoteKind::Precommit, view, None);
        }
        if let Some(since) = precommits_since
            && self.due(since + patience_ms)
        {
            self.enter_view(view + 1);
        }
    }

    /// Decides a vote, stores it, and sends it once it is stored.
    fn cast(&mut self, kind: VoteKind, view: View, body: Option<Digest>) {
        self.changed = true;
        let (durable, parent, round) = (self.durable, self.parent, self.epoch.round);
        let Some(committee) = self.round.committee.as_mut() else { return };
        committee.standing.pass(kind);
        if !durable || !committee.standing.vote(kind, view, body) {
            return;
        }
        let vote = Vote { parent, view, kind, body };
        let lock = committee.standing.lock.filter(|_| kind == VoteKind::Precommit && body.is_some());
        let proposal =
            lock.and_then(|_| committee.proposals.get(&view)).map(|(proposal, _)| Box::new(proposal.clone()));
        let lock = lock.map(|(view, content)| Lock { view, content });
        let id = self.next_record;
        self.next_record += 1;
        self.records.insert(id, vote);
        self.emit(Output::Persist { id, record: Box::new(Stored { round, vote, lock, proposal }) });
    }

    pub(super) fn vote_stored(&mut self, record: crate::RecordId) {
        let Some(vote) = self.records.remove(&record) else { return };
        if self.durable && vote.parent == self.parent {
            let seats = self.seats();
            self.say(seats, Message::Vote(vote));
        }
    }
}
