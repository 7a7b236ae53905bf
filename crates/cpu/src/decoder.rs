//! Forward and backward pass of the Llama decoder over flat parameters.

use shoal_learn::{EngineError, Layout};

use crate::attention::{HeadGradients, Heads, Rotation, Turn, attend, attend_backward, merge_heads, split_heads};
use crate::dims::Dims;
use crate::matrix::{Matrix, Put, Values, multiply, multiply_into};
use crate::pointwise::{
    add, cross_entropy, cross_entropy_gradient, rms_norm, rms_norm_backward, swiglu, swiglu_backward,
};
use crate::workspace::{Scratch, Tape, Workspace};

/// Where a tensor lies in the flat vectors.
#[derive(Clone, Copy)]
struct Place {
    offset: usize,
    rows: usize,
    columns: usize,
}

impl Place {
    fn matrix(self, parameters: &Values) -> Matrix<'_> {
        parameters.matrix_at(self.offset, self.rows, self.columns)
    }

    fn of(self, flat: &[f32]) -> &[f32] {
        &flat[self.offset..][..self.rows * self.columns]
    }

    fn of_mut(self, flat: &mut [f32]) -> &mut [f32] {
        &mut flat[self.offset..][..self.rows * self.columns]
    }
}

struct LayerPlaces {
    attention_norm: Place,
    query: Place,
    key: Place,
    value: Place,
    output: Place,
    mlp_norm: Place,
    gate: Place,
    up: Place,
    down: Place,
}

/// The decoder's structure: where each parameter lies.
pub struct Decoder {
    layers: Vec<LayerPlaces>,
    embedding: Place,
    final_norm: Place,
    /// The embedding again when tied.
    head: Place,
}

impl Decoder {
    pub fn new(layout: &Layout, layers: u32) -> Result<Self, EngineError> {
        let find = |name: &str| {
            let tensor = layout.find(name);
            let tensor = tensor.ok_or_else(|| EngineError::Unsupported(format!("the model has no tensor {name}")))?;
            let columns = tensor.shape.last().copied().unwrap_or(1);
            Ok::<_, EngineError>(Place { offset: tensor.offset, rows: tensor.len() / columns.max(1), columns })
        };
        let layer = |index: u32| {
            let at = |part: &str| find(&format!("model.layers.{index}.{part}.weight"));
            Ok::<_, EngineError>(LayerPlaces {
                attention_norm: at("input_layernorm")?,
                query: at("self_attn.q_proj")?,
                key: at("self_attn.k_proj")?,
                value: at("self_attn.v_proj")?,
                output: at("self_attn.o_proj")?,
                mlp_norm: at("post_attention_layernorm")?,
                gate: at("mlp.gate_proj")?,
                up: at("mlp.up_proj")?,
                down: at("mlp.down_proj")?,
            })
        };
        let embedding = find("model.embed_tokens.weight")?;
        let tied = layout.find("lm_head.weight").is_none();
        Ok(Self {
            layers: (0..layers).map(layer).collect::<Result<_, _>>()?,
            embedding,
            final_norm: find("model.norm.weight")?,
            head: if tied { embedding } else { find("lm_head.weight")? },
        })
    }

    /// The sum of the rows' cross-entropies. Overwrites `gradient` with that of their mean over `of` rows, which are more
    /// than the batch's own where others compute the rest.
    pub fn train(
        &self,
        pass: &Pass<'_>,
        (inputs, targets, of): (&[u32], &[u32], usize),
        workspace: &mut Workspace,
        gradient: &mut [f32],
    ) -> Result<f64, EngineError> {
        self.forward(pass, inputs, workspace)?;
        let Workspace { x, tapes, normed, logits, dx, scratch } = workspace;
        let loss = cross_entropy_gradient(logits, targets, pass.dims.vocab, of);
        pass.linear_backward(self.head, normed, logits, &mut scratch.hidden_a, Put::Over, gradient)?;
        dx.fill(0.0);
        pass.norm_backward(self.final_norm, x, (&scratch.hidden_a, dx), &mut scratch.partial, gradient);
        for (layer, tape) in self.layers.iter().zip(tapes).rev() {
            layer.backward(pass, tape, dx, scratch, gradient)?;
        }
        let width = pass.dims.hidden;
        let rows = self.embedding.of_mut(gradient);
        // A tied embedding holds the head's gradient already.
        if self.embedding.offset != self.head.offset {
            rows.fill(0.0);
        }
        for (token, dx) in inputs.iter().zip(dx.chunks_exact(width)) {
            add(&mut rows[*token as usize * width..][..width], dx);
        }
        Ok(loss)
    }

