//! A model small enough for thousands of worlds and real enough to be poisoned: a network with one hidden layer that
//! learns what a random one of the same kind answers. Compression and the outer step are those of real runs.
//!
//! Every operation is an IEEE 754 addition, multiplication or comparison in a fixed order, and exponentials come from
//! portable code, so that a world gives the same bytes on every platform.

use std::sync::LazyLock;

use shoal_learn::{
    Layout, TensorInfo,
    outer::{self, FRACTION_BITS, Residual},
    trainer::UNASSIGNED_TIMES,
};
use shoal_swarm::{Bytes, Job, Outcome, Subject};
use shoal_wire::{Digest, Manifest, PeerId, Round, judging::Score, manifest::Outer, share::Share};

use crate::{Random, engine::Engine, toy::toy_manifest};

pub(crate) const INPUTS: usize = 12;
const HIDDEN: usize = 10;
pub(crate) const CLASSES: usize = 5;
/// Examples in a local step.
const BATCH: u32 = 16;
const LOCAL_STEPS: u32 = 10;
const LEARNING_RATE: f32 = 0.2;
/// Of a thousand examples, those whose label is drawn by lot.
const NOISE_PER_MILLE: u64 = 50;
const HELD_OUT: usize = 512;

/// What is learnt: the same in every world, so that losses compare.
pub(crate) static TASK: LazyLock<Task> = LazyLock::new(Task::new);

pub(crate) struct Task {
    pub layout: Layout,
    pub outer: Outer,
    teacher: Vec<f32>,
    genesis: Vec<f32>,
    held_out: Vec<Example>,
}

struct Example {
    input: [f32; INPUTS],
    class: usize,
}

/// Where the parts of a flat parameter vector begin, as the layout orders them: by name.
const HIDDEN_BIAS: usize = 0;
const HIDDEN_WEIGHT: usize = HIDDEN_BIAS + HIDDEN;
const OUT_BIAS: usize = HIDDEN_WEIGHT + HIDDEN * INPUTS;
const OUT_WEIGHT: usize = OUT_BIAS + CLASSES;
const PARAMETERS: usize = OUT_WEIGHT + CLASSES * HIDDEN;

fn layout() -> Layout {
    let tensor =
        |name: &str, shape: &[usize], offset| TensorInfo { name: name.to_owned(), shape: shape.to_vec(), offset };
    let tensors = vec![
        tensor("hidden.bias", &[HIDDEN], HIDDEN_BIAS),
        tensor("hidden.weight", &[HIDDEN, INPUTS], HIDDEN_WEIGHT),
        tensor("out.bias", &[CLASSES], OUT_BIAS),
        tensor("out.weight", &[CLASSES, HIDDEN], OUT_WEIGHT),
    ];
    Layout { tensors }
}

