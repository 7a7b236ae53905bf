//! A contiguous range of a decoder's blocks: what one peer trains where a model is split over several.

use core::ops::Range;

use shoal_wire::manifest::ModelSpec;
use thiserror::Error;

/// Blocks of a decoder. The first shard holds the embedding too, the last the final norm and the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    layers: Range<u32>,
    of: u32,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ShardError {
    #[error("blocks {start} to {end} are no range of a model's {of} blocks")]
    Range { start: u32, end: u32, of: u32 },
    #[error("{shards} shards need at least as many blocks, and the model has {of}")]
    TooMany { shards: u32, of: u32 },
    #[error("a model with tie_word_embeddings cannot be split: its first and its last shard would share a tensor")]
    Tied,
}

impl Shard {
    /// No blocks: for what is no decoder.
    pub fn none() -> Self {
        Self { layers: 0..0, of: 0 }
    }

    /// All of a model.
    pub fn whole(model: &ModelSpec) -> Self {
        Self { layers: 0..model.num_hidden_layers, of: model.num_hidden_layers }
    }

    /// The blocks `layers`, counted from 0, of a model.
    pub fn new(model: &ModelSpec, layers: Range<u32>) -> Result<Self, ShardError> {
        let of = model.num_hidden_layers;
        let Range { start, end } = layers;
        if start >= end || end > of {
            return Err(ShardError::Range { start, end, of });
        }
        let shard = Self { layers, of };
        if model.tie_word_embeddings && !(shard.embeds() && shard.predicts()) {
            return Err(ShardError::Tied);
        }
        Ok(shard)
    }

    /// Splits a model into shards whose blocks differ by one at most.
    pub fn split(model: &ModelSpec, shards: u32) -> Result<Vec<Self>, ShardError> {
        let of = model.num_hidden_layers;
        if shards == 0 || shards > of {
            return Err(ShardError::TooMany { shards, of });
        }
        let edge = |index: u32| (u64::from(of) * u64::from(index) / u64::from(shards)) as u32;
        (0..shards).map(|index| Self::new(model, edge(index)..edge(index + 1))).collect()
    }

    /// Its blocks, counted from 0.
    pub fn layers(&self) -> Range<u32> {
        self.layers.clone()
    }

    /// Whether it turns tokens into vectors.
    pub fn embeds(&self) -> bool {
        self.layers.start == 0
    }

    /// Whether it turns vectors into the loss.
    pub fn predicts(&self) -> bool {
        self.layers.end == self.of
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Layout, presets::Preset};

    #[test]
    fn shards_follow_each_other_and_share_all_tensors_among_them() {
        let model = Preset::Base.model();
        let whole = Layout::of(&model).unwrap();
        for count in [1, 2, 3, 8] {
            let shards = Shard::split(&model, count).unwrap();
            assert!(shards.windows(2).all(|pair| pair[0].layers.end == pair[1].layers.start));
            assert!(shards.iter().all(|shard| shard.layers.len().abs_diff(8 / count as usize) <= 1));
            assert!(shards[0].embeds() && shards[count as usize - 1].predicts());
            let mut names: Vec<String> = Vec::new();
            for shard in &shards {
                names.extend(Layout::of_shard(&model, shard).unwrap().tensors.into_iter().map(|tensor| tensor.name));
            }
            names.sort();
            assert_eq!(names, whole.tensors.iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn ranges_without_sense_and_tied_models_are_refused_in_words() {
        let mut model = Preset::Tiny.model();
        for layers in [0..0, 1..1, 1..3, 2..3] {
            assert!(matches!(Shard::new(&model, layers), Err(ShardError::Range { of: 2, .. })));
        }
        assert_eq!(Shard::split(&model, 3), Err(ShardError::TooMany { shards: 3, of: 2 }));
        assert_eq!(Shard::split(&model, 0), Err(ShardError::TooMany { shards: 0, of: 2 }));
        model.tie_word_embeddings = true;
        assert_eq!(Shard::split(&model, 2), Err(ShardError::Tied));
        assert!(Shard::split(&model, 1).is_ok());
    }
}
