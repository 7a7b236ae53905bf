//! The signed messages of the round in progress.
//!
//! Each peer may say each thing once (each kind, each view), so a flooder fills its own places only. Messages spread
//! by forwarding; what was lost is found by comparing the short ids in heartbeats.

use core::ops::RangeInclusive;
use std::collections::{BTreeMap, BTreeSet};

use shoal_wire::{
    Digest, Envelope, Millis, PeerId, View,
    judging::{Equivocation, Judgement},
    limits::{JOINS_MAX, MESSAGES_PER_PEER_MAX, POOL_BYTES_PER_PEER_MAX, VIEWS_AHEAD_MAX},
    record::{Commit, CommitList, Message, Proposal, RecoveryAnswer, Said, Vote, VoteKind, seed_hash},
};

/// In an order in which those that are looked for together are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Join,
    Leave,
    Commit,
    CommitList(View),
    Reveal,
    Have,
    Proposal(View),
    /// Of recoveries, a peer's newest attempt takes the place of earlier ones: attempts go on as long as it takes.
    RecoveryProposal,
    Vote(VoteKind, View),
    RecoveryVote,
    RecoveryCall,
    RecoveryAnswer,
    /// Of which draw.
    Judgement(Digest),
    /// Of whom it convicts.
    Equivocation(PeerId),
    Amendment,
    /// On which amendment.
    Ballot(Digest),
}

impl Slot {
    fn of(message: &Message) -> Self {
        match message {
            Message::Join(_) => Self::Join,
            Message::Leave => Self::Leave,
            Message::Commit(_) => Self::Commit,
            Message::CommitList(list) => Self::CommitList(list.view),
            Message::Reveal(_) => Self::Reveal,
            Message::Have(_) => Self::Have,
            Message::Proposal(proposal) if proposal.body.recovery.is_some() => Self::RecoveryProposal,
            Message::Proposal(proposal) => Self::Proposal(proposal.view),
            Message::Vote(vote) if vote.kind == VoteKind::Recovery => Self::RecoveryVote,
            Message::Vote(vote) => Self::Vote(vote.kind, vote.view),
            Message::RecoveryCall(_) => Self::RecoveryCall,
            Message::RecoveryAnswer(_) => Self::RecoveryAnswer,
            Message::Judgement(judgement) => Self::Judgement(judgement.draw),
            Message::Equivocation(proof) => Self::Equivocation(proof.first.from),
            Message::Amendment(_) => Self::Amendment,
            Message::Ballot(ballot) => Self::Ballot(ballot.amendment),
        }
    }

    const fn view(self) -> View {
        match self {
            Self::CommitList(view) | Self::Proposal(view) | Self::Vote(_, view) => view,
            _ => 0,
        }
    }

    /// Places of which there is one for each view, so that they grow with the views.
    const fn is_of_view(self) -> bool {
        matches!(self, Self::Proposal(_) | Self::Vote(..))
    }

    const fn is_of_recovery(self) -> bool {
        matches!(self, Self::RecoveryCall | Self::RecoveryAnswer | Self::RecoveryProposal | Self::RecoveryVote)
    }
}

/// Before and after all peers.
const FIRST: PeerId = PeerId([0; 32]);
const LAST: PeerId = PeerId([255; 32]);

/// The view in progress, and earlier ones that locks and later proposals rest on.
pub(crate) struct Views {
    pub now: View,
    pub kept: Vec<View>,
}

#[derive(Clone, Debug)]
struct Entry {
    envelope: Envelope,
    said: Said,
    /// When it came.
    at: Millis,
    id: Digest,
    /// Digest of a proposal's body, and id of the list in it: both take long to compute.
    body: Option<(Digest, Option<Digest>)>,
    /// What a revealed seed hashes to: every pass over the rules asks.
    seed_hash: Option<Digest>,
}

