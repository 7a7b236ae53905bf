//! Staying together: heartbeats, messages that were lost, certificates and models that this peer lacks.

use std::collections::{BTreeMap, BTreeSet};

use shoal_wire::{
    Digest, Envelope, PeerId, Round,
    frame::{Frame, Status},
    limits::{CERTIFICATES_IN_ANSWER_MAX, ENVELOPES_MAX, FRAME_BYTES_MAX, ROSTER_MAX},
    record::{Certificate, Message, Said},
};

use crate::{
    Bytes, Event, Job, Output, Record, Swarm,
    pool::short,
    state::{Aggregate, HEARTBEAT_MS, PRESENCE_MS, Purpose, Stored},
};

/// Something that was asked for and did not come is asked for again after this.
const ASK_AGAIN_MS: u64 = 1_000;
/// Messages of rounds to come that are kept.
const EARLY_MAX: usize = 512;
/// A peer that is further behind takes a checkpoint rather than the updates.
const REPLAY_ROUNDS_MAX: u64 = 8;
/// Updates that nobody sends for this long are given up for a checkpoint.
const STUCK_MS: u64 = 10_000;
/// Stored updates of so many rounds outlive their certificate, for when the model does not get to the disk.
const KEPT_ROUNDS: u64 = 2;
/// An archive looks for the updates of so many left rounds at a time, for this long.
const BACKLOG_ROUNDS: usize = 4;
const BACKLOG_TURN_MS: u64 = 20_000;

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

    pub(crate) fn take_status(&mut self, from: PeerId, status: Status) {
        let head = (self.chain.head().round, self.chain.head().body);
        let trusted = self.chain.member(from).is_some();
        let members = status.seen.into_iter().filter(|peer| trusted && self.chain.member(*peer).is_some());
        for peer in members.collect::<Vec<_>>() {
            // Second-hand news is a little older than first-hand.
            let heard = self.heard.entry(peer).or_default();
            *heard = (*heard).max(shoal_wire::Millis(self.now.0.saturating_sub(HEARTBEAT_MS)));
        }
        let Some(link) = self.links.get_mut(&from) else { return };
        link.head = status.head;
        let due = link.asked_certificates.is_none_or(|asked| self.now.since(asked) >= ASK_AGAIN_MS);
        if status.head > head.0 && due {
            self.ask_certificates(from, head.0 + 1);
            return;
        }
        let theirs = self.certificates.get(&status.head).map(|certificate| certificate.body.digest());
        let forked = status.head > 0 && theirs.is_some_and(|ours| ours != status.body);
        if forked && due {
            self.ask_certificates(from, self.first_recovery().unwrap_or(status.head));
            return;
        }
        if (status.head, status.body) == head {
            self.ask_for_lost(from, status.envelopes);
        }
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
        if self.round.update.is_some() {
            self.settled = Some(false);
        }
        self.start_round();
        self.tell(Event::RolledBack { to });
    }

    /// Takes a signed message from anyone, through anyone.
    pub(crate) fn ingest(&mut self, envelope: Envelope, through: Option<PeerId>) {
        let id = short(envelope.id());
        if let Some(link) = through.and_then(|peer| self.links.get_mut(&peer)) {
            link.known.insert(id);
        }
        if self.pool.knows(id) || self.early.contains_key(&id) {
            return;
        }
        // The id does not cover the signature, so a forged copy must not stand in for the genuine message: nothing is
        // remembered of it, and `Link::asked` bounds how often it is asked for.
        let Ok(said) = Said::open(&envelope, self.run) else { return };
        let from = said.from();
        let said = said.into_inner();
        let next = self.next_round();
        if said.round > next && !matches!(said.message, Message::Join(_)) {
            if self.early.len() < EARLY_MAX && said.round <= next + 2 {
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
        if self.pool.contradicts(from, &said) {
            self.pool.refuse(id);
            self.emit(Output::Drop { peer: from, why: "signed two different votes in one view".to_owned() });
            return;
        }
        if self.pool.insert(envelope.clone(), said, self.round.view, self.now) {
            self.heard.insert(from, self.now);
            self.changed = true;
            self.forward(&envelope, through);
        }
    }

    fn belongs(&self, said: &Said, from: PeerId) -> bool {
        if let Message::Join(_) = said.message {
            // A joiner may be a little behind or ahead; it counts once it fits the chain.
            return self.chain.check_join(said.round.min(self.next_round()), from).is_ok()
                && said.round <= self.next_round() + 1;
        }
        let member = self.chain.member(from).is_some() && said.round == self.next_round();
        member
            && match &said.message {
                Message::Commit(commit) => {
                    let size = commit.update_bytes > 0 && commit.update_bytes <= self.model_bytes + 64 * 1024;
                    (size || self.model_bytes == 0) && self.chain.check_commit(commit, from).is_ok()
                }
                Message::CommitList(list) => {
                    let leads = self.chain.leaders().get(list.view as usize) == Some(&from);
                    leads && list.commits.len() <= ROSTER_MAX
                }
                Message::Proposal(proposal) if proposal.body.recovery.is_some() => self.anchors().contains(&from),
                Message::Proposal(proposal) => self.leader(proposal.view) == Some(from),
                Message::Vote(vote) => vote.parent == self.chain.head().body,
                Message::RecoveryCall(_) => self.anchors().contains(&from),
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
        let known = self.has_head_model().then(|| self.known_aggregate(&step.accepted)).flatten();
        self.chain.advance(&certificate);
        self.settle(&certificate);
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
        self.start_round();
        self.send_status(None);
    }

    /// Stores the certificates up to a round. An archive does so once it holds what the round takes to replay, so that
    /// whoever verifies it never finds a round whose updates are still on their way.
    fn store_certificates(&mut self, up_to: Round) {
        while self.stored_round < up_to {
            self.stored_round += 1;
            if let Some(certificate) = self.certificates.get(&self.stored_round).cloned() {
                self.persist(Stored::Other, Record::Certificate(Box::new(certificate)));
            }
        }
    }

    /// The model after these updates, when it was computed already.
    fn known_aggregate(&self, accepted: &[shoal_ledger::AcceptedUpdate]) -> Option<Bytes> {
        if accepted.is_empty() {
            return self.model.as_ref().map(|(_, model)| model.clone());
        }
        match self.round.aggregates.get(&self.aggregation_key(accepted))? {
            Aggregate::Done { model, .. } => Some(model.clone()),
            Aggregate::Pending | Aggregate::Failed => None,
        }
    }

    /// What the round means for this peer's own update and place.
    fn settle(&mut self, certificate: &Certificate) {
        self.abandon_training();
        let verdict = self.own_verdict(certificate);
        let accepted = verdict == Some(shoal_wire::record::Verdict::Accepted);
        if self.round.update.is_some() {
            self.settled = Some(accepted);
        }
        self.accepted_own += u64::from(accepted);
        let member = self.is_member();
        if member != self.was_member {
            self.was_member = member;
            let round = self.next_round();
            self.tell(if member { Event::JoinedRoster { round } } else { Event::LeftRoster { round } });
        }
    }

    pub(crate) fn abandon_training(&mut self) {
        if let Some(job) = self.round.training.take() {
            self.jobs.remove(&job);
            self.emit(Output::Stop { job, keep: false });
        }
    }

    fn pin(&mut self, step: &shoal_ledger::Step) {
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
        self.pool.next_round(|said, peer| said <= next && chain.check_join(said, peer).is_ok());
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

    pub(crate) fn hold_model(&mut self, round: Round, model: Bytes) {
        let digest = Digest::of(&model);
        self.model_bytes = model.len() as u64;
        let changed = self.steps.get(&round).is_none_or(|step| !step.accepted.is_empty());
        if changed {
            self.persist(Stored::Other, Record::Blob { digest, bytes: model.clone(), pinned: false });
        }
        self.store_certificates(round);
        let kept = self.kept.split_off(&round.saturating_sub(KEPT_ROUNDS));
        for blob in core::mem::replace(&mut self.kept, kept).into_values().flatten() {
            if !self.archive {
                self.emit(Output::Forget { blob });
            }
        }
        self.transfers.keep(digest, model.clone());
        self.model = Some((round, model));
        self.steps = self.steps.split_off(&(round + 1));
        self.stuck_since = None;
        self.changed = true;
    }

    /// Fetches a blob that this peer may have stored before a restart: from its own store first, then from others.
    pub(crate) fn seek(&mut self, blob: Digest, bytes: u64) {
        if self.transfers.has(blob) {
            return;
        }
        match self.sought.get(&blob) {
            None => {
                self.sought.insert(blob, false);
                self.emit(Output::Load { blob });
            }
            Some(false) => {}
            Some(true) => self.transfers.want(blob, bytes),
        }
    }

    /// Works towards the model of the newest certified round.
    pub(crate) fn catch_up(&mut self) {
        let head = self.chain.head().round;
        if self.has_head_model() {
            if self.round.started.is_none() {
                self.round.started = Some(self.now);
                self.changed = true;
            }
            self.checkpoint = None;
            return;
        }
        let here = self.model.as_ref().map(|(round, _)| *round);
        let stuck = self.stuck_since.is_some_and(|since| self.now.since(since) >= STUCK_MS);
        let replay = here.is_some_and(|here| (self.archive || head - here <= REPLAY_ROUNDS_MAX) && !stuck);
        if replay && self.checkpoint.is_none() {
            self.replay_next();
        } else {
            self.fetch_checkpoint();
        }
    }

    fn replay_next(&mut self) {
        let Some((here, model)) = self.model.clone() else { return };
        self.stuck_since.get_or_insert(self.now);
        let Some(step) = self.steps.get(&(here + 1)).cloned() else { return };
        if step.accepted.is_empty() {
            self.hold_model(step.round, model);
            return;
        }
        let mut updates = Vec::with_capacity(step.accepted.len());
        for update in &step.accepted {
            self.seek(update.update, update.bytes);
            updates.extend(self.transfers.get(update.update).map(|bytes| (update.weight, bytes)));
        }
        let busy = self.jobs.values().any(|purpose| matches!(purpose, Purpose::Replay { .. }));
        if updates.len() == step.accepted.len() && !busy {
            if self.archive {
                self.pin(&step);
            }
            self.compute(
                Purpose::Replay { round: step.round },
                Job::Aggregate { model, updates, history: step.history },
            );
        }
    }

    pub(crate) fn replayed(&mut self, round: Round, model: Bytes) {
        let expected = self.steps.get(&round).map(|step| step.model);
        let follows = self.model.as_ref().is_some_and(|(here, _)| here + 1 == round);
        let digest = Digest::of(&model);
        if !follows || expected.is_none() {
            return;
        }
        if expected == Some(digest) {
            self.hold_model(round, model);
            if self.has_head_model() {
                self.tell(Event::CaughtUp { round, model: digest });
            }
        } else {
            self.tell(Event::Trouble(format!("replaying round {round} gives another model; fetching a checkpoint")));
            self.model = None;
        }
    }

    /// Progress with the updates of the round being replayed.
    pub(crate) fn unstuck(&mut self, blob: Digest) {
        let next = self.model.as_ref().map(|(here, _)| here + 1);
        let replayed = next.and_then(|next| self.steps.get(&next));
        if replayed.is_some_and(|step| step.accepted.iter().any(|update| update.update == blob)) {
            self.stuck_since = Some(self.now);
        }
    }

    /// An archive that takes a checkpoint goes on looking for the updates of the rounds before, or those could never be
    /// replayed from it.
    fn leave_behind(&mut self, round: Round) {
        if !self.archive {
            return;
        }
        let behind = self.steps.range(..=round).filter(|(_, step)| !step.accepted.is_empty());
        let behind: BTreeMap<Round, BTreeMap<Digest, u64>> = behind
            .map(|(round, step)| (*round, step.accepted.iter().map(|update| (update.update, update.bytes)).collect()))
            .collect();
        if let (Some(first), Some(last)) = (behind.keys().next(), behind.keys().next_back()) {
            let text = format!("took a checkpoint; still looking for the updates of rounds {first} to {last}");
            self.tell(Event::Trouble(text));
        }
        self.backlog.extend(behind);
    }

    /// The rounds of the backlog whose turn it is: some at a time, and what cannot be had does not stop the others.
    fn backlog_turn(&self) -> Vec<Round> {
        let rounds: Vec<Round> = self.backlog.keys().copied().collect();
        let first = (self.now.0 / BACKLOG_TURN_MS) as usize * BACKLOG_ROUNDS % rounds.len().max(1);
        rounds.iter().cycle().skip(first).take(BACKLOG_ROUNDS.min(rounds.len())).copied().collect()
    }

    /// Stores what arrived of the backlog, and asks for more.
    pub(crate) fn fill_backlog(&mut self) {
        for round in self.backlog_turn() {
            let Some(mut updates) = self.backlog.remove(&round) else { continue };
            updates.retain(|digest, bytes| {
                self.seek(*digest, *bytes);
                let here = self.transfers.get(*digest);
                if let Some(bytes) = here.clone() {
                    self.persist(Stored::Other, Record::Blob { digest: *digest, bytes, pinned: true });
                }
                here.is_none()
            });
            if !updates.is_empty() {
                self.backlog.insert(round, updates);
            }
        }
    }

    fn fetch_checkpoint(&mut self) {
        let links: Vec<PeerId> = self.links.keys().copied().collect();
        if let Some((round, digest)) = self.checkpoint {
            if let Some(model) = self.transfers.get(digest) {
                self.checkpoint = None;
                self.leave_behind(round);
                self.hold_model(round, model);
                self.tell(Event::CaughtUp { round, model: digest });
            } else if self.transfers.is_unavailable(digest, &links) {
                self.checkpoint = None;
            }
            return;
        }
        let head = self.chain.head();
        self.checkpoint = Some((head.round, head.model));
        self.changed = true;
    }

    /// Keeps every fetch going that something still needs.
    pub(crate) fn fetch(&mut self) {
        let mut needed: BTreeSet<Digest> = self.listed_updates().keys().copied().collect();
        if let Some((_, digest)) = self.checkpoint {
            self.transfers.want(digest, self.model_bytes);
            needed.insert(digest);
        }
        if let Some(step) = self.model.as_ref().and_then(|(here, _)| self.steps.get(&(here + 1))) {
            needed.extend(step.accepted.iter().map(|update| update.update));
        }
        needed.extend(&self.round.needed);
        for round in self.backlog_turn() {
            needed.extend(self.backlog.get(&round).into_iter().flat_map(BTreeMap::keys));
        }
        self.transfers.retain_wants(&needed);
        let links: Vec<PeerId> = self.links.keys().copied().collect();
        let pool = &self.pool;
        let requests = self.transfers.request(self.now, &links, |blob, peer| {
            pool.holders(blob).any(|holder| holder == peer)
                || pool.commits().any(|(envelope, commit)| envelope.from == peer && commit.update == blob)
        });
        for (to, frame) in requests {
            self.send(to, &frame);
        }
    }
}
