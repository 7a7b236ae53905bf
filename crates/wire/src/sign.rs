//! Signing. Only this module builds [`Verified`], so a value of that type is proof that its signature held.
//!
//! What is signed is never bytes that another party chose: it is a BLAKE3 derived key over the payload under
//! a label that names the role, so a signature given in one role (a relay's challenge, say) is worthless in
//! every other.

use core::fmt;
use core::ops::Deref;

use ed25519_dalek::{Signature as DalekSignature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Digest, PeerId, RunId,
    codec::{self, WireError},
};

/// Role of a signature; each has a label of its own. It names the version of the protocol that last changed what is signed
/// so, and in a relay's challenge the newest: one of an earlier version is refused there before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Messages between peers of a run.
    Swarm,
    /// Messages between peers of a run with many peers.
    Crowd,
    /// Session descriptions and candidates, which carry the DTLS fingerprint.
    Link,
    /// Answer to a relay's challenge.
    RelayChallenge,
    /// A run's manifest, signed by its publisher.
    Manifest,
    /// A host's command to a relay.
    HostCommand,
}

impl Domain {
    const fn label(self) -> &'static str {
        match self {
            Self::Swarm => "shoal 2026 v2 swarm message",
            Self::Crowd => "shoal 2026 v1 crowd message",
            Self::Link => "shoal 2026 v1 link description",
            Self::RelayChallenge => "shoal 2026 v2 relay challenge",
            Self::Manifest => "shoal 2026 v1 manifest",
            Self::HostCommand => "shoal 2026 v1 host command",
        }
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(&self.0[..4]))
    }
}

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut low, mut high) = ([0; 32], [0; 32]);
        low.copy_from_slice(&self.0[..32]);
        high.copy_from_slice(&self.0[32..]);
        (low, high).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (low, high) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&low);
        bytes[32..].copy_from_slice(&high);
        Ok(Self(bytes))
    }
}

/// One peer's signing key for one run.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer().short())
    }
}

impl Identity {
    /// From 32 secret bytes.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(&secret) }
    }

    /// The identity of a device in a run: derived from the device's secret, so it is the same after a
    /// restart, and different in every run, so runs cannot be joined up.
    pub fn for_run(device_secret: &[u8; 32], run: RunId) -> Self {
        let mut material = device_secret.to_vec();
        material.extend_from_slice(&run.0);
        Self::from_secret(blake3::derive_key("shoal 2026 v1 identity in a run", &material))
    }

    pub fn peer(&self) -> PeerId {
        PeerId(self.key.verifying_key().to_bytes())
    }

    /// A secret that only this identity can make again, in the role that `context` names. Nothing about the key can be
    /// learnt from it, so it may be revealed.
    pub fn derive(&self, context: &str, about: &[u8]) -> Digest {
        Digest::in_domain(context, &[&self.key.to_bytes()[..], about].concat())
    }

    pub fn sign(&self, domain: Domain, payload: &[u8]) -> Signature {
        let digest = Digest::in_domain(domain.label(), payload);
        let signature = Signature(self.key.sign(&digest.0).to_bytes());
        #[cfg(feature = "memo")]
        crate::memo::made(self.peer(), digest, &signature);
        signature
    }

    /// Encodes and signs a value.
    pub fn seal<T: Serialize>(&self, domain: Domain, value: &T) -> Envelope {
        let payload = codec::encode(value);
        let signature = self.sign(domain, &payload);
        Envelope { from: self.peer(), payload, signature }
    }
}

/// Checks a signature strictly: small-order and non-canonical keys are refused.
pub fn verify(peer: PeerId, domain: Domain, payload: &[u8], signature: &Signature) -> Result<(), WireError> {
    let digest = Digest::in_domain(domain.label(), payload);
    let check = || {
        let bad = |_| WireError::BadSignature(peer);
        let key = VerifyingKey::from_bytes(&peer.0).map_err(bad)?;
        key.verify_strict(&digest.0, &DalekSignature::from_bytes(&signature.0)).map_err(bad)
    };
    #[cfg(feature = "memo")]
    return crate::memo::once(peer, digest, signature, check);
    #[cfg(not(feature = "memo"))]
    check()
}

/// Checks all signatures under one payload that a value carries: from different peers, in their order. The result is
/// said by whoever brought it.
pub fn verify_all<T>(
    from: PeerId,
    value: T,
    domain: Domain,
    payload: &[u8],
    signatures: impl Fn(&T) -> &[(PeerId, Signature)],
) -> Result<Verified<T>, WireError> {
    let all = signatures(&value);
    if !all.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(WireError::NotCanonical { what: "signatures" });
    }
    for (peer, signature) in all {
        verify(*peer, domain, payload, signature)?;
    }
    Ok(Verified { from, value })
}

/// A payload, who says it, and the signature that proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    pub from: PeerId,
    pub payload: Vec<u8>,
    pub signature: Signature,
}

impl Envelope {
    /// Checks the signature and decodes the payload.
    pub fn open<T: Serialize + DeserializeOwned>(
        &self,
        what: &'static str,
        domain: Domain,
        limit: usize,
    ) -> Result<Verified<T>, WireError> {
        if self.payload.len() > limit {
            return Err(WireError::TooLarge { what, size: self.payload.len(), limit });
        }
        verify(self.from, domain, &self.payload, &self.signature)?;
        let value = codec::decode(what, &self.payload, limit)?;
        Ok(Verified { from: self.from, value })
    }

    /// Digest of what is said, whatever the signature's bytes.
    pub fn id(&self) -> Digest {
        let mut bytes = self.from.0.to_vec();
        bytes.extend_from_slice(&self.payload);
        Digest::in_domain("shoal 2026 v1 envelope id", &bytes)
    }
}

/// A value whose signature by `from` was checked.
#[derive(Clone, Debug)]
pub struct Verified<T> {
    from: PeerId,
    value: T,
}

impl<T> Verified<T> {
    pub fn from(&self) -> PeerId {
        self.from
    }
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}
