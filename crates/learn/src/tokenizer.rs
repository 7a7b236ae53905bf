//! Text to tokens by a `tokenizer.json`, through Hugging Face's `tokenizers`.

use thiserror::Error;

/// A long text is cut before a line about this long into it, so that one piece at a time is held twice. What a tokenizer
/// would join across that one line's end it does not.
const PIECE_BYTES: usize = 1 << 20;

/// Why a `tokenizer.json` does not turn a text into a model's tokens.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TokenizerError {
    #[error("it is not a tokenizer: {0}")]
    Malformed(String),
    #[error(
        "its token {token:?} has the id {id}, and the model's vocab_size is {vocab}: it belongs to another model, or \
         config.json does"
    )]
    Vocabulary { token: String, id: u32, vocab: u32 },
    #[error("it cannot read the text: {0}")]
    Text(String),
    #[error("it makes the id {id}, and the model's vocab_size is {vocab}")]
    Id { id: u32, vocab: u32 },
}

/// A tokenizer all of whose tokens a model knows.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocab: u32,
}

impl Tokenizer {
    /// From the bytes of a `tokenizer.json`, for a model with `vocab` tokens. It may know fewer: models pad their
    /// vocabularies.
    pub fn parse(bytes: &[u8], vocab: u32) -> Result<Self, TokenizerError> {
        let malformed = |error: tokenizers::Error| TokenizerError::Malformed(error.to_string());
        let mut inner = read(bytes)?;
        // Some say how long an input of their model may be; a text to train on is as long as it is.
        inner.with_truncation(None).map_err(malformed)?;
        inner.with_padding(None);
        // Of the tokens that do not fit, always the same is named.
        let tokens = inner.get_vocab(true).into_iter();
        match tokens.filter(|(_, id)| *id >= vocab).min_by_key(|(_, id)| *id) {
            Some((token, id)) => Err(TokenizerError::Vocabulary { token, id, vocab }),
            None => Ok(Self { inner, vocab }),
        }
    }

    /// The tokens of a text, without those that some models want at its ends: rows begin anywhere.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut tokens = Vec::new();
        for piece in pieces(text, PIECE_BYTES) {
            let encoding = self.inner.encode_fast(piece, false);
            tokens.extend_from_slice(encoding.map_err(|error| TokenizerError::Text(error.to_string()))?.get_ids());
        }
        match tokens.iter().find(|id| **id >= self.vocab) {
            Some(id) => Err(TokenizerError::Id { id: *id, vocab: self.vocab }),
            None => Ok(tokens),
        }
    }
}

/// Reads a `tokenizer.json`. The library panics on some of what is malformed inside a normaliser, and on any JSON that ends
/// within a decoder; text to tokens takes no decoder.
fn read(bytes: &[u8]) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let malformed = |error: serde_json::Error| TokenizerError::Malformed(error.to_string());
    let mut json: serde_json::Value = serde_json::from_slice(bytes).map_err(malformed)?;
    if let Some(fields) = json.as_object_mut() {
        fields.remove("decoder");
    }
    std::panic::catch_unwind(move || serde_json::from_value(json))
        .map_err(|_| TokenizerError::Malformed("a part of it is damaged".to_owned()))?
        .map_err(malformed)
}

/// Cuts a text before lines, into pieces of about `bytes`.
fn pieces(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    core::iter::from_fn(move || {
        let from = rest.len().min(bytes);
        let end = rest.as_bytes()[from..].iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| from + at);
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Words of a few letters and two merges, as byte-level pair encoding has them.
    const BPE: &str = r#"{
        "version": "1.0", "added_tokens": [{"id": 7, "content": "<end>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}],
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}, "padding": null,
        "normalizer": null, "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": true, "use_regex": true},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "Ċ": 2, "ab": 3, "Ġ": 4, "aba": 5, "c": 6}, "merges": ["a b", "ab a"]}
    }"#;

    #[test]
    fn merges_are_applied_and_lengths_meant_for_inference_are_not() {
        let tokenizer = Tokenizer::parse(BPE.as_bytes(), 8).unwrap();
        assert_eq!(tokenizer.encode("abab cab").unwrap(), [3, 3, 4, 6, 3]);
        assert_eq!(tokenizer.encode("aba\nb<end>").unwrap(), [5, 2, 1, 7]);
        assert_eq!(tokenizer.encode("").unwrap(), [0; 0]);
    }

    #[test]
    fn a_tokenizer_that_knows_more_than_the_model_names_the_first_token_too_many() {
        let error = Tokenizer::parse(BPE.as_bytes(), 6).unwrap_err();
        assert_eq!(error, TokenizerError::Vocabulary { token: "c".to_owned(), id: 6, vocab: 6 });
        assert!(Tokenizer::parse(BPE.as_bytes(), 7).is_err(), "special tokens count");
        assert!(Tokenizer::parse(BPE.as_bytes(), 1000).is_ok(), "a padded vocabulary");
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        for bytes in [&b""[..], b"{}", b"[1]", b"\x80\x04pickle", &BPE.as_bytes()[..BPE.len() / 2]] {
            let parsed = Tokenizer::parse(bytes, 8);
            assert!(matches!(parsed, Err(TokenizerError::Malformed(_))), "{:?}: {parsed:?}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_damaged_normaliser_is_refused_and_a_decoder_is_not_read() {
        let bad = BPE
            .replace(r#""normalizer": null"#, r#""normalizer": {"type": "Precompiled", "precompiled_charsmap": "AA"}"#);
        assert!(matches!(Tokenizer::parse(bad.as_bytes(), 8), Err(TokenizerError::Malformed(_))));
        let odd = BPE.replace(r#""decoder": {"type": "ByteLevel""#, r#""decoder": {"type": "Unheard of""#);
        assert!(Tokenizer::parse(odd.as_bytes(), 8).is_ok());
    }

    #[test]
    fn pieces_begin_where_lines_end_and_lose_nothing() {
        let text = "one\ntwo three\n\nfour é";
        for bytes in 1..30 {
            assert_eq!(pieces(text, bytes).collect::<String>(), text);
            assert!(pieces(text, bytes).skip(1).all(|piece| piece.starts_with('\n')));
        }
    }
}
