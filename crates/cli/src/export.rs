//! `shoal export`: takes a run's newest model home.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shoal_learn::gguf::GgufTokenizer;
use shoal_learn::{Layout, folder, outer::params_from_bytes};
use shoal_node::verify::{Replayed, Source, verify};
use shoal_wire::{Manifest, RunId};

use crate::files;
use crate::model::{Gguf, write_weights};
use crate::output::print_line;
use crate::relay::{TlsArgs, block_on, parse_run};

/// Export a run's newest model as a Hugging Face folder, after replaying the run
///
/// The folder also gets `shoal.json`, the model's lineage: the run, its rounds, the digests of the model and of the last
/// certified body, who contributed how much, and the data with licences and attribution.
#[derive(clap::Args)]
pub struct Args {
    /// The relay's address
    relay: String,
    /// The run's id
    #[arg(long, value_name = "ID", value_parser = parse_run)]
    run: RunId,
    /// Folder to write to; made when missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write model.gguf too, for llama.cpp, with matrices of this type
    #[arg(long, value_name = "TYPE")]
    gguf: Option<Gguf>,
    /// Print one JSON object: the run, the round, the model's digest and the folder
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let client = args.tls.client(&args.relay)?;
    let (manifest, verified) = block_on(async {
        let (_, manifest) = client.manifest(args.run).await?;
        let verified = verify(&Source::Relay(client.clone()), args.run, |_| {}).await?;
        Ok((manifest, verified))
    })?;
    let layout = Layout::of(&manifest.model)?;
    let parameters = params_from_bytes(&layout, &verified.bytes)?;
    let lineage = lineage(&manifest, &verified);
    let out = &args.out;
    fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    write_weights(out, &layout, &parameters)?;
    if let Some(kind) = args.gguf {
        kind.write(out, &manifest.name, &manifest.model, &parameters, &GgufTokenizer::Bytes)?;
    }
    files::write_atomically(&out.join("config.json"), &folder::config_json(&manifest.model)?)?;
    files::write_atomically(&out.join("shoal.json"), format!("{lineage:#}\n").as_bytes())?;
    if args.json {
        return print_line(&json!({ "run": verified.run, "round": verified.rounds, "model": verified.model,
            "out": out.display().to_string() }));
    }
    println!("Wrote the model after round {} ({}) to {}", verified.rounds, verified.model.short(), out.display());
    Ok(())
}

/// Where a model comes from: enough to check it with `shoal verify`, and to credit data and contributors.
fn lineage(manifest: &Manifest, verified: &Replayed) -> Value {
    json!({
        "run": verified.run,
        "name": manifest.name,
        "host": manifest.host,
        "rounds": verified.rounds,
        "model": verified.model,
        // Each body names the one before it: this digest stands for all certificates.
        "certifiedBody": verified.body,
        "acceptedUpdates": verified.accepted,
        "recoveries": verified.recoveries,
        "contributors": verified.contributors,
        "data": manifest.data.sources.iter().map(|source| json!({
            "name": source.name, "licence": source.licence, "attribution": source.attribution,
        })).collect::<Vec<_>>(),
    })
}
