//! The one law: [`Swarm::handle`], then [`Swarm::poll`] until idle.

use std::collections::{BTreeMap, VecDeque};

use shoal_ledger::Chain;
use shoal_wire::{Digest, Millis, PeerId, Round, frame::Frame, record::Message, share::Share};
use thiserror::Error;

use crate::{
    Bytes, Command, Config, Event, Input, JobId, Outcome, Output, Restored,
    pace::Pace,
    pool::Pool,
    state::{Aggregate, Link, Purpose, RoundState, Stored, Swarm},
    transfer::{Arrival, Transfers},
};

/// With something under way, timers are looked at this often.
const BUSY_TICK_MS: u64 = 100;
/// Between two tries of work that failed.
const RETRY_MS: u64 = 1_000;
/// A bound on passes over the rules for one input; the rules settle in a few.
const PASSES_MAX: usize = 64;

/// The caller broke the law.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum Misuse {
    #[error("handle was called before poll said Idle")]
    NotDrained,
}

/// What was restored does not fit the run.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum SwarmError {
    #[error("stored certificate of round {round} does not hold: {source}")]
    Chain { round: Round, source: shoal_ledger::LedgerError },
}

impl Swarm {
    /// A peer at the point where its store left it, or before round 1.
    pub fn new(config: Config, restored: Restored, now: Millis) -> Result<Self, SwarmError> {
        let mut chain = Chain::new(config.manifest);
        let mut certificates = BTreeMap::new();
        for certificate in restored.certificates {
            let round = certificate.body.round;
            chain.apply(&certificate).map_err(|source| SwarmError::Chain { round, source })?;
            certificates.insert(round, certificate);
        }
        let head = chain.head();
        let head_round = head.round;
        let model = restored.model.filter(|model| Digest::of(model) == head.model).map(|model| (head.round, model));
        let me = config.identity.peer();
        let mut swarm = Self {
            me,
            run: chain.run(),
            identity: config.identity,
            session: config.session,
            join: config.join,
            archive: config.archive,
            now,
            out: VecDeque::new(),
            drained: true,
            changed: false,
            was_member: false,
            replaced: false,
            certificates,
            model_bytes: 0,
            model: None,
            steps: BTreeMap::new(),
            checkpoint: None,
            stuck_since: None,
            links: BTreeMap::new(),
            heard: BTreeMap::new(),
            pool: Pool::default(),
            early: BTreeMap::new(),
            transfers: Transfers::default(),
            round: RoundState::default(),
            jobs: BTreeMap::new(),
            next_job: 1,
            records: BTreeMap::new(),
            next_record: 1,
            next_heartbeat: now,
            advanced: now,
            active: false,
            stored_votes: restored.votes,
            sought: BTreeMap::new(),
            backlog: BTreeMap::new(),
            kept: BTreeMap::new(),
            settled: None,
            wishes: Vec::new(),
            accepted_own: 0,
            stored_round: head_round,
            pace: Pace::default(),
            chain,
        };
        if let Some((round, model)) = model {
            swarm.model_bytes = model.len() as u64;
            swarm.transfers.keep(Digest::of(&model), model.clone());
            swarm.model = Some((round, model));
        }
        swarm.was_member = swarm.is_member();
        swarm.restore_votes();
        swarm.advance();
        Ok(swarm)
    }

    /// Tells a newcomer how large a model of this run is, so that it can fetch a checkpoint whose size no
    /// certificate names.
    pub fn set_model_bytes(&mut self, bytes: u64) {
        self.model_bytes = bytes;
    }

    /// Takes one input. Bytes from outside never make it panic; what does not hold is ignored.
    pub fn handle(&mut self, now: Millis, input: Input<'_>) -> Result<(), Misuse> {
        if !self.drained {
            return Err(Misuse::NotDrained);
        }
        self.drained = false;
        self.now = self.now.max(now);
        let mut news = true;
        match input {
            Input::LinkUp(peer) => self.link_up(peer),
            Input::LinkDown(peer) => {
                self.links.remove(&peer);
                self.transfers.link_down(peer);
            }
            Input::Frame { from, bytes } => news = self.frame(from, bytes),
            Input::Computed { job, outcome } => self.computed(job, outcome),
            Input::Persisted(record) => {
                if let Some(Stored::Vote { round, vote }) = self.records.remove(&record) {
                    self.vote_stored(round, vote);
                }
            }
            Input::PersistFailed { record, reason } => {
                let stored = self.records.remove(&record);
                self.not_stored(stored, &reason);
            }
            Input::Loaded { blob, bytes } => {
                if self.sought.remove(&blob).is_some() && bytes.is_none() {
                    self.sought.insert(blob, true);
                }
                for (to, frame) in self.transfers.loaded(blob, bytes) {
                    self.send(to, &frame);
                }
            }
            Input::Tick => {}
            Input::Command(command) => self.command(command),
        }
        // Most frames of a large roster say what is known, and the rules looked at that a moment ago.
        if news || self.now.since(self.advanced) >= BUSY_TICK_MS {
            self.advance();
        }
        Ok(())
    }

