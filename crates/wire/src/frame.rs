//! Frames between two linked peers, and how they are cut into pieces for a data channel.
//!
//! Frames are not signed: what matters in them is (envelopes), or is addressed by digest (ranges of blobs).

use serde::{Deserialize, Serialize};

use crate::{Digest, Envelope, Round, WireError, codec, limits, record::Certificate};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Frame {
    /// Something signed, from its author or passed on.
    Said(Envelope),
    Status(Status),
    /// "Send me these envelopes of the round": first eight bytes of their ids.
    Ask(Vec<u64>),
    /// "Send me certificates from this round on."
    GetCertificates(Round),
    Certificates(Vec<Certificate>),
    GetRange {
        blob: Digest,
        offset: u64,
        bytes: u32,
    },
    Range {
        blob: Digest,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// "I do not hold this blob."
    NoBlob(Digest),
}

/// A heartbeat: where this peer stands and which envelopes of the next round it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Last certified round that it knows.
    pub head: Round,
    pub body: Digest,
    pub envelopes: Vec<u64>,
    /// Peers it heard from lately, so that two peers without a link know of each other.
    pub seen: Vec<crate::PeerId>,
}

impl Frame {
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        codec::decode("frame", bytes, limits::FRAME_BYTES_MAX)
    }

    /// Bulk frames yield to all others where a link is slow.
    pub fn is_bulk(&self) -> bool {
        matches!(self, Self::Range { .. } | Self::Certificates(_))
    }
}

const MORE: u8 = 0;
const LAST: u8 = 1;

/// Cuts a frame into pieces of at most [`limits::PIECE_BYTES_MAX`], each led by a byte that tells whether
/// more follow.
pub fn pieces(frame: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let count = frame.len().div_ceil(limits::PIECE_BYTES_MAX - 1).max(1);
    (0..count).map(move |index| {
        let start = index * (limits::PIECE_BYTES_MAX - 1);
        let end = frame.len().min(start + limits::PIECE_BYTES_MAX - 1);
        let mut piece = Vec::with_capacity(end - start + 1);
        piece.push(if index + 1 == count { LAST } else { MORE });
        piece.extend_from_slice(&frame[start..end]);
        piece
    })
}

/// Joins the pieces of one ordered channel back into frames, never holding more than one frame's limit.
#[derive(Debug, Default)]
pub struct Joiner {
    held: Vec<u8>,
}

impl Joiner {
    /// Takes a piece; returns a frame when it was the last one.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Vec<u8>>, WireError> {
        let malformed = WireError::Malformed { what: "piece" };
        let (&lead, rest) = piece.split_first().ok_or(malformed.clone())?;
        let size = self.held.len() + rest.len();
        if size > limits::FRAME_BYTES_MAX {
            self.held = Vec::new();
            return Err(WireError::TooLarge { what: "frame", size, limit: limits::FRAME_BYTES_MAX });
        }
        self.held.extend_from_slice(rest);
        match lead {
            MORE => Ok(None),
            LAST => Ok(Some(core::mem::take(&mut self.held))),
            _ => Err(malformed),
        }
    }
}
