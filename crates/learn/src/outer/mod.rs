//! What peers must agree on, bit for bit: the update formats and the outer step.
//!
//! Everything here is integer arithmetic in fixed order, except one f32 subtraction for each parameter and the scales
//! of a coded mean becoming f16, which IEEE 754 defines: every engine that runs it arrives at the same bytes. Values
//! are fixed-point numbers in units of 2⁻⁴⁰.
//!
//! The outer step is SparseLoCo's (arXiv 2508.15706): θ ← θ − α · mean of the clipped updates, without outer momentum;
//! the updates come from peers that keep what they did not send as error feedback.

mod aggregate;
mod bits;
mod dense4;
mod dither;
mod fixed;
pub mod golden;
mod grid;
mod likeness;
mod mean_code;
mod params;
mod parts;
mod rans;
mod rans_table;
mod residual;
mod sum;
mod sum_code;
mod topk;
mod update;

use shoal_wire::limits::ROSTER_MAX;
use thiserror::Error;

pub use aggregate::{Contribution, aggregate};
pub use fixed::FRACTION_BITS;
pub use grid::Grid;
pub use likeness::{Likeness, likeness};
pub use params::{params_from_bytes, params_to_bytes};
pub use parts::{Part, parts};
pub use residual::Residual;
pub use sum::{Bounds, PartialSum, apply, partial_sums};
pub use update::{check, decode};

/// Why bytes are not an update, or not parameters, of a model.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum UpdateError {
    #[error("it is not in the format of the run's codec")]
    Header,
    #[error("its checksum is not that of its bytes: it was damaged on the way or on a disk; fetch it again")]
    Checksum,
    #[error("it ends in the middle, after {at} bytes")]
    Truncated { at: usize },
    #[error("{bytes} bytes follow the last tensor")]
    Trailing { bytes: usize },
    #[error("a scale is negative, above 1, not a number, or not zero for a chunk of zeros")]
    Scale,
    #[error("a value has a code that its codec never writes")]
    Code,
    #[error("its entropy coder does not end where an encoder begins")]
    Coder,
    #[error("an index lies outside its chunk, or names a value that is not sent")]
    Index,
    #[error("unused bits are not zero")]
    Padding,
    #[error("{got} values where the model has {expected} parameters")]
    Length { got: usize, expected: usize },
    #[error("parameter {index} is not a finite number")]
    NotFinite { index: usize },
    #[error("{got} updates are more than a roster's {ROSTER_MAX} members can send")]
    TooMany { got: usize },
    #[error("sums of different parts, or of none, cannot be merged")]
    Parts,
    #[error("a sum grows beyond 64 bits")]
    Overflow,
    #[error("a second encoding of the same sum")]
    NotCanonical,
    #[error("weights must be between 1 and 4,095")]
    Weight,
}
