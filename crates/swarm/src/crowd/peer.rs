//! What a peer of a large run holds, and its one law.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use shoal_wire::{
    Digest, Envelope, Millis, PeerId, codec,
    crowd::{Blob, Certificate, Frame, Heard, List, Message, Node, Said, SumCertificate, WorkCommit},
    limits::{CROWD_EARLY_MAX, PIECE_BYTES_MAX},
    record::Join,
    sign::Signature,
};

use super::{
    Config, Epoch, Event, Input, Job, JobId, Missing, Outcome, Output, RecordId,
    committee::Committee,
    fetch::{Fetches, mix},
    judge::Audit,
    panel::{Made, Panel},
};
use crate::{Bytes, Misuse};

/// Rounds of which certificates and coded means are kept for those who were away.
const KEPT_ROUNDS: u64 = 4;
/// Announcements wait so long for others to go with them.
const HOLDS_MS: u64 = 150;
/// A bound on passes over the rules for one input; the rules settle in a few.
const PASSES_MAX: usize = 32;

/// One peer's state machine in a run with many peers.
#[derive(Debug)]
pub struct Crowd {
    pub(super) me: PeerId,
    pub(super) config: Config,
    pub(super) now: Millis,
    out: VecDeque<Output>,
    drained: bool,
    pub(super) changed: bool,
    pub(super) wake: Millis,

    pub(super) epoch: Arc<Epoch>,
    /// This peer's place in the roster.
    pub(super) seat: Option<usize>,
    /// Digest of the last certified body.
    pub(super) parent: Digest,
    pub(super) model: Bytes,
    pub(super) round: RoundState,
    pub(super) certificates: BTreeMap<u64, Arc<Certificate>>,
    early: Vec<(PeerId, Heard)>,
    pub(super) away: BTreeSet<PeerId>,
    /// Somebody that may know of later rounds.
    pub(super) ahead: Option<PeerId>,
    pub(super) fetches: Fetches,
    /// Blobs in hand, with the round of their use and when they came.
    pub(super) blobs: BTreeMap<Digest, (u64, Millis, Bytes)>,
    jobs: BTreeMap<JobId, Purpose>,
    next_job: JobId,
    pub(super) records: BTreeMap<RecordId, shoal_wire::record::Vote>,
    pub(super) next_record: RecordId,
    /// Votes reach stable storage.
    pub(super) durable: bool,
}

/// What a job is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    Train {
        round: u64,
    },
    /// The sum that this key names, of these updates (for a group) or merged at this node.
    Sum {
        key: Digest,
        updates: Vec<(PeerId, Digest)>,
    },
    Merge {
        key: Digest,
        node: Node,
    },
    Finish {
        key: Digest,
        sum: Bytes,
    },
    Apply {
        key: Digest,
    },
    Next {
        key: Digest,
    },
}

/// A commit as it came.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    pub envelope: Envelope,
    pub commit: WorkCommit,
    pub came: Millis,
}

#[derive(Debug, Default)]
pub(super) struct RoundState {
    pub started: Millis,
    pub asked_to_join: bool,
    pub asked_to_train: bool,
    pub seed: Digest,
    pub commits: BTreeMap<PeerId, Committed>,
    /// Lists that count, by digest: whose commits these are.
    pub lists: BTreeMap<Digest, (List, BTreeMap<PeerId, WorkCommit>)>,
    /// When the first list counted: from then on seeds and updates can be seen.
    pub closed: Option<Millis>,
    pub listed: bool,
    pub two_thirds_committed: Option<Millis>,
    pub revealed: bool,
    pub seeds: BTreeMap<PeerId, Digest>,
    pub panels: BTreeMap<Node, Panel>,
    /// Certified sums, by the record's digest.
    pub sums: BTreeMap<Digest, SumCertificate>,
    /// Blobs that may come from a sum that is being computed here.
    pub put_off: BTreeSet<Blob>,
    pub endorsements: BTreeMap<Digest, BTreeMap<PeerId, Signature>>,
    pub made: BTreeMap<Digest, Made>,
    /// Updates that do not open or decode. A digest alone does not tell: somebody may commit to another's.
    pub malformed: BTreeSet<(PeerId, Digest)>,
    pub committee: Option<Committee>,
    pub audits: BTreeMap<Digest, Audit>,
    pub convicted: BTreeSet<PeerId>,
    /// Coded means that others say they hold, and those that were passed on.
    pub coded: BTreeMap<u8, BTreeSet<Blob>>,
    pub passed_on: BTreeSet<Digest>,
    pub holds: Vec<Blob>,
    pub holds_since: Option<Millis>,
    pub decided: Option<Arc<Certificate>>,
    /// Under which key what follows from it is computed.
    pub adopting: Option<Digest>,
    /// Own group, in the order in which its members lead.
    pub mates: Vec<PeerId>,
    pub spread: bool,
    /// What was certified does not follow here.
    pub stuck: bool,
    pub pulled: Option<Millis>,
    pub applied: BTreeMap<Digest, Option<(Digest, Bytes)>>,
    pub next: BTreeMap<Digest, Option<Arc<Epoch>>>,
}

