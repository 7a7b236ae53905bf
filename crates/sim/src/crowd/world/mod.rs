//! Peers, their links, and what happens between them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
};

use shoal_swarm::{
    Bytes,
    crowd::{Config, Crowd, Epoch, Event, Input, Missing, Outcome, Output, Roster},
};
use shoal_wire::{
    Digest, Millis, PeerId, RunId,
    crowd::{Blob, Heard},
    record::{Join, Member},
    sign::Identity,
};

use super::{
    cost::Costs,
    engine::{Engine, Liar},
    network::{Link, Micros},
};
use crate::Random;

mod presence;
mod settings;
mod transport;
mod work;

pub use settings::Settings;

/// Bytes of a frame beyond its own: DTLS, SCTP, UDP and IP.
const OVERHEAD_BYTES: u64 = 70;
/// A request for a blob, and the answer that there is none.
const REQUEST_BYTES: u64 = 110;
/// After this, the others notice that somebody is gone.
const NOTICE_MS: u64 = 3_000;
/// How long a vote takes to reach the disk.
const WRITE_MS: u64 = 5;

struct Peer {
    id: PeerId,
    crowd: Crowd,
    link: Link,
    liar: Option<Liar>,
    online: bool,
    /// Counts how often it went.
    life: u32,
    wake: Millis,
    held: BTreeSet<Digest>,
    /// What finished while it was away.
    waiting: Vec<Happening>,
    /// Whom it believes gone.
    away: BTreeSet<u32>,
    round_began: Micros,
    round_life: u32,
    trained: Micros,
    /// Sums and codes are the work of one thread.
    worker_free: Micros,
    marks: BTreeMap<Phase, Micros>,
}

#[derive(Clone)]
enum Happening {
    Heard {
        from: PeerId,
        heard: Arc<Heard>,
    },
    Asked {
        by: u32,
        blob: Digest,
    },
    Arrived {
        from: u32,
        life: u32,
        blob: Digest,
    },
    Failed {
        from: PeerId,
        blob: Digest,
        why: Missing,
    },
    Done {
        job: u64,
        outcome: Outcome,
        trained: Micros,
    },
    Stored {
        record: u64,
    },
    Wake,
    Vanish {
        away_ms: u64,
    },
    Return,
    /// The others notice that it went.
    Noticed,
    /// It finds whether another is there.
    Found {
        other: u32,
    },
    /// A relay got an update and says so.
    Relayed {
        blob: Blob,
    },
}

/// How far a peer is in a round, by what it does last before it waits for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Trained,
    /// It has the updates of its group.
    Exchanged,
    Summed,
    /// Its last merge of sums.
    Merged,
    /// Its last part of the mean.
    Coded,
    /// It has the coded mean.
    Spread,
    Applied,
    Adopted,
}

/// What was seen of a round.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub models: BTreeSet<Digest>,
    pub adopted: u32,
    pub contributors: u32,
    /// Of peers that were there all the time, in seconds: how long the round took them, and how long they trained in it.
    pub seconds: f64,
    pub trained_seconds: f64,
    pub at_seconds: f64,
    /// Of the same peers: when they came so far, from the beginning of their rounds, and how many did.
    pub phases: BTreeMap<Phase, (f64, u32)>,
}

/// A run with many peers.
pub struct CrowdWorld {
    pub settings: Settings,
    pub now: Micros,
    pub rounds: BTreeMap<u64, Tally>,
    pub troubles: Vec<String>,
    /// Groups whose wrong sum somebody found.
    pub wrong_sums: BTreeSet<u32>,
    /// Before each round.
    pub epochs: BTreeMap<u64, Arc<Epoch>>,
    pub events: u64,
    run: RunId,
    engine: Engine,
    costs: Costs,
    random: Random,
    peers: Vec<Peer>,
    places: BTreeMap<PeerId, u32>,
    sizes: BTreeMap<Digest, (u64, Bytes)>,
    next_epochs: BTreeMap<Digest, Arc<Epoch>>,
    queue: BinaryHeap<Reverse<(Micros, u64)>>,
    happenings: BTreeMap<u64, (u32, Happening)>,
    next: u64,
    relay: Option<(PeerId, Link, BTreeSet<Digest>)>,
}

impl CrowdWorld {
    pub fn new(settings: Settings) -> Self {
        Self::with_liars(settings, |_, _| None)
    }

