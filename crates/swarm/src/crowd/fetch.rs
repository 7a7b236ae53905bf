//! Which blob is asked of whom. The bytes themselves move in the shell.

use std::collections::{BTreeMap, BTreeSet};

use shoal_wire::{Digest, Millis, PeerId, crowd::Blob, limits::CROWD_EARLY_MAX};

use super::Missing;

/// Blobs on their way at once.
const IN_FLIGHT_MAX: usize = 6;
/// A busy holder is asked again after this.
const BUSY_MS: u64 = 300;
/// One that lacks a blob, or let a fetch lapse.
const LACKS_MS: u64 = 5_000;
/// A fetch lapses after this, and after the time that its bytes take at [`SLOWEST_BYTES_MS`].
const LAPSE_MS: u64 = 4_000;
const SLOWEST_BYTES_MS: u64 = 48;
/// Whatever size is claimed.
const LAPSE_MS_MAX: u64 = 60_000;
/// A cache is waited for so long.
const CACHE_MS: u64 = 4_000;

#[derive(Debug)]
struct Want {
    blob: Blob,
    /// Until then it is worth waiting for a cache to have it.
    cached_by: Millis,
    asked: Option<(PeerId, Millis)>,
    avoid: BTreeMap<PeerId, Millis>,
}

#[derive(Debug, Default)]
pub(crate) struct Fetches {
    wants: BTreeMap<Digest, Want>,
    holders: BTreeMap<Digest, BTreeSet<PeerId>>,
    busy: BTreeMap<PeerId, u32>,
    hints: BTreeMap<PeerId, usize>,
}

/// What to do now: fetches to give up, and fetches to begin.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    pub cancel: Vec<(Digest, PeerId)>,
    pub begin: Vec<(Blob, PeerId)>,
}

impl Fetches {
    pub fn want(&mut self, blob: Blob) {
        let want = Want { blob, cached_by: Millis(0), asked: None, avoid: BTreeMap::new() };
        self.wants.entry(blob.digest).or_insert(want);
    }

    /// An update, which a cache will have, where there is one.
    pub fn want_update(&mut self, now: Millis, blob: Blob) {
        let cached_by = now + CACHE_MS;
        self.wants.entry(blob.digest).or_insert(Want { blob, cached_by, asked: None, avoid: BTreeMap::new() });
    }

    pub fn holds(&mut self, blob: Digest, peer: PeerId) {
        self.holders.entry(blob).or_default().insert(peer);
    }

    /// Somebody says that it holds a blob: a hint, of which each peer has only so many in a round.
    pub fn told(&mut self, blob: Digest, by: PeerId) {
        let count = self.hints.entry(by).or_default();
        if *count < CROWD_EARLY_MAX {
            *count += 1;
            self.holds(blob, by);
        }
    }

    pub fn holders(&self, blob: Digest) -> impl Iterator<Item = &PeerId> {
        self.holders.get(&blob).into_iter().flatten()
    }

    /// A blob came; false when nobody waits for it any more.
    pub fn came(&mut self, blob: Digest) -> bool {
        let Some(want) = self.wants.remove(&blob) else { return false };
        self.free(want.asked);
        true
    }

    pub fn failed(&mut self, now: Millis, blob: Digest, from: PeerId, why: Missing) {
        let Some(want) = self.wants.get_mut(&blob) else { return };
        let pause_ms = if why == Missing::Busy { BUSY_MS } else { LACKS_MS };
        want.avoid.insert(from, now + pause_ms);
        if let Some(asked) = want.asked.take_if(|(peer, _)| *peer == from) {
            self.free(Some(asked));
        }
    }

    pub fn forget(&mut self) {
        *self = Self::default();
    }

    fn free(&mut self, asked: Option<(PeerId, Millis)>) {
        if let Some(count) = asked.and_then(|(peer, _)| self.busy.get_mut(&peer)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Begins fetches from the holders that are least busy for this peer; which of several, `salt` tells, so that not all
    /// peers ask the same one. A `cache` is asked first, and waited for: whoever uploads to it should not have to serve
    /// others meanwhile. Also returns when to look again.
    pub fn moves(&mut self, now: Millis, salt: u64, away: &BTreeSet<PeerId>, cache: Option<PeerId>) -> (Moves, Millis) {
        let (mut moves, mut wake) = (Moves::default(), Millis::NEVER);
        let mut in_flight = 0;
        for want in self.wants.values_mut() {
            want.avoid.retain(|_, until| *until > now);
            let Some((peer, since)) = want.asked else { continue };
            let lapses = since + LAPSE_MS + (want.blob.bytes / SLOWEST_BYTES_MS).min(LAPSE_MS_MAX);
            if lapses > now && !away.contains(&peer) {
                in_flight += 1;
                wake = wake.min(lapses);
                continue;
            }
            want.asked = None;
            want.avoid.insert(peer, now + LACKS_MS);
            if let Some(count) = self.busy.get_mut(&peer) {
                *count = count.saturating_sub(1);
            }
            moves.cancel.push((want.blob.digest, peer));
        }
        // Peers begin at different blobs, so that what one has got first, it can give to others.
        let mut open: Vec<(u64, Digest)> = self
            .wants
            .values()
            .filter(|want| want.asked.is_none())
            .map(|want| (mix(salt, want.blob.digest.0), want.blob.digest))
            .collect();
        open.sort_unstable();
        for (lot, digest) in open {
            if in_flight >= IN_FLIGHT_MAX {
                break;
            }
            let (Some(want), Some(holders)) = (self.wants.get_mut(&digest), self.holders.get(&digest)) else {
                continue;
            };
            let free = holders.iter().filter(|peer| !away.contains(peer) && !want.avoid.contains_key(peer));
            let load = |peer: &PeerId| self.busy.get(peer).copied().unwrap_or(0);
            let may_come = cache.is_some_and(|cache| {
                !holders.contains(&cache) && !away.contains(&cache) && !want.avoid.contains_key(&cache)
            });
            if may_come && now < want.cached_by {
                wake = wake.min(want.cached_by);
                continue;
            }
            let first = |peer: &&PeerId| (Some(**peer) != cache, load(peer), mix(lot, peer.0));
            if let Some(peer) = free.min_by_key(first).copied() {
                want.asked = Some((peer, now));
                *self.busy.entry(peer).or_default() += 1;
                in_flight += 1;
                moves.begin.push((want.blob, peer));
            } else if let Some(until) = want.avoid.values().min() {
                wake = wake.min(*until);
            }
        }
        (moves, wake)
    }
}

/// A number that differs with what it is made of; nothing hangs on its quality.
pub(crate) fn mix(salt: u64, bytes: [u8; 32]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[8..16]);
    let mut mixed = (salt ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^= mixed >> 32;
    mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93)
}
