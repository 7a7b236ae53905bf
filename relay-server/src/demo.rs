//! A first run to look at, made from the bundled stories or from the host's own text.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use shoal_learn::{init, layout::LayoutError, presets::Preset, stories::stories};
use shoal_wire::{
    Digest, Manifest, RunId,
    manifest::{Chunk, Codec, DataSource, DataSpec, Privacy, Tokenizer},
    sign::Domain,
};
use thiserror::Error;

use crate::{
    anchor::Anchors,
    publish::{self, Unfit},
    storage::{Storage, StorageError},
};

const CHUNK_BYTES: usize = 256 * 1024;
/// Every volunteer fetches the whole text.
const TEXT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Rows of the text that must differ, or a model learns it by heart in one round.
const ROWS_MIN: u64 = 32;
const STORIES_SEED: u64 = 2026;
const HELD_OUT_BYTES_MAX: u64 = 32 * 1024;

/// What the host chose for the demo run; `None` leaves the preset's value.
#[derive(Clone, Debug, Default)]
pub struct Demo {
    pub preset: Preset,
    pub name: Option<String>,
    /// A text file; without it, the bundled stories.
    pub data: Option<PathBuf>,
    /// SPDX licence expression of `data`.
    pub licence: Option<String>,
    pub batch: Option<u32>,
    pub context: Option<u32>,
    pub local_steps: Option<u32>,
    pub learning_rate: Option<f32>,
    pub codec: Option<Codec>,
    pub held_out_bytes: Option<u64>,
    pub train_ms_max: Option<u32>,
    pub exchange_ms_max: Option<u32>,
    pub view_ms: Option<u32>,
    pub recovery_ms: Option<u32>,
}

