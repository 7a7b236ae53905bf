//! Sequences of inputs into a real [`Swarm`], drawn from bytes: a volunteer among three others who know all keys but
//! its own, with a shell that loses, spoils and refuses what it likes.

mod others;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_sim::toy_genesis;
use shoal_swarm::{
    Bytes, Command, Config, Event, Input, Job, JobId, Outcome, Output, Persisted, Record, RecordId, Restored, Swarm,
};
use shoal_wire::{
    Digest, Envelope, Millis, PeerId, Round, SessionId, View, codec,
    frame::{Frame, Status},
    judging::Score,
    limits::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX},
    record::{Body, Certificate, Have, Join, Message, RecoveryAnswer, RecoveryCall, Said, VoteKind},
};

use crate::{
    ring::{ME, RING, certificate},
    script::Choices,
};

/// What can happen, by the byte that says so; see `World::happen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    Tick,
    LinkUp,
    LinkDown,
    Frame,
    Message,
    Vote,
    Propose,
    Commit,
    List,
    Reveal,
    Have,
    Job,
    Write,
    Load,
    Range,
    Command,
    Restart,
    Come,
    Go,
    Certify,
    Status,
    Call,
    Recover,
}

const OPS: [Op; 23] = [
    Op::Tick,
    Op::LinkUp,
    Op::LinkDown,
    Op::Frame,
    Op::Message,
    Op::Vote,
    Op::Propose,
    Op::Commit,
    Op::List,
    Op::Reveal,
    Op::Have,
    Op::Job,
    Op::Write,
    Op::Load,
    Op::Range,
    Op::Command,
    Op::Restart,
    Op::Come,
    Op::Go,
    Op::Certify,
    Op::Status,
    Op::Call,
    Op::Recover,
];

const OPS_MAX: usize = 400;
/// More outputs after one input than any rule makes.
const OUTPUTS_MAX: usize = 20_000;
const UPDATE_BYTES: usize = 64;

/// Runs a script, and returns the last round that the peer under test holds.
pub fn operations(data: &[u8]) -> Round {
    let mut world = World::new();
    let mut draw = Choices::new(data);
    for _ in 0..OPS_MAX {
        let Some(op) = draw.byte() else { break };
        world.happen(OPS[usize::from(op) % OPS.len()], &mut draw);
    }
    world.swarm.chain().head().round
}

/// What survives a restart.
struct Disk {
    session: SessionId,
    certificates: BTreeMap<Round, Certificate>,
    votes: Vec<Persisted>,
    blobs: BTreeMap<Digest, Bytes>,
}

struct World {
    now: Millis,
    swarm: Swarm,
    disk: Disk,
    jobs: VecDeque<(JobId, Job)>,
    writes: VecDeque<(RecordId, Record)>,
    loads: VecDeque<Digest>,
    ranges: VecDeque<(PeerId, Digest, u64, u32)>,
    /// Every blob that the others hold.
    blobs: BTreeMap<Digest, Bytes>,
    /// What was said, newest last, by id.
    said: Vec<(Envelope, Said)>,
    known: BTreeSet<Digest>,
    /// Bodies that somebody proposed or that were made up, newest last.
    bodies: Vec<Body>,
    /// Every vote that left: place and choice.
    voted: BTreeMap<(Digest, Round, View, VoteKind), Option<Digest>>,
}

impl World {
    fn new() -> Self {
        let disk = Disk {
            session: SessionId(RING.identities[ME].peer().0),
            certificates: BTreeMap::from([(1, RING.first.clone())]),
            votes: Vec::new(),
            blobs: BTreeMap::from([(RING.manifest.genesis, toy_genesis())]),
        };
        let now = Millis(1_000);
        let mut world = Self {
            now,
            swarm: start(&disk, now),
            blobs: disk.blobs.clone(),
            disk,
            jobs: VecDeque::new(),
            writes: VecDeque::new(),
            loads: VecDeque::new(),
            ranges: VecDeque::new(),
            said: Vec::new(),
            known: BTreeSet::new(),
            bodies: Vec::new(),
            voted: BTreeMap::new(),
        };
        world.drain();
        world
    }

