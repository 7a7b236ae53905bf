//! `cargo xtask sim`: many simulated worlds, on all cores, and what did not hold in them.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, IsTerminal, Write},
    ops::Range,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::{
    paths, step,
    tools::{self, TEST_WASM},
};

/// Seeds that `--check` runs in Wasm, too.
const SEEDS_IN_WASM: u64 = 50;

#[derive(Args)]
pub struct Sim {
    /// Which worlds, as in 0..1000: the second number is not among them
    #[arg(long, value_parser = seeds, required_unless_present = "seed")]
    seeds: Option<Range<u64>>,
    /// Print nothing but the JSON object
    #[arg(long)]
    json: bool,
    /// Run every seed twice and the first 50 in Wasm, too; their event hashes must be equal
    #[arg(long)]
    check: bool,
    /// Tell all that happens in one world
    #[arg(long, conflicts_with_all = ["seeds", "json", "check"])]
    seed: Option<u64>,
}

/// What one world showed.
#[derive(Deserialize)]
struct Shown {
    seed: u64,
    event_hash: String,
    simulated_ms: u64,
    rounds: u64,
    recoveries: u64,
    violations: Vec<String>,
    stalled: Option<String>,
    held_up: Option<String>,
    options: String,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let ends = text.split_once("..").and_then(|(first, end)| Some((first.parse().ok()?, end.parse().ok()?)));
    match ends {
        Some((first, end)) if first < end => Ok(first..end),
        _ => Err("two numbers are needed, as in 0..1000".to_owned()),
    }
}

pub fn sim(arguments: &Sim) -> Result<bool> {
    let build = ["build", "--release", "--package", "shoal-sim"];
    step::quiet("build the simulator", step::cargo().args(build))?;
    if let Some(seed) = arguments.seed {
        return Ok(native().args(["replay", &seed.to_string()]).status().context("starting the simulator")?.success());
    }
    let seeds = arguments.seeds.clone().context("which seeds? try --seeds 0..100")?;
    let started = Instant::now();
    let all = run(&seeds, native, cores())?;
    let seconds = started.elapsed().as_secs_f64();
    let failures = all.values().filter(|seed| !arguments.json && tell(seed)).count();
    let simulated_seconds = all.values().map(|seed| seed.simulated_ms).sum::<u64>() / 1000;
    if !arguments.json {
        let rounds: u64 = all.values().map(|seed| seed.rounds).sum();
        let recoveries: u64 = all.values().map(|seed| seed.recoveries).sum();
        println!("{} worlds, {failures} failed; {rounds} rounds, {recoveries} recoveries adopted", all.len());
        let held_up = all.values().filter(|seed| seed.held_up.is_some()).count();
        println!(
            "{held_up} could not go on and should not: no relay and nobody to reach, or liars with a third of the vote"
        );
        println!("{:.0} times as fast as real time", simulated_seconds as f64 / seconds);
    }
    let same = !arguments.check || check(&seeds, &all)?;
    let violations: usize = all.values().map(|seed| seed.violations.len()).sum();
    let stalled = all.values().filter(|seed| seed.stalled.is_some()).count();
    let mut hasher = blake3::Hasher::new();
    for seed in all.values() {
        hasher.update(seed.event_hash.as_bytes());
    }
    let summary = json!({
        "seeds": all.len(),
        "safety_violations": violations,
        "liveness_failures": stalled,
        "seconds": (seconds * 10.0).round() / 10.0,
        "simulated_seconds": simulated_seconds,
        "event_hash": hasher.finalize().to_hex().as_str(),
    });
    println!("{summary}");
    Ok(same && violations == 0 && stalled == 0)
}

fn cores() -> u64 {
    thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

fn native() -> Command {
    step::command(paths::target().join("release/shoal-sim"))
}

fn wasm() -> Command {
    let mut node = step::command("node");
    node.arg("--no-warnings").arg(paths::at("xtask/wasi.mjs"));
    node.arg(paths::target().join(TEST_WASM).join("release/shoal-sim.wasm"));
    node
}

/// Tells what went wrong in a world, and how to see it again; whether anything did.
fn tell(seed: &Shown) -> bool {
    if seed.violations.is_empty() && seed.stalled.is_none() {
        return false;
    }
    println!("{}", seed.options);
    for violation in &seed.violations {
        println!("  VIOLATION {violation}");
    }
    if let Some(why) = &seed.stalled {
        println!("  STALLED {why}");
    }
    println!("  again: cargo xtask sim --seed {}", seed.seed);
    true
}

/// Whether all seeds give the same events once more, and the first ones in Wasm.
fn check(seeds: &Range<u64>, all: &BTreeMap<u64, Shown>) -> Result<bool> {
    let mut same = true;
    let mut compare = |again: BTreeMap<u64, Shown>, where_: &str| {
        for (seed, other) in again {
            if all.get(&seed).is_none_or(|first| first.event_hash != other.event_hash) {
                println!("seed {seed} gives other events {where_}");
                same = false;
            }
        }
    };
    compare(run(seeds, native, cores())?, "the second time");
    tools::node()?;
    tools::rust_target(TEST_WASM)?;
    let build = ["build", "--release", "--package", "shoal-sim", "--target", TEST_WASM];
    step::quiet("build the simulator for Wasm", step::cargo().args(build))?;
    let few = seeds.start..seeds.end.min(seeds.start + SEEDS_IN_WASM);
    compare(run(&few, wasm, cores())?, "in Wasm");
    Ok(same)
}

/// Runs seeds in several processes.
fn run(seeds: &Range<u64>, program: fn() -> Command, processes: u64) -> Result<BTreeMap<u64, Shown>> {
    let (sender, lines) = mpsc::channel();
    let mut children = Vec::new();
    for index in 0..processes {
        let numbers = [seeds.start + index, seeds.end, processes].map(|number| number.to_string());
        let mut command = program();
        let mut child = command
            .arg("run")
            .args(numbers)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the simulator")?;
        let output = child.stdout.take().context("the simulator's output")?;
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        children.push(child);
    }
    drop(sender);
    let mut all = BTreeMap::new();
    let count = seeds.end - seeds.start;
    for line in lines {
        let seed: Shown = serde_json::from_str(&line).with_context(|| format!("the simulator said {line:?}"))?;
        all.insert(seed.seed, seed);
        progress(all.len() as u64, count);
    }
    for mut child in children {
        let status = child.wait().context("waiting for the simulator")?;
        if !status.success() {
            bail!("the simulator ended with {status}");
        }
    }
    if all.len() as u64 != count {
        bail!("{} of {count} seeds came back", all.len());
    }
    Ok(all)
}

/// In a terminal a line that changes, elsewhere one for each tenth.
fn progress(done: u64, all: u64) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K{done} of {all} worlds{}", if done == all { "\n" } else { "" });
        // A terminal that cannot be flushed only loses the progress.
        let _ = std::io::stderr().flush();
    } else if done == all || done.is_multiple_of((all / 10).max(1)) {
        eprintln!("      ... {done} of {all} worlds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_two_rising_numbers() {
        assert_eq!(seeds("3..10"), Ok(3..10));
        assert!(["", "3", "3..", "..3", "3..3", "5..3", "a..b", "3..=5"].iter().all(|text| seeds(text).is_err()));
    }
}
