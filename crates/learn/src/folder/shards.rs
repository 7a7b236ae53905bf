//! Weights in one file or in several with an index, as `save_pretrained` writes them.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde_json::json;

use super::weights::{check_length, read_tensors, tensors_bytes};
use super::{FileError, FolderError};
use crate::{Layout, TensorInfo};

pub const WEIGHTS: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";
/// A larger model is written in several files, so that no file takes much memory to write or to read.
pub const SHARD_BYTES_MAX: u64 = 512 << 20;
/// One file: twice what the largest model has in f32, for tensors that are not read.
const FILE_BYTES_MAX: u64 = 2 << 30;
const INDEX_BYTES_MAX: u64 = 16 << 20;
const FILES_MAX: usize = 1024;
const FILE_NAME_BYTES_MAX: usize = 200;
/// Names under which weights are pickled.
const PICKLES: [&str; 3] = ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"];

/// A folder that somebody else reads.
pub trait Files {
    type Error: From<FileError>;

    /// A file's bytes, or `None` when there is none of that name. A larger one than `bytes_max` is an error.
    fn read(&mut self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, Self::Error>;

    fn holds(&mut self, name: &str) -> bool;
}

#[derive(Deserialize)]
struct Index {
    /// Files by tensor.
    weight_map: BTreeMap<String, String>,
}

/// Reads a folder's weights in layout order: `model.safetensors`, or else the files that its index names, one after
/// the other, so that memory holds the result and one file.
pub fn load_weights<F: Files>(layout: &Layout, files: &mut F) -> Result<Vec<f32>, F::Error> {
    let mut flat = Vec::new();
    if let Some(bytes) = files.read(WEIGHTS, FILE_BYTES_MAX)? {
        read_tensors(&bytes, layout, layout.tensors.iter(), &mut flat).map_err(|error| error.of(WEIGHTS))?;
        return Ok(flat);
    }
    let Some(index) = files.read(INDEX, INDEX_BYTES_MAX)? else {
        return Err(match PICKLES.into_iter().find(|name| files.holds(name)) {
            Some(pickle) => FolderError::Pickle.of(pickle),
            None => FolderError::NoWeights.of(WEIGHTS),
        }
        .into());
    };
    for (name, tensors) in by_file(&index, layout).map_err(|error| error.of(INDEX))? {
        let bytes = files.read(&name, FILE_BYTES_MAX)?.ok_or_else(|| FolderError::Absent.of(&name))?;
        read_tensors(&bytes, layout, tensors.into_iter(), &mut flat).map_err(|error| error.of(&name))?;
    }
    Ok(flat)
}

/// Which tensors to read from which file: each of the layout's exactly once.
fn by_file<'a>(index: &[u8], layout: &'a Layout) -> Result<BTreeMap<String, Vec<&'a TensorInfo>>, FolderError> {
    let Index { weight_map } = serde_json::from_slice(index)?;
    let mut files: BTreeMap<String, Vec<&TensorInfo>> = BTreeMap::new();
    for tensor in &layout.tensors {
        let file = weight_map.get(&tensor.name).ok_or_else(|| FolderError::NotMapped(tensor.name.clone()))?;
        if !is_plain(file) {
            return Err(FolderError::FileName(file.chars().take(FILE_NAME_BYTES_MAX).collect()));
        }
        files.entry(file.clone()).or_default().push(tensor);
    }
    match files.len() {
        files if files > FILES_MAX => Err(FolderError::Files { files, limit: FILES_MAX }),
        _ => Ok(files),
    }
}

/// Whether a name can only be that of a file in the folder itself, on every system.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let stem = name.strip_suffix(".safetensors").unwrap_or_default();
    !stem.is_empty() && name.len() <= FILE_NAME_BYTES_MAX && !name.starts_with('.') && name.bytes().all(plain)
}

/// Weights as files to write.
pub struct Shards<'a> {
    layout: &'a Layout,
    flat: &'a [f32],
    /// Tensors of each file, by their place in the layout.
    files: Vec<Range<usize>>,
}

impl<'a> Shards<'a> {
    /// Puts weights in layout order into files of at most `bytes_max` bytes of values; a larger tensor has its own.
    pub fn new(layout: &'a Layout, flat: &'a [f32], bytes_max: u64) -> Result<Self, FolderError> {
        check_length(layout, flat)?;
        let mut files: Vec<Range<usize>> = Vec::new();
        let mut room = 0;
        for (place, tensor) in layout.tensors.iter().enumerate() {
            let bytes = 4 * tensor.len() as u64;
            match files.last_mut() {
                Some(file) if bytes <= room => file.end = place + 1,
                _ => {
                    files.push(place..place + 1);
                    room = bytes_max.max(bytes);
                }
            }
            room -= bytes;
        }
        Ok(Self { layout, flat, files })
    }

    fn name(&self, file: usize) -> String {
        match self.files.len() {
            1 => WEIGHTS.to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", file + 1),
        }
    }

    /// Names and bytes, one file at a time.
    pub fn files(&self) -> impl Iterator<Item = Result<(String, Vec<u8>), FolderError>> + '_ {
        self.files.iter().enumerate().map(|(file, range)| {
            let tensors = self.layout.tensors[range.clone()].iter();
            let parts = tensors.map(|tensor| (tensor.name.as_str(), &*tensor.shape, &self.flat[tensor.range()]));
            Ok((self.name(file), tensors_bytes(parts)?))
        })
    }

    /// The index, when there is more than one file.
    pub fn index(&self) -> Result<Option<Vec<u8>>, FolderError> {
        if self.files.len() < 2 {
            return Ok(None);
        }
        let mut weight_map = serde_json::Map::new();
        for (file, range) in self.files.iter().enumerate() {
            for tensor in &self.layout.tensors[range.clone()] {
                weight_map.insert(tensor.name.clone(), self.name(file).into());
            }
        }
        let metadata = json!({"total_size": 4 * self.flat.len(), "total_parameters": self.flat.len()});
        let mut text = serde_json::to_vec_pretty(&json!({"metadata": metadata, "weight_map": weight_map}))?;
        text.push(b'\n');
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests;
