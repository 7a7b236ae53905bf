//! What strangers can send, thrown at the code that takes it. Each target takes any bytes and panics when a promise is
//! broken; [`seeds`] makes real values to start from.
//!
//! `cargo xtask fuzz TARGET` runs one under libFuzzer; the tests replay the corpora without it.
// A fuzz target says that something is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod formats;
mod messages;
mod operations;
mod ring;
mod script;
pub mod seeds;

pub use formats::{updates, weights};
pub use messages::{certificates, envelopes, frames, signals};
pub use operations::operations;

pub type Target = fn(&[u8]);

/// Every target, by the name of its program and of its corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("frames", frames),
    ("envelopes", envelopes),
    ("updates", updates),
    ("certificates", certificates),
    ("signals", signals),
    ("weights", weights),
    ("operations", operations_target),
];

fn operations_target(data: &[u8]) {
    operations(data);
}
