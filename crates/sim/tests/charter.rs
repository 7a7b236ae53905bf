//! Proposals and votes among simulated peers: how they spread, and what follows for everybody.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_ledger::Chain;
use shoal_sim::{Network, World, toy_genesis};
use shoal_swarm::{Command, Config, Event, Input, Job, Output, Phase, Restored, Swarm};
use shoal_wire::{
    Digest, Millis, PeerId, Round,
    charter::{Amendment, Ballot, Change},
    manifest::Charter,
    record::Join,
};

const QUIET: Network = Network { latency_ms: (5, 40), loss_per_mille: 0, duplicate_per_mille: 0 };
const LOSSY: Network = Network { latency_ms: (5, 400), loss_per_mille: 200, duplicate_per_mille: 100 };
const OPEN: Round = 6;

/// Three volunteers with credit.
fn world(seed: u64, network: Network) -> (World, [PeerId; 3]) {
    let mut world = World::with_manifest(seed, network, |manifest| {
        manifest.charter = Charter { open_rounds_min: 2, open_rounds_max: 200, ..Charter::default() };
    });
    let volunteers = [world.join(), world.join(), world.join()];
    // Each in its own eyes.
    let paid = |world: &World| {
        volunteers.iter().all(|peer| chain(world, *peer).credit().get(peer).is_some_and(|credit| credit.amount > 0))
    };
    assert!(world.run_until(600_000, paid), "seed {seed}");
    (world, volunteers)
}

fn chain(world: &World, peer: PeerId) -> &Chain {
    world.swarm(peer).unwrap().chain()
}

/// Has the first volunteer propose this and all vote for it; returns the round from which it holds.
fn pass(world: &mut World, volunteers: &[PeerId; 3], change: Change) -> Round {
    let closes = world.round() + 1 + OPEN;
    let effective = closes + 2;
    let amendment = Amendment { change, reason: "a test".to_owned(), closes, effective };
    world.command(volunteers[0], Command::Amend(Box::new(amendment)));
    let is_open = |world: &World, peer: &PeerId| chain(world, *peer).motions().iter().any(|motion| motion.is_open());
    assert!(world.run_until(600_000, |world| volunteers.iter().all(|peer| is_open(world, peer))));
    let anchor = world.anchor();
    let amendment = chain(world, volunteers[0]).motions().last().unwrap().id;
    for volunteer in volunteers {
        world.command(*volunteer, Command::Ballot(Ballot { amendment, approve: true }));
    }
    assert!(world.run_until(900_000, |world| chain(world, anchor).head().round + 1 >= effective));
    let motion = chain(world, anchor).motions().last().unwrap().clone();
    assert!(motion.is_accepted(), "{motion:?}");
    effective
}

fn reaches(world: &mut World, round: Round) -> bool {
    world.run_until(1_200_000, |world| world.round() >= round && world.agree())
}

#[test]
fn a_vote_changes_the_learning_rate_of_every_peer_that_trains_from_the_stated_round_on() {
    let (mut world, volunteers) = world(1, QUIET);
    assert!(world.run_until(60_000, World::agree));
    assert_eq!(volunteers.map(|peer| rate_of_the_next_job(&world, peer)), [1024; 3]);
    let effective = pass(&mut world, &volunteers, Change::ScaleLearningRate(512));
    assert!(world.run_until(60_000, |world| world.round() + 1 >= effective && world.agree()));
    assert_eq!(volunteers.map(|peer| rate_of_the_next_job(&world, peer)), [512; 3]);
    assert!(world.checker.violations.is_empty(), "{:?}", world.checker.violations);
}

/// The learning rate of the first job of a peer that comes back to life where this one is.
fn rate_of_the_next_job(world: &World, peer: PeerId) -> u32 {
    let swarm = world.swarm(peer).unwrap();
    let certificates = swarm.certificates().values().cloned().collect();
    let model = swarm.model().map(|(_, model)| model);
    let join = Join { durable: true, trains: true };
    let identity = world.identity(peer).unwrap().clone();
    let (manifest, session) = (world.manifest().clone(), swarm.chain().member(peer).unwrap().session);
    let config = Config { manifest, identity, session, join, archive: false };
    let mut swarm = Swarm::new(config, Restored { certificates, model, votes: Vec::new() }, Millis(1)).unwrap();
    while !matches!(swarm.poll(), Output::Idle(_)) {}
    swarm.handle(Millis(2), Input::Command(Command::Start)).unwrap();
    loop {
        match swarm.poll() {
            Output::Compute { work: Job::Train { learning_rate_1024, .. }, .. } => return learning_rate_1024,
            Output::Idle(_) => panic!("it does not train"),
            _ => {}
        }
    }
}

