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

/// Whether rows lie as far apart as they are long, or as a larger table's do of which they are a part.
const PITCHES: [bool; 2] = [false, true];

/// Distance of rows of `n` values, and what argument 13 says of it.
fn pitch(kernel: Kernel, n: usize, part: bool) -> (usize, u32) {
    let pitch = stride(kernel, n) + 8;
    if part { (pitch, pitch as u32) } else { (stride(kernel, n), 0) }
}

fn say_pitch(arguments: &mut Vec<u32>, pitch: u32) {
    arguments.resize(13, 0);
    arguments.push(pitch);
}

#[test]
fn a_part_of_the_logits_is_a_product_whose_rows_lie_further_apart() {
    for (kernel, part) in forms(Op::Nt).flat_map(|kernel| PITCHES.map(|part| (kernel, part))) {
        for (m, k, n) in products(kernel) {
            let (x, w) = (noise(1, m * k), noise(2, n * k));
            let (apart, said) = pitch(kernel, n, part);
            let mut bench = Bench::of(kernel);
            let (x_at, w_at) = (bench.arena(&x), bench.put(Memory::Params, &w));
            let y = bench.room(Memory::Arena, m * apart);
            let mut arguments = vec![m as u32, k as u32, x_at, NONE, n as u32, w_at, y];
            say_pitch(&mut arguments, said);
            let outcome = bench.run(kernel, 16, &arguments, grid(kernel, n, m, 1));
            outcome.rows("Y", y, &twin::gemm_nt((m, k, n), &x, &w, None), n, apart).nothing_else();
        }
    }
}

#[test]
fn gradients_come_from_a_part_of_the_logits_whose_rows_lie_further_apart() {
    for (kernel, part) in forms(Op::Nn).flat_map(|kernel| PITCHES.map(|part| (kernel, part))) {
        for (m, k, n) in products(kernel) {
            let (dy, w) = (noise(1, m * n), noise(2, n * k));
            let (apart, said) = pitch(kernel, n, part);
            let mut bench = Bench::of(kernel);
            let (dy_at, w_at) = (bench.arena(&spread(&dy, n, apart)), bench.put(Memory::Params, &w));
            let dx = bench.room(Memory::Arena, m * k);
            let mut arguments = vec![m as u32, k as u32, dx, 1, n as u32, w_at, dy_at];
            say_pitch(&mut arguments, said);
            let outcome = bench.run(kernel, 16, &arguments, grid(kernel, k, m, 1));
            outcome.sums("dX", Memory::Arena, dx, &twin::gemm_nn(m, k, &[(n, dy, w)], None)).nothing_else();
        }
    }
}

