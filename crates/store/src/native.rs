//! Files in a directory, and a store over them without `async`.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    future::Future,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
};

use shoal_wire::{Digest, Envelope, PeerId, Round, RunId, SessionId, record::Certificate};

use crate::{Files, Store, StoreError};

/// A directory. Its futures are ready at once: they block the calling thread instead of waiting.
#[derive(Debug)]
pub struct NativeFiles {
    root: PathBuf,
    /// Names of unfinished files differ, also between threads.
    unfinished: AtomicU64,
}

/// Unfinished files start with a dot; no record's name does.
const UNFINISHED: char = '.';

impl NativeFiles {
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(root).map_err(|source| StoreError::Io {
            action: "create the data directory",
            path: root.display().to_string(),
            source,
        })?;
        Ok(Self { root: root.to_owned(), unfinished: AtomicU64::new(0) })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn failed(&self, action: &'static str, path: &str) -> impl FnOnce(io::Error) -> StoreError {
        let path = self.root.join(path).display().to_string();
        move |source| StoreError::Io { action, path, source }
    }

    fn replace(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let target = self.root.join(path);
        let directory = target.parent().unwrap_or(&self.root);
        self.create_directory(directory)?;
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = directory.join(format!("{UNFINISHED}{name}.{}.{number}", std::process::id()));
        let written = write_new(&unfinished, bytes, target.extension().is_some_and(|extension| extension == "key"))
            .and_then(|()| fs::rename(&unfinished, &target))
            .and_then(|()| sync_directory(directory));
        if written.is_err() {
            // The first error is what matters; a file left behind is ignored by every reader.
            drop(fs::remove_file(&unfinished));
        }
        written
    }

    /// Creates a directory and makes its name durable in its parents.
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        if directory.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(directory)?;
        directory.ancestors().skip(1).take_while(|parent| parent.starts_with(&self.root)).try_for_each(sync_directory)
    }
}

fn write_new(path: &Path, bytes: &[u8], private: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    if private {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    #[cfg(not(unix))]
    let _ = private; // such systems keep a user's profile directory private
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    // Only Unix can open a directory to flush it.
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Files for NativeFiles {
    async fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(file) = absent(File::open(self.root.join(path))).map_err(self.failed("open", path))? else {
            return Ok(None);
        };
        let size = file.metadata().map_err(self.failed("read", path))?.len();
        let mut bytes = Vec::with_capacity(size.min(limit) as usize);
        file.take(limit + 1).read_to_end(&mut bytes).map_err(self.failed("read", path))?;
        if bytes.len() as u64 > limit {
            return Err(StoreError::corrupt(&self.root.join(path).display().to_string(), "larger than any such file"));
        }
        Ok(Some(bytes))
    }

    async fn write_atomic(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.replace(path, bytes).map_err(self.failed("write", path))
    }

    async fn append(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let target = self.root.join(path);
        let append = || {
            let directory = target.parent().unwrap_or(&self.root);
            self.create_directory(directory)?;
            let is_new = !target.exists();
            let mut file = OpenOptions::new().append(true).create(true).open(&target)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            if is_new { sync_directory(directory) } else { Ok(()) }
        };
        append().map_err(self.failed("append to", path))
    }

    async fn remove(&self, path: &str) -> Result<(), StoreError> {
        absent(fs::remove_file(self.root.join(path))).map(drop).map_err(self.failed("remove", path))
    }

    async fn list(&self, directory: &str) -> Result<Vec<String>, StoreError> {
        let Some(entries) = absent(fs::read_dir(self.root.join(directory))).map_err(self.failed("list", directory))?
        else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(self.failed("list", directory))?;
            names.extend(entry.file_name().into_string().ok().filter(|name| !name.starts_with(UNFINISHED)));
        }
        names.sort();
        Ok(names)
    }

    async fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let metadata = absent(fs::metadata(self.root.join(path))).map_err(self.failed("look up", path))?;
        Ok(metadata.map(|metadata| metadata.len()))
    }
}

/// A peer's identity, taken by this process. The system gives it back when the process ends, however it ends.
#[derive(Debug)]
pub struct PeerLock {
    _file: File,
}

/// A store in a directory, for native programs. Its methods block; call them where that is allowed.
#[derive(Debug)]
pub struct FileStore {
    store: Store<NativeFiles>,
}

