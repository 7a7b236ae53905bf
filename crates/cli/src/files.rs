//! Files of the user: read whole within a limit, written whole or not at all.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Reads a file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let mut bytes = Vec::new();
    // The limit holds while reading, because a pipe or a growing file has no size to trust.
    file.take(limit + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > limit {
        bail!("{name} is larger than the {} MiB that are read", limit >> 20);
    }
    Ok(bytes)
}

/// Writes beside the target, then renames: a crash leaves the old file or the new one, never half of one.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.display();
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.part", std::process::id()));
    let draft = Path::new(&draft);
    let written = File::create(draft).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let moved = written.and_then(|()| fs::rename(draft, path));
    if moved.is_err() {
        // The write's own error is the one worth telling; a draft that stays behind is harmless.
        fs::remove_file(draft).ok();
    }
    moved.with_context(|| format!("cannot write {name}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_written_file_reads_back_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomically(&path, b"old").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_past_the_limit_or_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        write_atomically(&path, b"12345").unwrap();
        assert!(read(&path, 4).unwrap_err().to_string().contains("large"));
        assert!(read(&folder.path().join("absent"), 4).unwrap_err().to_string().contains("absent"));
    }
}
