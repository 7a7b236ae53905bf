//! Training alone in this browser, to be timed: what `shoal train` is natively.

use std::collections::BTreeMap;

use serde::Serialize;
use shoal_gpu::{GemmBench, GpuEngine, KernelTime};
use shoal_learn::{Batch, Engine, Layout, folder, recipe::SoloRecipe};
use wasm_bindgen::{JsError, JsValue, prelude::wasm_bindgen};

use crate::{scope, team::Team};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    ms_per_step: f64,
    /// Of each counted step; `null` where it was not read.
    losses: Vec<Option<f32>>,
    extra: Extra,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Extra {
    engine: String,
    /// From the weights to the first loss: compiling, planning, measuring kernels, one step.
    first_step_ms: f64,
    warmup_losses: Vec<f32>,
    dispatches: u64,
    submits: u64,
    buffer_bytes: u64,
    /// The kernels' forms that were measured to be the fastest.
    forms: String,
    /// Milliseconds of one more step by class of kernel, when that was asked for and the device has timestamps.
    classes: Option<BTreeMap<&'static str, f64>>,
    /// Of the CPU engine.
    threads: Option<usize>,
    /// From one reading of a loss to the next, when a control was asked for.
    windows: Vec<Window>,
}

/// Some steps, and right before them a piece of work that is always the same.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Window {
    steps: u32,
    ms: f64,
    control_ms: f64,
    /// Of this module's memory, after the steps.
    heap_bytes: usize,
}

struct Task {
    batches: Vec<Batch>,
    recipe: SoloRecipe,
    steps: u32,
    warmup: u32,
    sync_every: u32,
    control: bool,
}

/// Trains `steps` steps after `warmup` ones. `model` is a `config.json`, `recipe` a recipe file, `weights` and `batches`
/// are safetensors files; `engine` is `gpu` or `cpu`.
#[wasm_bindgen(js_name = trainBench)]
#[allow(clippy::too_many_arguments)] // one call from JavaScript, which names them
pub async fn train_bench(
    model: &[u8],
    recipe: &[u8],
    weights: &[u8],
    batches: &[u8],
    steps: u32,
    warmup: u32,
    sync_every: u32,
    engine: &str,
    profile: bool,
    control: bool,
    threads: Option<u32>,
) -> Result<JsValue, JsError> {
    let spec = folder::parse_config(model)?;
    let layout = Layout::of(&spec)?;
    let parameters = folder::parse_weights(weights, &layout)?;
    let (tokens, [count, batch, row]) = folder::parse_batches(batches, spec.vocab_size)?;
    let context = row - 1;
    let rows = tokens.chunks_exact(batch * row);
    let batches: Option<Vec<Batch>> = rows.take(count).map(|rows| Batch::from_rows(rows, batch, context)).collect();
    let batches = batches.ok_or_else(|| JsError::new("a batch is empty"))?;
    let task =
        Task { batches, recipe: SoloRecipe::parse(recipe)?, steps, warmup, sync_every: sync_every.max(1), control };
    let started = scope::precise_ms();
    let report = match engine {
        "gpu" => {
            let engine = GpuEngine::new(&spec, batch, context).await?;
            let (mut engine, mut report) = train(engine, &parameters, &task, started).await?;
            let (counters, forms) = (engine.counters(), engine.forms());
            let classes = if profile {
                let settings = task.recipe.settings(task.warmup + task.steps + 1);
                engine.profile(&task.batches[0], &settings).await?.map(|times| KernelTime::by_class(&times))
            } else {
                None
            };
            report.extra = Extra {
                dispatches: counters.dispatches,
                submits: counters.submits,
                buffer_bytes: counters.buffer_bytes,
                forms,
                classes,
                ..report.extra
            };
            report
        }
        "cpu" => {
            let team = Team::open(&spec, batch, context, threads.map(|threads| threads as usize)).await?;
            let (team, mut report) = train(team, &parameters, &task, started).await?;
            report.extra.threads = Some(team.threads());
            report
        }
        other => return Err(JsError::new(&format!("the engine {other:?} is neither `gpu` nor `cpu`"))),
    };
    Ok(scope::to_js(&report))
}

async fn train<E: Engine>(
    mut engine: E,
    parameters: &[f32],
    task: &Task,
    started: f64,
) -> Result<(E, Report), JsError> {
    engine.load(parameters)?;
    let mut extra = Extra { engine: engine.describe(), ..Extra::default() };
    for step in 1..=task.warmup {
        task.step(&mut engine, step)?;
        extra.warmup_losses.extend(engine.losses().await?);
        if step == 1 {
            extra.first_step_ms = scope::precise_ms() - started;
        }
    }
    let mut losses = Vec::with_capacity(task.steps as usize);
    let mut ms = 0.0;
    for first in (1..=task.steps).step_by(task.sync_every as usize) {
        let window = first..task.steps.saturating_add(1).min(first + task.sync_every);
        let control_ms = if task.control { control() } else { 0.0 };
        let counted = scope::precise_ms();
        for step in window.clone() {
            task.step(&mut engine, task.warmup + step)?;
            losses.push(None);
        }
        if let Some(last) = losses.last_mut() {
            *last = engine.losses().await?.last().copied();
        }
        let took = scope::precise_ms() - counted;
        ms += took;
        if task.control {
            scope::mark("bench:window")?;
            let heap_bytes = core::arch::wasm32::memory_size(0) << 16;
            extra.windows.push(Window { steps: window.len() as u32, ms: took, control_ms, heap_bytes });
        }
    }
    let ms_per_step = ms / f64::from(task.steps.max(1));
    Ok((engine, Report { ms_per_step, losses, extra }))
}

impl Task {
    /// Enqueues a step, counted from 1.
    fn step(&self, engine: &mut impl Engine, step: u32) -> Result<(), JsError> {
        let batch = &self.batches[(step - 1) as usize % self.batches.len()];
        Ok(engine.step(batch, &self.recipe.settings(step))?)
    }
}

/// Milliseconds of multiplications and additions of numbers that fit the cache: how fast the machine is just now.
fn control() -> f64 {
    let started = scope::precise_ms();
    let (mut a, b) = (vec![1.0_f32; 4096], vec![1e-9_f32; 4096]);
    for _ in 0..CONTROL_ROUNDS {
        for (a, b) in a.iter_mut().zip(&b) {
            *a = *a * 0.999_999 + *b;
        }
    }
    core::hint::black_box(&a);
    scope::precise_ms() - started
}

/// About a tenth of a second.
const CONTROL_ROUNDS: u32 = 100_000;

#[derive(Serialize)]
struct GemmReport {
    gflops: f64,
    kernel: &'static str,
}

/// What WebGPU reaches in products of square matrices for about `ms` milliseconds: `form` is `nn`, `nt` or `tn`.
#[wasm_bindgen(js_name = gemmBench)]
pub async fn gemm_bench(engine: &str, form: &str, size: u32, ms: f64) -> Result<JsValue, JsError> {
    if engine != "gpu" {
        return Err(JsError::new(&format!("products are measured on the `gpu`, not on {engine:?}")));
    }
    let rate = GemmBench::open().await?.rate(form.parse()?, size, ms).await?;
    Ok(scope::to_js(&GemmReport { gflops: rate.gflops, kernel: rate.kernel }))
}
