//! An append-only log of entries, each with its length and checksums.
//!
//! Entry: length (u32), first 4 bytes of BLAKE3(length), payload, first 16 bytes of BLAKE3(payload). A crash
//! in an append leaves a broken tail, which is dropped; a broken entry that others follow is corruption, and
//! refusing it matters: a peer that forgets a vote could contradict it.

use shoal_wire::limits::ENTRY_BYTES_MAX;

const HEADER_BYTES: usize = 8;
const CHECK_BYTES: usize = 16;

pub fn entry(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len() + CHECK_BYTES);
    bytes.extend_from_slice(&header(payload.len() as u32));
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&check(payload));
    bytes
}

/// What a log holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    pub entries: Vec<&'a [u8]>,
    /// Bytes of the log up to the end of the last good entry.
    pub sound_bytes: usize,
    /// Whether a good entry stands after a broken one.
    pub broken_inside: bool,
}

pub fn parse(log: &[u8]) -> Parsed<'_> {
    let mut entries = Vec::new();
    let mut at = 0;
    while let Some((payload, next)) = entry_at(log, at) {
        entries.push(payload);
        at = next;
    }
    let broken_inside = (at + 1..log.len()).any(|start| entry_at(log, start).is_some());
    Parsed { entries, sound_bytes: at, broken_inside }
}

fn entry_at(log: &[u8], start: usize) -> Option<(&[u8], usize)> {
    let head = log.get(start..start + HEADER_BYTES)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?);
    if head != header(length) || length as usize > ENTRY_BYTES_MAX {
        return None;
    }
    let end = start + HEADER_BYTES + length as usize;
    let payload = log.get(start + HEADER_BYTES..end)?;
    (log.get(end..end + CHECK_BYTES)? == check(payload)).then_some((payload, end + CHECK_BYTES))
}

fn header(length: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..].copy_from_slice(&blake3::hash(&length.to_le_bytes()).as_bytes()[..4]);
    bytes
}

fn check(payload: &[u8]) -> [u8; CHECK_BYTES] {
    let mut bytes = [0; CHECK_BYTES];
    bytes.copy_from_slice(&blake3::hash(payload).as_bytes()[..CHECK_BYTES]);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn log_of(payloads: &[&[u8]]) -> Vec<u8> {
        payloads.iter().flat_map(|payload| entry(payload)).collect()
    }

    #[test]
    fn entries_come_back_in_order() {
        let log = log_of(&[b"one", b"", b"three"]);
        let parsed = parse(&log);
        assert_eq!(parsed.entries, [&b"one"[..], b"", b"three"]);
        assert_eq!(parsed.sound_bytes, log.len());
        assert!(!parsed.broken_inside);
    }

    #[test]
    fn every_torn_tail_keeps_the_entries_before_it() {
        let log = log_of(&[b"one", b"two"]);
        let first = entry(b"one").len();
        for cut in first..log.len() {
            let parsed = parse(&log[..cut]);
            assert_eq!(parsed.entries, [&b"one"[..]], "cut at {cut}");
            assert_eq!(parsed.sound_bytes, first);
            assert!(!parsed.broken_inside);
        }
    }

    #[test]
    fn a_flipped_bit_before_a_good_entry_is_seen() {
        let log = log_of(&[b"one", b"two"]);
        for bit in 0..entry(b"one").len() * 8 {
            let mut flipped = log.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let parsed = parse(&flipped);
            assert!(parsed.broken_inside, "bit {bit}");
            assert!(parsed.entries.is_empty());
        }
    }
}
