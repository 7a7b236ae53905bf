//! How everybody gets what the committee decided: the certificate, and the coded means.
//!
//! Groups form a tree of their own, 16 below each. For each part of the model two members of a group fetch it from the
//! group above, and all get it from each other: nobody uploads more than about the whole mean, and what it takes grows
//! with the logarithm of the number of groups.

use std::collections::BTreeSet;

use shoal_ledger::more_than_two_thirds;
use shoal_wire::{
    Digest, PeerId, Round,
    crowd::{Blob, Certificate, Frame, Node, PartMean},
    limits::GROUP_MAX,
};

use super::{Crowd, Event, PARTS, fetch::mix};

/// Addresses of one part's mean that are fetched before the committee names one.
const GUESSES_MAX: usize = 2;
/// Between two requests for a certificate.
const PULL_MS: u64 = 1_000;

impl Crowd {
    fn group(&self) -> Option<usize> {
        self.group_node().map(|node| node.index as usize)
    }

    fn members_of(&self, group: usize) -> Vec<PeerId> {
        self.peers_of(Node { level: 0, index: group as u32, part: 0 })
    }

    /// The two members of a group that fetch a part for it.
    fn fetchers(&self, group: usize, part: u8) -> Vec<PeerId> {
        let members = self.members_of(group);
        let count = members.len().min(2);
        (0..count).map(|offset| members[(usize::from(part) + offset) % members.len()]).collect()
    }

    /// Tells those that get a part from this peer that it is here.
    pub(super) fn pass_on_coded(&mut self, part: u8, coded: Blob) {
        if !self.blobs.contains_key(&coded.digest) || !self.round.passed_on.insert(coded.digest) {
            return;
        }
        self.fetches.holds(coded.digest, self.me);
        let mut to: BTreeSet<PeerId> = self.groupmates().into_iter().collect();
        let top = Node { level: self.epoch.draw.top(), index: 0, part };
        if self.round.panels.contains_key(&top) {
            to.extend(self.fetchers(0, part));
        }
        if let Some(group) = self.group() {
            let below = GROUP_MAX * group + 1..=GROUP_MAX * (group + 1);
            below.for_each(|child| to.extend(self.fetchers(child, part)));
        }
        let frame = Frame::Coded { round: self.epoch.round, parts: vec![(part, coded)] };
        self.send(to.into_iter().collect(), &frame);
    }

    /// Somebody holds a part. Before the committee decided, it is fetched only when it comes from where it should.
    pub(super) fn take_coded(&mut self, from: PeerId, parts: &[(u8, Blob)]) {
        let fits: Vec<&(u8, Blob)> = parts
            .iter()
            .take(PARTS)
            .filter(|(part, blob)| usize::from(*part) < PARTS && self.is_blob_size(blob.bytes))
            .collect();
        for (part, blob) in fits {
            self.fetches.told(blob.digest, from);
            let guesses = self.round.coded.entry(*part).or_default();
            if guesses.len() < GUESSES_MAX || guesses.contains(blob) {
                guesses.insert(*blob);
                if self.round.decided.is_none() && self.is_source(from, *part) {
                    self.want_sum(*blob);
                }
            }
        }
    }

    fn is_source(&self, from: PeerId, part: u8) -> bool {
        let Some(group) = self.group() else { return false };
        let above = || match group.checked_sub(1) {
            Some(before) => self.members_of(before / GROUP_MAX),
            None => self.peers_of(Node { level: self.epoch.draw.top(), index: 0, part }),
        };
        self.round.mates.contains(&from) || above().contains(&from)
    }

    /// A certificate from somebody else.
    pub(super) fn take_certificate(&mut self, from: PeerId, certificate: &Certificate) {
        if let Some(decided) = &self.round.decided {
            // It holds what the certificate names: one more to ask.
            if decided.body == certificate.body {
                for part in certificate.body.parts.iter().flatten() {
                    self.fetches.holds(part.mean.coded.digest, from);
                }
            }
            return;
        }
        let seats: BTreeSet<PeerId> =
            self.epoch.draw.committee().iter().map(|member| self.epoch.peer(*member)).collect();
        let votes = certificate.signatures.iter().filter(|(peer, _)| seats.contains(peer)).count();
        if more_than_two_thirds(votes as u64, seats.len() as u64) {
            // Whoever has the certificate has, or will soon have, what it names.
            for part in certificate.body.parts.iter().flatten() {
                self.fetches.holds(part.mean.coded.digest, from);
            }
            self.round.decided = Some(certificate.clone().into());
            self.ahead = Some(from);
            self.changed = true;
        }
    }

