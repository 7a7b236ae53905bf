//! A tokenizer in GGUF's words.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{GgufError, Pairs};

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// What turns text into a model's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GgufTokenizer {
    /// Each byte is a token. Byte 0, which no text has, stands for its begin and its end.
    Bytes,
    /// Nothing: whoever runs the model gives it tokens.
    None,
    /// Byte-level pair encoding, as GPT-2's.
    BytePairs {
        tokens: Vec<String>,
        kinds: Vec<i32>,
        merges: Vec<String>,
        /// The tokens that begin and end a text.
        ends: [u32; 2],
    },
}

impl GgufTokenizer {
    /// From a `tokenizer.json` whose model is byte-level pair encoding with GPT-2's splitting of words; llama.cpp knows
    /// other ways to split by name only, and a wrong one would give other tokens.
    ///
    /// `ends` are the tokens that begin and end a text, where the model's configuration names them; else the first special
    /// token is both, since llama.cpp would take some token of its own choice.
    pub fn parse(bytes: &[u8], vocab: u32, ends: [Option<u32>; 2]) -> Result<Self, GgufError> {
        let json: Value = serde_json::from_slice(bytes).map_err(|error| GgufError::Json(error.to_string()))?;
        let (split, model) = (&json["pre_tokenizer"], &json["model"]);
        let no_normalizer = json["normalizer"].is_null();
        for (field, value, fits, only) in [
            ("model.type", &model["type"], model["type"] == "BPE", "BPE"),
            ("normalizer", &json["normalizer"], no_normalizer, "none"),
            ("pre_tokenizer.type", &split["type"], split["type"] == "ByteLevel", "ByteLevel"),
            ("pre_tokenizer.use_regex", &split["use_regex"], split["use_regex"] != false, "true"),
            ("pre_tokenizer.add_prefix_space", &split["add_prefix_space"], split["add_prefix_space"] != true, "false"),
        ] {
            if !fits {
                let value: String = value.to_string().chars().take(100).collect();
                return Err(GgufError::Tokenizer { field, value, only });
            }
        }
        let mut ids = BTreeMap::new();
        let missing = |field: &str| GgufError::Json(format!("it has no {field}"));
        for (token, id) in model["vocab"].as_object().ok_or_else(|| missing("model.vocab"))? {
            if ids.insert(index(id)?, (token.clone(), NORMAL)).is_some() {
                return Err(GgufError::Json(format!("two tokens of model.vocab have the id {id}")));
            }
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            let token = added["content"].as_str().ok_or_else(|| missing("added_tokens.content"))?.to_owned();
            let kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
            ids.insert(index(&added["id"])?, (token, kind));
        }
        let expected = vocab as usize;
        if let Some((most, _)) = ids.last_key_value()
            && *most >= expected
        {
            return Err(GgufError::Vocabulary { got: most + 1, expected });
        }
        let unused = |id: usize| (format!("[PAD{id}]"), UNUSED);
        let token = |id| ids.get(&id).cloned().unwrap_or_else(|| unused(id));
        let (tokens, kinds) = (0..expected).map(token).unzip();
        let merges = model["merges"].as_array().ok_or_else(|| missing("model.merges"))?;
        let merges = merges.iter().map(merge).collect::<Result<_, _>>()?;
        let special = ids.iter().find(|(_, (_, kind))| *kind == CONTROL).map(|(id, _)| *id as u32);
        let [Some(begin), Some(end)] = ends.map(|end| end.filter(|end| *end < vocab).or(special)) else {
            return Err(missing("special token, and the model names none that begins and ends a text"));
        };
        Ok(Self::BytePairs { tokens, kinds, merges, ends: [begin, end] })
    }

