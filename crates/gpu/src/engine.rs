//! [`GpuEngine`]: buffers, pipelines and the replay of the plan.

use std::collections::BTreeMap;

use shoal_learn::{Batch, Engine, EngineError, Layout, StepSettings};
use shoal_wire::manifest::{ModelSpec, Optimizer};

use crate::{
    device::Gpu,
    forms::Forms,
    kernels::Kernel,
    pace::Pace,
    pipelines::{ARGUMENTS_STRIDE, Pipelines, StepUniform, bind},
    plan::{ARGUMENTS, Plan, Shape},
    tune,
};

/// Losses kept on the device until they are read; the last slot is for evaluation.
const LOSS_SLOTS: usize = 256;
const EVALUATION_SLOT: usize = LOSS_SLOTS - 1;

/// What one training step costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub dispatches: u64,
    pub submits: u64,
    /// Bytes of all buffers.
    pub buffer_bytes: u64,
}

/// A decoder on a WebGPU device.
#[derive(Debug)]
pub struct GpuEngine {
    gpu: Gpu,
    plan: Plan,
    shape: Shape,
    forms: Forms,
    layout: Layout,
    pipelines: BTreeMap<Kernel, wgpu::ComputePipeline>,
    bind_group: wgpu::BindGroup,
    params: wgpu::Buffer,
    moments: [wgpu::Buffer; 2],
    arena: wgpu::Buffer,
    tokens: wgpu::Buffer,
    losses: wgpu::Buffer,
    step: wgpu::Buffer,
    pending: usize,
    pace: Pace,
    buffer_bytes: u64,
}

impl GpuEngine {
    /// Opens a device and plans steps of `batch` sequences of `context` tokens. The forms of the kernels that are
    /// fastest on a graphics card are measured, which takes about 2 s there.
    pub async fn new(model: &ModelSpec, batch: usize, context: usize) -> Result<Self, EngineError> {
        Self::with_forms(model, batch, context, None).await
    }

    /// Like [`Self::new`], without measuring when `remembered` is what [`Self::forms`] said on this device before.
    pub async fn with_forms(
        model: &ModelSpec,
        batch: usize,
        context: usize,
        remembered: Option<&str>,
    ) -> Result<Self, EngineError> {
        let layout = Layout::of(model).map_err(|error| EngineError::Unsupported(error.to_string()))?;
        if batch == 0 || context == 0 || context > model.max_position_embeddings as usize {
            let most = model.max_position_embeddings;
            return Err(EngineError::Unsupported(format!("a batch needs at least 1 sequence of 1 to {most} tokens")));
        }
        let shape = Shape::of(model, batch, context)?;
        let gpu = Gpu::open().await?;
        let mut pipelines = Pipelines::new(&gpu.device, shape.head as usize);
        let remembered = remembered.and_then(|text| text.strip_prefix(&origin(&gpu))?.strip_prefix('\n'));
        let forms = match remembered.map(|text| Forms::from_text(text, shape, gpu.traits)) {
            Some(Ok(forms)) => forms,
            // What was remembered of another device or an older version is measured again.
            _ => tune::fastest(&gpu, shape, &mut pipelines).await?,
        };
        let plan = Plan::new(&layout, shape, forms)?;
        fits(&gpu, "activations", plan.arena_values)?;
        fits(&gpu, "parameters", layout.len())?;
        let decays = decay_bits(&layout, if shape.is_vector() { 4 } else { 1 });
        let token_values = 2 * shape.rows as usize + decays.len();
        let storage = [
            gpu.storage("parameters", layout.len()),
            gpu.storage("gradients", layout.len()),
            gpu.storage("first moments", layout.len()),
            gpu.storage("second moments", layout.len()),
            gpu.storage("arena", plan.arena_values),
            gpu.storage("tokens", token_values),
            gpu.storage("losses", LOSS_SLOTS),
            gpu.storage("values of rows", plan.stats_values),
        ];
        let uniform = wgpu::BufferUsages::UNIFORM;
        let arguments = gpu.buffer("arguments", (plan.dispatches.len() * ARGUMENTS_STRIDE) as u64, uniform);
        let step = gpu.buffer("step", size_of::<StepUniform>() as u64, uniform);
        let bind_group = bind(&gpu.device, pipelines.layout(), &arguments, &step, &storage);
        for dispatch in &plan.dispatches {
            pipelines.get(&gpu.device, dispatch.kernel)?;
        }
        let pipelines = pipelines.keep(plan.dispatches.iter().map(|dispatch| dispatch.kernel));
        let buffer_bytes = storage.iter().map(wgpu::Buffer::size).sum::<u64>() + arguments.size() + step.size();
        let [params, _, first, second, arena, tokens, losses, _] = storage;
        gpu.queue.write_buffer(&arguments, 0, &argument_bytes(&plan));
        gpu.queue.write_buffer(&arena, plan.rope_table as u64 * 4, bytemuck::cast_slice(&rope_table(model, shape)));
        gpu.queue.write_buffer(&tokens, 2 * u64::from(shape.rows) * 4, bytemuck::cast_slice(&decays));
        gpu.faults.check()?;
        Ok(Self {
            plan,
            shape,
            forms,
            layout,
            pipelines,
            bind_group,
            params,
            moments: [first, second],
            arena,
            tokens,
            losses,
            step,
            pending: 0,
            pace: Pace::default(),
            buffer_bytes,
            gpu,
        })
    }

