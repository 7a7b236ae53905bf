//! `shoal join`: a volunteer without a browser.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shoal_node::{EngineChoice, Node, NodeConfig, NodeEvent, NodeHandle, Status};
use shoal_store::FileStore;
use shoal_swarm::{Event, mesh::RelayState};
use shoal_wire::{Digest, Round, RunId, record::Verdict, relay::Refusal};
use tokio::sync::watch::Receiver;

use crate::output::print_line;
use crate::relay::{TlsArgs, block_on, log, parse_run};

/// Train in a run as a volunteer
///
/// Shows what this machine does; Ctrl-C says good-bye and stops. With --json, prints one JSON object for each
/// certified round, and one for each other event.
#[derive(clap::Args)]
pub struct Args {
    /// The relay's address
    relay: String,
    /// The run's id
    #[arg(long, value_name = "ID", value_parser = parse_run)]
    run: RunId,
    /// What trains
    #[arg(long, value_enum, default_value = "auto")]
    engine: Engine,
    /// Where this machine's key and the run's history are kept [default: the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Leave after this many certified rounds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Exchange everything through the relay, so that other volunteers do not learn this machine's address
    #[arg(long)]
    relay_only: bool,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    /// The GPU when there is one, else the processor
    Auto,
    Gpu,
    Cpu,
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::Gpu => Self::Gpu,
            Engine::Cpu => Self::Cpu,
        }
    }
}

/// Where programs keep their users' data.
fn default_data_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .or_else(|| set("LOCALAPPDATA"))
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("shoal"))
        .context("this system names no data directory; use --data-dir")
}

pub fn run(args: &Args) -> Result<()> {
    log();
    let client = args.tls.client(&args.relay)?;
    let directory = args.data_dir.clone().map_or_else(default_data_dir, Ok)?;
    let store = Arc::new(FileStore::open(&directory)?);
    let config = NodeConfig {
        relay: client,
        run: args.run,
        store,
        identity: None,
        engine: Some(args.engine.into()),
        archive: false,
        direct: !args.relay_only,
    };
    block_on(async {
        let mut handle = Node::start(config).await?;
        let reporter = Reporter::new(args.json, &handle);
        reporter.started(&handle)?;
        let Ending { rounds, refused } = watch(&mut handle, &reporter, args.rounds).await?;
        let accepted = handle.status().borrow().snapshot.accepted_own;
        handle.leave().await;
        reporter.left(rounds, accepted)?;
        match refused {
            Some(refusal) => bail!(meaning(refusal)),
            None => Ok(()),
        }
    })
}

/// A round that was certified and whose common model may still be measured.
struct Certified {
    round: Round,
    model: Digest,
    accepted: u32,
    own: Option<Verdict>,
    recovery: bool,
}

/// How a visit ended.
struct Ending {
    /// Rounds certified meanwhile.
    rounds: u64,
    /// Set when the relay's refusal ended it.
    refused: Option<Refusal>,
}

/// What a refusal means, and what to do.
fn meaning(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownRun => "the relay no longer has this run; `shoal run list RELAY` shows those it has",
        Refusal::BadSignature => {
            "the relay could not check this machine's signature; relay and `shoal` are probably of different versions"
        }
        Refusal::RoomFull => "the run is full; trying again until somebody leaves",
        Refusal::TooFast => "the relay gets too many messages from this machine; trying again in a while",
        Refusal::Malformed => {
            "the relay did not understand this machine; trying again, but if this stays so, relay and `shoal` are of \
             different versions"
        }
        Refusal::Replaced => {
            "another process or device takes part with this machine's key; start this one again to take part here, or \
             give it a key of its own with another --data-dir"
        }
    }
}

/// Whether trying again cannot help. Peers that are linked already need no relay.
fn is_final(refusal: Refusal, linked: bool) -> bool {
    match refusal {
        // The newer process has taken over, and the two would take turns for ever.
        Refusal::Replaced => true,
        Refusal::UnknownRun | Refusal::BadSignature => !linked,
        Refusal::RoomFull | Refusal::TooFast | Refusal::Malformed => false,
    }
}