impl Crowd {
    /// A peer that holds the model after round `epoch.round - 1`, whose body's digest is `parent`.
    pub fn new(config: Config, epoch: Arc<Epoch>, parent: Digest, model: Bytes, now: Millis) -> Self {
        let me = config.identity.peer();
        let mut crowd = Self {
            me,
            config,
            now,
            out: VecDeque::new(),
            drained: true,
            changed: false,
            wake: Millis::NEVER,
            seat: epoch.roster.find(me),
            epoch,
            parent,
            model,
            round: RoundState::default(),
            certificates: BTreeMap::new(),
            early: Vec::new(),
            away: BTreeSet::new(),
            ahead: None,
            fetches: Fetches::default(),
            blobs: BTreeMap::new(),
            jobs: BTreeMap::new(),
            next_job: 1,
            records: BTreeMap::new(),
            next_record: 1,
            durable: true,
        };
        crowd.begin_round();
        crowd.advance();
        crowd
    }

    /// Takes one input. What does not hold is ignored.
    pub fn handle(&mut self, now: Millis, input: Input<'_>) -> Result<(), Misuse> {
        if !self.drained {
            return Err(Misuse::NotDrained);
        }
        self.drained = false;
        self.now = self.now.max(now);
        let is_hint = matches!(input, Input::Heard { heard: Heard::Holds(_), .. } | Input::FetchFailed { .. });
        match input {
            Input::Heard { from, heard } => self.hear(from, heard),
            Input::Reachable { peer, reachable: false } => {
                self.away.insert(peer);
            }
            Input::Reachable { peer, reachable: true } => {
                self.away.remove(&peer);
                // Whoever was cut off may have missed the end of the round.
                if self.round.mates.contains(&peer) {
                    self.pull_from(peer);
                }
            }
            Input::Fetched { blob, from, bytes } => self.fetched(blob, from, bytes),
            Input::FetchFailed { blob, from, why } => self.fetches.failed(self.now, blob, from, why),
            Input::Computed { job, outcome } => self.computed(job, outcome),
            Input::Persisted(record) => self.vote_stored(record),
            Input::PersistFailed(record) => {
                self.records.remove(&record);
                self.durable = false;
                self.tell(Event::Trouble("a vote could not be stored, so this peer votes no more".to_owned()));
            }
            Input::Tick => {}
        }
        if is_hint && self.is_summed() {
            self.fetch();
        } else {
            self.advance();
        }
        Ok(())
    }

    /// Whether who holds which update decides nothing here any more.
    fn is_summed(&self) -> bool {
        self.group_node().and_then(|node| self.round.panels.get(&node)).is_none_or(|panel| panel.certified.is_some())
    }

    /// The next thing to do; [`Output::Idle`] when there is nothing until an input or a time.
    pub fn poll(&mut self) -> Output {
        if let Some(output) = self.out.pop_front() {
            return output;
        }
        self.drained = true;
        Output::Idle(self.wake)
    }

    /// What everybody agreed on before the round in progress.
    pub fn epoch(&self) -> &Arc<Epoch> {
        &self.epoch
    }

    /// The certificate of a round, while it is kept.
    pub fn certificate(&self, round: u64) -> Option<&Certificate> {
        self.certificates.get(&round).map(Arc::as_ref)
    }

    /// The model after the last round.
    pub fn model(&self) -> &Bytes {
        &self.model
    }

    fn advance(&mut self) {
        for _ in 0..PASSES_MAX {
            self.changed = false;
            self.wake = Millis::NEVER;
            self.ask_to_join();
            self.train();
            self.close();
            self.reveal();
            self.work_on_panels();
            self.audit();
            self.apply_ahead();
            self.agree();
            self.spread();
            self.adopt();
            self.announce();
            self.fetch();
            if !self.changed {
                break;
            }
        }
    }

