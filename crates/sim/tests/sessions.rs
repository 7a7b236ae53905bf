//! Identities that are opened twice: the later session takes over, the earlier one falls silent, and nobody is convicted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_ledger::Chain;
use shoal_sim::{Network, Random, World};
use shoal_swarm::{Command, Event};
use shoal_wire::{
    Digest, PeerId, Round, SessionId,
    frame::Frame,
    record::{Certificate, Content, Member, Message, Said, Verdict, Vote, VoteKind},
};

const GOOD: Network = Network { latency_ms: (5, 40), loss_per_mille: 0, duplicate_per_mille: 0 };
const ROUGH: Network = Network { latency_ms: (5, 200), loss_per_mille: 100, duplicate_per_mille: 100 };

/// A run that trains, and its volunteers.
fn world(seed: u64, volunteers: usize) -> (World, Vec<PeerId>) {
    let mut world = World::new(seed, GOOD);
    let peers: Vec<PeerId> = (0..volunteers).map(|_| world.join()).collect();
    let all_in = |world: &World| {
        let roster = &chain(world).head().roster;
        roster.iter().filter(|member| member.valid >= 1).count() == volunteers && world.agree()
    };
    assert!(world.run_until(120_000, all_in));
    (world, peers)
}

fn chain(world: &World) -> &Chain {
    world.swarm(world.anchor()).unwrap().chain()
}

fn member(world: &World, peer: PeerId) -> Member {
    *chain(world).member(peer).unwrap()
}

fn session(process: PeerId) -> SessionId {
    SessionId(process.0)
}

fn was_told(world: &World, process: PeerId, wanted: impl Fn(&Event) -> bool) -> bool {
    world.told.iter().any(|(who, event)| *who == process && wanted(event))
}

fn is_replaced(world: &World, process: PeerId) -> bool {
    was_told(world, process, |event| matches!(event, Event::Replaced { .. }))
}

/// Proofs that somebody contradicted itself, in every certificate and in every message.
fn proofs(world: &World) -> usize {
    let certified = world.swarm(world.anchor()).unwrap().certificates().values();
    let said = world.said().iter().filter(|said| matches!(said.message, Message::Equivocation(_))).count();
    certified.map(|certificate| certificate.body.proofs.len()).sum::<usize>() + said
}

/// The next round whose certificate is made from now on, once it is there and known to all.
fn go_on(world: &mut World, rounds: Round) {
    let to = world.round() + rounds;
    let on = |world: &World| world.round() >= to && world.do_agree(&world.reachable());
    assert!(world.run_until(120_000 * rounds, on), "stuck before round {to}");
}

#[test]
fn the_second_session_of_an_identity_takes_over_and_the_first_falls_silent() {
    for seed in 700..704 {
        let (mut world, peers) = world(seed, 4);
        let first = peers[0];
        let before = member(&world, first);
        let credit = chain(&world).credit()[&first].amount;
        let second = world.open_again(first).unwrap();
        let took_over = |world: &World| member(world, first).session == session(second) && is_replaced(world, first);
        assert!(world.run_until(120_000, took_over), "seed {seed}");
        let (since, round) = (world.now, world.round());
        let after = member(&world, first);
        assert!(after.valid >= before.valid && after.since == before.since, "seed {seed}: {before:?} {after:?}");
        go_on(&mut world, 4);
        // What it says in its own session from then on.
        let of_first = |said: &Said| said.session == session(first) && said.round > round + 1;
        assert!(world.envelopes(of_first).is_empty(), "seed {seed}: {} after {since:?}", first.short());
        assert!(chain(&world).credit()[&first].amount > credit, "seed {seed}: the second one earns for both");
        assert!(!is_replaced(&world, second), "seed {seed}");
        assert_eq!((proofs(&world), world.checker.violations.clone()), (0, vec![]), "seed {seed}");
    }
}

#[test]
fn a_session_that_was_replaced_takes_over_again_when_its_person_says_so_and_only_then() {
    let (mut world, peers) = world(710, 4);
    let first = peers[0];
    let second = world.open_again(first).unwrap();
    assert!(world.run_until(120_000, |world| is_replaced(world, first)));
    go_on(&mut world, 3);
    assert_eq!(member(&world, first).session, session(second));
    world.command(first, Command::Start);
    assert!(world.run_until(120_000, |world| member(world, first).session == session(first)));
    assert!(world.run_until(120_000, |world| is_replaced(world, second)));
    go_on(&mut world, 2);
    assert_eq!(member(&world, first).session, session(first));
    assert_eq!((proofs(&world), world.checker.violations.clone()), (0, vec![]));
}

