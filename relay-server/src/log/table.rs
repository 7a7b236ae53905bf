//! Where the logs of runs are kept, and what this relay saw of others' as a witness.
//!
//! A log only grows: entries and hashes are added, never changed. The hashes of full tiles are stored with the tiles of
//! the level above, so that every file of the log is one range of rows.

use rusqlite::{Connection, OptionalExtension as _, params};
use shoal_ledger::log::{
    Entry, Seen, TILE_WIDTH, Tile, TileError, TileKind, TileReader, Tree, TreeHash, consistency_proof, leaf_hash,
    root_hash,
};
use shoal_wire::{Round, RunId};

use crate::database::{Database, DatabaseError};

/// What [`Database::open`] adds for this module.
pub const SCHEMA: &str = "
    CREATE TABLE logs (
        run BLOB PRIMARY KEY NOT NULL,
        origin TEXT NOT NULL,
        size INTEGER NOT NULL,
        signed TEXT NOT NULL,
        published TEXT
    ) STRICT;
    CREATE TABLE log_entries (
        run BLOB NOT NULL,
        position INTEGER NOT NULL,
        round INTEGER NOT NULL,
        entry BLOB NOT NULL,
        PRIMARY KEY (run, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE log_hashes (
        run BLOB NOT NULL,
        level INTEGER NOT NULL,
        position INTEGER NOT NULL,
        hash BLOB NOT NULL,
        PRIMARY KEY (run, level, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE witnessed (
        origin TEXT PRIMARY KEY NOT NULL,
        size INTEGER NOT NULL,
        root BLOB NOT NULL,
        note TEXT NOT NULL
    ) STRICT;
";

/// Where a run's log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub origin: String,
    /// Entries.
    pub size: u64,
    /// The newest checkpoint with the log's own signature.
    pub signed: String,
    /// The checkpoint that is served, with the witnesses' signatures.
    pub published: Option<String>,
}

impl Database {
    pub fn log_head(&self, run: RunId) -> Result<Option<Head>, DatabaseError> {
        let connection = self.connection();
        let mut query = connection.prepare("SELECT origin, size, signed, published FROM logs WHERE run = ?1")?;
        let head = query.query_row(params![run.0.as_slice()], |row| {
            let size = row.get::<_, i64>(1)?.cast_unsigned();
            Ok(Head { origin: row.get(0)?, size, signed: row.get(2)?, published: row.get(3)? })
        });
        Ok(head.optional()?)
    }

    /// Begins a run's log, without entries; changes nothing when there is one.
    pub fn open_log(&self, run: RunId, origin: &str, signed: &str) -> Result<(), DatabaseError> {
        self.connection().execute(
            "INSERT OR IGNORE INTO logs VALUES (?1, ?2, 0, ?3, NULL)",
            params![run.0.as_slice(), origin, signed],
        )?;
        Ok(())
    }

    /// Round of the newest entry; 0 when there is none.
    pub fn newest_logged_round(&self, run: RunId) -> Result<Round, DatabaseError> {
        let connection = self.connection();
        let query = "SELECT round FROM log_entries WHERE run = ?1 ORDER BY position DESC LIMIT 1";
        let round = connection.prepare(query)?.query_row(params![run.0.as_slice()], |row| row.get::<_, i64>(0));
        Ok(round.optional()?.map_or(0, i64::cast_unsigned))
    }

    /// The entry that stands for a round ([`shoal_ledger::log::View`] says which does).
    pub fn standing_entry(&self, run: RunId, round: Round) -> Result<Option<Entry>, DatabaseError> {
        let connection = self.connection();
        // The newest of this round or an earlier one: an earlier round would have taken this one back.
        let query = "SELECT entry FROM log_entries WHERE run = ?1 AND round <= ?2 ORDER BY position DESC LIMIT 1";
        let entry = connection
            .prepare(query)?
            .query_row(params![run.0.as_slice(), round.cast_signed()], |row| row.get::<_, Vec<u8>>(0));
        let entry = entry.optional()?.map(|entry| Entry::decode(&entry)).transpose()?;
        Ok(entry.filter(|entry| entry.round == round))
    }

    /// Adds entries to a log of `size` entries, with the checkpoint that `sign` makes of the new size and root: all of it
    /// or nothing.
    pub fn append_to_log<E: From<DatabaseError>>(
        &self,
        run: RunId,
        size: u64,
        entries: &[Entry],
        sign: impl FnOnce(u64, TreeHash) -> Result<String, E>,
    ) -> Result<u64, E> {
        let failed = |error: rusqlite::Error| E::from(DatabaseError::from(error));
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(failed)?;
        for (position, entry) in (size..).zip(entries) {
            insert(&transaction, run, position, entry)?;
        }
        let size = size + entries.len() as u64;
        let root = root_hash(&mut reader(&transaction, run, size), size)?;
        let signed = sign(size, root)?;
        let row = params![run.0.as_slice(), size.cast_signed(), signed];
        transaction.execute("UPDATE logs SET size = ?2, signed = ?3 WHERE run = ?1", row).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(size)
    }

    pub fn publish_checkpoint(&self, run: RunId, note: &str) -> Result<(), DatabaseError> {
        let row = params![run.0.as_slice(), note];
        self.connection().execute("UPDATE logs SET published = ?2 WHERE run = ?1", row)?;
        Ok(())
    }

    /// The bytes of a tile of hashes of a log that is large enough.
    pub fn log_hashes(&self, run: RunId, tile: Tile) -> Result<Vec<u8>, DatabaseError> {
        Ok(hashes(&self.connection(), run, tile)?.iter().flat_map(|hash| hash.0).collect())
    }

    /// The entries of a bundle of a log that is large enough.
    pub fn log_entries(&self, run: RunId, tile: Tile) -> Result<Vec<Vec<u8>>, DatabaseError> {
        let connection = self.connection();
        let query =
            "SELECT entry FROM log_entries WHERE run = ?1 AND position >= ?2 AND position < ?3 ORDER BY position";
        let mut query = connection.prepare(query)?;
        let (start, end) = (tile.start(), tile.start() + u64::from(tile.width));
        let rows =
            query.query_map(params![run.0.as_slice(), start.cast_signed(), end.cast_signed()], |row| row.get(0))?;
        let entries: Vec<Vec<u8>> = rows.collect::<Result<_, _>>()?;
        if entries.len() == usize::from(tile.width) { Ok(entries) } else { Err(TileError::Outside.into()) }
    }

    /// Proof that a log's beginning of `old` entries is that of its first `size` ones.
    pub fn log_consistency(&self, run: RunId, old: u64, size: u64) -> Result<Vec<TreeHash>, DatabaseError> {
        consistency_proof(&mut reader(&self.connection(), run, size), old, size)
    }

    /// The last checkpoint of another log that this relay cosigned.
    pub fn witnessed(&self, origin: &str) -> Result<Option<Seen>, DatabaseError> {
        let connection = self.connection();
        let mut query = connection.prepare("SELECT size, root FROM witnessed WHERE origin = ?1")?;
        let seen = query.query_row([origin], |row| {
            Ok(Seen { size: row.get::<_, i64>(0)?.cast_unsigned(), root: TreeHash(row.get(1)?) })
        });
        Ok(seen.optional()?)
    }

    /// Remembers `after` in the place of `before`, if that is what is remembered; false when it is not. When this returns
    /// true, it survives a crash.
    pub fn remember(&self, origin: &str, before: Option<Seen>, after: Seen, note: &str) -> Result<bool, DatabaseError> {
        let connection = self.connection();
        let (size, root) = (after.size.cast_signed(), after.root.0.as_slice());
        let changed = match before {
            None => connection.execute(
                "INSERT OR IGNORE INTO witnessed VALUES (?1, ?2, ?3, ?4)",
                params![origin, size, root, note],
            )?,
            Some(before) => connection.execute(
                "UPDATE witnessed SET size = ?2, root = ?3, note = ?4 WHERE origin = ?1 AND size = ?5 AND root = ?6",
                params![origin, size, root, note, before.size.cast_signed(), before.root.0.as_slice()],
            )?,
        };
        Ok(changed == 1)
    }
}

/// The tree as its stored tiles have it.
fn reader(
    connection: &Connection,
    run: RunId,
    size: u64,
) -> TileReader<impl FnMut(Tile) -> Result<Vec<TreeHash>, DatabaseError>> {
    TileReader::new(size, move |tile| hashes(connection, run, tile))
}

fn hashes(connection: &Connection, run: RunId, tile: Tile) -> Result<Vec<TreeHash>, DatabaseError> {
    let TileKind::Hashes(level) = tile.kind else { return Err(TileError::Outside.into()) };
    let query = "SELECT hash FROM log_hashes WHERE run = ?1 AND level = ?2 AND position >= ?3 AND position < ?4 \
        ORDER BY position";
    let mut query = connection.prepare(query)?;
    let (start, end) = (tile.start(), tile.start() + u64::from(tile.width));
    let row = params![run.0.as_slice(), level, start.cast_signed(), end.cast_signed()];
    let hashes: Vec<TreeHash> = query.query_map(row, |row| row.get(0).map(TreeHash))?.collect::<Result<_, _>>()?;
    if hashes.len() == usize::from(tile.width) { Ok(hashes) } else { Err(TileError::Outside.into()) }
}

fn insert(connection: &Connection, run: RunId, position: u64, entry: &Entry) -> Result<(), DatabaseError> {
    let bytes = entry.encode();
    let row = params![run.0.as_slice(), position.cast_signed(), entry.round.cast_signed(), bytes.as_slice()];
    connection.prepare("INSERT INTO log_entries VALUES (?1, ?2, ?3, ?4)")?.execute(row)?;
    let (mut level, mut position, mut hash) = (0, position, leaf_hash(&bytes));
    loop {
        let row = params![run.0.as_slice(), level, position.cast_signed(), hash.0.as_slice()];
        connection.prepare("INSERT INTO log_hashes VALUES (?1, ?2, ?3, ?4)")?.execute(row)?;
        if !(position + 1).is_multiple_of(TILE_WIDTH) {
            return Ok(());
        }
        // The tile is full, and counts in the level above from now on.
        let full = Tile { kind: TileKind::Hashes(level), index: position / TILE_WIDTH, width: TILE_WIDTH as u16 };
        let mut tree = Tree::default();
        hashes(connection, run, full)?.into_iter().for_each(|hash| tree.push(hash));
        hash = tree.root_at(TILE_WIDTH).ok_or(TileError::Outside)?;
        (level, position) = (level + 1, position / TILE_WIDTH);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use shoal_ledger::log::{decode_hashes, inclusion_proof, verify_consistency};
    use shoal_wire::Digest;

    use super::*;

    const RUN: RunId = RunId([1; 32]);

    fn entry(round: Round) -> Entry {
        let body = Digest::of(&round.to_be_bytes());
        Entry { run: RUN, round, recovery: false, parent: Digest([0; 32]), body, model: body }
    }

    fn filled(dir: &std::path::Path, entries: u64) -> Database {
        let database = Database::open(&dir.join("index.sqlite")).unwrap();
        database.open_log(RUN, "log.example", "nothing").unwrap();
        let all: Vec<Entry> = (1..=entries).map(entry).collect();
        let mut size = 0;
        for some in all.chunks(200) {
            let sign = |size, root| Ok::<_, DatabaseError>(format!("{size} {root}"));
            size = database.append_to_log(RUN, size, some, sign).unwrap();
        }
        database
    }

    #[test]
    fn a_stored_log_has_the_tree_of_its_entries() {
        let dir = tempfile::tempdir().unwrap();
        let size = 600;
        let database = filled(dir.path(), size);
        let tree = Tree::of(&(1..=size).map(entry).collect::<Vec<_>>());
        let head = database.log_head(RUN).unwrap().unwrap();
        assert_eq!((head.size, head.signed), (size, format!("{size} {}", tree.root_at(size).unwrap())));
        for tile in Tile::all(size) {
            if tile.kind == TileKind::Entries {
                let entries = database.log_entries(RUN, tile).unwrap();
                assert_eq!(entries[0], entry(tile.start() + 1).encode());
            } else {
                let bytes = database.log_hashes(RUN, tile).unwrap();
                assert_eq!(decode_hashes(&bytes, tile.width).unwrap().len(), usize::from(tile.width));
            }
        }
        let connection = database.connection();
        for index in [0, 255, 256, 599] {
            let proof = inclusion_proof(&mut reader(&connection, RUN, size), index, size).unwrap();
            assert_eq!(Some(proof), tree.inclusion(index, size));
        }
        drop(connection);
        let proof = database.log_consistency(RUN, 300, size).unwrap();
        let root = |size| tree.root_at(size).unwrap();
        verify_consistency(300, root(300), size, root(size), &proof).unwrap();
        assert!(database.log_consistency(RUN, 300, size + 1).is_err(), "nothing is proven of what is not there");
    }

    #[test]
    fn an_entry_of_an_earlier_round_takes_back_those_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let database = filled(dir.path(), 4);
        let again = Entry { model: Digest([9; 32]), ..entry(2) };
        let sign = |_, _| Ok::<_, DatabaseError>(String::new());
        database.append_to_log(RUN, 4, &[again], sign).unwrap();
        assert_eq!(database.newest_logged_round(RUN).unwrap(), 2);
        assert_eq!(database.standing_entry(RUN, 1).unwrap(), Some(entry(1)));
        assert_eq!(database.standing_entry(RUN, 2).unwrap(), Some(again));
        assert_eq!(database.standing_entry(RUN, 3).unwrap(), None);
    }

    #[test]
    fn a_log_whose_checkpoint_cannot_be_signed_does_not_grow() {
        let dir = tempfile::tempdir().unwrap();
        let database = filled(dir.path(), 4);
        let refuse = |_, _| Err(DatabaseError::from(TileError::Outside));
        assert!(database.append_to_log(RUN, 4, &[entry(5)], refuse).is_err());
        assert_eq!(database.log_head(RUN).unwrap().unwrap().size, 4);
        assert_eq!(database.newest_logged_round(RUN).unwrap(), 4);
    }

    #[test]
    fn of_two_checkpoints_after_the_same_one_a_single_one_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let database = filled(dir.path(), 0);
        let seen = |size| Seen { size, root: TreeHash([size as u8; 32]) };
        assert_eq!(database.witnessed("a").unwrap(), None);
        assert!(database.remember("a", None, seen(5), "note").unwrap());
        assert!(!database.remember("a", None, seen(6), "note").unwrap());
        assert!(database.remember("a", Some(seen(5)), seen(7), "note").unwrap());
        assert!(!database.remember("a", Some(seen(5)), seen(6), "note").unwrap());
        assert_eq!(database.witnessed("a").unwrap(), Some(seen(7)));
        assert_eq!(database.witnessed("b").unwrap(), None);
    }
}
