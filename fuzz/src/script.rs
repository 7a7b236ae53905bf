//! Bytes read as a script: which of several things happens next, to whom, with what.

/// Reads from the front; at the end everything is zero or nothing.
pub struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// A number below `count`, which is not zero.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte().unwrap_or_default()) % count
    }

    /// Bytes led by their count, which takes two; none at the end.
    pub fn slice(&mut self) -> Option<&'a [u8]> {
        let (low, high) = (self.byte()?, self.byte().unwrap_or_default());
        let count = usize::from(u16::from_le_bytes([low, high])).min(self.rest.len());
        let (slice, rest) = self.rest.split_at(count);
        self.rest = rest;
        Some(slice)
    }
}

/// Writes what [`Choices::slice`] reads.
pub fn slice(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u16).to_le_bytes());
    out.extend(bytes);
}
