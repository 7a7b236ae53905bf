//! The step as a flat list of dispatches, made once for a model and a batch shape.

use shoal_learn::{EngineError, Layout};
use shoal_wire::manifest::ModelSpec;

use crate::{
    arena::{Arena, Place},
    forms::{Forms, Op},
    kernels::Kernel,
};

/// "No such operand" in a dispatch's arguments.
pub(crate) const NONE: u32 = u32::MAX;
/// Workgroups that share the sum of squares of all gradients.
const NORM_GROUPS: u32 = 64;
/// Most workgroups in one dimension of a grid.
const GROUPS_MAX: u32 = 65_535;
pub(crate) const ARGUMENTS: usize = 16;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatch {
    pub kernel: Kernel,
    pub arguments: [u32; ARGUMENTS],
    pub grid: [u32; 3],
}

#[derive(Debug)]
pub(crate) struct Plan {
    /// Forward, then loss, then backward and update, then the end of an evaluation.
    pub dispatches: Vec<Dispatch>,
    pub forward: usize,
    pub loss: usize,
    pub update: usize,
    pub arena_values: usize,
    pub stats_values: usize,
    /// Where the logits are after the forward part: rows of the vocabulary, [`Shape::logits_stride`] apart.
    pub logits: usize,
    pub rope_table: usize,
}

/// Sizes that the whole plan uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub batch: u32,
    pub context: u32,
    pub rows: u32,
    pub hidden: u32,
    pub inner: u32,
    pub vocab: u32,
    pub heads: u32,
    pub keys: u32,
    pub head: u32,
    pub layers: u32,
    eps: u32,
}

impl Shape {
    /// An error when a place in the plan would not fit 32 bits.
    pub fn of(model: &ModelSpec, batch: usize, context: usize) -> Result<Self, EngineError> {
        let head = model.hidden_size / model.num_attention_heads;
        let shape = Self {
            batch: batch as u32,
            context: context as u32,
            rows: (batch * context) as u32,
            hidden: model.hidden_size,
            inner: model.intermediate_size,
            vocab: model.vocab_size,
            heads: model.num_attention_heads,
            keys: model.num_key_value_heads,
            head,
            layers: model.num_hidden_layers,
            eps: model.rms_norm_eps.to_bits(),
        };
        let wide = |x: u32| u128::from(x);
        let per_row = 8 * wide(shape.hidden) + 3 * wide(shape.inner) + 4 * wide(shape.heads);
        let rows = batch as u128 * context as u128;
        let values = rows * (per_row * wide(shape.layers) + wide(shape.vocab) + 8);
        if values > u128::from(u32::MAX / 2) {
            let text = format!(
                "{batch} sequences of {context} tokens need {values} values at once; use fewer or shorter ones"
            );
            return Err(EngineError::OutOfMemory(text));
        }
        Ok(shape)
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

/// Activations that a layer's backward pass needs.
struct Saved {
    x: Place,
    normed: Place,
    rstd: Place,
    q: Place,
    k: Place,
    v: Place,
    context: Place,
    lse: Place,
    middle: Place,
    middle_normed: Place,
    middle_rstd: Place,
    gate: Place,
    up: Place,
    act: Place,
}

struct Builder<'a> {
    shape: Shape,
    forms: Forms,
    layout: &'a Layout,
    arena: Arena,
    /// What is one value a row.
    stats: Arena,
    dispatches: Vec<Dispatch>,
    rope_table: Place,
}

impl Plan {
    pub fn new(layout: &Layout, shape: Shape, forms: Forms) -> Result<Self, EngineError> {
        let mut arena = Arena::default();
        let rope_table = arena.take((shape.context * shape.head) as usize);
        let mut builder =
            Builder { shape, forms, layout, arena, stats: Arena::default(), dispatches: Vec::new(), rope_table };
        builder.build()
    }
}

impl Builder<'_> {
    fn build(&mut self) -> Result<Plan, EngineError> {
        let shape = self.shape;
        let tied = self.layout.find("lm_head.weight").is_none();
        let embedding = self.weight("model.embed_tokens.weight")?;
        let head = if tied { embedding } else { self.weight("lm_head.weight")? };
        let last_norm = self.weight("model.norm.weight")?;
        let mut x = self.hidden();
        let values = shape.rows * shape.hidden;
        self.flat(Kernel::Embed, values, &[shape.rows, shape.hidden, embedding, x.offset()]);
        let mut saved = Vec::new();
        for layer in 0..shape.layers {
            let (layer, next) = self.layer_forward(layer, x)?;
            saved.push(layer);
            x = next;
        }
        let (normed, rstd) = (self.hidden(), self.stats.take(shape.rows as usize));
        self.norm(x, last_norm, normed, rstd);
        let logits = self.arena.take((shape.rows * shape.logits_stride()) as usize);
        self.forward_gemm(shape.hidden, normed, None, &[(shape.vocab, head, logits)]);
        let forward = self.dispatches.len();

        let row_losses = self.stats.take(shape.rows as usize);
        let ce = [shape.rows, shape.vocab, logits.offset(), row_losses.offset(), shape.logits_stride()];
        self.rows(self.forms.of(Op::CrossEntropy), &ce);
        let loss = self.dispatches.len();

        let logits_at = logits.at;
        let dx = self.backward(tied, (embedding, head, last_norm), (x, normed, rstd, logits), saved)?;
        self.arena.give(dx);
        let partial = self.stats.take(NORM_GROUPS as usize);
        let factor = self.stats.take(1);
        let total = self.layout.len() as u32;
        self.push(Kernel::NormPartial, &[total, partial.offset(), NORM_GROUPS], [NORM_GROUPS, 1, 1]);
        let end = |groups| [groups, partial.offset(), shape.rows, row_losses.offset(), factor.offset()];
        self.push(Kernel::Finish, &end(NORM_GROUPS), [1, 1, 1]);
        let decays_at = 2 * shape.rows;
        if total.is_multiple_of(4) && shape.is_vector() {
            self.flat(Kernel::AdamWVec4, total / 4, &[total, factor.offset(), decays_at]);
        } else {
            self.flat(Kernel::AdamW, total, &[total, factor.offset(), decays_at]);
        }
        let update = self.dispatches.len();
        self.push(Kernel::Finish, &end(0), [1, 1, 1]);

        Ok(Plan {
            dispatches: core::mem::take(&mut self.dispatches),
            forward,
            loss,
            update,
            arena_values: self.arena.len(),
            stats_values: self.stats.len(),
            logits: logits_at,
            rope_table: self.rope_table.at,
        })
    }