    fn round(&self) -> Round {
        self.swarm.chain().head().round + 1
    }

    fn happen(&mut self, op: Op, draw: &mut Choices<'_>) {
        match op {
            Op::Tick => {
                self.now = self.now + u64::from(draw.byte().unwrap_or_default()) * 16;
                self.input(Input::Tick);
            }
            Op::LinkUp => self.input(Input::LinkUp(other(draw).1)),
            Op::LinkDown => self.input(Input::LinkDown(other(draw).1)),
            Op::Frame => {
                let ((_, from), Some(bytes)) = (other(draw), draw.slice()) else { return };
                self.input(Input::Frame { from, bytes });
            }
            Op::Message => {
                let ((by, _), ahead, Some(bytes)) = (other(draw), draw.below(4) as u64, draw.slice()) else { return };
                let Ok(message) = codec::decode("message", bytes, MESSAGE_BYTES_MAX) else { return };
                self.say(by, self.round() + ahead, message);
            }
            Op::Vote => self.vote(draw),
            Op::Propose => self.propose(draw),
            Op::Commit => self.commit(draw),
            Op::List => self.list(draw.below(4) as View),
            Op::Reveal => {
                let (by, _) = other(draw);
                self.say(by, self.round(), Message::Reveal(seed(by, self.round())));
            }
            Op::Have => {
                let (by, _) = other(draw);
                let updates = self.commits().iter().map(|(_, commit)| commit.update).collect();
                self.say(by, self.round(), Message::Have(Have { updates }));
            }
            Op::Job => self.finish_job(draw.below(4)),
            Op::Write => self.finish_write(draw.below(4) != 3),
            Op::Load => {
                let Some(blob) = self.loads.pop_front() else { return };
                let bytes = self.disk.blobs.get(&blob).cloned().filter(|_| draw.below(4) != 3);
                self.input(Input::Loaded { blob, bytes });
            }
            Op::Range => self.answer_range(draw.below(4)),
            Op::Command => {
                let command = match draw.below(5) {
                    0 => Command::Start,
                    1 => Command::Pause,
                    2 => Command::Leave,
                    3 => Command::Amend(Box::new(self.amendment(draw))),
                    _ => self.ballot(draw.below(2) == 0),
                };
                self.input(Input::Command(command));
            }
            Op::Restart => self.restart(),
            Op::Come => {
                let (by, durable) = (draw.below(ME), draw.below(2) == 0);
                self.say(by, self.round(), Message::Join(Join { durable, trains: true }));
            }
            Op::Go => {
                let (by, _) = other(draw);
                self.say(by, self.round(), Message::Leave);
            }
            Op::Certify => {
                let (_, from) = other(draw);
                let at = draw.below(8);
                let Some(body) = self.bodies.iter().rev().nth(at) else { return };
                let certificate = certificate(&RING.chain, body, draw.below(4) as View, &RING.identities[..ME]);
                self.deliver(from, &Frame::Certificates(vec![certificate]));
            }
            Op::Status => {
                let ((_, from), ahead) = (other(draw), draw.below(4) as u64);
                let head = self.swarm.chain().head();
                let envelopes = self.said.iter().map(|(envelope, _)| short(envelope)).collect();
                let seen = RING.identities.iter().map(shoal_wire::Identity::peer).collect();
                let status = Status { head: head.round + ahead, body: head.body, envelopes, seen };
                self.deliver(from, &Frame::Status(status));
            }
            Op::Call => {
                let attempt = draw.below(4) as u32;
                self.say(0, self.round(), Message::RecoveryCall(RecoveryCall { attempt }));
                self.say(0, self.round(), Message::RecoveryAnswer(RecoveryAnswer { attempt, lock: None }));
            }
            Op::Recover => self.recover(draw.below(4) as u32),
        }
    }

