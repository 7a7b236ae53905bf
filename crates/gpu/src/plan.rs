//! The step as a flat list of dispatches, made once for a part of a model, a batch shape and what the device can bind.

mod blocks;
mod net;
mod update;

use core::ops::Range;

use shoal_learn::{EngineError, Layout, Shard, TensorInfo};

use crate::{
    arena::{Arena, Place},
    banks::{Banks, Piece, Weight},
    forms::Forms,
    kernels::Kernel,
    shape::Shape,
    tables::BankTables,
};

pub(crate) use net::targets_after;
pub(crate) use update::{Updates, Way};

/// "No such operand" in a dispatch's arguments.
pub(crate) const NONE: u32 = u32::MAX;
/// Workgroups that share the sum of squares of a bank's gradients.
const NORM_GROUPS: u32 = 64;
/// Most workgroups in one dimension of a grid.
const GROUPS_MAX: u32 = 65_535;
pub(crate) const ARGUMENTS: usize = 16;
/// Logits are made, judged and turned into gradients by as many rows at a time as have this many values.
const LOGITS_VALUES_MAX: usize = 1 << 24;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatch {
    pub kernel: Kernel,
    pub arguments: [u32; ARGUMENTS],
    pub grid: [u32; 3],
    /// Whose parameters and gradients it sees.
    pub bank: usize,
}

/// How a step saves memory, and pays with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thrift {
    /// The batch is trained in so many parts, whose gradients add up.
    pub micro_batches: u32,
    /// Of a block only its input is kept for the backward pass, which computes the rest again (Chen et al.,
    /// arXiv 1604.06174).
    pub recompute: bool,
}

impl Thrift {
    /// All ways to train a batch of this many sequences, the fastest first.
    pub fn ways(batch: u32, context: u32) -> Vec<Self> {
        let parts = (1..=batch).filter(|parts| batch.is_multiple_of(*parts));
        let mut ways: Vec<Self> =
            parts.flat_map(|micro_batches| [false, true].map(|recompute| Self { micro_batches, recompute })).collect();
        let cost = |way: &Self| {
            // The forward pass is a third of the work; short products leave a graphics card half idle.
            let work = if way.recompute { 4.0 / 3.0 } else { 1.0 };
            let rows = f64::from(batch / way.micro_batches * context);
            work * (1.0 + 64.0 / rows)
        };
        ways.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        ways
    }
}

/// The parts of a step are ranges of `dispatches`.
#[derive(Debug)]
pub(crate) struct Plan {
    pub dispatches: Vec<Dispatch>,
    /// From tokens, or what an earlier shard made of them, to the last hidden values.
    pub forward: Range<usize>,
    /// Their loss, row by row.
    pub evaluate: Range<usize>,
    /// Their loss and all gradients.
    pub backward: Range<usize>,
    /// From the gradients of all micro-batches to new parameters, and the mean loss.
    pub updates: Updates,
    /// The mean loss alone.
    pub finish: Range<usize>,
    pub arena_values: usize,
    pub stats_values: usize,
    pub rope_table: usize,
    /// Where a shard that does not embed expects its input, and where one that does not predict leaves its output.
    pub input: usize,
    pub output: usize,
    /// Where a shard that does not predict expects the gradient of its output, and where the one of its input comes to lie.
    pub gradient: usize,
    /// Sums of squares of gradients, once the first so many dispatches of the update ran.
    pub squares: Range<usize>,
    pub square_dispatches: usize,
    /// Where a part of the logits is after the evaluation of its rows.
    pub logits: usize,
    /// Rows whose logits exist at the same time.
    pub logits_rows: u32,
}

impl Plan {
    /// The logits of this row of a micro-batch: the dispatches that make them, and where they are then.
    pub fn logits_of(&self, row: u32, shape: Shape) -> (Range<usize>, usize) {
        let parts = shape.rows.div_ceil(self.logits_rows) as usize;
        let each = self.evaluate.len() / parts;
        let start = self.evaluate.start + (row / self.logits_rows) as usize * each;
        // The last of each part judges them.
        (start..start + each - 1, self.logits + (row % self.logits_rows * shape.logits_stride()) as usize)
    }
}