/// A list of commits, and when it came.
pub(crate) struct Listed<'a> {
    pub id: Digest,
    pub envelope: &'a Envelope,
    pub list: &'a CommitList,
    pub came: Millis,
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    entries: BTreeMap<(Slot, PeerId), Entry>,
    ids: BTreeMap<u64, (Slot, PeerId)>,
    /// Authors of commits, by the commit's id.
    authors: BTreeMap<Digest, PeerId>,
    /// Ids that were looked at and not kept, so that they are not asked for again.
    refused: BTreeSet<u64>,
    /// What is remembered of each author.
    held: BTreeMap<PeerId, Held>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    messages: usize,
    bytes: usize,
}

impl Held {
    fn add(&mut self, entry: &Entry) {
        self.messages += 1;
        self.bytes += entry.envelope.payload.len();
    }

    fn take(&mut self, entry: &Entry) {
        self.messages -= 1;
        self.bytes -= entry.envelope.payload.len();
    }
}

/// First eight bytes of an envelope's id.
pub(crate) fn short(id: Digest) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.0[..8]);
    u64::from_le_bytes(first)
}

/// The attempt at a recovery that a message belongs to.
fn attempt(message: &Message) -> Option<u32> {
    match message {
        Message::RecoveryCall(call) => Some(call.attempt),
        Message::RecoveryAnswer(answer) => Some(answer.attempt),
        Message::Proposal(proposal) if proposal.body.recovery.is_some() => Some(proposal.view),
        Message::Vote(vote) if vote.kind == VoteKind::Recovery => Some(vote.view),
        _ => None,
    }
}

impl Pool {
    /// Whether an envelope with this short id was seen in this round.
    pub fn knows(&self, id: u64) -> bool {
        self.ids.contains_key(&id) || self.refused.contains(&id)
    }

    pub fn refuse(&mut self, id: u64) {
        if self.refused.len() < MESSAGES_PER_PEER_MAX * 16 {
            self.refused.insert(id);
        }
    }

    /// Whether an author may have no more of this remembered.
    fn is_full(&self, from: PeerId, slot: Slot, bytes: usize) -> bool {
        let held = self.held.get(&from).copied().unwrap_or_default();
        (held.messages >= MESSAGES_PER_PEER_MAX && !slot.is_of_recovery())
            || held.bytes + bytes > POOL_BYTES_PER_PEER_MAX
    }

    /// An entry is remembered no more: its id is not asked for again.
    fn let_go(&mut self, from: PeerId, entry: &Entry) {
        if let Some(held) = self.held.get_mut(&from) {
            held.take(entry);
        }
        let id = short(entry.id);
        self.ids.remove(&id);
        self.refuse(id);
    }

    /// Makes room for what an author says now, in place of what it said in the earliest views: a round that takes
    /// long must not silence anybody.
    fn make_room(&mut self, from: PeerId, slot: Slot, bytes: usize, views: &Views) {
        while self.is_full(from, slot, bytes) {
            let may_go = |old: &Slot| {
                let before = !slot.is_of_view() || old.view() < slot.view();
                old.is_of_view() && before && old.view() < views.now && !views.kept.contains(&old.view())
            };
            let own = self.entries.keys().filter(|(_, peer)| *peer == from);
            let earliest = own.map(|(slot, _)| *slot).filter(may_go).min_by_key(|slot| slot.view());
            let Some(entry) = earliest.and_then(|slot| self.entries.remove(&(slot, from))) else { return };
            self.let_go(from, &entry);
        }
    }

