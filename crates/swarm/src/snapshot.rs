//! Where a peer stands, for people.

use std::collections::BTreeSet;

use serde::Serialize;
use shoal_wire::{Digest, Millis, PeerId, Round};

use crate::Swarm;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Fetching certificates or the model.
    Syncing,
    /// Follows the run without training.
    Following,
    /// Waits to be taken into the roster.
    Joining,
    Training,
    /// Done training; others still train.
    Committing,
    Exchanging,
    Agreeing,
    /// Too little weight is present.
    Waiting,
    /// It was decided that no round follows.
    Over,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    pub head: Round,
    pub body: Digest,
    pub model: Digest,
    pub phase: Phase,
    /// Share of the phase that is over, 0 to 1, where that is known.
    pub progress: f32,
    pub view: u32,
    pub roster: Vec<RosterEntry>,
    pub weight_present: u64,
    pub weight_total: u64,
    pub accepted_own: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RosterEntry {
    pub peer: PeerId,
    pub me: bool,
    pub anchor: bool,
    pub present: bool,
    pub committed: bool,
    pub trains: bool,
    pub valid: u32,
    pub weight: u64,
}

impl Swarm {
    pub fn snapshot(&self, now: Millis) -> Snapshot {
        let head = self.chain.head();
        let weights = self.chain.weights();
        let committed: BTreeSet<PeerId> = self.pool.commits().map(|(envelope, _)| envelope.from).collect();
        let roster: Vec<RosterEntry> = head
            .roster
            .iter()
            .map(|member| RosterEntry {
                peer: member.peer,
                me: member.peer == self.me,
                anchor: self.anchors().contains(&member.peer),
                present: self.is_present(member.peer),
                committed: committed.contains(&member.peer),
                trains: member.trains,
                valid: member.valid,
                weight: weights.get(&member.peer).copied().unwrap_or_default(),
            })
            .collect();
        let (phase, progress) = self.phase(now);
        Snapshot {
            head: head.round,
            body: head.body,
            model: head.model,
            phase,
            progress,
            view: self.round.standing.view,
            weight_present: roster.iter().filter(|entry| entry.present).map(|entry| entry.weight).sum(),
            weight_total: roster.iter().map(|entry| entry.weight).sum(),
            roster,
            accepted_own: self.accepted_own,
            bytes_received: self.transfers.bytes_received,
            bytes_sent: self.transfers.bytes_sent,
        }
    }

    fn phase(&self, now: Millis) -> (Phase, f32) {
        let share = |since: Option<Millis>, whole_ms: u64| {
            since.map_or(0.0, |since| (now.since(since) as f32 / whole_ms.max(1) as f32).min(1.0))
        };
        let timing = &self.chain.manifest().timing;
        let members = self.chain.head().roster.len().max(1) as f32;
        if !self.has_head_model() {
            return (Phase::Syncing, 0.0);
        }
        if self.chain.is_over() {
            return (Phase::Over, 1.0);
        }
        if self.round.lacking_since.is_some() {
            return (Phase::Waiting, share(self.round.lacking_since, u64::from(timing.recovery_ms)));
        }
        if !self.active || self.replaced {
            return (Phase::Following, 0.0);
        }
        if !self.is_member() {
            return (Phase::Joining, 0.0);
        }
        if self.round.training.is_some() {
            return (Phase::Training, share(self.round.started, self.train_ms()));
        }
        if self.round.listed_at.is_none() {
            return (Phase::Committing, self.pool.commits().count() as f32 / members);
        }
        let listed = self.listed_updates();
        let here = listed.keys().filter(|update| self.transfers.has(**update)).count();
        if here < listed.len() {
            return (Phase::Exchanging, here as f32 / listed.len() as f32);
        }
        let voted = self.pool.votes().map(|(peer, ..)| peer).collect::<BTreeSet<_>>().len();
        (Phase::Agreeing, voted as f32 / members)
    }
}