    /// Passes on parts that came and the certificate; asks for it when it should be there.
    pub(super) fn spread(&mut self) {
        let known: Vec<(u8, Blob)> =
            self.round.coded.iter().flat_map(|(part, blobs)| blobs.iter().map(|blob| (*part, *blob))).collect();
        for (part, blob) in known {
            self.pass_on_coded(part, blob);
        }
        let Some(certificate) = self.round.decided.clone() else { return self.pull() };
        for (part, mean) in certificate.body.parts.iter().enumerate() {
            if let Some(mean) = mean {
                self.want_sum(mean.mean.coded);
                self.pass_on_coded(part as u8, mean.mean.coded);
            }
        }
        if !core::mem::replace(&mut self.round.spread, true) {
            let to = self.certificate_goes_to();
            self.send(to, &Frame::Certificate((*certificate).clone()));
        }
        // Whoever brought the certificate may be gone: others have what is missing, too.
        let missing = |mean: &PartMean| !self.blobs.contains_key(&mean.mean.coded.digest);
        if certificate.body.parts.iter().flatten().any(missing) {
            self.pull();
        }
    }

    /// A member of the committee tells two members of some groups, and these tell half of their group each.
    fn certificate_goes_to(&self) -> Vec<PeerId> {
        let mut to = BTreeSet::new();
        let groups = self.epoch.draw.groups().len();
        if let Some(committee) = &self.round.committee {
            let seats = committee.seats.len().max(1);
            let place = committee.seats.iter().position(|peer| *peer == self.me).unwrap_or(0);
            // Each group hears it from two members of the committee.
            for mine in [place, (place + seats - 1) % seats] {
                (mine..groups).step_by(seats).for_each(|group| to.extend(self.members_of(group).into_iter().take(2)));
            }
        }
        let mates = self.groupmates();
        if let Some(place) = mates.iter().position(|peer| *peer == self.me).filter(|place| *place < 2) {
            to.extend(mates.iter().skip(place).step_by(2));
        }
        to.into_iter().collect()
    }

    /// Asks somebody for the certificate, again and again, once the group's own work is done.
    fn pull(&mut self) {
        let timing = self.config.timing;
        let begun = match self.round.closed {
            Some(closed) => closed + 2 * timing.level_ms,
            None => self.round.started + timing.train_ms + timing.level_ms,
        };
        let at = self.round.pulled.map_or(begun, |pulled| pulled + PULL_MS);
        if self.due(at) {
            self.round.pulled = Some(self.now);
            self.wake = self.wake.min(self.now + PULL_MS);
            if let Some(peer) = self.whom_to_ask() {
                self.send(vec![peer], &Frame::Get(self.epoch.round));
            }
        }
    }

    /// One of the group, another each time; of everybody where this peer lost its place.
    fn whom_to_ask(&self) -> Option<PeerId> {
        let salt = mix(self.now.0, self.me.0);
        let is_there = |peer: &PeerId| *peer != self.me && !self.away.contains(peer);
        if self.group().is_some() {
            return self.groupmates().into_iter().filter(is_there).min_by_key(|peer| mix(salt, peer.0));
        }
        let seats = self.epoch.roster.seats();
        let at = salt.checked_rem(seats.len() as u64)?;
        seats.get(at as usize).map(|seat| seat.member.peer).filter(is_there)
    }

    /// Asks a peer that is ahead for the certificate of this round.
    pub(super) fn pull_from(&mut self, peer: PeerId) {
        let recent = self.round.pulled.is_some_and(|pulled| self.now.since(pulled) < PULL_MS);
        if self.round.decided.is_none() && !recent {
            self.round.pulled = Some(self.now);
            let round: Round = self.epoch.round;
            self.send(vec![peer], &Frame::Get(round));
        }
    }

    /// Goes on to the next round when the model is here.
    pub(super) fn adopt(&mut self) {
        let Some(certificate) = self.round.decided.clone() else { return };
        let Some(key) = self.round.adopting else {
            self.round.adopting = Some(self.follow(&certificate.body));
            self.changed = true;
            return;
        };
        let Some((digest, model)) = self.apply(&certificate.body) else { return };
        let Some(epoch) = self.round.next.get(&key).cloned().flatten() else { return };
        let expected: (Digest, Digest) = (certificate.body.model, certificate.body.roster);
        if (digest, epoch.roster.root()) == expected {
            self.enter(epoch, certificate, model);
        } else if !core::mem::replace(&mut self.round.stuck, true) {
            self.tell(Event::Trouble("what the committee certified is not what follows from the sums here".to_owned()));
        }
    }
}
