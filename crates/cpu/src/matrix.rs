//! Products of matrices that lie in flat storage, by candle.
//!
//! candle's product trusts the strides it is given, so every view is checked against its storage first.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout, Shape};
use shoal_learn::EngineError;

/// A flat f32 buffer that candle multiplies without a copy.
pub struct Values(CpuStorage);

impl Values {
    pub fn as_slice(&self) -> &[f32] {
        match &self.0 {
            CpuStorage::F32(values) => values,
            // Only f32 goes in: `From<Vec<f32>>` and products of f32.
            _ => &[],
        }
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        match &mut self.0 {
            CpuStorage::F32(values) => values,
            _ => &mut [],
        }
    }

    pub fn into_vec(self) -> Vec<f32> {
        match self.0 {
            CpuStorage::F32(values) => values,
            _ => Vec::new(),
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// The whole buffer as one row-major matrix with this many columns.
    pub fn matrix(&self, columns: usize) -> Matrix<'_> {
        self.stack(1, self.len() / columns.max(1), columns)
    }

    /// The whole buffer as `count` row-major matrices, one after the other.
    pub fn stack(&self, count: usize, rows: usize, columns: usize) -> Matrix<'_> {
        Matrix { values: self, offset: 0, count, rows, columns, transposed: false }
    }

    /// One row-major matrix inside the buffer.
    pub fn matrix_at(&self, offset: usize, rows: usize, columns: usize) -> Matrix<'_> {
        Matrix { values: self, offset, count: 1, rows, columns, transposed: false }
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self(CpuStorage::F32(values))
    }
}

/// A stack of `count` matrices of equal shape, stored row-major; `transposed` swaps how each is read.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a Values,
    offset: usize,
    count: usize,
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl Matrix<'_> {
    pub fn t(mut self) -> Self {
        self.transposed = !self.transposed;
        self
    }

    /// Rows and columns as read.
    fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    fn layout(&self) -> Layout {
        let (rows, columns) = self.shape();
        let (down, right) = if self.transposed { (1, self.columns) } else { (self.columns, 1) };
        let shape = Shape::from((self.count, rows, columns));
        Layout::new(shape, vec![self.rows * self.columns, down, right], self.offset)
    }

    fn fits(&self) -> bool {
        let size = self.count.checked_mul(self.rows).and_then(|n| n.checked_mul(self.columns));
        size.and_then(|n| n.checked_add(self.offset)).is_some_and(|end| end <= self.values.len())
    }
}

/// `left · right` for each matrix of the stacks.
pub fn multiply(left: Matrix<'_>, right: Matrix<'_>) -> Result<Values, EngineError> {
    let ((m, k), (inner, n)) = (left.shape(), right.shape());
    if k != inner || left.count != right.count {
        return Err(EngineError::Shape { what: "the right side of a matrix product", got: inner, expected: k });
    }
    if !left.fits() || !right.fits() {
        return Err(EngineError::Failed("a matrix reaches past its storage".to_owned()));
    }
    let product = left
        .values
        .0
        .matmul(&right.values.0, (left.count, m, n, k), &left.layout(), &right.layout())
        .map_err(|error| EngineError::Failed(format!("matrix product: {error}")))?;
    Ok(Values(product))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
    fn a_stack_multiplies_pair_by_pair_and_an_offset_shifts() {
        let (a, b) = (counting(4), counting(8));
        let stacked = multiply(a.stack(2, 1, 2), b.stack(2, 2, 2)).unwrap();
        assert_eq!(stacked.as_slice(), [2.0, 3.0, 26.0, 31.0]);
        let shifted = multiply(a.matrix_at(2, 1, 2), b.matrix_at(4, 2, 2)).unwrap();
        assert_eq!(shifted.as_slice(), [26.0, 31.0]);
    }

    #[test]
    fn a_view_past_its_storage_or_of_the_wrong_shape_is_refused() {
        let a = counting(4);
        assert!(multiply(a.matrix_at(2, 2, 2), a.matrix(2)).is_err());
        assert!(multiply(a.matrix(2), a.matrix(4)).is_err());
        assert!(multiply(a.stack(2, 1, 2), a.matrix(2)).is_err());
        assert!(multiply(a.matrix_at(usize::MAX, 2, 2), a.matrix(2)).is_err());
    }
}
