//! The training thread: one engine, which trains one round after the other and judges updates of others in between, and
//! another engine when that one fails.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
    mpsc,
};

use shoal_learn::{
    Engine, EngineError,
    data::Corpus,
    trainer::{Go, JudgeOrder, JudgedUpdate, StepReport, TrainError, TrainOrder, Trainer},
};
use shoal_swarm::{Bytes, Job, JobId, Outcome};
use shoal_wire::{Manifest, PeerId};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    NodeError,
    compute::{ComputeEvent, Promise},
    engine::{EngineChoice, Engines},
};

/// Batches of held-out text that measure the common model each round.
const HELD_OUT_BATCHES: usize = 4;
/// A GPU that fails this often without finishing a job in between is given up for the CPU.
const GPU_FAILURES_MAX: u32 = 3;

/// What a training peer trains with.
pub struct Training {
    pub peer: PeerId,
    pub engine: EngineChoice,
    pub corpus: Corpus,
    pub residual: Option<Vec<u8>>,
}

/// How a job of the training thread is to go on; each has its own, so that stopping one never touches the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steering(Arc<AtomicU8>);

const FINISH: u8 = 1;
const DISCARD: u8 = 2;

impl Steering {
    pub fn stop(&self, keep: bool) {
        self.0.store(if keep { FINISH } else { DISCARD }, Ordering::SeqCst);
    }

    /// Whether the thread may still ask.
    pub fn is_of_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn go(&self) -> Go {
        match self.0.load(Ordering::SeqCst) {
            FINISH => Go::Finish,
            DISCARD => Go::Discard,
            _ => Go::On,
        }
    }
}

pub(crate) type TrainJob = (JobId, Job, Steering);

/// The thread's life. `ready` hears the engine's name, or why there is none.
pub(crate) fn train_jobs<O: Engines>(
    manifest: Manifest,
    training: Training,
    engines: O,
    jobs: mpsc::Receiver<TrainJob>,
    events: UnboundedSender<ComputeEvent>,
    ready: &mpsc::Sender<Result<String, NodeError>>,
) {
    let mut room = Room::new(manifest, &training, engines, events.clone());
    let opened = room.open(training.engine);
    // Sending fails only when nobody waits for the peer to start any more.
    if opened.is_err() | ready.send(opened).is_err() {
        return;
    }
    for (job, work, steering) in jobs {
        let promise = Promise::new(job, &events);
        let outcome = room.work(&work, &steering);
        promise.keep(outcome);
        if !matches!(work, Job::Train { .. }) {
            continue;
        }
        // Also after a round that was stopped: what came back from a refused update is owed again.
        if let Some(residual) = room.residual()
            && events.send(ComputeEvent::Residual(residual)).is_err()
        {
            return;
        }
    }
}

struct Room<O: Engines> {
    manifest: Manifest,
    peer: PeerId,
    corpus: Corpus,
    engines: O,
    /// `None` while no engine opens.
    trainer: Option<Trainer<O::Engine>>,
    /// What the next trainer starts with.
    owed: Option<Vec<u8>>,
    /// Failures since the GPU finished a job.
    failures: u32,
    events: UnboundedSender<ComputeEvent>,
}

impl<O: Engines> Room<O> {
    fn new(manifest: Manifest, training: &Training, engines: O, events: UnboundedSender<ComputeEvent>) -> Self {
        let (peer, corpus, owed) = (training.peer, training.corpus.clone(), training.residual.clone());
        Self { manifest, peer, corpus, engines, trainer: None, owed, failures: 0, events }
    }

    /// Opens an engine and takes up what is owed to the run; returns the engine's name.
    fn open(&mut self, choice: EngineChoice) -> Result<String, NodeError> {
        let engine = self.engines.open(choice, &self.manifest)?;
        let name = engine.describe();
        let trainer = Trainer::new(engine, &self.manifest, self.corpus.clone());
        let mut trainer = trainer.map_err(|error| NodeError::Compute(error.to_string()))?;
        if let Some(owed) = self.owed.take()
            && let Err(error) = trainer.restore_residual(&owed)
        {
            tracing::warn!(%error, "what was not sent before is lost");
        }
        self.trainer = Some(trainer);
        Ok(name)
    }

    fn residual(&self) -> Option<Vec<u8>> {
        self.trainer.as_ref().map(Trainer::residual_bytes)
    }

    fn work(&mut self, work: &Job, steering: &Steering) -> Outcome {
        let (events, mut measured) = (self.events.clone(), false);
        let (done, what) = match work {
            &Job::Train { round, ref model, randomness, steps, learning_rate_1024, settled } => {
                let peer = self.peer;
                let order = TrainOrder { round, model, randomness, peer, steps, learning_rate_1024, settled };
                let attempt = |trainer: &mut Trainer<O::Engine>| {
                    measured = measured || measure(trainer, &order, &events);
                    train(trainer, &order, steering, &events)
                };
                (self.patiently(steering, attempt), format!("training for round {round}"))
            }
            Job::Judge { round, .. } => {
                let Some(order) = judge_order(work) else {
                    return failed("there is nothing to judge");
                };
                let attempt = |trainer: &mut Trainer<O::Engine>| judge(trainer, &order, steering);
                (self.patiently(steering, attempt), format!("judging the updates of round {round}"))
            }
            Job::Check { .. } | Job::Aggregate { .. } => return failed("the training thread trains and judges"),
        };
        match done {
            Ok(Some(outcome)) => outcome,
            Ok(None) => failed(format!("{what} was stopped")),
            Err(reason) => failed(reason),
        }
    }

