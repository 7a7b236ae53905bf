//! Blobs by digest: fetched in ranges from every link that has them, served to every link that asks.
//!
//! A receiver asks for ranges, so it sets the pace: on each link as many are unanswered as its [`Flow`] allows, at most
//! [`RANGES_IN_FLIGHT_MAX`]. What arrived stays when a link goes; the rest is asked of others, and so are the last ranges
//! where another holder would have answered long ago. The whole is hashed before anyone sees it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_wire::{
    Digest, Millis, PeerId,
    frame::Frame,
    limits::{BLOB_BYTES_MAX, BLOB_RANGE_BYTES_MAX, CACHE_BYTES_MAX, LOADS_MAX, RANGES_IN_FLIGHT_MAX, ROSTER_MAX},
};

use crate::{Bytes, flow::Flow};

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
    /// What each link lately delivered.
    flows: BTreeMap<PeerId, Flow>,
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
        self.flows.remove(&peer);
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
            for peer in want.expire(now, &self.flows) {
                self.flows.entry(peer).or_default().stalled();
            }
            for (peer, _) in want.in_flight.values() {
                *load.entry(*peer).or_default() += 1;
            }
        }
        let mut asked = Vec::new();
        for (blob, want) in &mut self.wants {
            while let Some(index) = want.missing.first().copied() {
                let candidates = load.iter().filter(|(peer, count)| {
                    **count < window(&self.flows, **peer)
                        && links.contains(peer)
                        && !want.denied.contains_key(peer)
                        && want.only.is_none_or(|only| only == **peer)
                });
                // The link with the largest part of its window free.
                let filled = |(peer, count): &(&PeerId, &usize)| {
                    (!prefer(*blob, **peer), **count * RANGES_IN_FLIGHT_MAX / window(&self.flows, **peer))
                };
                let Some(peer) = candidates.min_by_key(filled).map(|(peer, _)| *peer) else { break };
                if want.suspicious && want.only.is_none() {
                    want.only = Some(peer);
                }
                want.missing.remove(&index);
                asked.push((peer, want.ask(now, *blob, index, peer)));
                *load.entry(peer).or_default() += 1;
            }
        }
        asked.extend(self.overtake(now, links, &mut load, prefer));
        asked
    }

    /// Once every range is asked for, those that a link owes for long are asked of a holder that is much quicker: one slow
    /// link must not hold up what others have.
    fn overtake(
        &mut self,
        now: Millis,
        links: &[PeerId],
        load: &mut BTreeMap<PeerId, usize>,
        prefer: impl Fn(Digest, PeerId) -> bool,
    ) -> Vec<(PeerId, Frame)> {
        let mut asked = Vec::new();
        for (blob, want) in self.wants.iter_mut().filter(|(_, want)| want.missing.is_empty() && !want.suspicious) {
            for (index, (slow, since)) in want.in_flight.clone() {
                let quicker = |peer: &&PeerId| {
                    let holds = want.sources.contains(*peer) || prefer(*blob, **peer);
                    let free = load.get(*peer).is_some_and(|count| *count < window(&self.flows, **peer));
                    let flow = self.flows.get(*peer);
                    **peer != slow
                        && holds
                        && free
                        && !want.denied.contains_key(*peer)
                        && flow.is_some_and(|flow| flow.overtakes(now, since))
                };
                let Some(peer) = links.iter().filter(quicker).min_by_key(|peer| load.get(*peer)).copied() else {
                    continue;
                };
                self.flows.entry(slow).or_default().overtaken(now, since);
                asked.push((peer, want.ask(now, *blob, index, peer)));
                *load.entry(peer).or_default() += 1;
            }
        }
        asked
    }

    pub fn arrived(&mut self, now: Millis, from: PeerId, blob: Digest, offset: u64, bytes: &[u8]) -> Arrival {
        self.bytes_received += bytes.len() as u64;
        let flow = self.flows.entry(from).or_default();
        flow.heard(now);
        let Some(want) = self.wants.get_mut(&blob) else { return Arrival::Nothing };
        let Ok(index) = u32::try_from(offset / BLOB_RANGE_BYTES_MAX as u64) else { return Arrival::Nothing };
        let Some((_, asked)) = want.in_flight.get(&index).copied().filter(|(peer, _)| *peer == from) else {
            return Arrival::Nothing;
        };
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
        flow.answered(now, asked);
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

/// Most ranges that may be unanswered on a link.
fn window(flows: &BTreeMap<PeerId, Flow>, peer: PeerId) -> usize {
    flows.get(&peer).map_or_else(|| Flow::default().window(), Flow::window)
}

impl Want {
    /// Puts a range in flight, and says what asks for it.
    fn ask(&mut self, now: Millis, blob: Digest, index: u32, peer: PeerId) -> Frame {
        self.in_flight.insert(index, (peer, now));
        let (offset, bytes) = self.range(index);
        Frame::GetRange { blob, offset, bytes }
    }

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

    /// Gives up what a link owes that delivered nothing for long; returns those links.
    fn expire(&mut self, now: Millis, flows: &BTreeMap<PeerId, Flow>) -> BTreeSet<PeerId> {
        self.denied.retain(|_, since| now.since(*since) < DENIED_MS);
        let late = |(_, (peer, asked)): &(&u32, &(PeerId, Millis))| {
            let alive = flows.get(peer).map_or(*asked, |flow| flow.alive(*asked));
            now.since(alive) > RANGE_TIMEOUT_MS
        };
        let stalled: BTreeMap<u32, PeerId> =
            self.in_flight.iter().filter(late).map(|(index, (peer, _))| (*index, *peer)).collect();
        for (index, peer) in &stalled {
            self.in_flight.remove(index);
            self.missing.insert(*index);
            self.denied.insert(*peer, now);
        }
        stalled.into_values().collect()
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

    /// A peer that answers one range after the other, each in so many milliseconds.
    struct Lane {
        peer: PeerId,
        range_ms: u64,
        owed: VecDeque<u64>,
        busy_until: Millis,
    }

    /// Fetches a blob over lanes in simulated time; returns how long it took, and how many ranges were asked for.
    fn fetch(lanes: &mut [Lane], bytes: usize) -> (u64, usize) {
        let whole: Vec<u8> = (0..bytes).map(|index| index as u8).collect();
        let blob = Digest::of(&whole);
        let links: Vec<PeerId> = lanes.iter().map(|lane| lane.peer).collect();
        let mut transfers = Transfers::default();
        transfers.want(blob, bytes as u64);
        let mut requests = 0;
        for now in (0..600_000).step_by(10).map(Millis) {
            for (peer, offset, _) in asked(&mut transfers, now, &links) {
                requests += 1;
                for lane in lanes.iter_mut().filter(|lane| lane.peer == peer) {
                    if lane.owed.is_empty() {
                        lane.busy_until = now + lane.range_ms;
                    }
                    lane.owed.push_back(offset);
                }
            }
            for lane in lanes.iter_mut() {
                while lane.busy_until <= now
                    && let Some(offset) = lane.owed.pop_front()
                {
                    lane.busy_until = lane.busy_until + lane.range_ms;
                    let end = (offset as usize + BLOB_RANGE_BYTES_MAX).min(bytes);
                    let part = &whole[offset as usize..end];
                    if let Arrival::Complete(_) = transfers.arrived(now, lane.peer, blob, offset, part) {
                        return (now.0, requests);
                    }
                }
            }
        }
        panic!("the blob did not come");
    }

    fn lane(number: u8, range_ms: u64) -> Lane {
        Lane { peer: PeerId([number; 32]), range_ms, owed: VecDeque::new(), busy_until: Millis(0) }
    }

    #[test]
    fn a_link_at_a_hundredth_of_the_others_speed_holds_up_nothing_that_they_hold_too() {
        let bytes = 200 * BLOB_RANGE_BYTES_MAX;
        let (without, _) = fetch(&mut [lane(1, 20), lane(2, 20)], bytes);
        let (with, requests) = fetch(&mut [lane(1, 20), lane(2, 20), lane(3, 2_000)], bytes);
        assert!(with <= without + without / 5, "{with} ms with the slow link, {without} ms without");
        assert!(requests <= 200 + 8, "{requests} requests for 200 ranges");
    }

    #[test]
    fn a_slow_link_alone_delivers_all_the_same() {
        let (took, requests) = fetch(&mut [lane(1, 2_000)], 20 * BLOB_RANGE_BYTES_MAX);
        assert!((40_000..=40_300).contains(&took) && requests == 20, "{took} ms, {requests} requests");
    }

    #[test]
    fn what_waits_on_a_slow_link_shrinks_to_what_it_delivers() {
        let mut transfers = Transfers::default();
        let whole = vec![7; 400 * BLOB_RANGE_BYTES_MAX];
        let blob = Digest::of(&whole);
        transfers.want(blob, whole.len() as u64);
        let (mut now, mut owed) = (Millis(0), VecDeque::new());
        for _ in 0..20 {
            owed.extend(asked(&mut transfers, now, &[A]));
            let Some((_, offset, bytes)) = owed.pop_front() else { panic!("nothing was asked for") };
            now = now + 1_500;
            transfers.arrived(now, A, blob, offset, &whole[..bytes as usize]);
        }
        asked(&mut transfers, now, &[A]);
        let waiting: usize = transfers.wants.values().map(|want| want.in_flight.len()).sum();
        assert!(waiting <= 2, "{waiting} ranges of 1.5 s each");
    }

    #[test]
    fn a_stalled_range_is_asked_of_another_holder() {
        let whole = vec![7; 3 * BLOB_RANGE_BYTES_MAX];
        let blob = Digest::of(&whole);
        let mut transfers = Transfers::default();
        transfers.want(blob, whole.len() as u64);
        let first = asked(&mut transfers, Millis(0), &[A, B]);
        let of_a: Vec<_> = first.iter().filter(|(peer, ..)| *peer == A).collect();
        let of_b: Vec<_> = first.iter().filter(|(peer, ..)| *peer == B).collect();
        // All come but one of A's, whose link goes on living.
        for (peer, offset, bytes) in of_b.iter().chain(&of_a[1..]) {
            let part = &whole[..*bytes as usize];
            assert_eq!(transfers.arrived(Millis(40), *peer, blob, *offset, part), Arrival::Part);
        }
        assert_eq!(asked(&mut transfers, Millis(200), &[A, B]), []);
        let (_, stalled, bytes) = *of_a[0];
        assert_eq!(asked(&mut transfers, Millis(230), &[A, B]), [(B, stalled, bytes)]);
        // What the first still sends of it is not waited for.
        let part = &whole[..bytes as usize];
        assert_eq!(transfers.arrived(Millis(240), A, blob, stalled, part), Arrival::Nothing);
        assert_eq!(transfers.arrived(Millis(270), B, blob, stalled, part), Arrival::Complete(whole.into()));
    }
}
