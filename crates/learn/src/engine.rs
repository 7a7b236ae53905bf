//! The engine interface: one decoder, two engines behind it.

use shoal_wire::manifest::{AdamW, Muon, Optimizer};
use thiserror::Error;

/// Token batch of shape [batch, context]: inputs and the tokens that follow them, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_field_names)] // the axis is called batch
pub struct Batch {
    pub batch: usize,
    pub context: usize,
    pub inputs: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Batch {
    /// From rows of `context + 1` tokens: inputs are all but the last, targets all but the first.
    pub fn from_rows(rows: &[u32], batch: usize, context: usize) -> Option<Self> {
        if rows.len() != batch.checked_mul(context + 1)? || batch == 0 || context == 0 {
            return None;
        }
        let mut inputs = Vec::with_capacity(batch * context);
        let mut targets = Vec::with_capacity(batch * context);
        for row in rows.chunks_exact(context + 1) {
            inputs.extend_from_slice(&row[..context]);
            targets.extend_from_slice(&row[1..]);
        }
        Some(Self { batch, context, inputs, targets })
    }

    pub fn tokens(&self) -> usize {
        self.inputs.len()
    }
}

/// What one optimiser step needs beside the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    pub optimizer: Optimizer,
    /// Learning rate of this step, after the schedule (the optimiser's own is the peak).
    pub lr: f32,
    /// Number of this step since the moments were zeroed, from 1, for bias correction.
    pub step: u32,
}

impl StepSettings {
    /// What AdamW does in this step under Muon: its own learning rate follows the same schedule.
    #[must_use]
    pub fn beside(&self, muon: &Muon) -> (AdamW, f32) {
        (muon.adamw(), muon.adamw_lr * (self.lr / muon.lr))
    }
}

/// How Muon orthogonalises a matrix, on every engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NewtonSchulz {
    pub steps: u32,
    /// X ← aX + (bA + cA²)X with A = XXᵀ.
    pub coefficients: [f32; 3],
    /// A smaller Frobenius norm counts as this.
    pub least_norm: f32,
}

/// Jordan et al.'s quintic, which lifts small singular values fast and leaves all within about 0.7 to 1.2.
pub const NEWTON_SCHULZ: NewtonSchulz =
    NewtonSchulz { steps: 5, coefficients: [3.4445, -4.7750, 2.0315], least_norm: 1e-7 };

#[derive(Debug, Error)]
pub enum EngineError {
    #[error("no usable device: {0}")]
    NoDevice(String),
    #[error("the device was lost: {0}")]
    DeviceLost(String),
    #[error("out of device memory: {0}")]
    OutOfMemory(String),
    #[error("{what} has {got} values, expected {expected}")]
    Shape { what: &'static str, got: usize, expected: usize },
    #[error("the model is not supported: {0}")]
    Unsupported(String),
    #[error("the engine failed: {0}")]
    Failed(String),
}

/// A decoder that trains. Parameters cross this interface as one flat f32 vector in [`crate::Layout`]
/// order. Methods that read back from a device are `async` because a browser cannot block; engines never
/// spawn or wait otherwise.
#[allow(async_fn_in_trait)] // engines live in one thread each; no caller needs `Send` futures
pub trait Engine {
    /// Short name and device, for people: `webgpu (SwiftShader)`, `cpu`.
    fn describe(&self) -> String;

    /// Replaces the parameters. Keeps the optimiser's moments.
    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError>;

    /// Zeroes the optimiser's moments.
    fn reset_moments(&mut self) -> Result<(), EngineError>;

    /// Enqueues one training step: forward, backward, clip, optimiser. The loss (mean cross-entropy in nats,
    /// before the step) is kept on the device until [`Self::losses`].
    fn step(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError>;

    /// How many steps may be enqueued before [`Self::losses`]: a slow device's queue would hold up the machine.
    fn steps_ahead(&self) -> u32 {
        u32::MAX
    }

    /// Waits for the enqueued steps and returns their losses since the last call, in order, whatever they are: a
    /// diverged step's loss is not a number, and what to do then is the caller's choice.
    async fn losses(&mut self) -> Result<Vec<f32>, EngineError>;

    /// The current parameters.
    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError>;

    /// Mean cross-entropy in nats, without training.
    async fn evaluate(&mut self, batch: &Batch) -> Result<f32, EngineError>;

    /// Logits after the last of `tokens` (one sequence): `vocab_size` values.
    async fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError>;
}
