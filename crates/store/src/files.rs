//! The file operations that a store needs, and what can go wrong.

use std::io;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: String, source: io::Error },
    #[error("{path} is corrupt: {why}")]
    Corrupt { path: String, why: String },
    #[error("{what} has {size} bytes, more than the limit of {limit}")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
}

impl StoreError {
    pub(crate) fn corrupt(path: &str, why: impl ToString) -> Self {
        Self::Corrupt { path: path.to_owned(), why: why.to_string() }
    }
}

/// Files under one root. Paths are relative, with `/` between names; names are lower-case hexadecimal digits
/// and a few fixed words, so no implementation needs to escape anything.
#[allow(async_fn_in_trait)] // a browser's files live in one thread; native ones never wait
pub trait Files {
    /// The whole file, or `None` when there is none. Refuses files above `limit` bytes without reading them.
    async fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// Replaces the file so that a crash leaves either the old content or the new.
    /// Files whose name ends in `.key` are for their owner only.
    async fn write_atomic(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// Adds to the end of the file and waits until it is on stable storage.
    async fn append(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// Removes the file; no error when there is none.
    async fn remove(&self, path: &str) -> Result<(), StoreError>;

    /// Names in a directory, sorted, without unfinished files; empty when there is no such directory.
    async fn list(&self, directory: &str) -> Result<Vec<String>, StoreError>;

    /// Size of the file in bytes, or `None` when there is none.
    async fn size(&self, path: &str) -> Result<Option<u64>, StoreError>;
}
