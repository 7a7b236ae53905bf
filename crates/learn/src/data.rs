//! What each peer trains on: rows of the run's text, drawn from the run's randomness.
//!
//! Nobody chooses their data, and anyone who knows the run's randomness can recompute it.

use std::sync::Arc;

use blake3::{Hasher, OutputReader};
use shoal_wire::limits::BATCH_TOKENS_MAX;
use shoal_wire::{Digest, PeerId};
use thiserror::Error;

use crate::Batch;

const DOMAIN: &str = "shoal 2026 v1 training rows";
const UNASSIGNED_DOMAIN: &str = "shoal 2026 v1 unassigned rows";

/// A byte text; its last bytes are held out from training.
#[derive(Clone, Debug)]
pub struct Corpus {
    text: Arc<[u8]>,
    train_bytes: usize,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum DataError {
    #[error("the run holds out {held_out} bytes of a text of {text}: nothing is left to train on")]
    HeldOut { held_out: u64, text: usize },
    #[error(
        "the {part} part of the text has {tokens} tokens, and a row needs {row}: use more text or a shorter context"
    )]
    TooShort { part: &'static str, tokens: usize, row: usize },
    #[error("a batch of {batch} rows of {context} tokens is not between 1 and {BATCH_TOKENS_MAX} tokens")]
    Shape { batch: usize, context: usize },
}

impl Corpus {
    pub fn new(text: Arc<[u8]>, held_out_bytes: u64) -> Result<Self, DataError> {
        let error = DataError::HeldOut { held_out: held_out_bytes, text: text.len() };
        let held_out = usize::try_from(held_out_bytes).ok().filter(|held_out| *held_out < text.len()).ok_or(error)?;
        Ok(Self { train_bytes: text.len() - held_out, text })
    }

    /// The batch of one step (from 1) of a peer's round; `randomness` is the round's.
    pub fn train_batch(
        &self,
        randomness: Digest,
        peer: PeerId,
        step: u32,
        batch: usize,
        context: usize,
    ) -> Result<Batch, DataError> {
        drawn_batch(&self.text[..self.train_bytes], randomness, peer, step, (batch, context))
    }

    /// A batch that no peer is assigned, to measure updates on: another draw from the same text, by a seed.
    pub fn unassigned_batch(
        &self,
        seed: Digest,
        number: u32,
        batch: usize,
        context: usize,
    ) -> Result<Batch, DataError> {
        let mut hasher = Hasher::new_derive_key(UNASSIGNED_DOMAIN);
        hasher.update(&seed.0).update(&number.to_le_bytes());
        drawn(&self.text[..self.train_bytes], &hasher, batch, context)
    }

    /// Batches spread evenly over the held-out text, the same for everyone.
    pub fn held_out_batches(&self, batch: usize, context: usize, count: usize) -> Result<Vec<Batch>, DataError> {
        let part = self.held_out();
        let places = places("held-out", part.len(), batch, context)?;
        let total = (batch as u128 * count as u128).max(1);
        let place = |row: usize| (row as u128 * places as u128 / total) as usize;
        Ok((0..count).map(|index| rows(part, (index * batch..(index + 1) * batch).map(place), context)).collect())
    }

    pub fn held_out(&self) -> &[u8] {
        &self.text[self.train_bytes..]
    }

    pub fn train_bytes(&self) -> usize {
        self.train_bytes
    }

    /// Loss of the best model that ignores context, on the held-out text: what a trained model must beat.
    #[allow(clippy::disallowed_methods)] // for people only: the last bits of a logarithm do not matter
    pub fn unigram_entropy_nats(&self) -> f64 {
        let mut counts = [0u64; 256];
        for byte in self.held_out() {
            counts[usize::from(*byte)] += 1;
        }
        let total = self.held_out().len() as f64;
        counts
            .iter()
            .filter(|count| **count > 0)
            .map(|count| *count as f64 / total)
            .map(|share| -share * share.ln())
            .sum()
    }
}

/// The batch of one step (from 1) of a peer's round: rows of consecutive `tokens`, drawn from the round's randomness.
pub fn drawn_batch<T: Copy + Into<u32>>(
    tokens: &[T],
    randomness: Digest,
    peer: PeerId,
    step: u32,
    (batch, context): (usize, usize),
) -> Result<Batch, DataError> {
    let mut hasher = Hasher::new_derive_key(DOMAIN);
    hasher.update(&randomness.0).update(&peer.0).update(&step.to_le_bytes());
    drawn(tokens, &hasher, batch, context)
}

/// Rows of the tokens to train on, at places that the hasher draws.
fn drawn<T: Copy + Into<u32>>(tokens: &[T], hasher: &Hasher, batch: usize, context: usize) -> Result<Batch, DataError> {
    let places = places("training", tokens.len(), batch, context)?;
    let mut stream = hasher.finalize_xof();
    Ok(rows(tokens, (0..batch).map(|_| below(&mut stream, places)), context))
}

