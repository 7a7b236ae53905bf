//! A simulated world for the swarm: one seed draws every latency, loss, liar and crash, and the real state machines run
//! in it with simulated network, clock, disks and compute.
//!
//! [`World`] is the bench that tests build on; a [`Trial`](run_trial) draws its [`Options`] from a seed, breaks what they
//! say, heals, and tells what did not hold. [`explore`] leaves nothing to chance: it tries the voting rules in every order.

mod check;
pub mod crowd;
mod disk;
mod engine;
mod events;
pub mod explore;
mod happening;
mod learner;
mod liars;
mod network;
mod options;
mod peer;
mod random;
mod schedule;
mod toy;
mod trial;
mod twins;
mod world;

pub use check::{Checker, Violation};
pub use engine::{Engine, Model};
pub use liars::Lie;
pub use network::{Burst, Network, Path, Preset};
pub use options::{Options, RelayFate};
pub use peer::Clock;
pub use random::Random;
pub use toy::{toy_genesis, toy_manifest};
pub use trial::{Report, run_trial};
pub use world::{Faults, World};
