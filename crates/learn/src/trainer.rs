//! One peer's part of a round, with whatever engine: settle the last update, train from the common model,
//! compress the change.

use shoal_wire::manifest::{Manifest, OptimizerError, Recipe};
use shoal_wire::share::Share;
use shoal_wire::{Digest, PeerId, Round};
use thiserror::Error;

use crate::data::{Corpus, DataError};
use crate::layout::LayoutError;
use crate::outer::{self, Residual, UpdateError};
use crate::schedule::learning_rate;
use crate::{Batch, Engine, EngineError, Layout, StepSettings};

/// Reading a loss waits for the device, so it happens only this often, or oftener on a slow one.
const LOSS_EVERY_STEPS: u32 = 8;

/// Trains rounds of one run. The optimiser's moments and the residual last from round to round.
#[derive(Debug)]
pub struct Trainer<E> {
    engine: E,
    layout: Layout,
    recipe: Recipe,
    corpus: Corpus,
    residual: Residual,
    /// Steps since the moments were zeroed.
    steps_done: u32,
    /// Steps enqueued whose losses are not read yet.
    unread: u32,
}

/// What to train in a round.
#[derive(Clone, Copy, Debug)]
pub struct TrainOrder<'a> {
    pub round: Round,
    /// The common model: little-endian f32 in layout order.
    pub model: &'a [u8],
    pub randomness: Digest,
    pub peer: PeerId,
    /// Most steps; never more than the recipe's are done.
    pub steps: u32,
    /// Learning rates, in 1/1024 of the recipe's.
    pub learning_rate_1024: u32,
    /// By which share the last update is done with, if that is news; the rest of its content is sent again.
    pub settled: Option<Share>,
}

/// Told after each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// From 1.
    pub step: u32,
    pub steps: u32,
    /// Only some steps read their loss.
    pub loss: Option<f32>,
    /// Tokens trained in this round so far.
    pub tokens: u64,
}

/// What a listener answers to a [`StepReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    On,
    /// End early and send what is done.
    Finish,
    /// Forget this round's training.
    Discard,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TrainOutcome {
    /// To send, in the run's codec.
    pub update: Vec<u8>,
    pub steps: u32,
    pub tokens: u64,
    /// Loss before the first step.
    pub loss_first: f32,
    /// Loss before the last step.
    pub loss_last: f32,
}

#[derive(Debug, Error)]
pub enum TrainError {
    #[error(transparent)]
    Model(#[from] LayoutError),
    #[error("the run's text is read as bytes, so its vocab_size must be 256, and is {0}")]
    Vocabulary(u32),
    #[error("the recipe's context of {context} tokens is more than the model's {limit} positions")]
    Context { context: u32, limit: u32 },
    #[error("the recipe's {field} must be {rule}, and is {value}")]
    Recipe { field: &'static str, value: String, rule: &'static str },
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("the common model: {0}")]
    CommonModel(UpdateError),
    #[error("this peer's update: {0}")]
    Update(UpdateError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the engine returned {got} losses after {expected} steps")]
    Losses { got: usize, expected: u32 },
    #[error("training diverged in round {round}: the loss or a weight is no longer a number")]
    Diverged { round: Round },
    #[error("a round of no steps was ordered")]
    NoSteps,
    #[error("no batches to evaluate were asked for")]
    NoBatches,
    #[error("the update of peer {} cannot be judged: {error}", .author.short())]
    Subject { author: PeerId, error: UpdateError },
    #[error("the common model's loss is not a number, so nothing can be judged by it")]
    NoLoss,
}

impl<E: Engine> Trainer<E> {
    /// The engine must hold a model of the manifest's shape; its weights do not matter.
    pub fn new(engine: E, manifest: &Manifest, corpus: Corpus) -> Result<Self, TrainError> {
        let layout = Layout::of(&manifest.model)?;
        check(manifest)?;
        let residual = Residual::new(&layout);
        let recipe = manifest.recipe.clone();
        Ok(Self { engine, layout, recipe, corpus, residual, steps_done: 0, unread: 0 })
    }