    fn layer_forward(&mut self, layer: u32, x: Place) -> Result<(Saved, Place), EngineError> {
        let shape = self.shape;
        let rows = shape.rows as usize;
        let (normed, rstd) = (self.hidden(), self.stats.take(rows));
        self.norm(x, self.part(layer, "input_layernorm")?, normed, rstd);
        let q = self.hidden();
        let (k, v) = (self.keys(), self.keys());
        let parts = [
            (shape.hidden, self.part(layer, "self_attn.q_proj")?, q),
            (shape.key_width(), self.part(layer, "self_attn.k_proj")?, k),
            (shape.key_width(), self.part(layer, "self_attn.v_proj")?, v),
        ];
        self.forward_gemm(shape.hidden, normed, None, &parts);
        let rope = [
            shape.rows,
            shape.context,
            shape.heads,
            shape.keys,
            shape.head,
            q.offset(),
            k.offset(),
            self.rope_table.offset(),
        ];
        self.flat(Kernel::Rope, shape.rows * (shape.heads + shape.keys) * shape.head / 2, &rope);
        let context = self.hidden();
        let lse = self.stats.take(rows * shape.heads as usize);
        let attention = [
            shape.batch,
            shape.context,
            shape.heads,
            shape.keys,
            q.offset(),
            k.offset(),
            v.offset(),
            context.offset(),
            lse.offset(),
        ];
        self.flat(self.forms.of(Op::Attention), shape.rows * shape.heads, &attention);
        let middle = self.hidden();
        let out = self.part(layer, "self_attn.o_proj")?;
        self.forward_gemm(shape.hidden, context, Some(x), &[(shape.hidden, out, middle)]);
        let (middle_normed, middle_rstd) = (self.hidden(), self.stats.take(rows));
        self.norm(middle, self.part(layer, "post_attention_layernorm")?, middle_normed, middle_rstd);
        let (gate, up, act) = (self.wide(), self.wide(), self.wide());
        let parts = [
            (shape.inner, self.part(layer, "mlp.gate_proj")?, gate),
            (shape.inner, self.part(layer, "mlp.up_proj")?, up),
        ];
        self.forward_gemm(shape.hidden, middle_normed, None, &parts);
        let count = shape.rows * shape.inner;
        self.flat(Kernel::SwiGlu, count, &[count, gate.offset(), up.offset(), act.offset()]);
        let next = self.hidden();
        let down = self.part(layer, "mlp.down_proj")?;
        self.forward_gemm(shape.inner, act, Some(middle), &[(shape.hidden, down, next)]);
        let saved = Saved { x, normed, rstd, q, k, v, context, lse, middle, middle_normed, middle_rstd, gate, up, act };
        Ok((saved, next))
    }

