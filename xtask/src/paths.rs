//! Where things are, all relative to the repository's root.

use std::path::{Path, PathBuf};

/// The repository's root: the parent of this package.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

pub fn at(path: &str) -> PathBuf {
    root().join(path)
}

/// Cargo's target directory, which a setting of the environment may move.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => at("target"),
    }
}

/// Tools that are installed for this checkout alone.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// The client as rustc made it, before `wasm-bindgen`.
pub fn raw_wasm() -> PathBuf {
    target().join("wasm32-unknown-unknown/wasm/shoal_client.wasm")
}
