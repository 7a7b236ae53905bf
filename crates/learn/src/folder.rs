//! The bytes of a Hugging Face model folder (`config.json`, `model.safetensors`) and of a file of prepared
//! batches. Reading and writing the files is the caller's.

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::{Value, json};
use shoal_wire::limits::SAFETENSORS_HEADER_BYTES_MAX;
use shoal_wire::manifest::ModelSpec;
use thiserror::Error;

use crate::{Layout, layout::LayoutError};

/// What is wrong with a file; the caller knows its name.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum FolderError {
    #[error("it is not the JSON expected here: {0}")]
    Json(String),
    #[error("it has no whole number {0}")]
    Missing(&'static str),
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
    #[error("{got} values where the model has {expected} parameters")]
    Length { got: usize, expected: usize },
    #[error("token {token} is outside the model's vocabulary of {vocab}")]
    Token { token: i32, vocab: u32 },
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

/// Reads `config.json` of a `LlamaForCausalLM`; anything that would change the computation is refused.
pub fn parse_config(bytes: &[u8]) -> Result<ModelSpec, FolderError> {
    let config: Value = serde_json::from_slice(bytes)?;
    let number = |field: &str| config.get(field).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let required = |field| number(field).ok_or(FolderError::Missing(field));
    refuse_variants(&config)?;
    let real = |value: &Value, otherwise| value.as_f64().unwrap_or(otherwise);
    let heads = required("num_attention_heads")?;
    let model = ModelSpec {
        vocab_size: required("vocab_size")?,
        hidden_size: required("hidden_size")?,
        intermediate_size: required("intermediate_size")?,
        num_hidden_layers: required("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: number("num_key_value_heads").unwrap_or(heads),
        max_position_embeddings: required("max_position_embeddings")?,
        rms_norm_eps: real(&config["rms_norm_eps"], 1e-6) as f32,
        rope_theta: real(&config["rope_parameters"]["rope_theta"], real(&config["rope_theta"], 10_000.0)) as f32,
        tie_word_embeddings: config["tie_word_embeddings"].as_bool().unwrap_or(false),
    };
    Layout::of(&model)?;
    match number("head_dim") {
        Some(width) if width != model.hidden_size / heads => Err(FolderError::HeadDim(width)),
        _ => Ok(model),
    }
}

fn refuse_variants(config: &Value) -> Result<(), FolderError> {
    let rope = &config["rope_parameters"]["rope_type"];
    let scaling = &config["rope_scaling"];
    for (field, value, only, required) in [
        ("model_type", &config["model_type"], "llama", true),
        ("hidden_act", &config["hidden_act"], "silu", false),
        ("rope_parameters.rope_type", rope, "default", false),
        ("rope_scaling.rope_type", &scaling["rope_type"], "default", false),
        ("rope_scaling.type", &scaling["type"], "default", false),
    ] {
        if value != only && (required || !value.is_null()) {
            return Err(FolderError::Unsupported { field, value: value.to_string(), only });
        }
    }
    for field in ["attention_bias", "mlp_bias"] {
        if config[field].as_bool().unwrap_or(false) {
            return Err(FolderError::Unsupported { field, value: "true".to_owned(), only: "false" });
        }
    }
    Ok(())
}

/// A `config.json` that `transformers` loads.
pub fn config_json(model: &ModelSpec) -> Result<Vec<u8>, FolderError> {
    let mut config = serde_json::to_value(model)?;
    // The shortest decimal of the f32, not the digits of the f64 beside it.
    let short = |x: f32| serde_json::from_str::<Value>(&format!("{x:?}"));
    let theta = short(model.rope_theta)?;
    let extra = json!({
        "rms_norm_eps": short(model.rms_norm_eps)?, "rope_theta": theta,
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "dtype": "float32",
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attention_bias": false, "mlp_bias": false, "bos_token_id": null, "eos_token_id": null,
    });
    if let (Value::Object(config), Value::Object(extra)) = (&mut config, extra) {
        config.extend(extra);
    }
    let mut text = serde_json::to_vec_pretty(&config)?;
    text.push(b'\n');
    Ok(text)
}

fn open(bytes: &[u8]) -> Result<SafeTensors<'_>, FolderError> {
    if let Some(length) = bytes.first_chunk() {
        let header = u64::from_le_bytes(*length);
        if header > SAFETENSORS_HEADER_BYTES_MAX as u64 {
            return Err(FolderError::Header { bytes: header });
        }
    }
    Ok(SafeTensors::deserialize(bytes)?)
}

fn tensor<'a>(file: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, FolderError> {
    file.tensor(name).map_err(|error| match error {
        SafeTensorError::TensorNotFound(name) => FolderError::NoTensor(name),
        other => other.into(),
    })
}

