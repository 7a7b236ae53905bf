//! `shoal train`: trains a Hugging Face model folder alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use shoal_cpu::{CpuEngine, CpuLoraEngine};
use shoal_gpu::{Options, ResumingEngine};
use shoal_learn::lora::{self, LoraSpec};
use shoal_learn::{Engine, recipe::SoloRecipe};
use shoal_wire::Digest;

use crate::files;
use crate::model::{self, Gguf, Model};
use crate::progress::Reporter;
use crate::source::Source;
use crate::train_net;

const BATCHES_BYTES_MAX: u64 = 4 << 30;
const TEXT_BYTES_MAX: u64 = 4 << 30;

const EXAMPLES: &str = "\
Examples:
  shoal train --model my-llama --data book.txt --steps 500 --engine gpu --out trained
  shoal train --model my-llama --data book.txt --steps 200 --engine cpu --lora 8 --out my-adapter
  shoal train --model my-llama --batches batches.safetensors --steps 50 --engine cpu --json
  shoal train --table people.csv --target income --out income-model
  shoal train --images t10k-images-idx3-ubyte.gz --labels t10k-labels-idx1-ubyte.gz --engine gpu

--model and --out are Hugging Face folders: config.json and model.safetensors, a LlamaForCausalLM. Files of its
tokenizer come along.
--table is a CSV file whose first line names the columns (--header tells otherwise). A column is numbers where nine tenths
of its cells are, and another cell is an error then; other columns are categories. Empty cells and ?, NA, N/A, null are
missing. A target of words or of two numbers is classified, of more numbers predicted. --images and --labels are IDX files of
bytes, gzipped or not. --out gets model.safetensors (tensors as in PyTorch's nn.Sequential), net.json (the layers, which
--net reads) and preprocessing.json (means, deviations, categories, classes).

