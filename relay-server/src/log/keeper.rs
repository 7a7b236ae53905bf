//! Asks witnesses for cosignatures, so that nobody has to trust this relay for showing one history to all.
//!
//! A checkpoint is published once every witness has answered or had its time: one that is away delays it, for a moment
//! and not every time, and stops nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use shoal_ledger::log::{AddCheckpoint, Note, NoteSignature};
use shoal_node::witness::{Answer, WitnessClient};
use shoal_wire::RunId;
use tokio::{
    sync::{Notify, watch},
    time::{interval, sleep},
};

use super::{LogError, Logs, is_published};
use crate::storage::{Storage, StorageError};

/// Rounds that end within this are logged together.
const GATHER: Duration = Duration::from_millis(250);
/// A witness that did not answer is left alone for so long; then checkpoints that lack its signature are shown to it.
const AWAY: Duration = Duration::from_mins(1);

pub struct Keeper {
    witnesses: Vec<Remote>,
    touched: Mutex<BTreeSet<RunId>>,
    wake: Notify,
}

/// A witness, and what is known of it.
struct Remote {
    client: WitnessClient,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Sizes that it cosigned.
    sizes: BTreeMap<RunId, u64>,
    away_until: Option<Instant>,
}

impl Keeper {
    pub fn new(witnesses: Vec<WitnessClient>) -> Self {
        let remote = |client| Remote { client, state: Mutex::default() };
        Self { witnesses: witnesses.into_iter().map(remote).collect(), touched: Mutex::default(), wake: Notify::new() }
    }

    pub fn has_witnesses(&self) -> bool {
        !self.witnesses.is_empty()
    }

    pub fn touch(&self, run: RunId) {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(run);
        self.wake.notify_one();
    }

    fn take(&self) -> BTreeSet<RunId> {
        std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub async fn keep(logs: Arc<Logs>, storage: Arc<Storage>, mut stop: watch::Receiver<bool>) {
    // Runs whose published checkpoint a witness has not signed.
    let mut lacking = BTreeSet::new();
    let mut again = interval(AWAY);
    loop {
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => return,
            () = logs.keeper.wake.notified() => {}
            _ = again.tick() => lacking.iter().for_each(|run| logs.touch(*run)),
        }
        sleep(GATHER).await;
        for run in logs.keeper.take() {
            let complete = tokio::select! {
                _ = stop.wait_for(|&stop| stop) => return,
                complete = bring_up(&logs, &storage, run) => complete,
            };
            match complete {
                Ok(true) => {
                    lacking.remove(&run);
                }
                Ok(false) => {
                    lacking.insert(run);
                }
                Err(error) => {
                    tracing::error!(run = run.short(), %error, "the run's log could not be brought up to date");
                }
            }
        }
    }
}

/// Logs what is new, has it cosigned, and publishes it. True when every witness has signed.
async fn bring_up(logs: &Arc<Logs>, storage: &Arc<Storage>, run: RunId) -> Result<bool, StorageError> {
    let syncing = logs.clone();
    let head = storage.blocking(move |storage| Ok(syncing.sync(storage, run)?)).await?;
    if head.size == 0 || !logs.keeper.has_witnesses() {
        return Ok(true);
    }
    let newest = |head: &super::Head| -> Result<Note, LogError> {
        let note = if is_published(head)? { head.published.as_ref() } else { None };
        Ok(Note::parse(note.unwrap_or(&head.signed).as_bytes())?)
    };
    let mut note = newest(&head)?;
    let lacking: Vec<&Remote> =
        logs.keeper.witnesses.iter().filter(|witness| note.verify(witness.client.key()).is_err()).collect();
    let signatures = join_all(lacking.iter().map(|witness| witness.ask(storage, run, &note, head.size))).await;
    let mut complete = true;
    for (witness, signature) in lacking.iter().zip(signatures) {
        complete &= signature.is_some_and(|signature| note.add(witness.client.key(), signature).is_ok());
    }
    let text = note.to_string();
    if head.published.as_ref() != Some(&text) {
        storage.blocking(move |storage| Ok(storage.database().publish_checkpoint(run, &text)?)).await?;
    }
    Ok(complete)
}

impl Remote {
    /// The witness's signature on a checkpoint; `None` when it gives none now.
    async fn ask(&self, storage: &Arc<Storage>, run: RunId, note: &Note, size: u64) -> Option<NoteSignature> {
        let name = self.client.key().name();
        let (mut old, away) = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.sizes.get(&run).copied().unwrap_or(0), state.away_until)
        };
        if away.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let mut told = false;
        let failed = loop {
            let proof = storage.blocking(move |storage| Ok(storage.database().log_consistency(run, old, size)?)).await;
            let proof = match proof {
                Ok(proof) => proof,
                Err(error) => break error.to_string(),
            };
            match self.client.add_checkpoint(&AddCheckpoint { old, proof, note: note.clone() }).await {
                Ok(Answer::Cosigned(signature)) => {
                    let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.sizes.insert(run, size);
                    state.away_until = None;
                    return Some(signature);
                }
                // It is the first time since this relay started, or the witness saw another checkpoint meanwhile.
                Ok(Answer::OtherSize(last)) if last <= size && last != old && !told => (old, told) = (last, true),
                Ok(Answer::OtherSize(last)) => {
                    break format!("it has seen this log with {last} entries and another history, or more of it");
                }
                Err(error) => break error.to_string(),
            }
        };
        tracing::warn!(witness = name, run = run.short(), error = failed, "no cosignature");
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.away_until = Some(Instant::now() + AWAY);
        None
    }
}
