//! Models, recipes and timings that work together.

use core::fmt;
use core::str::FromStr;

use shoal_wire::manifest::{AdamW, Codec, ModelSpec, Outer, Recipe, RopeScaling, Timing};
use thiserror::Error;

use crate::{Layout, layout::LayoutError};

/// Below this, a whole update at 4 bits a value is under 2 MB, and sparsifying it would only slow learning.
const DENSE_PARAMETERS_MAX: usize = 4_000_000;

/// A size of run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preset {
    /// Learns visibly within seconds, for tests and demonstrations.
    Tiny,
    /// About half a million parameters: a phone keeps up.
    #[default]
    Small,
    /// About ten million parameters, for GPUs.
    Base,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("there is no preset {0:?}; choose tiny, small or base")]
pub struct UnknownPreset(pub String);

impl Preset {
    pub const ALL: [Self; 3] = [Self::Tiny, Self::Small, Self::Base];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Base => "base",
        }
    }

    pub fn model(self) -> ModelSpec {
        let (hidden_size, intermediate_size, num_hidden_layers, heads, max_position_embeddings) = match self {
            Self::Tiny => (32, 88, 2, 2, 64),
            Self::Small => (96, 256, 4, 4, 128),
            Self::Base => (320, 864, 8, 5, 256),
        };
        ModelSpec {
            vocab_size: 256,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            max_position_embeddings,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            tie_word_embeddings: false,
        }
    }

    /// The smallest preset for models of so many parameters, or the largest.
    pub fn fitting(parameters: usize) -> Self {
        let fits = |preset: &Self| Layout::of(&preset.model()).is_ok_and(|layout| layout.len() >= parameters);
        Self::ALL.into_iter().find(fits).unwrap_or(Self::Base)
    }

    pub fn recipe(self) -> Recipe {
        self.recipe_for(&self.model())
    }

    /// The preset's recipe for another model, in sequences of at most the preset's length.
    pub fn recipe_for(self, model: &ModelSpec) -> Recipe {
        let (batch, local_steps, lr, warmup_rounds) = match self {
            Self::Tiny => (8, 20, 1e-2, 1),
            Self::Small => (8, 60, 3e-3, 2),
            Self::Base => (8, 60, 1e-3, 4),
        };
        Recipe {
            batch,
            context: self.model().max_position_embeddings.min(model.max_position_embeddings),
            local_steps,
            inner: AdamW { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) }.into(),
            warmup_rounds,
            decay_from: 0,
            decay_rounds: 0,
            outer: outer(Layout::of(model).as_ref()),
        }
    }

    pub fn timing(self) -> Timing {
        let (train_ms_max, exchange_ms_max, recovery_ms) = match self {
            Self::Tiny => (20_000, 8_000, 20_000),
            Self::Small => (60_000, 15_000, 30_000),
            Self::Base => (180_000, 60_000, 60_000),
        };
        Timing { train_ms_max, exchange_ms_max, view_ms: 4_000, recovery_ms, recovery_window_rounds: 100 }
    }
}

/// The outer step for a model of this layout.
fn outer(layout: Result<&Layout, &LayoutError>) -> Outer {
    let codec = match layout {
        Ok(layout) if layout.len() < DENSE_PARAMETERS_MAX => Codec::Dense4,
        _ => Codec::Topk,
    };
    Outer { codec, alpha_1024: 1024, feedback_1024: 973 }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(|| UnknownPreset(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn presets_have_the_sizes_they_promise() {
        let size = |preset: Preset| Layout::of(&preset.model()).unwrap().len();
        assert!(size(Preset::Tiny) < 50_000, "{}", size(Preset::Tiny));
        assert!((400_000..700_000).contains(&size(Preset::Small)), "{}", size(Preset::Small));
        assert!((8_000_000..12_000_000).contains(&size(Preset::Base)), "{}", size(Preset::Base));
    }

    #[test]
    fn only_large_models_are_sparsified() {
        let codec = |preset: Preset| preset.recipe().outer.codec;
        assert_eq!(Preset::ALL.map(codec), [Codec::Dense4, Codec::Dense4, Codec::Topk]);
    }

    #[test]
    fn a_recipe_fits_its_model() {
        for preset in Preset::ALL {
            assert!(preset.recipe().context <= preset.model().max_position_embeddings);
        }
    }

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for preset in Preset::ALL {
            assert_eq!(preset.to_string().parse(), Ok(preset));
        }
        assert_eq!("huge".parse::<Preset>(), Err(UnknownPreset("huge".to_owned())));
    }

    #[test]
    fn a_model_from_elsewhere_takes_the_recipe_of_its_size_and_no_longer_context_than_it_has() {
        assert_eq!(Preset::fitting(10_000), Preset::Tiny);
        assert_eq!(Preset::fitting(100_000), Preset::Small);
        assert_eq!(Preset::fitting(1 << 28), Preset::Base);
        let model = ModelSpec { max_position_embeddings: 50, ..Preset::Base.model() };
        let recipe = Preset::Base.recipe_for(&model);
        assert_eq!((recipe.context, recipe.outer.codec), (50, Codec::Topk));
        assert_eq!(Preset::Base.recipe_for(&ModelSpec { max_position_embeddings: 9999, ..model }).context, 256);
    }
}
