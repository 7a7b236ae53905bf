//! Measures which form of each heavy kernel is fastest on this device. A form counts only if it computes what the plain
//! one does: drivers' faults in rare operations are found here, not in a run.

use shoal_learn::EngineError;
use web_time::Instant;

use crate::{
    device::Gpu,
    forms::{Forms, Op},
    kernels::Kernel,
    pipelines::{Pipelines, bind},
    plan::{ARGUMENTS, NONE},
    shape::Shape,
};

/// All measuring together; forms that were not reached by then are not taken.
const BUDGET_MS: f64 = 1500.0;
/// A measurement is long enough when it takes this long.
const ENOUGH_MS: f64 = 4.0;
const REPEATS_MAX: u32 = 64;
const TRIAL_ROWS: u32 = 256;
/// Largest relative difference of two forms' sums.
const TOLERANCE: f32 = 1e-3;

/// One dispatch on noise.
#[derive(Default)]
pub(crate) struct Trial {
    arguments: [u32; ARGUMENTS],
    /// Values across and down, and parts; or rows; or heads of sequences, and their tokens.
    extent: [u32; 3],
    arena: u32,
    params: u32,
    grads: u32,
    stats: u32,
}

/// The fastest form of each operation for a model of this shape. On software adapters nothing is measured.
///
/// What was compiled on the way is left in `pipelines`.
pub(crate) async fn fastest(gpu: &Gpu, shape: Shape, pipelines: &mut Pipelines) -> Result<Forms, EngineError> {
    let mut forms = Forms::likeliest(shape, gpu.traits);
    let started = Instant::now();
    for op in Op::ALL {
        let mut candidates = op.candidates(shape, gpu.traits);
        if candidates.len() < 2 {
            continue;
        }
        let late = started.elapsed().as_secs_f64() * 1e3 > BUDGET_MS;
        if late {
            // The form that does the least that is rare is checked, and not compared.
            candidates.drain(..candidates.len() - 1);
        }
        forms.set(op, fastest_of(gpu, op, &candidates, trial(op, shape), pipelines).await?);
    }
    Ok(forms)
}

/// The fastest of these forms that compile and give what the plain form gives.
pub(crate) async fn fastest_of(
    gpu: &Gpu,
    op: Op,
    candidates: &[Kernel],
    trial: Trial,
    pipelines: &mut Pipelines,
) -> Result<Kernel, EngineError> {
    let plain = op.kernels()[0];
    let bench = Bench::new(gpu, trial, pipelines.layout());
    let expected = bench.result(pipelines.get(&gpu.device, plain)?, grid(plain, &bench.trial, op)).await?;
    let (mut best, mut found) = (f64::MAX, None);
    for kernel in candidates {
        let grid = grid(*kernel, &bench.trial, op);
        // A form that a browser or a driver refuses is left out; what is wrong with the device itself ends all.
        let scopes =
            [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal].map(|it| gpu.device.push_error_scope(it));
        let pipeline = pipelines.get(&gpu.device, *kernel)?;
        let got = bench.result(pipeline, grid).await;
        let mut refused = false;
        for scope in scopes.into_iter().rev() {
            refused |= scope.pop().await.is_some();
        }
        if refused || !same(&got?, &expected, &bench.noise) {
            continue;
        }
        let ms = bench.least_ms(pipeline, grid).await?;
        if ms < best {
            (best, found) = (ms, Some(*kernel));
        }
    }
    found.ok_or_else(|| EngineError::Failed(format!("no form of {op:?} computes the same twice on {}", gpu.name)))
}

/// Whether two forms left the same behind: each buffer compared to the largest of what was written there.
fn same(got: &[Vec<f32>], expected: &[Vec<f32>], noise: &[f32]) -> bool {
    got.iter().zip(expected).all(|(got, expected)| {
        let written = expected.iter().zip(noise).filter(|(value, noise)| value.to_bits() != noise.to_bits());
        let largest = written.fold(0.0_f32, |most, (value, _)| most.max(value.abs()));
        got.iter().zip(expected).all(|(a, b)| (a - b).abs() <= TOLERANCE * largest)
    })
}