/// Reads weights in layout order; half precision is widened.
pub fn parse_weights(bytes: &[u8], layout: &Layout) -> Result<Vec<f32>, FolderError> {
    let file = open(bytes)?;
    // A layout may promise more than the file can hold: allocate as tensors are found.
    let mut flat = Vec::new();
    for expected in &layout.tensors {
        let name = || expected.name.clone();
        let view = tensor(&file, &expected.name)?;
        if view.shape() != expected.shape {
            let shape = format!("{:?}", expected.shape);
            return Err(FolderError::Shape { name: name(), got: view.shape().to_vec(), expected: shape });
        }
        let (data, start) = (view.data(), flat.len());
        match view.dtype() {
            Dtype::F32 => flat.extend(words(data).map(f32::from_le_bytes)),
            Dtype::F16 => flat.extend(words(data).map(|word| f16::from_le_bytes(word).to_f32())),
            Dtype::BF16 => flat.extend(words(data).map(|word| bf16::from_le_bytes(word).to_f32())),
            got => return Err(FolderError::Type { name: name(), got, only: "F32, F16 or BF16" }),
        }
        if !flat[start..].iter().all(|value| value.is_finite()) {
            return Err(FolderError::NotFinite(name()));
        }
    }
    Ok(flat)
}

/// A `model.safetensors` of weights in layout order.
pub fn weights_bytes(layout: &Layout, flat: &[f32]) -> Result<Vec<u8>, FolderError> {
    if flat.len() != layout.len() {
        return Err(FolderError::Length { got: flat.len(), expected: layout.len() });
    }
    let bytes: Vec<u8> = flat.iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = |range: core::ops::Range<usize>, shape: &[usize]| {
        TensorView::new(Dtype::F32, shape.to_vec(), &bytes[range.start * 4..range.end * 4])
    };
    let views: Result<Vec<_>, _> =
        layout.tensors.iter().map(|t| Ok::<_, SafeTensorError>((&t.name, view(t.range(), &t.shape)?))).collect();
    // transformers asks for the format entry.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    Ok(safetensors::serialize(views?, Some(metadata))?)
}

/// Reads prepared batches: tokens, and their shape [batches, batch, context + 1].
pub fn parse_batches(bytes: &[u8], vocab: u32) -> Result<(Vec<u32>, [usize; 3]), FolderError> {
    let file = open(bytes)?;
    let name = || "tokens".to_owned();
    let view = tensor(&file, "tokens")?;
    if view.dtype() != Dtype::I32 {
        return Err(FolderError::Type { name: name(), got: view.dtype(), only: "int32" });
    }
    let Some((batches, batch, row)) = three(view.shape()) else {
        let expected = "[batches, batch, context + 1], none empty".to_owned();
        return Err(FolderError::Shape { name: name(), got: view.shape().to_vec(), expected });
    };
    let token = |bytes| {
        let token = i32::from_le_bytes(bytes);
        u32::try_from(token).ok().filter(|token| *token < vocab).ok_or(FolderError::Token { token, vocab })
    };
    Ok((words(view.data()).map(token).collect::<Result<_, _>>()?, [batches, batch, row]))
}

/// A shape of three axes with at least one row of two tokens.
fn three(shape: &[usize]) -> Option<(usize, usize, usize)> {
    match *shape {
        [batches, batch, row] if batches > 0 && batch > 0 && row > 1 => Some((batches, batch, row)),
        _ => None,
    }
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks().0.iter().copied()
}

#[cfg(test)]
mod tests;
