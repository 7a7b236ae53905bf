//! From gradients to parameters: clipping, then one of the optimisers.

use core::ops::Range;

use shoal_learn::engine::NEWTON_SCHULZ;
use shoal_wire::manifest::Optimizer;

use super::{Builder, NONE, NORM_GROUPS, Totals, fold};
use crate::{
    arena::Place,
    forms::Op,
    kernels::Kernel,
    tables::{BankTables, Matrices},
};

/// Workgroups that share the momentum of a matrix.
const MOMENTUM_GROUPS: u32 = 16;

/// Ways to go from gradients to parameters, of which a step takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    AdamW,
    Sgd,
    Muon,
}

impl Way {
    pub fn of(optimizer: &Optimizer) -> Self {
        match optimizer {
            Optimizer::AdamW(_) => Self::AdamW,
            Optimizer::Sgd(_) => Self::Sgd,
            Optimizer::Muon(_) => Self::Muon,
        }
    }
}

/// Ranges of the plan's dispatches.
#[derive(Clone, Debug)]
pub(crate) struct Updates {
    /// What comes before each way: the factor of clipping, and the mean loss.
    pub clip: Range<usize>,
    adamw: Range<usize>,
    sgd: Range<usize>,
    muon: Range<usize>,
}

impl Updates {
    /// Empty where there is no room for it.
    pub fn of(&self, way: Way) -> Range<usize> {
        match way {
            Way::AdamW => self.adamw.clone(),
            Way::Sgd => self.sgd.clone(),
            Way::Muon => self.muon.clone(),
        }
    }
}

impl Matrices {
    /// Distance of matrices in a stack.
    fn apart(self) -> u32 {
        (self.low * self.long).next_multiple_of(4)
    }

    /// Distance of squares of their short sides.
    fn square_apart(self) -> u32 {
        (self.low * self.low).next_multiple_of(4)
    }

    /// What one of them takes while it is orthogonalised: before and after a step, and two squares.
    fn values_each(self) -> u32 {
        2 * self.apart() + 2 * self.square_apart()
    }
}

/// Stacks of as many matrices as are worked on at a time.
struct Stacks {
    matrices: Matrices,
    count: u32,
}

