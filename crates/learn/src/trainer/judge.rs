//! What updates of a round do to the model, each of them alone: an auditor's measurements.
//!
//! As in Gauntlet (Templar's validator): the loss before and after on data that the author was assigned and on data that
//! nobody was, the alignment with the auditor's own update, and which earlier commit an update repeats.
//!
//! Judging s updates takes (2 a + u) s + 2 u forward passes, with a = [`judged_batches`] and u = [`unassigned_batches`], each
//! about a third of a training step. From 60 steps on, an update costs a twelfth of what training a round does, and each time
//! an auditor judges at all a tenth more. Where peers are trusted and one update in fourteen gets three auditors, a peer judges
//! 0.22 updates a round, one at a time: 4 % of its compute. While nobody is trusted it judges three a round: a third of it.

use blake3::Hasher;
use shoal_wire::{Digest, PeerId, judging::Score, manifest::Codec, share::Share};

use super::{Go, TrainError, Trainer};
use crate::{
    Batch, Engine,
    data::{DataError, below},
    outer::{self, Likeness, UpdateError},
};

const STEPS_DOMAIN: &str = "shoal 2026 v1 judged steps";
const BATCHES_DOMAIN: &str = "shoal 2026 v1 judged batches";

/// An update repeats another of codec `topk` when of the values that either sends this share is sent by both, and it does not
/// point the other way. Four peers' honest updates of a small model shared at most 0.20 in the first rounds…
const COPY_OVERLAP_MIN: f64 = 0.4;
/// …and one of codec `dense4`, which sends all, when it points the same way to within this cosine. Theirs was at most 0.85
/// in the first round, and 0.69 after it.
const COPY_COSINE_MIN: f64 = 0.95;

/// Batches of its author's data that each update is measured on, in a run of `local_steps` a round: a twentieth of the steps,
/// but two from 20 steps on, one below, and never more than eight. Auditors are waited for only so long.
pub const fn judged_batches(local_steps: u32) -> u32 {
    match local_steps {
        0..20 => 1,
        20..40 => 2,
        160.. => 8,
        _ => local_steps / 20,
    }
}

/// Batches of data that nobody is assigned, for each of an author's, in rounds of 60 steps and more. They are the same for all
/// subjects, and the less what an update brings there hangs on which they are, the surer is the difference to what it brings
/// on its author's data.
pub const UNASSIGNED_TIMES: u32 = 3;

/// Batches of data that nobody is assigned in a run of `local_steps` a round: no fewer than of an author's, and three
/// twentieths of the steps.
pub const fn unassigned_batches(local_steps: u32) -> u32 {
    let judged = judged_batches(local_steps);
    let share = local_steps.saturating_mul(UNASSIGNED_TIMES) / 20;
    if share < judged {
        judged
    } else if share > judged * UNASSIGNED_TIMES {
        judged * UNASSIGNED_TIMES
    } else {
        share
    }
}

/// What to judge.
#[derive(Clone, Debug)]
pub struct JudgeOrder<'a> {
    /// The common model that the updates were trained from.
    pub model: &'a [u8],
    /// From which each author's data follows, as in [`super::TrainOrder`].
    pub randomness: Digest,
    /// From which follows which batches are measured. All auditors of a round have the same, and no author knows it when it
    /// commits.
    pub draw: Digest,
    pub subjects: Vec<JudgedUpdate<'a>>,
    /// This peer's own update of the round.
    pub own: Option<&'a [u8]>,
    /// Updates of the round with their authors, those that were committed first in front.
    pub round_updates: Vec<(PeerId, &'a [u8])>,
}

/// An update to judge.
#[derive(Clone, Copy, Debug)]
pub struct JudgedUpdate<'a> {
    pub author: PeerId,
    pub update: &'a [u8],
    /// Steps that its author says it trained: it is measured on their data.
    pub steps: u32,
}

/// Why the measurements ended before they were complete.
enum Halt {
    Stopped,
    Failed(TrainError),
}

impl<T: Into<TrainError>> From<T> for Halt {
    fn from(error: T) -> Self {
        Self::Failed(error.into())
    }
}

