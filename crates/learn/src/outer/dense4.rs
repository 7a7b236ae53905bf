//! Codec `dense4`: every value, rounded to a multiple of 249/1,024 of its chunk's scale and entropy-coded. About 4.09
//! bits a value.
//!
//! A chunk is 4,096 values of one tensor, with one f16 scale: about their root mean square. An entropy-coded uniform
//! quantiser is within a quarter of a bit of the best that any code can do (Gish and Pierce, 1968): a step of 0.243
//! leaves a relative squared error of step²/12 = 0.0049. The coder's table is that of a Gaussian; since it is set by
//! the second moment alone, values of any distribution with the same scale cost about as many bits. Values beyond
//! 31 steps (7.5 scales) are cut off there, and error feedback keeps the rest.
//!
//! One stream carries the whole update: the coder's state, then for each chunk its scale and, unless it is zero, its
//! levels. A chunk of zeros has scale zero: no other scale is accepted for it, so silence has one encoding.

use super::{
    UpdateError,
    fixed::Scale,
    rans::{Decoder, Encoder},
    rans_table::{self, LARGEST},
};
use crate::Layout;

const CHUNK: usize = 4096;

/// Between two levels, in 1/1,024 of the scale.
pub(super) const STEP: i64 = 249;

/// Scales to try, in 1/256 of the root mean square. The first keeps nearly every Gaussian chunk within 1/200; a finer
/// step helps the unlucky ones, and a wider reach those with values far beyond the others.
const SCALES: [i64; 10] = [256, 255, 254, 253, 252, 250, 248, 512, 1024, 2048];

/// Largest magnitude that counts when scales are compared: far beyond the reach of a scale of 1, and squares of it sum
/// to less than 2^104 in a chunk.
const MAGNITUDE_MAX: u64 = 1 << 46;

/// Appends the stream of a whole model's fixed-point values.
pub(super) fn encode(layout: &Layout, values: &[i64], out: &mut Vec<u8>) {
    let mut encoder = Encoder::new(&rans_table::DENSE4);
    let mut levels = Vec::with_capacity(CHUNK);
    for tensor in layout.tensors.iter().rev() {
        for chunk in values[tensor.range()].chunks(CHUNK).rev() {
            let scale = quantise(chunk, &mut levels);
            levels.iter().rev().for_each(|level| encoder.level(*level));
            encoder.plain(scale.bits().to_le_bytes());
        }
    }
    encoder.finish(out);
}

/// Chooses a chunk's scale and levels: the first scale with a squared error of at most 1/200, otherwise the best.
/// A chunk whose scale is zero has no levels.
///
/// The levels are never all zero. The first scale is at most twice the root (where a subnormal half was rounded up), so
/// the largest value is two steps or more and the error is less than the energy; what is chosen has no larger error.
fn quantise(chunk: &[i64], levels: &mut Vec<i8>) -> Scale {
    levels.clear();
    let magnitudes = chunk.iter().map(|value| u128::from(value.unsigned_abs().min(MAGNITUDE_MAX)));
    let energy: u128 = magnitudes.map(|magnitude| magnitude * magnitude).sum();
    let root = (energy / chunk.len().max(1) as u128).isqrt() as i64;
    let mut best = (u128::MAX, Scale::nearest(0));
    if Scale::nearest(root).fixed() == 0 {
        return best.1;
    }
    for part in SCALES {
        let scale = Scale::nearest(root * part / 256);
        let error = round(chunk, scale, levels);
        if error * 200 <= energy {
            return scale;
        }
        if error < best.0 {
            best = (error, scale);
        }
    }
    round(chunk, best.1, levels);
    best.1
}

/// Rounds to the levels of a scale and returns the squared error.
fn round(chunk: &[i64], scale: Scale, levels: &mut Vec<i8>) -> u128 {
    levels.clear();
    let step = scale.times(STEP).unsigned_abs().max(1);
    // Which of two levels a value between them gets is this peer's own affair, so a product with the inverse, far
    // faster than a division, is good enough.
    let inverse = 1.0 / step as f64;
    let mut error = 0;
    levels.extend(chunk.iter().map(|value| {
        let magnitude = value.unsigned_abs().min(MAGNITUDE_MAX);
        let level = ((magnitude as f64 * inverse + 0.5) as i64).min(LARGEST);
        let off = u128::from(magnitude.abs_diff(level.unsigned_abs() * step));
        error += off * off;
        (level * value.signum()) as i8
    }));
    error
}

/// Reads the next tensor, of `count` values.
pub(super) fn decode(stream: &mut Decoder<'_>, count: usize, out: &mut Vec<i64>) -> Result<(), UpdateError> {
    let mut left = count;
    while left > 0 {
        let size = left.min(CHUNK);
        let scale = Scale::from_bits(u16::from_le_bytes(stream.plain()?)).ok_or(UpdateError::Scale)?;
        let start = out.len();
        if scale.fixed() == 0 {
            out.resize(start + size, 0);
        } else {
            let step = scale.times(STEP);
            for _ in 0..size {
                out.push(step * i64::from(stream.level()?));
            }
            if out[start..].iter().all(|value| *value == 0) {
                return Err(UpdateError::Scale);
            }
        }
        left -= size;
    }
    Ok(())
}
