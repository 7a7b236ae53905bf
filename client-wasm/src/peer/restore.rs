//! What this browser keeps of a run: chain, own votes, the last few models and updates, error feedback.

use std::collections::BTreeMap;

use shoal_store::{Files, Store, StoreError};
use shoal_swarm::{Persisted, Record, Restored};
use shoal_wire::{Digest, PeerId, Round, RunId, SessionId, codec};

use crate::files::BrowserFiles;

/// Models and updates of this many rounds stay, for peers that fell behind.
const ROUNDS_KEPT: Round = 3;
/// Settled votes are dropped now and then, not every round.
const VOTES_TIDIED_EVERY: Round = 16;

pub struct Kept {
    store: Store<BrowserFiles>,
    run: RunId,
    me: PeerId,
    /// When each stored blob was last wanted.
    blobs: BTreeMap<Digest, Round>,
    /// The stored votes cannot be read: whoever may have voted must not vote again.
    votes_lost: bool,
}

impl Kept {
    pub fn open(files: BrowserFiles, run: RunId, me: PeerId) -> Self {
        Self { store: Store::new(files), run, me, blobs: BTreeMap::new(), votes_lost: false }
    }

    pub fn is_durable(&self) -> bool {
        self.store.files().is_durable() && !self.votes_lost
    }

    /// What the last session left. A damaged part is left out, and named: peers hold it all.
    pub async fn restore(&mut self) -> (Restored, Option<String>) {
        let votes = match self.store.votes(self.run, self.me).await {
            Ok(votes) => votes,
            Err(error) => {
                self.votes_lost = true;
                return (Restored::default(), Some(error.to_string()));
            }
        };
        let (restored, why) = match self.read().await {
            Ok(restored) => (restored, None),
            Err(error) => (Restored::default(), Some(error.to_string())),
        };
        let votes = votes.iter().filter_map(|(_, vote)| codec::decode("vote", vote, vote.len()).ok()).collect();
        (Restored { votes, ..restored }, why)
    }

    async fn read(&mut self) -> Result<Restored, StoreError> {
        let certificates = self.store.certificates(self.run, 1, usize::MAX).await?;
        let head = certificates.last().map(|last| (last.body.round, last.body.content.model));
        let head_round = head.map_or(0, |(round, _)| round);
        for digest in self.stored_blobs().await? {
            self.blobs.insert(digest, head_round);
        }
        let model = match head {
            // A model that rotted is fetched again.
            Some((_, digest)) => self.store.get_blob(digest).await.unwrap_or_default(),
            None => None,
        };
        Ok(Restored { certificates, model: model.map(Into::into), votes: Vec::new() })
    }

    async fn stored_blobs(&self) -> Result<Vec<Digest>, StoreError> {
        let files = self.store.files();
        let mut digests = Vec::new();
        for folder in files.list("blobs").await? {
            let names = files.list(&format!("blobs/{folder}")).await?;
            digests.extend(names.iter().filter_map(|name| Digest::from_hex(name)));
        }
        Ok(digests)
    }

    /// The session of the votes that are kept here. One that cannot be kept is as good until the tab closes.
    pub async fn session(&self, fresh: SessionId) -> SessionId {
        self.store.session_or(self.run, self.me, fresh).await.unwrap_or(fresh)
    }

    pub async fn forget_chain(&mut self) {
        // Nothing is lost if this fails: the chain is refused again at the next start.
        self.store.truncate_certificates(self.run, 1).await.ok();
    }

    pub async fn residual(&self) -> Option<Vec<u8>> {
        // Error feedback that rotted is worth nothing; training begins without it.
        self.store.residual(self.run, self.me).await.unwrap_or_default()
    }

    pub async fn put_residual(&self, residual: &[u8]) -> Result<(), StoreError> {
        self.store.put_residual(self.run, self.me, residual).await
    }

    pub async fn put(&mut self, head: Round, record: &Record) -> Result<(), StoreError> {
        match record {
            Record::Vote(vote) => {
                self.store.append_vote(self.run, self.me, vote.round, &codec::encode::<Persisted>(vote)).await
            }
            Record::Session(session) => self.store.put_session(self.run, self.me, *session).await,
            Record::Certificate(certificate) => self.store.put_certificate(self.run, certificate).await,
            Record::Blob { digest, bytes, .. } => {
                self.blobs.insert(*digest, head);
                self.store.put_blob(bytes).await.map(drop)
            }
        }
    }

    pub async fn blob(&self, digest: Digest) -> Option<Vec<u8>> {
        // A blob that rotted is as good as missing: other peers have it.
        self.store.get_blob(digest).await.unwrap_or_default()
    }

    pub async fn forget(&mut self, digest: Digest) -> Result<(), StoreError> {
        self.blobs.remove(&digest);
        self.store.remove_blob(digest).await
    }

    pub async fn roll_back(&self, to: Round) -> Result<(), StoreError> {
        self.store.truncate_certificates(self.run, to + 1).await
    }

    /// Drops what no peer will ask for any more.
    pub async fn tidy(&mut self, head: Round, model: Digest) -> Result<(), StoreError> {
        if let Some(wanted) = self.blobs.get_mut(&model) {
            *wanted = head;
        }
        let old: Vec<Digest> =
            self.blobs.iter().filter(|(_, wanted)| **wanted + ROUNDS_KEPT < head).map(|(digest, _)| *digest).collect();
        for digest in old {
            self.store.remove_blob(digest).await?;
            self.blobs.remove(&digest);
        }
        if head.is_multiple_of(VOTES_TIDIED_EVERY) {
            self.store.forget_votes(self.run, self.me, head + 1).await?;
        }
        Ok(())
    }
}
