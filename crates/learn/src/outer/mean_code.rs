//! The code of a mean: a uniform quantiser with subtractive dither (Roberts, 1962; Schuchman, 1964), entropy-coded.
//! About 2.1 bits a value.
//!
//! A value x becomes q = round(x / step + u) and is read as (q − u) · step, where u is drawn evenly from half a step either
//! way and known to both sides. Its error is then uniform in half a step either way whatever the value is, and zero on average: over
//! rounds nothing is rounded away, although nobody keeps what a mean left out. A chunk is 4,096 values of one tensor; the
//! step is 1,075/1,024 of its scale, so the relative squared error is step²/12 = 0.092, within a quarter of a bit of what any code
//! can do, and a thirtieth more for coding q without regard to u (Zamir and Feder, 1992).
//!
//! The scale is the root mean square (f16), or what it takes for the largest value to be within 31 steps: only values
//! beyond 31 steps of a scale of 1 are cut off. A chunk has scale zero, and no levels, if it is all zeros. No other chunk has: levels that
//! are all zero are read as noise of half a step, which is right on average where silence would not be.
//!
//! A version (1 byte), the seed of u (u64, little-endian), the coder's stream, and four bytes of checksum as an update has. The stream is
//! the coder's state, then for each chunk its scale and its levels. Those who code a sum must arrive at the same bytes, so
//! the encoder is integer arithmetic, too.