    /// A world in which `liar` tells, of a peer's place and the first epoch, how it lies.
    pub fn with_liars(settings: Settings, liar: impl Fn(&Epoch, PeerId) -> Option<Liar>) -> Self {
        let mut random = Random::new(settings.seed);
        let identities: Vec<Identity> = (0..settings.peers).map(|_| Identity::from_secret(random.bytes32())).collect();
        let valid = |at: usize| if at < settings.fresh { 0 } else { 20 };
        let member = |(at, identity): (usize, &Identity)| member(identity.peer(), valid(at));
        let roster = Roster::new(identities.iter().enumerate().map(member).collect(), &[]);
        let run = RunId(random.bytes32());
        let epoch = Arc::new(Epoch::first(run, roster, Digest(random.bytes32()), Vec::new()));
        let engine = Engine::new();
        let genesis = engine.genesis();
        let mut world = Self {
            costs: Costs::of(settings.parameters, settings.codec),
            now: 0,
            rounds: BTreeMap::new(),
            troubles: Vec::new(),
            wrong_sums: BTreeSet::new(),
            epochs: BTreeMap::from([(1, epoch.clone())]),
            events: 0,
            run,
            engine,
            peers: Vec::new(),
            places: BTreeMap::new(),
            sizes: BTreeMap::new(),
            next_epochs: BTreeMap::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            relay: settings.relay_kbps.map(|kbps| (PeerId([0xff; 32]), Link::new(kbps, kbps, 20_000), BTreeSet::new())),
            random,
            settings,
        };
        for identity in identities {
            let id = identity.peer();
            let cache = world.relay.as_ref().map(|(relay, ..)| *relay);
            let config = Config { run, identity, timing: world.settings.timing(), cache };
            let Settings { up_kbps: up, down_kbps: down, latency_ms: latency, .. } = world.settings;
            let link = Link::new(
                world.random.between(up.0, up.1),
                world.random.between(down.0, down.1),
                world.random.between(latency.0, latency.1) * 1000,
            );
            let crowd = Crowd::new(config, epoch.clone(), Digest::from(run), genesis.clone(), Millis(0));
            world.places.insert(id, world.peers.len() as u32);
            world.peers.push(Peer {
                id,
                crowd,
                link,
                liar: liar(&epoch, id),
                online: true,
                life: 0,
                wake: Millis::NEVER,
                held: BTreeSet::new(),
                waiting: Vec::new(),
                away: BTreeSet::new(),
                round_began: 0,
                round_life: 0,
                trained: 0,
                worker_free: 0,
                marks: BTreeMap::new(),
            });
        }
        for at in 0..world.peers.len() as u32 {
            world.draw_churn(at);
            world.drain(at);
        }
        world
    }

    /// Runs until every peer that is there holds the model of this round; false when that takes too long.
    pub fn run_rounds(&mut self, rounds: u64, within_ms: u64) -> bool {
        let end = self.now + within_ms * 1000;
        let mut behind = self.peers.len();
        while behind > 0 {
            let Some(Reverse((at, index))) = self.queue.pop() else { return false };
            if at > end {
                self.queue.push(Reverse((at, index)));
                return false;
            }
            self.now = at;
            self.events += 1;
            if let Some((peer, happening)) = self.happenings.remove(&index) {
                self.happen(peer, happening);
            }
            if self.events.is_multiple_of(256) {
                behind = self.peers.iter().filter(|peer| peer.online && peer.crowd.epoch().round <= rounds).count();
            }
        }
        true
    }

    /// Bytes that peers sent so far: the mean, and the most of one.
    pub fn sent_bytes(&self) -> (f64, u64) {
        let sent = self.peers.iter().map(|peer| peer.link.sent_bytes);
        (sent.clone().sum::<u64>() as f64 / self.peers.len() as f64, sent.max().unwrap_or(0))
    }

    /// The peer at a place.
    pub fn crowd(&self, at: usize) -> &Crowd {
        &self.peers[at].crowd
    }

    fn millis(&self) -> Millis {
        Millis(self.now / 1000)
    }

    fn later(&mut self, at: Micros, peer: u32, happening: Happening) {
        self.queue.push(Reverse((at, self.next)));
        self.happenings.insert(self.next, (peer, happening));
        self.next += 1;
    }

