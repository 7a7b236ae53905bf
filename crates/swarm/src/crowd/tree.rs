//! What panels sum: a group its updates, a node above the sums of those below it.

use std::collections::BTreeMap;

use shoal_ledger::more_than_two_thirds;
use shoal_wire::{
    Digest, Millis, PeerId, codec,
    crowd::{Blob, Node, SumRecord, WorkCommit},
    limits::GROUP_MAX,
    sealed,
};

use super::{
    Crowd, Job, Weighted,
    panel::{Inputs, Made, Ruling},
    peer::Purpose,
};
use crate::Bytes;

fn key(node: Node, names: &[Digest], attendance: &BTreeMap<u32, u16>) -> Digest {
    Digest::in_domain("shoal 2026 v1 crowd work", &codec::encode(&(node, names, attendance)))
}

impl Crowd {
    // Groups

    /// The list that a group's sum is proposed of.
    fn own_list(&self) -> Option<(Digest, &BTreeMap<PeerId, WorkCommit>)> {
        // Lists are few, and nearly always one; the smallest digest decides between several.
        self.round.lists.iter().next().map(|(digest, (_, commits))| (*digest, commits))
    }

    fn is_at_hand(&self, peer: PeerId, commit: &WorkCommit) -> bool {
        let update = commit.update.digest;
        self.blobs.contains_key(&update)
            && !self.round.malformed.contains(&(peer, update))
            && self.seed_of(peer, commit).is_some()
    }

    /// Whether more than two thirds of the group say that they hold an update, so that a crash of its author loses nothing.
    fn is_spread(&self, update: Digest) -> bool {
        let Some(panel) = self.group_node().and_then(|node| self.round.panels.get(&node)) else { return false };
        let holders: Vec<PeerId> = self.fetches.holders(update).copied().collect();
        more_than_two_thirds(panel.weight_of(|peer| holders.contains(&peer)), panel.total)
    }

    pub(super) fn updates_at_hand(&self) -> (usize, usize) {
        let Some((_, commits)) = self.own_list() else { return (0, 0) };
        let good =
            |peer: PeerId, commit: &WorkCommit| self.is_at_hand(peer, commit) && self.is_spread(commit.update.digest);
        let have = commits.iter().filter(|(peer, commit)| good(**peer, commit)).count();
        // Nobody waits for an update that nobody can serve any more.
        let lost = |peer: PeerId, commit: &WorkCommit| {
            let served = self.fetches.holders(commit.update.digest).any(|holder| !self.away.contains(holder));
            !self.blobs.contains_key(&commit.update.digest) && (!served || self.away.contains(&peer))
                || self.round.malformed.contains(&(peer, commit.update.digest))
        };
        let all = commits.iter().filter(|(peer, commit)| !lost(**peer, commit)).count();
        (have, all.max(have))
    }

    pub(super) fn group_inputs(&self) -> Option<Inputs> {
        let (list, commits) = self.own_list()?;
        let included: BTreeMap<PeerId, WorkCommit> = commits
            .iter()
            .filter(|(peer, commit)| self.is_at_hand(**peer, commit) && self.is_spread(commit.update.digest))
            .map(|(peer, commit)| (*peer, *commit))
            .collect();
        self.inputs_of(self.group_node()?, list, &included)
    }

    /// Inputs of a group's sum over these commits, when all their seeds are known.
    fn inputs_of(&self, node: Node, list: Digest, included: &BTreeMap<PeerId, WorkCommit>) -> Option<Inputs> {
        let peers = self.peers_of(node);
        let (mut mask, mut seeds) = (0_u16, Vec::new());
        for (place, peer) in peers.iter().enumerate() {
            if let Some(commit) = included.get(peer) {
                mask |= 1 << place;
                seeds.extend(self.seed_of(*peer, commit)?.0);
            }
        }
        let attendance = BTreeMap::from([(node.index, mask)]);
        let names = vec![list];
        let key = key(node, &names, &attendance);
        Some(Inputs { names, attendance, seeds: Digest::in_domain("shoal 2026 v1 crowd seeds", &seeds), key })
    }