    /// From the gradient of the logits to all gradients of parameters; returns the place of the last one.
    fn backward(
        &mut self,
        tied: bool,
        (embedding, head, last_norm): (u32, u32, u32),
        (x, normed, rstd, logits): (Place, Place, Place, Place),
        saved: Vec<Saved>,
    ) -> Result<Place, EngineError> {
        let shape = self.shape;
        let parts = [(shape.vocab, head, logits)];
        self.weight_gradients(shape.hidden, normed, &parts);
        let d_normed = self.hidden();
        self.input_gradient(shape.hidden, d_normed, false, &parts);
        let dx = self.hidden();
        self.norm_backward(x, last_norm, d_normed, rstd, dx, false);
        self.give(&[logits, normed, d_normed, x]);
        for (layer, saved) in saved.into_iter().enumerate().rev() {
            self.layer_backward(layer as u32, saved, dx)?;
        }
        let embed = [shape.rows, shape.hidden, embedding, dx.offset(), shape.vocab, u32::from(tied)];
        self.flat(Kernel::EmbedBackward, shape.vocab, &embed);
        Ok(dx)
    }

    /// Turns the gradient at a layer's end, in place, into the one at its start.
    fn layer_backward(&mut self, layer: u32, saved: Saved, dx: Place) -> Result<(), EngineError> {
        let shape = self.shape;
        // The feed-forward half: dx is the gradient of its output and, past the residual, of its input.
        let down = [(shape.hidden, self.part(layer, "mlp.down_proj")?, dx)];
        self.weight_gradients(shape.inner, saved.act, &down);
        let d_act = saved.act;
        self.input_gradient(shape.inner, d_act, false, &down);
        let count = shape.rows * shape.inner;
        self.flat(Kernel::SwiGluBackward, count, &[count, saved.gate.offset(), saved.up.offset(), d_act.offset()]);
        let parts = [
            (shape.inner, self.part(layer, "mlp.gate_proj")?, saved.gate),
            (shape.inner, self.part(layer, "mlp.up_proj")?, saved.up),
        ];
        self.weight_gradients(shape.hidden, saved.middle_normed, &parts);
        let d_normed = self.hidden();
        self.input_gradient(shape.hidden, d_normed, false, &parts);
        let norm = self.part(layer, "post_attention_layernorm")?;
        self.norm_backward(saved.middle, norm, d_normed, saved.middle_rstd, dx, true);
        self.give(&[saved.gate, saved.up, saved.act, saved.middle, saved.middle_normed]);
        // The attention half.
        let out = [(shape.hidden, self.part(layer, "self_attn.o_proj")?, dx)];
        self.weight_gradients(shape.hidden, saved.context, &out);
        let d_context = self.hidden();
        self.input_gradient(shape.hidden, d_context, false, &out);
        let delta = self.stats.take((shape.rows * shape.heads) as usize);
        let dq = self.hidden();
        let (dk, dv) = (self.keys(), self.keys());
        let common =
            [shape.batch, shape.context, shape.heads, shape.keys, saved.q.offset(), saved.k.offset(), saved.v.offset()];
        let rest = [saved.context, saved.lse, d_context, delta, dq, self.rope_table].map(Place::offset);
        self.flat(self.forms.of(Op::AttentionDq), shape.rows * shape.heads, &[&common[..], &rest].concat());
        let rest = [dk, saved.lse, d_context, delta, dv, self.rope_table].map(Place::offset);
        self.flat(self.forms.of(Op::AttentionDkv), shape.rows * shape.keys, &[&common[..], &rest].concat());
        let parts = [
            (shape.hidden, self.part(layer, "self_attn.q_proj")?, dq),
            (shape.key_width(), self.part(layer, "self_attn.k_proj")?, dk),
            (shape.key_width(), self.part(layer, "self_attn.v_proj")?, dv),
        ];
        self.weight_gradients(shape.hidden, saved.normed, &parts);
        self.input_gradient(shape.hidden, d_normed, false, &parts);
        let norm = self.part(layer, "input_layernorm")?;
        self.norm_backward(saved.x, norm, d_normed, saved.rstd, dx, true);
        self.give(&[d_normed, d_context, dq, dk, dv]);
        self.stats.give(delta);
        self.give(&[saved.q, saved.k, saved.v, saved.context, saved.normed, saved.x]);
        Ok(())
    }

    fn norm(&mut self, x: Place, weight: u32, y: Place, rstd: Place) {
        let shape = self.shape;
        let arguments = [shape.rows, shape.hidden, x.offset(), weight, y.offset(), rstd.offset(), shape.eps];
        self.rows(self.forms.of(Op::Norm), &arguments);
    }

