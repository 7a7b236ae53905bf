//! What computes for a peer, and which model a world trains.

use shoal_swarm::{Bytes, Job, Outcome};
use shoal_wire::{Manifest, PeerId};

use crate::toy;

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
}

impl Model {
    pub fn genesis(self) -> Bytes {
        match self {
            Self::Toy => toy::toy_genesis(),
        }
    }

    pub fn manifest(self, anchors: Vec<PeerId>) -> Manifest {
        match self {
            Self::Toy => toy::toy_manifest(anchors),
        }
    }

    /// An honest peer's engine.
    pub fn engine(self, me: PeerId) -> Box<dyn Engine> {
        match self {
            Self::Toy => Box::new(toy::Toy { me }),
        }
    }
}
