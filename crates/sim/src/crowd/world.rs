//! Peers, their links, and what happens between them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
};

use shoal_swarm::{
    Bytes,
    crowd::{Config, Crowd, Epoch, Event, Input, Job, Missing, Outcome, Output, Roster, Timing},
};
use shoal_wire::{
    Digest, Millis, PeerId, RunId,
    crowd::{Blob, Frame, Heard},
    manifest::Codec,
    record::{Join, Member},
    sign::Identity,
};

use super::{
    cost::Costs,
    engine::{Engine, Liar},
    network::{Link, Micros},
};
use crate::Random;

/// Bytes of a frame beyond its own: DTLS, SCTP, UDP and IP.
const OVERHEAD_BYTES: u64 = 70;
/// A request for a blob, and the answer that there is none.
const REQUEST_BYTES: u64 = 110;
/// After this, the others notice that somebody is gone.
const NOTICE_MS: u64 = 3_000;
/// How long a vote takes to reach the disk.
const WRITE_MS: u64 = 5;

/// A world's options.
#[derive(Clone, Debug)]
pub struct Settings {
    pub seed: u64,
    pub peers: usize,
    /// How many of them never contributed before.
    pub fresh: usize,
    /// Parameters and codec of the modelled run.
    pub parameters: u64,
    pub codec: Codec,
    /// How long each peer trains in a round: it does as many steps as fit.
    pub train_ms: u64,
    pub up_kbps: (u64, u64),
    pub down_kbps: (u64, u64),
    pub latency_ms: (u64, u64),
    /// Of a thousand peers, how many vanish in a round, and for how long.
    pub churn_per_mille: u64,
    pub away_ms: (u64, u64),
    /// A relay with this uplink that caches updates: their authors upload them once more, to it.
    pub relay_kbps: Option<u64>,
    /// How long the committee leaves auditors.
    pub audit_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            peers: 64,
            fresh: 0,
            parameters: 10_000_000,
            codec: Codec::Topk,
            train_ms: 60_000,
            up_kbps: (1_000, 20_000),
            down_kbps: (25_000, 100_000),
            latency_ms: (10, 60),
            churn_per_mille: 0,
            away_ms: (10_000, 120_000),
            relay_kbps: None,
            audit_ms: 1_000,
        }
    }
}

