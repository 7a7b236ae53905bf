//! A first run to look at, made from the bundled stories or from the host's own text.

mod text;

use std::{collections::BTreeMap, io, path::PathBuf};

use shoal_learn::{init, layout::LayoutError, presets::Preset};
use shoal_wire::{
    Digest, Manifest, RunId,
    manifest::{Charter, Chunk, Codec, CreditRule, DataSpec, Privacy, Tokenizer},
    sign::Domain,
};
use thiserror::Error;

use self::text::TEXT_BYTES_MAX;
use crate::{
    anchor::Anchors,
    publish::{self, Unfit},
    storage::{Run, Storage, StorageError},
};

const CHUNK_BYTES: usize = 256 * 1024;
const HELD_OUT_BYTES_MAX: u64 = 32 * 1024;

/// What the host chose for the demo run; `None` leaves the preset's value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demo {
    pub preset: Option<Preset>,
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

/// The run that the host asked for: one that is there already and was made from the same choices and the same text,
/// else a new one. A host that chose nothing is content with any run.
pub fn ensure(storage: &Storage, anchors: &Anchors, demo: &Demo) -> Result<RunId, DemoError> {
    // First, so that a text that cannot be used is refused whatever the data directory holds.
    let plan = Plan::of(demo)?;
    let runs = storage.runs();
    let host = anchors.host().peer();
    let made_before = |run: &Run| run.envelope.from == host && plan.made(&run.manifest, demo);
    if let Some((run, _)) = runs.iter().find(|(_, run)| made_before(run)) {
        tracing::info!(%run, "the demo run is there already");
        return Ok(*run);
    }
    if let Some((run, _)) = runs.first()
        && *demo == Demo::default()
    {
        tracing::info!(%run, "the data directory has a run already: no demo run is made");
        return Ok(*run);
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| DemoError::Randomness(error.to_string()))?;
    let (manifest, blobs) = plan.finish(anchors, Digest(seed))?;
    for blob in &blobs {
        storage.put_blob(Digest::of(blob), blob)?;
    }
    let (run, _) = storage.publish(&anchors.host().seal(Domain::Manifest, &manifest))?;
    tracing::info!(%run, name = manifest.name, "made a demo run");
    Ok(run)
}

/// All of a demo run that follows from the host's choices: everything but its seed, its first model and its anchor.
struct Plan {
    /// With nothing in the place of these three.
    manifest: Manifest,
    chunks: Vec<Vec<u8>>,
}

impl Plan {
    fn of(demo: &Demo) -> Result<Self, DemoError> {
        let preset = demo.preset.unwrap_or_default();
        let (mut model, mut recipe, mut timing) = (preset.model(), preset.recipe(), preset.timing());
        replace(&mut recipe.batch, demo.batch);
        replace(&mut recipe.context, demo.context);
        replace(&mut recipe.local_steps, demo.local_steps);
        recipe.inner = recipe.inner.with_lr(demo.learning_rate.unwrap_or(recipe.inner.lr()));
        replace(&mut recipe.outer.codec, demo.codec);
        replace(&mut timing.train_ms_max, demo.train_ms_max);
        replace(&mut timing.exchange_ms_max, demo.exchange_ms_max);
        replace(&mut timing.view_ms, demo.view_ms);
        replace(&mut timing.recovery_ms, demo.recovery_ms);
        model.max_position_embeddings = model.max_position_embeddings.max(recipe.context);

        let row = u64::from(recipe.context) + 1;
        let (mut source, text) = match &demo.data {
            None => text::bundled(preset),
            Some(path) => text::own(path, demo.licence.as_deref(), row)?,
        };
        let held_out_bytes =
            demo.held_out_bytes.unwrap_or((text.len() as u64 / 10).clamp(row, HELD_OUT_BYTES_MAX.max(row)));
        let chunks: Vec<Vec<u8>> = text.chunks(CHUNK_BYTES).map(<[u8]>::to_vec).collect();
        source.chunks =
            chunks.iter().map(|chunk| Chunk { digest: Digest::of(chunk), bytes: chunk.len() as u32 }).collect();
        let manifest = Manifest {
            version: shoal_wire::manifest::VERSION,
            name: demo.name.clone().unwrap_or_else(|| format!("Demo: {}", source.name)),
            description: format!("A {preset} model that learns to write like its text, one byte at a time."),
            host: "the host of this relay".to_owned(),
            model,
            tokenizer: Tokenizer::Bytes,
            genesis: Digest([0; 32]),
            data: DataSpec { sources: vec![source], held_out_bytes },
            recipe,
            timing,
            privacy: Privacy::Public,
            credit: CreditRule::default(),
            charter: Charter::default(),
            anchors: Vec::new(),
            seed: Digest([0; 32]),
        };
        Ok(Self { manifest, chunks })
    }

