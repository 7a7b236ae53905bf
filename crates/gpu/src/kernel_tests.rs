//! Each kernel alone, on the device, against its twin on the CPU: one dispatch, then everything that it may have
//! touched is read back. What a test does not expect to change must not have changed by a single bit.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{LazyLock, Mutex, PoisonError};

use pollster::block_on;

use crate::{
    device::Gpu,
    forms::Op,
    kernels::Kernel,
    pipelines::{StepUniform, bind, bind_layout, pipeline},
    plan::{ARGUMENTS, NONE},
    twin::{self, Adam, Attention, Sum},
};

/// Opening a device takes longer than all these tests; its fault log is one, so tests take turns.
static GPU: LazyLock<Mutex<Gpu>> = LazyLock::new(|| {
    let gpu = block_on(Gpu::open());
    Mutex::new(
        gpu.expect("these tests need a Vulkan device; on Debian, `apt-get install mesa-vulkan-drivers` brings one"),
    )
});

/// Fills what no test may write.
const FENCE: f32 = 777.0;
const SLOT: u32 = 3;
const EPS: f32 = 1e-5;

/// The storage buffers that kernels may write, in the order of `common.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Params,
    Grads,
    Moment1,
    Moment2,
    Arena,
    Losses,
    Stats,
}

const MEMORIES: [Memory; 7] =
    [Memory::Params, Memory::Grads, Memory::Moment1, Memory::Moment2, Memory::Arena, Memory::Losses, Memory::Stats];

/// What a dispatch starts from.
struct Bench {
    memories: [Vec<f32>; 7],
    tokens: Vec<u32>,
    step: StepUniform,
    /// Tensors start at multiples of this.
    align: usize,
}

impl Bench {
    fn new() -> Self {
        // Odd places: plain kernels may not rely on alignment.
        let memories = [(); 7].map(|()| vec![FENCE; 3]);
        Self { memories, tokens: Vec::new(), step: StepUniform { slot: SLOT, ..Default::default() }, align: 1 }
    }

    /// For a kernel in any form: vector forms need places that are multiples of 4.
    fn of(kernel: Kernel) -> Self {
        let align = if kernel.is_vector() { 4 } else { 1 };
        Self { align, ..Self::new() }
    }

    /// Puts a tensor in its own place between fences.
    fn put(&mut self, memory: Memory, values: &[f32]) -> u32 {
        let place = &mut self.memories[memory as usize];
        place.resize(place.len().next_multiple_of(self.align), FENCE);
        let at = place.len();
        place.extend_from_slice(values);
        place.extend([FENCE; 5]);
        at as u32
    }

    fn arena(&mut self, values: &[f32]) -> u32 {
        self.put(Memory::Arena, values)
    }

    fn stats(&mut self, values: &[f32]) -> u32 {
        self.put(Memory::Stats, values)
    }

    /// Room for a result.
    fn room(&mut self, memory: Memory, count: usize) -> u32 {
        self.put(memory, &vec![FENCE; count])
    }

    /// One dispatch; `head` is the head size that is written into the kernel.
    fn run(self, kernel: Kernel, head: usize, arguments: &[u32], grid: [u32; 3]) -> Outcome {
        let gpu = GPU.lock().unwrap_or_else(PoisonError::into_inner);
        let upload = |bytes: &[u8], usage| {
            let buffer = gpu.buffer("test", bytes.len() as u64, usage);
            gpu.queue.write_buffer(&buffer, 0, bytes);
            buffer
        };
        let storage = wgpu::BufferUsages::STORAGE;
        let mut buffers: Vec<_> =
            self.memories.iter().map(|values| upload(bytemuck::cast_slice(values), storage)).collect();
        buffers.insert(5, upload(bytemuck::cast_slice(&self.tokens), storage));
        let mut window = [0; ARGUMENTS];
        window[..arguments.len()].copy_from_slice(arguments);
        let window = upload(bytemuck::cast_slice(&window), wgpu::BufferUsages::UNIFORM);
        let step = upload(bytemuck::bytes_of(&self.step), wgpu::BufferUsages::UNIFORM);
        let layout = bind_layout(&gpu.device);
        let group = bind(&gpu.device, &layout, &window, &step, &buffers);
        let pipeline = pipeline(&gpu.device, &layout, kernel, head).expect("a kernel that compiles");
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[0]);
            pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        }
        gpu.queue.submit([encoder.finish()]);
        buffers.remove(5);
        let mut after = self.memories.clone();
        for (buffer, values) in buffers.iter().zip(&mut after) {
            *values = block_on(gpu.read(buffer, 0, values.len())).expect("the dispatch runs");
        }
        Outcome { kernel, before: self.memories, after }
    }
}

