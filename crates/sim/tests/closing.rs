//! Closing the commits: who may, when, and what a leader cannot do with its list.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_sim::{Network, World, toy_genesis};
use shoal_wire::{
    Digest, Envelope, PeerId,
    frame::Frame,
    record::{Body, Commit, CommitList, Content, Message, Proposal, Said, Verdict, Vote, VoteKind, seed_hash},
};

const GOOD: Network = Network { latency_ms: (5, 40), loss_per_mille: 0, duplicate_per_mille: 0 };

/// An anchor and some volunteers, all of them trusted members, at the start of a round.
fn world(seed: u64, volunteers: usize) -> (World, Vec<PeerId>) {
    let mut world = World::new(seed, GOOD);
    let peers: Vec<PeerId> = (0..volunteers).map(|_| world.join()).collect();
    let all_in = |world: &World| {
        let roster = &world.swarm(world.anchor()).unwrap().chain().head().roster;
        roster.iter().filter(|member| member.valid >= 1).count() == volunteers && world.agree()
    };
    assert!(world.run_until(120_000, all_in));
    (world, peers)
}

fn say(world: &World, from: PeerId, message: Message) -> Envelope {
    let (run, round) = (world.manifest().run(), world.round() + 1);
    let session = world.swarm(world.anchor()).unwrap().chain().member(from).unwrap().session;
    Said { run, round, session, message }.seal(world.identity(from).unwrap())
}

/// Hands what one peer says to all others.
fn spread(world: &mut World, said: &Envelope) {
    let frame = Frame::Said(said.clone()).encode();
    let via = world.anchor();
    for peer in world.live() {
        let from = if peer == via { *world.live().iter().find(|other| **other != via).unwrap() } else { via };
        world.deliver(from, peer, &frame);
    }
}

fn leaders(world: &World) -> Vec<PeerId> {
    world.swarm(world.anchor()).unwrap().chain().leaders().to_vec()
}

fn valid(world: &World, peer: PeerId) -> u32 {
    world.swarm(world.anchor()).unwrap().chain().member(peer).map_or(0, |member| member.valid)
}

#[test]
fn lists_of_what_nobody_has_or_in_disorder_stop_nothing() {
    for seed in 40..44 {
        let (mut world, peers) = world(seed, 3);
        let leaders = leaders(&world);
        let unknown: Vec<Digest> = (0..5_u8).map(|number| Digest::of(&[number])).collect();
        let (view, leader) = leaders.iter().enumerate().find(|(_, leader)| peers.contains(leader)).unwrap();
        let said = say(&world, *leader, Message::CommitList(CommitList { view: view as u32, commits: unknown }));
        spread(&mut world, &said);
        world.crash(*leader);
        let round = world.round();
        assert!(world.run_until(60_000, |world| world.round() >= round + 2), "seed {seed}: stuck at {round}");
        assert_eq!(world.checker.violations, vec![]);
    }
}

#[test]
fn one_vote_does_not_close_the_commits_for_those_who_still_train() {
    let (mut world, peers) = world(50, 4);
    for peer in &peers {
        world.set_train_ms(*peer, 6_000);
    }
    let round = world.round();
    assert!(world.run_until(60_000, |world| world.round() > round && world.agree()));
    let parent = world.swarm(world.anchor()).unwrap().chain().head().body;
    let trust: Vec<u32> = peers.iter().map(|peer| valid(&world, *peer)).collect();
    // The one that votes early trains faster than the others, and then goes silent.
    let vote = Vote { parent, view: 0, kind: VoteKind::Prevote, body: None };
    let said = say(&world, peers[0], Message::Vote(vote));
    spread(&mut world, &said);
    world.crash(peers[0]);
    let round = world.round();
    assert!(world.run_until(60_000, |world| world.round() > round && world.agree()));
    for (peer, before) in peers.iter().zip(trust).skip(1) {
        assert_eq!(valid(&world, *peer), before + 1, "{} lost its round", peer.short());
    }
}

