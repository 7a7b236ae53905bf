//! Going on without a quorum, after power loss, with disks that fail and with histories that parted.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_sim::{Lie, Network, World};
use shoal_swarm::Event;
use shoal_wire::{
    PeerId,
    record::{Message, Vote, VoteKind},
};

const GOOD: Network = Network { latency_ms: (5, 40), loss_per_mille: 0, duplicate_per_mille: 0 };

fn join_all(world: &mut World, volunteers: usize) -> Vec<PeerId> {
    let peers: Vec<PeerId> = (0..volunteers).map(|_| world.join()).collect();
    let all_in = |world: &World| {
        let roster = &world.swarm(world.anchor()).unwrap().chain().head().roster;
        roster.iter().filter(|member| member.valid >= 1).count() == volunteers && world.agree()
    };
    assert!(world.run_until(600_000, all_in));
    peers
}

fn cut(world: &mut World, one: PeerId, links: bool) {
    for other in world.live().into_iter().filter(|other| *other != one) {
        if links {
            world.link(one, other);
        } else {
            world.unlink(one, other);
        }
    }
}

#[test]
fn an_anchor_that_recovers_alone_does_not_expel_those_who_still_train() {
    let mut world = World::with_manifest(90, GOOD, |manifest| {
        manifest.timing.train_ms_max = 60_000;
        manifest.timing.recovery_ms = 10_000;
    });
    let peers = join_all(&mut world, 4);
    for peer in &peers {
        world.set_train_ms(*peer, 40_000);
    }
    let round = world.round() + 2;
    assert!(world.run_until(240_000, |world| world.round() == round && world.agree()));
    let anchor = world.anchor();
    let (next, recoveries) = (world.round() + 1, world.checker.recoveries);
    cut(&mut world, anchor, false);
    assert!(world.run_until(30_000, |world| world.checker.recoveries > recoveries));
    cut(&mut world, anchor, true);
    assert!(world.run_until(90_000, |world| world.round() >= next && world.agree()));
    let chain = world.swarm(anchor).unwrap().chain();
    assert!(world.swarm(anchor).unwrap().certificates()[&next].body.recovery.is_none(), "the anchor yields");
    for peer in peers {
        assert!(chain.member(peer).is_some_and(|member| member.valid >= 2), "{} lost its place", peer.short());
    }
    assert_eq!(world.checker.violations, vec![]);
}

#[test]
fn locks_outlive_a_power_loss_together_with_the_updates_they_need() {
    for seed in 100..104 {
        let mut world = World::new(seed, GOOD);
        let peer = join_all(&mut world, 1)[0];
        let (anchor, next) = (world.anchor(), world.round() + 1);
        let both = |world: &World| world.is_locked(anchor, next) && world.is_locked(peer, next);
        assert!(world.run_until(60_000, both), "seed {seed}");
        world.crash(anchor);
        world.crash(peer);
        world.start(anchor);
        world.start(peer);
        assert!(world.run_until(60_000, |world| world.round() > next), "seed {seed}: stuck at {next}");
        assert_eq!(world.checker.violations, vec![]);
    }
}

#[test]
fn a_lock_can_be_carried_on_without_the_author_of_an_update() {
    for seed in 105..108 {
        let mut world = World::new(seed, GOOD);
        let peers = join_all(&mut world, 3);
        let next = world.round() + 1;
        let all = world.live();
        assert!(world.run_until(60_000, |world| all.iter().all(|peer| world.is_locked(*peer, next))), "seed {seed}");
        for peer in &all {
            world.crash(*peer);
        }
        all.iter().filter(|peer| **peer != peers[0]).for_each(|peer| world.start(*peer));
        assert!(world.run_until(60_000, |world| world.round() > next), "seed {seed}: stuck at {next}");
        assert_eq!(world.checker.violations, vec![]);
    }
}

