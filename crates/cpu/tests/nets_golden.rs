//! The network engine against PyTorch: `docs/golden/make_nets_golden.py` writes the numbers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use pollster::block_on;
use serde::Deserialize;
use shoal_cpu::CpuNetEngine;
use shoal_learn::StepSettings;
use shoal_learn::nets::{Checked, Examples, Loss, Net, NetEngine, Targets};
use shoal_wire::manifest::AdamW;

#[derive(Deserialize)]
struct Golden {
    name: String,
    net: Net,
    batch: usize,
    adamw: AdamW,
    outputs: Vec<f32>,
    losses: Vec<f32>,
}

/// MurmurHash3's finaliser over a counter, as in the script.
fn hashed(seed: u32, index: u32) -> u32 {
    let mut x = index.wrapping_add(seed.wrapping_mul(0x9E37_79B9));
    x = (x ^ x >> 16).wrapping_mul(0x85EB_CA6B);
    x = (x ^ x >> 13).wrapping_mul(0xC2B2_AE35);
    x ^ x >> 16
}

fn uniform(seed: u32, index: u32) -> f32 {
    (hashed(seed, index) >> 8) as f32 / (1 << 24) as f32 - 0.5
}

fn weights(net: &Checked) -> Vec<f32> {
    let mut flat: Vec<f32> = (0..net.layout.len() as u32).map(|i| uniform(1, i)).collect();
    let scales = net.layout.tensors.iter().filter(|tensor| !tensor.decays() && tensor.name.ends_with("weight"));
    for tensor in scales {
        flat[tensor.range()].iter_mut().for_each(|x| *x += 1.0);
    }
    flat
}

fn batch(net: &Checked, batch: usize, step: usize) -> Examples {
    let part = |size: usize| (step % 3 * batch * size) as u32..((step % 3 + 1) * batch * size) as u32;
    let targets = match net.loss {
        Loss::CrossEntropy => Targets::Classes(part(1).map(|i| hashed(3, i) % net.outputs as u32).collect()),
        Loss::Binary => Targets::Values(part(net.outputs).map(|i| (hashed(3, i) % 2) as f32).collect()),
        Loss::MeanSquared => Targets::Values(part(net.outputs).map(|i| uniform(3, i)).collect()),
    };
    Examples { features: part(net.input.values() as usize).map(|i| uniform(2, i) * 4.0).collect(), targets }
}

#[test]
fn networks_for_images_and_tables_train_as_in_pytorch() {
    let goldens: Vec<Golden> = serde_json::from_str(include_str!("golden/nets.json")).unwrap();
    for golden in goldens {
        let mut engine = CpuNetEngine::new(&golden.net, golden.batch).unwrap();
        let checked = golden.net.check().unwrap();
        engine.load(&weights(&checked)).unwrap();
        let outputs = block_on(engine.predict(&batch(&checked, golden.batch, 0).features)).unwrap();
        assert_eq!(outputs.len(), golden.outputs.len());
        for (got, expected) in outputs.iter().zip(&golden.outputs) {
            assert!(
                (got - expected).abs() < 1e-5 * expected.abs().max(1.0),
                "{}: {got} is not {expected}",
                golden.name
            );
        }
        for step in 0..golden.losses.len() {
            let settings = StepSettings { optimizer: golden.adamw.into(), lr: golden.adamw.lr, step: step as u32 + 1 };
            engine.step(&batch(&checked, golden.batch, step), &settings).unwrap();
        }
        let losses = block_on(engine.losses()).unwrap();
        for (step, (got, expected)) in losses.iter().zip(&golden.losses).enumerate() {
            assert!((got / expected - 1.0).abs() < 1e-4, "{} step {step}: {got} is not {expected}", golden.name);
        }
        let largest = losses.iter().zip(&golden.losses).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f32::max);
        println!("{}: largest relative difference of {} losses {largest:.1e}", golden.name, losses.len());
    }
}
