//! What the committee agrees on: which sums are the round's, and what follows from them.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use shoal_wire::{
    Digest, Envelope, Millis, PeerId, View,
    crowd::{Body, Mean, PartMean, Proposal, SumRecord},
    limits::JOINS_MAX,
    record::VoteKind,
    sign::Signature,
};

use super::{Crowd, Epoch, Job, PARTS, panel::Ruling, peer::Purpose};
use crate::{Bytes, rules::VoteState};

/// Who voted for what in one step of one view.
type Votes = BTreeMap<PeerId, (Option<Digest>, Signature)>;

/// A member's view of the agreement.
#[derive(Debug)]
pub(super) struct Committee {
    pub seats: Vec<PeerId>,
    pub standing: VoteState<Digest>,
    /// When the first root was here, and when two thirds of them were.
    pub since: Option<Millis>,
    pub enough: Option<Millis>,
    pub view_since: Option<Millis>,
    pub prevotes_since: Option<Millis>,
    pub precommits_since: Option<Millis>,
    /// The first proposal of each view's leader, and when it came.
    pub proposals: BTreeMap<View, (Proposal, Millis)>,
    pub bodies: BTreeMap<Digest, Body>,
    pub votes: BTreeMap<(VoteKind, View), Votes>,
    pub verdicts: BTreeMap<Digest, Ruling>,
    pub joins: BTreeMap<PeerId, Envelope>,
}

impl Committee {
    /// None for a peer that is not in it.
    pub fn of(epoch: &Epoch, seat: Option<usize>) -> Option<Self> {
        let members = epoch.draw.committee();
        members.contains(&(seat? as u32)).then(|| Self {
            seats: members.iter().map(|member| epoch.peer(*member)).collect(),
            standing: VoteState::default(),
            since: None,
            enough: None,
            view_since: None,
            prevotes_since: None,
            precommits_since: None,
            proposals: BTreeMap::new(),
            bodies: BTreeMap::new(),
            votes: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            joins: BTreeMap::new(),
        })
    }

    pub fn leader(&self, view: View) -> PeerId {
        self.seats.get(view as usize % self.seats.len().max(1)).copied().unwrap_or_default()
    }

    /// How many voted in a view as `wanted` says. A seat is a vote: weight decided who sits.
    pub fn voters(&self, kind: VoteKind, view: View, wanted: impl Fn(Option<Digest>) -> bool) -> usize {
        self.votes.get(&(kind, view)).map_or(0, |votes| votes.values().filter(|(body, _)| wanted(*body)).count())
    }

    pub fn is_quorum(&self, votes: usize) -> bool {
        votes * 3 > self.seats.len() * 2
    }
}

/// A body without what is computed from it, and without who proposed it when.
fn outline(body: &Body) -> Body {
    Body { view: 0, roster: Digest::default(), model: Digest::default(), ..body.clone() }
}

impl Crowd {
    pub(super) fn take_join(&mut self, envelope: Envelope) {
        let is_member = self.epoch.roster.find(envelope.from).is_some();
        if let Some(committee) = self.round.committee.as_mut().filter(|_| !is_member)
            && committee.joins.len() < JOINS_MAX
        {
            committee.joins.insert(envelope.from, envelope);
        }
    }

    /// The certified root of each part: of several, the one that most are in.
    fn roots(&self) -> BTreeMap<u8, (Digest, &SumRecord, &Mean)> {
        let top = self.epoch.draw.top();
        let mut roots: BTreeMap<u8, (Digest, &SumRecord, &Mean)> = BTreeMap::new();
        let people = |record: &SumRecord| record.attendance.values().map(|mask| mask.count_ones()).sum::<u32>();
        for (digest, certificate) in &self.round.sums {
            let record = &certificate.record;
            let Some(mean) = record.mean.as_ref().filter(|_| record.node.level == top) else { continue };
            if roots.get(&record.node.part).is_none_or(|(_, other, _)| people(other) < people(record)) {
                roots.insert(record.node.part, (*digest, record, mean));
            }
        }
        roots
    }

    /// What this peer would propose now; `None` while more is to be waited for.
    pub(super) fn draft(&mut self) -> Option<Body> {
        let (now, timing) = (self.now, self.config.timing);
        let roots = self.roots();
        let here: BTreeMap<u8, (Digest, SumRecord, Mean)> = roots
            .into_iter()
            .filter(|(_, (.., mean))| self.blobs.contains_key(&mean.coded.digest))
            .map(|(part, (digest, record, mean))| (part, (digest, record.clone(), mean.clone())))
            .collect();
        let committee = self.round.committee.as_mut()?;
        let since = committee.since?;
        if here.len() * 3 >= PARTS * 2 {
            committee.enough.get_or_insert(now);
        }
        let late = since + timing.level_ms;
        let ready = match committee.enough {
            Some(enough) if here.len() == PARTS => enough,
            Some(enough) => late.min(enough + timing.grace_ms),
            None => late,
        };
        // Auditors and those who check what they find get this long.
        let audits = if self.epoch.draw.audits().is_empty() { 0 } else { timing.audit_ms };
        let ready = ready.max(since + audits);
        let joins = committee.joins.values().cloned().collect();
        if here.is_empty() || !self.due(ready) {
            return None;
        }
        let records: Vec<&SumRecord> = here.values().map(|(_, record, _)| record).collect();
        let (attendance, randomness) = self.follows(&records);
        let part = |part: u8| here.get(&part).map(|(record, _, mean)| PartMean { record: *record, mean: mean.clone() });
        Some(Body {
            run: self.config.run,
            round: self.epoch.round,
            parent: self.parent,
            view: 0,
            parts: (0..PARTS as u8).map(part).collect(),
            attendance,
            joins,
            convicted: self.round.convicted.iter().copied().collect(),
            roster: Digest::default(),
            randomness,
            model: Digest::default(),
        })
    }

