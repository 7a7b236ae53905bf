//! Training alone in this browser, to be timed: what `shoal train` is natively.

use std::collections::BTreeMap;

use serde::Serialize;
use shoal_cpu::CpuEngine;
use shoal_gpu::{GemmBench, GpuEngine, KernelTime};
use shoal_learn::{Batch, Engine, Layout, folder, recipe::SoloRecipe};
use wasm_bindgen::{JsError, JsValue, prelude::wasm_bindgen};

use crate::scope;

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
}

struct Task {
    batches: Vec<Batch>,
    recipe: SoloRecipe,
    steps: u32,
    warmup: u32,
    sync_every: u32,
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
) -> Result<JsValue, JsError> {
    let spec = folder::parse_config(model)?;
    let layout = Layout::of(&spec)?;
    let parameters = folder::parse_weights(weights, &layout)?;
    let (tokens, [count, batch, row]) = folder::parse_batches(batches, spec.vocab_size)?;
    let context = row - 1;
    let rows = tokens.chunks_exact(batch * row);
    let batches: Option<Vec<Batch>> = rows.take(count).map(|rows| Batch::from_rows(rows, batch, context)).collect();
    let batches = batches.ok_or_else(|| JsError::new("a batch is empty"))?;
    let task = Task { batches, recipe: SoloRecipe::parse(recipe)?, steps, warmup, sync_every: sync_every.max(1) };
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
        "cpu" => train(CpuEngine::new(&spec, batch, context)?, &parameters, &task, started).await?.1,
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
    let counted = scope::precise_ms();
    for step in 1..=task.steps {
        task.step(&mut engine, task.warmup + step)?;
        let read = step % task.sync_every == 0 || step == task.steps;
        losses.push(if read { engine.losses().await?.last().copied() } else { None });
    }
    let ms_per_step = (scope::precise_ms() - counted) / f64::from(task.steps.max(1));
    Ok((engine, Report { ms_per_step, losses, extra }))
}

impl Task {
    /// Enqueues a step, counted from 1.
    fn step(&self, engine: &mut impl Engine, step: u32) -> Result<(), JsError> {
        let batch = &self.batches[(step - 1) as usize % self.batches.len()];
        Ok(engine.step(batch, &self.recipe.settings(step))?)
    }
}

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
