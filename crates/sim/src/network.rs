//! What lies between two peers: latency, loss, damage, rates and cuts.

use std::collections::{BTreeMap, BTreeSet};

use shoal_wire::{Millis, PeerId};

use crate::Random;

/// What the network does to each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub latency_ms: (u64, u64),
    pub loss_per_mille: u64,
    pub duplicate_per_mille: u64,
}

/// What else happens to frames; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Frames of which a bit flips, or of which the end is missing.
    pub corrupt_per_mille: u64,
    /// Frames that later ones overtake.
    pub reorder_per_mille: u64,
    pub burst: Option<Burst>,
    /// What one peer can send; 0 means without a limit.
    pub uplink_kbit_per_s: u64,
}

/// Loss in bursts (Gilbert 1960, Elliott 1963): a path is good or bad, and a bad one loses every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Share of frames lost in the long run.
    pub loss_per_mille: u64,
    /// Mean number of frames lost in a row.
    pub frames: u64,
}

/// How late an overtaken frame is, beyond the latency of its path.
const OVERTAKEN_MS: (u64, u64) = (50, 500);

/// A kind of connection, by the name that people know it by. The ladder is that of iroh's network tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preset {
    Wifi,
    Mobile4g,
    Satellite,
    /// Rungs 0 to 7.
    Iroh(u8),
}

impl Preset {
    pub const ALL: [Self; 11] = [
        Self::Wifi,
        Self::Mobile4g,
        Self::Satellite,
        Self::Iroh(0),
        Self::Iroh(1),
        Self::Iroh(2),
        Self::Iroh(3),
        Self::Iroh(4),
        Self::Iroh(5),
        Self::Iroh(6),
        Self::Iroh(7),
    ];

    /// Latency from and to, loss of 1,000, frames lost in a row, kbit/s.
    const fn figures(self) -> (u64, u64, u64, u64, u64) {
        match self {
            Self::Wifi => (2, 15, 1, 1, 50_000),
            Self::Mobile4g => (30, 90, 10, 3, 10_000),
            Self::Satellite => (280, 340, 10, 5, 5_000),
            Self::Iroh(0) => (5, 20, 1, 1, 100_000),
            Self::Iroh(1) => (20, 50, 10, 2, 50_000),
            Self::Iroh(2) => (50, 100, 20, 3, 20_000),
            Self::Iroh(3) => (100, 200, 30, 5, 10_000),
            Self::Iroh(4) => (150, 300, 50, 10, 5_000),
            Self::Iroh(5) => (225, 450, 80, 20, 800),
            Self::Iroh(6) => (500, 600, 15, 5, 2_000),
            Self::Iroh(_) => (250, 500, 120, 25, 500),
        }
    }

    pub const fn network(self) -> Network {
        let (low, high, ..) = self.figures();
        Network { latency_ms: (low, high), loss_per_mille: 0, duplicate_per_mille: 0 }
    }

    pub const fn path(self) -> Path {
        let (.., loss_per_mille, frames, uplink_kbit_per_s) = self.figures();
        let burst = Some(Burst { loss_per_mille, frames });
        Path { corrupt_per_mille: 0, reorder_per_mille: 0, burst, uplink_kbit_per_s }
    }
}

impl core::fmt::Display for Preset {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Wifi => f.write_str("wifi"),
            Self::Mobile4g => f.write_str("4g"),
            Self::Satellite => f.write_str("satellite"),
            Self::Iroh(rung) => write!(f, "iroh{rung}"),
        }
    }
}

/// The state of every path.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    /// Paths, from and to, that lose everything at the moment.
    bad: BTreeSet<(PeerId, PeerId)>,
    /// When each peer's uplink has sent what it was given.
    busy_until: BTreeMap<PeerId, Millis>,
    /// Paths, from and to, that a partition cut.
    pub cuts: BTreeSet<(PeerId, PeerId)>,
}

impl Paths {
    /// What arrives of a frame, and after how long.
    pub fn carry(
        &mut self,
        random: &mut Random,
        (network, path): (&Network, &Path),
        (from, to, now): (PeerId, PeerId, Millis),
        frame: &[u8],
    ) -> Vec<(u64, Vec<u8>)> {
        let queued_ms = self.queue(path, from, now, frame.len());
        if self.cuts.contains(&(from, to)) || random.chance(network.loss_per_mille) {
            return Vec::new();
        }
        if path.burst.is_some_and(|burst| self.is_bad(random, burst, (from, to))) {
            return Vec::new();
        }
        let copies = if random.chance(network.duplicate_per_mille) { 2 } else { 1 };
        let mut arrivals = Vec::with_capacity(copies);
        for _ in 0..copies {
            let mut wait_ms = queued_ms + random.between(network.latency_ms.0, network.latency_ms.1);
            if path.reorder_per_mille > 0 && random.chance(path.reorder_per_mille) {
                wait_ms += random.between(OVERTAKEN_MS.0, OVERTAKEN_MS.1);
            }
            let mut bytes = frame.to_vec();
            if path.corrupt_per_mille > 0 && random.chance(path.corrupt_per_mille) {
                damage(random, &mut bytes);
            }
            arrivals.push((wait_ms, bytes));
        }
        arrivals
    }

    /// How long a frame waits for its peer's uplink and takes to pass it.
    fn queue(&mut self, path: &Path, from: PeerId, now: Millis, bytes: usize) -> u64 {
        if path.uplink_kbit_per_s == 0 {
            return 0;
        }
        let takes_ms = bytes as u64 * 8 / path.uplink_kbit_per_s;
        let until = self.busy_until.entry(from).or_default();
        *until = (*until).max(now) + takes_ms;
        until.since(now)
    }

    /// Moves a path on by one frame.
    fn is_bad(&mut self, random: &mut Random, burst: Burst, path: (PeerId, PeerId)) -> bool {
        const MILLION: u64 = 1_000_000;
        let leave = MILLION / burst.frames.max(1);
        let good = 1000_u64.saturating_sub(burst.loss_per_mille).max(1);
        let enter = leave * burst.loss_per_mille / good;
        let draw = random.draw() % MILLION;
        if self.bad.contains(&path) {
            if draw < leave {
                self.bad.remove(&path);
            }
        } else if draw < enter {
            self.bad.insert(path);
        }
        self.bad.contains(&path)
    }
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.place(bytes.len());
    if random.chance(200) {
        bytes.truncate(at);
    } else if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << random.between(0, 7);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bursty_path_loses_its_share_in_runs() {
        let (network, path) = (Preset::Iroh(5).network(), Preset::Iroh(5).path());
        let (mut random, mut paths) = (Random::new(1), Paths::default());
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let arrived: Vec<bool> = (0..50_000_u64)
            .map(|turn| !paths.carry(&mut random, (&network, &path), (a, b, Millis(turn * 100)), &[0; 100]).is_empty())
            .collect();
        let lost = arrived.iter().filter(|arrived| !**arrived).count();
        let runs = arrived.windows(2).filter(|pair| pair[0] && !pair[1]).count();
        assert!((3_000..5_000).contains(&lost), "{lost} of 50,000 lost instead of 8 %");
        assert!((15..25).contains(&(lost / runs)), "{lost} lost in {runs} runs instead of 20 in each");
    }

    #[test]
    fn an_uplink_makes_frames_wait_for_each_other() {
        let path = Path { uplink_kbit_per_s: 800, ..Path::default() };
        let mut paths = Paths::default();
        let from = PeerId([1; 32]);
        let waits = [0, 0, 200].map(|now| paths.queue(&path, from, Millis(now), 10_000));
        assert_eq!(waits, [100, 200, 100]);
    }
}