#[test]
fn a_leader_that_closes_the_commits_early_leaves_nobody_out() {
    for seed in 60..63 {
        let (mut world, peers) = world(seed, 4);
        for (index, peer) in peers.iter().enumerate() {
            world.set_train_ms(*peer, if index == 0 { 500 } else { 5_000 });
        }
        let round = world.round() + 1;
        assert!(world.run_until(60_000, |world| world.round() == round && world.agree()));
        let first = leaders(&world)[0];
        let trust: Vec<u32> = peers.iter().map(|peer| valid(&world, *peer)).collect();
        // The first commit there is, in a list of its own.
        let is_commit = |said: &Said| said.round == round + 1 && matches!(said.message, Message::Commit(_));
        assert!(world.run_until(5_000, |world| world.said().iter().any(is_commit)));
        let commit = world.envelope(is_commit).unwrap();
        let list = CommitList { view: 0, commits: vec![commit.id()] };
        let said = say(&world, first, Message::CommitList(list));
        spread(&mut world, &said);
        assert!(world.run_until(60_000, |world| world.round() > round && world.agree()), "seed {seed}");
        for (peer, before) in peers.iter().zip(trust) {
            assert_eq!(valid(&world, *peer), before + 1, "seed {seed}: {} was left out", peer.short());
        }
    }
}

#[test]
fn a_leader_that_closes_the_commits_twice_loses_its_view_only() {
    for seed in 70..73 {
        let (mut world, _) = world(seed, 4);
        let (first, round) = (leaders(&world)[0], world.round());
        let listed = |said: &Said| {
            said.round == round + 1 && matches!(&said.message, Message::CommitList(list) if list.view == 0)
        };
        assert!(world.run_until(60_000, |world| world.said().iter().any(listed)));
        let Message::CommitList(mut list) = world.said().into_iter().find(listed).unwrap().message else { panic!() };
        list.commits.pop();
        let second = say(&world, first, Message::CommitList(list));
        spread(&mut world, &second);
        assert!(world.run_until(60_000, |world| world.round() > round && world.agree()), "seed {seed}");
        let certificate = world.swarm(world.anchor()).unwrap().certificates()[&(round + 1)].clone();
        let by = certificate.body.content.list.unwrap().from;
        assert_ne!(by, first, "seed {seed}: a list of which there are two counted");
        assert_eq!(certificate.body.content.commits.len(), 4);
        assert_eq!(world.checker.violations, vec![]);
    }
}

/// A body that says of every listed commit that its seed was not revealed.
fn forgetful(world: &World, list: Envelope) -> Body {
    let chain = world.swarm(world.anchor()).unwrap().chain().clone();
    let (head, round) = (chain.head().clone(), world.round() + 1);
    let Message::CommitList(named) = Said::open(&list, chain.run()).unwrap().into_inner().message else { panic!() };
    let is_commit = |said: &Said| said.round == round && matches!(said.message, Message::Commit(_));
    let mut commits: Vec<Envelope> = world.envelopes(is_commit);
    commits.retain(|envelope| named.commits.contains(&envelope.id()));
    commits.sort_by_key(|envelope| envelope.from);
    let content = Content {
        list: Some(list),
        seeds: vec![None; commits.len()],
        judgements: Vec::new(),
        verdicts: vec![Verdict::Withheld; commits.len()],
        commits,
        norms: Vec::new(),
        model: head.model,
    };
    let mut body = Body {
        run: chain.run(),
        round,
        parent: head.body,
        view: 0,
        randomness: chain.randomness_after(&content.seeds),
        content,
        joins: Vec::new(),
        leaves: Vec::new(),
        proofs: Vec::new(),
        charter: Vec::new(),
        recovery: None,
        roster: Vec::new(),
    };
    body.roster = chain.roster_after(&body).unwrap();
    chain.check_body(&body).expect("in itself it holds");
    body
}

