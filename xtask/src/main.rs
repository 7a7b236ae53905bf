//! `cargo xtask`: sets up, builds, serves, tests and checks Shoal.
//!
//! Each command does all of its own set-up, says what it is doing, and stops with what to do when something
//! cannot be installed. What is already done is not done again.

mod bench;
mod build;
mod check;
mod count;
mod fuzz;
mod paths;
mod serve;
mod sim;
mod sizes;
mod stamp;
mod step;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, builds, serves, tests and checks Shoal")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Set everything up, build, and serve a demo run at the printed address
    Serve {
        /// Passed to the relay, as in `cargo xtask serve -- --data book.txt`
        #[arg(last = true)]
        relay: Vec<String>,
    },
    /// Build the Wasm module, the pages and the relay
    Build,
    /// Set everything up and run all tests
    Test {
        /// Leave out the tests that need browsers
        #[arg(long)]
        quick: bool,
    },
    /// Measure Shoal; the last line is a JSON object
    Bench {
        #[command(subcommand)]
        which: bench::Bench,
    },
    /// Run simulated worlds that break what can break; the last line is a JSON object
    Sim(sim::Sim),
    /// Format, lints, dependencies, house rules and size budgets
    Check {
        /// Also run every fuzz target for 10 s
        #[arg(long)]
        fuzz: bool,
    },
    /// Fuzz one target, or each of them, from its corpus on
    Fuzz {
        /// A file of `fuzz/fuzz_targets`, without its ending
        target: Option<String>,
        /// How long each target runs
        #[arg(long, default_value_t = fuzz::SECONDS)]
        seconds: u32,
    },
    /// The house rules alone (part of `check`)
    Tidy {
        /// Rewrite what is derived from the source
        #[arg(long)]
        bless: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve { relay } => serve::serve(&relay),
        Command::Build => build::everything().map(|()| true),
        Command::Test { quick } => test::test(quick),
        Command::Bench { which } => bench::bench(&which),
        Command::Sim(arguments) => sim::sim(&arguments),
        Command::Check { fuzz } => check::check(fuzz),
        Command::Fuzz { target, seconds } => fuzz::fuzz(target.as_deref(), seconds).map(|()| true),
        Command::Tidy { bless } => tidy::tidy(bless).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
