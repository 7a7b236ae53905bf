//! What `common.wgsl` declares, on the host's side: the uniforms, the bind group and the pipelines.

use std::collections::BTreeMap;

use shoal_learn::{EngineError, StepSettings};
use shoal_wire::manifest::{AdamW, MuonScale, Optimizer, Sgd};

use crate::{kernels::Kernel, plan::ARGUMENTS, warm::compile_all};

/// Dynamic offsets must be multiples of this on every WebGPU device.
pub(crate) const ARGUMENTS_STRIDE: usize = 256;

/// `Step` of `common.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct StepUniform {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    pub clip: f32,
    pub correction1: f32,
    pub correction2: f32,
    pub slot: u32,
    pub first_row: u32,
    pub adds: u32,
    pub foreign_squares: f32,
    pub nesterov: u32,
    pub matches_adamw: u32,
    pub momentum: f32,
    pub matrix_lr: f32,
}

impl StepUniform {
    pub fn of(settings: &StepSettings) -> Result<Self, EngineError> {
        if settings.step == 0 {
            return Err(EngineError::Failed("optimiser steps count from 1".to_owned()));
        }
        let clip = settings.optimizer.grad_clip().unwrap_or(0.0);
        let uniform = match &settings.optimizer {
            Optimizer::AdamW(adamw) => Self::adamw(adamw, settings.lr, settings.step),
            Optimizer::Sgd(Sgd { momentum, nesterov, weight_decay, .. }) => Self {
                lr: settings.lr,
                momentum: *momentum,
                nesterov: u32::from(*nesterov),
                weight_decay: *weight_decay,
                ..Self::default()
            },
            Optimizer::Muon(muon) => {
                let (adamw, lr) = settings.beside(muon);
                Self {
                    matrix_lr: settings.lr,
                    momentum: muon.momentum,
                    nesterov: u32::from(muon.nesterov),
                    matches_adamw: u32::from(muon.scale == MuonScale::MatchRmsAdamw),
                    ..Self::adamw(&adamw, lr, settings.step)
                }
            }
        };
        Ok(Self { clip, ..uniform })
    }

    fn adamw(adamw: &AdamW, lr: f32, step: u32) -> Self {
        let correction = |beta: f32| (1.0 - f64::from(beta).powi(step.min(1 << 24) as i32)) as f32;
        Self {
            lr,
            beta1: adamw.beta1,
            beta2: adamw.beta2,
            eps: adamw.eps,
            weight_decay: adamw.weight_decay,
            correction1: correction(adamw.beta1),
            correction2: correction(adamw.beta2),
            ..Self::default()
        }
    }
}

/// What a kernel may do with a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Uniform,
    Storage,
    ReadOnly,
}

impl Access {
    fn binding(self) -> wgpu::BufferBindingType {
        match self {
            Self::Uniform => wgpu::BufferBindingType::Uniform,
            Self::Storage => wgpu::BufferBindingType::Storage { read_only: false },
            Self::ReadOnly => wgpu::BufferBindingType::Storage { read_only: true },
        }
    }

    /// In the words of WebGPU's `GPUBufferBindingType`.
    #[cfg(target_arch = "wasm32")]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Storage => "storage",
            Self::ReadOnly => "read-only-storage",
        }
    }
}

/// The one bind group, as `common.wgsl` declares it: arguments, step, then the storage buffers; and whether a dispatch says
/// where in the buffer its window is.
pub(crate) const BINDINGS: [(Access, bool); 10] = [
    (Access::Uniform, true),
    (Access::Uniform, true),
    (Access::Storage, false),
    (Access::Storage, false),
    (Access::Storage, false),
    (Access::Storage, false),
    (Access::Storage, false),
    (Access::ReadOnly, false),
    (Access::Storage, false),
    (Access::Storage, false),
];

pub(crate) fn bind_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    let entry = |(binding, (access, has_dynamic_offset)): (u32, (Access, bool))| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty: access.binding(), has_dynamic_offset, min_binding_size: None },
        count: None,
    };
    let entries: Vec<_> = (0..).zip(BINDINGS).map(entry).collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some("shoal"), entries: &entries })
}

pub(crate) fn bind(
    device: &wgpu::Device,
    layout: &wgpu::BindGroupLayout,
    arguments: &wgpu::Buffer,
    step: &wgpu::Buffer,
    storage: [&wgpu::Buffer; 8],
) -> wgpu::BindGroup {
    let window = |buffer, bytes: usize| {
        let size = core::num::NonZeroU64::new(bytes as u64);
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size })
    };
    let mut entries = vec![
        wgpu::BindGroupEntry { binding: 0, resource: window(arguments, ARGUMENTS * 4) },
        wgpu::BindGroupEntry { binding: 1, resource: window(step, size_of::<StepUniform>()) },
    ];
    for (index, buffer) in storage.into_iter().enumerate() {
        entries.push(wgpu::BindGroupEntry { binding: index as u32 + 2, resource: buffer.as_entire_binding() });
    }
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some("shoal"), layout, entries: &entries })
}

/// The kernels that were compiled so far, for heads of one size.
#[derive(Debug)]
pub(crate) struct Pipelines {
    layout: wgpu::BindGroupLayout,
    head: usize,
    compiled: BTreeMap<Kernel, wgpu::ComputePipeline>,
}

impl Pipelines {
    pub fn new(device: &wgpu::Device, head: usize) -> Self {
        Self { layout: bind_layout(device), head, compiled: BTreeMap::new() }
    }

    pub fn layout(&self) -> &wgpu::BindGroupLayout {
        &self.layout
    }

    /// Compiles all of these that are not there yet, side by side.
    pub async fn compile(&mut self, device: &wgpu::Device, kernels: &[Kernel]) -> Result<(), EngineError> {
        let mut missing: Vec<Kernel> = kernels.iter().copied().filter(|it| !self.compiled.contains_key(it)).collect();
        missing.sort_unstable();
        missing.dedup();
        self.compiled.extend(compile_all(device, &self.layout, &missing, self.head).await?);
        Ok(())
    }

    /// Compiles the kernel unless it is there.
    pub fn get(&mut self, device: &wgpu::Device, kernel: Kernel) -> Result<&wgpu::ComputePipeline, EngineError> {
        if !self.compiled.contains_key(&kernel) {
            self.compiled.insert(kernel, pipeline(device, &self.layout, kernel, self.head)?);
        }
        Ok(&self.compiled[&kernel])
    }

    /// A kernel that [`Self::get`] compiled.
    pub fn compiled(&self, kernel: Kernel) -> &wgpu::ComputePipeline {
        &self.compiled[&kernel]
    }

    /// Only these are needed from now on.
    pub fn keep(&mut self, kernels: &[Kernel]) {
        self.compiled.retain(|kernel, _| kernels.contains(kernel));
    }
}

/// Compiles a kernel for heads of `head` values.
pub(crate) fn pipeline(
    device: &wgpu::Device,
    layout: &wgpu::BindGroupLayout,
    kernel: Kernel,
    head: usize,
) -> Result<wgpu::ComputePipeline, EngineError> {
    let source = kernel.source(head)?;
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some("shoal"),
        bind_group_layouts: &[Some(layout)],
        immediate_size: 0,
    });
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(kernel.name()),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    Ok(device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(kernel.name()),
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    }))
}
