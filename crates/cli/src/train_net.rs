//! `shoal train --table` and `--images`: makes a network for a table or for images and trains it alone.

use std::fs;
use std::io::{Read, Write, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use flate2::read::MultiGzDecoder;
use serde::Serialize;
use serde_json::{Value, json};
use shoal_cpu::CpuNetEngine;
use shoal_gpu::GpuNetEngine;
use shoal_learn::folder;
use shoal_learn::images::{ImagePreprocessing, Images, labels_from_idx};
use shoal_learn::nets::{Checked, Examples, Net, NetEngine, Report};
use shoal_learn::recipe::SoloRecipe;
use shoal_learn::sampling::{Epochs, hold_out};
use shoal_learn::schedule::Schedule;
use shoal_learn::tables::{Format, Header, Kind, Statistics, Table, TableError, TargetEncoding, Task};
use shoal_wire::Digest;
use shoal_wire::manifest::AdamW;

use crate::files;
use crate::model::CONFIG_BYTES_MAX;
use crate::output::print_line;
use crate::progress::Reporter;
use crate::train::EngineKind;

const DATA_BYTES_MAX: u64 = 4 << 30;
const DOMAIN: &str = "shoal 2026 v1 train a net alone";
/// Neurons in each hidden layer of a table's network.
const HIDDEN: u32 = 64;

#[derive(clap::Args)]
pub struct NetArgs {
    /// CSV file to learn from
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "images"], requires = "target")]
    table: Option<PathBuf>,
    /// The table's column to predict
    #[arg(long, value_name = "COLUMN", requires = "table")]
    target: Option<String>,
    /// A column not to learn from; may be given several times
    #[arg(long, value_name = "COLUMN", requires = "table")]
    ignore: Vec<String>,
    /// A column whose cells are categories even where they look like numbers; may be given several times
    #[arg(long, value_name = "COLUMN", requires = "table")]
    category: Vec<String>,
    /// What the table's first line names; columns without a name are called by number, from 1 [default: all]
    #[arg(long, value_enum, value_name = "COLUMNS", requires = "table")]
    header: Option<HeaderKind>,
    /// What separates the table's cells [default: ,]
    #[arg(long, value_name = "CHARACTER", requires = "table", value_parser = one_byte)]
    delimiter: Option<u8>,
    /// Whether the target's values are told apart or predicted as numbers [default: by what they are]
    #[arg(long, value_enum, requires = "table")]
    task: Option<TaskKind>,
    /// IDX file of images to tell apart
    #[arg(long, value_name = "FILE", conflicts_with = "model", requires = "labels")]
    images: Option<PathBuf>,
    /// IDX file of the images' labels
    #[arg(long, value_name = "FILE", requires = "images")]
    labels: Option<PathBuf>,
    /// Share of the examples that is held out to measure [default: 0.2 of a table, 0.1 of images]
    #[arg(long, value_name = "SHARE", conflicts_with = "model", value_parser = share)]
    held_out: Option<f64>,
    /// The network's layers, a JSON file as --out writes it [default: made for the data]
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    net: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HeaderKind {
    /// Every column
    All,
    /// Only the first columns
    Some,
    /// None: it is data
    None,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TaskKind {
    Classify,
    Regress,
}

/// What is asked of every kind of training.
pub struct Common<'a> {
    pub steps: Option<u32>,
    pub engine: Option<EngineKind>,
    pub recipe: Option<SoloRecipe>,
    pub json: bool,
    pub out: Option<&'a Path>,
    pub batch: Option<u32>,
    pub seed: Option<u64>,
}

fn one_byte(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !byte.is_ascii_alphanumeric() && *byte != b'"' => Ok(*byte),
        _ => Err("one character, such as ; or \\t".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("a number above 0 and below 1".to_owned()),
    }
}

/// Data that is ready, and the network that is made for it.
struct Prepared {
    net: Net,
    train: Examples,
    held_out: Examples,
    /// To be kept with the model.
    preprocessing: Value,
    /// What one unit of outputs is of what was measured.
    unit: f64,
    /// Times through the examples, where no number of steps is asked for.
    epochs: usize,
    /// Peak learning rate, where no recipe is given.
    lr: f32,
    /// What the reader should know of the data.
    note: String,
}

impl NetArgs {
    pub fn is_asked(&self) -> bool {
        self.table.is_some() || self.images.is_some()
    }

    fn prepare(&self, seed: u64) -> Result<Prepared> {
        match (&self.table, &self.target, &self.images, &self.labels) {
            (Some(table), Some(target), ..) => self.prepare_table(table, target, seed),
            (_, _, Some(images), Some(labels)) => self.prepare_images(images, labels, seed),
            _ => bail!("--table with --target, or --images with --labels, is needed"),
        }
    }

