//! The rules about judgements, bans and proofs, each on a body that keeps or breaks it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use shoal_ledger::{
    Chain, LedgerError, aggregate_weights,
    judging::{BAN_ROUNDS, Draw},
    vote_weights,
};
use shoal_sim::toy_manifest;
use shoal_wire::{
    Digest, Envelope, Identity, PeerId, codec,
    judging::{Equivocation, Judgement, Score},
    limits,
    record::{
        Body, Certificate, Commit, CommitList, Content, Join, Member, Message, Said, Verdict, Vote, VoteKind,
        seed_hash, vote_payload,
    },
    sign::{Domain, Signature},
};

/// An anchor and some volunteers, in peer order, and the chain after the round that took the volunteers in.
struct Run {
    anchor: Identity,
    volunteers: Vec<Identity>,
    chain: Chain,
}

fn good() -> Score {
    Score { assigned: 15_000, other: 8_000, own: Some(8_000), alignment_1024: Some(100), copies: None }
}

fn bad() -> Score {
    Score { assigned: -15_000, other: -8_000, ..good() }
}

impl Run {
    fn new(volunteers: u8) -> Self {
        let anchor = Identity::from_secret([1; 32]);
        let mut all: Vec<Identity> = (0..volunteers).map(|secret| Identity::from_secret([11 + secret; 32])).collect();
        all.sort_by_key(Identity::peer);
        let chain = Chain::new(toy_manifest(vec![anchor.peer()]));
        let mut run = Self { anchor, volunteers: all, chain };
        let join = Message::Join(Join { durable: true, trains: true });
        let joins: Vec<Envelope> = run.volunteers.iter().map(|who| run.say(who, join.clone())).collect();
        let model = run.chain.head().model;
        let nothing = Content {
            list: None,
            commits: vec![],
            seeds: vec![],
            judgements: vec![],
            verdicts: vec![],
            norms: vec![],
            model,
        };
        let body = run.body(nothing, |body| body.joins = joins).unwrap();
        run.apply(&body);
        run
    }

    fn say(&self, who: &Identity, message: Message) -> Envelope {
        Said { run: self.chain.run(), round: self.chain.head().round + 1, message }.seal(who)
    }

    fn who(&self, peer: PeerId) -> &Identity {
        self.volunteers.iter().chain([&self.anchor]).find(|who| who.peer() == peer).unwrap()
    }

    fn body(&self, content: Content, change: impl FnOnce(&mut Body)) -> Result<Body, LedgerError> {
        let head = self.chain.head();
        let mut body = Body {
            run: self.chain.run(),
            round: head.round + 1,
            parent: head.body,
            view: 0,
            randomness: self.chain.randomness_after(&content.seeds),
            content,
            joins: vec![],
            leaves: vec![],
            proofs: vec![],
            charter: vec![],
            recovery: None,
            roster: vec![],
        };
        change(&mut body);
        body.roster = self.chain.roster_after(&body)?;
        Ok(body)
    }

