//! Whole-system tests live in `tests/tests` (native) and `tests/browser`; this library holds what the native ones
//! share: the programs under test, started as a person would start them.

mod http;
mod programs;

pub use http::get;
pub use programs::{Program, Relay, Verdict, shoal, shoal_text, until};

use std::path::PathBuf;

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Tiny Shakespeare where the machine has it; the demo makes its own text elsewhere.
pub fn tiny_shakespeare() -> Option<PathBuf> {
    let file = root().join("../shared/data/tinyshakespeare.txt");
    file.exists().then_some(file)
}
