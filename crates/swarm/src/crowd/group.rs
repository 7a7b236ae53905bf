//! A group's first half of a round: commit, close, reveal.
//!
//! Updates move sealed as soon as they are committed, while others still train. Nobody sees one, or a seed, before the
//! group's list is closed, so copying is pointless and seeds are chosen blind.

use std::collections::{BTreeMap, btree_map::Entry};

use shoal_ledger::more_than_two_thirds;
use shoal_wire::{
    Envelope, PeerId,
    crowd::{List, Message, Said, WorkCommit},
    limits::GROUP_MAX,
    record::seed_hash,
    sealed,
};

use super::{Crowd, peer::Committed};
use crate::Bytes;

impl Crowd {
    pub(super) fn trained(&mut self, update: Bytes, work: u16) {
        if work == 0 || self.round.commits.contains_key(&self.me) {
            return;
        }
        let seed = self.round.seed;
        let update = self.keep(sealed::seal(seed, self.me, &update).into());
        let to = self.groupmates();
        self.say(to, Message::Commit(WorkCommit { update, work, seed_hash: seed_hash(seed) }));
        self.hold(update);
    }

    pub(super) fn take_commit(&mut self, envelope: Envelope, commit: WorkCommit) {
        let (from, came) = (envelope.from, self.now);
        if self.round.mates.contains(&from)
            && (1..=4095).contains(&commit.work)
            && self.is_blob_size(commit.update.bytes)
        {
            let Entry::Vacant(place) = self.round.commits.entry(from) else { return };
            place.insert(Committed { envelope, commit, came });
            self.fetches.holds(commit.update.digest, from);
            self.want_update(commit.update);
        }
    }

    /// Closes the commits when it is this peer's turn.
    pub(super) fn close(&mut self) {
        let Some(node) = self.group_node().filter(|_| self.round.closed.is_none() && !self.round.listed) else {
            return;
        };
        let Some(panel) = self.round.panels.get(&node) else { return };
        let (peers, place) = (panel.names(), panel.place(self.me));
        let committed = panel.weight_of(|peer| self.round.commits.contains_key(&peer));
        let all = !peers.iter().any(|peer| !self.round.commits.contains_key(peer) && !self.away.contains(peer));
        if more_than_two_thirds(committed, panel.total) {
            self.round.two_thirds_committed.get_or_insert(self.now);
        }
        let timing = self.config.timing;
        let late = self.round.started + timing.train_ms;
        let since = match self.round.two_thirds_committed {
            Some(since) if all => since,
            Some(since) => late.min(since + timing.grace_ms),
            None => late,
        };
        let turn = since + self.present_before(&peers, place) * timing.turn_ms;
        if self.round.commits.is_empty() || !self.due(turn) {
            return;
        }
        self.round.listed = true;
        let commits = self.round.commits.values().map(|one| one.envelope.clone()).collect();
        self.say(peers, Message::List(List { view: place as u32, commits }));
    }

    /// The first list counts; a later one only if it holds nothing that its maker could have chosen after the reveals, and
    /// none may leave out what the others had for a while.
    pub(super) fn take_list(&mut self, from: PeerId, list: List) {
        let mates = self.groupmates();
        let digest = list.digest();
        if !mates.contains(&from) || self.round.lists.contains_key(&digest) || self.round.lists.len() >= GROUP_MAX {
            return;
        }
        let Some(commits) = self.open_list(&list, &mates) else { return };
        let known = |peer: &PeerId| self.round.commits.contains_key(peer);
        if let Some(closed) = self.round.closed {
            let before = |peer: &PeerId| self.round.commits.get(peer).is_some_and(|one| one.came <= closed);
            if !commits.keys().all(before) {
                return;
            }
        }
        let spread_ms = self.config.timing.turn_ms;
        let omits = |(peer, one): (&PeerId, &Committed)| {
            !commits.contains_key(peer)
                && one.came + spread_ms < self.now
                && self.round.closed.is_none_or(|at| one.came <= at)
        };
        if self.round.commits.iter().any(omits) {
            return;
        }
        let missing: Vec<PeerId> = commits.keys().filter(|peer| !known(peer)).copied().collect();
        for envelope in list.commits.iter().filter(|envelope| missing.contains(&envelope.from)) {
            self.take_commit(envelope.clone(), commits[&envelope.from]);
        }
        self.round.closed.get_or_insert(self.now);
        if let Some(node) = self.group_node()
            && let Some(panel) = self.round.panels.get_mut(&node)
        {
            panel.since.get_or_insert(self.now);
        }
        // An author may have committed to something else here.
        for (peer, commit) in &commits {
            self.fetches.holds(commit.update.digest, *peer);
            self.want_update(commit.update);
        }
        self.round.lists.insert(digest, (list, commits));
        self.changed = true;
    }

    /// The commits of a list: of this round, of members of a group, in peer order, and signed.
    pub(super) fn open_list(&self, list: &List, members: &[PeerId]) -> Option<BTreeMap<PeerId, WorkCommit>> {
        if list.commits.is_empty() || !list.commits.is_sorted_by(|a, b| a.from < b.from) {
            return None;
        }
        let mut commits = BTreeMap::new();
        for envelope in list.commits.iter().take(members.len() + 1) {
            let known = self.round.commits.get(&envelope.from).filter(|one| one.envelope == *envelope);
            let commit = match known {
                Some(one) => one.commit,
                None => match Said::open(envelope, self.config.run).ok()?.into_inner() {
                    Said { round, parent, message: Message::Commit(commit), .. }
                        if round == self.epoch.round && parent == self.parent =>
                    {
                        commit
                    }
                    _ => return None,
                },
            };
            if !members.contains(&envelope.from) || !(1..=4095).contains(&commit.work) || commit.update.bytes == 0 {
                return None;
            }
            commits.insert(envelope.from, commit);
        }
        (commits.len() == list.commits.len()).then_some(commits)
    }

    /// Once the commits are closed, this peer's seed may be seen, and with it its update.
    pub(super) fn reveal(&mut self) {
        let listed = self.round.lists.values().any(|(_, commits)| commits.contains_key(&self.me));
        if self.round.revealed || !listed {
            return;
        }
        self.round.revealed = true;
        let to = self.groupmates();
        let seed = self.round.seed;
        self.say(to, Message::Reveal(seed));
    }

    /// The seed that a listed peer revealed, when it is the one that it committed to.
    pub(super) fn seed_of(&self, peer: PeerId, commit: &WorkCommit) -> Option<shoal_wire::Digest> {
        self.round.seeds.get(&peer).copied().filter(|seed| seed_hash(*seed) == commit.seed_hash)
    }
}