#[test]
fn a_leader_cannot_forget_the_seeds_that_others_revealed() {
    for seed in 80..83 {
        let (mut world, peers) = world(seed, 4);
        let (first, round) = (leaders(&world)[0], world.round());
        let revealed = |world: &World| {
            let seeds = world.envelopes(|said| said.round == round + 1 && matches!(said.message, Message::Reveal(_)));
            seeds.len() == peers.len()
        };
        assert!(world.run_until(60_000, revealed));
        let is_list = |said: &Said| said.round == round + 1 && matches!(said.message, Message::CommitList(_));
        let body = forgetful(&world, world.envelope(is_list).unwrap());
        let digest = body.digest();
        let proposal = Message::Proposal(Box::new(Proposal { view: 0, valid_view: None, body }));
        let said = say(&world, first, proposal);
        world.run_for(50);
        assert_eq!(world.round(), round, "too late to propose");
        world.crash(first);
        spread(&mut world, &said);
        assert!(world.run_until(60_000, |world| world.round() > round && world.agree()), "seed {seed}");
        let live = world.live()[0];
        let certificate = world.swarm(live).unwrap().certificates()[&(round + 1)].clone();
        assert_ne!(certificate.body.digest(), digest, "seed {seed}");
        assert!(certificate.body.content.seeds.iter().all(Option::is_some), "seed {seed}");
    }
}

#[test]
fn a_first_leader_that_waits_for_the_reveals_cannot_list_what_it_made_of_them() {
    let mut tried = 0;
    for seed in 160..170 {
        let (mut world, peers) = world(seed, 4);
        let (first, round) = (leaders(&world)[0], world.round() + 1);
        if !peers.contains(&first) {
            continue;
        }
        tried += 1;
        world.crash(first);
        let is_reveal = |said: &Said| said.round == round && matches!(said.message, Message::Reveal(_));
        assert!(world.run_until(60_000, |world| world.envelopes(is_reveal).len() == 3), "seed {seed}");
        let is_commit = |said: &Said| said.round == round && matches!(said.message, Message::Commit(_));
        let mut commits = world.envelopes(is_commit);
        let Message::Commit(mut copy) = Said::open(&commits[0], world.manifest().run()).unwrap().into_inner().message
        else {
            panic!("a commit")
        };
        copy.update = Digest::of(b"made of the others");
        let late = say(&world, first, Message::Commit(copy));
        commits.push(late.clone());
        commits.sort_by_key(|envelope| envelope.from);
        let list = CommitList { view: 0, commits: commits.iter().map(Envelope::id).collect() };
        let list = say(&world, first, Message::CommitList(list));
        world.run_for(30);
        spread(&mut world, &late);
        spread(&mut world, &list);
        assert!(world.run_until(60_000, |world| world.round() >= round && world.agree()), "seed {seed}");
        let certificate = world.swarm(world.anchor()).unwrap().certificates()[&round].clone();
        let authors: Vec<PeerId> = certificate.body.content.commits.iter().map(|envelope| envelope.from).collect();
        assert!(authors.len() == 3 && !authors.contains(&first), "seed {seed}: a late commit counts");
    }
    assert!(tried > 3);
}

#[test]
fn a_reload_between_commit_and_reveal_costs_no_trust() {
    for seed in 150..154 {
        let (mut world, peers) = world(seed, 3);
        let (one, round) = (peers[0], world.round());
        let trust = valid(&world, one);
        let is_commit = |said: &Said| said.round == round + 1 && matches!(said.message, Message::Commit(_));
        let committed = |world: &World| world.envelopes(is_commit).iter().any(|envelope| envelope.from == one);
        assert!(world.run_until(60_000, committed));
        world.run_for(60);
        world.crash(one);
        world.run_for(100);
        world.start(one);
        assert!(world.run_until(60_000, |world| world.round() > round && world.agree()), "seed {seed}");
        assert_eq!(valid(&world, one), trust + 1, "seed {seed}");
    }
}

