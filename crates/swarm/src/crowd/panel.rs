//! A panel makes one sum: each of its members computes it, and what more than two thirds of its weight signed is certified.
//!
//! Members propose in turn; who signs recomputes. A sum of what was there is right or wrong whoever proposes it, so a panel
//! needs no agreement on one: a second certified sum of the same node is as good, and the committee's body names one.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use shoal_ledger::more_than_two_thirds;
use shoal_wire::{
    Digest, Millis, PeerId,
    crowd::{Blob, Frame, Mean, Message, Node, SumCertificate, SumRecord},
    sign::Signature,
};

use super::{Crowd, Epoch, PARTS};
use crate::Bytes;

/// Sums of one panel that a member looks at.
const RECORDS_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Panel {
    pub node: Node,
    peers: Vec<(PeerId, u64)>,
    pub total: u64,
    /// When the first of what it sums was there.
    pub since: Option<Millis>,
    /// When two thirds of it were.
    pub enough: Option<Millis>,
    pub proposed: bool,
    /// Sums that members propose.
    pub records: BTreeMap<Digest, (SumRecord, Millis)>,
    pub judged: BTreeSet<Digest>,
    pub certified: Option<Digest>,
}

/// A sum that this peer computes.
#[derive(Clone, Debug)]
pub(super) enum Made {
    Pending,
    Refused,
    Done { sums: Vec<Blob>, mean: Option<Mean> },
}

/// What a sum is of, as this peer would propose it or as a record names it.
#[derive(Debug)]
pub(super) struct Inputs {
    pub names: Vec<Digest>,
    pub attendance: BTreeMap<u32, u16>,
    pub seeds: Digest,
    pub key: Digest,
}

/// Whether something may be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    Pending,
    Good,
    Bad,
}

impl Panel {
    pub fn new(epoch: &Epoch, node: Node) -> Self {
        let seat = |member: u32| {
            let seat = &epoch.roster.seats()[member as usize];
            (seat.member.peer, seat.weight)
        };
        let peers: Vec<(PeerId, u64)> = epoch.draw.panel(node).into_iter().map(seat).collect();
        let total = peers.iter().map(|(_, weight)| weight).sum();
        Self {
            node,
            peers,
            total,
            since: None,
            enough: None,
            proposed: false,
            records: BTreeMap::new(),
            judged: BTreeSet::new(),
            certified: None,
        }
    }

    pub fn names(&self) -> Vec<PeerId> {
        self.peers.iter().map(|(peer, _)| *peer).collect()
    }

    pub fn place(&self, peer: PeerId) -> usize {
        self.peers.iter().position(|(other, _)| *other == peer).unwrap_or(self.peers.len())
    }

    pub fn weight_of(&self, counts: impl Fn(PeerId) -> bool) -> u64 {
        self.peers.iter().filter(|(peer, _)| counts(*peer)).map(|(_, weight)| weight).sum()
    }

    /// Whether more than two thirds of the panel signed.
    pub fn is_certified(&self, signatures: &[(PeerId, Signature)]) -> bool {
        let weight = self.weight_of(|peer| signatures.binary_search_by_key(&peer, |(signer, _)| *signer).is_ok());
        more_than_two_thirds(weight, self.total)
    }
}

impl Crowd {
    pub(super) fn work_on_panels(&mut self) {
        let nodes: Vec<Node> = self.round.panels.keys().copied().collect();
        for node in nodes {
            if self.round.panels.get(&node).is_some_and(|panel| panel.certified.is_none() && panel.since.is_some()) {
                self.propose_sum(node);
                self.judge_records(node);
                self.certify(node);
            }
        }
    }

    fn propose_sum(&mut self, node: Node) {
        let Some(panel) = self.round.panels.get(&node).filter(|panel| !panel.proposed) else { return };
        let (place, peers) = (panel.place(self.me), panel.names());
        let Some(ready) = self.ready_since(node) else { return };
        // Everybody computes it at once, so that what is proposed is signed when it comes.
        let Some(inputs) = self.inputs_at_hand(node) else { return };
        let Some(Made::Done { sums, mean }) = self.make(node, &inputs) else { return };
        let turn = ready + self.present_before(&peers, place) * self.config.timing.turn_ms;
        if !self.due(turn) {
            return;
        }
        if let Some(panel) = self.round.panels.get_mut(&node) {
            panel.proposed = true;
        }
        let Inputs { names, attendance, seeds, .. } = inputs;
        let record = SumRecord { node, view: place as u32, inputs: names, attendance, seeds, sums, mean };
        self.say(peers, Message::Sum(Box::new(record)));
    }