    fn finish_job(&mut self, how: usize) {
        let Some((job, work)) = self.jobs.pop_front() else { return };
        let outcome = match (how, work) {
            (3, _) => Outcome::Failed { reason: "the device was lost".to_owned() },
            (2, Job::Train { .. }) => Outcome::Trained {
                update: Vec::new().into(),
                steps: 0,
                tokens: 0,
                loss_first: f32::NAN,
                loss_last: f32::INFINITY,
            },
            (_, Job::Train { round, steps, .. }) => {
                let update: Bytes = Digest::of(&[ME as u8, round as u8]).0.repeat(UPDATE_BYTES / 32).into();
                self.blobs.insert(Digest::of(&update), update.clone());
                Outcome::Trained { update, steps, tokens: 80, loss_first: 2.0, loss_last: 1.0 }
            }
            (_, Job::Check { update }) => Outcome::Checked { well_formed: update.len() == UPDATE_BYTES },
            (_, Job::Aggregate { model, updates, .. }) => {
                let (model, norms) = merge(&model, &updates);
                self.blobs.insert(Digest::of(&model), model.clone());
                Outcome::Aggregated { model, norms }
            }
            (how, Job::Judge { subjects, .. }) => {
                let score = Score {
                    assigned: 900 - 600 * how as i32,
                    other: 300,
                    own: None,
                    alignment_1024: None,
                    copies: None,
                };
                Outcome::Judged { scores: vec![score; subjects.len()] }
            }
        };
        self.input(Input::Computed { job, outcome });
    }

    /// A disk writes in order.
    fn finish_write(&mut self, done: bool) {
        let Some((id, record)) = self.writes.pop_front() else { return };
        if !done {
            self.input(Input::PersistFailed { record: id, reason: "the disk is full".to_owned() });
            return;
        }
        match record {
            Record::Vote(vote) => self.disk.votes.push(vote),
            Record::Session(session) => self.disk.session = session,
            Record::Certificate(certificate) => {
                let round = certificate.body.round;
                self.disk.certificates.split_off(&round);
                self.disk.certificates.insert(round, *certificate);
            }
            Record::Blob { digest, bytes, .. } => {
                self.disk.blobs.insert(digest, bytes);
            }
        }
        self.input(Input::Persisted(id));
    }

    fn answer_range(&mut self, how: usize) {
        let Some((from, blob, offset, count)) = self.ranges.pop_front() else { return };
        let held = self.blobs.get(&blob).filter(|_| how != 3);
        let frame = held.and_then(|bytes| {
            let end = bytes.len().min(offset as usize + count as usize);
            let mut bytes = bytes.get(offset as usize..end)?.to_vec();
            if how == 2 {
                for byte in &mut bytes {
                    *byte ^= 1;
                }
            }
            Some(Frame::Range { blob, offset, bytes })
        });
        self.deliver(from, &frame.unwrap_or(Frame::NoBlob(blob)));
    }

    fn restart(&mut self) {
        self.swarm = start(&self.disk, self.now);
        self.jobs.clear();
        self.writes.clear();
        self.loads.clear();
        self.ranges.clear();
        self.drain();
    }

    fn say(&mut self, by: usize, round: Round, message: Message) {
        let envelope = RING.said(by, round, message);
        self.note(&envelope);
        self.deliver(envelope.from, &Frame::Said(envelope.clone()));
    }

    fn deliver(&mut self, from: PeerId, frame: &Frame) {
        self.input(Input::Frame { from, bytes: &frame.encode() });
    }

    fn input(&mut self, input: Input<'_>) {
        self.swarm.handle(self.now, input).expect("it was drained");
        self.drain();
    }

