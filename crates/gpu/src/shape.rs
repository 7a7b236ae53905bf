//! The sizes of a model and a batch, as the plan uses them.

use shoal_learn::EngineError;
use shoal_wire::manifest::ModelSpec;

/// Tokens in a batch.
const ROWS_MAX: usize = 1 << 20;

/// Sizes that the whole plan uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Sequences in a micro-batch.
    pub batch: u32,
    pub context: u32,
    /// Tokens in a micro-batch.
    pub rows: u32,
    pub hidden: u32,
    pub inner: u32,
    pub vocab: u32,
    pub heads: u32,
    pub keys: u32,
    pub head: u32,
    /// The norms' epsilon, as bits.
    pub eps: u32,
}

impl Shape {
    pub fn of(model: &ModelSpec, batch: usize, context: usize) -> Result<Self, EngineError> {
        let most = model.max_position_embeddings;
        let rows = batch.checked_mul(context).filter(|rows| *rows > 0 && *rows <= ROWS_MAX);
        let Some(rows) = rows.filter(|_| context <= most as usize) else {
            let text =
                format!("a batch has 1 to {ROWS_MAX} tokens, in sequences of at most {most}, not {batch} of {context}");
            return Err(EngineError::Unsupported(text));
        };
        let head = model.hidden_size / model.num_attention_heads;
        Ok(Self {
            batch: batch as u32,
            context: context as u32,
            rows: rows as u32,
            hidden: model.hidden_size,
            inner: model.intermediate_size,
            vocab: model.vocab_size,
            heads: model.num_attention_heads,
            keys: model.num_key_value_heads,
            head,
            eps: model.rms_norm_eps.to_bits(),
        })
    }

    /// For a network that is no decoder: each row is an example, judged by so many outputs.
    pub fn of_examples(examples: usize, outputs: usize) -> Result<Self, EngineError> {
        if examples == 0 || examples > ROWS_MAX {
            return Err(EngineError::Unsupported(format!("a batch has 1 to {ROWS_MAX} examples, not {examples}")));
        }
        let rows = examples as u32;
        let vocab = outputs as u32;
        Ok(Self { batch: rows, context: 1, rows, hidden: 1, inner: 1, vocab, heads: 1, keys: 1, head: 1, eps: 0 })
    }

    pub fn key_width(self) -> u32 {
        self.keys * self.head
    }

    /// Whether all rows of all tensors can be read as vectors of four values.
    pub fn is_vector(self) -> bool {
        [self.hidden, self.inner, self.key_width(), self.rows].iter().all(|size| size.is_multiple_of(4))
    }

    /// Distance of the logits' rows.
    pub fn logits_stride(self) -> u32 {
        if self.is_vector() { self.vocab.next_multiple_of(4) } else { self.vocab }
    }
}
