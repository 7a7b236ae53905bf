//! Products of matrices that lie in flat storage. New ones are candle's; those that go over or add to what is there, as the
//! decoder's step needs them, are the `gemm` crate's, which candle rests on and does not let one add with.
//!
//! `gemm` trusts the sizes and strides that it is given, so every view is checked against its storage first.

use candle_core::{Device, Tensor};
use shoal_learn::EngineError;

/// A flat f32 buffer.
#[derive(Clone, Debug, Default)]
pub struct Values(Vec<f32>);

impl Values {
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.0
    }

    pub fn into_vec(self) -> Vec<f32> {
        self.0
    }

    /// The whole buffer as one row-major matrix with this many columns.
    pub fn matrix(&self, columns: usize) -> Matrix<'_> {
        Matrix::of(&self.0, columns)
    }

    /// One row-major matrix inside the buffer.
    pub fn matrix_at(&self, offset: usize, rows: usize, columns: usize) -> Matrix<'_> {
        Matrix { values: &self.0, offset, rows, columns, transposed: false }
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self(values)
    }
}

/// A matrix that is stored row-major; `transposed` swaps how it is read.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    offset: usize,
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// All of a slice, with this many columns.
    pub fn of(values: &'a [f32], columns: usize) -> Self {
        Self { values, offset: 0, rows: values.len() / columns.max(1), columns, transposed: false }
    }

    pub fn t(mut self) -> Self {
        self.transposed = !self.transposed;
        self
    }

    /// Rows and columns as read.
    fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    /// Distances of neighbours down and across, as read.
    fn strides(&self) -> (isize, isize) {
        let width = self.columns as isize;
        if self.transposed { (1, width) } else { (width, 1) }
    }

    /// The matrix's own values; an error where it reaches past its storage.
    fn stored(&self) -> Result<&'a [f32], EngineError> {
        let end = self.rows.checked_mul(self.columns).and_then(|size| size.checked_add(self.offset));
        let stored = end.and_then(|end| self.values.get(self.offset..end));
        stored.ok_or_else(|| EngineError::Failed("a matrix reaches past its storage".to_owned()))
    }
}

/// What becomes of what the target of a product holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Over,
    Added,
}

/// Whether a product may use several cores; inside of work that already does it had better not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    One,
    All,
}

/// `left · right`.
pub fn multiply(left: Matrix<'_>, right: Matrix<'_>) -> Result<Values, EngineError> {
    let product = tensor(left)?.matmul(&tensor(right)?).and_then(|product| product.flatten_all()?.to_vec1());
    product.map(Values).map_err(failed)
}

fn tensor(matrix: Matrix<'_>) -> Result<Tensor, EngineError> {
    let stored = Tensor::from_slice(matrix.stored()?, (matrix.rows, matrix.columns), &Device::Cpu).map_err(failed)?;
    if matrix.transposed { stored.t().map_err(failed) } else { Ok(stored) }
}

fn failed(error: candle_core::Error) -> EngineError {
    EngineError::Failed(error.to_string())
}

/// Puts `left · right`, row-major, over `target` or adds it, on all cores.
pub fn multiply_into(target: &mut [f32], put: Put, left: Matrix<'_>, right: Matrix<'_>) -> Result<(), EngineError> {
    product(target, put, left, right, Cores::All)
}

/// Like [`multiply_into`], on the cores that are left.
pub fn product(
    target: &mut [f32],
    put: Put,
    left: Matrix<'_>,
    right: Matrix<'_>,
    cores: Cores,
) -> Result<(), EngineError> {
    let ((m, k), (inner, n)) = (left.shape(), right.shape());
    if k != inner {
        return Err(EngineError::Shape { what: "the right side of a matrix product", got: inner, expected: k });
    }
    if m.checked_mul(n) != Some(target.len()) {
        let expected = m.saturating_mul(n);
        return Err(EngineError::Shape { what: "the target of a matrix product", got: target.len(), expected });
    }
    let (a, b) = (left.stored()?, right.stored()?);
    let ((a_down, a_right), (b_down, b_right)) = (left.strides(), right.strides());
    let adds = put == Put::Added;
    // SAFETY: `a`, `b` and `target` hold m·k, k·n and m·n values, and with these strides every index below (m, k),
    // (k, n) and (m, n) is inside of them; `target` is borrowed mutably, so it overlaps neither.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.as_mut_ptr(),
            1,
            n as isize,
            adds,
            a.as_ptr(),
            a_right,
            a_down,
            b.as_ptr(),
            b_right,
            b_down,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism(cores),
        );
    }
    Ok(())
}

