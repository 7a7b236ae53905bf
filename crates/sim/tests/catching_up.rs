//! Whoever fell behind takes the shorter way to the present: the updates that it missed, or a checkpoint.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_sim::{Network, World, toy_genesis};
use shoal_wire::{Millis, PeerId};

const GOOD: Network = Network { latency_ms: (5, 40), loss_per_mille: 0, duplicate_per_mille: 0 };

fn received(world: &World, peer: PeerId) -> u64 {
    world.swarm(peer).unwrap().snapshot(Millis(0)).bytes_received
}

/// Cuts a peer off for so many rounds of the others, and returns how many bytes of blobs it takes until it holds their
/// model, just after a round began.
fn bytes_to_catch_up(world: &mut World, late: PeerId, missed: u64) -> u64 {
    let others: Vec<PeerId> = world.live().into_iter().filter(|peer| *peer != late).collect();
    for other in &others {
        world.unlink(late, *other);
    }
    let (before, round) = (received(world, late), world.round() + missed);
    assert!(world.run_until(240_000, |world| world.round() >= round), "stuck at {}", world.round());
    for other in &others {
        world.link(late, *other);
    }
    assert!(world.run_until(1_000, |world| {
        let swarm = world.swarm(late).unwrap();
        swarm.chain().head().round >= round && swarm.model().is_some_and(|(at, _)| at >= round)
    }));
    received(world, late) - before
}

#[test]
fn whoever_missed_more_bytes_of_updates_than_a_model_has_takes_a_checkpoint() {
    for seed in 400..404 {
        let mut world = World::new(seed, GOOD);
        let peers: Vec<PeerId> = (0..4).map(|_| world.join()).collect();
        // An update of the toy is as large as its model, and each round has three of the others.
        assert!(world.run_until(120_000, |world| world.round() >= 4 && world.agree()));
        let bytes = bytes_to_catch_up(&mut world, peers[0], 2);
        assert_eq!(bytes, toy_genesis().len() as u64, "seed {seed}");
        assert!(world.run_until(60_000, World::agree), "seed {seed}");
    }
}