    /// Whether this plan became that run. A text is known by its content, so that a renamed file is the same text.
    fn made(&self, manifest: &Manifest, demo: &Demo) -> bool {
        let mut like = manifest.clone();
        (like.genesis, like.seed) = (self.manifest.genesis, self.manifest.seed);
        like.anchors.clone_from(&self.manifest.anchors);
        for (source, own) in like.data.sources.iter_mut().zip(&self.manifest.data.sources) {
            source.name.clone_from(&own.name);
        }
        if demo.name.is_none() {
            like.name.clone_from(&self.manifest.name);
        }
        like == self.manifest
    }

    /// The manifest, and the blobs that it names.
    fn finish(self, anchors: &Anchors, seed: Digest) -> Result<(Manifest, Vec<Vec<u8>>), DemoError> {
        let Self { mut manifest, chunks: mut blobs } = self;
        // The seed of the randomness is public from the start; the weights' seed only has to differ from it.
        let parameters = init::genesis(&manifest.model, Digest::in_domain("shoal 2026 v1 demo weights", &seed.0))?;
        let genesis: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
        manifest.genesis = Digest::of(&genesis);
        manifest.seed = seed;
        manifest.anchors = vec![anchors.identity(manifest.genesis, seed).peer()];
        blobs.push(genesis);
        let sizes: BTreeMap<Digest, u64> = blobs.iter().map(|blob| (Digest::of(blob), blob.len() as u64)).collect();
        publish::check(&manifest, |digest| Ok::<_, Unfit>(sizes.get(&digest).copied()))?;
        Ok((manifest, blobs))
    }
}

