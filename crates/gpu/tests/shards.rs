//! A model split over several shards trains as a whole one does.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use pollster::block_on;
use shoal_gpu::{GpuEngine, GpuShard, Input, Loss, Options};
use shoal_learn::{Batch, Engine, Layout, Shard, StepSettings};
use shoal_wire::{
    Digest,
    manifest::{AdamW, ModelSpec, RopeScaling},
};

fn model() -> ModelSpec {
    ModelSpec {
        vocab_size: 61,
        hidden_size: 32,
        intermediate_size: 44,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: false,
    }
}

const MICRO_BATCHES: usize = 2;
const SEQUENCES: usize = 2;
const CONTEXT: usize = 12;

fn batch(seed: u32) -> Batch {
    let count = (MICRO_BATCHES * SEQUENCES * (CONTEXT + 1)) as u32;
    let rows: Vec<u32> = (0..count).map(|index| (index * index / 3 + index * 7 + seed * 13) % 23).collect();
    Batch::from_rows(&rows, MICRO_BATCHES * SEQUENCES, CONTEXT).unwrap()
}

fn settings(step: u32) -> StepSettings {
    let adamw = AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(0.5) };
    StepSettings { optimizer: adamw.into(), lr: 3e-3, step }
}

fn shard(model: &ModelSpec, shard: Shard) -> GpuShard {
    let shape = (MICRO_BATCHES as u32, SEQUENCES, CONTEXT);
    block_on(GpuShard::new(model, shard, shape, Options::default()))
        .expect("these tests need a Vulkan device; on Debian, `apt-get install mesa-vulkan-drivers` brings one")
}

/// The part of a whole model's flat values that a shard holds, in its order.
fn part(whole: &Layout, values: &[f32], part: &Layout) -> Vec<f32> {
    part.tensors.iter().flat_map(|tensor| &values[whole.find(&tensor.name).unwrap().range()]).copied().collect()
}

/// One step over all shards; micro-batches go forward in turn and backward in the given order.
fn step(shards: &mut [GpuShard], batch: &Batch, number: u32, order: [usize; MICRO_BATCHES]) -> f32 {
    let rows = SEQUENCES * CONTEXT;
    for micro in 0..MICRO_BATCHES {
        let mut input = Vec::new();
        for (index, shard) in shards.iter_mut().enumerate() {
            let input_now =
                if index == 0 { Input::Tokens(&batch.inputs[micro * rows..][..rows]) } else { Input::Hidden(&input) };
            let boundary = shard.forward(micro, input_now).unwrap();
            input = block_on(boundary.values()).unwrap();
        }
    }
    let last = shards.len() - 1;
    for micro in order {
        let mut gradient = Vec::new();
        for (index, shard) in shards.iter_mut().enumerate().rev() {
            let loss = if index == last {
                Loss::Targets(&batch.targets[micro * rows..][..rows])
            } else {
                Loss::Gradient(&gradient)
            };
            let boundary = shard.backward(micro, loss).unwrap();
            gradient = block_on(boundary.values()).unwrap();
        }
        assert!(gradient.is_empty(), "nobody is before the first shard");
    }
    let squares: Vec<f32> = shards.iter_mut().map(|shard| block_on(shard.gradient_squares()).unwrap()).collect();
    let total: f32 = squares.iter().sum();
    for (shard, own) in shards.iter_mut().zip(squares) {
        shard.update(&settings(number), total - own).unwrap();
    }
    block_on(shards[last].loss()).unwrap()
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    let largest = theirs.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    assert_eq!(ours.len(), theirs.len());
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what} {index}: {a} against {b}");
    }
}

#[test]
fn one_two_and_four_shards_give_the_losses_gradients_and_parameters_of_the_whole() {
    let model = model();
    let layout = Layout::of(&model).unwrap();
    let weights = shoal_learn::init::genesis(&model, Digest::of(b"shards")).unwrap();
    let mut whole = block_on(GpuEngine::new(&model, MICRO_BATCHES * SEQUENCES, CONTEXT)).unwrap();
    whole.load(&weights).unwrap();
    let mut losses = Vec::new();
    let mut gradients = Vec::new();
    for number in 1..=6 {
        whole.step(&batch(number), &settings(number)).unwrap();
        losses.extend(block_on(whole.losses()).unwrap());
        gradients.push(block_on(whole.gradients()).unwrap());
    }
    let parameters = block_on(whole.parameters()).unwrap();
    for (count, order) in [(1, [0, 1]), (2, [1, 0]), (4, [0, 1])] {
        let parts = Shard::split(&model, count).unwrap();
        let mut shards: Vec<GpuShard> = parts.iter().map(|part| shard(&model, part.clone())).collect();
        for shard in &mut shards {
            let own = part(&layout, &weights, &shard.layout().clone());
            shard.load(&own).unwrap();
        }
        let mut ours = Vec::new();
        for (number, expected) in (1..).zip(&gradients) {
            ours.push(step(&mut shards, &batch(number), number, order));
            for shard in &mut shards {
                let expected = part(&layout, expected, &shard.layout().clone());
                assert_close("gradient", &block_on(shard.gradients()).unwrap(), &expected, 1e-5);
            }
        }
        assert_close("loss", &ours, &losses, 1e-5);
        for shard in &mut shards {
            let expected = part(&layout, &parameters, &shard.layout().clone());
            assert_close("parameter", &block_on(shard.parameters()).unwrap(), &expected, 1e-4);
        }
    }
}

#[test]
fn a_shard_takes_much_less_memory_than_the_whole() {
    let model = model();
    let whole = shard(&model, Shard::whole(&model)).buffer_bytes();
    let bytes: Vec<u64> =
        Shard::split(&model, 4).unwrap().into_iter().map(|part| shard(&model, part).buffer_bytes()).collect();
    assert!(bytes.iter().all(|part| *part < whole / 2), "{bytes:?} of {whole}");
}

#[test]
fn what_does_not_fit_a_shard_is_refused_in_words() {
    let model = model();
    let mut shards: Vec<GpuShard> =
        Shard::split(&model, 2).unwrap().into_iter().map(|part| shard(&model, part)).collect();
    let hidden = vec![0.5; SEQUENCES * CONTEXT * 32];
    let tokens = vec![1; SEQUENCES * CONTEXT];
    let [first, last] = &mut shards[..] else { unreachable!() };
    assert!(first.forward(0, Input::Hidden(&hidden)).is_err());
    assert!(last.forward(0, Input::Tokens(&tokens)).is_err());
    assert!(first.forward(2, Input::Tokens(&tokens)).is_err());
    assert!(first.forward(0, Input::Tokens(&tokens[1..])).is_err());
    assert!(last.forward(0, Input::Hidden(&hidden[1..])).is_err());
    assert!(first.backward(0, Loss::Gradient(&hidden)).is_err(), "it did not go forward");
    first.forward(0, Input::Tokens(&tokens)).unwrap();
    assert!(first.backward(0, Loss::Targets(&tokens)).is_err());
    first.backward(0, Loss::Gradient(&hidden)).unwrap();
    assert!(first.backward(0, Loss::Gradient(&hidden)).is_err(), "it went backward already");
    let error = first.update(&settings(1), 0.0).unwrap_err().to_string();
    assert!(error.contains("micro-batch 1"), "{error}");
    assert!(block_on(first.loss()).is_err());
}