/// What a dispatch left behind.
struct Outcome {
    kernel: Kernel,
    before: [Vec<f32>; 7],
    after: [Vec<f32>; 7],
}

impl Outcome {
    /// Compares a tensor with sums of terms, to the kernel's tolerance relative to the terms' magnitudes.
    fn sums(mut self, what: &str, memory: Memory, at: u32, expected: &[Sum]) -> Self {
        let tolerance = tolerance(self.kernel);
        for (index, sum) in expected.iter().enumerate() {
            let place = at as usize + index;
            let got = self.after[memory as usize][place];
            let off = (f64::from(got) - sum.value).abs();
            let name = self.kernel.name();
            let expected = sum.value;
            assert!(
                off <= tolerance * sum.magnitude,
                "{name}: {what}[{index}] is {got}, not {expected}: off by {off:e}"
            );
            self.after[memory as usize][place] = self.before[memory as usize][place];
        }
        self
    }

    /// Compares rows that lie `stride` apart; what is between them does not matter.
    fn rows(mut self, what: &str, at: u32, expected: &[Sum], cols: usize, stride: usize) -> Self {
        for (row, expected) in expected.chunks(cols).enumerate() {
            let start = at + (row * stride) as u32;
            self = self.sums(&format!("{what}[{row}]"), Memory::Arena, start, expected);
            let gap = start as usize + cols..start as usize + stride;
            self.after[Memory::Arena as usize][gap.clone()].copy_from_slice(&self.before[Memory::Arena as usize][gap]);
        }
        self
    }

    /// Compares a tensor, to the kernel's tolerance relative to the larger of 1 and the value.
    fn values(self, what: &str, memory: Memory, at: u32, expected: &[f64]) -> Self {
        let sum = |value: &f64| Sum { value: *value, magnitude: value.abs().max(1.0) };
        let expected: Vec<Sum> = expected.iter().map(sum).collect();
        self.sums(what, memory, at, &expected)
    }

    fn nothing_else(self) {
        for memory in MEMORIES {
            let pairs = self.before[memory as usize].iter().zip(&self.after[memory as usize]);
            for (index, (before, after)) in pairs.enumerate() {
                let same = before.to_bits() == after.to_bits();
                assert!(same, "{}: {memory:?}[{index}] went from {before} to {after}", self.kernel.name());
            }
        }
    }
}

/// The tolerance that the kernel's header promises.
fn tolerance(kernel: Kernel) -> f64 {
    let Some((_, rest)) = kernel.text().split_once("Tolerance ") else { return 0.0 };
    let number = rest.split_whitespace().next().expect("a number follows");
    number.trim_end_matches('.').parse().expect("it is a number")
}

/// Values in [-1, 1), from a linear congruential generator.
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = u64::from(seed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    for _ in 0..4 {
        next();
    }
    (0..count).map(|_| next()).collect()
}

fn scaled(seed: u32, count: usize, scale: f32) -> Vec<f32> {
    noise(seed, count).into_iter().map(|value| value * scale).collect()
}

