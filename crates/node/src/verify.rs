//! Replays a run from its first model, and says where it does not hold.

use std::{collections::VecDeque, path::Path};

use shoal_learn::Layout;
use shoal_ledger::{Chain, Lineage, Step, Tally, log::Entry};
use shoal_store::{FileStore, StoreError};
use shoal_wire::{Digest, Manifest, Round, RunId, limits, record::Certificate};

use crate::{NodeError, RelayClient, replay};

/// Where a run's history is read from.
pub enum Source {
    Relay(RelayClient),
    /// A data directory of a relay or a peer, or a copy of one.
    Directory(FileStore),
}

/// A history that holds.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Replayed {
    pub run: RunId,
    pub rounds: Round,
    /// Digest of the model after the last round.
    pub model: Digest,
    /// Updates applied.
    pub accepted: u64,
    /// Rounds certified without a quorum, by those present and the anchors.
    pub recoveries: u64,
    /// Stored checkpoints compared with the replayed models.
    pub checkpoints: u64,
    pub tally: Tally,
    pub lineage: Lineage,
    /// What a log says of each round, in order.
    #[serde(skip)]
    pub entries: Vec<Entry>,
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

/// The first round that does not hold; round 0 is the manifest and the first model.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    pub round: Round,
    pub why: String,
}

/// Told after each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    pub round: Round,
    pub accepted: usize,
    pub recovery: bool,
    pub model: Digest,
}

/// Why there is no verdict, or a bad one.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("round {} does not hold: {}", .0.round, .0.why)]
    Fails(Failure),
    #[error(transparent)]
    Unavailable(NodeError),
}

impl Source {
    /// A directory that exists, else a relay's address.
    pub fn directory(path: &Path) -> Result<Self, NodeError> {
        Ok(Self::Directory(FileStore::open(path)?))
    }

    async fn manifest(&self, run: RunId) -> Result<Manifest, NodeError> {
        match self {
            Self::Relay(relay) => relay.manifest(run).await.map(|(_, manifest)| manifest),
            Self::Directory(store) => {
                let envelope = store.manifest(run)?.ok_or_else(|| NodeError::NotStored {
                    what: format!("run {run}"),
                    directory: store.directory().display().to_string(),
                })?;
                Ok(Manifest::open(&envelope)?)
            }
        }
    }

    /// Certificates from a round on. An error is about that very round.
    async fn certificates(&self, run: RunId, from: Round) -> Result<Vec<Certificate>, NodeError> {
        match self {
            Self::Relay(relay) => match relay.certificates(run, from).await {
                // Something in this batch is damaged: the good ones before it come one by one.
                Err(error) if is_verdict(&error) => relay.certificates_at_most(run, from, 1).await,
                other => other,
            },
            Self::Directory(store) => match store.certificate(run, from)? {
                Some(certificate) => Ok(vec![certificate]),
                None if store.last_round(run)? > from => {
                    let what = format!("the certificate of round {from}");
                    Err(NodeError::NotStored { what, directory: store.directory().display().to_string() })
                }
                None => Ok(Vec::new()),
            },
        }
    }

    async fn blob(&self, digest: Digest, limit: u64) -> Result<Option<Vec<u8>>, NodeError> {
        match self {
            Self::Relay(relay) => relay.blob(digest, limit).await,
            Self::Directory(store) => Ok(store.get_blob(digest)?),
        }
    }

    async fn needed_blob(&self, what: &'static str, digest: Digest, limit: u64) -> Result<Vec<u8>, NodeError> {
        self.blob(digest, limit).await?.ok_or(NodeError::Missing { what, digest })
    }
}

/// Whether an error says something about the history, rather than about the way to it. Only what is seen to be wrong
/// may accuse: a relay that is busy, or whose disk or database fails, has not changed anything.
pub(crate) fn is_verdict(error: &NodeError) -> bool {
    match error {
        NodeError::Damaged { .. }
        | NodeError::CorruptBlob(_)
        | NodeError::Missing { .. }
        | NodeError::NotStored { .. }
        | NodeError::OtherRun(_)
        | NodeError::TooLarge { .. }
        | NodeError::CutShort(_)
        | NodeError::Wire(_) => true,
        NodeError::Store(error) => matches!(error, StoreError::Corrupt { .. }),
        _ => false,
    }
}

fn at(round: Round) -> impl Fn(NodeError) -> VerifyError {
    move |error| {
        if is_verdict(&error) { fails(round, error) } else { VerifyError::Unavailable(error) }
    }
}

fn fails(round: Round, why: impl ToString) -> VerifyError {
    VerifyError::Fails(Failure { round, why: why.to_string() })
}

/// A run's certificates, each checked against those before it.
struct History<'a> {
    source: &'a Source,
    chain: Chain,
    tally: Tally,
    entries: Vec<Entry>,
    fetched: VecDeque<Certificate>,
}