impl Builder<'_> {
    /// Plans all ways; each reads all gradients once before.
    pub(super) fn update(&mut self, totals: Totals) -> Updates {
        let start = self.dispatches.len();
        let banks = self.task.banks.ranges();
        for (bank, range) in banks.iter().enumerate() {
            let at = totals.partial.offset() + bank as u32 * NORM_GROUPS;
            self.push_in(bank, Kernel::NormPartial, &[range.len() as u32, at, NORM_GROUPS], [NORM_GROUPS, 1, 1]);
        }
        self.finish(NORM_GROUPS * banks.len() as u32, totals);
        let clipped = self.dispatches.len();
        self.elementwise(Kernel::AdamW, Kernel::AdamWVec4, totals, |_| NONE);
        let adamw = self.dispatches.len();
        self.elementwise(Kernel::Sgd, Kernel::SgdVec4, totals, |_| NONE);
        let sgd = self.dispatches.len();
        if !self.muon_fits() {
            return Updates { clip: start..clipped, adamw: clipped..adamw, sgd: adamw..sgd, muon: sgd..sgd };
        }
        self.elementwise(Kernel::AdamW, Kernel::AdamWVec4, totals, |tables| tables.hidden);
        for (bank, tables) in self.task.tables.iter().enumerate() {
            for matrices in &tables.matrices {
                self.muon(bank, *matrices, totals.factor);
            }
        }
        Updates { clip: start..clipped, adamw: clipped..adamw, sgd: adamw..sgd, muon: sgd..self.dispatches.len() }
    }

    /// Whether Muon has room for one matrix of each size, where the activations were or past their end.
    fn muon_fits(&self) -> bool {
        let all = self.task.tables.iter().flat_map(|tables| &tables.matrices);
        let most = all.map(|matrices| matrices.values_each() as usize).max().unwrap_or(0);
        most <= self.arena.largest_free() || self.arena.len() + most <= self.task.values_max
    }

    /// A thread for each parameter, or for each four; `skipped` says where bits are of those to leave.
    fn elementwise(&mut self, plain: Kernel, vec4: Kernel, totals: Totals, skipped: impl Fn(&BankTables) -> u32) {
        let (banks, tables) = (self.task.banks.ranges(), self.task.tables);
        for (bank, (range, tables)) in banks.iter().zip(tables).enumerate() {
            let arguments = [range.len() as u32, totals.factor.offset(), tables.decays, skipped(tables)];
            let (kernel, threads) = match range.len() as u32 {
                total if total.is_multiple_of(4) && self.shape.is_vector() => (vec4, total / 4),
                total => (plain, total),
            };
            self.push_in(bank, kernel, &arguments, fold(threads.div_ceil(64)));
        }
    }

    /// Momentum of matrices of one size, their orthogonal directions, and steps along those.
    fn muon(&mut self, bank: usize, matrices: Matrices, factor: Place) {
        let Matrices { low, long, table, count } = matrices;
        let sums = self.stats.take((count * MOMENTUM_GROUPS) as usize);
        let arguments = [low * long, table, factor.offset(), sums.offset(), MOMENTUM_GROUPS];
        self.push_in(bank, Kernel::MuonMomentum, &arguments, [MOMENTUM_GROUPS, count, 1]);
        let (apart, square_apart) = (matrices.apart(), matrices.square_apart());
        // As many at a time as fit where the activations were.
        let each = (self.arena.largest_free() as u32 / matrices.values_each()).clamp(1, count);
        for first in (0..count).step_by(each as usize) {
            let stacks = Stacks { matrices, count: each.min(count - first) };
            let values = stacks.count as usize;
            let mut x = self.arena.take(values * apart as usize);
            let mut next = self.arena.take(values * apart as usize);
            let squares = [(); 2].map(|()| self.arena.take(values * square_apart as usize));
            let grid = |kernel: &mut Self, which, arguments: &[u32]| {
                let [wide, high, _] = fold((low * long).div_ceil(64));
                kernel.push_in(bank, which, arguments, [wide, high, stacks.count]);
            };
            let place = [low, long, table, first, x.offset(), apart];
            let norms = [sums.offset(), MOMENTUM_GROUPS, NEWTON_SCHULZ.least_norm.to_bits()];
            grid(self, Kernel::MuonLoad, &[&place[..], &norms].concat());
            for _ in 0..NEWTON_SCHULZ.steps {
                self.newton_schulz(&stacks, x, squares, next);
                (x, next) = (next, x);
            }
            grid(self, Kernel::MuonApply, &[low, long, table, first, x.offset(), apart]);
            self.give(&[x, next, squares[0], squares[1]]);
        }
        self.stats.give(sums);
    }

    /// Y = aX + (bA + cA²)X with A = XXᵀ, by way of A and of the polynomial.
    fn newton_schulz(&mut self, stacks: &Stacks, x: Place, [gram, polynomial]: [Place; 2], y: Place) {
        let Stacks { matrices, count } = *stacks;
        let (Matrices { low, long, .. }, apart, square_apart) = (matrices, matrices.apart(), matrices.square_apart());
        let [a, b, c] = NEWTON_SCHULZ.coefficients;
        let [x, gram, polynomial, y] = [x, gram, polynomial, y].map(Place::offset);
        let nt = |builder: &mut Self, depth, left: u32, apart, to, factors: [f32; 2], r| {
            let sides = [low, depth, left, NONE, low, left, to];
            let rest = [apart, apart, square_apart, factors[0].to_bits(), factors[1].to_bits(), r];
            builder.stack_product(Op::Nt, &[&sides[..], &rest].concat(), [low, low, count]);
        };
        nt(self, long, x, apart, gram, [1.0, 0.0], NONE);
        // A is its own transpose.
        nt(self, low, gram, square_apart, polynomial, [c, b], gram);
        let sides = [low, long, y, 1, low, x, polynomial];
        let rest = [square_apart, apart, apart, 1.0_f32.to_bits(), a.to_bits(), x];
        self.stack_product(Op::Nn, &[&sides[..], &rest].concat(), [long, low, count]);
    }

    fn stack_product(&mut self, op: Op, arguments: &[u32], [wide, high, count]: [u32; 3]) {
        let kernel = self.forms.of(op).of_stacks();
        let [across, down] = kernel.tile();
        self.push(kernel, arguments, [wide.div_ceil(across), high.div_ceil(down), count]);
    }
}