/// Reports until the wanted number of rounds, Ctrl-C, or a refusal for good.
async fn watch(handle: &mut NodeHandle, reporter: &Reporter, wanted: Option<u64>) -> Result<Ending> {
    let mut events = handle.events().context("the peer's news were taken")?;
    let status = handle.status();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut redraw = tokio::time::interval(Duration::from_millis(200));
    let mut pending: Option<Certified> = None;
    let mut rounds = 0;
    loop {
        tokio::select! {
            stop = &mut interrupt => {
                stop.context("cannot listen for Ctrl-C")?;
                return Ok(Ending { rounds, refused: None });
            }
            _ = redraw.tick() => reporter.redraw(&status.borrow()),
            event = events.recv() => match event.context("the peer stopped by itself; see the log above")? {
                NodeEvent::Swarm(Event::Certified { round, model, accepted, own, recovery, .. }) => {
                    // The loss of a model is known when the next round starts; not every round gets that far.
                    if let Some(last) = pending.replace(Certified { round, model, accepted, own, recovery }) {
                        reporter.round(&last, None, &status.borrow())?;
                        rounds += 1;
                    }
                }
                NodeEvent::HeldOut { round, loss } => {
                    if let Some(last) = pending.take_if(|last| last.round == round) {
                        reporter.round(&last, Some(loss), &status.borrow())?;
                        rounds += 1;
                    }
                }
                NodeEvent::Relay(RelayState::Refused(refusal)) if is_final(refusal, is_linked(&status)) => {
                    return Ok(Ending { rounds, refused: Some(refusal) });
                }
                other => {
                    reporter.event(&other)?;
                    if let NodeEvent::Swarm(Event::Replaced { .. }) = other {
                        return Ok(Ending { rounds, refused: Some(Refusal::Replaced) });
                    }
                }
            },
        }
        if wanted.is_some_and(|wanted| rounds >= wanted) {
            return Ok(Ending { rounds, refused: None });
        }
    }
}

fn is_linked(status: &Receiver<Status>) -> bool {
    !status.borrow().paths.is_empty()
}

struct Reporter {
    json: bool,
    bar: Option<ProgressBar>,
}