    fn norm_backward(&mut self, x: Place, weight: u32, dy: Place, rstd: Place, dx: Place, adds: bool) {
        let shape = self.shape;
        let common = [shape.rows, shape.hidden, x.offset(), weight, dy.offset(), rstd.offset()];
        self.flat(Kernel::RmsNormDw, shape.hidden, &common);
        self.rows(self.forms.of(Op::NormDx), &[&common[..], &[dx.offset(), u32::from(adds)]].concat());
    }

    /// Y = X Wᵀ for weights that share X; `parts` are (outputs, weight, Y).
    fn forward_gemm(&mut self, depth: u32, x: Place, residual: Option<Place>, parts: &[(u32, u32, Place)]) {
        let rows = self.shape.rows;
        let widest = parts.iter().map(|(outputs, ..)| *outputs).max().unwrap_or(0);
        let head = [rows, depth, x.offset(), residual.map_or(NONE, Place::offset)];
        self.product(Op::Nt, &with_parts(head, parts), [widest, rows, parts.len() as u32]);
    }

    /// dX = Σ dY W over weights that shared X.
    fn input_gradient(&mut self, width: u32, dx: Place, adds: bool, parts: &[(u32, u32, Place)]) {
        let rows = self.shape.rows;
        let head = [rows, width, dx.offset(), parts.len() as u32 + if adds { 16 } else { 0 }];
        self.product(Op::Nn, &with_parts(head, parts), [width, rows, 1]);
    }

    /// dW = dYᵀ X for weights that shared X.
    fn weight_gradients(&mut self, width: u32, x: Place, parts: &[(u32, u32, Place)]) {
        let tallest = parts.iter().map(|(outputs, ..)| *outputs).max().unwrap_or(0);
        let head = [self.shape.rows, width, x.offset(), 0];
        self.product(Op::Tn, &with_parts(head, parts), [width, tallest, parts.len() as u32]);
    }

    /// A matrix product over this many values across and down, and parts.
    fn product(&mut self, op: Op, arguments: &[u32], [wide, high, parts]: [u32; 3]) {
        let kernel = self.forms.of(op);
        let [across, down] = kernel.tile();
        self.push(kernel, arguments, [wide.div_ceil(across), high.div_ceil(down), parts]);
    }

    /// A thread for each of `count`.
    fn flat(&mut self, kernel: Kernel, count: u32, arguments: &[u32]) {
        self.push(kernel, arguments, fold(count.div_ceil(64)));
    }

    /// A workgroup, or a thread, for each row.
    fn rows(&mut self, kernel: Kernel, arguments: &[u32]) {
        let groups = if kernel.is_row() { self.shape.rows.div_ceil(64) } else { self.shape.rows };
        self.push(kernel, arguments, fold(groups));
    }

    fn push(&mut self, kernel: Kernel, arguments: &[u32], grid: [u32; 3]) {
        let mut padded = [0; ARGUMENTS];
        padded[..arguments.len()].copy_from_slice(arguments);
        self.dispatches.push(Dispatch { kernel, arguments: padded, grid });
    }

    fn weight(&self, name: &str) -> Result<u32, EngineError> {
        let tensor = self.layout.find(name).ok_or_else(|| EngineError::Unsupported(format!("no tensor {name}")))?;
        Ok(tensor.offset as u32)
    }

    fn part(&self, layer: u32, part: &str) -> Result<u32, EngineError> {
        self.weight(&format!("model.layers.{layer}.{part}.weight"))
    }

    fn hidden(&mut self) -> Place {
        self.arena.take((self.shape.rows * self.shape.hidden) as usize)
    }

    fn keys(&mut self) -> Place {
        self.arena.take((self.shape.rows * self.shape.key_width()) as usize)
    }

    fn wide(&mut self) -> Place {
        self.arena.take((self.shape.rows * self.shape.inner) as usize)
    }

    fn give(&mut self, places: &[Place]) {
        for place in places {
            self.arena.give(*place);
        }
    }
}

fn with_parts(head: [u32; 4], parts: &[(u32, u32, Place)]) -> Vec<u32> {
    let tail = parts.iter().flat_map(|(outputs, weight, place)| [*outputs, *weight, place.offset()]);
    head.into_iter().chain(tail).collect()
}

/// Folds a number of workgroups into two dimensions.
pub(crate) fn fold(groups: u32) -> [u32; 3] {
    if groups <= GROUPS_MAX { [groups, 1, 1] } else { [GROUPS_MAX, groups.div_ceil(GROUPS_MAX), 1] }
}
