//! Kernels of networks for tables and images.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::twin::{Groups, Windows};

#[test]
fn bias_act_is_its_twin() {
    for (kind, (rows, cols)) in (0..4).flat_map(|kind| SHAPES.map(|shape| (kind, shape))) {
        for (biased, active) in [(true, true), (true, false), (false, true)] {
            let (z, b) = (scaled(1, rows * cols, 30.0), noise(2, cols));
            let (expected_z, expected_a) = twin::bias_act(cols, &z, biased.then_some(&b), kind);
            let mut bench = Bench::new();
            let bias = if biased { bench.put(Memory::Params, &b) } else { NONE };
            let z = bench.arena(&z);
            let a = if active { bench.room(Memory::Arena, rows * cols) } else { NONE };
            let arguments = [(rows * cols) as u32, cols as u32, z, bias, kind, a];
            let mut outcome = bench.run(Kernel::BiasAct, 16, &arguments, threads(rows * cols));
            if biased {
                outcome = outcome.values("Z", Memory::Arena, z, &expected_z);
            }
            if active {
                outcome = outcome.values("A", Memory::Arena, a, &expected_a);
            }
            outcome.nothing_else();
        }
    }
}

#[test]
fn act_backward_is_its_twin() {
    for (kind, count) in (0..4).flat_map(|kind| [1, 63, 65, 5000].map(|count| (kind, count))) {
        let (z, dz) = (scaled(1, count, 30.0), noise(2, count));
        let expected = twin::act_backward(&z, &dz, kind);
        let mut bench = Bench::new();
        let (z, dz) = (bench.arena(&z), bench.arena(&dz));
        let outcome = bench.run(Kernel::ActBackward, 16, &[count as u32, z, dz, kind], threads(count));
        outcome.values("dZ", Memory::Arena, dz, &expected).nothing_else();
    }
}

#[test]
fn column_sum_is_its_twin() {
    for (rows, cols) in SHAPES {
        let dy = noise(1, rows * cols);
        let expected = twin::column_sum(cols, &dy);
        let mut bench = Bench::new();
        let (dy, db) = (bench.arena(&dy), bench.room(Memory::Grads, cols));
        let outcome = bench.run(Kernel::ColumnSum, 16, &[rows as u32, cols as u32, dy, db], folded(cols));
        outcome.sums("db", Memory::Grads, db, &expected).nothing_else();
    }
}

fn windows(
    images: usize,
    [height, width]: [usize; 2],
    channels: usize,
    [side, stride, padding]: [usize; 3],
) -> Windows {
    Windows { images, height, width, channels, side, stride, padding }
}

/// The least, overlapping windows, gaps between them, padding on every side, rows left over, production's.
fn convolutions() -> [Windows; 7] {
    [
        windows(1, [1, 1], 1, [1, 1, 0]),
        windows(2, [5, 4], 3, [3, 1, 1]),
        windows(3, [7, 6], 2, [3, 2, 1]),
        windows(1, [9, 8], 5, [2, 3, 1]),
        windows(2, [6, 7], 1, [5, 1, 4]),
        windows(2, [7, 7], 4, [2, 3, 0]),
        windows(4, [14, 14], 16, [3, 1, 1]),
    ]
}

fn pools() -> [Windows; 6] {
    [
        windows(1, [1, 1], 1, [1, 1, 0]),
        windows(2, [5, 4], 3, [2, 2, 0]),
        windows(3, [7, 6], 2, [3, 2, 0]),
        windows(1, [9, 8], 5, [2, 3, 0]),
        windows(2, [6, 7], 1, [3, 1, 0]),
        windows(4, [28, 28], 16, [2, 2, 0]),
    ]
}

fn arguments(windows: Windows, places: &[u32]) -> Vec<u32> {
    let Windows { images, height, width, channels, side, stride, padding } = windows;
    let [high, wide] = windows.out();
    let sizes = [images, height, width, channels, side, stride, padding, high, wide].map(|size| size as u32);
    [&sizes[..], places].concat()
}

fn exact(values: &[f64]) -> Vec<Sum> {
    values.iter().map(|value| Sum { value: *value, magnitude: 0.0 }).collect()
}

#[test]
fn spread_and_its_backward_are_their_twins() {
    for windows in convolutions() {
        let count = windows.outputs() * windows.side * windows.side;
        let x = noise(1, windows.inputs());
        let expected = twin::spread(windows, &x);
        let mut bench = Bench::new();
        let (x, s) = (bench.arena(&x), bench.room(Memory::Arena, count));
        let outcome = bench.run(Kernel::Spread, 16, &arguments(windows, &[x, s]), threads(count));
        outcome.sums("S", Memory::Arena, s, &exact(&expected)).nothing_else();

        let ds = noise(2, count);
        let expected = twin::spread_backward(windows, &ds);
        let mut bench = Bench::new();
        let (dx, ds) = (bench.room(Memory::Arena, windows.inputs()), bench.arena(&ds));
        let outcome = bench.run(Kernel::SpreadBackward, 16, &arguments(windows, &[dx, ds]), threads(windows.inputs()));
        outcome.sums("dX", Memory::Arena, dx, &expected).nothing_else();
    }
}