impl<E: Engine> Trainer<E> {
    /// Measures each subject, in their order; `None` when `go`, which is asked before each evaluation, wants no more.
    ///
    /// The engine holds the same parameters afterwards, and the optimiser's moments are not touched. Not while a round is
    /// being trained. A subject that is no update of the run is an error that names its author.
    pub async fn judge(
        &mut self,
        order: &JudgeOrder<'_>,
        mut go: impl AsyncFnMut() -> Go,
    ) -> Result<Option<Vec<Score>>, TrainError> {
        let theta = self.read_model(order.model)?;
        let held = self.engine.parameters().await?;
        let measured = self.measure(order, &theta, &mut go).await;
        self.engine.load(&held)?;
        match measured {
            Ok(scores) => Ok(Some(scores)),
            Err(Halt::Stopped) => Ok(None),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    async fn measure(
        &mut self,
        order: &JudgeOrder<'_>,
        theta: &[f32],
        go: &mut impl AsyncFnMut() -> Go,
    ) -> Result<Vec<Score>, Halt> {
        let seed = Digest::in_domain(BATCHES_DOMAIN, &order.draw.0);
        let unassigned = self.unassigned(seed)?;
        self.engine.load(theta)?;
        let other_before = self.finite_loss(&unassigned, go).await?;
        let mut assigned = Vec::with_capacity(order.subjects.len());
        for subject in &order.subjects {
            let batches = self.assigned(order.randomness, seed, subject)?;
            let before = self.finite_loss(&batches, go).await?;
            assigned.push((batches, before));
        }
        let mut own = None;
        if let Some(update) = order.own {
            self.load_with(theta, update, TrainError::Update)?;
            own = Some(fall(other_before, self.mean_loss(&unassigned, go).await?));
        }
        let mut scores = Vec::with_capacity(order.subjects.len());
        for (subject, (batches, before)) in order.subjects.iter().zip(&assigned) {
            let JudgedUpdate { author, update, .. } = *subject;
            self.load_with(theta, update, |error| TrainError::Subject { author, error })?;
            let assigned = fall(*before, self.mean_loss(batches, go).await?);
            let other = fall(other_before, self.mean_loss(&unassigned, go).await?);
            let (alignment_1024, copies) = self.compare(order, subject)?;
            scores.push(Score { assigned, other, own, alignment_1024, copies });
        }
        Ok(scores)
    }

    /// Batches that nobody is assigned.
    fn unassigned(&self, seed: Digest) -> Result<Vec<Batch>, DataError> {
        let (rows, context) = (self.recipe.batch as usize, self.recipe.context as usize);
        let numbers = 0..unassigned_batches(self.recipe.local_steps);
        numbers.map(|number| self.corpus.unassigned_batch(seed, number, rows, context)).collect()
    }

    /// Batches of some of the author's steps, one of each of equal parts of the round.
    fn assigned(&self, randomness: Digest, seed: Digest, subject: &JudgedUpdate<'_>) -> Result<Vec<Batch>, DataError> {
        let (rows, context) = (self.recipe.batch as usize, self.recipe.context as usize);
        let most = self.recipe.local_steps;
        let steps = drawn_steps(seed, subject.author, subject.steps.clamp(1, most), judged_batches(most));
        let batch = |step| self.corpus.train_batch(randomness, subject.author, step, rows, context);
        steps.into_iter().map(batch).collect()
    }

    /// Loads what the outer step would make of the model with this update alone, not clipped, whatever its norm: one that is
    /// too large shall do all the harm here that it can.
    fn load_with(
        &mut self,
        theta: &[f32],
        update: &[u8],
        blame: impl Fn(UpdateError) -> TrainError,
    ) -> Result<(), TrainError> {
        let without_bound = [vec![u64::MAX; self.layout.tensors.len()]];
        let alone = [(1, update)];
        let (next, _) = outer::aggregate(&self.layout, &self.recipe.outer, theta, &alone, &without_bound, Share::WHOLE)
            .map_err(blame)?;
        Ok(self.engine.load(&next)?)
    }

    async fn finite_loss(&mut self, batches: &[Batch], go: &mut impl AsyncFnMut() -> Go) -> Result<f64, Halt> {
        let loss = self.mean_loss(batches, go).await?;
        if loss.is_finite() { Ok(loss) } else { Err(TrainError::NoLoss.into()) }
    }

    async fn mean_loss(&mut self, batches: &[Batch], go: &mut impl AsyncFnMut() -> Go) -> Result<f64, Halt> {
        let mut sum = 0.0;
        for batch in batches {
            if go().await != Go::On {
                return Err(Halt::Stopped);
            }
            sum += f64::from(self.engine.evaluate(batch).await?);
        }
        Ok(sum / batches.len() as f64)
    }

    /// The alignment with this peer's own update, and whose earlier update this one repeats: the earliest of them.
    fn compare(
        &self,
        order: &JudgeOrder<'_>,
        subject: &JudgedUpdate<'_>,
    ) -> Result<(Option<i16>, Option<PeerId>), TrainError> {
        let JudgedUpdate { author, update, .. } = *subject;
        let place = order.round_updates.iter().position(|(peer, _)| *peer == author);
        // Of one that is not among the round's updates, nobody knows what came earlier.
        let earlier = &order.round_updates[..place.unwrap_or(0)];
        let others: Vec<&[u8]> = earlier.iter().map(|(_, update)| *update).chain(order.own).collect();
        let codec = self.recipe.outer.codec;
        let likeness = outer::likeness(&self.layout, codec, update, &others)
            .map_err(|error| TrainError::Subject { author, error })?;
        let copies = earlier.iter().zip(&likeness).find(|(_, like)| like.is_some_and(|like| is_copy(codec, like)));
        let own = likeness.get(earlier.len()).copied().flatten();
        Ok((own.map(|like| (like.cosine * 1024.0).round() as i16), copies.map(|((peer, _), _)| *peer)))
    }
}

fn is_copy(codec: Codec, like: Likeness) -> bool {
    match codec {
        Codec::Topk => like.overlap >= COPY_OVERLAP_MIN && like.cosine > 0.0,
        Codec::Dense4 => like.cosine >= COPY_COSINE_MIN,
    }
}

/// By how much a loss fell, in millionths of a nat; a model that has no loss any more fell as far as can be said.
fn fall(before: f64, after: f64) -> i32 {
    // The conversion saturates.
    if after.is_finite() { ((before - after) * 1e6).round() as i32 } else { i32::MIN }
}

/// Some of the steps 1 to `steps`, one of each of `count` equal parts.
fn drawn_steps(seed: Digest, author: PeerId, steps: u32, count: u32) -> Vec<u32> {
    let mut hasher = Hasher::new_derive_key(STEPS_DOMAIN);
    hasher.update(&seed.0).update(&author.0);
    let mut stream = hasher.finalize_xof();
    let count = u64::from(count.min(steps));
    let part = |index: u64| (index * u64::from(steps) / count) as u32;
    (0..count)
        .map(|index| part(index) + 1 + below(&mut stream, (part(index + 1) - part(index)) as usize) as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_batches_are_measured_and_never_more_than_a_tenth_of_the_steps() {
        assert_eq!([0, 1, 19, 20, 59, 60, 179, 1000].map(judged_batches), [1, 1, 1, 2, 2, 3, 8, 8]);
        assert!((10..2000).all(|steps| judged_batches(steps) * 10 <= steps));
        assert_eq!([0, 1, 19, 20, 40, 60, 179, 1000].map(unassigned_batches), [1, 1, 2, 3, 6, 9, 24, 24]);
    }

    #[test]
    fn drawn_steps_are_spread_over_the_round_and_cannot_be_known_before_the_seed() {
        let drawn = |seed, steps, count| drawn_steps(Digest([seed; 32]), PeerId([1; 32]), steps, count);
        for (steps, count) in [(1, 1), (1, 8), (7, 8), (20, 2), (60, 6), (u32::MAX, 8)] {
            let found = drawn(1, steps, count);
            assert_eq!(found.len() as u32, count.min(steps));
            assert!(found.is_sorted_by(|a, b| a < b) && found[0] >= 1 && found[found.len() - 1] <= steps);
        }
        assert!((2..30).any(|seed| drawn(seed, 60, 6) != drawn(1, 60, 6)));
        assert!(drawn(1, 60, 6).iter().zip(1..).all(|(step, part)| (*step - 1) / 10 + 1 == part));
    }

    #[test]
    fn falls_are_in_millionths_and_saturate() {
        assert_eq!(fall(2.5, 2.25), 250_000);
        assert_eq!(fall(2.25, 2.5), -250_000);
        assert_eq!(
            [fall(9e9, 0.0), fall(0.0, 9e9), fall(1.0, f64::NAN), fall(1.0, f64::INFINITY)],
            [i32::MAX, i32::MIN, i32::MIN, i32::MIN]
        );
    }
}