    fn apply(&mut self, body: &Body) {
        let vote = Vote { parent: body.parent, view: 0, kind: VoteKind::Precommit, body: Some(body.digest()) };
        let payload = vote_payload(body.run, body.round, vote);
        let weights = self.chain.weights().clone();
        let mut signatures: Vec<(PeerId, Signature)> = weights
            .into_iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(peer, _)| (peer, self.who(peer).sign(Domain::Swarm, &payload)))
            .collect();
        signatures.sort_by_key(|(peer, _)| *peer);
        self.chain.apply(&Certificate { body: body.clone(), view: 0, signatures }).unwrap();
    }

    /// Members that train.
    fn authors(&self) -> Vec<PeerId> {
        self.chain.head().roster.iter().filter(|member| member.trains).map(|member| member.peer).collect()
    }

    fn seeds(&self) -> Vec<Option<Digest>> {
        self.authors().iter().map(|peer| Some(Digest::of(&peer.0))).collect()
    }

    fn update(&self, author: PeerId) -> Digest {
        Digest::of(&[&author.0[..], &self.chain.head().body.0].concat())
    }

    fn draw(&self) -> Draw {
        self.chain.draw(&self.authors(), &self.seeds())
    }

    /// What an auditor says of all that was drawn for it.
    fn judgement(&self, auditor: PeerId, score: impl Fn(PeerId) -> Score) -> Judgement {
        let draw = self.draw();
        let drawn = draw.iter().filter(|(_, auditors)| auditors.contains(&auditor));
        let scores = drawn.map(|(author, _)| (self.update(*author), score(*author))).collect();
        Judgement { draw: self.chain.randomness_after(&self.seeds()), scores }
    }

    fn auditors(&self) -> BTreeSet<PeerId> {
        self.draw().into_values().flatten().collect()
    }

    /// A round in which everybody commits and is judged so, with the verdicts that follow from `verdict`.
    fn content(&self, score: impl Fn(PeerId, PeerId) -> Score, verdict: impl Fn(PeerId) -> Verdict) -> Content {
        let (authors, seeds) = (self.authors(), self.seeds());
        let commit = |(author, seed): (&PeerId, &Option<Digest>)| {
            let commit = Commit {
                parent: self.chain.head().body,
                update: self.update(*author),
                update_bytes: 64,
                steps: 10,
                tokens: 80,
                loss_first: 2.0,
                loss_last: 1.0,
                seed_hash: seed_hash(seed.unwrap()),
            };
            self.say(self.who(*author), Message::Commit(commit))
        };
        let commits: Vec<Envelope> = authors.iter().zip(&seeds).map(commit).collect();
        let list = CommitList { view: 0, commits: commits.iter().map(Envelope::id).collect() };
        let judge = |auditor: PeerId| {
            let judgement = self.judgement(auditor, |author| score(author, auditor));
            self.say(self.who(auditor), Message::Judgement(judgement))
        };
        let verdicts: Vec<Verdict> = authors.iter().map(|author| verdict(*author)).collect();
        let accepted = verdicts.contains(&Verdict::Accepted);
        Content {
            list: Some(self.say(self.who(self.chain.leaders()[0]), Message::CommitList(list))),
            commits,
            seeds,
            judgements: self.auditors().into_iter().map(judge).collect(),
            verdicts,
            norms: if accepted { vec![1] } else { vec![] },
            model: if accepted { Digest::of(b"next") } else { self.chain.head().model },
        }
    }

    fn check(&self, content: Content) -> Result<(), LedgerError> {
        let body = self.body(content, |_| {})?;
        self.chain.check_body(&body).map(|_| ())
    }

    /// Goes on for a round in which these lie in their updates.
    fn round(&mut self, liars: &[PeerId]) {
        let content = self.content(
            |author, _| if liars.contains(&author) { bad() } else { good() },
            |author| if liars.contains(&author) { Verdict::Harmful } else { Verdict::Accepted },
        );
        let body = self.body(content, |_| {}).unwrap();
        self.apply(&body);
    }

    fn member(&self, peer: PeerId) -> &Member {
        self.chain.member(peer).unwrap()
    }
}

fn accepted(_: PeerId) -> Verdict {
    Verdict::Accepted
}

#[test]
fn verdicts_must_be_what_the_judgements_say() {
    let run = Run::new(6);
    let liar = run.authors()[2];
    let honest = |_: PeerId, _: PeerId| good();
    run.check(run.content(honest, accepted)).unwrap();
    let slander = run.content(honest, |author| if author == liar { Verdict::Harmful } else { Verdict::Accepted });
    assert_eq!(run.check(slander), Err(LedgerError::Judged(liar)));
    let lies = |author: PeerId, _: PeerId| if author == liar { bad() } else { good() };
    assert_eq!(run.check(run.content(lies, accepted)), Err(LedgerError::Judged(liar)));
    let copied = run.content(lies, |author| if author == liar { Verdict::Copied } else { Verdict::Accepted });
    assert_eq!(run.check(copied), Err(LedgerError::Judged(liar)));
    run.check(run.content(lies, |author| if author == liar { Verdict::Harmful } else { Verdict::Accepted })).unwrap();
}

#[test]
fn judgements_are_of_this_draw_by_its_auditors_in_order_about_what_was_drawn() {
    let run = Run::new(6);
    let whole = run.content(|_, _| good(), accepted);
    let auditor = whole.judgements[0].from;
    let misplaced = Err(LedgerError::Misplaced { what: "judgement", peer: auditor });
    let with = |change: &dyn Fn(&mut Judgement)| {
        let mut content = whole.clone();
        let mut judgement = run.judgement(auditor, |_| good());
        change(&mut judgement);
        content.judgements[0] = run.say(run.who(auditor), Message::Judgement(judgement));
        run.check(content)
    };
    with(&|_| {}).unwrap();
    with(&|judgement| judgement.scores.clear()).unwrap();
    assert_eq!(with(&|judgement| judgement.draw = Digest::of(b"another draw")), misplaced);
    assert_eq!(with(&|judgement| judgement.scores.push((Digest::of(b"no update"), good()))), misplaced);
    assert_eq!(with(&|judgement| judgement.scores.reverse()), misplaced);
    assert_eq!(with(&|judgement| judgement.scores.push(judgement.scores[0])), misplaced);
    let own = run.update(auditor);
    assert_eq!(with(&|judgement| judgement.scores = vec![(own, good())]), misplaced);

    let mut reversed = whole.clone();
    reversed.judgements.reverse();
    assert_eq!(run.check(reversed), Err(LedgerError::Order("judgements")));
    let mut other = whole.clone();
    other.judgements[0] = run.say(run.who(auditor), Message::Leave);
    assert_eq!(run.check(other), misplaced);
    let mut stranger = whole.clone();
    let identity = Identity::from_secret([99; 32]);
    let judgement = Judgement { scores: vec![], ..run.judgement(auditor, |_| good()) };
    stranger.judgements = vec![run.say(&identity, Message::Judgement(judgement))];
    assert_eq!(
        run.check(stranger),
        Err(LedgerError::Misplaced { what: "judgement", peer: identity.peer() }),
        "not drawn"
    );
    let mut none = whole;
    none.judgements.clear();
    run.check(none).unwrap();
}

