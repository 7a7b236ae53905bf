//! The code of a mean: a uniform quantiser with subtractive dither (Roberts, 1962; Schuchman, 1964), entropy-coded.
//! About 2.1 bits a value.
//!
//! A value x becomes q = round(x / step + u) and is read as (q − u) · step, where u is drawn evenly from half a step
//! either way and known to both sides. Its error is then uniform in half a step either way whatever the value is, and
//! zero on average: over rounds nothing is rounded away, although nobody keeps what a mean left out. A chunk is 4,096
//! values of one tensor; the step is 1,075/1,024 of its scale, so the relative squared error is step²/12 = 0.092. That
//! takes 0.38 bits more than any code of Gaussian values must: 0.25 for quantising one value at a time, the rest for an
//! error independent of the values (Zamir and Feder, 1992) and for one table for all u.
//!
//! The scale is the root mean square (f16), or what it takes for the largest value to be within 31 steps: only values
//! beyond 31 steps of a scale of 1 are cut off. A chunk has scale zero, and no levels, if it is all zeros. No other
//! chunk has: levels that are all zero are read as noise of half a step, which is right on average where silence would
//! not be.
//!
//! A version (1 byte), the seed of u (u64, little-endian), the coder's stream, and four bytes of checksum as an update
//! has. The stream is the coder's state, then for each chunk its scale and its levels. Those who code a sum must arrive
//! at the same bytes, so the encoder is integer arithmetic, too, but for the scale's conversion to an f16, which IEEE
//! 754 defines.

use super::{
    UpdateError,
    dither::Dither,
    fixed::Scale,
    rans::{Decoder, Encoder},
    rans_table::{self, LARGEST},
    update::{CHECKSUM_BYTES, checksum},
};
use crate::Layout;

const VERSION: u8 = 1;
const CHUNK: usize = 4096;

/// Between two levels, in 1/1,024 of the scale.
pub(super) const STEP: i64 = 1075;

/// u is an odd multiple of 2⁻¹⁶: as many on one side of zero as on the other.
const DITHER_BITS: u32 = 16;

/// x / step is x times the step's inverse in units of 2⁻⁵⁷. A step is between 2¹⁶ and 2⁴¹, so the inverse has 16 bits
/// or more; 32 steps stay below 2⁶³.
const INVERSE_BITS: u32 = 57;

/// Largest magnitude that counts when a scale is chosen: beyond the reach of a scale of 1, and squares of it sum to
/// less than 2^104 in a chunk.
const MAGNITUDE_MAX: u64 = 1 << 46;

/// u of the value at a place.
fn offset(dither: Dither, place: usize) -> i64 {
    2 * (dither.at(place as u64) >> (65 - DITHER_BITS)) as i64 + 1 - (1 << (DITHER_BITS - 1))
}

/// Encodes fixed-point values of a part.
pub(super) fn encode(layout: &Layout, values: &[i64], seed: u64) -> Vec<u8> {
    let dither = Dither::new(seed);
    let mut encoder = Encoder::new(&rans_table::MEAN);
    let mut levels = Vec::with_capacity(CHUNK);
    for tensor in layout.tensors.iter().rev() {
        for (index, chunk) in values[tensor.range()].chunks(CHUNK).enumerate().rev() {
            let scale = scale(chunk);
            quantise(chunk, scale, dither, tensor.offset + index * CHUNK, &mut levels);
            levels.iter().rev().for_each(|level| encoder.level(*level));
            encoder.plain(scale.bits().to_le_bytes());
        }
    }
    let mut out = vec![VERSION];
    out.extend(seed.to_le_bytes());
    encoder.finish(&mut out);
    out.extend(checksum(&out));
    out
}

fn scale(chunk: &[i64]) -> Scale {
    let (mut energy, mut largest) = (0, 0);
    for value in chunk {
        let magnitude = value.unsigned_abs().min(MAGNITUDE_MAX);
        energy += u128::from(magnitude) * u128::from(magnitude);
        largest = largest.max(magnitude as i64);
    }
    let root = (energy / chunk.len().max(1) as u128).isqrt() as i64;
    let scale = Scale::nearest(root.max(largest * 1024 / (LARGEST * STEP)));
    // The nearest half may be a smaller number, or zero.
    if LARGEST * scale.times(STEP) < largest { scale.next() } else { scale }
}

/// The levels of a chunk that begins at `place`.
fn quantise(chunk: &[i64], scale: Scale, dither: Dither, place: usize, levels: &mut Vec<i8>) {
    levels.clear();
    let step = scale.times(STEP);
    if step == 0 {
        return;
    }
    let (inverse, reach) = ((1_i64 << INVERSE_BITS) / step, LARGEST * step);
    levels.extend(chunk.iter().zip(place..).map(|(value, place)| {
        let moved = value.clamp(&-reach, &reach) * inverse + (offset(dither, place) << (INVERSE_BITS - DITHER_BITS));
        ((moved + (1 << (INVERSE_BITS - 1))) >> INVERSE_BITS) as i8
    }));
}

/// All values of a part, in units of 2⁻⁴⁰.
pub(super) fn decode(layout: &Layout, bytes: &[u8]) -> Result<Vec<i64>, UpdateError> {
    let truncated = UpdateError::Truncated { at: bytes.len() };
    let (content, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(truncated)?;
    if checksum(content) != *sum {
        return Err(UpdateError::Checksum);
    }
    let body = content.strip_prefix(&[VERSION]).ok_or(UpdateError::Header)?;
    let (seed, stream) = body.split_first_chunk().ok_or(truncated)?;
    let dither = Dither::new(u64::from_le_bytes(*seed));
    let mut stream = Decoder::new(&rans_table::MEAN, stream)?;
    let mut values = Vec::with_capacity(layout.len());
    for tensor in &layout.tensors {
        for at in tensor.range().step_by(CHUNK) {
            let scale = Scale::from_bits(u16::from_le_bytes(stream.plain()?)).ok_or(UpdateError::Scale)?;
            read_chunk(&mut stream, scale, dither, at..tensor.range().end.min(at + CHUNK), &mut values)?;
        }
    }
    stream.finish()?;
    Ok(values)
}

fn read_chunk(
    stream: &mut Decoder<'_>,
    scale: Scale,
    dither: Dither,
    places: core::ops::Range<usize>,
    values: &mut Vec<i64>,
) -> Result<(), UpdateError> {
    let step = scale.times(STEP);
    if step == 0 {
        values.resize(places.end, 0);
        return Ok(());
    }
    for place in places {
        // At most 31.5 steps, each below 2⁴¹: with 16 bits more they stay below 2⁶².
        let level = (i64::from(stream.level()?) << DITHER_BITS) - offset(dither, place);
        values.push((level * step + (1 << (DITHER_BITS - 1))) >> DITHER_BITS);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
