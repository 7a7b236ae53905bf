//! Networks of [`shoal_learn::nets`] on the CPU.
//!
//! Between layers values are [examples, places, channels]: with channels last a convolution is a matrix product over spread
//! out windows, and so are its two gradients. Parameters keep PyTorch's order.

mod loss;
mod norm;
mod pass;
mod pointwise;
mod windows;

use shoal_learn::nets::{Checked, Examples, Net, NetEngine, Shape};
use shoal_learn::{EngineError, StepSettings};

use crate::dims::ACTIVATION_BYTES_MAX;
use crate::engine::zeros;
use crate::matrix::Values;
use crate::optimizer::{self, Moments};

/// Trains a network on the CPU; natively on all cores.
pub struct CpuNetEngine {
    net: Checked,
    batch: usize,
    parameters: Values,
    gradient: Vec<f32>,
    moments: Moments,
    losses: Vec<f32>,
}

impl CpuNetEngine {
    /// An engine for batches of so many examples; its parameters are zero until [`NetEngine::load`].
    pub fn new(net: &Net, batch: usize) -> Result<Self, EngineError> {
        let net = net.check().map_err(|error| EngineError::Unsupported(error.to_string()))?;
        if batch == 0 {
            return Err(EngineError::Unsupported("a batch needs at least 1 example".to_owned()));
        }
        let bytes = net.training_bytes(batch);
        if u128::from(bytes) > ACTIVATION_BYTES_MAX {
            let (need, most) = (bytes >> 20, ACTIVATION_BYTES_MAX >> 20);
            let text = format!("batches of {batch} examples need {need} MiB, at most {most} MiB are used");
            return Err(EngineError::OutOfMemory(text));
        }
        let values = net.layout.len();
        Ok(Self {
            batch,
            parameters: zeros(values)?.into(),
            gradient: zeros(values)?,
            moments: Moments { mean: zeros(values)?, square: zeros(values)? },
            losses: Vec::new(),
            net,
        })
    }

    /// The loss of examples and its gradient, before clipping, in layout order.
    pub fn loss_and_gradient(&mut self, examples: &Examples) -> Result<(f32, &[f32]), EngineError> {
        let count = examples.check(&self.net)?;
        if count == 0 {
            return Err(EngineError::Shape { what: "the batch", got: 0, expected: self.batch });
        }
        self.gradient.fill(0.0);
        let input = channels_last(&examples.features, self.net.input);
        let (outputs, tape) = pass::forward(&self.net, &self.parameters, input, true)?;
        let mut outputs = outputs.into_vec();
        let loss = loss::loss_backward(self.net.loss, &mut outputs, &examples.targets, self.net.outputs);
        pass::backward(&self.net, &self.parameters, tape, outputs.into(), &mut self.gradient)?;
        Ok((loss, &self.gradient))
    }
}

impl NetEngine for CpuNetEngine {
    fn describe(&self) -> String {
        "cpu".to_owned()
    }

    fn net(&self) -> &Checked {
        &self.net
    }

    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        let expected = self.net.layout.len();
        if parameters.len() != expected {
            return Err(EngineError::Shape { what: "the network", got: parameters.len(), expected });
        }
        self.parameters.as_mut_slice().copy_from_slice(parameters);
        Ok(())
    }

    fn reset_moments(&mut self) -> Result<(), EngineError> {
        self.moments.mean.fill(0.0);
        self.moments.square.fill(0.0);
        Ok(())
    }

    fn step(&mut self, batch: &Examples, settings: &StepSettings) -> Result<(), EngineError> {
        if settings.step == 0 {
            return Err(EngineError::Failed("optimiser steps count from 1".to_owned()));
        }
        let got = batch.check(&self.net)?;
        if got != self.batch {
            return Err(EngineError::Shape { what: "the batch", got, expected: self.batch });
        }
        let loss = self.loss_and_gradient(batch)?.0;
        if let Some(limit) = settings.optimizer.grad_clip() {
            optimizer::clip(&mut self.gradient, limit);
        }
        let parameters = self.parameters.as_mut_slice();
        optimizer::step(&self.net.layout, parameters, &self.gradient, &mut self.moments, settings)?;
        self.losses.push(loss);
        Ok(())
    }

    async fn losses(&mut self) -> Result<Vec<f32>, EngineError> {
        Ok(core::mem::take(&mut self.losses))
    }

    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        Ok(self.parameters.as_slice().to_vec())
    }

    async fn predict(&mut self, features: &[f32]) -> Result<Vec<f32>, EngineError> {
        let width = self.net.input.values() as usize;
        if !features.len().is_multiple_of(width) {
            let expected = features.len().next_multiple_of(width);
            return Err(EngineError::Shape { what: "the features", got: features.len(), expected });
        }
        let mut outputs = Vec::with_capacity(features.len() / width * self.net.outputs);
        for part in features.chunks(self.batch * width) {
            let input = channels_last(part, self.net.input);
            outputs.extend_from_slice(pass::forward(&self.net, &self.parameters, input, false)?.0.as_slice());
        }
        Ok(outputs)
    }
}

/// [examples, channels, places] as [examples, places, channels].
fn channels_last(values: &[f32], shape: Shape) -> Values {
    windows::transposed(values, shape.channels() as usize, shape.places() as usize).into()
}
