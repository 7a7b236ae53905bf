//! `shoal export`: takes a run's newest model home.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;
use shoal_learn::gguf::GgufTokenizer;
use shoal_learn::{Layout, folder, outer::params_from_bytes};
use shoal_ledger::Lineage;
use shoal_node::verify::{Source, verify};
use shoal_wire::RunId;

use crate::files;
use crate::ledger::change;
use crate::model::{Gguf, write_weights};
use crate::output::{markdown, print_line};
use crate::relay::{TlsArgs, block_on, parse_run};

/// Export a run's newest model as a Hugging Face folder, after replaying the run
///
/// The folder also gets the model's lineage, as `lineage.json` and as a model card, README.md: the run, its rounds, the
/// digests of the model and of the certified bodies, who contributed how much, what they decided on, and the data with
/// licences and attribution.
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
    let out = &args.out;
    fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    write_weights(out, &layout, &parameters)?;
    if let Some(kind) = args.gguf {
        kind.write(out, &manifest.name, &manifest.model, &parameters, &GgufTokenizer::Bytes)?;
    }
    files::write_atomically(&out.join("config.json"), &folder::config_json(&manifest.model)?)?;
    let lineage = serde_json::to_string_pretty(&verified.lineage)?;
    files::write_atomically(&out.join("lineage.json"), format!("{lineage}\n").as_bytes())?;
    files::write_atomically(&out.join("README.md"), card(&verified.lineage).as_bytes())?;
    if args.json {
        return print_line(&json!({ "run": verified.run, "round": verified.rounds, "model": verified.model,
            "out": out.display().to_string() }));
    }
    println!("Wrote the model after round {} ({}) to {}", verified.rounds, verified.model.short(), out.display());
    Ok(())
}

/// The model card: what a person wants to know before using the model.
fn card(lineage: &Lineage) -> String {
    let Lineage { run, rounds, model, contributors, data, amendments, .. } = lineage;
    let (name, host) = (markdown(&lineage.name), markdown(&lineage.host));
    let mut text = format!(
        "# {name}\n\nTrained in the open with Shoal, in a run that {host} published.\n\n\
         | | |\n|---|---|\n| run | `{run}` |\n| after round | {rounds} |\n| model | `{model}` |\n\
         | certified body | `{}` |\n| contributors | {} |\n\n\
         `shoal verify RELAY --run {run}` replays how it was made. `lineage.json` names every contributor.\n\n\
         ## Data\n\n",
        lineage.certified_body,
        contributors.len(),
    );
    text.extend(data.iter().map(|source| {
        let [name, licence, attribution] = [&source.name, &source.licence, &source.attribution].map(|s| markdown(s));
        let by = if attribution.is_empty() { String::new() } else { format!(": {attribution}") };
        format!("- {name} ({licence}){by}\n")
    }));
    if !amendments.is_empty() {
        text += "\n## Decided by its contributors\n\n";
    }
    text.extend(amendments.iter().map(|accepted| {
        let (amendment, id) = (&accepted.amendment, accepted.id.short());
        format!("- from round {}: {} ({id})\n", amendment.effective, markdown(&change(&amendment.change)))
    }));
    text
}