#[test]
fn histories_that_parted_long_after_an_earlier_recovery_come_together() {
    let mut world = World::new(110, GOOD);
    let first = join_all(&mut world, 1)[0];
    world.crash(first);
    let peers: Vec<PeerId> = (0..3).map(|_| world.join()).collect();
    assert!(world.run_until(400_000, |world| world.checker.recoveries >= 1 && world.round() >= 26 && world.agree()));
    let (anchor, recoveries) = (world.anchor(), world.checker.recoveries);
    assert_eq!(world.swarm(anchor).unwrap().chain().head().roster.len(), 4);
    let next = world.round() + 1;
    cut(&mut world, anchor, false);
    let certified = |world: &World| world.swarm(peers[0]).unwrap().chain().head().round == next;
    assert!(world.run_until(60_000, certified));
    // Without the anchor, two of four cannot go on, so their head stays where the anchor's is.
    world.crash(peers[2]);
    assert!(world.run_until(60_000, |world| world.checker.recoveries > recoveries));
    assert_eq!(world.swarm(anchor).unwrap().chain().head().round, next);
    cut(&mut world, anchor, true);
    assert!(world.run_until(60_000, |world| world.round() > next && world.agree()), "parted at {next} for good");
    assert_eq!(world.checker.violations, vec![]);
}

#[test]
fn with_several_anchors_a_majority_of_them_recovers_and_no_signature_is_wasted() {
    for (seed, anchors) in [(120, 2), (121, 3), (122, 3)] {
        let mut world = World::with_anchors(seed, GOOD, anchors, |_| {});
        let peers = join_all(&mut world, 3);
        let all = world.manifest().anchors.clone();
        // The anchors do not see each other for a while, and too few volunteers are left.
        for peer in &peers[1..] {
            world.crash(*peer);
        }
        if anchors == 2 {
            world.crash(peers[0]);
        }
        for (index, one) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                world.unlink(*one, *other);
            }
            world.unlink(*one, peers[0]);
        }
        world.run_for(40_000);
        let round = world.round();
        for (index, one) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                world.link(*one, *other);
            }
            if anchors == 3 {
                world.link(*one, peers[0]);
            }
        }
        let late = world.join();
        // Whoever comes back first is taken in a round before the newcomer.
        let works = |world: &World| world.swarm(late).unwrap().chain().credit().contains_key(&late);
        let goes_on = |world: &World| world.round() >= round + 3 && works(world);
        assert!(world.run_until(180_000, goes_on), "seed {seed}: stuck at {round}");
        assert!(world.run_until(30_000, World::agree), "seed {seed}");
        assert_eq!(world.checker.violations, vec![]);
    }
}

#[test]
fn a_volunteer_whose_disk_fails_goes_on_without_a_vote_and_stops_nobody() {
    for seed in 130..133 {
        let mut world = World::new(seed, GOOD);
        let peer = join_all(&mut world, 1)[0];
        world.break_disk(peer, true);
        let round = world.round();
        let trains_on = |world: &World| {
            let chain = world.swarm(world.anchor()).unwrap().chain();
            chain.member(peer).is_some_and(|member| !member.durable && member.valid >= 2)
        };
        assert!(world.run_until(180_000, trains_on), "seed {seed}: stuck at {} after {round}", world.round());
        assert_eq!(world.checker.violations, vec![]);
    }
}

#[test]
fn an_archive_that_took_a_checkpoint_still_collects_what_the_rounds_before_take_to_replay() {
    let mut world = World::new(140, GOOD);
    let peers = join_all(&mut world, 3);
    let anchor = world.anchor();
    world.crash(anchor);
    let round = world.round();
    assert!(world.run_until(240_000, |world| world.round() >= round + 12));
    // Somebody who has the newest model, and none of the updates before.
    let late = world.join();
    assert!(world.run_until(60_000, |world| {
        world.swarm(late).is_some_and(|swarm| swarm.chain().credit().contains_key(&late))
    }));
    world.start(anchor);
    for peer in &peers {
        world.unlink(anchor, *peer);
    }
    let trouble = |world: &World| {
        let news = world.told.iter().filter(|(peer, _)| *peer == anchor);
        news.filter(|(_, event)| matches!(event, Event::Trouble(text) if text.contains("checkpoint"))).count() > 0
    };
    assert!(world.run_until(90_000, trouble), "the archive took no checkpoint");
    for peer in &peers {
        world.link(anchor, *peer);
    }
    assert!(world.run_until(120_000, |world| world.agree() && world.can_replay(anchor)));
}

