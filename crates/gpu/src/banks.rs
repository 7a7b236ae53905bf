//! Parameters cut into ranges that a device can bind: WebGPU promises 128 MiB a binding, and the tables of a large
//! vocabulary alone may take more.

use core::ops::Range;

use shoal_learn::{EngineError, Layout, TensorInfo};

/// Ranges of the flat parameter vector, in order and without gaps. A tensor lies in one of them, but for the tables of the
/// vocabulary, which may be cut between rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Banks(Vec<Range<usize>>);

/// Where values of a tensor lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight {
    pub bank: usize,
    /// From the bank's start.
    pub offset: u32,
}

/// Rows of a table that lie in one bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub weight: Weight,
    pub first_row: u32,
    pub rows: u32,
}

/// What one dispatch reads or writes together, and so must lie in one bank.
fn together(name: &str) -> &str {
    for part in ["self_attn", "mlp.gate_proj", "mlp.up_proj"] {
        if let Some((layer, _)) = name.split_once(part) {
            return layer;
        }
    }
    // A layer's scale and shift, or weight and bias.
    name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")).unwrap_or(name)
}

fn is_table(tensor: &TensorInfo) -> bool {
    tensor.name == "lm_head.weight" || tensor.name == "model.embed_tokens.weight"
}

impl Banks {
    /// Cuts so that no range is longer than `values_max`.
    pub fn new(layout: &Layout, values_max: usize) -> Result<Self, EngineError> {
        let mut banks = Self(Vec::new());
        for unit in layout.tensors.chunk_by(|a, b| together(&a.name) == together(&b.name)) {
            let values: usize = unit.iter().map(TensorInfo::len).sum();
            match unit {
                [table] if is_table(table) && values > values_max => banks.cut(table, values_max)?,
                _ if values > values_max => return Err(too_long(&unit[0].name, values, values_max)),
                _ => banks.add(values, values_max),
            }
        }
        Ok(banks)
    }

    fn add(&mut self, values: usize, values_max: usize) {
        match self.0.last_mut() {
            Some(last) if last.len() + values <= values_max => last.end += values,
            Some(&mut Range { end, .. }) => self.0.push(end..end + values),
            None => self.0.push(0..values),
        }
    }

    /// Rows in fours, so that vectors of four columns of their products stay whole.
    fn cut(&mut self, table: &TensorInfo, values_max: usize) -> Result<(), EngineError> {
        let (rows, columns) = (table.shape[0], table.shape[1]);
        let most = values_max / columns / 4 * 4;
        if most == 0 {
            return Err(too_long(&table.name, 4 * columns, values_max));
        }
        for first in (0..rows).step_by(most) {
            self.add(most.min(rows - first) * columns, values_max);
        }
        Ok(())
    }

    pub fn ranges(&self) -> &[Range<usize>] {
        &self.0
    }

    /// Where the value at this index of the flat vector lies.
    pub fn locate(&self, index: usize) -> Weight {
        let bank = self.0.partition_point(|range| range.end <= index);
        // Past the end is nobody's: a layout is never asked for it.
        let start = self.0.get(bank).map_or(index, |range| range.start);
        Weight { bank, offset: (index - start) as u32 }
    }

    /// A table by banks.
    pub fn pieces(&self, table: &TensorInfo) -> Vec<Piece> {
        let columns = table.shape.last().copied().unwrap_or(1);
        let cut = |bank: &Range<usize>| bank.start.max(table.offset)..bank.end.min(table.range().end);
        let parts = self.0.iter().map(cut).filter(|part| part.start < part.end);
        let piece = |part: Range<usize>| Piece {
            weight: self.locate(part.start),
            first_row: ((part.start - table.offset) / columns) as u32,
            rows: (part.len() / columns) as u32,
        };
        parts.map(piece).collect()
    }
}

fn too_long(name: &str, values: usize, values_max: usize) -> EngineError {
    let text =
        format!("{name} and what is used with it take {values} values, and this device binds {values_max} at most");
    EngineError::OutOfMemory(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use shoal_learn::presets::Preset;

    use super::*;

    #[test]
    fn what_fits_is_one_bank() {
        let layout = Layout::of(&Preset::Tiny.model()).unwrap();
        let banks = Banks::new(&layout, layout.len()).unwrap();
        assert_eq!((banks.ranges().len(), banks.ranges()[0].clone()), (1, 0..layout.len()));
        let table = layout.find("model.embed_tokens.weight").unwrap();
        let whole = Piece { weight: banks.locate(table.offset), first_row: 0, rows: 256 };
        assert_eq!(banks.pieces(table), [whole]);
    }

    #[test]
    fn banks_are_short_enough_leave_no_gap_and_keep_together_what_is_used_together() {
        let layout = Layout::of(&Preset::Tiny.model()).unwrap();
        for values_max in [5632, 6000, 9_000, 20_000] {
            let banks = Banks::new(&layout, values_max).unwrap();
            let mut next = 0;
            for range in banks.ranges() {
                assert!(range.start == next && range.len() <= values_max, "{range:?} of {values_max}");
                next = range.end;
            }
            assert_eq!(next, layout.len());
            for tensor in &layout.tensors {
                let pieces = banks.pieces(tensor);
                assert!(pieces.len() == 1 || is_table(tensor), "{} is cut", tensor.name);
                let rows: u32 = pieces.iter().map(|piece| piece.rows).sum();
                assert_eq!(rows as usize * tensor.shape.last().unwrap(), tensor.len());
                assert!(pieces.iter().all(|piece| piece.first_row.is_multiple_of(4)));
            }
            let bank =
                |part: &str| banks.locate(layout.find(&format!("model.layers.1.{part}.weight")).unwrap().offset).bank;
            assert_eq!(bank("mlp.gate_proj"), bank("mlp.up_proj"));
            assert_eq!(bank("self_attn.k_proj"), bank("self_attn.v_proj"));
        }
    }

    #[test]
    fn a_tensor_longer_than_a_bank_is_an_error_that_names_it() {
        let layout = Layout::of(&Preset::Tiny.model()).unwrap();
        let error = Banks::new(&layout, 4000).unwrap_err().to_string();
        assert!(error.contains("gate_proj"), "{error}");
    }
}
