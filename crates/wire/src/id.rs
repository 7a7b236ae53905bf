//! Names of things: digests, peers, runs, rounds, and time as a number.

use core::fmt;
use core::ops::{Add, Sub};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Number of a round; round 0 is the genesis model, the first trained round is 1.
pub type Round = u64;
/// Attempt within a round at agreeing on its body.
pub type View = u32;

/// Milliseconds on the caller's monotonic clock. The cores never read a clock themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// Later than every other time: "wake me only for an input".
    pub const NEVER: Self = Self(u64::MAX);

    /// Time from `earlier` to `self`, zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Millis {
    type Output = Self;
    fn add(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl Sub for Millis {
    type Output = u64;
    fn sub(self, earlier: Self) -> u64 {
        self.since(earlier)
    }
}

macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Reads 64 hexadecimal digits; `None` for anything else.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).ok()?;
                Some(Self(bytes))
            }

            /// The first eight hexadecimal digits, for people.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        /// Hexadecimal for people (JSON), 32 raw bytes on the wire.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.serialize_str(&hex::encode(self.0))
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    Self::from_hex(&text).ok_or_else(|| D::Error::custom("expected 64 hexadecimal digits"))
                } else {
                    <[u8; 32]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

bytes32! {
    /// BLAKE3 digest of bytes, or of a record under a domain label.
    Digest
}
bytes32! {
    /// A peer in one run: its Ed25519 public key, never reused across runs.
    PeerId
}
bytes32! {
    /// A run: the digest of its manifest.
    RunId
}
bytes32! {
    /// One opening of an identity: whoever stores votes draws it at random and keeps it beside them.
    SessionId
}

impl SessionId {
    /// Of an anchor before it asked for a place of its own: whoever holds its key speaks for it.
    pub const NONE: Self = Self([0; 32]);
}

impl Digest {
    /// BLAKE3 of the bytes: the address of a blob.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// BLAKE3 in key-derivation mode: the digest of `bytes` in the role that `domain` names,
    /// which no digest in another role can equal.
    pub fn in_domain(domain: &str, bytes: &[u8]) -> Self {
        Self(blake3::derive_key(domain, bytes))
    }
}

impl From<RunId> for Digest {
    fn from(run: RunId) -> Self {
        Self(run.0)
    }
}
