//! Which engine trains here, and the change to another when a device is lost.

use core::cell::RefCell;
use std::rc::Rc;

use serde::Deserialize;
use shoal_gpu::{Options, ResumingEngine};
use shoal_learn::{Batch, Engine, EngineError, StepSettings};
use shoal_store::Files;
use shoal_wire::Manifest;
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

use super::trial;
use crate::{files::BrowserFiles, scope, team::Team};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The faster of WebGPU and the CPU.
    Auto,
    Gpu,
    Cpu,
}

pub enum AnyEngine {
    Cpu(Box<Team>),
    Gpu(Box<ResumingEngine>),
}

impl AnyEngine {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Gpu(_) => "gpu",
        }
    }

    /// The engine of choice; with the reason in words where the CPU stands in for WebGPU.
    pub async fn choose(choice: Choice, manifest: &Manifest) -> Result<(Self, Option<String>), EngineError> {
        let refused = match choice {
            Choice::Cpu => return Ok((Self::cpu(manifest).await?, None)),
            Choice::Gpu => None,
            Choice::Auto => unsuitable().await,
        };
        let why = match refused {
            Some(why) => why,
            None if choice == Choice::Auto => match Self::faster(manifest).await {
                Ok(chosen) => return Ok(chosen),
                Err(error) => error.to_string(),
            },
            None => return Ok((Self::gpu(manifest, true).await?, None)),
        };
        Ok((Self::cpu(manifest).await?, Some(why)))
    }

    /// The engine that trains the run's model faster here: measured once, then remembered. An error of the GPU's.
    async fn faster(manifest: &Manifest) -> Result<(Self, Option<String>), EngineError> {
        let memory = Memory::open("faster-engine", manifest).await;
        let known = memory.read().await;
        if known.as_deref().is_some_and(|known| known != GPU) && trial::is_short(manifest) {
            return Ok((Self::cpu(manifest).await?, known));
        }
        let mut gpu = Self::gpu(manifest, true).await?;
        if known.is_some() || !trial::is_short(manifest) {
            return Ok((gpu, None));
        }
        let mut cpu = Self::cpu(manifest).await?;
        let gpu_ms = gpu.step_ms(manifest).await?;
        let cpu_ms = cpu.step_ms(manifest).await?;
        if gpu_ms <= cpu_ms {
            memory.write(GPU).await;
            return Ok((gpu, None));
        }
        let why = format!("the processor is faster here: {cpu_ms:.0} ms a step, the GPU takes {gpu_ms:.0} ms");
        memory.write(&why).await;
        Ok((cpu, Some(why)))
    }

    async fn step_ms(&mut self, manifest: &Manifest) -> Result<f64, EngineError> {
        match self {
            Self::Cpu(engine) => trial::step_ms(&mut **engine, manifest).await,
            Self::Gpu(engine) => trial::step_ms(&mut **engine, manifest).await,
        }
    }

    pub async fn cpu(manifest: &Manifest) -> Result<Self, EngineError> {
        let (batch, context) = (manifest.recipe.batch as usize, manifest.recipe.context as usize);
        Ok(Self::Cpu(Box::new(Team::open(&manifest.model, batch, context, None).await?)))
    }

    /// WebGPU, with the kernels that were measured here before unless `remember` is false: they may be at fault.
    pub async fn gpu(manifest: &Manifest, remember: bool) -> Result<Self, EngineError> {
        let (batch, context) = (manifest.recipe.batch as usize, manifest.recipe.context as usize);
        let memory = Memory::open("kernel-forms", manifest).await;
        let known = if remember { memory.read().await } else { None };
        let options = Options { remembered: known.as_deref(), ..Options::default() };
        let engine = ResumingEngine::open(&manifest.model, batch, context, options).await?.on_failure(|error| {
            web_sys::console::warn_1(&format!("the GPU failed: {error}; training resumes on another").into());
        });
        if known.is_none_or(|known| known != engine.forms()) {
            memory.write(&engine.forms()).await;
        }
        Ok(Self::Gpu(Box::new(engine)))
    }
}

/// What is remembered where the GPU is the faster engine; elsewhere the reason is.
const GPU: &str = "gpu";

/// What was measured here for a shape of model: which forms of the kernels, or which engine, were the fastest.
struct Memory {
    files: BrowserFiles,
    name: String,
}

impl Memory {
    async fn open(what: &str, manifest: &Manifest) -> Self {
        let (model, recipe) = (&manifest.model, &manifest.recipe);
        let sizes = [model.hidden_size, model.intermediate_size, model.num_attention_heads, model.num_key_value_heads];
        let shape = sizes.map(|size| size.to_string()).join("-");
        let name = format!("{what}-{shape}-{}-{}x{}", model.num_hidden_layers, recipe.batch, recipe.context);
        // Without private files nothing is remembered, and it is measured each time.
        Self { files: BrowserFiles::open("shoal/kernels").await.0, name }
    }

