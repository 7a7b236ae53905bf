//! Identities that are opened twice: two processes with one key and a folder each, as in two browsers.
//!
//! In a world every process has a name of its own, which is its identity's unless another process has that. Others know
//! it by its identity alone, and each of them is linked with one process of an identity at most.

use shoal_swarm::{Input, Swarm};
use shoal_wire::{Digest, PeerId};

use crate::{World, disk::Disk, happening::Happening, peer::Peer};

/// When a link has ended, the next one is looked for this much later.
const LOOK_AGAIN_MS: u64 = 10;
/// A process whose place at a relay another one took comes back after so long.
const REFUSED_RETRY_MS: u64 = 60_000;

impl World {
    /// Opens the identity of a peer once more, from an empty folder; returns the name of the new process.
    pub fn open_again(&mut self, id: PeerId) -> Option<PeerId> {
        let first = self.peers.get(&id)?;
        let (identity, anchor, clock, train_ms) = (first.identity.clone(), first.anchor, first.clock, first.train_ms);
        let peer = identity.peer();
        let place = [&peer.0[..], &self.next.to_le_bytes()].concat();
        let name = PeerId(Digest::in_domain("shoal sim another process", &place).0);
        let mut disk = Disk::default();
        disk.blobs.insert(self.manifest.genesis, self.model.genesis());
        let engine = self.model.engine(peer, None);
        let again = Peer { anchor, clock, ..Peer::new(identity, disk, engine, train_ms) };
        self.peers.insert(name, again);
        self.start(name);
        Some(name)
    }

    /// A process that was replaced leaves the links to those that were not, as shells have it.
    pub(crate) fn make_room(&mut self, id: PeerId) {
        for other in self.live() {
            self.drop_link(id, other);
            if other != id && self.identity_of(other) == self.identity_of(id) && !self.has_made_room(other) {
                self.later(other, LOOK_AGAIN_MS, Happening::Look);
            }
        }
    }

    fn has_made_room(&self, name: PeerId) -> bool {
        self.swarm(name).is_some_and(Swarm::is_replaced)
    }

    /// The identity that a process has.
    pub fn identity_of(&self, name: PeerId) -> PeerId {
        self.peers.get(&name).map_or(name, |peer| peer.identity.peer())
    }

    /// Of the processes with an identity, the one that somebody is linked with.
    pub(crate) fn linked_process(&self, id: PeerId, identity: PeerId) -> PeerId {
        let is_it = |name: &&PeerId| self.are_linked(id, **name) && self.identity_of(**name) == identity;
        if self.are_linked(id, identity) {
            return identity;
        }
        self.peers.keys().find(is_it).copied().unwrap_or(identity)
    }

    /// An input as a state machine gets it, which knows identities only.
    pub(crate) fn by_identity<'a>(&self, input: Input<'a>) -> Input<'a> {
        match input {
            Input::LinkUp(name) => Input::LinkUp(self.identity_of(name)),
            Input::LinkDown(name) => Input::LinkDown(self.identity_of(name)),
            Input::Frame { from, bytes } => Input::Frame { from: self.identity_of(from), bytes },
            other => other,
        }
    }

    /// Whether one process may link with another: not with one of its own identity, and where there is a link with
    /// another process of that identity, one of the two stays, by lot.
    pub(crate) fn makes_way(&mut self, one: PeerId, other: PeerId) -> bool {
        if self.identity_of(one) == self.identity_of(other) {
            return false;
        }
        for (id, with) in [(one, other), (other, one)] {
            let before = self.linked_process(id, self.identity_of(with));
            if before != with && self.are_linked(id, before) {
                if self.random.chance(500) {
                    return false;
                }
                self.unlink(id, before);
                self.later(before, REFUSED_RETRY_MS, Happening::Look);
            }
        }
        true
    }
}