impl Reporter {
    fn new(json: bool, handle: &NodeHandle) -> Self {
        let bar = (!json && stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix}  {bar:24} {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let prefix = handle.engine().to_owned();
            ProgressBar::new(1000).with_style(style).with_prefix(prefix)
        });
        Self { json, bar }
    }

    /// A line for people or a program.
    fn line(&self, text: &str, object: &Value) -> Result<()> {
        match &self.bar {
            _ if self.json => print_line(object),
            Some(bar) => {
                bar.suspend(|| println!("{text}"));
                Ok(())
            }
            None => Ok(writeln!(stdout().lock(), "{text}")?),
        }
    }

    fn started(&self, handle: &NodeHandle) -> Result<()> {
        let (peer, engine, name) = (handle.peer(), handle.engine(), &handle.manifest().name);
        let text = format!("Training in \"{name}\" as peer {} with {engine}. Ctrl-C leaves.", peer.short());
        let object = json!({ "event": "started", "peer": peer, "engine": engine, "run": handle.manifest().run() });
        self.line(&text, &object)
    }

    fn left(&self, rounds: u64, accepted: u64) -> Result<()> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let text = format!("Left after {rounds} rounds; {accepted} of this machine's updates are in the model.");
        self.line(&text, &json!({ "event": "left", "rounds": rounds, "accepted_own": accepted }))
    }

    fn round(&self, certified: &Certified, held_out: Option<f32>, status: &Status) -> Result<()> {
        let Certified { round, model, accepted, own, recovery } = certified;
        let own = own.map(|verdict| match verdict {
            Verdict::Accepted => "accepted",
            Verdict::Unavailable => "unavailable",
            Verdict::Withheld => "withheld",
            Verdict::Malformed => "malformed",
            Verdict::Copied => "copied",
            Verdict::Harmful => "harmful",
        });
        let direct = status.paths.values().filter(|direct| **direct).count();
        let relayed = status.paths.len() - direct;
        let loss = held_out.map_or_else(|| "     –".to_owned(), |loss| format!("{loss:6.4}"));
        let text = format!(
            "round {round:>5}  loss {loss}  {accepted} updates, own {}  model {}  links: {direct} direct, {relayed} by relay{}",
            own.unwrap_or("–"),
            model.short(),
            if *recovery { "  (recovery)" } else { "" },
        );
        let object = json!({ "event": "round", "round": round, "model": model, "accepted": accepted, "own": own,
            "held_out_loss": held_out, "recovery": recovery,
            "links": { "direct": direct, "relayed": relayed } });
        self.line(&text, &object)
    }

    fn event(&self, event: &NodeEvent) -> Result<()> {
        let (text, object) = match event {
            NodeEvent::Swarm(Event::CaughtUp { round, model }) => (
                format!("Caught up with round {round}."),
                json!({ "event": "caught_up", "round": round, "model": model }),
            ),
            NodeEvent::Swarm(Event::JoinedRoster { round }) => {
                (format!("Takes part from round {round} on."), json!({ "event": "joined", "round": round }))
            }
            NodeEvent::Swarm(Event::Replaced { round }) => (
                format!(
                    "Another process with this machine's key takes part from round {round} on; this one makes room. \
                     Start it again to take part here."
                ),
                json!({ "event": "replaced", "round": round }),
            ),
            NodeEvent::Swarm(Event::RolledBack { to }) => (
                format!("A provisional recovery was replaced; back to round {to}."),
                json!({ "event": "rolled_back", "to": to }),
            ),
            NodeEvent::Swarm(Event::Proposed { round, amendment, by }) => (
                format!("A change of the run was proposed; `shoal ledger` shows it: {amendment}"),
                json!({ "event": "proposed", "round": round, "amendment": amendment, "by": by }),
            ),
            NodeEvent::Swarm(Event::Decided { round, amendment, accepted }) => (
                format!("Amendment {} was {}.", amendment.short(), if *accepted { "accepted" } else { "rejected" }),
                json!({ "event": "decided", "round": round, "amendment": amendment, "accepted": accepted }),
            ),
            NodeEvent::Swarm(Event::Over { round }) => (
                format!("Those who take part decided to end this run: round {round} was the last."),
                json!({ "event": "over", "round": round }),
            ),
            NodeEvent::Swarm(Event::Waiting { present, needed }) => (
                format!("Waiting for others: weight {present} of {needed} is present."),
                json!({ "event": "waiting", "present": present, "needed": needed }),
            ),
            NodeEvent::Swarm(Event::Trouble(why)) => {
                (format!("Trouble: {why}"), json!({ "event": "trouble", "why": why }))
            }
            NodeEvent::Relay(RelayState::Refused(refusal)) => {
                let why = meaning(*refusal);
                (format!("Refused: {why}."), json!({ "event": "relay", "state": "refused", "why": why }))
            }
            NodeEvent::Relay(state) => (
                if *state == RelayState::Open { "The relay is here." } else { "The relay is away; trying again." }
                    .to_owned(),
                json!({ "event": "relay", "state": if *state == RelayState::Open { "open" } else { "away" } }),
            ),
            NodeEvent::Engine { name, why } => (
                format!("Training goes on with {name}, because the engine before it failed: {why}"),
                json!({ "event": "engine", "engine": name, "why": why }),
            ),
            NodeEvent::Linked { peer, direct } => {
                let object = json!({ "event": "linked", "peer": peer, "direct": direct });
                return if self.json { print_line(&object) } else { Ok(()) };
            }
            _ => return Ok(()),
        };
        self.line(&text, &object)
    }

    fn redraw(&self, status: &Status) {
        let Some(bar) = &self.bar else { return };
        let snapshot = &status.snapshot;
        let phase = format!("{:?}", snapshot.phase).to_lowercase();
        let peers = snapshot.roster.iter().filter(|entry| entry.present).count();
        bar.set_position((snapshot.progress * 1000.0) as u64);
        bar.set_message(format!("round {} {phase}, {peers} peers", snapshot.head + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_ends_the_visit_only_where_waiting_cannot_help() {
        assert!(is_final(Refusal::Replaced, true) && is_final(Refusal::Replaced, false));
        assert!(is_final(Refusal::UnknownRun, false) && !is_final(Refusal::UnknownRun, true));
        for passing in [Refusal::RoomFull, Refusal::TooFast, Refusal::Malformed] {
            assert!(!is_final(passing, false));
            assert!(meaning(passing).contains("trying again"), "{passing:?}");
        }
    }
}