    /// Who missed too many rounds lost its place, and asks for one once a round: as a newcomer, whoever it was.
    fn ask_to_join(&mut self) {
        if self.seat.is_none() && !core::mem::replace(&mut self.round.asked_to_join, true) {
            let committee = self.epoch.draw.committee().iter().map(|member| self.epoch.peer(*member)).collect();
            self.say(committee, Message::Join(Join { durable: self.durable, trains: true }));
        }
    }

    fn train(&mut self) {
        let trains = self.seat.is_some_and(|seat| self.epoch.draw.group_of(seat).is_some());
        if trains && !self.round.asked_to_train && self.round.decided.is_none() {
            self.round.asked_to_train = true;
            let work = Job::Train { epoch: self.epoch.clone(), model: self.model.clone() };
            self.compute(Purpose::Train { round: self.epoch.round }, work);
        }
    }

    fn computed(&mut self, job: JobId, outcome: Outcome) {
        let Some(purpose) = self.jobs.remove(&job) else { return };
        let was_sum = matches!(purpose, Purpose::Sum { .. });
        self.take_outcome(purpose, outcome);
        if was_sum {
            for blob in core::mem::take(&mut self.round.put_off) {
                self.want_sum(blob);
            }
        }
    }

    fn take_outcome(&mut self, purpose: Purpose, outcome: Outcome) {
        match (purpose, outcome) {
            (Purpose::Train { round }, Outcome::Trained { update, work }) => {
                if round == self.epoch.round {
                    self.trained(update, work);
                }
            }
            (Purpose::Sum { key, .. }, Outcome::Summed { sums }) => self.made(key, sums, None),
            (Purpose::Sum { key, updates }, Outcome::Refused { which }) => {
                self.round.malformed.extend(which.iter().filter_map(|at| updates.get(*at)));
                self.round.made.insert(key, Made::Refused);
            }
            (Purpose::Merge { key, node }, Outcome::Merged { sum }) => self.merged(key, node, sum),
            (Purpose::Finish { key, sum }, Outcome::Finished { coded, rates }) => {
                self.made(key, vec![sum], Some((coded, rates)));
            }
            (Purpose::Merge { key, .. } | Purpose::Finish { key, .. }, Outcome::Refused { .. }) => {
                self.round.made.insert(key, Made::Refused);
            }
            (Purpose::Apply { key }, Outcome::Applied { model }) => {
                self.round.applied.insert(key, Some((Digest::of(&model), model)));
            }
            (Purpose::Next { key }, Outcome::Next(epoch)) => {
                self.round.next.insert(key, Some(epoch));
            }
            (purpose, _) => self.tell(Event::Trouble(format!("a job failed: {purpose:?}"))),
        }
    }

    fn hear(&mut self, from: PeerId, heard: &Heard) {
        let (round, parent) = match heard {
            Heard::Said(_, said) => (said.round, said.parent),
            Heard::Sum(certificate) | Heard::Audit { certificate, .. } => (certificate.round, certificate.parent),
            Heard::Certificate(certificate) => (certificate.body.round, certificate.body.parent),
            Heard::Coded { round, .. } => (*round, self.parent),
            Heard::Get(round) => {
                if let Some(certificate) = self.certificates.get(round).cloned() {
                    self.send(vec![from], &Frame::Certificate((*certificate).clone()));
                }
                return;
            }
            Heard::Holds(blobs) => {
                blobs.iter().take(CROWD_EARLY_MAX).for_each(|blob| self.fetches.told(blob.digest, from));
                return;
            }
        };
        if round > self.epoch.round {
            // The others are ahead: what they say waits, and they have the certificate that is missing here.
            if self.early.len() < CROWD_EARLY_MAX && round == self.epoch.round + 1 && is_small(heard) {
                self.early.push((from, heard.clone()));
            }
            self.pull_from(from);
            return;
        }
        if round < self.epoch.round || parent != self.parent {
            return;
        }
        match heard {
            Heard::Said(envelope, said) => self.hear_said(envelope, &said.message),
            Heard::Sum(certificate) => self.take_sum((**certificate).clone()),
            Heard::Audit { certificate, list, seeds } => self.take_audit(from, certificate, list, seeds),
            Heard::Certificate(certificate) => self.take_certificate(from, certificate),
            Heard::Coded { parts, .. } => self.take_coded(from, parts),
            Heard::Holds(_) | Heard::Get(_) => {}
        }
    }

