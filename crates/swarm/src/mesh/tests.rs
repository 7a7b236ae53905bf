//! Meshes against a relay and links made of queues.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use shoal_wire::{relay::verify_enter, sign::Domain};

use super::*;

const RUN: RunId = RunId([1; 32]);

/// Some peers in one room, and the links between them.
struct World {
    now: Millis,
    meshes: Vec<Mesh>,
    /// Whether each peer's WebSocket is open, and the peer entered.
    sockets: Vec<(bool, bool)>,
    relay_up: bool,
    links_work: bool,
    /// (peer, other, attempt) of live ends of direct links.
    ends: BTreeSet<(usize, usize, u64)>,
    inbox: VecDeque<(usize, Event)>,
    seen: Vec<Vec<MeshOutput>>,
    forwarded: usize,
    offers: usize,
}

enum Event {
    Relay(FromRelay),
    Described { peer: usize, attempt: u64, offer: bool },
    Opened { peer: usize, attempt: u64 },
    Closed { peer: usize, attempt: u64 },
    Piece { peer: usize, attempt: u64, bulk: bool, bytes: Vec<u8> },
    RelayOpen,
    RelayLost,
}

impl World {
    fn new(direct: &[bool]) -> Self {
        let mut identities: Vec<Identity> =
            (0..direct.len()).map(|index| Identity::from_secret([index as u8 + 1; 32])).collect();
        identities.sort_by_key(Identity::peer);
        let meshes: Vec<Mesh> =
            identities.into_iter().zip(direct).map(|(identity, &direct)| Mesh::new(RUN, identity, direct)).collect();
        let count = meshes.len();
        let mut world = Self {
            now: Millis(1_000_000),
            meshes,
            sockets: vec![(false, false); count],
            relay_up: true,
            links_work: true,
            ends: BTreeSet::new(),
            inbox: VecDeque::new(),
            seen: (0..count).map(|_| Vec::new()).collect(),
            forwarded: 0,
            offers: 0,
        };
        world.pass(0);
        world
    }

    fn id(&self, index: usize) -> PeerId {
        self.meshes[index].me
    }

    fn index(&self, id: PeerId) -> usize {
        self.meshes.iter().position(|mesh| mesh.me == id).unwrap()
    }

    fn input(&mut self, index: usize, input: MeshInput<'_>) {
        self.meshes[index].handle(self.now, input);
        loop {
            match self.meshes[index].poll() {
                MeshOutput::Idle(until) => {
                    assert!(until > self.now, "idle until a time that is over");
                    break;
                }
                output => self.output(index, output),
            }
        }
    }

    fn output(&mut self, index: usize, output: MeshOutput) {
        match &output {
            MeshOutput::ConnectRelay => {
                self.leave(index);
                let event = if self.relay_up { Event::RelayOpen } else { Event::RelayLost };
                self.inbox.push_back((index, event));
            }
            MeshOutput::LeaveRelay => self.leave(index),
            MeshOutput::Relay(message) if self.sockets[index].0 => self.at_relay(index, message.clone()),
            MeshOutput::Offer { peer, attempt } => {
                self.offers += 1;
                let peer = self.index(*peer);
                self.ends.insert((index, peer, *attempt));
                self.inbox.push_back((index, Event::Described { peer, attempt: *attempt, offer: true }));
            }
            MeshOutput::AcceptOffer { peer, attempt, sdp } => {
                assert_eq!(sdp, "offer");
                let peer = self.index(*peer);
                self.ends.insert((index, peer, *attempt));
                self.inbox.push_back((index, Event::Described { peer, attempt: *attempt, offer: false }));
            }
            MeshOutput::AcceptAnswer { peer, attempt, sdp } => {
                assert_eq!(sdp, "answer");
                let (peer, attempt) = (self.index(*peer), *attempt);
                if self.links_work && self.ends.contains(&(peer, index, attempt)) {
                    self.inbox.push_back((index, Event::Opened { peer, attempt }));
                    self.inbox.push_back((peer, Event::Opened { peer: index, attempt }));
                }
            }
            MeshOutput::Close { peer, attempt } => {
                let peer = self.index(*peer);
                self.ends.remove(&(index, peer, *attempt));
                if self.ends.remove(&(peer, index, *attempt)) {
                    self.inbox.push_back((peer, Event::Closed { peer: index, attempt: *attempt }));
                }
            }
            MeshOutput::Write { peer, attempt, bulk, piece } => {
                assert!(piece.len() <= limits::PIECE_BYTES_MAX);
                let peer = self.index(*peer);
                let bytes = piece.clone();
                self.inbox.push_back((peer, Event::Piece { peer: index, attempt: *attempt, bulk: *bulk, bytes }));
            }
            _ => {}
        }
        self.seen[index].push(output);
    }

