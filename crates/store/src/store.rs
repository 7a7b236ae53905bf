//! The record layer: which record is in which file, and how it is checked when read back.

use std::{collections::BTreeSet, sync::Mutex};

use shoal_wire::{Digest, Envelope, Manifest, PeerId, Round, RunId, SessionId, codec, limits, record::Certificate};

use crate::{Files, StoreError, log};

const CHECKSUM_BYTES: usize = 32;
const SECRET_PATH: &str = "device.key";

/// Records over some [`Files`].
#[derive(Debug)]
pub struct Store<F> {
    files: F,
    /// Vote logs whose tail was checked (and repaired) since the store was opened.
    checked_logs: Mutex<BTreeSet<String>>,
}

impl<F: Files> Store<F> {
    pub fn new(files: F) -> Self {
        Self { files, checked_logs: Mutex::default() }
    }

    pub fn files(&self) -> &F {
        &self.files
    }

    pub async fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let size = bytes.len() as u64;
        if size > limits::BLOB_BYTES_MAX {
            return Err(StoreError::TooLarge { what: "blob", size, limit: limits::BLOB_BYTES_MAX });
        }
        let digest = Digest::of(bytes);
        let path = blob_path(digest);
        // The name is the digest, so a file of the right size is this blob unless it rotted: then replace it.
        if self.files.size(&path).await? != Some(size) || !matches!(self.get_blob(digest).await, Ok(Some(_))) {
            self.files.write_atomic(&path, bytes).await?;
        }
        Ok(digest)
    }

    pub async fn get_blob(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = blob_path(digest);
        let Some(bytes) = self.files.read(&path, limits::BLOB_BYTES_MAX).await? else { return Ok(None) };
        if Digest::of(&bytes) == digest {
            Ok(Some(bytes))
        } else {
            Err(StoreError::corrupt(&path, "its bytes do not match the digest in its name"))
        }
    }

    /// Whether there is a file for the blob; its bytes are checked only by [`Self::get_blob`].
    pub async fn has_blob(&self, digest: Digest) -> Result<bool, StoreError> {
        Ok(self.blob_size(digest).await?.is_some())
    }

    pub async fn blob_size(&self, digest: Digest) -> Result<Option<u64>, StoreError> {
        self.files.size(&blob_path(digest)).await
    }

    pub async fn remove_blob(&self, digest: Digest) -> Result<(), StoreError> {
        self.files.remove(&blob_path(digest)).await
    }

    /// Stores a manifest that its publisher signed, and returns its run.
    pub async fn put_manifest(&self, envelope: &Envelope) -> Result<RunId, StoreError> {
        let manifest = Manifest::open(envelope).map_err(|error| StoreError::corrupt("the given manifest", error))?;
        let run = manifest.run();
        self.files.write_atomic(&manifest_path(run), &codec::encode(envelope)).await?;
        Ok(run)
    }

    /// The signed manifest of a run, after checking its signature and that it is this run's.
    pub async fn manifest(&self, run: RunId) -> Result<Option<Envelope>, StoreError> {
        let path = manifest_path(run);
        let limit = limits::MANIFEST_BYTES_MAX + 256;
        let Some(bytes) = self.files.read(&path, limit as u64).await? else { return Ok(None) };
        let envelope: Envelope =
            codec::decode("signed manifest", &bytes, limit).map_err(|error| StoreError::corrupt(&path, error))?;
        let manifest = Manifest::open(&envelope).map_err(|error| StoreError::corrupt(&path, error))?;
        if manifest.run() == run { Ok(Some(envelope)) } else { Err(StoreError::corrupt(&path, "made for another run")) }
    }

    /// Runs that have a manifest here.
    pub async fn runs(&self) -> Result<Vec<RunId>, StoreError> {
        let mut runs = Vec::new();
        for run in self.files.list("runs").await?.iter().filter_map(|name| RunId::from_hex(name)) {
            if self.files.size(&manifest_path(run)).await?.is_some() {
                runs.push(run);
            }
        }
        Ok(runs)
    }

    pub async fn put_certificate(&self, run: RunId, certificate: &Certificate) -> Result<(), StoreError> {
        let path = certificate_path(run, certificate.body.round);
        self.files.write_atomic(&path, &with_checksum(codec::encode(certificate))).await
    }

    pub async fn certificate(&self, run: RunId, round: Round) -> Result<Option<Certificate>, StoreError> {
        let path = certificate_path(run, round);
        let limit = (limits::CERTIFICATE_BYTES_MAX + CHECKSUM_BYTES) as u64;
        let Some(bytes) = self.files.read(&path, limit).await? else { return Ok(None) };
        let bytes = without_checksum(&path, bytes)?;
        let certificate = Certificate::decode(&bytes).map_err(|error| StoreError::corrupt(&path, error))?;
        if certificate.body.round == round && certificate.body.run == run {
            Ok(Some(certificate))
        } else {
            Err(StoreError::corrupt(&path, "it belongs to another round or run"))
        }
    }

    /// Certificates from a round on, at most `limit`, up to the first gap.
    pub async fn certificates(&self, run: RunId, from: Round, limit: usize) -> Result<Vec<Certificate>, StoreError> {
        let mut found = Vec::new();
        let mut round = from;
        while found.len() < limit {
            let Some(certificate) = self.certificate(run, round).await? else { break };
            found.push(certificate);
            round += 1;
        }
        Ok(found)
    }

    /// Newest round with a certificate file; 0 when there is none.
    pub async fn last_round(&self, run: RunId) -> Result<Round, StoreError> {
        let names = self.files.list(&format!("runs/{run}/certificates")).await?;
        Ok(names.iter().filter_map(|name| round_of(name)).max().unwrap_or(0))
    }

    /// Removes the certificates from a round on: a provisional recovery was replaced.
    pub async fn truncate_certificates(&self, run: RunId, from: Round) -> Result<(), StoreError> {
        let mut rounds: Vec<Round> = self
            .files
            .list(&format!("runs/{run}/certificates"))
            .await?
            .iter()
            .filter_map(|name| round_of(name))
            .filter(|&round| round >= from)
            .collect();
        // Newest first, so that a crash half-way leaves a chain without gaps.
        rounds.sort_unstable_by(|a, b| b.cmp(a));
        for round in rounds {
            self.files.remove(&certificate_path(run, round)).await?;
        }
        Ok(())
    }

    /// Adds a vote to a peer's log; when this returns, the vote survives a crash.
    pub async fn append_vote(&self, run: RunId, peer: PeerId, round: Round, vote: &[u8]) -> Result<(), StoreError> {
        let path = votes_path(run, peer);
        if vote.len() + 8 > limits::ENTRY_BYTES_MAX {
            let (size, limit) = (vote.len() as u64, limits::ENTRY_BYTES_MAX as u64 - 8);
            return Err(StoreError::TooLarge { what: "vote", size, limit });
        }
        if !self.is_checked(&path) {
            self.votes(run, peer).await?;
        }
        self.files.append(&path, &log::entry(&vote_payload(round, vote))).await
    }

    /// A peer's votes in the order in which they were stored. An append that a crash cut short is dropped.
    pub async fn votes(&self, run: RunId, peer: PeerId) -> Result<Vec<(Round, Vec<u8>)>, StoreError> {
        let path = votes_path(run, peer);
        let bytes = self.files.read(&path, limits::VOTES_BYTES_MAX).await?.unwrap_or_default();
        let parsed = log::parse(&bytes);
        if parsed.broken_inside {
            return Err(StoreError::corrupt(&path, "an entry does not match its checksum"));
        }
        let votes = parsed.entries.iter().map(|payload| parse_vote(&path, payload)).collect::<Result<_, _>>()?;
        if parsed.sound_bytes < bytes.len() {
            self.files.write_atomic(&path, &bytes[..parsed.sound_bytes]).await?;
        }
        if let Ok(mut checked) = self.checked_logs.lock() {
            checked.insert(path);
        }
        Ok(votes)
    }

    /// Drops votes of rounds before `before`, which are settled.
    pub async fn forget_votes(&self, run: RunId, peer: PeerId, before: Round) -> Result<(), StoreError> {
        let votes = self.votes(run, peer).await?;
        if votes.iter().any(|(round, _)| *round < before) {
            let kept = votes.iter().filter(|(round, _)| *round >= before);
            let bytes: Vec<u8> = kept.flat_map(|(round, vote)| log::entry(&vote_payload(*round, vote))).collect();
            self.files.write_atomic(&votes_path(run, peer), &bytes).await?;
        }
        Ok(())
    }

    /// The session that a peer's votes here are of; `fresh` becomes it when there is none yet, or when it cannot be read:
    /// another one is always safe, since nothing that was voted in it binds.
    pub async fn session_or(&self, run: RunId, peer: PeerId, fresh: SessionId) -> Result<SessionId, StoreError> {
        let path = session_path(run, peer);
        let stored = match self.files.read(&path, (size_of::<SessionId>() + CHECKSUM_BYTES) as u64).await {
            Ok(Some(bytes)) => without_checksum(&path, bytes).ok().and_then(|bytes| bytes.try_into().ok()),
            Ok(None) | Err(StoreError::TooLarge { .. } | StoreError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(bytes) = stored {
            return Ok(SessionId(bytes));
        }
        self.put_session(run, peer, fresh).await?;
        Ok(fresh)
    }

    /// What a peer votes from now on is of this session.
    pub async fn put_session(&self, run: RunId, peer: PeerId, session: SessionId) -> Result<(), StoreError> {
        self.files.write_atomic(&session_path(run, peer), &with_checksum(session.0.to_vec())).await
    }

    pub async fn put_residual(&self, run: RunId, peer: PeerId, residual: &[u8]) -> Result<(), StoreError> {
        let (size, limit) = (residual.len() as u64, limits::RESIDUAL_BYTES_MAX);
        if size > limit {
            return Err(StoreError::TooLarge { what: "residual", size, limit });
        }
        self.files.write_atomic(&residual_path(run, peer), &with_checksum(residual.to_vec())).await
    }

    pub async fn residual(&self, run: RunId, peer: PeerId) -> Result<Option<Vec<u8>>, StoreError> {
        let path = residual_path(run, peer);
        match self.files.read(&path, limits::RESIDUAL_BYTES_MAX + CHECKSUM_BYTES as u64).await? {
            Some(bytes) => without_checksum(&path, bytes).map(Some),
            None => Ok(None),
        }
    }

    /// The device's secret; `fresh` becomes it when there is none yet.
    pub async fn device_secret_or(&self, fresh: [u8; 32]) -> Result<[u8; 32], StoreError> {
        if let Some(bytes) = self.files.read(SECRET_PATH, 64).await? {
            return bytes.try_into().map_err(|_| StoreError::corrupt(SECRET_PATH, "it must hold 32 bytes"));
        }
        self.files.write_atomic(SECRET_PATH, &fresh).await?;
        Ok(fresh)
    }

    fn is_checked(&self, path: &str) -> bool {
        self.checked_logs.lock().is_ok_and(|checked| checked.contains(path))
    }
}

fn blob_path(digest: Digest) -> String {
    let hex = digest.to_string();
    format!("blobs/{}/{hex}", &hex[..2])
}

fn manifest_path(run: RunId) -> String {
    format!("runs/{run}/manifest")
}

fn certificate_path(run: RunId, round: Round) -> String {
    format!("runs/{run}/certificates/{round:010}.cert")
}

fn round_of(name: &str) -> Option<Round> {
    name.strip_suffix(".cert")?.parse().ok()
}

fn votes_path(run: RunId, peer: PeerId) -> String {
    format!("peers/{run}/{peer}/votes.log")
}

fn session_path(run: RunId, peer: PeerId) -> String {
    format!("peers/{run}/{peer}/session")
}

fn residual_path(run: RunId, peer: PeerId) -> String {
    format!("peers/{run}/{peer}/residual")
}

fn vote_payload(round: Round, vote: &[u8]) -> Vec<u8> {
    let mut payload = round.to_le_bytes().to_vec();
    payload.extend_from_slice(vote);
    payload
}

fn parse_vote(path: &str, payload: &[u8]) -> Result<(Round, Vec<u8>), StoreError> {
    let (round, vote) =
        payload.split_first_chunk::<8>().ok_or_else(|| StoreError::corrupt(path, "an entry is too short"))?;
    Ok((Round::from_le_bytes(*round), vote.to_vec()))
}

fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let digest = Digest::of(&bytes);
    bytes.extend_from_slice(&digest.0);
    bytes
}

fn without_checksum(path: &str, mut bytes: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    let body = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or_else(|| StoreError::corrupt(path, "it is cut short"))?;
    let checksum = bytes.split_off(body);
    if Digest::of(&bytes).0[..] == checksum[..] {
        Ok(bytes)
    } else {
        Err(StoreError::corrupt(path, "its bytes do not match their checksum"))
    }
}