impl Settings {
    fn timing(&self) -> Timing {
        let train_ms = self.train_ms * 13 / 10 + 10_000;
        Timing { grace_ms: 2_500, turn_ms: 2_000, level_ms: 10_000, audit_ms: self.audit_ms, train_ms, view_ms: 4_000 }
    }
}

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
            let config = Config { run, identity, timing: world.settings.timing() };
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

    fn draw_churn(&mut self, at: u32) {
        if self.random.chance(self.settings.churn_per_mille) {
            let within = self.random.between(0, self.settings.train_ms + 20_000) * 1000;
            let away_ms = self.random.between(self.settings.away_ms.0, self.settings.away_ms.1);
            self.later(self.now + within, at, Happening::Vanish { away_ms });
        }
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

    fn come_back(&mut self, at: u32) {
        let peer = &mut self.peers[at as usize];
        peer.online = true;
        peer.wake = Millis::NEVER;
        for happening in core::mem::take(&mut peer.waiting) {
            self.happen(at, happening);
        }
        self.tell_contacts(at);
        self.look_around(at);
        // Its links were down, and are opened again.
        for other in self.contacts(at) {
            let contact = &self.peers[other as usize];
            if contact.online {
                let peer = contact.id;
                self.input(at, Input::Reachable { peer, reachable: true });
            }
        }
    }

    // Who is there

    /// Peers with whom one works in a round.
    fn contacts(&self, at: u32) -> BTreeSet<u32> {
        let peer = &self.peers[at as usize];
        let epoch = peer.crowd.epoch();
        let Some(seat) = epoch.roster.find(peer.id) else { return BTreeSet::new() };
        let mut members: BTreeSet<u32> =
            epoch.draw.duties(seat).into_iter().flat_map(|node| epoch.draw.panel(node)).collect();
        if epoch.draw.committee().contains(&(seat as u32)) {
            members.extend(epoch.draw.committee());
        }
        let place = |member: &u32| self.places.get(&epoch.roster.seats()[*member as usize].member.peer).copied();
        members.iter().filter_map(place).filter(|other| *other != at).collect()
    }

    /// The others learn that a peer went, or came back.
    fn tell_contacts(&mut self, at: u32) {
        let (online, id) = (self.peers[at as usize].online, self.peers[at as usize].id);
        for other in self.contacts(at) {
            // Who is away itself hears nothing now; it looks around when it comes back.
            let peer = &mut self.peers[other as usize];
            if !peer.online {
                continue;
            }
            let changed = if online { peer.away.remove(&at) } else { peer.away.insert(at) };
            if changed {
                self.input(other, Input::Reachable { peer: id, reachable: online });
            }
        }
    }

    /// A peer dials those it works with: it finds them soon, or after a while finds that they are gone.
    fn look_around(&mut self, at: u32) {
        for other in self.contacts(at) {
            let online = self.peers[other as usize].online;
            if self.peers[at as usize].away.contains(&other) == online {
                let wait_ms = if online { 200 } else { NOTICE_MS };
                self.later(self.now + wait_ms * 1000, at, Happening::Found { other });
            }
        }
    }

    fn found(&mut self, at: u32, other: u32) {
        let (reachable, id) = (self.peers[other as usize].online, self.peers[other as usize].id);
        let peer = &mut self.peers[at as usize];
        if if reachable { peer.away.remove(&other) } else { peer.away.insert(other) } {
            self.input(at, Input::Reachable { peer: id, reachable });
        }
    }

    // Bytes

    fn asked(&mut self, at: u32, by: u32, blob: Digest) {
        let peer = &mut self.peers[at as usize];
        let why = if !peer.held.contains(&blob) {
            Missing::Lacks
        } else if peer.link.is_busy(self.now) {
            Missing::Busy
        } else {
            let bytes = self.sizes.get(&blob).map_or(0, |(bytes, _)| *bytes) + OVERHEAD_BYTES;
            let (left, latency, life) = (peer.link.send_blob(self.now, bytes), peer.link.latency, peer.life);
            let to = &mut self.peers[by as usize].link;
            let latency = latency + to.latency;
            let arrives = to.receive_blob(left, latency, bytes);
            return self.later(arrives, by, Happening::Arrived { from: at, life, blob });
        };
        let (from, latency) = (peer.id, peer.link.latency + REQUEST_BYTES);
        let left = peer.link.send_message(self.now, REQUEST_BYTES);
        let arrives = left + latency + self.peers[by as usize].link.latency;
        self.later(arrives, by, Happening::Failed { from, blob, why });
    }

    fn fetch(&mut self, at: u32, blob: Digest, from: PeerId) {
        let left = self.peers[at as usize].link.send_message(self.now, REQUEST_BYTES);
        let latency = self.peers[at as usize].link.latency;
        if let Some((id, link, held)) = self.relay.as_mut().filter(|(id, ..)| *id == from) {
            let id = *id;
            let bytes = self.sizes.get(&blob).map_or(0, |(bytes, _)| *bytes) + OVERHEAD_BYTES;
            if held.contains(&blob) {
                let sent = link.send_blob(left + latency + link.latency, bytes);
                let latency = latency + link.latency;
                let arrives = self.peers[at as usize].link.receive_blob(sent, latency, bytes);
                // The relay does not go; the life of the peer that receives stands for its own.
                let life = self.peers[at as usize].life;
                self.later(arrives, at, Happening::Arrived { from: at, life, blob });
            } else {
                let why = Missing::Lacks;
                self.later(left + 2 * latency, at, Happening::Failed { from: id, blob, why });
            }
            return;
        }
        if let Some(holder) = self.places.get(&from).copied() {
            let arrives = left + latency + self.peers[holder as usize].link.latency;
            self.later(arrives, holder, Happening::Asked { by: at, blob });
        }
    }

    fn send(&mut self, at: u32, to: &[PeerId], bytes: &[u8]) {
        let from = self.peers[at as usize].id;
        let Ok(heard) = Frame::open(bytes, from, self.run) else {
            self.troubles.push("a peer sent what does not open".to_owned());
            return;
        };
        self.offer_to_relay(at, &heard);
        let heard = Arc::new(heard);
        let size = bytes.len() as u64 + OVERHEAD_BYTES;
        let mut left = self.now;
        for other in to {
            let Some(place) = self.places.get(other).copied() else { continue };
            left = self.peers[at as usize].link.send_message(left, size);
            let receiver = &mut self.peers[place as usize].link;
            let arrives = left + receiver.latency + receiver.receive_message(size);
            let arrives = arrives + self.peers[at as usize].link.latency;
            self.later(arrives, place, Happening::Heard { from, heard: heard.clone() });
        }
    }

    /// The author of an update uploads it to the relay when it first says that it holds it.
    fn offer_to_relay(&mut self, at: u32, heard: &Heard) {
        let Heard::Holds(blobs) = heard else { return };
        for blob in blobs {
            let size = self.sizes.get(&blob.digest).map_or(0, |(bytes, _)| *bytes) + OVERHEAD_BYTES;
            let Some((_, link, held)) = &mut self.relay else { return };
            if held.insert(blob.digest) {
                let peer = &mut self.peers[at as usize].link;
                let left = peer.send_blob(self.now, size);
                let arrives = link.receive_blob(left, peer.latency + link.latency, size);
                self.later(arrives, at, Happening::Relayed { blob: *blob });
            }
        }
    }

    fn relayed(&mut self, blob: Blob) {
        let Some((id, link, _)) = &self.relay else { return };
        let (from, latency) = (*id, link.latency);
        let heard = Arc::new(Heard::Holds(vec![blob]));
        for at in 0..self.peers.len() as u32 {
            let arrives = self.now + latency + self.peers[at as usize].link.latency;
            self.later(arrives, at, Happening::Heard { from, heard: heard.clone() });
        }
    }

    // Work

    fn compute(&mut self, at: u32, job: u64, work: &Job) {
        let (outcome, busy_ms, size) = {
            let peer = &self.peers[at as usize];
            let (me, liar) = (peer.id, peer.liar);
            let outcome = match work {
                Job::Next { body, .. } => match self.next_epochs.get(&body.digest()) {
                    Some(known) => Outcome::Next(known.clone()),
                    None => self.engine.run(me, liar, work),
                },
                _ => self.engine.run(me, liar, work),
            };
            let (busy_ms, size) = match (work, &outcome) {
                (Job::Train { .. }, _) => {
                    let train_ms = self.settings.train_ms;
                    (self.random.between(train_ms * 97 / 100, train_ms), self.costs.update_bytes())
                }
                (Job::Sum { updates, .. }, _) => {
                    (self.costs.sum_ms(updates.len()), self.costs.sum_bytes(updates.len() as u32))
                }
                (Job::Merge { part, sums }, Outcome::Merged { sum }) => {
                    (self.costs.merge_ms(sums.len()), self.costs.sum_bytes(self.engine.contributors(*part, sum)))
                }
                (Job::Finish { .. }, _) => (self.costs.finish_ms(), self.costs.coded_bytes()),
                (Job::Apply { .. }, _) => (self.costs.apply_ms(), 4 * self.settings.parameters),
                _ => (20, 0),
            };
            (outcome, busy_ms, size)
        };
        if let (Job::Next { body, .. }, Outcome::Next(epoch)) = (work, &outcome) {
            self.next_epochs.insert(body.digest(), epoch.clone());
        }
        let made: Vec<&Bytes> = match &outcome {
            Outcome::Trained { update, .. } => vec![update],
            Outcome::Summed { sums } => sums.iter().collect(),
            Outcome::Merged { sum } => vec![sum],
            Outcome::Finished { coded, .. } => vec![coded],
            _ => Vec::new(),
        };
        for bytes in made {
            self.sizes.entry(Digest::of(bytes)).or_insert((size, bytes.clone()));
        }
        let trained = if matches!(work, Job::Train { .. }) { busy_ms * 1000 } else { 0 };
        self.later(self.now + busy_ms * 1000, at, Happening::Done { job, outcome, trained });
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
                Output::Keep { blob, .. } => {
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
                }
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
