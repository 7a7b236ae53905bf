//! The figures of a large run: bytes, time, and what a crowd of fresh identities gets.

use std::{collections::BTreeMap, time::Instant};

use serde_json::{Value, json};
use shoal_swarm::crowd::Epoch;
use shoal_wire::manifest::Codec;

use super::{CrowdWorld, Phase, Settings};

/// Rounds of each world. The first has no rates of earlier rounds, so its sums are larger; it is not counted.
const ROUNDS: u64 = 3;

/// What one world showed.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: &'static str,
    pub peers: usize,
    pub rounds: u64,
    /// Every round ended with one model for all.
    pub one_model: bool,
    pub contributors: f64,
    /// Sent by a peer in a round: the mean, and the most of one.
    pub bytes: f64,
    pub most_bytes: f64,
    /// Of a round's time that was training, and the rest.
    pub computing: f64,
    pub other_seconds: f64,
    /// When peers came so far in a round, on average, in seconds from its beginning.
    pub phases: Vec<(Phase, f64)>,
    /// What it took to simulate.
    pub wall_seconds: f64,
    pub events: u64,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub bytes_per_peer: Vec<Row>,
    pub thousand: Row,
    pub ten_thousand: Option<Row>,
    pub sixteen: Row,
    pub sixteen_without_relay: Row,
    /// Shares of 800 fresh identities among 1,000: of votes, of the committee (the most in any round), of the sum.
    pub sybil_votes: f64,
    pub sybil_committee: f64,
    pub sybil_sum: f64,
    pub sybil: Row,
}

/// Runs all worlds; `many` tells how many peers the largest has.
pub fn scale(many: Option<usize>, mut each: impl FnMut(&Row)) -> Report {
    let mut run = |name, settings: &Settings| {
        let row = row(name, settings).0;
        each(&row);
        row
    };
    let bytes_per_peer = [16, 64, 256, 1024].map(|peers| run("bytes", &Settings { peers, ..long() })).to_vec();
    let thousand = run("thousand", &Settings { peers: 1000, churn_per_mille: 50, ..long() });
    let relay = Settings { relay_kbps: Some(1_000_000), ..contributors() };
    let sixteen = run("sixteen", &relay);
    let sixteen_without_relay = run("sixteen, no relay", &contributors());
    let ten_thousand = many.map(|peers| run("many", &Settings { peers, churn_per_mille: 20, ..long() }));
    let (sybil, world) = row("sybil", &Settings { peers: 1000, fresh: 800, ..long() });
    each(&sybil);
    let shares = world.epochs.values().map(|epoch| shares(&world, epoch));
    let most = |of: fn(&[f64; 3]) -> f64| shares.clone().map(|all| of(&all)).fold(0.0, f64::max);
    Report {
        bytes_per_peer,
        thousand,
        ten_thousand,
        sixteen,
        sixteen_without_relay,
        sybil_votes: most(|all| all[0]),
        sybil_committee: most(|all| all[1]),
        sybil_sum: most(|all| all[2]),
        sybil,
    }
}

/// 10 M parameters, `topk` (64 of 4,096 values), H = 250 steps of 1 s: a step is 16,384 tokens at 1 TFLOP/s. Uplinks of 1
/// to 20 Mbit/s want rounds of a few minutes; slower machines do fewer steps in the same time.
fn long() -> Settings {
    Settings { train_ms: 250_000, ..Settings::default() }
}

/// Covenant-72B's shape: 16 contributors, 50 M parameters, 5 Mbit/s up and 25 down, H = 30 steps of 4.9 s: 16,384 tokens a
/// step at 1 TFLOP/s.
fn contributors() -> Settings {
    Settings {
        peers: 16,
        parameters: 50_000_000,
        train_ms: 30 * 4_900,
        up_kbps: (5_000, 5_000),
        down_kbps: (25_000, 25_000),
        ..Settings::default()
    }
}

/// One of the worlds by its name, or by the number of its peers.
pub fn world(name: &str, many: usize) -> Option<Settings> {
    Some(match name {
        "thousand" => Settings { peers: 1000, churn_per_mille: 50, ..long() },
        "sixteen" => Settings { relay_kbps: Some(1_000_000), ..contributors() },
        "sixteen-without-relay" => contributors(),
        "many" => Settings { peers: many, churn_per_mille: 20, ..long() },
        "sybil" => Settings { peers: 1000, fresh: 800, ..long() },
        _ => Settings { peers: name.parse().ok()?, ..long() },
    })
}

