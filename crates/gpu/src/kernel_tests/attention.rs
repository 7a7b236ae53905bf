//! Attention and rotary positions, forward and backward.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

/// One token, one head; grouped queries 4:2 and 8:2 on odd contexts; a context of one; sizes for vectors; production's.
const ATTENTIONS: [Attention; 9] = [
    Attention { batch: 1, context: 1, heads: 1, keys: 1, head: 2 },
    Attention { batch: 3, context: 1, heads: 4, keys: 2, head: 8 },
    Attention { batch: 2, context: 19, heads: 4, keys: 2, head: 12 },
    Attention { batch: 1, context: 7, heads: 8, keys: 2, head: 10 },
    Attention { batch: 3, context: 33, heads: 3, keys: 3, head: 16 },
    Attention { batch: 4, context: 64, heads: 4, keys: 4, head: 32 },
    Attention { batch: 1, context: 4, heads: 8, keys: 2, head: 8 },
    Attention { batch: 3, context: 68, heads: 6, keys: 2, head: 24 },
    Attention { batch: 1, context: 132, heads: 2, keys: 1, head: 64 },
];

/// The forms of an operation on attention that fit its sizes and this device.
fn attentions(op: Op) -> impl Iterator<Item = (Kernel, Attention)> {
    let fits = move |kernel: &Kernel, shape: &Attention| {
        let fours =
            !kernel.needs_quads() && op != Op::AttentionDkv || shape.context.is_multiple_of(4) || kernel.is_tiled();
        !kernel.is_vector() || shape.head.is_multiple_of(8) && fours
    };
    let pairs = forms(op).flat_map(|kernel| ATTENTIONS.map(|shape| (kernel, shape)));
    pairs.filter(move |(kernel, shape)| fits(kernel, shape))
}

fn groups(kernel: Kernel, shape: Attention, heads: usize) -> [u32; 3] {
    folded(kernel.attention_groups((shape.batch * heads) as u32, shape.context as u32) as usize)
}

/// Cosines and sines of angles that no two positions share.
fn table(shape: Attention) -> Vec<f32> {
    let angles: Vec<f32> = (0..shape.context * shape.head / 2).map(|index| 0.37 * index as f32).collect();
    angles.iter().map(|angle| angle.cos()).chain(angles.iter().map(|angle| angle.sin())).collect()
}

struct Qkv {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

fn qkv(shape: Attention) -> Qkv {
    let Attention { batch, context, heads, keys, head } = shape;
    let count = |heads| batch * context * heads * head;
    Qkv { q: scaled(1, count(heads), 2.0), k: scaled(2, count(keys), 2.0), v: noise(3, count(keys)) }
}

fn sizes(shape: Attention) -> [u32; 4] {
    [shape.batch, shape.context, shape.heads, shape.keys].map(|size| size as u32)
}

#[test]
fn rope_is_its_twin() {
    for shape in ATTENTIONS {
        let Attention { batch, context, heads, keys, head } = shape;
        let (Qkv { q, k, .. }, table) = (qkv(shape), table(shape));
        let twin = |heads, x: &[f32]| {
            let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
            twin::rope(context, heads, head, &x, &table)
        };
        let (expected_q, expected_k) = (twin(heads, &q), twin(keys, &k));
        let mut bench = Bench::new();
        let (q, k, table) = (bench.arena(&q), bench.arena(&k), bench.arena(&table));
        let [rows, context, heads, keys, head] = [batch * context, context, heads, keys, head].map(|size| size as u32);
        let arguments = [rows, context, heads, keys, head, q, k, table];
        let outcome = bench.run(Kernel::Rope, 16, &arguments, threads((rows * (heads + keys) * head / 2) as usize));
        let outcome = outcome.values("Q", Memory::Arena, q, &expected_q);
        outcome.values("K", Memory::Arena, k, &expected_k).nothing_else();
    }
}

#[test]
fn attention_is_its_twin() {
    for (kernel, shape) in attentions(Op::Attention) {
        let Qkv { q, k, v } = qkv(shape);
        let (expected_o, expected_lse) = twin::attention(shape, &q, &k, &v);
        let mut bench = Bench::of(kernel);
        let [q, k, v] = [&q, &k, &v].map(|values| bench.arena(values));
        let o = bench.room(Memory::Arena, expected_o.len());
        let lse = bench.room(Memory::Stats, expected_lse.len());
        let arguments = [&sizes(shape)[..], &[q, k, v, o, lse]].concat();
        let outcome = bench.run(kernel, shape.head, &arguments, groups(kernel, shape, shape.heads));
        let outcome = outcome.values("O", Memory::Arena, o, &expected_o);
        outcome.values("log-sum-exp", Memory::Stats, lse, &expected_lse).nothing_else();
    }
}

#[test]
fn attention_dq_is_its_twin() {
    for (kernel, shape) in attentions(Op::AttentionDq) {
        let (Qkv { q, k, v }, table) = (qkv(shape), table(shape));
        let d_o = noise(4, q.len());
        let (o, lse) = twin::attention(shape, &q, &k, &v);
        let (o, lse) = (narrow(&o), narrow(&lse));
        let expected = twin::attention_backward(shape, (&q, &k, &v), &d_o, &table);
        let mut bench = Bench::of(kernel);
        let [q_at, k_at, v_at, o_at, d_o_at] = [&q, &k, &v, &o, &d_o].map(|values| bench.arena(values));
        let at = [q_at, k_at, v_at, o_at, bench.stats(&lse), d_o_at];
        let delta = bench.room(Memory::Stats, lse.len());
        let dq = bench.room(Memory::Arena, q.len());
        let arguments = [&sizes(shape)[..], &at, &[delta, dq, bench.arena(&table)]].concat();
        let outcome = bench.run(kernel, shape.head, &arguments, groups(kernel, shape, shape.heads));
        let outcome = outcome.values("delta", Memory::Stats, delta, &expected.delta);
        outcome.values("dQ", Memory::Arena, dq, &expected.dq).nothing_else();
    }
}

#[test]
fn attention_dkv_is_its_twin() {
    for (kernel, shape) in attentions(Op::AttentionDkv) {
        let (Qkv { q, k, v }, table) = (qkv(shape), table(shape));
        let d_o = noise(4, q.len());
        let lse = narrow(&twin::attention(shape, &q, &k, &v).1);
        let expected = twin::attention_backward(shape, (&q, &k, &v), &d_o, &table);
        let mut bench = Bench::of(kernel);
        let [q, keys, v] = [&q, &k, &v].map(|values| bench.arena(values));
        let dk = bench.room(Memory::Arena, k.len());
        let d_o = bench.arena(&d_o);
        let [lse, delta] = [&lse, &narrow(&expected.delta)].map(|values| bench.stats(values));
        let dv = bench.room(Memory::Arena, k.len());
        let rest = [q, keys, v, dk, lse, d_o, delta, dv, bench.arena(&table)];
        let arguments = [&sizes(shape)[..], &rest].concat();
        let outcome = bench.run(kernel, shape.head, &arguments, groups(kernel, shape, shape.keys));
        let outcome = outcome.values("dK", Memory::Arena, dk, &expected.dk);
        outcome.values("dV", Memory::Arena, dv, &expected.dv).nothing_else();
    }
}
