//! Messages and blobs between peers, and a relay that caches updates.

use std::sync::Arc;

use shoal_swarm::crowd::Missing;
use shoal_wire::{
    Digest, PeerId,
    crowd::{Blob, Frame, Heard, Message, WorkCommit},
};

use super::{CrowdWorld, Happening, OVERHEAD_BYTES, REQUEST_BYTES};

impl CrowdWorld {
    pub(super) fn asked(&mut self, at: u32, by: u32, blob: Digest) {
        let peer = &mut self.peers[at as usize];
        let why = if !peer.held.contains(&blob) {
            Missing::Lacks
        } else if peer.link.is_busy(self.now) {
            Missing::Busy
        } else {
            let bytes = self.sizes.get(&blob).map_or(0, |(bytes, _)| *bytes) + OVERHEAD_BYTES;
            let (left, latency, life) = (peer.link.send_blob(self.now, bytes), peer.link.latency, peer.life);
            let to = &mut self.peers[by as usize].link;
            let latency = latency + to.latency;
            let arrives = to.receive_blob(left, latency, bytes);
            return self.later(arrives, by, Happening::Arrived { from: at, life, blob });
        };
        let (from, latency) = (peer.id, peer.link.latency + REQUEST_BYTES);
        let left = peer.link.send_message(self.now, REQUEST_BYTES);
        let arrives = left + latency + self.peers[by as usize].link.latency;
        self.later(arrives, by, Happening::Failed { from, blob, why });
    }

    pub(super) fn fetch(&mut self, at: u32, blob: Digest, from: PeerId) {
        let left = self.peers[at as usize].link.send_message(self.now, REQUEST_BYTES);
        let latency = self.peers[at as usize].link.latency;
        if let Some((id, link, held)) = self.relay.as_mut().filter(|(id, ..)| *id == from) {
            let id = *id;
            let bytes = self.sizes.get(&blob).map_or(0, |(bytes, _)| *bytes) + OVERHEAD_BYTES;
            if held.contains(&blob) {
                let sent = link.send_blob(left + latency + link.latency, bytes);
                let latency = latency + link.latency;
                let arrives = self.peers[at as usize].link.receive_blob(sent, latency, bytes);
                // The relay does not go; the life of the peer that receives stands for its own.
                let life = self.peers[at as usize].life;
                self.later(arrives, at, Happening::Arrived { from: at, life, blob });
            } else {
                let why = Missing::Lacks;
                self.later(left + 2 * latency, at, Happening::Failed { from: id, blob, why });
            }
            return;
        }
        if let Some(holder) = self.places.get(&from).copied() {
            let arrives = left + latency + self.peers[holder as usize].link.latency;
            self.later(arrives, holder, Happening::Asked { by: at, blob });
        }
    }

    pub(super) fn send(&mut self, at: u32, to: &[PeerId], bytes: &[u8]) {
        let from = self.peers[at as usize].id;
        let Ok(heard) = Frame::open(bytes, from, self.run) else {
            self.troubles.push("a peer sent what does not open".to_owned());
            return;
        };
        self.offer_to_relay(at, &heard);
        let heard = Arc::new(heard);
        let size = bytes.len() as u64 + OVERHEAD_BYTES;
        let mut left = self.now;
        for other in to {
            let Some(place) = self.places.get(other).copied() else { continue };
            left = self.peers[at as usize].link.send_message(left, size);
            let receiver = &mut self.peers[place as usize].link;
            let arrives = left + receiver.latency + receiver.receive_message(size);
            let arrives = arrives + self.peers[at as usize].link.latency;
            self.later(arrives, place, Happening::Heard { from, heard: heard.clone() });
        }
    }

    /// The author of an update uploads it to the relay when it commits to it.
    pub(super) fn offer_to_relay(&mut self, at: u32, heard: &Heard) {
        let Heard::Said(_, said) = heard else { return };
        let Message::Commit(WorkCommit { update, .. }) = said.message else { return };
        let size = self.sizes.get(&update.digest).map_or(0, |(bytes, _)| *bytes) + OVERHEAD_BYTES;
        let Some((_, link, held)) = &mut self.relay else { return };
        if held.insert(update.digest) {
            let peer = &mut self.peers[at as usize].link;
            let left = peer.send_blob(self.now, size);
            let arrives = link.receive_blob(left, peer.latency + link.latency, size);
            self.later(arrives, at, Happening::Relayed { blob: update });
        }
    }

    pub(super) fn relayed(&mut self, blob: Blob) {
        let Some((id, link, _)) = &self.relay else { return };
        let (from, latency) = (*id, link.latency);
        let heard = Arc::new(Heard::Holds(vec![blob]));
        for at in 0..self.peers.len() as u32 {
            let arrives = self.now + latency + self.peers[at as usize].link.latency;
            self.later(arrives, at, Happening::Heard { from, heard: heard.clone() });
        }
    }
}
