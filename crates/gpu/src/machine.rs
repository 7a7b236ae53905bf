//! A planned step on a device: its buffers, pipelines and bind groups, and the replay of its dispatches.

use std::collections::BTreeSet;

use shoal_learn::{Batch, EngineError, Layout, Shard, StepSettings, rope};
use shoal_wire::manifest::{ModelSpec, Optimizer};

use crate::{
    banks::Banks,
    device::Gpu,
    forms::Forms,
    kernels::Kernel,
    pipelines::{ARGUMENTS_STRIDE, Pipelines, StepUniform, bind},
    plan::{ARGUMENTS, Plan, Task, Thrift, Way},
    shape::Shape,
    tables::tables,
    tune,
};

/// Losses kept on the device until they are read; the last slot is for evaluation.
pub(crate) const LOSS_SLOTS: usize = 256;
pub(crate) const EVALUATION_SLOT: usize = LOSS_SLOTS - 1;

/// A dispatch of the plan and the micro-batch that it works on.
pub(crate) type Turn = (usize, usize);

/// What a device is to train.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    pub model: &'a ModelSpec,
    pub shard: Shard,
    pub batch: usize,
    pub context: usize,
    /// What [`Machine::forms_text`] said on this device before.
    pub remembered: Option<&'a str>,
    /// Ways of saving memory that are known not to help enough.
    pub skipped_ways: usize,
    /// No binding takes more bytes than this, even if the device allows it.
    pub binding_bytes_max: u64,
    /// The batch must come in so many parts.
    pub micro_batches: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub gpu: Gpu,
    pub plan: Plan,
    pub shape: Shape,
    pub thrift: Thrift,
    /// Index of `thrift` among all ways.
    pub way: usize,
    pub layout: Layout,
    forms: Forms,
    banks: Banks,
    pipelines: Pipelines,
    /// How a step goes from gradients to parameters.
    update: Way,
    bind_groups: Vec<wgpu::BindGroup>,
    memory: Memory,
    pub buffer_bytes: u64,
}

/// The device's buffers. Those of parameters come once a bank.
#[derive(Debug)]
pub(crate) struct Memory {
    params: Vec<wgpu::Buffer>,
    grads: Vec<wgpu::Buffer>,
    moments: [Vec<wgpu::Buffer>; 2],
    arena: wgpu::Buffer,
    tokens: wgpu::Buffer,
    losses: wgpu::Buffer,
    stats: wgpu::Buffer,
    arguments: wgpu::Buffer,
    step: wgpu::Buffer,
}

impl Memory {
    fn new(gpu: &Gpu, banks: &Banks, plan: &Plan, token_values: usize, micro_batches: u32) -> Self {
        let bank = |label| banks.ranges().iter().map(|range| gpu.storage(label, range.len())).collect();
        let uniform = wgpu::BufferUsages::UNIFORM;
        let windows = |count: usize| (count * ARGUMENTS_STRIDE) as u64;
        Self {
            params: bank("parameters"),
            grads: bank("gradients"),
            moments: [bank("first moments"), bank("second moments")],
            arena: gpu.storage("arena", plan.arena_values),
            tokens: gpu.storage("tokens", token_values),
            losses: gpu.storage("losses", LOSS_SLOTS),
            stats: gpu.storage("values of rows", plan.stats_values),
            arguments: gpu.buffer("arguments", windows(plan.dispatches.len()), uniform),
            step: gpu.buffer("step", windows(micro_batches as usize), uniform),
        }
    }

    /// In the order of `common.wgsl`.
    fn of_bank(&self, bank: usize) -> [&wgpu::Buffer; 8] {
        let [first, second] = &self.moments;
        let [params, grads, first, second] = [&self.params, &self.grads, first, second].map(|buffers| &buffers[bank]);
        [params, grads, first, second, &self.arena, &self.tokens, &self.losses, &self.stats]
    }

    fn bytes(&self) -> u64 {
        let banks = [&self.params, &self.grads, &self.moments[0], &self.moments[1]];
        let others = [&self.arena, &self.tokens, &self.losses, &self.stats, &self.arguments, &self.step];
        banks.into_iter().flatten().chain(others).map(wgpu::Buffer::size).sum()
    }
}

