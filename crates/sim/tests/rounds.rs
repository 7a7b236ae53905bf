//! The swarm in a small simulated world: rounds, loss, churn, crashes, recovery.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_sim::{Faults, Network, World};
use shoal_swarm::Command;
use shoal_wire::record::Message;

const GOOD: Network = Network { latency_ms: (5, 40), loss_per_mille: 0, duplicate_per_mille: 0 };
const BAD: Network = Network { latency_ms: (10, 150), loss_per_mille: 200, duplicate_per_mille: 50 };

fn assert_safe(world: &World) {
    assert_eq!(world.checker.violations, vec![]);
}

#[test]
fn one_volunteer_and_the_anchor_certify_together() {
    let mut world = World::new(1, GOOD);
    let peer = world.join();
    assert!(world.run_until(120_000, |world| world.round() >= 6), "reached round {}", world.round());
    world.run_until(5_000, World::agree);
    assert!(world.agree());
    assert_eq!(world.checker.recoveries, 0);
    let credit = world.swarm(peer).unwrap().chain().credit().get(&peer).copied().unwrap_or_default();
    assert!(credit.rounds >= 4, "{credit:?}");
    assert_safe(&world);
}

#[test]
fn without_volunteers_no_rounds_are_made() {
    let mut world = World::new(2, GOOD);
    world.run_for(60_000);
    assert_eq!(world.round(), 0);
}

#[test]
fn sixteen_peers_with_loss_and_churn_never_certify_a_round_twice_and_agree_after_healing() {
    for seed in 0..2 {
        let mut world = World::new(seed, BAD);
        let mut peers: Vec<_> = (0..12).map(|_| world.join()).collect();
        assert!(world.run_until(120_000, |world| world.round() >= 3), "seed {seed}: round {}", world.round());
        peers.extend((0..4).map(|_| world.join()));
        for turn in 0..6 {
            let victim = peers[(world.random.draw() % peers.len() as u64) as usize];
            world.crash(victim);
            world.run_for(6_000);
            if turn % 2 == 0 {
                world.start(victim);
            } else {
                peers.retain(|peer| *peer != victim);
                world.run_for(3_000);
            }
        }
        world.network = GOOD;
        let round = world.round();
        assert!(world.run_until(180_000, |world| world.round() >= round + 3), "seed {seed}: stuck at {round}");
        assert!(world.run_until(30_000, World::agree), "seed {seed}: no agreement");
        assert_safe(&world);
    }
}

#[test]
fn the_run_goes_on_when_the_only_volunteer_vanishes_and_another_comes() {
    let mut world = World::new(7, GOOD);
    let first = world.join();
    assert!(world.run_until(60_000, |world| world.round() >= 3));
    world.crash(first);
    let second = world.join();
    let round = world.round();
    assert!(world.run_until(120_000, |world| world.round() >= round + 4), "reached {}", world.round());
    assert!(world.checker.recoveries >= 1);
    assert!(world.swarm(second).unwrap().chain().credit().contains_key(&second));
    assert_safe(&world);
}

#[test]
fn a_volunteer_that_says_good_bye_is_not_waited_for() {
    let mut world = World::new(8, GOOD);
    let (first, second) = (world.join(), world.join());
    assert!(world.run_until(60_000, |world| world.round() >= 3));
    world.command(first, Command::Leave);
    world.run_for(200);
    world.crash(first);
    let round = world.round();
    assert!(world.run_until(60_000, |world| world.round() >= round + 4), "reached {}", world.round());
    assert!(world.swarm(second).unwrap().chain().member(first).is_none());
    assert_safe(&world);
}

#[test]
fn three_volunteers_go_on_without_the_anchor_and_it_catches_up_later() {
    let mut world = World::new(9, GOOD);
    let peers: Vec<_> = (0..3).map(|_| world.join()).collect();
    assert!(world.run_until(90_000, |world| world.round() >= 4
        && world.swarm(peers[0]).unwrap().chain().head().roster.len() == 4));
    let anchor = world.anchor();
    world.crash(anchor);
    let round = world.round();
    assert!(world.run_until(120_000, |world| world.round() >= round + 3), "reached {}", world.round());
    world.start(anchor);
    // At no moment does the archive show a round that it could not replay.
    assert!(world.run_until(60_000, |world| {
        assert!(world.can_replay(anchor));
        world.agree()
    }));
    world.run_for(100);
    assert!(world.can_replay(anchor));
    assert_eq!(world.checker.recoveries, 0);
    assert_safe(&world);
}

