//! The WebGPU engine against the CPU engine, which shares no code with it: same weights, same batches, same losses.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../cpu/tests/golden/world.rs"]
mod golden;

use pollster::block_on;
use shoal_cpu::CpuEngine;
use shoal_gpu::{GpuEngine, Options};
use shoal_learn::{Batch, Engine, EngineError, Layout, StepSettings};
use shoal_wire::{
    Digest,
    manifest::{AdamW, ModelSpec, Muon, MuonScale, Optimizer, RopeScaling, Sgd},
};

fn model(hidden: u32, heads: u32, keys: u32, inner: u32, layers: u32, vocab: u32, tied: bool) -> ModelSpec {
    ModelSpec {
        vocab_size: vocab,
        hidden_size: hidden,
        intermediate_size: inner,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: keys,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: tied,
    }
}

fn gpu(model: &ModelSpec, batch: usize, context: usize) -> GpuEngine {
    block_on(GpuEngine::new(model, batch, context))
        .expect("these tests need a Vulkan device; on Debian, `apt-get install mesa-vulkan-drivers` brings one")
}

/// A text with structure, so that there is something to learn.
fn batch(seed: u32, batch: usize, context: usize, vocab: u32) -> Batch {
    let token = |index: u32| (index * index / 3 + index * 7 + seed * 13) % vocab.min(23);
    let rows: Vec<u32> = (0..(batch * (context + 1)) as u32).map(|index| token(index + seed)).collect();
    Batch::from_rows(&rows, batch, context).unwrap()
}

fn settings(step: u32) -> StepSettings {
    let adamw = AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) };
    StepSettings { optimizer: adamw.into(), lr: 3e-3, step }
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len());
    // Relative to the largest: a loss is its own measure, a small logit among large ones is not.
    let largest = theirs.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let scale = if what == "loss" { b.abs() } else { largest };
        assert!((a - b).abs() <= tolerance * scale, "{what} {index}: {a} against {b}");
    }
}

fn train_both(model: &ModelSpec, size: usize, context: usize, steps: u32) {
    train_both_with(model, size, context, steps, settings(1).optimizer);
}

fn train_both_with(model: &ModelSpec, size: usize, context: usize, steps: u32, optimizer: Optimizer) {
    train_with(gpu(model, size, context), model, (size, context), steps, optimizer);
}

/// A batch of `size` sequences of `context` tokens.
fn train_with(
    mut gpu: GpuEngine,
    model: &ModelSpec,
    (size, context): (usize, usize),
    steps: u32,
    optimizer: Optimizer,
) {
    let weights = shoal_learn::init::genesis(model, Digest::of(b"parity")).unwrap();
    let mut cpu = CpuEngine::new(model, size, context).unwrap();
    cpu.load(&weights).unwrap();
    gpu.load(&weights).unwrap();
    assert_eq!(block_on(gpu.parameters()).unwrap(), weights);
    let prompt = batch(99, 1, context, model.vocab_size).inputs[..context.min(5)].to_vec();
    let logits = |engine: &mut dyn FnMut(&[u32]) -> Vec<f32>| engine(&prompt);
    let before_gpu = logits(&mut |tokens| block_on(gpu.next_logits(tokens)).unwrap());
    let before_cpu = logits(&mut |tokens| block_on(cpu.next_logits(tokens)).unwrap());
    assert_close("logit", &before_gpu, &before_cpu, 1e-4);
    for step in 1..=steps {
        let batch = batch(step % 4, size, context, model.vocab_size);
        // As in a warm-up of two steps.
        let lr = optimizer.lr() * if step == 1 { 0.5 } else { 1.0 };
        let settings = StepSettings { optimizer, lr, step };
        cpu.step(&batch, &settings).unwrap();
        gpu.step(&batch, &settings).unwrap();
    }
    let (ours, theirs) = (block_on(gpu.losses()).unwrap(), block_on(cpu.losses()).unwrap());
    assert_close("loss", &ours, &theirs, 1e-4);
    assert!(ours.last() < ours.first(), "the model learns: {ours:?}");
    let held_out = batch(7, size, context, model.vocab_size);
    let (a, b) = (block_on(gpu.evaluate(&held_out)).unwrap(), block_on(cpu.evaluate(&held_out)).unwrap());
    assert_close("evaluation", &[a], &[b], 1e-3);
}

#[test]
fn fifty_steps_give_the_losses_of_the_cpu_engine() {
    train_both(&model(32, 2, 2, 88, 2, 256, false), 8, 64, 50);
}

