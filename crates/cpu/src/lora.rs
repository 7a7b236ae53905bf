//! An adapter trained on the CPU over a model that stays.

use shoal_learn::lora::{Adapter, LoraError, LoraSpec};
use shoal_learn::{Batch, Engine, EngineError, Layout, StepSettings};
use shoal_wire::manifest::ModelSpec;

use crate::CpuEngine;
use crate::engine::zeros;
use crate::optimizer::{self, Moments};

/// An [`Engine`] whose parameters are an adapter's, in the order of its layout.
///
/// It computes with the merged matrices and takes the factors' gradients from theirs: a step costs what a step of the
/// whole model does and two small products a matrix, and saves the optimiser's work and memory only.
pub struct CpuLoraEngine {
    engine: CpuEngine,
    adapter: Adapter,
    base: Vec<f32>,
    values: Vec<f32>,
    gradient: Vec<f32>,
    moments: Moments,
    losses: Vec<f32>,
}

impl CpuLoraEngine {
    /// An engine for an adapter of a model with these parameters; it is zero, and changes nothing, until [`Engine::load`].
    pub fn new(
        model: &ModelSpec,
        parameters: &[f32],
        spec: LoraSpec,
        batch: usize,
        context: usize,
    ) -> Result<Self, EngineError> {
        let layout = Layout::of(model).map_err(|error| EngineError::Unsupported(error.to_string()))?;
        let adapter = Adapter::new(&layout, spec).map_err(|error| EngineError::Unsupported(error.to_string()))?;
        let mut engine = CpuEngine::frozen(model, batch, context)?;
        engine.load(parameters)?;
        let values = adapter.layout().len();
        Ok(Self {
            engine,
            base: parameters.to_vec(),
            values: zeros(values)?,
            gradient: zeros(values)?,
            moments: Moments { mean: zeros(values)?, square: zeros(values)? },
            losses: Vec::new(),
            adapter,
        })
    }

    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// The model with the adapter in it, in layout order.
    pub fn merged(&self) -> &[f32] {
        self.engine.values()
    }

    fn merge(&mut self) -> Result<(), EngineError> {
        self.adapter.merge(&self.base, &self.values, self.engine.values_mut()).map_err(failed)
    }
}

fn failed(error: LoraError) -> EngineError {
    EngineError::Failed(error.to_string())
}

impl Engine for CpuLoraEngine {
    fn describe(&self) -> String {
        "cpu, an adapter".to_owned()
    }

    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        let expected = self.values.len();
        if parameters.len() != expected {
            return Err(EngineError::Shape { what: "the adapter", got: parameters.len(), expected });
        }
        self.values.copy_from_slice(parameters);
        self.merge()
    }

    fn reset_moments(&mut self) -> Result<(), EngineError> {
        self.moments.mean.fill(0.0);
        self.moments.square.fill(0.0);
        Ok(())
    }

    fn step(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        if settings.step == 0 {
            return Err(EngineError::Failed("optimiser steps count from 1".to_owned()));
        }
        let (loss, merged) = self.engine.loss_and_gradient(batch)?;
        self.adapter.gradient(&self.values, merged, &mut self.gradient).map_err(failed)?;
        if let Some(limit) = settings.optimizer.grad_clip() {
            optimizer::clip(&mut self.gradient, limit);
        }
        optimizer::step(self.adapter.layout(), &mut self.values, &self.gradient, &mut self.moments, settings)?;
        self.losses.push(loss);
        self.merge()
    }

    async fn losses(&mut self) -> Result<Vec<f32>, EngineError> {
        Ok(core::mem::take(&mut self.losses))
    }

    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        Ok(self.values.clone())
    }

    async fn evaluate(&mut self, batch: &Batch) -> Result<f32, EngineError> {
        self.engine.evaluate(batch).await
    }

    async fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.engine.next_logits(tokens).await
    }
}
