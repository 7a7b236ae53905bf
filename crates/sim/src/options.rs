//! Everything that is chosen about a world, drawn from its seed.

use core::fmt;

use crate::{Lie, Network, Path, Preset, Random, network::Burst};

/// What becomes of the relay, which introduces peers to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayFate {
    Stays,
    /// It is away for a while, now and then.
    Restarts,
    /// From some time on there is none: peers that lose all their links stay alone.
    GoneForGood,
}

/// How a world is made, and what goes wrong in it until it heals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub seed: u64,
    pub anchors: usize,
    /// Volunteers that come at the beginning.
    pub volunteers: usize,
    /// Volunteers that come later.
    pub latecomers: usize,
    /// Peers that one that starts links with.
    pub links_wanted: usize,
    pub preset: Preset,
    /// Loss beyond the preset's own.
    pub loss_per_mille: u64,
    pub duplicate_per_mille: u64,
    pub reorder_per_mille: u64,
    pub corrupt_per_mille: u64,
    /// How often the network parts, and whether only one side stops hearing the other.
    pub partitions: usize,
    pub one_way: bool,
    /// The most that a clock is ahead of another, and by which it runs fast or slow.
    pub skew_ms: u64,
    pub drift_ppm: u64,
    /// Of a hundred volunteers, those that go in a round, to come back soon.
    pub churn_percent: u64,
    /// Anchors go and come back, too.
    pub anchors_churn: bool,
    /// Tabs that freeze for a minute.
    pub freezes: usize,
    pub tears: bool,
    pub jobs_per_mille: u64,
    pub writes_per_mille: u64,
    pub full_disks: usize,
    pub write_ms_max: u64,
    /// Volunteers that speak a later version, too.
    pub newer: usize,
    pub relay: RelayFate,
    /// Whether the model learns for real.
    pub learns: bool,
    /// What those of the first volunteers that lie do.
    pub lies: Vec<Lie>,
    /// Free riders that come at once.
    pub sybils: usize,
    /// The longest that a round trains.
    pub train_ms_max: u32,
    /// How long things go wrong.
    pub unsafe_ms: u64,
}

impl Options {
    /// The options that a seed stands for. Each kind of fault is in about a third of all worlds, so that many worlds
    /// have a few of them, and what one hides another shows.
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x0097_1045_0f5e_ed00);
        let random = &mut random;
        let peers = if random.chance(900) { random.between(3, 8) } else { random.between(9, 16) } as usize;
        let anchors = if random.chance(700) { 1 } else { random.between(2, 3) as usize };
        let train_ms_max = [10_000, 20_000, 30_000][random.between(0, 2) as usize];
        let volunteers = peers.saturating_sub(anchors).max(1);
        let lies = lies(random, volunteers);
        let sybils = sometimes(random, 150, (2, 5)) as usize;
        Self {
            seed,
            anchors,
            volunteers,
            learns: !lies.is_empty() || sybils > 0 || random.chance(500),
            lies,
            sybils,
            latecomers: sometimes(random, 300, (1, 2)) as usize,
            links_wanted: if peers > 8 || random.chance(200) { random.between(3, 8) as usize } else { usize::MAX },
            preset: Preset::ALL[random.place(Preset::ALL.len())],
            loss_per_mille: sometimes(random, 300, (1, 300)),
            duplicate_per_mille: sometimes(random, 300, (1, 500)),
            reorder_per_mille: sometimes(random, 300, (1, 500)),
            corrupt_per_mille: sometimes(random, 300, (1, 100)),
            partitions: sometimes(random, 350, (1, 3)) as usize,
            one_way: random.chance(500),
            skew_ms: sometimes(random, 400, (1, 600_000)),
            drift_ppm: sometimes(random, 400, (1, 20_000)),
            churn_percent: sometimes(random, 400, (1, 50)),
            anchors_churn: random.chance(300),
            freezes: sometimes(random, 250, (1, 3)) as usize,
            tears: random.chance(600),
            jobs_per_mille: sometimes(random, 250, (1, 200)),
            writes_per_mille: sometimes(random, 200, (1, 20)),
            full_disks: sometimes(random, 200, (1, 2)) as usize,
            write_ms_max: if random.chance(250) { random.between(50, 1_500) } else { 10 },
            newer: sometimes(random, 200, (1, 2)) as usize,
            relay: match random.between(0, 9) {
                0..=5 => RelayFate::Stays,
                6..=7 => RelayFate::Restarts,
                _ => RelayFate::GoneForGood,
            },
            train_ms_max,
            unsafe_ms: random.between(120_000, 240_000),
        }
    }

    pub(crate) fn network(&self) -> Network {
        Network {
            loss_per_mille: self.loss_per_mille,
            duplicate_per_mille: self.duplicate_per_mille,
            ..self.preset.network()
        }
    }

    pub(crate) fn path(&self) -> Path {
        Path {
            corrupt_per_mille: self.corrupt_per_mille,
            reorder_per_mille: self.reorder_per_mille,
            ..self.preset.path()
        }
    }
}

