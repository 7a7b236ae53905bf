//! The second half of a round: propose, prevote, precommit, certify.
//!
//! This is Tendermint's algorithm (Buchman, Kwon, Milosevic, arXiv 1807.04938) with one height a round: a peer locks a
//! body when more than 2/3 of the weight prevoted it, and while locked prevotes another only when that one got more
//! than 2/3 in a newer view. Votes leave after they reached stable storage.

use std::collections::{BTreeMap, BTreeSet};

use shoal_ledger::more_than_two_thirds;
use shoal_wire::{
    Digest, Envelope, PeerId, View,
    record::{Body, Certificate, Commit, Content, Lock, Message, Proposal, Recovery, Said, Verdict, Vote, VoteKind},
};

use crate::{
    Persisted, Record, Swarm,
    rules::{Offer, Phase, VoteState},
    state::{Aggregate, Stored},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    Pending,
    Valid,
    Invalid,
}

impl Swarm {
    pub(crate) fn agree(&mut self) {
        if let Some((certificate, step)) = self.decision()
            && !self.hold_aside(&certificate)
        {
            self.adopt_checked(certificate, step);
            return;
        }
        let Some(closing) = self.round.closing_since.filter(|_| self.has_head_model()) else { return };
        self.round.view_since.get_or_insert(closing);
        self.skip_views();
        self.propose();
        self.prevote();
        self.precommit();
        self.pass_time();
    }

    pub(crate) fn leader(&self, view: View) -> Option<PeerId> {
        let leaders = self.chain.leaders();
        if leaders.is_empty() { None } else { leaders.get(view as usize % leaders.len()).copied() }
    }

    /// Weight of those who voted in a view as `wanted` says.
    fn voters(&self, kind: VoteKind, view: View, wanted: impl Fn(Option<Digest>) -> bool) -> u64 {
        let peers: BTreeSet<PeerId> = self
            .pool
            .votes()
            .filter(|(_, vote, _)| vote.kind == kind && vote.view == view && wanted(vote.body))
            .map(|(peer, ..)| peer)
            .collect();
        self.weight_of(&peers)
    }

    fn is_quorum(&self, weight: u64) -> bool {
        more_than_two_thirds(weight, self.total_weight())
    }

    /// More than 2/3 precommits for one body in one view, or a complete recovery.
    fn decision(&self) -> Option<(Certificate, shoal_ledger::Step)> {
        let mut tally: BTreeMap<(VoteKind, View, Digest), Vec<_>> = BTreeMap::new();
        for (peer, vote, envelope) in self.pool.votes() {
            if let (VoteKind::Precommit | VoteKind::Recovery, Some(body)) = (vote.kind, vote.body) {
                tally.entry((vote.kind, vote.view, body)).or_default().push((peer, envelope));
            }
        }
        for ((kind, view, digest), votes) in tally {
            let peers: BTreeSet<PeerId> = votes.iter().map(|(peer, _)| *peer).collect();
            // An anchor signs a recovery last, so there is nothing to check before.
            let anchors = self.anchors().iter().filter(|anchor| peers.contains(anchor)).count();
            let enough = match kind {
                VoteKind::Recovery => anchors * 2 > self.anchors().len(),
                _ => self.is_quorum(self.weight_of(&peers)),
            };
            if !enough {
                continue;
            }
            let Some(proposal) = self.pool.body(digest) else { continue };
            let weights = self.chain.weights();
            // Only those who answered count in a recovery; a vote of somebody else must not spoil it.
            let answered = |peer: &PeerId| {
                let recovery = proposal.body.recovery.as_ref();
                recovery.is_none_or(|recovery| recovery.answers.iter().any(|answer| answer.from == *peer))
            };
            let signatures = votes
                .iter()
                .filter(|(peer, _)| weights.contains_key(peer) && answered(peer))
                .map(|(peer, envelope)| (*peer, envelope.signature));
            let certificate = Certificate { body: proposal.body.clone(), view, signatures: signatures.collect() };
            if let Ok(step) = self.chain.check(&certificate) {
                return Some((certificate, step));
            }
        }
        None
    }