    /// The device's name.
    pub fn adapter_name(&self) -> &str {
        &self.gpu.name
    }

    /// The device and the forms of the kernels in use, to be remembered for this shape of model.
    pub fn forms(&self) -> String {
        format!("{}\n{}", origin(&self.gpu), self.forms.to_text())
    }

    pub fn counters(&self) -> Counters {
        Counters {
            dispatches: self.plan.update as u64,
            submits: self.pace.submits() as u64,
            buffer_bytes: self.buffer_bytes,
        }
    }

    fn write_batch(&self, batch: &Batch) -> Result<(), EngineError> {
        let expected = self.shape.rows as usize;
        for (what, got, expected) in [
            ("the batch's sequences", batch.batch, self.shape.batch as usize),
            ("the batch's context", batch.context, self.shape.context as usize),
            ("the batch's inputs", batch.inputs.len(), expected),
            ("the batch's targets", batch.targets.len(), expected),
        ] {
            if got != expected {
                return Err(EngineError::Shape { what, got, expected });
            }
        }
        if batch.inputs.iter().chain(&batch.targets).any(|token| *token >= self.shape.vocab) {
            return Err(EngineError::Unsupported(format!(
                "a token is not below the vocabulary of {}",
                self.shape.vocab
            )));
        }
        self.gpu.queue.write_buffer(&self.tokens, 0, bytemuck::cast_slice(&batch.inputs));
        self.gpu.queue.write_buffer(&self.tokens, expected as u64 * 4, bytemuck::cast_slice(&batch.targets));
        Ok(())
    }

    /// Replays a part of the plan in one pass and one submit.
    fn replay(&self, dispatches: impl Iterator<Item = usize>) {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for index in dispatches {
                self.record(&mut pass, index);
            }
        }
        self.gpu.queue.submit([encoder.finish()]);
    }

    /// Records one dispatch of the plan.
    pub(crate) fn record(&self, pass: &mut wgpu::ComputePass<'_>, index: usize) {
        let dispatch = &self.plan.dispatches[index];
        pass.set_pipeline(&self.pipelines[&dispatch.kernel]);
        pass.set_bind_group(0, &self.bind_group, &[(index * ARGUMENTS_STRIDE) as u32]);
        let [x, y, z] = dispatch.grid;
        pass.dispatch_workgroups(x, y, z);
    }

    /// The kernels of a step's dispatches, in order.
    pub(crate) fn step_kernels(&self) -> Vec<&'static str> {
        self.plan.dispatches[..self.plan.update].iter().map(|dispatch| dispatch.kernel.name()).collect()
    }

    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Writes what a step needs, so that its dispatches can be recorded.
    pub(crate) fn prepare_step(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        if self.pending >= EVALUATION_SLOT {
            return Err(EngineError::Failed(format!("more than {EVALUATION_SLOT} steps without reading their losses")));
        }
        if settings.step == 0 {
            return Err(EngineError::Failed("optimiser steps count from 1".to_owned()));
        }
        self.gpu.faults.check()?;
        self.write_batch(batch)?;
        let Optimizer::AdamW(adamw) = &settings.optimizer else {
            return Err(EngineError::Unsupported("this engine trains with AdamW only".to_owned()));
        };
        let correction = |beta: f32| (1.0 - f64::from(beta).powi(settings.step.min(1 << 24) as i32)) as f32;
        self.write_step(StepUniform {
            lr: settings.lr,
            beta1: adamw.beta1,
            beta2: adamw.beta2,
            eps: adamw.eps,
            weight_decay: adamw.weight_decay,
            clip: adamw.grad_clip.unwrap_or(0.0),
            correction1: correction(adamw.beta1),
            correction2: correction(adamw.beta2),
            slot: self.pending as u32,
            ..Default::default()
        });
        self.pending += 1;
        Ok(())
    }

    fn write_step(&self, uniform: StepUniform) {
        self.gpu.queue.write_buffer(&self.step, 0, bytemuck::bytes_of(&uniform));
    }
}

