//! `shoal plan`: what training a model takes, before anything is downloaded, opened or allocated.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shoal_gpu::{Footprint, Room};
use shoal_learn::{EngineError, Shard, folder};

use crate::files;
use crate::model::CONFIG_BYTES_MAX;
use crate::output::print_line;

/// Say how much memory and time a training step takes, by class of device
///
/// Only config.json is read. Memory is exact: all buffers that a step needs, trained in the fastest way that fits. Times are
/// estimates: the class's single-precision peak at the share of it that training is expected to reach.
#[derive(clap::Args)]
pub struct Args {
    /// A Hugging Face model folder, with config.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Sequences in a batch
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Tokens in a sequence; the model's positions, at most 1,024, when not given
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Split the model's blocks into so many shards, each for one device
    #[arg(long, value_name = "N", default_value_t = 1)]
    shards: u32,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

struct Class {
    name: &'static str,
    room: Room,
    /// Single-precision operations a second, of which training reaches [`SHARE`].
    peak: f64,
}

const GIB: u64 = 1 << 30;
/// The share of a device's peak that a step is expected to reach.
const SHARE: f64 = 0.35;

const CLASSES: [Class; 4] = [
    Class { name: "phone", room: Room { bytes: GIB, binding_bytes: 128 << 20 }, peak: 0.5e12 },
    Class { name: "laptop", room: Room { bytes: 4 * GIB, binding_bytes: GIB }, peak: 2e12 },
    Class { name: "desktop GPU", room: Room { bytes: 12 * GIB, binding_bytes: 2 * GIB }, peak: 15e12 },
    Class { name: "server GPU", room: Room { bytes: 72 * GIB, binding_bytes: 4 * GIB }, peak: 50e12 },
];

pub fn run(args: &Args) -> Result<()> {
    let path = args.model.join("config.json");
    let model = folder::parse_config(&files::read(&path, CONFIG_BYTES_MAX)?)
        .with_context(|| format!("cannot use {}", path.display()))?;
    let positions = model.max_position_embeddings as usize;
    let context = args.context.unwrap_or(positions.min(1024));
    ensure!(args.batch > 0, "--batch must be at least 1");
    ensure!((1..=positions).contains(&context), "--context must be 1 to {positions}, the model's positions");
    let mut shards = Vec::new();
    for (index, shard) in Shard::split(&model, args.shards)?.iter().enumerate() {
        let of = |class: &Class| Footprint::of(&model, shard, (args.batch, context), class.room);
        let found: Vec<_> = CLASSES.iter().map(|class| (class, of(class))).collect();
        if !args.json {
            say(index, shard, &found)?;
        }
        let told = |found: &Result<Footprint, EngineError>, class: &Class| match found {
            Ok(fits) => told(*fits, class),
            Err(error) => json!({ "error": error.to_string() }),
        };
        let classes: serde_json::Map<String, Value> =
            found.iter().map(|(class, found)| (class.name.to_owned(), told(found, class))).collect();
        let layers = shard.layers();
        shards.push(json!({ "blocks": [layers.start, layers.end], "classes": classes }));
    }
    if args.json {
        print_line(&json!({ "batch": args.batch, "context": context, "shards": shards }))?;
    }
    Ok(())
}

/// What a step takes on a device of this class, by its peak.
fn step_ms(fits: Footprint, class: &Class) -> f64 {
    fits.operations as f64 / (class.peak * SHARE) * 1e3
}

fn told(fits: Footprint, class: &Class) -> Value {
    json!({
        "parameters": fits.parameters,
        "bytes": fits.bytes,
        "micro_batches": fits.micro_batches,
        "recomputes": fits.recomputes,
        "dispatches": fits.dispatches,
        "operations": fits.operations,
        "step_ms": step_ms(fits, class),
    })
}

fn say(index: usize, shard: &Shard, found: &[(&Class, Result<Footprint, EngineError>)]) -> Result<()> {
    use std::io::Write;

    let mut out = std::io::stdout().lock();
    let layers = shard.layers();
    let parameters = found.iter().find_map(|(_, found)| found.as_ref().ok()).map(|fits| fits.parameters);
    let parameters = parameters.map_or(String::new(), |count| format!(", {count} parameters"));
    writeln!(out, "shard {}: blocks {} to {}{parameters}", index + 1, layers.start + 1, layers.end)?;
    for (class, found) in found {
        let name = class.name;
        let fits = match found {
            Ok(fits) => *fits,
            Err(error) => {
                writeln!(out, "  {name:<12} {error}")?;
                continue;
            }
        };
        let parts = fits.micro_batches;
        let mut how = if parts > 1 { format!(", the batch in {parts} parts") } else { String::new() };
        if fits.recomputes {
            how.push_str(", activations computed twice");
        }
        let (mib, ms) = (fits.bytes as f64 / f64::from(1 << 20), step_ms(fits, class));
        writeln!(out, "  {name:<12} {mib:>10.1} MiB  about {ms:>10.1} ms a step{how}")?;
    }
    Ok(())
}
