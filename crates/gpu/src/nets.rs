//! [`GpuNetEngine`]: networks for tables and images on a WebGPU device, by the same machine as the decoder.

use shoal_learn::nets::{Checked, Examples, Net, NetEngine, Shape as Input, Targets};
use shoal_learn::{EngineError, Shard, StepSettings};

use crate::{
    banks::Banks,
    device::Gpu,
    engine::Counters,
    forms::Forms,
    machine::{EVALUATION_SLOT, Machine, Parts},
    pipelines::Pipelines,
    plan::{Plan, Task, Thrift, targets_after},
    shape::Shape,
    steps::Steps,
    tables::tables,
};

/// A network on a WebGPU device.
#[derive(Debug)]
pub struct GpuNetEngine {
    machine: Machine,
    net: Checked,
    batch: usize,
    steps: Steps,
}

impl GpuNetEngine {
    /// Opens a device and plans steps of so many examples.
    pub async fn new(net: &Net, batch: usize) -> Result<Self, EngineError> {
        let net = net.check().map_err(|error| EngineError::Unsupported(error.to_string()))?;
        let shape = Shape::of_examples(batch, net.outputs)?;
        let gpu = Gpu::open().await?;
        let values_max = gpu.binding_values_max(u64::MAX);
        let banks = Banks::new(&net.layout, values_max)?;
        let pipelines = Pipelines::new(&gpu.device, shape.head as usize);
        let thrift = Thrift { micro_batches: 1, recompute: false };
        let forms = Forms::likeliest(shape, gpu.traits);
        let first = 2 * batch;
        let (words, tables) = tables(&net.layout, &banks, 1, first);
        let (layout, shard, tables) = (&net.layout, &Shard::none(), &tables[..]);
        let task = Task { layout, shard, banks: &banks, shape, forms, thrift, values_max, tables };
        let plan = Plan::of_net(task, &net, &gpu)?;
        let (plan, memory) = Machine::allocate(&gpu, &banks, plan, (first, words), thrift, values_max).await?;
        let layout = net.layout.clone();
        let parts = Parts { gpu, pipelines, layout, banks, plan, memory, shape, thrift, way: 0, forms };
        Ok(Self { machine: parts.assemble().await?, net, batch, steps: Steps::default() })
    }

    pub fn counters(&self) -> Counters {
        self.steps.counters(&self.machine)
    }

    /// The gradient of the last step, before clipping, in layout order.
    pub async fn gradients(&mut self) -> Result<Vec<f32>, EngineError> {
        self.machine.gradients().await
    }

    /// Writes inputs, with zeros for the examples that are not there.
    fn write_features(&self, features: &[f32]) {
        let width = self.net.input.values() as usize;
        let mut values = channels_last(features, self.net.input);
        values.resize(self.batch * width, 0.0);
        self.machine.write_activations(self.machine.plan.input, &values);
    }

    fn write_targets(&self, targets: &Targets) -> Result<(), EngineError> {
        match targets {
            Targets::Classes(classes) => self.machine.write_tokens(0, true, classes),
            Targets::Values(values) => {
                let width = self.net.input.values() as usize;
                let at = targets_after(self.machine.plan.input, self.batch * width);
                self.machine.write_activations(at, values);
                Ok(())
            }
        }
    }
}

impl NetEngine for GpuNetEngine {
    fn describe(&self) -> String {
        format!("webgpu ({})", self.machine.gpu.name)
    }

    fn net(&self) -> &Checked {
        &self.net
    }

    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        self.machine.load(parameters)
    }

    fn reset_moments(&mut self) -> Result<(), EngineError> {
        self.machine.reset_moments()
    }

    fn step(&mut self, batch: &Examples, settings: &StepSettings) -> Result<(), EngineError> {
        let got = batch.check(&self.net)?;
        if got != self.batch {
            return Err(EngineError::Shape { what: "the batch", got, expected: self.batch });
        }
        let slot = self.steps.slot()?;
        self.machine.gpu.faults.check()?;
        self.machine.choose(&settings.optimizer)?;
        self.machine.write_step(Some(settings), slot)?;
        self.write_features(&batch.features);
        self.write_targets(&batch.targets)?;
        self.steps.count();
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

    async fn predict(&mut self, features: &[f32]) -> Result<Vec<f32>, EngineError> {
        let width = self.net.input.values() as usize;
        if !features.len().is_multiple_of(width) {
            let expected = features.len().next_multiple_of(width);
            return Err(EngineError::Shape { what: "the features", got: features.len(), expected });
        }
        let mut outputs = Vec::with_capacity(features.len() / width * self.net.outputs);
        for part in features.chunks(self.batch * width) {
            self.machine.write_step(None, EVALUATION_SLOT)?;
            self.write_features(part);
            self.machine.replay(self.machine.plan.forward.clone().map(|index| (index, 0)));
            let count = part.len() / width * self.net.outputs;
            outputs.append(&mut self.machine.activations(self.machine.plan.output, count).await?);
        }
        Ok(outputs)
    }
}

/// [examples, channels, places] as [examples, places, channels].
fn channels_last(features: &[f32], shape: Input) -> Vec<f32> {
    let (channels, places) = (shape.channels() as usize, shape.places() as usize);
    if channels == 1 || places == 1 {
        return features.to_vec();
    }
    let turned =
        |example: &[f32]| (0..example.len()).map(|i| example[i % channels * places + i / channels]).collect::<Vec<_>>();
    features.chunks(channels * places).flat_map(turned).collect()
}