/// The same numbers that the CPU engine is held to.
fn agrees_with_pytorch(text: &str) {
    let golden = golden::Golden::parse(text);
    let model = golden.model();
    let mut gpu = gpu(&model, golden.batch, golden.context);
    gpu.load(&golden::weights(&Layout::of(&model).unwrap())).unwrap();
    let prompt = golden.prompt();
    assert_close("logit", &block_on(gpu.next_logits(&prompt)).unwrap(), &golden.logits_before, 1e-4);
    for step in 0..golden.losses.len() {
        let settings = StepSettings { optimizer: golden.optimizer, lr: golden.optimizer.lr(), step: step as u32 + 1 };
        gpu.step(&golden.batch(step), &settings).unwrap();
    }
    assert_close("loss", &block_on(gpu.losses()).unwrap(), &golden.losses, 1e-4);
    assert_close("logit", &block_on(gpu.next_logits(&prompt)).unwrap(), &golden.logits_after, 1e-4);
}

#[test]
fn grouped_queries_and_an_untied_head_train_as_in_pytorch() {
    agrees_with_pytorch(include_str!("../../cpu/tests/golden/grouped_untied.json"));
}

#[test]
fn a_tied_head_trains_as_in_pytorch() {
    agrees_with_pytorch(include_str!("../../cpu/tests/golden/tied.json"));
}

#[test]
fn linearly_scaled_positions_train_as_in_pytorch() {
    agrees_with_pytorch(include_str!("../../cpu/tests/golden/linear.json"));
}

#[test]
fn positions_scaled_as_in_llama_3_train_as_in_pytorch() {
    agrees_with_pytorch(include_str!("../../cpu/tests/golden/llama3.json"));
}

#[test]
fn grouped_query_heads_and_tied_embeddings_give_the_losses_of_the_cpu_engine() {
    train_both(&model(48, 4, 2, 100, 2, 61, true), 3, 19, 20);
}

#[test]
fn eight_query_heads_on_two_key_heads_with_odd_sizes_give_the_losses_of_the_cpu_engine() {
    train_both(&model(80, 8, 2, 33, 1, 37, false), 1, 7, 20);
}

const SGD: Sgd = Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 1e-3, grad_clip: Some(1.0) };

#[test]
fn fifty_steps_of_sgd_give_the_losses_of_the_cpu_engine() {
    train_both_with(&model(32, 2, 2, 88, 2, 256, false), 8, 64, 50, Optimizer::Sgd(SGD));
}

#[test]
fn sgd_on_odd_sizes_gives_the_losses_of_the_cpu_engine() {
    let sgd = Sgd { nesterov: false, grad_clip: None, ..SGD };
    train_both_with(&model(80, 8, 2, 33, 1, 37, false), 1, 7, 20, Optimizer::Sgd(sgd));
}

const MUON: Muon = Muon {
    lr: 1e-2,
    momentum: 0.95,
    nesterov: true,
    scale: MuonScale::Original,
    weight_decay: 0.1,
    adamw_lr: 3e-3,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    grad_clip: Some(1.0),
};

#[test]
fn fifty_steps_of_muon_give_the_losses_of_the_cpu_engine() {
    train_both_with(&model(32, 2, 2, 88, 2, 256, false), 8, 64, 50, Optimizer::Muon(MUON));
}

#[test]
fn muon_with_grouped_queries_and_tied_embeddings_gives_the_losses_of_the_cpu_engine() {
    let muon = Muon { scale: MuonScale::MatchRmsAdamw, ..MUON };
    train_both_with(&model(48, 4, 2, 100, 2, 61, true), 4, 16, 20, Optimizer::Muon(muon));
}

#[test]
fn muon_on_odd_sizes_with_more_matrix_than_activations_gives_the_losses_of_the_cpu_engine() {
    let muon = Muon { nesterov: false, grad_clip: None, ..MUON };
    train_both_with(&model(80, 8, 2, 33, 3, 37, false), 1, 3, 20, Optimizer::Muon(muon));
}

