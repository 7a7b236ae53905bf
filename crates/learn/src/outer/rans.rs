//! An entropy coder for rounded Gaussian values: range asymmetric numeral systems (Duda, arXiv 1311.2540), with a state
//! of 32 bits that moves byte by byte.
//!
//! Each step is a bijection between (state, symbol) and (state, bytes), so what a decoder accepts has one encoding: it
//! ends in the state and at the byte where the encoder began. The encoder runs backwards, from the last symbol on.

use super::UpdateError;

/// Symbols stand for −31 to 31.
pub(super) const LARGEST: i64 = 31;
const SYMBOLS: usize = 2 * LARGEST as usize + 1;

/// Frequencies sum to 2^16.
const TOTAL_BITS: u32 = 16;

/// The state stays in 2^23..2^31, and begins (for the encoder) and ends (for the decoder) at the lower end.
const LOWEST: u32 = 1 << 23;

/// How often a level of magnitude 0, 1, 2, ... occurs among 65,536 when unit Gaussian values are rounded to multiples
/// of 249/1,024. No count is zero, so that every level can be sent.
#[rustfmt::skip]
const HALF: [u16; LARGEST as usize + 1] = [
    6340, 6156, 5636, 4865, 3959, 3038, 2198, 1500, 965, 585, 334, 180, 92, 44, 20, 8,
    3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
];

/// Where each symbol's share of 0..65,536 begins; the last entry is its end.
const STARTS: [u32; SYMBOLS + 1] = starts();

/// The symbol to which 0, 256, 512, ... belong, where the search for a slot's symbol begins.
const FIRST: [u8; 256] = first();

const fn starts() -> [u32; SYMBOLS + 1] {
    let mut starts = [0; SYMBOLS + 1];
    let mut symbol = 0;
    while symbol < SYMBOLS {
        starts[symbol + 1] = starts[symbol] + HALF[symbol.abs_diff(LARGEST as usize)] as u32;
        symbol += 1;
    }
    starts
}

const fn first() -> [u8; 256] {
    let mut first = [0; 256];
    let (mut at, mut symbol) = (0, 0);
    while at < first.len() {
        while STARTS[symbol + 1] as usize <= at << 8 {
            symbol += 1;
        }
        first[at] = symbol as u8;
        at += 1;
    }
    first
}

/// Takes what the decoder reads last first.
#[derive(Debug)]
pub(super) struct Encoder {
    state: u32,
    /// The last byte first.
    reversed: Vec<u8>,
}

impl Encoder {
    pub fn new() -> Self {
        Self { state: LOWEST, reversed: Vec::new() }
    }

    /// A level in −31..=31.
    pub fn level(&mut self, level: i8) {
        let symbol = (LARGEST + i64::from(level)) as usize;
        let (start, share) = (STARTS[symbol], STARTS[symbol + 1] - STARTS[symbol]);
        // Shares are at most 6,340, so this fits; it is 256 · 2^23 / 2^16 for each slot.
        while self.state >= share << 15 {
            self.reversed.push(self.state as u8);
            self.state >>= 8;
        }
        self.state = ((self.state / share) << TOTAL_BITS) + start + self.state % share;
    }

    /// Two bytes as they are, between levels.
    pub fn plain(&mut self, bytes: [u8; 2]) {
        self.reversed.extend([bytes[1], bytes[0]]);
    }

    /// Appends the stream: the state (u32 little-endian), then the bytes in the decoder's order.
    pub fn finish(self, out: &mut Vec<u8>) {
        out.extend(self.state.to_le_bytes());
        out.extend(self.reversed.iter().rev());
    }
}