    /// Who contributed to any part, and the randomness that the roots' seeds give.
    fn follows(&self, roots: &[&SumRecord]) -> (BTreeMap<u32, u16>, Digest) {
        let mut attendance: BTreeMap<u32, u16> = BTreeMap::new();
        for (group, mask) in roots.iter().flat_map(|record| &record.attendance) {
            *attendance.entry(*group).or_default() |= mask;
        }
        let seeds: Vec<Digest> = roots.iter().map(|record| record.seeds).collect();
        (attendance, self.epoch.randomness_after(&seeds))
    }

    /// Fills in the next roster and the model; `None` while they are computed.
    pub(super) fn complete(&mut self, body: &Body) -> Option<Body> {
        let key = self.follow(body);
        let applied = self.apply(body)?;
        let next = self.round.next.get(&key)?.as_ref()?;
        Some(Body { roster: next.roster.root(), model: applied.0, ..body.clone() })
    }

    /// Starts computing what follows from a body, once; returns the key under which it will be found.
    pub(super) fn follow(&mut self, body: &Body) -> Digest {
        let outlined = outline(body);
        let key = outlined.digest();
        if let Entry::Vacant(place) = self.round.next.entry(key) {
            place.insert(None);
            let work = Job::Next { epoch: self.epoch.clone(), body: Box::new(outlined) };
            self.compute(Purpose::Next { key }, work);
            self.changed = true;
        }
        key
    }

    /// The model after a body's means; `None` while they are fetched or applied.
    pub(super) fn apply(&mut self, body: &Body) -> Option<(Digest, Bytes)> {
        body.parts.iter().flatten().for_each(|part| self.want_sum(part.mean.coded));
        self.apply_means(body.parts.iter().map(|part| part.as_ref().map(|part| part.mean.coded.digest)).collect())
    }

    /// Once a mean of each part is here, and no other, they are most likely what will be decided: applying them need not
    /// wait for the decision.
    pub(super) fn apply_ahead(&mut self) {
        if self.round.decided.is_some() || !self.round.applied.is_empty() {
            return;
        }
        let mut likely: BTreeMap<u8, Digest> =
            self.roots().into_iter().map(|(part, (.., mean))| (part, mean.coded.digest)).collect();
        for (part, told) in &self.round.coded {
            if let (1, Some(blob)) = (told.len(), told.first()) {
                likely.entry(*part).or_insert(blob.digest);
            }
        }
        if likely.len() == PARTS && likely.values().all(|digest| self.blobs.contains_key(digest)) {
            self.apply_means(likely.into_values().map(Some).collect());
        }
    }

    fn apply_means(&mut self, named: Vec<Option<Digest>>) -> Option<(Digest, Bytes)> {
        let key = Digest::in_domain("shoal 2026 v1 crowd work", &shoal_wire::codec::encode(&named));
        if let Some(known) = self.round.applied.get(&key) {
            return known.clone();
        }
        let mut coded = Vec::new();
        for name in named {
            coded.push(match name {
                Some(digest) => Some(self.blob(digest)?.clone()),
                None => None,
            });
        }
        self.round.applied.insert(key, None);
        let work = Job::Apply { epoch: self.epoch.clone(), model: self.model.clone(), coded };
        self.compute(Purpose::Apply { key }, work);
        None
    }

    /// Recomputes a proposed body from the roots that this peer knows.
    pub(super) fn validity(&mut self, body: &Body, came: Millis) -> Ruling {
        let digest = body.digest();
        let known = self.round.committee.as_ref().and_then(|committee| committee.verdicts.get(&digest)).copied();
        if let Some(verdict) = known {
            return verdict;
        }
        let verdict = self.judge_body(body, came);
        if let Some(committee) = self.round.committee.as_mut().filter(|_| verdict != Ruling::Pending) {
            committee.verdicts.insert(digest, verdict);
        }
        verdict
    }

    fn judge_body(&mut self, body: &Body, came: Millis) -> Ruling {
        if body.run != self.config.run || body.round != self.epoch.round || body.parent != self.parent {
            return Ruling::Bad;
        }
        if body.parts.len() != PARTS || body.parts.iter().all(Option::is_none) {
            return Ruling::Bad;
        }
        let mut records = Vec::new();
        for (at, part) in body.parts.iter().enumerate() {
            let Some(part) = part else { continue };
            let Some(certificate) = self.round.sums.get(&part.record) else { return Ruling::Pending };
            let record = &certificate.record;
            let is_root = record.node.level == self.epoch.draw.top() && usize::from(record.node.part) == at;
            if !is_root || record.mean.as_ref() != Some(&part.mean) {
                return Ruling::Bad;
            }
            records.push(record);
        }
        let long = self.config.timing.level_ms;
        let omitted = self.roots().into_iter().any(|(part, (.., mean))| {
            let here = self.blobs.get(&mean.coded.digest).is_some_and(|(_, at, _)| *at + long < came);
            here && body.parts[usize::from(part)].is_none()
        });
        let follows = self.follows(&records);
        if omitted || (&body.attendance, body.randomness) != (&follows.0, follows.1) {
            return Ruling::Bad;
        }
        let convicted: BTreeSet<PeerId> = body.convicted.iter().copied().collect();
        if !convicted.is_subset(&self.round.convicted) {
            return Ruling::Pending;
        }
        match self.complete(body) {
            None => Ruling::Pending,
            Some(complete) if complete == *body => Ruling::Good,
            Some(_) => Ruling::Bad,
        }
    }
}
