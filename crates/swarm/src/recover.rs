//! Going on without a quorum: an anchor asks who is there, and those present certify with it.
//!
//! A recovery carries every present peer's lock and goes on with the newest, and it is provisional: an ordinary
//! certificate from the same parent beats it within the manifest's window. An anchor signs at most one a round, and
//! only after everybody else who is present signed it.

use std::collections::BTreeSet;

use shoal_ledger::more_than_two_thirds;
use shoal_wire::{
    Digest, Envelope, PeerId,
    record::{Certificate, Content, Lock, Message, Proposal, Recovery, RecoveryAnswer, RecoveryCall, VoteKind},
};

use crate::{Event, Swarm, agree::Validity};

/// An attempt that is not complete after this many view timeouts is followed by another.
const ATTEMPT_VIEWS: u64 = 4;
/// Whoever answered so many attempts and signed none is passed over in the next: its silence must not stop the others.
const UNSIGNED_MAX: u32 = 2;

impl Swarm {
    pub(crate) fn recover(&mut self) {
        self.watch_presence();
        self.call();
        self.answer();
        self.propose_recovery();
        self.vote_recovery();
    }

    fn here(&self) -> BTreeSet<PeerId> {
        let leaving: BTreeSet<PeerId> = self.pool.leaves().map(|envelope| envelope.from).collect();
        let members = self.chain.head().roster.iter().map(|member| member.peer);
        // Who asks for another's place is heard of, and cannot vote in this round: nobody knows whether the other is there.
        let may_vote = |peer: PeerId| peer == self.me || !self.is_being_replaced(peer);
        members.filter(|peer| self.is_present(*peer) && !leaving.contains(peer) && may_vote(*peer)).collect()
    }

    /// Notes since when those present are no quorum while a round waits for one. One that is present and did not come
    /// together for as long as a round can take is as good as none: some cannot vote, or will not.
    fn watch_presence(&mut self) {
        let Some(since) = self.round.closing_since else {
            self.round.lacking_since = None;
            return;
        };
        let present = self.weight_of(&self.here());
        let total = self.total_weight();
        let late = self.now.since(since) >= self.longest_round_ms();
        if more_than_two_thirds(present, total) && !late {
            self.round.lacking_since = None;
        } else if self.round.lacking_since.is_none() {
            self.round.lacking_since = Some(self.now);
            self.tell(Event::Waiting { present: present as u32, needed: (total * 2 / 3 + 1) as u32 });
        }
    }

    /// The first anchor that is present calls once too little weight was there for long enough; members that said
    /// good-bye are not waited for.
    fn call(&mut self) {
        let Some(since) = self.round.lacking_since else { return };
        let first_anchor = self.here().into_iter().find(|peer| self.anchors().contains(peer));
        if first_anchor != Some(self.me) || !self.is_voter() || !self.has_head_model() {
            return;
        }
        let timing = &self.chain.manifest().timing;
        let (view_ms, recovery_ms) = (u64::from(timing.view_ms), u64::from(timing.recovery_ms));
        let leaving = self.pool.leaves().next().is_some();
        let patience_ms = if leaving { view_ms.min(recovery_ms) } else { recovery_ms };
        let attempt = match self.round.attempt {
            // After a restart, the others remember attempts that this peer does not.
            None if self.now.since(since) >= patience_ms && !self.signed_recovery() => {
                self.pool.recovery_call(self.anchors()).map_or(0, |seen| seen.saturating_add(1))
            }
            Some((attempt, called)) if self.now.since(called) >= ATTEMPT_VIEWS * view_ms && !self.signed_recovery() => {
                attempt.saturating_add(1)
            }
            _ => return,
        };
        self.count_unsigned();
        self.round.attempt = Some((attempt, self.now));
        self.say(Message::RecoveryCall(RecoveryCall { attempt }));
    }