--data is read with the model folder's tokenizer.json; without one each byte is a token, and the vocabulary must be 256.
--batches is a safetensors file with one int32 tensor `tokens` of shape [batches, batch, context + 1];
step i (from 0) trains on batch i mod batches. --recipe is a JSON file:
  {\"optimizer\": {\"type\": \"adamw\", \"lr\": 1e-3, \"beta1\": 0.9, \"beta2\": 0.95, \"eps\": 1e-8,
                 \"weightDecay\": 0.1, \"gradClip\": 1.0}}
Weight decay is decoupled and applies to matrices; \"gradClip\": null means none. Other optimizers:
  {\"type\": \"sgd\", \"lr\", \"momentum\", \"nesterov\", \"weightDecay\", \"gradClip\"} with PyTorch's coupled weight decay
  {\"type\": \"muon\", \"lr\", \"momentum\", \"nesterov\", \"scale\": \"original\" or \"match_rms_adamw\", \"weightDecay\",
   \"gradClip\"} for hidden matrices, and \"adamwLr\", \"beta1\", \"beta2\", \"eps\" in it for everything else
A recipe may also say how the rate rises and falls over steps; what is left out does not happen:
  \"schedule\": {\"warmupSteps\": 100, \"decayFrom\": 900, \"decaySteps\": 100}";

/// Train a model alone, on this machine
///
/// Reads a Hugging Face model folder, trains it on a text or on prepared batches, and writes a folder that
/// `transformers` loads. Or makes a small network for a table (--table) or for images (--images), trains it, and
/// measures it on examples that were held out. With --json, prints one JSON line a step: `step` (from 1), `loss`
/// (before the step; mean cross-entropy in nats for a model folder) and `ms`; a network's last line is
/// `{"held_out": {…}}`.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`--help` shows examples and file formats.")]
pub struct Args {
    /// Model folder with config.json and model.safetensors
    #[arg(long, value_name = "DIR", required_unless_present_any = ["table", "images"])]
    model: Option<PathBuf>,
    /// UTF-8 text to train on, read with the model's tokenizer.json; without one each byte is a token of the model's 256
    #[arg(long, value_name = "FILE", required_unless_present_any = ["batches", "table", "images"], conflicts_with_all = ["batches", "table", "images"])]
    data: Option<PathBuf>,
    /// Prepared batches of tokens, a safetensors file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["table", "images"])]
    batches: Option<PathBuf>,
    #[command(flatten)]
    net: train_net::NetArgs,
    /// Number of optimiser steps [default for --table and --images: some times through the examples]
    #[arg(long, value_name = "N", required_unless_present_any = ["table", "images"],
          value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// What computes: WebGPU natively (Vulkan, Metal, DirectX 12), or the processor
    /// [default for --table and --images: cpu]
    #[arg(long, value_enum, required_unless_present_any = ["table", "images"])]
    engine: Option<EngineKind>,
    /// Optimiser settings, a JSON file [default: AdamW; the learning rate is 1e-3, of images 3e-3, and falls over the
    /// last half of the steps with --table and --images]
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Print one JSON object a step
    #[arg(long)]
    json: bool,
    /// Folder to write the trained model to; made when missing
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write model.gguf into --out too, for llama.cpp, with matrices of this type
    #[arg(long, value_name = "TYPE", requires = "out", conflicts_with_all = ["table", "images"])]
    gguf: Option<Gguf>,
    #[command(flatten)]
    lora: Lora,
    /// Sequences in a batch, with --data [default: 8]; or examples [default: 32]
    #[arg(long, value_name = "B", conflicts_with = "batches", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,
    /// Tokens in a sequence, with --data [default: 128, or what the model allows]
    #[arg(long, value_name = "C", conflicts_with_all = ["batches", "table", "images"],
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    context: Option<u32>,
    /// Chooses which parts of the text are trained on, with --data, or which examples are held out [default: 0]
    #[arg(long, value_name = "S", conflicts_with = "batches")]
    seed: Option<u64>,
}

/// An adapter in the place of the model's own weights.
#[derive(clap::Args)]
struct Lora {
    /// Train a low-rank adapter of this rank; --out gets it in PEFT's format. For --engine cpu
    #[arg(long = "lora", value_name = "RANK", conflicts_with_all = ["table", "images"], value_parser = clap::value_parser!(u32).range(1..=1024))]
    rank: Option<u32>,
    /// How much the adapter counts: this by its rank [default: twice the rank]
    #[arg(long = "lora-alpha", value_name = "A", requires = "rank")]
    alpha: Option<f32>,
    /// Which projections are adapted
    #[arg(long = "lora-targets", value_name = "NAMES", requires = "rank", value_delimiter = ',', value_parser = lora::TARGETS,
        default_value = "q_proj,v_proj")]
    targets: Vec<String>,
    /// Write the whole model with the adapter merged into it
    #[arg(long, requires = "rank")]
    merge: bool,
}

impl Lora {
    fn spec(&self) -> Option<LoraSpec> {
        let rank = self.rank?;
        let alpha = self.alpha.unwrap_or(2.0 * rank as f32);
        Some(LoraSpec { rank, alpha, targets: self.targets.clone() })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    Gpu,
    Cpu,
}

fn read_recipe(path: &Path) -> Result<SoloRecipe> {
    let recipe = SoloRecipe::parse(&files::read(path, model::CONFIG_BYTES_MAX)?);
    recipe.with_context(|| format!("cannot use the recipe {}", path.display()))
}

impl Args {
    fn source(&self, model: &Model) -> Result<Source> {
        let (path, source) = if let Some(path) = &self.batches {
            (path, Source::prepared(&files::read(path, BATCHES_BYTES_MAX)?, model.spec.vocab_size))
        } else {
            let path = self.data.as_ref().context("--data or --batches is needed")?;
            let tokenizer = model.tokenizer()?;
            if tokenizer.is_none() {
                check_reads_bytes(model)?;
            }
            let context = self.context.unwrap_or(model.spec.max_position_embeddings.min(128)) as usize;
            let batch = self.batch.unwrap_or(8) as usize;
            let text = files::read(path, TEXT_BYTES_MAX)?;
            let seed = self.seed.unwrap_or(0);
            let source = match tokenizer {
                Some(tokenizer) => Source::tokens(&text, &tokenizer, batch, context, seed),
                None => Source::text(text, batch, context, seed),
            };
            (path, source)
        };
        source.with_context(|| format!("cannot train on {}", path.display()))
    }
}

/// Without a tokenizer bytes are tokens, of a byte model only; to any other they are noise, and training on them spoils it.
fn check_reads_bytes(model: &Model) -> Result<()> {
    let Err(why) = model.reads_bytes() else { return Ok(()) };
    bail!(
        "without a tokenizer.json each byte of --data is a token, and {why}: put the model's tokenizer.json into its \
         folder, or give tokens as --batches (`shoal train --help` shows the format)"
    )
}

pub fn run(args: &Args) -> Result<()> {
    if args.net.is_asked() {
        let recipe = args.recipe.as_deref().map(read_recipe).transpose()?;
        let Args { steps, engine, json, batch, seed, .. } = *args;
        let out = args.out.as_deref();
        return train_net::run(&args.net, &train_net::Common { steps, engine, recipe, json, out, batch, seed });
    }
    let model = Model::read(args.model.as_ref().context("--model is needed")?)?;
    let steps = args.steps.context("--steps is needed")?;
    let recipe = args.recipe.as_deref().map_or_else(|| Ok(SoloRecipe::default()), read_recipe)?;
    let source = args.source(&model)?;
    if let Some(out) = &args.out {
        // Better to learn of a bad folder now than after hours of training.
        fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    }
    if args.gguf.is_some() {
        model.gguf_tokenizer()?;
    }
    if let Some(spec) = args.lora.spec() {
        return adapt(args, steps, spec, &model, &source, recipe);
    }
    let (batch, context) = source.shape();
    let trained = pollster::block_on(async {
        match args.engine.context("--engine is needed")? {
            EngineKind::Cpu => {
                let mut engine = CpuEngine::new(&model.spec, batch, context)?;
                train(steps, args.json, &mut engine, &model.parameters, &source, recipe).await
            }
            EngineKind::Gpu => {
                let engine = ResumingEngine::open(&model.spec, batch, context, Options::default()).await;
                let mut engine = engine.context("the GPU engine did not start (`--engine cpu` needs no GPU)")?;
                train(steps, args.json, &mut engine, &model.parameters, &source, recipe).await
            }
        }
    })?;
    write(args, &model, &trained)
}

/// Writes the trained model where it was asked for.
fn write(args: &Args, model: &Model, trained: &[f32]) -> Result<()> {
    let Some(out) = &args.out else { return Ok(()) };
    model.write(out, trained)?;
    args.gguf.map_or(Ok(()), |kind| model.write_gguf(out, trained, kind))
}

/// Trains an adapter, and writes it or the model that it makes.
fn adapt(args: &Args, steps: u32, spec: LoraSpec, model: &Model, source: &Source, recipe: SoloRecipe) -> Result<()> {
    ensure!(args.gguf.is_none() || args.lora.merge, "--gguf writes whole models: with --lora it needs --merge");
    ensure!(args.engine == Some(EngineKind::Cpu), "adapters are trained with --engine cpu only");
    let (batch, context) = source.shape();
    let mut engine = CpuLoraEngine::new(&model.spec, &model.parameters, spec, batch, context)?;
    let seed = Digest::in_domain("shoal 2026 v1 seed of an adapter", &args.seed.unwrap_or(0).to_le_bytes());
    let first = engine.adapter().first(seed);
    let trained = pollster::block_on(train(steps, args.json, &mut engine, &first, source, recipe))?;
    if args.lora.merge {
        return write(args, model, engine.merged());
    }
    let Some(out) = &args.out else { return Ok(()) };
    let adapter = engine.adapter();
    files::write_atomically(&out.join("adapter_model.safetensors"), &adapter.weights_bytes(&trained)?)?;
    let base = args.model.as_deref().context("--model is needed")?.display().to_string();
    let config = adapter.config_json(&base)?;
    files::write_atomically(&out.join("adapter_config.json"), &config)
}

/// Trains and returns the final parameters.
async fn train(
    steps: u32,
    json: bool,
    engine: &mut impl Engine,
    first: &[f32],
    source: &Source,
    recipe: SoloRecipe,
) -> Result<Vec<f32>> {
    engine.load(first)?;
    let reporter = Reporter::new(json, steps)?;
    reporter.note(&format!("{} parameters on {}", first.len(), engine.describe()));
    for step in 1..=steps {
        let batch = source.batch(step - 1)?;
        let start = Instant::now();
        engine.step(&batch, &recipe.settings(step))?;
        let losses = engine.losses().await?;
        let loss = *losses.last().context("the engine returned no loss")?;
        ensure!(loss.is_finite(), "the loss is {loss} at step {step}: try a lower learning rate or gradient clipping");
        reporter.step(step, loss, start.elapsed())?;
    }
    reporter.finish();
    let parameters = engine.parameters().await?;
    ensure!(parameters.iter().all(|p| p.is_finite()), "the last step made parameters that are not finite");
    Ok(parameters)
}
