//! [`Engine`] on the CPU.

use shoal_learn::{Batch, Engine, EngineError, Layout, StepSettings};
use shoal_wire::manifest::ModelSpec;

use crate::attention::Rotation;
use crate::decoder::{Decoder, Pass};
use crate::dims::Dims;
use crate::matrix::Values;
use crate::optimizer::{self, Moments};
use crate::workspace::Workspace;

/// Trains the decoder on the CPU: natively on all cores of rayon's current pool, in a browser on the calling thread.
pub struct CpuEngine {
    model: ModelSpec,
    layout: Layout,
    dims: Dims,
    decoder: Decoder,
    rotation: Rotation,
    parameters: Values,
    gradient: Vec<f32>,
    /// Empty until the first update: not every engine makes one.
    moments: Moments,
    workspace: Workspace,
    losses: Vec<f32>,
}

impl CpuEngine {
    /// An engine for batches of this shape; its parameters are zero until [`Engine::load`].
    pub fn new(model: &ModelSpec, batch: usize, context: usize) -> Result<Self, EngineError> {
        let mut engine = Self::frozen(model, batch, context)?;
        let values = engine.layout.len();
        engine.moments = Moments { mean: zeros(values)?, square: zeros(values)? };
        Ok(engine)
    }

    /// Without what an optimiser remembers: it gives gradients, and [`Engine::step`] is not for it.
    pub(crate) fn frozen(model: &ModelSpec, batch: usize, context: usize) -> Result<Self, EngineError> {
        let layout = Layout::of(model).map_err(|error| EngineError::Unsupported(error.to_string()))?;
        let dims = Dims::new(model, batch, context)?;
        let decoder = Decoder::new(&layout, model.num_hidden_layers)?;
        let rotation = Rotation::new(model, context);
        let values = layout.len();
        let workspace = Workspace::new(&dims, model.num_hidden_layers as usize)?;
        Ok(Self {
            model: model.clone(),
            layout,
            dims,
            decoder,
            rotation,
            parameters: zeros(values)?.into(),
            gradient: zeros(values)?,
            moments: Moments { mean: Vec::new(), square: Vec::new() },
            workspace,
            losses: Vec::new(),
        })
    }

    pub(crate) fn values(&self) -> &[f32] {
        self.parameters.as_slice()
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        self.parameters.as_mut_slice()
    }

    /// The loss of a batch and its gradient, before clipping, in layout order.
    pub fn loss_and_gradient(&mut self, batch: &Batch) -> Result<(f32, &[f32]), EngineError> {
        let rows = batch.tokens();
        let (total, gradient) = self.part_of_gradient(batch, rows)?;
        Ok(((total / rows as f64) as f32, gradient))
    }

    /// The sum of a batch's cross-entropies, and what it adds to the gradient of the mean over `of` rows, which are more
    /// than its own where other engines compute the rest.
    pub fn part_of_gradient(&mut self, batch: &Batch, of: usize) -> Result<(f64, &mut [f32]), EngineError> {
        self.check(batch)?;
        let pass = Pass { dims: &self.dims, rotation: &self.rotation, parameters: &self.parameters };
        let data = (&batch.inputs[..], &batch.targets[..], of);
        let total = self.decoder.train(&pass, data, &mut self.workspace, &mut self.gradient)?;
        Ok((total, &mut self.gradient))
    }

    /// Clips the gradient that is there and changes the parameters along it; `loss` is remembered as the step's.
    pub fn update(&mut self, settings: &StepSettings, loss: f32) -> Result<(), EngineError> {
        if settings.step == 0 {
            return Err(EngineError::Failed("optimiser steps count from 1".to_owned()));
        }
        if let Some(limit) = settings.optimizer.grad_clip() {
            optimizer::clip(&mut self.gradient, limit);
        }
        let values = self.layout.len();
        for moments in [&mut self.moments.mean, &mut self.moments.square] {
            if moments.is_empty() {
                *moments = zeros(values)?;
            }
        }
        let parameters = self.parameters.as_mut_slice();
        optimizer::step(&self.layout, parameters, &self.gradient, &mut self.moments, settings)?;
        self.losses.push(loss);
        Ok(())
    }

    /// The parameters, in layout order.
    pub fn parameter_values(&mut self) -> &mut [f32] {
        self.parameters.as_mut_slice()
    }

    fn check(&self, batch: &Batch) -> Result<(), EngineError> {
        let Dims { batch: sequences, context, .. } = self.dims;
        for (what, got, expected) in [
            ("the batch", batch.batch, sequences),
            ("a sequence", batch.context, context),
            ("the batch's inputs", batch.inputs.len(), sequences * context),
            ("the batch's targets", batch.targets.len(), sequences * context),
        ] {
            if got != expected {
                return Err(EngineError::Shape { what, got, expected });
            }
        }
        self.check_tokens(&batch.inputs)?;
        self.check_tokens(&batch.targets)
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let vocab = self.model.vocab_size;
        match tokens.iter().find(|token| **token >= vocab) {
            Some(token) => Err(EngineError::Failed(format!("token {token} is outside the vocabulary of {vocab}"))),
            None => Ok(()),
        }
    }
}

impl Engine for CpuEngine {
    fn describe(&self) -> String {
        "cpu".to_owned()
    }

    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        let expected = self.layout.len();
        if parameters.len() != expected {
            return Err(EngineError::Shape { what: "the model", got: parameters.len(), expected });
        }
        self.parameters.as_mut_slice().copy_from_slice(parameters);
        Ok(())
    }

    fn reset_moments(&mut self) -> Result<(), EngineError> {
        self.moments.mean.fill(0.0);
        self.moments.square.fill(0.0);
        Ok(())
    }

    fn step(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        let loss = self.loss_and_gradient(batch)?.0;
        self.update(settings, loss)
    }

    async fn losses(&mut self) -> Result<Vec<f32>, EngineError> {
        Ok(core::mem::take(&mut self.losses))
    }

    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        Ok(self.parameters.as_slice().to_vec())
    }

    async fn evaluate(&mut self, batch: &Batch) -> Result<f32, EngineError> {
        self.check(batch)?;
        let pass = Pass { dims: &self.dims, rotation: &self.rotation, parameters: &self.parameters };
        self.decoder.evaluate(&pass, &batch.inputs, &batch.targets, &mut self.workspace)
    }

    async fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.check_tokens(tokens)?;
        let dims = Dims::new(&self.model, 1, tokens.len())?;
        let rotation = Rotation::new(&self.model, tokens.len());
        let pass = Pass { dims: &dims, rotation: &rotation, parameters: &self.parameters };
        let mut workspace = Workspace::for_inference(&dims)?;
        Ok(self.decoder.next_logits(&pass, tokens, &mut workspace)?.into_vec())
    }
}

/// A manifest may name a model far larger than the machine: that is an error, not an abort.
pub fn zeros(length: usize) -> Result<Vec<f32>, EngineError> {
    let mut values = Vec::new();
    let refused = |_| EngineError::OutOfMemory(format!("{length} values do not fit into memory"));
    values.try_reserve_exact(length).map_err(refused)?;
    values.resize(length, 0.0);
    Ok(values)
}
