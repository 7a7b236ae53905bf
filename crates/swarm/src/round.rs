//! The first half of a round: train, commit, reveal, exchange.

use std::collections::{BTreeMap, BTreeSet};

use shoal_ledger::{Taken, more_than_two_thirds};
use shoal_wire::{
    Digest, Envelope, Millis, PeerId,
    record::{Commit, Content, Have, Message, Verdict, seed_hash},
    share::Share,
};

use crate::{
    Bytes, Job, Output, Record, Swarm,
    state::{Aggregate, Purpose, Stored},
};

/// `Have`s that are not complete are said at most this often.
const HAVE_INTERVAL_MS: u64 = 1_500;

impl Swarm {
    /// A peer whose votes cannot be stored must not be waited for: it leaves, and comes back without a vote.
    pub(crate) fn step_down(&mut self) {
        let waited_for = self.own_place().is_some_and(|member| member.durable);
        let leaving = self.pool.leaves().any(|envelope| envelope.from == self.me);
        if waited_for && !self.join.durable && !leaving && !self.anchors().contains(&self.me) {
            self.say(Message::Leave);
        }
    }

    /// How long this round trains, within the manifest's bounds.
    pub(crate) fn train_ms(&self) -> u64 {
        self.pace.deadline_ms(u64::from(self.chain.manifest().timing.train_ms_max))
    }

    /// How many steps this peer can do until the round's training ends.
    fn steps_in_time(&self) -> u32 {
        let passed_ms = self.round.started.map_or(0, |started| self.now.since(started));
        let left_ms = self.train_ms().saturating_sub(passed_ms);
        self.pace.steps(self.chain.manifest().recipe.local_steps, left_ms)
    }

