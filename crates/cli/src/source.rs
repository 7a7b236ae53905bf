//! Where `shoal train` takes its batches from: a prepared file, or places of a text drawn from a seed.

use anyhow::{Context, Result, ensure};
use shoal_learn::data::{Corpus, drawn_batch};
use shoal_learn::tokenizer::Tokenizer;
use shoal_learn::{Batch, folder};
use shoal_wire::{Digest, PeerId};

const DOMAIN: &str = "shoal 2026 v1 train alone";

pub enum Source {
    Prepared { tokens: Vec<u32>, batches: usize, batch: usize, context: usize },
    Text { corpus: Corpus, batch: usize, context: usize, seed: Digest },
    Tokens { tokens: Vec<u32>, batch: usize, context: usize, seed: Digest },
}

impl Source {
    /// Prepared batches, repeated.
    pub fn prepared(file: &[u8], vocab: u32) -> Result<Self> {
        let (tokens, [batches, batch, row]) = folder::parse_batches(file, vocab)?;
        Ok(Self::Prepared { tokens, batches, batch, context: row - 1 })
    }

    /// A text whose bytes are the tokens of a model that knows 256.
    pub fn text(text: Vec<u8>, batch: usize, context: usize, seed: u64) -> Result<Self> {
        utf8(&text)?;
        ensure!(text.len() > context, "it has {} bytes; a sequence of {context} needs more", text.len());
        let seed = Digest::in_domain(DOMAIN, &seed.to_le_bytes());
        Ok(Self::Text { corpus: Corpus::new(text.into(), 0)?, batch, context, seed })
    }

    /// A text as a model's own tokenizer reads it.
    pub fn tokens(text: &[u8], tokenizer: &Tokenizer, batch: usize, context: usize, seed: u64) -> Result<Self> {
        let tokens = tokenizer.encode(utf8(text)?)?;
        ensure!(tokens.len() > context, "it has {} tokens; a sequence of {context} needs more", tokens.len());
        Ok(Self::Tokens { tokens, batch, context, seed: Digest::in_domain(DOMAIN, &seed.to_le_bytes()) })
    }

    /// Sequences in a batch and tokens in a sequence.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Prepared { batch, context, .. }
            | Self::Text { batch, context, .. }
            | Self::Tokens { batch, context, .. } => (*batch, *context),
        }
    }

    /// The batch of a step, counted from 0.
    pub fn batch(&self, step: u32) -> Result<Batch> {
        let (batch, context) = self.shape();
        match self {
            Self::Prepared { tokens, batches, .. } => {
                let size = batch * (context + 1);
                let rows = &tokens[step as usize % batches * size..][..size];
                Batch::from_rows(rows, batch, context).context("a batch is empty")
            }
            // As in a run, by a peer that is alone.
            Self::Text { corpus, seed, .. } => {
                Ok(corpus.train_batch(*seed, PeerId([0; 32]), step + 1, batch, context)?)
            }
            Self::Tokens { tokens, seed, .. } => {
                Ok(drawn_batch(tokens, *seed, PeerId([0; 32]), step + 1, (batch, context))?)
            }
        }
    }
}

fn utf8(text: &[u8]) -> Result<&str> {
    ensure!(!text.is_empty(), "it is empty");
    let text = std::str::from_utf8(text).ok().filter(|text| !text.contains('\0'));
    text.context("it is not UTF-8 text")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_text_gives_the_same_batches_for_the_same_seed_only() {
        let text: Vec<u8> = (0..2000).map(|i| b'a' + (i * i % 23) as u8).collect();
        let source = |seed| Source::text(text.clone(), 4, 16, seed).unwrap();
        assert_eq!(source(1).batch(5).unwrap(), source(1).batch(5).unwrap());
        assert_ne!(source(1).batch(5).unwrap(), source(2).batch(5).unwrap());
        assert_ne!(source(1).batch(5).unwrap(), source(1).batch(6).unwrap());
    }

    #[test]
    fn drawn_places_reach_both_ends_of_a_short_text() {
        let source = Source::text(b"abcde".to_vec(), 64, 3, 0).unwrap();
        let batch = source.batch(0).unwrap();
        let starts: std::collections::BTreeSet<u32> = batch.inputs.chunks(3).map(|row| row[0]).collect();
        assert_eq!(starts.into_iter().collect::<Vec<_>>(), [97, 98]);
    }

    #[test]
    fn a_text_that_cannot_be_trained_on_says_why() {
        for (text, word) in [(&b""[..], "empty"), (b"a\0b", "UTF-8"), (b"\xff\xfe", "UTF-8"), (b"abc", "3 bytes")] {
            assert!(Source::text(text.to_vec(), 1, 3, 0).err().unwrap().to_string().contains(word));
        }
    }
}
