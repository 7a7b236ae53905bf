//! Forward and backward pass of the Llama decoder over flat parameters.

use shoal_learn::{EngineError, Layout};

use crate::attention::{Attention, Rotation, Turn, merge_heads, split_heads};
use crate::dims::Dims;
use crate::matrix::{Matrix, Values, multiply};
use crate::pointwise::{
    add, cross_entropy, cross_entropy_backward, rms_norm, rms_norm_backward, swiglu, swiglu_backward,
};

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

/// What the backward pass of one layer needs.
struct LayerTape {
    input: Vec<f32>,
    attention_input: Values,
    attention: Attention,
    mixed: Values,
    middle: Vec<f32>,
    mlp_input: Values,
    gate: Values,
    up: Values,
    product: Values,
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

    /// Mean cross-entropy; the gradient is added to `gradient`, which must be zeroed.
    pub fn train(
        &self,
        pass: &Pass<'_>,
        inputs: &[u32],
        targets: &[u32],
        gradient: &mut [f32],
    ) -> Result<f32, EngineError> {
        let mut tapes = Vec::with_capacity(self.layers.len());
        let mut x = self.embed(pass, inputs);
        for layer in &self.layers {
            let (next, tape) = layer.forward(pass, x)?;
            tapes.push(tape);
            x = next;
        }
        let normed = Values::from(rms_norm(&x, self.final_norm.of(pass.parameters.as_slice()), pass.dims.eps));
        let mut logits = multiply(normed.matrix(pass.dims.hidden), self.head.matrix(pass.parameters).t())?;
        let loss = cross_entropy_backward(logits.as_mut_slice(), targets, pass.dims.vocab);

        let dnormed = pass.linear_backward(self.head, &normed, &logits, gradient)?;
        drop(logits);
        let mut dx = vec![0.0; x.len()];
        pass.norm_backward(self.final_norm, &x, dnormed.as_slice(), &mut dx, gradient);
        for (layer, tape) in self.layers.iter().zip(tapes).rev() {
            dx = layer.backward(pass, tape, dx, gradient)?;
        }
        let width = pass.dims.hidden;
        let rows = self.embedding.of_mut(gradient);
        for (token, dx) in inputs.iter().zip(dx.chunks_exact(width)) {
            add(&mut rows[*token as usize * width..][..width], dx);
        }
        Ok(loss)
    }

    pub fn evaluate(&self, pass: &Pass<'_>, inputs: &[u32], targets: &[u32]) -> Result<f32, EngineError> {
        let x = self.last_hidden(pass, inputs)?;
        let logits = self.logits(pass, &x)?;
        Ok(cross_entropy(logits.as_slice(), targets, pass.dims.vocab))
    }

    /// Logits after the last position.
    pub fn next_logits(&self, pass: &Pass<'_>, inputs: &[u32]) -> Result<Values, EngineError> {
        let x = self.last_hidden(pass, inputs)?;
        self.logits(pass, &x[x.len() - pass.dims.hidden..])
    }

    fn embed(&self, pass: &Pass<'_>, inputs: &[u32]) -> Vec<f32> {
        let (table, width) = (self.embedding.of(pass.parameters.as_slice()), pass.dims.hidden);
        inputs.iter().flat_map(|token| &table[*token as usize * width..][..width]).copied().collect()
    }

    fn last_hidden(&self, pass: &Pass<'_>, inputs: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.layers.iter().try_fold(self.embed(pass, inputs), |x, layer| Ok(layer.forward(pass, x)?.0))
    }

    fn logits(&self, pass: &Pass<'_>, x: &[f32]) -> Result<Values, EngineError> {
        let normed = Values::from(rms_norm(x, self.final_norm.of(pass.parameters.as_slice()), pass.dims.eps));
        multiply(normed.matrix(pass.dims.hidden), self.head.matrix(pass.parameters).t())
    }
}

/// The parameters and sizes that one pass works with.
pub struct Pass<'a> {
    pub dims: &'a Dims,
    pub rotation: &'a Rotation,
    pub parameters: &'a Values,
}

