//! The resident peer's identity in each run.
//!
//! A manifest names its anchors, and a run's id is the manifest's digest, so the anchor's key cannot follow from the
//! id: it follows from what makes the run unique before the manifest is written, its genesis model and its seed.

use shoal_wire::{Digest, Identity, Manifest};

/// Derives identities from the device's secret.
#[derive(Clone)]
pub struct Anchors {
    secret: [u8; 32],
}

impl Anchors {
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// The resident in the run with this genesis model and seed.
    pub fn identity(&self, genesis: Digest, seed: Digest) -> Identity {
        self.derive("shoal 2026 v1 resident anchor", &[genesis.0, seed.0].concat())
    }

    /// The resident in this run, if the manifest names it as an anchor.
    pub fn identity_in(&self, manifest: &Manifest) -> Option<Identity> {
        let identity = self.identity(manifest.genesis, manifest.seed);
        manifest.anchors.contains(&identity.peer()).then_some(identity)
    }

    /// The key with which this host signs the manifests that it publishes.
    pub fn host(&self) -> Identity {
        self.derive("shoal 2026 v1 host", &[])
    }

    /// Of the key that signs the checkpoints of this relay's logs.
    pub fn log_secret(&self) -> [u8; 32] {
        self.secret("shoal 2026 v1 log", &[])
    }

    /// Of the key with which this relay cosigns others' checkpoints.
    pub fn witness_secret(&self) -> [u8; 32] {
        self.secret("shoal 2026 v1 witness", &[])
    }

    fn derive(&self, label: &str, context: &[u8]) -> Identity {
        Identity::from_secret(self.secret(label, context))
    }

    fn secret(&self, label: &str, context: &[u8]) -> [u8; 32] {
        blake3::derive_key(label, &[&self.secret, context].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_and_role_has_a_key_of_its_own_which_a_restart_does_not_change() {
        let anchors = Anchors::new([1; 32]);
        let peer = |genesis, seed| anchors.identity(Digest([genesis; 32]), Digest([seed; 32])).peer();
        assert_eq!(peer(1, 2), Anchors::new([1; 32]).identity(Digest([1; 32]), Digest([2; 32])).peer());
        assert_ne!(peer(1, 2), peer(2, 1));
        assert_ne!(peer(1, 2), peer(1, 3));
        assert_ne!(peer(1, 2), anchors.host().peer());
        assert_ne!(anchors.log_secret(), anchors.witness_secret());
        assert_eq!(anchors.log_secret(), Anchors::new([1; 32]).log_secret());
    }
}