    /// When more than 1/3 of the weight is in a newer view, goes there.
    fn skip_views(&mut self) {
        let mut newer: BTreeMap<View, BTreeSet<PeerId>> = BTreeMap::new();
        for (peer, vote, _) in self.pool.votes().filter(|(_, vote, _)| vote.kind != VoteKind::Recovery) {
            if vote.view > self.round.standing.view {
                newer.entry(vote.view).or_default().insert(peer);
            }
        }
        let total = self.total_weight();
        let to = newer.iter().filter(|(_, peers)| self.weight_of(peers) * 3 > total).map(|(view, _)| *view).max();
        if let Some(view) = to {
            self.enter(view);
        }
    }

    fn enter(&mut self, view: View) {
        self.round.standing.enter(view);
        self.round.view_since = Some(self.now);
        self.round.prevotes_since = None;
        self.round.precommits_since = None;
        self.changed = true;
    }

    fn propose(&mut self) {
        let VoteState { view, phase, .. } = self.round.standing;
        let mine = self.leader(view) == Some(self.me) && self.is_voter();
        if !mine || phase != Phase::Propose || self.pool.proposal(self.me, view).is_some() {
            return;
        }
        if let Some(Offer { body, valid_view }) = self.round.standing.must_offer() {
            if let Some(body) = self.round.proposals.get(&body).map(|proposal| proposal.body.clone()) {
                self.say(Message::Proposal(Box::new(Proposal { view, valid_view, body })));
            }
        } else if let Some(content) = self.fresh_content()
            && let Some(body) = self.fresh_body(content, None)
        {
            self.say(Message::Proposal(Box::new(Proposal { view, valid_view: None, body })));
        }
    }

    /// What this peer would certify now; `None` while something is still on its way.
    pub(crate) fn fresh_content(&mut self) -> Option<Content> {
        let Some(list) = self.list().map(|listed| listed.envelope.clone()) else {
            let nothing = self.pool.commits().next().is_none();
            let empty = Content {
                list: None,
                commits: Vec::new(),
                seeds: Vec::new(),
                judgements: Vec::new(),
                verdicts: Vec::new(),
                norms: Vec::new(),
                model: self.chain.head().model,
            };
            return nothing.then_some(empty);
        };
        let commits = self.listed_commits()?;
        let form = self.verdicts(&commits)?;
        let seeds = self.seeds(&commits);
        let named: Vec<(PeerId, Commit)> =
            commits.iter().map(|(envelope, commit)| (envelope.from, commit.clone())).collect();
        let judgements = self.judgements(&named, &seeds)?;
        let verdicts = self.judged(&named, &seeds, form, &judgements)?;
        let taken = self.chain.taken(&named, &verdicts);
        let Aggregate::Done { digest, norms, .. } = self.aggregate(&taken) else { return None };
        Some(Content {
            list: Some(list),
            commits: commits.into_iter().map(|(envelope, _)| envelope).collect(),
            seeds,
            judgements,
            verdicts,
            norms,
            model: digest,
        })
    }

    /// A body around a content, with everybody who wants in and out.
    pub(crate) fn fresh_body(&mut self, content: Content, recovery: Option<Recovery>) -> Option<Body> {
        let randomness = self.chain.randomness_after(&content.seeds);
        let leaves: Vec<Envelope> =
            self.pool.leaves().filter(|envelope| self.chain.member(envelope.from).is_some()).cloned().collect();
        let joins = self.joins_with_a_place();
        let mut body = Body {
            run: self.run,
            round: self.next_round(),
            parent: self.chain.head().body,
            view: self.round.standing.view,
            content,
            joins,
            leaves,
            proofs: self.convictions(),
            charter: self.chain.charter_of(self.pool.charter()),
            recovery,
            roster: Vec::new(),
            randomness,
        };
        match self.chain.roster_after(&body) {
            Ok(roster) => {
                body.roster = roster;
                Some(body)
            }
            Err(error) => {
                self.tell(crate::Event::Trouble(format!("cannot make a body: {error}")));
                None
            }
        }
    }

