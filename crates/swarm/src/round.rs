//! The first half of a round: train, commit, close the commits, reveal, exchange.

use std::collections::BTreeSet;

use shoal_ledger::{AcceptedUpdate, more_than_two_thirds};
use shoal_wire::{
    Digest, Envelope, PeerId,
    record::{Commit, CommitList, Have, Message, Verdict, seed_hash},
};

use crate::{
    Bytes, Job, Output, Swarm,
    state::{Aggregate, CLOSING_GRACE_MS, Purpose},
};

/// `Have`s that are not complete are said at most this often.
const HAVE_INTERVAL_MS: u64 = 1_500;

impl Swarm {
    /// Asks to be taken into the roster, once this peer holds the common model.
    pub(crate) fn ask_to_join(&mut self) {
        let asked = self.pool.joins().any(|(envelope, _)| envelope.from == self.me);
        if self.active && self.has_head_model() && !self.is_member() && !asked {
            self.say(Message::Join(self.join));
        }
    }

    /// How long this round trains: 1.3 times the median of the last rounds, within the manifest's bounds.
    pub(crate) fn train_ms(&self) -> u64 {
        let longest = u64::from(self.chain.manifest().timing.train_ms_max);
        let mut past: Vec<u64> = self.gather_ms.iter().copied().collect();
        past.sort_unstable();
        past.get(past.len() / 2).map_or(longest, |median| (median * 13 / 10).clamp(longest / 4, longest))
    }

    pub(crate) fn train(&mut self) {
        let trains = self.active && self.chain.member(self.me).is_some_and(|member| member.trains);
        if !trains || self.round.training.is_some() || self.round.trained || !self.has_head_model() {
            return;
        }
        let Some((_, model)) = self.model.clone() else { return };
        let round = self.next_round();
        let work = Job::Train {
            round,
            model,
            randomness: self.chain.head().randomness,
            steps: self.chain.manifest().recipe.local_steps,
            settled: self.settled,
        };
        self.round.training = Some(self.compute(Purpose::Train { round }, work));
    }

    /// At the deadline, training ends with the steps done so far.
    pub(crate) fn stop_training_in_time(&mut self) {
        let Some((job, started)) = self.round.training.zip(self.round.started) else { return };
        if !self.round.stopped && self.now.since(started) >= self.train_ms() {
            self.round.stopped = true;
            self.emit(Output::Stop { job, keep: true });
        }
    }

    pub(crate) fn trained(&mut self, update: Bytes, steps: u32, tokens: u64, losses: (f32, f32)) {
        self.round.training = None;
        self.round.trained = true;
        // The trainer settled the update before this one; this one is open until the round ends.
        self.settled = None;
        if steps == 0 || tokens == 0 {
            self.settled = Some(false);
            return;
        }
        let digest = Digest::of(&update);
        let seed = Digest::in_domain(
            "shoal 2026 v1 own seed",
            &[&self.entropy[..], &self.run.0, &self.next_round().to_le_bytes()].concat(),
        );
        let commit = Commit {
            parent: self.chain.head().body,
            update: digest,
            update_bytes: update.len() as u64,
            steps,
            tokens,
            loss_first: losses.0,
            loss_last: losses.1,
            seed_hash: seed_hash(seed),
        };
        self.round.update = Some((digest, update));
        self.round.seed = Some(seed);
        self.say(Message::Commit(commit));
    }

    /// Whether nobody needs to be waited for any more.
    pub(crate) fn watch_closing(&mut self) {
        if self.round.closing_since.is_none() && self.may_close() {
            self.round.closing_since = Some(self.now);
            self.changed = true;
        }
    }

    fn may_close(&self) -> bool {
        let Some(started) = self.round.started else { return false };
        let trainers: Vec<PeerId> =
            self.chain.head().roster.iter().filter(|member| member.trains).map(|member| member.peer).collect();
        if trainers.is_empty() {
            return self.chain.free_places() > 0 && self.valid_joins().next().is_some();
        }
        let committed: BTreeSet<PeerId> = self.pool.commits().map(|(envelope, _)| envelope.from).collect();
        let leaving: BTreeSet<PeerId> = self.pool.leaves().map(|envelope| envelope.from).collect();
        let awaited = |peer: &PeerId| !committed.contains(peer) && !leaving.contains(peer) && self.is_present(*peer);
        !trainers.iter().any(awaited) || self.now.since(started) >= self.train_ms() + CLOSING_GRACE_MS
    }

    pub(crate) fn valid_joins(&self) -> impl Iterator<Item = &Envelope> {
        // A request from somebody who is a round ahead waits until it fits the chain.
        self.pool
            .joins()
            .filter(|(envelope, said)| self.chain.check_join(*said, envelope.from).is_ok())
            .map(|(envelope, _)| envelope)
    }

    /// The leader of view 0 closes the commits; while it is silent, the next present leaders may.
    pub(crate) fn close_commits(&mut self) {
        let Some(since) = self.round.closing_since else { return };
        if !self.is_voter() || !self.pool.lists().is_empty() || !self.has_head_model() {
            return;
        }
        let leaders = self.chain.leaders();
        let Some(mine) = leaders.iter().position(|peer| *peer == self.me) else { return };
        let before = leaders[..mine].iter().filter(|peer| self.is_present(**peer)).count() as u64;
        let wait_ms = before * u64::from(self.chain.manifest().timing.view_ms);
        let commits: Vec<Digest> = self.pool.commits().map(|(envelope, _)| envelope.id()).collect();
        if !commits.is_empty() && self.now.since(since) >= wait_ms {
            self.say(Message::CommitList(CommitList { view: mine as u32, commits }));
        }
    }

