//! What the update needs to know of each bank's parameters, as words that follow the tokens in their buffer.

use std::collections::BTreeMap;

use shoal_learn::{Layout, TensorInfo};

use crate::banks::Banks;

/// Places in the token buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BankTables {
    /// A bit for each parameter, or for each four, counted from the lowest: whether it decays.
    pub decays: u32,
    /// Such bits for what Muon moves itself.
    pub hidden: u32,
    /// What Muon orthogonalises, by sides.
    pub matrices: Vec<Matrices>,
}

/// Matrices of one bank with the same two sides, lying or standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matrices {
    pub low: u32,
    pub long: u32,
    pub count: u32,
    /// For each its place in the bank, and one where it stands.
    pub table: u32,
}

/// The words, from place `first` of the buffer, and where each bank's are; `group` parameters share a bit.
pub(crate) fn tables(layout: &Layout, banks: &Banks, group: usize, first: usize) -> (Vec<u32>, Vec<BankTables>) {
    let mut words = Vec::new();
    let mut all = Vec::new();
    for (index, bank) in banks.ranges().iter().enumerate() {
        let bits = |words: &mut Vec<u32>, chosen: fn(&TensorInfo) -> bool| {
            let start = words.len();
            words.resize(start + bank.len().div_ceil(32 * group), 0);
            for tensor in layout.tensors.iter().filter(|tensor| chosen(tensor)) {
                let range = tensor.offset.max(bank.start)..tensor.range().end.min(bank.end);
                for value in range.step_by(group) {
                    let at = (value - bank.start) / group;
                    words[start + at / 32] |= 1 << (at % 32);
                }
            }
            (first + start) as u32
        };
        let decays = bits(&mut words, TensorInfo::decays);
        let hidden = bits(&mut words, |tensor| tensor.hidden_matrix().is_some());
        let mut by_sides: BTreeMap<(usize, usize), Vec<u32>> = BTreeMap::new();
        for tensor in layout.tensors.iter().filter(|tensor| bank.contains(&tensor.offset)) {
            if let Some((rows, columns)) = tensor.hidden_matrix() {
                let place = banks.locate(tensor.offset);
                debug_assert_eq!(place.bank, index);
                let sides = (rows.min(columns), rows.max(columns));
                by_sides.entry(sides).or_default().extend([place.offset, u32::from(rows > columns)]);
            }
        }
        let mut matrices = Vec::new();
        for ((low, long), table) in by_sides {
            let (low, long, count) = (low as u32, long as u32, table.len() as u32 / 2);
            matrices.push(Matrices { low, long, count, table: (first + words.len()) as u32 });
            words.extend(table);
        }
        all.push(BankTables { decays, hidden, matrices });
    }
    (words, all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use shoal_learn::presets::Preset;

    use super::*;

    #[test]
    fn every_hidden_matrix_is_in_one_table_and_its_bits_are_set() {
        let layout = Layout::of(&Preset::Tiny.model()).unwrap();
        for values_max in [layout.len(), 9_000] {
            let banks = Banks::new(&layout, values_max).unwrap();
            let (words, tables) = tables(&layout, &banks, 4, 100);
            let mut found = Vec::new();
            for (bank, BankTables { decays, hidden, matrices }) in banks.ranges().iter().zip(tables) {
                let bit = |from: u32, index: usize| words[from as usize - 100 + index / 32] >> (index % 32) & 1 == 1;
                for value in bank.clone() {
                    let tensor = layout.tensors.iter().find(|tensor| tensor.range().contains(&value)).unwrap();
                    assert_eq!(bit(decays, (value - bank.start) / 4), tensor.decays());
                    assert_eq!(bit(hidden, (value - bank.start) / 4), tensor.hidden_matrix().is_some());
                }
                for Matrices { low, long, count, table } in matrices {
                    for entry in words[table as usize - 100..][..2 * count as usize].chunks(2) {
                        let sides = if entry[1] == 1 { (long, low) } else { (low, long) };
                        found.push((bank.start + entry[0] as usize, (sides.0 as usize, sides.1 as usize)));
                    }
                }
            }
            found.sort_unstable();
            let hidden = layout.tensors.iter().filter_map(|tensor| Some((tensor.offset, tensor.hidden_matrix()?)));
            assert_eq!(found, hidden.collect::<Vec<_>>());
        }
    }
}
