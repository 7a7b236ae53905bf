//! A simulated world of many peers: the real state machines of [`shoal_swarm::crowd`] and the real integer sums, on a
//! model of 256 values, in a network whose links, machines and blobs have the sizes of a real run.
//!
//! What is not real: bytes move as flows, one after the other on each uplink and downlink, instead of in pieces; a blob
//! counts with the size that it would have in the modelled run, measured on the real encoders ([`cost`]); training takes
//! its time and learns nothing. A peer that goes offline stops and comes back with what it held, as from its disk.

pub mod cost;
mod engine;
mod network;
mod scale;
mod world;

pub use engine::Liar;
pub use scale::{Report, Row, row, scale, world};
pub use world::{CrowdWorld, Phase, Settings, Tally};
