//! The CPU engine on several threads of a browser: workers with a Wasm instance each compute parts of a batch, and leave
//! their gradients in memory that all share (docs/decisions/0016-workers-share-gradients.md).
//!
//! One worker leads: it hands out tokens and parameters, computes the first part, adds the others' gradients in a fixed
//! order and changes the parameters. Without shared memory, or with one thread, it does all alone.

use js_sys::{Array, Atomics, Float32Array, Function, Int32Array, Object, Reflect, Uint8Array};
use shoal_cpu::CpuEngine;
use shoal_learn::{Batch, Engine, EngineError, Layout, StepSettings, folder};
use shoal_wire::manifest::ModelSpec;
use wasm_bindgen::{JsCast, JsError, JsValue, prelude::wasm_bindgen};

use crate::scope;

/// More threads than this gain little: what the leader does alone weighs more and more.
const THREADS_MAX: usize = 8;
/// How long helpers may take to start; without them the leader goes on alone.
const START_MS: f64 = 10_000.0;
const START_SLICE_MS: f64 = 5.0;
/// A helper that takes this many times as long as the leader, and a minute, is gone.
const PATIENCE: f64 = 20.0;
const PATIENCE_MS: f64 = 60_000.0;
const WAIT_SLICE_MS: f64 = 1000.0;

/// More memory than this is not asked for: one thread needs less.
const SHARED_BYTES_MAX: u32 = 1 << 30;

/// Words at the start of the shared memory.
const STEP: u32 = 0;
const DONE: u32 = 1;
const FAILED: u32 = 2;
const READY: u32 = 3;
const CONTROL_WORDS: usize = 16;
/// What [`STEP`] says when there will be no more.
const OVER: i32 = -1;

/// Where things lie in the shared memory, in words of 4 bytes.
#[derive(Clone, Copy)]
struct Places {
    /// Of the whole batch.
    rows: usize,
    values: usize,
}

impl Places {
    fn targets(self) -> usize {
        CONTROL_WORDS + self.rows
    }

    fn parameters(self) -> usize {
        self.targets() + self.rows
    }

    /// A helper's gradient, then its loss. Helpers count from 1.
    fn gradient(self, helper: usize) -> usize {
        self.parameters() + self.values + (helper - 1) * (self.values + 1)
    }

    fn words(self, helpers: usize) -> usize {
        self.gradient(helpers + 1)
    }
}

/// The shared memory, seen as numbers of both kinds.
struct Shared {
    places: Places,
    words: Int32Array,
    floats: Float32Array,
}

impl Shared {
    fn new(memory: &JsValue, places: Places) -> Self {
        Self { places, words: Int32Array::new(memory), floats: Float32Array::new(memory) }
    }

    fn load(&self, word: u32) -> Result<i32, EngineError> {
        Atomics::load(&self.words, word).map_err(|error| failed(&error))
    }

    fn store(&self, word: u32, value: i32) -> Result<(), EngineError> {
        Atomics::store(&self.words, word, value)
            .and_then(|_| Atomics::notify(&self.words, word))
            .map_err(|error| failed(&error))?;
        Ok(())
    }

    fn increment(&self, word: u32) -> Result<(), EngineError> {
        Atomics::add(&self.words, word, 1)
            .and_then(|_| Atomics::notify(&self.words, word))
            .map_err(|error| failed(&error))?;
        Ok(())
    }

    fn floats(&self, start: usize, count: usize) -> Float32Array {
        self.floats.subarray(start as u32, (start + count) as u32)
    }

    fn tokens(&self, start: usize, count: usize) -> Int32Array {
        self.words.subarray(start as u32, (start + count) as u32)
    }
}

fn failed(error: &JsValue) -> EngineError {
    EngineError::Failed(scope::words(error))
}

/// A CPU engine whose batches are computed by several threads.
pub struct Team {
    leader: CpuEngine,
    /// Threads, and equal parts of a batch.
    parts: usize,
    shared: Option<Shared>,
    helpers: Vec<JsValue>,
    /// Pages may not wait as workers may.
    can_wait: bool,
    step: i32,
    vocab: u32,
    /// A helper may still be at work on a step that failed: what it leaves would be taken for the next one's.
    broken: bool,
}