/// What a machine is put together from.
pub(crate) struct Parts {
    pub gpu: Gpu,
    pub pipelines: Pipelines,
    pub layout: Layout,
    pub banks: Banks,
    pub plan: Plan,
    pub memory: Memory,
    pub shape: Shape,
    pub thrift: Thrift,
    pub way: usize,
    pub forms: Forms,
}

impl Parts {
    /// Writes the dispatches' arguments, binds the buffers and compiles the kernels.
    pub async fn assemble(self) -> Result<Machine, EngineError> {
        let Self { gpu, mut pipelines, layout, banks, plan, memory, shape, thrift, way, forms } = self;
        gpu.queue.write_buffer(&memory.arguments, 0, &argument_bytes(&plan));
        let bind_group = |bank| {
            let storage = memory.of_bank(bank);
            bind(&gpu.device, pipelines.layout(), &memory.arguments, &memory.step, storage)
        };
        let bind_groups = (0..banks.ranges().len()).map(bind_group).collect();
        let update = Way::AdamW;
        let kernels = used(&plan, update);
        pipelines.compile(&gpu.device, &kernels).await?;
        pipelines.keep(&kernels);
        gpu.faults.check()?;
        let buffer_bytes = memory.bytes();
        Ok(Machine {
            gpu,
            plan,
            shape,
            thrift,
            way,
            layout,
            forms,
            banks,
            pipelines,
            update,
            bind_groups,
            memory,
            buffer_bytes,
        })
    }
}

