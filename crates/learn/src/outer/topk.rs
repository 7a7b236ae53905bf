//! Codec `topk`: the largest 64 of each 4,096 values, with a sign and one magnitude bit each.
//!
//! SparseLoCo (arXiv 2508.15706) keeps this share; the quantiser here is per chunk: m is the mean magnitude of the kept
//! values (one f16), and a value counts as 0.947 m or 1.161 m, whichever side of 1.054 m it is on (Lloyd's levels for
//! the tail of a Gaussian). Indices are sorted and their gaps Rice-coded with k = 5. About 9.8 bits a kept value.
//! Where m rounds to zero nothing is sent, and the indices are the first ones: silence has one encoding.

use super::{
    UpdateError,
    bits::{BitReader, BitWriter},
    fixed::Scale,
};

pub(super) const CHUNK: usize = 4096;
const KEPT_OF: usize = 64;
const RICE_K: u32 = 5;

/// In 1/1,024 of m.
const LOW: i64 = 970;
const HIGH: i64 = 1189;
const THRESHOLD: i64 = 1079;

/// Values kept in a chunk of `size`.
pub(super) const fn kept(size: usize) -> usize {
    size.div_ceil(KEPT_OF)
}

/// Appends a tensor of fixed-point values.
pub(super) fn encode(values: &[i64], out: &mut Vec<u8>) {
    for chunk in values.chunks(CHUNK) {
        let mut order: Vec<usize> = (0..chunk.len()).collect();
        let rank = |index: &usize| (core::cmp::Reverse(chunk[*index].unsigned_abs()), *index);
        let count = kept(chunk.len());
        if count < order.len() {
            order.select_nth_unstable_by_key(count - 1, rank);
            order.truncate(count);
        }
        order.sort_unstable();
        let sum: u128 = order.iter().map(|index| u128::from(chunk[*index].unsigned_abs())).sum();
        let scale = Scale::nearest(i64::try_from(sum / count as u128).unwrap_or(i64::MAX));
        out.extend_from_slice(&scale.bits().to_le_bytes());
        let silent = scale.fixed() == 0;
        if silent {
            order = (0..count).collect();
        }
        let mut bits = BitWriter::default();
        let mut next = 0;
        for index in &order {
            bits.rice((index - next) as u32, RICE_K);
            next = index + 1;
        }
        for index in &order {
            let value = chunk[*index];
            bits.bits(u32::from(value < 0 && !silent), 1);
            bits.bits(u32::from(value.unsigned_abs() as i64 > scale.times(THRESHOLD) && !silent), 1);
        }
        out.extend(bits.finish());
    }
}

/// Reads a tensor of `count` values from the front of `bytes`; returns how many bytes it took.
pub(super) fn decode(bytes: &[u8], count: usize, out: &mut Vec<i64>) -> Result<usize, UpdateError> {
    let start = out.len();
    out.resize(start + count, 0);
    visit(bytes, count, |index, value| out[start + index] = value)
}

/// Reads only what is sent of such a tensor, in ascending order of places.
pub(super) fn visit(bytes: &[u8], count: usize, mut each: impl FnMut(usize, i64)) -> Result<usize, UpdateError> {
    let mut at = 0;
    let mut begin = 0;
    let mut indices = Vec::with_capacity(kept(CHUNK));
    while begin < count {
        let size = (count - begin).min(CHUNK);
        let head = bytes.get(at..at + 2).ok_or(UpdateError::Truncated { at: bytes.len() })?;
        let scale = Scale::from_bits(u16::from_le_bytes([head[0], head[1]])).ok_or(UpdateError::Scale)?;
        let mut bits = BitReader::new(&bytes[at + 2..]);
        let silent = scale.fixed() == 0;
        indices.clear();
        let mut next = 0;
        for _ in 0..kept(size) {
            let gap = bits.rice(RICE_K, (size - next) as u32)? as usize;
            if silent && gap != 0 {
                return Err(UpdateError::Index);
            }
            indices.push(next + gap);
            next += gap + 1;
        }
        for index in &indices {
            let negative = bits.bits(1)? == 1;
            let high = bits.bits(1)? == 1;
            if silent && (negative || high) {
                return Err(UpdateError::Code);
            }
            let magnitude = scale.times(if high { HIGH } else { LOW });
            each(begin + index, if negative { -magnitude } else { magnitude });
        }
        at += 2 + bits.finish()?;
        begin += size;
    }
    Ok(at)
}
