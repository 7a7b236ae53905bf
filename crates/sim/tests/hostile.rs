//! What hostile or mistaken peers send, and what it must not do.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_ledger::Chain;
use shoal_sim::{Network, World, toy_genesis, toy_manifest};
use shoal_swarm::{Config, Input, Output, Record, Restored, Swarm};
use shoal_wire::{
    Digest, Envelope, Identity, Manifest, Millis, PeerId, Round, SessionId,
    frame::{Frame, Status},
    limits,
    record::{Have, Join, Message, Said, Vote, VoteKind},
};

const GOOD: Network = Network { latency_ms: (5, 40), loss_per_mille: 0, duplicate_per_mille: 0 };

fn identity(number: u32) -> Identity {
    Identity::from_secret(Digest::of(&number.to_le_bytes()).0)
}

fn join(manifest: &Manifest, round: Round, who: &Identity) -> Envelope {
    let message = Message::Join(Join { durable: true, trains: true });
    Said { run: manifest.run(), round, session: SessionId(who.peer().0), message }.seal(who)
}

/// First eight bytes of an envelope's id, as heartbeats name it.
fn short(envelope: &Envelope) -> u64 {
    u64::from_le_bytes(envelope.id().0[..8].try_into().unwrap())
}

/// One anchor alone, and what it sends to its only link.
struct Alone {
    swarm: Swarm,
    manifest: Manifest,
    link: PeerId,
    now: Millis,
}

impl Alone {
    /// The first of these anchors.
    fn new(anchors: &[Identity]) -> Self {
        Self::among(anchors, anchors[0].clone())
    }

    /// One of two anchors, and the other, who leads the first view: what the digests of the manifest make of it.
    fn led_by_another() -> (Self, Identity) {
        let anchors = [identity(1), identity(2)];
        let manifest = toy_manifest(anchors.iter().map(Identity::peer).collect());
        let leader = Chain::new(manifest).leaders()[0];
        let [first, second] = anchors.clone();
        let (us, other) = if first.peer() == leader { (second, first) } else { (first, second) };
        (Self::among(&anchors, us), other)
    }

    fn among(anchors: &[Identity], us: Identity) -> Self {
        let manifest = toy_manifest(anchors.iter().map(Identity::peer).collect());
        let config = Config {
            manifest: manifest.clone(),
            session: SessionId(us.peer().0),
            identity: us,
            join: Join { durable: true, trains: false },
            archive: true,
        };
        let restored = Restored { model: Some(toy_genesis()), ..Restored::default() };
        let now = Millis(1);
        let link = identity(1000).peer();
        let mut alone = Self { swarm: Swarm::new(config, restored, now).unwrap(), manifest, link, now };
        alone.drain();
        alone.input(Input::LinkUp(link));
        alone
    }

    fn input(&mut self, input: Input<'_>) -> Vec<Frame> {
        self.swarm.handle(self.now, input).unwrap();
        self.drain()
    }

    fn hear(&mut self, frame: &Frame) -> Vec<Frame> {
        let from = self.link;
        self.input(Input::Frame { from, bytes: &frame.encode() })
    }

    fn drain(&mut self) -> Vec<Frame> {
        let sent = |output| match output {
            Output::Send { frame, .. } => Some(Frame::decode(&frame).unwrap()),
            _ => None,
        };
        self.drain_all().into_iter().filter_map(sent).collect()
    }

    fn hear_all(&mut self, frame: &Frame) -> Vec<Output> {
        let from = self.link;
        self.swarm.handle(self.now, Input::Frame { from, bytes: &frame.encode() }).unwrap();
        self.drain_all()
    }

    fn drain_all(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        loop {
            match self.swarm.poll() {
                Output::Idle(_) => return outputs,
                output => outputs.push(output),
            }
        }
    }

    /// Messages that it keeps, but for what it asked itself: a session of its own.
    fn kept(&mut self) -> usize {
        self.status().envelopes.len() - 1
    }

    /// The heartbeat of the next second.
    fn status(&mut self) -> Status {
        self.now = self.now + 1_000;
        let status = |frame| if let Frame::Status(status) = frame { Some(status) } else { None };
        self.input(Input::Tick).into_iter().find_map(status).unwrap()
    }
}