impl Machine {
    /// Opens a device and plans, with as little saving of memory as the device makes necessary.
    pub async fn open(wish: Wish<'_>) -> Result<Self, EngineError> {
        let unsupported = |error: String| EngineError::Unsupported(error);
        let layout = Layout::of_shard(wish.model, &wish.shard).map_err(|error| unsupported(error.to_string()))?;
        // Checked as a whole before anything is opened.
        let whole = Shape::of(wish.model, wish.batch, wish.context)?;
        let gpu = Gpu::open().await?;
        let values_max = gpu.binding_values_max(wish.binding_bytes_max);
        let banks = Banks::new(&layout, values_max)?;
        let mut pipelines = Pipelines::new(&gpu.device, whole.head as usize);
        let remembered = wish.remembered.and_then(|text| text.strip_prefix(&origin(&gpu))?.strip_prefix('\n'));
        let mut tuned: Option<(bool, Forms)> = None;
        let mut ways = Thrift::ways(whole.batch, whole.context);
        ways.retain(|way| wish.micro_batches.is_none_or(|parts| parts == way.micro_batches));
        let mut last = EngineError::OutOfMemory("no smaller batch is left to try".to_owned());
        for (way, thrift) in ways.into_iter().enumerate().skip(wish.skipped_ways) {
            let shape = Shape::of(wish.model, wish.batch / thrift.micro_batches as usize, wish.context)?;
            // Which forms fit depends on whether rows come in fours, and hardly on how many there are.
            let forms = match tuned {
                Some((vector, forms)) if vector == shape.is_vector() => forms,
                _ => match remembered.map(|text| Forms::from_text(text, shape, gpu.traits)) {
                    Some(Ok(forms)) => forms,
                    // What was remembered of another device or an older version is measured again.
                    _ => tune::fastest(&gpu, shape, &mut pipelines).await?,
                },
            };
            tuned = Some((shape.is_vector(), forms));
            let group = if shape.is_vector() { 4 } else { 1 };
            let first = 2 * shape.rows as usize * thrift.micro_batches as usize;
            let (words, tables) = tables(&layout, &banks, group, first);
            let (shard, tables) = (&wish.shard, &tables[..]);
            let task = Task { layout: &layout, shard, banks: &banks, shape, forms, thrift, values_max, tables };
            let attempt = match Plan::new(task) {
                Ok(plan) => Self::allocate(&gpu, &banks, plan, (first, words), thrift, values_max).await,
                Err(error) => Err(error),
            };
            match attempt {
                Ok((plan, memory)) => {
                    let table = rope_table(wish.model, shape.context as usize);
                    gpu.queue.write_buffer(&memory.arena, plan.rope_table as u64 * 4, bytemuck::cast_slice(&table));
                    let parts = Parts { gpu, pipelines, layout, banks, plan, memory, shape, thrift, way, forms };
                    return parts.assemble().await;
                }
                Err(error @ EngineError::OutOfMemory(_)) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Makes the buffers of a plan; out of memory when the device says so, or when a binding would be too long.
    pub async fn allocate(
        gpu: &Gpu,
        banks: &Banks,
        plan: Plan,
        (first, words): (usize, Vec<u32>),
        thrift: Thrift,
        values_max: usize,
    ) -> Result<(Plan, Memory), EngineError> {
        for (what, values) in [("activations", plan.arena_values), ("rows' values", plan.stats_values)] {
            if values > values_max {
                let text = format!("{what} take {values} values, and this device binds {values_max} at most");
                return Err(EngineError::OutOfMemory(text));
            }
        }
        let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let memory = Memory::new(gpu, banks, &plan, first + words.len(), thrift.micro_batches);
        if let Some(error) = scope.pop().await {
            return Err(EngineError::OutOfMemory(error.to_string()));
        }
        gpu.queue.write_buffer(&memory.tokens, first as u64 * 4, bytemuck::cast_slice(&words));
        Ok((plan, memory))
    }

    /// The device and the forms of the kernels in use, to be remembered for this shape of model.
    pub fn forms_text(&self) -> String {
        format!("{}\n{}", origin(&self.gpu), self.forms.to_text())
    }

    pub fn micro_batches(&self) -> usize {
        self.thrift.micro_batches as usize
    }

    /// Forward and backward of each micro-batch, then the update.
    pub fn step_turns(&self) -> impl ExactSizeIterator<Item = Turn> + Clone {
        let (plan, micro_batches) = (&self.plan, self.micro_batches());
        let (forward, backward) = (plan.forward.len(), plan.backward.len());
        let each = forward + backward;
        let (forward_at, backward_at, clip_at) = (plan.forward.start, plan.backward.start, plan.updates.clip.start);
        let (clips, update) = (plan.updates.clip.len(), plan.updates.of(self.update));
        (0..each * micro_batches + clips + update.len()).map(move |turn| {
            let micro = turn / each.max(1);
            match turn % each.max(1) {
                _ if micro >= micro_batches => match turn - each * micro_batches {
                    index if index < clips => (clip_at + index, 0),
                    index => (update.start + index - clips, 0),
                },
                index if index < forward => (forward_at + index, micro),
                index => (backward_at + index - forward, micro),
            }
        })
    }

    /// The update alone.
    pub fn update_turns(&self) -> impl Iterator<Item = Turn> {
        let updates = &self.plan.updates;
        updates.clip.clone().chain(updates.of(self.update)).map(|index| (index, 0))
    }

    /// Forward and loss of each micro-batch, then the mean.
    pub fn evaluation_turns(&self) -> impl Iterator<Item = Turn> {
        let plan = &self.plan;
        let each = move |micro| plan.forward.clone().chain(plan.evaluate.clone()).map(move |index| (index, micro));
        (0..self.micro_batches()).flat_map(each).chain(plan.finish.clone().map(|index| (index, 0)))
    }

    /// Replays dispatches in one pass and one submit.
    pub fn replay(&self, turns: impl Iterator<Item = Turn>) {
        let mut encoder = self.encoder();
        self.record_all(&mut encoder, turns);
        self.gpu.queue.submit([encoder.finish()]);
    }

    pub fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    pub fn record_all(&self, encoder: &mut wgpu::CommandEncoder, turns: impl Iterator<Item = Turn>) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for turn in turns {
            self.record(&mut pass, turn);
        }
    }

    /// Records one dispatch of the plan.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, (index, micro): Turn) {
        let dispatch = &self.plan.dispatches[index];
        let offsets = [index, micro].map(|window| (window * ARGUMENTS_STRIDE) as u32);
        pass.set_pipeline(self.pipelines.compiled(dispatch.kernel));
        pass.set_bind_group(0, &self.bind_groups[dispatch.bank], &offsets);
        let [x, y, z] = dispatch.grid;
        pass.dispatch_workgroups(x, y, z);
    }

    pub fn kernel_of(&self, (index, _): Turn) -> &'static str {
        self.plan.dispatches[index].kernel.name()
    }

