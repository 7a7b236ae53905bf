//! Peers, the network between them, their disks and their clocks: what a test or a trial does to a world, and asks of it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use shoal_ledger::Chain;
use shoal_swarm::{Bytes, Command, Config, Event, Input, Swarm};
use shoal_wire::{
    Digest, Envelope, Manifest, Millis, PeerId, Round, SessionId, codec,
    record::{Join, Said},
    sign::Identity,
};

use crate::{
    Checker, Lie, Random,
    disk::{self, Disk},
    engine::{Engine, Model},
    events::EventLog,
    happening::Happening,
    network::{Network, Path, Paths},
    peer::{Clock, Peer},
};

/// What goes wrong inside peers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Jobs that fail, of a thousand.
    pub jobs_per_mille: u64,
    /// Writes of volunteers that fail, of a thousand.
    pub writes_per_mille: u64,
}

/// A run, its peers, and everything between them.
pub struct World {
    pub now: Millis,
    pub network: Network,
    pub path: Path,
    pub faults: Faults,
    /// How long a write takes.
    pub write_ms: (u64, u64),
    /// A crash writes some of what was under way, and tears the next record.
    pub tears: bool,
    /// Whether the relay is there to introduce peers to each other. Those with a linked peer in common need none.
    pub relay: bool,
    /// Peers that one that starts links with; it chooses by lot, anchors first.
    pub links_wanted: usize,
    pub random: Random,
    pub checker: Checker,
    pub(crate) model: Model,
    pub(crate) manifest: Manifest,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    pub(crate) paths: Paths,
    links: BTreeSet<(PeerId, PeerId)>,
    pub(crate) queue: BinaryHeap<Reverse<(Millis, u64)>>,
    pub(crate) happenings: BTreeMap<u64, (PeerId, u32, Happening)>,
    pub(crate) next: u64,
    /// What peers said in their own name, oldest first.
    pub(crate) spoken: Vec<Envelope>,
    pub(crate) spoken_ids: BTreeSet<Digest>,
    /// Frames with something that their sender said itself, so that each is read once.
    pub(crate) read: BTreeSet<Digest>,
    /// Every update that somebody trained.
    pub(crate) updates: BTreeMap<Digest, Bytes>,
    pub(crate) log: EventLog,
    /// Frames that peers sent so far.
    pub sends: u64,
    /// After so many frames, these peers vanish.
    pub(crate) vanishing: Option<(u64, Vec<PeerId>)>,
    /// News that peers told, newest last.
    pub told: Vec<(PeerId, Event)>,
    /// Print what happens.
    pub verbose: bool,
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
        Self::with_model(Model::Toy, seed, network, anchors, change)
    }

    pub fn with_model(
        model: Model,
        seed: u64,
        network: Network,
        anchors: usize,
        change: impl Fn(&mut Manifest),
    ) -> Self {
        let mut random = Random::new(seed);
        let anchors: Vec<Identity> = (0..anchors).map(|_| Identity::from_secret(random.bytes32())).collect();
        let mut manifest = model.manifest(anchors.iter().map(Identity::peer).collect());
        change(&mut manifest);
        let mut world = Self {
            now: Millis(1),
            network,
            path: Path::default(),
            faults: Faults::default(),
            write_ms: (1, 10),
            tears: false,
            relay: true,
            links_wanted: usize::MAX,
            random,
            checker: Checker::default(),
            model,
            manifest,
            peers: BTreeMap::new(),
            paths: Paths::default(),
            links: BTreeSet::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            spoken: Vec::new(),
            spoken_ids: BTreeSet::new(),
            read: BTreeSet::new(),
            updates: BTreeMap::new(),
            log: EventLog::default(),
            sends: 0,
            vanishing: None,
            told: Vec::new(),
            verbose: false,
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

    /// The hash of everything that happened.
    pub fn event_hash(&self) -> Digest {
        self.log.digest()
    }

    /// From now on this peer's disk takes nothing more, or takes it again.
    pub fn break_disk(&mut self, peer: PeerId, broken: bool) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.disk.broken = broken;
        }
    }

    /// From now on this peer's disk refuses blobs and takes everything smaller.
    pub fn fill_disk(&mut self, peer: PeerId) {
        self.set_disk_full(peer, true);
    }

    pub(crate) fn set_disk_full(&mut self, peer: PeerId, full: bool) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.disk.full = full;
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

    /// What computes for a peer from now on.
    pub fn set_engine(&mut self, peer: PeerId, engine: Box<dyn Engine>) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.engine = engine;
        }
    }

    /// What a peer's clock shows from its next start on.
    pub fn set_clock(&mut self, peer: PeerId, clock: Clock) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.clock = clock;
        }
    }

    /// From now on this peer says now and then what only a later version understands.
    pub fn make_newer(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.newer = true;
        }
    }

    /// Nothing reaches a peer for so long, as in a tab that the browser froze; then everything does.
    pub fn freeze(&mut self, peer: PeerId, ms: u64) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.frozen_until = self.now + ms;
        }
    }

    /// From now on nothing that one peer sends reaches the other.
    pub fn cut(&mut self, from: PeerId, to: PeerId) {
        self.paths.cuts.insert((from, to));
    }

    /// All cuts are mended.
    pub fn mend(&mut self) {
        self.paths.cuts.clear();
    }

    /// A new volunteer comes, linked with everybody.
    pub fn join(&mut self) -> PeerId {
        let identity = Identity::from_secret(self.random.bytes32());
        let peer = identity.peer();
        self.add(identity, false);
        peer
    }

    /// A new volunteer comes that lies.
    pub fn join_liar(&mut self, lie: Lie) -> PeerId {
        self.join_with(Clock::default(), Some(lie))
    }

    /// A new volunteer with a clock of its own comes, and may link with some only.
    pub(crate) fn join_with(&mut self, clock: Clock, lie: Option<Lie>) -> PeerId {
        let identity = Identity::from_secret(self.random.bytes32());
        let id = identity.peer();
        self.insert(identity, false, lie);
        self.set_clock(id, clock);
        self.start(id);
        id
    }

    fn add(&mut self, identity: Identity, anchor: bool) {
        let id = identity.peer();
        self.insert(identity, anchor, None);
        self.start(id);
    }

    fn insert(&mut self, identity: Identity, anchor: bool, lie: Option<Lie>) {
        let id = identity.peer();
        self.checker.liars.extend(lie.map(|_| id));
        let train_ms = self.random.between(500, 3_000);
        let mut disk = Disk::default();
        disk.blobs.insert(self.manifest.genesis, self.model.genesis());
        let engine = self.model.engine(id, lie);
        let peer = Peer { anchor, lie, ..Peer::new(identity, disk, engine, train_ms) };
        self.peers.insert(id, peer);
    }

    /// Starts a peer, or starts it again from its disk after a crash.
    pub fn start(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let restored = peer.disk.restore(&self.manifest, &mut *self.model.engine(id, None));
        let config = Config {
            manifest: self.manifest.clone(),
            identity: peer.identity.clone(),
            session: *peer.disk.session.get_or_insert(SessionId(id.0)),
            join: Join { durable: true, trains: !peer.anchor },
            archive: peer.anchor,
        };
        peer.life += 1;
        peer.wake = Millis::NEVER;
        peer.frozen_until = Millis(0);
        match Swarm::new(config, restored, peer.clock.shows(self.now)) {
            Ok(swarm) => peer.swarm = Some(swarm),
            Err(error) => unreachable!("what the world's own disk holds must hold: {error}"),
        }
        let anchor = peer.anchor;
        if let Some(swarm) = &mut peer.swarm {
            swarm.set_model_bytes(self.model.genesis().len() as u64);
        }
        self.drain(id);
        if !anchor {
            self.input(id, Input::Command(Command::Start));
        }
        self.look_for_links(id);
    }

    /// Links a peer with those whom it wants links with and can be introduced to.
    pub(crate) fn look_for_links(&mut self, id: PeerId) {
        for other in self.acquaintances(id) {
            self.meet(id, other);
        }
    }

    /// Whom else a peer wants links with.
    fn acquaintances(&mut self, id: PeerId) -> Vec<PeerId> {
        let mut others = self.live();
        others.retain(|other| *other != id);
        let all = others.len();
        others.retain(|other| !self.are_linked(id, *other));
        if all <= self.links_wanted {
            return others;
        }
        let linked = all - others.len();
        let (mut chosen, mut rest): (Vec<PeerId>, Vec<PeerId>) =
            others.into_iter().partition(|other| self.manifest.anchors.contains(other));
        while linked + chosen.len() < self.links_wanted && !rest.is_empty() {
            chosen.push(rest.swap_remove(self.random.place(rest.len())));
        }
        chosen
    }

    /// Ends a peer without a word; its disk stays.
    pub fn crash(&mut self, id: PeerId) {
        for other in self.live() {
            self.unlink(id, other);
        }
        if self.tears {
            self.tear(id);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.swarm = None;
        }
    }

    /// Once so many frames were sent in all, these peers vanish at once, in the middle of whatever they are doing.
    pub fn vanish_after(&mut self, sends: u64, peers: Vec<PeerId>) {
        self.vanishing = Some((sends, peers));
    }

    /// The others hear of it a moment later.
    pub(crate) fn vanish(&mut self, gone: &[PeerId]) {
        for id in gone {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.swarm = None;
            }
        }
        let lost: Vec<(PeerId, PeerId)> =
            self.links.iter().filter(|(a, b)| gone.contains(a) || gone.contains(b)).copied().collect();
        for (a, b) in lost {
            self.links.remove(&(a, b));
            self.later(a, 1, Happening::Link { with: b, up: false });
            self.later(b, 1, Happening::Link { with: a, up: false });
        }
    }

    /// Of the writes under way, some that were begun first are done, and the next one is torn.
    fn tear(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.swarm.is_some()) else { return };
        let writes = self.happenings.values().filter(|(to, life, _)| *to == id && *life == peer.life);
        let records: Vec<_> = writes.filter_map(|(.., happening)| happening.write()).cloned().collect();
        let done = self.random.between(0, records.len() as u64) as usize;
        for record in &records[..done] {
            if !peer.disk.refuses(record) {
                peer.disk.store(record.clone());
            }
        }
        if let Some(torn) = records.get(done) {
            peer.disk.tear(&mut self.random, (self.manifest.run(), id), torn);
        }
    }

    /// Links two peers if somebody can introduce them: the relay, or a peer that both are linked with.
    pub fn meet(&mut self, a: PeerId, b: PeerId) {
        let linked = |one: PeerId, two: PeerId| self.links.contains(&(one.min(two), one.max(two)));
        let introduced = self.relay || self.live().into_iter().any(|other| linked(a, other) && linked(b, other));
        if introduced {
            self.link(a, b);
        }
    }

    pub fn link(&mut self, a: PeerId, b: PeerId) {
        if self.makes_way(a, b) && self.links.insert((a.min(b), a.max(b))) {
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

    /// Ends a link that one side found bad, and both hear of it a moment later: its state machine is not drained yet.
    pub(crate) fn drop_link(&mut self, a: PeerId, b: PeerId) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            self.later(a, 0, Happening::Link { with: b, up: false });
            self.later(b, 0, Happening::Link { with: a, up: false });
        }
    }

    pub(crate) fn are_linked(&self, a: PeerId, b: PeerId) -> bool {
        self.links.contains(&(a.min(b), a.max(b)))
    }

    /// Hands a frame to a peer as if a linked one had sent it.
    pub fn deliver(&mut self, from: PeerId, to: PeerId, frame: &[u8]) {
        self.input(to, Input::Frame { from, bytes: frame });
    }

    pub fn command(&mut self, id: PeerId, command: Command) {
        let starts = command == Command::Start;
        self.input(id, Input::Command(command));
        if starts {
            self.look_for_links(id);
        }
    }

    /// Runs until a condition holds; false when it does not within this much simulated time.
    pub fn run_until(&mut self, within_ms: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + within_ms;
        while !done(self) {
            let Some(Reverse((at, index))) = self.queue.pop() else {
                self.now = end;
                return done(self);
            };
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
        self.do_agree(&self.live())
    }

    /// Whether these peers hold the same chain and its model.
    pub fn do_agree(&self, peers: &[PeerId]) -> bool {
        let mut heads = peers.iter().filter_map(|id| {
            let swarm = self.swarm(*id)?;
            let head = swarm.chain().head();
            Some((head.round, head.body, swarm.model().map(|(round, model)| (round, Digest::of(&model)))))
        });
        let Some(first) = heads.next() else { return true };
        first.2.is_some_and(|(round, _)| round == first.0) && heads.all(|head| head == first)
    }

    /// Live peers that are linked with the first anchor, by whatever way. Without a relay, one that lost all its links stays
    /// alone.
    pub fn reachable(&self) -> Vec<PeerId> {
        let mut reached = BTreeSet::from([self.anchor()]);
        let live = self.live();
        let is_next = |reached: &BTreeSet<PeerId>, peer: &PeerId| {
            !reached.contains(peer) && reached.iter().any(|near| self.are_linked(*peer, *near))
        };
        while let Some(next) = live.iter().find(|peer| is_next(&reached, peer)) {
            reached.insert(*next);
        }
        reached.into_iter().collect()
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

    /// Mean loss, in nats, of the newest model that an honest peer holds, on data that nobody trains on. `None` when the
    /// model does not learn.
    pub fn loss(&self) -> Option<f64> {
        let honest = self.live().into_iter().filter(|peer| !self.checker.liars.contains(peer));
        let models = honest.filter_map(|peer| self.swarm(peer)?.model());
        models.max_by_key(|(round, _)| *round).and_then(|(_, model)| self.model.loss(&model))
    }

    /// Replays a peer's chain from the genesis model over the updates that were trained; the digest of what it arrives
    /// at, or `None` when a step cannot be done or gives another model than was certified.
    pub fn replayed(&self, id: PeerId) -> Option<Digest> {
        let mut chain = Chain::new(self.manifest.clone());
        let swarm = self.swarm(id)?;
        let steps: Option<Vec<_>> = swarm.certificates().values().map(|found| chain.apply(found).ok()).collect();
        let mut engine = self.model.engine(id, None);
        let find = |update| self.updates.get(&update).cloned();
        disk::replay(self.model.genesis(), &steps?, find, &mut *engine).map(|model| Digest::of(&model))
    }
}

pub(crate) fn read(envelope: &Envelope) -> Option<Said> {
    codec::decode("message", &envelope.payload, envelope.payload.len()).ok()
}
