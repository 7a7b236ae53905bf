//! Peers, the network between them, their disks and their clocks.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use shoal_ledger::Chain;
use shoal_swarm::{Bytes, Command, Config, Event, Input, Outcome, Output, Persisted, Record, Restored, Swarm};
use shoal_wire::{
    Digest, Envelope, Manifest, Millis, PeerId, Round, codec,
    frame::Frame,
    record::{Certificate, Join, Message, Said},
    sign::Identity,
};

use crate::{Checker, Random, toy};

/// What the network does to each frame.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub latency_ms: (u64, u64),
    pub loss_per_mille: u64,
    pub duplicate_per_mille: u64,
}

/// What goes wrong inside peers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Jobs that fail, of a thousand.
    pub jobs_per_mille: u64,
    /// Writes of volunteers that fail, of a thousand.
    pub writes_per_mille: u64,
}

/// What survives a crash.
#[derive(Debug, Default)]
struct Disk {
    certificates: BTreeMap<Round, Certificate>,
    votes: Vec<Persisted>,
    blobs: BTreeMap<Digest, Bytes>,
    /// Writes fail from now on.
    broken: bool,
    /// Blobs find no room from now on; smaller records do.
    full: bool,
    /// When the last write that was begun is done: a disk writes in order, as both shells do.
    written_at: Millis,
}

struct Peer {
    identity: Identity,
    anchor: bool,
    disk: Disk,
    swarm: Option<Swarm>,
    /// Counts restarts, so that nothing meant for an earlier life arrives.
    life: u32,
    wake: Millis,
    train_ms: u64,
}

#[derive(Debug)]
enum Happening {
    Frame { from: PeerId, bytes: Vec<u8> },
    Done(DoneWork),
    Wake,
}

#[derive(Debug)]
enum DoneWork {
    Computed { job: u64, work: Box<shoal_swarm::Job> },
    Persisted { id: u64, record: Box<Record> },
    Loaded(Digest),
}

/// A run, its peers, and everything between them.
pub struct World {
    pub now: Millis,
    pub network: Network,
    pub faults: Faults,
    /// How long a write takes.
    pub write_ms: (u64, u64),
    pub random: Random,
    pub checker: Checker,
    manifest: Manifest,
    peers: BTreeMap<PeerId, Peer>,
    links: BTreeSet<(PeerId, PeerId)>,
    queue: BinaryHeap<Reverse<(Millis, u64)>>,
    happenings: BTreeMap<u64, (PeerId, u32, Happening)>,
    next: u64,
    /// What peers said in their own name, oldest first.
    spoken: Vec<Envelope>,
    spoken_ids: BTreeSet<Digest>,
    /// News that peers told, newest last.
    pub told: Vec<(PeerId, Event)>,
}

impl World {
    /// A world with one anchor, up and running.
    pub fn new(seed: u64, network: Network) -> Self {
        Self::with_manifest(seed, network, |_| {})
    }

    pub fn with_manifest(seed: u64, network: Network, change: impl Fn(&mut Manifest)) -> Self {
        Self::with_anchors(seed, network, 1, change)
    }

