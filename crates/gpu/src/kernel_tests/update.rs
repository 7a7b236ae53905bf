//! From gradients to parameters: the norm, the end of a step, the optimisers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_wire::manifest::MuonScale;

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
    let arguments = vec![count as u32, bench.stats(&[factor]), 2, NONE];
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

/// Whether each value of so many decays; and the bits that say so.
fn decays(group: usize, count: usize) -> (impl Fn(usize) -> bool, Vec<u32>) {
    let decays = move |i: usize| i / group % 5 != 2;
    let mut bits = vec![0; count.div_ceil(32 * group)];
    (0..count).step_by(group).filter(|i| decays(*i)).for_each(|i| bits[i / group / 32] |= 1 << (i / group % 32));
    (decays, bits)
}

#[test]
fn adamw_leaves_what_another_kernel_moves() {
    for (kernel, group) in [(Kernel::AdamW, 1), (Kernel::AdamWVec4, 4)] {
        let (mut bench, mut arguments, expected) = adamw_trial(group, 1004, 3, 0.5);
        let (skips, bits) = decays(group, 1004);
        arguments[3] = bench.tokens.len() as u32;
        bench.tokens.extend(bits);
        let memories = [Memory::Params, Memory::Moment1, Memory::Moment2];
        let before = memories.map(|memory| bench.memories[memory as usize].clone());
        let kept = [0, 1, 2].map(|part: usize| {
            let value = |(i, value): (usize, &f64)| if skips(i) { f64::from(before[part][i]) } else { *value };
            expected[part].iter().enumerate().map(value).collect()
        });
        check_adamw(bench.run(kernel, 16, &arguments, threads(1004 / group)), kept);
    }
}

#[test]
fn sgd_is_its_twin() {
    let sizes = [(1, 1.0, false), (65, 0.25, true), (10_001, 0.5, true)];
    let plain = sizes.map(|(count, factor, nesterov)| (Kernel::Sgd, 1, count, factor, nesterov));
    let vectors = sizes.map(|(count, factor, nesterov)| (Kernel::SgdVec4, 4, count * 4, factor, nesterov));
    for (kernel, group, count, factor, nesterov) in plain.into_iter().chain(vectors) {
        let (lr, momentum, weight_decay) = (0.1, 0.9, 0.02);
        let (p, g, m) = (noise(1, count), noise(2, count), noise(3, count));
        let (decays, bits) = decays(group, count);
        let mut bench = Bench::new();
        for (memory, values) in [(Memory::Params, &p), (Memory::Grads, &g), (Memory::Moment1, &m)] {
            bench.memories[memory as usize].clear();
            bench.put(memory, values);
        }
        bench.tokens = [vec![5; 2], bits].concat();
        bench.step = StepUniform { lr, momentum, weight_decay, nesterov: u32::from(nesterov), ..bench.step };
        let arguments = [count as u32, bench.stats(&[factor]), 2];
        let each = |i: usize| {
            let decay = if decays(i) { weight_decay } else { 0.0 };
            twin::sgd((lr, momentum, nesterov), decay, f64::from(g[i]) * f64::from(factor), (p[i], m[i]))
        };
        let expected: Vec<[f64; 2]> = (0..count).map(each).collect();
        let outcome = match kernel {
            Kernel::Sgd => bench.run(Kernel::Sgd, 16, &arguments, threads(count)),
            _ => bench.run(Kernel::SgdVec4, 16, &arguments, threads(count / 4)),
        };
        let part = |part: usize| expected.iter().map(|values| values[part]).collect::<Vec<_>>();
        let outcome = outcome.values("parameter", Memory::Params, 0, &part(0));
        outcome.values("momentum", Memory::Moment1, 0, &part(1)).nothing_else();
    }
}

/// Short and long sides of matrices: a value, a row, a square, one more than a workgroup has.
const SIDES: [(usize, usize); 4] = [(1, 1), (1, 9), (12, 12), (13, 65)];

/// A wide matrix and a tall one of one size, between fences, and their table after two tokens.
fn matrices(bench: &mut Bench, memory: Memory, is_tall: bool, values: [&[f32]; 2]) -> [u32; 2] {
    let at = values.map(|values| bench.put(memory, values));
    bench.tokens = vec![5, 5, at[0], 0, at[1], u32::from(is_tall)];
    at
}

