//! What a native peer keeps: a thread that writes records in order, and what it reads back after a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use shoal_ledger::{CHECKPOINT_ROUNDS, Chain, Step};
use shoal_store::{FileStore, StoreError};
use shoal_swarm::{Bytes, Persisted, Record, RecordId, Restored};
use shoal_wire::{Digest, Manifest, PeerId, Round, RunId, codec, limits};
use tokio::sync::mpsc::UnboundedSender;

use crate::{NodeError, replay};

/// Checkpoints kept beside those that the run can be rolled back to.
const CHECKPOINTS_LAST: u64 = 3;
/// Votes of at least so many rounds are kept, and of more where a recovery may be undone that reaches further back.
const VOTES_ROUNDS_MIN: u64 = 64;
const VOTES_FORGOTTEN_EVERY: u64 = 16;
const VOTE_BYTES_MAX: usize = 2 * limits::CERTIFICATE_BYTES_MAX;
const CERTIFICATES_AT_ONCE: usize = 256;

#[derive(Debug)]
pub(crate) enum StorageEvent {
    Persisted(RecordId),
    Failed { record: RecordId, reason: String },
    Loaded { blob: Digest, bytes: Option<Bytes> },
}

enum Command {
    Persist { id: RecordId, record: Record },
    Load(Digest),
    Forget(Digest),
    RollBack { to: Round },
    Residual(Vec<u8>),
}

/// The writing thread. Dropping it waits until everything is written.
pub(crate) struct Storage {
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

/// Whose records these are, and which checkpoints the store has.
pub(crate) struct Place {
    pub store: Arc<FileStore>,
    pub run: RunId,
    pub peer: PeerId,
    /// How far back a recovery may be undone.
    pub recovery_window_rounds: u64,
    pub checkpoints: Checkpoints,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Checkpoints {
    /// Models of the last certified rounds.
    pub last: BTreeMap<Round, Digest>,
    /// Models that are kept for good, because the run can be rolled back to them.
    pub lasting: BTreeSet<Digest>,
}

impl Storage {
    pub fn start(place: Place, events: UnboundedSender<StorageEvent>) -> Result<Self, NodeError> {
        let (sender, commands) = mpsc::channel();
        let mut writer = Writer { place, events };
        let thread = thread::Builder::new()
            .name("shoal-store".to_owned())
            .spawn(move || commands.into_iter().for_each(|command| writer.handle(command)))
            .map_err(|_| NodeError::Task("starting the thread that writes files"))?;
        Ok(Self { commands: Some(sender), thread: Some(thread) })
    }

    pub fn persist(&self, id: RecordId, record: Record) {
        self.command(Command::Persist { id, record });
    }

    pub fn load(&self, blob: Digest) {
        self.command(Command::Load(blob));
    }

    pub fn forget(&self, blob: Digest) {
        self.command(Command::Forget(blob));
    }

    pub fn roll_back(&self, to: Round) {
        self.command(Command::RollBack { to });
    }

    pub fn put_residual(&self, residual: Vec<u8>) {
        self.command(Command::Residual(residual));
    }

    fn command(&self, command: Command) {
        if self.commands.as_ref().is_some_and(|commands| commands.send(command).is_err()) {
            // The record is never confirmed, so this peer never votes on it.
            tracing::error!("the thread that writes files has ended");
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.commands = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes files panicked");
        }
    }
}

struct Writer {
    place: Place,
    events: UnboundedSender<StorageEvent>,
}

impl Writer {
    fn handle(&mut self, command: Command) {
        let event = match command {
            Command::Persist { id, record } => match self.persist(&record) {
                Ok(()) => StorageEvent::Persisted(id),
                Err(error) => {
                    tracing::error!(%error, "a record could not be stored");
                    StorageEvent::Failed { record: id, reason: error.to_string() }
                }
            },
            Command::Load(blob) => {
                let bytes = self.place.store.get_blob(blob).unwrap_or_else(|error| {
                    tracing::error!(%error, "a blob cannot be read; it counts as missing");
                    None
                });
                StorageEvent::Loaded { blob, bytes: bytes.map(Bytes::from) }
            }
            Command::Forget(blob) => return self.warn(self.place.store.remove_blob(blob), "dropping an update"),
            Command::RollBack { to } => return self.warn(self.roll_back(to), "rolling back"),
            Command::Residual(residual) => {
                let Place { store, run, peer, .. } = &self.place;
                return self.warn(store.put_residual(*run, *peer, &residual), "storing what was not sent yet");
            }
        };
        if self.events.send(event).is_err() {
            tracing::trace!("the peer stopped before it heard of its record");
        }
    }

    fn warn(&self, result: Result<(), StoreError>, what: &str) {
        if let Err(error) = result {
            tracing::warn!(%error, run = %self.place.run.short(), "{what} failed");
        }
    }

    fn persist(&mut self, record: &Record) -> Result<(), StoreError> {
        let Place { store, run, peer, .. } = &self.place;
        match record {
            Record::Vote(vote) => store.append_vote(*run, *peer, vote.round, &codec::encode(vote)),
            Record::Session(session) => store.put_session(*run, *peer, *session),
            Record::Blob { bytes, .. } => store.put_blob(bytes).map(drop),
            Record::Certificate(certificate) => {
                store.put_certificate(*run, certificate)?;
                let round = certificate.body.round;
                if round.is_multiple_of(VOTES_FORGOTTEN_EVERY) {
                    let kept = self.place.recovery_window_rounds.max(VOTES_ROUNDS_MIN);
                    self.warn(store.forget_votes(*run, *peer, round.saturating_sub(kept)), "tidying votes");
                }
                self.retire_checkpoints(round, certificate.body.content.model)
            }
        }
    }