    pub(crate) fn train(&mut self) {
        let trains = self.active && self.own_place().is_some_and(|member| member.trains);
        if self.pool.commits().any(|(envelope, _)| envelope.from == self.me) && !self.round.trained {
            // Made before a restart; others remember it, and a second one would contradict it.
            self.round.trained = true;
            self.abandon_training();
        }
        if !trains || self.round.training.is_some() || self.round.trained || !self.has_head_model() {
            return;
        }
        let Some((_, model)) = self.model.clone() else { return };
        let (round, steps) = (self.next_round(), self.steps_in_time());
        let randomness = self.chain.head().randomness;
        let (learning_rate_1024, settled) = (self.chain.learning_rate_1024(), self.settled);
        let work = Job::Train { round, model, randomness, steps, learning_rate_1024, settled };
        self.round.ordered = Some((self.now, steps));
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
            self.settled = Some(Share::NOTHING);
            return;
        }
        if let Some((since, _)) = self.round.ordered {
            self.pace.trained(self.now.since(since), steps);
        }
        let digest = Digest::of(&update);
        // A restart before the exchange must not lose it: the commit binds.
        self.keep_stored(digest, update.clone());
        let commit = Commit {
            parent: self.chain.head().body,
            update: digest,
            update_bytes: update.len() as u64,
            steps,
            tokens,
            loss_first: losses.0,
            loss_last: losses.1,
            seed_hash: seed_hash(self.own_seed()),
        };
        self.round.update = Some((digest, update));
        self.say(Message::Commit(commit));
    }

    /// Stores an update until its round is over.
    pub(crate) fn keep_stored(&mut self, digest: Digest, bytes: Bytes) {
        if self.kept.entry(self.next_round()).or_default().insert(digest) {
            self.persist(Stored::Update(digest), Record::Blob { digest, bytes, pinned: false });
        }
    }

    /// Once the commits are closed, this peer's seed and update may be seen.
    pub(crate) fn reveal(&mut self) {
        if self.round.revealed || !self.is_member() {
            return;
        }
        let own = self.pool.commits().find(|(envelope, _)| envelope.from == self.me);
        let Some((id, commit)) = own.map(|(envelope, commit)| (envelope.id(), commit.clone())) else { return };
        if !self.list().is_some_and(|listed| listed.list.commits.contains(&id)) {
            return;
        }
        let seed = self.own_seed();
        if seed_hash(seed) != commit.seed_hash {
            return;
        }
        self.round.revealed = true;
        match self.round.update.clone().filter(|(digest, _)| *digest == commit.update) {
            Some((digest, update)) => {
                self.transfers.keep(digest, update);
                // This engine may be the one that is broken, and then its peer must vote with those who see that.
                self.check(digest);
            }
            // It was made before a restart.
            None => self.seek(commit.update, commit.update_bytes),
        }
        self.say(Message::Reveal(seed));
    }

    /// The seed of this peer's commit: the same after a restart, so that a commit made before can be revealed.
    fn own_seed(&self) -> Digest {
        let about = [&self.run.0[..], &self.next_round().to_le_bytes(), &self.chain.head().body.0].concat();
        self.identity.derive("shoal 2026 v1 own seed", &about)
    }

    /// Updates of the listed commits, with the sizes that these name.
    pub(crate) fn listed_updates(&self) -> &BTreeMap<Digest, Vec<u64>> {
        &self.round.exchanged
    }

    /// Fetches and checks the listed updates, and says which ones are here.
    pub(crate) fn exchange(&mut self) {
        let ids = self.list().map(|listed| listed.list.commits.clone()).unwrap_or_default();
        let claim = |id: &Digest| Some((self.pool.commit_time(id)?, self.pool.commit(*id)?.1));
        let mut claims: Vec<_> = ids.iter().filter_map(claim).collect();
        claims.sort_by_key(|(at, _)| *at);
        for (_, commit) in claims {
            let sizes = self.round.exchanged.entry(commit.update).or_default();
            if !sizes.contains(&commit.update_bytes) {
                sizes.push(commit.update_bytes);
            }
        }
        let listed = self.round.exchanged.clone();
        for (update, sizes) in &listed {
            for bytes in sizes {
                self.transfers.want(*update, *bytes);
            }
            self.check(*update);
        }
        let here: Vec<Digest> = listed
            .into_keys()
            .filter(|update| self.transfers.has(*update) && matches!(self.round.checks.get(update), Some(Some(_))))
            .collect();
        let since = self.round.have_at.max(self.round.listed_at);
        let due = since.is_some_and(|at| self.now.since(at) >= HAVE_INTERVAL_MS);
        let all = here.len() == self.round.exchanged.len();
        if here.len() > self.round.have_said && self.is_member() && (all || due) {
            self.round.have_said = here.len();
            self.round.have_at = Some(self.now);
            self.say(Message::Have(Have { updates: here }));
        }
    }

    /// Starts the form check of an update that is here.
    pub(crate) fn check(&mut self, update: Digest) {
        if self.round.checks.contains_key(&update) || !self.may_try(update) {
            return;
        }
        if let Some(bytes) = self.transfers.get(update) {
            self.round.checks.insert(update, None);
            self.round.sizes.insert(update, bytes.len() as u64);
            self.compute(Purpose::Check { update }, Job::Check { update: bytes });
        }
    }

    /// What became of each listed commit as this peer sees it; `None` while the exchange goes on.
    pub(crate) fn verdicts(&self, commits: &[(Envelope, Commit)]) -> Option<Vec<Verdict>> {
        let (_, since) = self.round.exchange_since?;
        let over = self.now.since(since) >= self.exchange_ms();
        // Who withholds its seed, or names a wrong size, takes nothing from others that name the same update.
        let mut first: BTreeMap<Digest, (Option<Millis>, PeerId)> = BTreeMap::new();
        let mut shown = Vec::with_capacity(commits.len());
        for (envelope, commit) in commits {
            let revealed = self.is_revealed(envelope.from, commit);
            let came = (self.pool.committed_at(envelope.from), envelope.from);
            shown.push((commit, revealed, came));
            if revealed && self.has_its_size(commit) != Some(false) {
                let earliest = first.entry(commit.update).or_insert(came);
                *earliest = came.min(*earliest);
            }
        }
        let mut verdicts = Vec::with_capacity(commits.len());
        for (commit, revealed, came) in shown {
            let checked = self.is_well_formed(commit);
            let first = first.get(&commit.update).is_none_or(|earliest| came <= *earliest);
            let verdict = match (revealed, checked, self.is_spread(commit.update)) {
                (true, ..) if !first => Verdict::Malformed,
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

    fn is_revealed(&self, peer: PeerId, commit: &Commit) -> bool {
        self.pool.reveal(peer, commit).is_some()
    }

    /// Whether an update has the size that a commit names; `None` while it is not here.
    pub(crate) fn has_its_size(&self, commit: &Commit) -> Option<bool> {
        self.round.sizes.get(&commit.update).map(|bytes| *bytes == commit.update_bytes)
    }

    /// Whether an update is as its commit says; `None` while that is not known.
    pub(crate) fn is_well_formed(&self, commit: &Commit) -> Option<bool> {
        let checked = self.round.checks.get(&commit.update).copied().flatten()?;
        Some(checked && self.has_its_size(commit) == Some(true))
    }

    fn exchange_ms(&self) -> u64 {
        u64::from(self.chain.manifest().timing.exchange_ms_max)
    }

    /// Whether more than two thirds of the weight say that they hold an update.
    fn is_spread(&self, update: Digest) -> bool {
        let holders: BTreeSet<PeerId> = self.pool.holders(update).collect();
        more_than_two_thirds(self.weight_of(&holders), self.total_weight())
    }

    /// Whether a body leaves out a seed or an update that this peer had in time. Whoever proposes must not choose among
    /// draws by forgetting seeds, nor refuse what others hold.
    pub(crate) fn is_fair(&self, content: &Content) -> bool {
        let over = self.round.exchange_since.map(|(_, since)| since + self.exchange_ms());
        let in_time = |peer: PeerId| self.pool.reveal_time(peer).zip(over).is_some_and(|(at, over)| at <= over);
        let judged = content.commits.iter().zip(&content.seeds).zip(&content.verdicts);
        judged.into_iter().all(|((envelope, seed), verdict)| {
            let Some((_, commit)) = self.pool.commit(envelope.id()) else { return true };
            let reveal = self.pool.reveal(envelope.from, commit);
            let dropped = seed.is_none() && reveal.is_some() && in_time(envelope.from);
            let well_formed = self.is_well_formed(commit) == Some(true);
            let refused = *verdict == Verdict::Unavailable && well_formed && self.is_spread(commit.update);
            !dropped && !refused
        })
    }

    /// What an outer step of this round computes: a name for its inputs.
    pub(crate) fn aggregation_key(&self, taken: &Taken) -> Digest {
        let Share { taken: weight, promised } = taken.share;
        let mut material = self.chain.head().model.0.to_vec();
        material.extend_from_slice(&weight.to_le_bytes());
        material.extend_from_slice(&promised.to_le_bytes());
        for update in &taken.accepted {
            material.extend_from_slice(&update.update.0);
            material.extend_from_slice(&update.weight.to_le_bytes());
        }
        Digest::in_domain("shoal 2026 v1 aggregation", &material)
    }

    /// Starts the outer step over updates that are here, or tells how it stands.
    pub(crate) fn aggregate(&mut self, taken: &Taken) -> Aggregate {
        let key = self.aggregation_key(taken);
        let Taken { accepted, share } = taken;
        if let Some(known) = self.round.aggregates.get(&key) {
            return known.clone();
        }
        let Some((_, model)) = self.model.clone().filter(|_| self.has_head_model()) else { return Aggregate::Pending };
        if !self.may_try(key) {
            return Aggregate::Pending;
        }
        if accepted.is_empty() {
            return Aggregate::Done { digest: self.chain.head().model, model, norms: Vec::new() };
        }
        let mut updates = Vec::with_capacity(accepted.len());
        for update in accepted {
            let Some(bytes) = self.transfers.get(update.update) else { return Aggregate::Pending };
            updates.push((update.weight, bytes));
        }
        let history = self.chain.head().history.iter().cloned().collect();
        self.compute(Purpose::Aggregate { key }, Job::Aggregate { model, updates, history, share: *share });
        self.round.aggregates.insert(key, Aggregate::Pending);
        Aggregate::Pending
    }
}
