//! Measures which form of each heavy kernel is fastest on this device. A form counts only if it computes what the plain
//! one does: drivers' faults in rare operations are found here, not in a run.

use shoal_learn::EngineError;
use web_time::Instant;

use crate::{
    device::Gpu,
    forms::{Forms, Op},
    kernels::Kernel,
    pipelines::{Pipelines, bind},
    plan::{ARGUMENTS, NONE, Shape},
};

/// All measuring together; forms that were not reached by then are not taken.
const BUDGET_MS: f64 = 1500.0;
/// A measurement is long enough when it takes this long.
const ENOUGH_MS: f64 = 4.0;
const REPEATS_MAX: u32 = 64;
const TRIAL_ROWS: u32 = 256;
/// Largest relative difference of two forms' sums.
const TOLERANCE: f32 = 1e-3;

/// One dispatch on noise, and where its result lies.
struct Trial {
    arguments: [u32; ARGUMENTS],
    /// Values across and down, and parts; or threads.
    extent: [u32; 3],
    arena: usize,
    params: usize,
    grads: usize,
    /// Start and length in the arena; in the gradients for `Tn`.
    result: (usize, usize),
}

/// The fastest form of each operation for a model of this shape.
///
/// What was compiled on the way is left in `pipelines`.
pub(crate) async fn fastest(gpu: &Gpu, shape: Shape, pipelines: &mut Pipelines) -> Result<Forms, EngineError> {
    let mut forms = Forms::likeliest(shape, gpu.traits);
    let started = Instant::now();
    for op in Op::ALL {
        let candidates = op.candidates(shape, gpu.traits);
        let (Some(plain), true) = (candidates.last().copied(), candidates.len() > 1) else { continue };
        let trial = trial(op, shape);
        let bench = Bench::new(gpu, &trial, pipelines.layout());
        let expected = bench.result(pipelines.get(&gpu.device, plain)?, plain, &trial, op).await?;
        let mut best = f64::MAX;
        for kernel in candidates {
            // What likely loses is not tried when time is short, but nothing is taken unchecked.
            let late = started.elapsed().as_secs_f64() * 1e3 > BUDGET_MS && best < f64::MAX;
            if late {
                continue;
            }
            let pipeline = pipelines.get(&gpu.device, kernel)?;
            if !same(&bench.result(pipeline, kernel, &trial, op).await?, &expected) {
                continue;
            }
            let ms = bench.least_ms(pipeline, grid(kernel, &trial, op)).await?;
            if ms < best {
                best = ms;
                forms.set(op, kernel);
            }
        }
    }
    Ok(forms)
}

fn same(got: &[f32], expected: &[f32]) -> bool {
    let largest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    got.len() == expected.len() && got.iter().zip(expected).all(|(a, b)| (a - b).abs() <= TOLERANCE * largest)
}

/// A smaller problem of the model's kind, so that a slow device is not held up.
fn trial(op: Op, shape: Shape) -> Trial {
    let m = shape.rows.min(TRIAL_ROWS);
    let (k, n) = (shape.hidden.min(1024), shape.inner.min(1024));
    let (mk, mn, nk) = ((m * k) as usize, (m * n) as usize, (n * k) as usize);
    let mut arguments = [0; ARGUMENTS];
    let mut set = |values: &[u32]| arguments[..values.len()].copy_from_slice(values);
    match op {
        Op::Nt => {
            set(&[m, k, 0, NONE, n, 0, m * k]);
            Trial { arguments, extent: [n, m, 1], arena: mk + mn, params: nk, grads: 4, result: (mk, mn) }
        }
        Op::Nn => {
            set(&[m, k, m * n, 1, n, 0, 0]);
            Trial { arguments, extent: [k, m, 1], arena: mk + mn, params: nk, grads: 4, result: (mn, mk) }
        }
        Op::Tn => {
            set(&[m, k, 0, 0, n, 0, m * k]);
            Trial { arguments, extent: [k, n, 1], arena: mk + mn, params: 4, grads: nk, result: (0, nk) }
        }
        Op::Norm => {
            let y = (m * k).next_multiple_of(4);
            let rstd = 2 * y;
            set(&[m, k, 0, 0, y, rstd, 1e-5_f32.to_bits()]);
            let arena = (rstd + m) as usize;
            Trial { arguments, extent: [m, 1, 1], arena, params: k as usize, grads: 4, result: (y as usize, mk) }
        }
        Op::NormDx => {
            let size = (m * k).next_multiple_of(4);
            set(&[m, k, 0, 0, size, 3 * size, 2 * size, 0]);
            let arena = (3 * size + m) as usize;
            Trial { arguments, extent: [m, 1, 1], arena, params: k as usize, grads: 4, result: (2 * size as usize, mk) }
        }
        Op::CrossEntropy => {
            let cols = shape.vocab.min(4096);
            let count = m * cols;
            set(&[m, cols, 0, count, cols]);
            Trial {
                arguments,
                extent: [m, 1, 1],
                arena: (count + m) as usize,
                params: 4,
                grads: 4,
                result: (0, count as usize),
            }
        }
        Op::Attention | Op::AttentionDq | Op::AttentionDkv => attention(op, shape),
    }
}