/// A number from −1 to 1.
fn uniform(random: &mut Random) -> f32 {
    (random.draw() >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// A random network that calls about as many inputs by each class: one that prefers a class teaches little beyond it, and
/// a lie about labels would hardly be one.
fn balanced_teacher(random: &mut Random) -> Vec<f32> {
    let mut teacher: Vec<f32> = (0..PARAMETERS).map(|_| uniform(random)).collect();
    let mut means = [0.0; CLASSES];
    for _ in 0..HELD_OUT {
        let logits = Pass::of(&teacher, &core::array::from_fn(|_| uniform(random))).logits;
        means.iter_mut().zip(logits).for_each(|(mean, logit)| *mean += logit / HELD_OUT as f32);
    }
    teacher[OUT_BIAS..OUT_BIAS + CLASSES].iter_mut().zip(means).for_each(|(bias, mean)| *bias -= mean);
    teacher
}

impl Task {
    fn new() -> Self {
        let mut random = Random::new(0x7eac_4e12);
        let teacher = balanced_teacher(&mut random);
        let genesis = (0..PARAMETERS).map(|_| uniform(&mut random) * 0.3).collect();
        let outer = toy_manifest(Vec::new()).recipe.outer;
        let mut task = Self { layout: layout(), outer, teacher, genesis, held_out: Vec::new() };
        task.held_out = (0..HELD_OUT).map(|_| task.example(&mut random)).collect();
        task
    }

    pub fn genesis(&self) -> Bytes {
        outer::params_to_bytes(&self.genesis).into()
    }

    pub fn manifest(&self, anchors: Vec<PeerId>) -> Manifest {
        let mut manifest = toy_manifest(anchors);
        "learner".clone_into(&mut manifest.name);
        "one hidden layer".clone_into(&mut manifest.description);
        manifest.genesis = Digest::of(&self.genesis());
        manifest.recipe.batch = BATCH;
        manifest.recipe.context = 1;
        manifest.recipe.local_steps = LOCAL_STEPS;
        manifest
    }

    fn example(&self, random: &mut Random) -> Example {
        let input: [f32; INPUTS] = core::array::from_fn(|_| uniform(random));
        let answer = Pass::of(&self.teacher, &input).best();
        let class = if random.chance(NOISE_PER_MILLE) { random.place(CLASSES) } else { answer };
        Example { input, class }
    }

    /// Mean loss of a model, in nats, on examples that nobody trains on.
    pub fn held_out_loss(&self, theta: &[f32]) -> f64 {
        mean_loss(theta, &self.held_out)
    }

    /// Trains from `theta` on a stream of examples; returns θ before minus θ after, and the first and last step's loss.
    /// `label` says which class an example is trained towards.
    pub fn train(
        &self,
        theta: &[f32],
        mut data: Random,
        steps: u32,
        label: impl Fn(usize) -> usize,
    ) -> (Vec<f32>, (f32, f32)) {
        let mut local = theta.to_vec();
        let mut losses = (0.0, 0.0);
        for step in 0..steps {
            let mut gradient = vec![0.0; PARAMETERS];
            let mut loss = 0.0;
            for _ in 0..BATCH {
                let example = self.example(&mut data);
                let pass = Pass::of(&local, &example.input);
                loss += pass.loss(label(example.class)) / BATCH as f32;
                pass.add_gradient(&local, &example.input, label(example.class), &mut gradient);
            }
            for (value, slope) in local.iter_mut().zip(&gradient) {
                *value -= LEARNING_RATE / BATCH as f32 * slope;
            }
            losses = (if step == 0 { loss } else { losses.0 }, loss);
        }
        (theta.iter().zip(&local).map(|(before, after)| before - after).collect(), losses)
    }

    pub const fn tokens(steps: u32) -> u64 {
        steps as u64 * BATCH as u64
    }
}

fn mean_loss(theta: &[f32], examples: &[Example]) -> f64 {
    let losses = examples.iter().map(|example| f64::from(Pass::of(theta, &example.input).loss(example.class)));
    losses.sum::<f64>() / examples.len().max(1) as f64
}

/// The examples that a peer is assigned in a round.
pub(crate) fn assigned(randomness: Digest, round: Round, peer: PeerId) -> Random {
    let about = [&randomness.0[..], &round.to_le_bytes(), &peer.0].concat();
    let digest = Digest::in_domain("shoal 2026 simulation batches", &about);
    let mut seed = [0; 8];
    seed.copy_from_slice(&digest.0[..8]);
    Random::new(u64::from_le_bytes(seed))
}

/// One example on its way through the network.
struct Pass {
    hidden: [f32; HIDDEN],
    logits: [f32; CLASSES],
}

impl Pass {
    fn of(theta: &[f32], input: &[f32; INPUTS]) -> Self {
        let hidden = core::array::from_fn(|unit| {
            let weights = &theta[HIDDEN_WEIGHT + unit * INPUTS..][..INPUTS];
            (theta[HIDDEN_BIAS + unit] + dot(weights, input)).max(0.0)
        });
        let logits = core::array::from_fn(|class| {
            let weights = &theta[OUT_WEIGHT + class * HIDDEN..][..HIDDEN];
            theta[OUT_BIAS + class] + dot(weights, &hidden)
        });
        Self { hidden, logits }
    }

    fn best(&self) -> usize {
        let mut best = 0;
        for class in 1..CLASSES {
            if self.logits[class] > self.logits[best] {
                best = class;
            }
        }
        best
    }

    fn softmax(&self) -> ([f32; CLASSES], f32) {
        let highest = self.logits[self.best()];
        let shares = self.logits.map(|logit| libm::expf(logit - highest));
        let sum: f32 = shares.iter().sum();
        (shares.map(|share| share / sum), highest + libm::logf(sum))
    }

    fn loss(&self, class: usize) -> f32 {
        self.softmax().1 - self.logits[class]
    }

    fn add_gradient(&self, theta: &[f32], input: &[f32; INPUTS], class: usize, gradient: &mut [f32]) {
        let (mut slopes, _) = self.softmax();
        slopes[class] -= 1.0;
        for (index, slope) in slopes.iter().enumerate() {
            gradient[OUT_BIAS + index] += slope;
            for (unit, value) in self.hidden.iter().enumerate() {
                gradient[OUT_WEIGHT + index * HIDDEN + unit] += slope * value;
            }
        }
        for unit in (0..HIDDEN).filter(|unit| self.hidden[*unit] > 0.0) {
            let slope: f32 =
                slopes.iter().enumerate().map(|(index, slope)| slope * theta[OUT_WEIGHT + index * HIDDEN + unit]).sum();
            gradient[HIDDEN_BIAS + unit] += slope;
            for (index, value) in input.iter().enumerate() {
                gradient[HIDDEN_WEIGHT + unit * INPUTS + index] += slope * value;
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// An honest peer's engine.
pub(crate) struct Learner {
    pub me: PeerId,
    pub residual: Residual,
    /// Average without clipping and judge nobody, to see what these are good for.
    pub plain_mean: bool,
}

impl Learner {
    pub fn new(me: PeerId, plain_mean: bool) -> Self {
        Self { me, residual: Residual::new(&TASK.layout), plain_mean }
    }

    /// Compresses a change of the model into the outcome of a training job.
    pub fn pack(&mut self, delta: &[f32], steps: u32, losses: (f32, f32)) -> Outcome {
        match self.residual.compress(&TASK.outer, &TASK.layout, delta) {
            Ok(update) => Outcome::Trained {
                update: update.into(),
                steps,
                tokens: Task::tokens(steps),
                loss_first: losses.0,
                loss_last: losses.1,
            },
            Err(error) => Outcome::Failed { reason: error.to_string() },
        }
    }

    pub fn settle(&mut self, settled: Option<Share>) {
        if let Some(done) = settled
            && let Err(error) = self.residual.settle(&TASK.layout, done)
        {
            unreachable!("a residual takes back what it made: {error}");
        }
    }

    fn aggregate(&self, model: &Bytes, updates: &[(u16, Bytes)], history: &[Vec<u64>], share: Share) -> Outcome {
        let updates: Vec<(u16, &[u8])> = updates.iter().map(|(weight, bytes)| (*weight, &bytes[..])).collect();
        let no_limit = [vec![u64::MAX; TASK.layout.tensors.len()]];
        let history = if self.plain_mean { &no_limit[..] } else { history };
        let next = outer::params_from_bytes(&TASK.layout, model)
            .and_then(|theta| outer::aggregate(&TASK.layout, &TASK.outer, &theta, &updates, history, share));
        match next {
            Ok((theta, norms)) => Outcome::Aggregated { model: outer::params_to_bytes(&theta).into(), norms },
            Err(error) => Outcome::Failed { reason: error.to_string() },
        }
    }
}

/// Steps of a job for which there was time.
pub(crate) fn steps_in_time(steps: u32, share_1024: u64) -> u32 {
    ((u64::from(steps) * share_1024 / 1024) as u32).clamp(1, steps.max(1))
}

impl Engine for Learner {
    fn run(&mut self, job: &Job, share_1024: u64) -> Outcome {
        match job {
            Job::Train { round, model, randomness, steps, settled, .. } => {
                self.settle(*settled);
                let theta = match outer::params_from_bytes(&TASK.layout, model) {
                    Ok(theta) => theta,
                    Err(error) => return Outcome::Failed { reason: error.to_string() },
                };
                let steps = steps_in_time(*steps, share_1024);
                let data = assigned(*randomness, *round, self.me);
                let (delta, losses) = TASK.train(&theta, data, steps, |class| class);
                self.pack(&delta, steps, losses)
            }
            Job::Check { update } => {
                let checked = outer::check(&TASK.layout, TASK.outer.codec, update);
                Outcome::Checked { well_formed: checked.is_ok() }
            }
            Job::Aggregate { model, updates, history, share } => self.aggregate(model, updates, history, *share),
            // Where nobody clips nobody judges either: that shows what averaging alone does.
            Job::Judge { .. } if self.plain_mean => Outcome::Failed { reason: "nobody judges here".to_owned() },
            Job::Judge { round, model, randomness, draw, subjects, own, round_updates } => {
                match outer::params_from_bytes(&TASK.layout, model) {
                    Ok(theta) => {
                        let audit = Audit::new(theta, (*randomness, *round), *draw, own.as_ref());
                        let score = |subject| audit.score(subject, round_updates);
                        Outcome::Judged { scores: subjects.iter().map(score).collect() }
                    }
                    Err(error) => Outcome::Failed { reason: error.to_string() },
                }
            }
        }
    }
}

/// Examples of an author's on which an auditor measures a loss: as many as a peer trains on in a round.
const AUDITED: u32 = BATCH * LOCAL_STEPS;
/// Updates of one round that are this much alike are one and its copy: encoding one again costs half of the rest, and
/// two peers' batches make honest ones differ by far more.
const COPY_COSINE: f64 = 0.995;

/// What an auditor measures updates against.
struct Audit {
    theta: Vec<f32>,
    /// From which follows what each author trained on.
    train: (Digest, Round),
    /// Examples that nobody was assigned, and the model's loss on them.
    other: (Vec<Example>, f64),
    /// The auditor's own update and by how much it makes that loss fall.
    own: Option<(Vec<f32>, f64)>,
}

impl Audit {
    fn new(theta: Vec<f32>, train: (Digest, Round), draw: Digest, own: Option<&Bytes>) -> Self {
        let nobody = Digest::in_domain("shoal 2026 simulation unassigned", &draw.0);
        let other = examples(assigned(nobody, train.1, PeerId::default()), UNASSIGNED_TIMES * AUDITED);
        let loss = mean_loss(&theta, &other);
        let own = own.and_then(|bytes| change(bytes)).map(|change| {
            let fall = loss - mean_loss(&applied(&theta, &change), &other);
            (change, fall)
        });
        Self { theta, train, other: (other, loss), own }
    }

    fn score(&self, subject: &Subject, round_updates: &[(PeerId, Bytes)]) -> Score {
        let Some(change) = change(&subject.update) else {
            return Score { assigned: i32::MIN, other: i32::MIN, own: None, alignment_1024: None, copies: None };
        };
        let after = applied(&self.theta, &change);
        let assigned = examples(assigned(self.train.0, self.train.1, subject.author), AUDITED);
        let fall = mean_loss(&self.theta, &assigned) - mean_loss(&after, &assigned);
        let earlier = round_updates.iter().take_while(|(author, _)| *author != subject.author);
        let copied = earlier
            .filter(|(_, update)| self::change(update).is_some_and(|other| cosine(&change, &other) >= COPY_COSINE));
        Score {
            assigned: millionths(fall),
            other: millionths(self.other.1 - mean_loss(&after, &self.other.0)),
            own: self.own.as_ref().map(|(_, fall)| millionths(*fall)),
            alignment_1024: self.own.as_ref().map(|(own, _)| (cosine(&change, own) * 1024.0) as i16),
            copies: copied.map(|(author, _)| *author).next(),
        }
    }
}

fn examples(mut data: Random, count: u32) -> Vec<Example> {
    (0..count).map(|_| TASK.example(&mut data)).collect()
}

/// What an update does to the parameters when it alone is applied, not clipped.
fn change(update: &[u8]) -> Option<Vec<f32>> {
    let values = outer::decode(&TASK.layout, TASK.outer.codec, update).ok()?;
    let unit = (1_u64 << FRACTION_BITS) as f32;
    let alpha = f32::from(TASK.outer.alpha_1024) / 1024.0;
    Some(values.into_iter().map(|value| value as f32 / unit * alpha).collect())
}

fn applied(theta: &[f32], change: &[f32]) -> Vec<f32> {
    theta.iter().zip(change).map(|(value, change)| value - change).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (product(a, a) * product(b, b)).sqrt();
    if norms > 0.0 { product(a, b) / norms } else { 0.0 }
}

fn millionths(nats: f64) -> i32 {
    (nats * 1e6) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_those_of_the_loss() {
        let mut random = Random::new(5);
        let theta: Vec<f32> = (0..PARAMETERS).map(|_| uniform(&mut random)).collect();
        let example = TASK.example(&mut random);
        let mut gradient = vec![0.0; PARAMETERS];
        Pass::of(&theta, &example.input).add_gradient(&theta, &example.input, example.class, &mut gradient);
        for index in 0..PARAMETERS {
            let loss_at = |change: f32| {
                let mut moved = theta.clone();
                moved[index] += change;
                Pass::of(&moved, &example.input).loss(example.class)
            };
            let slope = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2;
            assert!((slope - gradient[index]).abs() < 2e-2, "{index}: {slope} and {}", gradient[index]);
        }
    }

    #[test]
    fn training_brings_the_held_out_loss_down() {
        let mut theta = TASK.genesis.clone();
        let before = TASK.held_out_loss(&theta);
        for round in 0..30 {
            let (delta, _) =
                TASK.train(&theta, assigned(Digest::default(), round, PeerId::default()), 10, |class| class);
            theta.iter_mut().zip(delta).for_each(|(value, change)| *value -= change);
        }
        let after = TASK.held_out_loss(&theta);
        assert!(after < before * 0.75, "{before} to {after}");
    }

    #[test]
    fn an_audit_ranks_honest_work_above_its_opposite_and_finds_a_copy() {
        let (draw, peers) = (Digest::of(b"draw"), [1, 2, 3].map(|byte| PeerId([byte; 32])));
        let trained = |peer: PeerId, sign: f32| -> Bytes {
            let (delta, losses) = TASK.train(&TASK.genesis, assigned(draw, 1, peer), LOCAL_STEPS, |class| class);
            let delta: Vec<f32> = delta.into_iter().map(|value| value * sign).collect();
            match Learner::new(peer, false).pack(&delta, LOCAL_STEPS, losses) {
                Outcome::Trained { update, .. } => update,
                other => panic!("{other:?}"),
            }
        };
        let round_updates: Vec<(PeerId, Bytes)> = vec![
            (peers[0], trained(peers[0], 1.0)),
            (peers[1], trained(peers[1], -1.0)),
            (peers[2], trained(peers[0], 1.0)),
        ];
        let subject = |(author, update): &(PeerId, Bytes)| Subject {
            author: *author,
            update: update.clone(),
            steps: LOCAL_STEPS,
        };
        let subjects = round_updates.iter().map(subject);
        let own = trained(PeerId([9; 32]), 1.0);
        let job = Job::Judge {
            round: 1,
            model: TASK.genesis(),
            randomness: draw,
            draw,
            subjects: subjects.collect(),
            own: Some(own),
            round_updates: round_updates.clone(),
        };
        let Outcome::Judged { scores } = Learner::new(PeerId([9; 32]), false).run(&job, 1024) else { panic!() };
        assert!(scores[0].assigned > 0 && scores[0].other > 0 && scores[0].alignment_1024 > Some(0), "{scores:?}");
        assert!(scores[1].assigned < 0 && scores[1].other < 0 && scores[1].alignment_1024 < Some(0), "{scores:?}");
        assert_eq!([scores[0].copies, scores[1].copies, scores[2].copies], [None, None, Some(peers[0])]);
    }
}