/// A smaller problem of the model's kind, so that a slow device is not held up.
pub(crate) fn trial(op: Op, shape: Shape) -> Trial {
    let m = shape.rows.min(TRIAL_ROWS);
    let (k, n) = (shape.hidden.min(1024), shape.inner.min(1024));
    let mut trial = Trial { extent: [m, 1, 1], ..Trial::default() };
    match op {
        Op::Nt | Op::Nn | Op::Tn => product(op, [m, k, n]),
        Op::Norm => {
            let size = (m * k).next_multiple_of(4);
            trial.set(&[m, k, 0, 0, size, 0, 1e-5_f32.to_bits()]);
            Trial { arena: 2 * size, params: k, stats: m, ..trial }
        }
        Op::NormDx => {
            let size = (m * k).next_multiple_of(4);
            trial.set(&[m, k, 0, 0, size, 0, 2 * size, 0]);
            Trial { arena: 3 * size, params: k, stats: m, ..trial }
        }
        Op::CrossEntropy => {
            let cols = shape.vocab.min(4096);
            trial.set(&[m, cols, 0, 0, cols, 0, m, m]);
            Trial { arena: m * cols, stats: m, ..trial }
        }
        Op::Attention | Op::AttentionDq | Op::AttentionDkv => attention(op, shape),
    }
}

/// A product between X [m, k] at the arena's start (NN: behind dY), dY or Y [m, n] and W [n, k], as a plan lays them out.
pub(crate) fn product(op: Op, [m, k, n]: [u32; 3]) -> Trial {
    let mut trial = Trial { arena: m * (k + n), params: n * k, ..Trial::default() };
    match op {
        Op::Nn => {
            trial.set(&[m, k, m * n, 1, n, 0, 0]);
            Trial { extent: [k, m, 1], ..trial }
        }
        Op::Tn => {
            trial.set(&[m, k, 0, 0, n, 0, m * k]);
            Trial { extent: [k, n, 1], params: 0, grads: n * k, ..trial }
        }
        _ => {
            trial.set(&[m, k, 0, NONE, n, 0, m * k]);
            Trial { extent: [n, m, 1], ..trial }
        }
    }
}

fn attention(op: Op, shape: Shape) -> Trial {
    let context = if shape.context.is_multiple_of(4) { shape.context.min(256) } else { shape.context };
    let batch = shape.batch.min(2);
    let count = |heads: u32| (batch * context * heads * shape.head).next_multiple_of(4);
    let (q, k) = (count(shape.heads), count(shape.keys));
    let rows = batch * context * shape.heads;
    // Q, K, V, then O or dK, dO, dQ or dV, table; noise serves for all that is read.
    let [q_at, k_at, v_at, o, d_o, out] = [0, q, q + k, q + 2 * k, 2 * q + 2 * k, 3 * q + 2 * k];
    let table = out + q.max(k);
    let sizes = [batch, context, shape.heads, shape.keys];
    let rest: &[u32] = match op {
        Op::Attention => &[q_at, k_at, v_at, o, 0],
        _ => &[q_at, k_at, v_at, o, 0, d_o, rows, out, table],
    };
    let heads = batch * if op == Op::AttentionDkv { shape.keys } else { shape.heads };
    let mut trial = Trial { extent: [heads, context, 1], ..Trial::default() };
    trial.set(&[&sizes[..], rest].concat());
    Trial { arena: table + context * shape.head, stats: 2 * rows, ..trial }
}

impl Trial {
    fn set(&mut self, arguments: &[u32]) {
        self.arguments[..arguments.len()].copy_from_slice(arguments);
    }
}

