//! An update as bytes: a version, a codec, the tensors in layout order, and four bytes of checksum.
//!
//! The digest in a commit says whether bytes are those that their author sent. The checksum says, without it, whether
//! they are what any encoder wrote: a flipped bit on a disk is found before a value is read.

use shoal_wire::{Digest, manifest::Codec};

use super::{UpdateError, dense4, rans, rans_table, topk};
use crate::Layout;

const VERSION: u8 = 2;
pub(super) const CHECKSUM_BYTES: usize = 4;

fn header(codec: Codec) -> [u8; 2] {
    let id = match codec {
        Codec::Dense4 => 1,
        Codec::Topk => 2,
    };
    [VERSION, id]
}

pub(super) fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Digest::in_domain("shoal 2026 v1 update checksum", content).0;
    [digest[0], digest[1], digest[2], digest[3]]
}

/// Encodes fixed-point values of the whole model.
pub(super) fn encode(layout: &Layout, codec: Codec, values: &[i64]) -> Vec<u8> {
    let mut out = header(codec).to_vec();
    match codec {
        Codec::Dense4 => dense4::encode(layout, values, &mut out),
        Codec::Topk => layout.tensors.iter().for_each(|tensor| topk::encode(&values[tensor.range()], &mut out)),
    }
    out.extend(checksum(&out));
    out
}

/// Reads an update one tensor at a time, so that many can be merged in little memory.
#[derive(Debug)]
pub(super) enum Decoder<'a> {
    Dense4(rans::Decoder<'a>),
    Topk(&'a [u8]),
}

impl<'a> Decoder<'a> {
    pub fn new(codec: Codec, bytes: &'a [u8]) -> Result<Self, UpdateError> {
        let (content, sum) = bytes.split_last_chunk().ok_or(UpdateError::Truncated { at: bytes.len() })?;
        if checksum(content) != *sum {
            return Err(UpdateError::Checksum);
        }
        let body = content.strip_prefix(&header(codec)).ok_or(UpdateError::Header)?;
        Ok(match codec {
            Codec::Dense4 => Self::Dense4(rans::Decoder::new(&rans_table::DENSE4, body)?),
            Codec::Topk => Self::Topk(body),
        })
    }

    /// The next tensor's values, in units of 2⁻⁴⁰.
    pub fn tensor(&mut self, count: usize, out: &mut Vec<i64>) -> Result<(), UpdateError> {
        out.clear();
        match self {
            Self::Dense4(stream) => dense4::decode(stream, count, out)?,
            Self::Topk(rest) => *rest = &rest[topk::decode(rest, count, out)?..],
        }
        Ok(())
    }

    /// What is sent of the next tensor.
    pub fn sent(&mut self, count: usize, out: &mut Sent) -> Result<(), UpdateError> {
        match (self, out) {
            (Self::Topk(rest), Sent::Some(values)) => {
                values.clear();
                *rest = &rest[topk::visit(rest, count, |index, value| values.push((index, value)))?..];
                Ok(())
            }
            (decoder, Sent::All(values)) => decoder.tensor(count, values),
            (decoder, out) => {
                let mut values = Vec::new();
                decoder.tensor(count, &mut values)?;
                *out = Sent::All(values);
                Ok(())
            }
        }
    }

    pub fn finish(self) -> Result<(), UpdateError> {
        match self {
            Self::Dense4(stream) => stream.finish(),
            Self::Topk([]) => Ok(()),
            Self::Topk(rest) => Err(UpdateError::Trailing { bytes: rest.len() }),
        }
    }
}

/// What an update sends of a tensor, in units of 2⁻⁴⁰.
#[derive(Debug)]
pub(super) enum Sent {
    All(Vec<i64>),
    /// With their places; all others are zero.
    Some(Vec<(usize, i64)>),
}

impl Sent {
    pub fn new(codec: Codec) -> Self {
        match codec {
            Codec::Dense4 => Self::All(Vec::new()),
            Codec::Topk => Self::Some(Vec::new()),
        }
    }
}

/// Whether these bytes are an update of the model, whole, and written as its encoder would have written these scales and levels.
pub fn check(layout: &Layout, codec: Codec, bytes: &[u8]) -> Result<(), UpdateError> {
    let mut decoder = Decoder::new(codec, bytes)?;
    let mut values = Vec::new();
    for tensor in &layout.tensors {
        decoder.tensor(tensor.len(), &mut values)?;
    }
    decoder.finish()
}

/// All values of an update, in units of 2⁻⁴⁰.
pub fn decode(layout: &Layout, codec: Codec, bytes: &[u8]) -> Result<Vec<i64>, UpdateError> {
    let mut decoder = Decoder::new(codec, bytes)?;
    let mut all = Vec::with_capacity(layout.len());
    let mut values = Vec::new();
    for tensor in &layout.tensors {
        decoder.tensor(tensor.len(), &mut values)?;
        all.extend_from_slice(&values);
    }
    decoder.finish()?;
    Ok(all)
}
