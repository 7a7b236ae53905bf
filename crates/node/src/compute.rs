//! Jobs on threads of their own: training and judging on one, the outer step on another, so that neither waits for the
//! other.

use std::{
    collections::BTreeMap,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use shoal_learn::{Layout, outer, trainer::StepReport};
use shoal_swarm::{Bytes, Job, JobId, Outcome};
use shoal_wire::{Manifest, Round};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    NodeError,
    engine::Devices,
    training::{Steering, TrainJob, Training, train_jobs},
};

/// Computes jobs and answers with [`ComputeEvent`]s; nothing waits.
pub trait Compute: Send {
    fn start(&mut self, job: JobId, work: Job);
    /// Ends a job that trains or judges; what training did so far counts when `keep` is set.
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
    /// Another engine took over, because the one before failed.
    Engine {
        name: String,
        why: String,
    },
}

/// An answer that a job gets in any case: a failure when its thread panics.
pub(crate) struct Promise<'a> {
    job: JobId,
    events: &'a UnboundedSender<ComputeEvent>,
    kept: bool,
}

impl<'a> Promise<'a> {
    pub fn new(job: JobId, events: &'a UnboundedSender<ComputeEvent>) -> Self {
        Self { job, events, kept: false }
    }

    pub fn keep(mut self, outcome: Outcome) {
        self.kept = true;
        self.answer(outcome);
    }

    fn answer(&self, outcome: Outcome) {
        if self.events.send(ComputeEvent::Done { job: self.job, outcome }).is_err() {
            tracing::debug!(job = self.job, "the peer stopped before this job was done");
        }
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.answer(Outcome::Failed { reason: "the thread that computed this job ended".to_owned() });
        }
    }
}

/// The engines of a run.
pub struct Workers {
    trainer: Option<mpsc::Sender<TrainJob>>,
    outer: Option<mpsc::Sender<(JobId, Job)>>,
    /// The jobs on the training thread.
    steered: BTreeMap<JobId, Steering>,
    threads: Vec<JoinHandle<()>>,
    engine: String,
    events: UnboundedSender<ComputeEvent>,
}

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
                let promise = Promise::new(job, &outer_events);
                promise.keep(outer_step(&layout, recipe, work));
            }
        };
        threads.push(thread::Builder::new().name("shoal-outer".to_owned()).spawn(outer_thread).map_err(failed)?);

        let (outer, engine) = (Some(outer_sender), "none".to_owned());
        let mut workers =
            Self { trainer: None, outer, steered: BTreeMap::new(), threads, engine, events: events.clone() };
        if let Some(training) = training {
            let (sender, jobs) = mpsc::channel();
            let (ready_sender, ready) = mpsc::channel();
            let manifest = manifest.clone();
            let train = move || train_jobs(manifest, training, Devices, jobs, events, &ready_sender);
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
        let sent = match (&self.trainer, &self.outer) {
            (Some(trainer), _) if matches!(work, Job::Train { .. } | Job::Judge { .. }) => {
                let steering = Steering::default();
                self.steered.retain(|_, steering| steering.is_of_use());
                self.steered.insert(job, steering.clone());
                trainer.send((job, work, steering)).is_ok()
            }
            (_, Some(outer)) => outer.send((job, work)).is_ok(),
            (_, None) => false,
        };
        if !sent {
            tracing::error!(job, "no thread computes this job");
            drop(Promise::new(job, &self.events)); // never kept: the swarm hears that the job failed
        }
    }

    fn stop(&mut self, job: JobId, keep: bool) {
        if let Some(steering) = self.steered.get(&job) {
            steering.stop(keep);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for steering in self.steered.values() {
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
        Job::Aggregate { model, updates, history, share } => {
            outer::params_from_bytes(layout, &model).and_then(|theta| {
                let updates: Vec<(u16, &[u8])> = updates.iter().map(|(weight, bytes)| (*weight, &bytes[..])).collect();
                outer::aggregate(layout, &recipe, &theta, &updates, &history, share)
            })
        }
        Job::Train { .. } | Job::Judge { .. } => {
            return Outcome::Failed { reason: "this peer does not train".to_owned() };
        }
    };
    match computed {
        Ok((theta, norms)) => Outcome::Aggregated { model: Bytes::from(outer::params_to_bytes(&theta)), norms },
        Err(error) => Outcome::Failed { reason: format!("the outer step failed: {error}") },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use shoal_wire::Digest;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[test]
    fn a_job_whose_thread_has_ended_fails() {
        let (events, mut answers) = unbounded_channel();
        let (dead, _) = mpsc::channel();
        let mut workers = Workers {
            trainer: None,
            outer: Some(dead),
            steered: BTreeMap::new(),
            threads: Vec::new(),
            engine: String::new(),
            events,
        };
        let train = Job::Train {
            round: 1,
            model: Bytes::from([]),
            randomness: Digest::of(b"randomness"),
            steps: 1,
            learning_rate_1024: 1024,
            settled: None,
        };
        for (job, work) in [(1, Job::Check { update: Bytes::from([]) }), (2, train)] {
            workers.start(job, work);
            let ComputeEvent::Done { job: answered, outcome } = answers.try_recv().unwrap() else { panic!("{job}") };
            assert_eq!(answered, job);
            assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
        }
    }

    #[test]
    fn a_job_whose_thread_panics_fails() {
        let (events, mut answers) = unbounded_channel();
        let panicking = thread::spawn(move || {
            let _promise = Promise::new(7, &events);
            panic!("a panic for a test");
        });
        panicking.join().unwrap_err();
        let answer = answers.try_recv().unwrap();
        assert!(matches!(answer, ComputeEvent::Done { job: 7, outcome: Outcome::Failed { .. } }), "{answer:?}");
    }
}