    /// Makes ready for steps of this optimiser. Its kernels are compiled when it is first used.
    pub fn choose(&mut self, optimizer: &Optimizer) -> Result<(), EngineError> {
        let update = Way::of(optimizer);
        if self.plan.updates.of(update).is_empty() {
            let text = "Muon's matrices do not fit into a binding of this device".to_owned();
            return Err(EngineError::OutOfMemory(text));
        }
        if update != self.update {
            let kernels = used(&self.plan, update);
            for kernel in &kernels {
                self.pipelines.get(&self.gpu.device, *kernel)?;
            }
            self.pipelines.keep(&kernels);
            self.update = update;
        }
        Ok(())
    }

    /// Writes what the dispatches of a step read beside tensors.
    pub fn write_step(&self, settings: Option<&StepSettings>, slot: usize) -> Result<(), EngineError> {
        let mut uniform = StepUniform { slot: slot as u32, ..Default::default() };
        if let Some(settings) = settings {
            uniform = StepUniform { slot: slot as u32, ..StepUniform::of(settings)? };
        }
        let mut bytes = vec![0; self.micro_batches() * ARGUMENTS_STRIDE];
        for (window, micro) in bytes.chunks_exact_mut(ARGUMENTS_STRIDE).zip(0..) {
            (uniform.first_row, uniform.adds) = (micro * self.shape.rows, u32::from(micro > 0));
            window[..size_of::<StepUniform>()].copy_from_slice(bytemuck::bytes_of(&uniform));
        }
        self.gpu.queue.write_buffer(&self.memory.step, 0, &bytes);
        Ok(())
    }

    pub fn write_batch(&self, batch: &Batch) -> Result<(), EngineError> {
        let rows = self.shape.rows as usize;
        let expected = rows * self.micro_batches();
        for (what, got, expected) in [
            ("the batch's sequences", batch.batch, self.shape.batch as usize * self.micro_batches()),
            ("the batch's context", batch.context, self.shape.context as usize),
            ("the batch's inputs", batch.inputs.len(), expected),
            ("the batch's targets", batch.targets.len(), expected),
        ] {
            if got != expected {
                return Err(EngineError::Shape { what, got, expected });
            }
        }
        for (micro, (inputs, targets)) in batch.inputs.chunks(rows).zip(batch.targets.chunks(rows)).enumerate() {
            self.write_tokens(micro, false, inputs)?;
            self.write_tokens(micro, true, targets)?;
        }
        Ok(())
    }

    pub fn load(&self, parameters: &[f32]) -> Result<(), EngineError> {
        self.write(&self.memory.params, parameters)
    }

    pub async fn parameters(&self) -> Result<Vec<f32>, EngineError> {
        self.read(&self.memory.params).await
    }

    pub async fn gradients(&self) -> Result<Vec<f32>, EngineError> {
        self.read(&self.memory.grads).await
    }

    /// The optimiser's first and second moments.
    pub async fn moments(&self) -> Result<[Vec<f32>; 2], EngineError> {
        let [first, second] = &self.memory.moments;
        Ok([self.read(first).await?, self.read(second).await?])
    }

    pub fn load_moments(&self, moments: &[Vec<f32>; 2]) -> Result<(), EngineError> {
        let [first, second] = &self.memory.moments;
        self.write(first, &moments[0])?;
        self.write(second, &moments[1])
    }

