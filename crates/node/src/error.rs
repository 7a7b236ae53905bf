//! What can keep a native peer from starting, with what to do about it.

use shoal_store::StoreError;
use shoal_wire::{Digest, RunId, WireError};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum NodeError {
    #[error("{text:?} is not a relay's address: {why}")]
    Address { text: String, why: String },
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    #[error("cannot reach {url}: {why}")]
    Unreachable { url: String, why: String },
    #[error("{url} answered {status}: {why}")]
    Refused { url: String, status: u16, why: String },
    #[error("{url} sent more than {limit} bytes")]
    TooLarge { url: String, limit: u64 },
    #[error("{url} does not look like a Shoal relay: {why}; check the address")]
    NotARelay { url: String, why: String },
    #[error("the relay finds that its own file behind {url} is damaged; its host must restore it")]
    Damaged { url: String },
    #[error("the answer to {0} is cut short")]
    CutShort(String),
    #[error("the relay has no run {0}; `shoal run list RELAY` shows those it has")]
    UnknownRun(RunId),
    #[error("the relay sent the manifest of another run than {0}")]
    OtherRun(RunId),
    #[error("the relay sent bytes that are not blob {0}")]
    CorruptBlob(Digest),
    #[error("neither this computer nor the relay has {what} ({digest})")]
    Missing { what: &'static str, digest: Digest },
    #[error("the run's text of {bytes} bytes is more than the {limit} that a peer holds in memory")]
    TextTooLarge { bytes: u64, limit: u64 },
    #[error("{what} ({digest}) has {got} bytes, and the run's manifest says {announced}")]
    OtherLength { what: &'static str, digest: Digest, got: u64, announced: u64 },
    #[error("{directory} does not have {what}")]
    NotStored { what: String, directory: String },
    #[error("this data directory takes part in this run already: stop the other process, or use another --data-dir")]
    InUse,
    #[error("the relay sent something invalid: {0}")]
    Wire(#[from] WireError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the stored history does not hold: {0}")]
    Swarm(#[from] shoal_swarm::SwarmError),
    #[error("cannot compute: {0}")]
    Compute(String),
    #[error("the witness {text}: {why}")]
    Witness { text: String, why: String },
    #[error(
        "{url} says that the log has {size} entries, more than the {} that are read",
        shoal_wire::limits::LOG_ENTRIES_MAX
    )]
    LogTooLong { url: String, size: u64 },
    #[error("{0} failed")]
    Task(&'static str),
}
