//! The learning rate, indexed by the run's round, so that a peer that joins late trains as the others do.

use shoal_wire::Round;
use shoal_wire::manifest::Recipe;

/// Warm-up, stable, decay (Hu et al., arXiv 2404.06395): a linear rise over the first rounds (the first trained round is
/// 1), the peak, and, where the run has a planned end, a linear fall.
///
/// The fall ends one step above zero and stays there: rounds after the planned end still learn a little.
pub fn learning_rate(recipe: &Recipe, round: Round) -> f32 {
    let round = round.max(1);
    let risen = share(round, recipe.warmup_rounds.into());
    let fallen = round.saturating_sub(recipe.decay_from.into());
    let left = match u64::from(recipe.decay_rounds) {
        0 => 1.0,
        rounds => share((rounds + 1).saturating_sub(fallen).max(1), rounds + 1),
    };
    recipe.inner.lr * risen.min(left)
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
        recipe.inner.lr = 1.0;
        let rates = [1, 2, 3, 4, 5, u64::MAX].map(|round| learning_rate(&recipe, round));
        assert_eq!(rates.map(f32::to_bits), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0].map(f32::to_bits));
    }

    #[test]
    fn without_warm_up_every_round_is_at_the_peak() {
        let recipe = Recipe { warmup_rounds: 0, ..Preset::Tiny.recipe() };
        assert!([0, 1, 9].iter().all(|round| learning_rate(&recipe, *round).to_bits() == recipe.inner.lr.to_bits()));
    }

    #[test]
    fn the_rate_falls_to_one_step_above_zero_where_an_end_is_planned() {
        let mut recipe = Recipe { warmup_rounds: 2, decay_from: 10, decay_rounds: 3, ..Preset::Tiny.recipe() };
        recipe.inner.lr = 1.0;
        let rates = [1, 2, 10, 11, 12, 13, 14, u64::MAX].map(|round| learning_rate(&recipe, round));
        assert_eq!(rates.map(f32::to_bits), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.25, 0.25].map(f32::to_bits));
        // A fall that begins within the rise cuts it short, and the largest numbers are numbers like others.
        recipe.decay_from = 0;
        recipe.decay_rounds = u32::MAX;
        assert!(learning_rate(&recipe, 1) == 0.5 && learning_rate(&recipe, u64::MAX) > 0.0);
    }
}
