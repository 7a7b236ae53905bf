//! An update as bytes: a version, a codec, then each tensor in layout order.

use shoal_wire::manifest::Codec;

use super::{UpdateError, dense4, topk};
use crate::Layout;

const VERSION: u8 = 1;

fn header(codec: Codec) -> [u8; 2] {
    let id = match codec {
        Codec::Dense4 => 1,
        Codec::Topk => 2,
    };
    [VERSION, id]
}

/// Encodes fixed-point values of the whole model.
pub(super) fn encode(layout: &Layout, codec: Codec, values: &[i64]) -> Vec<u8> {
    let mut out = header(codec).to_vec();
    for tensor in &layout.tensors {
        match codec {
            Codec::Dense4 => dense4::encode(&values[tensor.range()], &mut out),
            Codec::Topk => topk::encode(&values[tensor.range()], &mut out),
        }
    }
    out
}

/// Reads an update one tensor at a time, so that many can be merged in little memory.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    codec: Codec,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(codec: Codec, bytes: &'a [u8]) -> Result<Self, UpdateError> {
        if bytes.get(..2) == Some(&header(codec)[..]) {
            Ok(Self { codec, bytes, at: 2 })
        } else {
            Err(UpdateError::Header)
        }
    }

    /// The next tensor's values, in units of 2⁻⁴⁰.
    pub fn tensor(&mut self, count: usize, out: &mut Vec<i64>) -> Result<(), UpdateError> {
        out.clear();
        let rest = &self.bytes[self.at..];
        self.at += match self.codec {
            Codec::Dense4 => dense4::decode(rest, count, out)?,
            Codec::Topk => topk::decode(rest, count, out)?,
        };
        Ok(())
    }

    pub fn finish(self) -> Result<(), UpdateError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            bytes => Err(UpdateError::Trailing { bytes }),
        }
    }
}

/// Whether these bytes are an update of the model, whole, with nothing in them that does not count: a changed byte
/// fails here or changes a value.
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
