//! How a [`PartialSum`] travels.
//!
//! A version (1 byte), the weight (u64), the contributors (u32) and a rate for each piece of a tensor (u64), all
//! little-endian; then chunks of 4,096 values, and four bytes of checksum, as an update has. A chunk is coded in one of two
//! ways, whichever takes fewer bits: *dense*, every value; or *sparse*, the gaps between values that are not zero, then
//! these. All are Rice codes whose parameter follows from the mean as in JPEG-LS (Weinberger, Seroussi, Sapiro, 2000): k is
//! the smallest with n · 2^k at least the sum. On Gaussian updates of `topk`, that is about 1.7 bits a parameter for 16 updates and
//! 5.2 for 256; a test holds it to this.

use super::{
    PartialSum, UpdateError,
    bits::{BitReader, BitWriter},
    topk::CHUNK,
    update::{CHECKSUM_BYTES, checksum},
};
use crate::Layout;

const VERSION: u8 = 1;
/// A quotient of this many ones says that the number follows as it is, in 64 bits.
const ESCAPE: u32 = 24;
const K_BITS: u32 = 6;
const COUNT_BITS: u32 = 13;

pub(super) fn encode(sum: &PartialSum, layout: &Layout) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend(sum.weight.to_le_bytes());
    out.extend(sum.contributors.to_le_bytes());
    sum.rates.iter().for_each(|rate| out.extend(rate.to_le_bytes()));
    let mut bits = BitWriter::default();
    for tensor in &layout.tensors {
        sum.values[tensor.range()].chunks(CHUNK).for_each(|chunk| write_chunk(chunk, &mut bits));
    }
    out.extend(bits.finish());
    out.extend(checksum(&out));
    out
}

/// What stands before the values.
struct Head<'a> {
    weight: u64,
    contributors: u32,
    rates: Vec<u64>,
    rest: &'a [u8],
}

fn head<'a>(layout: &Layout, bytes: &'a [u8]) -> Result<Head<'a>, UpdateError> {
    let truncated = UpdateError::Truncated { at: bytes.len() };
    let (content, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(truncated)?;
    if checksum(content) != *sum {
        return Err(UpdateError::Checksum);
    }
    let (head, rest) = content.split_first_chunk::<13>().ok_or(truncated)?;
    if head[0] != VERSION {
        return Err(UpdateError::Header);
    }
    let (mut weight, mut contributors) = ([0; 8], [0; 4]);
    weight.copy_from_slice(&head[1..9]);
    contributors.copy_from_slice(&head[9..]);
    let (rates, rest) = rest.split_at_checked(8 * layout.tensors.len()).ok_or(truncated)?;
    let rate = |part: &[u8]| part.iter().rev().fold(0, |rate, byte| rate << 8 | u64::from(*byte));
    Ok(Head {
        weight: u64::from_le_bytes(weight),
        contributors: u32::from_le_bytes(contributors),
        rates: rates.chunks_exact(8).map(rate).collect(),
        rest,
    })
}

/// The rates alone, which takes no reading of values.
pub(super) fn rates(layout: &Layout, bytes: &[u8]) -> Result<Vec<u64>, UpdateError> {
    Ok(head(layout, bytes)?.rates)
}

pub(super) fn decode(layout: &Layout, bytes: &[u8]) -> Result<PartialSum, UpdateError> {
    let Head { weight, contributors, rates, rest } = head(layout, bytes)?;
    let mut bits = BitReader::new(rest);
    let mut values = Vec::new();
    for tensor in &layout.tensors {
        for at in (0..tensor.len()).step_by(CHUNK) {
            read_chunk(CHUNK.min(tensor.len() - at), &mut bits, &mut values)?;
        }
    }
    match rest.len() - bits.finish()? {
        0 => Ok(PartialSum { weight, contributors, rates, values }),
        left => Err(UpdateError::Trailing { bytes: left }),
    }
}

/// A chunk's numbers in one of the two ways, with the parameters of their codes.
struct Plan {
    gaps: Option<(u32, Vec<u64>)>,
    k: u32,
    numbers: Vec<u64>,
}

impl Plan {
    fn dense(chunk: &[i64]) -> Self {
        let numbers: Vec<u64> = chunk.iter().map(|value| zigzag(*value)).collect();
        Self { gaps: None, k: parameter(&numbers), numbers }
    }