    /// The next thing to do; [`Output::Idle`] when there is nothing until an input or a time.
    pub fn poll(&mut self) -> Output {
        if let Some(output) = self.out.pop_front() {
            return output;
        }
        self.drained = true;
        let busy =
            self.round.started.is_some() && (self.round.closing_since.is_some() || self.round.training.is_some());
        let tick = self.advanced + BUSY_TICK_MS;
        let fetching = self.transfers.is_fetching();
        Output::Idle(if busy || fetching { self.next_heartbeat.min(tick) } else { self.next_heartbeat })
    }

    /// The common model of the newest round that is here, as little-endian f32 in layout order.
    pub fn model(&self) -> Option<(Round, Bytes)> {
        self.model.clone()
    }

    /// Messages of rounds to come that are kept.
    pub fn early_messages(&self) -> usize {
        self.early.len()
    }

    /// Messages of the round in progress that are kept.
    pub fn messages(&self) -> usize {
        self.pool.len()
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    pub fn certificates(&self) -> &BTreeMap<Round, shoal_wire::record::Certificate> {
        &self.certificates
    }

    fn link_up(&mut self, peer: PeerId) {
        if peer != self.me {
            self.links.insert(peer, Link { heard: Some(self.now), ..Link::default() });
            self.heard.insert(peer, self.now);
            self.send_status(Some(peer));
        }
    }

    /// Takes a frame; returns whether it holds anything for the rules to look at.
    fn frame(&mut self, from: PeerId, bytes: &[u8]) -> bool {
        let came_back = !self.is_present(from);
        let Some(link) = self.links.get_mut(&from) else { return false };
        let Ok(frame) = Frame::decode(bytes) else {
            // A relay may have damaged it, so the peer is not blamed; the heartbeat finds what got lost.
            return false;
        };
        link.heard = Some(self.now);
        self.heard.insert(from, self.now);
        match frame {
            Frame::Said(envelope) => return self.ingest(envelope, Some(from)) || came_back,
            Frame::Status(status) => return self.take_status(from, status) || came_back,
            Frame::Ask(ids) => {
                self.answer_ask(from, &ids);
                return came_back;
            }
            Frame::GetCertificates(round) => {
                self.send_certificates(from, round);
                return came_back;
            }
            Frame::Certificates(certificates) => self.take_certificates(from, certificates),
            Frame::GetRange { blob, offset, bytes } => match self.transfers.serve(from, blob, offset, bytes) {
                Some(frame) => self.send(from, &frame),
                None if self.transfers.must_load(blob) => self.emit(Output::Load { blob }),
                None => {}
            },
            Frame::Range { blob, offset, bytes } => {
                match self.transfers.arrived(self.now, from, blob, offset, &bytes) {
                    Arrival::Damaged => self.tell(Event::Trouble(format!(
                        "{} sent bytes that are not blob {}",
                        from.short(),
                        blob.short()
                    ))),
                    Arrival::Part | Arrival::Complete(_) => self.unstuck(blob),
                    Arrival::Nothing => {}
                }
            }
            Frame::NoBlob(blob) => self.transfers.denied(self.now, from, blob),
        }
        true
    }

    /// A vote binds for ever, and so does what it stands for: without both on the disk, this peer stops voting.
    fn not_stored(&mut self, stored: Option<Stored>, reason: &str) {
        let text = match stored {
            Some(Stored::Vote { .. }) => {
                self.join.durable = false;
                format!("a vote could not be stored, so this peer stops voting: {reason}")
            }
            Some(Stored::Update(update)) => {
                self.join.durable = false;
                format!("update {} could not be stored, so this peer stops voting: {reason}", update.short())
            }
            Some(Stored::Session) => {
                self.join.durable = false;
                format!("a session could not be stored, so this peer stops voting: {reason}")
            }
            _ => format!("a record could not be stored: {reason}"),
        };
        self.tell(Event::Trouble(text));
    }

    fn computed(&mut self, job: JobId, outcome: Outcome) {
        let Some(purpose) = self.jobs.remove(&job) else {
            // A round that is over: the trainer took the update out of its residual and must put it back.
            if let Outcome::Trained { .. } = outcome {
                self.settled = Some(Share::NOTHING);
            }
            return;
        };
        match (purpose, outcome) {
            (Purpose::Train { round }, Outcome::Trained { update, steps, tokens, loss_first, loss_last })
                if round == self.next_round() =>
            {
                self.trained(update, steps, tokens, (loss_first, loss_last));
            }
            (Purpose::Check { update }, Outcome::Checked { well_formed }) => {
                self.round.checks.insert(update, Some(well_formed));
            }
            (Purpose::Aggregate { key }, Outcome::Aggregated { model, norms }) => {
                if self.round.aggregates.contains_key(&key) {
                    let done = Aggregate::Done { digest: Digest::of(&model), model, norms };
                    self.round.aggregates.insert(key, done);
                }
            }
            (Purpose::Judge { round, draw, authors }, Outcome::Judged { scores }) => {
                if round == self.next_round() {
                    self.measured(draw, authors, scores);
                }
            }
            (Purpose::Judge { round, draw, .. }, Outcome::Failed { reason }) => {
                if round == self.next_round() {
                    self.not_measured(draw, reason);
                }
            }
            (Purpose::Replay { round }, Outcome::Aggregated { model, .. }) => self.replayed(round, model),
            (Purpose::Aggregate { key }, Outcome::Failed { reason }) => {
                self.round.aggregates.remove(&key);
                self.failed(key, reason);
            }
            (Purpose::Check { update }, Outcome::Failed { reason }) => {
                self.round.checks.remove(&update);
                self.failed(update, reason);
            }
            (Purpose::Replay { round }, Outcome::Failed { reason }) => {
                // The step may have been given up meanwhile; then nothing is retried under this name.
                let model = self.steps.get(&round).map(|step| step.model);
                self.failed(model.unwrap_or_default(), reason);
            }
            (Purpose::Train { .. }, Outcome::Failed { reason }) => {
                self.round.training = None;
                self.round.trained = true;
                self.tell(Event::Trouble(reason));
            }
            (purpose, _) => self.tell(Event::Trouble(format!("job {job} ({purpose:?}) came back as something else"))),
        }
    }

    /// Work that failed is tried again after a while: an engine that lost its device comes back.
    fn failed(&mut self, work: Digest, reason: String) {
        self.round.retry_at.insert(work, self.now + RETRY_MS);
        self.tell(Event::Trouble(reason));
    }

    pub(crate) fn may_try(&self, work: Digest) -> bool {
        self.round.retry_at.get(&work).is_none_or(|at| *at <= self.now)
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start => {
                self.active = true;
                self.replaced = false;
            }
            Command::Pause | Command::Leave => {
                self.active = false;
                self.abandon_training();
                let anchor = self.anchors().contains(&self.me);
                if self.is_member() && !anchor {
                    self.say(Message::Leave);
                }
            }
            Command::Amend(amendment) => self.wish(Message::Amendment(amendment)),
            Command::Ballot(ballot) => self.wish(Message::Ballot(ballot)),
        }
    }

    fn take_part(&mut self) {
        self.step_down();
        self.ask_to_join();
        self.speak();
        self.train();
        self.stop_training_in_time();
        self.watch_closing();
        self.watch_lists();
        self.close_commits();
        self.reveal();
        self.exchange();
        self.judge_updates();
        self.recover();
        self.agree();
    }

    /// Applies every rule until nothing changes.
    pub(crate) fn advance(&mut self) {
        self.advanced = self.now;
        for _ in 0..PASSES_MAX {
            self.changed = false;
            self.heartbeat();
            self.catch_up();
            if !self.chain.is_over() {
                self.take_part();
            }
            self.fill_backlog();
            self.fetch();
            if !self.changed {
                break;
            }
        }
    }
}
