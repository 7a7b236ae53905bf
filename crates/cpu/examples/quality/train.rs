//! Trains one trial: Shoal's ways with the code that a run uses, the others with plain code beside it.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use pollster::block_on;
use serde::{Deserialize, Serialize};
use shoal_cpu::CpuEngine;
use shoal_learn::data::Corpus;
use shoal_learn::init::genesis;
use shoal_learn::outer::{self, Bounds, Contribution, Grid, aggregate, params_to_bytes};
use shoal_learn::presets::Preset;
use shoal_learn::schedule::learning_rate;
use shoal_learn::trainer::{Go, TrainError, TrainOrder, Trainer};
use shoal_learn::{Batch, Engine, Layout, StepSettings};
use shoal_wire::manifest::{
    Charter, Codec, CreditRule, DataSpec, Manifest, ModelSpec, Outer, Privacy, Recipe, Tokenizer,
};
use shoal_wire::share::Share;
use shoal_wire::{Digest, PeerId};

use crate::trial::{Exchange, Trial};

/// Rounds whose median norms bound the next round's updates, as in the ledger.
const HISTORY_ROUNDS: usize = 8;
/// The weight of an update by somebody who did all steps.
const WHOLE_WORK: u16 = 4095;
/// For whose sums the grid must have room where means are coded.
const MANY_PEERS: usize = 1024;
/// Batches that a point of a curve is measured on.
const CURVE_BATCHES: usize = 64;
/// Batches that the final loss is measured on.
const FINAL_BATCHES: usize = 512;

/// What all trials share.
pub struct Setting {
    pub model: ModelSpec,
    pub layout: Layout,
    pub recipe: Recipe,
    pub rounds: u32,
    pub corpus: Corpus,
    curve: Vec<Batch>,
    last: Vec<Batch>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    pub round: u32,
    /// By one peer, since the start.
    pub bytes: u64,
    pub loss: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// On held-out text after the last round; none where training diverged.
    pub loss: Option<f64>,
    pub bytes: u64,
    pub curve: Vec<Point>,
}

impl Setting {
    pub fn new(model: ModelSpec, recipe: Recipe, rounds: u32, text: Vec<u8>) -> Result<Self> {
        let held_out = text.len() as u64 / 10;
        let corpus = Corpus::new(text.into(), held_out)?;
        let (rows, context) = (recipe.batch as usize, recipe.context as usize);
        let curve = corpus.held_out_batches(rows, context, CURVE_BATCHES)?;
        let last = corpus.held_out_batches(rows, context, FINAL_BATCHES)?;
        Ok(Self { layout: Layout::of(&model)?, model, recipe, rounds, corpus, curve, last })
    }

    fn engine(&self) -> Result<CpuEngine> {
        Ok(CpuEngine::new(&self.model, self.recipe.batch as usize, self.recipe.context as usize)?)
    }

    fn recipe(&self, trial: &Trial, outer: Outer) -> Recipe {
        Recipe { inner: self.recipe.inner.with_lr(trial.lr()), outer, ..self.recipe.clone() }
    }

    pub fn run(&self, trial: &Trial) -> Result<Outcome> {
        let mut meter = Meter { setting: self, engine: self.engine()?, bytes: 0, curve: Vec::new() };
        let trained = match (trial.exchange, trial.outer()) {
            (_, Some(outer)) => self.run_rounds(trial, outer, &mut meter),
            (Exchange::Diloco { momentum_percent }, _) => self.run_diloco(trial, momentum_percent, &mut meter),
            _ => self.run_alone(trial, &mut meter),
        };
        let loss = match trained {
            Ok(loss) => Some(loss).filter(|loss| loss.is_finite()),
            Err(error) if matches!(error.downcast_ref(), Some(TrainError::Diverged { .. })) => None,
            Err(error) => return Err(error),
        };
        Ok(Outcome { loss, bytes: meter.bytes, curve: meter.curve })
    }

