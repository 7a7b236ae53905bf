//! Jobs on threads of their own: training on one, the outer step on another, so that neither waits for the other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use shoal_learn::{
    Engine, Layout, outer,
    trainer::{Go, StepReport, TrainOrder, Trainer},
};
use shoal_swarm::{Bytes, Job, JobId, Outcome};
use shoal_wire::{Manifest, PeerId, Round};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    NodeError,
    engine::{AnyEngine, EngineChoice},
};

/// Batches of held-out text that measure the common model each round.
const HELD_OUT_BATCHES: usize = 4;
/// Residuals above this size are stored after some rounds only.
const RESIDUAL_BYTES_CHEAP: usize = 16 * 1024 * 1024;
const RESIDUAL_EVERY_ROUNDS: Round = 8;

/// Computes jobs and answers with [`ComputeEvent`]s; nothing waits.
pub trait Compute: Send {
    fn start(&mut self, job: JobId, work: Job);
    /// Ends a training job; what it did so far counts when `keep` is set.
    fn stop(&mut self, job: JobId, keep: bool);
}

#[derive(Debug)]
pub enum ComputeEvent {
    Done {
        job: JobId,
        outcome: Outcome,
    },
    Step {
        round: Round,
        report: StepReport,
    },
    /// The common model after `round`, on text that nobody trains on.
    HeldOut {
        round: Round,
        loss: f32,
    },
    /// What this peer learnt and has not sent yet, for stable storage.
    Residual(Vec<u8>),
}

/// The engines of a run.
pub struct Workers {
    trainer: Option<mpsc::Sender<TrainJob>>,
    outer: Option<mpsc::Sender<(JobId, Job)>>,
    /// The training job that was started last.
    training: Option<(JobId, Steering)>,
    threads: Vec<JoinHandle<()>>,
    engine: String,
}

/// What a training peer trains with.
pub struct Training {
    pub peer: PeerId,
    pub engine: EngineChoice,
    pub corpus: shoal_learn::data::Corpus,
    pub residual: Option<Vec<u8>>,
}

/// How a training job is to go on; each job has its own, so that stopping one never touches the next.
#[derive(Clone, Debug, Default)]
struct Steering(Arc<AtomicU8>);

const FINISH: u8 = 1;
const DISCARD: u8 = 2;

impl Steering {
    fn stop(&self, keep: bool) {
        self.0.store(if keep { FINISH } else { DISCARD }, Ordering::SeqCst);
    }

    fn go(&self) -> Go {
        match self.0.load(Ordering::SeqCst) {
            FINISH => Go::Finish,
            DISCARD => Go::Discard,
            _ => Go::On,
        }
    }
}

type TrainJob = (JobId, Job, Steering);

impl Workers {
    /// Starts the threads; with `training`, waits until the engine is ready.
    pub fn start(
        manifest: &Manifest,
        training: Option<Training>,
        events: UnboundedSender<ComputeEvent>,
    ) -> Result<Self, NodeError> {
        let failed = |_| NodeError::Task("starting a thread");
        let mut threads = Vec::new();

        let layout = Layout::of(&manifest.model).map_err(|error| NodeError::Compute(error.to_string()))?;
        let (outer_sender, jobs) = mpsc::channel::<(JobId, Job)>();
        let (recipe, outer_events) = (manifest.recipe.outer, events.clone());
        let outer_thread = move || {
            for (job, work) in jobs {
                let outcome = outer_step(&layout, recipe, work);
                if outer_events.send(ComputeEvent::Done { job, outcome }).is_err() {
                    break;
                }
            }
        };
        threads.push(thread::Builder::new().name("shoal-outer".to_owned()).spawn(outer_thread).map_err(failed)?);

        let mut workers =
            Self { trainer: None, outer: Some(outer_sender), training: None, threads, engine: "none".to_owned() };
        if let Some(training) = training {
            let (sender, jobs) = mpsc::channel();
            let (ready_sender, ready) = mpsc::channel();
            let manifest = manifest.clone();
            let train = move || train_jobs(&manifest, training, jobs, &events, &ready_sender);
            let thread = thread::Builder::new().name("shoal-train".to_owned()).spawn(train).map_err(failed)?;
            workers.threads.push(thread);
            workers.engine = ready.recv().map_err(|_| NodeError::Task("the training thread"))??;
            workers.trainer = Some(sender);
        }
        Ok(workers)
    }

    /// Name of the training engine and its device, for people.
    pub fn engine(&self) -> &str {
        &self.engine
    }
}

impl Compute for Workers {
    fn start(&mut self, job: JobId, work: Job) {
        let sent = if matches!(work, Job::Train { .. }) {
            let steering = Steering::default();
            self.training = Some((job, steering.clone()));
            self.trainer.as_ref().is_some_and(|trainer| trainer.send((job, work, steering)).is_ok())
        } else {
            self.outer.as_ref().is_some_and(|outer| outer.send((job, work)).is_ok())
        };
        if !sent {
            tracing::error!(job, "no thread computes this job");
        }
    }

