//! The pace of rounds: slow peers do less and stall nobody, deadlines follow the peers' speed, and who is behind takes
//! the shorter way to the present.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_ledger::Chain;
use shoal_sim::{Network, World};
use shoal_wire::{
    PeerId, Round,
    record::{Commit, Message, Said},
};

const GOOD: Network = Network { latency_ms: (5, 40), loss_per_mille: 0, duplicate_per_mille: 0 };

/// An anchor and volunteers that take so long for all steps of a round, all of them members.
fn world(seed: u64, train_ms: &[u64]) -> (World, Vec<PeerId>) {
    let mut world = World::new(seed, GOOD);
    let peers: Vec<PeerId> = train_ms.iter().map(|_| world.join()).collect();
    for (peer, train_ms) in peers.iter().zip(train_ms) {
        world.set_train_ms(*peer, *train_ms);
    }
    let all_in = |world: &World| {
        let roster = &world.swarm(world.anchor()).unwrap().chain().head().roster;
        roster.iter().filter(|member| member.trains).count() == peers.len() && world.agree()
    };
    assert!(world.run_until(120_000, all_in), "seed {seed}: not all are in");
    (world, peers)
}

/// What a peer committed to in a certified round.
fn commit(world: &World, round: Round, peer: PeerId) -> Option<Commit> {
    let certificate = &world.swarm(world.anchor()).unwrap().certificates()[&round];
    let envelope = certificate.body.content.commits.iter().find(|envelope| envelope.from == peer)?;
    match Said::open(envelope, world.manifest().run()).unwrap().into_inner().message {
        Message::Commit(commit) => Some(commit),
        _ => panic!("a commit"),
    }
}

/// Runs for so many rounds; returns how long each took, in milliseconds.
fn rounds(world: &mut World, count: u64) -> Vec<u64> {
    let mut took = Vec::new();
    for _ in 0..count {
        let (round, since) = (world.round(), world.now);
        assert!(world.run_until(60_000, |world| world.round() > round && world.agree()), "stuck at {round}");
        took.push(world.now.since(since));
    }
    took
}

#[test]
fn a_peer_five_times_slower_commits_in_time_with_fewer_steps_and_stalls_nobody() {
    for seed in 300..303 {
        // The manifest's bounds are 2.5 and 10 seconds.
        let (mut world, peers) = world(seed, &[3_000, 3_000, 3_000, 15_000]);
        let slow = peers[3];
        rounds(&mut world, 5);
        let first = world.round() + 1;
        let took = rounds(&mut world, 6);
        let all = world.manifest().recipe.local_steps;
        for round in first..first + 6 {
            let steps = commit(&world, round, slow).expect("the slow one commits in time").steps;
            assert!((1..=3).contains(&steps), "seed {seed}: {steps} steps");
            assert!(peers[..3].iter().all(|peer| commit(&world, round, *peer).unwrap().steps == all));
        }
        // Within the deadline of 3.9 s; the rest is agreement.
        assert!(took.iter().all(|ms| *ms < 4_500), "seed {seed}: {took:?}");
        assert_eq!(world.checker.violations, vec![]);
    }
}

#[test]
fn a_peer_that_does_fewer_steps_weighs_less() {
    let (mut world, peers) = world(310, &[3_000, 3_000, 3_000, 15_000]);
    rounds(&mut world, 8);
    let swarm = world.swarm(world.anchor()).unwrap();
    let mut chain = Chain::new(world.manifest().clone());
    let steps: Vec<_> = swarm.certificates().values().map(|certificate| chain.apply(certificate).unwrap()).collect();
    let accepted = &steps.last().unwrap().accepted;
    let weight = |peer: PeerId| accepted.iter().find(|update| update.peer == peer).unwrap().weight;
    let (all, steps) = (world.manifest().recipe.local_steps, commit(&world, world.round(), peers[3]).unwrap().steps);
    assert_eq!(weight(peers[0]), 4095);
    assert_eq!(u32::from(weight(peers[3])), 4095 * steps / all);
}

#[test]
fn deadlines_and_steps_follow_when_everybody_gets_slower_and_faster_again() {
    let (mut world, peers) = world(320, &[2_600; 3]);
    let all = world.manifest().recipe.local_steps;
    let steps =
        |world: &World| peers.iter().map(|peer| commit(world, world.round(), *peer).unwrap().steps).min().unwrap();
    rounds(&mut world, 6);
    assert_eq!(steps(&world), all);
    for peer in &peers {
        world.set_train_ms(*peer, 6_500);
    }
    rounds(&mut world, 2);
    assert!(steps(&world) < all, "the first deadlines are those of before");
    rounds(&mut world, 8);
    assert_eq!(steps(&world), all, "the deadline moved");
    for peer in &peers {
        world.set_train_ms(*peer, 1_000);
    }
    rounds(&mut world, 6);
    assert_eq!(steps(&world), all);
    // A peer that gets slow alone is waited for no longer than the others' speed allows again.
    world.set_train_ms(peers[0], 20_000);
    rounds(&mut world, 4);
    let took = rounds(&mut world, 3);
    assert!(took.iter().all(|ms| *ms < 3_200), "{took:?}");
}

#[test]
fn a_slow_peer_that_gets_fast_does_all_steps_again() {
    let (mut world, peers) = world(330, &[3_000, 3_000, 15_000]);
    let all = world.manifest().recipe.local_steps;
    rounds(&mut world, 6);
    assert!(commit(&world, world.round(), peers[2]).unwrap().steps < all);
    world.set_train_ms(peers[2], 2_000);
    rounds(&mut world, 4);
    assert_eq!(commit(&world, world.round(), peers[2]).unwrap().steps, all);
}
