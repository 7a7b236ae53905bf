//! `shoal verify`: replays a run.

use std::fmt;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::Path;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use shoal_node::audit::{AuditError, Audited};
use shoal_node::verify::{Progress, Replayed, Source, VerifyError, verify};
use shoal_wire::{Round, RunId};

use crate::audit::{self, LogArgs};
use crate::output::print_line;
use crate::relay::{TlsArgs, block_on, parse_run};

/// Replay a run from its first model and check everything on the way
///
/// Checks every certificate's signatures and links, and recomputes quorums, verdicts, credit and votes; applies every
/// accepted update to the model before it, and compares the result with the certified digest. Then checks the relay's
/// log: its signature, that every round is in it, and what the options below ask. Ends with status 1 and the first round
/// that does not hold, or with status 3 and why there is no verdict. The last line of --json says the same: `holds` is
/// true, false, or null without a verdict.
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
    log: LogArgs,
    #[command(flatten)]
    tls: TlsArgs,
}

/// Status of a program that reached no verdict: it must not be taken for a broken history.
pub const NO_VERDICT: u8 = 3;

/// Why there is no verdict.
#[derive(Debug)]
pub struct NoVerdict(pub anyhow::Error);

impl fmt::Display for NoVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for NoVerdict {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// What does not hold: a round, or the log.
struct Failure {
    round: Option<Round>,
    why: String,
}

/// A directory that exists, else a relay.
pub fn source(named: &str, tls: &TlsArgs) -> Result<Source> {
    let path = Path::new(named);
    if path.is_dir() { Ok(Source::directory(path)?) } else { Ok(Source::Relay(tls.client(named)?)) }
}

pub fn run(args: &Args) -> Result<()> {
    match replay(args) {
        Ok(Ok((verified, log))) => report(args, &verified, log.as_ref()),
        Ok(Err(failure)) => {
            if args.json {
                print_line(&json!({ "event": "failed", "holds": false, "run": args.run, "round": failure.round,
                    "why": failure.why }))?;
            }
            match failure.round {
                Some(round) => bail!("round {round} does not hold: {}", failure.why),
                None => bail!("{}", failure.why),
            }
        }
        // No verdict: a program must not take this for a broken history.
        Err(error) => {
            if args.json {
                let why = format!("{error:#}");
                print_line(&json!({ "event": "unavailable", "holds": null, "run": args.run, "why": why }))?;
            }
            Err(NoVerdict(error).into())
        }
    }
}

/// The verdict, or why there is none.
fn replay(args: &Args) -> Result<Result<(Replayed, Option<Audited>), Failure>> {
    let source = source(&args.source, &args.tls)?;
    let demands = args.log.demands(&source)?;
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
        let replayed = match verify(&source, args.run, on_round).await {
            Ok(replayed) => replayed,
            Err(error) => return Ok(Err(error)),
        };
        let log = audit::check(&source, &replayed, &demands).await;
        Ok(Ok((replayed, log)))
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    printed?;
    match outcome {
        Ok((replayed, Ok(log))) => {
            args.log.keep(log.as_ref())?;
            Ok(Ok((replayed, log)))
        }
        Ok((_, Err(AuditError::Broken { round, why }))) => {
            Ok(Err(Failure { round, why: format!("the log does not hold: {why}") }))
        }
        Ok((_, Err(error))) => Err(error.into()),
        Err(VerifyError::Fails(failure)) => Ok(Err(Failure { round: Some(failure.round), why: failure.why })),
        Err(VerifyError::Unavailable(error)) => Err(error.into()),
    }
}

fn report(args: &Args, verified: &Replayed, log: Option<&Audited>) -> Result<()> {
    let Replayed { run, rounds, model, accepted, recoveries, checkpoints, tally, .. } = verified;
    let contributors = verified.lineage.contributors.len();
    if args.json {
        return print_line(&json!({ "event": "verified", "holds": true, "run": run, "rounds": rounds, "model": model,
            "accepted": accepted, "recoveries": recoveries, "checkpoints": checkpoints,
            "contributors": contributors, "checked": tally, "log": log }));
    }
    let mut out = stdout().lock();
    writeln!(out, "The history of run {run} holds.")?;
    writeln!(out, "  model       {model}")?;
    writeln!(out, "  rounds      {rounds}, of which {recoveries} were recoveries without a quorum")?;
    writeln!(out, "  updates     {accepted} accepted, from {contributors} peers with {} credit", tally.credit)?;
    writeln!(out, "  signatures  {}, of which {} judgements", tally.signatures, tally.judgements)?;
    writeln!(out, "  votes       {} ballots on {} amendments", tally.ballots, tally.amendments)?;
    writeln!(out, "  checkpoints {checkpoints} compared")?;
    audit::print(&mut out, log)?;
    Ok(())
}
