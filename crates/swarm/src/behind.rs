//! The common model of a peer that fell behind: replayed from updates, or fetched whole.

use std::collections::{BTreeMap, BTreeSet};

use shoal_wire::{Digest, PeerId, Round};

use crate::{
    Bytes, Event, Job, Output, Record, Swarm,
    state::{Purpose, Stored},
};

/// A peer that is further behind takes a checkpoint, however small the updates: each round is decoded and stored.
const REPLAY_ROUNDS_MAX: u64 = 32;
/// Updates that nobody sends for this long are given up for a checkpoint.
const STUCK_MS: u64 = 10_000;
/// Stored updates of so many rounds outlive their certificate, for when the model does not get to the disk.
const KEPT_ROUNDS: u64 = 2;
/// An archive looks for the updates of so many left rounds at a time, for this long.
const BACKLOG_ROUNDS: usize = 4;
const BACKLOG_TURN_MS: u64 = 20_000;

impl Swarm {
    pub(crate) fn hold_model(&mut self, round: Round, model: Bytes) {
        let digest = Digest::of(&model);
        self.model_bytes = model.len() as u64;
        let changed = self.steps.get(&round).is_none_or(|step| !step.accepted.is_empty());
        if changed {
            self.persist(Stored::Other, Record::Blob { digest, bytes: model.clone(), pinned: false });
        }
        self.store_certificates(round);
        let kept = self.kept.split_off(&round.saturating_sub(KEPT_ROUNDS));
        for blob in core::mem::replace(&mut self.kept, kept).into_values().flatten() {
            if !self.archive {
                self.emit(Output::Forget { blob });
            }
        }
        self.transfers.keep(digest, model.clone());
        self.model = Some((round, model));
        self.steps = self.steps.split_off(&(round + 1));
        self.stuck_since = None;
        self.changed = true;
    }

    /// Fetches a blob that this peer may have stored before a restart: from its own store first, then from others.
    pub(crate) fn seek(&mut self, blob: Digest, bytes: u64) {
        if self.transfers.has(blob) {
            return;
        }
        match self.sought.get(&blob) {
            None => {
                self.sought.insert(blob, false);
                self.emit(Output::Load { blob });
            }
            Some(false) => {}
            Some(true) => self.transfers.want(blob, bytes),
        }
    }

    /// Works towards the model of the newest certified round.
    pub(crate) fn catch_up(&mut self) {
        if self.has_head_model() {
            if self.round.started.is_none() {
                self.round.started = Some(self.now);
                self.changed = true;
            }
            self.checkpoint = None;
            return;
        }
        let here = self.model.as_ref().map(|(round, _)| *round);
        let stuck = self.stuck_since.is_some_and(|since| self.now.since(since) >= STUCK_MS);
        // Updates do not lead to the model after a roll-back.
        let leads = |here: Round| !self.chain.is_rolled_back_within(here + 1..=self.next_round());
        let near = |here: Round| (self.archive || self.is_replay_smaller(here)) && leads(here);
        let replay = here.is_some_and(|here| near(here) && !stuck);
        if replay && self.checkpoint.is_none() {
            self.replay_next();
        } else {
            self.fetch_checkpoint();
        }
    }

    /// Whether the updates since a round that are not here take no more bytes than a checkpoint does.
    fn is_replay_smaller(&self, here: Round) -> bool {
        let missed = self.steps.range(here + 1..).flat_map(|(_, step)| &step.accepted);
        let to_fetch = missed.filter(|update| !self.transfers.has(update.update)).map(|update| update.bytes).sum();
        replays(self.chain.head().round - here, to_fetch, self.model_bytes)
    }

    fn replay_next(&mut self) {
        let Some((here, model)) = self.model.clone() else { return };
        self.stuck_since.get_or_insert(self.now);
        let Some(step) = self.steps.get(&(here + 1)).cloned() else { return };
        if step.accepted.is_empty() {
            self.hold_model(step.round, model);
            return;
        }
        let mut updates = Vec::with_capacity(step.accepted.len());
        for update in &step.accepted {
            self.seek(update.update, update.bytes);
            updates.extend(self.transfers.get(update.update).map(|bytes| (update.weight, bytes)));
        }
        let busy = self.jobs.values().any(|purpose| matches!(purpose, Purpose::Replay { .. }));
        if updates.len() == step.accepted.len() && !busy && self.may_try(step.model) {
            if self.archive {
                self.pin(&step);
            }
            self.compute(
                Purpose::Replay { round: step.round },
                Job::Aggregate { model, updates, history: step.history, share: step.share },
            );
        }
    }

    pub(crate) fn replayed(&mut self, round: Round, model: Bytes) {
        let expected = self.steps.get(&round).map(|step| step.model);
        let follows = self.model.as_ref().is_some_and(|(here, _)| here + 1 == round);
        let digest = Digest::of(&model);
        if !follows || expected.is_none() {
            return;
        }
        if expected == Some(digest) {
            self.hold_model(round, model);
            if self.has_head_model() {
                self.tell(Event::CaughtUp { round, model: digest });
            }
        } else {
            self.tell(Event::Trouble(format!("replaying round {round} gives another model; fetching a checkpoint")));
            self.model = None;
        }
    }