    /// Who a record of a group says is in it.
    pub(super) fn masked(&self, node: Node, record: &SumRecord) -> Option<Vec<PeerId>> {
        let (group, mask) = record.attendance.first_key_value().filter(|_| record.attendance.len() == 1)?;
        let peers = self.peers_of(node);
        if *group != node.index || *mask == 0 || u32::from(*mask) >> peers.len() != 0 {
            return None;
        }
        Some(peers.into_iter().enumerate().filter(|(place, _)| mask >> place & 1 == 1).map(|(_, peer)| peer).collect())
    }

    pub(super) fn named_group_inputs(&mut self, record: &SumRecord, came: Millis) -> Result<Inputs, Ruling> {
        let [list] = record.inputs[..] else { return Err(Ruling::Bad) };
        let Some((_, commits)) = self.round.lists.get(&list) else { return Err(Ruling::Pending) };
        let peers = self.masked(record.node, record).ok_or(Ruling::Bad)?;
        let mut included = BTreeMap::new();
        for peer in peers {
            included.insert(peer, *commits.get(&peer).ok_or(Ruling::Bad)?);
        }
        let left_out = |(peer, commit): (&PeerId, &WorkCommit)| {
            let here = self.blobs.get(&commit.update.digest).map(|(_, at, _)| *at);
            let long = here.is_some_and(|at| at + self.config.timing.level_ms < came);
            !included.contains_key(peer)
                && long
                && self.is_at_hand(*peer, commit)
                && self.is_spread(commit.update.digest)
        };
        if commits.iter().any(left_out) {
            return Err(Ruling::Bad);
        }
        let here = included.iter().all(|(peer, commit)| {
            self.blobs.contains_key(&commit.update.digest) && self.seed_of(*peer, commit).is_some()
        });
        if !here {
            return Err(Ruling::Pending);
        }
        self.inputs_of(record.node, list, &included).ok_or(Ruling::Pending)
    }

    pub(super) fn sum_group(&mut self, inputs: &Inputs) {
        let Some((group, mask)) = inputs.attendance.first_key_value().map(|(group, mask)| (*group, *mask)) else {
            return;
        };
        let node = Node { level: 0, index: group, part: 0 };
        let Some((_, commits)) = inputs.names.first().and_then(|list| self.round.lists.get(list)) else { return };
        let (commits, seeds) = (commits.clone(), self.round.seeds.clone());
        self.sum_updates(node, mask, &commits, &seeds, inputs.key);
    }

    /// Starts summing the updates that a mask names among these commits.
    pub(super) fn sum_updates(
        &mut self,
        node: Node,
        mask: u16,
        commits: &BTreeMap<PeerId, WorkCommit>,
        seeds: &BTreeMap<PeerId, Digest>,
        key: Digest,
    ) {
        let (mut updates, mut names) = (Vec::new(), Vec::new());
        for (place, member) in self.epoch.draw.panel(node).into_iter().enumerate() {
            let seat = &self.epoch.roster.seats()[member as usize];
            let peer = seat.member.peer;
            let commit = commits.get(&peer).filter(|_| mask >> place & 1 == 1);
            if let Some((commit, sealed)) = commit.and_then(|commit| Some((commit, self.blob(commit.update.digest)?))) {
                // What does not open is no update, and is refused as any other bytes that are none.
                let update = seeds.get(&peer).and_then(|seed| sealed::open(*seed, peer, sealed)).unwrap_or_default();
                updates.push(Weighted { work: commit.work, trust: seat.trust, update: update.into() });
                names.push((peer, commit.update.digest));
            }
        }
        let work = Job::Sum { epoch: self.epoch.clone(), updates };
        self.compute(Purpose::Sum { key, updates: names }, work);
    }

    // Nodes above

    /// Certified sums of the nodes below one, by index; of several of one node, the one that most are in.
    fn below(&self, node: Node) -> BTreeMap<u32, (Digest, &SumRecord)> {
        let mut below: BTreeMap<u32, (Digest, &SumRecord)> = BTreeMap::new();
        for (digest, certificate) in self.round.sums.iter().filter(|(_, one)| node.is_over(one.record.node)) {
            let record = &certificate.record;
            let better = below.get(&record.node.index).is_none_or(|(_, other)| size(other) < size(record));
            if better {
                below.insert(record.node.index, (*digest, record));
            }
        }
        below
    }

