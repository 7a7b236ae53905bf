//! What is remembered: the chain of certificates, and everything that follows from it.
//!
//! Roster, weights, leaders, randomness and credit are pure functions of the certified bodies, so whoever holds the
//! chain recomputes them; nothing here depends on which signatures happen to be attached to a body.

mod chain;
mod error;
pub mod judging;
pub mod log;
mod roster;

pub use chain::{AcceptedUpdate, Chain, Credit, HISTORY_ROUNDS, Head, Step};
pub use error::LedgerError;
pub use roster::{Departed, aggregate_weights, leaders, more_than_two_thirds, vote_weights};
