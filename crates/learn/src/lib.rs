//! What is computed: model layouts, data schedules, update codecs, the deterministic outer step, and the
//! [`Engine`] trait behind which the CPU and the WebGPU engines stand.
//!
//! No clock, no randomness source, no thread, no file: seeds and time are arguments. The feature `tokenizers`, for native
//! programs, brings Hugging Face's library with it, which has threads of its own.

pub mod data;
pub mod engine;
pub mod folder;
pub mod gguf;
pub mod images;
pub mod init;
pub mod layout;
pub mod lora;
pub mod metrics;
pub mod nets;
pub mod outer;
pub mod presets;
pub mod recipe;
pub mod rope;
pub mod sampling;
pub mod schedule;
pub mod shard;
pub mod stories;
pub mod tables;
#[cfg(feature = "tokenizers")]
pub mod tokenizer;
pub mod trainer;

pub use engine::{Batch, Engine, EngineError, StepSettings};
pub use layout::{Layout, TensorInfo};
pub use shard::Shard;
