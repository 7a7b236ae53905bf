//! GGUF, the file that llama.cpp and what is built on it read (its specification: ggml's `docs/gguf.md`, version 3).
//!
//! Tensors are written in half precision or f32. The rows of query and key projections are reordered: this model turns
//! value `i` of a head with value `i + width/2`, llama.cpp's Llama turns neighbours.

use half::f16;
use shoal_wire::manifest::{ModelSpec, RopeScaling};
use thiserror::Error;

use crate::{Layout, TensorInfo, layout::LayoutError, rope};

mod tokenizer;

pub use tokenizer::GgufTokenizer;

const ALIGNMENT: usize = 32;

/// How matrices are stored; vectors are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GgufType {
    F32,
    #[default]
    F16,
}

#[derive(Debug, PartialEq, Eq, Error)]
pub enum GgufError {
    #[error(transparent)]
    Model(#[from] LayoutError),
    #[error("{got} values where the model has {expected} parameters")]
    Length { got: usize, expected: usize },
    #[error("`{0}` has values beyond half precision: write f32")]
    Range(String),
    #[error("the tokenizer has {got} tokens and the model {expected}")]
    Vocabulary { got: usize, expected: usize },
    #[error("tokenizer.json: {field} is {value}, only {only} is written")]
    Tokenizer { field: &'static str, value: String, only: &'static str },
    #[error("tokenizer.json is not the JSON expected here: {0}")]
    Json(String),
}

/// A GGUF file of a model whose weights lie in layout order.
pub fn gguf_bytes(
    name: &str,
    model: &ModelSpec,
    flat: &[f32],
    tokenizer: &GgufTokenizer,
    kind: GgufType,
) -> Result<Vec<u8>, GgufError> {
    let layout = Layout::of(model)?;
    let (got, expected) = (flat.len(), layout.len());
    if got != expected {
        return Err(GgufError::Length { got, expected });
    }
    let mut pairs = Pairs::default();
    describe(&mut pairs, name, model, kind);
    tokenizer.describe(&mut pairs, model.vocab_size as usize)?;
    let tensors = tensors(model, &layout, flat, kind)?;

    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend(pairs.count.to_le_bytes());
    out.extend(pairs.bytes);
    let mut offset = 0;
    for tensor in &tensors {
        put_text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        // The fastest axis comes first.
        out.extend(tensor.shape.iter().rev().flat_map(|axis| (*axis as u64).to_le_bytes()));
        out.extend(u32::from(tensor.half).to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += tensor.data.len().next_multiple_of(ALIGNMENT);
    }
    for tensor in tensors {
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend(tensor.data);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    Ok(out)
}

fn describe(pairs: &mut Pairs, name: &str, model: &ModelSpec, kind: GgufType) {
    let width = model.hidden_size / model.num_attention_heads;
    pairs.text("general.architecture", "llama");
    pairs.text("general.name", name);
    pairs.whole("general.alignment", ALIGNMENT as u32);
    pairs.whole("general.file_type", u32::from(kind == GgufType::F16));
    for (key, value) in [
        ("llama.vocab_size", model.vocab_size),
        ("llama.context_length", model.max_position_embeddings),
        ("llama.embedding_length", model.hidden_size),
        ("llama.block_count", model.num_hidden_layers),
        ("llama.feed_forward_length", model.intermediate_size),
        ("llama.attention.head_count", model.num_attention_heads),
        ("llama.attention.head_count_kv", model.num_key_value_heads),
        ("llama.rope.dimension_count", width),
    ] {
        pairs.whole(key, value);
    }
    pairs.real("llama.attention.layer_norm_rms_epsilon", model.rms_norm_eps);
    pairs.real("llama.rope.freq_base", model.rope_theta);
    if let RopeScaling::Linear { factor } = model.rope_scaling {
        pairs.text("llama.rope.scaling.type", "linear");
        pairs.real("llama.rope.scaling.factor", factor);
    }
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    half: bool,
    data: Vec<u8>,
}

fn tensors(model: &ModelSpec, layout: &Layout, flat: &[f32], kind: GgufType) -> Result<Vec<Tensor>, GgufError> {
    let mut tensors = Vec::with_capacity(layout.tensors.len() + 1);
    for tensor in &layout.tensors {
        let values = &flat[tensor.range()];
        let turned = match tensor.name.rsplit('.').nth(1) {
            Some("q_proj") => Some(neighbours(values, tensor, model.num_attention_heads)),
            Some("k_proj") => Some(neighbours(values, tensor, model.num_key_value_heads)),
            _ => None,
        };
        let values = turned.as_deref().unwrap_or(values);
        let half = kind == GgufType::F16 && tensor.shape.len() == 2;
        let data: Vec<u8> = if half {
            if values.iter().any(|x| f16::from_f32(*x).is_infinite()) {
                return Err(GgufError::Range(tensor.name.clone()));
            }
            values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
        } else {
            values.iter().flat_map(|x| x.to_le_bytes()).collect()
        };
        tensors.push(Tensor { name: name_of(&tensor.name), shape: tensor.shape.clone(), half, data });
    }
    if let RopeScaling::Llama3 { .. } = model.rope_scaling {
        // llama.cpp divides each frequency by its factor here.
        let plain = rope::inverse_frequencies(&ModelSpec { rope_scaling: RopeScaling::Default, ..model.clone() });
        let factors: Vec<f32> = plain.iter().zip(rope::inverse_frequencies(model)).map(|(a, b)| a / b).collect();
        let data = factors.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push(Tensor { name: "rope_freqs.weight".to_owned(), shape: vec![factors.len()], half: false, data });
    }
    Ok(tensors)
}

/// Rows reordered within each head, so that what lay half a head apart lies side by side.
fn neighbours(values: &[f32], tensor: &TensorInfo, heads: u32) -> Vec<f32> {
    let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
    let width = rows / heads as usize;
    let from = |row: usize| row / width * width + row % width / 2 + row % 2 * (width / 2);
    (0..rows).flat_map(|row| &values[from(row) * columns..][..columns]).copied().collect()
}

/// llama.cpp's name of a tensor.
fn name_of(name: &str) -> String {
    let renamed = [
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    match name {
        "model.embed_tokens.weight" => "token_embd.weight".to_owned(),
        "model.norm.weight" => "output_norm.weight".to_owned(),
        "lm_head.weight" => "output.weight".to_owned(),
        _ => renamed.iter().fold(name.replace("model.layers.", "blk."), |name, (old, new)| name.replace(old, new)),
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Keys with values, as they are written.
#[derive(Default)]
struct Pairs {
    count: u64,
    bytes: Vec<u8>,
}

impl Pairs {
    fn put(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.count += 1;
        put_text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
    }

    fn whole(&mut self, key: &str, value: u32) {
        self.put(key, 4, &value.to_le_bytes());
    }

    fn real(&mut self, key: &str, value: f32) {
        self.put(key, 6, &value.to_le_bytes());
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.put(key, 7, &[u8::from(value)]);
    }

    fn text(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        put_text(&mut bytes, value);
        self.put(key, 8, &bytes);
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        let mut bytes = 8u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        for value in values {
            put_text(&mut bytes, value);
        }
        self.put(key, 9, &bytes);
    }

    fn signed(&mut self, key: &str, values: &[i32]) {
        let mut bytes = 5u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.put(key, 9, &bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::presets::Preset;

    #[test]
    fn rows_that_turn_together_come_to_lie_side_by_side() {
        let tensor = TensorInfo { name: "q".to_owned(), shape: vec![8, 1], offset: 0 };
        let rows: Vec<f32> = (0..8).map(|row| row as f32).collect();
        assert_eq!(neighbours(&rows, &tensor, 2), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(neighbours(&rows, &tensor, 1), [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    }

    #[test]
    fn names_are_those_of_llama_cpp() {
        let layout = Layout::of(&Preset::Tiny.model()).unwrap();
        let names: Vec<String> = layout.tensors.iter().map(|tensor| name_of(&tensor.name)).collect();
        assert!(names.contains(&"blk.1.attn_output.weight".to_owned()), "{names:?}");
        assert!(names.contains(&"blk.0.ffn_norm.weight".to_owned()));
        assert!(names.iter().all(|name| !name.contains("proj") && !name.contains("model")), "{names:?}");
    }

    #[test]
    fn what_half_precision_does_not_hold_is_refused_with_its_tensor() {
        let model = Preset::Tiny.model();
        let mut flat = vec![1.0; Layout::of(&model).unwrap().len()];
        flat[0] = 1e6;
        let write = |kind| gguf_bytes("x", &model, &flat, &GgufTokenizer::Bytes, kind);
        assert_eq!(write(GgufType::F16).unwrap_err(), GgufError::Range("lm_head.weight".to_owned()));
        assert!(write(GgufType::F32).is_ok());
        assert!(gguf_bytes("x", &model, &flat[1..], &GgufTokenizer::Bytes, GgufType::F32).is_err());
    }
}