    /// Once the commits are closed, this peer's seed and update may be seen.
    pub(crate) fn reveal(&mut self) {
        if self.round.listed_at.is_none() && !self.pool.lists().is_empty() {
            self.round.listed_at = Some(self.now);
            self.round.closing_since.get_or_insert(self.now);
            if let Some(started) = self.round.started {
                self.gather_ms.push_back(self.now.since(started));
                while self.gather_ms.len() > 8 {
                    self.gather_ms.pop_front();
                }
            }
        }
        let Some((seed, (digest, update))) = self.round.seed.zip(self.round.update.clone()) else { return };
        if self.round.revealed {
            return;
        }
        let own = self.pool.commits().find(|(envelope, _)| envelope.from == self.me).map(|(envelope, _)| envelope.id());
        let listed = own.is_some_and(|own| self.pool.lists().iter().any(|(_, list)| list.commits.contains(&own)));
        if listed {
            self.round.revealed = true;
            self.round.checks.insert(digest, Some(true));
            self.transfers.keep(digest, update);
            self.say(Message::Reveal(seed));
        }
    }

    /// Updates of the listed commits, with their sizes.
    pub(crate) fn listed_updates(&self) -> Vec<(Digest, u64)> {
        let lists = self.pool.lists();
        let ids = lists.iter().flat_map(|(_, list)| &list.commits);
        let mut updates: Vec<(Digest, u64)> = ids
            .filter_map(|id| self.pool.commit(*id))
            .map(|(_, commit)| (commit.update, commit.update_bytes))
            .collect();
        updates.sort_unstable();
        updates.dedup();
        updates
    }

    /// Fetches and checks the listed updates, and says which ones are here.
    pub(crate) fn exchange(&mut self) {
        let listed = self.listed_updates();
        for (update, bytes) in &listed {
            self.transfers.want(*update, *bytes);
            self.check(*update);
        }
        let here: Vec<Digest> = listed
            .iter()
            .map(|(update, _)| *update)
            .filter(|update| self.transfers.has(*update) && matches!(self.round.checks.get(update), Some(Some(_))))
            .collect();
        let since = self.round.have_at.max(self.round.listed_at);
        let due = since.is_some_and(|at| self.now.since(at) >= HAVE_INTERVAL_MS);
        if here.len() > self.round.have_said && self.is_member() && (here.len() == listed.len() || due) {
            self.round.have_said = here.len();
            self.round.have_at = Some(self.now);
            self.say(Message::Have(Have { updates: here }));
        }
    }

    /// Starts the form check of an update that is here.
    pub(crate) fn check(&mut self, update: Digest) {
        if self.round.checks.contains_key(&update) {
            return;
        }
        if let Some(bytes) = self.transfers.get(update) {
            self.round.checks.insert(update, None);
            self.compute(Purpose::Check { update }, Job::Check { update: bytes });
        }
    }

    /// What became of each listed commit as this peer sees it; `None` while the exchange goes on.
    pub(crate) fn verdicts(&self, commits: &[(Envelope, Commit)]) -> Option<Vec<Verdict>> {
        let listed_at = self.round.listed_at?;
        let over = self.now.since(listed_at) >= u64::from(self.chain.manifest().timing.exchange_ms_max);
        let total = self.total_weight();
        let mut verdicts = Vec::with_capacity(commits.len());
        for (envelope, commit) in commits {
            let revealed = self.pool.reveal(envelope.from).is_some_and(|seed| seed_hash(seed) == commit.seed_hash);
            let checked = self.round.checks.get(&commit.update).copied().flatten();
            let holders: BTreeSet<PeerId> = self.pool.holders(commit.update).collect();
            let spread = more_than_two_thirds(self.weight_of(&holders), total);
            let verdict = match (revealed, checked, spread) {
                (true, Some(true), true) => Verdict::Accepted,
                (true, Some(false), _) => Verdict::Malformed,
                _ if !over => return None,
                (false, ..) => Verdict::Withheld,
                (true, ..) => Verdict::Unavailable,
            };
            verdicts.push(verdict);
        }
        Some(verdicts)
    }

    /// What an outer step of this round computes: a name for its inputs.
    pub(crate) fn aggregation_key(&self, accepted: &[AcceptedUpdate]) -> Digest {
        let mut material = self.chain.head().model.0.to_vec();
        for update in accepted {
            material.extend_from_slice(&update.update.0);
            material.extend_from_slice(&update.weight.to_le_bytes());
        }
        Digest::in_domain("shoal 2026 v1 aggregation", &material)
    }

    /// Starts the outer step over updates that are here, or tells how it stands.
    pub(crate) fn aggregate(&mut self, accepted: &[AcceptedUpdate]) -> Aggregate {
        let key = self.aggregation_key(accepted);
        if let Some(known) = self.round.aggregates.get(&key) {
            return known.clone();
        }
        let Some((_, model)) = self.model.clone().filter(|_| self.has_head_model()) else { return Aggregate::Pending };
        if accepted.is_empty() {
            return Aggregate::Done { digest: self.chain.head().model, model, norms: Vec::new() };
        }
        let mut updates = Vec::with_capacity(accepted.len());
        for update in accepted {
            let Some(bytes) = self.transfers.get(update.update) else { return Aggregate::Pending };
            updates.push((update.weight, bytes));
        }
        let history = self.chain.head().history.iter().cloned().collect();
        self.compute(Purpose::Aggregate { key }, Job::Aggregate { model, updates, history });
        self.round.aggregates.insert(key, Aggregate::Pending);
        Aggregate::Pending
    }
}