    /// Rounds as a run does them: every peer's [`Trainer`], then the outer step.
    fn run_rounds(&self, trial: &Trial, outer: Outer, meter: &mut Meter<'_>) -> Result<f64> {
        let manifest = self.manifest(self.recipe(trial, outer));
        let trainer = || -> Result<_> { Ok(Trainer::new(self.engine()?, &manifest, self.corpus.clone())?) };
        let mut peers = (0..trial.peers).map(|_| trainer()).collect::<Result<Vec<_>>>()?;
        let mut theta = genesis(&self.model, trial.first_weights())?;
        let mut history: VecDeque<Vec<u64>> = VecDeque::new();
        for round in 1..=self.rounds {
            let model = params_to_bytes(&theta);
            let mut updates = Vec::new();
            let before = (round > 1).then(|| trial.arrives(u64::from(round) - 1));
            for (number, trainer) in peers.iter_mut().enumerate() {
                let order = TrainOrder {
                    round: round.into(),
                    model: &model,
                    randomness: trial.randomness(round.into()),
                    peer: peer_id(number),
                    steps: self.recipe.local_steps,
                    learning_rate_1024: 1024,
                    // As the swarm does: of what was left out, the share that the round took is done with.
                    settled: before.as_ref().map(|took| if took[number] { Share::WHOLE } else { share(took) }),
                };
                let trained = block_on(trainer.train(&order, async |_| Go::On))?;
                updates.push(trained.context("nobody discards a round")?.update);
            }
            meter.bytes += updates.iter().map(|update| update.len() as u64).sum::<u64>() / updates.len() as u64;
            let took = trial.arrives(round.into());
            let arrived = updates.iter().zip(&took).filter(|(_, arrives)| **arrives);
            let weighted: Vec<(u16, &[u8])> = arrived.map(|(update, _)| (WHOLE_WORK, &update[..])).collect();
            let norms;
            let past = history.make_contiguous();
            (theta, norms) = match trial.exchange {
                Exchange::ShoalCoded { .. } => self.coded_mean(&outer, &theta, &weighted, past)?,
                _ => aggregate(&self.layout, &outer, &theta, &weighted, past, share(&took))?,
            };
            history.push_back(norms);
            history.drain(..history.len().saturating_sub(HISTORY_ROUNDS));
            meter.note(round, &theta)?;
        }
        meter.measure(&theta, &self.last)
    }

    /// The outer step of a run of many peers: the sum on a grid, the mean coded and applied. As one part, whose chunks are those of
    /// any number of parts.
    fn coded_mean(
        &self,
        outer: &Outer,
        theta: &[f32],
        updates: &[(u16, &[u8])],
        history: &[Vec<u64>],
    ) -> Result<(Vec<f32>, Vec<u64>)> {
        let all: Vec<Contribution<'_>> =
            updates.iter().map(|(work, update)| Contribution { work: *work, trust: WHOLE_WORK, update }).collect();
        let parts = outer::parts(&self.layout, 1);
        let grid = Grid::of(&self.layout, outer.codec, history, MANY_PEERS);
        let sums = outer::partial_sums(&self.layout, outer.codec, &all, Bounds::Median { history }, &grid, &parts)?;
        let (part, sum) = (parts.first().context("a part")?, sums.into_iter().next().context("a sum")?);
        let code = sum.code(part, &grid)?;
        Ok((outer::apply(&parts, outer, theta, &[Some(&code)])?, sum.rates))
    }

    fn run_alone(&self, trial: &Trial, meter: &mut Meter<'_>) -> Result<f64> {
        let mut peer = self.local(trial, 0)?;
        peer.engine.load(&genesis(&self.model, trial.first_weights())?)?;
        for round in 1..=self.rounds {
            peer.train(round)?;
            meter.note(round, peer.engine.parameter_values())?;
        }
        meter.measure(peer.engine.parameter_values(), &self.last)
    }

    /// Δ = θ − θ_local averaged over peers, b ← μb + Δ, θ ← θ − η(Δ + μb), in f64.
    fn run_diloco(&self, trial: &Trial, momentum_percent: u8, meter: &mut Meter<'_>) -> Result<f64> {
        let momentum = f64::from(momentum_percent) / 100.0;
        let mut peers =
            (0..usize::from(trial.peers)).map(|number| self.local(trial, number)).collect::<Result<Vec<_>>>()?;
        let first = genesis(&self.model, trial.first_weights())?;
        let mut theta: Vec<f64> = first.into_iter().map(f64::from).collect();
        let mut velocity = vec![0.0; theta.len()];
        let mut common: Vec<f32> = Vec::new();
        for round in 1..=self.rounds {
            common.clear();
            common.extend(theta.iter().map(|value| *value as f32));
            let mut mean = vec![0.0; theta.len()];
            for peer in &mut peers {
                peer.engine.load(&common)?;
                peer.train(round)?;
                let local = peer.engine.parameter_values();
                for (mean, (before, after)) in mean.iter_mut().zip(common.iter().zip(local)) {
                    *mean += f64::from(*before - *after) / f64::from(trial.peers);
                }
            }
            for ((value, velocity), mean) in theta.iter_mut().zip(&mut velocity).zip(&mean) {
                *velocity = momentum * *velocity + mean;
                *value -= trial.outer_rate() * (mean + momentum * *velocity);
            }
            meter.bytes += 4 * theta.len() as u64;
            common.clear();
            common.extend(theta.iter().map(|value| *value as f32));
            meter.note(round, &common)?;
        }
        meter.measure(&common, &self.last)
    }