fn attention(op: Op, shape: Shape) -> Trial {
    let context = if shape.context.is_multiple_of(4) { shape.context.min(256) } else { shape.context };
    let batch = shape.batch.min(2);
    let count = |heads: u32| (batch * context * heads * shape.head).next_multiple_of(4);
    let (q, k) = (count(shape.heads), count(shape.keys));
    let rows = (batch * context * shape.heads).next_multiple_of(4);
    // Q, K, V, then O or dK, log-sum-exp, dO, delta, dQ or dV, table; noise serves for all that is read.
    let places = [0, q, q + k, q + 2 * k, 2 * q + 2 * k, 2 * q + 2 * k + rows];
    let [q_at, k_at, v_at, o, lse, d_o] = places;
    let delta = d_o + q;
    let out = delta + rows;
    let table = out + q.max(k);
    let sizes = [batch, context, shape.heads, shape.keys];
    let mut arguments = [0; ARGUMENTS];
    let rest: &[u32] = match op {
        Op::Attention => &[q_at, k_at, v_at, o, lse],
        _ => &[q_at, k_at, v_at, o, lse, d_o, delta, out, table],
    };
    arguments[..4].copy_from_slice(&sizes);
    arguments[4..4 + rest.len()].copy_from_slice(rest);
    let (threads, result) = match op {
        Op::Attention => (batch * context * shape.heads, (o as usize, q as usize)),
        Op::AttentionDq => (batch * context * shape.heads, (out as usize, q as usize)),
        _ => (batch * context * shape.keys, (out as usize, k as usize)),
    };
    let arena = (table + context * shape.head) as usize;
    Trial { arguments, extent: [threads, 1, 1], arena, params: 4, grads: 4, result }
}

/// Buffers of noise for a trial.
struct Bench<'a> {
    gpu: &'a Gpu,
    group: wgpu::BindGroup,
    arena: wgpu::Buffer,
    grads: wgpu::Buffer,
    noise: Vec<f32>,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu, trial: &Trial, layout: &wgpu::BindGroupLayout) -> Self {
        let noise = noise(trial.arena.max(trial.params));
        // The token buffer holds zeros: every target is the first of the vocabulary.
        let storage = [trial.params, trial.grads, 4, 4, trial.arena, 2 * TRIAL_ROWS as usize, 4]
            .map(|values| gpu.storage("trial", values));
        gpu.queue.write_buffer(&storage[0], 0, bytemuck::cast_slice(&noise[..trial.params]));
        let uniform = wgpu::BufferUsages::UNIFORM;
        let arguments = gpu.buffer("trial", ARGUMENTS as u64 * 4, uniform);
        gpu.queue.write_buffer(&arguments, 0, bytemuck::cast_slice(&trial.arguments));
        let step = gpu.buffer("trial", size_of::<crate::pipelines::StepUniform>() as u64, uniform);
        let group = bind(&gpu.device, layout, &arguments, &step, &storage);
        let [_, grads, _, _, arena, ..] = storage;
        Self { gpu, group, arena, grads, noise }
    }

    /// What the kernel makes of the noise.
    async fn result(
        &self,
        pipeline: &wgpu::ComputePipeline,
        kernel: Kernel,
        trial: &Trial,
        op: Op,
    ) -> Result<Vec<f32>, EngineError> {
        self.gpu.queue.write_buffer(&self.arena, 0, bytemuck::cast_slice(&self.noise[..trial.arena]));
        self.run(pipeline, grid(kernel, trial, op), 1);
        let (start, length) = trial.result;
        let buffer = if op == Op::Tn { &self.grads } else { &self.arena };
        self.gpu.read(buffer, start, length).await
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

    fn run(&self, pipeline: &wgpu::ComputePipeline, grid: [u32; 3], repeats: u32) {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &self.group, &[0]);
            for _ in 0..repeats {
                pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
            }
        }
        self.gpu.queue.submit([encoder.finish()]);
    }
}

fn grid(kernel: Kernel, trial: &Trial, op: Op) -> [u32; 3] {
    let [wide, high, parts] = trial.extent;
    match op {
        Op::Nt | Op::Nn | Op::Tn => {
            let [across, down] = kernel.tile();
            [wide.div_ceil(across), high.div_ceil(down), parts]
        }
        Op::Norm | Op::NormDx | Op::CrossEntropy if !kernel.is_row() => crate::plan::fold(wide),
        _ => crate::plan::fold(wide.div_ceil(64)),
    }
}

/// Values in [-0.5, 0.5): what they are does not matter, only that they are not all alike.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}
