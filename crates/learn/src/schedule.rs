//! The learning rate over time: in a run by its rounds, so that a peer that joins late trains as the others do; in a
//! training alone by its steps.

use shoal_wire::Round;
use shoal_wire::manifest::Recipe;

/// Warm-up, stable, decay (Hu et al., arXiv 2404.06395): a linear rise over the first rounds or steps (the first is
/// number 1), the peak, and, where there is a planned end, a linear fall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Numbers over which the rate rises from zero; 0 begins at the peak.
    pub warmup: u32,
    /// The last number at the peak.
    pub decay_from: u32,
    /// Numbers over which it falls; 0 means that it stays.
    pub decay: u32,
}

impl Schedule {
    /// Part of the peak rate at this number, above 0 and at most 1.
    ///
    /// The fall ends one step above zero and stays there: what comes after the planned end still learns a little.
    pub fn share(&self, number: u64) -> f32 {
        let number = number.max(1);
        let risen = share(number, self.warmup.into());
        let fallen = number.saturating_sub(self.decay_from.into());
        let left = match u64::from(self.decay) {
            0 => 1.0,
            decay => share((decay + 1).saturating_sub(fallen).max(1), decay + 1),
        };
        risen.min(left)
    }
}

/// The learning rate of a run's round, where its participants decided on so many 1/1024 of the recipe's.
pub fn learning_rate(recipe: &Recipe, round: Round, scale_1024: u32) -> f32 {
    let schedule = Schedule { warmup: recipe.warmup_rounds, decay_from: recipe.decay_from, decay: recipe.decay_rounds };
    recipe.inner.lr() * schedule.share(round) * (scale_1024 as f32 / 1024.0)
}

/// `done` of `all`, at most 1.
fn share(done: u64, all: u64) -> f32 {
    if done >= all { 1.0 } else { done as f32 / all as f32 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)] // powers of two are exact
    use super::*;
    use crate::presets::Preset;

    #[test]
    fn the_rate_rises_linearly_and_stays() {
        let mut recipe = Preset::Tiny.recipe();
        recipe.warmup_rounds = 4;
        recipe.inner = recipe.inner.with_lr(1.0);
        let rates = [1, 2, 3, 4, 5, u64::MAX].map(|round| learning_rate(&recipe, round, 1024));
        assert_eq!(rates.map(f32::to_bits), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0].map(f32::to_bits));
    }

    #[test]
    fn without_warm_up_every_round_is_at_the_peak() {
        let recipe = Recipe { warmup_rounds: 0, ..Preset::Tiny.recipe() };
        assert!(
            [0, 1, 9].iter().all(|round| learning_rate(&recipe, *round, 1024).to_bits() == recipe.inner.lr().to_bits())
        );
    }

    #[test]
    fn the_rate_falls_to_one_step_above_zero_where_an_end_is_planned() {
        let mut recipe = Recipe { warmup_rounds: 2, decay_from: 10, decay_rounds: 3, ..Preset::Tiny.recipe() };
        recipe.inner = recipe.inner.with_lr(1.0);
        let rates = [1, 2, 10, 11, 12, 13, 14, u64::MAX].map(|round| learning_rate(&recipe, round, 1024));
        assert_eq!(rates.map(f32::to_bits), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.25, 0.25].map(f32::to_bits));
        // A fall that begins within the rise cuts it short, and the largest numbers are numbers like others.
        recipe.decay_from = 0;
        recipe.decay_rounds = u32::MAX;
        assert!(learning_rate(&recipe, 1, 1024) == 0.5 && learning_rate(&recipe, u64::MAX, 1024) > 0.0);
    }

    #[test]
    fn an_amendment_scales_every_rate_of_the_schedule() {
        let mut recipe = Recipe { warmup_rounds: 2, ..Preset::Tiny.recipe() };
        recipe.inner = recipe.inner.with_lr(1.0);
        let rates = [(1, 512), (2, 512), (2, 2048)].map(|(round, scale)| learning_rate(&recipe, round, scale));
        assert_eq!(rates.map(f32::to_bits), [0.25, 0.5, 2.0].map(f32::to_bits));
    }
}