/// The first commit of a round.
fn first_commit(world: &mut World, round: u64) -> (PeerId, Commit) {
    let is_commit = |said: &Said| said.round == round && matches!(said.message, Message::Commit(_));
    assert!(world.run_until(60_000, |world| world.envelope(is_commit).is_some()));
    let envelope = world.envelope(is_commit).unwrap();
    match Said::open(&envelope, world.manifest().run()).unwrap().into_inner().message {
        Message::Commit(commit) => (envelope.from, commit),
        _ => panic!("a commit"),
    }
}

/// Says somebody's seed once the commits of a round are listed.
fn reveal(world: &mut World, round: u64, peer: PeerId, seed: Digest) {
    let is_list = |said: &Said| said.round == round && matches!(said.message, Message::CommitList(_));
    assert!(world.run_until(60_000, |world| world.envelope(is_list).is_some()));
    world.run_for(50);
    let said = say(world, peer, Message::Reveal(seed));
    spread(world, &said);
}

fn verdict(world: &World, round: u64, peer: PeerId) -> Option<Verdict> {
    let live = *world.live().iter().find(|live| world.swarm(**live).unwrap().certificates().contains_key(&round))?;
    let certificate = &world.swarm(live)?.certificates()[&round];
    assert!(certificate.body.recovery.is_none());
    let content = &certificate.body.content;
    let at = content.commits.iter().position(|envelope| envelope.from == peer)?;
    content.verdicts.get(at).copied()
}

#[test]
fn of_two_commits_to_one_update_the_one_without_a_seed_stops_neither_the_other_nor_the_round() {
    for seed in 180..184 {
        let (mut world, peers) = world(seed, 7);
        let round = world.round() + 1;
        let (silent, other) = (peers[0], peers[1]);
        let (_, commit) = first_commit(&mut world, round);
        world.crash(silent);
        world.crash(other);
        // Everybody holds the first model, which has an update's form.
        let genesis = toy_genesis();
        let own_seed = Digest::of(b"a seed");
        let shared =
            Commit { update: Digest::of(&genesis), update_bytes: 64, seed_hash: seed_hash(own_seed), ..commit };
        for peer in [silent, other] {
            let said = say(&world, peer, Message::Commit(shared.clone()));
            spread(&mut world, &said);
            world.run_for(2);
        }
        reveal(&mut world, round, other, own_seed);
        assert!(world.run_until(60_000, |world| world.round() >= round), "seed {seed}: stuck at {round}");
        if verdict(&world, round, silent) == Some(Verdict::Withheld) {
            // Its form and its seed count; what its auditors find is that it is no work of this round.
            assert_eq!(verdict(&world, round, other), Some(Verdict::Harmful), "seed {seed}");
        }
        assert!(world.run_until(60_000, |world| world.round() > round && world.agree()), "seed {seed}");
        assert_eq!(world.checker.violations, vec![]);
    }
}

#[test]
fn whoever_commits_a_seen_digest_with_another_size_keeps_the_update_from_nobody() {
    for (seed, bytes) in [(190, 63), (191, 65), (192, 20_000), (193, 1)] {
        let (mut world, peers) = world(seed, 5);
        let round = world.round() + 1;
        let (author, commit) = first_commit(&mut world, round);
        let copier = *peers.iter().find(|peer| **peer != author).unwrap();
        world.crash(copier);
        let own_seed = Digest::of(b"a seed");
        let copy = Commit { update_bytes: bytes, seed_hash: seed_hash(own_seed), ..commit };
        // It comes to everybody before the genuine one.
        let said = say(&world, copier, Message::Commit(copy));
        spread(&mut world, &said);
        reveal(&mut world, round, copier, own_seed);
        assert!(world.run_until(60_000, |world| world.round() >= round), "seed {seed}: stuck at {round}");
        assert_eq!(verdict(&world, round, author), Some(Verdict::Accepted), "seed {seed}");
        assert_ne!(verdict(&world, round, copier), Some(Verdict::Accepted), "seed {seed}");
        assert!(world.run_until(60_000, World::agree), "seed {seed}");
        assert_eq!(world.checker.violations, vec![]);
    }
}
