//! The CPU engine: the decoder of [`shoal_learn::Engine`] for machines without WebGPU, natively and in Wasm.
//!
//! Matrix products are candle's, or, where they add in place, those of `gemm` below it; all between them is written here with its
//! gradient, because candle's fused norms and softmax have no backward pass and its unfused ones cost
//! several passes over memory each. Results do not depend on the number of cores. Formulas: Touvron et al. 2023 (LLaMA), Zhang and Sennrich 2019
//! (RMSNorm), Su et al. 2021 (RoPE), Shazeer 2020 (SwiGLU), Ainslie et al. 2023 (grouped queries),
//! Loshchilov and Hutter 2019 (AdamW), Jordan et al. 2024 (Muon).

mod attention;
mod decoder;
mod dims;
mod engine;
mod lora;
mod math;
mod matrix;
mod nets;
mod optimizer;
mod parallel;
mod pointwise;
mod workspace;

pub use engine::CpuEngine;
pub use lora::CpuLoraEngine;
pub use nets::CpuNetEngine;
