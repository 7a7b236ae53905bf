#![allow(clippy::unwrap_used, clippy::float_cmp)]

use pollster::block_on;
use shoal_wire::manifest::{AdamW, Charter, CreditRule, DataSpec, Optimizer, Privacy, Tokenizer};

use super::*;
use crate::init::genesis;
use crate::presets::Preset;

/// Each step moves every weight by the learning rate; the n-th loss is 5 − n/10.
#[derive(Debug, Default)]
struct Fake {
    weights: Vec<f32>,
    losses: Vec<f32>,
    seen: Vec<StepSettings>,
    resets: usize,
    diverges: bool,
    /// Slow enough that only this many steps may wait; 0: any number.
    ahead: u32,
}

impl Engine for Fake {
    fn describe(&self) -> String {
        "fake".to_owned()
    }
    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        self.weights = parameters.to_vec();
        Ok(())
    }
    fn reset_moments(&mut self) -> Result<(), EngineError> {
        self.resets += 1;
        Ok(())
    }
    fn step(&mut self, _: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        self.weights.iter_mut().for_each(|weight| *weight -= settings.lr);
        self.losses.push(if self.diverges { f32::NAN } else { 5.0 - settings.step as f32 / 10.0 });
        self.seen.push(*settings);
        Ok(())
    }
    fn steps_ahead(&self) -> u32 {
        if self.ahead == 0 { u32::MAX } else { self.ahead }
    }
    async fn losses(&mut self) -> Result<Vec<f32>, EngineError> {
        Ok(core::mem::take(&mut self.losses))
    }
    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        Ok(self.weights.clone())
    }
    async fn evaluate(&mut self, batch: &Batch) -> Result<f32, EngineError> {
        Ok(batch.inputs[0] as f32)
    }
    async fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        let next = (tokens[tokens.len() - 1] + 1) as usize % 256;
        Ok((0..256).map(|token| if token == next { 9.0 } else { 0.0 }).collect())
    }
}

fn manifest() -> Manifest {
    let preset = Preset::Tiny;
    Manifest {
        version: shoal_wire::manifest::VERSION,
        name: "test".to_owned(),
        description: String::new(),
        host: String::new(),
        model: preset.model(),
        tokenizer: Tokenizer::Bytes,
        genesis: Digest::default(),
        data: DataSpec { sources: Vec::new(), held_out_bytes: 500 },
        recipe: preset.recipe(),
        timing: preset.timing(),
        privacy: Privacy::Public,
        credit: CreditRule::default(),
        charter: Charter::default(),
        anchors: Vec::new(),
        seed: Digest::default(),
    }
}

fn corpus() -> Corpus {
    let text: Vec<u8> = (0..2000).map(|at| if at < 1500 { b'a' } else { 7 }).collect();
    Corpus::new(text.into(), 500).unwrap()
}

fn trainer() -> Trainer<Fake> {
    Trainer::new(Fake::default(), &manifest(), corpus()).unwrap()
}

fn model() -> Vec<u8> {
    outer::params_to_bytes(&genesis(&Preset::Tiny.model(), Digest::default()).unwrap())
}

fn order(model: &[u8]) -> TrainOrder<'_> {
    let (randomness, peer) = (Digest([1; 32]), PeerId([2; 32]));
    TrainOrder { round: 1, model, randomness, peer, steps: 20, learning_rate_1024: 1024, settled: None }
}

#[test]
fn a_round_reports_each_step_and_ends_with_an_update_of_the_run() {
    let (mut trainer, model) = (trainer(), model());
    let mut reports = Vec::new();
    let outcome = block_on(trainer.train(&order(&model), async |report| {
        reports.push(report);
        Go::On
    }));
    let outcome = outcome.unwrap().unwrap();
    let read: Vec<u32> = reports.iter().filter(|report| report.loss.is_some()).map(|report| report.step).collect();
    assert_eq!(read, [1, 8, 16, 20]);
    assert_eq!((outcome.steps, outcome.tokens), (20, 20 * 8 * 64));
    assert_eq!((outcome.loss_first, outcome.loss_last), (4.9, 3.0));
    outer::check(trainer.layout(), trainer.recipe.outer.codec, &outcome.update).unwrap();
}

