//! Updates are judged: what lies in them is refused, who lies goes, and who contradicts itself too.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_ledger::{Chain, Taken, judging::BAN_ROUNDS};
use shoal_sim::{Engine, Model, Network, World};
use shoal_swarm::{Bytes, Job, Outcome};
use shoal_wire::{
    Digest, Envelope, PeerId, Round,
    frame::Frame,
    record::{Body, Commit, Content, Message, Proposal, Said, Verdict, Vote, VoteKind},
};

const GOOD: Network = Network { latency_ms: (5, 40), loss_per_mille: 0, duplicate_per_mille: 0 };

/// An engine that changes what an honest one found.
struct Twisted {
    honest: Box<dyn Engine>,
    twist: fn(&Job, Outcome) -> Outcome,
}

impl Engine for Twisted {
    fn run(&mut self, job: &Job, share_1024: u64) -> Outcome {
        let outcome = self.honest.run(job, share_1024);
        (self.twist)(job, outcome)
    }
}

fn twist(world: &mut World, peer: PeerId, twist: fn(&Job, Outcome) -> Outcome) {
    world.set_engine(peer, Box::new(Twisted { honest: Model::Toy.engine(peer, None), twist }));
}

/// An update that no honest peer makes.
fn harmful(_: &Job, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Trained { update, steps, tokens, loss_first, loss_last } => {
            let update: Bytes = update.iter().map(|byte| !byte).collect::<Vec<u8>>().into();
            Outcome::Trained { update, steps, tokens, loss_first, loss_last }
        }
        other => other,
    }
}

/// Calls good work bad and bad work good.
fn false_verdicts(_: &Job, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Judged { mut scores } => {
            for score in &mut scores {
                score.assigned = -score.assigned;
                score.other = -score.other;
            }
            Outcome::Judged { scores }
        }
        other => other,
    }
}

/// An auditor that never comes to an end.
fn silent(job: &Job, outcome: Outcome) -> Outcome {
    if matches!(job, Job::Judge { .. }) { Outcome::Checked { well_formed: true } } else { outcome }
}

fn world(seed: u64, volunteers: usize) -> (World, Vec<PeerId>) {
    let mut world = World::new(seed, GOOD);
    let peers: Vec<PeerId> = (0..volunteers).map(|_| world.join()).collect();
    let all_in = |world: &World| chain(world).head().roster.len() == volunteers + 1 && world.agree();
    assert!(world.run_until(120_000, all_in));
    (world, peers)
}

fn chain(world: &World) -> &Chain {
    world.swarm(world.anchor()).unwrap().chain()
}

fn goes_on_to(world: &mut World, round: Round) {
    assert!(world.run_until(round * 30_000, |world| world.round() >= round), "stuck at {}", world.round());
    assert!(world.run_until(30_000, World::agree));
    assert_eq!(world.checker.violations, vec![]);
}

/// What became of a peer's updates, by round.
fn verdicts(world: &World, peer: PeerId) -> Vec<(Round, Verdict)> {
    let certificates = world.swarm(world.anchor()).unwrap().certificates();
    let of = |body: &Body| {
        let at = body.content.commits.iter().position(|envelope| envelope.from == peer)?;
        Some((body.round, body.content.verdicts[at]))
    };
    certificates.values().filter_map(|certificate| of(&certificate.body)).collect()
}

