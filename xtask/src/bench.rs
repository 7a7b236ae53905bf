//! Benchmarks: Shoal beside its peers, on this machine. Each prints one JSON object as its last line.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::{build, paths, step, tools};

#[derive(Subcommand)]
pub enum Bench {
    /// Shoal's training step beside those of jax-js and TensorFlow.js, in one headless Chromium
    Train(Train),
}

#[derive(Args)]
pub struct Train {
    /// Which models, of llama-nano and llama-micro
    #[arg(long, value_delimiter = ',')]
    models: Vec<String>,
    /// Which peers, of shoal-webgpu, shoal-cpu, jaxjs-webgpu, jaxjs-wasm and tfjs-webgpu
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// How many times each peer takes its turn
    #[arg(long)]
    rounds: Option<u32>,
    /// About how long a turn lasts
    #[arg(long)]
    seconds: Option<u32>,
    /// Use a real GPU, through Vulkan, instead of SwiftShader
    #[arg(long)]
    gpu: bool,
    /// Also measure plain matrix products
    #[arg(long)]
    gemm: bool,
    /// Print nothing but the JSON object
    #[arg(long)]
    json: bool,
}

pub fn bench(which: &Bench) -> Result<bool> {
    match which {
        Bench::Train(arguments) => train(arguments),
    }
}

fn train(arguments: &Train) -> Result<bool> {
    let chromium = chromium()?;
    build::pages()?;
    tools::npm_packages("tests/bench")?;
    let mut command = step::command("node");
    command.arg("train.mjs").args(options(arguments)).current_dir(paths::at("tests/bench")).env("CHROMIUM", chromium);
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
    let Train { models, peers, rounds, seconds, gpu, gemm, json } = arguments;
    let list = |names: &[String]| (!names.is_empty()).then(|| names.join(","));
    let valued = [
        ("models", list(models)),
        ("peers", list(peers)),
        ("rounds", rounds.map(|rounds| rounds.to_string())),
        ("seconds", seconds.map(|seconds| seconds.to_string())),
    ];
    let flags = [("gpu", *gpu), ("gemm", *gemm), ("json", *json)];
    let valued = valued.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?)));
    valued.chain(flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| format!("--{name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_left_to_the_script() {
        let nothing =
            Train { models: vec![], peers: vec![], rounds: None, seconds: None, gpu: false, gemm: false, json: false };
        assert!(options(&nothing).is_empty());
        let models = ["llama-nano", "llama-micro"].map(str::to_owned).to_vec();
        let some = Train { models, rounds: Some(2), json: true, ..nothing };
        assert_eq!(options(&some), ["--models=llama-nano,llama-micro", "--rounds=2", "--json"]);
    }
}
