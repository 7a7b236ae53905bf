//! `shoal run`: lists, shows and publishes runs.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use serde_json::json;
use shoal_learn::{init, outer::params_to_bytes, presets::Preset};
use shoal_node::RelayClient;
use shoal_wire::{
    Digest, Identity, Manifest, RunId, limits,
    manifest::{Charter, Chunk, CreditRule, DataSource, DataSpec, ModelSpec, Privacy, Tokenizer},
    sign::Domain,
};

use crate::files;
use crate::model::Model;
use crate::output::print_line;
use crate::relay::{TlsArgs, block_on, parse_run};

const TOKEN_BYTES_MAX: u64 = 4096;
const CHUNK_BYTES: usize = 1 << 20;
/// Most of a text that is held out from training.
const HELD_OUT_BYTES_MAX: usize = 64 * 1024;

/// List, show and publish training runs
#[derive(Subcommand)]
pub enum Command {
    /// List a relay's runs
    List(ListArgs),
    /// Show one run: its model, data, recipe and where it stands
    Show(ShowArgs),
    /// Publish a run on a relay that you host
    Create(CreateArgs),
}

#[derive(clap::Args)]
pub struct ListArgs {
    /// The relay's address
    relay: String,
    /// Print one JSON object, `{"runs": [...]}`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

#[derive(clap::Args)]
pub struct ShowArgs {
    /// The relay's address
    relay: String,
    /// The run's id
    #[arg(value_name = "ID", value_parser = parse_run)]
    run: RunId,
    /// Print the JSON object in one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

#[derive(clap::Args)]
pub struct CreateArgs {
    /// The relay's address
    relay: String,
    /// File with the host's token, which the relay wrote into its data directory
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// UTF-8 text to train on; each byte is a token
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Size of a new model (tiny, small or base), or the Hugging Face folder of one to go on from, whose tokens are bytes
    #[arg(long, value_name = "SIZE|DIR", default_value = "small")]
    model: PathBuf,
    /// What to call the run
    #[arg(long)]
    name: String,
    /// What it is for, in a few sentences
    #[arg(long, default_value = "")]
    description: String,
    /// Who publishes it
    #[arg(long)]
    host: String,
    /// SPDX licence of the text
    #[arg(long, value_name = "SPDX")]
    licence: String,
    /// Whom the text is by, and where it is from
    #[arg(long, default_value = "")]
    attribution: String,
    /// Most local steps in a round
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    local_steps: Option<u32>,
    /// Anything; another seed gives another run, and another first model unless it comes from a folder
    #[arg(long, default_value = "0")]
    seed: String,
    /// Print one JSON object, with the run's id
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

impl Command {
    pub fn json(&self) -> bool {
        match self {
            Self::List(args) => args.json,
            Self::Show(args) => args.json,
            Self::Create(args) => args.json,
        }
    }
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::List(args) => list(args),
        Command::Show(args) => {
            let client = args.tls.client(&args.relay)?;
            let details = block_on(async { Ok(client.run_details(args.run).await?) })?;
            if args.json {
                return print_line(&details);
            }
            writeln!(stdout().lock(), "{details:#}")?;
            Ok(())
        }
        Command::Create(args) => create(args),
    }
}

fn list(args: &ListArgs) -> Result<()> {
    let client = args.tls.client(&args.relay)?;
    let runs = block_on(async { Ok(client.runs().await?) })?;
    if args.json {
        let runs: Vec<_> = runs
            .iter()
            .map(|run| {
                json!({ "id": run.id, "name": run.name, "host": run.host, "round": run.round, "peers": run.peers,
                    "parameters": run.parameters })
            })
            .collect();
        return print_line(&json!({ "runs": runs }));
    }
    let mut out = stdout().lock();
    if runs.is_empty() {
        writeln!(out, "This relay has no runs yet; its host publishes one with `shoal run create`.")?;
    }
    for run in runs {
        writeln!(out, "{}", run.id)?;
        let millions = run.parameters as f64 / 1e6;
        let (name, host, round, peers) = (run.name, run.host, run.round, run.peers);
        writeln!(out, "  {name}, by {host}: round {round}, {peers} peers, {millions:.2} M parameters")?;
    }
    Ok(())
}

fn create(args: &CreateArgs) -> Result<()> {
    let text = files::read(&args.data, limits::TEXT_BYTES_MAX)?;
    let token = String::from_utf8(files::read(&args.token_file, TOKEN_BYTES_MAX)?).context("the token is no text")?;
    let client = args.tls.client(&args.relay)?;
    let run = block_on(publish(args, &client, token.trim(), text))?;
    if args.json {
        return print_line(&json!({ "id": run, "name": args.name }));
    }
    writeln!(stdout().lock(), "{run}")?;
    Ok(())
}

/// The first model of a run, and the preset whose recipe suits it.
struct First {
    model: ModelSpec,
    parameters: Vec<f32>,
    preset: Preset,
}

impl First {
    fn of(choice: &Path, seed: Digest) -> Result<Self> {
        if let Some(preset) = choice.to_str().and_then(|name| name.parse::<Preset>().ok()) {
            let model = preset.model();
            return Ok(Self { parameters: init::genesis(&model, seed)?, model, preset });
        }
        let name = choice.display();
        ensure!(choice.is_dir(), "--model is tiny, small, base or a model folder, and {name} is none of them");
        let Model { spec, parameters, .. } = {
            let model = Model::read(choice)?;
            if let Err(why) = model.reads_bytes() {
                bail!("a run's tokens are bytes, and {why}: {name} cannot be its first model");
            }
            model
        };
        Ok(Self { preset: Preset::fitting(parameters.len()), model: spec, parameters })
    }
}

async fn publish(args: &CreateArgs, client: &RelayClient, token: &str, text: Vec<u8>) -> Result<RunId> {
    let name = args.data.display();
    ensure!(!text.contains(&0) && std::str::from_utf8(&text).is_ok(), "{name} is not UTF-8 text");
    let seed = Digest::in_domain("shoal 2026 v1 seed of a published run", args.seed.as_bytes());
    let First { model, parameters, preset } = First::of(&args.model, seed)?;
    let mut recipe = preset.recipe_for(&model);
    if let Some(steps) = args.local_steps {
        recipe.local_steps = steps;
    }
    let held_out = (text.len() / 10).min(HELD_OUT_BYTES_MAX);
    if held_out <= recipe.context as usize {
        bail!("{name} has {} bytes; at least {} are needed", text.len(), 10 * (recipe.context as usize + 1));
    }
    let first = params_to_bytes(&parameters);
    ensure!(first.len() as u64 <= limits::BLOB_BYTES_MAX, "the model is larger than a blob may be");
    let genesis = client.put_blob(token, first).await?;
    let mut chunks = Vec::new();
    for part in text.chunks(CHUNK_BYTES) {
        let digest = client.put_blob(token, part.to_vec()).await?;
        chunks.push(Chunk { digest, bytes: part.len() as u32 });
    }
    let manifest = Manifest {
        version: shoal_wire::manifest::VERSION,
        name: args.name.clone(),
        description: args.description.clone(),
        host: args.host.clone(),
        model,
        tokenizer: Tokenizer::Bytes,
        genesis,
        data: DataSpec {
            sources: vec![DataSource {
                name: args.data.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                licence: args.licence.clone(),
                attribution: args.attribution.clone(),
                chunks,
            }],
            held_out_bytes: held_out as u64,
        },
        recipe,
        timing: preset.timing(),
        privacy: Privacy::Public,
        credit: CreditRule::default(),
        charter: Charter::default(),
        anchors: vec![client.anchor(genesis, seed).await?],
        seed,
    };
    // Who holds the relay's token publishes; the signing key follows from it, so one host's runs share a signer.
    let signer = Identity::from_secret(Digest::in_domain("shoal 2026 v1 publisher", token.as_bytes()).0);
    client.create_run(token, &signer.seal(Domain::Manifest, &manifest)).await?;
    Ok(manifest.run())
}
