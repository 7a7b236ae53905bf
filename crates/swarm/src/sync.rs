//! Staying together: heartbeats, messages that were lost, certificates that this peer lacks.

use std::collections::BTreeSet;

use shoal_ledger::Taken;
use shoal_wire::{
    Digest, Envelope, PeerId, Round,
    frame::{Frame, Status},
    limits::{
        CERTIFICATES_IN_ANSWER_MAX, EARLY_MAX, ENVELOPES_MAX, FRAME_BYTES_MAX, POOL_BYTES_PER_PEER_MAX, ROSTER_MAX,
    },
    record::{Certificate, Message, Said, Verdict},
    share::Share,
};

use crate::{
    Bytes, Event, Output, Record, Swarm,
    pool::short,
    state::{Aggregate, HEARTBEAT_MS, PRESENCE_MS, Stored},
};

/// Something that was asked for and did not come is asked for again after this.
const ASK_AGAIN_MS: u64 = 1_000;

impl Swarm {
    pub(crate) fn heartbeat(&mut self) {
        if self.now >= self.next_heartbeat {
            self.next_heartbeat = self.now + HEARTBEAT_MS;
            self.send_status(None);
        }
    }

    /// Tells one link, or all, where this peer stands.
    pub(crate) fn send_status(&mut self, only: Option<PeerId>) {
        let seen = self
            .links
            .iter()
            .filter(|(_, link)| link.heard.is_some_and(|heard| self.now.since(heard) < PRESENCE_MS / 2))
            .map(|(peer, _)| peer);
        let head = self.chain.head();
        let status =
            Status { head: head.round, body: head.body, envelopes: self.pool.ids(), seen: seen.copied().collect() };
        let frame = Frame::Status(status);
        let to: Vec<PeerId> =
            self.links.keys().filter(|peer| only.is_none_or(|only| only == **peer)).copied().collect();
        for peer in to {
            self.send(peer, &frame);
        }
    }

    /// Returns whether it tells anything of which the rules do not know.
    pub(crate) fn take_status(&mut self, from: PeerId, status: Status) -> bool {
        let mut news = false;
        let head = (self.chain.head().round, self.chain.head().body);
        let trusted = self.chain.member(from).is_some();
        let members = status.seen.into_iter().filter(|peer| trusted && self.chain.member(*peer).is_some());
        for peer in members.collect::<Vec<_>>() {
            news |= !self.is_present(peer);
            // Second-hand news is a little older than first-hand.
            let heard = self.heard.entry(peer).or_default();
            *heard = (*heard).max(shoal_wire::Millis(self.now.0.saturating_sub(HEARTBEAT_MS)));
        }
        let Some(link) = self.links.get_mut(&from) else { return news };
        news |= core::mem::replace(&mut link.head, status.head) != status.head;
        let due = link.asked_certificates.is_none_or(|asked| self.now.since(asked) >= ASK_AGAIN_MS);
        if status.head > head.0 && due {
            self.ask_certificates(from, head.0 + 1);
            return news;
        }
        let forked = status.head > 0 && self.body_of(status.head).is_some_and(|ours| ours != status.body);
        if forked && due {
            self.ask_certificates(from, self.first_recovery().unwrap_or(status.head));
            return news;
        }
        if (status.head, status.body) == head {
            self.ask_for_lost(from, status.envelopes);
        }
        news
    }

    /// Digest of the body that was certified for a round.
    fn body_of(&self, round: Round) -> Option<Digest> {
        if round == self.chain.head().round {
            return Some(self.chain.head().body);
        }
        // The next one names it, which is quicker than to compute it.
        let next = self.certificates.get(&(round + 1)).map(|certificate| certificate.body.parent);
        next.or_else(|| Some(self.certificates.get(&round)?.body.digest()))
    }

    fn ask_for_lost(&mut self, from: PeerId, envelopes: Vec<u64>) {
        let Some(link) = self.links.get_mut(&from) else { return };
        let mut lost = Vec::new();
        for id in envelopes.into_iter().take(ENVELOPES_MAX) {
            if link.known.len() >= ENVELOPES_MAX && !link.known.contains(&id) {
                break;
            }
            link.known.insert(id);
            let asked = link.asked.get(&id).is_some_and(|asked| self.now.since(*asked) < ASK_AGAIN_MS);
            if !self.pool.knows(id) && !asked {
                link.asked.insert(id, self.now);
                lost.push(id);
            }
        }
        if !lost.is_empty() {
            self.send(from, &Frame::Ask(lost));
        }
    }

