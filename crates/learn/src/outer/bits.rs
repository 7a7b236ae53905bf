//! Bits in bytes, least significant first.

use super::UpdateError;

#[derive(Debug, Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    pub fn bits(&mut self, value: u32, count: u32) {
        for index in 0..count {
            if self.used == 0 {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> index & 1) as u8) << self.used;
            }
            self.used = (self.used + 1) % 8;
        }
    }

    /// A Rice code (Golomb 1966, Rice 1979): the quotient by 2^k in unary, then k bits.
    pub fn rice(&mut self, value: u32, k: u32) {
        for _ in 0..value >> k {
            self.bits(1, 1);
        }
        self.bits(0, 1);
        self.bits(value & ((1 << k) - 1), k);
    }

    /// Ends on a byte border; the bits left are zero.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn bits(&mut self, count: u32) -> Result<u32, UpdateError> {
        let mut value = 0;
        for index in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(UpdateError::Truncated { at: self.at / 8 })?;
            value |= u32::from(byte >> (self.at % 8) & 1) << index;
            self.at += 1;
        }
        Ok(value)
    }

    /// Reads a Rice code of a value below `limit`.
    pub fn rice(&mut self, k: u32, limit: u32) -> Result<u32, UpdateError> {
        let mut quotient = 0;
        while self.bits(1)? == 1 {
            quotient += 1;
            if quotient << k >= limit {
                return Err(UpdateError::Index);
            }
        }
        let value = quotient << k | self.bits(k)?;
        if value < limit { Ok(value) } else { Err(UpdateError::Index) }
    }

    /// Skips to a byte border over bits that must be zero; returns the bytes read.
    pub fn finish(mut self) -> Result<usize, UpdateError> {
        while !self.at.is_multiple_of(8) {
            if self.bits(1)? == 1 {
                return Err(UpdateError::Padding);
            }
        }
        Ok(self.at / 8)
    }
}
