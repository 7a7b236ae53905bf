//! Skips a step whose inputs are what they were when it last succeeded.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;

pub struct Stamp {
    file: PathBuf,
    now: String,
}

impl Stamp {
    /// Hashes the contents of the inputs (files and folders) for the step called `name`.
    pub fn of(name: &str, inputs: &[PathBuf]) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        for input in inputs {
            add(input, &mut hasher)?;
        }
        Ok(Self { file: paths::target().join("xtask").join(name), now: format!("{:016x}", hasher.finish()) })
    }

    /// Whether the step can be left out: same inputs, and what it makes is still there.
    pub fn fresh(&self, made: &Path) -> bool {
        made.exists() && fs::read_to_string(&self.file).is_ok_and(|then| then == self.now)
    }

    pub fn save(&self) -> Result<()> {
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&self.file, &self.now).with_context(|| format!("writing {}", self.file.display()))
    }
}

fn add(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    path.hash(hasher);
    if path.is_dir() {
        let mut inside: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        inside.sort();
        for entry in inside {
            add(&entry, hasher)?;
        }
    } else if path.exists() {
        fs::read(path).with_context(|| format!("reading {}", path.display()))?.hash(hasher);
    }
    Ok(())
}