#[test]
fn max_pool_and_its_backward_are_their_twins() {
    for windows in pools() {
        // Few values, so that windows have several largest ones.
        let x: Vec<f32> = scaled(1, windows.inputs(), 3.0).into_iter().map(f32::round).collect();
        let expected = twin::max_pool(windows, &x);
        let mut bench = Bench::new();
        let (x_at, y) = (bench.arena(&x), bench.room(Memory::Arena, windows.outputs()));
        let outcome = bench.run(Kernel::MaxPool, 16, &arguments(windows, &[x_at, y]), threads(windows.outputs()));
        outcome.sums("Y", Memory::Arena, y, &exact(&expected)).nothing_else();

        let dy = noise(2, windows.outputs());
        let expected = twin::max_pool_backward(windows, &x, &dy);
        let mut bench = Bench::new();
        let (x, dy, dx) = (bench.arena(&x), bench.arena(&dy), bench.room(Memory::Arena, windows.inputs()));
        let arguments = arguments(windows, &[x, dy, dx]);
        let outcome = bench.run(Kernel::MaxPoolBackward, 16, &arguments, threads(windows.inputs()));
        outcome.sums("dX", Memory::Arena, dx, &expected).nothing_else();
    }
}

#[test]
fn avg_pool_and_its_backward_are_their_twins() {
    for windows in pools() {
        let x = noise(1, windows.inputs());
        let expected = twin::avg_pool(windows, &x);
        let mut bench = Bench::new();
        let (x, y) = (bench.arena(&x), bench.room(Memory::Arena, windows.outputs()));
        let outcome = bench.run(Kernel::AvgPool, 16, &arguments(windows, &[x, y]), threads(windows.outputs()));
        outcome.values("Y", Memory::Arena, y, &expected).nothing_else();

        let dy = noise(2, windows.outputs());
        let expected = twin::avg_pool_backward(windows, &dy);
        let mut bench = Bench::new();
        let (dx, dy) = (bench.room(Memory::Arena, windows.inputs()), bench.arena(&dy));
        let outcome = bench.run(Kernel::AvgPoolBackward, 16, &arguments(windows, &[dx, dy]), threads(windows.inputs()));
        outcome.values("dX", Memory::Arena, dx, &expected).nothing_else();
    }
}

/// One value in a group would be its own mean; rows and images; groups of one channel, of all, of some.
const GROUPS: [Groups; 5] = [
    Groups { examples: 1, places: 2, channels: 1, parts: 1 },
    Groups { examples: 5, places: 1, channels: 12, parts: 3 },
    Groups { examples: 3, places: 35, channels: 6, parts: 6 },
    Groups { examples: 2, places: 9, channels: 10, parts: 1 },
    Groups { examples: 7, places: 196, channels: 16, parts: 4 },
];

