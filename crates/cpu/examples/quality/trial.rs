//! What is compared: ways to train, and one training of each.

use serde::{Deserialize, Serialize};
use shoal_wire::Digest;
use shoal_wire::manifest::{Codec, Outer};

/// The recipe's error feedback, 0.95.
const FEEDBACK_1024: u16 = 973;

/// How peers' changes become the next model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exchange {
    /// One peer's steps one after another, without rounds: plain training.
    Alone,
    /// Shoal's codecs, error feedback and outer step, as a run does them.
    Shoal { codec: Codec, feedback_1024: u16 },
    /// The same, with the mean coded as in a run of many peers.
    ShoalCoded { codec: Codec, feedback_1024: u16 },
    /// DiLoCo (arXiv 2311.08105): whole changes in f32, averaged, with Nesterov's momentum; 0 is the plain mean.
    Diloco { momentum_percent: u8 },
}

/// One training. Integers, so that equal trials are equal in a file too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub exchange: Exchange,
    pub peers: u8,
    /// Updates that are lost in each round.
    pub lost: u8,
    /// Peak of the inner learning rate.
    pub lr_millionths: u32,
    /// The outer learning rate.
    pub outer_1024: u16,
    /// Of the first weights, the batches and what is lost: trials with the same seed are paired.
    pub seed: u64,
}

impl Trial {
    pub fn lr(&self) -> f32 {
        self.lr_millionths as f32 / 1e6
    }

    pub fn outer_rate(&self) -> f64 {
        f64::from(self.outer_1024) / 1024.0
    }

    /// The outer step of a run, where the trial has one.
    pub fn outer(&self) -> Option<Outer> {
        match self.exchange {
            Exchange::Shoal { codec, feedback_1024 } | Exchange::ShoalCoded { codec, feedback_1024 } => {
                Some(Outer { codec, alpha_1024: self.outer_1024, feedback_1024 })
            }
            Exchange::Alone | Exchange::Diloco { .. } => None,
        }
    }

    /// A round's randomness.
    pub fn randomness(&self, round: u64) -> Digest {
        self.drawn("shoal bench quality round", round, 0)
    }

    pub fn first_weights(&self) -> Digest {
        self.drawn("shoal bench quality weights", 0, 0)
    }

    /// Which peers' updates arrive in a round, drawn anew in each.
    pub fn arrives(&self, round: u64) -> Vec<bool> {
        let mut order: Vec<u8> = (0..self.peers).collect();
        order.sort_by_key(|peer| self.drawn("shoal bench quality losses", round, *peer));
        (0..self.peers).map(|peer| !order[..usize::from(self.lost.min(self.peers))].contains(&peer)).collect()
    }

    fn drawn(&self, domain: &str, round: u64, peer: u8) -> Digest {
        Digest::in_domain(domain, &[&self.seed.to_le_bytes()[..], &round.to_le_bytes(), &[peer]].concat())
    }
}

/// Where an arm's learning rates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rates {
    /// Its own search over the inner rate.
    Inner,
    /// Its own search over both.
    Both,
    /// Another arm's, and an outer rate of 1 where that arm has none.
    Of(&'static str),
}

/// A way to train that is compared with others.
#[derive(Clone, Copy, Debug)]
pub struct Arm {
    pub name: &'static str,
    pub exchange: Exchange,
    pub peers: u8,
    pub lost: u8,
    pub rates: Rates,
    /// Most seeds that tell what is asked of it.
    seeds_max: u64,
}

const fn shoal(codec: Codec, feedback_1024: u16) -> Exchange {
    Exchange::Shoal { codec, feedback_1024 }
}

const CODED_MEAN: Exchange = Exchange::ShoalCoded { codec: Codec::Topk, feedback_1024: FEEDBACK_1024 };

const fn arm(name: &'static str, exchange: Exchange, (peers, lost): (u8, u8), rates: Rates, seeds_max: u64) -> Arm {
    Arm { name, exchange, peers, lost, rates, seeds_max }
}

/// In an order in which rates are known before they are taken.
pub const ARMS: [Arm; 9] = [
    arm("adamw", Exchange::Alone, (1, 0), Rates::Inner, 8),
    arm("dense4_one_peer", shoal(Codec::Dense4, FEEDBACK_1024), (1, 0), Rates::Of("adamw"), 8),
    arm("diloco_nesterov", Exchange::Diloco { momentum_percent: 90 }, (4, 0), Rates::Both, 4),
    arm("diloco_mean", Exchange::Diloco { momentum_percent: 0 }, (4, 0), Rates::Both, 8),
    arm("topk", shoal(Codec::Topk, FEEDBACK_1024), (4, 0), Rates::Both, 8),
    arm("topk_coded_mean", CODED_MEAN, (4, 0), Rates::Of("topk"), 8),
    arm("topk_half_lost", shoal(Codec::Topk, FEEDBACK_1024), (4, 2), Rates::Of("topk"), 8),
    arm("topk_without_feedback", shoal(Codec::Topk, 0), (4, 0), Rates::Of("topk"), 3),
    arm("dense4", shoal(Codec::Dense4, FEEDBACK_1024), (4, 0), Rates::Of("diloco_mean"), 3),
];

impl Arm {
    pub fn trial(&self, (lr_millionths, outer_1024): (u32, u16), seed: u64) -> Trial {
        let Self { exchange, peers, lost, .. } = *self;
        Trial { exchange, peers, lost, lr_millionths, outer_1024, seed }
    }

    /// How many seeds it has where a comparison has `seeds`; two at least, for an interval.
    pub fn seeds(&self, seeds: u64) -> u64 {
        seeds.min(self.seeds_max).max(2)
    }
}
