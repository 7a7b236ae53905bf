//! Peers that lie. Each runs the real state machine: some lie with their engine, in what they train and measure, and
//! some with their mouth, in what they say to whom.

use std::collections::VecDeque;

use shoal_learn::outer::{self, FRACTION_BITS};
use shoal_swarm::{Bytes, Job, Outcome};
use shoal_wire::{
    Digest, PeerId, RunId,
    frame::Frame,
    judging::Score,
    record::{Message, Said, Vote, VoteKind},
    sign::Identity,
};

use crate::{
    Random,
    engine::Engine,
    learner::{CLASSES, Learner, TASK, assigned, steps_in_time},
    world::read,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lie {
    /// Sends what it learnt with the other sign.
    SignFlip,
    /// Sends a thousand times what it learnt.
    Times1000,
    /// Sends a scale that is not a number.
    NotANumber,
    /// Sends a scale that is infinite.
    Infinite,
    /// Sends noise as large as what it learnt.
    Noise,
    /// Sends the mean of what honest peers learn, moved by their spread: "a little is enough" (Baruch et al. 2019).
    SmallShift,
    /// Trains towards wrong labels.
    LabelFlip,
    /// Sends what it learnt three rounds ago.
    Stale,
    /// Sends what another one sent last round, hardly changed.
    Copy,
    /// Sends next to nothing and claims to have worked.
    FreeRide,
    /// Trains half of the steps that it claims. No world draws it: benches look whether it is rated lower.
    HalfWork,
    /// Trains honestly; as an auditor it calls good bad and bad good.
    FalseVerdicts,
    /// Leads badly: leaves a commit out of its lists, reveals no seed, passes on no judgement.
    LeaveOut,
    /// Votes one way before some peers and another way before others.
    Equivocate,
    /// Never votes.
    WithholdVotes,
}

impl Lie {
    pub const ALL: [Self; 14] = [
        Self::SignFlip,
        Self::Times1000,
        Self::NotANumber,
        Self::Infinite,
        Self::Noise,
        Self::SmallShift,
        Self::LabelFlip,
        Self::Stale,
        Self::Copy,
        Self::FreeRide,
        Self::FalseVerdicts,
        Self::LeaveOut,
        Self::Equivocate,
        Self::WithholdVotes,
    ];

    /// Whether it lies in its updates, and votes like everybody.
    pub const fn is_in_updates(self) -> bool {
        !matches!(self, Self::FalseVerdicts | Self::LeaveOut | Self::Equivocate | Self::WithholdVotes)
    }

    /// Rounds of work before it can lie: it has nothing yet that it could send again.
    pub const fn honest_rounds(self) -> u64 {
        match self {
            Self::Stale => STALE_ROUNDS as u64,
            Self::Copy => 1,
            _ => 0,
        }
    }

    /// Whether it may hold up what more than two thirds of the weight are needed for.
    pub const fn is_in_votes(self) -> bool {
        matches!(self, Self::LeaveOut | Self::Equivocate | Self::WithholdVotes)
    }
}

/// How far a small shift goes, in standard deviations. Theory allows less for so few liars; this one is harder on the
/// model and easier to see.
const SHIFT: f32 = 1.0;
/// Honest peers that a small shift imagines.
const IMAGINED: u8 = 4;
const STALE_ROUNDS: usize = 3;
/// Updates of others that a copier remembers.
const SEEN_MAX: usize = 32;

/// The engine of a peer that lies.
pub(crate) struct Liar {
    honest: Learner,
    lie: Lie,
    /// What it learnt in the last rounds, oldest first.
    learnt: VecDeque<Vec<f32>>,
    /// Updates of others that went through this engine, oldest first.
    seen: VecDeque<Bytes>,
}

impl Liar {
    pub fn new(honest: Learner, lie: Lie) -> Self {
        Self { honest, lie, learnt: VecDeque::new(), seen: VecDeque::new() }
    }

    fn train(&mut self, job: &Job, share_1024: u64) -> Outcome {
        let Job::Train { round, model, randomness, steps, settled, .. } = job else {
            return self.honest.run(job, share_1024);
        };
        self.honest.settle(*settled);
        let Ok(theta) = outer::params_from_bytes(&TASK.layout, model) else { return self.honest.run(job, share_1024) };
        let me = self.honest.me;
        let steps = steps_in_time(*steps, share_1024);
        let data = |peer: PeerId| assigned(*randomness, *round, peer);
        let mut random = data(PeerId(Digest::of(&me.0).0));
        let trained = if self.lie == Lie::HalfWork { steps.div_ceil(2) } else { steps };
        let flips = self.lie == Lie::LabelFlip;
        let (mut delta, losses) =
            TASK.train(&theta, data(me), trained, |class| if flips { CLASSES - 1 - class } else { class });
        let honest = delta.clone();
        match self.lie {
            Lie::SignFlip => delta.iter_mut().for_each(|value| *value = -*value),
            Lie::Times1000 => delta.iter_mut().for_each(|value| *value *= 1000.0),
            Lie::Noise => noise(&mut delta, &mut random, 1.0),
            Lie::FreeRide => noise(&mut delta, &mut random, 0.01),
            Lie::SmallShift => {
                // Each imagines its own: two equal updates would give themselves away.
                let imagined = (0..IMAGINED).map(|number| PeerId(Digest::of(&[&me.0[..], &[number]].concat()).0));
                let deltas: Vec<Vec<f32>> =
                    imagined.map(|peer| TASK.train(&theta, data(peer), steps, |class| class).0).collect();
                shift(&mut delta, &deltas);
            }
            Lie::Stale if self.learnt.len() == STALE_ROUNDS => delta.clone_from(&self.learnt[0]),
            Lie::Copy => {
                let codec = TASK.outer.codec;
                let copied = self.seen.pop_front().and_then(|bytes| outer::decode(&TASK.layout, codec, &bytes).ok());
                if let Some(values) = copied {
                    let unit = (1_u64 << FRACTION_BITS) as f32;
                    delta = values.into_iter().map(|value| value as f32 / unit).collect();
                    // Another change for each copier: two equal copies would give themselves away.
                    let place = random.place(delta.len());
                    delta[place] += 1e-3;
                    // What it has not sent of its own would spoil the copy.
                    self.honest = Learner::new(me, self.honest.plain_mean);
                }
                self.seen.clear();
            }
            _ => {}
        }
        self.learnt.push_back(honest);
        while self.learnt.len() > STALE_ROUNDS {
            self.learnt.pop_front();
        }
        let mut outcome = self.honest.pack(&delta, steps, losses);
        if let (Lie::NotANumber | Lie::Infinite, Outcome::Trained { update, .. }) = (self.lie, &mut outcome) {
            let half = if self.lie == Lie::Infinite { half::f16::INFINITY } else { half::f16::NAN };
            *update = with_first_scale(update, half);
        }
        outcome
    }
}

impl Engine for Liar {
    fn run(&mut self, job: &Job, share_1024: u64) -> Outcome {
        match job {
            Job::Train { .. } => self.train(job, share_1024),
            Job::Check { update } => {
                self.seen.push_back(update.clone());
                while self.seen.len() > SEEN_MAX {
                    self.seen.pop_front();
                }
                self.honest.run(job, share_1024)
            }
            Job::Judge { .. } if self.lie == Lie::FalseVerdicts => match self.honest.run(job, share_1024) {
                Outcome::Judged { scores } => Outcome::Judged { scores: scores.into_iter().map(inverted).collect() },
                other => other,
            },
            _ => self.honest.run(job, share_1024),
        }
    }
}

fn inverted(score: Score) -> Score {
    Score { assigned: score.assigned.saturating_neg(), other: score.other.saturating_neg(), copies: None, ..score }
}

/// Noise with so much of the largest value.
fn noise(delta: &mut [f32], random: &mut Random, share: f32) {
    let largest = delta.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    for value in delta {
        *value = ((random.draw() >> 40) as f32 / (1 << 23) as f32 - 1.0) * largest * share;
    }
}

/// The mean of what others learn, less some of their standard deviation.
fn shift(delta: &mut [f32], deltas: &[Vec<f32>]) {
    let count = deltas.len() as f32;
    for (index, value) in delta.iter_mut().enumerate() {
        let mean = deltas.iter().map(|delta| delta[index]).sum::<f32>() / count;
        let variance = deltas.iter().map(|delta| (delta[index] - mean) * (delta[index] - mean)).sum::<f32>() / count;
        *value = mean - SHIFT * variance.sqrt();
    }
}

/// An update whose first scale is another, under a checksum that holds: only reading it shows what is wrong. Behind the
/// two bytes of the header and the four of the coder's state stands the first scale.
fn with_first_scale(update: &[u8], half: half::f16) -> Bytes {
    const AT: usize = 6;
    let mut content = update[..update.len() - 4].to_vec();
    content[AT..AT + 2].copy_from_slice(&half.to_le_bytes());
    let sum = Digest::in_domain("shoal 2026 v1 update checksum", &content).0;
    content.extend_from_slice(&sum[..4]);
    content.into()
}

/// What a liar sends to a peer in place of what its state machine would; `None` when it stays silent.
pub(crate) fn speak(lie: Lie, identity: &Identity, run: RunId, to: PeerId, frame: &[u8]) -> Option<Vec<u8>> {
    let kept = || Some(frame.to_vec());
    let Ok(Frame::Said(envelope)) = Frame::decode(frame) else { return kept() };
    let Some(said) = read(&envelope).filter(|_| envelope.from == identity.peer()) else { return kept() };
    let again = |message: Message| Frame::Said(Said { run, message, ..said.clone() }.seal(identity)).encode();
    match (lie, &said.message) {
        (Lie::WithholdVotes, Message::Vote(_)) | (Lie::LeaveOut, Message::Reveal(_) | Message::Judgement(_)) => None,
        (Lie::Equivocate, Message::Vote(vote)) if vote.kind != VoteKind::Recovery && to.0[0].is_multiple_of(2) => {
            let body = if vote.body.is_some() { None } else { Some(envelope.id()) };
            Some(again(Message::Vote(Vote { body, ..*vote })))
        }
        (Lie::LeaveOut, Message::CommitList(list)) if list.commits.len() > 1 => {
            let mut list = list.clone();
            list.commits.pop();
            Some(again(Message::CommitList(list)))
        }
        _ => kept(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lie: Lie) -> Bytes {
        let mut liar = Liar::new(Learner::new(PeerId([1; 32]), false), lie);
        let model = TASK.genesis();
        let job = Job::Train {
            round: 1,
            model,
            randomness: Digest::default(),
            steps: 10,
            learning_rate_1024: 1024,
            settled: None,
        };
        match liar.run(&job, 1024) {
            Outcome::Trained { update, .. } => update,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scales_that_are_no_numbers_are_found_by_reading_them_and_not_by_the_checksum() {
        for lie in [Lie::NotANumber, Lie::Infinite] {
            let found = outer::check(&TASK.layout, TASK.outer.codec, &outcome(lie));
            assert_eq!(found, Err(outer::UpdateError::Scale), "{lie:?}");
        }
    }

    #[test]
    fn every_other_lie_is_well_formed_and_not_what_an_honest_peer_sends() {
        let honest = outcome(Lie::FalseVerdicts);
        for lie in Lie::ALL.into_iter().filter(|lie| lie.is_in_updates()) {
            if matches!(lie, Lie::NotANumber | Lie::Infinite) {
                continue;
            }
            let update = outcome(lie);
            assert_eq!(outer::check(&TASK.layout, TASK.outer.codec, &update), Ok(()), "{lie:?}");
            // These two need a past to lie with.
            assert!(update != honest || matches!(lie, Lie::Stale | Lie::Copy), "{lie:?}");
        }
    }
}
