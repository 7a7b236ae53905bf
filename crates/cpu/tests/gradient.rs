//! The engine's loss and gradient against an independent decoder in f64, written as plain loops, and its
//! central differences.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_cpu::CpuEngine;
use shoal_learn::{Batch, Engine, EngineError, Layout, StepSettings};
use shoal_wire::manifest::{AdamW, ModelSpec, RopeScaling};

fn model(tied: bool) -> ModelSpec {
    ModelSpec {
        vocab_size: 11,
        hidden_size: 12,
        intermediate_size: 10,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        num_key_value_heads: if tied { 3 } else { 1 },
        max_position_embeddings: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 100.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: tied,
    }
}

fn weights(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + 13) % 1009) as f32 / 1009.0 - 0.45).collect()
}

fn batch() -> Batch {
    let rows: Vec<u32> = (0..2 * 6).map(|i| (i * i * 5 + 3 * i + 1) % 11).collect();
    Batch::from_rows(&rows, 2, 5).unwrap()
}

type Rows = Vec<Vec<f64>>;

struct Reference<'a> {
    model: &'a ModelSpec,
    layout: &'a Layout,
    flat: &'a [f64],
}

impl Reference<'_> {
    fn tensor(&self, name: &str) -> &[f64] {
        &self.flat[self.layout.find(name).unwrap().range()]
    }

    fn linear(&self, name: &str, x: &Rows) -> Rows {
        let weight = self.tensor(name);
        let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
        x.iter().map(|x| weight.chunks(x.len()).map(|w| dot(x, w)).collect()).collect()
    }

    fn norm(&self, name: &str, x: &Rows) -> Rows {
        let weight = self.tensor(name);
        let one = |x: &Vec<f64>| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let rms = (mean + f64::from(self.model.rms_norm_eps)).sqrt();
            x.iter().zip(weight).map(|(x, w)| x / rms * w).collect()
        };
        x.iter().map(one).collect()
    }

    fn turned(&self, x: &[f64], position: usize) -> Vec<f64> {
        let half = x.len() / 2;
        let angle = |i: usize| position as f64 / f64::from(self.model.rope_theta).powf((i % half) as f64 / half as f64);
        let other = |i: usize| if i < half { -x[i + half] } else { x[i - half] };
        (0..x.len()).map(|i| x[i] * angle(i).cos() + other(i) * angle(i).sin()).collect()
    }

    fn attention(&self, layer: u32, x: &Rows) -> Rows {
        let [q, k, v] =
            ["q", "k", "v"].map(|p| self.linear(&format!("model.layers.{layer}.self_attn.{p}_proj.weight"), x));
        let heads = self.model.num_attention_heads as usize;
        let width = self.model.hidden_size as usize / heads;
        let share = heads / self.model.num_key_value_heads as usize;
        let mut out = vec![vec![0.0; heads * width]; x.len()];
        for head in 0..heads {
            let (mine, theirs) = (head * width, head / share * width);
            for i in 0..x.len() {
                let query = self.turned(&q[i][mine..mine + width], i);
                let weight = |j: usize| {
                    let key = self.turned(&k[j][theirs..theirs + width], j);
                    (query.iter().zip(&key).map(|(a, b)| a * b).sum::<f64>() / (width as f64).sqrt()).exp()
                };
                let weights: Vec<f64> = (0..=i).map(weight).collect();
                let total: f64 = weights.iter().sum();
                for (j, weight) in weights.iter().enumerate() {
                    for d in 0..width {
                        out[i][mine + d] += weight / total * v[j][theirs + d];
                    }
                }
            }
        }
        out
    }

    fn logits(&self, tokens: &[u32]) -> Rows {
        let add =
            |a: &mut Rows, b: Rows| a.iter_mut().flatten().zip(b.into_iter().flatten()).for_each(|(a, b)| *a += b);
        let table = self.tensor("model.embed_tokens.weight");
        let hidden = self.model.hidden_size as usize;
        let mut x: Rows = tokens.iter().map(|t| table[*t as usize * hidden..][..hidden].to_vec()).collect();
        for layer in 0..self.model.num_hidden_layers {
            let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let mixed = self.attention(layer, &self.norm(&at("input_layernorm"), &x));
            add(&mut x, self.linear(&at("self_attn.o_proj"), &mixed));
            let normed = self.norm(&at("post_attention_layernorm"), &x);
            let (mut gate, up) = (self.linear(&at("mlp.gate_proj"), &normed), self.linear(&at("mlp.up_proj"), &normed));
            for (gate, up) in gate.iter_mut().flatten().zip(up.into_iter().flatten()) {
                *gate *= up / (1.0 + (-*gate).exp());
            }
            add(&mut x, self.linear(&at("mlp.down_proj"), &gate));
        }
        let head = if self.model.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        self.linear(head, &self.norm("model.norm.weight", &x))
    }

    fn loss(&self, batch: &Batch) -> f64 {
        let rows = batch.inputs.chunks(batch.context).flat_map(|tokens| self.logits(tokens));
        let one =
            |(row, target): (Vec<f64>, &u32)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[*target as usize];
        rows.zip(&batch.targets).map(one).sum::<f64>() / batch.tokens() as f64
    }
}