    /// Since when there is enough to sum; `None` while more is to be waited for.
    fn ready_since(&mut self, node: Node) -> Option<Millis> {
        let (have, all) = if node.level == 0 { self.updates_at_hand() } else { self.children_at_hand(node) };
        let (now, timing) = (self.now, self.config.timing);
        let panel = self.round.panels.get_mut(&node)?;
        let since = panel.since?;
        if have == 0 {
            return None;
        }
        if have * 3 >= all * 2 {
            panel.enough.get_or_insert(now);
        }
        let late = since + timing.level_ms;
        let ready = match panel.enough {
            Some(enough) if have == all => enough,
            Some(enough) => late.min(enough + timing.grace_ms),
            None => late,
        };
        self.due(ready).then_some(ready)
    }

    fn inputs_at_hand(&self, node: Node) -> Option<Inputs> {
        if node.level == 0 { self.group_inputs() } else { self.node_inputs(node) }
    }

    /// What came of a sum; starts computing it when nothing did yet.
    pub(super) fn make(&mut self, node: Node, inputs: &Inputs) -> Option<Made> {
        if let Entry::Vacant(place) = self.round.made.entry(inputs.key) {
            place.insert(Made::Pending);
            if node.level == 0 { self.sum_group(inputs) } else { self.merge(node, inputs) }
        }
        self.round.made.get(&inputs.key).cloned()
    }

    /// A sum is computed.
    pub(super) fn made(&mut self, key: Digest, sums: Vec<Bytes>, mean: Option<(Bytes, Vec<u64>)>) {
        let sums = sums.into_iter().map(|sum| self.keep(sum)).collect();
        let mean = mean.map(|(coded, rates)| Mean { coded: self.keep(coded), rates });
        self.round.made.insert(key, Made::Done { sums, mean });
        self.changed = true;
    }

    pub(super) fn take_record(&mut self, from: PeerId, record: &SumRecord) {
        let now = self.now;
        let Some(panel) = self.round.panels.get_mut(&record.node) else { return };
        let in_place = panel.peers.get(record.view as usize).is_some_and(|(peer, _)| *peer == from);
        let shape = record.sums.len() == if record.node.level == 0 { PARTS } else { 1 };
        if in_place && shape && panel.records.len() < RECORDS_MAX {
            panel.since.get_or_insert(now);
            panel.records.entry(record.digest()).or_insert((record.clone(), now));
        }
    }

    pub(super) fn take_endorsement(&mut self, from: PeerId, record: Digest, signature: Signature) {
        let by_peer = self.round.endorsements.values().filter(|signers| signers.contains_key(&from)).count();
        let sits_here = self.round.panels.values().any(|panel| panel.place(from) < panel.peers.len());
        if sits_here && by_peer < 2 * RECORDS_MAX {
            self.round.endorsements.entry(record).or_default().insert(from, signature);
        }
    }

    fn judge_records(&mut self, node: Node) {
        let Some(panel) = self.round.panels.get(&node) else { return };
        let open = panel.records.iter().filter(|(digest, _)| !panel.judged.contains(digest));
        let open: Vec<(Digest, SumRecord, Millis)> =
            open.map(|(digest, (record, came))| (*digest, record.clone(), *came)).collect();
        let peers = panel.names();
        for (digest, record, came) in open {
            let verdict = self.judge_record(&record, came);
            if verdict == Ruling::Pending {
                continue;
            }
            if let Some(panel) = self.round.panels.get_mut(&node) {
                panel.judged.insert(digest);
            }
            if verdict == Ruling::Good {
                self.say(peers.clone(), Message::Endorse(digest));
            }
        }
    }

    fn judge_record(&mut self, record: &SumRecord, came: Millis) -> Ruling {
        let named = if record.node.level == 0 {
            self.named_group_inputs(record, came)
        } else {
            self.named_node_inputs(record, came)
        };
        let inputs = match named {
            Ok(inputs) => inputs,
            Err(verdict) => return verdict,
        };
        if inputs.attendance != record.attendance || inputs.seeds != record.seeds {
            return Ruling::Bad;
        }
        match self.make(record.node, &inputs) {
            Some(Made::Done { sums, mean }) if sums == record.sums && mean == record.mean => Ruling::Good,
            Some(Made::Pending) | None => Ruling::Pending,
            Some(_) => Ruling::Bad,
        }
    }

