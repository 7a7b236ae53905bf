//! The decoder's parts as dispatches, forward and backward.

use core::ops::Range;

use shoal_learn::EngineError;

use super::{Builder, NONE, fold};
use crate::{
    arena::Place,
    banks::{Piece, Weight},
    forms::Op,
    kernels::Kernel,
};

/// Activations that a block's backward pass needs.
pub(super) struct Saved {
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

/// What is left of a block's forward pass.
pub(super) enum Kept {
    All(Box<Saved>),
    /// Its input, from which the rest is computed again.
    Input(Place),
}

/// From the last hidden values to the logits.
pub(super) struct Head {
    pub forward: Range<usize>,
    pub evaluate: Range<usize>,
    normed: Place,
    rstd: Place,
    logits: Place,
    row_losses: Place,
    pieces: Vec<Piece>,
}

/// A weight with its number of outputs and the place of those.
type Part = (u32, Weight, Place);

impl Builder<'_> {
    pub(super) fn embed(&mut self, x: Place) -> Result<(), EngineError> {
        let (rows, hidden) = (self.shape.rows, self.shape.hidden);
        for Piece { weight, first_row, rows: tokens } in self.pieces("model.embed_tokens.weight")? {
            let arguments = [rows, hidden, weight.offset, x.offset(), first_row, tokens];
            self.push_in(weight.bank, Kernel::Embed, &arguments, fold((rows * hidden).div_ceil(64)));
        }
        Ok(())
    }

    pub(super) fn layer_forward(&mut self, layer: u32, x: Place) -> Result<(Saved, Place), EngineError> {
        let saved = self.layer_inside(layer, x)?;
        let next = self.hidden();
        let down = self.part(layer, "mlp.down_proj")?;
        self.forward_gemm(self.shape.inner, saved.act, Some(saved.middle), &[(self.shape.hidden, down, next)]);
        Ok((saved, next))
    }

    /// All of a block but its last product.
    fn layer_inside(&mut self, layer: u32, x: Place) -> Result<Saved, EngineError> {
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
        let [q_at, k_at, v_at, table] = [q, k, v, self.rope_table].map(Place::offset);
        let rope = [shape.rows, shape.context, shape.heads, shape.keys, shape.head, q_at, k_at, table];
        self.flat(Kernel::Rope, shape.rows * (shape.heads + shape.keys) * shape.head / 2, &rope);
        let context = self.hidden();
        let lse = self.stats.take(rows * shape.heads as usize);
        let places = [q_at, k_at, v_at, context.offset(), lse.offset()];
        let attention = [&[shape.batch, shape.context, shape.heads, shape.keys][..], &places].concat();
        self.attention(Op::Attention, shape.heads, &attention);
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
        Ok(Saved { x, normed, rstd, q, k, v, context, lse, middle, middle_normed, middle_rstd, gate, up, act })
    }

    /// Frees all of a block's activations but its input.
    pub(super) fn forget(&mut self, saved: Saved) -> Kept {
        let x = saved.x;
        self.give_feed_forward(&saved);
        self.give_attention(&saved);
        Kept::Input(x)
    }

    fn give_feed_forward(&mut self, saved: &Saved) {
        self.give(&[saved.gate, saved.up, saved.act, saved.middle, saved.middle_normed]);
        self.stats.give(saved.middle_rstd);
    }

    fn give_attention(&mut self, saved: &Saved) {
        self.give(&[saved.q, saved.k, saved.v, saved.context, saved.normed]);
        self.stats.give(saved.lse);
        self.stats.give(saved.rstd);
    }

