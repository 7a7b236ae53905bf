//! The canonical encoding: postcard, with exactly one accepted encoding for each value.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Most values are smaller.
const BYTES_EXPECTED: usize = 256;

/// Why bytes from outside were refused.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum WireError {
    #[error("{what}: {size} bytes, more than the limit of {limit}")]
    TooLarge { what: &'static str, size: usize, limit: usize },
    #[error("{what}: not a valid encoding")]
    Malformed { what: &'static str },
    #[error("{what}: a second encoding of the same value")]
    NotCanonical { what: &'static str },
    #[error("signature of {0} does not hold")]
    BadSignature(crate::PeerId),
    #[error("{what}: made for another run")]
    OtherRun { what: &'static str },
    #[error(
        "the run speaks version {found} of the protocol, this program version {ours}: use one of the run's version"
    )]
    OtherVersion { found: u16, ours: u16 },
}

/// Encodes a value. Values that this crate defines always encode: they hold no maps with unsized keys
/// and no sequences of unknown length.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    encode_about(value, BYTES_EXPECTED)
}

/// Encodes a value that is expected to take so many bytes.
fn encode_about<T: Serialize>(value: &T, bytes: usize) -> Vec<u8> {
    // The only failures postcard reports when it writes to a growing vector are sequences without a
    // length, which no type here has.
    postcard::to_extend(value, Vec::with_capacity(bytes)).unwrap_or_default()
}

/// Decodes a value from all of `bytes`; refuses trailing bytes and non-minimal encodings, so that a record
/// has one byte form and one digest.
pub fn decode<T: Serialize + DeserializeOwned>(what: &'static str, bytes: &[u8], limit: usize) -> Result<T, WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLarge { what, size: bytes.len(), limit });
    }
    let value = postcard::from_bytes(bytes).map_err(|_| WireError::Malformed { what })?;
    if encode_about(&value, bytes.len()) == bytes { Ok(value) } else { Err(WireError::NotCanonical { what }) }
}
