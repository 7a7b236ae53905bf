//! Work on several cores. What a piece computes depends on the piece alone, and pieces never depend on how many cores
//! there are: results are the same bits everywhere.

use shoal_learn::EngineError;

/// Rows of an activation in one piece.
pub const ROWS: usize = 32;
/// Values of a flat vector in one piece.
pub const VALUES: usize = 1 << 14;

/// Does the work on each piece, in any order, on as many cores as rayon's current pool has.
#[cfg(not(target_arch = "wasm32"))]
pub fn each<T: Send>(pieces: impl Iterator<Item = T>, work: impl Fn(T) + Sync) {
    use rayon::prelude::*;
    let pieces: Vec<T> = pieces.collect();
    pieces.into_par_iter().for_each(|piece| wide(|| work(piece)));
}

/// Does the work on each piece, one after the other.
#[cfg(target_arch = "wasm32")]
pub fn each<T>(pieces: impl Iterator<Item = T>, work: impl Fn(T)) {
    pieces.for_each(work);
}

/// Like [`each`], for work that can fail; one of the errors comes back.
#[cfg(not(target_arch = "wasm32"))]
pub fn try_each<T: Send>(
    pieces: impl Iterator<Item = T>,
    work: impl Fn(T) -> Result<(), EngineError> + Sync,
) -> Result<(), EngineError> {
    use rayon::prelude::*;
    let pieces: Vec<T> = pieces.collect();
    pieces.into_par_iter().try_for_each(|piece| wide(|| work(piece)))
}

/// Like [`each`], for work that can fail.
#[cfg(target_arch = "wasm32")]
pub fn try_each<T>(
    mut pieces: impl Iterator<Item = T>,
    work: impl Fn(T) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    pieces.try_for_each(work)
}

/// Compiles what is inlined into `work` for the widest vectors that this processor has, and runs it.
#[cfg(not(target_arch = "wasm32"))]
#[inline(always)]
#[allow(clippy::inline_always)] // what is not inlined here keeps the narrow vectors of the build's target
fn wide<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}