#[test]
fn a_slow_engine_gets_few_steps_ahead_of_the_reader() {
    let engine = Fake { ahead: 3, ..Fake::default() };
    let (mut trainer, model) = (Trainer::new(engine, &manifest(), corpus()).unwrap(), model());
    let mut read = Vec::new();
    let order = TrainOrder { steps: 8, ..order(&model) };
    let training = trainer.train(&order, async |report| {
        read.extend(report.loss.map(|_| report.step));
        Go::On
    });
    block_on(training).unwrap();
    assert_eq!(read, [1, 3, 6, 8]);
}

#[test]
fn steps_are_counted_across_rounds_because_the_moments_last() {
    let (mut trainer, model) = (trainer(), model());
    for _ in 0..2 {
        block_on(trainer.train(&order(&model), async |_| Go::On)).unwrap();
    }
    let steps: Vec<u32> = trainer.engine.seen.iter().map(|settings| settings.step).collect();
    assert_eq!(steps, (1..=40).collect::<Vec<_>>());
    assert_eq!(trainer.engine.resets, 0);
}

#[test]
fn finishing_early_keeps_what_was_done() {
    let (mut trainer, model) = (trainer(), model());
    let finish = async |report: StepReport| if report.step == 3 { Go::Finish } else { Go::On };
    let outcome = block_on(trainer.train(&order(&model), finish)).unwrap().unwrap();
    assert_eq!((outcome.steps, outcome.loss_last), (3, 4.7));
}

#[test]
fn a_discarded_round_leaves_the_residual_and_no_losses_behind() {
    let (mut trainer, model) = (trainer(), model());
    let before = trainer.residual_bytes();
    let discard = async |report: StepReport| if report.step == 5 { Go::Discard } else { Go::On };
    assert_eq!(block_on(trainer.train(&order(&model), discard)).unwrap(), None);
    assert_eq!(trainer.residual_bytes(), before);
    let outcome = block_on(trainer.train(&order(&model), async |_| Go::On)).unwrap().unwrap();
    assert_eq!(outcome.loss_first, 4.4);
}

#[test]
fn of_an_update_that_was_left_out_as_much_is_owed_again_as_the_round_did_not_take() {
    let model = model();
    let owed = |settled| {
        let mut trainer = trainer();
        block_on(trainer.train(&order(&model), async |_| Go::On)).unwrap();
        let next = TrainOrder { settled: Some(settled), ..order(&model) };
        block_on(trainer.train(&next, async |_| Go::Discard)).unwrap();
        let values = trainer.residual.values().iter().map(|value| i128::from(*value).abs()).sum::<i128>();
        values / trainer.layout().len() as i128
    };
    let delta = (0.2 * (1u64 << outer::FRACTION_BITS) as f64) as i128;
    let (all, half, none) = (owed(Share::NOTHING), owed(Share { taken: 2, promised: 4 }), owed(Share::WHOLE));
    assert!(all > delta * 9 / 10, "{all}");
    assert!(half > delta / 3 && half < delta * 2 / 3, "{half}");
    assert!(none < delta / 4, "{none}");
}

#[test]
fn the_residual_outlives_its_trainer() {
    let (mut first, model) = (trainer(), model());
    block_on(first.train(&order(&model), async |_| Go::On)).unwrap();
    let mut second = trainer();
    second.restore_residual(&first.residual_bytes()).unwrap();
    assert_eq!(second.residual_bytes(), first.residual_bytes());
    assert!(second.restore_residual(b"torn").is_err());
}

#[test]
fn divergence_is_an_error_and_the_next_round_starts_afresh() {
    let (mut trainer, model) = (trainer(), model());
    trainer.engine.diverges = true;
    let error = block_on(trainer.train(&order(&model), async |_| Go::On)).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { round: 1 }), "{error}");
    trainer.engine.diverges = false;
    block_on(trainer.train(&order(&model), async |_| Go::On)).unwrap();
    assert_eq!((trainer.engine.resets, trainer.engine.seen[1].step), (1, 1));
}

