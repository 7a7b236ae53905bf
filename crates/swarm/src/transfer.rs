//! Blobs by digest: fetched in ranges from every link that has them, served to every link that asks.
//!
//! A receiver asks for ranges, so it sets the pace: at most [`RANGES_IN_FLIGHT_MAX`] are unanswered on a link. What
//! arrived stays when a link goes; the rest is asked of others. The whole is hashed before anyone sees it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_wire::{
    Digest, Millis, PeerId,
    frame::Frame,
    limits::{BLOB_BYTES_MAX, BLOB_RANGE_BYTES_MAX, CACHE_BYTES_MAX, LOADS_MAX, RANGES_IN_FLIGHT_MAX, ROSTER_MAX},
};

use crate::Bytes;

/// A link that delivered no range for this long lost the ones it was asked for.
const RANGE_TIMEOUT_MS: u64 = 4_000;
/// A peer that said it has not got a blob is asked again after this.
const DENIED_MS: u64 = 2_000;
/// A peer whose bytes of a blob were wrong is not asked for it for this much longer.
const DAMAGED_MS: u64 = 60_000;

#[derive(Debug)]
struct Want {
    size: usize,
    /// Sizes that others claim, to be tried in turn when a fetch fails.
    claims: VecDeque<usize>,
    /// Claims that failed since the last peer was blamed.
    failed: usize,
    /// Ranges that arrived. Memory grows with them, whatever size was claimed.
    parts: BTreeMap<u32, Vec<u8>>,
    missing: BTreeSet<u32>,
    in_flight: BTreeMap<u32, (PeerId, Millis)>,
    denied: BTreeMap<PeerId, Millis>,
    sources: BTreeSet<PeerId>,
    /// After a wrong hash, ranges come from one peer at a time so that the liar is known.
    only: Option<PeerId>,
    suspicious: bool,
}

#[derive(Debug)]
struct Held {
    bytes: Bytes,
    used: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Transfers {
    held: BTreeMap<Digest, Held>,
    held_bytes: usize,
    wants: BTreeMap<Digest, Want>,
    /// Who waits for a blob that is being read from the store, with what they asked for.
    loads: BTreeMap<Digest, Vec<(PeerId, u64, u32)>>,
    last_range: BTreeMap<PeerId, Millis>,
    clock: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
}

/// What became of a range that arrived.
#[derive(Debug, PartialEq)]
pub(crate) enum Arrival {
    Nothing,
    /// A range of something wanted.
    Part,
    Complete(Bytes),
    /// The bytes that one peer alone sent do not hash to their address. A relay may have damaged them on the way, so
    /// the peer keeps its link; it is only not asked for this blob for a while.
    Damaged,
}

impl Transfers {
    pub fn get(&mut self, blob: Digest) -> Option<Bytes> {
        self.clock += 1;
        let held = self.held.get_mut(&blob)?;
        held.used = self.clock;
        Some(held.bytes.clone())
    }

    pub fn has(&self, blob: Digest) -> bool {
        self.held.contains_key(&blob)
    }

    /// Keeps a blob for this peer and others, dropping the longest unused ones when space is short.
    pub fn keep(&mut self, blob: Digest, bytes: Bytes) {
        self.wants.remove(&blob);
        self.clock += 1;
        self.held_bytes += bytes.len();
        if let Some(old) = self.held.insert(blob, Held { bytes, used: self.clock }) {
            self.held_bytes -= old.bytes.len();
        }
        while self.held_bytes > CACHE_BYTES_MAX && self.held.len() > 2 {
            let oldest = self.held.iter().min_by_key(|(_, held)| held.used).map(|(digest, _)| *digest);
            let Some(dropped) = oldest.and_then(|digest| self.held.remove(&digest)) else { break };
            self.held_bytes -= dropped.bytes.len();
        }
    }

    /// Starts fetching a blob of a claimed size; does nothing when it is here or under way, but to note another claim.
    pub fn want(&mut self, blob: Digest, bytes: u64) {
        if self.has(blob) || bytes == 0 || bytes > BLOB_BYTES_MAX {
            return;
        }
        if let Some(want) = self.wants.get_mut(&blob) {
            want.claim(bytes as usize);
            return;
        }
        let ranges = (bytes as usize).div_ceil(BLOB_RANGE_BYTES_MAX) as u32;
        let want = Want {
            size: bytes as usize,
            claims: VecDeque::new(),
            failed: 0,
            parts: BTreeMap::new(),
            missing: (0..ranges).collect(),
            in_flight: BTreeMap::new(),
            denied: BTreeMap::new(),
            sources: BTreeSet::new(),
            only: None,
            suspicious: false,
        };
        self.wants.insert(blob, want);
    }