use super::{
    UpdateError,
    dither::Dither,
    fixed::{Scale, shr_half_even},
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

/// x / step is x times the step's inverse in units of 2⁻⁵⁷. A step is between 2¹⁶ and 2⁴¹, so the inverse has 16 bits or more; 32 steps
/// stay below 2⁶³.
const INVERSE_BITS: u32 = 57;

/// Largest magnitude that counts when a scale is chosen: beyond the reach of a scale of 1, and squares of it sum to less
/// than 2^104 in a chunk.
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
        values.push(shr_half_even(level * step, DITHER_BITS));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TensorInfo;

    fn layout(sizes: &[usize]) -> Layout {
        let mut offset = 0;
        let tensors = sizes.iter().map(|size| {
            offset += size;
            TensorInfo { name: "t".to_owned(), shape: vec![*size], offset: offset - size }
        });
        Layout { tensors: tensors.collect() }
    }

    fn read(layout: &Layout, values: &[i64], seed: u64) -> Vec<i64> {
        decode(layout, &encode(layout, values, seed)).expect("a code")
    }

    /// About Gaussian (Irwin and Hall) with this root mean square.
    fn gaussian(count: usize, size: f64) -> Vec<i64> {
        let numbers = Dither::new(9);
        let uniform = |at: usize| numbers.at(at as u64) as f64 / 2_f64.powi(64);
        (0..count).map(|at| (((0..12).map(|part| uniform(12 * at + part)).sum::<f64>() - 6.0) * size) as i64).collect()
    }

    fn energy(values: impl Iterator<Item = i64>) -> f64 {
        values.map(|value| (value as f64).powi(2)).sum()
    }

    #[test]
    fn the_error_is_a_twelfth_of_the_squared_step_and_a_value_costs_2_1_bits() {
        let layout = layout(&[4096 * 64]);
        let values = gaussian(4096 * 64, 1e9);
        let code = encode(&layout, &values, 5);
        let read = decode(&layout, &code).expect("a code");
        let error = energy(read.iter().zip(&values).map(|(read, value)| read - value)) / energy(values.iter().copied());
        let (ideal, bits) = ((STEP as f64 / 1024.0).powi(2) / 12.0, code.len() as f64 * 8.0 / values.len() as f64);
        println!("relative squared error {error:.4}, ideally {ideal:.4}; {bits:.3} bits a value");
        assert!((error / ideal - 1.0).abs() < 0.05, "{error} instead of {ideal}");
        assert!(bits < 2.15, "{bits} bits a value");
    }

    #[test]
    fn over_many_codes_every_value_comes_through_however_small() {
        const CODES: u64 = 4000;
        let layout = layout(&[4096]);
        let mut values = gaussian(4096, 1e9);
        // From a thousandth of the root mean square down to nothing, and the largest that the scale must reach.
        values[..6].copy_from_slice(&[1_000_000, -1_000_000, 30_000_000, 1, 0, 20_000_000_000]);
        let mut sums = vec![0; values.len()];
        for seed in 0..CODES {
            read(&layout, &values, seed).iter().zip(&mut sums).for_each(|(read, sum)| *sum += read);
        }
        let mean = |sum: &i64| *sum as f64 / CODES as f64;
        let off = energy(sums.iter().zip(&values).map(|(sum, value)| mean(sum) as i64 - value));
        let error = off / energy(values.iter().copied()) * CODES as f64;
        // As large as that of one code over their number: nothing is left that is common to all.
        assert!((0.08..0.1).contains(&error), "{error}");
        for (sum, value) in sums.iter().zip(&values) {
            let off = (mean(sum) - *value as f64).abs();
            assert!(off < 5.0 * 1.1e9 * 0.29 / (CODES as f64).sqrt(), "{value} is off by {off}");
        }
    }

    #[test]
    fn no_value_is_off_by_more_than_half_a_step_unless_it_is_beyond_the_largest_scale() {
        let layout = layout(&[4096 + 5, 1, 300]);
        let chunks = [(0, 0..4096), (4095, 0..4096), (4100, 4096..4101), (4101, 4101..4102), (4102, 4102..4402)];
        for spike in [1, 1 << 10, 1 << 15, 1 << 20, 1 << 30, 1 << 40, 32 << 40] {
            for (at, chunk) in chunks.clone() {
                let mut values = vec![0; layout.len()];
                values[at] = -spike;
                let half = 1 + STEP * scale(&values[chunk]).fixed() / 2048;
                assert!(
                    read(&layout, &values, 3).iter().zip(&values).all(|(read, value)| (read - value).abs() <= half)
                );
            }
        }
        let (step, far) = (STEP << 30, read(&layout, &vec![-1 << 60; layout.len()], 3));
        assert!(far.iter().all(|value| (value + 31 * step).abs() <= step / 2));
    }

    #[test]
    fn silence_has_one_code_and_levels_of_zero_are_no_silence() {
        let layout = layout(&[4096, 7]);
        assert_eq!(encode(&layout, &vec![0; layout.len()], 1).len(), 1 + 8 + 4 + 2 * 2 + 4);
        assert_eq!(read(&layout, &vec![0; layout.len()], 1), vec![0; layout.len()]);
        // The smallest value gets the smallest scale; where its level is zero all that is read is dither.
        let mut values = vec![0; layout.len()];
        values[4096] = 1;
        let noise = read(&layout, &values, 1);
        assert!(noise[..4096].iter().all(|value| *value == 0));
        assert!(noise[4096..].iter().all(|value| *value != 0 && value.abs() <= 1 + STEP * (1 << 16) / 2048));
    }

    #[test]
    fn damage_is_found_and_what_a_liar_writes_is_refused_by_name() {
        let layout = layout(&[300, 4096]);
        let whole = encode(&layout, &gaussian(layout.len(), 1e8), 2);
        let sealed = |content: &[u8]| [content, &checksum(content)].concat();
        let content = &whole[..whole.len() - CHECKSUM_BYTES];
        let refused = |bytes: &[u8]| decode(&layout, bytes).expect_err("damaged");
        for at in [0, 1, 9, 13, 200, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 16;
            assert_eq!(refused(&damaged), UpdateError::Checksum);
        }
        assert_eq!(refused(&whole[..3]), UpdateError::Truncated { at: 3 });
        assert_eq!(refused(&sealed(&[1, 2, 3])), UpdateError::Truncated { at: 7 });
        assert_eq!(refused(&sealed(&[&[2], &content[1..]].concat())), UpdateError::Header);
        assert_eq!(refused(&sealed(&[content, &[0]].concat())), UpdateError::Trailing { bytes: 1 });
        assert!(matches!(refused(&sealed(&content[..content.len() - 1])), UpdateError::Truncated { .. }));
        let mut coder = content.to_vec();
        coder[9..13].copy_from_slice(&[0; 4]);
        assert_eq!(refused(&sealed(&coder)), UpdateError::Coder);
        let mut scale = content.to_vec();
        scale[13..15].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(refused(&sealed(&scale)), UpdateError::Scale);
    }
}