    /// Recomputes a body: its rules, its updates' form, and its model digest.
    pub(crate) fn validity(&mut self, digest: Digest, body: &Body) -> Validity {
        if let Some(known) = self.round.bodies.get(&digest) {
            return if *known { Validity::Valid } else { Validity::Invalid };
        }
        let verdict = self.judge(body);
        if verdict != Validity::Pending {
            self.round.bodies.insert(digest, verdict == Validity::Valid);
        }
        verdict
    }

    fn judge(&mut self, body: &Body) -> Validity {
        let Ok(step) = self.chain.check_body(body) else { return Validity::Invalid };
        if self.slanders(body) {
            return Validity::Invalid;
        }
        self.round.needed.extend(step.accepted.iter().map(|update| update.update));
        for update in &step.accepted {
            if !self.is_update_size(update.bytes) {
                return Validity::Invalid;
            }
            self.seek(update.update, update.bytes);
            self.check(update.update);
            match self.round.checks.get(&update.update) {
                Some(Some(true)) if self.round.sizes.get(&update.update) == Some(&update.bytes) => {}
                Some(Some(_)) => return Validity::Invalid,
                _ => return Validity::Pending,
            }
        }
        match self.aggregate(&step.taken()) {
            Aggregate::Pending => Validity::Pending,
            Aggregate::Done { digest, norms, .. } => {
                if digest == step.model && norms == step.norms {
                    Validity::Valid
                } else {
                    Validity::Invalid
                }
            }
        }
    }

    /// Whether a body calls an update malformed that this peer found well-formed, and that is no copy of another. Which
    /// of several commits to one update is the copy depends on when they and their seeds came, so these are excused, but
    /// one of them is no copy.
    fn slanders(&self, body: &Body) -> bool {
        let commit = |envelope: &Envelope| self.pool.commit(envelope.id()).map(|(_, commit)| commit);
        let judged = body.content.commits.iter().zip(&body.content.verdicts);
        let (malformed, others): (Vec<_>, Vec<_>) = judged
            .filter_map(|(envelope, verdict)| Some((commit(envelope)?, *verdict)))
            .partition(|(_, verdict)| *verdict == Verdict::Malformed);
        let is_copy = |update: Digest| others.iter().any(|(other, _)| other.update == update);
        malformed.iter().any(|(commit, _)| !is_copy(commit.update) && self.is_well_formed(commit) == Some(true))
    }

    /// Whether what a new body claims fits what this peer saw; `Pending` while that may still come. A body that more
    /// than 2/3 prevoted before is not judged so again: they saw what it claims.
    fn fits(&mut self, body: &Body) -> Validity {
        let content = &body.content;
        for envelope in content.commits.iter().chain(&content.list) {
            self.ingest(envelope.clone(), None);
        }
        self.watch_lists();
        if self.is_lenient() {
            return Validity::Valid;
        }
        let ours = self.list().map(|listed| listed.id);
        match (content.list.as_ref().map(Envelope::id), ours) {
            (Some(_), None) => Validity::Pending,
            (None, None) if self.pool.commits().next().is_some() => Validity::Invalid,
            (theirs, ours) if theirs != ours || !self.is_fair(content) => Validity::Invalid,
            _ => self.hears_auditors(content),
        }
    }