#[test]
fn a_harmful_update_is_refused_and_its_author_is_banned_and_comes_back_without_a_vote_until_it_is_trusted() {
    let (mut world, peers) = world(300, 5);
    let liar = peers[0];
    twist(&mut world, liar, harmful);
    let before = world.round() + 1;
    assert!(world.run_until(300_000, |world| chain(world).member(liar).is_none()), "never banned");
    let banned_at = world.round();
    assert!(banned_at <= before + 7, "banned only in round {banned_at}, lied from {before} on");
    for (round, verdict) in verdicts(&world, liar) {
        assert_eq!(verdict == Verdict::Accepted, round < before || round == before && verdict == Verdict::Accepted);
    }
    for honest in &peers[1..] {
        let refused = verdicts(&world, *honest).into_iter().any(|(_, verdict)| verdict == Verdict::Harmful);
        assert!(!refused && chain(&world).member(*honest).is_some());
    }
    // It goes on asking, and its votes count for nothing.
    assert_eq!(chain(&world).weights().get(&liar), None);
    world.set_engine(liar, Model::Toy.engine(liar, None));
    goes_on_to(&mut world, banned_at + BAN_ROUNDS - 1);
    assert!(chain(&world).member(liar).is_none());
    assert!(world.run_until(200_000, |world| chain(world).member(liar).is_some_and(|member| member.valid == 9)));
    assert_eq!(chain(&world).weights()[&liar], 0, "audited, without a vote");
    assert!(world.run_until(60_000, |world| chain(world).member(liar).is_some_and(|member| member.valid > 9)));
    assert!(chain(&world).weights()[&liar] > 0, "it has worked its way back");
    assert_eq!(world.checker.violations, vec![]);
}

#[test]
fn a_false_auditor_gets_nobody_banned_and_audits_no_more_for_a_while() {
    let (mut world, peers) = world(301, 6);
    let liar = peers[0];
    twist(&mut world, liar, false_verdicts);
    let excluded = |world: &World| {
        let (head, draws) = (chain(world).head(), 20_u8);
        let authors: Vec<PeerId> =
            head.roster.iter().map(|member| member.peer).filter(|peer| peers.contains(peer)).collect();
        (0..draws).all(|draw| {
            let drawn =
                shoal_ledger::judging::draw(Digest::of(&[draw]), &head.roster, &world.manifest().anchors, &authors);
            !drawn.values().flatten().any(|auditor| *auditor == liar)
        })
    };
    assert!(world.run_until(600_000, excluded), "still an auditor in round {}", world.round());
    let round = world.round();
    goes_on_to(&mut world, round + 5);
    for peer in &peers {
        let member = chain(&world).member(*peer).expect("nobody is banned");
        assert_eq!((member.standing.bans, member.standing.evidence), (0, 0), "{}", peer.short());
    }
}

#[test]
fn rounds_go_on_when_no_auditor_answers_and_nobody_becomes_trusted() {
    let (mut world, peers) = world(302, 4);
    let anchor = world.anchor();
    for peer in peers.iter().chain([&anchor]) {
        twist(&mut world, *peer, silent);
    }
    let (round, since) = (world.round() + 1, world.now);
    let trusted: Vec<u32> = peers.iter().map(|peer| chain(&world).member(*peer).unwrap().valid).collect();
    goes_on_to(&mut world, round + 6);
    let each_ms = world.now.since(since) / 7;
    assert!(each_ms < 8_000, "a round takes {each_ms} ms: up to 3,000 to train, 1,250 to wait for judgements");
    let certificates = world.swarm(anchor).unwrap().certificates();
    assert!(certificates.range(round + 1..).all(|(_, certificate)| certificate.body.content.judgements.is_empty()));
    assert!(certificates.values().all(|certificate| certificate.view == 0), "no view is lost to waiting");
    for (peer, before) in peers.iter().zip(trusted) {
        let member = chain(&world).member(*peer).unwrap();
        assert!(member.valid <= before + 1, "what nobody judged builds no trust");
        assert_eq!(member.standing.evidence, 0);
    }
}

fn of_round(world: &World, round: Round, wanted: impl Fn(&Message) -> bool) -> Vec<Envelope> {
    let mut found = world.envelopes(|said| said.round == round && wanted(&said.message));
    found.sort_by_key(|envelope| envelope.from);
    found
}