    /// Does something with the engine; when a GPU fails on the way, again from the start with the engine that takes over.
    /// `None` when it was stopped, and the reason in words when it failed.
    fn patiently(
        &mut self,
        steering: &Steering,
        mut attempt: impl FnMut(&mut Trainer<O::Engine>) -> Result<Option<Outcome>, TrainError>,
    ) -> Result<Option<Outcome>, String> {
        while steering.go() != Go::Discard {
            if self.trainer.is_none() {
                self.open(EngineChoice::Cpu).map_err(|error| error.to_string())?;
            }
            let Some(trainer) = &mut self.trainer else { return Err("there is no engine".to_owned()) };
            match attempt(trainer) {
                Ok(done) => {
                    if done.is_some() {
                        self.failures = 0;
                    }
                    return Ok(done);
                }
                Err(TrainError::Engine(why)) if O::is_gpu(trainer.engine()) => {
                    self.replace_engine(&why).map_err(|error| error.to_string())?;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(None)
    }

    /// Opens the GPU again, as a driver that was reset wants it; a GPU that keeps failing gives way to the CPU.
    fn replace_engine(&mut self, why: &EngineError) -> Result<(), NodeError> {
        self.failures += 1;
        tracing::warn!(%why, failures = self.failures, "the GPU failed");
        self.owed = self.residual();
        // First, because the new engine may need the old one's memory.
        self.trainer = None;
        let reopened = (self.failures < GPU_FAILURES_MAX).then(|| self.open(EngineChoice::Gpu));
        let name = match reopened {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                tracing::warn!(%error, "the GPU cannot be opened again");
                self.open(EngineChoice::Cpu)?
            }
            None => self.open(EngineChoice::Cpu)?,
        };
        tracing::warn!(engine = name, "training goes on");
        drop(self.events.send(ComputeEvent::Engine { name, why: why.to_string() })); // fails when the peer stopped
        Ok(())
    }
}

fn failed(reason: impl ToString) -> Outcome {
    Outcome::Failed { reason: reason.to_string() }
}

/// Measures the common model before the round; false when that did not work.
fn measure<E: Engine>(
    trainer: &mut Trainer<E>,
    order: &TrainOrder<'_>,
    events: &UnboundedSender<ComputeEvent>,
) -> bool {
    match pollster::block_on(trainer.held_out_loss(order.model, HELD_OUT_BATCHES)) {
        Ok(loss) => {
            let event = ComputeEvent::HeldOut { round: order.round - 1, loss };
            drop(events.send(event)); // fails only when the peer stopped
            true
        }
        Err(error) => {
            tracing::warn!(%error, "the common model could not be measured");
            false
        }
    }
}

/// One try at a round; `None` when it was stopped and is not wanted.
fn train<E: Engine>(
    trainer: &mut Trainer<E>,
    order: &TrainOrder<'_>,
    steering: &Steering,
    events: &UnboundedSender<ComputeEvent>,
) -> Result<Option<Outcome>, TrainError> {
    let on_step = async |report: StepReport| {
        let event = ComputeEvent::Step { round: order.round, report };
        if events.send(event).is_err() { Go::Discard } else { steering.go() }
    };
    let trained = pollster::block_on(trainer.train(order, on_step))?;
    Ok(trained.map(|trained| Outcome::Trained {
        update: Bytes::from(trained.update),
        steps: trained.steps,
        tokens: trained.tokens,
        loss_first: trained.loss_first,
        loss_last: trained.loss_last,
    }))
}

/// What a job asks to be judged; `None` for other jobs.
fn judge_order(work: &Job) -> Option<JudgeOrder<'_>> {
    let Job::Judge { model, randomness, draw, subjects, own, round_updates, .. } = work else { return None };
    Some(JudgeOrder {
        model,
        randomness: *randomness,
        draw: *draw,
        subjects: subjects
            .iter()
            .map(|of| JudgedUpdate { author: of.author, update: &of.update, steps: of.steps })
            .collect(),
        own: own.as_deref(),
        round_updates: round_updates.iter().map(|(author, update)| (*author, &update[..])).collect(),
    })
}

/// One try at judging; `None` when it was stopped.
fn judge<E: Engine>(
    trainer: &mut Trainer<E>,
    order: &JudgeOrder<'_>,
    steering: &Steering,
) -> Result<Option<Outcome>, TrainError> {
    let scores = pollster::block_on(trainer.judge(order, async || steering.go()))?;
    Ok(scores.map(|scores| Outcome::Judged { scores }))
}

#[cfg(test)]
mod tests;