    fn at_relay(&mut self, from: usize, message: ToRelay) {
        assert!(message.encode().len() <= limits::RELAY_MESSAGE_BYTES_MAX);
        let me = self.id(from);
        match message {
            ToRelay::Enter { run, peer, signature } => {
                verify_enter(&[7; 32], run, peer, &signature).unwrap();
                let others: Vec<usize> = (0..self.meshes.len()).filter(|&other| self.sockets[other].1).collect();
                let peers = others.iter().map(|&other| self.id(other)).collect();
                self.sockets[from].1 = true;
                self.inbox.push_back((from, Event::Relay(FromRelay::Entered { peers })));
                for other in others {
                    self.inbox.push_back((other, Event::Relay(FromRelay::PeerEntered(me))));
                }
            }
            ToRelay::Signal { to, envelope } => {
                let to = self.index(to);
                self.inbox.push_back((to, Event::Relay(FromRelay::Signal { from: me, envelope })));
            }
            ToRelay::Forward { to, piece } => {
                self.forwarded += 1;
                let to = self.index(to);
                self.inbox.push_back((to, Event::Relay(FromRelay::Forward { from: me, piece })));
            }
            ToRelay::Ping => self.inbox.push_back((from, Event::Relay(FromRelay::Pong))),
        }
    }

    fn leave(&mut self, index: usize) {
        if core::mem::take(&mut self.sockets[index].1) {
            let left = self.id(index);
            for other in (0..self.meshes.len()).filter(|&other| other != index && self.sockets[other].1) {
                self.inbox.push_back((other, Event::Relay(FromRelay::PeerLeft(left))));
            }
        }
        self.sockets[index].0 = false;
    }

    fn deliver(&mut self) {
        while let Some((index, event)) = self.inbox.pop_front() {
            let id = |peer: usize| self.meshes[peer].me;
            match event {
                Event::Relay(message) if self.sockets[index].0 => self.input(index, MeshInput::Relay(message)),
                Event::RelayOpen => {
                    self.sockets[index].0 = true;
                    self.input(index, MeshInput::RelayOpen);
                    self.input(index, MeshInput::Relay(FromRelay::Challenge { nonce: [7; 32] }));
                }
                Event::RelayLost => self.input(index, MeshInput::RelayLost),
                Event::Described { peer, attempt, offer } => {
                    let peer = id(peer);
                    // A candidate that a browser found before the description was told.
                    let candidate = format!("candidate of {index}");
                    self.input(index, MeshInput::Candidate { peer, attempt, candidate, mid: None, line: None });
                    let sdp = if offer { "offer" } else { "answer" }.to_owned();
                    self.input(index, MeshInput::Described { peer, attempt, offer, sdp });
                }
                Event::Opened { peer, attempt } => {
                    let peer = id(peer);
                    self.input(index, MeshInput::Opened { peer, attempt });
                }
                Event::Closed { peer, attempt } => {
                    let peer = id(peer);
                    self.input(index, MeshInput::Closed { peer, attempt });
                }
                Event::Piece { peer, attempt, bulk, bytes } => {
                    let from = id(peer);
                    self.input(index, MeshInput::Piece { from, attempt, bulk, bytes: &bytes });
                }
                Event::Relay(_) => {}
            }
        }
    }

