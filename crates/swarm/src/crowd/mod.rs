//! Many peers: a round that thousands share.
//!
//! Peers work in groups of 8 to 16, drawn each round. A group exchanges its updates and sums them; the sums of 16 groups
//! are merged by panels drawn for each part of the model, 16 of these by further panels, up to the root; a committee of at
//! most 64 agrees on what the root found, and everybody applies the one mean. What is missing in time is absent from the
//! round, wherever it is missing; nothing waits for it. docs/many-peers.md tells the whole.
//!
//! The law is that of [`crate::Swarm`]: [`Crowd::handle`], then [`Crowd::poll`] until it says [`Output::Idle`].

mod agree;
mod committee;
mod draw;
mod epoch;
mod fetch;
mod group;
mod io;
mod judge;
mod panel;
mod peer;
mod roster;
mod spread;
mod tree;

pub use draw::{Draw, PARTS};
pub use epoch::{Epoch, Refused};
pub use io::{Config, Event, Input, Job, JobId, Missing, Outcome, Output, RecordId, Stored, Timing, Weighted};
pub use peer::Crowd;
pub use roster::{Proof, Roster, Seat};
