//! `shoal`: train, join and audit from a terminal. One file a subcommand.

mod export;
mod files;
mod join;
mod progress;
mod relay;
mod run;
mod source;
mod train;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shoal_learn::folder;

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
    Join(join::Args),
    #[command(subcommand)]
    Run(run::Command),
    Verify(verify::Args),
    Export(export::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Train(args) => train::run(&args),
        Command::Join(args) => join::run(&args),
        Command::Run(command) => run::run(&command),
        Command::Verify(args) => verify::run(&args),
        Command::Export(args) => export::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough (`shoal … | head`) is no failure.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
