//! What the relay keeps: files by [`FileStore`], an index in SQLite, a quota, and blobs shared between the
//! requests that send them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use shoal_store::{FileStore, StoreError};
use shoal_wire::{Digest, Envelope, Manifest, RunId, WireError, limits::SENDING_BYTES_MAX};
use thiserror::Error;
use tokio::task;

use crate::{
    database::{Database, DatabaseError},
    log::LogError,
};

#[derive(Debug, Error)]
pub enum StorageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("the manifest cannot be used: {0}")]
    Manifest(#[from] WireError),
    #[error("the body's digest is {found}, not {named}")]
    OtherDigest { named: Digest, found: Digest },
    #[error("{wanted} more bytes do not fit: {used} of the quota of {quota} bytes are used")]
    QuotaFull { wanted: u64, used: u64, quota: u64 },
    #[error("too many bytes are being sent at once")]
    Busy,
    #[error(transparent)]
    Log(LogError),
    #[error("a storage task failed: {0}")]
    Task(#[from] task::JoinError),
}

/// A published run, checked when it was read.
#[derive(Clone, Debug)]
pub struct Run {
    pub manifest: Arc<Manifest>,
    pub envelope: Arc<Envelope>,
    pub created_ms: i64,
}

#[derive(Debug)]
pub struct Storage {
    files: Arc<FileStore>,
    database: Database,
    quota_bytes: u64,
    /// Uploads that are checked against the quota and not in the index yet.
    uploading_bytes: Mutex<u64>,
    runs: Mutex<BTreeMap<RunId, Run>>,
    sending: Mutex<BTreeMap<Digest, Weak<Sending>>>,
}

/// Bytes that one or more responses are sending.
#[derive(Debug)]
struct Sending(Vec<u8>);

struct SharedBytes(Arc<Sending>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

impl Storage {
    /// Opens the data directory and brings the index in line with the files: a crash may have come between.
    pub fn open(files: Arc<FileStore>, quota_bytes: u64) -> Result<Self, StorageError> {
        let database = Database::open(&files.directory().join("index.sqlite"))?;
        for run in files.runs()? {
            database.add_run(run, now_ms())?;
        }
        let mut runs = BTreeMap::new();
        for (run, created_ms) in database.runs()? {
            match files.manifest(run) {
                Ok(Some(envelope)) => {
                    let manifest = Arc::new(Manifest::open(&envelope)?);
                    runs.insert(run, Run { manifest, envelope: Arc::new(envelope), created_ms });
                }
                Ok(None) => tracing::error!(%run, "the manifest of a published run is missing; the run is not served"),
                Err(error @ StoreError::Corrupt { .. }) => {
                    tracing::error!(%run, %error, "a published run is not served");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self {
            files,
            database,
            quota_bytes,
            uploading_bytes: Mutex::new(0),
            runs: Mutex::new(runs),
            sending: Mutex::default(),
        })
    }

    pub fn files(&self) -> &Arc<FileStore> {
        &self.files
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Published runs, oldest first.
    pub fn runs(&self) -> Vec<(RunId, Run)> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = runs.iter().map(|(&id, run)| (id, run.clone())).collect();
        all.sort_by_key(|(id, run)| (run.created_ms, *id));
        all
    }

    pub fn run(&self, run: RunId) -> Option<Run> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).get(&run).cloned()
    }

    /// Stores a signed manifest; false when the run was published before. Blocks.
    pub fn publish(&self, envelope: &Envelope) -> Result<(RunId, bool), StorageError> {
        let manifest = Manifest::open(envelope)?;
        let run = manifest.run();
        if self.run(run).is_some() {
            return Ok((run, false));
        }
        self.files.put_manifest(envelope)?;
        let created_ms = now_ms();
        let added = self.database.add_run(run, created_ms)?;
        let entry = Run { manifest: Arc::new(manifest), envelope: Arc::new(envelope.clone()), created_ms };
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).insert(run, entry);
        Ok((run, added))
    }

    /// Whether the blob was uploaded before.
    pub fn is_indexed(&self, digest: Digest) -> Result<bool, StorageError> {
        Ok(self.database.blob_bytes(digest)?.is_some())
    }

    /// Whether that many more bytes fit into the quota now.
    pub fn check_quota(&self, wanted: u64) -> Result<(), StorageError> {
        let uploading = *self.uploading_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        self.fits(wanted, uploading)
    }

    fn fits(&self, wanted: u64, uploading: u64) -> Result<(), StorageError> {
        let used = self.database.blobs_bytes()?.saturating_add(uploading);
        let quota = self.quota_bytes;
        if used.saturating_add(wanted) > quota {
            return Err(StorageError::QuotaFull { wanted, used, quota });
        }
        Ok(())
    }

    /// Stores an upload: when this returns, the blob is durable and counted. True when it is new. Blocks.
    pub fn put_blob(&self, named: Digest, bytes: &[u8]) -> Result<bool, StorageError> {
        let found = Digest::of(bytes);
        if found != named {
            return Err(StorageError::OtherDigest { named, found });
        }
        if self.database.blob_bytes(named)?.is_some() {
            // Indexed before: this repairs the file if it is gone or rotten, and costs no quota.
            self.files.put_blob(bytes)?;
            return Ok(false);
        }
        let size = bytes.len() as u64;
        {
            let mut uploading = self.uploading_bytes.lock().unwrap_or_else(PoisonError::into_inner);
            self.fits(size, *uploading)?;
            *uploading += size;
        }
        let stored = self
            .files
            .put_blob(bytes)
            .map_err(StorageError::from)
            .and_then(|_| Ok(self.database.add_blob(named, size, now_ms())?));
        *self.uploading_bytes.lock().unwrap_or_else(PoisonError::into_inner) -= size;
        stored.map(|()| true)
    }

    /// A blob to send. Requests for the same blob share its bytes, and all together hold a bounded amount. Blocks.
    pub fn read_blob(&self, digest: Digest) -> Result<Option<Bytes>, StorageError> {
        let Some(size) = self.files.blob_size(digest)? else { return Ok(None) };
        {
            let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(shared) = sending.get(&digest).and_then(Weak::upgrade) {
                return Ok(Some(Bytes::from_owner(SharedBytes(shared))));
            }
            let mut held = 0;
            sending.retain(|_, shared| {
                let bytes = shared.upgrade().map(|shared| shared.0.len() as u64);
                held += bytes.unwrap_or(0);
                bytes.is_some()
            });
            if held > 0 && held.saturating_add(size) > SENDING_BYTES_MAX {
                return Err(StorageError::Busy);
            }
        }
        let Some(bytes) = self.files.get_blob(digest)? else { return Ok(None) };
        let shared = Arc::new(Sending(bytes));
        self.sending.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, Arc::downgrade(&shared));
        Ok(Some(Bytes::from_owner(SharedBytes(shared))))
    }

    /// Asks the index something, to see whether it answers. Blocks.
    pub fn check(&self) -> Result<u64, StorageError> {
        Ok(self.database.blobs_bytes()?)
    }

    /// Runs a blocking method where blocking is allowed.
    pub async fn blocking<T, F>(self: &Arc<Self>, work: F) -> Result<T, StorageError>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> Result<T, StorageError> + Send + 'static,
    {
        let storage = self.clone();
        task::spawn_blocking(move || work(&storage)).await?
    }
}