    fn drain(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            match self.swarm.poll() {
                Output::Idle(_) => return self.hold(),
                Output::Send { to, frame, .. } => self.sent(to, &frame),
                Output::Compute { job, work } => self.jobs.push_back((job, work)),
                Output::Stop { job, keep: false } => self.jobs.retain(|(waiting, _)| *waiting != job),
                Output::Persist { id, record } => self.writes.push_back((id, record)),
                Output::Forget { blob } => {
                    self.disk.blobs.remove(&blob);
                }
                Output::Load { blob } => self.loads.push_back(blob),
                Output::Tell(Event::Trouble(text)) => assert!(!text.is_empty()),
                Output::Stop { .. } | Output::Drop { .. } | Output::Tell(_) => {}
            }
        }
        panic!("a swarm that never comes to rest");
    }

    /// What must be so whenever it rests.
    fn hold(&self) {
        let head = self.swarm.chain().head();
        if let Some((round, model)) = self.swarm.model()
            && round == head.round
        {
            assert_eq!(Digest::of(&model), head.model, "it holds another model than the chain names");
        }
    }

    fn sent(&mut self, to: PeerId, frame: &[u8]) {
        assert!(frame.len() <= FRAME_BYTES_MAX, "a frame of {} bytes", frame.len());
        match Frame::decode(frame).expect("a frame that others can read") {
            Frame::Said(envelope) => self.note(&envelope),
            Frame::GetRange { blob, offset, bytes } => self.ranges.push_back((to, blob, offset, bytes)),
            _ => {}
        }
    }

    fn note(&mut self, envelope: &Envelope) {
        if !self.known.insert(envelope.id()) {
            return;
        }
        let said: Said = codec::decode("message", &envelope.payload, MESSAGE_BYTES_MAX).expect("a message");
        if let (Message::Vote(vote), true) = (&said.message, envelope.from == RING.identities[ME].peer()) {
            let place = (vote.parent, said.round, vote.view, vote.kind);
            assert_eq!(*self.voted.entry(place).or_insert(vote.body), vote.body, "two votes in one place");
        }
        if let Message::Proposal(proposal) = &said.message {
            self.bodies.push(proposal.body.clone());
        }
        self.said.push((envelope.clone(), said));
    }
}

fn start(disk: &Disk, now: Millis) -> Swarm {
    // A write that failed leaves a gap, and what follows it is of no use.
    let whole = disk.certificates.values().zip(1..).take_while(|(certificate, round)| certificate.body.round == *round);
    let certificates: Vec<Certificate> = whole.map(|(certificate, _)| certificate.clone()).collect();
    let model = certificates.last().map(|last| last.body.content.model);
    let restored = Restored {
        certificates,
        model: model.and_then(|model| disk.blobs.get(&model).cloned()),
        votes: disk.votes.clone(),
    };
    let config = Config {
        manifest: RING.manifest.clone(),
        identity: RING.identities[ME].clone(),
        session: disk.session,
        join: Join { durable: true, trains: true },
        archive: false,
    };
    let mut swarm = Swarm::new(config, restored, now).expect("what it stored holds");
    swarm.set_model_bytes(toy_genesis().len() as u64);
    swarm
}

/// One of the three others.
fn other(draw: &mut Choices<'_>) -> (usize, PeerId) {
    let by = draw.below(ME);
    (by, RING.identities[by].peer())
}

fn seed(by: usize, round: Round) -> Digest {
    Digest::of(&[by as u8, round as u8, 255])
}

fn short(envelope: &Envelope) -> u64 {
    let id = envelope.id().0;
    u64::from_le_bytes([id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7]])
}

/// An outer step of no arithmetic: every bit of the model depends on all that goes in.
fn merge(model: &Bytes, updates: &[(u16, Bytes)]) -> (Bytes, Vec<u64>) {
    if updates.is_empty() {
        return (model.clone(), Vec::new());
    }
    let mut all = model.to_vec();
    for (weight, update) in updates {
        all.extend(weight.to_le_bytes());
        all.extend_from_slice(update);
    }
    (Digest::of(&all).0.repeat(model.len() / 32).into(), vec![updates.len() as u64])
}