impl FileStore {
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self { store: Store::new(NativeFiles::open(directory.as_ref())?) })
    }

    pub fn directory(&self) -> &Path {
        self.store.files().root()
    }

    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        ready(self.store.put_blob(bytes))
    }

    pub fn get_blob(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        ready(self.store.get_blob(digest))
    }

    pub fn has_blob(&self, digest: Digest) -> Result<bool, StoreError> {
        ready(self.store.has_blob(digest))
    }

    pub fn blob_size(&self, digest: Digest) -> Result<Option<u64>, StoreError> {
        ready(self.store.blob_size(digest))
    }

    pub fn remove_blob(&self, digest: Digest) -> Result<(), StoreError> {
        ready(self.store.remove_blob(digest))
    }

    pub fn put_manifest(&self, envelope: &Envelope) -> Result<RunId, StoreError> {
        ready(self.store.put_manifest(envelope))
    }

    pub fn manifest(&self, run: RunId) -> Result<Option<Envelope>, StoreError> {
        ready(self.store.manifest(run))
    }

    pub fn runs(&self) -> Result<Vec<RunId>, StoreError> {
        ready(self.store.runs())
    }

    pub fn put_certificate(&self, run: RunId, certificate: &Certificate) -> Result<(), StoreError> {
        ready(self.store.put_certificate(run, certificate))
    }

    pub fn certificate(&self, run: RunId, round: Round) -> Result<Option<Certificate>, StoreError> {
        ready(self.store.certificate(run, round))
    }

    pub fn certificates(&self, run: RunId, from: Round, limit: usize) -> Result<Vec<Certificate>, StoreError> {
        ready(self.store.certificates(run, from, limit))
    }

    pub fn last_round(&self, run: RunId) -> Result<Round, StoreError> {
        ready(self.store.last_round(run))
    }

    pub fn truncate_certificates(&self, run: RunId, from: Round) -> Result<(), StoreError> {
        ready(self.store.truncate_certificates(run, from))
    }

    pub fn append_vote(&self, run: RunId, peer: PeerId, round: Round, vote: &[u8]) -> Result<(), StoreError> {
        ready(self.store.append_vote(run, peer, round, vote))
    }

    pub fn votes(&self, run: RunId, peer: PeerId) -> Result<Vec<(Round, Vec<u8>)>, StoreError> {
        ready(self.store.votes(run, peer))
    }

    pub fn forget_votes(&self, run: RunId, peer: PeerId, before: Round) -> Result<(), StoreError> {
        ready(self.store.forget_votes(run, peer, before))
    }

    pub fn put_residual(&self, run: RunId, peer: PeerId, residual: &[u8]) -> Result<(), StoreError> {
        ready(self.store.put_residual(run, peer, residual))
    }

    pub fn residual(&self, run: RunId, peer: PeerId) -> Result<Option<Vec<u8>>, StoreError> {
        ready(self.store.residual(run, peer))
    }

    /// Takes a peer's identity for this process, until the lock is dropped; `None` when another process has it.
    /// Two processes with one folder would be one session, and contradict each other.
    pub fn lock_peer(&self, run: RunId, peer: PeerId) -> Result<Option<PeerLock>, StoreError> {
        let files = self.store.files();
        let path = format!("peers/{run}/{peer}/lock");
        let target = files.root.join(&path);
        files
            .create_directory(target.parent().unwrap_or(&files.root))
            .map_err(files.failed("create the directory of", &path))?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&target)
            .map_err(files.failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(PeerLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(files.failed("lock", &path)(source)),
        }
    }

    /// The device's secret, made from the system's randomness on first use.
    pub fn device_secret(&self) -> Result<[u8; 32], StoreError> {
        ready(self.store.device_secret_or(random("device.key")?))
    }

    /// The session that a peer's votes here are of, drawn on first use.
    pub fn session(&self, run: RunId, peer: PeerId) -> Result<SessionId, StoreError> {
        ready(self.store.session_or(run, peer, SessionId(random("a session")?)))
    }

    pub fn put_session(&self, run: RunId, peer: PeerId, session: SessionId) -> Result<(), StoreError> {
        ready(self.store.put_session(run, peer, session))
    }
}

fn random(what: &str) -> Result<[u8; 32], StoreError> {
    let mut fresh = [0; 32];
    let failed = |error: getrandom::Error| StoreError::Io {
        action: "get randomness for",
        path: what.to_owned(),
        source: io::Error::other(error.to_string()),
    };
    getrandom::fill(&mut fresh).map_err(failed)?;
    Ok(fresh)
}

/// Runs a future over [`NativeFiles`], which never waits.
fn ready<T>(future: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("native files never wait"),
    }
}
