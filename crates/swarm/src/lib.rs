//! Who does what, when: one sans-I/O state machine per peer.
//!
//! The law: `handle(now, input)`, then `poll()` until it says [`Output::Idle`]. A second `handle` before the
//! outputs are drained is a [`Misuse`]. The swarm treats models and updates as opaque bytes with digests.

mod agree;
mod behind;
mod charter;
mod closing;
pub mod crowd;
mod flow;
mod io;
mod judge;
pub mod mesh;
mod pace;
mod place;
mod pool;
mod recover;
mod round;
pub mod rules;
mod snapshot;
mod state;
mod swarm;
mod sync;
mod transfer;

pub use io::*;
pub use snapshot::{Phase, RosterEntry, Snapshot};
pub use state::Swarm;
pub use swarm::{Misuse, SwarmError};
