//! The interface of the engines that train networks, and what they are given.

use super::{Checked, Loss};
use crate::{EngineError, StepSettings};

/// What examples should come out as.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// For [`Loss::CrossEntropy`]: a class for each example.
    Classes(Vec<u32>),
    /// For the other losses: as many values for each example as the network has outputs.
    Values(Vec<f32>),
}

/// Examples with their targets: features are [examples, values of the input's shape], row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Examples {
    pub features: Vec<f32>,
    pub targets: Targets,
}

impl Targets {
    /// How many examples these are targets of.
    pub fn examples(&self, outputs: usize) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Values(values) => values.len() / outputs.max(1),
        }
    }

    fn select(&self, chosen: &[usize], examples: usize) -> Self {
        match self {
            Self::Classes(classes) => Self::Classes(chosen.iter().map(|index| classes[*index]).collect()),
            Self::Values(values) => Self::Values(rows(values, values.len() / examples.max(1), chosen)),
        }
    }
}

impl Examples {
    /// The examples of these numbers, of `examples` there are.
    ///
    /// # Panics
    /// Where a number is not below `examples`, or `examples` is not how many there are.
    #[must_use]
    pub fn select(&self, chosen: &[usize], examples: usize) -> Self {
        let features = rows(&self.features, self.features.len() / examples.max(1), chosen);
        Self { features, targets: self.targets.select(chosen, examples) }
    }

    /// How many examples there are; an error where sizes do not fit the network or a class is not one of its outputs.
    pub fn check(&self, net: &Checked) -> Result<usize, EngineError> {
        let width = net.input.values() as usize;
        let examples = self.targets.examples(net.outputs);
        let shape = |what, got, expected| {
            if got == expected { Ok(()) } else { Err(EngineError::Shape { what, got, expected }) }
        };
        shape("the examples' features", self.features.len(), examples * width)?;
        match (&self.targets, net.loss) {
            (Targets::Classes(classes), Loss::CrossEntropy) => {
                match classes.iter().find(|class| **class as usize >= net.outputs) {
                    Some(class) => Err(EngineError::Failed(format!(
                        "class {class} is not below the network's {} outputs",
                        net.outputs
                    ))),
                    None => Ok(examples),
                }
            }
            (Targets::Values(values), Loss::Binary | Loss::MeanSquared) => {
                shape("the examples' targets", values.len(), examples * net.outputs)?;
                Ok(examples)
            }
            (_, loss) => Err(EngineError::Failed(format!("these targets are not for {loss:?}"))),
        }
    }
}

fn rows(values: &[f32], width: usize, chosen: &[usize]) -> Vec<f32> {
    chosen.iter().flat_map(|index| &values[index * width..][..width]).copied().collect()
}

/// Mean loss of outputs [examples, outputs] against targets of the loss's kind.
#[allow(clippy::disallowed_methods)] // a loss is for people: peers agree on none of its bits
pub fn mean_loss(loss: Loss, outputs: &[f32], targets: &Targets) -> f64 {
    let wide = |x: &f32| f64::from(*x);
    match (loss, targets) {
        (Loss::CrossEntropy, Targets::Classes(classes)) => {
            let width = outputs.len() / classes.len().max(1);
            let row = |(row, class): (&[f32], &u32)| {
                let most = row.iter().map(wide).fold(f64::NEG_INFINITY, f64::max);
                most + row.iter().map(|x| (wide(x) - most).exp()).sum::<f64>().ln() - wide(&row[*class as usize])
            };
            outputs.chunks_exact(width.max(1)).zip(classes).map(row).sum::<f64>() / classes.len() as f64
        }
        (Loss::Binary, Targets::Values(values)) => {
            let one = |(x, y): (&f32, &f32)| wide(x).max(0.0) - wide(x) * wide(y) + (-wide(x).abs()).exp().ln_1p();
            outputs.iter().zip(values).map(one).sum::<f64>() / values.len() as f64
        }
        (Loss::MeanSquared, Targets::Values(values)) => {
            let one = |(x, y): (&f32, &f32)| (wide(x) - wide(y)) * (wide(x) - wide(y));
            outputs.iter().zip(values).map(one).sum::<f64>() / values.len() as f64
        }
        // `Examples::check` refuses these.
        _ => f64::NAN,
    }
}

/// A network that trains on batches of a fixed number of examples. Parameters cross this interface as one flat vector in
/// the order of [`Checked::layout`]. As with [`crate::Engine`], only what reads back from a device is `async`.
#[allow(async_fn_in_trait)] // engines live in one thread each; no caller needs `Send` futures
pub trait NetEngine {
    /// Short name and device, for people: `webgpu (SwiftShader)`, `cpu`.
    fn describe(&self) -> String;

    fn net(&self) -> &Checked;

    /// Replaces the parameters. Keeps the optimiser's moments.
    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError>;

    /// Zeroes the optimiser's moments.
    fn reset_moments(&mut self) -> Result<(), EngineError>;

    /// Enqueues one training step: forward, backward, clip, the optimiser. The loss before the step is kept until
    /// [`Self::losses`].
    fn step(&mut self, batch: &Examples, settings: &StepSettings) -> Result<(), EngineError>;

    /// How many steps may be enqueued before [`Self::losses`].
    fn steps_ahead(&self) -> u32 {
        u32::MAX
    }

    /// Waits for the enqueued steps and returns their losses since the last call, in order, whatever they are.
    async fn losses(&mut self) -> Result<Vec<f32>, EngineError>;

    /// The current parameters.
    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError>;

    /// Outputs (before the softmax or σ of a loss) for any number of examples: [examples, outputs].
    async fn predict(&mut self, features: &[f32]) -> Result<Vec<f32>, EngineError>;

    /// Mean loss over any number of examples, without training.
    async fn evaluate(&mut self, examples: &Examples) -> Result<f32, EngineError> {
        examples.check(self.net())?;
        let loss = self.net().loss;
        let outputs = self.predict(&examples.features).await?;
        Ok(mean_loss(loss, &outputs, &examples.targets) as f32)
    }
}