    /// Forgets every fetch that is not needed any more.
    pub fn retain_wants(&mut self, needed: &BTreeSet<Digest>) {
        self.wants.retain(|blob, _| needed.contains(blob));
    }

    pub fn is_fetching(&self) -> bool {
        !self.wants.is_empty()
    }

    pub fn link_down(&mut self, peer: PeerId) {
        self.last_range.remove(&peer);
        for want in self.wants.values_mut() {
            want.forget(peer);
        }
        for waiting in self.loads.values_mut() {
            waiting.retain(|(to, ..)| *to != peer);
        }
    }

    /// Asks for as many ranges as the links may carry. `prefer` puts the links that surely hold a blob first.
    pub fn request(
        &mut self,
        now: Millis,
        links: &[PeerId],
        prefer: impl Fn(Digest, PeerId) -> bool,
    ) -> Vec<(PeerId, Frame)> {
        let mut load: BTreeMap<PeerId, usize> = links.iter().map(|peer| (*peer, 0)).collect();
        for want in self.wants.values_mut() {
            want.expire(now, &self.last_range);
            for (peer, _) in want.in_flight.values() {
                *load.entry(*peer).or_default() += 1;
            }
        }
        let mut asked = Vec::new();
        for (blob, want) in &mut self.wants {
            while let Some(index) = want.missing.first().copied() {
                let candidates = load.iter().filter(|(peer, count)| {
                    **count < RANGES_IN_FLIGHT_MAX
                        && links.contains(peer)
                        && !want.denied.contains_key(peer)
                        && want.only.is_none_or(|only| only == **peer)
                });
                let best =
                    candidates.min_by_key(|(peer, count)| (!prefer(*blob, **peer), **count)).map(|(peer, _)| *peer);
                let Some(peer) = best else { break };
                if want.suspicious && want.only.is_none() {
                    want.only = Some(peer);
                }
                want.missing.remove(&index);
                want.in_flight.insert(index, (peer, now));
                *load.entry(peer).or_default() += 1;
                let (offset, bytes) = want.range(index);
                asked.push((peer, Frame::GetRange { blob: *blob, offset, bytes }));
            }
        }
        asked
    }

    pub fn arrived(&mut self, now: Millis, from: PeerId, blob: Digest, offset: u64, bytes: &[u8]) -> Arrival {
        self.bytes_received += bytes.len() as u64;
        self.last_range.insert(from, now);
        let Some(want) = self.wants.get_mut(&blob) else { return Arrival::Nothing };
        let Ok(index) = u32::try_from(offset / BLOB_RANGE_BYTES_MAX as u64) else { return Arrival::Nothing };
        if want.in_flight.get(&index).is_none_or(|(peer, _)| *peer != from) {
            return Arrival::Nothing;
        }
        let (start, size) = want.range(index);
        if start != offset {
            return Arrival::Nothing;
        }
        if size as usize != bytes.len() {
            // An honest holder sends less when the claimed size is too large.
            let others = !want.claims.is_empty();
            if !want.try_next_claim() && others {
                want.denied.insert(from, now);
            }
            return Arrival::Nothing;
        }
        want.in_flight.remove(&index);
        want.sources.insert(from);
        want.parts.insert(index, bytes.to_vec());
        if !want.missing.is_empty() || !want.in_flight.is_empty() {
            return Arrival::Part;
        }
        let whole = want.join();
        if Digest::of(&whole) == blob {
            let complete: Bytes = whole.into();
            self.keep(blob, complete.clone());
            return Arrival::Complete(complete);
        }
        if want.try_next_claim() {
            return Arrival::Nothing;
        }
        let alone = want.sources.len() == 1;
        let ranges = want.size.div_ceil(BLOB_RANGE_BYTES_MAX) as u32;
        want.missing = (0..ranges).collect();
        want.sources.clear();
        want.only = None;
        want.suspicious = true;
        if alone {
            want.denied.insert(from, now + DAMAGED_MS);
            Arrival::Damaged
        } else {
            want.denied.insert(from, now);
            Arrival::Nothing
        }
    }

