//! The index: which runs are published, and which blobs were uploaded and count against the quota; and the runs' logs
//! (`log/table.rs`).
//!
//! For runs and blobs the files are the truth; this is what makes listing and counting cheap. A row is written after its
//! file is durable and before the request is acknowledged. What was logged and what was cosigned stands here only.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _, params};
use shoal_ledger::log::{EntryError, TileError};
use shoal_wire::{Digest, RunId};
use thiserror::Error;

const SCHEMA_VERSION: i64 = 2;

/// What each version added to the one before.
const SCHEMAS: [&str; SCHEMA_VERSION as usize] = [RUNS_AND_BLOBS, crate::log::SCHEMA];

const RUNS_AND_BLOBS: &str = "
    CREATE TABLE runs (
        run BLOB PRIMARY KEY NOT NULL,
        created_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE blobs (
        digest BLOB PRIMARY KEY NOT NULL,
        bytes INTEGER NOT NULL,
        created_ms INTEGER NOT NULL
    ) STRICT;
";

#[derive(Debug, Error)]
pub enum DatabaseError {
    #[error("the index cannot be used: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the index was written by a newer shoal-relay (schema {found}, this one knows {SCHEMA_VERSION}): update")]
    Newer { found: i64 },
    #[error("the stored log of a run is damaged: {0}")]
    Hashes(#[from] TileError),
    #[error("the stored log of a run is damaged: {0}")]
    Entry(#[from] EntryError),
}

#[derive(Debug)]
pub struct Database {
    connection: Mutex<Connection>,
}

impl Database {
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An acknowledged row survives a power cut, not only a crash of this process.
        connection.pragma_update(None, "synchronous", "FULL")?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let missing = usize::try_from(found).ok().and_then(|found| SCHEMAS.get(found..));
        let missing = missing.ok_or(DatabaseError::Newer { found })?;
        if !missing.is_empty() {
            let transaction = connection.transaction()?;
            missing.iter().try_for_each(|schema| transaction.execute_batch(schema))?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
        }
        Ok(Self { connection: Mutex::new(connection) })
    }

    pub(crate) fn connection(&self) -> MutexGuard<'_, Connection> {
        // Statements are atomic in SQLite itself, so a panic elsewhere leaves nothing half-done here.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a run; false when it was there.
    pub fn add_run(&self, run: RunId, now_ms: i64) -> Result<bool, DatabaseError> {
        let added = self
            .connection()
            .execute("INSERT OR IGNORE INTO runs VALUES (?1, ?2)", params![run.0.as_slice(), now_ms])?;
        Ok(added == 1)
    }

    /// Every run with its time of publication, oldest first.
    pub fn runs(&self) -> Result<Vec<(RunId, i64)>, DatabaseError> {
        let connection = self.connection();
        let mut query = connection.prepare("SELECT run, created_ms FROM runs ORDER BY created_ms, run")?;
        let rows = query.query_map([], |row| Ok((RunId(row.get(0)?), row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub fn add_blob(&self, digest: Digest, bytes: u64, now_ms: i64) -> Result<(), DatabaseError> {
        self.connection().execute(
            "INSERT OR REPLACE INTO blobs VALUES (?1, ?2, ?3)",
            params![digest.0.as_slice(), bytes.cast_signed(), now_ms],
        )?;
        Ok(())
    }

    pub fn blob_bytes(&self, digest: Digest) -> Result<Option<u64>, DatabaseError> {
        let bytes = self
            .connection()
            .query_row("SELECT bytes FROM blobs WHERE digest = ?1", params![digest.0.as_slice()], |row| {
                row.get::<_, i64>(0)
            })
            .optional()?;
        Ok(bytes.map(i64::cast_unsigned))
    }

    /// Bytes of all uploaded blobs.
    pub fn blobs_bytes(&self) -> Result<u64, DatabaseError> {
        let total: i64 =
            self.connection().query_row("SELECT coalesce(sum(bytes), 0) FROM blobs", [], |row| row.get(0))?;
        Ok(total.cast_unsigned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn rows_are_there_after_reopening_and_adding_twice_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.sqlite");
        let database = Database::open(&path).unwrap();
        assert!(database.add_run(RunId([1; 32]), 5).unwrap());
        assert!(!database.add_run(RunId([1; 32]), 6).unwrap());
        database.add_blob(Digest([2; 32]), 100, 7).unwrap();
        database.add_blob(Digest([2; 32]), 100, 8).unwrap();
        database.add_blob(Digest([3; 32]), 11, 8).unwrap();
        drop(database);
        let database = Database::open(&path).unwrap();
        assert_eq!(database.runs().unwrap(), [(RunId([1; 32]), 5)]);
        assert_eq!(database.blobs_bytes().unwrap(), 111);
        assert_eq!(database.blob_bytes(Digest([2; 32])).unwrap(), Some(100));
    }

    #[test]
    fn an_index_of_the_first_version_gets_what_was_added_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.sqlite");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(RUNS_AND_BLOBS).unwrap();
        old.execute("INSERT INTO runs VALUES (?1, 5)", params![[1_u8; 32].as_slice()]).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(old);
        let database = Database::open(&path).unwrap();
        assert_eq!(database.runs().unwrap(), [(RunId([1; 32]), 5)]);
        assert_eq!(database.log_head(RunId([1; 32])).unwrap(), None);
        drop(database);
        Database::open(&path).unwrap();
    }

    #[test]
    fn an_index_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.sqlite");
        drop(Database::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Database::open(&path), Err(DatabaseError::Newer { found: 99 })));
    }
}
