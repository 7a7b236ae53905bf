//! `shoal join`: a volunteer without a browser.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shoal_node::{EngineChoice, Node, NodeConfig, NodeEvent, NodeHandle, Status};
use shoal_store::FileStore;
use shoal_swarm::{Event, mesh::RelayState};
use shoal_wire::{Digest, Round, RunId, record::Verdict};

use crate::relay::{TlsArgs, block_on, log, parse_run};
use crate::verify::print_line;

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
        let rounds = watch(&mut handle, &reporter, args.rounds).await?;
        let accepted = handle.status().borrow().snapshot.accepted_own;
        handle.leave().await;
        reporter.left(rounds, accepted)
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

/// Reports until the wanted number of rounds, or Ctrl-C; returns how many rounds were certified.
async fn watch(handle: &mut NodeHandle, reporter: &Reporter, wanted: Option<u64>) -> Result<u64> {
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
                return Ok(rounds);
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
                other => reporter.event(&other)?,
            },
        }
        if wanted.is_some_and(|wanted| rounds >= wanted) {
            return Ok(rounds);
        }
    }
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
            NodeEvent::Swarm(Event::RolledBack { to }) => (
                format!("A provisional recovery was replaced; back to round {to}."),
                json!({ "event": "rolled_back", "to": to }),
            ),
            NodeEvent::Swarm(Event::Waiting { present, needed }) => (
                format!("Waiting for others: weight {present} of {needed} is present."),
                json!({ "event": "waiting", "present": present, "needed": needed }),
            ),
            NodeEvent::Swarm(Event::Trouble(why)) => {
                (format!("Trouble: {why}"), json!({ "event": "trouble", "why": why }))
            }
            NodeEvent::Relay(RelayState::Refused(refusal)) => (
                format!("The relay refuses this machine: {refusal:?}."),
                json!({ "event": "relay", "state": "refused", "why": format!("{refusal:?}") }),
            ),
            NodeEvent::Relay(state) => (
                if *state == RelayState::Open { "The relay is here." } else { "The relay is away; trying again." }
                    .to_owned(),
                json!({ "event": "relay", "state": if *state == RelayState::Open { "open" } else { "away" } }),
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
