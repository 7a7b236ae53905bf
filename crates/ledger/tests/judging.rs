//! The rules about judgements, bans and proofs, each on a body that keeps or breaks it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;

use common::{Work, certify, identities, join, named, nothing, training};
use shoal_ledger::{
    Chain, CharterError, LedgerError, aggregate_weights,
    judging::{BAN_ROUNDS, Panels},
    vote_weights,
};
use shoal_sim::toy_manifest;
use shoal_wire::{
    Digest, Envelope, Identity, PeerId, SessionId,
    charter::{Amendment, Ballot, Change},
    codec,
    judging::{Equivocation, Judgement, Score},
    limits,
    record::{Body, Content, Join, Member, Message, Verdict, Vote, VoteKind},
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

/// Harm, but trained on the assigned data.
fn bad() -> Score {
    Score { assigned: -15_000, other: -22_000, ..good() }
}

impl Run {
    fn new(volunteers: u8) -> Self {
        let anchor = Identity::from_secret([1; 32]);
        let chain = Chain::new(toy_manifest(vec![anchor.peer()]));
        let mut run = Self { anchor, volunteers: identities(11..11 + volunteers), chain };
        let session = run.say(&run.anchor, Message::Join(Join { durable: true, trains: false }));
        let joins = run.volunteers.iter().map(|who| run.say(who, join()));
        let mut joins: Vec<Envelope> = joins.chain([session]).collect();
        joins.sort_by_key(|envelope| envelope.from);
        let body = run.body(nothing(&run.chain), |body| body.joins = joins).unwrap();
        run.apply(&body);
        run
    }

    fn all(&self) -> Vec<&Identity> {
        self.volunteers.iter().chain([&self.anchor]).collect()
    }

    fn say(&self, who: &Identity, message: Message) -> Envelope {
        common::say(&self.chain, who, message)
    }

    fn who(&self, peer: PeerId) -> &Identity {
        named(&self.all(), peer)
    }

    fn body(&self, content: Content, change: impl FnOnce(&mut Body)) -> Result<Body, LedgerError> {
        common::body(&self.chain, content, change)
    }

    fn apply(&mut self, body: &Body) {
        let voters = self.chain.weights().iter().filter(|(_, weight)| **weight > 0);
        let voters: Vec<&Identity> = voters.map(|(peer, _)| self.who(*peer)).collect();
        let certificate = certify(&self.chain, body, 0, &voters);
        self.chain.apply(&certificate).unwrap();
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

    fn draw(&self) -> Panels {
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
        let authors = self.authors();
        let work: Vec<Work<'_>> = authors
            .iter()
            .zip(self.seeds())
            .map(|(author, seed)| (self.who(*author), self.update(*author), seed.unwrap(), 80))
            .collect();
        let judge = |auditor: PeerId| {
            let judgement = self.judgement(auditor, |author| score(author, auditor));
            self.say(self.who(auditor), Message::Judgement(judgement))
        };
        let judgements = self.auditors().into_iter().map(judge).collect();
        let verdicts = authors.iter().map(|author| verdict(*author)).collect();
        Content { judgements, ..training(&self.chain, &self.all(), &work, verdicts) }
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
        assert!(run.chain.check_join(next, SessionId(liar.0), liar).is_err(), "round {next}");
        run.round(&[]);
    }
    let next = run.chain.head().round + 1;
    run.chain.check_join(next, SessionId(liar.0), liar).unwrap();
    let join = run.say(run.who(liar), join());
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
fn a_malformed_update_is_held_against_its_author_unless_another_one_s_commit_to_it_is_not_malformed() {
    for (first, evidence) in [(Verdict::Accepted, false), (Verdict::Malformed, true)] {
        let mut run = Run::new(6);
        let authors = run.authors();
        let (victim, copier) = (authors[1], authors[2]);
        let update = |author: PeerId| run.update(if author == copier { victim } else { author });
        let seeds = authors.iter().zip(run.seeds());
        let work: Vec<Work<'_>> =
            seeds.map(|(author, seed)| (run.who(*author), update(*author), seed.unwrap(), 80)).collect();
        let verdict = |author: &PeerId| match *author {
            author if author == copier => Verdict::Malformed,
            author if author == victim => first,
            _ => Verdict::Accepted,
        };
        let content = training(&run.chain, &run.all(), &work, authors.iter().map(verdict).collect());
        let body = run.body(content, |_| {}).unwrap();
        run.apply(&body);
        for peer in [victim, copier] {
            assert_eq!(run.member(peer).standing.evidence > 0, evidence, "{first:?}");
        }
    }
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
    assert_eq!(run.chain.reputation(peer).valid, 6 - 2, "were it back at once");
    let join = run.say(run.who(peer), join());
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
    assert!(run.chain.check_join(run.chain.head().round + 1, SessionId([9; 32]), peer).is_err());
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
fn who_is_banned_neither_proposes_nor_votes_on_amendments_until_the_ban_ends() {
    let mut run = Run::new(4);
    run.round(&[]);
    let (anchor, volunteer, parent) = (run.anchor.peer(), run.authors()[0], run.chain.head().body);
    let may = |run: &Run, peer: PeerId| {
        let closes = run.chain.head().round + 1 + u64::from(run.chain.manifest().charter.open_rounds_min);
        let amendment = Amendment { change: Change::Stop, reason: "a test".into(), closes, effective: closes + 1 };
        let ballot = Ballot { amendment: Digest::of(b"none"), approve: true };
        (run.chain.check_amendment(&amendment, peer), run.chain.check_ballot(ballot, peer))
    };
    let free = (Ok(()), Err(CharterError::NotOpen));
    assert_eq!([anchor, volunteer].map(|peer| may(&run, peer)), [free.clone(), free.clone()]);
    let vote = |body: u8| Vote { parent, view: 3, kind: VoteKind::Prevote, body: Some(Digest([body; 32])) };
    let proof = |peer: PeerId| Equivocation {
        first: run.say(run.who(peer), Message::Vote(vote(1))),
        second: run.say(run.who(peer), Message::Vote(vote(2))),
    };
    let mut proofs = vec![proof(anchor), proof(volunteer)];
    proofs.sort_by_key(|proof| proof.first.from);
    let body = run.body(run.content(|_, _| good(), accepted), |body| body.proofs = proofs).unwrap();
    run.apply(&body);
    let until = run.chain.head().round + 1 + BAN_ROUNDS;
    for peer in [anchor, volunteer] {
        let known = run.chain.reputation(peer);
        assert_eq!((known.bans, known.valid, known.banned_until), (1, 0, Some(until)));
    }
    while run.chain.head().round + 1 < until {
        for peer in [anchor, volunteer] {
            let refused = (Err(CharterError::Banned(until)), Err(CharterError::Banned(until)));
            assert_eq!(may(&run, peer), refused, "before round {}", run.chain.head().round + 1);
        }
        run.round(&[]);
    }
    assert_eq!(may(&run, anchor), free);
    assert_eq!(may(&run, volunteer).0, Err(CharterError::NoCredit), "it is no member yet");
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
    // 48 scores of at most 88 bytes in 17 envelopes, each with a session of 32; two votes of each of 16 members; commits, roster and signatures.
    assert!(scores <= 48 * 88 + 17 * (180 + 32), "{scores}");
    assert!(proved <= 16 * 2 * 256, "{proved}");
    let all = codec::encode(&body).len() + signed;
    assert!(all <= 24 * 1024, "{all}");
    assert!(all * 8 <= limits::MESSAGE_BYTES_MAX && limits::MESSAGE_BYTES_MAX <= limits::CERTIFICATE_BYTES_MAX);
}