impl Pass<'_> {
    fn linear(&self, weight: Place, x: &Values) -> Result<Values, EngineError> {
        multiply(x.matrix(weight.columns), weight.matrix(self.parameters).t())
    }

    /// Adds the weight's gradient `dyᵀ·x` and returns the input's, `dy·w`.
    fn linear_backward(
        &self,
        weight: Place,
        x: &Values,
        dy: &Values,
        gradient: &mut [f32],
    ) -> Result<Values, EngineError> {
        let dy = dy.matrix(weight.rows);
        add(weight.of_mut(gradient), multiply(dy.t(), x.matrix(weight.columns))?.as_slice());
        multiply(dy, weight.matrix(self.parameters))
    }

    fn norm(&self, weight: Place, x: &[f32]) -> Values {
        rms_norm(x, weight.of(self.parameters.as_slice()), self.dims.eps).into()
    }

    /// Adds the gradients of the input and of the weight.
    fn norm_backward(&self, weight: Place, x: &[f32], dy: &[f32], dx: &mut [f32], gradient: &mut [f32]) {
        let values = weight.of(self.parameters.as_slice());
        rms_norm_backward(x, values, self.dims.eps, dy, dx, weight.of_mut(gradient));
    }
}

impl LayerPlaces {
    fn forward(&self, pass: &Pass<'_>, input: Vec<f32>) -> Result<(Vec<f32>, LayerTape), EngineError> {
        let dims = pass.dims;
        let attention_input = pass.norm(self.attention_norm, &input);
        let turn = Turn::Forward(pass.rotation);
        let queries = split_heads(pass.linear(self.query, &attention_input)?.as_slice(), dims, dims.heads, turn);
        let keys = split_heads(pass.linear(self.key, &attention_input)?.as_slice(), dims, dims.key_heads, turn);
        let values =
            split_heads(pass.linear(self.value, &attention_input)?.as_slice(), dims, dims.key_heads, Turn::None);
        let (attention, mixed) = Attention::forward(dims, queries, keys, values)?;
        let mixed = merge_heads(mixed.as_slice(), dims, dims.heads, Turn::None);
        let mut middle = input.clone();
        add(&mut middle, pass.linear(self.output, &mixed)?.as_slice());

        let mlp_input = pass.norm(self.mlp_norm, &middle);
        let gate = pass.linear(self.gate, &mlp_input)?;
        let up = pass.linear(self.up, &mlp_input)?;
        let product = Values::from(swiglu(gate.as_slice(), up.as_slice()));
        let mut output = middle.clone();
        add(&mut output, pass.linear(self.down, &product)?.as_slice());
        let tape = LayerTape { input, attention_input, attention, mixed, middle, mlp_input, gate, up, product };
        Ok((output, tape))
    }

    /// Takes the gradient of the layer's output, returns that of its input.
    fn backward(
        &self,
        pass: &Pass<'_>,
        tape: LayerTape,
        mut dx: Vec<f32>,
        gradient: &mut [f32],
    ) -> Result<Vec<f32>, EngineError> {
        let LayerTape { input, attention_input, attention, mixed, middle, mlp_input, mut gate, mut up, product } = tape;
        let mut residual = Values::from(dx);
        let dproduct = pass.linear_backward(self.down, &product, &residual, gradient)?;
        swiglu_backward(gate.as_mut_slice(), up.as_mut_slice(), dproduct.as_slice());
        let mut dmlp = pass.linear_backward(self.gate, &mlp_input, &gate, gradient)?;
        add(dmlp.as_mut_slice(), pass.linear_backward(self.up, &mlp_input, &up, gradient)?.as_slice());
        pass.norm_backward(self.mlp_norm, &middle, dmlp.as_slice(), residual.as_mut_slice(), gradient);

        let dims = pass.dims;
        let dmixed = pass.linear_backward(self.output, &mixed, &residual, gradient)?;
        let dmixed = split_heads(dmixed.as_slice(), dims, dims.heads, Turn::None);
        let heads = attention.backward(dims, &dmixed)?;
        let back = Turn::Back(pass.rotation);
        let queries = merge_heads(heads.queries.as_slice(), dims, dims.heads, back);
        let keys = merge_heads(heads.keys.as_slice(), dims, dims.key_heads, back);
        let values = merge_heads(heads.values.as_slice(), dims, dims.key_heads, Turn::None);
        let mut dinput = pass.linear_backward(self.query, &attention_input, &queries, gradient)?;
        add(dinput.as_mut_slice(), pass.linear_backward(self.key, &attention_input, &keys, gradient)?.as_slice());
        add(dinput.as_mut_slice(), pass.linear_backward(self.value, &attention_input, &values, gradient)?.as_slice());
        dx = residual.into_vec();
        pass.norm_backward(self.attention_norm, &input, dinput.as_slice(), &mut dx, gradient);
        Ok(dx)
    }
}
