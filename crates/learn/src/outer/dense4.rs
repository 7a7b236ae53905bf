//! Codec `dense4`: 4 bits a value, one f16 scale for 256 values, 4.0625 bits a value in all.
//!
//! The scale is the largest magnitude in the chunk; a code c in 1..=15 stands for (c − 8)/7 of it. A chunk of zeros has
//! scale zero: no other scale is accepted for it, so silence has one encoding.

use super::{UpdateError, fixed::Scale};

pub(super) const CHUNK: usize = 256;

/// |c − 8|/7 in 1/1,024.
const LEVELS: [i64; 8] = [0, 146, 293, 439, 585, 731, 878, 1024];

/// Appends a tensor of fixed-point values.
pub(super) fn encode(values: &[i64], out: &mut Vec<u8>) {
    for chunk in values.chunks(CHUNK) {
        let largest = chunk.iter().map(|value| value.unsigned_abs()).max().unwrap_or(0);
        let scale = Scale::nearest(i64::try_from(largest).unwrap_or(i64::MAX));
        out.extend_from_slice(&scale.bits().to_le_bytes());
        for pair in chunk.chunks(2) {
            let low = code(pair[0], scale);
            let high = pair.get(1).map_or(0, |value| code(*value, scale));
            out.push(low | high << 4);
        }
    }
}

fn code(value: i64, scale: Scale) -> u8 {
    let unit = i128::from(scale.fixed());
    if unit == 0 {
        return 8;
    }
    let steps = (14 * i128::from(value.unsigned_abs()) + unit) / (2 * unit);
    let steps = steps.min(7) as u8;
    if value < 0 { 8 - steps } else { 8 + steps }
}

/// Reads a tensor of `count` values from the front of `bytes`; returns how many bytes it took.
pub(super) fn decode(bytes: &[u8], count: usize, out: &mut Vec<i64>) -> Result<usize, UpdateError> {
    let mut at = 0;
    let mut left = count;
    while left > 0 {
        let size = left.min(CHUNK);
        let end = at + 2 + size.div_ceil(2);
        let part = bytes.get(at..end).ok_or(UpdateError::Truncated { at: bytes.len() })?;
        let scale = Scale::from_bits(u16::from_le_bytes([part[0], part[1]])).ok_or(UpdateError::Scale)?;
        let start = out.len();
        for index in 0..size {
            let byte = part[2 + index / 2];
            out.push(value(if index % 2 == 0 { byte & 15 } else { byte >> 4 }, scale)?);
        }
        // The value that set a scale has at least half of it, also among the coarse subnormal halves.
        if scale.fixed() != 0 && out[start..].iter().all(|value| *value == 0) {
            return Err(UpdateError::Scale);
        }
        if size % 2 == 1 && part[part.len() - 1] >> 4 != 0 {
            return Err(UpdateError::Padding);
        }
        at = end;
        left -= size;
    }
    Ok(at)
}

fn value(code: u8, scale: Scale) -> Result<i64, UpdateError> {
    let steps = i64::from(code) - 8;
    if code == 0 || (scale.fixed() == 0 && steps != 0) {
        return Err(UpdateError::Code);
    }
    Ok(steps.signum() * scale.times(LEVELS[steps.unsigned_abs() as usize]))
}
