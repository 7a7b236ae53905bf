//! Which engine trains.

use shoal_cpu::CpuEngine;
use shoal_gpu::{Options, ResumingEngine};
use shoal_learn::{Batch, Engine, EngineError, StepSettings};
use shoal_wire::Manifest;

use crate::NodeError;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The GPU when there is one that works, else the CPU.
    #[default]
    Auto,
    Gpu,
    Cpu,
}

/// Opens engines; tests have some that fail when they are told to.
pub(crate) trait Engines: Send + 'static {
    type Engine: Engine;

    fn open(&mut self, choice: EngineChoice, manifest: &Manifest) -> Result<Self::Engine, NodeError>;

    fn is_gpu(engine: &Self::Engine) -> bool;
}

/// The engines of this machine.
pub(crate) struct Devices;

impl Engines for Devices {
    type Engine = AnyEngine;

    fn open(&mut self, choice: EngineChoice, manifest: &Manifest) -> Result<AnyEngine, NodeError> {
        AnyEngine::new(choice, manifest)
    }

    fn is_gpu(engine: &AnyEngine) -> bool {
        matches!(engine, AnyEngine::Gpu(_))
    }
}

/// Either engine; lives in one thread.
pub(crate) enum AnyEngine {
    Cpu(Box<CpuEngine>),
    Gpu(Box<ResumingEngine>),
}

/// Names of drivers that compute on the processor, slower than the CPU engine does.
const SOFTWARE: [&str; 3] = ["llvmpipe", "SwiftShader", "lavapipe"];

impl AnyEngine {
    fn new(choice: EngineChoice, manifest: &Manifest) -> Result<Self, NodeError> {
        match choice {
            EngineChoice::Gpu => Self::gpu(manifest),
            EngineChoice::Cpu => Self::cpu(manifest),
            EngineChoice::Auto => match Self::gpu(manifest) {
                Ok(engine) if SOFTWARE.iter().all(|name| !engine.describe().contains(name)) => Ok(engine),
                Ok(engine) => {
                    tracing::info!(engine = engine.describe(), "not a real GPU; training on the CPU");
                    Self::cpu(manifest)
                }
                Err(error) => {
                    tracing::info!(%error, "training on the CPU");
                    Self::cpu(manifest)
                }
            },
        }
    }

    fn cpu(manifest: &Manifest) -> Result<Self, NodeError> {
        let (batch, context) = (manifest.recipe.batch as usize, manifest.recipe.context as usize);
        let engine = CpuEngine::new(&manifest.model, batch, context);
        engine.map(|engine| Self::Cpu(Box::new(engine))).map_err(|error| NodeError::Compute(error.to_string()))
    }

    fn gpu(manifest: &Manifest) -> Result<Self, NodeError> {
        let (batch, context) = (manifest.recipe.batch as usize, manifest.recipe.context as usize);
        let engine = pollster::block_on(ResumingEngine::open(&manifest.model, batch, context, Options::default()));
        let warn = |error: &EngineError| tracing::warn!(%error, "the GPU failed; training resumes on another");
        engine
            .map(|engine| Self::Gpu(Box::new(engine.on_failure(warn))))
            .map_err(|error| NodeError::Compute(error.to_string()))
    }
}

/// Calls the same method on whichever engine it is.
macro_rules! either {
    ($self:ident, $engine:ident => $call:expr) => {
        match $self {
            Self::Cpu($engine) => $call,
            Self::Gpu($engine) => $call,
        }
    };
}

impl Engine for AnyEngine {
    fn describe(&self) -> String {
        either!(self, engine => engine.describe())
    }

    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        either!(self, engine => engine.load(parameters))
    }

    fn reset_moments(&mut self) -> Result<(), EngineError> {
        either!(self, engine => engine.reset_moments())
    }

    fn step(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        either!(self, engine => engine.step(batch, settings))
    }

    fn steps_ahead(&self) -> u32 {
        either!(self, engine => engine.steps_ahead())
    }

    async fn losses(&mut self) -> Result<Vec<f32>, EngineError> {
        either!(self, engine => engine.losses().await)
    }

    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        either!(self, engine => engine.parameters().await)
    }

    async fn evaluate(&mut self, batch: &Batch) -> Result<f32, EngineError> {
        either!(self, engine => engine.evaluate(batch).await)
    }

    async fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        either!(self, engine => engine.next_logits(tokens).await)
    }
}
