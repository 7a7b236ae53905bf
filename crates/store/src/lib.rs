//! What is kept: blobs by digest, manifests, certificates, a peer's own votes and its error feedback.
//!
//! [`Store`] lays records out over a small [`Files`] interface, which native programs implement with a
//! directory ([`FileStore`]) and browsers with their private file system. A copy of the directory is a
//! complete store. Everything read back is checked: a flipped bit is [`StoreError::Corrupt`], never data.
//!
//! ```text
//! blobs/<2 hex>/<64 hex>                        the blob's bytes; their BLAKE3 digest is the name
//! runs/<run>/manifest                           signed manifest
//! runs/<run>/certificates/<round>.cert          certificate and its checksum
//! peers/<run>/<peer>/votes.log                  own votes, before they were sent
//! peers/<run>/<peer>/session                    the session that those votes are of, and its checksum
//! peers/<run>/<peer>/lock                       held by the process that uses this identity
//! peers/<run>/<peer>/residual                   error feedback and its checksum
//! device.key                                    the device's 32 secret bytes
//! ```

mod files;
mod log;
#[cfg(not(target_arch = "wasm32"))]
mod native;
mod store;

pub use files::{Files, StoreError};
#[cfg(not(target_arch = "wasm32"))]
pub use native::{FileStore, NativeFiles, PeerLock};
pub use store::Store;
