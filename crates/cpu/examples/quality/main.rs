//! How well rounds learn, beside plain training and uncompressed DiLoCo: a small decoder on text, with paired seeds and
//! batches, and learning rates tuned alike for every way to train.
//!
//! ```sh
//! cargo run --release -p shoal-cpu --example quality -- --data book.txt
//! ```
//! Prints tables, then one JSON object; figures are in `docs/benchmarks.md`. What is done is kept in a file, so the same command goes on after a stop.

mod plot;
mod report;
mod results;
mod train;
mod trial;
mod tune;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, builder::PossibleValuesParser};
use report::Report;
use results::Results;
use serde_json::json;
use shoal_learn::presets::Preset;
use shoal_learn::stories::stories;
use shoal_wire::Digest;
use shoal_wire::manifest::{ModelSpec, Recipe};
use train::Setting;
use trial::{ARMS, Trial};

/// Bytes of generated stories where no text is given.
const STORIES_BYTES: usize = 1_000_000;

#[derive(Parser)]
struct Arguments {
    /// The text to learn; stories are generated without it
    #[arg(long)]
    data: Option<PathBuf>,
    /// Most seeds of a comparison; those whose differences are large have fewer
    #[arg(long, default_value_t = 8)]
    seeds: u64,
    #[arg(long, default_value_t = 300)]
    rounds: u32,
    /// H, the local steps of a round
    #[arg(long, default_value_t = 15)]
    local_steps: u32,
    /// Search the learning rates first, instead of taking those that this search found; several times the work
    #[arg(long)]
    search: bool,
    /// Trainings that run beside each other
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Train only these arms, say what each learnt, and stop; a report takes what is done from the results
    #[arg(long, value_delimiter = ',', value_name = "ARM", value_parser = PossibleValuesParser::new(ARMS.map(|arm| arm.name)))]
    only: Vec<String>,
    /// Where results are kept
    #[arg(long, default_value = "target/quality/results.jsonl")]
    results: PathBuf,
    /// Where the curves are drawn; their numbers go into a .csv beside it
    #[arg(long, default_value = "target/quality/curves.svg")]
    plot: PathBuf,
    /// Print nothing but the JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let text = match &arguments.data {
        Some(path) => std::fs::read(path).with_context(|| format!("reading {}", path.display()))?,
        None => stories(1, STORIES_BYTES).into_bytes(),
    };
    let (model, recipe) = (model(), recipe(&arguments));
    let shared = json!({"model": model, "recipe": recipe, "rounds": arguments.rounds, "text": Digest::of(&text)});
    let id = Digest::of(shared.to_string().as_bytes()).to_string();
    let setting = Setting::new(model, recipe, arguments.rounds, text)?;
    let mut results = Results::open(&arguments.results, &setting, id)?;
    // A step this small gains nothing from a second core; a second training does.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build()?;
    pool.install(|| bench(&arguments, &setting, &mut results))
}

fn bench(arguments: &Arguments, setting: &Setting, results: &mut Results<'_>) -> Result<()> {
    let tuned = if arguments.search { tune::search(results)? } else { tune::found()? };
    let rates = |arm: &trial::Arm| tuned[arm.name].rates();
    // Seed by seed, so that a bench that is stopped has whole pairs.
    for seed in 1..=arguments.seeds {
        let trials: Vec<Trial> = ARMS
            .iter()
            .filter(|arm| arguments.only.is_empty() || arguments.only.iter().any(|only| only == arm.name))
            .filter(|arm| seed <= arm.seeds(arguments.seeds))
            .map(|arm| arm.trial(rates(arm), seed))
            .collect();
        results.run(&trials)?;
    }
    if !arguments.only.is_empty() {
        return Ok(());
    }
    let report = Report::new(setting, &tuned, results, arguments.seeds)?;
    let shown = [("topk", "topk"), ("dense4", "dense4"), ("diloco_mean", "whole changes")];
    let curves = shown.map(|(arm, label)| plot::Curve { label, points: report.curve(arm) });
    let title = format!("What four peers learn in {} rounds, against what each of them sends", setting.rounds);
    write(&arguments.plot, &plot::svg(&title, &curves)?)?;
    write(&arguments.plot.with_extension("csv"), &report.csv()?)?;
    if !arguments.json {
        println!("{}", heading(setting));
        println!("{}", report.table()?);
        println!("Loss against bytes sent: {}\n", arguments.plot.display());
    }
    println!("{}", report.json()?);
    Ok(())
}

fn heading(setting: &Setting) -> String {
    let recipe = &setting.recipe;
    format!(
        "{} parameters, batches of {} × {} bytes, {} rounds of {} steps; unigram entropy {:.3} nats\n",
        setting.layout.len(),
        recipe.batch,
        recipe.context,
        setting.rounds,
        recipe.local_steps,
        setting.corpus.unigram_entropy_nats()
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// About 133,000 parameters: small enough for many trainings, and most of its matrices fill whole chunks of 4,096.
fn model() -> ModelSpec {
    ModelSpec {
        hidden_size: 64,
        intermediate_size: 176,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        max_position_embeddings: 32,
        ..Preset::Tiny.model()
    }
}

/// The presets' recipe with a planned end: the rate falls over the last three tenths.
fn recipe(arguments: &Arguments) -> Recipe {
    let decay_rounds = arguments.rounds * 3 / 10;
    Recipe {
        batch: 4,
        context: 32,
        local_steps: arguments.local_steps,
        warmup_rounds: (arguments.rounds / 40).max(1),
        decay_from: arguments.rounds - decay_rounds,
        decay_rounds,
        ..Preset::Tiny.recipe()
    }
}
