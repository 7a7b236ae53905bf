//! The logs of the runs that are served here (`docs/log.md`): an entry for each certificate, a signed checkpoint, and
//! cosignatures of the witnesses that the host chose. This relay can be a witness of others' logs, too.

mod api;
mod keeper;
mod table;

use std::sync::{Arc, Mutex, PoisonError};

use shoal_ledger::log::{
    Checkpoint, Cosigner, Entry, LogSigner, Note, NoteError, TreeHash, VerifierKey, Witness, empty_root,
};
use shoal_node::witness::{WitnessAddress, WitnessClient};
use shoal_store::StoreError;
use shoal_wire::{Digest, Round, RunId, limits::WITNESS_REQUESTS_MAX};
use thiserror::Error;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};

pub use self::{api::routes, table::SCHEMA};
use self::{keeper::Keeper, table::Head};
use crate::{
    anchor::Anchors,
    config::Config,
    database::DatabaseError,
    storage::{Storage, StorageError},
};

/// Certificates that are logged with one checkpoint.
const BATCH: usize = 64;

#[derive(Debug, Error)]
pub enum LogError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the log's key or a checkpoint of it cannot be used: {0}")]
    Note(#[from] NoteError),
    #[error("the certificate of round {0} does not follow what is logged; the log does not grow until it does")]
    Parted(Round),
}

/// The runs' logs and this relay's part as a witness.
pub struct Logs {
    name: String,
    secret: [u8; 32],
    witness: Witness,
    /// Bounds what requests to the witness hold in memory.
    requests: Semaphore,
    keeper: Keeper,
    /// One at a time brings logs up to date.
    syncing: Mutex<()>,
}

impl Logs {
    pub fn new(config: &Config, anchors: &Anchors) -> Result<Arc<Self>, LogsError> {
        let secret = anchors.log_secret();
        let name = config.log_name.clone().unwrap_or_else(|| default_name(&secret));
        let cosigner = Cosigner::new(&format!("{name}/witness"), &anchors.witness_secret()).map_err(LogError::from)?;
        let witness = Witness::new(cosigner, config.witness_logs.iter().cloned());
        let witnesses =
            config.witnesses.iter().map(WitnessAddress::client).collect::<Result<Vec<WitnessClient>, _>>()?;
        let logs = Self {
            name,
            secret,
            witness,
            requests: Semaphore::new(WITNESS_REQUESTS_MAX),
            keeper: Keeper::new(witnesses),
            syncing: Mutex::new(()),
        };
        logs.signer(&logs.origin(RunId::default()))?;
        Ok(Arc::new(logs))
    }

    /// Looks after the logs until told to stop: asks the witnesses for what is new.
    pub fn keep(self: &Arc<Self>, storage: Arc<Storage>, stop: watch::Receiver<bool>) -> JoinHandle<()> {
        for (run, _) in storage.runs() {
            self.touch(run);
        }
        tokio::spawn(keeper::keep(self.clone(), storage, stop))
    }

    /// Says that a run may have new certificates.
    pub fn touch(&self, run: RunId) {
        self.keeper.touch(run);
    }

    /// The key of this relay's witness.
    pub fn witness_key(&self) -> &VerifierKey {
        self.witness.key()
    }

    fn origin(&self, run: RunId) -> String {
        format!("{}/log/{run}", self.name)
    }

    fn signer(&self, origin: &str) -> Result<LogSigner, LogError> {
        Ok(LogSigner::new(origin, &self.secret)?)
    }

    /// Brings a run's log in line with its certificates. Blocks.
    fn sync(&self, storage: &Storage, run: RunId) -> Result<Head, LogError> {
        let _alone = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let database = storage.database();
        let head = self.head(storage, run)?;
        let signer = self.signer(&head.origin)?;
        let sign = |size, root| Ok::<_, LogError>(checkpoint(&head.origin, size, root, &signer).to_string());
        let (mut next, mut before) = fork(storage, run)?;
        let mut size = head.size;
        // What the next certificate replaces, when it is not about a new round.
        let mut replaced = database.standing_entry(run, next)?;
        loop {
            let certificates = storage.files().certificates(run, next, BATCH)?;
            if certificates.is_empty() {
                break;
            }
            let mut entries = Vec::with_capacity(certificates.len());
            for entry in certificates.iter().map(Entry::of) {
                let round = entry.round;
                if replaced == Some(entry) {
                    // Its file was missing a moment ago.
                    replaced = database.standing_entry(run, round + 1)?;
                } else if entry.parent != before || replaced.is_some_and(|old| !old.recovery || entry.recovery) {
                    return Err(LogError::Parted(round));
                } else {
                    replaced = None;
                    entries.push(entry);
                }
                before = entry.body;
                next = round + 1;
            }
            if !entries.is_empty() {
                size = database.append_to_log(run, size, &entries, sign)?;
            }
        }
        self.publish_at_once(storage, run)?;
        self.head(storage, run)
    }

    /// Where a log stands; it begins when it is first asked for.
    fn head(&self, storage: &Storage, run: RunId) -> Result<Head, LogError> {
        let database = storage.database();
        if let Some(head) = database.log_head(run)? {
            return Ok(head);
        }
        let origin = self.origin(run);
        let empty = checkpoint(&origin, 0, empty_root(), &self.signer(&origin)?);
        database.open_log(run, &origin, &empty.to_string())?;
        Ok(Head { origin, size: 0, signed: empty.to_string(), published: None })
    }

    /// Publishes a checkpoint that no witness is asked about: there is none, or nothing to see.
    fn publish_at_once(&self, storage: &Storage, run: RunId) -> Result<(), LogError> {
        let head = self.head(storage, run)?;
        let asked = head.size > 0 && self.keeper.has_witnesses();
        if asked || is_published(&head)? {
            return Ok(());
        }
        Ok(storage.database().publish_checkpoint(run, &head.signed)?)
    }
}

#[derive(Debug, Error)]
pub enum LogsError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("a witness cannot be asked: {0}")]
    Witness(#[from] shoal_node::NodeError),
}

/// Names logs that their host has not named, after their key.
fn default_name(secret: &[u8; 32]) -> String {
    let name = Digest::in_domain("shoal 2026 v1 name of logs", secret).to_string();
    format!("shoal-{}", &name[..16])
}

fn checkpoint(origin: &str, size: u64, root: TreeHash, signer: &LogSigner) -> Note {
    Checkpoint { origin: origin.to_owned(), size, root }.sign(signer)
}

/// Whether the checkpoint that is served is the newest.
fn is_published(head: &Head) -> Result<bool, NoteError> {
    let Some(published) = &head.published else { return Ok(false) };
    Ok(Note::parse(published.as_bytes())?.text() == Note::parse(head.signed.as_bytes())?.text())
}

/// The first round whose stored certificate is not logged, or not as it is now, and the digest of the body before it.
fn fork(storage: &Storage, run: RunId) -> Result<(Round, Digest), LogError> {
    let mut next = storage.database().newest_logged_round(run)? + 1;
    while next > 1 {
        let round = next - 1;
        if let Some(standing) = storage.database().standing_entry(run, round)? {
            let stored = storage.files().certificate(run, round)?;
            if stored.is_some_and(|stored| Entry::of(&stored) == standing) {
                return Ok((next, standing.body));
            }
        }
        next = round;
    }
    Ok((1, run.into()))
}

impl From<LogError> for StorageError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Database(error) => error.into(),
            LogError::Store(error) => error.into(),
            error => Self::Log(error),
        }
    }
}
