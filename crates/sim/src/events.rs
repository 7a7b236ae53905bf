//! The log of everything that happened in a world, as one hash: two runs of a seed are the same when their hashes are.

use shoal_swarm::{Event, Input, Outcome};
use shoal_wire::{Digest, Millis, PeerId};

#[derive(Debug, Default)]
pub(crate) struct EventLog {
    hasher: blake3::Hasher,
}

impl EventLog {
    pub fn digest(&self) -> Digest {
        Digest(*self.hasher.finalize().as_bytes())
    }

    /// Something reached a peer.
    pub fn input(&mut self, now: Millis, peer: PeerId, input: &Input<'_>) {
        match input {
            Input::LinkUp(other) => self.note(now, peer, 0, &[&other.0]),
            Input::LinkDown(other) => self.note(now, peer, 1, &[&other.0]),
            Input::Frame { from, bytes } => self.note(now, peer, 2, &[&from.0, bytes]),
            Input::Computed { job, outcome } => self.note(now, peer, 3, &[&job.to_le_bytes(), &outcome_bytes(outcome)]),
            Input::Persisted(record) => self.note(now, peer, 4, &[&record.to_le_bytes()]),
            Input::PersistFailed { record, .. } => self.note(now, peer, 5, &[&record.to_le_bytes()]),
            Input::Loaded { blob, bytes } => self.note(now, peer, 6, &[&blob.0, &[u8::from(bytes.is_some())]]),
            Input::Tick => self.note(now, peer, 7, &[]),
            Input::Command(command) => self.note(now, peer, 8, &[format!("{command:?}").as_bytes()]),
        }
    }

    /// A peer told news.
    pub fn told(&mut self, now: Millis, peer: PeerId, event: &Event) {
        self.note(now, peer, 9, &[format!("{event:?}").as_bytes()]);
    }

    /// The world did something to its peers.
    pub fn done(&mut self, now: Millis, what: &str) {
        self.note(now, PeerId::default(), 10, &[what.as_bytes()]);
    }

    fn note(&mut self, now: Millis, peer: PeerId, kind: u8, parts: &[&[u8]]) {
        self.hasher.update(&now.0.to_le_bytes()).update(&peer.0).update(&[kind]);
        for part in parts {
            self.hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }
}

fn outcome_bytes(outcome: &Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Trained { update, steps, tokens, loss_first, loss_last } => {
            let mut bytes = update.to_vec();
            bytes.extend_from_slice(&steps.to_le_bytes());
            bytes.extend_from_slice(&tokens.to_le_bytes());
            bytes.extend_from_slice(&loss_first.to_le_bytes());
            bytes.extend_from_slice(&loss_last.to_le_bytes());
            bytes
        }
        Outcome::Aggregated { model, .. } => model.to_vec(),
        other => format!("{other:?}").into_bytes(),
    }
}
