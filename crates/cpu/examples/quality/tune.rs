//! Learning rates: the same grid and the same search for every arm, on a seed of its own.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::results::Results;
use crate::trial::{ARMS, Arm, Rates};

/// Inner rates, a factor of 2 apart, in millionths.
pub const INNER_MILLIONTHS: [u32; 7] = [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000];
/// Outer rates, a factor of about √2 apart, in 1/1,024: from 0.18 to 11.3.
pub const OUTER_1024: [u16; 13] = [181, 256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096, 5793, 8192, 11585];
/// Indices of an outer and an inner rate.
type Point = [usize; 2];
/// Where every search begins: an outer rate of 1 and an inner one of 0.004.
const START: Point = [5, 3];
/// No training that is compared has this seed.
const SEED: u64 = 0;

#[derive(Clone, Copy, Debug)]
pub struct Tuned {
    pub lr_millionths: u32,
    pub outer_1024: u16,
    /// The best lies on the border of the grid, so a better one may lie beyond.
    pub on_border: bool,
}

impl Tuned {
    pub fn rates(&self) -> (u32, u16) {
        (self.lr_millionths, self.outer_1024)
    }
}

/// What [`search`] found on tinyshakespeare in 200 rounds of 15 steps, in millionths and 1/1,024.
const FOUND: [(&str, u32, u16); 4] =
    [("adamw", 1_000, 1024), ("diloco_nesterov", 4_000, 362), ("diloco_mean", 2_000, 1024), ("topk", 4_000, 2048)];

/// The rates of every arm, as a search found them.
pub fn found() -> Result<BTreeMap<&'static str, Tuned>> {
    rates_of_all(|arm| {
        let (_, lr_millionths, outer_1024) =
            *FOUND.iter().find(|(name, ..)| *name == arm.name).with_context(|| format!("no rates of {}", arm.name))?;
        Ok(Tuned { lr_millionths, outer_1024, on_border: false })
    })
}

/// The rates of every arm, searched.
pub fn search(results: &mut Results<'_>) -> Result<BTreeMap<&'static str, Tuned>> {
    rates_of_all(|arm| climb(arm, results))
}

fn rates_of_all(mut of_its_own: impl FnMut(&Arm) -> Result<Tuned>) -> Result<BTreeMap<&'static str, Tuned>> {
    let mut tuned: BTreeMap<&'static str, Tuned> = BTreeMap::new();
    for arm in &ARMS {
        let rates = match arm.rates {
            Rates::Of(other) => *tuned.get(other).with_context(|| format!("{other} comes after {}", arm.name))?,
            Rates::Inner | Rates::Both => of_its_own(arm)?,
        };
        eprintln!("          {}: {rates:?}", arm.name);
        tuned.insert(arm.name, rates);
    }
    Ok(tuned)
}

/// Goes along the outer rate, then along the inner one, as long as the loss falls, until neither way is better.
fn climb(arm: &Arm, results: &mut Results<'_>) -> Result<Tuned> {
    let both = arm.rates == Rates::Both;
    let rates = |[outer, inner]: Point| (INNER_MILLIONTHS[inner], if both { OUTER_1024[outer] } else { 1024 });
    let mut loss = |point: Point| -> Result<f64> {
        let trial = arm.trial(rates(point), SEED);
        results.run(&[trial])?;
        Ok(results.get(&trial)?.loss.unwrap_or(f64::INFINITY))
    };
    let mut best = (START, loss(START)?);
    loop {
        let before = best.0;
        for axis in if both { 0..2 } else { 1..2 } {
            for up in [true, false] {
                let from = best.0;
                while let Some(point) = neighbour(best.0, axis, up) {
                    let found = loss(point)?;
                    if found >= best.1 {
                        break;
                    }
                    best = (point, found);
                }
                // Who went up came from below.
                if best.0 != from {
                    break;
                }
            }
        }
        if best.0 == before {
            let (lr_millionths, outer_1024) = rates(best.0);
            let border = |axis| [true, false].iter().any(|up| neighbour(best.0, axis, *up).is_none());
            return Ok(Tuned { lr_millionths, outer_1024, on_border: border(1) || (both && border(0)) });
        }
    }
}

/// The next point of the grid in a direction.
fn neighbour(point: Point, axis: usize, up: bool) -> Option<Point> {
    let length = [OUTER_1024.len(), INNER_MILLIONTHS.len()][axis];
    let mut next = point;
    next[axis] =
        if up { Some(point[axis] + 1).filter(|index| *index < length)? } else { point[axis].checked_sub(1)? };
    Some(next)
}
