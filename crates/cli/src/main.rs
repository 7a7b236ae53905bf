//! `shoal`: train, join and audit from a terminal. One file a subcommand.

mod audit;
mod export;
mod files;
mod join;
mod ledger;
mod model;
mod output;
mod plan;
mod progress;
mod relay;
mod run;
mod source;
mod train;
mod train_net;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Train models together in the open: alone, with others, or check what others did.
#[derive(Parser)]
#[command(name = "shoal", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Plan(plan::Args),
    Join(join::Args),
    #[command(subcommand)]
    Run(run::Command),
    Verify(verify::Args),
    Ledger(ledger::Args),
    Export(export::Args),
}

impl Command {
    fn run(&self) -> Result<()> {
        match self {
            Self::Train(args) => train::run(args),
            Self::Plan(args) => plan::run(args),
            Self::Join(args) => join::run(args),
            Self::Run(command) => run::run(command),
            Self::Verify(args) => verify::run(args),
            Self::Ledger(args) => ledger::run(args),
            Self::Export(args) => export::run(args),
        }
    }

    /// Whether a program waits for one object, which then also tells a failure. The others print lines of their own.
    fn answers_with_one_object(&self) -> bool {
        match self {
            Self::Run(command) => command.json(),
            Self::Export(args) => args.json,
            Self::Plan(args) => args.json,
            Self::Train(_) | Self::Join(_) | Self::Verify(_) | Self::Ledger(_) => false,
        }
    }
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let mut outcome = command.run();
    if let Err(error) = &outcome
        && command.answers_with_one_object()
        && !is_closed_pipe(error)
    {
        let told = output::print_line(&serde_json::json!({ "error": format!("{error:#}") }));
        outcome = told.and(outcome);
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough (`shoal … | head`) is no failure.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<verify::NoVerdict>() { ExitCode::from(verify::NO_VERDICT) } else { ExitCode::FAILURE }
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<verify::NoVerdict>().map_or(error, |verify::NoVerdict(error)| error);
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