/// What a plan is made for.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub layout: &'a Layout,
    pub shard: &'a Shard,
    pub banks: &'a Banks,
    /// Of a micro-batch.
    pub shape: Shape,
    pub forms: Forms,
    pub thrift: Thrift,
    /// Values that a binding may hold.
    pub values_max: usize,
    /// Of each bank.
    pub tables: &'a [BankTables],
}

/// What outlives a micro-batch.
#[derive(Clone, Copy)]
struct Totals {
    row_losses: Place,
    /// Sums of squares of gradients, [`NORM_GROUPS`] a bank.
    partial: Place,
    /// What clipping multiplies gradients by.
    factor: Place,
}

/// The parts of a step among its dispatches.
struct Ranges {
    forward: Range<usize>,
    evaluate: Range<usize>,
    backward: Range<usize>,
    updates: Updates,
    finish: Range<usize>,
}

/// Places in the arena where a step meets what is outside of it.
struct Ends {
    input: usize,
    output: usize,
    gradient: usize,
    logits: usize,
}

struct Builder<'a> {
    task: Task<'a>,
    shape: Shape,
    forms: Forms,
    arena: Arena,
    /// What is one value a row.
    stats: Arena,
    dispatches: Vec<Dispatch>,
    rope_table: Place,
    logits_rows: u32,
}

impl Plan {
    pub fn new(task: Task<'_>) -> Result<Self, EngineError> {
        let shape = task.shape;
        let logits_rows = logits_rows(shape, task.values_max);
        addressable(task, logits_rows)?;
        let mut arena = Arena::default();
        let rope_table = arena.take((shape.context * shape.head) as usize);
        let (stats, dispatches) = (Arena::default(), Vec::new());
        Builder { task, shape, forms: task.forms, arena, stats, dispatches, rope_table, logits_rows }.build()
    }
}

/// Rows whose logits exist at the same time: all, where they are few.
fn logits_rows(shape: Shape, values_max: usize) -> u32 {
    let values = LOGITS_VALUES_MAX.min(values_max / 4);
    let most = (values / shape.logits_stride() as usize).max(4) / 4 * 4;
    shape.rows.min(most as u32)
}

/// An error when a place in the plan would not fit 32 bits.
fn addressable(task: Task<'_>, logits_rows: u32) -> Result<(), EngineError> {
    let wide = |x: u32| u128::from(x);
    let shape = task.shape;
    let layers = task.shard.layers().len() as u128;
    let kept = if task.thrift.recompute { 1 } else { layers };
    let per_row = kept * (8 * wide(shape.hidden) + 3 * wide(shape.inner) + 4 * wide(shape.heads))
        + (layers + 8) * wide(shape.hidden)
        + 8;
    let values = wide(shape.rows) * per_row + wide(logits_rows) * wide(shape.logits_stride());
    if values > u128::from(u32::MAX / 2) {
        let (batch, context) = (shape.batch, shape.context);
        let text =
            format!("{batch} sequences of {context} tokens need {values} values at once; use fewer or shorter ones");
        return Err(EngineError::OutOfMemory(text));
    }
    Ok(())
}