    /// Lets time pass, waking each mesh when it asked to be woken.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            for index in 0..self.meshes.len() {
                self.input(index, MeshInput::Tick);
            }
            self.deliver();
            let next = self.meshes.iter().map(Mesh::wake_at).min().unwrap();
            if next > end {
                break;
            }
            self.now = next;
        }
        self.now = end;
    }

    fn kill_relay(&mut self) {
        self.relay_up = false;
        for index in 0..self.meshes.len() {
            self.sockets[index] = (false, false);
            self.input(index, MeshInput::RelayLost);
        }
        self.deliver();
    }

    fn send(&mut self, from: usize, to: usize, frame: &[u8]) {
        let to = self.id(to);
        self.input(from, MeshInput::Send { to, frame: frame.to_vec(), bulk: frame.len() > 1000 });
        self.deliver();
    }

    fn frames(&self, at: usize) -> Vec<&[u8]> {
        self.seen[at]
            .iter()
            .filter_map(|output| match output {
                MeshOutput::Frame { frame, .. } => Some(&frame[..]),
                _ => None,
            })
            .collect()
    }

    fn path(&self, from: usize, to: usize) -> Option<bool> {
        let to = self.id(to);
        self.meshes[from].linked().find(|(peer, _)| *peer == to).map(|(_, direct)| direct)
    }

    fn count(&self, at: usize, wanted: impl Fn(&MeshOutput) -> bool) -> usize {
        self.seen[at].iter().filter(|output| wanted(output)).count()
    }
}

#[test]
fn two_meshes_meet_over_the_relay_and_go_direct() {
    let mut world = World::new(&[true, true]);
    assert_eq!(world.path(0, 1), Some(true));
    assert_eq!(world.path(1, 0), Some(true));
    let (a, b) = (world.id(0), world.id(1));
    let ups: Vec<&MeshOutput> = world.seen[0]
        .iter()
        .filter(|output| matches!(output, MeshOutput::Up(_) | MeshOutput::Path { .. } | MeshOutput::Offer { .. }))
        .collect();
    assert!(matches!(
        ups[..],
        [
            MeshOutput::Offer { .. },
            MeshOutput::Up(_),
            MeshOutput::Path { direct: false, .. },
            MeshOutput::Path { direct: true, .. }
        ]
    ));
    assert_eq!(world.count(1, |output| *output == MeshOutput::Up(a)), 1);
    assert_eq!(world.count(0, |output| *output == MeshOutput::Up(b)), 1);
    // Each side's candidate reached the other, though it was found before the description was told.
    for at in 0..2 {
        assert_eq!(world.count(at, |output| matches!(output, MeshOutput::AddCandidate { .. })), 1);
    }

    world.send(0, 1, &vec![5; 100_000]);
    assert_eq!(world.frames(1), [vec![5; 100_000]]);
    assert_eq!(world.forwarded, 0);
}

#[test]
fn without_direct_links_the_relay_carries_frames_in_pieces() {
    let mut world = World::new(&[true, false]);
    assert_eq!(world.path(0, 1), Some(false));
    world.send(1, 0, &vec![5; 100_000]);
    world.send(1, 0, b"small");
    assert_eq!(world.frames(0), [vec![5; 100_000], b"small".to_vec()]);
    assert!(world.forwarded >= 8);
    world.pass(60_000);
    assert_eq!(world.path(0, 1), Some(false));
}

#[test]
fn direct_links_outlive_the_relay_and_the_relay_is_entered_again() {
    let mut world = World::new(&[true, true, true]);
    world.kill_relay();
    world.pass(600_000);
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        assert_eq!(world.path(from, to), Some(true));
        world.send(from, to, b"still here");
        assert_eq!(world.frames(to).last(), Some(&&b"still here"[..]));
    }
    assert!(world.seen.iter().flatten().all(|output| !matches!(output, MeshOutput::Down(_))));
    // It keeps trying, but not in a hurry.
    let tries = world.count(0, |output| *output == MeshOutput::ConnectRelay);
    assert!((40..70).contains(&tries), "{tries}");

    world.relay_up = true;
    let offers = world.offers;
    world.pass(20_000);
    assert!(world.sockets.iter().all(|socket| *socket == (true, true)));
    assert_eq!(world.offers, offers, "open links are kept");
}

#[test]
fn peers_without_a_direct_link_are_down_while_the_relay_is_gone() {
    let mut world = World::new(&[false, false]);
    let b = world.id(1);
    world.kill_relay();
    assert_eq!(world.path(0, 1), None);
    assert_eq!(world.count(0, |output| *output == MeshOutput::Down(b)), 1);
    world.relay_up = true;
    world.pass(20_000);
    assert_eq!(world.path(0, 1), Some(false));
    assert_eq!(world.count(0, |output| *output == MeshOutput::Up(b)), 2);
}