    fn prepare_table(&self, path: &Path, target: &str, seed: u64) -> Result<Prepared> {
        let header = match self.header {
            None | Some(HeaderKind::All) => Header::All,
            Some(HeaderKind::Some) => Header::Some,
            Some(HeaderKind::None) => Header::None,
        };
        let kinds = self.category.iter().map(|name| (name.clone(), Kind::Words)).collect();
        let format = Format { header, delimiter: self.delimiter.unwrap_or(b','), kinds };
        let table = Table::parse(&path.display().to_string(), &read(path)?, &format).map_err(|error| match error {
            TableError::Ragged { line: ..=2, .. } if header == Header::All => {
                anyhow::Error::new(error).context("not every column has a name (`--header some` or `none` allows that)")
            }
            error => error.into(),
        })?;
        for name in &self.category {
            table.column(name)?;
        }
        let task = match self.task {
            Some(TaskKind::Classify) => Task::Classify,
            Some(TaskKind::Regress) => Task::Regress,
            None => table.likely_task(target)?,
        };
        let (train, held_out) = self.split(table.rows(), 0.2, seed)?;
        let preprocessing = Statistics::of(&table, &train, target, task, &self.ignore)?.preprocessing(&table.file)?;
        let encoding = &preprocessing.target;
        let (unit, kind) = match encoding {
            TargetEncoding::Standard { deviation, .. } => (*deviation, "a number".to_owned()),
            TargetEncoding::Classes { words, .. } => (1.0, format!("one of {} classes", words.len())),
        };
        let note = format!("{} rows, {} features; {target:?} is {kind}", table.rows(), preprocessing.width());
        Ok(Prepared {
            net: Net::mlp(u32::try_from(preprocessing.width())?, HIDDEN, encoding.outputs(), encoding.loss()),
            train: preprocessing.examples(&table, &train)?,
            held_out: preprocessing.examples(&table, &held_out)?,
            preprocessing: serde_json::to_value(&preprocessing)?,
            unit,
            epochs: 20,
            lr: 1e-3,
            note,
        })
    }

    fn prepare_images(&self, images_path: &Path, labels_path: &Path, seed: u64) -> Result<Prepared> {
        let images = Images::from_idx(&images_path.display().to_string(), &read(images_path)?)?;
        let labels = labels_from_idx(&labels_path.display().to_string(), &read(labels_path)?, images.len())?;
        let (train, held_out) = self.split(images.len(), 0.1, seed)?;
        let preprocessing = ImagePreprocessing::of(&images, &labels, &train);
        ensure!(preprocessing.labels.len() > 1, "all images that are not held out have the same label");
        let examples = |rows: &[usize]| {
            let unknown = "a label occurs only among the images that are held out: take another --seed";
            preprocessing.examples(&images, &labels, rows).context(unknown)
        };
        let classes = preprocessing.labels.len() as u32;
        Ok(Prepared {
            net: Net::small_cnn(images.shape(), classes),
            train: examples(&train)?,
            held_out: examples(&held_out)?,
            preprocessing: serde_json::to_value(&preprocessing)?,
            unit: 1.0,
            epochs: 3,
            lr: 3e-3,
            note: format!("{} images of {:?}, {classes} classes", images.len(), images.shape()),
        })
    }

    /// Numbers of the examples to train on and to hold out.
    fn split(&self, count: usize, share: f64, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
        ensure!(count >= 2, "{count} examples are too few: some are held out");
        let held_out = (count as f64 * self.held_out.unwrap_or(share)).round() as usize;
        Ok(hold_out(count, held_out.clamp(1, count - 1), seed))
    }

    /// The network in the file that was asked for, or else the one made for the data.
    fn net(&self, made: Net) -> Result<Net> {
        let Some(path) = &self.net else { return Ok(made) };
        let name = path.display();
        let net: Net = serde_json::from_slice(&files::read(path, CONFIG_BYTES_MAX)?)
            .with_context(|| format!("{name} is not a network"))?;
        let (checked, expected) = (net.check().with_context(|| format!("cannot use {name}"))?, made.check()?);
        let fits = (checked.input, checked.loss, checked.outputs) == (expected.input, expected.loss, expected.outputs);
        ensure!(
            fits,
            "{name} takes {:?} and gives {} outputs for {:?}; the data needs {:?}, {} and {:?}",
            checked.input,
            checked.outputs,
            checked.loss,
            expected.input,
            expected.outputs,
            expected.loss
        );
        Ok(net)
    }
}

/// AdamW whose rate falls over the last half.
fn default_recipe(lr: f32, steps: u32) -> SoloRecipe {
    let adamw = AdamW { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) };
    SoloRecipe {
        optimizer: adamw.into(),
        schedule: Schedule { warmup: (steps / 20).min(50), decay_from: steps / 2, decay: steps - steps / 2 },
    }
}

