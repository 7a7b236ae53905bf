//! Benchmarks, on this machine. Each prints one JSON object as its last line.

mod swarm;

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::{build, paths, step, tools};

#[derive(Subcommand)]
pub enum Bench {
    /// Shoal's training step beside those of jax-js and TensorFlow.js, in one headless Chromium
    Train(Train),
    /// Attacks on a simulated swarm, what a swarm costs at size, and how well its rounds learn
    Swarm(swarm::Swarm),
}

#[derive(Args)]
pub struct Train {
    /// Which models, of llama-nano, llama-micro and gpt2-124m; the last only where there is a real GPU unless named
    #[arg(long, value_delimiter = ',')]
    models: Vec<String>,
    /// Which peers, of shoal-webgpu, shoal-cpu, shoal-cpu-1 (one thread), jaxjs-webgpu, jaxjs-wasm, tfjs-webgpu,
    /// tfjs-wasm, shoal-native-gpu, shoal-native-cpu, torch-cpu and torch-cuda
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// How many times each peer takes its turn
    #[arg(long)]
    rounds: Option<u32>,
    /// About how long a turn lasts
    #[arg(long)]
    seconds: Option<u32>,
    /// Plain matrix products too (yes), not (no), or nothing else (only)
    #[arg(long)]
    gemm: Option<String>,
    /// Train so many steps, in turn with a fixed control, instead of comparing peers
    #[arg(long)]
    drift: Option<u32>,
    /// Chromium uses a real GPU, through Vulkan, instead of SwiftShader
    #[arg(long)]
    gpu: bool,
    /// Print nothing but the JSON object
    #[arg(long)]
    json: bool,
}

pub fn bench(which: &Bench) -> Result<bool> {
    match which {
        Bench::Train(arguments) => train(arguments),
        Bench::Swarm(arguments) => swarm::swarm(arguments),
    }
}

fn train(arguments: &Train) -> Result<bool> {
    tools::node()?;
    let script = || {
        let mut command = step::command("node");
        command.arg("train.mjs").args(options(arguments)).current_dir(paths::at("tests/bench"));
        command
    };
    // What is asked for is checked before anything is built.
    let check = script().arg("--check").stderr(Stdio::inherit()).output().context("starting Node")?;
    if !check.status.success() {
        return Ok(false);
    }
    let needs = String::from_utf8_lossy(&check.stdout);
    let needs = |what: &str| needs.split_whitespace().any(|word| word == what);
    let mut command = script();
    if needs("pages") {
        command.env("CHROMIUM", chromium()?);
        build::pages()?;
        tools::npm_packages("tests/bench")?;
    }
    if needs("shoal") {
        tools::vulkan()?;
        let build = ["build", "--release", "--package", "shoal-gpu", "--example", "train_bench"];
        step::shown("build the native bench", step::cargo().args(build))?;
        command.env("TRAIN_BENCH", paths::target().join("release/examples/train_bench"));
    }
    Ok(command.status().context("starting Node")?.success())
}

fn chromium() -> Result<PathBuf> {
    match std::env::var_os("CHROMIUM") {
        Some(path) => Ok(path.into()),
        None => tools::chromium(),
    }
}

/// As `train.mjs` reads them; what is not given has its default there.
fn options(arguments: &Train) -> Vec<String> {
    let Train { models, peers, rounds, seconds, gemm, drift, gpu, json } = arguments;
    let list = |names: &[String]| (!names.is_empty()).then(|| names.join(","));
    let valued = [
        ("models", list(models)),
        ("peers", list(peers)),
        ("rounds", rounds.map(|rounds| rounds.to_string())),
        ("seconds", seconds.map(|seconds| seconds.to_string())),
        ("gemm", gemm.clone()),
        ("drift", drift.map(|steps| steps.to_string())),
    ];
    let flags = [("gpu", *gpu), ("json", *json)];
    let valued = valued.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?)));
    valued.chain(flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| format!("--{name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_left_to_the_script() {
        let nothing = Train {
            models: vec![],
            peers: vec![],
            rounds: None,
            seconds: None,
            gemm: None,
            drift: None,
            gpu: false,
            json: false,
        };
        assert!(options(&nothing).is_empty());
        let models = ["llama-nano", "llama-micro"].map(str::to_owned).to_vec();
        let some = Train { models, rounds: Some(2), gemm: Some("no".to_owned()), json: true, ..nothing };
        assert_eq!(options(&some), ["--models=llama-nano,llama-micro", "--rounds=2", "--gemm=no", "--json"]);
    }
}