    async fn read(&self) -> Option<String> {
        // What cannot be read is measured again.
        let bytes = self.files.read(&self.name, MEMORY_BYTES_MAX).await.ok()??;
        let text = String::from_utf8(bytes).ok()?;
        Some(text.strip_prefix(&browser())?.to_owned())
    }

    async fn write(&self, text: &str) {
        if let Err(error) = self.files.write_atomic(&self.name, format!("{}{text}", browser()).as_bytes()).await {
            web_sys::console::warn_1(&format!("what was measured here is not remembered: {error}").into());
        }
    }
}

const MEMORY_BYTES_MAX: u64 = 4096;

/// Another version of the browser may compile kernels otherwise.
fn browser() -> String {
    // Without a name all versions are one.
    format!("{}\n", scope::worker().navigator().user_agent().unwrap_or_default())
}

#[wasm_bindgen]
extern "C" {
    type Gpu;
    #[wasm_bindgen(method, js_name = requestAdapter)]
    fn request_adapter(this: &Gpu) -> js_sys::Promise;

    type Navigator;
    #[wasm_bindgen(method, getter)]
    fn gpu(this: &Navigator) -> Option<Gpu>;

    type Adapter;
    #[wasm_bindgen(method, getter)]
    fn info(this: &Adapter) -> AdapterInfo;
    type AdapterInfo;
    #[wasm_bindgen(method, getter, js_name = isFallbackAdapter)]
    fn is_fallback_adapter(this: &AdapterInfo) -> Option<bool>;
}

/// Why WebGPU is not worth trying here.
async fn unsuitable() -> Option<String> {
    let navigator: Navigator = JsValue::from(scope::worker().navigator()).unchecked_into();
    let Some(gpu) = navigator.gpu() else { return Some("this browser offers no WebGPU".to_owned()) };
    let adapter = match JsFuture::from(gpu.request_adapter()).await {
        Ok(adapter) if !adapter.is_null() && !adapter.is_undefined() => adapter,
        Ok(_) => return Some("the browser gives no GPU to this page".to_owned()),
        Err(error) => return Some(scope::words(&error)),
    };
    let info = adapter.unchecked_into::<Adapter>().info();
    let software = !JsValue::from(&info).is_undefined() && info.is_fallback_adapter() == Some(true);
    software.then(|| "WebGPU is only imitated in software here, which is slower".to_owned())
}

/// An engine that the trainer holds, and that others may use between its steps.
#[derive(Clone)]
pub struct SharedEngine(Rc<RefCell<Option<AnyEngine>>>);

impl SharedEngine {
    pub fn new(engine: AnyEngine) -> Self {
        Self(Rc::new(RefCell::new(Some(engine))))
    }

    /// Gives the engine's memory back. Whoever uses it from now on hears that it is gone.
    pub fn close(&self) {
        *self.0.borrow_mut() = None;
    }

    /// `None` while it is at work.
    pub fn kind(&self) -> Option<&'static str> {
        self.0.borrow().as_ref().map(AnyEngine::kind)
    }

    /// Takes the engine out while it works: nothing is borrowed across an `await`.
    fn take(&self) -> Result<AnyEngine, EngineError> {
        self.0.borrow_mut().take().ok_or_else(|| EngineError::Failed("the engine is at work elsewhere".to_owned()))
    }

    fn put(&self, engine: AnyEngine) {
        *self.0.borrow_mut() = Some(engine);
    }
}

macro_rules! with {
    ($self:ident, $engine:ident => $work:expr) => {{
        let mut taken = $self.take()?;
        let result = match &mut taken {
            AnyEngine::Cpu($engine) => $work,
            AnyEngine::Gpu($engine) => $work,
        };
        $self.put(taken);
        result
    }};
}

impl Engine for SharedEngine {
    fn describe(&self) -> String {
        match &*self.0.borrow() {
            Some(AnyEngine::Cpu(engine)) => engine.describe(),
            Some(AnyEngine::Gpu(engine)) => engine.describe(),
            None => "busy".to_owned(),
        }
    }

    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        with!(self, engine => engine.load(parameters))
    }

    fn reset_moments(&mut self) -> Result<(), EngineError> {
        with!(self, engine => engine.reset_moments())
    }

    fn step(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        with!(self, engine => engine.step(batch, settings))
    }

    fn steps_ahead(&self) -> u32 {
        match &*self.0.borrow() {
            Some(AnyEngine::Cpu(engine)) => engine.steps_ahead(),
            Some(AnyEngine::Gpu(engine)) => engine.steps_ahead(),
            None => 1,
        }
    }

    async fn losses(&mut self) -> Result<Vec<f32>, EngineError> {
        with!(self, engine => engine.losses().await)
    }

    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        with!(self, engine => engine.parameters().await)
    }

    async fn evaluate(&mut self, batch: &Batch) -> Result<f32, EngineError> {
        with!(self, engine => engine.evaluate(batch).await)
    }

    async fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        with!(self, engine => engine.next_logits(tokens).await)
    }
}
