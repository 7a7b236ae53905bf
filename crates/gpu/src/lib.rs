//! The WebGPU engine: one decoder as a list of dispatches that is planned once and replayed each step.
//!
//! The same source runs in browsers, on the browser's WebGPU, and natively through wgpu. WebGPU arithmetic differs
//! between devices, so nothing that peers must agree on is computed here.

mod arena;
mod banks;
mod device;
mod engine;
mod footprint;
mod forms;
mod gemm;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod kernel_tests;
mod kernels;
mod machine;
mod nets;
mod pace;
mod pipelines;
mod plan;
mod profile;
mod read;
mod resume;
mod shape;
mod shard;
mod signal;
mod steps;
mod tables;
mod template;
mod tune;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod twin;
mod warm;

#[cfg(not(target_arch = "wasm32"))]
pub use device::adapters;
pub use engine::{Counters, GpuEngine, Options};
pub use footprint::{Footprint, Room};
pub use gemm::{GemmBench, GemmForm, GemmRate};
pub use nets::GpuNetEngine;
pub use profile::KernelTime;
pub use resume::ResumingEngine;
pub use shard::{Boundary, GpuShard, Input, Loss};