    pub fn evaluate(
        &self,
        pass: &Pass<'_>,
        inputs: &[u32],
        targets: &[u32],
        workspace: &mut Workspace,
    ) -> Result<f32, EngineError> {
        self.forward(pass, inputs, workspace)?;
        Ok(cross_entropy(&workspace.logits, targets, pass.dims.vocab))
    }

    /// Logits after the last position.
    pub fn next_logits(
        &self,
        pass: &Pass<'_>,
        inputs: &[u32],
        workspace: &mut Workspace,
    ) -> Result<Values, EngineError> {
        self.hidden(pass, inputs, workspace)?;
        let (width, normed) = (pass.dims.hidden, &workspace.normed);
        multiply(Matrix::of(&normed[normed.len() - width..], width), self.head.matrix(pass.parameters).t())
    }

    /// Leaves logits of all positions.
    fn forward(&self, pass: &Pass<'_>, inputs: &[u32], workspace: &mut Workspace) -> Result<(), EngineError> {
        self.hidden(pass, inputs, workspace)?;
        pass.linear(self.head, &workspace.normed, &mut workspace.logits, Put::Over)
    }

    /// Leaves what comes before the head.
    fn hidden(&self, pass: &Pass<'_>, inputs: &[u32], workspace: &mut Workspace) -> Result<(), EngineError> {
        let Workspace { x, tapes, normed, scratch, .. } = workspace;
        let (table, width) = (self.embedding.of(pass.parameters.as_slice()), pass.dims.hidden);
        for (token, x) in inputs.iter().zip(x.chunks_exact_mut(width)) {
            x.copy_from_slice(&table[*token as usize * width..][..width]);
        }
        let last = tapes.len().saturating_sub(1);
        for (index, layer) in self.layers.iter().enumerate() {
            // Where nobody goes back, all layers share one tape.
            if let Some(tape) = tapes.get_mut(index.min(last)) {
                layer.forward(pass, x, tape, scratch)?;
            }
        }
        pass.norm(self.final_norm, x, normed);
        Ok(())
    }
}

/// The parameters and sizes that one pass works with.
pub struct Pass<'a> {
    pub dims: &'a Dims,
    pub rotation: &'a Rotation,
    pub parameters: &'a Values,
}

impl Pass<'_> {
    /// `y = x·wᵀ`
    fn linear(&self, weight: Place, x: &[f32], y: &mut [f32], put: Put) -> Result<(), EngineError> {
        multiply_into(y, put, Matrix::of(x, weight.columns), weight.matrix(self.parameters).t())
    }

    /// Writes the weight's gradient `dyᵀ·x`, and puts the input's, `dy·w`, to `dx`.
    fn linear_backward(
        &self,
        weight: Place,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        put: Put,
        gradient: &mut [f32],
    ) -> Result<(), EngineError> {
        let dy = Matrix::of(dy, weight.rows);
        multiply_into(weight.of_mut(gradient), Put::Over, dy.t(), Matrix::of(x, weight.columns))?;
        multiply_into(dx, put, dy, weight.matrix(self.parameters))
    }

    fn norm(&self, weight: Place, x: &[f32], y: &mut [f32]) {
        rms_norm(x, weight.of(self.parameters.as_slice()), self.dims.eps, y);
    }

    /// Adds the gradient of the input to `dx` and writes that of the weight.
    fn norm_backward(
        &self,
        weight: Place,
        x: &[f32],
        (dy, dx): (&[f32], &mut [f32]),
        partial: &mut [f32],
        gradient: &mut [f32],
    ) {
        let values = weight.of(self.parameters.as_slice());
        rms_norm_backward(x, values, self.dims.eps, dy, dx, weight.of_mut(gradient), partial);
    }
}