#[test]
fn a_late_volunteer_reaches_the_same_model() {
    let mut world = World::new(10, GOOD);
    world.join();
    world.join();
    assert!(world.run_until(240_000, |world| world.round() >= 20));
    let late = world.join();
    assert!(world.run_until(60_000, |world| {
        world.swarm(late).is_some_and(|swarm| swarm.chain().credit().contains_key(&late))
    }));
    assert!(world.run_until(30_000, World::agree));
    assert_safe(&world);
}

#[test]
fn a_crash_at_any_moment_loses_no_vote() {
    let mut world = World::new(11, GOOD);
    let peers: Vec<_> = (0..4).map(|_| world.join()).collect();
    assert!(world.run_until(60_000, |world| world.round() >= 2));
    for step in 0..60 {
        let victim = peers[step % peers.len()];
        world.run_for(37 * (step as u64 % 11) + 13);
        world.crash(victim);
        world.run_for(150);
        world.start(victim);
    }
    let round = world.round();
    assert!(world.run_until(120_000, |world| world.round() >= round + 3));
    assert!(world.run_until(30_000, World::agree));
    assert_safe(&world);
}

#[test]
fn a_minority_with_the_anchor_recovers_and_yields_to_the_ordinary_chain() {
    let mut world = World::new(12, GOOD);
    let peers: Vec<_> = (0..4).map(|_| world.join()).collect();
    assert!(world.run_until(90_000, |world| world.swarm(peers[0]).unwrap().chain().head().roster.len() == 5));
    let anchor = world.anchor();
    for peer in &peers {
        world.unlink(anchor, *peer);
    }
    world.run_for(60_000);
    assert!(world.checker.recoveries >= 1, "the anchor alone recovers");
    for peer in &peers {
        world.link(anchor, *peer);
    }
    assert!(world.run_until(60_000, World::agree), "the anchor yields");
    let round = world.round();
    assert!(world.run_until(60_000, |world| world.round() >= round + 2));
    assert_safe(&world);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let run = || {
        let mut world = World::new(21, BAD);
        (0..4).for_each(|_| {
            world.join();
        });
        world.run_for(60_000);
        (world.round(), world.swarm(world.anchor()).unwrap().chain().head().body, world.told.len())
    };
    assert_eq!(run(), run());
}

#[test]
fn work_and_writes_that_fail_now_and_then_stop_nobody() {
    for seed in 22..25 {
        let mut world = World::new(seed, GOOD);
        world.faults = Faults { jobs_per_mille: 150, writes_per_mille: 10 };
        (0..4).for_each(|_| {
            world.join();
        });
        assert!(world.run_until(240_000, |world| world.round() >= 10), "seed {seed}: stuck at {}", world.round());
        world.faults = Faults::default();
        assert!(world.run_until(60_000, World::agree), "seed {seed}");
        assert_safe(&world);
    }
}

#[test]
fn a_crash_just_after_a_vote_was_sent_contradicts_no_vote() {
    for seed in 26..30 {
        let mut world = World::new(seed, GOOD);
        // Three of three are needed, so the round waits for whoever is away.
        let peers: Vec<_> = (0..2).map(|_| world.join()).collect();
        assert!(world.run_until(120_000, |world| world.round() >= 2 && world.agree()));
        world.write_ms = (200, 600);
        for step in 0..6 {
            let (victim, round) = (peers[step % 2], world.round() + 1);
            let votes = |world: &World| {
                let votes = world.envelopes(|said| said.round == round && matches!(said.message, Message::Vote(_)));
                votes.iter().filter(|envelope| envelope.from == victim).count()
            };
            assert!(world.run_until(60_000, |world| votes(world) > 0), "seed {seed}: no vote");
            world.crash(victim);
            world.start(victim);
            // Cut off, it decides anew what it has no record of; nobody reminds it of what it said.
            let others: Vec<_> = world.live().into_iter().filter(|other| *other != victim).collect();
            for other in &others {
                world.unlink(victim, *other);
            }
            world.run_for(12_000);
            for other in &others {
                world.link(victim, *other);
            }
            assert!(world.run_until(120_000, |world| world.round() >= round && world.agree()), "seed {seed}: {round}");
            assert_safe(&world);
        }
    }
}