    pub(crate) fn answer_ask(&mut self, from: PeerId, ids: &[u64]) {
        // Asking costs little and answering much: each envelope once, and what is more than a frame's worth another time.
        let ids: BTreeSet<u64> = ids.iter().take(ENVELOPES_MAX).copied().collect();
        let mut bytes = 0;
        for id in ids {
            let Some(envelope) = self.pool.envelope(id).cloned() else { continue };
            if bytes > FRAME_BYTES_MAX {
                return;
            }
            bytes += envelope.payload.len();
            self.send(from, &Frame::Said(envelope));
        }
    }

    pub(crate) fn send_certificates(&mut self, to: PeerId, from_round: Round) {
        let mut bytes = 0;
        let some: Vec<Certificate> = self
            .certificates
            .range(from_round..)
            .map(|(_, certificate)| certificate.clone())
            .take(CERTIFICATES_IN_ANSWER_MAX)
            .take_while(|certificate| {
                bytes += shoal_wire::codec::encode(certificate).len();
                bytes < FRAME_BYTES_MAX / 2
            })
            .collect();
        if !some.is_empty() {
            self.send(to, &Frame::Certificates(some));
        }
    }

    pub(crate) fn take_certificates(&mut self, from: PeerId, certificates: Vec<Certificate>) {
        if let Some(link) = self.links.get_mut(&from) {
            link.asked_certificates = None;
        }
        let last = certificates.last().map_or(0, |certificate| certificate.body.round);
        let mut forked = false;
        for certificate in certificates {
            let round = certificate.body.round;
            if self.certificates.get(&round).is_some_and(|ours| ours.body == certificate.body) {
                continue;
            }
            if round <= self.chain.head().round {
                if !self.chain.is_beaten_by(&certificate) {
                    // Ours stays, and what they have after this follows from theirs.
                    return;
                }
                self.roll_back(round - 1);
            }
            forked = round == self.next_round() && certificate.body.parent != self.chain.head().body;
            if round != self.next_round() || !self.adopt(certificate) {
                break;
            }
        }
        let next = self.next_round();
        if !forked && last > 0 && last < next - 1 && self.links.get(&from).is_some_and(|link| link.head > last) {
            // All of these are ours too: what parts us comes later.
            self.ask_certificates(from, last + 1);
            return;
        }
        let resume = match (forked, self.first_recovery()) {
            // Their history parted from ours, which only a recovery of ours can explain: compare from there on.
            (true, Some(recovery)) => recovery,
            (true, None) => return,
            (false, _) => next.min(last.saturating_add(1)),
        };
        let behind = self.links.get(&from).is_some_and(|link| link.head >= next);
        if behind && (last.checked_add(1) == Some(resume) || (forked && last >= next)) {
            self.ask_certificates(from, resume);
        }
    }

    fn ask_certificates(&mut self, from: PeerId, from_round: Round) {
        if let Some(link) = self.links.get_mut(&from) {
            link.asked_certificates = Some(self.now);
        }
        self.send(from, &Frame::GetCertificates(from_round));
    }

    /// The earliest recovery that could still be undone.
    fn first_recovery(&self) -> Option<Round> {
        let window = u64::from(self.chain.manifest().timing.recovery_window_rounds);
        let earliest = self.next_round().saturating_sub(window);
        let recovered = |certificate: &&Certificate| certificate.body.recovery.is_some();
        self.certificates
            .range(earliest..)
            .map(|(_, certificate)| certificate)
            .find(recovered)
            .map(|found| found.body.round)
    }

    fn roll_back(&mut self, to: Round) {
        while self.chain.head().round > to && self.chain.undo() {}
        self.certificates.split_off(&(to + 1));
        self.steps.split_off(&(to + 1));
        self.model = self.model.take().filter(|(round, _)| *round <= to);
        self.checkpoint = None;
        self.stored_round = self.stored_round.min(to);
        self.abandon_training();
        self.abandon_judging();
        if self.round.update.is_some() {
            self.settled = Some(Share::NOTHING);
        }
        self.start_round();
        self.tell(Event::RolledBack { to });
    }

