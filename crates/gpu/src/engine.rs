//! [`GpuEngine`]: a whole decoder, trained step by step.

use shoal_learn::{Batch, Engine, EngineError, Shard, StepSettings};
use shoal_wire::manifest::ModelSpec;

use crate::{
    machine::{EVALUATION_SLOT, Machine, Turn, Wish},
    steps::Steps,
};

/// What one training step costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub dispatches: u64,
    pub submits: u64,
    /// Bytes of all buffers.
    pub buffer_bytes: u64,
    /// Parts that the batch is trained in, to save memory.
    pub micro_batches: u32,
    /// Whether activations are computed twice, to save memory.
    pub recomputes: bool,
}

/// How an engine is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// What [`GpuEngine::forms`] said on this device before: nothing is measured then.
    pub remembered: Option<&'a str>,
    /// Ways of saving memory, the fastest first, that are known not to save enough ([`GpuEngine::way`]).
    pub skipped_ways: usize,
    /// No binding takes more bytes than this, even if the device allows it.
    pub binding_bytes_max: u64,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { remembered: None, skipped_ways: 0, binding_bytes_max: u64::MAX }
    }
}

/// A decoder on a WebGPU device.
#[derive(Debug)]
pub struct GpuEngine {
    machine: Machine,
    steps: Steps,
}

impl GpuEngine {
    /// Opens a device and plans steps of `batch` sequences of `context` tokens. The forms of the kernels that are
    /// fastest on a graphics card are measured, which takes about 2 s there.
    pub async fn new(model: &ModelSpec, batch: usize, context: usize) -> Result<Self, EngineError> {
        Self::with_options(model, batch, context, Options::default()).await
    }

    /// Like [`Self::new`], with choices. A batch whose activations do not fit the device is trained in parts, or with
    /// activations computed twice: slower, with the same result.
    pub async fn with_options(
        model: &ModelSpec,
        batch: usize,
        context: usize,
        options: Options<'_>,
    ) -> Result<Self, EngineError> {
        let Options { remembered, skipped_ways, binding_bytes_max } = options;
        let shard = Shard::whole(model);
        let wish =
            Wish { model, shard, batch, context, remembered, skipped_ways, binding_bytes_max, micro_batches: None };
        Ok(Self { machine: Machine::open(wish).await?, steps: Steps::default() })
    }

    /// The device's name.
    pub fn adapter_name(&self) -> &str {
        &self.machine.gpu.name
    }

    /// The device and the forms of the kernels in use, to be remembered for this shape of model.
    pub fn forms(&self) -> String {
        self.machine.forms_text()
    }

    /// Which way of saving memory is in use: 0 is none.
    pub fn way(&self) -> usize {
        self.machine.way
    }

    pub fn counters(&self) -> Counters {
        self.steps.counters(&self.machine)
    }

    pub fn parameter_count(&self) -> usize {
        self.machine.layout.len()
    }

    /// Gives the device up, as a driver that is reset does: from now on every call says that it is lost.
    pub fn destroy_device(&self) {
        self.machine.gpu.device.destroy();
    }

    /// The gradient of the last step, before clipping, in layout order. Muon leaves its directions in the place of the
    /// gradients of hidden matrices.
    pub async fn gradients(&mut self) -> Result<Vec<f32>, EngineError> {
        self.machine.gradients().await
    }

    /// The optimiser's first and second moments, in layout order.
    pub async fn moments(&mut self) -> Result<[Vec<f32>; 2], EngineError> {
        self.machine.moments().await
    }

    /// Puts back what [`Self::moments`] gave.
    pub fn load_moments(&mut self, moments: &[Vec<f32>; 2]) -> Result<(), EngineError> {
        self.machine.load_moments(moments)
    }