    /// The last norm, and the loss of the logits without gradients.
    pub(super) fn head(&mut self, x: Place, row_losses: Place) -> Result<Head, EngineError> {
        let tied = self.task.layout.find("lm_head.weight").is_none();
        let pieces = self.pieces(if tied { "model.embed_tokens.weight" } else { "lm_head.weight" })?;
        let (normed, rstd) = (self.hidden(), self.stats.take(self.shape.rows as usize));
        self.norm(x, self.weight("model.norm.weight")?, normed, rstd);
        let logits = self.arena.take((self.logits_rows * self.shape.logits_stride()) as usize);
        let forward = 0..self.dispatches.len();
        let head = Head { evaluate: forward.end..forward.end, forward, normed, rstd, logits, row_losses, pieces };
        for rows in self.row_parts() {
            self.judge(&head, &rows);
        }
        Ok(Head { evaluate: head.forward.end..self.dispatches.len(), ..head })
    }

    fn row_parts(&self) -> Vec<Range<u32>> {
        let (rows, each) = (self.shape.rows, self.logits_rows);
        (0..rows).step_by(each as usize).map(|start| start..(start + each).min(rows)).collect()
    }

    /// Logits of these rows, then their losses, which turn them into their own gradients.
    fn judge(&mut self, head: &Head, rows: &Range<u32>) {
        let (shape, count) = (self.shape, rows.end - rows.start);
        let normed = head.normed.offset() + rows.start * shape.hidden;
        for piece in &head.pieces {
            let y = head.logits.offset() + piece.first_row;
            let mut arguments = vec![count, shape.hidden, normed, NONE, piece.rows, piece.weight.offset, y];
            self.pitched(&mut arguments);
            self.product(piece.weight.bank, Op::Nt, &arguments, [piece.rows, count, 1]);
        }
        let batch_rows = shape.rows * self.task.thrift.micro_batches;
        let [logits, losses] = [head.logits, head.row_losses].map(Place::offset);
        let stride = shape.logits_stride();
        let judged = [count, shape.vocab, logits, losses, stride, rows.start, shape.rows, batch_rows];
        self.rows(count, 0, self.forms.of(Op::CrossEntropy), &judged);
    }

    /// Says how far apart the rows of logits are, of which a piece of the vocabulary is a part.
    fn pitched(&self, arguments: &mut Vec<u32>) {
        arguments.resize(13, 0);
        arguments.push(self.shape.logits_stride());
    }

    /// From the last hidden values to their gradient; returns where the logits of a part of the rows are.
    pub(super) fn head_backward(&mut self, head: Head, x: Place, dx: Place) -> Result<usize, EngineError> {
        let shape = self.shape;
        let d_normed = self.hidden();
        for rows in self.row_parts() {
            self.judge(&head, &rows);
            let count = rows.end - rows.start;
            let [normed, d_normed] = [head.normed, d_normed].map(|place| place.offset() + rows.start * shape.hidden);
            for (index, piece) in head.pieces.iter().enumerate() {
                let part = [piece.rows, piece.weight.offset, head.logits.offset() + piece.first_row];
                let mut arguments = [&[count, shape.hidden, normed, u32::from(rows.start > 0)][..], &part].concat();
                self.pitched(&mut arguments);
                self.product(piece.weight.bank, Op::Tn, &arguments, [shape.hidden, piece.rows, 1]);
                let adds = if index > 0 { 16 } else { 0 };
                let mut arguments = [&[count, shape.hidden, d_normed, 1 + adds][..], &part].concat();
                self.pitched(&mut arguments);
                self.product(piece.weight.bank, Op::Nn, &arguments, [shape.hidden, count, 1]);
            }
        }
        self.norm_backward(x, self.weight("model.norm.weight")?, d_normed, head.rstd, dx, false);
        self.give(&[head.logits, head.normed, d_normed, x]);
        Ok(head.logits.at)
    }

