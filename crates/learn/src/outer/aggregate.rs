//! The outer step: clip each update, average them by weight, apply the mean.

use shoal_wire::{
    limits::ROSTER_MAX,
    manifest::{Codec, Outer},
    share::Share,
};

use super::{
    UpdateError,
    dither::Dither,
    fixed::{FRACTION_BITS, div_half_even, to_f32},
    update::{CHECKSUM_BYTES, Decoder, Sent},
};
use crate::Layout;

/// A whole share: of the work that was assigned, or of what an author counts for.
pub(super) const SHARE_MAX: u16 = 4095;

/// One peer's update in a sum.
#[derive(Clone, Copy, Debug)]
pub struct Contribution<'a> {
    /// How much of the assigned work was done, 1 to 4,095. A rate is a norm per unit of it.
    pub work: u16,
    /// How much its author counts, 1 to 4,095, whatever it did.
    pub trust: u16,
    pub update: &'a [u8],
}

impl Contribution<'_> {
    /// Its weight in the sum, 1 to 4,095.
    pub(super) fn weight(&self) -> i64 {
        (i64::from(self.work) * i64::from(self.trust) / i64::from(SHARE_MAX)).max(1)
    }

    /// Of its update's checksum: another one for each update.
    fn dither(&self) -> Dither {
        let sum = self.update.last_chunk::<CHECKSUM_BYTES>().copied().unwrap_or_default();
        Dither::new(u32::from_le_bytes(sum).into())
    }
}

/// Applies updates with their weights to the parameters `theta`.
///
/// Each update is clipped per tensor by its rate, its norm per unit of weight: to the median rate of these updates, but
/// between half and four times the median of `history`, the median rates of the last rounds (one vector a round, one rate a
/// tensor, oldest first); without any, to a root mean square of a quarter. Their mean is applied at α times the root of the `share` of the promised weight that they are
/// (docs/decisions/0026). Returns the new parameters and this round's median rates, in units of 2⁻⁴⁰ at full weight;
/// no updates change nothing and have no rates.
pub fn aggregate(
    layout: &Layout,
    outer: &Outer,
    theta: &[f32],
    updates: &[(u16, &[u8])],
    history: &[Vec<u64>],
    share: Share,
) -> Result<(Vec<f32>, Vec<u64>), UpdateError> {
    if theta.len() != layout.len() {
        return Err(UpdateError::Length { got: theta.len(), expected: layout.len() });
    }
    let contributions: Vec<Contribution<'_>> =
        updates.iter().map(|(work, update)| Contribution { work: *work, trust: SHARE_MAX, update }).collect();
    let mut reader = Reader::new(outer.codec, &contributions)?;
    if updates.is_empty() {
        return Ok((theta.to_vec(), Vec::new()));
    }
    let divisor = divisor(reader.weight(), share);
    let mut next = Vec::with_capacity(theta.len());
    let mut medians = Vec::with_capacity(layout.tensors.len());
    for (index, tensor) in layout.tensors.iter().enumerate() {
        let rates = reader.tensor(tensor.len())?;
        let median = reader.median(&rates);
        let most = limit(median, history, index, tensor.len());
        medians.push(median.min(most));
        let sums = reader.sums(&rates, most, 0);
        for (value, sum) in theta[tensor.range()].iter().zip(&sums) {
            let step = div_half_even(i128::from(*sum) * i128::from(outer.alpha_1024), divisor);
            next.push(value - to_f32(step as i64));
        }
    }
    reader.finish()?;
    Ok((next, medians))
}

/// What a sum times α in 1/1,024 is divided by: 1,024 times the weight, and the root of what was promised over what was taken.
fn divisor(weight: i64, share: Share) -> i128 {
    let taken = u128::from(share.taken.max(1));
    let promised = u128::from(share.promised).max(taken);
    let weight = u128::from(weight.unsigned_abs()) * 1024;
    (weight * weight * promised / taken).isqrt() as i128
}

/// The largest rate of a tensor of `count` values that passes: these updates' median, but at least half and at most four
/// times the median of the last rounds, which a warm-up of the learning rate stays within. Where there is none a root mean square of a quarter is most: far more than honest work
/// changes in a round, and little enough that a first round in which liars are the majority can be made good.
pub(super) fn limit(median: u64, history: &[Vec<u64>], tensor: usize, count: usize) -> u64 {
    match past(history, tensor) {
        0 => median.min((count as u64).isqrt().max(1) << (FRACTION_BITS - 2)),
        past => median.clamp(past / 2, past.saturating_mul(4)),
    }
}

/// The lower median of a tensor's rate over the last rounds; zero without any.
pub(super) fn past(history: &[Vec<u64>], tensor: usize) -> u64 {
    lower_median(history.iter().filter_map(|round| round.get(tensor)).map(|rate| (*rate, 1)))
}