/// Buffers of noise for a trial.
pub(crate) struct Bench<'a> {
    gpu: &'a Gpu,
    pub trial: Trial,
    group: wgpu::BindGroup,
    /// All that a kernel may write, and how many values of it count.
    written: [(wgpu::Buffer, usize); 3],
    /// What every buffer that may be written holds before.
    pub noise: Vec<f32>,
    /// What the parameters hold.
    pub params: Vec<f32>,
}

impl<'a> Bench<'a> {
    pub fn new(gpu: &'a Gpu, trial: Trial, layout: &wgpu::BindGroupLayout) -> Self {
        let counts = [trial.params, trial.grads, 0, 0, trial.arena, 2 * TRIAL_ROWS, 0, trial.stats];
        let noise = noise(1, counts.into_iter().max().unwrap_or(0) as usize);
        let params = self::noise(2, trial.params as usize);
        // The token buffer holds zeros: every target is the first of the vocabulary.
        let storage = counts.map(|values| gpu.storage("trial", values as usize));
        gpu.queue.write_buffer(&storage[0], 0, bytemuck::cast_slice(&params));
        let uniform = wgpu::BufferUsages::UNIFORM;
        let arguments = gpu.buffer("trial", ARGUMENTS as u64 * 4, uniform);
        gpu.queue.write_buffer(&arguments, 0, bytemuck::cast_slice(&trial.arguments));
        let step = gpu.buffer("trial", size_of::<crate::pipelines::StepUniform>() as u64, uniform);
        let group = bind(&gpu.device, layout, &arguments, &step, storage.each_ref());
        let [_, grads, _, _, arena, _, _, stats] = storage;
        let written = [(grads, trial.grads), (arena, trial.arena), (stats, trial.stats)];
        Self { gpu, trial, group, written: written.map(|(buffer, count)| (buffer, count as usize)), noise, params }
    }

    /// All that may be written, after the kernel ran on the noise.
    pub async fn result(&self, pipeline: &wgpu::ComputePipeline, grid: [u32; 3]) -> Result<Vec<Vec<f32>>, EngineError> {
        for (buffer, count) in &self.written {
            self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&self.noise[..*count]));
        }
        self.run(pipeline, grid, 1);
        let mut all = Vec::new();
        for (buffer, count) in self.written.iter().filter(|(_, count)| *count > 0) {
            all.push(self.gpu.read(buffer, 0, *count).await?);
        }
        Ok(all)
    }

    /// The least milliseconds that the kernel took.
    async fn least_ms(&self, pipeline: &wgpu::ComputePipeline, grid: [u32; 3]) -> Result<f64, EngineError> {
        let (mut repeats, mut best) = (1, f64::MAX);
        loop {
            let started = Instant::now();
            self.run(pipeline, grid, repeats);
            self.gpu.finished().await?;
            let ms = started.elapsed().as_secs_f64() * 1e3;
            best = best.min(ms / f64::from(repeats));
            if ms >= ENOUGH_MS || repeats >= REPEATS_MAX {
                return Ok(best);
            }
            repeats *= 4;
        }
    }

    pub fn run(&self, pipeline: &wgpu::ComputePipeline, grid: [u32; 3], repeats: u32) {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &self.group, &[0, 0]);
            for _ in 0..repeats {
                pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
            }
        }
        self.gpu.queue.submit([encoder.finish()]);
    }
}

pub(crate) fn grid(kernel: Kernel, trial: &Trial, op: Op) -> [u32; 3] {
    let [wide, high, parts] = trial.extent;
    match op {
        Op::Nt | Op::Nn | Op::Tn => {
            let [across, down] = kernel.tile();
            [wide.div_ceil(across), high.div_ceil(down), parts]
        }
        Op::Attention | Op::AttentionDq | Op::AttentionDkv => crate::plan::fold(kernel.attention_groups(wide, high)),
        Op::Norm | Op::NormDx | Op::CrossEntropy if !kernel.is_row() => crate::plan::fold(wide),
        _ => crate::plan::fold(wide.div_ceil(64)),
    }
}

/// Values in [-0.5, 0.5): what they are does not matter, only that they are not all alike.
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}
