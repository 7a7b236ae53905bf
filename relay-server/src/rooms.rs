//! Rooms: one per run, who is in each, and what goes to whom.
//!
//! No clock, socket or task. The shell checks a newcomer's signature with [`Greeting`], then feeds [`Rooms`] and
//! carries out the [`Effect`]s that it returns, in order.

use std::collections::{BTreeMap, BTreeSet};

use shoal_wire::{
    PeerId, RunId, limits,
    relay::{FromRelay, Refusal, ToRelay, verify_enter},
};

/// One client's connection; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// What the shell does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Send { to: Connection, message: FromRelay },
    Close { connection: Connection, refusal: Refusal },
}

/// A connection that has been challenged and has not entered yet.
#[derive(Debug)]
pub struct Greeting {
    nonce: [u8; 32],
}

impl Greeting {
    /// `nonce` must be fresh: a recorded answer must not open a second connection.
    pub fn new(nonce: [u8; 32]) -> (Self, FromRelay) {
        (Self { nonce }, FromRelay::Challenge { nonce })
    }

    /// Checks the answer; this is the costly part, so it runs before any shared state is touched.
    pub fn check(&self, message: &ToRelay) -> Result<(RunId, PeerId), Refusal> {
        let ToRelay::Enter { run, peer, signature } = message else { return Err(Refusal::Malformed) };
        verify_enter(&self.nonce, *run, *peer, signature).map_err(|_| Refusal::BadSignature)?;
        Ok((*run, *peer))
    }
}

#[derive(Debug)]
pub struct Rooms {
    peers_max: usize,
    by_run: BTreeMap<RunId, BTreeMap<PeerId, Connection>>,
    members: BTreeMap<Connection, (RunId, PeerId)>,
    open: BTreeSet<RunId>,
}

impl Rooms {
    pub fn new(peers_max: usize) -> Self {
        Self { peers_max, by_run: BTreeMap::new(), members: BTreeMap::new(), open: BTreeSet::new() }
    }

    /// From now on peers may enter this run's room.
    pub fn open(&mut self, run: RunId) {
        self.open.insert(run);
    }

    /// Peers in the run's room.
    pub fn peers(&self, run: RunId) -> usize {
        self.by_run.get(&run).map_or(0, BTreeMap::len)
    }

    pub fn peers_total(&self) -> usize {
        self.members.len()
    }

    /// Takes a peer whose greeting was checked into the room.
    pub fn enter(&mut self, connection: Connection, run: RunId, peer: PeerId) -> Result<Vec<Effect>, Refusal> {
        if self.members.contains_key(&connection) {
            return Err(Refusal::Malformed);
        }
        if !self.open.contains(&run) {
            return Err(Refusal::UnknownRun);
        }
        let mut effects = Vec::new();
        let replaced = self.by_run.get(&run).and_then(|room| room.get(&peer)).copied();
        if let Some(old) = replaced {
            // The others must forget half-received frames of the old session, so they hear that it left.
            effects = self.leave(old);
            effects.push(Effect::Close { connection: old, refusal: Refusal::Replaced });
        } else if self.peers(run) >= self.peers_max {
            return Err(Refusal::RoomFull);
        }
        let room = self.by_run.entry(run).or_default();
        effects.push(Effect::Send {
            to: connection,
            message: FromRelay::Entered { peers: room.keys().copied().collect() },
        });
        effects.extend(room.values().map(|&to| Effect::Send { to, message: FromRelay::PeerEntered(peer) }));
        room.insert(peer, connection);
        self.members.insert(connection, (run, peer));
        Ok(effects)
    }

    /// Forgets a connection, entered or not.
    pub fn leave(&mut self, connection: Connection) -> Vec<Effect> {
        let Some((run, peer)) = self.members.remove(&connection) else { return Vec::new() };
        let Some(room) = self.by_run.get_mut(&run) else { return Vec::new() };
        room.remove(&peer);
        let effects = room.values().map(|&to| Effect::Send { to, message: FromRelay::PeerLeft(peer) }).collect();
        if room.is_empty() {
            self.by_run.remove(&run);
        }
        effects
    }