    /// Keeps a message unless its author already said something in its place; returns whether it was kept.
    ///
    /// Requests to join have so many places for strangers; those of members, who ask for theirs back, always fit.
    pub fn insert(
        &mut self,
        envelope: Envelope,
        said: Said,
        views: &Views,
        at: Millis,
        is_member: impl Fn(PeerId) -> bool,
    ) -> bool {
        let whole_id = envelope.id();
        let id = short(whole_id);
        let from = envelope.from;
        let slot = Slot::of(&said.message);
        let bytes = envelope.payload.len();
        let ahead = slot.view() > views.now.saturating_add(VIEWS_AHEAD_MAX);
        if !ahead && !self.entries.contains_key(&(slot, from)) {
            self.make_room(from, slot, bytes, views);
        }
        let strangers = || self.joins().filter(|(envelope, _)| !is_member(envelope.from)).count();
        let full =
            self.is_full(from, slot, bytes) || (slot == Slot::Join && !is_member(from) && strangers() >= JOINS_MAX);
        let replaces = match (&said.message, self.entries.get(&(slot, from)).map(|entry| &entry.said.message)) {
            (_, None) => !full && !ahead,
            (Message::Have(new), Some(Message::Have(old))) => new.updates.len() > old.updates.len(),
            (Message::Join(_), Some(_)) => {
                self.entries.get(&(slot, from)).is_some_and(|old| old.said.round < said.round)
            }
            (new, Some(old)) => attempt(new).zip(attempt(old)).is_some_and(|(new, old)| new > old),
        };
        if !replaces {
            self.refuse(id);
            return false;
        }
        if slot == Slot::Commit {
            self.authors.insert(whole_id, from);
        }
        let body = match &said.message {
            Message::Proposal(proposal) => {
                let body = &proposal.body;
                Some((body.digest(), body.content.list.as_ref().map(Envelope::id)))
            }
            _ => None,
        };
        let seed_hash = if let Message::Reveal(seed) = &said.message { Some(seed_hash(*seed)) } else { None };
        let entry = Entry { envelope, said, at, id: whole_id, body, seed_hash };
        self.held.entry(from).or_default().add(&entry);
        if let Some(old) = self.entries.insert((slot, from), entry) {
            self.let_go(from, &old);
        }
        self.ids.insert(id, (slot, from));
        true
    }

    /// The other vote that this peer signed in the same place: equivocation, which its own signatures prove.
    pub fn contradicted(&self, from: PeerId, said: &Said) -> Option<&Envelope> {
        let before = self.entries.get(&(Slot::of(&said.message), from))?;
        // A later attempt at a recovery is no second vote in an earlier one, though it takes its place.
        let same_ballot = |old: &Vote, new: &Vote| (old.kind, old.view) == (new.kind, new.view);
        let contradicts = matches!((&before.said.message, &said.message),
            (Message::Vote(old), Message::Vote(new)) if same_ballot(old, new) && old != new);
        contradicts.then_some(&before.envelope)
    }

    /// What an auditor said of a draw, and when it came.
    pub fn judgement(&self, auditor: PeerId, draw: Digest) -> Option<(&Envelope, &Judgement, Millis)> {
        let entry = self.entries.get(&(Slot::Judgement(draw), auditor))?;
        match &entry.said.message {
            Message::Judgement(judgement) => Some((&entry.envelope, judgement, entry.at)),
            _ => None,
        }
    }

    /// Proofs that peers contradicted themselves.
    pub fn proofs(&self) -> impl Iterator<Item = &Equivocation> {
        self.within(Slot::Equivocation(FIRST)..=Slot::Equivocation(LAST)).filter_map(|(_, entry)| {
            match &entry.said.message {
                Message::Equivocation(proof) => Some(&**proof),
                _ => None,
            }
        })
    }