#[derive(Debug)]
pub(super) struct Decoder<'a> {
    state: u32,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, UpdateError> {
        let head = bytes.first_chunk().ok_or(UpdateError::Truncated { at: bytes.len() })?;
        let state = u32::from_le_bytes(*head);
        if (LOWEST..LOWEST << 8).contains(&state) { Ok(Self { state, bytes, at: 4 }) } else { Err(UpdateError::Coder) }
    }

    fn byte(&mut self) -> Result<u8, UpdateError> {
        let byte = *self.bytes.get(self.at).ok_or(UpdateError::Truncated { at: self.at })?;
        self.at += 1;
        Ok(byte)
    }

    pub fn level(&mut self) -> Result<i8, UpdateError> {
        let slot = self.state & ((1 << TOTAL_BITS) - 1);
        let mut symbol = usize::from(FIRST[(slot >> 8) as usize]);
        while STARTS[symbol + 1] <= slot {
            symbol += 1;
        }
        let (start, share) = (STARTS[symbol], STARTS[symbol + 1] - STARTS[symbol]);
        self.state = share * (self.state >> TOTAL_BITS) + slot - start;
        while self.state < LOWEST {
            self.state = self.state << 8 | u32::from(self.byte()?);
        }
        Ok((symbol as i64 - LARGEST) as i8)
    }

    pub fn plain(&mut self) -> Result<[u8; 2], UpdateError> {
        Ok([self.byte()?, self.byte()?])
    }

    pub fn finish(self) -> Result<(), UpdateError> {
        if self.at < self.bytes.len() {
            return Err(UpdateError::Trailing { bytes: self.bytes.len() - self.at });
        }
        if self.state == LOWEST { Ok(()) } else { Err(UpdateError::Coder) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)] // the table is compared with libm's Gaussian
    use super::*;

    fn share(symbol: usize) -> u32 {
        STARTS[symbol + 1] - STARTS[symbol]
    }

    /// Part of a unit Gaussian between two points, by Simpson's rule.
    fn gaussian(from: f64, to: f64) -> f64 {
        let density = |x: f64| (-x * x / 2.0).exp() / core::f64::consts::TAU.sqrt();
        let width = (to - from) / 200.0;
        let part = |index: u32| {
            let left = from + f64::from(index) * width;
            density(left) + 4.0 * density(left + width / 2.0) + density(left + width)
        };
        (0..200).map(part).sum::<f64>() * width / 6.0
    }

    #[test]
    fn the_shares_sum_to_the_total_are_symmetric_and_never_zero() {
        assert_eq!(STARTS[SYMBOLS], 1 << TOTAL_BITS);
        for symbol in 0..SYMBOLS {
            assert_eq!(share(symbol), share(SYMBOLS - 1 - symbol));
            assert!(share(symbol) > 0);
        }
    }

    #[test]
    fn the_shares_are_those_of_rounded_unit_gaussian_values() {
        let step = 249.0 / 1024.0;
        let (mut ideal, mut spent) = (0.0, 0.0);
        for symbol in 0..SYMBOLS {
            let middle = (symbol as f64 - LARGEST as f64) * step;
            let part = gaussian(middle - step / 2.0, middle + step / 2.0);
            let off = (part * 65_536.0 - f64::from(share(symbol))).abs();
            assert!(off < 6.0, "symbol {symbol} is off by {off}");
            ideal -= part * part.log2();
            spent -= part * (f64::from(share(symbol)) / 65_536.0).log2();
        }
        assert!(spent - ideal < 0.001, "{spent} bits instead of {ideal}");
    }

    #[test]
    fn every_slot_has_the_symbol_whose_share_it_is_in() {
        for slot in 0..1_u32 << TOTAL_BITS {
            let mut symbol = usize::from(FIRST[(slot >> 8) as usize]);
            while STARTS[symbol + 1] <= slot {
                symbol += 1;
            }
            assert!((STARTS[symbol]..STARTS[symbol + 1]).contains(&slot));
        }
    }

    #[test]
    fn levels_come_back_in_order_and_the_stream_ends_where_they_do() {
        let levels: Vec<i8> = (0..10_000_i32).map(|index| (index * index % 63 - 31) as i8).collect();
        let mut encoder = Encoder::new();
        levels.iter().rev().for_each(|level| encoder.level(*level));
        encoder.plain([7, 8]);
        let mut bytes = Vec::new();
        encoder.finish(&mut bytes);
        let mut decoder = Decoder::new(&bytes).unwrap();
        assert_eq!(decoder.plain().unwrap(), [7, 8]);
        for level in levels {
            assert_eq!(decoder.level().unwrap(), level);
        }
        decoder.finish().unwrap();
    }

    #[test]
    fn a_state_out_of_range_is_refused() {
        for state in [0, LOWEST - 1, LOWEST << 8, u32::MAX] {
            assert_eq!(Decoder::new(&state.to_le_bytes()).unwrap_err(), UpdateError::Coder);
        }
        assert_eq!(Decoder::new(&[0; 3]).unwrap_err(), UpdateError::Truncated { at: 3 });
    }
}
