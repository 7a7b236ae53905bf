//! Each kernel alone, on the device, against its twin on the CPU: one dispatch, then everything that it may have
//! touched is read back. What a test does not expect to change must not have changed by a single bit.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attention;
mod nets;
mod products;
mod rows;
mod update;

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
        let memories = self.memories.each_ref().map(|values| upload(bytemuck::cast_slice(values), storage));
        let tokens = upload(bytemuck::cast_slice(&self.tokens), storage);
        let [params, grads, first, second, arena, losses, stats] = &memories;
        let buffers = [params, grads, first, second, arena, &tokens, losses, stats];
        let mut window = [0; ARGUMENTS];
        window[..arguments.len()].copy_from_slice(arguments);
        let window = upload(bytemuck::cast_slice(&window), wgpu::BufferUsages::UNIFORM);
        let step = upload(bytemuck::bytes_of(&self.step), wgpu::BufferUsages::UNIFORM);
        let layout = bind_layout(&gpu.device);
        let group = bind(&gpu.device, &layout, &window, &step, buffers);
        let pipeline = pipeline(&gpu.device, &layout, kernel, head).expect("a kernel that compiles");
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[0, 0]);
            pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        }
        gpu.queue.submit([encoder.finish()]);
        let mut after = self.memories.clone();
        for (buffer, values) in memories.iter().zip(&mut after) {
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

/// Distance of rows of `n` values as a kernel expects it.
fn stride(kernel: Kernel, n: usize) -> usize {
    if kernel.is_vector() { n.next_multiple_of(4) } else { n }
}

/// The forms of an operation that this device can run.
fn forms(op: Op) -> impl Iterator<Item = Kernel> {
    let quads = GPU.lock().unwrap_or_else(PoisonError::into_inner).traits.quads;
    op.kernels().iter().copied().filter(move |kernel| quads || !kernel.needs_quads())
}

/// The shapes and the grid of a kernel that works on rows.
fn rows_of(kernel: Kernel) -> impl Iterator<Item = (usize, usize, [u32; 3])> {
    let shapes = SHAPES.into_iter().map(move |(rows, cols)| {
        let cols = if kernel.is_vector() { cols.next_multiple_of(4) } else { cols };
        (rows, cols, if kernel.is_row() { threads(rows) } else { folded(rows) })
    });
    shapes.collect::<Vec<_>>().into_iter()
}

/// The texts of the tests, to see that none is missing.
const TESTS: [&str; 5] = [
    include_str!("attention.rs"),
    include_str!("nets.rs"),
    include_str!("products.rs"),
    include_str!("rows.rs"),
    include_str!("update.rs"),
];

#[test]
fn every_kernel_has_the_twin_that_it_names_and_a_test_here() {
    for kernel in Kernel::ALL {
        let (_, rest) = kernel.text().split_once("// CPU twin: twin::").expect("a kernel names its twin");
        let twin = rest.split('.').next().unwrap();
        assert!(
            concat!(include_str!("../twin.rs"), include_str!("../twin/nets.rs"))
                .contains(&format!("pub(crate) fn {twin}(")),
            "no twin {twin}"
        );
        let op = Op::ALL.into_iter().find(|op| op.kernels().contains(kernel));
        let run = if kernel.is_batch() {
            let op = if kernel.name().starts_with("BatchNt") { Op::Nt } else { Op::Nn };
            format!("s(Op::{op:?}).map(Kernel::of_stacks)")
        } else {
            op.map_or(format!("bench.run(Kernel::{kernel:?}, "), |op| format!("s(Op::{op:?})"))
        };
        let tests = TESTS.concat().replace("bench.run(\n", "bench.run(");
        assert!(tests.contains(&run), "no test runs {kernel:?}");
    }
}