#[test]
fn muon_momentum_is_its_twin() {
    for ((low, long), nesterov) in SIDES.into_iter().zip([true, false, true, false]) {
        let (momentum, factor, workgroups) = (0.9, 0.5, 3);
        let (g, m) = ([1, 2].map(|seed| noise(seed, low * long)), [3, 4].map(|seed| noise(seed, low * long)));
        let mut bench = Bench::new();
        let at = matrices(&mut bench, Memory::Grads, low < long, [&g[0], &g[1]]);
        for m in &m {
            assert!(at.contains(&bench.put(Memory::Moment1, m)));
        }
        let sums = bench.room(Memory::Stats, 2 * workgroups);
        bench.step = StepUniform { momentum, nesterov: u32::from(nesterov), ..bench.step };
        let arguments = [(low * long) as u32, 2, bench.stats(&[factor]), sums, workgroups as u32];
        let mut outcome = bench.run(Kernel::MuonMomentum, 16, &arguments, [workgroups as u32, 2, 1]);
        for (index, (g, m)) in g.iter().zip(&m).enumerate() {
            let g: Vec<f64> = g.iter().map(|g| f64::from(*g) * f64::from(factor)).collect();
            let (next, direction) = twin::muon_momentum(momentum, nesterov, &g, m);
            let squares: Vec<f32> = direction.iter().map(|sum| sum.value as f32).collect();
            let squares = twin::square_sum(&squares, workgroups);
            outcome = outcome.sums("momentum", Memory::Moment1, at[index], &next);
            outcome = outcome.sums("direction", Memory::Grads, at[index], &direction);
            outcome = outcome.values("squares", Memory::Stats, sums + (index * workgroups) as u32, &squares);
        }
        outcome.nothing_else();
    }
}

#[test]
fn muon_load_is_its_twin() {
    for ((low, long), least) in SIDES.into_iter().zip([1e-7_f32, 1e-7, 100.0, 1e-7]) {
        let x = [1, 2].map(|seed| noise(seed, low * long));
        let squares: Vec<f32> = noise(3, 3 * 3).into_iter().map(|value| value.abs() + 0.1).collect();
        let mut bench = Bench::new();
        matrices(&mut bench, Memory::Grads, low < long, [&x[0], &x[1]]);
        // The second and the third of a table, of which another dispatch does the first.
        bench.tokens = [vec![9; 3], bench.tokens].concat();
        let distance = low * long + 3;
        let out = bench.room(Memory::Arena, distance + low * long);
        let sums = bench.stats(&squares);
        let [low_side, long_side, distance_said] = [low, long, distance].map(|size| size as u32);
        let arguments = [low_side, long_side, 3, 1, out, distance_said, sums, 3, least.to_bits()];
        let grid = threads(low * long);
        let mut outcome = bench.run(Kernel::MuonLoad, 16, &arguments, [grid[0], grid[1], 2]);
        for (index, (sides, x)) in [(low, long), (long, low)].into_iter().zip(&x).enumerate() {
            let expected = twin::muon_load(sides, &squares[3 * (index + 1)..][..3], least, x);
            outcome = outcome.values("X", Memory::Arena, out + (index * distance) as u32, &expected);
        }
        outcome.nothing_else();
    }
}

#[test]
fn muon_apply_is_its_twin() {
    for (low, long) in SIDES {
        for (matches_adamw, kind) in [(0, MuonScale::Original), (1, MuonScale::MatchRmsAdamw)] {
            let (p, x) = ([1, 2].map(|seed| noise(seed, low * long)), [3, 4].map(|seed| noise(seed, low * long)));
            let mut bench = Bench::new();
            let at = matrices(&mut bench, Memory::Params, low < long, [&p[0], &p[1]]);
            let distance = low * long + 3;
            let from = bench.arena(&[&x[0][..], &[FENCE; 3], &x[1]].concat());
            let (matrix_lr, weight_decay) = (0.1, 0.2);
            bench.step = StepUniform { weight_decay, matches_adamw, matrix_lr, ..bench.step };
            let arguments = [low as u32, long as u32, 2, 0, from, distance as u32];
            let grid = threads(low * long);
            let mut outcome = bench.run(Kernel::MuonApply, 16, &arguments, [grid[0], grid[1], 2]);
            for (index, sides) in [(low, long), (long, low)].into_iter().enumerate() {
                let rate = twin::MuonRate { lr: matrix_lr, weight_decay, scale: kind.factor(sides.0, sides.1) };
                let expected = twin::muon_apply(sides, rate, &p[index], &x[index]);
                outcome = outcome.values("parameter", Memory::Params, at[index], &expected);
            }
            outcome.nothing_else();
        }
    }
}