/// What at most a third of the volunteers do, and one at most with its votes, where there are enough others.
fn lies(random: &mut Random, volunteers: usize) -> Vec<Lie> {
    let count = sometimes(random, 400, (1, (volunteers as u64 / 3).max(1)));
    let mut lies: Vec<Lie> = Vec::new();
    for _ in 0..count {
        let lie = Lie::ALL[random.place(Lie::ALL.len())];
        let alone = volunteers >= 4 && !lies.iter().any(|other| other.is_in_votes());
        lies.push(if lie.is_in_votes() && !alone { Lie::SignFlip } else { lie });
    }
    lies
}

/// A number of this range in `per_mille` of a thousand cases, otherwise 0.
fn sometimes(random: &mut Random, per_mille: u64, (low, high): (u64, u64)) -> u64 {
    let number = random.between(low, high);
    if random.chance(per_mille) { number } else { 0 }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, anchors, volunteers, latecomers, preset, .. } = self;
        let percent = |per_mille: u64| per_mille as f64 / 10.0;
        writeln!(f, "seed {seed}: {volunteers} volunteers and {latecomers} more later, {anchors} anchors")?;
        let path = self.path();
        let Burst { loss_per_mille, frames } = path.burst.unwrap_or(Burst { loss_per_mille: 0, frames: 0 });
        let (low, high) = self.network().latency_ms;
        write!(
            f,
            "  network   {preset} ({low} to {high} ms, {} % lost in bursts of {frames}, ",
            percent(loss_per_mille)
        )?;
        writeln!(f, "{} kbit/s)", path.uplink_kbit_per_s)?;
        write!(f, "  frames    {} % more lost, ", percent(self.loss_per_mille))?;
        write!(f, "{} % twice, ", percent(self.duplicate_per_mille))?;
        write!(f, "{} % overtaken, ", percent(self.reorder_per_mille))?;
        writeln!(f, "{} % damaged", percent(self.corrupt_per_mille))?;
        let links = if self.links_wanted == usize::MAX { "all".to_owned() } else { self.links_wanted.to_string() };
        let way = if self.one_way { "one-way " } else { "" };
        writeln!(f, "  links     {links} wanted, {} {way}partitions, relay: {:?}", self.partitions, self.relay)?;
        write!(f, "  peers     {} % churn (anchors too: {}), ", self.churn_percent, self.anchors_churn)?;
        writeln!(f, "{} freezes, {} of a later version", self.freezes, self.newer)?;
        writeln!(f, "  clocks    up to {} ms apart, {} ppm of drift", self.skew_ms, self.drift_ppm)?;
        write!(f, "  disks     torn: {}, {} % of writes fail, ", self.tears, percent(self.writes_per_mille))?;
        writeln!(f, "{} full, up to {} ms a write", self.full_disks, self.write_ms_max)?;
        writeln!(
            f,
            "  engines   {} % of jobs fail, rounds of up to {} ms",
            percent(self.jobs_per_mille),
            self.train_ms_max
        )?;
        writeln!(f, "  liars     {:?}, a crowd of {} (the model learns: {})", self.lies, self.sybils, self.learns)?;
        write!(f, "  time      {} ms until it heals", self.unsafe_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Figure = fn(&Options) -> u64;

    #[test]
    fn seeds_reach_every_kind_of_fault_and_both_ends_of_their_ranges() {
        let all: Vec<Options> = (0..2_000).map(Options::draw).collect();
        let most = |of: fn(&Options) -> u64| all.iter().map(of).max().unwrap_or(0);
        let none = |of: fn(&Options) -> u64| all.iter().any(|options| of(options) == 0);
        let figures: [(Figure, u64); 8] = [
            (|options| options.loss_per_mille, 290),
            (|options| options.duplicate_per_mille, 490),
            (|options| options.corrupt_per_mille, 95),
            (|options| options.churn_percent, 50),
            (|options| options.skew_ms, 590_000),
            (|options| options.freezes as u64, 3),
            (|options| options.full_disks as u64, 2),
            (|options| options.newer as u64, 2),
        ];
        for (of, at_least) in figures {
            assert!(none(of) && most(of) >= at_least, "{}", most(of));
        }
        assert!(Preset::ALL.iter().all(|preset| all.iter().any(|options| options.preset == *preset)));
        for fate in [RelayFate::Stays, RelayFate::Restarts, RelayFate::GoneForGood] {
            assert!(all.iter().any(|options| options.relay == fate));
        }
        assert!(Lie::ALL.iter().all(|lie| all.iter().any(|options| options.lies.contains(lie))));
        assert!(all.iter().all(|options| options.anchors + options.volunteers + options.latecomers <= 18));
    }
}
