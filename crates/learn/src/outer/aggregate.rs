//! The outer step: clip each update, average them by weight, apply the mean.

use shoal_wire::{limits::ROSTER_MAX, manifest::Outer};

use super::{
    UpdateError,
    fixed::{div_half_even, to_f32},
    update::Decoder,
};
use crate::Layout;

const WEIGHT_MAX: u16 = 4095;

/// Applies updates with their weights to the parameters `theta`.
///
/// Each update is clipped per tensor by its rate, its norm per unit of weight: to the larger of the median rate of these
/// updates and half the median of `history`, the median rates of the last rounds (one vector a round, one rate a
/// tensor, oldest first). Returns the new parameters and this round's median rates, in units of 2⁻⁴⁰ at full weight;
/// no updates change nothing and have no rates.
pub fn aggregate(
    layout: &Layout,
    outer: &Outer,
    theta: &[f32],
    updates: &[(u16, &[u8])],
    history: &[Vec<u64>],
) -> Result<(Vec<f32>, Vec<u64>), UpdateError> {
    if theta.len() != layout.len() {
        return Err(UpdateError::Length { got: theta.len(), expected: layout.len() });
    }
    if updates.iter().any(|(weight, _)| *weight == 0 || *weight > WEIGHT_MAX) {
        return Err(UpdateError::Weight);
    }
    // The sums below are shown not to overflow for 32 updates (`fixed`); a roster has fewer members.
    if updates.len() > ROSTER_MAX {
        return Err(UpdateError::TooMany { got: updates.len() });
    }
    if updates.is_empty() {
        return Ok((theta.to_vec(), Vec::new()));
    }
    let mut decoders =
        updates.iter().map(|(_, bytes)| Decoder::new(outer.codec, bytes)).collect::<Result<Vec<_>, _>>()?;
    let weights: Vec<i64> = updates.iter().map(|(weight, _)| i64::from(*weight)).collect();
    let divisor = i128::from(weights.iter().sum::<i64>()) * 1024;
    let mut next = Vec::with_capacity(theta.len());
    let mut medians = Vec::with_capacity(layout.tensors.len());
    let mut decoded = vec![Vec::new(); updates.len()];
    for (index, tensor) in layout.tensors.iter().enumerate() {
        for (decoder, values) in decoders.iter_mut().zip(&mut decoded) {
            decoder.tensor(tensor.len(), values)?;
        }
        let rates: Vec<u64> =
            decoded.iter().zip(updates).map(|(values, (weight, _))| rate(norm(values), *weight)).collect();
        let median = median(rates.clone());
        medians.push(median);
        let past = history.iter().filter_map(|round| round.get(index).copied()).collect();
        let limit = median.max(self::median(past) / 2);
        let mut sums = vec![0_i64; tensor.len()];
        for ((values, rate), weight) in decoded.iter().zip(&rates).zip(&weights) {
            add(&mut sums, values, *weight, *rate, limit);
        }
        for (value, sum) in theta[tensor.range()].iter().zip(&sums) {
            let step = div_half_even(i128::from(*sum) * i128::from(outer.alpha_1024), divisor);
            next.push(value - to_f32(step as i64));
        }
    }
    for decoder in decoders {
        decoder.finish()?;
    }
    Ok((next, medians))
}

/// Adds one update's clipped and weighted values.
fn add(sums: &mut [i64], values: &[i64], weight: i64, rate: u64, limit: u64) {
    for (sum, value) in sums.iter_mut().zip(values) {
        let clipped = if rate <= limit || *value == 0 {
            *value
        } else {
            div_half_even(i128::from(*value) * i128::from(limit), i128::from(rate)) as i64
        };
        *sum += weight * clipped;
    }
}

/// Euclidean norm, rounded down, in units of 2⁻⁴⁰.
fn norm(values: &[i64]) -> u64 {
    let squares: u128 =
        values.iter().map(|value| u128::from(value.unsigned_abs()) * u128::from(value.unsigned_abs())).sum();
    squares.isqrt() as u64
}

/// What the norm would be at full weight, had every token taught as much.
fn rate(norm: u64, weight: u16) -> u64 {
    u64::try_from(u128::from(norm) * u128::from(WEIGHT_MAX) / u128::from(weight.max(1))).unwrap_or(u64::MAX)
}

/// The lower median; zero of nothing.
fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}
