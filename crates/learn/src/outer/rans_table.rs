//! How often rounded Gaussian values occur, for the entropy coder.

/// Symbols stand for −31 to 31.
pub(super) const LARGEST: i64 = 31;
pub(super) const SYMBOLS: usize = 2 * LARGEST as usize + 1;

/// Frequencies sum to 2^16.
pub(super) const TOTAL_BITS: u32 = 16;

/// How often a level of magnitude 0, 1, 2, ... occurs among 65,536. No count is zero, so that every level can be sent.
type Half = [u16; LARGEST as usize + 1];

/// When unit Gaussian values are rounded to multiples of 249/1,024.
#[rustfmt::skip]
pub(super) static DENSE4: Table = Table::of(&[
    6340, 6156, 5636, 4865, 3959, 3038, 2198, 1500, 965, 585, 334, 180, 92, 44, 20, 8,
    3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
]);

/// When a number drawn evenly from half a step either way is added to such values first, and the step is 1,075/1,024.
#[rustfmt::skip]
pub(super) static MEAN: Table = Table::of(&[
    25124, 15856, 3932, 377, 14, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
]);

#[derive(Debug)]
pub(super) struct Table {
    /// Where each symbol's share of 0..65,536 begins; the last entry is its end.
    starts: [u32; SYMBOLS + 1],
    /// The symbol to which 0, 256, 512, ... belong, where the search for a slot's symbol begins.
    first: [u8; 256],
}

impl Table {
    const fn of(half: &Half) -> Self {
        let mut starts = [0; SYMBOLS + 1];
        let mut symbol = 0;
        while symbol < SYMBOLS {
            starts[symbol + 1] = starts[symbol] + half[symbol.abs_diff(LARGEST as usize)] as u32;
            symbol += 1;
        }
        let mut first = [0; 256];
        let mut at = 0;
        symbol = 0;
        while at < first.len() {
            while starts[symbol + 1] as usize <= at << 8 {
                symbol += 1;
            }
            first[at] = symbol as u8;
            at += 1;
        }
        Self { starts, first }
    }

    /// A symbol's first slot and how many it has.
    pub fn slots(&self, symbol: usize) -> (u32, u32) {
        (self.starts[symbol], self.starts[symbol + 1] - self.starts[symbol])
    }

    /// The symbol of a slot in 0..65,536.
    pub fn symbol(&self, slot: u32) -> usize {
        let mut symbol = usize::from(self.first[(slot >> 8) as usize]);
        while self.starts[symbol + 1] <= slot {
            symbol += 1;
        }
        symbol
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)] // the tables are compared with libm's Gaussian
    use super::{
        super::{dense4, mean_code},
        *,
    };

    const TABLES: [&Table; 2] = [&DENSE4, &MEAN];

    fn density(x: f64) -> f64 {
        (-x * x / 2.0).exp() / core::f64::consts::TAU.sqrt()
    }

    /// By Simpson's rule.
    fn integral(from: f64, to: f64, value: impl Fn(f64) -> f64) -> f64 {
        let width = (to - from) / 200.0;
        let part = |index: u32| {
            let left = from + f64::from(index) * width;
            value(left) + 4.0 * value(left + width / 2.0) + value(left + width)
        };
        (0..200).map(part).sum::<f64>() * width / 6.0
    }

    #[test]
    fn the_shares_sum_to_the_total_are_symmetric_and_never_zero() {
        for table in TABLES {
            assert_eq!(table.starts[SYMBOLS], 1 << TOTAL_BITS);
            for symbol in 0..SYMBOLS {
                assert_eq!(table.slots(symbol).1, table.slots(SYMBOLS - 1 - symbol).1);
                assert!(table.slots(symbol).1 > 0);
            }
        }
    }

    /// `part` says how much of a unit Gaussian falls to a level.
    fn fits(table: &Table, most_off: f64, part: impl Fn(f64) -> f64) {
        let (mut ideal, mut spent) = (0.0, 0.0);
        for symbol in 0..SYMBOLS {
            let part = part(symbol as f64 - LARGEST as f64);
            let share = f64::from(table.slots(symbol).1);
            let off = (part * 65_536.0 - share).abs();
            assert!(off < most_off, "symbol {symbol} is off by {off}");
            ideal -= if part > 0.0 { part * part.log2() } else { 0.0 };
            spent -= part * (share / 65_536.0).log2();
        }
        assert!(spent - ideal < 0.002, "{spent} bits instead of {ideal}");
    }

    #[test]
    fn the_shares_are_those_of_rounded_unit_gaussian_values() {
        let step = dense4::STEP as f64 / 1024.0;
        fits(&DENSE4, 6.0, |level| integral((level - 0.5) * step, (level + 0.5) * step, density));
    }

    #[test]
    fn the_shares_of_the_mean_are_those_of_dithered_unit_gaussian_values() {
        let step = mean_code::STEP as f64 / 1024.0;
        // A value is rounded to a level with a chance that falls from one, at the level, to none at its neighbours.
        // Level zero gives what the rare ones need to have one slot each.
        fits(&MEAN, 60.0, |level| {
            let weighted = |x: f64| density(x) * (1.0 - (x / step - level).abs());
            integral((level - 1.0) * step, level * step, weighted)
                + integral(level * step, (level + 1.0) * step, weighted)
        });
    }

    #[test]
    fn every_slot_has_the_symbol_whose_share_it_is_in() {
        for table in TABLES {
            for slot in 0..1_u32 << TOTAL_BITS {
                let (start, share) = table.slots(table.symbol(slot));
                assert!((start..start + share).contains(&slot));
            }
        }
    }
}