impl<'a> History<'a> {
    async fn open(source: &'a Source, run: RunId) -> Result<Self, VerifyError> {
        let manifest = source.manifest(run).await.map_err(|error| match &error {
            // A directory without the run is a wrong argument, not a broken history.
            NodeError::NotStored { .. } => VerifyError::Unavailable(error),
            _ => at(0)(error),
        })?;
        let chain = Chain::new(manifest);
        Ok(Self { source, chain, tally: Tally::default(), entries: Vec::new(), fetched: VecDeque::new() })
    }

    /// The next round; `None` after the last.
    async fn next(&mut self) -> Result<Option<Step>, VerifyError> {
        let round = self.chain.head().round + 1;
        if self.fetched.is_empty() {
            self.fetched = self.source.certificates(self.chain.run(), round).await.map_err(at(round))?.into();
        }
        let Some(certificate) = self.fetched.pop_front() else { return Ok(None) };
        let step = self.chain.apply(&certificate).map_err(|error| fails(round, error))?;
        self.tally.count(&certificate, &self.chain);
        self.entries.push(Entry::of(&certificate));
        Ok(Some(step))
    }
}

/// Checks every certificate, without the models that they led to.
pub async fn read_chain(source: &Source, run: RunId) -> Result<(Chain, Tally), VerifyError> {
    let mut history = History::open(source, run).await?;
    while history.next().await?.is_some() {}
    Ok((history.chain, history.tally))
}

/// Checks every certificate, applies every accepted update, and compares every model on the way.
pub async fn verify(source: &Source, run: RunId, mut on_round: impl FnMut(Progress)) -> Result<Replayed, VerifyError> {
    let mut history = History::open(source, run).await?;
    let manifest = history.chain.manifest().clone();
    let layout = Layout::of(&manifest.model).map_err(|error| fails(0, error))?;
    let model_bytes = layout.len() as u64 * 4;
    let mut model = source.needed_blob("the first model", manifest.genesis, model_bytes).await.map_err(at(0))?;
    if model.len() as u64 != model_bytes {
        return Err(fails(0, format!("the first model has {} bytes, not {model_bytes}", model.len())));
    }
    let (mut accepted, mut recoveries, mut checkpoints) = (0, 0, 0);
    let mut at_hand = manifest.genesis;
    while let Some(step) = history.next().await? {
        let round = step.round;
        model = go_back(source, model, at_hand, &step).await?;
        model = replay_round(source, &manifest, model, &step).await?;
        at_hand = step.model;
        accepted += step.accepted.len() as u64;
        recoveries += u64::from(step.recovery);
        // A kept checkpoint must be whole; its address is the model's digest, so whole means equal.
        let checkpoint = step.model != step.before
            && source.blob(step.model, limits::BLOB_BYTES_MAX).await.map_err(at(round))?.is_some();
        checkpoints += u64::from(checkpoint);
        let (recovery, model) = (step.recovery, step.model);
        on_round(Progress { round, accepted: step.accepted.len(), recovery, model });
    }
    let History { chain, tally, entries, .. } = history;
    let head = chain.head();
    if head.model != at_hand {
        model = source.needed_blob(ROLLED_BACK, head.model, model_bytes).await.map_err(at(head.round))?;
    }
    Ok(Replayed {
        run,
        rounds: head.round,
        model: head.model,
        accepted,
        recoveries,
        checkpoints,
        tally,
        lineage: chain.lineage(),
        entries,
        bytes: model,
    })
}

const ROLLED_BACK: &str = "the model that the run was rolled back to";

/// The model that a round starts from. Where the run was rolled back this is a checkpoint, whose digest an earlier round
/// of the same history led to.
async fn go_back(source: &Source, model: Vec<u8>, at_hand: Digest, step: &Step) -> Result<Vec<u8>, VerifyError> {
    if step.before == at_hand {
        return Ok(model);
    }
    source.needed_blob(ROLLED_BACK, step.before, model.len() as u64).await.map_err(at(step.round))
}

async fn replay_round(
    source: &Source,
    manifest: &Manifest,
    model: Vec<u8>,
    step: &Step,
) -> Result<Vec<u8>, VerifyError> {
    let mut updates = Vec::with_capacity(step.accepted.len());
    for update in &step.accepted {
        let bytes =
            source.needed_blob("an accepted update", update.update, update.bytes).await.map_err(at(step.round))?;
        if bytes.len() as u64 != update.bytes {
            let why = format!("update {} has {} bytes, its commit says {}", update.update, bytes.len(), update.bytes);
            return Err(fails(step.round, why));
        }
        updates.push(bytes);
    }
    if updates.is_empty() && step.model == step.before {
        return Ok(model);
    }
    replay::apply(manifest, &model, step, &updates).map_err(|error| fails(step.round, error))
}