    pub fn denied(&mut self, now: Millis, from: PeerId, blob: Digest) {
        if let Some(want) = self.wants.get_mut(&blob) {
            want.forget(from);
            want.denied.insert(from, now);
        }
    }

    /// Whether every one of these links said that it lacks the blob.
    pub fn is_unavailable(&self, blob: Digest, links: &[PeerId]) -> bool {
        self.wants
            .get(&blob)
            .is_some_and(|want| !links.is_empty() && links.iter().all(|peer| want.denied.contains_key(peer)))
    }

    /// Answers a request from memory; `None` means that the store must be asked first.
    pub fn serve(&mut self, to: PeerId, blob: Digest, offset: u64, bytes: u32) -> Option<Frame> {
        if let Some(whole) = self.get(blob) {
            return Some(self.answer(blob, &whole, offset, bytes));
        }
        None.or_else(|| {
            let busy = self.loads.len() >= LOADS_MAX && !self.loads.contains_key(&blob);
            let waiting = self.loads.get(&blob).map_or(0, Vec::len);
            (busy || waiting >= LOADS_MAX * RANGES_IN_FLIGHT_MAX).then_some(Frame::NoBlob(blob))
        })
        .or_else(|| {
            self.loads.entry(blob).or_default().push((to, offset, bytes));
            None
        })
    }

    /// Whether a read of this blob from the store was asked for and is still awaited by exactly one request.
    pub fn must_load(&self, blob: Digest) -> bool {
        self.loads.get(&blob).is_some_and(|waiting| waiting.len() == 1)
    }

    pub fn loaded(&mut self, blob: Digest, bytes: Option<Bytes>) -> Vec<(PeerId, Frame)> {
        let waiting = self.loads.remove(&blob).unwrap_or_default();
        let Some(whole) = bytes else {
            let peers: BTreeSet<PeerId> = waiting.into_iter().map(|(to, ..)| to).collect();
            return peers.into_iter().map(|to| (to, Frame::NoBlob(blob))).collect();
        };
        self.keep(blob, whole.clone());
        waiting.into_iter().map(|(to, offset, bytes)| (to, self.answer(blob, &whole, offset, bytes))).collect()
    }

    fn answer(&mut self, blob: Digest, whole: &Bytes, offset: u64, bytes: u32) -> Frame {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
        let end = start.saturating_add((bytes as usize).min(BLOB_RANGE_BYTES_MAX)).min(whole.len());
        self.bytes_sent += (end - start) as u64;
        Frame::Range { blob, offset, bytes: whole[start..end].to_vec() }
    }
}

impl Want {
    fn range(&self, index: u32) -> (u64, u32) {
        let start = (index as usize * BLOB_RANGE_BYTES_MAX).min(self.size);
        let end = (start + BLOB_RANGE_BYTES_MAX).min(self.size);
        (start as u64, (end - start) as u32)
    }

    fn claim(&mut self, size: usize) {
        if size != self.size && !self.claims.contains(&size) && self.claims.len() < ROSTER_MAX {
            self.claims.push_back(size);
        }
    }

    /// Starts again with the next size that somebody claims; false when there is no other, or when all were tried, so
    /// that whoever sent the bytes is to blame.
    fn try_next_claim(&mut self) -> bool {
        let Some(next) = self.claims.pop_front() else { return false };
        self.claims.push_back(core::mem::replace(&mut self.size, next));
        let whole_turn = self.failed == self.claims.len();
        self.failed = if whole_turn { 0 } else { self.failed + 1 };
        self.parts.clear();
        self.in_flight.clear();
        self.missing = (0..self.size.div_ceil(BLOB_RANGE_BYTES_MAX) as u32).collect();
        if !whole_turn {
            self.sources.clear();
        }
        !whole_turn
    }

