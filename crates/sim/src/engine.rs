//! What computes for a peer, and which model a world trains.

use shoal_swarm::{Bytes, Job, Outcome};
use shoal_wire::{Manifest, PeerId};

use crate::{
    learner::{Learner, TASK},
    liars::{Liar, Lie},
    toy,
};

/// What computes for one peer.
pub trait Engine {
    /// Does a job. Of a training job, `share_1024` of 1,024 parts of the time were given.
    fn run(&mut self, job: &Job, share_1024: u64) -> Outcome;
}

/// What the peers of a world train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Eight integers that nothing is learnt with, and that cost nothing.
    Toy,
    /// A small network that learns for real.
    Learner,
    /// The same, but updates are averaged without clipping, and nobody judges: to see what these are good for.
    PlainMean,
}

impl Model {
    pub fn genesis(self) -> Bytes {
        match self {
            Self::Toy => toy::toy_genesis(),
            Self::Learner | Self::PlainMean => TASK.genesis(),
        }
    }

    pub fn manifest(self, anchors: Vec<PeerId>) -> Manifest {
        match self {
            Self::Toy => toy::toy_manifest(anchors),
            Self::Learner | Self::PlainMean => TASK.manifest(anchors),
        }
    }

    /// A peer's engine. The toy knows no lies.
    pub fn engine(self, me: PeerId, lie: Option<Lie>) -> Box<dyn Engine> {
        let plain_mean = self == Self::PlainMean;
        match (self, lie) {
            (Self::Toy, _) => Box::new(toy::Toy { me }),
            (_, None) => Box::new(Learner::new(me, plain_mean)),
            (_, Some(lie)) => Box::new(Liar::new(Learner::new(me, plain_mean), lie)),
        }
    }

    /// Mean loss of a model on data that nobody trains on, in nats; `None` for the toy, or for what is no model.
    pub fn loss(self, model: &[u8]) -> Option<f64> {
        if self == Self::Toy {
            return None;
        }
        let theta = shoal_learn::outer::params_from_bytes(&TASK.layout, model).ok()?;
        Some(TASK.held_out_loss(&theta))
    }
}
