//! Judging the round's updates, and telling of peers that contradict themselves.
//!
//! Once the seeds are revealed everybody knows who audits whom. Judging goes on while the exchange does, and nobody waits
//! for it longer than a part of the exchange time: a round whose auditors are slow or gone goes on without them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use shoal_ledger::judging::{Judged, Panels, check_judgement};
use shoal_wire::{
    Digest, Envelope, Millis, PeerId, View,
    judging::{Equivocation, Judgement, Score},
    record::{Commit, Content, Message, Verdict},
};

use crate::{Job, JobId, Output, Subject, Swarm, agree::Validity, state::Purpose};

/// Judgements get this part of the exchange time once the updates are here.
const PART: u64 = 4;

/// What this peer knows of the judging of the round in progress.
#[derive(Debug, Default)]
pub(crate) struct Judging {
    /// The measuring under way, and of which draw.
    pub job: Option<(JobId, Digest)>,
    /// What it measured, by draw and author: another draw is measured on other data.
    pub scores: BTreeMap<(Digest, PeerId), Score>,
    /// It cannot measure the updates of this draw.
    pub gave_up: Option<Digest>,
    /// For the list of which view the form of every update was known, and when.
    pub decided: Option<(View, Millis)>,
    /// Draws that were made, by the randomness: they are asked for often, and change only when a seed comes.
    draws: BTreeMap<Digest, (Vec<PeerId>, Arc<Panels>)>,
}

/// Draws that are remembered; who proposes can make up more.
const DRAWS_MAX: usize = 8;

impl Swarm {
    /// How long judgements are waited for, once the form of every update is known.
    pub(crate) fn judging_ms(&self) -> u64 {
        u64::from(self.chain.manifest().timing.exchange_ms_max) / PART
    }

    /// Measures what was drawn for this peer, and says what it found.
    pub(crate) fn judge_updates(&mut self) {
        let Some(commits) = self.listed_commits() else { return };
        let Some((view, since)) = self.round.exchange_since else { return };
        self.note_decided(view, &commits);
        let seeds = self.seeds(&commits);
        let late = self.now.since(since) >= self.judging_ms();
        let randomness = self.chain.randomness_after(&seeds);
        if (!late && seeds.iter().any(Option::is_none)) || self.pool.judgement(self.me, randomness).is_some() {
            return;
        }
        let authors: Vec<PeerId> = commits.iter().map(|(envelope, _)| envelope.from).collect();
        let draw = self.draw(&authors, &seeds, randomness);
        if !self.is_member() || !draw.values().any(|auditors| auditors.contains(&self.me)) {
            return;
        }
        let mine: Vec<(PeerId, Commit)> = commits
            .into_iter()
            .map(|(envelope, commit)| (envelope.from, commit))
            .filter(|(author, _)| draw.get(author).is_some_and(|auditors| auditors.contains(&self.me)))
            .collect();
        // Another seed came: what is being measured is not wanted any more.
        if self.round.judging.job.is_some_and(|(_, of)| of != randomness) {
            self.abandon_judging();
        }
        let is_open = |(_, commit): &(PeerId, Commit)| self.is_well_formed(commit).is_none();
        let over = self.round.judging.decided.is_some_and(|(of, _)| of == view);
        if !over && mine.iter().any(is_open) {
            return;
        }
        let mut missing = Vec::new();
        for (author, commit) in &mine {
            let wanted = self.is_well_formed(commit) == Some(true)
                && !self.round.judging.scores.contains_key(&(randomness, *author));
            if let Some(update) = self.transfers.get(commit.update).filter(|_| wanted) {
                missing.push(Subject { author: *author, update, steps: self.steps_of(commit) });
            }
        }
        if missing.is_empty() || self.round.judging.gave_up == Some(randomness) {
            let scored = |(author, commit): &(PeerId, Commit)| {
                self.round.judging.scores.get(&(randomness, *author)).map(|score| (commit.update, *score))
            };
            let scores = mine.iter().filter_map(scored).collect();
            self.say(Message::Judgement(Judgement { draw: randomness, scores }));
        } else if self.round.judging.job.is_none() {
            self.measure(missing, randomness);
        }
    }

