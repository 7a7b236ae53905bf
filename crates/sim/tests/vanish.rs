//! Two fifths of a group vanish in the middle of a round, after each message in turn.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_sim::{Model, Network, World};
use shoal_wire::{Digest, PeerId};

const GOOD: Network = Network { latency_ms: (5, 40), loss_per_mille: 0, duplicate_per_mille: 0 };

/// An anchor and some volunteers that all took part in a round, at the beginning of the next.
fn world(volunteers: usize) -> (World, Vec<PeerId>) {
    let mut world = World::with_model(Model::Learner, 300, GOOD, 1, |_| {});
    let peers: Vec<PeerId> = (0..volunteers).map(|_| world.join()).collect();
    let all_in = |world: &World| {
        let roster = &world.swarm(world.anchor()).unwrap().chain().head().roster;
        roster.iter().filter(|member| member.valid >= 1).count() == volunteers && world.agree()
    };
    assert!(world.run_until(120_000, all_in));
    (world, peers)
}

/// Frames sent at the beginning of a round and at its end.
fn frames_of_a_round(volunteers: usize) -> (u64, u64) {
    let (mut world, _) = world(volunteers);
    let (first, round) = (world.sends, world.round());
    assert!(world.run_until(60_000, |world| world.round() > round && world.agree()));
    (first, world.sends)
}

/// Lets some volunteers vanish after so many frames, and checks what the others make of the round.
fn vanish(volunteers: usize, gone: usize, after: u64) {
    let (mut world, peers) = world(volunteers);
    let round = world.round() + 1;
    // Other ones each time, and never the anchor: without it, so few could not go on.
    let turn = after as usize % volunteers;
    let victims: Vec<PeerId> = peers.iter().cycle().skip(turn).take(gone).copied().collect();
    world.vanish_after(after, victims.clone());
    let survivors: Vec<PeerId> = world.live().into_iter().filter(|peer| !victims.contains(peer)).collect();
    let certified = |world: &World| {
        let gone = victims.iter().all(|peer| world.swarm(*peer).is_none());
        gone && world.do_agree(&survivors) && world.swarm(survivors[0]).unwrap().chain().head().round >= round
    };
    assert!(world.run_until(120_000, certified), "after {after} frames: stuck at {}", world.round());
    for peer in &survivors {
        let (_, model) = world.swarm(*peer).unwrap().model().unwrap();
        assert_eq!(world.replayed(*peer), Some(Digest::of(&model)), "after {after} frames: {}", peer.short());
    }
    assert_eq!(world.checker.violations, vec![], "after {after} frames");
}

fn at_each_of(boundaries: u64, volunteers: usize, gone: usize) {
    let (first, last) = frames_of_a_round(volunteers);
    let step = ((last - first) / boundaries).max(1);
    for after in (first..last).step_by(step as usize) {
        vanish(volunteers, gone, after);
    }
}

const BOUNDARIES: u64 = if cfg!(target_arch = "wasm32") { 4 } else { 60 };

#[test]
fn two_of_five_vanish_and_the_others_certify_what_they_can_replay() {
    at_each_of(BOUNDARIES, 4, 2);
}

#[test]
fn four_of_ten_vanish_and_the_others_certify_what_they_can_replay() {
    at_each_of(BOUNDARIES / 4, 9, 4);
}