    fn happen(&mut self, at: u32, happening: Happening) {
        let peer = &mut self.peers[at as usize];
        if !peer.online {
            match happening {
                // Its own work goes on when it comes back; what others send is lost.
                Happening::Done { .. } | Happening::Stored { .. } => peer.waiting.push(happening),
                Happening::Asked { by, blob } => {
                    let (from, wait) = (peer.id, NOTICE_MS * 1000);
                    self.later(self.now + wait, by, Happening::Failed { from, blob, why: Missing::Lacks });
                }
                Happening::Return => self.come_back(at),
                Happening::Noticed => self.tell_contacts(at),
                _ => {}
            }
            return;
        }
        match happening {
            Happening::Heard { from, heard } => self.input(at, Input::Heard { from, heard: &heard }),
            Happening::Asked { by, blob } => self.asked(at, by, blob),
            Happening::Arrived { from, life, blob } => {
                let holder = &self.peers[from as usize];
                let (id, arrived) = (holder.id, holder.life == life);
                match self.sizes.get(&blob).filter(|_| arrived).map(|(_, bytes)| bytes.clone()) {
                    Some(bytes) => self.input(at, Input::Fetched { blob, from: id, bytes }),
                    None => self.input(at, Input::FetchFailed { blob, from: id, why: Missing::Lacks }),
                }
            }
            Happening::Failed { from, blob, why } => self.input(at, Input::FetchFailed { blob, from, why }),
            Happening::Done { job, outcome, trained } => {
                peer.trained += trained;
                self.input(at, Input::Computed { job, outcome });
            }
            Happening::Stored { record } => self.input(at, Input::Persisted(record)),
            Happening::Wake => {
                if peer.wake <= Millis(self.now / 1000) {
                    peer.wake = Millis::NEVER;
                    self.input(at, Input::Tick);
                }
            }
            Happening::Vanish { away_ms } => {
                peer.online = false;
                peer.life += 1;
                self.later(self.now + NOTICE_MS * 1000, at, Happening::Noticed);
                self.later(self.now + away_ms * 1000, at, Happening::Return);
            }
            Happening::Relayed { blob } => self.relayed(blob),
            Happening::Found { other } => self.found(at, other),
            Happening::Return | Happening::Noticed => {}
        }
    }

    fn input(&mut self, at: u32, input: Input<'_>) {
        let now = self.millis();
        if self.peers[at as usize].crowd.handle(now, input).is_err() {
            unreachable!("the world always drains a peer");
        }
        self.drain(at);
    }

    fn drain(&mut self, at: u32) {
        loop {
            match self.peers[at as usize].crowd.poll() {
                Output::Send { to, frame } => self.send(at, &to, &frame),
                Output::Fetch { blob, from } => self.fetch(at, blob.digest, from),
                Output::Cancel { .. } => {}
                Output::Keep { blob, bytes } => {
                    // All but sealed updates were seen when they were computed.
                    let size = self.costs.update_bytes();
                    self.sizes.entry(blob).or_insert((size, bytes));
                    self.peers[at as usize].held.insert(blob);
                }
                Output::Forget { blob } => {
                    self.peers[at as usize].held.remove(&blob);
                }
                Output::Compute { job, work } => self.compute(at, job, &work),
                Output::Persist { id, .. } => {
                    self.later(self.now + WRITE_MS * 1000, at, Happening::Stored { record: id });
                }
                Output::Tell(event) => self.told(at, event),
                Output::Idle(until) => {
                    let peer = &mut self.peers[at as usize];
                    if until < peer.wake {
                        peer.wake = until;
                        self.later(until.0.saturating_mul(1000).max(self.now), at, Happening::Wake);
                    }
                    return;
                }
            }
        }
    }

    fn told(&mut self, at: u32, event: Event) {
        match event {
            Event::Adopted { round, model, contributors } => {
                let now = self.now;
                let peer = &mut self.peers[at as usize];
                let tally = self.rounds.entry(round).or_default();
                tally.models.insert(model);
                tally.adopted += 1;
                tally.contributors = contributors;
                tally.at_seconds = now as f64 / 1e6;
                if peer.round_life == peer.life {
                    tally.seconds += (now - peer.round_began) as f64 / 1e6;
                    tally.trained_seconds += peer.trained.min(now - peer.round_began) as f64 / 1e6;
                    peer.marks.insert(Phase::Adopted, now);
                    for (phase, at) in &peer.marks {
                        let (seconds, count) = tally.phases.entry(*phase).or_default();
                        *seconds += at.saturating_sub(peer.round_began) as f64 / 1e6;
                        *count += 1;
                    }
                }
                peer.marks.clear();
                (peer.round_began, peer.round_life, peer.trained) = (now, peer.life, 0);
                let epoch = peer.crowd.epoch().clone();
                self.epochs.entry(epoch.round).or_insert(epoch);
                self.draw_churn(at);
                self.look_around(at);
            }
            Event::WrongSum { group } => {
                self.wrong_sums.insert(group);
            }
            Event::Trouble(text) => self.troubles.push(text),
        }
    }
}

fn member(peer: PeerId, valid: u32) -> Member {
    Member { valid, ..Member::new(peer, 1, Join { durable: true, trains: true }) }
}
