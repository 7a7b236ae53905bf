//! What survives a crash.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use shoal_ledger::{Chain, Step};
use shoal_store::{Files, Store, StoreError};
use shoal_swarm::{Bytes, Job, Outcome, Persisted, Record, Restored};
use shoal_wire::{
    Digest, Manifest, Millis, PeerId, Round, RunId, SessionId, codec, limits::ENTRY_BYTES_MAX, record::Certificate,
};

use crate::{Random, engine::Engine};

/// Votes that are written to a real log when a crash tears it: those of the last rounds.
const TORN_LOG_VOTES: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// The session of whoever opened this folder first, kept beside its votes.
    pub session: Option<SessionId>,
    pub certificates: BTreeMap<Round, Certificate>,
    pub votes: Vec<Persisted>,
    pub blobs: BTreeMap<Digest, Bytes>,
    /// Writes fail from now on.
    pub broken: bool,
    /// Blobs find no room from now on; smaller records do.
    pub full: bool,
    /// When the last write that was begun is done: a disk writes in order, as both shells do.
    pub written_at: Millis,
}

impl Disk {
    pub fn refuses(&self, record: &Record) -> bool {
        self.broken || (self.full && matches!(record, Record::Blob { .. }))
    }

    pub fn store(&mut self, record: Record) {
        match record {
            Record::Vote(vote) => self.votes.push(vote),
            Record::Session(session) => self.session = Some(session),
            Record::Certificate(certificate) => {
                let round = certificate.body.round;
                self.certificates.split_off(&round);
                self.certificates.insert(round, *certificate);
            }
            Record::Blob { digest, bytes, .. } => {
                self.blobs.insert(digest, bytes);
            }
        }
    }

    /// What a shell gives a peer that starts again: the chain up to the first gap or certificate that does not hold, the
    /// newest model or what replaying makes of an earlier one, and the votes of the rounds after the chain.
    pub fn restore(&self, manifest: &Manifest, engine: &mut dyn Engine) -> Restored {
        let mut chain = Chain::new(manifest.clone());
        let mut certificates = Vec::new();
        let mut steps: Vec<Step> = Vec::new();
        for (expected, (round, certificate)) in (1..).zip(&self.certificates) {
            let Some(step) = (expected == *round).then(|| chain.apply(certificate).ok()).flatten() else { break };
            certificates.push(certificate.clone());
            steps.push(step);
        }
        let head = chain.head().round;
        let votes = self.votes.iter().filter(|vote| vote.round > head).cloned().collect();
        Restored { certificates, model: self.newest_model(manifest.genesis, &steps, engine), votes }
    }

    fn newest_model(&self, genesis: Digest, steps: &[Step], engine: &mut dyn Engine) -> Option<Bytes> {
        for start in (0..=steps.len()).rev() {
            let digest = start.checked_sub(1).map_or(genesis, |last| steps[last].model);
            if let Some(model) = self.blobs.get(&digest) {
                return replay(model.clone(), &steps[start..], |update| self.blobs.get(&update).cloned(), engine);
            }
        }
        None
    }

    /// The last write was under way when the power went: a vote is torn, and everything else is either written or not.
    /// What is left of the votes is read back by the real store.
    pub fn tear(&mut self, random: &mut Random, (run, peer): (RunId, PeerId), record: &Record) {
        let Record::Vote(torn) = record else { return };
        let from = self.votes.len().saturating_sub(TORN_LOG_VOTES);
        let whole = self.votes.split_off(from);
        match votes_after_a_tear(random, (run, peer), &whole, torn) {
            Ok(read) => self.votes.extend(read),
            Err(error) => unreachable!("the store drops what a crash cut short: {error}"),
        }
    }
}

/// Applies rounds to a model; `None` when an update is missing or a step gives another model than was certified.
pub(crate) fn replay(
    mut model: Bytes,
    steps: &[Step],
    find: impl Fn(Digest) -> Option<Bytes>,
    engine: &mut dyn Engine,
) -> Option<Bytes> {
    for step in steps.iter().filter(|step| !step.accepted.is_empty()) {
        let updates: Option<Vec<(u16, Bytes)>> =
            step.accepted.iter().map(|update| Some((update.weight, find(update.update)?))).collect();
        let job = Job::Aggregate { model, updates: updates?, history: step.history.clone(), share: step.share };
        match engine.run(&job, 1024) {
            Outcome::Aggregated { model: next, .. } if Digest::of(&next) == step.model => model = next,
            _ => return None,
        }
    }
    Some(model)
}

fn votes_after_a_tear(
    random: &mut Random,
    (run, peer): (RunId, PeerId),
    whole: &[Persisted],
    torn: &Persisted,
) -> Result<Vec<Persisted>, StoreError> {
    let store = Store::new(Memory::default());
    let append = |vote: &Persisted| ready(store.append_vote(run, peer, vote.round, &codec::encode(vote)));
    whole.iter().try_for_each(append)?;
    let sound = store.files().bytes();
    append(torn)?;
    let kept = random.between(sound, store.files().bytes() - 1);
    store.files().cut(kept);
    let after = Store::new(store.files().clone());
    let votes = ready(after.votes(run, peer))?;
    let decode = |(_, bytes): &(Round, Vec<u8>)| codec::decode::<Persisted>("stored vote", bytes, ENTRY_BYTES_MAX);
    let read: Vec<Persisted> = votes.iter().filter_map(|vote| decode(vote).ok()).collect();
    if read == whole {
        Ok(read)
    } else {
        Err(StoreError::Corrupt { path: "votes.log".to_owned(), why: "not the votes before the torn one".to_owned() })
    }
}

/// Files in memory; the only one here is a log of votes.
#[derive(Clone, Debug, Default)]
struct Memory(RefCell<BTreeMap<String, Vec<u8>>>);

impl Memory {
    fn bytes(&self) -> u64 {
        self.0.borrow().values().map(|file| file.len() as u64).sum()
    }

    fn cut(&self, to: u64) {
        self.0.borrow_mut().values_mut().for_each(|file| file.truncate(to as usize));
    }
}

impl Files for Memory {
    async fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.0.borrow().get(path).cloned();
        let size = found.as_ref().map_or(0, |file| file.len() as u64);
        if size > limit { Err(StoreError::TooLarge { what: "file", size, limit }) } else { Ok(found) }
    }

    async fn write_atomic(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.borrow_mut().insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }

    async fn append(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.borrow_mut().entry(path.to_owned()).or_default().extend_from_slice(bytes);
        Ok(())
    }

    async fn remove(&self, path: &str) -> Result<(), StoreError> {
        self.0.borrow_mut().remove(path);
        Ok(())
    }

    async fn list(&self, directory: &str) -> Result<Vec<String>, StoreError> {
        let files = self.0.borrow();
        let inside = files.keys().filter_map(|path| path.strip_prefix(directory)?.strip_prefix('/'));
        Ok(inside.map(str::to_owned).collect())
    }

    async fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.0.borrow().get(path).map(|file| file.len() as u64))
    }
}

/// Runs a future that never waits.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("files in memory never wait"),
    }
}