#[test]
fn a_request_to_join_the_round_after_next_does_not_stop_this_one() {
    let mut world = World::new(31, GOOD);
    let peer = world.join();
    assert!(world.run_until(60_000, |world| world.round() >= 2 && world.agree()));
    let (anchor, next) = (world.anchor(), world.round() + 1);
    let early = Frame::Said(join(world.manifest(), next + 1, &identity(7))).encode();
    world.deliver(peer, anchor, &early);
    world.deliver(anchor, peer, &early);
    assert!(world.run_until(60_000, |world| world.round() >= next + 2), "stuck at {}", world.round());
    assert_eq!(world.checker.violations, vec![]);
}

#[test]
fn absurd_rounds_and_sizes_are_ignored() {
    let mut world = World::new(32, GOOD);
    let peer = world.join();
    assert!(world.run_until(60_000, |world| world.round() >= 2));
    let anchor = world.anchor();
    let certificate = world.swarm(anchor).unwrap().certificates()[&1].clone();
    for round in [0, 1, 2, 3, 4, u64::MAX - 1, u64::MAX] {
        let mut odd = certificate.clone();
        odd.body.round = round;
        world.deliver(peer, anchor, &Frame::Certificates(vec![odd.clone(), odd]).encode());
        world.deliver(peer, anchor, &Frame::GetCertificates(round).encode());
        let status = Status { head: round, body: Digest::of(b""), envelopes: vec![round], seen: vec![] };
        world.deliver(peer, anchor, &Frame::Status(status).encode());
        let model = world.manifest().genesis;
        world.deliver(peer, anchor, &Frame::GetRange { blob: model, offset: round, bytes: u32::MAX }.encode());
        world.deliver(peer, anchor, &Frame::Range { blob: model, offset: round, bytes: vec![1] }.encode());
        let said = Frame::Said(join(world.manifest(), round, &identity(9))).encode();
        world.deliver(peer, anchor, &said);
    }
    let round = world.round();
    assert!(world.run_until(60_000, |world| world.round() >= round + 2));
    assert_eq!(world.checker.violations, vec![]);
}

#[test]
fn an_envelope_is_sent_once_however_often_one_request_names_it() {
    let mut alone = Alone::new(&[identity(0)]);
    let joining = join(&alone.manifest, 1, &identity(1));
    alone.hear(&Frame::Said(joining));
    let id = alone.status().envelopes[0];
    let answers = alone.hear(&Frame::Ask(vec![id; 50_000]));
    assert_eq!(answers.iter().filter(|frame| matches!(frame, Frame::Said(_))).count(), 1);
}

#[test]
fn requests_to_join_are_remembered_up_to_a_limit() {
    let mut alone = Alone::new(&[identity(0)]);
    for number in 1..=200 {
        let joining = join(&alone.manifest, 1, &identity(number));
        alone.hear(&Frame::Said(joining));
    }
    assert!(alone.status().envelopes.len() <= limits::JOINS_MAX + 8);
}

#[test]
fn hearsay_is_not_passed_on() {
    let silent = identity(2).peer();
    let mut alone = Alone::new(&[identity(0), identity(2)]);
    alone.input(Input::LinkUp(silent));
    let seen = alone.status().seen;
    assert!(seen.contains(&silent), "a fresh link counts as heard");
    for _ in 0..10 {
        let status = Status { head: 0, body: Digest::of(b""), envelopes: vec![], seen: vec![silent] };
        alone.hear(&Frame::Status(status));
        alone.status();
    }
    assert!(!alone.status().seen.contains(&silent));
}