impl LayerPlaces {
    /// Turns the layer's input, in place, into its output.
    fn forward(&self, pass: &Pass<'_>, x: &mut [f32], tape: &mut Tape, s: &mut Scratch) -> Result<(), EngineError> {
        let dims = pass.dims;
        tape.input.copy_from_slice(x);
        pass.norm(self.attention_norm, x, &mut tape.attention_input);
        let turn = Turn::Forward(pass.rotation);
        pass.linear(self.query, &tape.attention_input, &mut s.hidden_a, Put::Over)?;
        split_heads(&s.hidden_a, dims, dims.heads, turn, &mut tape.queries);
        pass.linear(self.key, &tape.attention_input, &mut s.keys_a, Put::Over)?;
        split_heads(&s.keys_a, dims, dims.key_heads, turn, &mut tape.keys);
        pass.linear(self.value, &tape.attention_input, &mut s.keys_a, Put::Over)?;
        split_heads(&s.keys_a, dims, dims.key_heads, Turn::None, &mut tape.values);
        let heads = Heads { queries: &tape.queries, keys: &tape.keys, values: &tape.values };
        attend(dims, heads, &mut s.hidden_a, &mut tape.log_sums)?;
        merge_heads(&s.hidden_a, dims, dims.heads, Turn::None, &mut tape.mixed);
        pass.linear(self.output, &tape.mixed, x, Put::Added)?;

        tape.middle.copy_from_slice(x);
        pass.norm(self.mlp_norm, x, &mut tape.mlp_input);
        pass.linear(self.gate, &tape.mlp_input, &mut tape.gate, Put::Over)?;
        pass.linear(self.up, &tape.mlp_input, &mut tape.up, Put::Over)?;
        swiglu(&tape.gate, &tape.up, &mut tape.product);
        pass.linear(self.down, &tape.product, x, Put::Added)
    }

    /// Turns the gradient of the layer's output, in place, into that of its input.
    fn backward(
        &self,
        pass: &Pass<'_>,
        tape: &mut Tape,
        dx: &mut [f32],
        s: &mut Scratch,
        gradient: &mut [f32],
    ) -> Result<(), EngineError> {
        pass.linear_backward(self.down, &tape.product, dx, &mut s.inner, Put::Over, gradient)?;
        swiglu_backward(&mut tape.gate, &mut tape.up, &s.inner);
        pass.linear_backward(self.gate, &tape.mlp_input, &tape.gate, &mut s.hidden_a, Put::Over, gradient)?;
        pass.linear_backward(self.up, &tape.mlp_input, &tape.up, &mut s.hidden_a, Put::Added, gradient)?;
        pass.norm_backward(self.mlp_norm, &tape.middle, (&s.hidden_a, dx), &mut s.partial, gradient);

        let dims = pass.dims;
        pass.linear_backward(self.output, &tape.mixed, dx, &mut s.hidden_a, Put::Over, gradient)?;
        split_heads(&s.hidden_a, dims, dims.heads, Turn::None, &mut s.hidden_b);
        let heads = Heads { queries: &tape.queries, keys: &tape.keys, values: &tape.values };
        let gradients = HeadGradients { queries: &mut s.hidden_a, keys: &mut s.keys_a, values: &mut s.keys_b };
        attend_backward(dims, heads, &tape.log_sums, &s.hidden_b, gradients)?;
        let back = Turn::Back(pass.rotation);
        merge_heads(&s.hidden_a, dims, dims.heads, back, &mut s.hidden_b);
        // Keys and values are not needed any more.
        merge_heads(&s.keys_a, dims, dims.key_heads, back, &mut tape.keys);
        merge_heads(&s.keys_b, dims, dims.key_heads, Turn::None, &mut tape.values);
        pass.linear_backward(self.query, &tape.attention_input, &s.hidden_b, &mut s.hidden_a, Put::Over, gradient)?;
        pass.linear_backward(self.key, &tape.attention_input, &tape.keys, &mut s.hidden_a, Put::Added, gradient)?;
        pass.linear_backward(self.value, &tape.attention_input, &tape.values, &mut s.hidden_a, Put::Added, gradient)?;
        pass.norm_backward(self.attention_norm, &tape.input, (&s.hidden_a, dx), &mut s.partial, gradient);
        Ok(())
    }
}