    /// Routes a message of a connection that has entered.
    pub fn receive(&self, connection: Connection, message: ToRelay) -> Result<Option<Effect>, Refusal> {
        let &(run, from) = self.members.get(&connection).ok_or(Refusal::Malformed)?;
        let (to, message) = match message {
            ToRelay::Enter { .. } => return Err(Refusal::Malformed),
            ToRelay::Ping => return Ok(Some(Effect::Send { to: connection, message: FromRelay::Pong })),
            ToRelay::Signal { to, envelope } => {
                if envelope.from != from || envelope.payload.len() > limits::SIGNAL_BYTES_MAX {
                    return Err(Refusal::Malformed);
                }
                (to, FromRelay::Signal { from, envelope })
            }
            ToRelay::Forward { to, piece } => {
                if piece.is_empty() || piece.len() > limits::PIECE_BYTES_MAX {
                    return Err(Refusal::Malformed);
                }
                (to, FromRelay::Forward { from, piece })
            }
        };
        // A target that just left is no fault of the sender, which hears `PeerLeft` for it.
        let target = self.by_run.get(&run).and_then(|room| room.get(&to)).copied();
        Ok(target.filter(|&target| target != connection).map(|to| Effect::Send { to, message }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use shoal_wire::{
        Identity,
        relay::{LinkSignal, LinkStep},
    };

    use super::*;

    const RUN: RunId = RunId([7; 32]);
    const OTHER: RunId = RunId([8; 32]);

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn rooms(peers_max: usize) -> Rooms {
        let mut rooms = Rooms::new(peers_max);
        rooms.open(RUN);
        rooms.open(OTHER);
        rooms
    }

    fn send(to: u64, message: FromRelay) -> Effect {
        Effect::Send { to: Connection(to), message }
    }

    #[test]
    fn a_greeting_accepts_only_a_signature_of_its_own_nonce_by_the_named_peer() {
        let identity = Identity::from_secret([1; 32]);
        let (greeting, _) = Greeting::new([5; 32]);
        let good = ToRelay::enter(&identity, RUN, &[5; 32]);
        assert_eq!(greeting.check(&good), Ok((RUN, identity.peer())));
        let replayed = ToRelay::enter(&identity, RUN, &[6; 32]);
        assert_eq!(greeting.check(&replayed), Err(Refusal::BadSignature));
        let ToRelay::Enter { signature, .. } = good else { unreachable!() };
        for (run, who) in [(OTHER, identity.peer()), (RUN, Identity::from_secret([2; 32]).peer())] {
            assert_eq!(greeting.check(&ToRelay::Enter { run, peer: who, signature }), Err(Refusal::BadSignature));
        }
        assert_eq!(greeting.check(&ToRelay::Ping), Err(Refusal::Malformed));
    }

    #[test]
    fn a_newcomer_learns_who_is_there_and_they_learn_of_it() {
        let mut rooms = rooms(4);
        let first = rooms.enter(Connection(1), RUN, peer(1)).unwrap();
        assert_eq!(first, [send(1, FromRelay::Entered { peers: vec![] })]);
        let second = rooms.enter(Connection(2), RUN, peer(2)).unwrap();
        let expected = [send(2, FromRelay::Entered { peers: vec![peer(1)] }), send(1, FromRelay::PeerEntered(peer(2)))];
        assert_eq!(second, expected);
        assert_eq!(rooms.leave(Connection(1)), [send(2, FromRelay::PeerLeft(peer(1)))]);
        assert_eq!(rooms.leave(Connection(1)), [], "leaving twice is harmless");
    }

    #[test]
    fn rooms_do_not_hear_of_each_other() {
        let mut rooms = rooms(4);
        rooms.enter(Connection(1), RUN, peer(1)).unwrap();
        let entered = rooms.enter(Connection(2), OTHER, peer(2)).unwrap();
        assert_eq!(entered, [send(2, FromRelay::Entered { peers: vec![] })]);
        let across = rooms.receive(Connection(2), ToRelay::Forward { to: peer(1), piece: vec![1] });
        assert_eq!(across, Ok(None));
    }

    #[test]
    fn a_room_takes_its_limit_and_not_one_more() {
        let mut rooms = rooms(3);
        for n in 1..=3 {
            rooms.enter(Connection(n), RUN, peer(n as u8)).unwrap();
            assert_eq!(rooms.peers(RUN), n as usize);
        }
        assert_eq!(rooms.enter(Connection(4), RUN, peer(4)), Err(Refusal::RoomFull));
        rooms.enter(Connection(5), RUN, peer(2)).expect("a peer that is in a full room may reconnect");
        rooms.leave(Connection(1));
        rooms.enter(Connection(4), RUN, peer(4)).expect("a place is free again");
    }

    #[test]
    fn the_newer_session_of_a_peer_replaces_the_older() {
        let mut rooms = rooms(4);
        rooms.enter(Connection(1), RUN, peer(1)).unwrap();
        rooms.enter(Connection(2), RUN, peer(2)).unwrap();
        let effects = rooms.enter(Connection(3), RUN, peer(1)).unwrap();
        let expected = [
            send(2, FromRelay::PeerLeft(peer(1))),
            Effect::Close { connection: Connection(1), refusal: Refusal::Replaced },
            send(3, FromRelay::Entered { peers: vec![peer(2)] }),
            send(2, FromRelay::PeerEntered(peer(1))),
        ];
        assert_eq!(effects, expected);
        assert_eq!(rooms.leave(Connection(1)), [], "the old connection's end does not remove the new session");
        assert_eq!(rooms.peers(RUN), 2);
    }

    #[test]
    fn an_unknown_run_is_refused() {
        let mut rooms = rooms(4);
        assert_eq!(rooms.enter(Connection(1), RunId([9; 32]), peer(1)), Err(Refusal::UnknownRun));
        assert_eq!(rooms.peers_total(), 0);
    }

    #[test]
    fn signals_and_pieces_reach_their_peer_with_the_senders_name() {
        let mut rooms = rooms(4);
        let identity = Identity::from_secret([1; 32]);
        let me = identity.peer();
        rooms.enter(Connection(1), RUN, me).unwrap();
        rooms.enter(Connection(2), RUN, peer(2)).unwrap();
        let envelope = LinkSignal { run: RUN, to: peer(2), attempt: 0, step: LinkStep::Invite }.seal(&identity);
        let signal = ToRelay::Signal { to: peer(2), envelope: envelope.clone() };
        let routed = rooms.receive(Connection(1), signal.clone()).unwrap();
        assert_eq!(routed, Some(send(2, FromRelay::Signal { from: me, envelope })));
        assert_eq!(rooms.receive(Connection(2), signal), Err(Refusal::Malformed), "someone else's envelope");
        let piece = rooms.receive(Connection(2), ToRelay::Forward { to: me, piece: vec![1, 2] }).unwrap();
        assert_eq!(piece, Some(send(1, FromRelay::Forward { from: peer(2), piece: vec![1, 2] })));
        assert_eq!(rooms.receive(Connection(1), ToRelay::Ping), Ok(Some(send(1, FromRelay::Pong))));
    }

    #[test]
    fn pieces_beyond_a_data_channels_and_strangers_are_refused() {
        let mut rooms = rooms(4);
        rooms.enter(Connection(1), RUN, peer(1)).unwrap();
        rooms.enter(Connection(2), RUN, peer(2)).unwrap();
        let forward = |bytes| ToRelay::Forward { to: peer(2), piece: vec![1; bytes] };
        assert!(rooms.receive(Connection(1), forward(limits::PIECE_BYTES_MAX)).unwrap().is_some());
        for bytes in [0, limits::PIECE_BYTES_MAX + 1] {
            assert_eq!(rooms.receive(Connection(1), forward(bytes)), Err(Refusal::Malformed));
        }
        assert_eq!(rooms.receive(Connection(9), forward(1)), Err(Refusal::Malformed), "it never entered");
        let to_itself = ToRelay::Forward { to: peer(1), piece: vec![1] };
        assert_eq!(rooms.receive(Connection(1), to_itself), Ok(None));
    }
}