    fn sparse(chunk: &[i64]) -> Self {
        let (mut gaps, mut numbers, mut next) = (Vec::new(), Vec::new(), 0);
        for (index, value) in chunk.iter().enumerate().filter(|(_, value)| **value != 0) {
            gaps.push((index - next) as u64);
            numbers.push(zigzag(*value) - 1);
            next = index + 1;
        }
        Self { gaps: Some((parameter(&gaps), gaps)), k: parameter(&numbers), numbers }
    }

    fn bits(&self) -> u64 {
        let gaps = self.gaps.as_ref().map_or(0, |(k, gaps)| u64::from(COUNT_BITS + K_BITS) + cost(gaps, *k));
        gaps + cost(&self.numbers, self.k)
    }
}

fn write_chunk(chunk: &[i64], bits: &mut BitWriter) {
    let (dense, sparse) = (Plan::dense(chunk), Plan::sparse(chunk));
    let plan = if sparse.bits() < dense.bits() { sparse } else { dense };
    bits.bits(u32::from(plan.gaps.is_some()), 1);
    bits.bits(plan.k, K_BITS);
    if let Some((k, gaps)) = &plan.gaps {
        bits.bits(gaps.len() as u32, COUNT_BITS);
        bits.bits(*k, K_BITS);
        for gap in gaps {
            write(bits, *gap, *k);
        }
    }
    for number in &plan.numbers {
        write(bits, *number, plan.k);
    }
}

fn read_chunk(size: usize, bits: &mut BitReader<'_>, values: &mut Vec<i64>) -> Result<(), UpdateError> {
    let sparse = bits.bits(1)? == 1;
    let k = bits.bits(K_BITS)?;
    if !sparse {
        for _ in 0..size {
            values.push(unzigzag(read(bits, k)?));
        }
        return Ok(());
    }
    let count = bits.bits(COUNT_BITS)? as usize;
    let gap_k = bits.bits(K_BITS)?;
    let (start, mut next) = (values.len(), 0);
    let mut indices = Vec::new();
    for _ in 0..count.min(size) {
        let gap = usize::try_from(read(bits, gap_k)?).map_err(|_| UpdateError::Index)?;
        let index = gap.checked_add(next).filter(|index| *index < size).ok_or(UpdateError::Index)?;
        indices.push(index);
        next = index + 1;
    }
    values.resize(start + size, 0);
    for index in indices {
        let number = read(bits, k)?.checked_add(1).ok_or(UpdateError::Overflow)?;
        values[start + index] = unzigzag(number);
    }
    Ok(())
}

/// 0, −1, 1, −2, 2, ... as 0, 1, 2, 3, 4, ...
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

fn parameter(numbers: &[u64]) -> u32 {
    let sum: u128 = numbers.iter().map(|number| u128::from(*number)).sum();
    (0..63).find(|k| (numbers.len() as u128) << k >= sum).unwrap_or(63)
}

fn cost(numbers: &[u64], k: u32) -> u64 {
    numbers
        .iter()
        .map(|number| if number >> k < u64::from(ESCAPE) { (number >> k) + 1 + u64::from(k) } else { 88 })
        .sum()
}

fn write(bits: &mut BitWriter, number: u64, k: u32) {
    let quotient = number >> k;
    if quotient >= u64::from(ESCAPE) {
        bits.bits(u32::MAX, ESCAPE);
        bits.bits(number as u32, 32);
        bits.bits((number >> 32) as u32, 32);
        return;
    }
    bits.bits((1 << quotient) - 1, quotient as u32 + 1);
    bits.bits(number as u32, k.min(32));
    bits.bits((number >> 32) as u32, k.saturating_sub(32));
}

fn read(bits: &mut BitReader<'_>, k: u32) -> Result<u64, UpdateError> {
    let mut quotient = 0;
    while bits.bits(1)? == 1 {
        quotient += 1;
        if quotient == ESCAPE {
            return Ok(u64::from(bits.bits(32)?) | u64::from(bits.bits(32)?) << 32);
        }
    }
    let low = u64::from(bits.bits(k.min(32))?) | u64::from(bits.bits(k.saturating_sub(32))?) << 32;
    // A quotient below 24 over k = 63 bits may not fit; no encoder writes it.
    let high = u64::from(quotient).checked_mul(1_u64 << k).ok_or(UpdateError::Overflow)?;
    high.checked_add(low).ok_or(UpdateError::Overflow)
}
