//! The learning rate, indexed by the run's round, so that a peer that joins late trains as the others do.

use shoal_wire::Round;
use shoal_wire::manifest::Recipe;

/// Linear warm-up over the first rounds (the first trained round is 1), then the peak.
pub fn learning_rate(recipe: &Recipe, round: Round) -> f32 {
    let warmup = u64::from(recipe.warmup_rounds);
    let done = round.max(1);
    if done >= warmup { recipe.inner.lr } else { recipe.inner.lr * (done as f32 / warmup as f32) }
}

#[cfg(test)]
mod tests {
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
}