    fn prevote(&mut self) {
        let VoteState { view, phase, .. } = self.round.standing;
        if phase != Phase::Propose {
            return;
        }
        let proposal = self.leader(view).and_then(|leader| self.pool.proposal(leader, view));
        let ordinary = proposal.filter(|(_, proposal)| proposal.body.recovery.is_none());
        let Some((digest, proposal)) = ordinary.map(|(digest, proposal)| (digest, proposal.clone())) else { return };
        let offer = Offer { body: digest, valid_view: proposal.valid_view };
        let Some(free) = self.round.standing.may_prevote(offer, |view| self.prevoted(view, Some(digest))) else {
            return;
        };
        let fits = if self.round.standing.is_known(offer) { Validity::Valid } else { self.fits(&proposal.body) };
        match (self.validity(digest, &proposal.body), fits) {
            (Validity::Valid, Validity::Valid) if free => self.cast(VoteKind::Prevote, view, Some(digest)),
            (Validity::Pending, Validity::Pending | Validity::Valid) | (Validity::Valid, Validity::Pending) => {}
            _ => self.cast(VoteKind::Prevote, view, None),
        }
    }

    fn precommit(&mut self) {
        let VoteState { view, phase, .. } = self.round.standing;
        let proposal = self.leader(view).and_then(|leader| self.pool.proposal(leader, view));
        let prevoted = proposal.filter(|(digest, _)| phase != Phase::Propose && self.prevoted(view, Some(*digest)));
        if let Some((digest, proposal)) = prevoted.map(|(digest, proposal)| (digest, proposal.clone()))
            && self.validity(digest, &proposal.body) == Validity::Valid
        {
            self.round.proposals.entry(digest).or_insert_with(|| Box::new(proposal));
            if self.round.standing.quorum_prevoted(Some(digest)) {
                self.keep_locked(digest);
                self.cast(VoteKind::Precommit, view, Some(digest));
            }
            let VoteState { lock, valid, .. } = &self.round.standing;
            let named: Vec<Digest> = lock.iter().chain(valid).map(|(_, body)| *body).collect();
            self.round.proposals.retain(|body, _| named.contains(body));
        }
        if self.prevoted(view, None) && self.round.standing.quorum_prevoted(None) {
            self.cast(VoteKind::Precommit, view, None);
        }
    }

    /// Whether more than 2/3 prevoted this body in a view, or nil.
    fn prevoted(&self, view: View, body: Option<Digest>) -> bool {
        self.is_quorum(self.voters(VoteKind::Prevote, view, |voted| voted == body))
    }

    /// What this peer is locked on, as others are told.
    pub(crate) fn lock(&self) -> Option<Lock> {
        let (view, body) = self.round.standing.lock?;
        let content = self.round.proposals.get(&body)?.body.content.digest();
        Some(Lock { view, content })
    }

    /// Stores the updates that a body accepts, before the lock on it: whoever comes back with the lock must be able to
    /// go on from it, even when everybody lost power.
    fn keep_locked(&mut self, body: Digest) {
        let Some(content) = self.pool.body(body).map(|proposal| &proposal.body.content) else { return };
        let judged = content.commits.iter().zip(&content.verdicts);
        let accepted = judged.filter(|(_, verdict)| **verdict == Verdict::Accepted);
        let updates: Vec<Digest> = accepted
            .filter_map(|(envelope, _)| Said::open(envelope, self.run).ok())
            .filter_map(|said| if let Message::Commit(commit) = &said.message { Some(commit.update) } else { None })
            .collect();
        for update in updates {
            if let Some(bytes) = self.transfers.get(update) {
                self.keep_stored(update, bytes);
            }
        }
    }