#[test]
fn an_optimizer_may_follow_another() {
    let spec = model(32, 2, 2, 88, 1, 64, false);
    let weights = shoal_learn::init::genesis(&spec, Digest::of(b"change")).unwrap();
    let mut gpu = gpu(&spec, 2, 16);
    let mut train = |optimizers: [Optimizer; 4]| {
        gpu.load(&weights).unwrap();
        gpu.reset_moments().unwrap();
        for (step, optimizer) in (1..).zip(optimizers) {
            let settings = StepSettings { optimizer, lr: optimizer.lr(), step };
            gpu.step(&batch(step, 2, 16, 64), &settings).unwrap();
        }
        block_on(gpu.losses()).unwrap()
    };
    let [adamw, sgd, muon] = [settings(1).optimizer, Optimizer::Sgd(SGD), Optimizer::Muon(MUON)];
    let mixed = train([adamw, muon, sgd, adamw]);
    assert!(mixed.iter().all(|loss| loss.is_finite()) && mixed != train([adamw; 4]));
    assert_eq!(train([adamw, muon, sgd, adamw]), mixed);
}

#[test]
fn a_context_of_one_token_gives_the_losses_of_the_cpu_engine() {
    train_both(&model(8, 1, 1, 5, 1, 11, false), 2, 1, 10);
}

#[test]
fn a_batch_in_parts_and_activations_computed_twice_give_the_losses_of_the_cpu_engine() {
    for (spec, size, context) in [(model(32, 2, 2, 88, 3, 61, false), 4, 16), (model(24, 2, 1, 33, 2, 37, true), 3, 5)]
    {
        let mut seen = Vec::new();
        for skipped_ways in 0.. {
            let options = Options { skipped_ways, ..Options::default() };
            let engine = match block_on(GpuEngine::with_options(&spec, size, context, options)) {
                Ok(engine) => engine,
                Err(error) => {
                    assert!(matches!(error, EngineError::OutOfMemory(_)), "{error}");
                    break;
                }
            };
            let counters = engine.counters();
            assert!(engine.way() == skipped_ways && counters.submits == 1);
            seen.push((counters.micro_batches, counters.recomputes));
            train_with(engine, &spec, (size, context), 12, settings(1).optimizer);
        }
        assert_eq!(seen[0], (1, false), "what costs nothing is tried first");
        seen.sort_unstable();
        let parts = (1..=size as u32).filter(|parts| (size as u32).is_multiple_of(*parts));
        assert_eq!(seen, parts.flat_map(|parts| [(parts, false), (parts, true)]).collect::<Vec<_>>());
    }
}

#[test]
fn small_bindings_give_the_losses_of_the_cpu_engine() {
    // The tables of the vocabulary are cut, their logits come by parts, and the batch is trained in parts.
    for (spec, size, context, binding_bytes_max) in [
        (model(32, 2, 2, 44, 2, 601, false), 4, 8, 24_000),
        (model(32, 4, 2, 44, 2, 602, true), 2, 8, 24_000),
        (model(18, 1, 1, 21, 2, 203, false), 3, 4, 8_000),
    ] {
        let options = Options { binding_bytes_max, ..Options::default() };
        let engine = block_on(GpuEngine::with_options(&spec, size, context, options)).unwrap();
        assert!(engine.counters().micro_batches > 1 || engine.counters().recomputes, "{:?}", engine.counters());
        train_with(engine, &spec, (size, context), 20, settings(1).optimizer);
    }
}

#[test]
fn a_device_that_cannot_bind_one_sequence_says_what_does_not_fit() {
    let spec = model(32, 2, 2, 88, 2, 301, false);
    let refused = |binding_bytes_max| {
        let options = Options { binding_bytes_max, ..Options::default() };
        block_on(GpuEngine::with_options(&spec, 4, 16, options)).unwrap_err()
    };
    for (binding_bytes_max, word) in [(23_000, "activations take"), (20_000, "gate_proj")] {
        let error = refused(binding_bytes_max);
        assert!(matches!(&error, EngineError::OutOfMemory(text) if text.contains(word)), "{error}");
    }
}

#[test]
fn steady_steps_make_one_submit_and_few_dispatches() {
    let spec = model(32, 2, 2, 88, 3, 256, false);
    let counters = gpu(&spec, 2, 16).counters();
    assert_eq!(counters.submits, 1);
    let most = 24 * u64::from(spec.num_hidden_layers) + 12;
    assert!(counters.dispatches <= most, "{} dispatches, more than {most}", counters.dispatches);
}