    fn local<'a>(&'a self, trial: &'a Trial, number: usize) -> Result<Local<'a>> {
        // The outer step is the caller's; a recipe has one in any case.
        let outer = Outer { codec: Codec::Dense4, alpha_1024: 1024, feedback_1024: 0 };
        let recipe = self.recipe(trial, outer);
        Ok(Local { setting: self, trial, recipe, engine: self.engine()?, number, steps_done: 0 })
    }

    fn manifest(&self, recipe: Recipe) -> Manifest {
        Manifest {
            version: shoal_wire::manifest::VERSION,
            name: "quality".to_owned(),
            description: String::new(),
            host: String::new(),
            model: self.model.clone(),
            tokenizer: Tokenizer::Bytes,
            genesis: Digest::default(),
            data: DataSpec { sources: Vec::new(), held_out_bytes: self.corpus.held_out().len() as u64 },
            recipe,
            timing: Preset::Tiny.timing(),
            privacy: Privacy::Public,
            credit: CreditRule::default(),
            charter: Charter::default(),
            anchors: Vec::new(),
            seed: Digest::default(),
        }
    }
}

/// Of these peers' updates, that part whose bit is set; all have done the same work.
fn share(took: &[bool]) -> Share {
    Share { taken: took.iter().filter(|took| **took).count() as u32, promised: took.len() as u32 }
}

fn peer_id(number: usize) -> PeerId {
    PeerId(Digest::in_domain("shoal bench quality peer", &number.to_le_bytes()).0)
}

/// A peer's inner steps as [`Trainer`] does them: the same batches, rates and moments.
struct Local<'a> {
    setting: &'a Setting,
    trial: &'a Trial,
    recipe: Recipe,
    engine: CpuEngine,
    number: usize,
    steps_done: u32,
}

impl Local<'_> {
    fn train(&mut self, round: u32) -> Result<()> {
        let (rows, context) = (self.recipe.batch as usize, self.recipe.context as usize);
        let randomness = self.trial.randomness(round.into());
        let lr = learning_rate(&self.recipe, round.into(), 1024);
        for step in 1..=self.recipe.local_steps {
            let batch = self.setting.corpus.train_batch(randomness, peer_id(self.number), step, rows, context)?;
            self.steps_done += 1;
            self.engine.step(&batch, &StepSettings { optimizer: self.recipe.inner, lr, step: self.steps_done })?;
        }
        let losses = block_on(self.engine.losses())?;
        if losses.iter().all(|loss| loss.is_finite()) {
            Ok(())
        } else {
            Err(TrainError::Diverged { round: round.into() }.into())
        }
    }
}

/// Measures the common model on held-out text, with an engine of its own.
struct Meter<'a> {
    setting: &'a Setting,
    engine: CpuEngine,
    bytes: u64,
    curve: Vec<Point>,
}

impl Meter<'_> {
    /// A point of the curve, in every so many rounds.
    fn note(&mut self, round: u32, theta: &[f32]) -> Result<()> {
        let every = (self.setting.rounds / 40).max(1);
        if round.is_multiple_of(every) || round == self.setting.rounds {
            let loss = self.measure(theta, &self.setting.curve)?;
            self.curve.push(Point { round, bytes: self.bytes, loss });
        }
        Ok(())
    }

    fn measure(&mut self, theta: &[f32], batches: &[Batch]) -> Result<f64> {
        self.engine.load(theta)?;
        let mut sum = 0.0;
        for batch in batches {
            sum += f64::from(block_on(self.engine.evaluate(batch))?);
        }
        Ok(sum / batches.len() as f64)
    }
}
