//! The bytes of a Hugging Face model folder (`config.json`, `model.safetensors`) and of a file of prepared batches.
//! Reading and writing the files is the caller's.

mod batches;
mod config;
mod shards;
mod weights;

use safetensors::{Dtype, SafeTensorError};
use shoal_wire::limits::SAFETENSORS_HEADER_BYTES_MAX;
use thiserror::Error;

use crate::layout::LayoutError;

pub use batches::parse_batches;
pub(crate) use config::short;
pub use config::{config_json, parse_config};
pub use shards::{Files, INDEX, SHARD_BYTES_MAX, Shards, WEIGHTS, load_weights};
pub use weights::{parse_weights, tensors_bytes, weights_bytes};

/// What is wrong with a file; the caller knows its name.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum FolderError {
    #[error("it is not the JSON expected here: {0}")]
    Json(String),
    #[error("it has no {0}")]
    Missing(String),
    #[error("{field} is {value}, and must be {rule}")]
    Field { field: String, value: String, rule: &'static str },
    #[error("{field} is {value}, only {only} is supported")]
    Unsupported { field: &'static str, value: String, only: &'static str },
    #[error("head_dim {0} is not hidden_size / num_attention_heads")]
    HeadDim(u32),
    #[error(transparent)]
    Model(#[from] LayoutError),
    #[error(
        "it is not a safetensors file, or its header is over {SAFETENSORS_HEADER_BYTES_MAX} bytes: it says {bytes}"
    )]
    Header { bytes: u64 },
    #[error("it is not a safetensors file: {0}")]
    Safetensors(String),
    #[error("it has no tensor `{0}`")]
    NoTensor(String),
    #[error("`{name}` has shape {got:?}, expected {expected}")]
    Shape { name: String, got: Vec<usize>, expected: String },
    #[error("`{name}` has type {got}, only {only} is read")]
    Type { name: String, got: Dtype, only: &'static str },
    #[error("`{0}` has values that are not finite")]
    NotFinite(String),
    #[error("the model's {values} parameters do not fit into memory")]
    OutOfMemory { values: usize },
    #[error("there is no model.safetensors, and no model.safetensors.index.json")]
    NoWeights,
    #[error(
        "it is a pickle, which may run any code when it is read, so it is never read: \
         `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)` of `transformers` makes safetensors of it"
    )]
    Pickle,
    #[error("weight_map names the file {0:?}: only names of .safetensors files beside it are read")]
    FileName(String),
    #[error("weight_map has no tensor `{0}`")]
    NotMapped(String),
    #[error("it names {files} files, and at most {limit} are read")]
    Files { files: usize, limit: usize },
    #[error("it is named in the index, and is not there")]
    Absent,
    #[error("{got} values where the model has {expected} parameters")]
    Length { got: usize, expected: usize },
    #[error("token {token} is outside the model's vocabulary of {vocab}")]
    Token { token: i32, vocab: u32 },
}

/// What is wrong with which file of a folder.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("cannot use {file}: {error}")]
pub struct FileError {
    pub file: String,
    pub error: FolderError,
}

impl FolderError {
    pub fn of(self, file: &str) -> FileError {
        FileError { file: file.to_owned(), error: self }
    }
}

// As text, so that each message tells all and a printed chain of causes does not repeat it.
impl From<serde_json::Error> for FolderError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error.to_string())
    }
}

impl From<SafeTensorError> for FolderError {
    fn from(error: SafeTensorError) -> Self {
        Self::Safetensors(error.to_string())
    }
}
