//! Networks for tables and images as dispatches. Between layers values are [examples, places, channels]: with channels last
//! a convolution is a matrix product over spread out windows, and so are its two gradients.

use shoal_learn::EngineError;
use shoal_learn::nets::{Activation, Checked, Layer, Loss, Node, Shape as Input};

use super::{Builder, NONE, Plan, Task, fold};
use crate::{
    arena::{Arena, Place},
    banks::Weight,
    device::Gpu,
    forms::{Op, Traits},
    kernels::Kernel,
};

/// A weight's gradient from more rows than this is summed in slices, so that enough threads take part.
const SLICE_ROWS: u32 = 512;
/// Longer slices rather than more: each takes the weight's memory.
const SLICES_MAX: u32 = 64;

/// What the backward pass needs of a layer.
struct Kept {
    /// The layer's input, and whether it is its own place rather than an earlier one's seen in another shape.
    x: Place,
    owned: bool,
    /// A group norm's means and inverse deviations.
    statistics: Option<[Place; 2]>,
}

/// A layer's sizes.
#[derive(Clone, Copy)]
struct Sizes {
    examples: u32,
    /// Examples times places, before and after.
    rows_in: u32,
    rows_out: u32,
    channels_in: u32,
    channels_out: u32,
}

impl Sizes {
    fn of(node: &Node, examples: u32) -> Self {
        Self {
            examples,
            rows_in: examples * node.input.places() as u32,
            rows_out: examples * node.output.places() as u32,
            channels_in: node.input.channels(),
            channels_out: node.output.channels(),
        }
    }

    fn values_in(self) -> u32 {
        self.rows_in * self.channels_in
    }

    fn values_out(self) -> u32 {
        self.rows_out * self.channels_out
    }
}

impl Plan {
    /// The step of a network. Its input is at [`Self::input`], followed by targets that are values at
    /// [`targets_after`]; its outputs come to lie at [`Self::output`].
    pub fn of_net(task: Task<'_>, net: &Checked, gpu: &Gpu) -> Result<Self, EngineError> {
        let values = net.training_bytes(task.shape.rows as usize) / 4;
        if values > u64::from(u32::MAX / 2) {
            let text = format!("{} examples need {values} values at once; use fewer", task.shape.rows);
            return Err(EngineError::OutOfMemory(text));
        }
        let (shape, forms) = (task.shape, task.forms);
        let mut arena = Arena::default();
        let rope_table = arena.take(0);
        let (stats, dispatches) = (Arena::default(), Vec::new());
        let builder = Builder { task, shape, forms, arena, stats, dispatches, rope_table, logits_rows: shape.rows };
        Ok(NetBuilder { inner: builder, net, traits: gpu.traits }.build())
    }
}

/// Where values to predict lie, after inputs of so many values.
pub(crate) fn targets_after(input: usize, values: usize) -> usize {
    input + values.next_multiple_of(4)
}

struct NetBuilder<'a> {
    inner: Builder<'a>,
    net: &'a Checked,
    traits: Traits,
}

