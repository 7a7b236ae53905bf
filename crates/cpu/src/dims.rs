//! Sizes of one pass over a batch, checked once.

use shoal_learn::EngineError;
use shoal_wire::manifest::ModelSpec;

/// Activations larger than this would exhaust a browser tab or an ordinary machine.
#[cfg(target_arch = "wasm32")]
pub const ACTIVATION_BYTES_MAX: u128 = 2 << 30;
#[cfg(not(target_arch = "wasm32"))]
pub const ACTIVATION_BYTES_MAX: u128 = 64 << 30;

#[derive(Clone, Debug)]
pub struct Dims {
    pub batch: usize,
    pub context: usize,
    pub hidden: usize,
    pub inner: usize,
    pub vocab: usize,
    pub heads: usize,
    pub key_heads: usize,
    pub head_width: usize,
    pub eps: f32,
}

impl Dims {
    pub fn new(model: &ModelSpec, batch: usize, context: usize) -> Result<Self, EngineError> {
        let longest = model.max_position_embeddings as usize;
        if batch == 0 || context == 0 || context > longest {
            let text =
                format!("batch {batch}, context {context}: both must be at least 1, the context at most {longest}");
            return Err(EngineError::Unsupported(text));
        }
        let dims = Self {
            batch,
            context,
            hidden: model.hidden_size as usize,
            inner: model.intermediate_size as usize,
            vocab: model.vocab_size as usize,
            heads: model.num_attention_heads as usize,
            key_heads: model.num_key_value_heads as usize,
            head_width: (model.hidden_size / model.num_attention_heads) as usize,
            eps: model.rms_norm_eps,
        };
        let bytes = dims.activation_bytes(model.num_hidden_layers);
        if bytes > ACTIVATION_BYTES_MAX {
            let (need, most) = (bytes >> 20, ACTIVATION_BYTES_MAX >> 20);
            let text = format!("batch {batch}, context {context} need {need} MiB, at most {most} MiB are used");
            return Err(EngineError::OutOfMemory(text));
        }
        Ok(dims)
    }

    fn activation_bytes(&self, layers: u32) -> u128 {
        let wide = |x: usize| x as u128;
        // Beside each layer's own there are places for gradients and for what nobody needs later.
        let per_token_layer = 8 * wide(self.hidden) + 3 * wide(self.inner) + wide(self.heads);
        let per_token = 6 * wide(self.hidden) + wide(self.inner) + wide(self.vocab);
        4 * wide(self.batch) * wide(self.context) * (per_token_layer * u128::from(layers) + per_token)
    }

    /// Rows of queries that share one key head.
    pub fn query_rows(&self) -> usize {
        self.heads / self.key_heads * self.context
    }

    pub fn score_scale(&self) -> f32 {
        1.0 / (self.head_width as f32).sqrt()
    }
}