    pub(super) fn describe(&self, pairs: &mut Pairs, vocab: usize) -> Result<(), GgufError> {
        let (tokens, kinds, merges) = match self {
            Self::None => {
                pairs.text("tokenizer.ggml.model", "none");
                return Ok(());
            }
            Self::Bytes => {
                let mut tokens: Vec<String> = (0..=u8::MAX).map(|byte| letter(byte).to_string()).collect();
                let mut kinds = vec![NORMAL; tokens.len()];
                kinds[0] = CONTROL;
                // A run's vocabulary may have room that no byte uses.
                for id in tokens.len()..vocab {
                    tokens.push(format!("[PAD{id}]"));
                    kinds.push(UNUSED);
                }
                pairs.whole("tokenizer.ggml.bos_token_id", 0);
                pairs.whole("tokenizer.ggml.eos_token_id", 0);
                (tokens, kinds, Vec::new())
            }
            Self::BytePairs { tokens, kinds, merges, ends } => {
                pairs.whole("tokenizer.ggml.bos_token_id", ends[0]);
                pairs.whole("tokenizer.ggml.eos_token_id", ends[1]);
                (tokens.clone(), kinds.clone(), merges.clone())
            }
        };
        if tokens.len() != vocab {
            return Err(GgufError::Vocabulary { got: tokens.len(), expected: vocab });
        }
        pairs.text("tokenizer.ggml.model", "gpt2");
        pairs.text("tokenizer.ggml.pre", "gpt-2");
        pairs.texts("tokenizer.ggml.tokens", &tokens);
        pairs.signed("tokenizer.ggml.token_type", &kinds);
        pairs.texts("tokenizer.ggml.merges", &merges);
        pairs.flag("tokenizer.ggml.add_bos_token", false);
        Ok(())
    }
}

fn index(id: &Value) -> Result<usize, GgufError> {
    let malformed = || GgufError::Json(format!("a token's id is {id}"));
    id.as_u64().and_then(|id| u32::try_from(id).ok()).map(|id| id as usize).ok_or_else(malformed)
}

/// Written as one text or as two.
fn merge(merge: &Value) -> Result<String, GgufError> {
    let pair = || Some(format!("{} {}", merge.get(0)?.as_str()?, merge.get(1)?.as_str()?));
    let text = merge.as_str().map(str::to_owned).or_else(pair);
    text.ok_or_else(|| GgufError::Json(format!("a merge is {merge}")))
}

/// The letter that stands for a byte in byte-level vocabularies: itself where it prints, else one from U+0100 on.
fn letter(byte: u8) -> char {
    let prints = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if prints(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !prints(*other)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn letters_of_bytes_are_gpt_2s_and_all_differ() {
        assert_eq!([b' ', b'\n', 0, b'a', 0xAD].map(letter), ['Ġ', 'Ċ', 'Ā', 'a', 'Ń']);
        let all: std::collections::BTreeSet<char> = (0..=255).map(letter).collect();
        assert_eq!(all.len(), 256);
    }

    fn byte_pairs() -> Value {
        json!({
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
            "added_tokens": [{"id": 3, "content": "<end>", "special": true}],
        })
    }

    #[test]
    fn byte_pairs_are_read_with_added_tokens_and_room_at_the_end() {
        let GgufTokenizer::BytePairs { tokens, kinds, merges, ends } =
            GgufTokenizer::parse(byte_pairs().to_string().as_bytes(), 5, [None; 2]).unwrap()
        else {
            panic!("no byte pairs")
        };
        assert_eq!(tokens, ["a", "b", "ab", "<end>", "[PAD4]"]);
        assert_eq!(kinds, [NORMAL, NORMAL, NORMAL, CONTROL, UNUSED]);
        assert_eq!((merges, ends), (vec!["a b".to_owned()], [3, 3]));
        let named = GgufTokenizer::parse(byte_pairs().to_string().as_bytes(), 5, [Some(1), Some(2)]).unwrap();
        assert!(matches!(named, GgufTokenizer::BytePairs { ends: [1, 2], .. }));
    }

    #[test]
    fn a_tokenizer_that_llama_cpp_would_read_otherwise_or_that_does_not_fit_is_refused() {
        let error = GgufTokenizer::parse(byte_pairs().to_string().as_bytes(), 3, [None; 2]).unwrap_err();
        assert_eq!(error, GgufError::Vocabulary { got: 4, expected: 3 });
        for (pointer, value, field) in [
            ("/model/type", json!("Unigram"), "model.type"),
            ("/pre_tokenizer/type", json!("Sequence"), "pre_tokenizer.type"),
            ("/pre_tokenizer/use_regex", json!(false), "pre_tokenizer.use_regex"),
            ("/model/vocab/a", json!("zero"), "id"),
            ("/model/merges/0", json!(3), "merge"),
            ("/model/merges", json!(null), "model.merges"),
            ("/model/vocab", json!([]), "model.vocab"),
            ("/model/vocab/b", json!(0), "two tokens"),
            ("/added_tokens/0/content", json!(null), "added_tokens.content"),
            ("/added_tokens/0/special", json!(false), "special token"),
        ] {
            let mut json = byte_pairs();
            *json.pointer_mut(pointer).unwrap() = value;
            let message = GgufTokenizer::parse(json.to_string().as_bytes(), 5, [None; 2]).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
    }
}