    pub fn reset_moments(&self) -> Result<(), EngineError> {
        let mut encoder = self.encoder();
        for buffer in self.memory.moments.iter().flatten() {
            encoder.clear_buffer(buffer, 0, None);
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.faults.check()
    }

    pub async fn losses(&self, first: usize, count: usize) -> Result<Vec<f32>, EngineError> {
        self.gpu.read(&self.memory.losses, first, count).await
    }

    /// Values that are one a row, once everything submitted is done.
    pub async fn row_values(&self, first: usize, count: usize) -> Result<Vec<f32>, EngineError> {
        self.gpu.read(&self.memory.stats, first, count).await
    }

    pub fn arena(&self) -> &wgpu::Buffer {
        &self.memory.arena
    }

    /// Writes what the dispatches of an update read beside tensors.
    pub fn write_update(&self, settings: &StepSettings, foreign_squares: f32) -> Result<(), EngineError> {
        let uniform = StepUniform { foreign_squares, ..StepUniform::of(settings)? };
        self.gpu.queue.write_buffer(&self.memory.step, 0, bytemuck::bytes_of(&uniform));
        Ok(())
    }

    /// Replaces what the dispatches of one micro-batch read beside tensors.
    pub fn write_micro_batch(&self, micro: usize, adds: bool) {
        let first_row = micro as u32 * self.shape.rows;
        let uniform = StepUniform { first_row, adds: u32::from(adds), ..Default::default() };
        let at = (micro * ARGUMENTS_STRIDE) as u64;
        self.gpu.queue.write_buffer(&self.memory.step, at, bytemuck::bytes_of(&uniform));
    }

    /// Writes the inputs, or what comes after them, of one micro-batch.
    pub fn write_tokens(&self, micro: usize, targets: bool, tokens: &[u32]) -> Result<(), EngineError> {
        let (rows, vocab) = (self.shape.rows as usize, self.shape.vocab);
        if tokens.len() != rows {
            return Err(EngineError::Shape { what: "a micro-batch's tokens", got: tokens.len(), expected: rows });
        }
        if tokens.iter().any(|token| *token >= vocab) {
            return Err(EngineError::Unsupported(format!("a token is not below the vocabulary of {vocab}")));
        }
        let at = (2 * micro + usize::from(targets)) * rows;
        self.gpu.queue.write_buffer(&self.memory.tokens, at as u64 * 4, bytemuck::cast_slice(tokens));
        Ok(())
    }

    /// Replaces values of the arena.
    pub fn write_activations(&self, first: usize, values: &[f32]) {
        self.gpu.queue.write_buffer(&self.memory.arena, first as u64 * 4, bytemuck::cast_slice(values));
    }

    /// Values of the arena, once everything submitted is done.
    pub async fn activations(&self, first: usize, count: usize) -> Result<Vec<f32>, EngineError> {
        self.gpu.read(&self.memory.arena, first, count).await
    }

    fn write(&self, buffers: &[wgpu::Buffer], values: &[f32]) -> Result<(), EngineError> {
        let expected = self.layout.len();
        if values.len() != expected {
            return Err(EngineError::Shape { what: "parameters", got: values.len(), expected });
        }
        for (buffer, range) in buffers.iter().zip(self.banks.ranges()) {
            self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&values[range.clone()]));
        }
        self.gpu.faults.check()
    }

    async fn read(&self, buffers: &[wgpu::Buffer]) -> Result<Vec<f32>, EngineError> {
        let mut values = Vec::with_capacity(self.layout.len());
        for (buffer, range) in buffers.iter().zip(self.banks.ranges()) {
            values.append(&mut self.gpu.read(buffer, 0, range.len()).await?);
        }
        Ok(values)
    }
}

/// The kernels that a step with this optimiser, an evaluation and a prediction dispatch.
fn used(plan: &Plan, update: Way) -> Vec<Kernel> {
    let unused = |index: &usize| {
        let of = |way| plan.updates.of(way).contains(index);
        [Way::AdamW, Way::Sgd, Way::Muon].into_iter().any(of) && !plan.updates.of(update).contains(index)
    };
    let used = (0..plan.dispatches.len()).filter(|index| !unused(index));
    let kernels: BTreeSet<Kernel> = used.map(|index| plan.dispatches[index].kernel).collect();
    kernels.into_iter().collect()
}

/// Whose forms were measured: other kernels or another device must be measured again.
fn origin(gpu: &Gpu) -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), gpu.name)
}

/// All dispatches' arguments, one window each.
fn argument_bytes(plan: &Plan) -> Vec<u8> {
    let mut bytes = vec![0; plan.dispatches.len() * ARGUMENTS_STRIDE];
    for (dispatch, window) in plan.dispatches.iter().zip(bytes.chunks_exact_mut(ARGUMENTS_STRIDE)) {
        window[..ARGUMENTS * 4].copy_from_slice(bytemuck::cast_slice(&dispatch.arguments));
    }
    bytes
}

/// Cosines, then sines, each [context, half the head size].
fn rope_table(model: &ModelSpec, context: usize) -> Vec<f32> {
    let (mut table, sines) = rope::table(model, context);
    table.extend(sines);
    table
}