    pub fn with_anchors(seed: u64, network: Network, anchors: usize, change: impl Fn(&mut Manifest)) -> Self {
        let mut random = Random::new(seed);
        let anchors: Vec<Identity> = (0..anchors).map(|_| Identity::from_secret(random.bytes32())).collect();
        let mut manifest = toy::toy_manifest(anchors.iter().map(Identity::peer).collect());
        change(&mut manifest);
        let mut world = Self {
            now: Millis(1),
            network,
            faults: Faults::default(),
            write_ms: (1, 10),
            random,
            checker: Checker::default(),
            manifest,
            peers: BTreeMap::new(),
            links: BTreeSet::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            spoken: Vec::new(),
            spoken_ids: BTreeSet::new(),
            told: Vec::new(),
        };
        for anchor in anchors {
            world.add(anchor, true);
        }
        world
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn anchor(&self) -> PeerId {
        self.manifest.anchors[0]
    }

    pub fn swarm(&self, peer: PeerId) -> Option<&Swarm> {
        self.peers.get(&peer).and_then(|peer| peer.swarm.as_ref())
    }

    pub fn live(&self) -> Vec<PeerId> {
        self.peers.iter().filter(|(_, peer)| peer.swarm.is_some()).map(|(id, _)| *id).collect()
    }

    /// The key of a peer, to say in its name what it would not.
    pub fn identity(&self, peer: PeerId) -> Option<&Identity> {
        self.peers.get(&peer).map(|peer| &peer.identity)
    }

    /// All that peers said, oldest first.
    pub fn said(&self) -> Vec<Said> {
        self.spoken.iter().filter_map(read).collect()
    }

    /// The first thing said that is so.
    pub fn envelope(&self, wanted: impl Fn(&Said) -> bool) -> Option<Envelope> {
        self.spoken.iter().find(|envelope| read(envelope).is_some_and(|said| wanted(&said))).cloned()
    }

    /// Everything said that is so, oldest first.
    pub fn envelopes(&self, wanted: impl Fn(&Said) -> bool) -> Vec<Envelope> {
        self.spoken.iter().filter(|envelope| read(envelope).is_some_and(|said| wanted(&said))).cloned().collect()
    }

    /// From now on this peer's disk takes nothing more, or takes it again.
    pub fn break_disk(&mut self, peer: PeerId, broken: bool) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.disk.broken = broken;
        }
    }

    /// From now on this peer's disk refuses blobs and takes everything smaller.
    pub fn fill_disk(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.disk.full = true;
        }
    }

    /// Whether the last vote on a peer's disk is a lock in this round.
    pub fn is_locked(&self, peer: PeerId, round: Round) -> bool {
        let last = self.peers.get(&peer).and_then(|peer| peer.disk.votes.last());
        last.is_some_and(|vote| vote.round == round && vote.lock.is_some())
    }

    /// How long a peer's training takes from now on.
    pub fn set_train_ms(&mut self, peer: PeerId, train_ms: u64) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.train_ms = train_ms;
        }
    }

    /// A new volunteer comes, linked with everybody.
    pub fn join(&mut self) -> PeerId {
        let identity = Identity::from_secret(self.random.bytes32());
        let peer = identity.peer();
        self.add(identity, false);
        peer
    }

    fn add(&mut self, identity: Identity, anchor: bool) {
        let id = identity.peer();
        let train_ms = self.random.between(500, 3_000);
        let mut disk = Disk::default();
        disk.blobs.insert(self.manifest.genesis, toy::toy_genesis());
        let peer = Peer { identity, anchor, disk, swarm: None, life: 0, wake: Millis::NEVER, train_ms };
        self.peers.insert(id, peer);
        self.start(id);
    }

    /// Starts a peer, or starts it again from its disk after a crash.
    pub fn start(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let certificates: Vec<Certificate> = peer.disk.certificates.values().cloned().collect();
        let model = certificates.last().map_or(self.manifest.genesis, |last| last.body.content.model);
        let restored =
            Restored { certificates, model: peer.disk.blobs.get(&model).cloned(), votes: peer.disk.votes.clone() };
        let config = Config {
            manifest: self.manifest.clone(),
            identity: peer.identity.clone(),
            join: Join { durable: true, trains: !peer.anchor },
            archive: peer.anchor,
        };
        peer.life += 1;
        peer.wake = Millis::NEVER;
        match Swarm::new(config, restored, self.now) {
            Ok(swarm) => peer.swarm = Some(swarm),
            Err(error) => unreachable!("what the world's own disk holds must hold: {error}"),
        }
        let anchor = peer.anchor;
        if let Some(swarm) = &mut peer.swarm {
            swarm.set_model_bytes(toy::toy_genesis().len() as u64);
        }
        self.drain(id);
        if !anchor {
            self.input(id, Input::Command(Command::Start));
        }
        for other in self.live().into_iter().filter(|other| *other != id) {
            self.link(id, other);
        }
    }

    /// Ends a peer without a word; its disk stays.
    pub fn crash(&mut self, id: PeerId) {
        for other in self.live() {
            self.unlink(id, other);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.swarm = None;
        }
    }

    pub fn link(&mut self, a: PeerId, b: PeerId) {
        if self.links.insert((a.min(b), a.max(b))) {
            self.input(a, Input::LinkUp(b));
            self.input(b, Input::LinkUp(a));
        }
    }

    pub fn unlink(&mut self, a: PeerId, b: PeerId) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            self.input(a, Input::LinkDown(b));
            self.input(b, Input::LinkDown(a));
        }
    }

    /// Hands a frame to a peer as if a linked one had sent it.
    pub fn deliver(&mut self, from: PeerId, to: PeerId, frame: &[u8]) {
        self.input(to, Input::Frame { from, bytes: frame });
    }

    pub fn command(&mut self, id: PeerId, command: Command) {
        self.input(id, Input::Command(command));
    }

    /// Runs until a condition holds; false when it does not within this much simulated time.
    pub fn run_until(&mut self, within_ms: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + within_ms;
        while !done(self) {
            let Some(Reverse((at, index))) = self.queue.pop() else { return false };
            if at > end {
                self.queue.push(Reverse((at, index)));
                self.now = end;
                return done(self);
            }
            self.now = self.now.max(at);
            if let Some((peer, life, happening)) = self.happenings.remove(&index) {
                self.happen(peer, life, happening);
            }
        }
        true
    }

    pub fn run_for(&mut self, ms: u64) {
        self.run_until(ms, |_| false);
    }

    /// Whether all live peers hold the same chain and its model.
    pub fn agree(&self) -> bool {
        let mut heads = self.live().into_iter().filter_map(|id| {
            let swarm = self.swarm(id)?;
            let head = swarm.chain().head();
            Some((head.round, head.body, swarm.model().map(|(round, model)| (round, Digest::of(&model)))))
        });
        let Some(first) = heads.next() else { return true };
        first.2.is_some_and(|(round, _)| round == first.0) && heads.all(|head| head == first)
    }

    /// The furthest certified round among live peers.
    pub fn round(&self) -> Round {
        self.live()
            .into_iter()
            .filter_map(|id| self.swarm(id))
            .map(|swarm| swarm.chain().head().round)
            .max()
            .unwrap_or(0)
    }

    /// Whether a peer's disk holds every update that its certificates accepted.
    pub fn can_replay(&self, id: PeerId) -> bool {
        let Some(peer) = self.peers.get(&id) else { return false };
        let mut chain = Chain::new(self.manifest.clone());
        peer.disk.certificates.values().all(|certificate| {
            let step = chain.apply(certificate);
            step.is_ok_and(|step| step.accepted.iter().all(|update| peer.disk.blobs.contains_key(&update.update)))
        })
    }

    fn happen(&mut self, id: PeerId, life: u32, happening: Happening) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.life == life && peer.swarm.is_some()) else {
            return;
        };
        match happening {
            Happening::Frame { from, bytes } => self.input(id, Input::Frame { from, bytes: &bytes }),
            Happening::Wake => {
                if peer.wake <= self.now {
                    peer.wake = Millis::NEVER;
                    self.input(id, Input::Tick);
                }
            }
            Happening::Done(DoneWork::Computed { job, work }) => {
                let fails = self.random.chance(self.faults.jobs_per_mille);
                let failed = || Outcome::Failed { reason: "the device was lost".to_owned() };
                let outcome = if fails { failed() } else { toy::run(id, &work) };
                self.input(id, Input::Computed { job, outcome });
            }
            Happening::Done(DoneWork::Persisted { id: record, record: what })
                if peer.disk.broken
                    || peer.disk.full && matches!(*what, Record::Blob { .. })
                    || !peer.anchor && self.random.chance(self.faults.writes_per_mille) =>
            {
                let reason = "the disk is full".to_owned();
                self.input(id, Input::PersistFailed { record, reason });
            }
            Happening::Done(DoneWork::Persisted { id: record, record: what }) => {
                match *what {
                    Record::Vote(vote) => peer.disk.votes.push(vote),
                    Record::Certificate(certificate) => {
                        let round = certificate.body.round;
                        peer.disk.certificates.split_off(&round);
                        peer.disk.certificates.insert(round, *certificate);
                    }
                    Record::Blob { digest, bytes, .. } => {
                        peer.disk.blobs.insert(digest, bytes);
                    }
                }
                self.input(id, Input::Persisted(record));
            }
            Happening::Done(DoneWork::Loaded(blob)) => {
                let bytes = peer.disk.blobs.get(&blob).cloned();
                self.input(id, Input::Loaded { blob, bytes });
            }
        }
    }

    fn input(&mut self, id: PeerId, input: Input<'_>) {
        let now = self.now;
        if let Some(swarm) = self.peers.get_mut(&id).and_then(|peer| peer.swarm.as_mut()) {
            if swarm.handle(now, input).is_err() {
                unreachable!("the world always drains a swarm");
            }
            self.drain(id);
        }
    }

    fn drain(&mut self, id: PeerId) {
        loop {
            let Some(swarm) = self.peers.get_mut(&id).and_then(|peer| peer.swarm.as_mut()) else { return };
            match swarm.poll() {
                Output::Send { to, frame, .. } => self.send(id, to, &frame),
                Output::Compute { job, work } => {
                    let train_ms = self.peers[&id].train_ms;
                    let busy_ms = if matches!(work, shoal_swarm::Job::Train { .. }) { train_ms } else { 5 };
                    self.later(id, busy_ms, Happening::Done(DoneWork::Computed { job, work: Box::new(work) }));
                }
                Output::Persist { id: record, record: what } => {
                    let write_ms = self.random.between(self.write_ms.0, self.write_ms.1);
                    let Some(peer) = self.peers.get_mut(&id) else { return };
                    peer.disk.written_at = peer.disk.written_at.max(self.now) + write_ms;
                    let wait_ms = peer.disk.written_at.since(self.now);
                    let done = DoneWork::Persisted { id: record, record: Box::new(what) };
                    self.later(id, wait_ms, Happening::Done(done));
                }
                Output::Forget { blob } => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.disk.blobs.remove(&blob);
                    }
                }
                Output::Load { blob } => self.later(id, 2, Happening::Done(DoneWork::Loaded(blob))),
                Output::Tell(event) => {
                    if let Event::Certified { round, body, model, recovery, .. } = &event {
                        let parent = swarm.certificates().get(round).map(|found| found.body.parent);
                        self.checker.certified(parent.unwrap_or_default(), *round, (*body, *model), *recovery);
                    }
                    self.told.push((id, event));
                }
                Output::Drop { peer, .. } => self.unlink(id, peer),
                Output::Stop { job, keep } => self.stop(id, job, keep),
                Output::Idle(until) => {
                    let Some(peer) = self.peers.get_mut(&id) else { return };
                    if until < peer.wake {
                        peer.wake = until;
                        let wait_ms = until.since(self.now);
                        self.later(id, wait_ms, Happening::Wake);
                    }
                    return;
                }
            }
        }
    }

    fn send(&mut self, from: PeerId, to: PeerId, frame: &[u8]) {
        self.note(from, frame);
        if !self.links.contains(&(from.min(to), from.max(to))) || self.random.chance(self.network.loss_per_mille) {
            return;
        }
        let copies = if self.random.chance(self.network.duplicate_per_mille) { 2 } else { 1 };
        for _ in 0..copies {
            let latency_ms = self.random.between(self.network.latency_ms.0, self.network.latency_ms.1);
            self.later(to, latency_ms, Happening::Frame { from, bytes: frame.to_vec() });
        }
    }

    /// Ends training now, with or without an outcome, as an engine does.
    fn stop(&mut self, id: PeerId, stopped: u64, keep: bool) {
        let life = self.peers.get(&id).map(|peer| peer.life);
        let is_it = |(peer, begun, happening): &(PeerId, u32, Happening)| {
            let same = matches!(happening, Happening::Done(DoneWork::Computed { job, .. }) if *job == stopped);
            same && *peer == id && Some(*begun) == life
        };
        let found = self.happenings.iter().find(|(_, happening)| is_it(happening)).map(|(index, _)| *index);
        let Some((_, _, happening)) = found.and_then(|index| self.happenings.remove(&index)) else { return };
        if keep {
            self.later(id, 5, happening);
        }
    }

    fn note(&mut self, from: PeerId, frame: &[u8]) {
        let Ok(Frame::Said(envelope)) = Frame::decode(frame) else { return };
        if envelope.from != from {
            return;
        }
        if let Some(Said { round, message: Message::Vote(vote), .. }) = read(&envelope) {
            self.checker.voted(from, round, vote);
        }
        if self.spoken_ids.insert(envelope.id()) {
            self.spoken.push(envelope);
        }
    }

    fn later(&mut self, id: PeerId, wait_ms: u64, happening: Happening) {
        let Some(life) = self.peers.get(&id).map(|peer| peer.life) else { return };
        self.queue.push(Reverse((self.now + wait_ms, self.next)));
        self.happenings.insert(self.next, (id, life, happening));
        self.next += 1;
    }
}

fn read(envelope: &Envelope) -> Option<Said> {
    codec::decode("message", &envelope.payload, envelope.payload.len()).ok()
}