    fn hear_said(&mut self, envelope: &Envelope, message: &Message) {
        let from = envelope.from;
        // Newcomers may ask to be taken in; all else is for members.
        if self.epoch.roster.find(from).is_none() && !matches!(message, Message::Join(_)) {
            return;
        }
        match message {
            Message::Commit(commit) => self.take_commit(envelope.clone(), *commit),
            Message::List(list) => self.take_list(from, list.clone()),
            Message::Reveal(seed) => {
                if self.round.mates.contains(&from) {
                    self.round.seeds.entry(from).or_insert(*seed);
                }
            }
            Message::Sum(record) => self.take_record(from, record),
            Message::Endorse(record) => self.take_endorsement(from, *record, envelope.signature),
            Message::Proposal(proposal) => self.take_proposal(from, proposal),
            Message::Vote(vote) => self.take_vote(from, *vote, envelope.signature),
            Message::Join(_) => self.take_join(envelope.clone()),
        }
    }

    /// Starts the next round from what a body led to.
    pub(super) fn enter(&mut self, epoch: Arc<Epoch>, certificate: Arc<Certificate>, model: Bytes) {
        let round = certificate.body.round;
        let contributors = certificate.body.attendance.values().map(|mask| mask.count_ones()).sum();
        self.parent = certificate.body.digest();
        self.tell(Event::Adopted { round, model: certificate.body.model, contributors });
        self.certificates.insert(round, certificate);
        self.certificates.retain(|kept, _| kept + KEPT_ROUNDS > round);
        let old: Vec<Digest> = self
            .blobs
            .iter()
            .filter(|(_, (kept, ..))| kept + KEPT_ROUNDS <= round)
            .map(|(digest, _)| *digest)
            .collect();
        for blob in old {
            self.blobs.remove(&blob);
            self.emit(Output::Forget { blob });
        }
        self.seat = epoch.roster.find(self.me);
        self.epoch = epoch;
        self.model = model;
        self.fetches.forget();
        self.jobs.retain(|_, purpose| matches!(purpose, Purpose::Train { .. }));
        self.begin_round();
        if let Some(peer) = self.ahead.take() {
            self.pull_from(peer);
        }
        for (from, heard) in core::mem::take(&mut self.early) {
            self.hear(from, &heard);
        }
    }

    fn begin_round(&mut self) {
        let about = [&self.config.run.0[..], &self.epoch.round.to_le_bytes(), &self.parent.0].concat();
        let seed = self.config.identity.derive("shoal 2026 v1 crowd seed", &about);
        let duties = self.seat.map(|seat| self.epoch.draw.duties(seat)).unwrap_or_default();
        let panels = duties.into_iter().map(|node| (node, Panel::new(&self.epoch, node))).collect();
        let committee = Committee::of(&self.epoch, self.seat);
        self.round = RoundState { started: self.now, seed, panels, committee, ..RoundState::default() };
        self.round.mates = self.group_node().map(|node| self.peers_of(node)).unwrap_or_default();
        self.changed = true;
    }

    // Blobs

    pub(super) fn keep(&mut self, bytes: Bytes) -> Blob {
        let blob = Blob { digest: Digest::of(&bytes), bytes: bytes.len() as u64 };
        if !self.blobs.contains_key(&blob.digest) {
            self.fetches.came(blob.digest);
            self.blobs.insert(blob.digest, (self.epoch.round, self.now, bytes.clone()));
            self.emit(Output::Keep { blob: blob.digest, bytes });
            self.changed = true;
        }
        blob
    }

    pub(super) fn blob(&self, digest: Digest) -> Option<&Bytes> {
        self.blobs.get(&digest).map(|(.., bytes)| bytes)
    }

    pub(super) fn want(&mut self, blob: Blob) {
        if !self.blobs.contains_key(&blob.digest) {
            self.fetches.want(blob);
        }
    }

    /// A sum, or a mean that may be one. What this peer is computing itself it need not fetch, so it waits for that first.
    pub(super) fn want_sum(&mut self, blob: Blob) {
        if self.jobs.values().any(|purpose| matches!(purpose, Purpose::Sum { .. })) {
            self.round.put_off.insert(blob);
        } else {
            self.want(blob);
        }
    }

    /// Whether anything of this run can be so large: a sum with every value in full, or what is small anyway.
    pub(super) fn is_blob_size(&self, bytes: u64) -> bool {
        bytes > 0 && bytes <= 4 * self.model.len() as u64 + 65_536
    }

