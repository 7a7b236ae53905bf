//! Matrix products in all their forms.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

/// (M, K, N) for plain forms: as above, and the sides of a tile of 32 from both directions.
const PRODUCTS: [(usize, usize, usize); 8] =
    [(1, 1, 1), (1, 48, 5), (33, 1, 3), (7, 5, 9), (31, 33, 34), (32, 32, 32), (57, 48, 61), (128, 256, 192)];

/// For vector forms, whose M and K are multiples of 4: the least, N of every remainder, the sides of a tile of 64.
const VECTOR_PRODUCTS: [(usize, usize, usize); 8] =
    [(4, 4, 1), (4, 48, 5), (36, 4, 3), (8, 12, 10), (32, 36, 35), (64, 64, 64), (60, 68, 61), (128, 256, 192)];

fn products(kernel: Kernel) -> [(usize, usize, usize); 8] {
    if kernel.is_vector() { VECTOR_PRODUCTS } else { PRODUCTS }
}

/// Rows of `n` values, `stride` apart, with zeros between.
fn spread(values: &[f32], n: usize, stride: usize) -> Vec<f32> {
    let row = |row: &[f32]| [row, &vec![0.0; stride - n]].concat();
    values.chunks(n).flat_map(row).collect()
}

fn grid(kernel: Kernel, across: usize, down: usize, parts: usize) -> [u32; 3] {
    let [wide, high] = kernel.tile();
    [(across as u32).div_ceil(wide), (down as u32).div_ceil(high), parts as u32]
}

/// Outputs of up to three weights that share an input, as queries, keys and values do.
fn shares(n: usize) -> [Vec<usize>; 3] {
    [vec![n], vec![n, n + 3], vec![n, n.div_ceil(2), n.div_ceil(2)]]
}

#[test]
fn gemm_nt_is_its_twin() {
    for kernel in forms(Op::Nt) {
        for (m, k, n) in products(kernel) {
            for (outputs, residual) in shares(n).into_iter().zip([true, false, false]) {
                let mut bench = Bench::of(kernel);
                let x = noise(1, m * k);
                let r = residual.then(|| noise(2, m * n));
                let mut arguments = vec![m as u32, k as u32, bench.arena(&x)];
                let spread_r = r.as_ref().map(|r| spread(r, n, stride(kernel, n)));
                arguments.push(spread_r.map_or(NONE, |r| bench.arena(&r)));
                let mut expected = Vec::new();
                for (part, n) in outputs.iter().enumerate() {
                    let w = noise(3 + part as u32, n * k);
                    let y = bench.room(Memory::Arena, m * stride(kernel, *n));
                    arguments.extend([*n as u32, bench.put(Memory::Params, &w), y]);
                    expected.push((y, *n, twin::gemm_nt((m, k, *n), &x, &w, r.as_deref())));
                }
                let widest = *outputs.iter().max().unwrap();
                let mut outcome = bench.run(kernel, 16, &arguments, grid(kernel, widest, m, outputs.len()));
                for (y, n, expected) in expected {
                    outcome = outcome.rows("Y", y, &expected, n, stride(kernel, n));
                }
                outcome.nothing_else();
            }
        }
    }
}

#[test]
fn gemm_nn_is_its_twin() {
    for kernel in forms(Op::Nn) {
        for (m, k, n) in products(kernel) {
            for (outputs, adds) in shares(n).into_iter().zip([true, false, true]) {
                let mut bench = Bench::of(kernel);
                let old = noise(1, m * k);
                let dx = bench.arena(&old);
                let mut arguments = vec![m as u32, k as u32, dx, outputs.len() as u32 + if adds { 16 } else { 0 }];
                let mut parts = Vec::new();
                for (part, n) in outputs.iter().enumerate() {
                    let (dy, w) = (noise(2 + part as u32, m * n), noise(9 + part as u32, n * k));
                    let dy_at = bench.arena(&spread(&dy, *n, stride(kernel, *n)));
                    arguments.extend([*n as u32, bench.put(Memory::Params, &w), dy_at]);
                    parts.push((*n, dy, w));
                }
                let expected = twin::gemm_nn(m, k, &parts, adds.then_some(&old));
                let outcome = bench.run(kernel, 16, &arguments, grid(kernel, k, m, 1));
                outcome.sums("dX", Memory::Arena, dx, &expected).nothing_else();
            }
        }
    }
}

#[test]
fn gemm_tn_is_its_twin() {
    for kernel in forms(Op::Tn) {
        for (m, k, n) in products(kernel) {
            for outputs in shares(n) {
                let mut bench = Bench::of(kernel);
                let x = noise(1, m * k);
                let mut arguments = vec![m as u32, k as u32, bench.arena(&x), 0];
                let mut expected = Vec::new();
                for (part, n) in outputs.iter().enumerate() {
                    let dy = noise(2 + part as u32, m * n);
                    let w = bench.room(Memory::Grads, n * k);
                    let dy_at = bench.arena(&spread(&dy, *n, stride(kernel, *n)));
                    arguments.extend([*n as u32, w, dy_at]);
                    expected.push((w, twin::gemm_tn((m, k, *n), &x, &dy)));
                }
                let tallest = *outputs.iter().max().unwrap();
                let mut outcome = bench.run(kernel, 16, &arguments, grid(kernel, k, tallest, outputs.len()));
                for (w, expected) in expected {
                    outcome = outcome.sums("dW", Memory::Grads, w, &expected);
                }
                outcome.nothing_else();
            }
        }
    }
}