#[derive(Debug, Error)]
pub enum DemoError {
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{} has more than {TEXT_BYTES_MAX} bytes: every volunteer fetches the whole text, so take a part of it", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} is empty: it must hold at least {needed} bytes of plain text (UTF-8)", path.display())]
    Empty { path: PathBuf, needed: u64 },
    #[error("{} has {found} bytes: it must hold at least {needed} bytes of plain text for this context length", path.display())]
    TooSmall { path: PathBuf, found: u64, needed: u64 },
    #[error("{} is not plain text: the byte at {position} {why}; convert it to UTF-8 text first", path.display())]
    NotText { path: PathBuf, position: usize, why: &'static str },
    #[error("no randomness: {0}")]
    Randomness(String),
    #[error(transparent)]
    Model(#[from] LayoutError),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Publishes a demo run unless the relay has a run already.
pub fn ensure(storage: &Storage, anchors: &Anchors, demo: &Demo) -> Result<Option<RunId>, DemoError> {
    if !storage.runs().is_empty() {
        tracing::info!("the data directory has a run already: no demo run is made");
        return Ok(None);
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| DemoError::Randomness(error.to_string()))?;
    let (manifest, blobs) = prepare(anchors, demo, Digest(seed))?;
    for blob in &blobs {
        storage.put_blob(Digest::of(blob), blob)?;
    }
    let (run, _) = storage.publish(&anchors.host().seal(Domain::Manifest, &manifest))?;
    tracing::info!(%run, model = %demo.preset, "made a demo run");
    Ok(Some(run))
}

/// The demo's manifest, and the blobs that it names.
fn prepare(anchors: &Anchors, demo: &Demo, seed: Digest) -> Result<(Manifest, Vec<Vec<u8>>), DemoError> {
    let (mut model, mut recipe, mut timing) = (demo.preset.model(), demo.preset.recipe(), demo.preset.timing());
    replace(&mut recipe.batch, demo.batch);
    replace(&mut recipe.context, demo.context);
    replace(&mut recipe.local_steps, demo.local_steps);
    replace(&mut recipe.inner.lr, demo.learning_rate);
    replace(&mut recipe.outer.codec, demo.codec);
    replace(&mut timing.train_ms_max, demo.train_ms_max);
    replace(&mut timing.exchange_ms_max, demo.exchange_ms_max);
    replace(&mut timing.view_ms, demo.view_ms);
    replace(&mut timing.recovery_ms, demo.recovery_ms);
    model.max_position_embeddings = model.max_position_embeddings.max(recipe.context);

    let row = u64::from(recipe.context) + 1;
    let (mut source, text) = match &demo.data {
        None => bundled(demo.preset),
        Some(path) => own(path, demo.licence.as_deref(), row)?,
    };
    let held_out_bytes =
        demo.held_out_bytes.unwrap_or((text.len() as u64 / 10).clamp(row, HELD_OUT_BYTES_MAX.max(row)));
    let mut blobs: Vec<Vec<u8>> = text.chunks(CHUNK_BYTES).map(<[u8]>::to_vec).collect();
    source.chunks = blobs.iter().map(|blob| Chunk { digest: Digest::of(blob), bytes: blob.len() as u32 }).collect();

    // The seed of the randomness is public from the start; the weights' seed only has to differ from it.
    let parameters = init::genesis(&model, Digest::in_domain("shoal 2026 v1 demo weights", &seed.0))?;
    let genesis: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
    let genesis_digest = Digest::of(&genesis);
    let name = demo.name.clone().unwrap_or_else(|| format!("Demo: {}", source.name));
    let manifest = Manifest {
        version: 1,
        name,
        description: format!("A {} model that learns to write like its text, one byte at a time.", demo.preset),
        host: "the host of this relay".to_owned(),
        model,
        tokenizer: Tokenizer::Bytes,
        genesis: genesis_digest,
        data: DataSpec { sources: vec![source], held_out_bytes },
        recipe,
        timing,
        privacy: Privacy::Public,
        anchors: vec![anchors.identity(genesis_digest, seed).peer()],
        seed,
    };
    blobs.push(genesis);
    let size_of = |digest| Ok::<_, Unfit>(blobs.iter().find(|blob| Digest::of(blob) == digest).map(|b| b.len() as u64));
    publish::check(&manifest, size_of)?;
    Ok((manifest, blobs))
}

fn replace<T: Copy>(value: &mut T, chosen: Option<T>) {
    if let Some(chosen) = chosen {
        *value = chosen;
    }
}

/// The same stories everywhere, more of them for a model that can learn more.
fn bundled(preset: Preset) -> (DataSource, Vec<u8>) {
    let bytes = match preset {
        Preset::Tiny | Preset::Small => 1024 * 1024,
        Preset::Base => 8 * 1024 * 1024,
    };
    let source = DataSource {
        name: "stories".to_owned(),
        licence: "CC0-1.0".to_owned(),
        attribution: "Little stories that Shoal's own generator makes up".to_owned(),
        chunks: Vec::new(),
    };
    (source, stories(STORIES_SEED, bytes).into_bytes())
}

/// Reads and checks the host's own text.
fn own(path: &Path, licence: Option<&str>, row: u64) -> Result<(DataSource, Vec<u8>), DemoError> {
    let failed = |error| DemoError::Read { path: path.to_owned(), error };
    let mut text = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    let path = path.to_owned();
    let (found, needed) = (text.len() as u64, row * ROWS_MIN);
    if found > TEXT_BYTES_MAX {
        return Err(DemoError::TooLarge { path });
    }
    if text.is_empty() {
        return Err(DemoError::Empty { path, needed });
    }
    if let Err(error) = std::str::from_utf8(&text) {
        return Err(DemoError::NotText { path, position: error.valid_up_to(), why: "is not UTF-8" });
    }
    if let Some(position) = text.iter().position(|&byte| byte == 0) {
        return Err(DemoError::NotText { path, position, why: "is zero" });
    }
    if found < needed {
        return Err(DemoError::TooSmall { path, found, needed });
    }
    let name = path.file_name().map_or_else(|| "text".to_owned(), |name| name.to_string_lossy().into_owned());
    let source = DataSource {
        name,
        licence: licence.unwrap_or("LicenseRef-Host").to_owned(),
        attribution: "Chosen by the host".to_owned(),
        chunks: Vec::new(),
    };
    Ok((source, text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::sync::Arc;

    use shoal_store::FileStore;

    use super::*;

    fn storage(dir: &Path) -> Storage {
        Storage::open(Arc::new(FileStore::open(dir).unwrap()), 1 << 30).unwrap()
    }

    fn tiny(data: Option<PathBuf>) -> Demo {
        Demo { preset: Preset::Tiny, data, ..Demo::default() }
    }

    fn refusal(content: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("own.txt");
        std::fs::write(&file, content).unwrap();
        let storage = storage(&dir.path().join("data"));
        let error = ensure(&storage, &Anchors::new([1; 32]), &tiny(Some(file))).expect_err("refused");
        assert!(storage.runs().is_empty());
        error.to_string()
    }

    #[test]
    fn the_demo_is_made_once_and_names_the_resident_as_its_anchor() {
        let dir = tempfile::tempdir().unwrap();
        let anchors = Anchors::new([1; 32]);
        let run = ensure(&storage(dir.path()), &anchors, &tiny(None)).unwrap().expect("made");
        let again = storage(dir.path());
        assert_eq!(ensure(&again, &anchors, &tiny(None)).unwrap(), None);
        let manifest = again.run(run).expect("kept").manifest;
        let anchor = anchors.identity_in(&manifest).expect("named");
        assert_eq!(manifest.anchors, [anchor.peer()]);
        for chunk in manifest.chunks() {
            assert_eq!(again.files().blob_size(chunk.digest).unwrap(), Some(chunk.bytes.into()));
        }
    }

    #[test]
    fn overrides_reach_the_manifest_and_senseless_ones_are_refused() {
        let anchors = Anchors::new([1; 32]);
        let demo = Demo {
            local_steps: Some(3),
            train_ms_max: Some(1234),
            batch: Some(2),
            context: Some(100),
            learning_rate: Some(0.5),
            codec: Some(Codec::Topk),
            held_out_bytes: Some(4096),
            ..tiny(None)
        };
        let (manifest, _) = prepare(&anchors, &demo, Digest([2; 32])).unwrap();
        let recipe = &manifest.recipe;
        assert_eq!((recipe.local_steps, recipe.batch, recipe.context), (3, 2, 100));
        assert_eq!((recipe.inner.lr, recipe.outer.codec), (0.5, Codec::Topk));
        assert_eq!((manifest.timing.train_ms_max, manifest.data.held_out_bytes), (1234, 4096));
        assert!(manifest.model.max_position_embeddings >= 100);
        let senseless = Demo { batch: Some(0), ..tiny(None) };
        let error = prepare(&anchors, &senseless, Digest([2; 32])).expect_err("refused").to_string();
        assert!(error.contains("recipe.batch"), "{error}");
    }

    #[test]
    fn texts_that_cannot_be_trained_on_are_refused_with_what_is_needed() {
        assert!(refusal(b"").contains("is empty"));
        assert!(refusal(b"too short").contains("at least 2080 bytes"), "{}", refusal(b"too short"));
        let mut latin1 = vec![b'a'; 5000];
        latin1[17] = 0xe9;
        assert!(refusal(&latin1).contains("byte at 17 is not UTF-8"), "{}", refusal(&latin1));
        let mut binary = vec![b'a'; 5000];
        binary[3] = 0;
        assert!(refusal(&binary).contains("byte at 3 is zero"), "{}", refusal(&binary));
        let missing = tiny(Some("no-such-file.txt".into()));
        let error = prepare(&Anchors::new([1; 32]), &missing, Digest([2; 32])).expect_err("refused").to_string();
        assert!(error.contains("cannot read no-such-file.txt"), "{error}");
    }

    #[test]
    fn a_short_text_of_the_hosts_own_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("poem.txt");
        std::fs::write(&file, "A rose is a rose. ".repeat(200)).unwrap();
        let (manifest, _) = prepare(&Anchors::new([1; 32]), &tiny(Some(file)), Digest([2; 32])).unwrap();
        let source = &manifest.data.sources[0];
        assert_eq!((source.name.as_str(), source.licence.as_str()), ("poem.txt", "LicenseRef-Host"));
    }
}