#[test]
fn only_audits_build_trust_and_one_failure_ends_it() {
    let mut run = Run::new(6);
    let peer = run.authors()[0];
    for round in 1..=3 {
        run.round(&[]);
        assert_eq!(run.member(peer).valid, round);
    }
    let mut unaudited = run.content(|_, _| good(), accepted);
    unaudited.judgements.clear();
    let body = run.body(unaudited, |_| {}).unwrap();
    run.apply(&body);
    assert_eq!(run.member(peer).valid, 3);
    run.round(&[peer]);
    assert_eq!(run.member(peer).valid, 0);
    assert!(run.member(peer).standing.evidence > 0 && run.member(peer).standing.rating < 0);
}

#[test]
fn six_failures_in_a_row_ban_and_the_ban_ends() {
    let mut run = Run::new(6);
    let liar = run.authors()[3];
    for _ in 0..5 {
        run.round(&[liar]);
        assert!(run.chain.member(liar).is_some());
    }
    run.round(&[liar]);
    assert!(run.chain.member(liar).is_none());
    let banned_at = run.chain.head().round;
    while run.chain.head().round < banned_at + BAN_ROUNDS {
        let next = run.chain.head().round + 1;
        assert!(run.chain.check_join(next, liar).is_err(), "round {next}");
        run.round(&[]);
    }
    let next = run.chain.head().round + 1;
    run.chain.check_join(next, liar).unwrap();
    let join = run.say(run.who(liar), Message::Join(Join { durable: true, trains: true }));
    let content = run.content(|_, _| good(), accepted);
    let body = run.body(content, |body| body.joins = vec![join]).unwrap();
    run.apply(&body);
    assert_eq!((run.member(liar).standing.bans, run.member(liar).valid), (1, 0));
    assert_eq!(run.chain.weights()[&liar], 0);
    let tokens: Vec<(PeerId, u64)> = run.authors().into_iter().map(|peer| (peer, 80)).collect();
    let weights = aggregate_weights(run.chain.manifest(), &run.chain.head().roster, &tokens);
    assert_eq!(weights.iter().min(), Some(&1), "of 4,095: audited, without weight");
}

#[test]
fn trust_outlives_an_absence_less_a_point_for_each_round() {
    let mut run = Run::new(6);
    let peer = run.authors()[1];
    for _ in 0..5 {
        run.round(&[]);
    }
    let leave = run.say(run.who(peer), Message::Leave);
    let content = run.content(|_, _| good(), accepted);
    let body = run.body(content, |body| body.leaves = vec![leave]).unwrap();
    run.apply(&body);
    assert!(run.chain.member(peer).is_none());
    run.round(&[]);
    run.round(&[]);
    let join = run.say(run.who(peer), Message::Join(Join { durable: true, trains: true }));
    let content = run.content(|_, _| good(), accepted);
    let body = run.body(content, |body| body.joins = vec![join]).unwrap();
    run.apply(&body);
    assert_eq!(run.member(peer).valid, 6 - 3);
}

#[test]
fn each_round_of_absence_halves_a_vote() {
    let run = Run::new(2);
    let mut roster = run.chain.head().roster.clone();
    let weights = vote_weights(&roster, &[run.anchor.peer()]);
    let at = roster.iter().position(|member| member.trains).unwrap();
    roster[at].missed = 1;
    assert_eq!(vote_weights(&roster, &[run.anchor.peer()])[at] * 2, weights[at]);
}

