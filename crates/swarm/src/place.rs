//! This peer's place in the roster, which one session of its identity has at a time.
//!
//! Whoever opens an identity that somebody else has open, on another device or from another folder, asks to join with a
//! session of its own; the next certificate puts it in the place of the one before, which sees that there and falls
//! silent. So no two processes ever vote in one round under one key, and a restart that still has its votes goes on.

use shoal_wire::{
    Digest, Envelope, PeerId, SessionId,
    record::{Member, Message},
};

use crate::{Event, Record, Swarm, state::Stored};

impl Swarm {
    /// The session in whose name this peer speaks. An anchor that has none in the roster yet speaks for its key.
    pub(crate) fn speaks_as(&self) -> SessionId {
        match self.chain.member(self.me) {
            Some(member) if member.session == SessionId::NONE => SessionId::NONE,
            _ => self.session,
        }
    }

    /// This peer's place in the next round, when it and no other session of its identity has it.
    pub(crate) fn own_place(&self) -> Option<&Member> {
        self.chain.speaker(self.me, self.speaks_as())
    }

    /// Whether another session of its identity took this one's place, and it has not asked for it again.
    pub fn is_replaced(&self) -> bool {
        self.replaced
    }

    pub(crate) fn is_member(&self) -> bool {
        self.own_place().is_some()
    }

    /// Whether somebody asked to take the place of a member's session in its name.
    pub(crate) fn is_being_replaced(&self, peer: PeerId) -> bool {
        let asks = self.pool.join_of(peer).zip(self.chain.member(peer));
        asks.is_some_and(|(said, member)| {
            let valid = || self.chain.check_join(said.round, said.session, peer).is_ok();
            member.session != SessionId::NONE && valid()
        })
    }

    /// Asks to be taken into the roster, once this peer holds the common model. Anchors are in it from the beginning, and
    /// ask for their session.
    pub(crate) fn ask_to_join(&mut self) {
        let anchor = self.anchors().contains(&self.me);
        let settled = self.chain.speaker(self.me, self.session).is_some();
        if settled || self.replaced || !(self.active || anchor) || !self.has_head_model() {
            return;
        }
        // One request in a round, whichever session of this identity it is from.
        let next = self.next_round();
        let asked = self.pool.join_of(self.me).is_some_and(|said| said.session == self.session || said.round >= next);
        if !asked {
            self.say(Message::Join(self.join));
        }
    }

    /// Requests to join that fit the chain, as far as there are places. A session that takes the place of another takes
    /// none.
    pub(crate) fn joins_with_a_place(&self) -> Vec<Envelope> {
        let mut free = self.chain.free_places();
        let mut has_place = |peer: PeerId| {
            let is_new = self.chain.member(peer).is_none();
            let fits = !is_new || free > 0;
            free -= usize::from(is_new && fits);
            fits
        };
        // A request from somebody who is a round ahead waits until it fits the chain.
        let fit = self
            .pool
            .joins()
            .filter(|(envelope, said)| self.chain.check_join(said.round, said.session, envelope.from).is_ok());
        fit.filter(|(envelope, _)| has_place(envelope.from)).map(|(envelope, _)| envelope.clone()).collect()
    }

    /// A vote of this session came that it did not cast: a copy of its folder runs somewhere, or its disk forgot. Whatever
    /// else was voted so must not be contradicted, so this peer asks for its place with a session that nobody has.
    pub(crate) fn doubt_session(&mut self, vote: Digest) {
        let before = [self.session.0, vote.0].concat();
        self.session = SessionId(self.identity.derive("shoal 2026 v2 another session", &before).0);
        self.persist(Stored::Session, Record::Session(self.session));
        self.was_member = false;
        self.abandon_training();
        self.abandon_judging();
        self.changed = true;
        self.tell(Event::Trouble(
            "a vote of this peer came that it does not remember; if a copy of its folder runs elsewhere, stop one of them"
                .to_owned(),
        ));
    }

    /// Notes what a round did to this peer's place.
    pub(crate) fn note_place(&mut self) {
        let (round, member) = (self.next_round(), self.is_member());
        let elsewhere = !member && self.chain.member(self.me).is_some();
        if member == self.was_member {
            return;
        }
        (self.was_member, self.replaced) = (member, elsewhere);
        self.tell(match (member, elsewhere) {
            (true, _) => Event::JoinedRoster { round },
            (false, true) => Event::Replaced { round },
            (false, false) => Event::LeftRoster { round },
        });
    }
}