    /// Takes a signed message from anyone, through anyone; returns whether it was not known.
    pub(crate) fn ingest(&mut self, envelope: Envelope, through: Option<PeerId>) -> bool {
        let id = short(envelope.id());
        if let Some(link) = through.and_then(|peer| self.links.get_mut(&peer)) {
            link.known.insert(id);
        }
        if self.pool.knows(id) || self.early.contains_key(&id) {
            return false;
        }
        self.take_said(envelope, id, through);
        true
    }

    fn take_said(&mut self, envelope: Envelope, id: u64, through: Option<PeerId>) {
        // The id does not cover the signature, so a forged copy must not stand in for the genuine message: nothing is
        // remembered of it, and `Link::asked` bounds how often it is asked for.
        let Ok(said) = Said::open(&envelope, self.run) else { return };
        let from = said.from();
        let said = said.into_inner();
        let next = self.next_round();
        if said.round > next && !matches!(said.message, Message::Join(_)) {
            if said.round <= next + 2 && self.has_room_early(&envelope) {
                self.early.insert(id, envelope);
            }
            return;
        }
        if !self.belongs(&said, from) {
            self.pool.refuse(id);
            return;
        }
        if let Message::CommitList(list) = &said.message
            && self.pool.lists_differ(from, list)
        {
            self.round.void_lists.insert(list.view);
            self.pool.refuse(id);
            self.changed = true;
            self.forward(&envelope, through);
            return;
        }
        if let Message::Vote(vote) = &said.message
            && (from, said.session) == (self.me, self.session)
            && !self.round.standing.voted.contains_key(&(vote.kind, vote.view))
        {
            self.doubt_session(envelope.id());
        }
        if let Some(first) = self.pool.contradicted(from, &said).cloned() {
            self.pool.refuse(id);
            self.accuse(first, envelope);
            self.emit(Output::Drop { peer: from, why: "signed two different votes in one view".to_owned() });
            return;
        }
        let views = self.views();
        let chain = &self.chain;
        if self.pool.insert(envelope.clone(), said, &views, self.now, |peer| chain.member(peer).is_some()) {
            self.heard.insert(from, self.now);
            self.changed = true;
            self.forward(&envelope, through);
        }
    }

    /// Whether a message of a round to come may be kept: of members, and of each only so much.
    fn has_room_early(&self, envelope: &Envelope) -> bool {
        let same = self.early.values().filter(|early| early.from == envelope.from);
        let (count, bytes) = same.fold((0, 0), |(count, bytes), early| (count + 1, bytes + early.payload.len()));
        let room = count < EARLY_MAX && bytes + envelope.payload.len() <= POOL_BYTES_PER_PEER_MAX;
        room && self.chain.member(envelope.from).is_some()
    }

    fn belongs(&self, said: &Said, from: PeerId) -> bool {
        if let Message::Join(_) = said.message {
            // A joiner may be a little behind or ahead; it counts once it fits the chain.
            return self.chain.check_join(said.round.min(self.next_round()), said.session, from).is_ok()
                && said.round <= self.next_round() + 1;
        }
        if let Message::Equivocation(proof) = &said.message {
            // It may be about an earlier round, until a body holds it.
            return self.chain.member(from).is_some() && self.chain.convicts(proof).is_ok();
        }
        let member = self.chain.speaker(from, said.session).is_some() && said.round == self.next_round();
        member
            && match &said.message {
                Message::Commit(commit) => {
                    self.is_update_size(commit.update_bytes) && self.chain.check_commit(commit, from).is_ok()
                }
                Message::CommitList(list) => {
                    let leads = self.chain.leaders().get(list.view as usize) == Some(&from);
                    leads && list.commits.len() <= ROSTER_MAX
                }
                Message::Have(have) => have.updates.len() <= ROSTER_MAX,
                Message::Judgement(judgement) => judgement.scores.len() <= ROSTER_MAX,
                Message::Proposal(proposal) if proposal.body.recovery.is_some() => self.anchors().contains(&from),
                Message::Proposal(proposal) => self.leader(proposal.view) == Some(from),
                Message::Vote(vote) => vote.parent == self.chain.head().body,
                Message::RecoveryCall(_) => self.anchors().contains(&from),
                Message::Amendment(amendment) => self.chain.check_amendment(amendment, from).is_ok(),
                Message::Ballot(ballot) => self.chain.check_ballot(*ballot, from).is_ok(),
                _ => true,
            }
    }

    /// Takes one certified round into the chain; false when it does not hold.
    pub(crate) fn adopt(&mut self, certificate: Certificate) -> bool {
        let Ok(step) = self.chain.check(&certificate) else { return false };
        if self.hold_aside(&certificate) {
            return false;
        }
        self.adopt_checked(certificate, step);
        true
    }