    /// Notes since when the form of every listed update is known here.
    fn note_decided(&mut self, view: View, commits: &[(Envelope, Commit)]) {
        let known = self.round.judging.decided.is_some_and(|(of, _)| of == view);
        if !known && self.verdicts(commits).is_some() {
            self.round.judging.decided = Some((view, self.now));
            self.changed = true;
        }
    }

    /// The listed commits, when all are here.
    pub(crate) fn listed_commits(&self) -> Option<Vec<(Envelope, Commit)>> {
        let listed = self.list()?;
        let find = |id: &Digest| self.pool.commit(*id).map(|(envelope, commit)| (envelope.clone(), commit.clone()));
        listed.list.commits.iter().map(find).collect()
    }

    /// The seed of each commit, as far as it is here.
    pub(crate) fn seeds(&self, commits: &[(Envelope, Commit)]) -> Vec<Option<Digest>> {
        commits.iter().map(|(envelope, commit)| self.pool.reveal(envelope.from, commit)).collect()
    }

    /// Who audits whom when these commits' seeds are as far revealed.
    fn draw(&mut self, authors: &[PeerId], seeds: &[Option<Digest>], randomness: Digest) -> Arc<Panels> {
        let draws = &mut self.round.judging.draws;
        if let Some((_, draw)) = draws.get(&randomness).filter(|(of, _)| of == authors) {
            return draw.clone();
        }
        let draw = Arc::new(self.chain.draw(authors, seeds));
        if draws.len() >= DRAWS_MAX {
            draws.clear();
        }
        draws.insert(randomness, (authors.to_vec(), draw.clone()));
        draw
    }

    /// Steps that the tokens of a commit stand for: by these its update is weighed.
    fn steps_of(&self, commit: &Commit) -> u32 {
        let recipe = &self.chain.manifest().recipe;
        let each = u64::from(recipe.batch) * u64::from(recipe.context);
        u32::try_from(commit.tokens.div_ceil(each.max(1))).unwrap_or(u32::MAX)
    }

    fn measure(&mut self, subjects: Vec<Subject>, draw: Digest) {
        let Some((_, model)) = self.model.clone().filter(|_| self.has_head_model()) else { return };
        let came = |(envelope, commit): (&Envelope, &Commit)| {
            let formed = self.is_well_formed(commit) == Some(true);
            formed.then(|| (self.pool.committed_at(envelope.from), envelope.from, commit.update))
        };
        let mut commits: Vec<_> = self.pool.commits().filter_map(came).collect();
        commits.sort_unstable();
        let mut round_updates = Vec::with_capacity(commits.len());
        for (_, author, update) in commits {
            round_updates.extend(self.transfers.get(update).map(|bytes| (author, bytes)));
        }
        let authors = subjects.iter().map(|subject| subject.author).collect();
        let work = Job::Judge {
            round: self.next_round(),
            model,
            randomness: self.chain.head().randomness,
            draw,
            subjects,
            own: self.round.update.as_ref().map(|(_, update)| update.clone()),
            round_updates,
        };
        let round = self.next_round();
        let job = self.compute(Purpose::Judge { round, draw, authors }, work);
        self.round.judging.job = Some((job, draw));
    }

    pub(crate) fn measured(&mut self, draw: Digest, authors: Vec<PeerId>, scores: Vec<Score>) {
        self.round.judging.job = None;
        if authors.len() == scores.len() {
            let of_draw = authors.into_iter().map(|author| (draw, author));
            self.round.judging.scores.extend(of_draw.zip(scores));
        } else {
            self.round.judging.gave_up = Some(draw);
            self.tell(crate::Event::Trouble("the engine did not measure every update".to_owned()));
        }
    }

    /// What this peer cannot measure it does not judge: others need not wait for it.
    pub(crate) fn not_measured(&mut self, draw: Digest, reason: String) {
        self.round.judging.job = None;
        self.round.judging.gave_up = Some(draw);
        self.tell(crate::Event::Trouble(reason));
    }

    pub(crate) fn abandon_judging(&mut self) {
        if let Some((job, _)) = self.round.judging.job.take() {
            self.jobs.remove(&job);
            self.emit(Output::Stop { job, keep: false });
        }
    }

