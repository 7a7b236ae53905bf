//! From gradients to parameters: the norm, the end of a step, AdamW.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

#[test]
fn norm_partial_is_its_twin() {
    for (count, groups) in [(1, 1), (65, 3), (100, 64), (30_001, 64)] {
        let gradients = noise(1, count);
        let mut bench = Bench::new();
        // Gradients are one buffer from its start; what is past them must not count.
        bench.memories[Memory::Grads as usize].clear();
        bench.put(Memory::Grads, &gradients);
        let partial = bench.room(Memory::Stats, groups);
        let outcome =
            bench.run(Kernel::NormPartial, 16, &[count as u32, partial, groups as u32], [groups as u32, 1, 1]);
        outcome.values("partial", Memory::Stats, partial, &twin::square_sum(&gradients, groups)).nothing_else();
    }
}

#[test]
fn finish_is_its_twin() {
    // The norm is above, below and far below the limit; without a limit; without gradients, as in an evaluation.
    for (rows, groups, clip) in [(1, 1, 0.1), (19, 64, 1.0), (200, 64, 1e6), (64, 64, 0.0), (65, 0, 0.0)] {
        let losses = scaled(1, rows, 5.0);
        let squares: Vec<f32> = noise(2, groups).into_iter().map(f32::abs).collect();
        // Another shard's gradients count in the norm.
        let foreign = if groups > 1 { 0.75 } else { 0.0 };
        let (loss, factor) = twin::finish(&losses, &[&squares[..], &[foreign]].concat(), clip);
        let mut bench = Bench::new();
        (bench.step.clip, bench.step.foreign_squares) = (clip, foreign);
        bench.memories[Memory::Losses as usize] = vec![FENCE; 8];
        let (squares, losses) = (bench.stats(&squares), bench.stats(&losses));
        let at = bench.room(Memory::Stats, 1);
        let arguments = [groups as u32, squares, rows as u32, losses, at];
        let outcome = bench.run(Kernel::Finish, 16, &arguments, [1, 1, 1]);
        let outcome = outcome.values("loss", Memory::Losses, SLOT, &[loss]);
        outcome.values("factor", Memory::Stats, at, &[factor]).nothing_else();
    }
}

/// What a kernel of AdamW is given, and what must come of it.
fn adamw_trial(group: usize, count: usize, step: i32, factor: f32) -> (Bench, Vec<u32>, [Vec<f64>; 3]) {
    let adam = Adam { lr: 3e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step };
    let (p, g, m) = (noise(1, count), noise(2, count), noise(3, count));
    let v: Vec<f32> = noise(4, count).into_iter().map(|value| value.abs() + 0.01).collect();
    // Parameters in two ranges do not decay.
    let still = [0..count / 5 / group * group, count / 2 / group * group..count / 2 / group * group + group];
    let decays = |i: usize| !still.iter().any(|range| range.contains(&i));
    let mut bench = Bench::new();
    let memories = [Memory::Params, Memory::Grads, Memory::Moment1, Memory::Moment2];
    for (memory, values) in memories.into_iter().zip([&p, &g, &m, &v]) {
        bench.memories[memory as usize].clear();
        bench.put(memory, values);
    }
    let mut bits = vec![0; count.div_ceil(32 * group)];
    (0..count).step_by(group).filter(|i| decays(*i)).for_each(|i| bits[i / group / 32] |= 1 << (i / group % 32));
    bench.tokens = [vec![5; 2], bits].concat();
    let correction = |beta: f32| (1.0 - f64::from(beta).powi(step)) as f32;
    let Adam { lr, beta1, beta2, eps, weight_decay, .. } = adam;
    let (correction1, correction2) = (correction(beta1), correction(beta2));
    bench.step = StepUniform { lr, beta1, beta2, eps, weight_decay, correction1, correction2, ..bench.step };
    let arguments = vec![count as u32, bench.stats(&[factor]), 2];
    let expected: Vec<[f64; 3]> = (0..count)
        .map(|i| {
            let adam = Adam { weight_decay: if decays(i) { weight_decay } else { 0.0 }, ..adam };
            twin::adamw(adam, f64::from(g[i]) * f64::from(factor), (p[i], m[i], v[i]))
        })
        .collect();
    (bench, arguments, [0, 1, 2].map(|part| expected.iter().map(|values| values[part]).collect()))
}

fn check_adamw(outcome: Outcome, [p, m, v]: [Vec<f64>; 3]) {
    let outcome = outcome.values("parameter", Memory::Params, 0, &p);
    let outcome = outcome.values("first moment", Memory::Moment1, 0, &m);
    outcome.values("second moment", Memory::Moment2, 0, &v).nothing_else();
}

#[test]
fn adamw_is_its_twin() {
    for (count, step, factor) in [(1, 1, 1.0), (65, 2, 0.25), (10_001, 1000, 0.5)] {
        let (bench, arguments, expected) = adamw_trial(1, count, step, factor);
        check_adamw(bench.run(Kernel::AdamW, 16, &arguments, threads(count)), expected);
    }
    for (count, step, factor) in [(4, 1, 1.0), (260, 2, 0.25), (10_004, 1000, 0.5)] {
        let (bench, arguments, expected) = adamw_trial(4, count, step, factor);
        check_adamw(bench.run(Kernel::AdamWVec4, 16, &arguments, threads(count / 4)), expected);
    }
}
