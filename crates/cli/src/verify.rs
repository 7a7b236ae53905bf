//! `shoal verify`: replays a run.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::Path;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use shoal_node::verify::{Failure, Progress, Replayed, Source, VerifyError, verify};
use shoal_wire::RunId;

use crate::output::print_line;
use crate::relay::{TlsArgs, block_on, parse_run};

/// Replay a run from its first model and check everything on the way
///
/// Checks every certificate's signatures and links, applies every accepted update to the model before it, and
/// compares the result with the certified digest. Ends with status 1 and the first round that does not hold, or with
/// why there is no verdict. The last line of --json says the same: `holds` is true, false, or null without a verdict.
#[derive(clap::Args)]
pub struct Args {
    /// A relay's address, or a data directory of a relay or a peer
    #[arg(value_name = "RELAY|DIR")]
    source: String,
    /// The run's id
    #[arg(long, value_name = "ID", value_parser = parse_run)]
    run: RunId,
    /// Print one JSON object a round, and the verdict at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

impl Args {
    pub fn source(&self) -> Result<Source> {
        if Path::new(&self.source).is_dir() {
            Ok(Source::directory(Path::new(&self.source))?)
        } else {
            Ok(Source::Relay(self.tls.client(&self.source)?))
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    match replay(args) {
        Ok(Ok(verified)) => report(args, &verified),
        Ok(Err(failure)) => {
            if args.json {
                print_line(&json!({ "event": "failed", "holds": false, "run": args.run, "round": failure.round,
                    "why": failure.why }))?;
            }
            bail!("round {} does not hold: {}", failure.round, failure.why)
        }
        // No verdict: a program must not take this for a broken history.
        Err(error) => {
            if args.json {
                let why = format!("{error:#}");
                print_line(&json!({ "event": "unavailable", "holds": null, "run": args.run, "why": why }))?;
            }
            Err(error)
        }
    }
}

/// The verdict, or why there is none.
fn replay(args: &Args) -> Result<Result<Replayed, Failure>> {
    let source = args.source()?;
    let bar = (!args.json && stderr().is_terminal()).then(|| {
        let style = ProgressStyle::with_template("{spinner} round {pos}  {msg}  {elapsed}");
        ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
    });
    let mut printed = Ok(());
    let outcome = block_on(async {
        let on_round = |progress: Progress| {
            if args.json && printed.is_ok() {
                printed = print_line(&json!({ "event": "round", "holds": true, "round": progress.round,
                    "accepted": progress.accepted, "recovery": progress.recovery, "model": progress.model }));
            }
            if let Some(bar) = &bar {
                bar.set_position(progress.round);
                bar.set_message(format!("{} updates, model {}", progress.accepted, progress.model.short()));
            }
        };
        Ok(verify(&source, args.run, on_round).await)
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    printed?;
    match outcome {
        Ok(verified) => Ok(Ok(verified)),
        Err(VerifyError::Fails(failure)) => Ok(Err(failure)),
        Err(VerifyError::Unavailable(error)) => Err(error.into()),
    }
}

fn report(args: &Args, verified: &Replayed) -> Result<()> {
    let Replayed { run, rounds, model, accepted, recoveries, checkpoints, .. } = verified;
    let contributors = verified.contributors.len();
    if args.json {
        return print_line(&json!({ "event": "verified", "holds": true, "run": run, "rounds": rounds, "model": model,
            "accepted": accepted, "recoveries": recoveries, "checkpoints": checkpoints,
            "contributors": contributors }));
    }
    let mut out = stdout().lock();
    writeln!(out, "The history of run {run} holds.")?;
    writeln!(out, "  model       {model}")?;
    writeln!(out, "  rounds      {rounds}, of which {recoveries} were recoveries without a quorum")?;
    writeln!(out, "  updates     {accepted} accepted, from {contributors} peers")?;
    writeln!(out, "  checkpoints {checkpoints} compared")?;
    Ok(())
}