impl Builder<'_> {
    fn build(mut self) -> Result<Plan, EngineError> {
        let shard = self.task.shard;
        let totals = self.totals();
        let first = self.hidden();
        if shard.embeds() {
            self.embed(first)?;
        }
        let mut x = first;
        let mut kept = Vec::new();
        for layer in shard.layers() {
            let (saved, next) = self.layer_forward(layer, x)?;
            kept.push(if self.task.thrift.recompute { self.forget(saved) } else { blocks::Kept::All(Box::new(saved)) });
            x = next;
        }
        let output = x;
        let head = if shard.predicts() { Some(self.head(x, totals.row_losses)?) } else { None };
        let (forward, evaluate) = head.as_ref().map_or_else(
            || (0..self.dispatches.len(), self.dispatches.len()..self.dispatches.len()),
            |head| (head.forward.clone(), head.evaluate.clone()),
        );
        let start = self.dispatches.len();
        let dx = self.hidden();
        let logits = match head {
            Some(head) => self.head_backward(head, x, dx)?,
            None => 0,
        };
        self.backward(kept, dx)?;
        let backward = start..self.dispatches.len();
        let updates = self.update(totals);
        let finish = self.dispatches.len()..self.dispatches.len() + 1;
        self.finish(0, totals);
        let ends = Ends { input: first.at, output: output.at, gradient: dx.at, logits };
        Ok(self.plan(totals, Ranges { forward, evaluate, backward, updates, finish }, ends))
    }

    /// Taken first, so that no place of a micro-batch is ever theirs.
    fn totals(&mut self) -> Totals {
        let batch_rows = (self.shape.rows * self.task.thrift.micro_batches) as usize;
        Totals {
            row_losses: self.stats.take(batch_rows),
            partial: self.stats.take(NORM_GROUPS as usize * self.task.banks.ranges().len()),
            factor: self.stats.take(1),
        }
    }

    fn plan(self, totals: Totals, ranges: Ranges, ends: Ends) -> Plan {
        Plan {
            dispatches: self.dispatches,
            forward: ranges.forward,
            evaluate: ranges.evaluate,
            backward: ranges.backward,
            updates: ranges.updates,
            finish: ranges.finish,
            arena_values: self.arena.len(),
            stats_values: self.stats.len(),
            rope_table: self.rope_table.at,
            input: ends.input,
            output: ends.output,
            gradient: ends.gradient,
            squares: totals.partial.at..totals.partial.at + NORM_GROUPS as usize * self.task.banks.ranges().len(),
            square_dispatches: self.task.banks.ranges().len(),
            logits: ends.logits,
            logits_rows: self.logits_rows,
        }
    }

    fn finish(&mut self, groups: u32, totals: Totals) {
        let rows = self.shape.rows * self.task.thrift.micro_batches;
        let [partial, losses, factor] = [totals.partial, totals.row_losses, totals.factor].map(Place::offset);
        self.push(Kernel::Finish, &[groups, partial, rows, losses, factor], [1, 1, 1]);
    }

    fn tensor(&self, name: &str) -> Result<&TensorInfo, EngineError> {
        self.task.layout.find(name).ok_or_else(|| EngineError::Unsupported(format!("no tensor {name}")))
    }

    fn weight(&self, name: &str) -> Result<Weight, EngineError> {
        Ok(self.task.banks.locate(self.tensor(name)?.offset))
    }

    fn pieces(&self, name: &str) -> Result<Vec<Piece>, EngineError> {
        Ok(self.task.banks.pieces(self.tensor(name)?))
    }

    /// A thread for each of `count`.
    fn flat(&mut self, kernel: Kernel, count: u32, arguments: &[u32]) {
        self.push(kernel, arguments, fold(count.div_ceil(64)));
    }

    fn push(&mut self, kernel: Kernel, arguments: &[u32], grid: [u32; 3]) {
        self.push_in(0, kernel, arguments, grid);
    }

    /// A dispatch that sees the parameters and gradients of this bank.
    fn push_in(&mut self, bank: usize, kernel: Kernel, arguments: &[u32], grid: [u32; 3]) {
        let mut padded = [0; ARGUMENTS];
        padded[..arguments.len()].copy_from_slice(arguments);
        self.dispatches.push(Dispatch { kernel, arguments: padded, grid, bank });
    }

    fn hidden(&mut self) -> Place {
        self.arena.take((self.shape.rows * self.shape.hidden) as usize)
    }

    fn give(&mut self, places: &[Place]) {
        for place in places {
            self.arena.give(*place);
        }
    }
}

/// Folds a number of workgroups into two dimensions.
pub(crate) fn fold(groups: u32) -> [u32; 3] {
    if groups <= GROUPS_MAX { [groups, 1, 1] } else { [GROUPS_MAX, groups.div_ceil(GROUPS_MAX), 1] }
}