/// What the leader of a round's first view would propose, with some of the judgements.
fn proposal(world: &World, round: Round, by: PeerId, judgements: Vec<Envelope>) -> Envelope {
    let chain = chain(world);
    let open = |envelope: &Envelope| Said::open(envelope, chain.run()).unwrap().into_inner().message;
    let list = of_round(world, round, |message| matches!(message, Message::CommitList(_))).remove(0);
    let commits = of_round(world, round, |message| matches!(message, Message::Commit(_)));
    let reveals = of_round(world, round, |message| matches!(message, Message::Reveal(_)));
    let seed = |envelope| if let Message::Reveal(seed) = open(envelope) { Some(seed) } else { None };
    let seeds: Vec<Option<Digest>> = reveals.iter().map(seed).collect();
    let named: Vec<(PeerId, Commit)> = commits
        .iter()
        .filter_map(
            |envelope| if let Message::Commit(commit) = open(envelope) { Some((envelope.from, commit)) } else { None },
        )
        .collect();
    let verdicts = vec![Verdict::Accepted; named.len()];
    let Taken { accepted, share } = chain.taken(&named, &verdicts);
    let job = Job::Aggregate {
        model: world.swarm(world.anchor()).unwrap().model().unwrap().1,
        updates: accepted
            .iter()
            .map(|accepted| (accepted.weight, Model::Toy.engine(accepted.peer, None).run(&train(chain, round), 1024)))
            .map(|(weight, outcome)| match outcome {
                Outcome::Trained { update, .. } => (weight, update),
                other => panic!("{other:?}"),
            })
            .collect(),
        history: vec![],
        share,
    };
    let Outcome::Aggregated { model, norms } = Model::Toy.engine(by, None).run(&job, 1024) else {
        panic!("an outer step")
    };
    let content = Content {
        list: Some(list),
        verdicts,
        commits,
        judgements,
        norms,
        model: Digest::of(&model),
        seeds: seeds.clone(),
    };
    let mut body = Body {
        run: chain.run(),
        round,
        parent: chain.head().body,
        view: 0,
        content,
        joins: vec![],
        leaves: vec![],
        proofs: vec![],
        charter: vec![],
        recovery: None,
        roster: vec![],
        randomness: chain.randomness_after(&seeds),
    };
    body.roster = chain.roster_after(&body).unwrap();
    let message = Message::Proposal(Box::new(Proposal { view: 0, valid_view: None, body }));
    let session = chain.member(by).unwrap().session;
    Said { run: chain.run(), round, session, message }.seal(world.identity(by).unwrap())
}

fn train(chain: &Chain, round: Round) -> Job {
    Job::Train {
        round,
        model: [].into(),
        randomness: chain.head().randomness,
        steps: 10,
        learning_rate_1024: 1024,
        settled: None,
    }
}

#[test]
fn a_body_that_leaves_out_a_judgement_is_refused_and_one_with_all_of_them_is_not() {
    for (seed, left_out) in [(303, 0), (303, 1), (304, 1)] {
        let (mut world, peers) = world(seed, 5);
        // The first view of the round is led by a volunteer.
        let led = |world: &World| peers.contains(&chain(world).leaders()[0]) && world.agree();
        assert!(world.run_until(300_000, |world| world.round() >= 4 && led(world)));
        let (round, leader) = (world.round() + 1, chain(&world).leaders()[0]);
        let judged = |world: &World| of_round(world, round, |message| matches!(message, Message::Judgement(_)));
        let listed =
            |world: &World| !of_round(world, round, |message| matches!(message, Message::CommitList(_))).is_empty();
        assert!(world.run_until(60_000, listed));
        // Its own judgement came, and those of others do not reach it.
        assert!(world.run_until(10_000, |world| judged(world).iter().any(|envelope| envelope.from == leader)));
        for peer in world.live() {
            world.cut(peer, leader);
        }
        world.run_for(60);
        assert!(of_round(&world, round, |message| matches!(message, Message::Proposal(_))).is_empty());
        world.crash(leader);
        world.mend();
        assert!(world.run_until(2_000, |world| judged(world).len() == 6), "seed {seed}: {}", judged(&world).len());
        world.run_for(60);
        let mut judgements = judged(&world);
        judgements.truncate(6 - left_out);
        let forged = proposal(&world, round, leader, judgements);
        let digest = match Said::open(&forged, chain(&world).run()).unwrap().into_inner().message {
            Message::Proposal(proposal) => proposal.body.digest(),
            _ => panic!("a proposal"),
        };
        for peer in world.live() {
            let from = *world.live().iter().find(|other| **other != peer).unwrap();
            world.deliver(from, peer, &Frame::Said(forged.clone()).encode());
        }
        assert!(world.run_until(60_000, |world| chain(world).head().round >= round), "seed {seed}");
        let certificate = &world.swarm(world.anchor()).unwrap().certificates()[&round];
        assert_eq!(certificate.body.digest() == digest, left_out == 0, "seed {seed}");
        assert_eq!(certificate.body.content.judgements.len(), 6, "seed {seed}");
        assert_eq!(world.checker.violations, vec![]);
    }
}