    fn join(&mut self) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.size);
        while let Some((_, part)) = self.parts.pop_first() {
            whole.extend_from_slice(&part);
        }
        whole
    }

    fn forget(&mut self, peer: PeerId) {
        let lost: Vec<u32> =
            self.in_flight.iter().filter(|(_, (from, _))| *from == peer).map(|(index, _)| *index).collect();
        for index in lost {
            self.in_flight.remove(&index);
            self.missing.insert(index);
        }
        if self.only == Some(peer) {
            self.only = None;
        }
    }

    fn expire(&mut self, now: Millis, last_range: &BTreeMap<PeerId, Millis>) {
        self.denied.retain(|_, since| now.since(*since) < DENIED_MS);
        let late: Vec<u32> = self
            .in_flight
            .iter()
            .filter(|(_, (peer, asked))| {
                let alive = last_range.get(peer).copied().unwrap_or(*asked).max(*asked);
                now.since(alive) > RANGE_TIMEOUT_MS
            })
            .map(|(index, _)| *index)
            .collect();
        for index in late {
            if let Some((peer, _)) = self.in_flight.remove(&index) {
                self.denied.insert(peer, now);
            }
            self.missing.insert(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);

    fn asked(transfers: &mut Transfers, now: Millis, links: &[PeerId]) -> Vec<(PeerId, u64, u32)> {
        let frames = transfers.request(now, links, |_, _| false);
        frames
            .into_iter()
            .filter_map(|(peer, frame)| match frame {
                Frame::GetRange { offset, bytes, .. } => Some((peer, offset, bytes)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_blob_comes_in_ranges_from_all_links_and_goes_on_when_one_goes() {
        let whole: Vec<u8> = (0..100_000).map(|index| index as u8).collect();
        let blob = Digest::of(&whole);
        let mut transfers = Transfers::default();
        transfers.want(blob, whole.len() as u64);
        let first = asked(&mut transfers, Millis(0), &[A, B]);
        assert!(first.iter().any(|(peer, ..)| *peer == A) && first.iter().any(|(peer, ..)| *peer == B));
        let part = |offset: u64, bytes: u32| &whole[offset as usize..offset as usize + bytes as usize];
        for (peer, offset, bytes) in first.into_iter().filter(|(peer, ..)| *peer == A) {
            assert_eq!(transfers.arrived(Millis(1), peer, blob, offset, part(offset, bytes)), Arrival::Part);
        }
        transfers.link_down(B);
        let rest = asked(&mut transfers, Millis(2), &[A]);
        let last = rest.len() - 1;
        for (index, (peer, offset, bytes)) in rest.into_iter().enumerate() {
            let arrival = transfers.arrived(Millis(3), peer, blob, offset, part(offset, bytes));
            assert_eq!(arrival, if index == last { Arrival::Complete(whole.clone().into()) } else { Arrival::Part });
        }
        assert!(!transfers.is_fetching());
    }

    #[test]
    fn damaged_bytes_cost_their_sender_the_blob_but_not_its_link() {
        let blob = Digest::of(&[7; 50]);
        let mut transfers = Transfers::default();
        transfers.want(blob, 50);
        assert_eq!(asked(&mut transfers, Millis(0), &[A]), [(A, 0, 50)]);
        assert_eq!(transfers.arrived(Millis(1), A, blob, 0, &[8; 50]), Arrival::Damaged);
        assert_eq!(asked(&mut transfers, Millis(10_000), &[A]), [], "not from the same peer for a while");
        assert_eq!(asked(&mut transfers, Millis(10_000), &[A, B]), [(B, 0, 50)]);
        assert_eq!(transfers.arrived(Millis(10_001), B, blob, 0, &[7; 50]), Arrival::Complete(vec![7; 50].into()));
    }

    #[test]
    fn a_claimed_size_costs_no_memory_before_the_bytes_come() {
        let mut transfers = Transfers::default();
        for number in 0..64_u8 {
            transfers.want(Digest::of(&[number]), BLOB_BYTES_MAX);
        }
        let held: usize = transfers.wants.values().flat_map(|want| want.parts.values()).map(Vec::capacity).sum();
        assert!(transfers.is_fetching() && held == 0);
    }

    #[test]
    fn ranges_that_were_not_asked_for_are_ignored() {
        let blob = Digest::of(&[7; 50]);
        let mut transfers = Transfers::default();
        transfers.want(blob, 50);
        for (offset, bytes) in [(0, 50), (u64::MAX, 50), (0, 0), (16_128, 50)] {
            assert_eq!(transfers.arrived(Millis(0), A, blob, offset, &vec![7; bytes]), Arrival::Nothing);
        }
        assert!(transfers.is_fetching());
    }
}