    /// Takes a certificate that the chain found good.
    pub(crate) fn adopt_checked(&mut self, certificate: Certificate, step: shoal_ledger::Step) {
        let known = self.has_head_model().then(|| self.known_aggregate(&step.taken())).flatten();
        self.chain.advance(&certificate, &step);
        self.settle(&certificate, step.share);
        if self.archive {
            self.pin(&step);
        }
        let event = Event::Certified {
            round: step.round,
            body: self.chain.head().body,
            model: step.model,
            accepted: step.accepted.len() as u32,
            own: self.own_verdict(&certificate),
            recovery: step.recovery,
        };
        self.certificates.insert(step.round, certificate);
        let round = step.round;
        self.steps.insert(round, step);
        self.tell(event);
        if !self.archive {
            self.store_certificates(round);
        }
        if let Some(model) = known {
            self.hold_model(round, model);
        }
        self.follow_charter(round);
        self.start_round();
        self.send_status(None);
    }

    /// Stores the certificates up to a round. An archive does so once it holds what the round takes to replay, so that
    /// whoever verifies it finds no round whose updates are still on their way, but after a checkpoint: then it looks
    /// for the updates of the rounds before while it shows them.
    pub(crate) fn store_certificates(&mut self, up_to: Round) {
        while self.stored_round < up_to {
            self.stored_round += 1;
            if let Some(certificate) = self.certificates.get(&self.stored_round).cloned() {
                self.persist(Stored::Other, Record::Certificate(Box::new(certificate)));
            }
        }
    }

    /// The model after these updates, when it was computed already.
    fn known_aggregate(&self, taken: &Taken) -> Option<Bytes> {
        if taken.accepted.is_empty() {
            return self.model.as_ref().map(|(_, model)| model.clone());
        }
        match self.round.aggregates.get(&self.aggregation_key(taken))? {
            Aggregate::Done { model, .. } => Some(model.clone()),
            Aggregate::Pending => None,
        }
    }

    /// What the round means for this peer's own update and place.
    fn settle(&mut self, certificate: &Certificate, share: Share) {
        let verdict = self.own_verdict(certificate);
        self.note_lateness(certificate, verdict.is_some());
        self.abandon_training();
        self.abandon_judging();
        let accepted = verdict == Some(Verdict::Accepted);
        if self.round.update.is_some() {
            self.settled = Some(if accepted { Share::WHOLE } else { share });
        }
        self.accepted_own += u64::from(accepted);
        self.note_place();
    }

    /// A round that closed without this peer's work, though it trained: next time it does less.
    fn note_lateness(&mut self, certificate: &Certificate, listed: bool) {
        let committed = self.pool.commits().any(|(envelope, _)| envelope.from == self.me);
        let late = self.round.training.is_some() || (committed && !listed);
        if let Some((_, steps)) = self.round.ordered.filter(|_| late && certificate.body.recovery.is_none()) {
            self.pace.missed(steps);
        }
    }

    pub(crate) fn abandon_training(&mut self) {
        if let Some(job) = self.round.training.take() {
            self.jobs.remove(&job);
            self.emit(Output::Stop { job, keep: false });
        }
    }

    pub(crate) fn pin(&mut self, step: &shoal_ledger::Step) {
        for update in &step.accepted {
            if let Some(bytes) = self.transfers.get(update.update) {
                self.persist(Stored::Other, Record::Blob { digest: update.update, bytes, pinned: true });
            }
        }
    }

    /// Forgets the round in progress and begins the next.
    pub(crate) fn start_round(&mut self) {
        let chain = &self.chain;
        let next = chain.head().round + 1;
        self.pool.next_round(
            |said, peer| said.round <= next && chain.check_join(said.round, said.session, peer).is_ok(),
            |proof| chain.convicts(proof).is_ok(),
        );
        self.round = crate::state::RoundState::default();
        self.sought.clear();
        for link in self.links.values_mut() {
            link.known.clear();
            link.asked.clear();
        }
        self.changed = true;
        let links = &self.links;
        self.heard.retain(|peer, _| links.contains_key(peer) || chain.member(*peer).is_some());
        self.restore_votes();
        for envelope in core::mem::take(&mut self.early).into_values() {
            self.ingest(envelope, None);
        }
    }
}