    /// Notes who answered the attempt that just failed, and did not sign what was proposed in it.
    fn count_unsigned(&mut self) {
        let own = self.pool.proposals().filter(|(from, _)| *from == self.me).map(|(_, proposal)| proposal);
        let Some(proposal) = own.filter(|proposal| proposal.body.recovery.is_some()).last() else { return };
        let view = proposal.view;
        let answers = proposal.body.recovery.iter().flat_map(|recovery| &recovery.answers);
        let signed = self.pool.votes().filter(|(_, vote, _)| vote.kind == VoteKind::Recovery && vote.view == view);
        let signed: BTreeSet<PeerId> = signed.map(|(peer, ..)| peer).collect();
        let unsigned: Vec<PeerId> =
            answers.map(|envelope| envelope.from).filter(|peer| *peer != self.me && !signed.contains(peer)).collect();
        for peer in unsigned {
            *self.round.unsigned.entry(peer).or_default() += 1;
        }
    }

    /// Whether a certified recovery must wait for the round that it would replace: this peer is not in it, and a quorum
    /// is here that may still certify the round. The wait is as long as a round can take.
    pub(crate) fn hold_aside(&mut self, certificate: &Certificate) -> bool {
        let Some(recovery) = &certificate.body.recovery else { return false };
        if !self.is_member() || recovery.answers.iter().any(|envelope| envelope.from == self.me) {
            return false;
        }
        let mut here = self.here();
        let is_past = |peer: &PeerId| Some(self.links.get(peer)?.head >= certificate.body.round);
        here.retain(|peer| is_past(peer) != Some(true));
        // Where those who are not linked stand is hearsay: where no link is still in the round, they are not, either.
        let in_round = here.iter().any(|peer| is_past(peer) == Some(false));
        if !in_round || !more_than_two_thirds(self.weight_of(&here), self.total_weight()) {
            return false;
        }
        let since = *self.round.held_since.get_or_insert(self.now);
        self.now.since(since) < self.longest_round_ms()
    }

    fn longest_round_ms(&self) -> u64 {
        let timing = &self.chain.manifest().timing;
        let steps = [timing.train_ms_max, timing.exchange_ms_max, timing.recovery_ms, timing.view_ms.saturating_mul(8)];
        steps.into_iter().map(u64::from).sum()
    }

    fn signed_recovery(&self) -> bool {
        self.round.standing.voted.keys().any(|(kind, _)| *kind == VoteKind::Recovery)
    }

    fn answer(&mut self) {
        let Some(attempt) = self.pool.recovery_call(self.anchors()).filter(|_| self.is_member()) else { return };
        // Those who answer are waited for, so whoever goes or cannot sign stays silent.
        let weighs = self.chain.weights().get(&self.me).is_some_and(|weight| *weight > 0);
        let leaving = self.pool.leaves().any(|envelope| envelope.from == self.me);
        if leaving || (weighs && !self.is_voter()) {
            return;
        }
        let answered = self.pool.recovery_answers(attempt).any(|(envelope, _)| envelope.from == self.me);
        if !answered {
            let lock = self.lock();
            self.say(Message::RecoveryAnswer(RecoveryAnswer { attempt, lock }));
        }
    }

