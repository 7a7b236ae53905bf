//! What `shoal verify` asks of a relay's log.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use shoal_ledger::log::{Note, VerifierKey};
use shoal_node::audit::{AuditError, Audited, Demands, audit, audit_directory};
use shoal_node::verify::{Replayed, Source};
use shoal_wire::limits::NOTE_BYTES_MAX;

use crate::files;

#[derive(clap::Args)]
#[command(next_help_heading = "The relay's log")]
pub struct LogArgs {
    /// The log must follow the checkpoint in this file, which then gets the newest one; made when missing
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// The log must be signed by this key; otherwise the relay says by which
    #[arg(long, value_name = "VKEY", value_parser = VerifierKey::parse)]
    log_key: Option<VerifierKey>,
    /// This witness must have cosigned the log (repeatable)
    #[arg(long, value_name = "VKEY", value_parser = witness_key)]
    witness: Vec<VerifierKey>,
}

fn witness_key(text: &str) -> Result<VerifierKey> {
    let key = VerifierKey::parse(text)?;
    if !key.cosigns() {
        bail!("this is a log's key, not a witness's");
    }
    Ok(key)
}

impl LogArgs {
    /// Before the long replay, so that a file that cannot be read is told of at once.
    pub fn demands(&self, source: &Source) -> Result<Demands> {
        if matches!(source, Source::Directory(_)) && (self.log_key.is_some() || !self.witness.is_empty()) {
            bail!("a directory has no signed log: --log-key and --witness are for relays");
        }
        let earlier = self.checkpoint.as_deref().map(read).transpose()?.flatten();
        Ok(Demands { key: self.log_key.clone(), earlier, witnesses: self.witness.clone() })
    }

    /// Remembers the checkpoint that held.
    pub fn keep(&self, audited: Option<&Audited>) -> Result<()> {
        let note = audited.and_then(|audited| audited.note.as_ref());
        let (Some(path), Some(note)) = (&self.checkpoint, note) else { return Ok(()) };
        files::write_atomically(path, note.to_string().as_bytes())
    }
}

fn read(path: &Path) -> Result<Option<Note>> {
    if !path.try_exists().with_context(|| format!("cannot look for {}", path.display()))? {
        return Ok(None);
    }
    let bytes = files::read(path, NOTE_BYTES_MAX as u64)?;
    Note::parse(&bytes).map(Some).with_context(|| format!("{} holds no checkpoint", path.display()))
}

/// The log of a history that was replayed; `None` from a relay that keeps none.
pub async fn check(source: &Source, replayed: &Replayed, demands: &Demands) -> Result<Option<Audited>, AuditError> {
    match source {
        Source::Relay(relay) => audit(relay, replayed.run, &replayed.entries, demands).await,
        Source::Directory(_) => audit_directory(&replayed.entries, demands.earlier.as_ref()).map(Some),
    }
}

pub fn print(out: &mut impl Write, log: Option<&Audited>) -> std::io::Result<()> {
    let Some(Audited { size, root, included, consistent, cosigned, note }) = log else {
        return writeln!(out, "  log         none: this relay keeps no log");
    };
    writeln!(out, "  log         {size} entries, root {root}")?;
    if note.is_some() {
        writeln!(out, "              signed; all {included} rounds are in it")?;
    }
    if *consistent == Some(true) {
        writeln!(out, "              follows the checkpoint that was seen before")?;
    }
    cosigned.iter().try_for_each(|witness| writeln!(out, "              cosigned by {witness}"))
}
