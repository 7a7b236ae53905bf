//! Names, shapes and order of a model's parameters.
//!
//! The names are Hugging Face's for `LlamaForCausalLM`, so an exported folder loads in `transformers`.
//! Linear weights have shape [out, in]. Tensors are ordered by name (byte order), and the flat parameter
//! vector is their concatenation: this order is part of the protocol.

use shoal_wire::manifest::{ModelSpec, RopeScaling};
use thiserror::Error;

use crate::shard::Shard;

/// Parameters of a model. Their residual, at 8 bytes each, fits the 4 GiB of a Wasm module, and sums of their squares
/// fit the outer step's integers.
pub const PARAMETERS_MAX: u64 = 1 << 28;

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
    /// Rows and columns of a matrix between two hidden layers, which Muon orthogonalises: not of an embedding, nor of
    /// the head.
    pub fn hidden_matrix(&self) -> Option<(usize, usize)> {
        let outer = ["embed_tokens.weight", "lm_head.weight"].iter().any(|name| self.name.ends_with(name));
        match self.shape[..] {
            [rows, columns] if !outer => Some((rows, columns)),
            _ => None,
        }
    }
    /// Weight decay applies to matrices and to the kernels of convolutions.
    pub fn decays(&self) -> bool {
        self.shape.len() >= 2
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
    #[error("{field} must be a finite number above 0, and is {value}")]
    NotPositive { field: &'static str, value: String },
    #[error("{field} must be {rule}, and is {value}")]
    Scaling { field: &'static str, rule: &'static str, value: String },
    #[error("the model has {parameters} parameters, and at most {PARAMETERS_MAX} are supported")]
    TooLarge { parameters: u64 },
    #[error("num_attention_heads {heads} must be a multiple of num_key_value_heads {groups}")]
    Groups { heads: u32, groups: u32 },
}

impl Layout {
    /// Checks the model and lists its tensors, sorted by name.
    pub fn of(model: &ModelSpec) -> Result<Self, LayoutError> {
        Self::of_shard(model, &Shard::whole(model))
    }

    /// Checks the model and lists the tensors of a part of it, sorted by name.
    pub fn of_shard(model: &ModelSpec, shard: &Shard) -> Result<Self, LayoutError> {
        check(model)?;
        let hidden = model.hidden_size as usize;
        let inner = model.intermediate_size as usize;
        let vocab = model.vocab_size as usize;
        let keys = hidden / model.num_attention_heads as usize * model.num_key_value_heads as usize;
        let mut named = Vec::new();
        if shard.embeds() {
            named.push(("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]));
        }
        if shard.predicts() {
            named.push(("model.norm.weight".to_owned(), vec![hidden]));
            if !model.tie_word_embeddings {
                named.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
            }
        }
        for layer in shard.layers() {
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
        Ok(Self::named(named))
    }

    /// Tensors of these names and shapes, put in order.
    pub(crate) fn named(mut named: Vec<(String, Vec<usize>)>) -> Self {
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
        Self { tensors }
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
    for (field, value) in [("rms_norm_eps", model.rms_norm_eps), ("rope_theta", model.rope_theta)] {
        if !(value.is_finite() && value > 0.0) {
            return Err(LayoutError::NotPositive { field, value: value.to_string() });
        }
    }
    check_scaling(model.rope_scaling)?;
    match parameters(model) {
        parameters if parameters > PARAMETERS_MAX => Err(LayoutError::TooLarge { parameters }),
        _ => Ok(()),
    }
}

fn check_scaling(scaling: RopeScaling) -> Result<(), LayoutError> {
    let refuse = |field, value: f32, rule| Err(LayoutError::Scaling { field, value: value.to_string(), rule });
    match scaling {
        RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. } if !(1.0..=1e6).contains(&factor) => {
            refuse("rope_scaling.factor", factor, "between 1 and a million")
        }
        RopeScaling::Default | RopeScaling::Linear { .. } => Ok(()),
        RopeScaling::Llama3 {
            low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings, ..
        } => {
            let (field, value, limit) =
                ("rope_scaling.original_max_position_embeddings", original_max_position_embeddings, 1 << 20);
            if value == 0 || value > limit {
                Err(LayoutError::OutOfRange { field, value: value.into(), limit: limit.into() })
            } else if !(low > 0.0 && low.is_finite()) {
                refuse("rope_scaling.low_freq_factor", low, "above 0")
            } else if !(high > low && high.is_finite()) {
                refuse("rope_scaling.high_freq_factor", high, "above low_freq_factor")
            } else {
                Ok(())
            }
        }
    }
}

/// Counted before anything is allocated, and where `usize` has 32 bits too: within the limits above this is below 2⁴².
fn parameters(model: &ModelSpec) -> u64 {
    let [vocab, hidden, inner, layers] =
        [model.vocab_size, model.hidden_size, model.intermediate_size, model.num_hidden_layers].map(u64::from);
    let keys = hidden / u64::from(model.num_attention_heads) * u64::from(model.num_key_value_heads);
    let layer = 2 * hidden * (hidden + keys) + 3 * hidden * inner + 2 * hidden;
    let tables = if model.tie_word_embeddings { 1 } else { 2 };
    tables * vocab * hidden + layers * layer + hidden
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::presets::Preset;

    #[test]
    fn tensors_are_ordered_by_the_bytes_of_their_names() {
        let mut model = Preset::Tiny.model();
        model.num_hidden_layers = 12;
        let layout = Layout::of(&model).unwrap();
        let mut layers: Vec<&str> = layout.tensors.iter().filter_map(|t| t.name.split('.').nth(2)).collect();
        layers.dedup();
        assert_eq!(layers, ["weight", "0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9", "weight"]);
        let names: Vec<&str> = layout.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!((names[0], names[1]), ("lm_head.weight", "model.embed_tokens.weight"));
        assert_eq!(names[2], "model.layers.0.input_layernorm.weight");
        assert!(names.is_sorted());
        // No gap, no overlap.
        let mut next = 0;
        for tensor in &layout.tensors {
            assert_eq!(tensor.offset, next);
            next = tensor.range().end;
        }
    }

    #[test]
    fn parameters_are_counted_as_they_are_laid_out() {
        for preset in Preset::ALL {
            for tied in [false, true] {
                let model = ModelSpec { tie_word_embeddings: tied, num_key_value_heads: 1, ..preset.model() };
                assert_eq!(parameters(&model), Layout::of(&model).unwrap().len() as u64);
            }
        }
    }

    #[test]
    fn a_model_too_large_or_without_sense_is_refused_with_its_field() {
        let refused = |change: fn(&mut ModelSpec)| {
            let mut model = Preset::Base.model();
            change(&mut model);
            Layout::of(&model).unwrap_err()
        };
        let large = refused(|m| {
            (m.vocab_size, m.hidden_size, m.intermediate_size, m.num_hidden_layers) = (1 << 20, 1 << 14, 1 << 16, 256);
            (m.num_attention_heads, m.num_key_value_heads) = (256, 256);
        });
        assert!(matches!(large, LayoutError::TooLarge { parameters } if parameters > 1 << 39), "{large}");
        assert!(refused(|m| m.rms_norm_eps = 0.0).to_string().contains("rms_norm_eps"));
        assert!(refused(|m| m.rms_norm_eps = f32::NAN).to_string().contains("NaN"));
        assert!(refused(|m| m.rope_theta = f32::INFINITY).to_string().contains("rope_theta"));
        assert!(refused(|m| m.rope_theta = -1.0).to_string().contains("-1"));
        for (factor, low, high, trained, field) in [
            (0.5, 1.0, 4.0, 64, "rope_scaling.factor"),
            (f32::NAN, 1.0, 4.0, 64, "rope_scaling.factor"),
            (8.0, 0.0, 4.0, 64, "rope_scaling.low_freq_factor"),
            (8.0, 4.0, 4.0, 64, "rope_scaling.high_freq_factor"),
            (8.0, 1.0, f32::INFINITY, 64, "rope_scaling.high_freq_factor"),
            (8.0, 1.0, 4.0, 0, "rope_scaling.original_max_position_embeddings"),
        ] {
            let rope_scaling = RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: trained,
            };
            let error = Layout::of(&ModelSpec { rope_scaling, ..Preset::Base.model() }).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }
}
