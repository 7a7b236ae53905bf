#![allow(clippy::unwrap_used)]
use super::*;
use crate::presets::Preset;

#[derive(Default)]
struct Memory {
    files: BTreeMap<String, Vec<u8>>,
    read: Vec<String>,
}

impl Files for Memory {
    type Error = FileError;

    fn read(&mut self, name: &str, _: u64) -> Result<Option<Vec<u8>>, FileError> {
        self.read.push(name.to_owned());
        Ok(self.files.get(name).cloned())
    }

    fn holds(&mut self, name: &str) -> bool {
        self.files.contains_key(name)
    }
}

fn layout() -> Layout {
    Layout::of(&Preset::Tiny.model()).unwrap()
}

fn sharded(layout: &Layout, flat: &[f32], bytes_max: u64) -> Memory {
    let shards = Shards::new(layout, flat, bytes_max).unwrap();
    let mut files: BTreeMap<String, Vec<u8>> = shards.files().collect::<Result<_, _>>().unwrap();
    files.extend(shards.index().unwrap().map(|index| (INDEX.to_owned(), index)));
    Memory { files, read: Vec::new() }
}

fn values(layout: &Layout) -> Vec<f32> {
    (0..layout.len()).map(|i| i as f32).collect()
}

/// The index with one file name in the place of another.
fn renamed(memory: &mut Memory, name: &str) {
    let index = String::from_utf8(memory.files[INDEX].clone()).unwrap();
    let first = "model-00001-of-00005.safetensors";
    assert!(index.contains(first), "{index}");
    let quoted = serde_json::to_string(name).unwrap();
    memory.files.insert(INDEX.to_owned(), index.replace(&format!("\"{first}\""), &quoted).into_bytes());
}

#[test]
fn weights_in_one_file_or_in_many_read_back_and_each_file_is_read_once() {
    let layout = layout();
    let flat = values(&layout);
    for (bytes_max, count) in [(u64::MAX, 1), (40_000, 5), (0, layout.tensors.len())] {
        let mut memory = sharded(&layout, &flat, bytes_max);
        assert_eq!(memory.files.len(), if count == 1 { 1 } else { count + 1 });
        assert_eq!(load_weights(&layout, &mut memory).unwrap(), flat);
        let reads = memory.read.iter().filter(|name| name.starts_with("model-")).count();
        assert_eq!(reads, if count == 1 { 0 } else { count });
    }
}

#[test]
fn an_index_reads_no_file_outside_the_folder() {
    let layout = layout();
    for name in [
        "../model.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "C:model.safetensors",
        ".safetensors",
        ".hidden.safetensors",
        "model.bin",
        "model\0.safetensors",
        "",
    ] {
        let mut memory = sharded(&layout, &values(&layout), 40_000);
        renamed(&mut memory, name);
        let error = load_weights(&layout, &mut memory).unwrap_err();
        assert_eq!(error, FolderError::FileName(name.to_owned()).of(INDEX));
        assert!(memory.read.iter().all(|read| read == WEIGHTS || read == INDEX), "{:?}", memory.read);
    }
}

#[test]
fn what_is_wrong_with_a_shard_names_the_shard() {
    let layout = layout();
    let mut memory = sharded(&layout, &values(&layout), 40_000);
    let second = "model-00002-of-00005.safetensors";
    let whole = memory.files[second].clone();
    memory.files.insert(second.to_owned(), whole[..whole.len() - 1].to_vec());
    let error = load_weights(&layout, &mut memory).unwrap_err();
    assert_eq!(error.file, second);
    memory.files.remove(second);
    assert_eq!(load_weights(&layout, &mut memory).unwrap_err(), FolderError::Absent.of(second));
    // A tensor that the index puts into the wrong file.
    let mut memory = sharded(&layout, &values(&layout), 40_000);
    renamed(&mut memory, second);
    let error = load_weights(&layout, &mut memory).unwrap_err();
    assert!(error.file == second && matches!(error.error, FolderError::NoTensor(_)), "{error}");
}

#[test]
fn an_index_that_misses_a_tensor_or_is_no_index_is_refused() {
    let layout = layout();
    for (text, expected) in [
        (r#"{"weight_map": {}}"#, "weight_map has no tensor"),
        (r#"{"metadata": {}}"#, "weight_map"),
        (r#"{"weight_map": {"lm_head.weight": 3}}"#, "invalid type"),
        ("[", "EOF"),
    ] {
        let mut memory = Memory { files: [(INDEX.to_owned(), text.as_bytes().to_vec())].into(), read: Vec::new() };
        let message = load_weights(&layout, &mut memory).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(INDEX), "{message}");
    }
}

#[test]
fn pickles_are_never_read_and_a_folder_without_weights_says_so() {
    let layout = layout();
    let mut memory = Memory::default();
    assert_eq!(load_weights(&layout, &mut memory).unwrap_err(), FolderError::NoWeights.of(WEIGHTS));
    memory.files.insert("pytorch_model.bin".to_owned(), vec![0x80, 2]);
    let error = load_weights(&layout, &mut memory).unwrap_err();
    assert_eq!(error, FolderError::Pickle.of("pytorch_model.bin"));
    assert!(error.to_string().contains("save_pretrained"));
    assert!(!memory.read.iter().any(|name| name.contains("pytorch")));
}