    /// The dispatches of a step, in order.
    pub(crate) fn turns(&self) -> Vec<Turn> {
        self.machine.step_turns().collect()
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Writes what a step needs, so that its dispatches can be recorded.
    pub(crate) fn prepare_step(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        let slot = self.steps.slot()?;
        self.machine.gpu.faults.check()?;
        self.machine.write_batch(batch)?;
        self.machine.choose(&settings.optimizer)?;
        self.machine.write_step(Some(settings), slot)?;
        self.steps.count();
        Ok(())
    }
}

impl Engine for GpuEngine {
    fn describe(&self) -> String {
        format!("webgpu ({})", self.machine.gpu.name)
    }

    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        self.machine.load(parameters)
    }

    fn reset_moments(&mut self) -> Result<(), EngineError> {
        self.machine.reset_moments()
    }

    fn step(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        self.prepare_step(batch, settings)?;
        self.steps.submit(&self.machine);
        Ok(())
    }

    fn steps_ahead(&self) -> u32 {
        self.steps.ahead()
    }

    async fn losses(&mut self) -> Result<Vec<f32>, EngineError> {
        self.steps.losses(&self.machine).await
    }

    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        self.machine.parameters().await
    }

    async fn evaluate(&mut self, batch: &Batch) -> Result<f32, EngineError> {
        self.machine.write_batch(batch)?;
        self.machine.write_step(None, EVALUATION_SLOT)?;
        self.machine.replay(self.machine.evaluation_turns());
        let loss = self.machine.losses(EVALUATION_SLOT, 1).await?;
        loss.first().copied().ok_or_else(|| EngineError::Failed("no loss came back".to_owned()))
    }

    async fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        let (machine, shape) = (&self.machine, self.machine.shape);
        let (rows, context) = (shape.rows as usize * machine.micro_batches(), shape.context as usize);
        if tokens.is_empty() || tokens.len() > context {
            return Err(EngineError::Shape { what: "prompt", got: tokens.len(), expected: context });
        }
        // Attention is causal, so what follows the prompt does not matter.
        let mut inputs = tokens.to_vec();
        inputs.resize(rows, 0);
        let batch = Batch { batch: rows / context, context, targets: vec![0; rows], inputs };
        machine.write_batch(&batch)?;
        machine.write_step(None, EVALUATION_SLOT)?;
        let (logits, at) = machine.plan.logits_of(tokens.len() as u32 - 1, shape);
        machine.replay(machine.plan.forward.clone().chain(logits).map(|index| (index, 0)));
        machine.activations(at, shape.vocab as usize).await
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use pollster::block_on;
    use shoal_wire::manifest::{AdamW, RopeScaling};

    use super::*;

    #[test]
    fn a_lost_device_is_an_error_that_says_so_and_stays() {
        let model = ModelSpec {
            vocab_size: 11,
            hidden_size: 8,
            intermediate_size: 5,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            max_position_embeddings: 4,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            tie_word_embeddings: false,
        };
        let mut engine = block_on(GpuEngine::new(&model, 1, 4))
            .expect("this test needs a Vulkan device; on Debian, `apt-get install mesa-vulkan-drivers` brings one");
        let adamw = AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) };
        let settings = StepSettings { optimizer: adamw.into(), lr: 3e-3, step: 1 };
        let batch = Batch::from_rows(&[1, 2, 3, 4, 5], 1, 4).unwrap();
        engine.step(&batch, &settings).unwrap();
        engine.destroy_device();
        // The device may be known to be lost at once, or only when something is awaited.
        let first = engine.step(&batch, &settings);
        assert!(matches!(first, Ok(()) | Err(EngineError::DeviceLost(_))), "{first:?}");
        let losses = block_on(engine.losses());
        assert!(matches!(losses, Err(EngineError::DeviceLost(_))), "{losses:?}");
        let later = engine.step(&batch, &settings);
        assert!(matches!(later, Err(EngineError::DeviceLost(_))), "{later:?}");
        let parameters = block_on(engine.parameters());
        assert!(matches!(parameters, Err(EngineError::DeviceLost(_))), "{parameters:?}");
        let loss = block_on(engine.evaluate(&batch));
        assert!(matches!(loss, Err(EngineError::DeviceLost(_))), "{loss:?}");
    }
}