    /// Turns the gradient of the last block's output, in place, into that of the first block's input, and further into
    /// the embedding's.
    pub(super) fn backward(&mut self, kept: Vec<Kept>, dx: Place) -> Result<(), EngineError> {
        for (layer, kept) in self.task.shard.layers().zip(kept).rev() {
            let saved = match kept {
                Kept::All(saved) => *saved,
                Kept::Input(x) => self.layer_inside(layer, x)?,
            };
            self.layer_backward(layer, saved, dx)?;
        }
        if self.task.shard.embeds() {
            let tied = self.task.shard.predicts() && self.task.layout.find("lm_head.weight").is_none();
            let (rows, hidden) = (self.shape.rows, self.shape.hidden);
            for Piece { weight, first_row, rows: tokens } in self.pieces("model.embed_tokens.weight")? {
                let arguments = [rows, hidden, weight.offset, dx.offset(), tokens, u32::from(tied), first_row];
                self.push_in(weight.bank, Kernel::EmbedBackward, &arguments, fold(tokens.div_ceil(64)));
            }
        }
        Ok(())
    }

    /// Turns the gradient at a block's end, in place, into the one at its start.
    fn layer_backward(&mut self, layer: u32, saved: Saved, dx: Place) -> Result<(), EngineError> {
        let shape = self.shape;
        // The feed-forward half: dx is the gradient of its output and, past the residual, of its input.
        let down = [(shape.hidden, self.part(layer, "mlp.down_proj")?, dx)];
        self.weight_gradients(shape.inner, saved.act, &down);
        let d_act = saved.act;
        self.input_gradient(shape.inner, d_act, &down);
        let count = shape.rows * shape.inner;
        self.flat(Kernel::SwiGluBackward, count, &[count, saved.gate.offset(), saved.up.offset(), d_act.offset()]);
        let parts = [
            (shape.inner, self.part(layer, "mlp.gate_proj")?, saved.gate),
            (shape.inner, self.part(layer, "mlp.up_proj")?, saved.up),
        ];
        self.weight_gradients(shape.hidden, saved.middle_normed, &parts);
        let d_normed = self.hidden();
        self.input_gradient(shape.hidden, d_normed, &parts);
        let norm = self.part(layer, "post_attention_layernorm")?;
        self.norm_backward(saved.middle, norm, d_normed, saved.middle_rstd, dx, true);
        self.give_feed_forward(&saved);
        // The attention half.
        let out = [(shape.hidden, self.part(layer, "self_attn.o_proj")?, dx)];
        self.weight_gradients(shape.hidden, saved.context, &out);
        let d_context = self.hidden();
        self.input_gradient(shape.hidden, d_context, &out);
        let delta = self.stats.take((shape.rows * shape.heads) as usize);
        let dq = self.hidden();
        let (dk, dv) = (self.keys(), self.keys());
        let common =
            [shape.batch, shape.context, shape.heads, shape.keys, saved.q.offset(), saved.k.offset(), saved.v.offset()];
        let rest = [saved.context, saved.lse, d_context, delta, dq, self.rope_table].map(Place::offset);
        self.attention(Op::AttentionDq, shape.heads, &[&common[..], &rest].concat());
        let rest = [dk, saved.lse, d_context, delta, dv, self.rope_table].map(Place::offset);
        self.attention(Op::AttentionDkv, shape.keys, &[&common[..], &rest].concat());
        let parts = [
            (shape.hidden, self.part(layer, "self_attn.q_proj")?, dq),
            (shape.key_width(), self.part(layer, "self_attn.k_proj")?, dk),
            (shape.key_width(), self.part(layer, "self_attn.v_proj")?, dv),
        ];
        self.weight_gradients(shape.hidden, saved.normed, &parts);
        self.input_gradient(shape.hidden, d_normed, &parts);
        let norm = self.part(layer, "input_layernorm")?;
        self.norm_backward(saved.x, norm, d_normed, saved.rstd, dx, true);
        self.give(&[d_normed, d_context, dq, dk, dv]);
        self.stats.give(delta);
        self.give_attention(&saved);
        self.give(&[saved.x]);
        Ok(())
    }

