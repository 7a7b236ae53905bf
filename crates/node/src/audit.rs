//! Checks a relay's log (`docs/log.md`) against a history that was replayed: every round is in it, it is the log that
//! was seen before, and the witnesses that the auditor trusts have signed it.

use std::{collections::BTreeMap, time::Duration};

use shoal_ledger::log::{
    Checkpoint, CheckpointError, ENTRY_BYTES, Entry, Note, NoteError, ProofError, Tile, TileError, TileKind,
    TileReader, Tree, TreeHash, VerifierKey, View, ViewError, consistency_proof, decode_bundle, decode_hashes,
    inclusion_proof, root_hash, verify_consistency, verify_inclusion,
};
use shoal_wire::{Round, RunId, limits};
use tokio::time::sleep;

use crate::{NodeError, RelayClient, verify::is_verdict};

/// A log is brought up to date, and shown to its witnesses, after the certificates are there.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(1);
const KEY_BYTES_MAX: u64 = 1024;
/// An entry in its bundle: its length, then its bytes.
const ENTRY_IN_BUNDLE_BYTES: u64 = 2 + ENTRY_BYTES as u64;
const HASH_BYTES: u64 = 32;

/// What an auditor asks of a log beyond that it holds.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    /// The log's key; without it, the relay's word for it is taken.
    pub key: Option<VerifierKey>,
    /// A checkpoint that was seen before.
    pub earlier: Option<Note>,
    /// Who must have cosigned.
    pub witnesses: Vec<VerifierKey>,
}

/// A log that holds.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Audited {
    pub size: u64,
    /// In base64, as checkpoints have it.
    pub root: String,
    /// Rounds of the history that are proven to be in it.
    pub included: u64,
    /// Whether it follows the checkpoint seen before, if there was one.
    pub consistent: Option<bool>,
    /// Names of the demanded witnesses, all of which have signed.
    pub cosigned: Vec<String>,
    /// The checkpoint, to be kept for the next time; none from a directory, where nobody signs.
    #[serde(skip)]
    pub note: Option<Note>,
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the log does not hold: {why}")]
    Broken { round: Option<Round>, why: String },
    #[error("round {0} was replaced by an ordinary certificate meanwhile: verify again")]
    Replaced(Round),
    #[error(transparent)]
    Unavailable(NodeError),
}

/// What may be different in a moment.
enum Trouble {
    Wait(String),
    Stop(AuditError),
}

impl AuditError {
    fn broken(why: impl ToString) -> Self {
        Self::Broken { round: None, why: why.to_string() }
    }

    fn at(round: Round, why: impl ToString) -> Self {
        Self::Broken { round: Some(round), why: why.to_string() }
    }
}

impl From<NodeError> for AuditError {
    fn from(error: NodeError) -> Self {
        if is_verdict(&error) { Self::broken(error) } else { Self::Unavailable(error) }
    }
}

macro_rules! broken_by {
    ($($error:ty),*) => {
        $(impl From<$error> for AuditError {
            fn from(error: $error) -> Self {
                Self::broken(error)
            }
        })*
    };
}
broken_by!(TileError, ProofError, NoteError, CheckpointError, ViewError);

impl<E: Into<AuditError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Stop(error.into())
    }
}

/// Checks the log of a relay. `entries` are those of the replayed rounds, in order. `None` when the relay keeps no log.
pub async fn audit(
    relay: &RelayClient,
    run: RunId,
    entries: &[Entry],
    demands: &Demands,
) -> Result<Option<Audited>, AuditError> {
    let Some(told) = relay_key(relay, run).await? else {
        if demands.key.is_some() || demands.earlier.is_some() || !demands.witnesses.is_empty() {
            return Err(AuditError::broken("the relay has none"));
        }
        return Ok(None);
    };
    let log = Log { relay, run, key: demands.key.as_ref().unwrap_or(&told), entries, demands };
    let mut tries = 0;
    loop {
        tries += 1;
        match log.attempt().await {
            Ok(audited) => return Ok(Some(audited)),
            Err(Trouble::Stop(error)) => return Err(error),
            Err(Trouble::Wait(why)) if tries == TRIES => return Err(AuditError::broken(why)),
            Err(Trouble::Wait(_)) => sleep(PAUSE).await,
        }
    }
}

/// The log that follows from a directory's certificates, which nobody needs to keep. It is compared with a checkpoint
/// that a relay signed, as far as the certificates go.
pub fn audit_directory(entries: &[Entry], earlier: Option<&Note>) -> Result<Audited, AuditError> {
    let tree = Tree::of(entries);
    let (size, mut consistent) = (tree.size(), None);
    if let Some(note) = earlier {
        let earlier = Checkpoint::parse(note.text())?;
        consistent = tree.root_at(earlier.size).map(|root| root == earlier.root);
        if consistent == Some(false) {
            let why = format!("the first {} certificates here do not lead to the checkpoint's root", earlier.size);
            return Err(AuditError::broken(why));
        }
    }
    let root = tree.root_at(size).unwrap_or_else(shoal_ledger::log::empty_root).to_string();
    Ok(Audited { size, root, included: size, consistent, cosigned: Vec::new(), note: None })
}

/// The key that the relay names; none from a relay that keeps no log.
async fn relay_key(relay: &RelayClient, run: RunId) -> Result<Option<VerifierKey>, AuditError> {
    let answer = match relay.log_file(run, "vkey", KEY_BYTES_MAX).await {
        // An older relay's page for what it does not have.
        Err(NodeError::NotARelay { .. }) => None,
        other => other?,
    };
    let Some(bytes) = answer else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| AuditError::broken("the relay names a key that is no text"))?;
    Ok(Some(VerifierKey::parse(text.trim_end())?))
}

