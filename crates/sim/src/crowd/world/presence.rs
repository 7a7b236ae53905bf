//! Who goes, who comes back, and who notices.

use std::collections::BTreeSet;

use shoal_swarm::crowd::Input;

use shoal_wire::Millis;

use super::{CrowdWorld, Happening, NOTICE_MS};

impl CrowdWorld {
    pub(super) fn draw_churn(&mut self, at: u32) {
        if self.random.chance(self.settings.churn_per_mille) {
            let within = self.random.between(0, self.settings.train_ms + 20_000) * 1000;
            let away_ms = self.random.between(self.settings.away_ms.0, self.settings.away_ms.1);
            self.later(self.now + within, at, Happening::Vanish { away_ms });
        }
    }

    pub(super) fn come_back(&mut self, at: u32) {
        let peer = &mut self.peers[at as usize];
        peer.online = true;
        peer.wake = Millis::NEVER;
        for happening in core::mem::take(&mut peer.waiting) {
            self.happen(at, happening);
        }
        self.tell_contacts(at);
        self.look_around(at);
        // Its links were down, and are opened again.
        for other in self.contacts(at) {
            let contact = &self.peers[other as usize];
            if contact.online {
                let peer = contact.id;
                self.input(at, Input::Reachable { peer, reachable: true });
            }
        }
    }

    /// Peers with whom one works in a round.
    pub(super) fn contacts(&self, at: u32) -> BTreeSet<u32> {
        let peer = &self.peers[at as usize];
        let epoch = peer.crowd.epoch();
        let Some(seat) = epoch.roster.find(peer.id) else { return BTreeSet::new() };
        let mut members: BTreeSet<u32> =
            epoch.draw.duties(seat).into_iter().flat_map(|node| epoch.draw.panel(node)).collect();
        if epoch.draw.committee().contains(&(seat as u32)) {
            members.extend(epoch.draw.committee());
        }
        let place = |member: &u32| self.places.get(&epoch.roster.seats()[*member as usize].member.peer).copied();
        members.iter().filter_map(place).filter(|other| *other != at).collect()
    }

    /// The others learn that a peer went, or came back.
    pub(super) fn tell_contacts(&mut self, at: u32) {
        let (online, id) = (self.peers[at as usize].online, self.peers[at as usize].id);
        for other in self.contacts(at) {
            // Who is away itself hears nothing now; it looks around when it comes back.
            let peer = &mut self.peers[other as usize];
            if !peer.online {
                continue;
            }
            let changed = if online { peer.away.remove(&at) } else { peer.away.insert(at) };
            if changed {
                self.input(other, Input::Reachable { peer: id, reachable: online });
            }
        }
    }

    /// A peer dials those it works with: it finds them soon, or after a while finds that they are gone.
    pub(super) fn look_around(&mut self, at: u32) {
        for other in self.contacts(at) {
            let online = self.peers[other as usize].online;
            if self.peers[at as usize].away.contains(&other) == online {
                let wait_ms = if online { 200 } else { NOTICE_MS };
                self.later(self.now + wait_ms * 1000, at, Happening::Found { other });
            }
        }
    }

    pub(super) fn found(&mut self, at: u32, other: u32) {
        let (reachable, id) = (self.peers[other as usize].online, self.peers[other as usize].id);
        let peer = &mut self.peers[at as usize];
        if if reachable { peer.away.remove(&other) } else { peer.away.insert(other) } {
            self.input(at, Input::Reachable { peer: id, reachable });
        }
    }
}