    fn propose_recovery(&mut self) {
        let Some((attempt, called)) = self.round.attempt else { return };
        if self.round.recovery_proposed == Some(attempt) {
            return;
        }
        let answers: Vec<(Envelope, Option<Lock>)> = self
            .pool
            .recovery_answers(attempt)
            .filter(|(envelope, _)| self.chain.member(envelope.from).is_some())
            .filter(|(envelope, _)| !self.is_passed_over(envelope.from))
            .map(|(envelope, answer)| (envelope.clone(), answer.lock))
            .collect();
        let answered: BTreeSet<PeerId> = answers.iter().map(|(envelope, _)| envelope.from).collect();
        if self.proposer(&answered) != Some(self.me) {
            return;
        }
        let everybody = self.here().iter().all(|peer| answered.contains(peer) || self.is_passed_over(*peer));
        if !everybody && self.now.since(called) < u64::from(self.chain.manifest().timing.view_ms) {
            return;
        }
        let newest = answers.iter().filter_map(|(_, lock)| *lock).max_by_key(|lock| (lock.view, lock.content));
        let content = match newest {
            Some(lock) => self.content(lock.content),
            None => self.fresh_content(),
        };
        let Some(content) = content else { return };
        let recovery = Recovery { attempt, answers: answers.into_iter().map(|(envelope, _)| envelope).collect() };
        if let Some(body) = self.fresh_body(content, Some(recovery)) {
            self.round.recovery_proposed = Some(attempt);
            self.say(Message::Proposal(Box::new(Proposal { view: attempt, valid_view: None, body })));
        }
    }

    /// Anchors sign last, so their silence shows nothing.
    fn is_passed_over(&self, peer: PeerId) -> bool {
        let unsigned = self.round.unsigned.get(&peer).copied().unwrap_or(0);
        unsigned >= UNSIGNED_MAX && !self.anchors().contains(&peer)
    }

    /// Of those who answered, the anchor whose proposal counts: the lowest, and none without a majority of the anchors,
    /// since such a recovery could never hold and would cost its signers their only signature.
    fn proposer(&self, answered: &BTreeSet<PeerId>) -> Option<PeerId> {
        let mut anchors = self.anchors().to_vec();
        anchors.sort_unstable();
        anchors.dedup();
        let all = anchors.len();
        anchors.retain(|anchor| answered.contains(anchor));
        anchors.first().copied().filter(|_| anchors.len() * 2 > all)
    }

    fn content(&self, digest: Digest) -> Option<Content> {
        let own = self.round.proposals.values().map(|proposal| &**proposal);
        let all = self.pool.proposals().map(|(_, proposal)| proposal).chain(own);
        all.map(|proposal| &proposal.body.content).find(|content| content.digest() == digest).cloned()
    }

    /// Everybody who is present signs the newest attempt; an anchor comes last, and once.
    fn vote_recovery(&mut self) {
        let anchors = self.anchors().to_vec();
        let newest = self
            .pool
            .proposals()
            .filter(|(from, proposal)| {
                let answers = proposal.body.recovery.iter().flat_map(|recovery| &recovery.answers);
                self.proposer(&answers.map(|envelope| envelope.from).collect()) == Some(*from)
            })
            .max_by_key(|(_, proposal)| proposal.view)
            .map(|(_, proposal)| proposal.clone());
        let Some(proposal) = newest.filter(|_| self.has_head_model()) else { return };
        let present: Vec<PeerId> = proposal
            .body
            .recovery
            .iter()
            .flat_map(|recovery| &recovery.answers)
            .map(|envelope| envelope.from)
            .collect();
        let view = proposal.view;
        if !present.contains(&self.me) || self.round.standing.voted.contains_key(&(VoteKind::Recovery, view)) {
            return;
        }
        let digest = proposal.body.digest();
        if anchors.contains(&self.me) {
            let voted: BTreeSet<PeerId> = self
                .pool
                .votes()
                .filter(|(_, vote, _)| {
                    vote.kind == VoteKind::Recovery && vote.view == view && vote.body == Some(digest)
                })
                .map(|(peer, ..)| peer)
                .collect();
            let weights = self.chain.weights();
            let awaited = |peer: &&PeerId| {
                !anchors.contains(peer) && !voted.contains(peer) && weights.get(peer).is_some_and(|weight| *weight > 0)
            };
            if self.signed_recovery() || present.iter().any(|peer| awaited(&peer)) {
                return;
            }
        }
        if self.validity(digest, &proposal.body) == Validity::Valid {
            self.cast(VoteKind::Recovery, view, Some(digest));
        }
    }
}
