//! What a world is drawn from.

use shoal_swarm::crowd::Timing;
use shoal_wire::manifest::Codec;

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
    pub(super) fn timing(&self) -> Timing {
        let train_ms = self.train_ms * 13 / 10 + 10_000;
        Timing { grace_ms: 2_500, turn_ms: 2_000, level_ms: 10_000, audit_ms: self.audit_ms, train_ms, view_ms: 4_000 }
    }
}
