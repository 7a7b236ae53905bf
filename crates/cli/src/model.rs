//! A Hugging Face model folder, read and written again with other weights.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use shoal_learn::{Layout, folder};
use shoal_wire::manifest::ModelSpec;

use crate::files;

pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
const MODEL_BYTES_MAX: u64 = 16 << 30;
const COMPANION_BYTES_MAX: u64 = 1 << 28;
const TOKENIZER: &str = "tokenizer.json";
/// Files that a trained model needs as much as the one it was made from.
const COMPANIONS: [&str; 4] = [TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];

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
        let (config, weights) = (dir.join("config.json"), dir.join("model.safetensors"));
        let bytes = files::read(&config, CONFIG_BYTES_MAX)?;
        let spec = folder::parse_config(&bytes).with_context(|| format!("cannot use {}", config.display()))?;
        let config = serde_json::from_slice(&bytes).with_context(|| format!("cannot use {}", config.display()))?;
        let layout = Layout::of(&spec)?;
        let parameters = folder::parse_weights(&files::read(&weights, MODEL_BYTES_MAX)?, &layout)
            .with_context(|| format!("cannot use {}", weights.display()))?;
        Ok(Self { folder: dir.to_owned(), config, spec, layout, parameters })
    }

    pub fn has_tokenizer(&self) -> bool {
        self.folder.join(TOKENIZER).exists()
    }

    /// Writes the model with other parameters; what belongs to it beside them comes along.
    pub fn write(&self, dir: &Path, parameters: &[f32]) -> Result<()> {
        files::write_atomically(&dir.join("model.safetensors"), &folder::weights_bytes(&self.layout, parameters)?)?;
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