impl Engine for GpuEngine {
    fn describe(&self) -> String {
        format!("webgpu ({})", self.gpu.name)
    }

    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        let expected = self.layout.len();
        if parameters.len() != expected {
            return Err(EngineError::Shape { what: "parameters", got: parameters.len(), expected });
        }
        self.gpu.queue.write_buffer(&self.params, 0, bytemuck::cast_slice(parameters));
        self.gpu.faults.check()
    }

    fn reset_moments(&mut self) -> Result<(), EngineError> {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for buffer in &self.moments {
            encoder.clear_buffer(buffer, 0, None);
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.faults.check()
    }

    fn step(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        self.prepare_step(batch, settings)?;
        // Dispatches differ in cost, but layers repeat: equal counts are nearly equal times.
        let part = self.plan.update.div_ceil(self.pace.submits());
        for start in (0..self.plan.update).step_by(part) {
            self.replay(start..(start + part).min(self.plan.update));
        }
        self.pace.enqueued();
        Ok(())
    }

    fn steps_ahead(&self) -> u32 {
        self.pace.steps_ahead()
    }

    async fn losses(&mut self) -> Result<Vec<f32>, EngineError> {
        if self.pending == 0 {
            return Ok(Vec::new());
        }
        let losses = self.gpu.read(&self.losses, 0, self.pending).await?;
        self.pace.read(self.pending);
        self.pending = 0;
        Ok(losses)
    }

    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        self.gpu.read(&self.params, 0, self.layout.len()).await
    }

    async fn evaluate(&mut self, batch: &Batch) -> Result<f32, EngineError> {
        self.write_batch(batch)?;
        self.write_step(StepUniform { slot: EVALUATION_SLOT as u32, ..Default::default() });
        let end = self.plan.update..self.plan.dispatches.len();
        self.replay((0..self.plan.loss).chain(end));
        let loss = self.gpu.read(&self.losses, EVALUATION_SLOT, 1).await?;
        loss.first().copied().ok_or_else(|| EngineError::Failed("no loss came back".to_owned()))
    }

    async fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        let rows = self.shape.rows as usize;
        let context = self.shape.context as usize;
        if tokens.is_empty() || tokens.len() > context {
            return Err(EngineError::Shape { what: "prompt", got: tokens.len(), expected: context });
        }
        // Attention is causal, so what follows the prompt does not matter.
        let mut inputs = tokens.to_vec();
        inputs.resize(rows, 0);
        let batch = Batch { batch: self.shape.batch as usize, context, targets: vec![0; rows], inputs };
        self.write_batch(&batch)?;
        self.replay(0..self.plan.forward);
        let at = self.plan.logits + (tokens.len() - 1) * self.shape.logits_stride() as usize;
        self.gpu.read(&self.arena, at, self.shape.vocab as usize).await
    }
}

/// Whose forms were measured: other kernels or another device must be measured again.
fn origin(gpu: &Gpu) -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), gpu.name)
}

/// A bit for each `group` of parameters, counted from the lowest: whether they decay.
fn decay_bits(layout: &Layout, group: usize) -> Vec<u32> {
    let mut bits = vec![0; layout.len().div_ceil(32 * group)];
    for tensor in layout.tensors.iter().filter(|tensor| tensor.decays()) {
        for index in tensor.range().step_by(group) {
            bits[index / group / 32] |= 1 << (index / group % 32);
        }
    }
    bits
}

fn fits(gpu: &Gpu, what: &str, values: usize) -> Result<(), EngineError> {
    let most = gpu.device.limits().max_storage_buffer_binding_size;
    if values as u64 * 4 <= most {
        return Ok(());
    }
    Err(EngineError::OutOfMemory(format!("{what} take {values} values, and this device binds {most} bytes at most")))
}

/// All dispatches' arguments, one window each.
fn argument_bytes(plan: &Plan) -> Vec<u8> {
    let mut bytes = vec![0; plan.dispatches.len() * ARGUMENTS_STRIDE];
    for (dispatch, window) in plan.dispatches.iter().zip(bytes.chunks_exact_mut(ARGUMENTS_STRIDE)) {
        window[..ARGUMENTS * 4].copy_from_slice(bytemuck::cast_slice(&dispatch.arguments));
    }
    bytes
}

/// Cosines, then sines, each [context, half the head size]: angle = position · θ^(−2i / head size).
fn rope_table(model: &ModelSpec, shape: Shape) -> Vec<f32> {
    let half = shape.head / 2;
    // Frequencies and angles are rounded to f32, as in the model's published implementations.
    let frequency =
        |index: u32| f64::from(model.rope_theta).powf(-2.0 * f64::from(index) / f64::from(shape.head)) as f32;
    let angle = |position: u32, index: u32| f64::from(position as f32 * frequency(index));
    let angles: Vec<f64> =
        (0..shape.context).flat_map(|position| (0..half).map(move |index| angle(position, index))).collect();
    let cosines = angles.iter().map(|angle| angle.cos() as f32);
    cosines.chain(angles.iter().map(|angle| angle.sin() as f32)).collect()
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use pollster::block_on;
    use shoal_wire::manifest::AdamW;

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
            tie_word_embeddings: false,
        };
        let mut engine = block_on(GpuEngine::new(&model, 1, 4))
            .expect("this test needs a Vulkan device; on Debian, `apt-get install mesa-vulkan-drivers` brings one");
        let adamw = AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) };
        let settings = StepSettings { optimizer: adamw.into(), lr: 3e-3, step: 1 };
        let batch = Batch::from_rows(&[1, 2, 3, 4, 5], 1, 4).unwrap();
        engine.step(&batch, &settings).unwrap();
        engine.gpu.device.destroy();
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