/// How many rows of `context + 1` tokens start in `count` of them.
fn places(part: &'static str, count: usize, batch: usize, context: usize) -> Result<usize, DataError> {
    let tokens = batch.saturating_mul(context);
    if tokens == 0 || tokens > BATCH_TOKENS_MAX {
        return Err(DataError::Shape { batch, context });
    }
    let places = count.checked_sub(context).filter(|places| *places > 0);
    places.ok_or(DataError::TooShort { part, tokens: count, row: context + 1 })
}

/// A number below `limit` with no noticeable bias: the high half of a 64 × 64 bit product.
pub(crate) fn below(stream: &mut OutputReader, limit: usize) -> usize {
    let mut word = [0; 8];
    stream.fill(&mut word);
    ((u128::from(u64::from_le_bytes(word)) * limit as u128) >> 64) as usize
}

fn rows<T: Copy + Into<u32>>(part: &[T], starts: impl Iterator<Item = usize>, context: usize) -> Batch {
    let mut batch = Batch { batch: 0, context, inputs: Vec::new(), targets: Vec::new() };
    for start in starts {
        let row = &part[start..=start + context];
        batch.inputs.extend(row[..context].iter().map(|token| (*token).into()));
        batch.targets.extend(row[1..].iter().map(|token| (*token).into()));
        batch.batch += 1;
    }
    batch
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn corpus(bytes: usize, held_out: u64) -> Corpus {
        let text: Vec<u8> =
            (0..bytes).map(|i| if i < bytes - held_out as usize { (i % 199) as u8 } else { 255 }).collect();
        Corpus::new(text.into(), held_out).unwrap()
    }

    #[test]
    fn a_batch_follows_from_randomness_peer_and_step() {
        let corpus = corpus(5000, 1000);
        let batch = |r, p, s| corpus.train_batch(Digest([r; 32]), PeerId([p; 32]), s, 4, 16).unwrap();
        assert_eq!(batch(1, 2, 3), batch(1, 2, 3));
        for other in [batch(9, 2, 3), batch(1, 9, 3), batch(1, 2, 9)] {
            assert_ne!(batch(1, 2, 3), other);
        }
        assert_eq!(batch(1, 2, 3).tokens(), 64);
    }

    #[test]
    fn an_unassigned_batch_is_nobodys_and_follows_from_its_seed_and_number() {
        let corpus = corpus(5000, 1000);
        let batch = |seed: u8, number| corpus.unassigned_batch(Digest([seed; 32]), number, 4, 16).unwrap();
        assert_eq!(batch(1, 2), batch(1, 2));
        assert_ne!(batch(1, 2), batch(1, 3));
        assert_ne!(batch(1, 2), batch(2, 2));
        assert!(batch(1, 2).targets.iter().all(|token| *token != 255));
        let assigned = corpus.train_batch(Digest([1; 32]), PeerId([0; 32]), 2, 4, 16).unwrap();
        assert_ne!(batch(1, 2), assigned);
    }

    #[test]
    fn targets_are_the_inputs_shifted_by_one() {
        let batch = corpus(5000, 10).train_batch(Digest([1; 32]), PeerId([2; 32]), 1, 3, 8).unwrap();
        for (inputs, targets) in batch.inputs.chunks(8).zip(batch.targets.chunks(8)) {
            assert_eq!(inputs[1..], targets[..7]);
        }
    }

    #[test]
    fn held_out_text_is_never_trained_on() {
        let corpus = corpus(300, 100);
        for step in 0..200 {
            let batch = corpus.train_batch(Digest([1; 32]), PeerId([2; 32]), step, 8, 16).unwrap();
            assert!(batch.targets.iter().all(|token| *token != 255));
        }
        for batch in corpus.held_out_batches(2, 16, 3).unwrap() {
            assert!(batch.inputs.iter().all(|token| *token == 255));
        }
    }

    #[test]
    fn the_smallest_text_has_one_row() {
        let corpus = corpus(34, 17);
        assert_eq!(corpus.train_batch(Digest([1; 32]), PeerId([2; 32]), 1, 2, 16).unwrap().inputs[..16].len(), 16);
        assert_eq!(corpus.held_out_batches(1, 16, 5).unwrap().len(), 5);
        let error = corpus.held_out_batches(1, 17, 5).unwrap_err();
        assert_eq!(error, DataError::TooShort { part: "held-out", tokens: 17, row: 18 });
    }

    #[test]
    fn nonsense_shapes_and_sizes_are_refused() {
        let corpus = corpus(500, 100);
        for (batch, context) in [(0, 16), (4, 0), (usize::MAX, 16), (1 << 20, 100), (1, usize::MAX)] {
            assert!(corpus.train_batch(Digest([1; 32]), PeerId([2; 32]), 1, batch, context).is_err());
        }
        assert!(Corpus::new(vec![0; 10].into(), 10).is_err());
        assert!(Corpus::new(vec![].into(), 0).is_err());
        assert!(Corpus::new(vec![0; 10].into(), u64::MAX).is_err());
    }

    #[test]
    fn unigram_entropy_of_a_fair_coin_is_ln_2() {
        let corpus = Corpus::new(b"xxabab".as_slice().into(), 4).unwrap();
        assert!((corpus.unigram_entropy_nats() - core::f64::consts::LN_2).abs() < 1e-12);
    }
}
