//! What a run of a real size would send and compute.

use std::sync::OnceLock;

use shoal_learn::{
    Layout, TensorInfo,
    outer::{Bounds, Contribution, Grid, PartialSum, Residual, partial_sums, parts},
};
use shoal_swarm::crowd::PARTS;
use shoal_wire::manifest::{Codec, Outer};

use crate::Random;

/// Values of the model on which sizes are measured.
const SAMPLE: usize = 4 * 4096;

/// What blobs and work of a run cost.
#[derive(Clone, Debug)]
pub struct Costs {
    parameters: f64,
    sizes: Sizes,
}

/// Sizes of blobs in bits a parameter, measured on the real encoders with Gaussian updates.
#[derive(Clone, Debug)]
struct Sizes {
    update: f64,
    coded: f64,
    /// Of sums of 1, 4, 16, ... updates.
    sums: Vec<f64>,
}

/// Nanoseconds a parameter on one thread in Wasm, as `cargo run --example sums` of `shoal-learn` measured them there
/// (docs/many-peers.md), rounded up.
mod ns {
    /// Reading a sparse update and adding it.
    pub const SUM_AN_UPDATE: f64 = 1.7;
    pub const ENCODE_A_SUM: f64 = 16.0;
    pub const DECODE_A_SUM: f64 = 32.0;
    pub const ADD_A_SUM: f64 = 2.0;
    pub const CODE: f64 = 61.0;
    pub const APPLY: f64 = 38.0;
    pub const APPLY_A_SUM: f64 = 35.0;
}

/// Threads that parts are spread over: nothing has fewer cores, and parts have nothing to do with each other.
const THREADS: f64 = 2.0;

impl Sizes {
    fn of(codec: Codec) -> &'static Self {
        static DENSE4: OnceLock<Sizes> = OnceLock::new();
        static TOPK: OnceLock<Sizes> = OnceLock::new();
        let known = if codec == Codec::Topk { &TOPK } else { &DENSE4 };
        known.get_or_init(|| Self::measure(codec))
    }

    fn measure(codec: Codec) -> Self {
        let layout = Layout { tensors: vec![TensorInfo { name: "sample".to_owned(), shape: vec![SAMPLE], offset: 0 }] };
        let outer = Outer { codec, alpha_1024: 1024, feedback_1024: 1024 };
        let part = parts(&layout, 1).remove(0);
        let mut random = Random::new(1);
        let mut update = || {
            // Twelve uniform numbers make a good Gaussian one (Irwin and Hall).
            let mut value = || (0..12).map(|_| random.between(0, 1 << 20) as f32 / (1 << 20) as f32).sum::<f32>() - 6.0;
            let delta: Vec<f32> = (0..SAMPLE).map(|_| value() * 1e-3).collect();
            Residual::new(&layout).compress(&outer, &layout, &delta).unwrap_or_default()
        };
        let bits = |bytes: usize| bytes as f64 * 8.0 / SAMPLE as f64;
        let first = update();
        let sum = |updates: &[Vec<u8>], history: &[Vec<u64>]| {
            let all: Vec<Contribution<'_>> =
                updates.iter().map(|update| Contribution { work: 4095, trust: 4095, update }).collect();
            let grid = Grid::of(&layout, codec, history, 1 << 10);
            let sums =
                partial_sums(&layout, codec, &all, Bounds::Median { history }, &grid, std::slice::from_ref(&part));
            (sums.map(|mut sums| sums.remove(0)), grid)
        };
        let history: Vec<Vec<u64>> =
            sum(std::slice::from_ref(&first), &[]).0.map(|sum| vec![sum.rates]).unwrap_or_default();
        let (mut sums, mut coded, mut merged, mut count) = (Vec::new(), 0.0, None::<PartialSum>, 0_usize);
        while count < 1024 {
            let more = (count * 3).clamp(1, 16);
            let updates: Vec<Vec<u8>> = (0..more).map(|_| update()).collect();
            let (Ok(next), grid) = sum(&updates, &history) else { break };
            count += more;
            merged = match merged {
                Some(before) => PartialSum::merge(&[before, next]).ok(),
                None => Some(next),
            };
            let Some(all) = &merged else { break };
            if count.is_power_of_two() && count.ilog2().is_multiple_of(2) {
                sums.push(bits(all.to_bytes(&part).len()));
                coded = bits(all.code(&part, &grid).map_or(0, |coded| coded.len()));
            }
        }
        Self { update: bits(first.len()), coded, sums }
    }
}

impl Costs {
    /// For a run of so many parameters whose updates are in this codec.
    pub fn of(parameters: u64, codec: Codec) -> Self {
        Self { parameters: parameters as f64, sizes: Sizes::of(codec).clone() }
    }

    pub fn update_bytes(&self) -> u64 {
        (self.parameters * self.sizes.update / 8.0) as u64
    }

    /// One part of the coded mean.
    pub fn coded_bytes(&self) -> u64 {
        (self.parameters * self.sizes.coded / 8.0) as u64 / PARTS as u64
    }

    /// One part of a sum of so many updates; between and beyond what was measured, linear in the logarithm.
    pub fn sum_bytes(&self, contributors: u32) -> u64 {
        let place = f64::from(contributors.max(1)).log2() / 2.0;
        let sums = &self.sizes.sums;
        let at = (place as usize).min(sums.len().saturating_sub(2));
        let (low, high) = (sums[at], sums[at + 1]);
        let bits = low + (high - low) * (place - at as f64);
        (self.parameters * bits / 8.0) as u64 / PARTS as u64
    }

    fn ms(&self, each_ns: f64) -> u64 {
        (self.parameters * each_ns / THREADS / 1e6) as u64
    }

    pub fn sum_ms(&self, updates: usize) -> u64 {
        self.ms(ns::SUM_AN_UPDATE * updates as f64 + ns::ENCODE_A_SUM)
    }

    pub fn merge_ms(&self, sums: usize) -> u64 {
        self.ms(((ns::DECODE_A_SUM + ns::ADD_A_SUM) * sums as f64 + ns::ENCODE_A_SUM) / PARTS as f64)
    }

    /// Where a sum stands for its mean only its rates are read.
    pub fn finish_ms(&self, is_one_group: bool) -> u64 {
        if is_one_group { 0 } else { self.ms((ns::DECODE_A_SUM + ns::CODE) / PARTS as f64) }
    }

    pub fn apply_ms(&self, is_one_group: bool) -> u64 {
        self.ms(if is_one_group { ns::DECODE_A_SUM + ns::APPLY_A_SUM } else { ns::APPLY })
    }
}