fn picks(seed: u32, count: usize, below: u32) -> Vec<u32> {
    noise(seed, count).into_iter().map(|value| (value.abs() * 1e4) as u32 % below).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

/// Workgroups in two dimensions, mostly with some to spare, as in the largest grids.
fn folded(groups: usize) -> [u32; 3] {
    if groups < 3 { [groups as u32, 1, 1] } else { [3, groups.div_ceil(3) as u32, 1] }
}

fn threads(count: usize) -> [u32; 3] {
    folded(count.div_ceil(64))
}

/// (rows, columns): one value, one row, less and more than a workgroup, production's.
const SHAPES: [(usize, usize); 6] = [(1, 1), (1, 64), (7, 5), (5, 65), (19, 100), (128, 256)];

/// (M, K, N) for plain forms: as above, and the sides of a tile of 32 from both directions.
const PRODUCTS: [(usize, usize, usize); 8] =
    [(1, 1, 1), (1, 48, 5), (33, 1, 3), (7, 5, 9), (31, 33, 34), (32, 32, 32), (57, 48, 61), (128, 256, 192)];

/// For vector forms, whose M and K are multiples of 4: the least, N of every remainder, the sides of a tile of 64.
const VECTOR_PRODUCTS: [(usize, usize, usize); 8] =
    [(4, 4, 1), (4, 48, 5), (36, 4, 3), (8, 12, 10), (32, 36, 35), (64, 64, 64), (60, 68, 61), (128, 256, 192)];

fn products(kernel: Kernel) -> [(usize, usize, usize); 8] {
    if kernel.is_vector() { VECTOR_PRODUCTS } else { PRODUCTS }
}

/// Distance of rows of `n` values as a kernel expects it.
fn stride(kernel: Kernel, n: usize) -> usize {
    if kernel.is_vector() { n.next_multiple_of(4) } else { n }
}

/// Rows of `n` values, `stride` apart, with zeros between.
fn spread(values: &[f32], n: usize, stride: usize) -> Vec<f32> {
    let row = |row: &[f32]| [row, &vec![0.0; stride - n]].concat();
    values.chunks(n).flat_map(row).collect()
}

/// The forms of an operation that this device can run.
fn forms(op: Op) -> impl Iterator<Item = Kernel> {
    let quads = GPU.lock().unwrap_or_else(PoisonError::into_inner).traits.quads;
    op.kernels().iter().copied().filter(move |kernel| quads || !kernel.needs_quads())
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

/// The shapes and the grid of a kernel that works on rows.
fn rows_of(kernel: Kernel) -> impl Iterator<Item = (usize, usize, [u32; 3])> {
    let shapes = SHAPES.into_iter().map(move |(rows, cols)| {
        let cols = if kernel.is_vector() { cols.next_multiple_of(4) } else { cols };
        (rows, cols, if kernel.is_row() { threads(rows) } else { folded(rows) })
    });
    shapes.collect::<Vec<_>>().into_iter()
}

#[test]
fn rmsnorm_is_its_twin() {
    for kernel in forms(Op::Norm) {
        for (rows, cols, grid) in rows_of(kernel) {
            let mut bench = Bench::of(kernel);
            let (x, w) = (scaled(1, rows * cols, 3.0), noise(2, cols));
            let (expected, expected_rstd) = twin::rmsnorm(cols, &x, &w, EPS);
            let (x, w) = (bench.arena(&x), bench.put(Memory::Params, &w));
            let (y, rstd) = (bench.room(Memory::Arena, rows * cols), bench.room(Memory::Stats, rows));
            let arguments = [rows as u32, cols as u32, x, w, y, rstd, EPS.to_bits()];
            let outcome = bench.run(kernel, 16, &arguments, grid);
            let outcome = outcome.values("Y", Memory::Arena, y, &expected);
            outcome.values("rstd", Memory::Stats, rstd, &expected_rstd).nothing_else();
        }
    }
}

#[test]
fn rmsnorm_dx_is_its_twin() {
    for kernel in forms(Op::NormDx) {
        for (adds, (rows, cols, grid)) in
            [false, true].into_iter().flat_map(|adds| rows_of(kernel).map(move |row| (adds, row)))
        {
            let (x, w, dy) = (scaled(1, rows * cols, 2.0), noise(2, cols), noise(3, rows * cols));
            let old = if adds { noise(4, rows * cols) } else { vec![0.0; rows * cols] };
            let rstds = narrow(&twin::rmsnorm(cols, &x, &w, EPS).1);
            let mut expected = twin::rmsnorm_backward(cols, &x, &w, &rstds, &dy).0;
            expected.iter_mut().zip(&old).for_each(|(dx, old)| *dx += f64::from(*old));
            let mut bench = Bench::of(kernel);
            let weight = bench.put(Memory::Params, &w);
            let at = [bench.arena(&x), bench.arena(&dy), bench.stats(&rstds)];
            let dx = if adds { bench.arena(&old) } else { bench.room(Memory::Arena, rows * cols) };
            let arguments = [rows as u32, cols as u32, at[0], weight, at[1], at[2], dx, u32::from(adds)];
            let outcome = bench.run(kernel, 16, &arguments, grid);
            outcome.values("dX", Memory::Arena, dx, &expected).nothing_else();
        }
    }
}

#[test]
fn rmsnorm_dw_is_its_twin() {
    for (rows, cols) in SHAPES {
        let (x, w, dy) = (scaled(1, rows * cols, 2.0), noise(2, cols), noise(3, rows * cols));
        let rstds = narrow(&twin::rmsnorm(cols, &x, &w, EPS).1);
        let expected = twin::rmsnorm_backward(cols, &x, &w, &rstds, &dy).1;
        let mut bench = Bench::new();
        let dw = bench.room(Memory::Grads, cols);
        let at = [bench.arena(&x), bench.arena(&dy), bench.stats(&rstds)];
        let arguments = [rows as u32, cols as u32, at[0], dw, at[1], at[2]];
        let outcome = bench.run(Kernel::RmsNormDw, 16, &arguments, [cols.div_ceil(64) as u32, 1, 1]);
        outcome.sums("dW", Memory::Grads, dw, &expected).nothing_else();
    }
}

/// One token, one head; grouped queries 4:2 and 8:2 on odd contexts; a context of one; sizes for vectors; production's.
const ATTENTIONS: [Attention; 8] = [
    Attention { batch: 1, context: 1, heads: 1, keys: 1, head: 2 },
    Attention { batch: 3, context: 1, heads: 4, keys: 2, head: 8 },
    Attention { batch: 2, context: 19, heads: 4, keys: 2, head: 12 },
    Attention { batch: 1, context: 7, heads: 8, keys: 2, head: 10 },
    Attention { batch: 3, context: 33, heads: 3, keys: 3, head: 16 },
    Attention { batch: 4, context: 64, heads: 4, keys: 4, head: 32 },
    Attention { batch: 1, context: 4, heads: 8, keys: 2, head: 8 },
    Attention { batch: 3, context: 68, heads: 6, keys: 2, head: 24 },
];

/// The forms of an operation on attention that fit its sizes and this device.
fn attentions(op: Op) -> impl Iterator<Item = (Kernel, Attention)> {
    let fits = move |kernel: &Kernel, shape: &Attention| {
        let fours = !kernel.needs_quads() && op != Op::AttentionDkv || shape.context.is_multiple_of(4);
        !kernel.is_vector() || shape.head.is_multiple_of(8) && fours
    };
    let pairs = forms(op).flat_map(|kernel| ATTENTIONS.map(|shape| (kernel, shape)));
    pairs.filter(move |(kernel, shape)| fits(kernel, shape))
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
        let outcome = bench.run(kernel, shape.head, &arguments, threads(expected_lse.len()));
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
        let outcome = bench.run(kernel, shape.head, &arguments, threads(lse.len()));
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
        let outcome = bench.run(kernel, shape.head, &arguments, threads(k.len() / shape.head));
        let outcome = outcome.values("dK", Memory::Arena, dk, &expected.dk);
        outcome.values("dV", Memory::Arena, dv, &expected.dv).nothing_else();
    }
}

#[test]
fn swiglu_and_its_backward_are_their_twins() {
    for count in [1, 63, 65, 2600, 32_768] {
        let (gate, up, dy) = (scaled(1, count, 6.0), noise(2, count), noise(3, count));
        let mut bench = Bench::new();
        let at = [bench.arena(&gate), bench.arena(&up)];
        let y = bench.room(Memory::Arena, count);
        let outcome = bench.run(Kernel::SwiGlu, 16, &[count as u32, at[0], at[1], y], threads(count));
        outcome.values("Y", Memory::Arena, y, &twin::swiglu(&gate, &up)).nothing_else();

        let (d_gate, d_up) = twin::swiglu_backward(&gate, &up, &dy);
        let mut bench = Bench::new();
        let at = [bench.arena(&gate), bench.arena(&up), bench.arena(&dy)];
        let arguments = [count as u32, at[0], at[1], at[2]];
        let outcome = bench.run(Kernel::SwiGluBackward, 16, &arguments, threads(count));
        let outcome = outcome.values("d gate", Memory::Arena, at[0], &d_gate);
        outcome.values("d up", Memory::Arena, at[1], &d_up).nothing_else();
    }
}

#[test]
fn embed_is_its_twin() {
    for (rows, cols) in SHAPES {
        let (table, tokens) = (noise(1, 37 * cols), picks(2, rows, 37));
        let expected = twin::embed(cols, &table, &tokens);
        let mut bench = Bench::new();
        bench.tokens = tokens;
        let (e, x) = (bench.put(Memory::Params, &table), bench.room(Memory::Arena, rows * cols));
        let outcome = bench.run(Kernel::Embed, 16, &[rows as u32, cols as u32, e, x], threads(rows * cols));
        outcome.values("X", Memory::Arena, x, &expected).nothing_else();
    }
}

#[test]
fn embed_backward_is_its_twin() {
    for ((rows, cols), vocab) in SHAPES.into_iter().zip([1, 7, 3, 300, 64, 65]) {
        for adds in [false, true] {
            let (dx, tokens) = (noise(1, rows * cols), picks(2, rows, vocab as u32));
            let old = noise(3, vocab * cols);
            let zeros = vec![0.0; old.len()];
            let expected = twin::embed_backward(cols, &tokens, &dx, if adds { &old } else { &zeros });
            let mut bench = Bench::new();
            bench.tokens = tokens;
            let (e, dx) = (bench.put(Memory::Grads, &old), bench.arena(&dx));
            let arguments = [rows as u32, cols as u32, e, dx, vocab as u32, u32::from(adds)];
            let outcome = bench.run(Kernel::EmbedBackward, 16, &arguments, threads(vocab));
            outcome.sums("dE", Memory::Grads, e, &expected).nothing_else();
        }
    }
}

#[test]
fn cross_entropy_is_its_twin() {
    for kernel in forms(Op::CrossEntropy) {
        for (scale, (rows, vocab, grid)) in
            [4.0, 200.0].into_iter().flat_map(|scale| rows_of(kernel).map(move |row| (scale, row)))
        {
            let (logits, targets) = (scaled(1, rows * vocab, scale), picks(2, rows, vocab as u32));
            let (expected_losses, expected_gradient) = twin::cross_entropy(vocab, &logits, &targets);
            let mut bench = Bench::new();
            bench.tokens = [vec![0; rows], targets].concat();
            // Rows for vectors: what is after the vocabulary is noise before and zero after.
            let stride = vocab.next_multiple_of(4);
            let wide = |fill: f64, values: &[f64]| -> Vec<f64> {
                let row = |row: &[f64]| [row, &vec![fill; stride - vocab]].concat();
                values.chunks(vocab).flat_map(row).collect()
            };
            let before: Vec<f64> = logits.iter().copied().map(f64::from).collect();
            let (l, losses) = (bench.arena(&narrow(&wide(9.0, &before))), bench.room(Memory::Stats, rows));
            let arguments = [rows as u32, vocab as u32, l, losses, stride as u32];
            let outcome = bench.run(kernel, 16, &arguments, grid);
            let outcome = outcome.values("loss", Memory::Stats, losses, &expected_losses);
            outcome.values("dL", Memory::Arena, l, &wide(0.0, &expected_gradient)).nothing_else();
        }
    }
}

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
        let (loss, factor) = twin::finish(&losses, &squares, clip);
        let mut bench = Bench::new();
        bench.step.clip = clip;
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

#[test]
fn every_kernel_has_the_twin_that_it_names_and_a_test_here() {
    for kernel in Kernel::ALL {
        let (_, rest) = kernel.text().split_once("// CPU twin: twin::").expect("a kernel names its twin");
        let twin = rest.split('.').next().unwrap();
        assert!(include_str!("twin.rs").contains(&format!("pub(crate) fn {twin}(")), "no twin {twin}");
        let op = Op::ALL.into_iter().find(|op| op.kernels().contains(kernel));
        let run = op.map_or(format!("bench.run(Kernel::{kernel:?}, "), |op| format!("s(Op::{op:?})"));
        let tests = include_str!("kernel_tests.rs").replace("bench.run(\n", "bench.run(");
        assert!(tests.contains(&run), "no test runs {kernel:?}");
    }
}