struct Log<'a> {
    relay: &'a RelayClient,
    run: RunId,
    key: &'a VerifierKey,
    entries: &'a [Entry],
    demands: &'a Demands,
}

impl Log<'_> {
    async fn attempt(&self) -> Result<Audited, Trouble> {
        let wait = |why: String| Trouble::Wait(why);
        let limit = limits::NOTE_BYTES_MAX as u64;
        let bytes = self.relay.log_file(self.run, "checkpoint", limit).await?;
        let bytes = bytes.ok_or_else(|| wait("no checkpoint is published".to_owned()))?;
        let note = Note::parse(&bytes)?;
        let checkpoint = Checkpoint::open(&note, self.key)?;
        let earlier = self.earlier()?;
        let (rounds, size) = (self.entries.len() as u64, checkpoint.size);
        if size < rounds {
            return Err(wait(format!("its checkpoint is of {size} entries, after {rounds} rounds")));
        }
        if let Some(earlier) = earlier.as_ref().filter(|earlier| size < earlier.size) {
            return Err(wait(format!("it has {size} entries, and had {} when it was seen before", earlier.size)));
        }
        for witness in &self.demands.witnesses {
            match note.verify(witness) {
                Err(error @ NoteError::Unsigned(_)) => return Err(wait(error.to_string())),
                other => drop(other?),
            }
        }
        let view = self.view(size).await?;
        let tiles = self.tiles(size).await?;
        let mut reader = reader(&tiles, size);
        if root_hash(&mut reader, size)? != checkpoint.root {
            return Err(AuditError::broken("its tiles do not lead to the checkpoint's root").into());
        }
        for entry in self.entries {
            let index = find(&view, entry)?;
            let proof = inclusion_proof(&mut reader, index, size)?;
            verify_inclusion(entry.leaf(), index, size, &proof, checkpoint.root)
                .map_err(|error| AuditError::at(entry.round, error))?;
        }
        if let Some(earlier) = &earlier {
            let proof = consistency_proof(&mut reader, earlier.size, size)?;
            verify_consistency(earlier.size, earlier.root, size, checkpoint.root, &proof).map_err(|error| {
                AuditError::broken(format!("it does not follow the checkpoint that was seen before: {error}"))
            })?;
        }
        Ok(Audited {
            size,
            root: checkpoint.root.to_string(),
            included: rounds,
            consistent: earlier.map(|_| true),
            cosigned: self.demands.witnesses.iter().map(|witness| witness.name().to_owned()).collect(),
            note: Some(note),
        })
    }

    fn earlier(&self) -> Result<Option<Checkpoint>, AuditError> {
        let opened = self.demands.earlier.as_ref().map(|note| Checkpoint::open(note, self.key));
        opened.transpose().map_err(|error| {
            AuditError::broken(format!("the checkpoint that was seen before is not by the same log and key: {error}"))
        })
    }

    /// Reads all entries.
    async fn view(&self, size: u64) -> Result<View, AuditError> {
        if size > limits::LOG_ENTRIES_MAX {
            let url = format!("{}log/{}/checkpoint", self.relay.base(), self.run);
            return Err(AuditError::Unavailable(NodeError::LogTooLong { url, size }));
        }
        let mut view = View::new(self.run);
        for tile in Tile::all(size).take_while(|tile| tile.kind == TileKind::Entries) {
            let bytes = self.tile(tile, ENTRY_IN_BUNDLE_BYTES).await?;
            for bytes in decode_bundle(&bytes, tile.width)? {
                view.push(Entry::decode(bytes).map_err(AuditError::broken)?)?;
            }
        }
        Ok(view)
    }

    /// Reads all hashes.
    async fn tiles(&self, size: u64) -> Result<BTreeMap<Tile, Vec<TreeHash>>, AuditError> {
        let mut tiles = BTreeMap::new();
        for tile in Tile::all(size).filter(|tile| tile.kind != TileKind::Entries) {
            let bytes = self.tile(tile, HASH_BYTES).await?;
            tiles.insert(tile, decode_hashes(&bytes, tile.width)?);
        }
        Ok(tiles)
    }

    async fn tile(&self, tile: Tile, item_bytes: u64) -> Result<Vec<u8>, AuditError> {
        let path = tile.path();
        let bytes = self.relay.log_file(self.run, &path, item_bytes * u64::from(tile.width)).await?;
        bytes.ok_or_else(|| AuditError::broken(format!("it has no {path}")))
    }
}

/// Where the log has this round.
fn find(view: &View, entry: &Entry) -> Result<u64, Trouble> {
    let round = entry.round;
    match view.round(round) {
        Some((index, logged)) if logged == entry => Ok(*index),
        None => Err(Trouble::Wait(format!("round {round} is not in it"))),
        Some((_, logged)) if logged.recovery && !entry.recovery => {
            Err(Trouble::Wait(format!("it has the recovery of round {round}, which was replaced")))
        }
        Some((_, logged)) if entry.recovery && !logged.recovery => Err(AuditError::Replaced(round).into()),
        Some(_) => Err(AuditError::at(round, "it has another body for this round").into()),
    }
}

fn reader(
    tiles: &BTreeMap<Tile, Vec<TreeHash>>,
    size: u64,
) -> TileReader<impl FnMut(Tile) -> Result<Vec<TreeHash>, AuditError>> {
    TileReader::new(size, |tile| tiles.get(&tile).cloned().ok_or_else(|| TileError::Outside.into()))
}