#[test]
fn gradients_of_weights_add_up_over_parts_of_a_batch() {
    for (kernel, part) in forms(Op::Tn).flat_map(|kernel| PITCHES.map(|part| (kernel, part))) {
        for ((m, k, n), (adds, later)) in
            products(kernel).into_iter().flat_map(|shape| [(1, 0), (0, 1)].map(|how| (shape, how)))
        {
            let (x, dy, old) = (noise(1, m * k), noise(2, m * n), noise(3, n * k));
            let (apart, said) = pitch(kernel, n, part);
            let mut bench = Bench::of(kernel);
            bench.step.adds = later;
            let (x_at, dy_at) = (bench.arena(&x), bench.arena(&spread(&dy, n, apart)));
            let w = bench.put(Memory::Grads, &old);
            let mut arguments = vec![m as u32, k as u32, x_at, adds, n as u32, w, dy_at];
            say_pitch(&mut arguments, said);
            let mut expected = twin::gemm_tn((m, k, n), &x, &dy);
            expected.iter_mut().zip(&old).for_each(|(sum, old)| sum.add(f64::from(*old)));
            let outcome = bench.run(kernel, 16, &arguments, grid(kernel, k, n, 1));
            outcome.sums("dW", Memory::Grads, w, &expected).nothing_else();
        }
    }
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

/// Two matrices `apart` from each other, with fences between.
fn stack(bench: &mut Bench, values: [&[f32]; 2], apart: usize) -> u32 {
    bench.arena(&[values[0], &vec![FENCE; apart - values[0].len()], values[1]].concat())
}

/// Arguments 7 to 12 for stacks this far apart: left, right, result; with alpha, beta and R.
fn stacked(arguments: [u32; 7], apart: [usize; 3], [alpha, beta]: [f32; 2], r: u32) -> Vec<u32> {
    let [left, right, result] = apart.map(|apart| apart as u32);
    [&arguments[..], &[left, right, result, alpha.to_bits(), beta.to_bits(), r]].concat()
}

/// alpha times the product plus beta times R.
fn combined(product: &[Sum], [alpha, beta]: [f32; 2], r: Option<&[f32]>) -> Vec<Sum> {
    let scaled = |(index, sum): (usize, &Sum)| {
        let alpha = f64::from(alpha);
        let mut sum = Sum { value: alpha * sum.value, magnitude: alpha.abs() * sum.magnitude };
        sum.add(r.map_or(0.0, |r| f64::from(beta) * f64::from(r[index])));
        sum
    };
    product.iter().enumerate().map(scaled).collect()
}

/// Stacks take sizes that are multiples of 4 where the form wants vectors.
fn stack_products(kernel: Kernel) -> impl Iterator<Item = (usize, usize, usize)> {
    let vector = kernel.is_vector();
    products(kernel).into_iter().map(move |(m, k, n)| (m, k, if vector { n.next_multiple_of(4) } else { n }))
}

#[test]
fn products_of_stacks_with_turned_right_sides_are_their_twin() {
    for kernel in forms(Op::Nt).map(Kernel::of_stacks) {
        for (m, k, n) in stack_products(kernel) {
            for with_r in [false, true] {
                let factors = [-1.5, 0.75];
                let [x, w, r] = [(1, m * k), (3, n * k), (5, m * n)]
                    .map(|(seed, count)| [noise(seed, count), noise(seed + 1, count)]);
                let apart = [m * k + 4, n * k + 8, m * n + 4];
                let mut bench = Bench::of(kernel);
                let left = stack(&mut bench, [&x[0], &x[1]], apart[0]);
                let right = stack(&mut bench, [&w[0], &w[1]], apart[1]);
                let r_at = if with_r { stack(&mut bench, [&r[0], &r[1]], apart[2]) } else { NONE };
                let y = bench.room(Memory::Arena, apart[2] + m * n);
                let arguments = [m as u32, k as u32, left, NONE, n as u32, right, y];
                let arguments = stacked(arguments, apart, factors, r_at);
                let mut outcome = bench.run(kernel, 16, &arguments, grid(kernel, n, m, 2));
                for z in 0..2 {
                    let product = twin::gemm_nt((m, k, n), &x[z], &w[z], None);
                    let expected = combined(&product, factors, with_r.then_some(&r[z]));
                    outcome = outcome.sums("Y", Memory::Arena, y + (z * apart[2]) as u32, &expected);
                }
                outcome.nothing_else();
            }
        }
    }
}

#[test]
fn products_of_stacks_are_their_twin() {
    for kernel in forms(Op::Nn).map(Kernel::of_stacks) {
        for (m, k, n) in stack_products(kernel) {
            for with_r in [false, true] {
                let factors = [2.0, -0.5];
                let [x, w, r] = [(1, m * n), (3, n * k), (5, m * k)]
                    .map(|(seed, count)| [noise(seed, count), noise(seed + 1, count)]);
                let apart = [m * n + 4, n * k + 8, m * k + 4];
                let mut bench = Bench::of(kernel);
                let left = stack(&mut bench, [&x[0], &x[1]], apart[0]);
                let right = stack(&mut bench, [&w[0], &w[1]], apart[1]);
                let r_at = if with_r { stack(&mut bench, [&r[0], &r[1]], apart[2]) } else { NONE };
                let y = bench.room(Memory::Arena, apart[2] + m * k);
                let arguments = [m as u32, k as u32, y, 1, n as u32, right, left];
                let arguments = stacked(arguments, apart, factors, r_at);
                let mut outcome = bench.run(kernel, 16, &arguments, grid(kernel, k, m, 2));
                for z in 0..2 {
                    let product = twin::gemm_nn(m, k, &[(n, x[z].clone(), w[z].clone())], None);
                    let expected = combined(&product, factors, with_r.then_some(&r[z]));
                    outcome = outcome.sums("Y", Memory::Arena, y + (z * apart[2]) as u32, &expected);
                }
                outcome.nothing_else();
            }
        }
    }
}
