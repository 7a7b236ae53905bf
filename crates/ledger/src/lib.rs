//! What is remembered: the chain of certificates, and everything that follows from it.
//!
//! Roster, weights, leaders, randomness, credit and amendments are pure functions of the certified bodies, so whoever holds the
//! chain recomputes them; nothing here depends on which signatures happen to be attached to a body.

mod books;
mod chain;
mod charter;
mod credit;
mod error;
pub mod judging;
mod lineage;
pub mod log;
mod roster;
mod taken;
mod tally;

pub use chain::{Chain, HISTORY_ROUNDS, Head, Step};
pub use charter::{CHECKPOINT_ROUNDS, CharterError, Motion, Outcome};
pub use credit::Credit;
pub use error::LedgerError;
pub use lineage::{Accepted, Contributor, Lineage, Source};
pub use roster::{
    Departed, ESTABLISHED_ROUNDS, Reputation, aggregate_weights, leaders, more_than_two_thirds, vote_weights,
};
pub use taken::{AcceptedUpdate, Taken};
pub use tally::Tally;