    /// Progress with the updates of the round being replayed.
    pub(crate) fn unstuck(&mut self, blob: Digest) {
        let next = self.model.as_ref().map(|(here, _)| here + 1);
        let replayed = next.and_then(|next| self.steps.get(&next));
        if replayed.is_some_and(|step| step.accepted.iter().any(|update| update.update == blob)) {
            self.stuck_since = Some(self.now);
        }
    }

    /// An archive that takes a checkpoint goes on looking for the updates of the rounds before, or those could never be
    /// replayed from it.
    fn leave_behind(&mut self, round: Round) {
        if !self.archive {
            return;
        }
        let behind = self.steps.range(..=round).filter(|(_, step)| !step.accepted.is_empty());
        let behind: BTreeMap<Round, BTreeMap<Digest, u64>> = behind
            .map(|(round, step)| (*round, step.accepted.iter().map(|update| (update.update, update.bytes)).collect()))
            .collect();
        if let (Some(first), Some(last)) = (behind.keys().next(), behind.keys().next_back()) {
            let text = format!("took a checkpoint; still looking for the updates of rounds {first} to {last}");
            self.tell(Event::Trouble(text));
        }
        self.backlog.extend(behind);
    }

    /// The rounds of the backlog whose turn it is: some at a time, and what cannot be had does not stop the others.
    fn backlog_turn(&self) -> Vec<Round> {
        let rounds: Vec<Round> = self.backlog.keys().copied().collect();
        let first = (self.now.0 / BACKLOG_TURN_MS) as usize * BACKLOG_ROUNDS % rounds.len().max(1);
        rounds.iter().cycle().skip(first).take(BACKLOG_ROUNDS.min(rounds.len())).copied().collect()
    }

    /// Stores what arrived of the backlog, and asks for more.
    pub(crate) fn fill_backlog(&mut self) {
        for round in self.backlog_turn() {
            let Some(mut updates) = self.backlog.remove(&round) else { continue };
            updates.retain(|digest, bytes| {
                self.seek(*digest, *bytes);
                let here = self.transfers.get(*digest);
                if let Some(bytes) = here.clone() {
                    self.persist(Stored::Other, Record::Blob { digest: *digest, bytes, pinned: true });
                }
                here.is_none()
            });
            if !updates.is_empty() {
                self.backlog.insert(round, updates);
            }
        }
    }

    fn fetch_checkpoint(&mut self) {
        let links: Vec<PeerId> = self.links.keys().copied().collect();
        if let Some((round, digest)) = self.checkpoint {
            self.seek(digest, self.model_bytes);
            if let Some(model) = self.transfers.get(digest) {
                self.checkpoint = None;
                self.leave_behind(round);
                self.hold_model(round, model);
                self.tell(Event::CaughtUp { round, model: digest });
            } else if self.transfers.is_unavailable(digest, &links) {
                self.checkpoint = None;
            }
            return;
        }
        let head = self.chain.head();
        self.checkpoint = Some((head.round, head.model));
        self.changed = true;
    }

    /// Keeps every fetch going that something still needs.
    pub(crate) fn fetch(&mut self) {
        let mut needed: BTreeSet<Digest> = self.listed_updates().keys().copied().collect();
        if let Some((_, digest)) = self.checkpoint {
            self.transfers.want(digest, self.model_bytes);
            needed.insert(digest);
        }
        if let Some(step) = self.model.as_ref().and_then(|(here, _)| self.steps.get(&(here + 1))) {
            needed.extend(step.accepted.iter().map(|update| update.update));
        }
        needed.extend(&self.round.needed);
        for round in self.backlog_turn() {
            needed.extend(self.backlog.get(&round).into_iter().flat_map(BTreeMap::keys));
        }
        self.transfers.retain_wants(&needed);
        let links: Vec<PeerId> = self.links.keys().copied().collect();
        if !self.transfers.is_fetching() {
            return;
        }
        let holdings = self.pool.holdings();
        let requests = self.transfers.request(self.now, &links, |blob, peer| holdings.contains(&(peer, blob)));
        for (to, frame) in requests {
            self.send(to, &frame);
        }
    }
}

/// Whether so many rounds are replayed, of whose updates so many bytes are still to be fetched.
const fn replays(rounds: u64, updates_bytes: u64, model_bytes: u64) -> bool {
    rounds <= REPLAY_ROUNDS_MAX && updates_bytes <= model_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_way_is_taken_and_of_equal_ones_the_updates() {
        assert!(replays(1, 999, 1_000) && replays(1, 1_000, 1_000));
        assert!(!replays(1, 1_001, 1_000));
        // Rounds whose updates are all here, or that had none, cost nothing to fetch.
        assert!(replays(REPLAY_ROUNDS_MAX, 0, 1_000));
        assert!(!replays(REPLAY_ROUNDS_MAX + 1, 0, 1_000));
    }
}
