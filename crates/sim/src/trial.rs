//! A trial: a world is broken as its options say, heals, and must then go on within three rounds.

use std::collections::BTreeSet;

use shoal_swarm::{Command, Swarm};
use shoal_wire::{Digest, PeerId, Round};

use crate::{
    Clock, Faults, Lie, Model, Network, Options, Path, Random, RelayFate, Violation, World,
    check::{check_books, check_memory, check_replay},
    schedule::{self, Action},
};

/// The network after healing.
const HEALED: Network = Network { latency_ms: (5, 40), loss_per_mille: 0, duplicate_per_mille: 0 };
/// Rounds within which all must agree after healing.
const ROUNDS_TO_AGREE: usize = 3;

/// What a trial showed.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub event_hash: Digest,
    pub simulated_ms: u64,
    /// Rounds that were certified, and recoveries among what peers adopted.
    pub rounds: Round,
    pub recoveries: u64,
    pub violations: Vec<Violation>,
    /// Why the honest peers did not agree in time, if they did not.
    pub stalled: Option<String>,
    /// Why the honest peers could not agree, where that is as it should be.
    pub held_up: Option<&'static str>,
    /// Held-out loss of the last model, in nats, where it learns.
    pub loss: Option<f64>,
}

/// Runs the world that the options describe.
pub fn run_trial(options: &Options, verbose: bool) -> Report {
    let mut trial = Trial::new(options, verbose);
    for (at, action) in schedule::draw(options) {
        trial.run_to(at);
        trial.act(&action);
    }
    trial.run_to(options.unsafe_ms);
    trial.heal();
    let stalled = trial.agree_again();
    trial.close(stalled)
}

struct Trial<'a> {
    options: &'a Options,
    world: World,
    /// In the order in which they came, anchors first.
    peers: Vec<PeerId>,
    /// For clocks; the world draws from a stream of its own.
    random: Random,
}

impl<'a> Trial<'a> {
    fn new(options: &'a Options, verbose: bool) -> Self {
        let train_ms_max = options.train_ms_max;
        let model = if options.learns { Model::Learner } else { Model::Toy };
        let mut world = World::with_model(model, options.seed, HEALED, options.anchors, |manifest| {
            manifest.timing.train_ms_max = train_ms_max;
        });
        world.network = options.network();
        world.path = options.path();
        world.faults = Faults { jobs_per_mille: options.jobs_per_mille, writes_per_mille: options.writes_per_mille };
        world.write_ms = (1, options.write_ms_max);
        world.tears = options.tears;
        world.links_wanted = options.links_wanted;
        world.verbose = verbose;
        let peers = world.manifest().anchors.clone();
        Self { options, world, peers, random: Random::new(options.seed ^ 0xc10c) }
    }

    fn run_to(&mut self, at_ms: u64) {
        let wait_ms = at_ms.saturating_sub(self.world.now.0);
        self.world.run_for(wait_ms);
        for peer in self.world.live() {
            let over = check_memory(&self.world, peer);
            self.world.checker.violations.extend(over);
        }
    }

    fn note(&mut self, what: &str) {
        self.world.log.done(self.world.now, what);
        if self.world.verbose {
            println!("{:>9} ms  -- {what}", self.world.now.0);
        }
    }

    fn act(&mut self, action: &Action) {
        self.note(&format!("{action:?}"));
        let peer = |index: &usize| self.peers.get(*index).copied();
        match action {
            Action::Join => self.join(),
            Action::Crowd(count) => (0..*count).for_each(|_| {
                let peer = self.world.join_liar(Lie::FreeRide);
                self.peers.push(peer);
            }),
            Action::Crash(who) => {
                if let Some(peer) = peer(who) {
                    self.world.crash(peer);
                }
            }
            Action::Start(who) => {
                if let Some(peer) = peer(who).filter(|peer| self.world.swarm(*peer).is_none()) {
                    self.world.start(peer);
                }
            }
            Action::Leave(who) => {
                if let Some(peer) = peer(who) {
                    self.world.command(peer, Command::Leave);
                }
            }
            Action::Freeze(who, ms) => {
                if let Some(peer) = peer(who) {
                    self.world.freeze(peer, *ms);
                }
            }
            Action::Part { side, one_way } => self.part(side, *one_way),
            Action::Mend => self.world.mend(),
            Action::Relay(up) => {
                self.world.relay = *up;
                if *up {
                    self.reconnect();
                }
            }
            Action::FillDisk(who) => {
                if let Some(peer) = peer(who) {
                    self.world.fill_disk(peer);
                }
            }
        }
    }

    fn join(&mut self) {
        let Options { skew_ms, drift_ppm, .. } = *self.options;
        let ahead_ms = self.random.between(0, skew_ms);
        let drift_ppm = self.random.between(0, 2 * drift_ppm) as i64 - drift_ppm as i64;
        let place = self.peers.len() - self.options.anchors;
        let honest = self.options.volunteers.saturating_sub(self.options.lies.len());
        let lie = place.checked_sub(honest).and_then(|index| self.options.lies.get(index)).copied();
        let peer = self.world.join_with(Clock { ahead_ms, drift_ppm }, lie);
        let longest = u64::from(self.options.train_ms_max);
        let train_ms = self.random.between(longest / 10, longest);
        self.world.set_train_ms(peer, train_ms);
        if self.peers.len() < self.options.anchors + self.options.newer {
            self.world.make_newer(peer);
        }
        self.peers.push(peer);
    }