    pub(super) fn want_update(&mut self, update: Blob) {
        if !self.blobs.contains_key(&update.digest) {
            self.fetches.want_update(self.now, update);
        }
    }

    fn fetched(&mut self, blob: Digest, from: PeerId, bytes: Bytes) {
        if Digest::of(&bytes) == blob && self.fetches.came(blob) {
            self.keep(bytes.clone());
            self.came(Blob { digest: blob, bytes: bytes.len() as u64 });
        } else {
            self.fetches.failed(self.now, blob, from, Missing::Lacks);
        }
    }

    /// Tells the group of an update that this peer has now, too.
    fn came(&mut self, blob: Blob) {
        if self.round.commits.values().any(|one| one.commit.update.digest == blob.digest) {
            self.hold(blob);
        }
    }

    /// Announces an update soon.
    pub(super) fn hold(&mut self, blob: Blob) {
        self.fetches.holds(blob.digest, self.me);
        self.round.holds.push(blob);
        self.round.holds_since.get_or_insert(self.now);
    }

    fn announce(&mut self) {
        let Some(since) = self.round.holds_since else { return };
        if self.due(since + HOLDS_MS) {
            self.round.holds_since = None;
            let blobs = core::mem::take(&mut self.round.holds);
            let to = self.groupmates();
            self.send(to, &Frame::Holds(blobs));
        }
    }

    fn fetch(&mut self) {
        let salt = mix(self.epoch.round, self.me.0);
        let (moves, wake) = self.fetches.moves(self.now, salt, &self.away, self.config.cache);
        self.wake = self.wake.min(wake);
        moves.cancel.into_iter().for_each(|(blob, from)| self.emit(Output::Cancel { blob, from }));
        moves.begin.into_iter().for_each(|(blob, from)| self.emit(Output::Fetch { blob, from }));
    }

    // Small things

    /// Whether a time has come; if not, the peer wakes then.
    pub(super) fn due(&mut self, at: Millis) -> bool {
        if self.now < at {
            self.wake = self.wake.min(at);
        }
        self.now >= at
    }

    pub(super) fn emit(&mut self, output: Output) {
        self.out.push_back(output);
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.emit(Output::Tell(event));
    }

    pub(super) fn compute(&mut self, purpose: Purpose, work: Job) {
        let job = self.next_job;
        self.next_job += 1;
        self.jobs.insert(job, purpose);
        self.emit(Output::Compute { job, work });
    }

    pub(super) fn send(&mut self, mut to: Vec<PeerId>, frame: &Frame) {
        to.retain(|peer| *peer != self.me);
        if !to.is_empty() {
            self.emit(Output::Send { to, frame: frame.encode().into() });
        }
    }

    /// Signs a message and sends it; it is heard here, too.
    pub(super) fn say(&mut self, to: Vec<PeerId>, message: Message) -> Envelope {
        let Config { run, identity, .. } = &self.config;
        let said = Said { run: *run, round: self.epoch.round, parent: self.parent, message };
        let envelope = said.clone().seal(identity);
        self.send(to, &Frame::Said(envelope.clone()));
        self.hear_said(&envelope, &said.message);
        self.changed = true;
        envelope
    }

    pub(super) fn group_node(&self) -> Option<Node> {
        let group = self.epoch.draw.group_of(self.seat?)?;
        Some(Node { level: 0, index: group, part: 0 })
    }

    pub(super) fn groupmates(&self) -> Vec<PeerId> {
        self.round.mates.clone()
    }

    pub(super) fn peers_of(&self, node: Node) -> Vec<PeerId> {
        self.epoch.draw.panel(node).into_iter().map(|member| self.epoch.peer(member)).collect()
    }

    /// How many present peers come before a place.
    pub(super) fn present_before(&self, peers: &[PeerId], place: usize) -> u64 {
        peers[..place].iter().filter(|peer| !self.away.contains(peer)).count() as u64
    }
}

/// Whether something about the next round may be kept until then: so much is little, and a certificate is asked for.
fn is_small(heard: &Heard) -> bool {
    let bytes = match heard {
        Heard::Said(envelope, _) => envelope.payload.len(),
        Heard::Sum(certificate) => codec::encode(&**certificate).len(),
        Heard::Coded { parts, .. } => parts.len() * 48,
        Heard::Audit { .. } | Heard::Certificate(_) | Heard::Holds(_) | Heard::Get(_) => return false,
    };
    bytes <= PIECE_BYTES_MAX
}