#[test]
fn a_peer_that_votes_twice_in_one_view_is_dropped_and_its_first_vote_stays_beside_the_proof() {
    let (mut alone, twice) = (Alone::new(&[identity(0)]), identity(1));
    let joining = join(&alone.manifest, 1, &twice);
    let outputs = alone.hear_all(&Frame::Said(joining));
    votes_once_stored(&mut alone, outputs);
    let parent = alone.swarm.chain().head().body;
    assert!(alone.swarm.chain().member(twice.peer()).is_some());
    let vote = |body: u8| {
        let vote = Vote { parent, view: 0, kind: VoteKind::Prevote, body: Some(Digest([body; 32])) };
        let (run, session) = (alone.manifest.run(), SessionId(twice.peer().0));
        Said { run, round: 2, session, message: Message::Vote(vote) }.seal(&twice)
    };
    let votes = [vote(1), vote(2)];
    let outputs: Vec<Output> = votes.iter().flat_map(|vote| alone.hear_all(&Frame::Said(vote.clone()))).collect();
    let (mut dropped, mut proofs) = (Vec::new(), Vec::new());
    for output in outputs {
        match output {
            Output::Drop { peer, .. } => dropped.push(peer),
            Output::Send { frame, .. } => {
                let Frame::Said(envelope) = Frame::decode(&frame).unwrap() else { continue };
                let said = Said::open(&envelope, alone.manifest.run()).unwrap().into_inner();
                proofs.extend(if let Message::Equivocation(proof) = said.message {
                    Some((short(&envelope), proof))
                } else {
                    None
                });
            }
            _ => {}
        }
    }
    assert_eq!(dropped, [twice.peer()]);
    let held = alone.status().envelopes;
    let is_held = [short(&votes[0]), short(&votes[1]), proofs[0].0].map(|id| held.contains(&id));
    assert_eq!(is_held, [true, false, true]);
    let chain = alone.swarm.chain();
    assert_eq!(proofs.iter().map(|(_, proof)| chain.convicts(proof)).collect::<Vec<_>>(), [Ok(twice.peer())]);
}

#[test]
fn a_vote_after_another_body_is_ignored_and_not_held_against_its_author() {
    let (mut alone, other) = Alone::led_by_another();
    let run = alone.manifest.run();
    let vote = |parent: Digest, body: u8| {
        let vote = Vote { parent, view: 0, kind: VoteKind::Prevote, body: Some(Digest([body; 32])) };
        Frame::Said(Said { run, round: 1, session: SessionId::NONE, message: Message::Vote(vote) }.seal(&other))
    };
    let votes = [vote(Digest([9; 32]), 1), vote(run.into(), 2)];
    for frame in &votes {
        let dropped = alone.hear_all(frame).into_iter().any(|output| matches!(output, Output::Drop { .. }));
        assert!(!dropped);
    }
    assert_eq!(alone.kept(), 1, "only the vote that follows this chain is kept");
}

#[test]
fn a_forged_copy_does_not_keep_the_genuine_vote_out() {
    let (mut alone, other) = Alone::led_by_another();
    let vote = Vote { parent: alone.manifest.run().into(), view: 0, kind: VoteKind::Prevote, body: None };
    let (run, message) = (alone.manifest.run(), Message::Vote(vote));
    let genuine = Said { run, round: 1, session: SessionId::NONE, message }.seal(&other);
    let mut forged = genuine.clone();
    forged.signature.0[5] ^= 1;
    alone.hear(&Frame::Said(forged));
    assert_eq!(alone.kept(), 0);
    alone.hear(&Frame::Said(genuine));
    assert_eq!(alone.kept(), 1);
}

#[test]
fn a_vote_leaves_only_after_it_is_stored() {
    let mut alone = Alone::new(&[identity(0)]);
    let votes = |outputs: &[Output]| {
        let is_vote = |output: &&Output| match output {
            Output::Send { frame, .. } => match Frame::decode(frame).unwrap() {
                Frame::Said(envelope) => {
                    matches!(Said::open(&envelope, alone_run()).unwrap().message, Message::Vote(_))
                }
                _ => false,
            },
            _ => false,
        };
        outputs.iter().filter(is_vote).count()
    };
    let joining = join(&alone.manifest, 1, &identity(1));
    let outputs = alone.hear_all(&Frame::Said(joining));
    let stored = outputs.iter().find_map(|output| match output {
        Output::Persist { id, record: Record::Vote(_) } => Some(*id),
        _ => None,
    });
    assert_eq!(votes(&outputs), 0);
    alone.status();
    alone.swarm.handle(alone.now, Input::Persisted(stored.expect("a prevote for its own proposal"))).unwrap();
    let outputs = alone.drain_all();
    assert_eq!(votes(&outputs), 1);
}

fn alone_run() -> shoal_wire::RunId {
    toy_manifest(vec![identity(0).peer()]).run()
}