fn gradient_matches_differences(tied: bool) {
    let model = model(tied);
    let layout = Layout::of(&model).unwrap();
    let parameters = weights(layout.len());
    let batch = batch();
    let mut engine = CpuEngine::new(&model, batch.batch, batch.context).unwrap();
    engine.load(&parameters).unwrap();
    let (loss, gradient) = engine.loss_and_gradient(&batch).unwrap();

    let mut flat: Vec<f64> = parameters.iter().copied().map(f64::from).collect();
    let loss_of = |flat: &[f64]| Reference { model: &model, layout: &layout, flat }.loss(&batch);
    assert!((f64::from(loss) - loss_of(&flat)).abs() < 1e-5, "loss {loss}");
    // Every parameter of the vectors and a spread over the matrices: each tensor is covered.
    for tensor in &layout.tensors {
        let stride = if tensor.decays() { 5 } else { 1 };
        for i in tensor.range().step_by(stride) {
            let middle = flat[i];
            let step = 1e-5;
            flat[i] = middle + step;
            let high = loss_of(&flat);
            flat[i] = middle - step;
            let slope = (high - loss_of(&flat)) / (2.0 * step);
            flat[i] = middle;
            let got = f64::from(gradient[i]);
            assert!((got - slope).abs() < 2e-6 + 1e-4 * slope.abs(), "{} at {i}: {got} is not {slope}", tensor.name);
        }
    }
}

#[test]
fn the_gradient_of_a_grouped_untied_model_matches_differences() {
    gradient_matches_differences(false);
}

#[test]
fn the_gradient_of_a_tied_model_matches_differences() {
    gradient_matches_differences(true);
}

#[test]
fn evaluation_and_logits_match_the_training_pass() {
    let model = model(false);
    let layout = Layout::of(&model).unwrap();
    let batch = batch();
    let mut engine = CpuEngine::new(&model, batch.batch, batch.context).unwrap();
    engine.load(&weights(layout.len())).unwrap();
    let (trained, _) = engine.loss_and_gradient(&batch).unwrap();
    let evaluated = pollster::block_on(engine.evaluate(&batch)).unwrap();
    assert!((trained - evaluated).abs() < 1e-6);

    let flat: Vec<f64> = weights(layout.len()).into_iter().map(f64::from).collect();
    let expected = Reference { model: &model, layout: &layout, flat: &flat }.logits(&[4, 9, 2]).pop().unwrap();
    let got = pollster::block_on(engine.next_logits(&[4, 9, 2])).unwrap();
    for (got, expected) in got.iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() < 1e-5);
    }
}

#[test]
fn bad_batches_tokens_and_sizes_are_refused() {
    let model = model(true);
    let mut engine = CpuEngine::new(&model, 2, 5).unwrap();
    let adamw = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: None };
    let settings = StepSettings { optimizer: adamw.into(), lr: 0.1, step: 1 };
    assert!(matches!(engine.load(&[0.0; 3]), Err(EngineError::Shape { .. })));
    let other = Batch::from_rows(&[0; 5], 1, 4).unwrap();
    assert!(matches!(engine.step(&other, &settings), Err(EngineError::Shape { .. })));
    let mut outside = batch();
    outside.targets[3] = 11;
    assert!(engine.step(&outside, &settings).is_err());
    assert!(engine.step(&batch(), &StepSettings { step: 0, ..settings }).is_err());
    assert!(pollster::block_on(engine.next_logits(&[])).is_err());
    assert!(pollster::block_on(engine.next_logits(&[0; 17])).is_err());
    assert!(CpuEngine::new(&model, 1, 17).is_err());
    assert!(CpuEngine::new(&model, usize::MAX, 16).is_err());
}