/// Reads updates side by side, one tensor at a time.
pub(super) struct Reader<'a> {
    contributions: &'a [Contribution<'a>],
    decoders: Vec<Decoder<'a>>,
    sent: Vec<Sent>,
    /// The last tensor's first value in the model, and how many it has.
    start: usize,
    count: usize,
}

impl<'a> Reader<'a> {
    pub fn new(codec: Codec, contributions: &'a [Contribution<'a>]) -> Result<Self, UpdateError> {
        let shares = contributions.iter().flat_map(|one| [one.work, one.trust]);
        if shares.into_iter().any(|share| share == 0 || share > SHARE_MAX) {
            return Err(UpdateError::Weight);
        }
        // Sums of what is read here are shown not to overflow for 32 updates (`fixed`); a roster has fewer members.
        if contributions.len() > ROSTER_MAX {
            return Err(UpdateError::TooMany { got: contributions.len() });
        }
        let decoders = contributions.iter().map(|one| Decoder::new(codec, one.update)).collect::<Result<_, _>>()?;
        let sent = contributions.iter().map(|_| Sent::new(codec)).collect();
        Ok(Self { contributions, decoders, sent, start: 0, count: 0 })
    }

    /// The sum of the weights.
    pub fn weight(&self) -> i64 {
        self.contributions.iter().map(Contribution::weight).sum()
    }

    /// Reads the next tensor; returns each update's rate, what its norm would be had every token been trained.
    pub fn tensor(&mut self, count: usize) -> Result<Vec<u64>, UpdateError> {
        self.start += self.count;
        self.count = count;
        for (decoder, sent) in self.decoders.iter_mut().zip(&mut self.sent) {
            decoder.sent(count, sent)?;
        }
        Ok(self.sent.iter().zip(self.contributions).map(|(sent, one)| rate(norm(sent), one.work)).collect())
    }

    /// The lower median of these rates, each counting as much as its author.
    pub fn median(&self, rates: &[u64]) -> u64 {
        lower_median(rates.iter().zip(self.contributions).map(|(rate, one)| (*rate, u64::from(one.trust))))
    }

    /// The last tensor's values, clipped, weighted, rounded to multiples of 2^`shift` and summed, in units of 2^(`shift` − 40).
    /// How a value is rounded follows from its update's bytes and its place, so it is the same in every sum.
    pub fn sums(&self, rates: &[u64], limit: u64, shift: u32) -> Vec<i64> {
        let mut sums = vec![0_i64; self.count];
        for ((sent, rate), one) in self.sent.iter().zip(rates).zip(self.contributions) {
            let (weight, dither, start) = (one.weight(), one.dither(), self.start as u64);
            add(&mut sums, sent, |place, value| {
                dither.round(weight * clip(value, *rate, limit), shift, start + place as u64)
            });
        }
        sums
    }

    pub fn finish(self) -> Result<(), UpdateError> {
        self.decoders.into_iter().try_for_each(Decoder::finish)
    }
}

/// Adds one update's values after `weighted`.
fn add(sums: &mut [i64], sent: &Sent, weighted: impl Fn(usize, i64) -> i64) {
    match sent {
        Sent::All(values) => {
            sums.iter_mut().zip(values).enumerate().for_each(|(place, (sum, value))| *sum += weighted(place, *value));
        }
        Sent::Some(values) => values.iter().for_each(|(place, value)| sums[*place] += weighted(*place, *value)),
    }
}

fn clip(value: i64, rate: u64, limit: u64) -> i64 {
    if rate <= limit || value == 0 {
        return value;
    }
    div_half_even(i128::from(value) * i128::from(limit), i128::from(rate)) as i64
}

/// Euclidean norm, rounded down, in units of 2⁻⁴⁰.
fn norm(sent: &Sent) -> u64 {
    let square = |value: &i64| u128::from(value.unsigned_abs()) * u128::from(value.unsigned_abs());
    let squares: u128 = match sent {
        Sent::All(values) => values.iter().map(square).sum(),
        Sent::Some(values) => values.iter().map(|(_, value)| square(value)).sum(),
    };
    squares.isqrt() as u64
}

/// What the norm would be at full weight, had every token taught as much.
fn rate(norm: u64, work: u16) -> u64 {
    u64::try_from(u128::from(norm) * u128::from(SHARE_MAX) / u128::from(work.max(1))).unwrap_or(u64::MAX)
}

/// The smallest value at which half of the weight is reached; zero of nothing.
pub(super) fn lower_median(values: impl Iterator<Item = (u64, u64)>) -> u64 {
    let mut values: Vec<(u64, u64)> = values.collect();
    values.sort_unstable();
    let total: u128 = values.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let mut reached = 0;
    let found = values.iter().find(|(_, weight)| {
        reached += u128::from(*weight);
        2 * reached >= total
    });
    found.map_or(0, |(value, _)| *value)
}