#[test]
fn two_votes_in_one_place_cost_the_place_and_nothing_less_does() {
    let mut run = Run::new(4);
    let (peer, parent) = (run.authors()[0], run.chain.head().body);
    let vote = |body: u8| Vote { parent, view: 3, kind: VoteKind::Precommit, body: Some(Digest([body; 32])) };
    let said = |vote: Vote| run.say(run.who(peer), Message::Vote(vote));
    let proof = |first: Vote, second: Vote| Equivocation { first: said(first), second: said(second) };
    let convicting = proof(vote(1), vote(2));
    assert_eq!(run.chain.convicts(&convicting), Ok(peer));
    assert_eq!(run.chain.convicts(&proof(Vote { body: None, ..vote(1) }, vote(2))), Ok(peer));
    let misplaced = Err(LedgerError::Misplaced { what: "proof", peer });
    let innocent = [
        proof(vote(1), vote(1)),
        proof(vote(1), Vote { view: 4, ..vote(2) }),
        proof(vote(1), Vote { kind: VoteKind::Prevote, ..vote(2) }),
        proof(vote(1), Vote { parent: Digest([9; 32]), ..vote(2) }),
        proof(Vote { kind: VoteKind::Recovery, ..vote(1) }, Vote { kind: VoteKind::Recovery, ..vote(2) }),
        Equivocation { first: said(vote(1)), second: run.say(run.who(run.authors()[1]), Message::Vote(vote(2))) },
        Equivocation { first: run.say(run.who(peer), Message::Leave), second: said(vote(2)) },
    ];
    for proof in innocent {
        assert_eq!(run.chain.convicts(&proof), misplaced);
    }
    let mut forged = convicting.clone();
    forged.second.signature.0[3] ^= 1;
    assert!(matches!(run.chain.convicts(&forged), Err(LedgerError::Envelope { what: "vote", .. })));

    let twice = run.body(run.content(|_, _| good(), accepted), |body| body.proofs = vec![convicting.clone(); 2]);
    assert_eq!(twice, Err(LedgerError::Order("proofs")));
    let body = run.body(run.content(|_, _| good(), accepted), |body| body.proofs = vec![convicting]).unwrap();
    run.apply(&body);
    assert!(run.chain.member(peer).is_none());
    assert!(run.chain.check_join(run.chain.head().round + 1, peer).is_err());
}

#[test]
fn an_anchor_that_contradicts_itself_keeps_its_place_for_recoveries_and_no_vote() {
    let mut run = Run::new(3);
    let (anchor, parent) = (run.anchor.peer(), run.chain.head().body);
    let vote = |body: u8| Vote { parent, view: 3, kind: VoteKind::Prevote, body: Some(Digest([body; 32])) };
    let proof = Equivocation {
        first: run.say(&run.anchor, Message::Vote(vote(1))),
        second: run.say(&run.anchor, Message::Vote(vote(2))),
    };
    let body = run.body(run.content(|_, _| good(), accepted), |body| body.proofs = vec![proof.clone()]).unwrap();
    run.apply(&body);
    assert_eq!(run.chain.weights()[&anchor], 0);
    assert!(!run.chain.leaders().contains(&anchor));
    assert!(run.chain.convicts(&proof).is_err(), "once");
}

#[test]
fn the_largest_round_of_judgements_and_proofs_fits_a_certificate_and_a_proposal() {
    let mut run = Run::new(16);
    run.round(&[]);
    let longest = Score {
        assigned: i32::MIN,
        other: i32::MIN,
        own: Some(i32::MIN),
        alignment_1024: Some(i16::MIN),
        copies: Some(run.anchor.peer()),
    };
    let content = run.content(|_, _| longest, |_| Verdict::Harmful);
    let scores = codec::encode(&content.judgements).len();
    let parent = run.chain.head().body;
    let proofs: Vec<Equivocation> = run
        .authors()
        .into_iter()
        .map(|peer| {
            let vote = |body: u8| {
                let vote = Vote { parent, view: u32::MAX, kind: VoteKind::Prevote, body: Some(Digest([body; 32])) };
                run.say(run.who(peer), Message::Vote(vote))
            };
            Equivocation { first: vote(1), second: vote(2) }
        })
        .collect();
    let proved = codec::encode(&proofs).len();
    let body = run.body(content, |body| body.proofs = proofs).unwrap();
    run.chain.check_body(&body).unwrap();
    let signed = 17 * (32 + 64);
    // 48 scores of at most 88 bytes in 17 envelopes; two votes of each of 16 members; commits, roster and signatures.
    assert!(scores <= 48 * 88 + 17 * 180, "{scores}");
    assert!(proved <= 16 * 2 * 256, "{proved}");
    let all = codec::encode(&body).len() + signed;
    assert!(all <= 24 * 1024, "{all}");
    assert!(all * 8 <= limits::MESSAGE_BYTES_MAX && limits::MESSAGE_BYTES_MAX <= limits::CERTIFICATE_BYTES_MAX);
}
