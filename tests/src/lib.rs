//! Whole-system tests live in `tests/tests` (native) and `tests/browser`; this library holds what the native ones
//! share: the programs under test, started as a person would start them.

mod http;
mod programs;

pub use http::get;
pub use programs::{Program, Relay, Verification, shoal, shoal_text, until};

use std::path::{Path, PathBuf};
use std::{fs, io};

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Tiny Shakespeare where the machine has it; the demo makes its own text elsewhere.
pub fn tiny_shakespeare() -> Option<PathBuf> {
    let file = root().join("../shared/data/tinyshakespeare.txt");
    file.exists().then_some(file)
}

/// Copies a folder with all that is in it, to be changed.
pub fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