    /// Whether this leader closed the commits of the same view with another list.
    pub fn lists_differ(&self, from: PeerId, list: &CommitList) -> bool {
        let before = self.entries.get(&(Slot::CommitList(list.view), from)).map(|entry| &entry.said.message);
        matches!(before, Some(Message::CommitList(old)) if old != list)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn ids(&self) -> Vec<u64> {
        self.ids.keys().copied().collect()
    }

    pub fn envelope(&self, id: u64) -> Option<&Envelope> {
        self.ids.get(&id).and_then(|key| self.entries.get(key)).map(|entry| &entry.envelope)
    }

    /// Starts the next round: only requests to join, and proofs of contradiction that no body holds yet, outlive one.
    pub fn next_round(
        &mut self,
        keep_join: impl Fn(&Said, PeerId) -> bool,
        keep_proof: impl Fn(&Equivocation) -> bool,
    ) {
        self.entries.retain(|(_, peer), entry| match &entry.said.message {
            Message::Join(_) => keep_join(&entry.said, *peer),
            Message::Equivocation(proof) => keep_proof(proof),
            _ => false,
        });
        self.ids.retain(|_, key| self.entries.contains_key(key));
        self.held.clear();
        for ((_, peer), entry) in &self.entries {
            self.held.entry(*peer).or_default().add(entry);
        }
        self.authors.clear();
        self.refused.clear();
    }

    /// What was said in these places, by place and then by author.
    fn within(&self, places: RangeInclusive<Slot>) -> impl Iterator<Item = (PeerId, &Entry)> {
        let (first, last) = places.into_inner();
        let entries = self.entries.range((first, FIRST)..=(last, LAST));
        entries.map(|((_, peer), entry)| (*peer, entry))
    }

    fn proposed(&self) -> impl Iterator<Item = &Entry> {
        self.within(Slot::Proposal(0)..=Slot::RecoveryProposal).map(|(_, entry)| entry)
    }

    /// Requests to join, with what says in which round and by which session each was made.
    pub fn joins(&self) -> impl Iterator<Item = (&Envelope, &Said)> {
        self.within(Slot::Join..=Slot::Join)
            .filter(|(_, entry)| matches!(entry.said.message, Message::Join(_)))
            .map(|(_, entry)| (&entry.envelope, &entry.said))
    }

    /// What a peer asked last to be taken in.
    pub fn join_of(&self, peer: PeerId) -> Option<&Said> {
        self.entries.get(&(Slot::Join, peer)).map(|entry| &entry.said)
    }

    pub fn leaves(&self) -> impl Iterator<Item = &Envelope> {
        self.within(Slot::Leave..=Slot::Leave).map(|(_, entry)| &entry.envelope)
    }

    /// Amendments and ballots.
    pub fn charter(&self) -> impl Iterator<Item = (&Envelope, &Message)> {
        self.within(Slot::Amendment..=Slot::Ballot(Digest(LAST.0))).filter_map(|(_, entry)| match &entry.said.message {
            message @ (Message::Amendment(_) | Message::Ballot(_)) => Some((&entry.envelope, message)),
            _ => None,
        })
    }

    pub fn commits(&self) -> impl Iterator<Item = (&Envelope, &Commit)> {
        self.within(Slot::Commit..=Slot::Commit).filter_map(|(_, entry)| match &entry.said.message {
            Message::Commit(commit) => Some((&entry.envelope, commit)),
            _ => None,
        })
    }

    pub fn commit(&self, id: Digest) -> Option<(&Envelope, &Commit)> {
        let entry = self.entries.get(&(Slot::Commit, *self.authors.get(&id)?))?;
        match &entry.said.message {
            Message::Commit(commit) => Some((&entry.envelope, commit)),
            _ => None,
        }
    }

    /// When a commit came.
    pub fn commit_time(&self, id: &Digest) -> Option<Millis> {
        self.entries.get(&(Slot::Commit, *self.authors.get(id)?)).map(|entry| entry.at)
    }

    /// When this author's commit came.
    pub fn committed_at(&self, author: PeerId) -> Option<Millis> {
        self.entries.get(&(Slot::Commit, author)).map(|entry| entry.at)
    }

    /// Ids of the commits with the times at which they came.
    pub fn commit_times(&self) -> impl Iterator<Item = (&Digest, Millis)> {
        self.authors.keys().filter_map(|id| Some((id, self.commit_time(id)?)))
    }

    /// Ids of the commits in peer order, as a list names them.
    pub fn commit_ids(&self) -> Vec<Digest> {
        let mut ids: Vec<(PeerId, Digest)> = self.authors.iter().map(|(id, peer)| (*peer, *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Lists of commits, lowest view first.
    pub fn lists(&self) -> Vec<Listed<'_>> {
        let mut lists: Vec<_> = self
            .within(Slot::CommitList(0)..=Slot::CommitList(View::MAX))
            .filter_map(|(_, entry)| match &entry.said.message {
                Message::CommitList(list) => {
                    Some(Listed { id: entry.id, envelope: &entry.envelope, list, came: entry.at })
                }
                _ => None,
            })
            .collect();
        lists.sort_by_key(|listed| listed.list.view);
        lists
    }

    /// The seed that a peer revealed, if it is the one of this commit.
    pub fn reveal(&self, peer: PeerId, commit: &Commit) -> Option<Digest> {
        let entry =
            self.entries.get(&(Slot::Reveal, peer)).filter(|entry| entry.seed_hash == Some(commit.seed_hash))?;
        if let Message::Reveal(seed) = entry.said.message { Some(seed) } else { None }
    }

    /// When a peer's seed came.
    pub fn reveal_time(&self, peer: PeerId) -> Option<Millis> {
        self.entries.get(&(Slot::Reveal, peer)).map(|entry| entry.at)
    }

    /// Peers that say they hold an update.
    pub fn holders(&self, update: Digest) -> impl Iterator<Item = PeerId> {
        self.within(Slot::Have..=Slot::Have).filter_map(move |(peer, entry)| match &entry.said.message {
            Message::Have(have) if have.updates.contains(&update) => Some(peer),
            _ => None,
        })
    }

    /// Who surely holds which update: it says so, or made it.
    pub fn holdings(&self) -> BTreeSet<(PeerId, Digest)> {
        let made = self.commits().map(|(envelope, commit)| (envelope.from, commit.update));
        let said = self.within(Slot::Have..=Slot::Have).filter_map(|(peer, entry)| match &entry.said.message {
            Message::Have(have) => Some((peer, have)),
            _ => None,
        });
        made.chain(said.flat_map(|(peer, have)| have.updates.iter().map(move |update| (peer, *update)))).collect()
    }

    /// A proposal, and the digest of its body.
    pub fn proposal(&self, peer: PeerId, view: View) -> Option<(Digest, &Proposal)> {
        let entry = self.entries.get(&(Slot::Proposal(view), peer))?;
        match (&entry.said.message, entry.body) {
            (Message::Proposal(proposal), Some((digest, _))) => Some((digest, proposal)),
            _ => None,
        }
    }

    pub fn proposals(&self) -> impl Iterator<Item = (PeerId, &Proposal)> {
        self.within(Slot::Proposal(0)..=Slot::RecoveryProposal).filter_map(|(peer, entry)| match &entry.said.message {
            Message::Proposal(proposal) => Some((peer, &**proposal)),
            _ => None,
        })
    }

    /// A proposal of this body.
    pub fn body(&self, digest: Digest) -> Option<&Proposal> {
        let entry = self.proposed().find(|entry| entry.body.is_some_and(|(body, _)| body == digest))?;
        match &entry.said.message {
            Message::Proposal(proposal) => Some(proposal),
            _ => None,
        }
    }

    /// A proposal of this body as it was signed.
    pub fn envelope_of_body(&self, digest: Digest) -> Option<&Envelope> {
        let mut entries = self.proposed();
        entries.find(|entry| entry.body.is_some_and(|(body, _)| body == digest)).map(|entry| &entry.envelope)
    }

    /// Id of the list in each proposed body that has one.
    pub fn lists_of_bodies(&self) -> BTreeMap<Digest, Digest> {
        self.proposed().filter_map(|entry| entry.body).filter_map(|(body, list)| Some((body, list?))).collect()
    }

    pub fn votes(&self) -> impl Iterator<Item = (PeerId, Vote, &Envelope)> {
        self.within(Slot::Vote(VoteKind::Prevote, 0)..=Slot::RecoveryVote).filter_map(|(peer, entry)| {
            match entry.said.message {
                Message::Vote(vote) => Some((peer, vote, &entry.envelope)),
                _ => None,
            }
        })
    }

    /// Newest attempt at a recovery that an anchor called.
    pub fn recovery_call(&self, anchors: &[PeerId]) -> Option<u32> {
        self.within(Slot::RecoveryCall..=Slot::RecoveryCall)
            .filter(|(peer, _)| anchors.contains(peer))
            .filter_map(|(_, entry)| match entry.said.message {
                Message::RecoveryCall(call) => Some(call.attempt),
                _ => None,
            })
            .max()
    }

    pub fn recovery_answers(&self, attempt: u32) -> impl Iterator<Item = (&Envelope, &RecoveryAnswer)> {
        self.within(Slot::RecoveryAnswer..=Slot::RecoveryAnswer).filter_map(move |(_, entry)| {
            match &entry.said.message {
                Message::RecoveryAnswer(answer) if answer.attempt == attempt => Some((&entry.envelope, answer)),
                _ => None,
            }
        })
    }
}