impl Team {
    /// With as many threads as the browser has cores and as cut the batch evenly, or as `threads` says.
    pub async fn open(
        model: &ModelSpec,
        batch: usize,
        context: usize,
        threads: Option<usize>,
    ) -> Result<Self, EngineError> {
        let most = threads.unwrap_or_else(cores).clamp(1, THREADS_MAX).min(batch.max(1));
        let wanted = (1..=most).rev().find(|parts| batch.is_multiple_of(*parts)).unwrap_or(1);
        if wanted > 1
            && let Some(team) = Self::with_helpers(model, batch, context, wanted).await?
        {
            return Ok(team);
        }
        let leader = CpuEngine::new(model, batch, context)?;
        Ok(Self {
            leader,
            parts: 1,
            shared: None,
            helpers: vec![],
            can_wait: true,
            step: 0,
            vocab: model.vocab_size,
            broken: false,
        })
    }

    pub fn threads(&self) -> usize {
        self.parts
    }

    /// `None` where helpers are not to be had.
    async fn with_helpers(
        model: &ModelSpec,
        batch: usize,
        context: usize,
        parts: usize,
    ) -> Result<Option<Self>, EngineError> {
        let global = js_sys::global();
        // What the global scope does not have, or not as it should be, is not offered here: then there is one thread.
        let start =
            Reflect::get(&global, &"startHelper".into()).ok().and_then(|start| start.dyn_into::<Function>().ok());
        let isolated =
            Reflect::get(&global, &"crossOriginIsolated".into()).ok().and_then(|isolated| isolated.as_bool());
        let (Some(start), Some(true)) = (start, isolated) else { return Ok(None) };
        let layout = Layout::of(model).map_err(|error| EngineError::Unsupported(error.to_string()))?;
        let places = Places { rows: batch * context, values: layout.len() };
        // More than a browser can address: one thread, too.
        let Some(bytes) = u32::try_from(places.words(parts - 1)).ok().and_then(|words| words.checked_mul(4)) else {
            return Ok(None);
        };
        let Some(memory) = shared_memory(bytes) else { return Ok(None) };
        let shared = Shared::new(&memory, places);
        let config = folder::config_json(model).map_err(|error| EngineError::Failed(error.to_string()))?;
        let mut team = Self {
            leader: CpuEngine::new(model, batch / parts, context)?,
            parts,
            shared: Some(shared),
            helpers: vec![],
            can_wait: Reflect::get(&global, &"document".into()).is_ok_and(|document| document.is_undefined()),
            step: 0,
            vocab: model.vocab_size,
            broken: false,
        };
        for part in 1..parts {
            let order = order(&memory, &config, [part, parts, batch, context]).map_err(|error| failed(&error))?;
            match start.call1(&JsValue::NULL, &order) {
                Ok(helper) => team.helpers.push(helper),
                Err(error) => {
                    warn(&error);
                    return Ok(None);
                }
            }
        }
        if !team.started().await? {
            warn(&"its helpers did not start in time".into());
            return Ok(None);
        }
        Ok(Some(team))
    }

    async fn started(&self) -> Result<bool, EngineError> {
        let Some(shared) = &self.shared else { return Ok(false) };
        let began = scope::precise_ms();
        while scope::precise_ms() - began < START_MS {
            if shared.load(FAILED)? != 0 {
                return Ok(false);
            }
            if shared.load(READY)? as usize == self.helpers.len() {
                return Ok(true);
            }
            scope::sleep(START_SLICE_MS).await;
        }
        Ok(false)
    }

    fn train(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        let Some(shared) = &self.shared else { return self.leader.step(batch, settings) };
        if self.broken {
            return Err(EngineError::Failed("a thread of the CPU engine failed before".to_owned()));
        }
        let rows = shared.places.rows;
        if batch.inputs.len() != rows || batch.targets.len() != rows || batch.batch * batch.context != rows {
            return Err(EngineError::Shape { what: "the batch", got: batch.inputs.len(), expected: rows });
        }
        if let Some(token) = batch.inputs.iter().chain(&batch.targets).find(|token| **token >= self.vocab) {
            let text = format!("token {token} is outside the vocabulary of {}", self.vocab);
            return Err(EngineError::Failed(text));
        }
        let outcome = self.train_together(batch, settings);
        self.broken = outcome.is_err();
        outcome
    }