    fn certify(&mut self, node: Node) {
        let Some(panel) = self.round.panels.get(&node) else { return };
        let signed = panel.records.iter().find_map(|(digest, (record, _))| {
            let signers = self.round.endorsements.get(digest)?;
            let of_panel = signers.iter().filter(|(peer, _)| panel.place(**peer) < panel.peers.len());
            let signatures: Vec<(PeerId, Signature)> = of_panel.map(|(peer, signature)| (*peer, *signature)).collect();
            panel.is_certified(&signatures).then(|| (record.clone(), signatures))
        });
        let Some((record, signatures)) = signed else { return };
        self.take_sum(SumCertificate { round: self.epoch.round, parent: self.parent, record, signatures });
    }

    /// A certified sum, from one's own panel or from others.
    pub(super) fn take_sum(&mut self, certificate: SumCertificate) {
        let (node, digest) = (certificate.record.node, certificate.record.digest());
        let top = self.epoch.draw.top();
        let matters = self.round.panels.keys().any(|mine| mine.is_over(node) || *mine == node)
            || (node.level == top && self.round.committee.is_some());
        if !matters || self.round.sums.contains_key(&digest) || self.round.sums.len() > 1024 {
            return;
        }
        let panel = Panel::new(&self.epoch, node);
        let shape = certificate.record.sums.len() == if node.level == 0 { PARTS } else { 1 };
        if !panel.is_certified(&certificate.signatures)
            || !shape
            || (node.level == top) != certificate.record.mean.is_some()
        {
            return;
        }
        let signers: Vec<PeerId> = certificate.signatures.iter().map(|(peer, _)| *peer).collect();
        for parent in self.round.panels.values_mut().filter(|mine| mine.node.is_over(node)) {
            parent.since.get_or_insert(self.now);
        }
        let above: Vec<u8> = self.round.panels.keys().filter(|mine| mine.is_over(node)).map(|mine| mine.part).collect();
        for part in above {
            let sum = certificate.record.sums.get(if node.level == 0 { usize::from(part) } else { 0 });
            if let Some(sum) = sum.copied() {
                for peer in &signers {
                    self.fetches.holds(sum.digest, *peer);
                }
                self.want_sum(sum);
            }
        }
        if let Some(mean) = &certificate.record.mean {
            for peer in &signers {
                self.fetches.holds(mean.coded.digest, *peer);
            }
            if self.round.committee.is_some() {
                self.want_sum(mean.coded);
            }
        }
        let mine = self.round.panels.get_mut(&node).is_some_and(|panel| panel.certified.replace(digest).is_none());
        self.round.sums.insert(digest, certificate.clone());
        self.changed = true;
        if mine {
            self.deliver(&certificate);
        }
    }

    /// Hands a sum of one's own panel on. Two of its members do so, so that one may be gone.
    fn deliver(&mut self, certificate: &SumCertificate) {
        let node = certificate.record.node;
        let peers = self.peers_of(node);
        let present: Vec<PeerId> =
            peers.iter().copied().filter(|peer| *peer == self.me || !self.away.contains(peer)).collect();
        let Some(place) = present.iter().position(|peer| *peer == self.me) else { return };
        let frame = Frame::Sum(certificate.clone());
        if node.level == 0 {
            for part in 0..PARTS {
                if (place + present.len() - part % present.len()) % present.len() < 2 {
                    let to = self.peers_of(Node { level: 1, index: node.index / 16, part: part as u8 });
                    self.send(to, &frame);
                }
            }
            if place < 2 {
                self.ask_for_audit(certificate);
            }
        } else if place < 2 && node.level < self.epoch.draw.top() {
            let to = self.peers_of(Node { level: node.level + 1, index: node.index / 16, part: node.part });
            self.send(to, &frame);
        } else if node.level == self.epoch.draw.top() {
            if place < 2 {
                let to = self.epoch.draw.committee().iter().map(|member| self.epoch.peer(*member)).collect();
                self.send(to, &frame);
            }
            if let Some(mean) = &certificate.record.mean {
                self.pass_on_coded(node.part, mean.coded);
            }
        }
    }
}
