//! Sums of many updates, made in groups and merged in any order, to the same bytes as if all were summed at once.
//!
//! Sums are exact: each update is clipped, weighted and rounded to a common [`Grid`] *before* anything is added, and
//! integers add up to the same whatever the grouping. The grid follows from what everybody knows before the round, so
//! groups need not agree on it. Rounding is stochastic, by numbers that follow from the update's bytes: right on
//! average, also for contributions whose weight is so light that the nearest multiple would be none. Weights add up as
//! the values do, and the mean is taken once, at the end.
//!
//! The mean is coded once (`mean_code`): anyone who has the sum arrives at the same bytes, and all others apply these.
//! The relative squared error of that coding is about 0.09 and is not fed back: a sum is nobody's, so nobody could keep
//! its residual. It need not be, since the error is independent of the mean and zero on average (docs/decisions/0027).
//! Peers go on feeding back what their own updates left out.

use shoal_wire::{
    Digest,
    manifest::{Codec, Outer},
};

use super::{
    Part, UpdateError,
    aggregate::{Contribution, Reader, limit, lower_median},
    fixed::{div_1024_half_even, div_half_even, to_f32},
    grid::Grid,
    mean_code, sum_code,
};
use crate::Layout;

/// How far an update may reach.
#[derive(Clone, Copy, Debug)]
pub enum Bounds<'a> {
    /// As in [`super::aggregate`]: the median rate of these updates, but between half and four times the median of the
    /// last rounds.
    Median { history: &'a [Vec<u64>] },
    /// These rates, one a tensor.
    Given(&'a [u64]),
}

/// The sum of a part of some updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialSum {
    /// Sum of the weights.
    pub weight: u64,
    pub contributors: u32,
    /// Median rate of each piece of a tensor: of the updates in a group, of the merged sums' medians further up.
    pub rates: Vec<u64>,
    /// Weighted values in the grid's units.
    pub(super) values: Vec<i64>,
}