#[test]
fn of_rounds_to_come_only_members_are_heard_and_each_only_so_much() {
    let mut alone = Alone::new(&[identity(0), identity(1)]);
    let run = alone.manifest.run();
    let early = |who: &Identity, view: u32| {
        let vote = Vote { parent: Digest::default(), view, kind: VoteKind::Prevote, body: None };
        Frame::Said(Said { run, round: 2, session: SessionId::NONE, message: Message::Vote(vote) }.seal(who))
    };
    for number in 100..400 {
        alone.hear(&early(&identity(number), 0));
    }
    assert_eq!(alone.swarm.early_messages(), 0);
    for view in 0..300 {
        alone.hear(&early(&identity(1), view));
    }
    assert_eq!(alone.swarm.early_messages(), limits::EARLY_MAX);
}

#[test]
fn whoever_signs_a_later_attempt_at_a_recovery_does_not_vote_twice_in_the_earlier_one() {
    let (us, other) = (identity(1), identity(2));
    let mut alone = Alone::new(&[us, other.clone()]);
    let run = alone.manifest.run();
    let vote = |attempt: u32, body: u8| {
        let body = Some(Digest([body; 32]));
        let vote = Vote { parent: run.into(), view: attempt, kind: VoteKind::Recovery, body };
        Frame::Said(Said { run, round: 1, session: SessionId::NONE, message: Message::Vote(vote) }.seal(&other))
    };
    let drops = |outputs: Vec<Output>| outputs.iter().any(|output| matches!(output, Output::Drop { .. }));
    for frame in [vote(0, 1), vote(1, 2), vote(0, 3)] {
        assert!(!drops(alone.hear_all(&frame)));
    }
    assert!(drops(alone.hear_all(&vote(1, 4))), "two votes in one attempt");
}

#[test]
fn nobody_is_heard_who_claims_to_hold_more_updates_than_a_round_has() {
    let (us, other) = (identity(1), identity(2));
    let mut alone = Alone::new(&[us, other.clone()]);
    let run = alone.manifest.run();
    for (count, kept) in [(limits::ROSTER_MAX + 1, 0), (limits::ROSTER_MAX, 1)] {
        let updates = (0..count).map(|number| Digest::of(&number.to_le_bytes())).collect();
        let message = Message::Have(Have { updates });
        let said = Said { run, round: 1, session: SessionId::NONE, message };
        alone.hear(&Frame::Said(said.seal(&other)));
        assert_eq!(alone.kept(), kept);
    }
}

/// Votes among these outputs and what follows when they are stored.
fn votes_once_stored(alone: &mut Alone, mut outputs: Vec<Output>) -> Vec<Vote> {
    let mut votes = Vec::new();
    while let Some(output) = outputs.pop() {
        match output {
            Output::Persist { id, .. } => {
                alone.swarm.handle(alone.now, Input::Persisted(id)).unwrap();
                outputs.extend(alone.drain_all());
            }
            Output::Send { frame, .. } => {
                let Frame::Said(envelope) = Frame::decode(&frame).unwrap() else { continue };
                let said = Said::open(&envelope, alone.manifest.run()).unwrap().into_inner();
                votes.extend(if let Message::Vote(vote) = said.message { Some(vote) } else { None });
            }
            _ => {}
        }
    }
    votes
}

#[test]
fn a_round_of_many_views_silences_neither_this_peer_nor_others() {
    let (mut alone, other) = Alone::led_by_another();
    let run = alone.manifest.run();
    for view in 0..400 {
        for kind in [VoteKind::Prevote, VoteKind::Precommit] {
            let vote = Vote { parent: run.into(), view, kind, body: None };
            let said = Said { run, round: 1, session: SessionId::NONE, message: Message::Vote(vote) }.seal(&other);
            let id = short(&said);
            let outputs = alone.hear_all(&Frame::Said(said));
            votes_once_stored(&mut alone, outputs);
            assert!(alone.status().envelopes.contains(&id), "view {view}: a vote of another is not kept");
        }
        alone.now = alone.now + 100_000;
        alone.swarm.handle(alone.now, Input::Tick).unwrap();
        let outputs = alone.drain_all();
        let votes = votes_once_stored(&mut alone, outputs);
        assert!(votes.iter().any(|vote| vote.view >= view), "view {view}: this peer's own vote does not leave");
    }
    assert!(alone.status().envelopes.len() <= 2 * limits::MESSAGES_PER_PEER_MAX + 8);
}
