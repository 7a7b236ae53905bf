//! The relay's few small files (host token, certificate), written whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use thiserror::Error;

#[derive(Debug, Error)]
#[error("{}: {error}", path.display())]
pub struct FileError {
    pub path: PathBuf,
    pub error: io::Error,
}

pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    put(path, bytes, 0o644).map_err(|error| FileError { path: path.to_owned(), error })
}

/// Readable by the owner only.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    put(path, bytes, 0o600).map_err(|error| FileError { path: path.to_owned(), error })
}

#[cfg_attr(not(unix), expect(unused_variables, reason = "modes exist on Unix only"))]
fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("new");
    // A left-over of an interrupted write may have another mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// The host's bearer token: 64 hexadecimal digits, made on the first start.
pub fn host_token(path: &Path) -> Result<String, FileError> {
    let failed = |error| FileError { path: path.to_owned(), error };
    match fs::read_to_string(path) {
        Ok(text) => {
            let token = text.trim();
            if token.len() < 32 {
                let hint = "holds no token (at least 32 characters); delete it to have one made";
                return Err(failed(io::Error::new(io::ErrorKind::InvalidData, hint)));
            }
            Ok(token.to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).map_err(|error| failed(io::Error::other(error.to_string())))?;
            let token = hex::encode(secret);
            write_secret(path, format!("{token}\n").as_bytes())?;
            Ok(token)
        }
        Err(error) => Err(failed(error)),
    }
}