impl NetBuilder<'_> {
    fn build(mut self) -> Plan {
        let examples = self.inner.shape.rows;
        let totals = self.inner.totals();
        let width = self.net.input.values() as usize * examples as usize;
        let first = self.take((targets_after(0, width) + examples as usize * self.net.outputs) as u32);
        let (mut x, mut owned, mut kept) = (first, false, Vec::new());
        let nodes = &self.net.nodes;
        for (index, node) in nodes.iter().enumerate() {
            let activation = nodes.get(index + 1).and_then(|next| match next.layer {
                Layer::Activation(kind) => Some(kind),
                _ => None,
            });
            // An activation after a bias is made where the bias is added.
            let made = index > 0 && matches!(node.layer, Layer::Activation(_)) && adds_bias(&nodes[index - 1]);
            let (y, statistics) = match (made, kept.last()) {
                (true, Some(Made { activated: Some(y), .. })) => (*y, None),
                _ => self.forward(node, x),
            };
            let activated = match (adds_bias(node), activation) {
                (true, kind) => self.bias_act(node, y, kind),
                (false, _) => None,
            };
            kept.push(Made { kept: Kept { x, owned, statistics }, activated });
            owned = y != x;
            x = y;
        }
        let (forward, output) = (0..self.inner.dispatches.len(), x);
        let targets = targets_after(first.at, width) as u32;
        self.loss(output, totals.row_losses, targets);
        let evaluate = forward.end..self.inner.dispatches.len();
        let mut dy = output;
        for (index, (node, made)) in nodes.iter().zip(kept).enumerate().rev() {
            dy = self.backward(node, made.kept, dy, index > 0);
        }
        let backward = forward.end..self.inner.dispatches.len();
        let updates = self.inner.update(totals);
        let finish = self.inner.dispatches.len()..self.inner.dispatches.len() + 1;
        self.inner.finish(0, totals);
        self.inner.plan(
            totals,
            super::Ranges { forward, evaluate, backward, updates, finish },
            super::Ends { input: first.at, output: output.at, gradient: output.at, logits: output.at },
        )
    }

    /// The output of a layer, before its bias where it has one.
    fn forward(&mut self, node: &Node, x: Place) -> (Place, Option<[Place; 2]>) {
        let sizes = self.sizes(node);
        match node.layer {
            Layer::Linear { .. } => {
                let y = self.take(sizes.values_out());
                self.product_nt(node, x, y);
                (y, None)
            }
            Layer::Conv2d { .. } => {
                let rows = self.spread(node, x);
                let y = self.take(sizes.values_out());
                self.product_nt(node, rows, y);
                self.inner.give(&[rows]);
                (y, None)
            }
            Layer::MaxPool2d { .. } | Layer::AvgPool2d { .. } => {
                let max = matches!(node.layer, Layer::MaxPool2d { .. });
                let kernel = if max { Kernel::MaxPool } else { Kernel::AvgPool };
                let y = self.take(sizes.values_out());
                self.windows(kernel, node, sizes.values_out(), &[x.offset(), y.offset()]);
                (y, None)
            }
            Layer::GroupNorm { groups, eps } => {
                let y = self.take(sizes.values_out());
                let rows = sizes.examples * groups;
                let statistics = [(); 2].map(|()| self.inner.stats.take(rows as usize));
                let (scale, shift) = (self.weight(node.weight.start), self.weight(node.bias.start));
                let [mean, rstd] = statistics.map(Place::offset);
                let head = self.groups(node, groups, x);
                let rest = [scale.offset, shift.offset, y.offset(), mean, rstd, eps.to_bits()];
                self.inner.push_in(scale.bank, Kernel::GroupNorm, &[&head[..], &rest].concat(), fold(rows));
                (y, Some(statistics))
            }
            Layer::Activation(kind) => {
                let (y, count) = (self.take(sizes.values_out()), sizes.values_out());
                let arguments = [count, sizes.channels_in, x.offset(), NONE, number(kind), y.offset()];
                self.inner.flat(Kernel::BiasAct, count, &arguments);
                (y, None)
            }
            Layer::Flatten => (self.transpose(node, x, [node.input.places() as u32, sizes.channels_in]), None),
        }
    }

    /// Adds the bias to a layer's output, and makes the activation that follows.
    fn bias_act(&mut self, node: &Node, z: Place, kind: Option<Activation>) -> Option<Place> {
        let count = self.sizes(node).values_out();
        let bias = self.weight(node.bias.start);
        let activated = kind.map(|_| self.take(count));
        let (function, a) = (kind.map_or(0, number), activated.map_or(NONE, Place::offset));
        let arguments = [count, node.output.channels(), z.offset(), bias.offset, function, a];
        self.inner.push_in(bias.bank, Kernel::BiasAct, &arguments, fold(count.div_ceil(64)));
        activated
    }

    fn loss(&mut self, outputs: Place, losses: Place, targets: u32) {
        let (rows, width) = (self.inner.shape.rows, self.net.outputs as u32);
        match self.net.loss {
            Loss::CrossEntropy => {
                let kernel = self.inner.forms.of(Op::CrossEntropy);
                let arguments = [rows, width, outputs.offset(), losses.offset(), width, 0, rows, rows];
                let groups = if kernel.is_row() { rows.div_ceil(64) } else { rows };
                self.inner.push(kernel, &arguments, fold(groups));
            }
            loss => {
                let binary = u32::from(loss == Loss::Binary);
                let arguments = [rows, width, outputs.offset(), losses.offset(), targets, binary, rows];
                self.inner.flat(Kernel::ValueLoss, rows, &arguments);
            }
        }
    }

    /// Gradients of a layer's parameters and, where that is needed, of its input, from `dy`, which is given back.
    fn backward(&mut self, node: &Node, kept: Kept, dy: Place, needed: bool) -> Place {
        let sizes = self.sizes(node);
        let x = kept.x;
        let dx = match node.layer {
            Layer::Linear { .. } | Layer::Conv2d { .. } => self.product_backward(node, x, dy, needed),
            Layer::MaxPool2d { .. } => {
                let dx = self.take(sizes.values_in());
                let places = [x, dy, dx].map(Place::offset);
                self.windows(Kernel::MaxPoolBackward, node, sizes.values_in(), &places);
                dx
            }
            Layer::AvgPool2d { .. } => {
                let dx = self.take(sizes.values_in());
                self.windows(Kernel::AvgPoolBackward, node, sizes.values_in(), &[dx.offset(), dy.offset()]);
                dx
            }
            Layer::GroupNorm { groups, .. } => {
                self.norm_backward(node, groups, &kept, dy);
                dy
            }
            Layer::Activation(kind) => {
                let count = sizes.values_in();
                self.inner.flat(Kernel::ActBackward, count, &[count, x.offset(), dy.offset(), number(kind)]);
                dy
            }
            Layer::Flatten => self.transpose(node, dy, [sizes.channels_in, node.input.places() as u32]),
        };
        if dx != dy {
            self.inner.give(&[dy]);
        }
        // A layer that only sees values in another shape leaves their gradient where they were.
        if kept.owned && x != dx {
            self.inner.give(&[x]);
        }
        for place in kept.statistics.into_iter().flatten() {
            self.inner.stats.give(place);
        }
        dx
    }

    fn norm_backward(&mut self, node: &Node, groups: u32, kept: &Kept, dy: Place) {
        let Some([mean, rstd]) = kept.statistics.map(|places| places.map(Place::offset)) else { return };
        let (scale, shift) = (self.weight(node.weight.start), self.weight(node.bias.start));
        let head = self.groups(node, groups, kept.x);
        let rest = [scale.offset, dy.offset(), mean, rstd, shift.offset];
        let channels = node.input.channels();
        self.inner.push_in(scale.bank, Kernel::GroupNormDw, &[&head[..], &rest].concat(), fold(channels));
        let rows = self.inner.shape.rows * groups;
        self.inner.push_in(scale.bank, Kernel::GroupNormDx, &[&head[..], &rest[..4]].concat(), fold(rows));
    }

    /// Gradients of a linear layer or a convolution.
    fn product_backward(&mut self, node: &Node, x: Place, dy: Place, needed: bool) -> Place {
        let sizes = self.sizes(node);
        let (outputs, bias) = (sizes.channels_out, self.weight(node.bias.start));
        let sums = [sizes.rows_out, outputs, dy.offset(), bias.offset];
        self.inner.push_in(bias.bank, Kernel::ColumnSum, &sums, fold(outputs));
        let spread = matches!(node.layer, Layer::Conv2d { .. });
        let rows = if spread { self.spread(node, x) } else { x };
        self.product_tn(node, rows, dy);
        let dx = if needed {
            let d_rows = if spread { rows } else { self.take(sizes.values_in()) };
            self.product_nn(node, dy, d_rows);
            if spread {
                let dx = self.take(sizes.values_in());
                self.windows(Kernel::SpreadBackward, node, sizes.values_in(), &[dx.offset(), d_rows.offset()]);
                dx
            } else {
                d_rows
            }
        } else {
            dy
        };
        if spread {
            self.inner.give(&[rows]);
        }
        dx
    }

    /// Y = X Wᵀ.
    fn product_nt(&mut self, node: &Node, x: Place, y: Place) {
        let (rows, inputs, outputs) = self.product_sizes(node);
        let weight = self.weight(node.weight.start);
        let arguments = [rows, inputs, x.offset(), NONE, outputs, weight.offset, y.offset()];
        let kernel = self.form(Op::Nt, [inputs, outputs, weight.offset]);
        self.product(kernel, weight.bank, &arguments, [outputs, rows, 1]);
    }

    /// dX = dY W.
    fn product_nn(&mut self, node: &Node, dy: Place, dx: Place) {
        let (rows, inputs, outputs) = self.product_sizes(node);
        let weight = self.weight(node.weight.start);
        let arguments = [rows, inputs, dx.offset(), 1, outputs, weight.offset, dy.offset()];
        let kernel = self.form(Op::Nn, [inputs, outputs, weight.offset]);
        self.product(kernel, weight.bank, &arguments, [inputs, rows, 1]);
    }

    /// dW = dYᵀ X.
    fn product_tn(&mut self, node: &Node, x: Place, dy: Place) {
        let (rows, inputs, outputs) = self.product_sizes(node);
        let weight = self.weight(node.weight.start);
        let slice = rows.div_ceil(SLICES_MAX).next_multiple_of(SLICE_ROWS);
        let slices = rows.div_ceil(slice);
        if slices < 2 {
            let arguments = [rows, inputs, x.offset(), 0, outputs, weight.offset, dy.offset()];
            let kernel = self.form(Op::Tn, [inputs, outputs | rows, weight.offset]);
            return self.product(kernel, weight.bank, &arguments, [inputs, outputs, 1]);
        }
        let values = inputs * outputs;
        let parts = self.take(slices * values);
        let arguments = [rows, inputs, x.offset(), slice, outputs, parts.offset(), dy.offset()];
        let grid = [inputs.div_ceil(32), outputs.div_ceil(32), slices];
        self.inner.push(Kernel::GemmTnSplit, &arguments, grid);
        let sum = [values, slices, parts.offset(), weight.offset];
        self.inner.push_in(weight.bank, Kernel::SliceSum, &sum, fold(values.div_ceil(64)));
        self.inner.give(&[parts]);
    }

    /// The fast form of a product where all that it reads comes in fours.
    fn form(&self, op: Op, sizes: [u32; 3]) -> Kernel {
        let aligned = sizes.iter().all(|size| size.is_multiple_of(4));
        if aligned { op.aligned_form(self.traits) } else { op.kernels()[0] }
    }

    fn product(&mut self, kernel: Kernel, bank: usize, arguments: &[u32], [wide, high, parts]: [u32; 3]) {
        let [across, down] = kernel.tile();
        self.inner.push_in(bank, kernel, arguments, [wide.div_ceil(across), high.div_ceil(down), parts]);
    }

    /// Rows of the product, inputs of one output, and outputs.
    fn product_sizes(&self, node: &Node) -> (u32, u32, u32) {
        let outputs = node.output.channels();
        (self.sizes(node).rows_out, node.weight.len() as u32 / outputs, outputs)
    }

    /// A convolution's windows as rows.
    fn spread(&mut self, node: &Node, x: Place) -> Place {
        let (rows, inputs, _) = self.product_sizes(node);
        let spread = self.take(rows * inputs);
        self.windows(Kernel::Spread, node, rows * inputs, &[x.offset(), spread.offset()]);
        spread
    }

    fn windows(&mut self, kernel: Kernel, node: &Node, threads: u32, places: &[u32]) {
        let sides = |shape: Input| match shape {
            Input::Image { height, width, .. } => [height, width],
            Input::Flat(_) => [1, 1],
        };
        let (size, stride, padding) = match node.layer {
            Layer::Conv2d { kernel, stride, padding, .. } => (kernel, stride, padding),
            Layer::MaxPool2d { size, stride } | Layer::AvgPool2d { size, stride } => (size, stride, 0),
            _ => (1, 1, 0),
        };
        let ([height, width], out) = (sides(node.input), sides(node.output));
        let head = [self.inner.shape.rows, height, width, node.input.channels(), size, stride, padding, out[0], out[1]];
        self.inner.flat(kernel, threads, &[&head[..], places].concat());
    }

    /// A group norm's first arguments.
    fn groups(&self, node: &Node, groups: u32, x: Place) -> [u32; 5] {
        [self.inner.shape.rows, node.input.places() as u32, node.input.channels(), groups, x.offset()]
    }

    /// Matrices of these rows and columns turned; the same place where nothing moves.
    fn transpose(&mut self, node: &Node, x: Place, [rows, columns]: [u32; 2]) -> Place {
        if rows == 1 || columns == 1 {
            return x;
        }
        let (y, count) = (self.take(self.sizes(node).values_in()), self.sizes(node).values_in());
        let arguments = [self.inner.shape.rows, rows, columns, x.offset(), y.offset()];
        self.inner.flat(Kernel::Transpose, count, &arguments);
        y
    }

    fn sizes(&self, node: &Node) -> Sizes {
        Sizes::of(node, self.inner.shape.rows)
    }

    fn weight(&self, index: usize) -> Weight {
        self.inner.task.banks.locate(index)
    }

    fn take(&mut self, count: u32) -> Place {
        self.inner.arena.take(count as usize)
    }
}

/// A layer's forward pass.
struct Made {
    kept: Kept,
    /// The output of the activation after it.
    activated: Option<Place>,
}

fn adds_bias(node: &Node) -> bool {
    matches!(node.layer, Layer::Linear { .. } | Layer::Conv2d { .. })
}

/// An activation's number in the kernels.
fn number(kind: Activation) -> u32 {
    match kind {
        Activation::Relu => 0,
        Activation::Silu => 1,
        Activation::Gelu => 2,
        Activation::Tanh => 3,
    }
}