    /// The judgements that a body with these seeds carries; `None` while some are waited for.
    pub(crate) fn judgements(
        &mut self,
        commits: &[(PeerId, Commit)],
        seeds: &[Option<Digest>],
    ) -> Option<Vec<Envelope>> {
        let authors: Vec<PeerId> = commits.iter().map(|(author, _)| *author).collect();
        let randomness = self.chain.randomness_after(seeds);
        let draw = self.draw(&authors, seeds, randomness);
        let mut said = Vec::new();
        let mut awaited = false;
        for auditor in draw.values().flatten().copied().collect::<BTreeSet<_>>() {
            match self.pool.judgement(auditor, randomness) {
                Some((envelope, judgement, _)) => {
                    if check_judgement(judgement, auditor, &draw, commits).is_ok() {
                        said.push(envelope.clone());
                    }
                }
                None => awaited |= self.is_present(auditor),
            }
        }
        let over = self.judging_over().is_none_or(|over| self.now >= over);
        (over || !awaited).then_some(said)
    }

    /// When judgements are not waited for any more.
    fn judging_over(&self) -> Option<Millis> {
        self.round.judging.decided.map(|(_, since)| since + self.judging_ms())
    }

    /// Verdicts on the listed updates, after the form of each and what its auditors say.
    pub(crate) fn judged(
        &self,
        commits: &[(PeerId, Commit)],
        seeds: &[Option<Digest>],
        form: Vec<Verdict>,
        judgements: &[Envelope],
    ) -> Option<Vec<Verdict>> {
        let found = self.chain.assess(&Judged { commits, seeds, verdicts: &form, judgements }).ok()?;
        let verdict = |((author, _), form): (&(PeerId, Commit), Verdict)| {
            if form == Verdict::Accepted { found.verdict(*author) } else { form }
        };
        Some(commits.iter().zip(form).map(verdict).collect())
    }

    /// Whether a body leaves out a judgement that this peer had in time, as an honest leader would have; `Pending` while
    /// one may still come that the leader should have waited for.
    pub(crate) fn hears_auditors(&mut self, content: &Content) -> Validity {
        let commits: Option<Vec<(PeerId, Commit)>> = content
            .commits
            .iter()
            .map(|envelope| Some((envelope.from, self.pool.commit(envelope.id())?.1.clone())))
            .collect();
        let (Some(commits), Some(over)) = (commits, self.judging_over()) else { return Validity::Valid };
        let authors: Vec<PeerId> = commits.iter().map(|(author, _)| *author).collect();
        let randomness = self.chain.randomness_after(&content.seeds);
        let draw = self.draw(&authors, &content.seeds, randomness);
        let heard: BTreeSet<PeerId> = content.judgements.iter().map(|envelope| envelope.from).collect();
        // What came at the last moment may have come to the leader a moment later.
        let in_time = |at: Millis| at + self.judging_ms() / PART <= over;
        let mut silent = draw.values().flatten().filter(|auditor| !heard.contains(auditor));
        let mut awaited = false;
        let omitted = silent.any(|auditor| {
            let Some((_, judgement, at)) = self.pool.judgement(*auditor, randomness) else {
                awaited |= self.is_present(*auditor) && in_time(self.now);
                return false;
            };
            in_time(at) && check_judgement(judgement, *auditor, &draw, &commits).is_ok()
        });
        match (omitted, awaited) {
            (true, _) => Validity::Invalid,
            (false, true) => Validity::Pending,
            (false, false) => Validity::Valid,
        }
    }

    /// Tells everybody of two votes that contradict each other, unless somebody did.
    pub(crate) fn accuse(&mut self, first: Envelope, second: Envelope) {
        let proof = Equivocation { first, second };
        let known = self.pool.proofs().any(|known| known.first.from == proof.first.from);
        if !known && self.is_member() && self.chain.convicts(&proof).is_ok() {
            self.say(Message::Equivocation(Box::new(proof)));
        }
    }

    /// A proof against each member that contradicted itself, in peer order.
    pub(crate) fn convictions(&self) -> Vec<Equivocation> {
        let mut by_peer: BTreeMap<PeerId, Equivocation> = BTreeMap::new();
        for proof in self.pool.proofs() {
            if let Ok(peer) = self.chain.convicts(proof) {
                by_peer.entry(peer).or_insert_with(|| proof.clone());
            }
        }
        by_peer.into_values().collect()
    }
}