#[test]
fn a_model_of_another_shape_or_a_round_without_steps_is_refused() {
    let (mut trainer, model) = (trainer(), model());
    assert!(block_on(trainer.train(&order(&model[4..]), async |_| Go::On)).is_err());
    let none = TrainOrder { steps: 0, ..order(&model) };
    assert!(matches!(block_on(trainer.train(&none, async |_| Go::On)), Err(TrainError::NoSteps)));
}

#[test]
fn judging_leaves_weights_and_moments_as_they_were_whether_it_ends_or_is_stopped() {
    let (mut trainer, model) = (trainer(), model());
    let update = block_on(trainer.train(&order(&model), async |_| Go::On)).unwrap().unwrap().update;
    let (weights, steps) = (trainer.engine.weights.clone(), trainer.engine.seen.len());
    let subjects = vec![JudgedUpdate { author: PeerId([3; 32]), update: &update, steps: 20 }];
    let judged = JudgeOrder {
        model: &model,
        randomness: Digest([1; 32]),
        draw: Digest([2; 32]),
        subjects,
        own: Some(&update),
        round_updates: Vec::new(),
    };
    for evaluations in [0, 1, 5, u32::MAX] {
        let mut left = evaluations;
        let go = async || {
            left = left.saturating_sub(1);
            if left > 0 { Go::On } else { Go::Discard }
        };
        let scores = block_on(trainer.judge(&judged, go)).unwrap();
        assert_eq!(scores.is_some(), evaluations == u32::MAX);
        assert_eq!(trainer.engine.weights, weights);
        assert_eq!((trainer.engine.seen.len(), trainer.engine.resets), (steps, 0));
    }
}

#[test]
fn held_out_loss_measures_text_that_nobody_trains_on() {
    let (mut trainer, model) = (trainer(), model());
    assert_eq!(block_on(trainer.held_out_loss(&model, 3)).unwrap(), 7.0);
    assert!(block_on(trainer.held_out_loss(&model, 0)).is_err());
}

#[test]
fn samples_follow_the_model_and_the_seed() {
    let (mut trainer, model) = (trainer(), model());
    let mut sample = |temperature, seed| block_on(trainer.sample(&model, b"a", 100, temperature, seed)).unwrap();
    assert_eq!(&sample(0.0, 1)[..3], b"bcd");
    assert_eq!(sample(2.0, 1), sample(2.0, 1));
    assert_ne!(sample(2.0, 1), sample(2.0, 2));
    assert_eq!(sample(f32::NAN, 1).len(), 100);
}

#[test]
fn a_manifest_that_cannot_be_trained_is_refused_with_its_field() {
    let refused = |change: fn(&mut Manifest)| {
        let mut manifest = manifest();
        change(&mut manifest);
        Trainer::new(Fake::default(), &manifest, corpus()).unwrap_err().to_string()
    };
    assert!(refused(|m| m.model.vocab_size = 300).contains("300"));
    assert!(refused(|m| m.recipe.context = 65).contains("65"));
    assert_eq!(refused(|m| m.recipe.batch = 0), "the recipe's batch must be at least 1, and is 0");
    let refused_adamw = |change: fn(&mut AdamW)| {
        let mut manifest = manifest();
        let Optimizer::AdamW(adamw) = &mut manifest.recipe.inner else { panic!("the preset's optimiser is AdamW") };
        change(adamw);
        Trainer::new(Fake::default(), &manifest, corpus()).unwrap_err().to_string()
    };
    let lr = refused_adamw(|adamw| adamw.lr = f32::NAN);
    assert_eq!(lr, "the optimizer's lr must be a finite number above 0, and is NaN");
    let beta = refused_adamw(|adamw| adamw.beta2 = 1.0);
    assert_eq!(beta, "the optimizer's beta2 must be at least 0 and below 1, and is 1");
    assert!(refused_adamw(|adamw| adamw.grad_clip = Some(-2.5)).contains("-2.5"));
    assert!(refused(|m| m.model.hidden_size = 0).contains("hidden_size"));
}
