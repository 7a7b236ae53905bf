//! A Hugging Face model folder, read and written again with other weights.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use shoal_learn::Layout;
use shoal_learn::folder::{self, Files, INDEX, SHARD_BYTES_MAX, Shards, WEIGHTS};
use shoal_learn::gguf::{GgufTokenizer, GgufType, gguf_bytes};
use shoal_learn::tokenizer::Tokenizer;
use shoal_wire::manifest::ModelSpec;

use crate::files;

pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
const COMPANION_BYTES_MAX: u64 = 1 << 28;
/// The vocabulary of a model whose tokens are bytes.
const BYTES: u32 = 256;
const TOKENIZER: &str = "tokenizer.json";
/// Files that a trained model needs as much as the one it was made from.
const COMPANIONS: [&str; 4] = [TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];

/// A folder on disk.
struct Dir<'a>(&'a Path);

impl Files for Dir<'_> {
    type Error = anyhow::Error;

    fn read(&mut self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        if self.holds(name) { files::read(&self.0.join(name), bytes_max).map(Some) } else { Ok(None) }
    }

    fn holds(&mut self, name: &str) -> bool {
        self.0.join(name).exists()
    }
}

/// Writes weights into a folder, in one file or in several with an index, and takes away what would be read in their
/// place.
pub fn write_weights(dir: &Path, layout: &Layout, parameters: &[f32]) -> Result<()> {
    let shards = Shards::new(layout, parameters, SHARD_BYTES_MAX)?;
    let index = shards.index()?;
    // Files of an older model under a valid index would pass for the new one's, should this end halfway.
    if index.is_some() {
        remove(&dir.join(INDEX))?;
    }
    for file in shards.files() {
        let (name, bytes) = file?;
        files::write_atomically(&dir.join(name), &bytes)?;
    }
    let stale = match index {
        Some(index) => {
            files::write_atomically(&dir.join(INDEX), &index)?;
            WEIGHTS
        }
        None => INDEX,
    };
    remove(&dir.join(stale))
}

fn remove(stale: &Path) -> Result<()> {
    if stale.exists() {
        fs::remove_file(stale).with_context(|| format!("cannot remove the older {}", stale.display()))?;
    }
    Ok(())
}

/// How matrices lie in a GGUF file.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Gguf {
    F16,
    F32,
}

impl Gguf {
    /// Writes `model.gguf` into a folder.
    pub fn write(
        self,
        dir: &Path,
        name: &str,
        spec: &ModelSpec,
        flat: &[f32],
        tokenizer: &GgufTokenizer,
    ) -> Result<()> {
        let kind = match self {
            Self::F16 => GgufType::F16,
            Self::F32 => GgufType::F32,
        };
        let bytes = gguf_bytes(name, spec, flat, tokenizer, kind).context("cannot write the model as GGUF")?;
        files::write_atomically(&dir.join("model.gguf"), &bytes)
    }
}

pub struct Model {
    folder: PathBuf,
    /// `config.json` as it was read, with fields that Shoal knows nothing of.
    config: Map<String, Value>,
    pub spec: ModelSpec,
    pub layout: Layout,
    pub parameters: Vec<f32>,
}

impl Model {
    pub fn read(dir: &Path) -> Result<Self> {
        let config = dir.join("config.json");
        let bytes = files::read(&config, CONFIG_BYTES_MAX)?;
        let spec = folder::parse_config(&bytes).with_context(|| format!("cannot use {}", config.display()))?;
        let config = serde_json::from_slice(&bytes).with_context(|| format!("cannot use {}", config.display()))?;
        let layout = Layout::of(&spec)?;
        let parameters = folder::load_weights(&layout, &mut Dir(dir))
            .with_context(|| format!("cannot read the model in {}", dir.display()))?;
        Ok(Self { folder: dir.to_owned(), config, spec, layout, parameters })
    }

    /// Whether its tokens are bytes; if not, why.
    pub fn reads_bytes(&self) -> Result<(), String> {
        let vocab = self.spec.vocab_size;
        if self.folder.join(TOKENIZER).exists() {
            Err("this model has a tokenizer.json".to_owned())
        } else if vocab != BYTES {
            Err(format!("this model has a vocabulary of {vocab}"))
        } else {
            Ok(())
        }
    }

    /// The folder's `tokenizer.json`; none where tokens are bytes.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let path = self.folder.join(TOKENIZER);
        if !path.exists() {
            return Ok(None);
        }
        let tokenizer = Tokenizer::parse(&files::read(&path, COMPANION_BYTES_MAX)?, self.spec.vocab_size);
        tokenizer.map(Some).with_context(|| format!("cannot use {}", path.display()))
    }

    /// The folder's tokenizer as GGUF says it; an error where GGUF cannot.
    pub fn gguf_tokenizer(&self) -> Result<GgufTokenizer> {
        let path = self.folder.join(TOKENIZER);
        if path.exists() {
            // Some name a list, or nothing: then the tokenizer's own special token serves.
            let id = |field| self.config.get(field).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
            let ends = [id("bos_token_id"), id("eos_token_id")];
            GgufTokenizer::parse(&files::read(&path, COMPANION_BYTES_MAX)?, self.spec.vocab_size, ends)
                .with_context(|| format!("cannot use {}", path.display()))
        } else if self.spec.vocab_size == BYTES {
            Ok(GgufTokenizer::Bytes)
        } else {
            Ok(GgufTokenizer::None)
        }
    }

    /// Writes `model.gguf` with other parameters and the folder's tokenizer.
    pub fn write_gguf(&self, dir: &Path, parameters: &[f32], kind: Gguf) -> Result<()> {
        let tokenizer = self.gguf_tokenizer()?;
        let name = fs::canonicalize(&self.folder)?;
        let name = name.file_name().unwrap_or_default().to_string_lossy();
        kind.write(dir, &name, &self.spec, parameters, &tokenizer)
    }

    /// Writes the model with other parameters; what belongs to it beside them comes along.
    pub fn write(&self, dir: &Path, parameters: &[f32]) -> Result<()> {
        write_weights(dir, &self.layout, parameters)?;
        files::write_atomically(&dir.join("config.json"), &self.config_json()?)?;
        if fs::canonicalize(dir)? == fs::canonicalize(&self.folder)? {
            return Ok(());
        }
        for name in COMPANIONS {
            let from = self.folder.join(name);
            if from.exists() {
                files::write_atomically(&dir.join(name), &files::read(&from, COMPANION_BYTES_MAX)?)?;
            }
        }
        Ok(())
    }

    /// The folder's own `config.json` with what Shoal computes with on top.
    fn config_json(&self) -> Result<Vec<u8>> {
        let computed: Map<String, Value> = serde_json::from_slice(&folder::config_json(&self.spec)?)?;
        let mut config = self.config.clone();
        for (key, value) in computed {
            // Which tokens are special is for the tokenizer to say.
            if !key.ends_with("_token_id") || !config.contains_key(&key) {
                config.insert(key, value);
            }
        }
        // An older name of `dtype`, which must not contradict it.
        if let Some(dtype) = config.get_mut("torch_dtype") {
            *dtype = "float32".into();
        }
        let mut text = serde_json::to_vec_pretty(&config)?;
        text.push(b'\n');
        Ok(text)
    }
}