fn replace<T: Copy>(value: &mut T, chosen: Option<T>) {
    if let Some(chosen) = chosen {
        *value = chosen;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{path::Path, sync::Arc};

    use shoal_store::FileStore;

    use super::*;

    fn storage(dir: &Path) -> Storage {
        Storage::open(Arc::new(FileStore::open(dir).unwrap()), 1 << 30).unwrap()
    }

    fn tiny(data: Option<PathBuf>) -> Demo {
        Demo { preset: Some(Preset::Tiny), data, ..Demo::default() }
    }

    fn prepare(demo: &Demo) -> Result<(Manifest, Vec<Vec<u8>>), DemoError> {
        Plan::of(demo)?.finish(&Anchors::new([1; 32]), Digest([2; 32]))
    }

    fn refusal(content: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("own.txt");
        std::fs::write(&file, content).unwrap();
        let (storage, anchors) = (storage(&dir.path().join("data")), Anchors::new([1; 32]));
        let refused = || ensure(&storage, &anchors, &tiny(Some(file.clone()))).expect_err("refused").to_string();
        let error = refused();
        assert!(storage.runs().is_empty());
        ensure(&storage, &anchors, &tiny(None)).expect("made");
        assert_eq!(refused(), error, "the same when there is a run already");
        error
    }

    #[test]
    fn the_demo_is_made_once_and_names_the_resident_as_its_anchor() {
        let dir = tempfile::tempdir().unwrap();
        let anchors = Anchors::new([1; 32]);
        let run = ensure(&storage(dir.path()), &anchors, &tiny(None)).unwrap();
        let again = storage(dir.path());
        assert_eq!(ensure(&again, &anchors, &tiny(None)).unwrap(), run);
        assert_eq!(again.runs().len(), 1);
        let manifest = again.run(run).expect("kept").manifest;
        let anchor = anchors.identity_in(&manifest).expect("named");
        assert_eq!(manifest.anchors, [anchor.peer()]);
        for chunk in manifest.chunks() {
            assert_eq!(again.files().blob_size(chunk.digest).unwrap(), Some(chunk.bytes.into()));
        }
    }

    #[test]
    fn a_text_of_the_hosts_own_gets_its_own_run_beside_those_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, anchors) = (storage(&dir.path().join("data")), Anchors::new([1; 32]));
        let file = dir.path().join("book.txt");
        std::fs::write(&file, "It was the best of times. ".repeat(200)).unwrap();
        let chosen = |demo: &Demo| ensure(&storage, &anchors, demo).unwrap();

        let stories = chosen(&tiny(None));
        let book = chosen(&tiny(Some(file.clone())));
        assert_ne!(book, stories);
        assert_eq!(storage.run(book).expect("kept").manifest.data.sources[0].name, "book.txt");
        assert_eq!(chosen(&tiny(Some(file.clone()))), book, "the same choices find the same run");
        assert_eq!(chosen(&tiny(None)), stories, "and the old one stays");

        let renamed = dir.path().join("tale.txt");
        std::fs::rename(&file, &renamed).unwrap();
        assert_eq!(chosen(&tiny(Some(renamed.clone()))), book, "the text is the same under another name");
        std::fs::write(&renamed, "It was the worst of times. ".repeat(200)).unwrap();
        assert_ne!(chosen(&tiny(Some(renamed))), book, "another text is not");
        assert_eq!(storage.runs().len(), 3);
    }

    #[test]
    fn another_model_or_recipe_is_another_run_and_no_choice_takes_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, anchors) = (storage(dir.path()), Anchors::new([1; 32]));
        let chosen = |demo: &Demo| ensure(&storage, &anchors, demo).unwrap();
        let faster = Demo { learning_rate: Some(0.5), ..tiny(None) };
        let first = chosen(&faster);
        assert_eq!(chosen(&Demo::default()), first, "a host that chose nothing takes what is there");
        assert_ne!(chosen(&tiny(None)), first);
        let small = chosen(&Demo { preset: Some(Preset::Small), ..Demo::default() });
        assert_eq!(chosen(&Demo::default()), small, "small is what is made without a choice");
        assert_eq!((chosen(&faster), storage.runs().len()), (first, 3));
    }

    #[test]
    fn overrides_reach_the_manifest_and_senseless_ones_are_refused() {
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
        let (manifest, _) = prepare(&demo).unwrap();
        let recipe = &manifest.recipe;
        assert_eq!((recipe.local_steps, recipe.batch, recipe.context), (3, 2, 100));
        assert_eq!((recipe.inner.lr(), recipe.outer.codec), (0.5, Codec::Topk));
        assert_eq!((manifest.timing.train_ms_max, manifest.data.held_out_bytes), (1234, 4096));
        assert!(manifest.model.max_position_embeddings >= 100);
        let senseless = Demo { batch: Some(0), ..tiny(None) };
        let error = prepare(&senseless).expect_err("refused").to_string();
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
        let error = prepare(&missing).expect_err("refused").to_string();
        assert!(error.contains("cannot read no-such-file.txt"), "{error}");
    }

    #[test]
    fn a_short_text_of_the_hosts_own_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("poem.txt");
        std::fs::write(&file, "A rose is a rose. ".repeat(200)).unwrap();
        let (manifest, _) = prepare(&tiny(Some(file))).unwrap();
        let source = &manifest.data.sources[0];
        assert_eq!((source.name.as_str(), source.licence.as_str()), ("poem.txt", "LicenseRef-Host"));
    }
}