    fn train_together(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let Places { rows, values } = shared.places;
        for (start, tokens) in [(CONTROL_WORDS, &batch.inputs), (shared.places.targets(), &batch.targets)] {
            let words: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
            shared.tokens(start, rows).copy_from(&words);
        }
        shared.floats(shared.places.parameters(), values).copy_from(self.leader.parameter_values());
        shared.store(DONE, 0)?;
        self.step = self.step.wrapping_add(1).max(1);
        shared.store(STEP, self.step)?;
        let began = scope::precise_ms();
        let (mut total, gradient) = self.leader.part_of_gradient(&part(batch, 0, self.parts)?, rows)?;
        wait(shared, self.helpers.len(), self.can_wait, began)?;
        let mut buffer = vec![0.0; values.min(1 << 16)];
        for helper in 1..self.parts {
            let start = shared.places.gradient(helper);
            for (index, gradient) in gradient.chunks_mut(1 << 16).enumerate() {
                let buffer = &mut buffer[..gradient.len()];
                shared.floats(start + (index << 16), gradient.len()).copy_to(buffer);
                for (sum, more) in gradient.iter_mut().zip(buffer) {
                    *sum += *more;
                }
            }
            total += f64::from(shared.floats.get_index((start + values) as u32));
        }
        self.leader.update(settings, (total / rows as f64) as f32)
    }
}

/// Waits until all helpers have left their gradients.
fn wait(shared: &Shared, helpers: usize, can_wait: bool, began: f64) -> Result<(), EngineError> {
    let own_ms = scope::precise_ms() - began;
    loop {
        let done = shared.load(DONE)?;
        if shared.load(FAILED)? != 0 {
            return Err(EngineError::Failed("a thread of the CPU engine failed".to_owned()));
        }
        if done as usize == helpers {
            return Ok(());
        }
        if scope::precise_ms() - began > PATIENCE_MS + PATIENCE * own_ms {
            return Err(EngineError::Failed("a thread of the CPU engine does not answer".to_owned()));
        }
        if can_wait {
            Atomics::wait_with_timeout(&shared.words, DONE, done, WAIT_SLICE_MS).map_err(|error| failed(&error))?;
        }
    }
}

/// Shared between threads. Where a browser has none, or not so much, there is none: one thread needs none.
fn shared_memory(bytes: u32) -> Option<JsValue> {
    if bytes > SHARED_BYTES_MAX {
        return None;
    }
    let constructor = Reflect::get(&js_sys::global(), &"SharedArrayBuffer".into()).ok()?.dyn_into::<Function>().ok()?;
    Reflect::construct(&constructor, &Array::of1(&bytes.into())).ok()
}

/// Helpers are a matter of speed alone.
fn warn(why: &JsValue) {
    web_sys::console::warn_1(&format!("the CPU engine has one thread: {}", scope::words(why)).into());
}

/// One of equal parts of a batch.
fn part(batch: &Batch, index: usize, parts: usize) -> Result<Batch, EngineError> {
    let rows = batch.inputs.len() / parts;
    let slice = |tokens: &[u32]| tokens.get(index * rows..(index + 1) * rows).map(<[u32]>::to_vec);
    let (Some(inputs), Some(targets)) = (slice(&batch.inputs), slice(&batch.targets)) else {
        return Err(EngineError::Shape { what: "the batch", got: batch.targets.len(), expected: batch.inputs.len() });
    };
    Ok(Batch { batch: batch.batch / parts, context: batch.context, inputs, targets })
}

impl Drop for Team {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            // What cannot be told ends with the page.
            shared.store(STEP, OVER).ok();
        }
        for helper in &self.helpers {
            let terminate = Reflect::get(helper, &"terminate".into()).and_then(JsCast::dyn_into::<Function>);
            // One that is gone needs no end.
            terminate.and_then(|terminate| terminate.call0(helper)).ok();
        }
    }
}