#[test]
fn proposals_and_ballots_get_through_a_network_that_loses_a_fifth() {
    for seed in 0..4 {
        let (mut world, volunteers) = world(seed, LOSSY);
        let effective = pass(&mut world, &volunteers, Change::ScaleLearningRate(2048));
        assert!(reaches(&mut world, effective), "seed {seed}");
        let motion = chain(&world, world.anchor()).motions().last().unwrap().clone();
        assert_eq!(motion.ballots.len(), 3, "seed {seed}");
        assert!(world.checker.violations.is_empty(), "seed {seed}: {:?}", world.checker.violations);
    }
}

#[test]
fn a_run_that_was_stopped_makes_no_round_more_and_its_peers_say_so() {
    let (mut world, volunteers) = world(2, QUIET);
    let effective = pass(&mut world, &volunteers, Change::Stop);
    assert!(reaches(&mut world, effective - 1));
    world.run_for(300_000);
    assert_eq!(world.round(), effective - 1);
    for peer in world.live() {
        let last = world.told.iter().rev().find(|(who, event)| *who == peer && matches!(event, Event::Over { .. }));
        assert_eq!(last.unwrap().1, Event::Over { round: effective - 1 });
        assert_eq!(world.swarm(peer).unwrap().snapshot(world.now).phase, Phase::Over);
    }
    // Who comes later can still take the model home, and is not taken in.
    let late = world.join();
    assert!(world.run_until(120_000, World::agree));
    world.run_for(60_000);
    assert!(chain(&world, world.anchor()).member(late).is_none());
}

#[test]
fn a_run_that_was_rolled_back_goes_on_from_the_model_of_that_round() {
    for (seed, network) in [(3, QUIET), (4, LOSSY)] {
        let (mut world, volunteers) = world(seed, network);
        let effective = pass(&mut world, &volunteers, Change::RollBack(0));
        // One of them loses its memory just then.
        world.crash(volunteers[1]);
        world.start(volunteers[1]);
        assert!(reaches(&mut world, effective + 2), "seed {seed}");
        let certificates = world.swarm(world.anchor()).unwrap().certificates();
        let mut replayed = Chain::new(world.manifest().clone());
        for certificate in certificates.values() {
            let step = replayed.apply(certificate).unwrap();
            let first = Digest::of(&toy_genesis());
            assert!(step.round != effective - 1 || step.model != first, "there is nothing to go back from");
            assert!(step.round != effective || step.before == first, "seed {seed}");
        }
        let late = world.join();
        assert!(reaches(&mut world, effective + 5), "seed {seed}");
        assert!(world.swarm(late).unwrap().model().is_some_and(|(round, _)| round >= effective));
        assert!(world.can_replay(world.anchor()), "seed {seed}");
        assert!(world.checker.violations.is_empty(), "seed {seed}: {:?}", world.checker.violations);
    }
}

#[test]
fn what_does_not_count_is_told_to_whoever_asked_for_it() {
    let (mut world, [volunteer, ..]) = world(5, QUIET);
    let closes = world.round();
    let late = Amendment { change: Change::Stop, reason: "too late".to_owned(), closes, effective: closes + 1 };
    world.command(volunteer, Command::Amend(Box::new(late)));
    world.command(volunteer, Command::Ballot(Ballot { amendment: Digest::of(b"none"), approve: true }));
    let told = |world: &World, words: &str| {
        world
            .told
            .iter()
            .any(|(peer, event)| *peer == volunteer && matches!(event, Event::Trouble(text) if text.contains(words)))
    };
    assert!(told(&world, "closes must be between"));
    assert!(told(&world, "no such amendment is open"));
    world.run_for(60_000);
    assert!(chain(&world, world.anchor()).motions().is_empty());
}