/// Runs a world and says what it showed.
pub fn row(name: &'static str, settings: &Settings) -> (Row, CrowdWorld) {
    let begun = Instant::now();
    let mut world = CrowdWorld::new(settings.clone());
    let within_ms = settings.train_ms * 4 + 300_000;
    let first = world.run_rounds(1, within_ms);
    let (before, most_before) = world.sent_bytes();
    let all = first && world.run_rounds(ROUNDS, within_ms * ROUNDS);
    let (after, most) = world.sent_bytes();
    let counted = world.rounds.range(2..=ROUNDS).map(|(_, tally)| tally);
    let (mut seconds, mut trained, mut peers, mut contributors) = (0.0, 0.0, 0.0, 0.0);
    let mut phases = BTreeMap::new();
    for tally in counted {
        seconds += tally.seconds;
        trained += tally.trained_seconds;
        peers += f64::from(tally.adopted);
        contributors += f64::from(tally.contributors);
        for (phase, (seconds, count)) in &tally.phases {
            let all: &mut (f64, u32) = phases.entry(*phase).or_default();
            *all = (all.0 + seconds, all.1 + count);
        }
    }
    let rounds = (ROUNDS - 1) as f64;
    let one_model = all && world.troubles.is_empty() && world.rounds.values().all(|tally| tally.models.len() == 1);
    let row = Row {
        name,
        peers: settings.peers,
        rounds: world.rounds.keys().last().copied().unwrap_or(0).min(ROUNDS),
        one_model,
        contributors: contributors / rounds,
        bytes: (after - before) / rounds,
        most_bytes: (most - most_before) as f64 / rounds,
        computing: if seconds > 0.0 { trained / seconds } else { 0.0 },
        other_seconds: (seconds - trained) / f64::max(peers, 1.0),
        phases: phases
            .into_iter()
            .map(|(phase, (seconds, count))| (phase, seconds / f64::from(count.max(1))))
            .collect(),
        wall_seconds: begun.elapsed().as_secs_f64(),
        events: world.events,
    };
    (row, world)
}

/// What those who began without a valid round have of the votes, the committee and the sum of a round.
fn shares(world: &CrowdWorld, epoch: &Epoch) -> [f64; 3] {
    let seats = epoch.roster.seats();
    let fresh = |at: usize| u64::from(seats[at].member.valid < 10);
    let share = |parts: &mut dyn Iterator<Item = (usize, u64)>| {
        let (mut some, mut all) = (0, 0);
        for (at, weight) in parts {
            some += weight * fresh(at);
            all += weight;
        }
        some as f64 / f64::max(all as f64, 1.0)
    };
    let votes = share(&mut seats.iter().enumerate().map(|(at, seat)| (at, seat.weight)));
    let committee = share(&mut epoch.draw.committee().iter().map(|at| (*at as usize, 1)));
    let attendance = (0..world.settings.peers)
        .find_map(|at| world.crowd(at).certificate(epoch.round))
        .map(|certificate| certificate.body.attendance.clone())
        .unwrap_or_default();
    let present = attendance.iter().flat_map(|(group, mask)| {
        let members = epoch.draw.groups()[*group as usize].iter().enumerate();
        members.filter(|(place, _)| mask >> place & 1 == 1).map(|(_, at)| *at as usize).collect::<Vec<usize>>()
    });
    let sum = share(&mut present.map(|at| (at, u64::from(seats[at].trust))));
    [votes, committee, sum]
}

impl Row {
    pub fn json(&self) -> Value {
        let phases: serde_json::Map<String, Value> =
            self.phases.iter().map(|(phase, seconds)| (format!("{phase:?}").to_lowercase(), json!(seconds))).collect();
        json!({
            "phases": phases,
            "peers": self.peers, "rounds": self.rounds, "one_model": self.one_model,
            "contributors": self.contributors, "bytes": self.bytes.round(), "most_bytes": self.most_bytes.round(),
            "computing": self.computing, "other_seconds": self.other_seconds,
            "wall_seconds": self.wall_seconds, "events": self.events,
        })
    }
}

impl Report {
    pub fn json(&self) -> Value {
        let bytes: serde_json::Map<String, Value> =
            self.bytes_per_peer.iter().map(|row| (row.peers.to_string(), json!(row.bytes.round()))).collect();
        json!({
            "bytes_per_peer": bytes,
            "codec": match long().codec { Codec::Topk => "topk", Codec::Dense4 => "dense4" },
            "computing_1000": self.thousand.computing,
            "thousand": self.thousand.json(),
            "many": self.ten_thousand.as_ref().map(Row::json),
            "utilisation": self.sixteen.computing,
            "utilisation_without_relay": self.sixteen_without_relay.computing,
            "sybil_weight": self.sybil_votes.max(self.sybil_sum),
            "sybil": { "votes": self.sybil_votes, "committee": self.sybil_committee, "sum": self.sybil_sum,
                "world": self.sybil.json() },
        })
    }
}
