//! Names, shapes and order of a model's parameters.
//!
//! The names are Hugging Face's for `LlamaForCausalLM`, so an exported folder loads in `transformers`.
//! Linear weights have shape [out, in]. Tensors are ordered by name (byte order), and the flat parameter
//! vector is their concatenation: this order is part of the protocol.

use shoal_wire::manifest::ModelSpec;
use thiserror::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub shape: Vec<usize>,
    /// Index of the first value in the flat parameter vector.
    pub offset: usize,
}

impl TensorInfo {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn range(&self) -> core::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
    /// Weight decay applies to matrices only.
    pub fn decays(&self) -> bool {
        self.shape.len() == 2
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub tensors: Vec<TensorInfo>,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    #[error("{field} must be between 1 and {limit}, and is {value}")]
    OutOfRange { field: &'static str, value: u64, limit: u64 },
    #[error("hidden_size {hidden} must be a multiple of 2 × num_attention_heads {heads}")]
    HeadSize { hidden: u32, heads: u32 },
    #[error("num_attention_heads {heads} must be a multiple of num_key_value_heads {groups}")]
    Groups { heads: u32, groups: u32 },
}

impl Layout {
    /// Checks the model and lists its tensors, sorted by name.
    pub fn of(model: &ModelSpec) -> Result<Self, LayoutError> {
        check(model)?;
        let hidden = model.hidden_size as usize;
        let inner = model.intermediate_size as usize;
        let vocab = model.vocab_size as usize;
        let keys = hidden / model.num_attention_heads as usize * model.num_key_value_heads as usize;
        let mut named = vec![
            ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        if !model.tie_word_embeddings {
            named.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
        }
        for layer in 0..model.num_hidden_layers {
            let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
            named.extend([
                (at("input_layernorm"), vec![hidden]),
                (at("self_attn.q_proj"), vec![hidden, hidden]),
                (at("self_attn.k_proj"), vec![keys, hidden]),
                (at("self_attn.v_proj"), vec![keys, hidden]),
                (at("self_attn.o_proj"), vec![hidden, hidden]),
                (at("post_attention_layernorm"), vec![hidden]),
                (at("mlp.gate_proj"), vec![inner, hidden]),
                (at("mlp.up_proj"), vec![inner, hidden]),
                (at("mlp.down_proj"), vec![hidden, inner]),
            ]);
        }
        named.sort();
        let mut offset = 0;
        let tensors = named
            .into_iter()
            .map(|(name, shape)| {
                let tensor = TensorInfo { name, shape, offset };
                offset += tensor.len();
                tensor
            })
            .collect();
        Ok(Self { tensors })
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.range().end)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

fn check(model: &ModelSpec) -> Result<(), LayoutError> {
    let limits = [
        ("vocab_size", model.vocab_size, 1 << 20),
        ("hidden_size", model.hidden_size, 1 << 14),
        ("intermediate_size", model.intermediate_size, 1 << 16),
        ("num_hidden_layers", model.num_hidden_layers, 256),
        ("num_attention_heads", model.num_attention_heads, 256),
        ("num_key_value_heads", model.num_key_value_heads, 256),
        ("max_position_embeddings", model.max_position_embeddings, 1 << 20),
    ];
    for (field, value, limit) in limits {
        if value == 0 || value > limit {
            return Err(LayoutError::OutOfRange { field, value: value.into(), limit: limit.into() });
        }
    }
    let (hidden, heads, groups) = (model.hidden_size, model.num_attention_heads, model.num_key_value_heads);
    if !hidden.is_multiple_of(2 * heads) {
        return Err(LayoutError::HeadSize { hidden, heads });
    }
    if !heads.is_multiple_of(groups) {
        return Err(LayoutError::Groups { heads, groups });
    }
    Ok(())
}