#[test]
fn a_broken_link_falls_back_to_the_relay_and_is_made_again() {
    let mut world = World::new(&[true, true]);
    let (_, _, attempt) = *world.ends.iter().next().unwrap();
    let (a, b) = (world.id(0), world.id(1));
    world.ends.clear();
    world.input(0, MeshInput::Closed { peer: b, attempt });
    world.input(1, MeshInput::Closed { peer: a, attempt });
    assert_eq!(world.path(0, 1), Some(false));
    world.send(0, 1, b"by relay");
    assert_eq!(world.frames(1), [b"by relay"]);
    world.pass(5_000);
    assert_eq!(world.path(0, 1), Some(true));
    assert_eq!(world.count(0, |output| matches!(output, MeshOutput::Down(_))), 0);
}

#[test]
fn a_link_that_only_the_higher_peer_knows_dead_is_made_again_by_invitation() {
    let mut world = World::new(&[true, true]);
    let (_, _, attempt) = *world.ends.iter().next().unwrap();
    let a = world.id(0);
    world.pass(10_000);
    // Only the higher peer hears of it.
    world.ends.clear();
    world.input(1, MeshInput::Closed { peer: a, attempt });
    assert_eq!((world.path(0, 1), world.path(1, 0)), (Some(true), Some(false)));
    world.pass(30_000);
    assert_eq!((world.path(0, 1), world.path(1, 0)), (Some(true), Some(true)));
    assert_eq!(world.offers, 2);
}

#[test]
fn links_that_never_open_are_tried_ever_less_often() {
    let mut world = World::new(&[true, true]);
    world.links_work = false;
    let (_, _, attempt) = *world.ends.iter().next().unwrap();
    let b = world.id(1);
    world.input(0, MeshInput::Closed { peer: b, attempt });
    world.pass(3_600_000);
    assert!((8..20).contains(&world.offers), "{} offers in an hour", world.offers);
    assert_eq!(world.path(0, 1), Some(false));
    world.links_work = true;
    world.pass(700_000);
    assert_eq!(world.path(0, 1), Some(true));
}

#[test]
fn attempts_stay_within_the_hourly_budget_under_churn() {
    let mut world = World::new(&[true, true]);
    let b = world.id(1);
    for _ in 0..1_000 {
        world.leave(1);
        world.deliver();
        world.ends.clear();
        let linked = world.meshes[0].peers.get(&b).and_then(|peer| peer.link.as_ref()).map(|link| link.attempt);
        if let Some(attempt) = linked {
            world.input(0, MeshInput::Closed { peer: b, attempt });
        }
        world.input(1, MeshInput::RelayLost);
        world.pass(3_600);
    }
    assert!(world.offers as u64 <= 2 * ATTEMPTS_PER_HOUR, "{} offers", world.offers);
}

#[test]
fn an_offer_whose_signature_does_not_hold_is_ignored() {
    let mut world = World::new(&[true, true]);
    let (a, b) = (world.id(0), world.id(1));
    let offer = |attempt| LinkSignal { run: RUN, to: b, attempt, step: LinkStep::Offer { sdp: "evil".into() } };
    let before = world.seen[1].len();
    let mut inputs = Vec::new();
    // Changed after signing, as a relay in the middle would.
    let mut changed = offer(u64::MAX).seal(&world.meshes[0].identity);
    let last = changed.payload.len() - 1;
    changed.payload[last] ^= 1;
    inputs.push((a, changed));
    // Signed by somebody else, in the name of the first peer.
    inputs.push((a, offer(u64::MAX).seal(&Identity::from_secret([99; 32]))));
    // Of another run, for another peer, and in another role.
    inputs.push((a, LinkSignal { run: RunId([2; 32]), ..offer(u64::MAX) }.seal(&world.meshes[0].identity)));
    inputs.push((a, LinkSignal { to: a, ..offer(u64::MAX) }.seal(&world.meshes[0].identity)));
    inputs.push((a, world.meshes[0].identity.seal(Domain::Swarm, &offer(u64::MAX))));
    // An old one again.
    inputs.push((a, offer(1).seal(&world.meshes[0].identity)));
    for (from, envelope) in inputs {
        world.input(1, MeshInput::Relay(FromRelay::Signal { from, envelope }));
    }
    assert_eq!(world.seen[1].len(), before);
    assert_eq!(world.path(1, 0), Some(true));
}

