//! All memory of a pass, taken once.

use shoal_learn::EngineError;

use crate::dims::Dims;
use crate::engine::zeros;
use crate::parallel::ROWS;

/// What the backward pass of one layer needs. Heads lie as [batch, heads, context, width], all else in rows of tokens.
pub struct Tape {
    pub input: Vec<f32>,
    pub attention_input: Vec<f32>,
    pub queries: Vec<f32>,
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
    pub log_sums: Vec<f32>,
    pub mixed: Vec<f32>,
    pub middle: Vec<f32>,
    pub mlp_input: Vec<f32>,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    pub product: Vec<f32>,
}

/// Places for what nobody needs later.
pub struct Scratch {
    pub hidden_a: Vec<f32>,
    pub hidden_b: Vec<f32>,
    pub keys_a: Vec<f32>,
    pub keys_b: Vec<f32>,
    pub inner: Vec<f32>,
    pub partial: Vec<f32>,
}

pub struct Workspace {
    /// The layers' output.
    pub x: Vec<f32>,
    pub tapes: Vec<Tape>,
    pub normed: Vec<f32>,
    pub logits: Vec<f32>,
    pub dx: Vec<f32>,
    pub scratch: Scratch,
}

impl Workspace {
    /// For training.
    pub fn new(dims: &Dims, layers: usize) -> Result<Self, EngineError> {
        Self::with(dims, layers, true)
    }

    /// For logits of the last position alone.
    pub fn for_inference(dims: &Dims) -> Result<Self, EngineError> {
        Self::with(dims, 1, false)
    }

    fn with(dims: &Dims, tapes: usize, training: bool) -> Result<Self, EngineError> {
        let rows = dims.batch * dims.context;
        let (hidden, inner) = (rows * dims.hidden, rows * dims.inner);
        let keys = rows * dims.key_heads * dims.head_width;
        let only = |size| if training { size } else { 0 };
        let tape = || {
            Ok::<_, EngineError>(Tape {
                input: zeros(hidden)?,
                attention_input: zeros(hidden)?,
                queries: zeros(hidden)?,
                keys: zeros(keys)?,
                values: zeros(keys)?,
                log_sums: zeros(rows * dims.heads)?,
                mixed: zeros(hidden)?,
                middle: zeros(hidden)?,
                mlp_input: zeros(hidden)?,
                gate: zeros(inner)?,
                up: zeros(inner)?,
                product: zeros(inner)?,
            })
        };
        Ok(Self {
            x: zeros(hidden)?,
            tapes: (0..tapes).map(|_| tape()).collect::<Result<_, _>>()?,
            normed: zeros(hidden)?,
            logits: zeros(only(rows * dims.vocab))?,
            dx: zeros(only(hidden))?,
            scratch: Scratch {
                hidden_a: zeros(hidden)?,
                hidden_b: zeros(only(hidden))?,
                keys_a: zeros(keys)?,
                keys_b: zeros(only(keys))?,
                inner: zeros(only(inner))?,
                partial: zeros(only(rows.div_ceil(ROWS) * dims.hidden))?,
            },
        })
    }
}
