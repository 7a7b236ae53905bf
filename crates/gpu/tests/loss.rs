//! A device that is lost costs no step: training ends where it would have ended.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use pollster::block_on;
use shoal_gpu::{Options, ResumingEngine};
use shoal_learn::{Batch, Engine, EngineError, StepSettings};
use shoal_wire::{
    Digest,
    manifest::{AdamW, ModelSpec, RopeScaling},
};

fn model() -> ModelSpec {
    ModelSpec {
        vocab_size: 61,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        max_position_embeddings: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: false,
    }
}

fn engine() -> ResumingEngine {
    let mut engine = block_on(ResumingEngine::open(&model(), 2, 8, Options::default()))
        .expect("these tests need a Vulkan device; on Debian, `apt-get install mesa-vulkan-drivers` brings one");
    engine.load(&shoal_learn::init::genesis(&model(), Digest::of(b"loss")).unwrap()).unwrap();
    engine
}

fn batch(seed: u32) -> Batch {
    let rows: Vec<u32> = (0..18).map(|index| (index * index / 3 + index * 7 + seed * 13) % 23).collect();
    Batch::from_rows(&rows, 2, 8).unwrap()
}

fn settings(step: u32) -> StepSettings {
    let adamw = AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) };
    StepSettings { optimizer: adamw.into(), lr: 3e-3, step }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Never,
    BeforeAStep,
    BetweenStepsAndTheirLosses,
    BeforeParametersAreRead,
    BeforeALoad,
    BeforeAnEvaluation,
}

/// Trains two rounds of 24 steps, reading losses every third, and loses the device once.
fn train(when: When, snapshot_at: Option<u32>) -> (Vec<f32>, f32, Vec<f32>) {
    let mut engine = engine();
    let mut losses = Vec::new();
    for step in 1..=24 {
        if when == When::BeforeAStep && step == 11 {
            engine.engine().destroy_device();
        }
        engine.step(&batch(step % 5), &settings(step)).unwrap();
        if when == When::BetweenStepsAndTheirLosses && step == 11 {
            engine.engine().destroy_device();
        }
        if snapshot_at == Some(step) {
            block_on(engine.take_snapshot()).unwrap();
        }
        if step % 3 == 0 {
            losses.extend(block_on(engine.losses()).unwrap());
        }
    }
    engine.step(&batch(1), &settings(25)).unwrap();
    if when == When::BeforeParametersAreRead {
        engine.engine().destroy_device();
    }
    let parameters = block_on(engine.parameters()).unwrap();
    if when == When::BeforeALoad {
        engine.engine().destroy_device();
    }
    let half: Vec<f32> = parameters.iter().map(|value| value / 2.0).collect();
    engine.load(&half).unwrap();
    engine.step(&batch(2), &settings(26)).unwrap();
    if when == When::BeforeAnEvaluation {
        engine.engine().destroy_device();
    }
    let evaluation = block_on(engine.evaluate(&batch(3))).unwrap();
    losses.extend(block_on(engine.losses()).unwrap());
    (losses, evaluation, block_on(engine.parameters()).unwrap())
}

#[test]
fn a_device_lost_before_within_or_after_submits_leaves_no_trace_in_the_training() {
    let expected = train(When::Never, None);
    assert_eq!(expected.0.len(), 26, "each step's loss comes once");
    for when in [
        When::BeforeAStep,
        When::BetweenStepsAndTheirLosses,
        When::BeforeParametersAreRead,
        When::BeforeALoad,
        When::BeforeAnEvaluation,
    ] {
        for snapshot_at in [None, Some(7), Some(10), Some(11), Some(24)] {
            // The same kernels on the same device: not one bit differs.
            assert_eq!(train(when, snapshot_at), expected, "{when:?}, snapshot at {snapshot_at:?}");
        }
    }
}

#[test]
fn a_device_that_keeps_getting_lost_is_given_up() {
    let mut engine = engine();
    let mut outcome = Ok(Vec::new());
    for step in 1..=3 {
        engine.step(&batch(step), &settings(step)).unwrap();
        engine.engine().destroy_device();
        outcome = block_on(engine.losses());
        assert!(step == 3 || outcome.as_ref().is_ok_and(|losses| losses.len() == 1), "step {step}: {outcome:?}");
    }
    assert!(matches!(outcome, Err(EngineError::DeviceLost(_))), "{outcome:?}");
    assert!(engine.step(&batch(4), &settings(4)).is_err(), "and it stays so");
}

#[test]
fn what_was_refused_is_not_done_again_when_a_device_is_lost() {
    let mut engine = engine();
    assert!(engine.load(&[0.5; 3]).is_err());
    engine.step(&batch(1), &settings(1)).unwrap();
    engine.engine().destroy_device();
    assert_eq!(block_on(engine.losses()).unwrap().len(), 1);
}

#[test]
fn a_batch_of_another_shape_is_still_refused_at_once() {
    let mut engine = engine();
    let turned = Batch { batch: 8, context: 2, ..batch(1) };
    assert!(engine.step(&turned, &settings(1)).is_err());
    engine.step(&batch(1), &settings(1)).unwrap();
    assert_eq!(block_on(engine.losses()).unwrap().len(), 1);
}
