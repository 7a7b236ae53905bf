//! A simulated world for the swarm: one seed draws every latency, loss and crash, and the real state machines run in
//! it with simulated network, clock, disks and compute.
//!
//! The model is a toy of a few integers, so a world of many peers runs thousands of times faster than real time.

mod check;
mod random;
mod toy;
mod world;

pub use check::{Checker, Violation};
pub use random::Random;
pub use toy::{toy_genesis, toy_manifest};
pub use world::{Faults, Network, World};