#[test]
fn a_peer_that_broke_the_rules_is_gone_for_a_while() {
    let mut world = World::new(&[true, true]);
    let b = world.id(1);
    world.input(0, MeshInput::Drop(b));
    world.deliver();
    assert_eq!(world.path(0, 1), None);
    world.pass(BAN_MS / 2);
    world.send(1, 0, b"let me in");
    assert_eq!(world.path(0, 1), None);
    assert!(world.frames(0).is_empty());
    world.pass(BAN_MS);
    assert!(world.path(0, 1).is_some());
}

#[test]
fn a_mesh_that_rests_leaves_all_links_and_the_relay_until_it_goes_on() {
    let mut world = World::new(&[true, true]);
    assert_eq!(world.path(0, 1), Some(true));
    world.input(0, MeshInput::Rest);
    world.deliver();
    assert_eq!((world.path(0, 1), world.path(1, 0)), (None, None));
    assert!(world.ends.is_empty() && !world.sockets[0].0);
    world.pass(HOUR_MS);
    assert!(world.ends.is_empty() && !world.sockets[0].0);
    world.input(0, MeshInput::GoOn);
    world.deliver();
    world.pass(20_000);
    assert_eq!((world.path(0, 1), world.path(1, 0)), (Some(true), Some(true)));
}

#[test]
fn malformed_pieces_end_a_direct_link_and_are_skipped_from_the_relay() {
    let mut world = World::new(&[true, true]);
    let (_, _, attempt) = *world.ends.iter().next().unwrap();
    let b = world.id(1);
    world.input(0, MeshInput::Relay(FromRelay::Forward { from: b, piece: vec![9, 9] }));
    world.input(0, MeshInput::Relay(FromRelay::Forward { from: b, piece: vec![] }));
    assert_eq!(world.path(0, 1), Some(true));
    world.input(0, MeshInput::Piece { from: b, attempt, bulk: false, bytes: &[9, 9] });
    assert_eq!(world.path(0, 1), Some(false));
    world.input(0, MeshInput::Piece { from: b, attempt, bulk: false, bytes: &[1, 1] });
    assert!(world.frames(0).is_empty(), "pieces of a link that is no more");
}

#[test]
fn frames_that_come_before_the_link_is_known_open_are_kept() {
    let mut world = World::new(&[true, true]);
    let (a, b) = (world.id(0), world.id(1));
    world.kill_relay();
    let (_, _, attempt) = *world.ends.iter().next().unwrap();
    world.input(1, MeshInput::Closed { peer: a, attempt });
    assert_eq!(world.path(1, 0), None);
    let offer = LinkSignal { run: RUN, to: b, attempt: attempt + 1, step: LinkStep::Offer { sdp: "offer".into() } };
    let envelope = offer.seal(&world.meshes[0].identity);
    world.relay_up = true;
    world.pass(20_000);
    world.input(1, MeshInput::Relay(FromRelay::Signal { from: a, envelope }));
    world.seen[1].clear();
    world.sockets[1] = (false, false);
    world.input(1, MeshInput::RelayLost);
    let attempt = world.meshes[1].peers[&a].link.as_ref().unwrap().attempt;
    world.input(1, MeshInput::Piece { from: a, attempt, bulk: false, bytes: &[1, 42] });
    world.input(1, MeshInput::Opened { peer: a, attempt });
    let frames = world.frames(1);
    assert!(frames.last() == Some(&&[42][..]), "{frames:?}");
}

#[test]
fn a_silent_relay_is_left_and_connected_again() {
    let mut world = World::new(&[false]);
    assert_eq!(world.count(0, |output| *output == MeshOutput::ConnectRelay), 1);
    // The socket stays open, but nothing comes back.
    world.sockets[0].0 = false;
    let start = world.now;
    while world.count(0, |output| *output == MeshOutput::ConnectRelay) == 1 {
        world.now = world.meshes[0].wake_at();
        world.input(0, MeshInput::Tick);
    }
    assert!(world.now - start <= 60_000);
    world.deliver();
    assert!(world.sockets[0].1);
}