#[test]
fn group_norm_and_its_gradients_are_their_twins() {
    for groups in GROUPS {
        let Groups { examples, places, channels, parts } = groups;
        let (count, rows) = (examples * places * channels, examples * parts);
        let sizes = [examples, places, channels, parts].map(|size| size as u32);
        let (x, scale, shift) = (scaled(1, count, 3.0), noise(2, channels), noise(3, channels));
        let (expected_y, expected_mean, expected_rstd) = twin::group_norm(groups, &x, &scale, &shift, EPS);
        let mut bench = Bench::new();
        let weights = [bench.put(Memory::Params, &scale), bench.put(Memory::Params, &shift)];
        let (x_at, y) = (bench.arena(&x), bench.room(Memory::Arena, count));
        let (mean, rstd) = (bench.room(Memory::Stats, rows), bench.room(Memory::Stats, rows));
        let rest = [x_at, weights[0], weights[1], y, mean, rstd, EPS.to_bits()];
        let outcome = bench.run(Kernel::GroupNorm, 16, &[&sizes[..], &rest].concat(), folded(rows));
        let outcome = outcome.values("Y", Memory::Arena, y, &expected_y);
        let outcome = outcome.values("mean", Memory::Stats, mean, &expected_mean);
        outcome.values("rstd", Memory::Stats, rstd, &expected_rstd).nothing_else();

        let (mean, rstd, dy) = (narrow(&expected_mean), narrow(&expected_rstd), noise(4, count));
        let (expected_dx, d_scale, d_shift) = twin::group_norm_backward(groups, &x, &scale, (&mean, &rstd), &dy);
        let mut bench = Bench::new();
        let weight = bench.put(Memory::Params, &scale);
        let at = [bench.arena(&x), bench.arena(&dy), bench.stats(&mean), bench.stats(&rstd)];
        let arguments = [&sizes[..], &[at[0], weight, at[1], at[2], at[3]]].concat();
        let outcome = bench.run(Kernel::GroupNormDx, 16, &arguments, folded(rows));
        outcome.values("dX", Memory::Arena, at[1], &expected_dx).nothing_else();

        let mut bench = Bench::new();
        let gradients = [(); 2].map(|()| bench.room(Memory::Grads, channels));
        let at = [bench.arena(&x), bench.arena(&dy), bench.stats(&mean), bench.stats(&rstd)];
        let arguments = [&sizes[..], &[at[0], gradients[0], at[1], at[2], at[3], gradients[1]]].concat();
        let outcome = bench.run(Kernel::GroupNormDw, 16, &arguments, folded(channels));
        let outcome = outcome.sums("d scale", Memory::Grads, gradients[0], &d_scale);
        outcome.sums("d shift", Memory::Grads, gradients[1], &d_shift).nothing_else();
    }
}

#[test]
fn transpose_is_its_twin() {
    for (count, rows, cols) in [(1, 1, 1), (2, 3, 5), (3, 49, 32), (1, 1, 70)] {
        let x = noise(1, count * rows * cols);
        let expected = twin::transpose(rows, cols, &x);
        let mut bench = Bench::new();
        let (x, y) = (bench.arena(&x), bench.room(Memory::Arena, count * rows * cols));
        let arguments = [count as u32, rows as u32, cols as u32, x, y];
        let outcome = bench.run(Kernel::Transpose, 16, &arguments, threads(count * rows * cols));
        outcome.sums("Y", Memory::Arena, y, &exact(&expected)).nothing_else();
    }
}

#[test]
fn value_loss_is_its_twin() {
    for (binary, (rows, outputs)) in [false, true].into_iter().flat_map(|binary| SHAPES.map(|shape| (binary, shape))) {
        let y = scaled(1, rows * outputs, 40.0);
        let targets: Vec<f32> =
            noise(2, rows * outputs).into_iter().map(|t| if binary { f32::from(t > 0.0) } else { t }).collect();
        let (expected_losses, expected_gradient) = twin::value_loss(outputs, &y, &targets, binary);
        let mut bench = Bench::new();
        let (y, t, losses) = (bench.arena(&y), bench.arena(&targets), bench.room(Memory::Stats, rows));
        let arguments = [rows as u32, outputs as u32, y, losses, t, u32::from(binary), rows as u32];
        let outcome = bench.run(Kernel::ValueLoss, 16, &arguments, threads(rows));
        let outcome = outcome.values("loss", Memory::Stats, losses, &expected_losses);
        outcome.values("dY", Memory::Arena, y, &expected_gradient).nothing_else();
    }
}

#[test]
fn gemm_tn_split_and_slice_sum_are_their_twins() {
    for ((m, k, n), slice) in [((1, 1, 1), 4), ((33, 5, 3), 32), ((128, 48, 37), 32), ((3000, 9, 16), 256)] {
        let (x, dy) = (noise(1, m * k), noise(2, m * n));
        let expected = twin::gemm_tn_split((m, k, n), slice, &x, &dy);
        let slices = m.div_ceil(slice);
        let mut bench = Bench::new();
        let (x, dy, p) = (bench.arena(&x), bench.arena(&dy), bench.room(Memory::Arena, slices * n * k));
        let arguments = [m as u32, k as u32, x, slice as u32, n as u32, p, dy];
        let grid = [k.div_ceil(32) as u32, n.div_ceil(32) as u32, slices as u32];
        let outcome = bench.run(Kernel::GemmTnSplit, 16, &arguments, grid);
        outcome.sums("P", Memory::Arena, p, &expected).nothing_else();

        let parts: Vec<f32> = expected.iter().map(|sum| sum.value as f32).collect();
        let expected = twin::slice_sum(slices, &parts);
        let mut bench = Bench::new();
        let (p, dw) = (bench.arena(&parts), bench.room(Memory::Grads, n * k));
        let arguments = [(n * k) as u32, slices as u32, p, dw];
        let outcome = bench.run(Kernel::SliceSum, 16, &arguments, threads(n * k));
        outcome.sums("dW", Memory::Grads, dw, &expected).nothing_else();
    }
}