#[test]
fn rounds_that_follow_a_recovery_yield_with_it_to_the_ordinary_chain() {
    let mut world = World::new(160, GOOD);
    let peers = join_all(&mut world, 4);
    let (anchor, next) = (world.anchor(), world.round() + 1);
    cut(&mut world, anchor, false);
    let newcomer = world.join();
    for peer in &peers {
        world.unlink(newcomer, *peer);
    }
    let ahead = |world: &World| world.swarm(anchor).unwrap().chain().head().round >= next + 3;
    assert!(world.run_until(120_000, ahead), "the anchor and the newcomer go on");
    assert!(world.swarm(anchor).unwrap().certificates()[&next].body.recovery.is_some());
    assert!(world.swarm(newcomer).unwrap().chain().credit().contains_key(&newcomer));
    for one in [anchor, newcomer] {
        for peer in &peers {
            world.link(one, *peer);
        }
    }
    assert!(world.run_until(120_000, World::agree), "both histories stay");
    assert!(world.swarm(anchor).unwrap().certificates()[&next].body.recovery.is_none());
    let round = world.round();
    assert!(world.run_until(60_000, |world| world.round() >= round + 2 && world.agree()));
    assert_eq!(world.checker.violations, vec![]);
}

#[test]
fn a_volunteer_whose_disk_refuses_updates_precommits_none_and_goes_on_without_a_vote() {
    for seed in 134..137 {
        let mut world = World::new(seed, GOOD);
        let peer = join_all(&mut world, 2)[0];
        let round = world.round() + 1;
        world.fill_disk(peer);
        let trains_on = |world: &World| {
            let chain = world.swarm(world.anchor()).unwrap().chain();
            chain.member(peer).is_some_and(|member| !member.durable && member.valid >= 2)
        };
        assert!(world.run_until(180_000, trains_on), "seed {seed}: stuck at {} after {round}", world.round());
        let is_precommit =
            |message: &Message| matches!(message, Message::Vote(Vote { kind: VoteKind::Precommit, body: Some(_), .. }));
        let votes = world.envelopes(|said| said.round > round && is_precommit(&said.message));
        assert!(votes.iter().all(|vote| vote.from != peer), "seed {seed}: a precommit without its updates");
        assert_eq!(world.checker.violations, vec![]);
    }
}

#[test]
fn a_lock_that_only_a_volunteer_kept_is_gone_on_with_by_an_anchor_that_never_saw_its_proposal() {
    let mut tried = 0;
    for seed in 200..212 {
        let mut world = World::new(seed, GOOD);
        let peers = join_all(&mut world, 3);
        let (anchor, next) = (world.anchor(), world.round() + 1);
        let locked = |world: &World| peers.iter().copied().find(|peer| world.is_locked(*peer, next));
        assert!(world.run_until(60_000, |world| locked(world).is_some()), "seed {seed}");
        let Some(one) = locked(&world).filter(|_| !world.is_locked(anchor, next)) else { continue };
        tried += 1;
        for peer in world.live() {
            world.crash(peer);
        }
        world.start(anchor);
        world.start(one);
        assert!(world.run_until(60_000, |world| world.round() >= next), "seed {seed}: stuck at {next}");
        assert_eq!(world.checker.violations, vec![]);
    }
    assert!(tried > 3);
}

#[test]
fn whoever_answers_a_recovery_and_never_signs_it_is_passed_over() {
    for seed in 230..233 {
        let mut world = World::new(seed, GOOD);
        let peers = join_all(&mut world, 3);
        let silent = world.join_liar(Lie::WithholdVotes);
        let is_in = |world: &World| world.swarm(world.anchor()).unwrap().chain().member(silent).is_some();
        assert!(world.run_until(120_000, |world| is_in(world) && world.agree()), "seed {seed}");
        let round = world.round();
        for peer in &peers[..2] {
            world.crash(*peer);
        }
        assert!(world.run_until(120_000, |world| world.round() > round + 1), "seed {seed}: stuck at {round}");
        assert!(world.checker.recoveries > 0, "seed {seed}");
        assert_eq!(world.checker.violations, vec![]);
    }
}

#[test]
fn a_quorum_that_is_there_and_does_not_vote_holds_the_others_up_only_for_a_while() {
    for seed in 240..242 {
        let mut world = World::new(seed, GOOD);
        join_all(&mut world, 3);
        for _ in 0..3 {
            world.join_liar(Lie::WithholdVotes);
        }
        let round = world.round();
        assert!(world.run_until(400_000, |world| world.round() > round + 3), "seed {seed}: stuck at {}", world.round());
        assert!(world.checker.recoveries > 0, "seed {seed}");
        assert_eq!(world.checker.violations, vec![]);
    }
}