    pub(super) fn children_at_hand(&self, node: Node) -> (usize, usize) {
        let have = self
            .below(node)
            .values()
            .filter(|(_, record)| self.blobs.contains_key(&part_of(node, record).digest))
            .count();
        (have, self.epoch.draw.children(node))
    }

    pub(super) fn node_inputs(&self, node: Node) -> Option<Inputs> {
        let below = self.below(node);
        let here = below.into_values().filter(|(_, record)| self.blobs.contains_key(&part_of(node, record).digest));
        Some(merged_inputs(node, &here.collect::<Vec<_>>())).filter(|inputs| !inputs.names.is_empty())
    }

    pub(super) fn named_node_inputs(&mut self, record: &SumRecord, came: Millis) -> Result<Inputs, Ruling> {
        let node = record.node;
        if record.inputs.is_empty() || record.inputs.len() > GROUP_MAX {
            return Err(Ruling::Bad);
        }
        let mut named = Vec::new();
        for digest in &record.inputs {
            let Some(certificate) = self.round.sums.get(digest) else { return Err(Ruling::Pending) };
            named.push((*digest, &certificate.record));
        }
        let in_order = named.is_sorted_by(|(_, a), (_, b)| a.node.index < b.node.index);
        if !in_order || named.iter().any(|(_, below)| !node.is_over(below.node)) {
            return Err(Ruling::Bad);
        }
        let spread_ms = self.config.timing.level_ms;
        let left_out = |(_, below): &(Digest, &SumRecord)| {
            let here = self.blobs.get(&part_of(node, below).digest).is_some_and(|(_, at, _)| *at + spread_ms < came);
            here && !named.iter().any(|(_, one)| one.node == below.node)
        };
        if self.below(node).values().any(left_out) {
            return Err(Ruling::Bad);
        }
        if named.iter().any(|(_, below)| !self.blobs.contains_key(&part_of(node, below).digest)) {
            return Err(Ruling::Pending);
        }
        Ok(merged_inputs(node, &named))
    }

    pub(super) fn merge(&mut self, node: Node, inputs: &Inputs) {
        let sums = inputs.names.iter().filter_map(|digest| self.round.sums.get(digest));
        let sums: Vec<Bytes> = sums.filter_map(|one| self.blob(part_of(node, &one.record).digest).cloned()).collect();
        if let [alone] = &sums[..] {
            return self.merged(inputs.key, node, alone.clone());
        }
        self.compute(Purpose::Merge { key: inputs.key, node }, Job::Merge { part: node.part, sums });
    }

    pub(super) fn merged(&mut self, key: Digest, node: Node, sum: Bytes) {
        if node.level < self.epoch.draw.top() {
            self.made(key, vec![sum], None);
        } else {
            self.round.made.insert(key, Made::Pending);
            let work = Job::Finish { epoch: self.epoch.clone(), part: node.part, sum: sum.clone() };
            self.compute(Purpose::Finish { key, sum }, work);
        }
    }
}

fn size(record: &SumRecord) -> u32 {
    record.attendance.values().map(|mask| mask.count_ones()).sum()
}

/// The blob of a node's part in the sum of one below it.
fn part_of(node: Node, below: &SumRecord) -> Blob {
    let at = if below.node.level == 0 { usize::from(node.part) } else { 0 };
    below.sums.get(at).copied().unwrap_or(Blob { digest: Digest::default(), bytes: 0 })
}

fn merged_inputs(node: Node, named: &[(Digest, &SumRecord)]) -> Inputs {
    let names: Vec<Digest> = named.iter().map(|(digest, _)| *digest).collect();
    let attendance: BTreeMap<u32, u16> =
        named.iter().flat_map(|(_, record)| record.attendance.iter().map(|(group, mask)| (*group, *mask))).collect();
    let seeds: Vec<u8> = named.iter().flat_map(|(_, record)| record.seeds.0).collect();
    let key = key(node, &names, &attendance);
    Inputs { names, attendance, seeds: Digest::in_domain("shoal 2026 v1 crowd seeds", &seeds), key }
}