    pub fn engine(&self) -> &E {
        &self.engine
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    /// What this peer still owes the run, for stable storage.
    pub fn residual_bytes(&self) -> Vec<u8> {
        self.residual.to_bytes()
    }

    pub fn restore_residual(&mut self, bytes: &[u8]) -> Result<(), UpdateError> {
        self.residual = Residual::from_bytes(&self.layout, bytes)?;
        Ok(())
    }

    /// Trains one round; `None` when `on_step` discards it. Awaiting `on_step` lets a browser breathe.
    pub async fn train(
        &mut self,
        order: &TrainOrder<'_>,
        mut on_step: impl AsyncFnMut(StepReport) -> Go,
    ) -> Result<Option<TrainOutcome>, TrainError> {
        if let Some(done) = order.settled {
            self.residual.settle(&self.layout, done).map_err(TrainError::Update)?;
        }
        let theta = self.read_model(order.model)?;
        self.drop_unread().await?;
        self.engine.load(&theta)?;
        let steps = order.steps.min(self.recipe.local_steps);
        let mut first_and_last = None;
        let mut report = StepReport { step: 0, steps, loss: None, tokens: 0 };
        while report.step < steps {
            report.step += 1;
            report.tokens += self.step(order, report.step)?;
            let every = self.engine.steps_ahead().clamp(1, LOSS_EVERY_STEPS);
            let read = report.step == 1 || report.step.is_multiple_of(every) || report.step == steps;
            report.loss = if read { Some(self.read_losses(order.round, &mut first_and_last).await?) } else { None };
            match on_step(report).await {
                Go::On => {}
                Go::Finish => break,
                Go::Discard => return Ok(None),
            }
        }
        if self.unread > 0 {
            self.read_losses(order.round, &mut first_and_last).await?;
        }
        let (loss_first, loss_last) = first_and_last.ok_or(TrainError::NoSteps)?;
        let update = self.compress(&theta, order.round).await?;
        Ok(Some(TrainOutcome { update, steps: report.step, tokens: report.tokens, loss_first, loss_last }))
    }

    fn read_model(&self, bytes: &[u8]) -> Result<Vec<f32>, TrainError> {
        outer::params_from_bytes(&self.layout, bytes).map_err(TrainError::CommonModel)
    }

    /// Enqueues a step and returns how many tokens it trains on.
    fn step(&mut self, order: &TrainOrder<'_>, step: u32) -> Result<u64, TrainError> {
        let (rows, context) = (self.recipe.batch as usize, self.recipe.context as usize);
        let batch = self.corpus.train_batch(order.randomness, order.peer, step, rows, context)?;
        let lr = learning_rate(&self.recipe, order.round, order.learning_rate_1024);
        let number = self.steps_done.saturating_add(1);
        self.engine.step(&batch, &StepSettings { optimizer: self.recipe.inner, lr, step: number })?;
        self.steps_done = number;
        self.unread += 1;
        Ok(batch.tokens() as u64)
    }

    /// Reads the losses since the last time and returns the newest.
    async fn read_losses(&mut self, round: Round, first_and_last: &mut Option<(f32, f32)>) -> Result<f32, TrainError> {
        let losses = self.engine.losses().await?;
        let (&[first, ..], &[.., last]) = (&losses[..], &losses[..]) else {
            return Err(TrainError::Losses { got: 0, expected: self.unread });
        };
        if losses.len() != self.unread as usize {
            return Err(TrainError::Losses { got: losses.len(), expected: self.unread });
        }
        self.unread = 0;
        if !losses.iter().all(|loss| loss.is_finite()) {
            return Err(self.diverged(round));
        }
        *first_and_last = Some((first_and_last.map_or(first, |(first, _)| first), last));
        Ok(last)
    }

    /// A training that was discarded, or whose future was dropped, leaves losses in the engine.
    async fn drop_unread(&mut self) -> Result<(), TrainError> {
        if self.unread > 0 {
            self.engine.losses().await?;
            self.unread = 0;
        }
        Ok(())
    }

    async fn compress(&mut self, theta: &[f32], round: Round) -> Result<Vec<u8>, TrainError> {
        let local = self.engine.parameters().await?;
        if local.len() != theta.len() {
            let (got, expected) = (local.len(), theta.len());
            return Err(EngineError::Shape { what: "the trained model", got, expected }.into());
        }
        let delta: Vec<f32> = theta.iter().zip(&local).map(|(before, after)| before - after).collect();
        if !delta.iter().all(|change| change.is_finite()) {
            return Err(self.diverged(round));
        }
        self.residual.compress(&self.recipe.outer, &self.layout, &delta).map_err(TrainError::Update)
    }

    /// The moments are spoilt too; without them the next round can start afresh.
    fn diverged(&mut self, round: Round) -> TrainError {
        self.steps_done = 0;
        self.engine.reset_moments().map_or_else(TrainError::Engine, |()| TrainError::Diverged { round })
    }

    /// Mean loss of a model on text that nobody trains on. Not while a round is being trained.
    pub async fn held_out_loss(&mut self, model: &[u8], batches: usize) -> Result<f32, TrainError> {
        let (rows, context) = (self.recipe.batch as usize, self.recipe.context as usize);
        let batches: Vec<Batch> = self.corpus.held_out_batches(rows, context, batches)?;
        self.engine.load(&self.read_model(model)?)?;
        let mut sum = 0.0;
        for batch in &batches {
            sum += f64::from(self.engine.evaluate(batch).await?);
        }
        if batches.is_empty() { Err(TrainError::NoBatches) } else { Ok((sum / batches.len() as f64) as f32) }
    }

    /// Continues a prompt with `count` bytes. Not while a round is being trained.
    pub async fn sample(
        &mut self,
        model: &[u8],
        prompt: &[u8],
        count: usize,
        temperature: f32,
        seed: u64,
    ) -> Result<Vec<u8>, TrainError> {
        self.engine.load(&self.read_model(model)?)?;
        let mut tokens: Vec<u32> = prompt.iter().map(|byte| u32::from(*byte)).collect();
        if tokens.is_empty() {
            tokens.push(u32::from(b'\n'));
        }
        let mut random = SplitMix64(seed);
        let mut sampled = Vec::new();
        for _ in 0..count {
            let window = &tokens[tokens.len().saturating_sub(self.recipe.context as usize)..];
            let logits = self.engine.next_logits(window).await?;
            let byte = choose(&logits, temperature, random.uniform());
            sampled.push(byte);
            tokens.push(u32::from(byte));
        }
        Ok(sampled)
    }
}

fn check(manifest: &Manifest) -> Result<(), TrainError> {
    let Manifest { model, recipe, .. } = manifest;
    if model.vocab_size != 256 {
        return Err(TrainError::Vocabulary(model.vocab_size));
    }
    if recipe.context > model.max_position_embeddings {
        return Err(TrainError::Context { context: recipe.context, limit: model.max_position_embeddings });
    }
    for (field, value) in [("batch", recipe.batch), ("context", recipe.context), ("local_steps", recipe.local_steps)] {
        if value == 0 {
            return Err(TrainError::Recipe { field, value: value.to_string(), rule: "at least 1" });
        }
    }
    Ok(recipe.inner.check()?)
}

/// Draws a byte from the softmax of the logits, where `uniform` is in [0, 1); the likeliest at temperature 0.
#[allow(clippy::disallowed_methods)] // nobody has to agree on a sample
fn choose(logits: &[f32], temperature: f32, uniform: f64) -> u8 {
    let logits = &logits[..logits.len().min(256)];
    let likeliest = (0..logits.len()).reduce(|best, at| if logits[at] > logits[best] { at } else { best }).unwrap_or(0);
    let positive = temperature > 0.0;
    if !positive || logits.is_empty() {
        return likeliest as u8;
    }
    let weight = |logit: &f32| f64::from((logit - logits[likeliest]) / temperature).exp();
    let mut left = uniform * logits.iter().map(weight).sum::<f64>();
    for (byte, logit) in logits.iter().enumerate() {
        left -= weight(logit);
        if left < 0.0 {
            return byte as u8;
        }
    }
    likeliest as u8
}

/// Steele, Lea and Flood 2014: enough to sample text.
struct SplitMix64(u64);

impl SplitMix64 {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

mod judge;

pub use judge::{JudgeOrder, JudgedUpdate, UNASSIGNED_TIMES, judged_batches, unassigned_batches};

#[cfg(test)]
mod tests;