/// Each value's sum runs in the same order whatever this is.
#[cfg(not(target_arch = "wasm32"))]
fn parallelism(cores: Cores) -> gemm::Parallelism {
    match cores {
        Cores::One => gemm::Parallelism::None,
        Cores::All => gemm::Parallelism::Rayon(0),
    }
}

#[cfg(target_arch = "wasm32")]
fn parallelism(_: Cores) -> gemm::Parallelism {
    gemm::Parallelism::None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)] // these results are exact
    use super::*;

    fn counting(length: usize) -> Values {
        Values::from((0..length).map(|i| i as f32).collect::<Vec<_>>())
    }

    #[test]
    fn each_transposition_multiplies_as_by_hand() {
        let (a, b) = (counting(6), counting(6));
        // [[0,1,2],[3,4,5]] · [[0,1],[2,3],[4,5]]
        assert_eq!(multiply(a.matrix(3), b.matrix(2)).unwrap().as_slice(), [10.0, 13.0, 28.0, 40.0]);
        // [[0,1,2],[3,4,5]] · [[0,1,2],[3,4,5]]ᵀ
        assert_eq!(multiply(a.matrix(3), b.matrix(3).t()).unwrap().as_slice(), [5.0, 14.0, 14.0, 50.0]);
        // [[0,1],[2,3],[4,5]]ᵀ · [[0,1],[2,3],[4,5]]
        assert_eq!(multiply(a.matrix(2).t(), b.matrix(2)).unwrap().as_slice(), [20.0, 26.0, 26.0, 35.0]);
    }

    #[test]
    fn a_product_is_put_over_or_added_to_its_target_and_an_offset_shifts() {
        let a = counting(8);
        let mut target = [1.0, 1.0];
        multiply_into(&mut target, Put::Added, a.matrix_at(2, 1, 2), a.matrix_at(4, 2, 2)).unwrap();
        assert_eq!(target, [27.0, 32.0]);
        multiply_into(&mut target, Put::Over, a.matrix_at(2, 1, 2), a.matrix_at(4, 2, 2)).unwrap();
        assert_eq!(target, [26.0, 31.0]);
    }

    #[test]
    fn a_view_past_its_storage_or_of_the_wrong_shape_is_refused() {
        let a = counting(4);
        assert!(multiply(a.matrix_at(2, 2, 2), a.matrix(2)).is_err());
        assert!(multiply(a.matrix(2), a.matrix(4)).is_err());
        assert!(multiply(a.matrix_at(usize::MAX, 2, 2), a.matrix(2)).is_err());
        assert!(multiply_into(&mut [0.0; 3], Put::Over, a.matrix(2), a.matrix(2)).is_err());
    }

    #[test]
    fn a_product_is_the_same_bits_on_any_number_of_cores() {
        let noise = |count: usize, seed: usize| -> Values {
            (0..count).map(|i| ((i * 7919 + seed) % 1009) as f32 / 1009.0 - 0.5).collect::<Vec<_>>().into()
        };
        let (a, b) = (noise(300 * 170, 1), noise(170 * 130, 2));
        let on = |cores| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(cores).build().unwrap();
            let mut target = vec![0.0; 300 * 130];
            pool.install(|| multiply_into(&mut target, Put::Over, a.matrix(170), b.matrix(130))).unwrap();
            target
        };
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let one = bits(on(1));
        assert!([2, 3, 7].into_iter().all(|cores| bits(on(cores)) == one));
    }
}