#[test]
fn what_was_measured_is_remembered_and_foreign_memories_are_not_used() {
    let spec = model(32, 2, 2, 88, 1, 256, false);
    let first = gpu(&spec, 2, 16).forms();
    let remembering = |memory| Options { remembered: Some(memory), ..Options::default() };
    for memory in [first.as_str(), "another card\nGemmNt", ""] {
        let engine = block_on(GpuEngine::with_options(&spec, 2, 16, remembering(memory))).unwrap();
        assert_eq!(engine.forms().lines().next(), first.lines().next());
    }
    assert_eq!(block_on(GpuEngine::with_options(&spec, 2, 16, remembering(&first))).unwrap().forms(), first);
}

#[test]
fn a_batch_that_no_plan_can_address_is_refused_before_anything_is_allocated() {
    let spec = ModelSpec { max_position_embeddings: 1 << 20, ..model(32, 2, 2, 88, 1, 256, false) };
    let refused = |batch, context| block_on(GpuEngine::new(&spec, batch, context)).unwrap_err().to_string();
    assert!(refused(64, 1 << 19).contains("a batch has 1 to"));
    assert!(refused(0, 16).contains("a batch has 1 to") && refused(1, (1 << 20) + 1).contains("at most 1048576"));
    let wide = ModelSpec { hidden_size: 1 << 10, ..spec };
    let error = block_on(GpuEngine::new(&wide, 1, 1 << 20)).unwrap_err().to_string();
    assert!(error.contains("fewer or shorter"), "{error}");
}

#[test]
fn a_run_that_diverged_says_so_and_trains_again_after_a_reset() {
    let spec = model(16, 2, 1, 24, 1, 32, false);
    let weights = shoal_learn::init::genesis(&spec, Digest::of(b"diverge")).unwrap();
    let mut gpu = gpu(&spec, 2, 8);
    gpu.load(&weights).unwrap();
    for step in 1..=3 {
        let wild = settings(step);
        gpu.step(&batch(step, 2, 8, 32), &StepSettings { lr: f32::MAX, ..wild }).unwrap();
    }
    assert!(block_on(gpu.losses()).unwrap().iter().any(|loss| !loss.is_finite()));
    gpu.load(&weights).unwrap();
    gpu.reset_moments().unwrap();
    for step in 1..=3 {
        gpu.step(&batch(step, 2, 8, 32), &settings(step)).unwrap();
    }
    let losses = block_on(gpu.losses()).unwrap();
    assert!(losses.len() == 3 && losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    assert!(gpu.step(&batch(1, 2, 8, 32), &settings(0)).is_err(), "steps count from 1");
    let turned = Batch { batch: 8, context: 2, ..batch(1, 2, 8, 32) };
    assert!(gpu.step(&turned, &settings(1)).is_err(), "a batch of another shape");
}

#[test]
fn long_contexts_turn_by_the_same_angles() {
    let spec = ModelSpec { max_position_embeddings: 1024, ..model(16, 2, 2, 24, 1, 32, false) };
    let weights = shoal_learn::init::genesis(&spec, Digest::of(b"long")).unwrap();
    let (mut cpu, mut gpu) = (CpuEngine::new(&spec, 1, 1024).unwrap(), gpu(&spec, 1, 1024));
    cpu.load(&weights).unwrap();
    gpu.load(&weights).unwrap();
    let tokens = batch(5, 1, 1024, 32).inputs;
    let ours = block_on(gpu.next_logits(&tokens)).unwrap();
    assert_close("logit", &ours, &block_on(cpu.next_logits(&tokens)).unwrap(), 1e-4);
}

#[test]
fn bad_batches_are_refused() {
    let spec = model(8, 1, 1, 5, 1, 11, false);
    let mut gpu = gpu(&spec, 2, 4);
    assert!(gpu.step(&batch(1, 1, 4, 11), &settings(1)).is_err());
    let mut wild = batch(1, 2, 4, 11);
    wild.inputs[3] = 11;
    assert!(gpu.step(&wild, &settings(1)).is_err());
    assert!(gpu.load(&[0.0; 3]).is_err());
    assert!(block_on(gpu.next_logits(&[])).is_err());
}

#[test]
fn zeroed_moments_make_a_second_run_equal_the_first() {
    let spec = model(16, 2, 1, 24, 1, 32, false);
    let weights = shoal_learn::init::genesis(&spec, Digest::of(b"again")).unwrap();
    let mut gpu = gpu(&spec, 2, 8);
    let mut run = || {
        gpu.load(&weights).unwrap();
        gpu.reset_moments().unwrap();
        for step in 1..=3 {
            gpu.step(&batch(step, 2, 8, 32), &settings(step)).unwrap();
        }
        block_on(gpu.losses()).unwrap()
    };
    assert_eq!(run(), run());
}