    /// Ends what takes too long.
    fn pass_time(&mut self) {
        let view = self.round.standing.view;
        let view_ms = u64::from(self.chain.manifest().timing.view_ms);
        let patience_ms = view_ms * u64::from(view.min(20) + 1);
        if self.round.standing.phase == Phase::Propose
            && self.round.view_since.is_some_and(|since| self.now.since(since) >= self.propose_ms())
        {
            self.cast(VoteKind::Prevote, view, None);
        }
        if self.is_quorum(self.voters(VoteKind::Prevote, view, |_| true)) {
            let since = *self.round.prevotes_since.get_or_insert(self.now);
            if self.round.standing.phase == Phase::Prevote && self.now.since(since) >= patience_ms {
                self.cast(VoteKind::Precommit, view, None);
            }
        }
        if self.is_quorum(self.voters(VoteKind::Precommit, view, |_| true)) {
            let since = *self.round.precommits_since.get_or_insert(self.now);
            if self.now.since(since) >= patience_ms {
                self.enter(view + 1);
            }
        }
    }

    fn propose_ms(&self) -> u64 {
        let timing = &self.chain.manifest().timing;
        let view = self.round.standing.view;
        let view_ms = u64::from(timing.view_ms);
        if self.leader(view).is_some_and(|leader| !self.is_present(leader)) {
            return view_ms / 2;
        }
        let exchange_ms = if view == 0 { u64::from(timing.exchange_ms_max) + self.judging_ms() } else { 0 };
        exchange_ms + view_ms * u64::from(view.min(20) + 1)
    }

    /// Decides a vote, stores it, and sends it once it is stored. A peer that may not vote only follows.
    pub(crate) fn cast(&mut self, kind: VoteKind, view: View, body: Option<Digest>) {
        self.round.standing.pass(kind);
        self.changed = true;
        if !self.is_voter() || !self.round.standing.vote(kind, view, body) {
            return;
        }
        let vote = Vote { parent: self.chain.head().body, view, kind, body };
        let locks = kind == VoteKind::Precommit && body.is_some();
        // An anchor may sign one recovery only, so it must be able to propose that one again.
        let kept = body.filter(|_| locks || kind == VoteKind::Recovery);
        let record = Persisted {
            round: self.next_round(),
            session: self.speaks_as(),
            vote,
            lock: self.lock().filter(|_| locks),
            proposal: kept.and_then(|digest| self.pool.envelope_of_body(digest)).cloned().map(Box::new),
        };
        self.persist(Stored::Vote { round: record.round, vote }, Record::Vote(record));
    }

    pub(crate) fn vote_stored(&mut self, round: shoal_wire::Round, vote: Vote) {
        // A vote that stands for updates which the disk refused does not leave.
        if self.join.durable && round == self.next_round() && vote.parent == self.chain.head().body {
            self.say(Message::Vote(vote));
        }
    }

    /// Goes on from the votes of this round that were stored before a restart. A disk that lost certificates still
    /// knows votes of later rounds, and these bind too.
    pub(crate) fn restore_votes(&mut self) {
        let head = self.chain.head().round;
        let mut proposals = Vec::new();
        self.stored_votes.retain(|stored| stored.round > head);
        for stored in self.stored_votes.clone() {
            let vote = stored.vote;
            let ours = self.is_member() && stored.session == self.speaks_as();
            if !ours || stored.round != self.next_round() || vote.parent != self.chain.head().body {
                continue;
            }
            let locked = stored.lock.zip(stored.proposal.as_ref().and_then(|proposal| self.opened(proposal)));
            let lock = locked.map(|(lock, proposal)| {
                let body = proposal.body.digest();
                self.round.proposals.insert(body, proposal);
                (lock.view, body)
            });
            self.round.standing.restore(vote.kind, vote.view, vote.body, lock);
            proposals.extend(stored.proposal);
            self.say(Message::Vote(vote));
        }
        // Perhaps nobody else holds them any more, and a recovery must find what a lock names.
        for proposal in proposals {
            self.ingest(*proposal, None);
        }
    }

    fn opened(&self, envelope: &Envelope) -> Option<Box<Proposal>> {
        match Said::open(envelope, self.run).ok()?.into_inner().message {
            Message::Proposal(proposal) => Some(proposal),
            _ => None,
        }
    }
}