pub fn run(args: &NetArgs, common: &Common<'_>) -> Result<()> {
    let seed = common.seed.unwrap_or(0);
    let mut prepared = args.prepare(seed)?;
    prepared.net = args.net(prepared.net)?;
    let checked = prepared.net.check()?;
    if let Some(out) = common.out {
        // Better to learn of a bad folder now than after the training.
        fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    }
    let count = prepared.train.targets.examples(checked.outputs);
    let batch = (common.batch.unwrap_or(32) as usize).min(count);
    let some_epochs = (prepared.epochs * count).div_ceil(batch).clamp(200, 10_000) as u32;
    let steps = common.steps.unwrap_or(some_epochs);
    let recipe = common.recipe.unwrap_or_else(|| default_recipe(prepared.lr, steps));
    let solo = Solo { steps, batch, count, seed, recipe, json: common.json };
    let parameters = pollster::block_on(async {
        match common.engine.unwrap_or(EngineKind::Cpu) {
            EngineKind::Cpu => solo.train(CpuNetEngine::new(&prepared.net, batch)?, &prepared).await,
            EngineKind::Gpu => {
                let engine = GpuNetEngine::new(&prepared.net, batch).await;
                let engine = engine.context("the GPU engine did not start (`--engine cpu` needs no GPU)")?;
                solo.train(engine, &prepared).await
            }
        }
    })?;
    match common.out {
        Some(out) => write(out, &prepared, &checked, &parameters),
        None => Ok(()),
    }
}

struct Solo {
    steps: u32,
    batch: usize,
    /// Examples to train on.
    count: usize,
    seed: u64,
    recipe: SoloRecipe,
    json: bool,
}

impl Solo {
    /// Trains, measures on what was held out, and returns the final parameters.
    async fn train(&self, mut engine: impl NetEngine, prepared: &Prepared) -> Result<Vec<f32>> {
        let reporter = Reporter::new(self.json, self.steps)?;
        let parameters = engine.net().genesis(Digest::in_domain(DOMAIN, &self.seed.to_le_bytes()));
        reporter.note(&prepared.note);
        reporter.note(&format!("{} parameters on {}", parameters.len(), engine.describe()));
        engine.load(&parameters)?;
        let mut epochs = Epochs::new((0..self.count).collect(), self.seed).context("there is nothing to train on")?;
        for step in 1..=self.steps {
            let batch = prepared.train.select(&epochs.next_batch(self.batch), self.count);
            let start = Instant::now();
            engine.step(&batch, &self.recipe.settings(step))?;
            let loss = *engine.losses().await?.last().context("the engine returned no loss")?;
            ensure!(loss.is_finite(), "the loss is {loss} at step {step}: try a lower learning rate");
            reporter.step(step, loss, start.elapsed())?;
        }
        reporter.finish();
        self.measure(&mut engine, prepared).await?;
        let parameters = engine.parameters().await?;
        ensure!(parameters.iter().all(|p| p.is_finite()), "the last step made parameters that are not finite");
        Ok(parameters)
    }

    async fn measure(&self, engine: &mut impl NetEngine, prepared: &Prepared) -> Result<()> {
        let held_out = &prepared.held_out;
        let outputs = engine.predict(&held_out.features).await?;
        let report = Report::of(engine.net().loss, &outputs, &held_out.targets, prepared.unit);
        let mut report = serde_json::to_value(&report)?;
        report["examples"] = held_out.targets.examples(engine.net().outputs).into();
        if self.json {
            return print_line(&json!({ "held_out": report }));
        }
        let mut out = stdout().lock();
        writeln!(out, "held out: {} examples", report["examples"])?;
        for (name, value) in report.as_object().into_iter().flatten().filter(|(name, _)| *name != "examples") {
            match value.as_f64() {
                Some(value) => writeln!(out, "  {}: {value:.4}", name.replace('_', " "))?,
                None => writeln!(out, "  {}: the examples cannot tell", name.replace('_', " "))?,
            }
        }
        Ok(())
    }
}

fn write(out: &Path, prepared: &Prepared, net: &Checked, parameters: &[f32]) -> Result<()> {
    files::write_atomically(&out.join("model.safetensors"), &folder::weights_bytes(&net.layout, parameters)?)?;
    files::write_atomically(&out.join("net.json"), &pretty(&prepared.net)?)?;
    files::write_atomically(&out.join("preprocessing.json"), &pretty(&prepared.preprocessing)?)
}

fn pretty(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

/// A file's content, unpacked where it is gzipped.
fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = files::read(path, DATA_BYTES_MAX)?;
    if !bytes.starts_with(b"\x1f\x8b") {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    let name = path.display();
    let mut decoder = MultiGzDecoder::new(&bytes[..]).take(DATA_BYTES_MAX + 1);
    decoder.read_to_end(&mut unpacked).with_context(|| format!("cannot unpack {name}"))?;
    ensure!(
        unpacked.len() as u64 <= DATA_BYTES_MAX,
        "{name} unpacks to more than the {} MiB that are read",
        DATA_BYTES_MAX >> 20
    );
    Ok(unpacked)
}
