//! What is said: identities, records, frames, their canonical encoding, signing, and every limit.
//!
//! This crate has no clock, no randomness source, no I/O. Bytes from outside enter through
//! [`codec::decode`], which accepts exactly one encoding of each value and never allocates beyond the
//! limit it is given; signatures are checked in [`sign`], the only place that builds a [`sign::Verified`].

pub mod charter;
pub mod codec;
pub mod crowd;
pub mod frame;
pub mod id;
pub mod judging;
pub mod limits;
pub mod manifest;
#[cfg(feature = "memo")]
mod memo;
mod optimizer;
pub mod record;
pub mod relay;
pub mod sealed;
pub mod share;
pub mod sign;

pub use codec::WireError;
pub use id::{Digest, Millis, PeerId, Round, RunId, SessionId, View};
pub use manifest::Manifest;
pub use sign::{Envelope, Identity, Verified};