/// Sums updates, part by part.
pub fn partial_sums(
    layout: &Layout,
    codec: Codec,
    contributions: &[Contribution<'_>],
    bounds: Bounds<'_>,
    grid: &Grid,
    parts: &[Part],
) -> Result<Vec<PartialSum>, UpdateError> {
    let mut reader = Reader::new(codec, contributions)?;
    let (weight, contributors) = (reader.weight() as u64, contributions.len() as u32);
    let (mut all, mut medians) = (Vec::with_capacity(layout.len()), Vec::new());
    for (index, tensor) in layout.tensors.iter().enumerate() {
        let rates = reader.tensor(tensor.len())?;
        let median = reader.median(&rates);
        let most = match bounds {
            Bounds::Median { history } => limit(median, history, index, tensor.len()),
            Bounds::Given(rates) => rates.get(index).copied().unwrap_or(0),
        };
        medians.push(median.min(most));
        all.extend(reader.sums(&rates, most, grid.shift(index)));
        all.resize(tensor.range().end, 0);
    }
    reader.finish()?;
    let cut = |part: &Part| PartialSum {
        weight,
        contributors,
        rates: part.tensors.iter().map(|tensor| medians[*tensor]).collect(),
        values: all[part.range()].to_vec(),
    };
    Ok(parts.iter().map(cut).collect())
}

impl PartialSum {
    /// Adds sums of the same part.
    pub fn merge(sums: &[Self]) -> Result<Self, UpdateError> {
        let (first, rest) = sums.split_first().ok_or(UpdateError::Parts)?;
        let mut merged = first.clone();
        for sum in rest {
            if sum.values.len() != merged.values.len() || sum.rates.len() != merged.rates.len() {
                return Err(UpdateError::Parts);
            }
            merged.weight = merged.weight.checked_add(sum.weight).ok_or(UpdateError::Overflow)?;
            merged.contributors = merged.contributors.checked_add(sum.contributors).ok_or(UpdateError::Overflow)?;
            for (value, other) in merged.values.iter_mut().zip(&sum.values) {
                *value = value.checked_add(*other).ok_or(UpdateError::Overflow)?;
            }
        }
        for (piece, rate) in merged.rates.iter_mut().enumerate() {
            *rate = lower_median(sums.iter().map(|sum| (sum.rates[piece], sum.weight)));
        }
        Ok(merged)
    }

    /// Parameters after the exact mean of what was summed, as [`super::aggregate`] would leave them.
    pub fn apply_exactly(
        &self,
        part: &Part,
        grid: &Grid,
        outer: &Outer,
        theta: &[f32],
    ) -> Result<Vec<f32>, UpdateError> {
        self.check(part)?;
        let range =
            theta.get(part.range()).ok_or(UpdateError::Length { got: theta.len(), expected: part.range().end })?;
        let divisor = i128::from(self.weight.max(1)) * 1024;
        let shifts = Self::shifts(part, grid);
        let step = |(sum, shift): (&i64, u32)| {
            div_half_even((i128::from(*sum) << shift) * i128::from(outer.alpha_1024), divisor) as i64
        };
        Ok(range.iter().zip(self.values.iter().zip(shifts)).map(|(value, sum)| value - to_f32(step(sum))).collect())
    }

    /// The mean of what was summed, as everybody applies it.
    pub fn code(&self, part: &Part, grid: &Grid) -> Result<Vec<u8>, UpdateError> {
        self.check(part)?;
        let divisor = i128::from(self.weight.max(1));
        let mean = |(sum, shift): (&i64, u32)| {
            div_half_even(i128::from(*sum) << shift, divisor).clamp(-(1 << 62), 1 << 62) as i64
        };
        let values: Vec<i64> = self.values.iter().zip(Self::shifts(part, grid)).map(mean).collect();
        Ok(mean_code::encode(&part.layout, &values, self.seed()))
    }

    /// Of the values alone: unlike the rates they do not depend on the grouping.
    fn seed(&self) -> u64 {
        let mut bytes = Vec::with_capacity(8 * self.values.len());
        self.values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        let digest = Digest::in_domain("shoal 2026 v1 mean dither", &bytes).0;
        digest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    pub fn to_bytes(&self, part: &Part) -> Vec<u8> {
        sum_code::encode(self, &part.layout)
    }

    /// Reads a sum of this part; there is one encoding of each.
    pub fn from_bytes(part: &Part, bytes: &[u8]) -> Result<Self, UpdateError> {
        let sum = sum_code::decode(&part.layout, bytes)?;
        if sum.to_bytes(part) == bytes { Ok(sum) } else { Err(UpdateError::NotCanonical) }
    }

    /// Rates of a sum of this part that others were shown to have found, without reading its values.
    pub fn rates_in(part: &Part, bytes: &[u8]) -> Result<Vec<u64>, UpdateError> {
        sum_code::rates(&part.layout, bytes)
    }

    fn check(&self, part: &Part) -> Result<(), UpdateError> {
        if self.values.len() == part.layout.len() { Ok(()) } else { Err(UpdateError::Parts) }
    }

    /// The grid's shift of each value.
    fn shifts(part: &Part, grid: &Grid) -> impl Iterator<Item = u32> {
        let shift =
            |(piece, tensor): (&crate::TensorInfo, &usize)| core::iter::repeat_n(grid.shift(*tensor), piece.len());
        let shifts: Vec<u32> = part.layout.tensors.iter().zip(&part.tensors).flat_map(shift).collect();
        shifts.into_iter()
    }
}

/// Parameters after the coded means of all parts; a part without one stays as it is.
pub fn apply(parts: &[Part], outer: &Outer, theta: &[f32], coded: &[Option<&[u8]>]) -> Result<Vec<f32>, UpdateError> {
    let mut next = theta.to_vec();
    for (part, bytes) in parts.iter().zip(coded) {
        let Some(bytes) = bytes else { continue };
        let values = mean_code::decode(&part.layout, bytes)?;
        let expected = part.range().end;
        let range = next.get_mut(part.range()).ok_or(UpdateError::Length { got: theta.len(), expected })?;
        for (parameter, value) in range.iter_mut().zip(values) {
            *parameter -= to_f32(div_1024_half_even(i128::from(value) * i128::from(outer.alpha_1024)) as i64);
        }
    }
    Ok(next)
}
