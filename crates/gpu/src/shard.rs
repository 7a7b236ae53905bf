//! [`GpuShard`]: a range of a decoder's blocks on a device of its own, between what its neighbours send.

use shoal_learn::{EngineError, Layout, Shard, StepSettings};
use shoal_wire::manifest::ModelSpec;

use crate::{
    engine::Options,
    machine::{Machine, Wish},
    read::Reading,
};

/// Trains a range of blocks on micro-batches. Each goes forward, later backward, in any order; when all of a batch did, the
/// update ends the step.
#[derive(Debug)]
pub struct GpuShard {
    machine: Machine,
    shard: Shard,
    /// Inputs of all micro-batches, of a shard that does not embed.
    inputs: Option<wgpu::Buffer>,
    /// Whose activations are on the device.
    resident: Option<usize>,
    /// Which micro-batches of this step went forward, and which backward.
    forward: Vec<bool>,
    backward: Vec<bool>,
}

/// What the end of a shard is judged by.
#[derive(Clone, Copy, Debug)]
pub enum Loss<'a> {
    /// In the last shard: the tokens that follow the inputs.
    Targets(&'a [u32]),
    /// Elsewhere: the gradient of the output, [sequences, context, hidden].
    Gradient(&'a [f32]),
}

/// What a shard takes in.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// In the first shard.
    Tokens(&'a [u32]),
    /// Elsewhere: the output of the shard before, [sequences, context, hidden].
    Hidden(&'a [f32]),
}

/// Values for a neighbour, on their way from the device, which works on meanwhile.
pub struct Boundary(Option<Reading>);

impl Boundary {
    /// [sequences, context, hidden], or nothing where there is no neighbour.
    pub async fn values(self) -> Result<Vec<f32>, EngineError> {
        match self.0 {
            Some(reading) => reading.values().await,
            None => Ok(Vec::new()),
        }
    }
}

impl GpuShard {
    /// Opens a device for steps of `micro_batches` times `sequences` of `context` tokens.
    pub async fn new(
        model: &ModelSpec,
        shard: Shard,
        (micro_batches, sequences, context): (u32, usize, usize),
        options: Options<'_>,
    ) -> Result<Self, EngineError> {
        let batch = sequences.saturating_mul(micro_batches as usize);
        let Options { remembered, skipped_ways, binding_bytes_max } = options;
        let micro = Some(micro_batches);
        let own = shard.clone();
        let wish =
            Wish { model, shard, batch, context, remembered, skipped_ways, binding_bytes_max, micro_batches: micro };
        let mut machine = Machine::open(wish).await?;
        let values = machine.shape.rows as usize * machine.shape.hidden as usize * micro_batches as usize;
        let inputs = (!own.embeds()).then(|| machine.gpu.storage("inputs of micro-batches", values));
        machine.buffer_bytes += inputs.as_ref().map_or(0, wgpu::Buffer::size);
        let none = vec![false; micro_batches as usize];
        Ok(Self { machine, shard: own, inputs, resident: None, forward: none.clone(), backward: none })
    }

    /// The shard's tensors, in the order of its flat parameters.
    pub fn layout(&self) -> &Layout {
        &self.machine.layout
    }

    /// Bytes of all buffers.
    pub fn buffer_bytes(&self) -> u64 {
        self.machine.buffer_bytes
    }

    /// Replaces the parameters. Keeps the optimiser's moments.
    pub fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        self.resident = None;
        self.machine.load(parameters)
    }

    pub async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        self.machine.parameters().await
    }

    /// Of the step so far, before clipping.
    pub async fn gradients(&mut self) -> Result<Vec<f32>, EngineError> {
        self.machine.gradients().await
    }

    pub fn reset_moments(&mut self) -> Result<(), EngineError> {
        self.machine.reset_moments()
    }

    /// Enqueues the forward pass of a micro-batch, counted from 0; what comes back is for the next shard.
    pub fn forward(&mut self, micro: usize, input: Input<'_>) -> Result<Boundary, EngineError> {
        self.known(micro)?;
        self.machine.gpu.faults.check()?;
        match (input, &self.inputs) {
            (Input::Tokens(tokens), None) => self.machine.write_tokens(micro, false, tokens)?,
            (Input::Hidden(values), Some(inputs)) => {
                self.fits("the input", values)?;
                let at = (micro * values.len()) as u64 * 4;
                self.machine.gpu.queue.write_buffer(inputs, at, bytemuck::cast_slice(values));
            }
            (Input::Tokens(_), Some(_)) => return Err(unsuited("takes hidden values, not tokens")),
            (Input::Hidden(_), None) => return Err(unsuited("takes tokens, not hidden values")),
        }
        self.forward[micro] = true;
        if self.resident == Some(micro) {
            self.resident = None;
        }
        if self.shard.predicts() {
            // Its forward pass is the start of its backward pass.
            return Ok(Boundary(None));
        }
        self.machine.write_micro_batch(micro, false);
        let mut encoder = self.machine.encoder();
        self.record_forward(&mut encoder, micro);
        let boundary = self.boundary(encoder, self.machine.plan.output);
        self.resident = Some(micro);
        Ok(boundary)
    }

    /// Enqueues the backward pass of a micro-batch that went forward, whose gradients add up; what comes back is for the
    /// shard before. A micro-batch whose activations were overwritten by another's is computed again.
    pub fn backward(&mut self, micro: usize, loss: Loss<'_>) -> Result<Boundary, EngineError> {
        self.known(micro)?;
        if !self.forward[micro] || self.backward[micro] {
            let text = format!("micro-batch {micro} goes backward once, after it went forward");
            return Err(EngineError::Failed(text));
        }
        self.machine.gpu.faults.check()?;
        self.machine.write_micro_batch(micro, self.backward.contains(&true));
        let mut encoder = self.machine.encoder();
        match (loss, self.shard.predicts()) {
            (Loss::Targets(targets), true) => self.machine.write_tokens(micro, true, targets)?,
            (Loss::Gradient(values), false) => {
                self.fits("the gradient", values)?;
                let at = self.machine.plan.gradient as u64 * 4;
                // Not before the forward pass, which may use the place.
                if self.resident != Some(micro) {
                    self.record_forward(&mut encoder, micro);
                    self.machine.gpu.queue.submit([encoder.finish()]);
                    encoder = self.machine.encoder();
                    self.resident = Some(micro);
                }
                self.machine.gpu.queue.write_buffer(self.machine.arena(), at, bytemuck::cast_slice(values));
            }
            (Loss::Targets(_), false) => return Err(unsuited("is judged by a gradient, not by targets")),
            (Loss::Gradient(_), true) => return Err(unsuited("is judged by targets, not by a gradient")),
        }
        if self.resident != Some(micro) {
            self.record_forward(&mut encoder, micro);
        }
        let backward = self.machine.plan.backward.clone();
        self.machine.record_all(&mut encoder, backward.map(|index| (index, micro)));
        self.resident = None;
        self.backward[micro] = true;
        if self.shard.embeds() {
            self.machine.gpu.queue.submit([encoder.finish()]);
            return Ok(Boundary(None));
        }
        Ok(self.boundary(encoder, self.machine.plan.gradient))
    }

    /// The sum of squares of this shard's gradients, of which all shards' make the norm that is clipped.
    pub async fn gradient_squares(&mut self) -> Result<f32, EngineError> {
        let update = self.machine.plan.updates.clip.start;
        self.machine.replay((update..update + self.machine.plan.square_dispatches).map(|index| (index, 0)));
        let squares = self.machine.plan.squares.clone();
        Ok(self.machine.row_values(squares.start, squares.len()).await?.iter().sum())
    }

    /// Ends the step. `foreign_squares` is the sum of the other shards' [`Self::gradient_squares`].
    pub fn update(&mut self, settings: &StepSettings, foreign_squares: f32) -> Result<(), EngineError> {
        if let Some(micro) = self.backward.iter().position(|done| !done) {
            return Err(EngineError::Failed(format!("micro-batch {micro} did not go backward yet")));
        }
        self.machine.gpu.faults.check()?;
        self.machine.choose(&settings.optimizer)?;
        self.machine.write_update(settings, foreign_squares)?;
        self.machine.replay(self.machine.update_turns());
        self.resident = None;
        self.forward.fill(false);
        self.backward.fill(false);
        Ok(())
    }

    /// In the last shard, the mean loss of the last step.
    pub async fn loss(&mut self) -> Result<f32, EngineError> {
        if !self.shard.predicts() {
            return Err(unsuited("has no loss"));
        }
        let losses = self.machine.losses(0, 1).await?;
        losses.first().copied().ok_or_else(|| EngineError::Failed("no loss came back".to_owned()))
    }

    fn record_forward(&self, encoder: &mut wgpu::CommandEncoder, micro: usize) {
        if let Some(inputs) = &self.inputs {
            let bytes = self.values() as u64 * 4;
            let to = self.machine.plan.input as u64 * 4;
            encoder.copy_buffer_to_buffer(inputs, micro as u64 * bytes, self.machine.arena(), to, bytes);
        }
        let forward = self.machine.plan.forward.clone();
        self.machine.record_all(encoder, forward.map(|index| (index, micro)));
    }

    /// Submits, with a copy of hidden values or their gradient.
    fn boundary(&self, mut encoder: wgpu::CommandEncoder, at: usize) -> Boundary {
        let copy = self.machine.gpu.copy_out(&mut encoder, self.machine.arena(), at, self.values());
        self.machine.gpu.queue.submit([encoder.finish()]);
        Boundary(Some(copy.start()))
    }

    fn values(&self) -> usize {
        self.machine.shape.rows as usize * self.machine.shape.hidden as usize
    }

    fn fits(&self, what: &'static str, values: &[f32]) -> Result<(), EngineError> {
        let expected = self.values();
        let got = values.len();
        if got == expected { Ok(()) } else { Err(EngineError::Shape { what, got, expected }) }
    }

    fn known(&self, micro: usize) -> Result<(), EngineError> {
        let count = self.forward.len();
        let text = || format!("there is no micro-batch {micro} among {count}");
        if micro < count { Ok(()) } else { Err(EngineError::Failed(text())) }
    }
}

fn unsuited(what: &str) -> EngineError {
    EngineError::Unsupported(format!("this shard {what}"))
}
