//! The text of a demo run: the bundled stories, or a file of the host's that is checked before anything else is done.

use std::{fs::File, io::Read as _, path::Path};

use shoal_learn::{presets::Preset, stories::stories};
use shoal_wire::manifest::DataSource;

use super::DemoError;

/// Every volunteer fetches the whole text.
pub const TEXT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Rows of the text that must differ, or a model learns it by heart in one round.
const ROWS_MIN: u64 = 32;
const STORIES_SEED: u64 = 2026;

/// The same stories everywhere, more of them for a model that can learn more.
pub fn bundled(preset: Preset) -> (DataSource, Vec<u8>) {
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
pub fn own(path: &Path, licence: Option<&str>, row: u64) -> Result<(DataSource, Vec<u8>), DemoError> {
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