    fn part(&mut self, side: &[usize], one_way: bool) {
        let (inside, outside): (Vec<_>, Vec<_>) =
            self.peers.iter().enumerate().partition(|(index, _)| side.contains(index));
        for (_, from) in &inside {
            for (_, to) in &outside {
                self.world.cut(**from, **to);
                if !one_way {
                    self.world.cut(**to, **from);
                }
            }
        }
    }

    /// Everybody who has too few links looks for more.
    fn reconnect(&mut self) {
        for peer in self.world.live() {
            self.world.look_for_links(peer);
        }
    }

    /// Nothing goes wrong any more, and whoever is away comes back.
    fn heal(&mut self) {
        self.note("heal");
        let world = &mut self.world;
        world.network = HEALED;
        world.path = Path::default();
        world.faults = Faults::default();
        world.write_ms = (1, 10);
        world.tears = false;
        world.mend();
        world.relay = self.options.relay != RelayFate::GoneForGood;
        for peer in &self.peers {
            world.set_disk_full(*peer, false);
            if world.swarm(*peer).is_none() {
                world.start(*peer);
            }
        }
        self.reconnect();
    }

    /// Honest peers that can reach the first anchor.
    fn honest(&self) -> Vec<PeerId> {
        self.world.reachable().into_iter().filter(|peer| !self.world.checker.liars.contains(peer)).collect()
    }

    /// Waits until the honest peers certified something new and agree on it; says why if that is not soon enough.
    fn agree_again(&mut self) -> Option<String> {
        let honest = self.honest();
        let bodies = |world: &World, peer: &PeerId| -> Vec<Digest> {
            let certificates = world.swarm(*peer).map(|swarm| swarm.certificates().values());
            certificates.into_iter().flatten().map(|certificate| certificate.body.digest()).collect()
        };
        let before: BTreeSet<Digest> = honest.iter().flat_map(|peer| bodies(&self.world, peer)).collect();
        let first = honest[0];
        let is_new =
            |world: &World| world.swarm(first).is_some_and(|swarm| !before.contains(&swarm.chain().head().body));
        let done = |world: &World| is_new(world) && world.do_agree(&honest);
        if !self.world.run_until(self.patience_ms(), done) {
            return Some(format!("no agreement within {} ms: {}", self.patience_ms(), self.standing(&honest)));
        }
        let rounds = bodies(&self.world, &first).iter().filter(|body| !before.contains(*body)).count();
        (rounds > ROUNDS_TO_AGREE).then(|| format!("agreed {rounds} rounds after healing"))
    }

    /// Longer than three rounds can take, each with an absent leader or two, and a recovery before them.
    fn patience_ms(&self) -> u64 {
        let timing = &self.world.manifest().timing;
        let round = [timing.train_ms_max, timing.exchange_ms_max, timing.recovery_ms, timing.view_ms * 8];
        round.into_iter().map(u64::from).sum::<u64>() * (ROUNDS_TO_AGREE as u64 + 2)
    }

    /// What keeps these peers from certifying, and should.
    fn held_up(&self, honest: &[PeerId]) -> Option<&'static str> {
        let chain = self.world.swarm(*honest.first()?).map(Swarm::chain)?;
        let anchors = &self.world.manifest().anchors;
        let reached = honest.iter().filter(|peer| anchors.contains(peer)).count();
        if reached == honest.len() || reached * 2 <= anchors.len() {
            return Some("without a relay, no volunteer or no majority of the anchors is left to reach");
        }
        let lies = |peer: &PeerId| self.world.peers.get(peer).and_then(|peer| peer.lie).is_some_and(Lie::is_in_votes);
        let weights = chain.weights();
        let theirs: u64 = weights.iter().filter(|(peer, _)| lies(peer)).map(|(_, weight)| weight).sum();
        let third = theirs > 0 && theirs * 3 >= weights.values().sum();
        third.then_some("peers that lie with their votes hold a third of them")
    }

    fn standing(&self, honest: &[PeerId]) -> String {
        let place = |peer: &PeerId| {
            let head = self.world.swarm(*peer).map(|swarm| swarm.chain().head());
            head.map(|head| format!("{} at {} {}", peer.short(), head.round, head.body.short()))
        };
        honest.iter().filter_map(place).collect::<Vec<_>>().join(", ")
    }

    fn close(mut self, stalled: Option<String>) -> Report {
        let honest = self.honest();
        for peer in &honest {
            let over = check_memory(&self.world, *peer);
            self.world.checker.violations.extend(over);
        }
        // Those who agree hold the same chain, so that of one is theirs all.
        let chains = if stalled.is_some() { honest.len() } else { 1 };
        for peer in &honest[..chains] {
            let differs = check_replay(&self.world, *peer);
            self.world.checker.violations.extend(differs);
        }
        let books = check_books(&self.world, &honest);
        self.world.checker.violations.extend(books);
        let held_up = if stalled.is_some() { self.held_up(&honest) } else { None };
        Report {
            held_up,
            loss: self.world.loss(),
            seed: self.options.seed,
            event_hash: self.world.event_hash(),
            simulated_ms: self.world.now.0,
            rounds: self.world.round(),
            recoveries: self.world.checker.recoveries,
            violations: self.world.checker.violations,
            stalled: stalled.filter(|_| held_up.is_none()),
        }
    }
}
