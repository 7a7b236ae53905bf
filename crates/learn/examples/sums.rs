//! What sums of updates cost: nanoseconds a parameter, on one thread.
//!
//! ```sh
//! cargo run --release -p shoal-learn --example sums
//! ```
//! Prints a table, then one JSON object. `crates/sim/src/crowd/cost.rs` takes its figures from here.

// It measures time.
#![allow(clippy::disallowed_methods)]

use std::{hint::black_box, time::Instant};

use shoal_learn::{
    Layout, TensorInfo,
    outer::{self, Bounds, Contribution, Grid, PartialSum, Residual, UpdateError},
};
use shoal_wire::manifest::{Codec, Outer};

const TENSORS: usize = 16;
const TENSOR: usize = 1 << 18;
const PEERS: usize = 16;

fn main() -> Result<(), UpdateError> {
    let tensor = |at: usize| TensorInfo { name: format!("t{at:02}"), shape: vec![TENSOR], offset: TENSOR * at };
    let layout = Layout { tensors: (0..TENSORS).map(tensor).collect() };
    let recipe = Outer { codec: Codec::Topk, alpha_1024: 1024, feedback_1024: 1024 };
    let updates: Vec<Vec<u8>> = (0..PEERS as u64)
        .map(|peer| Residual::new(&layout).compress(&recipe, &layout, &change(peer, layout.len())))
        .collect::<Result<_, _>>()?;
    let all: Vec<Contribution<'_>> =
        updates.iter().map(|update| Contribution { work: 4095, trust: 4095, update }).collect();
    let parts = outer::parts(&layout, 16);
    let sum = |grid: &Grid, history: &[Vec<u64>]| {
        outer::partial_sums(&layout, recipe.codec, &all, Bounds::Median { history }, grid, &parts)
    };
    let rates: Vec<u64> = sum(&Grid::exact(&layout), &[])?.into_iter().flat_map(|part| part.rates).collect();
    let history = vec![rates];
    let grid = Grid::of(&layout, recipe.codec, &history, 1024);
    let theta = vec![0.0_f32; layout.len()];

    let (sums, sum_ns) = timed(&layout, || sum(&grid, &history))?;
    let (bytes, encode_ns) =
        timed(&layout, || Ok(parts.iter().zip(&sums).map(|(part, sum)| sum.to_bytes(part)).collect::<Vec<_>>()))?;
    let (_, decode_ns) = timed(&layout, || {
        parts.iter().zip(&bytes).map(|(part, bytes)| PartialSum::from_bytes(part, bytes)).collect::<Result<Vec<_>, _>>()
    })?;
    let (_, add_ns) = timed(&layout, || {
        sums.iter().map(|sum| PartialSum::merge(&[sum.clone(), sum.clone()])).collect::<Result<Vec<_>, _>>()
    })?;
    let (coded, code_ns) = timed(&layout, || {
        parts.iter().zip(&sums).map(|(part, sum)| sum.code(part, &grid)).collect::<Result<Vec<_>, _>>()
    })?;
    let coded: Vec<Option<&[u8]>> = coded.iter().map(|coded| Some(&coded[..])).collect();
    let (_, apply_ns) = timed(&layout, || outer::apply(&parts, &recipe, &theta, &coded))?;
    let (_, exact_ns) = timed(&layout, || {
        let step = |(part, sum): (_, &PartialSum)| sum.apply_exactly(part, &grid, &recipe, &theta);
        parts.iter().zip(&sums).map(step).collect::<Result<Vec<_>, _>>()
    })?;

    let rows = [
        ("sum_of_16", sum_ns),
        ("encode", encode_ns),
        ("decode", decode_ns),
        ("add_two", add_ns),
        ("code", code_ns),
        ("apply_coded", apply_ns),
        ("apply_exactly", exact_ns),
    ];
    println!("{} parameters, topk, one thread: nanoseconds a parameter", layout.len());
    for (name, ns) in rows {
        println!("{name:>14} {ns:>8.2}");
    }
    let fields: Vec<String> = rows.iter().map(|(name, ns)| format!("\"{name}\":{ns:.3}")).collect();
    println!("{{\"parameters\":{},{}}}", layout.len(), fields.join(","));
    Ok(())
}

/// The fastest of three, in nanoseconds a parameter.
fn timed<T>(layout: &Layout, work: impl Fn() -> Result<T, UpdateError>) -> Result<(T, f64), UpdateError> {
    let mut best = f64::INFINITY;
    let mut done = None;
    for _ in 0..3 {
        let begun = Instant::now();
        let out = black_box(work()?);
        best = best.min(begun.elapsed().as_secs_f64());
        done = Some(out);
    }
    done.map(|out| (out, best * 1e9 / layout.len() as f64)).ok_or(UpdateError::Parts)
}

/// About Gaussian (Irwin and Hall), another one for each peer.
fn change(peer: u64, count: usize) -> Vec<f32> {
    let mut state = peer + 1;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    (0..count).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 1e-3).collect()
}