impl Engine for Team {
    fn describe(&self) -> String {
        if self.parts > 1 { format!("cpu ({} threads)", self.parts) } else { self.leader.describe() }
    }

    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        self.leader.load(parameters)
    }

    fn reset_moments(&mut self) -> Result<(), EngineError> {
        self.leader.reset_moments()
    }

    fn step(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        self.train(batch, settings)
    }

    async fn losses(&mut self) -> Result<Vec<f32>, EngineError> {
        self.leader.losses().await
    }

    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        self.leader.parameters().await
    }

    async fn evaluate(&mut self, batch: &Batch) -> Result<f32, EngineError> {
        let mut sum = 0.0;
        for index in 0..self.parts {
            sum += self.leader.evaluate(&part(batch, index, self.parts)?).await?;
        }
        Ok(sum / self.parts as f32)
    }

    async fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.leader.next_logits(tokens).await
    }
}

/// Cores that the browser tells of.
fn cores() -> usize {
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into());
    let cores = navigator.and_then(|navigator| Reflect::get(&navigator, &"hardwareConcurrency".into()));
    // A browser that does not tell is taken to have one.
    cores.ok().and_then(|cores| cores.as_f64()).map_or(1, |cores| cores as usize)
}

/// What [`help_team`] is called with, and the module to call it in.
fn order(memory: &JsValue, config: &[u8], sizes: [usize; 4]) -> Result<JsValue, JsValue> {
    let order = Object::new();
    Reflect::set(&order, &"module".into(), &wasm_bindgen::module())?;
    Reflect::set(&order, &"memory".into(), memory)?;
    Reflect::set(&order, &"config".into(), &Uint8Array::from(config))?;
    Reflect::set(&order, &"sizes".into(), &sizes.iter().map(|size| JsValue::from(*size as u32)).collect::<Array>())?;
    Ok(order.into())
}

/// A helper's life: a worker calls it once, and it returns when the team is dissolved.
#[wasm_bindgen(js_name = helpTeam)]
pub fn help_team(memory: JsValue, config: &[u8], sizes: &[u32]) -> Result<(), JsError> {
    scope::report_panics("helper of the CPU engine");
    let [index, parts, batch, context] = <[u32; 4]>::try_from(sizes)?.map(|size| size as usize);
    let model = folder::parse_config(config)?;
    let places = Places { rows: batch * context, values: Layout::of(&model)?.len() };
    let shared = Shared::new(&memory, places);
    let helped = CpuEngine::new(&model, batch / parts, context).and_then(|engine| {
        shared.increment(READY)?;
        help(&shared, engine, index, parts, context)
    });
    if helped.is_err() {
        shared.store(FAILED, 1)?;
        shared.increment(DONE)?;
    }
    Ok(helped?)
}

fn help(shared: &Shared, mut engine: CpuEngine, index: usize, parts: usize, context: usize) -> Result<(), EngineError> {
    let Places { rows, values } = shared.places;
    let own = rows / parts;
    let mut seen = 0;
    loop {
        Atomics::wait(&shared.words, STEP, seen).map_err(|error| failed(&error))?;
        let step = shared.load(STEP)?;
        if step == OVER {
            return Ok(());
        }
        if step == seen {
            continue;
        }
        seen = step;
        shared.floats(shared.places.parameters(), values).copy_to(engine.parameter_values());
        let read = |start: usize| -> Vec<u32> {
            let mut tokens = vec![0; own];
            shared.tokens(start + index * own, own).copy_to(&mut tokens);
            tokens.into_iter().map(|token| token as u32).collect()
        };
        let (inputs, targets) = (read(CONTROL_WORDS), read(shared.places.targets()));
        let batch = Batch { batch: own / context, context, inputs, targets };
        let (total, gradient) = engine.part_of_gradient(&batch, rows)?;
        let start = shared.places.gradient(index);
        shared.floats(start, values).copy_from(gradient);
        shared.floats.set_index((start + values) as u32, total as f32);
        shared.increment(DONE)?;
    }
}