#[test]
fn who_votes_both_ways_is_convicted_by_its_own_signatures_and_loses_its_place() {
    let (mut world, peers) = world(305, 4);
    let twice = peers[0];
    world.checker.liars.insert(twice);
    let (anchor, round, parent) = (world.anchor(), world.round() + 1, chain(&world).head().body);
    for body in [Some(Digest([1; 32])), None] {
        let vote = Vote { parent, view: 7, kind: VoteKind::Prevote, body };
        let (run, session) = (world.manifest().run(), chain(&world).member(twice).unwrap().session);
        let said = Said { run, round, session, message: Message::Vote(vote) };
        let frame = Frame::Said(said.seal(world.identity(twice).unwrap())).encode();
        world.deliver(peers[1], anchor, &frame);
    }
    assert!(world.run_until(60_000, |world| chain(world).member(twice).is_none()), "never convicted");
    assert!(world.round() <= round + 1);
    let certificates = world.swarm(anchor).unwrap().certificates();
    let proofs: usize = certificates.values().map(|certificate| certificate.body.proofs.len()).sum();
    assert_eq!(proofs, 1);
    assert_eq!(chain(&world).weights().get(&twice), None);
    let next = world.round() + 3;
    goes_on_to(&mut world, next);
    let certificates = world.swarm(anchor).unwrap().certificates();
    let last = certificates.values().next_back().unwrap();
    assert!(last.signatures.iter().all(|(peer, _)| *peer != twice) && last.signatures.len() >= 3);
}

/// A number that stands for what an update was measured on.
fn mark(draw: Digest) -> i32 {
    i32::from(draw.0[0]) * 256 + i32::from(draw.0[1])
}

/// Says of every update which draw it was measured for.
fn marked(job: &Job, outcome: Outcome) -> Outcome {
    match (job, outcome) {
        (Job::Judge { draw, .. }, Outcome::Judged { mut scores }) => {
            for score in &mut scores {
                score.own = Some(mark(*draw));
            }
            Outcome::Judged { scores }
        }
        (_, other) => other,
    }
}

#[test]
fn a_seed_that_comes_late_has_updates_measured_again_for_the_draw_that_it_makes() {
    let (mut world, peers) = world(305, 6);
    for peer in &peers {
        twist(&mut world, *peer, marked);
    }
    let late = peers[0];
    let round = world.round() + 2;
    let committed = |world: &World| {
        let by_it = |envelope: &Envelope| envelope.from == late;
        world.envelopes(|said| said.round == round && matches!(said.message, Message::Commit(_))).iter().any(by_it)
    };
    assert!(world.run_until(120_000, committed));
    // Longer than auditors wait for seeds, and less than updates are waited for.
    world.freeze(late, u64::from(world.manifest().timing.exchange_ms_max) / 5 * 4);
    goes_on_to(&mut world, round + 1);
    let mut draws: Vec<Digest> = Vec::new();
    let run = world.manifest().run();
    let judgements = world.envelopes(|said| said.round >= round && matches!(said.message, Message::Judgement(_)));
    for envelope in judgements.iter().filter(|envelope| peers.contains(&envelope.from)) {
        let said = Said::open(envelope, run).unwrap();
        let Message::Judgement(judgement) = &said.message else { unreachable!() };
        assert!(judgement.scores.iter().all(|(_, score)| score.own == Some(mark(judgement.draw))));
        if said.round == round && !draws.contains(&judgement.draw) {
            draws.push(judgement.draw);
        }
    }
    assert_eq!(draws.len(), 2, "once without its seed and once with it");
    let certificate = &world.swarm(world.anchor()).unwrap().certificates()[&round];
    let content = &certificate.body.content;
    assert!(content.seeds.iter().all(Option::is_some) && !content.judgements.is_empty());
}