fn now_ms() -> i64 {
    // A clock set before 1970 counts as 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn storage(dir: &std::path::Path, quota: u64) -> Storage {
        Storage::open(Arc::new(FileStore::open(dir).unwrap()), quota).unwrap()
    }

    #[test]
    fn the_quota_is_exact_and_the_same_blob_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path(), 10);
        let put = |bytes: &[u8]| storage.put_blob(Digest::of(bytes), bytes);
        assert!(put(b"123456").unwrap());
        assert!(!put(b"123456").unwrap());
        assert!(matches!(put(b"12345"), Err(StorageError::QuotaFull { wanted: 5, used: 6, quota: 10 })));
        assert!(put(b"1234").unwrap());
        assert!(matches!(put(b"1"), Err(StorageError::QuotaFull { .. })));
    }

    #[test]
    fn a_wrong_digest_stores_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path(), 100);
        let named = Digest::of(b"something else");
        assert!(matches!(storage.put_blob(named, b"text"), Err(StorageError::OtherDigest { .. })));
        assert_eq!(storage.read_blob(named).unwrap(), None);
        assert_eq!(storage.read_blob(Digest::of(b"text")).unwrap(), None);
        assert_eq!(storage.check().unwrap(), 0);
    }

    #[test]
    fn a_rotten_blob_is_an_error_and_uploading_it_again_repairs_it() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path(), 100);
        let digest = Digest::of(b"text");
        storage.put_blob(digest, b"text").unwrap();
        let hex = digest.to_string();
        std::fs::write(dir.path().join("blobs").join(&hex[..2]).join(&hex), b"texT").unwrap();
        assert!(matches!(storage.read_blob(digest), Err(StorageError::Store(StoreError::Corrupt { .. }))));
        assert!(!storage.put_blob(digest, b"text").unwrap());
        assert_eq!(storage.read_blob(digest).unwrap().unwrap(), Bytes::from_static(b"text"));
    }
}
