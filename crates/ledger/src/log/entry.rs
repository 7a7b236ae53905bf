//! What the log says of a certificate.

use shoal_wire::{Digest, Round, RunId, record::Certificate};
use thiserror::Error;

use super::{TreeHash, leaf_hash};

/// Bytes of every entry.
pub const ENTRY_BYTES: usize = 2 + 32 + 8 + 3 * 32;
const VERSION: u8 = 1;
const QUORUM: u8 = 0;
const RECOVERY: u8 = 1;

/// A certified round. It holds digests and numbers only: what is logged cannot be taken back, so no payload, name, key
/// or address goes in. It is a function of the certificate's body, whatever signatures are attached.
///
/// | bytes | what |
/// |---|---|
/// | 1 | version, 1 |
/// | 1 | 0: certified by a quorum; 1: by a recovery |
/// | 32 | the run's id |
/// | 8 | round, the high byte first |
/// | 32 | digest of the body before; for round 1 the run's id |
/// | 32 | digest of this body |
/// | 32 | digest of the model after the round |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub run: RunId,
    pub round: Round,
    pub recovery: bool,
    pub parent: Digest,
    pub body: Digest,
    pub model: Digest,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum EntryError {
    #[error("an entry has {ENTRY_BYTES} bytes, this one {0}")]
    Length(usize),
    #[error("an entry of version {0} is not known here")]
    Version(u8),
    #[error("a round is certified by a quorum (0) or a recovery (1), not by {0}")]
    Kind(u8),
}

impl Entry {
    pub fn of(certificate: &Certificate) -> Self {
        let body = &certificate.body;
        Self {
            run: body.run,
            round: body.round,
            recovery: body.recovery.is_some(),
            parent: body.parent,
            body: body.digest(),
            model: body.content.model,
        }
    }

    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let kind = if self.recovery { RECOVERY } else { QUORUM };
        let round = self.round.to_be_bytes();
        let parts: [&[u8]; 6] = [&[VERSION, kind], &self.run.0, &round, &self.parent.0, &self.body.0, &self.model.0];
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let wrong = EntryError::Length(bytes.len());
        let (&[version, kind], rest) = bytes.split_first_chunk::<2>().ok_or(wrong)?;
        if version != VERSION {
            return Err(EntryError::Version(version));
        }
        if kind > RECOVERY {
            return Err(EntryError::Kind(kind));
        }
        let (run, rest) = rest.split_first_chunk::<32>().ok_or(wrong)?;
        let (round, rest) = rest.split_first_chunk::<8>().ok_or(wrong)?;
        let (digests, left) = rest.as_chunks::<32>();
        let ([parent, body, model], []) = (digests, left) else { return Err(wrong) };
        Ok(Self {
            run: RunId(*run),
            round: Round::from_be_bytes(*round),
            recovery: kind == RECOVERY,
            parent: Digest(*parent),
            body: Digest(*body),
            model: Digest(*model),
        })
    }

    /// Its hash in the log's tree.
    pub fn leaf(&self) -> TreeHash {
        leaf_hash(&self.encode())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn entry() -> Entry {
        Entry {
            run: RunId([1; 32]),
            round: 0x0203,
            recovery: true,
            parent: Digest([4; 32]),
            body: Digest([5; 32]),
            model: Digest([6; 32]),
        }
    }

    #[test]
    fn an_entry_has_one_form() {
        let bytes = entry().encode();
        let parts = ["01".repeat(34), "0000000000000203".to_owned(), "04".repeat(32), "05".repeat(32), "06".repeat(32)];
        assert_eq!(hex::encode(bytes), parts.concat());
        assert_eq!(Entry::decode(&bytes).unwrap(), entry());
        for at in 0..ENTRY_BYTES {
            let mut other = bytes;
            other[at] ^= 1 << (at % 7);
            assert!(Entry::decode(&other).is_err() || Entry::decode(&other).unwrap().encode() == other);
            assert_ne!(Entry::decode(&other), Ok(entry()), "byte {at} says nothing");
        }
    }

    #[test]
    fn other_lengths_versions_and_kinds_are_refused() {
        let bytes = entry().encode();
        for length in 0..ENTRY_BYTES {
            assert_eq!(Entry::decode(&bytes[..length]), Err(EntryError::Length(length)));
        }
        assert_eq!(Entry::decode(&[&bytes[..], &[0]].concat()), Err(EntryError::Length(ENTRY_BYTES + 1)));
        let with = |at: usize, value| {
            let mut bytes = bytes;
            bytes[at] = value;
            Entry::decode(&bytes)
        };
        assert_eq!(with(0, 2), Err(EntryError::Version(2)));
        assert_eq!(with(1, 2), Err(EntryError::Kind(2)));
    }
}
