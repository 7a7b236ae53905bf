//! What the values of a sum are multiples of.

use shoal_wire::manifest::Codec;

use super::{
    aggregate::{SHARE_MAX, past},
    topk,
};
use crate::Layout;

/// Steps of the grid in the root mean square of what one update sends, at least, and at most twice as many. Stochastic
/// rounding costs step²/6 on average: of an update of whole weight between 1 and 4 % with `topk`, and a fourteenth of a
/// percent at most with `dense4`. A lighter one has at most the same error, which is more of what it brings. A bit less
/// for each value of the sums of many costs less error here than in the code of the mean.
const fn steps(codec: Codec) -> u128 {
    match codec {
        Codec::Dense4 => 16,
        Codec::Topk => 2,
    }
}

/// Coarsest grid: a weighted value is below 2⁵⁵ (`fixed`), and so is what rounding adds to it.
const SHIFT_MAX: u32 = 54;
/// 2⁷ weighted values fit an i64 with a bit to spare.
const EXACT_BITS: u32 = 7;

/// Multiples of what weighted values are rounded to, one power of two a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    shifts: Vec<u8>,
}

impl Grid {
    /// No rounding, for at most 128 updates.
    pub fn exact(layout: &Layout) -> Self {
        Self { shifts: vec![0; layout.tensors.len()] }
    }

    /// For at most `peers` updates whose rates are about those of the last rounds. Without any, as fine as sums allow.
    pub fn of(layout: &Layout, codec: Codec, history: &[Vec<u64>], peers: usize) -> Self {
        let finest = peers.max(1).next_power_of_two().ilog2().saturating_sub(EXACT_BITS);
        let shift = |(index, tensor): (usize, &crate::TensorInfo)| {
            let sent: usize = match codec {
                Codec::Dense4 => tensor.len(),
                Codec::Topk => {
                    (0..tensor.len()).step_by(topk::CHUNK).map(|at| topk::kept(chunk(tensor.len(), at))).sum()
                }
            };
            let root = u128::from(past(history, index)) / (sent as u128).isqrt().max(1);
            let step = root * u128::from(SHARE_MAX) / steps(codec);
            step.max(1).ilog2().clamp(finest, SHIFT_MAX) as u8
        };
        Self { shifts: layout.tensors.iter().enumerate().map(shift).collect() }
    }

    /// The power of two, of a tensor.
    pub(super) fn shift(&self, tensor: usize) -> u32 {
        self.shifts.get(tensor).copied().unwrap_or(0).into()
    }
}

fn chunk(len: usize, at: usize) -> usize {
    topk::CHUNK.min(len - at)
}