    fn attention(&mut self, op: Op, heads: u32, arguments: &[u32]) {
        let kernel = self.forms.of(op);
        self.push(kernel, arguments, fold(kernel.attention_groups(self.shape.batch * heads, self.shape.context)));
    }

    fn norm(&mut self, x: Place, weight: Weight, y: Place, rstd: Place) {
        let shape = self.shape;
        let arguments = [shape.rows, shape.hidden, x.offset(), weight.offset, y.offset(), rstd.offset(), shape.eps];
        self.rows(shape.rows, weight.bank, self.forms.of(Op::Norm), &arguments);
    }

    fn norm_backward(&mut self, x: Place, weight: Weight, dy: Place, rstd: Place, dx: Place, adds: bool) {
        let shape = self.shape;
        let common = [shape.rows, shape.hidden, x.offset(), weight.offset, dy.offset(), rstd.offset()];
        self.push_in(weight.bank, Kernel::RmsNormDw, &common, fold(shape.hidden.div_ceil(64)));
        let arguments = [&common[..], &[dx.offset(), u32::from(adds)]].concat();
        self.rows(shape.rows, weight.bank, self.forms.of(Op::NormDx), &arguments);
    }

    /// Y = X Wᵀ for weights that share X.
    fn forward_gemm(&mut self, depth: u32, x: Place, residual: Option<Place>, parts: &[Part]) {
        let rows = self.shape.rows;
        let widest = parts.iter().map(|(outputs, ..)| *outputs).max().unwrap_or(0);
        let head = [rows, depth, x.offset(), residual.map_or(NONE, Place::offset)];
        self.products(Op::Nt, head, parts, [widest, rows, parts.len() as u32]);
    }

    /// dX = Σ dY W over weights that shared X.
    fn input_gradient(&mut self, width: u32, dx: Place, parts: &[Part]) {
        let rows = self.shape.rows;
        self.products(Op::Nn, [rows, width, dx.offset(), parts.len() as u32], parts, [width, rows, 1]);
    }

    /// dW = dYᵀ X for weights that shared X.
    fn weight_gradients(&mut self, width: u32, x: Place, parts: &[Part]) {
        let tallest = parts.iter().map(|(outputs, ..)| *outputs).max().unwrap_or(0);
        let head = [self.shape.rows, width, x.offset(), 0];
        self.products(Op::Tn, head, parts, [width, tallest, parts.len() as u32]);
    }

    /// Banks keep weights of one product together.
    fn products(&mut self, op: Op, head: [u32; 4], parts: &[Part], extent: [u32; 3]) {
        let bank = parts.first().map_or(0, |(_, weight, _)| weight.bank);
        let tail = parts.iter().flat_map(|(outputs, weight, place)| [*outputs, weight.offset, place.offset()]);
        self.product(bank, op, &head.into_iter().chain(tail).collect::<Vec<_>>(), extent);
    }

    /// A matrix product over this many values across and down, and parts.
    fn product(&mut self, bank: usize, op: Op, arguments: &[u32], [wide, high, parts]: [u32; 3]) {
        let kernel = self.forms.of(op);
        let [across, down] = kernel.tile();
        self.push_in(bank, kernel, arguments, [wide.div_ceil(across), high.div_ceil(down), parts]);
    }

    /// A workgroup, or a thread, for each row.
    fn rows(&mut self, rows: u32, bank: usize, kernel: Kernel, arguments: &[u32]) {
        let groups = if kernel.is_row() { rows.div_ceil(64) } else { rows };
        self.push_in(bank, kernel, arguments, fold(groups));
    }

    fn part(&self, layer: u32, part: &str) -> Result<Weight, EngineError> {
        self.weight(&format!("model.layers.{layer}.{part}.weight"))
    }

    fn keys(&mut self) -> Place {
        self.arena.take((self.shape.rows * self.shape.key_width()) as usize)
    }

    fn wide(&mut self) -> Place {
        self.arena.take((self.shape.rows * self.shape.inner) as usize)
    }
}
