//! Auditors recompute the sums of groups that were drawn for them.
//!
//! In a group more than two thirds of the weight can sign what is no sum of its updates. Two trusted peers of other groups
//! recompute one group in sixteen, whichever the draw names; what they find wrong the committee recomputes, and whoever
//! signed it loses its place in the roster.

use std::collections::BTreeMap;

use shoal_wire::{
    Digest, PeerId,
    crowd::{Evidence, Frame, List, Node, SumCertificate, WorkCommit},
    record::seed_hash,
};

use super::{
    Crowd, Event,
    panel::{Made, Panel},
};

/// A group's certified sum that this peer recomputes.
#[derive(Debug)]
pub(super) struct Audit {
    evidence: Evidence,
    commits: BTreeMap<PeerId, WorkCommit>,
    done: bool,
}

impl Crowd {
    fn auditors_of(&self, group: u32) -> Vec<PeerId> {
        let of_group = self.epoch.draw.audits().iter().filter(|(_, audited)| *audited == group);
        of_group.map(|(auditor, _)| self.epoch.peer(*auditor)).collect()
    }

    /// Sends one's own group's sum to those who were drawn to recompute it.
    pub(super) fn ask_for_audit(&mut self, certificate: &SumCertificate) {
        let to = self.auditors_of(certificate.record.node.index);
        let list = certificate.record.inputs.first().and_then(|list| self.round.lists.get(list));
        let Some((list, commits)) = list.cloned().filter(|_| !to.is_empty()) else { return };
        let named = self.masked(certificate.record.node, &certificate.record).unwrap_or_default();
        let seed = |peer: &PeerId| self.seed_of(*peer, commits.get(peer)?);
        if let Some(seeds) = named.iter().map(seed).collect() {
            self.send(to, &Frame::Audit(Evidence { certificate: certificate.clone(), list, seeds }));
        }
    }

    /// A sum to recompute: from the group for an auditor, from an auditor for the committee.
    pub(super) fn take_audit(&mut self, from: PeerId, certificate: &SumCertificate, list: &List, seeds: &[Digest]) {
        let (record, digest) = (&certificate.record, certificate.record.digest());
        let auditors = self.auditors_of(record.node.index);
        let members = self.peers_of(record.node);
        let asked = auditors.contains(&self.me) && members.contains(&from);
        let told = self.round.committee.is_some() && auditors.contains(&from);
        let names_it = record.inputs == [list.digest()] && record.node.level == 0;
        if !(asked || told) || !names_it || self.round.audits.contains_key(&digest) || self.round.audits.len() > 64 {
            return;
        }
        if !Panel::new(&self.epoch, record.node).is_certified(&certificate.signatures) {
            return;
        }
        let Some(commits) = self.open_list(list, &members) else { return };
        let named = self.masked(record.node, record).unwrap_or_default();
        let opens = |(peer, seed): (&PeerId, &Digest)| {
            commits.get(peer).is_none_or(|commit| commit.seed_hash == seed_hash(*seed))
        };
        if named.len() != seeds.len() || !named.iter().zip(seeds).all(opens) {
            return;
        }
        for peer in named {
            if let Some(commit) = commits.get(&peer) {
                let update = commit.update;
                certificate.signatures.iter().for_each(|(signer, _)| self.fetches.holds(update.digest, *signer));
                self.want_update(update);
            }
        }
        let evidence = Evidence { certificate: certificate.clone(), list: list.clone(), seeds: seeds.to_vec() };
        let audit = Audit { evidence, commits, done: false };
        self.round.audits.insert(digest, audit);
        self.changed = true;
    }

    pub(super) fn audit(&mut self) {
        let open: Vec<Digest> =
            self.round.audits.iter().filter(|(_, audit)| !audit.done).map(|(digest, _)| *digest).collect();
        for digest in open {
            let wrong = self.recompute(digest);
            let Some(wrong) = wrong else { continue };
            let Some(audit) = self.round.audits.get_mut(&digest) else { continue };
            audit.done = true;
            if wrong {
                let evidence = audit.evidence.clone();
                self.accuse(evidence);
            }
        }
    }

    /// Whether a certified sum is not the sum of what it names; `None` while that is not known.
    fn recompute(&mut self, digest: Digest) -> Option<bool> {
        let audit = self.round.audits.get(&digest)?;
        let Evidence { certificate, seeds, .. } = audit.evidence.clone();
        let (record, commits) = (certificate.record, audit.commits.clone());
        let node: Node = record.node;
        let Some(peers) = self.masked(node, &record) else { return Some(true) };
        let mut named = peers.iter().map(|peer| commits.get(peer));
        if named.any(|commit| commit.is_none()) {
            return Some(true);
        }
        if !peers.iter().all(|peer| commits.get(peer).is_some_and(|one| self.blobs.contains_key(&one.update.digest))) {
            return None;
        }
        // The key names the record, so that this is not taken for the own group's work.
        let key = Digest::in_domain("shoal 2026 v1 crowd audit", &digest.0);
        match self.round.made.get(&key) {
            Some(Made::Pending) => None,
            Some(Made::Refused) => Some(true),
            Some(Made::Done { sums, .. }) => Some(*sums != record.sums),
            None => {
                self.round.made.insert(key, Made::Pending);
                let mask = record.attendance.values().next().copied().unwrap_or(0);
                let seeds = peers.into_iter().zip(seeds).collect();
                self.sum_updates(node, mask, &commits, &seeds, key);
                None
            }
        }
    }

    fn accuse(&mut self, evidence: Evidence) {
        let certificate = &evidence.certificate;
        let group = certificate.record.node.index;
        self.tell(Event::WrongSum { group });
        if self.round.committee.is_some() {
            self.round.convicted.extend(certificate.signatures.iter().map(|(peer, _)| *peer));
        }
        if self.auditors_of(group).contains(&self.me) {
            let seats = self.epoch.draw.committee().iter().map(|member| self.epoch.peer(*member)).collect();
            self.send(seats, &Frame::Audit(evidence));
        }
    }
}