#[test]
fn a_restart_goes_on_in_its_session_and_needs_no_round_to_come_back() {
    let (mut world, peers) = world(720, 2);
    // Of three that weigh the same, none can be missed: the round needs the one that restarts.
    let (peer, round) = (peers[0], world.round());
    let voted = |world: &World| {
        let of_it = |said: &Said| said.session == session(peer) && said.round == round + 1;
        world.envelopes(|said| of_it(said) && matches!(said.message, Message::Vote(_))).len()
    };
    assert!(world.run_until(60_000, |world| voted(world) > 0));
    world.crash(peer);
    world.start(peer);
    go_on(&mut world, 3);
    assert_eq!(member(&world, peer).session, session(peer));
    assert_eq!((world.checker.recoveries, proofs(&world)), (0, 0));
    assert_eq!(world.checker.violations, vec![]);
}

#[test]
fn an_identity_whose_folder_is_lost_comes_back_through_a_recovery_where_it_cannot_be_missed() {
    let (mut world, peers) = world(730, 1);
    let lost = peers[0];
    let valid = member(&world, lost).valid;
    world.crash(lost);
    let again = world.open_again(lost).unwrap();
    assert!(world.run_until(300_000, |world| member(world, lost).session == session(again)));
    assert!(member(&world, lost).valid >= valid, "what it earned stays");
    go_on(&mut world, 3);
    assert!(world.checker.recoveries > 0);
    assert_eq!((proofs(&world), world.checker.violations.clone()), (0, vec![]));
}

#[test]
fn who_hears_a_vote_of_its_session_that_it_did_not_cast_takes_another_session() {
    let (mut world, peers) = world(740, 4);
    let copied = peers[1];
    let vote = Vote { parent: chain(&world).head().body, view: 9, kind: VoteKind::Prevote, body: None };
    let (run, round) = (world.manifest().run(), world.round() + 1);
    let said = Said { run, round, session: session(copied), message: Message::Vote(vote) };
    let frame = Frame::Said(said.seal(world.identity(copied).unwrap())).encode();
    // It passes on a vote that its disk does not hold, as a copy's would be.
    world.checker.liars.insert(copied);
    let anchor = world.anchor();
    world.deliver(anchor, copied, &frame);
    assert!(was_told(&world, copied, |event| matches!(event, Event::Trouble(why) if why.contains("copy"))));
    assert!(world.run_until(120_000, |world| member(world, copied).session != session(copied)));
    let credit = chain(&world).credit()[&copied].amount;
    go_on(&mut world, 4);
    assert!(chain(&world).credit()[&copied].amount > credit);
    // A restart goes on in that one.
    let other = member(&world, copied).session;
    world.crash(copied);
    world.start(copied);
    go_on(&mut world, 2);
    assert_eq!(member(&world, copied).session, other);
    assert_eq!((proofs(&world), world.checker.violations.clone()), (0, vec![]));
}

#[test]
fn identities_opened_twice_at_random_part_no_run_and_convict_nobody() {
    for seed in 0..12 {
        let (mut world, peers) = world(seed, 5);
        world.network = ROUGH;
        world.tears = true;
        let mut random = Random::new(seed ^ 0x5e55);
        let mut processes = peers.clone();
        for _ in 0..12 {
            let wait_ms = random.between(500, 15_000);
            world.run_for(wait_ms);
            let one = processes[random.place(processes.len())];
            match random.between(0, 5) {
                0 | 1 if processes.len() < 9 => processes.extend(world.open_again(one)),
                2 if world.swarm(one).is_some() => world.crash(one),
                3 => world.command(one, Command::Start),
                _ if world.swarm(one).is_none() => world.start(one),
                _ => {}
            }
        }
        world.network = GOOD;
        let away: Vec<PeerId> = processes.iter().copied().filter(|one| world.swarm(*one).is_none()).collect();
        for one in away {
            world.start(one);
        }
        // Once those that asked have taken over from each other, one process of each identity works for it, in every round.
        let is_whole = |certificate: &Certificate| {
            let Content { commits, verdicts, .. } = &certificate.body.content;
            commits.len() == peers.len() && verdicts.iter().all(|verdict| *verdict == Verdict::Accepted)
        };
        let from = world.round();
        let settled = |world: &World| {
            let newest = world.swarm(world.anchor()).unwrap().certificates().values().rev().take(3);
            world.round() >= from + 3 && newest.into_iter().all(is_whole) && world.do_agree(&world.reachable())
        };
        assert!(world.run_until(900_000, settled), "seed {seed}: {:?}", chain(&world).head().roster);
        let models: Vec<Digest> =
            world.reachable().into_iter().map(|one| world.swarm(one).unwrap().chain().head().model).collect();
        assert!(models.iter().all(|model| *model == models[0]), "seed {seed}");
        assert!(peers.iter().all(|peer| member(&world, *peer).standing.bans == 0), "seed {seed}");
        assert_eq!((proofs(&world), world.checker.violations.clone()), (0, vec![]), "seed {seed}");
    }
}