    /// Removes checkpoints that are neither among the last, nor among those kept for good.
    fn retire_checkpoints(&mut self, round: Round, model: Digest) -> Result<(), StoreError> {
        let Checkpoints { last, lasting } = &mut self.place.checkpoints;
        if round.is_multiple_of(CHECKPOINT_ROUNDS) {
            lasting.insert(model);
        }
        last.insert(round, model);
        let kept = last.split_off(&(round + 1).saturating_sub(CHECKPOINTS_LAST));
        for model in std::mem::replace(last, kept).into_values() {
            // A round without updates has the model of the one before.
            let stays = lasting.contains(&model) || last.values().any(|kept| *kept == model);
            if !stays {
                self.place.store.remove_blob(model)?;
            }
        }
        Ok(())
    }

    fn roll_back(&self, to: Round) -> Result<(), StoreError> {
        self.place.store.truncate_certificates(self.place.run, to + 1)
    }
}

/// What the store knows of a run and of this peer's part in it.
pub(crate) fn restore(
    store: &FileStore,
    manifest: &Manifest,
    peer: PeerId,
    genesis: &Bytes,
) -> Result<(Restored, Checkpoints), NodeError> {
    let run = manifest.run();
    let certificates = sound_certificates(store, run)?;
    let mut chain = Chain::new(manifest.clone());
    let mut steps: Vec<Step> = Vec::new();
    let mut sound = Vec::with_capacity(certificates.len());
    for certificate in certificates {
        match chain.apply(&certificate) {
            Ok(step) => steps.push(step),
            Err(error) => {
                // The others in the run have these rounds and send them again.
                tracing::warn!(round = certificate.body.round, %error, "a stored certificate does not hold; dropped");
                store.truncate_certificates(run, certificate.body.round)?;
                break;
            }
        }
        sound.push(certificate);
    }
    let model = newest_model(store, &chain, &steps, genesis)?;
    let votes = store
        .votes(run, peer)?
        .into_iter()
        .filter(|(round, _)| *round > chain.head().round)
        .map(|(_, bytes)| codec::decode::<Persisted>("stored vote", &bytes, VOTE_BYTES_MAX))
        .collect::<Result<_, _>>()?;
    let last = steps.iter().rev().take(CHECKPOINTS_LAST as usize).map(|step| (step.round, step.model)).collect();
    let lasting = chain.checkpoints().collect();
    Ok((Restored { certificates: sound, model, votes }, Checkpoints { last, lasting }))
}

/// The chain up to the first gap or damaged file. What a disk damaged is dropped from there on.
fn sound_certificates(store: &FileStore, run: RunId) -> Result<Vec<shoal_wire::record::Certificate>, NodeError> {
    let mut certificates = Vec::new();
    loop {
        let next = certificates.len() as Round + 1;
        match store.certificates(run, next, CERTIFICATES_AT_ONCE) {
            Ok(more) if more.is_empty() => return Ok(certificates),
            Ok(more) => certificates.extend(more),
            Err(StoreError::Corrupt { path, why }) => {
                let sound = first_sound(store, run, next)?;
                let damaged = next + sound.len() as Round;
                certificates.extend(sound);
                tracing::warn!(path, why, "dropped this certificate and those after it; peers will send them again");
                store.truncate_certificates(run, damaged)?;
                return Ok(certificates);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn first_sound(store: &FileStore, run: RunId, from: Round) -> Result<Vec<shoal_wire::record::Certificate>, NodeError> {
    let mut sound = Vec::new();
    loop {
        match store.certificate(run, from + sound.len() as Round) {
            Ok(Some(certificate)) => sound.push(certificate),
            Ok(None) | Err(StoreError::Corrupt { .. }) => return Ok(sound),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The model of the last round: from its checkpoint, or replayed from an earlier one with the updates that were
/// kept. `None` when that is not possible; then peers send it.
fn newest_model(store: &FileStore, chain: &Chain, steps: &[Step], genesis: &Bytes) -> Result<Option<Bytes>, NodeError> {
    let (manifest, head) = (chain.manifest(), chain.head().model);
    let read = |digest: Digest| match store.get_blob(digest) {
        _ if digest == manifest.genesis => Ok(Some(genesis.to_vec())),
        Err(StoreError::Corrupt { path, why }) => {
            tracing::warn!(path, why, "this blob counts as missing");
            Ok(None)
        }
        other => other,
    };
    if let Some(model) = read(head)? {
        return Ok(Some(Bytes::from(model)));
    }
    for start in (0..steps.len()).rev() {
        let Some(model) = read(steps[start].before)? else { continue };
        return replay_from(manifest, model, &steps[start..], read);
    }
    Ok(None)
}

fn replay_from(
    manifest: &Manifest,
    mut model: Vec<u8>,
    steps: &[Step],
    read: impl Fn(Digest) -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<Option<Bytes>, NodeError> {
    for step in steps {
        let mut updates = Vec::with_capacity(step.accepted.len());
        for update in &step.accepted {
            let Some(bytes) = read(update.update)? else { return Ok(None) };
            updates.push(bytes);
        }
        match replay::apply(manifest, &model, step, &updates) {
            Ok(next) => model = next,
            Err(error) => {
                tracing::warn!(round = step.round, %error, "a stored round cannot be replayed");
                return Ok(None);
            }
        }
    }
    Ok(Some(Bytes::from(model)))
}