    fn stop(&mut self, job: JobId, keep: bool) {
        if let Some((_, steering)) = self.training.as_ref().filter(|(training, _)| *training == job) {
            steering.stop(keep);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some((_, steering)) = &self.training {
            steering.stop(false);
        }
        self.trainer = None;
        self.outer = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a computing thread panicked");
            }
        }
    }
}

fn outer_step(layout: &Layout, recipe: shoal_wire::manifest::Outer, work: Job) -> Outcome {
    let computed = match work {
        Job::Check { update } => {
            return Outcome::Checked { well_formed: outer::check(layout, recipe.codec, &update).is_ok() };
        }
        Job::Aggregate { model, updates, history } => outer::params_from_bytes(layout, &model).and_then(|theta| {
            let updates: Vec<(u16, &[u8])> = updates.iter().map(|(weight, bytes)| (*weight, &bytes[..])).collect();
            outer::aggregate(layout, &recipe, &theta, &updates, &history)
        }),
        Job::Train { .. } => return Outcome::Failed { reason: "this peer does not train".to_owned() },
    };
    match computed {
        Ok((theta, norms)) => Outcome::Aggregated { model: Bytes::from(outer::params_to_bytes(&theta)), norms },
        Err(error) => Outcome::Failed { reason: format!("the outer step failed: {error}") },
    }
}

/// The training thread's life.
fn train_jobs(
    manifest: &Manifest,
    training: Training,
    jobs: mpsc::Receiver<TrainJob>,
    events: &UnboundedSender<ComputeEvent>,
    ready: &mpsc::Sender<Result<String, NodeError>>,
) {
    let peer = training.peer;
    let mut trainer = match make_trainer(manifest, training) {
        Ok(trainer) => trainer,
        Err(error) => {
            drop(ready.send(Err(error))); // fails only when nobody waits for the peer to start any more
            return;
        }
    };
    if ready.send(Ok(trainer.engine().describe())).is_err() {
        return;
    }
    for (job, work, steering) in jobs {
        let outcome = train_job(&mut trainer, peer, &work, &steering, events);
        let trained = matches!(outcome, Outcome::Trained { .. });
        if events.send(ComputeEvent::Done { job, outcome }).is_err() {
            return;
        }
        if let Job::Train { round, .. } = work
            && trained
        {
            let residual = trainer.residual_bytes();
            if residual.len() <= RESIDUAL_BYTES_CHEAP || round.is_multiple_of(RESIDUAL_EVERY_ROUNDS) {
                drop(events.send(ComputeEvent::Residual(residual))); // fails only when the peer stopped
            }
        }
    }
}

fn make_trainer(manifest: &Manifest, training: Training) -> Result<Trainer<AnyEngine>, NodeError> {
    let failed = |error: &dyn std::fmt::Display| NodeError::Compute(error.to_string());
    let engine = AnyEngine::new(training.engine, manifest)?;
    let mut trainer = Trainer::new(engine, manifest, training.corpus).map_err(|error| failed(&error))?;
    if let Some(residual) = training.residual
        && let Err(error) = trainer.restore_residual(&residual)
    {
        tracing::warn!(%error, "what was not sent before is lost");
    }
    Ok(trainer)
}

fn train_job(
    trainer: &mut Trainer<AnyEngine>,
    peer: PeerId,
    work: &Job,
    steering: &Steering,
    events: &UnboundedSender<ComputeEvent>,
) -> Outcome {
    let Job::Train { round, model, randomness, steps, settled } = work else {
        return Outcome::Failed { reason: "the training thread only trains".to_owned() };
    };
    let (round, steps) = (*round, *steps);
    if steering.go() == Go::Discard {
        return Outcome::Failed { reason: format!("training for round {round} was stopped") };
    }
    match pollster::block_on(trainer.held_out_loss(model, HELD_OUT_BATCHES)) {
        Ok(loss) => drop(events.send(ComputeEvent::HeldOut { round: round - 1, loss })), // fails when the peer stopped
        Err(error) => tracing::warn!(%error, "the common model could not be measured"),
    }
    let order = TrainOrder { round, model, randomness: *randomness, peer, steps, settled: *settled };
    let on_step = async |report: StepReport| {
        if events.send(ComputeEvent::Step { round, report }).is_err() { Go::Discard } else { steering.go() }
    };
    match pollster::block_on(trainer.train(&order, on_step)) {
        Ok(Some(trained)) => Outcome::Trained {
            update: Bytes::from(trained.update),
            steps: trained.steps,
            tokens: trained.tokens,
            loss_first: trained.loss_first,
            loss_last: trained.loss_last,
        },
        Ok(None) => Outcome::Failed { reason: format!("training for round {round} was stopped") },
        Err(error) => Outcome::Failed { reason: error.to_string() },
    }
}
