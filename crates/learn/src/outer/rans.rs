//! An entropy coder for rounded Gaussian values: range asymmetric numeral systems (Duda, arXiv 1311.2540), with a state
//! of 32 bits that moves byte by byte.
//!
//! Each step is a bijection between (state, symbol) and (state, bytes), so what a decoder accepts has one encoding: it
//! ends in the state and at the byte where the encoder began. The encoder runs backwards, from the last symbol on.

use super::{
    UpdateError,
    rans_table::{LARGEST, TOTAL_BITS, Table},
};

/// The state stays in 2^23..2^31, and begins (for the encoder) and ends (for the decoder) at the lower end.
const LOWEST: u32 = 1 << 23;

/// Takes what the decoder reads last first.
#[derive(Debug)]
pub(super) struct Encoder {
    table: &'static Table,
    state: u32,
    /// The last byte first.
    reversed: Vec<u8>,
}

impl Encoder {
    pub fn new(table: &'static Table) -> Self {
        Self { table, state: LOWEST, reversed: Vec::new() }
    }

    /// A level in −31..=31.
    pub fn level(&mut self, level: i8) {
        let symbol = (LARGEST + i64::from(level)) as usize;
        let (start, share) = self.table.slots(symbol);
        // Shares are below 2^16, so this fits; it is 256 · 2^23 / 2^16 for each slot.
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
    table: &'static Table,
    state: u32,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(table: &'static Table, bytes: &'a [u8]) -> Result<Self, UpdateError> {
        let head = bytes.first_chunk().ok_or(UpdateError::Truncated { at: bytes.len() })?;
        let state = u32::from_le_bytes(*head);
        if (LOWEST..LOWEST << 8).contains(&state) {
            Ok(Self { table, state, bytes, at: 4 })
        } else {
            Err(UpdateError::Coder)
        }
    }

    fn byte(&mut self) -> Result<u8, UpdateError> {
        let byte = *self.bytes.get(self.at).ok_or(UpdateError::Truncated { at: self.at })?;
        self.at += 1;
        Ok(byte)
    }

    pub fn level(&mut self) -> Result<i8, UpdateError> {
        let slot = self.state & ((1 << TOTAL_BITS) - 1);
        let symbol = self.table.symbol(slot);
        let (start, share) = self.table.slots(symbol);
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
    #![allow(clippy::unwrap_used)]
    use super::{super::rans_table, *};

    #[test]
    fn levels_come_back_in_order_and_the_stream_ends_where_they_do() {
        let levels: Vec<i8> = (0..10_000_i32).map(|index| (index * index % 63 - 31) as i8).collect();
        for table in [&rans_table::DENSE4, &rans_table::MEAN] {
            let mut encoder = Encoder::new(table);
            levels.iter().rev().for_each(|level| encoder.level(*level));
            encoder.plain([7, 8]);
            let mut bytes = Vec::new();
            encoder.finish(&mut bytes);
            let mut decoder = Decoder::new(table, &bytes).unwrap();
            assert_eq!(decoder.plain().unwrap(), [7, 8]);
            for level in &levels {
                assert_eq!(decoder.level().unwrap(), *level);
            }
            decoder.finish().unwrap();
        }
    }

    #[test]
    fn a_state_out_of_range_is_refused() {
        for state in [0, LOWEST - 1, LOWEST << 8, u32::MAX] {
            assert_eq!(Decoder::new(&rans_table::MEAN, &state.to_le_bytes()).unwrap_err(), UpdateError::Coder);
        }
        assert_eq!(Decoder::new(&rans_table::MEAN, &[0; 3]).unwrap_err(), UpdateError::Truncated { at: 3 });
    }
}
