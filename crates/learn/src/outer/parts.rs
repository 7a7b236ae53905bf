//! A model in parts of about the same size, each summed and coded on its own.

use core::ops::Range;

use super::topk::CHUNK;
use crate::{Layout, TensorInfo};

/// A range of a model's parameters that ends where chunks end, so that a codec sees the same chunks in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// First parameter, in layout order.
    pub start: usize,
    /// Its pieces of tensors, with offsets from `start`.
    pub layout: Layout,
    /// The tensor that each piece is of.
    pub(super) tensors: Vec<usize>,
}

impl Part {
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.layout.len()
    }
}

/// Cuts a model in `count` parts; a small model leaves some of them empty.
pub fn parts(layout: &Layout, count: usize) -> Vec<Part> {
    let cut = |index: usize| {
        let ideal = (layout.len() as u128 * index as u128 / count.max(1) as u128) as usize;
        let tensor = layout.tensors.iter().find(|tensor| tensor.range().contains(&ideal));
        tensor.map_or(layout.len(), |tensor| tensor.offset + (ideal - tensor.offset) / CHUNK * CHUNK)
    };
    (0..count).map(|index| part(layout, cut(index)..cut(index + 1))).collect()
}

fn part(layout: &Layout, range: Range<usize>) -> Part {
    let (mut pieces, mut tensors) = (Vec::new(), Vec::new());
    for (index, tensor) in layout.tensors.iter().enumerate() {
        let (from, to) = (tensor.range().start.max(range.start), tensor.range().end.min(range.end));
        if from < to {
            pieces.push(TensorInfo { name: tensor.name.clone(), shape: vec![to - from], offset: from - range.start });
            tensors.push(index);
        }
    }
    Part { start: range.start, layout: Layout { tensors: pieces }, tensors }
}
