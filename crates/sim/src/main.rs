//! Runs trials; `cargo xtask sim` starts it.
//!
//! `shoal-sim run FIRST END STEP` prints one line of JSON for each seed, `shoal-sim replay SEED` all that happens in one.

use std::{panic, process::ExitCode};

use serde_json::json;
use shoal_sim::{Options, Report, run_trial};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Option<Vec<u64>> = arguments.iter().skip(1).map(|argument| argument.parse().ok()).collect();
    match (arguments.first().map(String::as_str), numbers.as_deref()) {
        (Some("run"), Some(&[first, end, step])) if step > 0 => {
            let mut seed = first;
            while seed < end {
                println!("{}", line(seed));
                seed += step;
            }
            ExitCode::SUCCESS
        }
        (Some("replay"), Some(&[seed])) => replay(seed),
        _ => {
            eprintln!("usage: shoal-sim run FIRST END STEP | shoal-sim replay SEED");
            ExitCode::FAILURE
        }
    }
}

/// Runs a seed; a panic is a violation like others.
fn line(seed: u64) -> serde_json::Value {
    let options = Options::draw(seed);
    match panic::catch_unwind(|| run_trial(&options, false)) {
        Ok(report) => json!({
            "seed": seed,
            "event_hash": report.event_hash,
            "simulated_ms": report.simulated_ms,
            "rounds": report.rounds,
            "recoveries": report.recoveries,
            "violations": violations(&report),
            "stalled": report.stalled,
            "held_up": report.held_up,
            "options": options.to_string(),
        }),
        Err(_) => json!({
            "seed": seed,
            "event_hash": "",
            "simulated_ms": 0,
            "rounds": 0,
            "recoveries": 0,
            "violations": ["a panic"],
            "stalled": null,
            "held_up": null,
            "options": options.to_string(),
        }),
    }
}

fn violations(report: &Report) -> Vec<String> {
    report.violations.iter().map(|violation| format!("{violation:?}")).collect()
}

fn replay(seed: u64) -> ExitCode {
    let options = Options::draw(seed);
    println!("{options}");
    let report = run_trial(&options, true);
    println!("{} rounds, {} recoveries, {} ms", report.rounds, report.recoveries, report.simulated_ms);
    for violation in violations(&report) {
        println!("violation: {violation}");
    }
    if let Some(why) = &report.stalled {
        println!("stalled: {why}");
    }
    if let Some(why) = report.held_up {
        println!("held up, as it should be: {why}");
    }
    if let Some(loss) = report.loss {
        println!("held-out loss {loss:.4}");
    }
    println!("event hash {}", report.event_hash);
    if report.violations.is_empty() && report.stalled.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
