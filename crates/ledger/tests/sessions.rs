//! One session per identity: who speaks for a member, and what a second opening of its key changes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Work, certify, identities, join, named, nothing, payload, say, say_as, training};
use shoal_ledger::{Chain, LedgerError};
use shoal_sim::toy_manifest;
use shoal_wire::{
    Digest, Envelope, Identity, PeerId, SessionId,
    judging::Equivocation,
    record::{Body, Content, Join, Member, Message, Recovery, RecoveryAnswer, Verdict, Vote, VoteKind},
    sign::Domain,
};

const SECOND: SessionId = SessionId([2; 32]);
const THIRD: SessionId = SessionId([3; 32]);

/// An anchor, which has no session yet, and three volunteers, in peer order, after the round that took these in and one
/// that they trained in.
struct Run {
    anchor: Identity,
    volunteers: Vec<Identity>,
    chain: Chain,
}

impl Run {
    fn new() -> Self {
        let anchor = Identity::from_secret([1; 32]);
        let chain = Chain::new(toy_manifest(vec![anchor.peer()]));
        let mut run = Self { anchor, volunteers: identities(11..14), chain };
        let joins = run.volunteers.iter().map(|who| say(&run.chain, who, join())).collect();
        run.go_on(nothing(&run.chain), |body| body.joins = joins);
        run.go_on(run.content(), |_| {});
        run
    }

    fn all(&self) -> Vec<&Identity> {
        self.volunteers.iter().chain([&self.anchor]).collect()
    }

    /// A round in which every volunteer trains.
    fn content(&self) -> Content {
        let digest = |what: &str, who: &Identity| {
            Digest::of(format!("{what} of {} in {}", who.peer(), self.chain.head().round).as_bytes())
        };
        let here = self.volunteers.iter().filter(|who| self.chain.member(who.peer()).is_some());
        let work: Vec<Work<'_>> = here.map(|who| (who, digest("update", who), digest("seed", who), 80)).collect();
        training(&self.chain, &self.all(), &work, vec![Verdict::Accepted; work.len()])
    }

    fn body(&self, content: Content, change: impl FnOnce(&mut Body)) -> Result<Body, LedgerError> {
        common::body(&self.chain, content, change)
    }

    fn go_on(&mut self, content: Content, change: impl FnOnce(&mut Body)) {
        let body = self.body(content, change).unwrap();
        let members: Vec<&Identity> =
            self.chain.head().roster.iter().map(|member| named(&self.all(), member.peer)).collect();
        let certificate = certify(&self.chain, &body, 0, &members);
        self.chain.apply(&certificate).unwrap();
    }

    /// The first volunteer, whom these tests open twice.
    fn twice(&self) -> (&Identity, PeerId) {
        (&self.volunteers[0], self.volunteers[0].peer())
    }

    fn asks(&self, session: SessionId) -> Envelope {
        say_as(&self.chain, self.twice().0, session, join())
    }

    /// Goes on for a round whose body carries this join.
    fn open(&mut self, asked: Envelope) {
        self.go_on(self.content(), |body| body.joins = vec![asked]);
    }

    fn member(&self) -> Member {
        *self.chain.member(self.twice().1).unwrap()
    }

    fn refuses(&self, content: Content, change: impl FnOnce(&mut Body)) -> LedgerError {
        let body = match self.body(content, change) {
            Ok(body) => body,
            Err(error) => return error,
        };
        self.chain.check_body(&body).unwrap_err()
    }
}

#[test]
fn a_second_session_takes_the_place_of_the_first_with_all_that_it_earned() {
    let mut run = Run::new();
    let peer = run.twice().1;
    let mut untouched = run.chain.clone();
    let body = run.body(run.content(), |_| {}).unwrap();
    untouched.apply(&certify(&run.chain, &body, 0, &run.all())).unwrap();
    let before = *untouched.member(peer).unwrap();
    run.open(run.asks(SECOND));
    assert_eq!(run.member(), Member { session: SECOND, session_round: 3, ..before });
    assert_eq!(run.chain.weights(), untouched.weights());
    assert_eq!(run.chain.credit(), untouched.credit());
    assert!(run.chain.speaker(peer, SECOND).is_some() && run.chain.speaker(peer, before.session).is_none());
}

#[test]
fn an_old_join_does_not_bring_an_old_session_back() {
    let mut run = Run::new();
    let peer = run.twice().1;
    let (first, joined) = (run.member().session, run.member().session_round);
    let replayed = run.asks(THIRD);
    run.open(run.asks(SECOND));
    let round = run.chain.head().round;
    assert_eq!((joined, round), (1, 3));
    for said in [joined, round] {
        assert!(run.chain.check_join(said, first, peer).is_err(), "said in round {said}");
    }
    let misplaced = LedgerError::Misplaced { what: "join", peer };
    assert_eq!(run.refuses(run.content(), |body| body.joins = vec![replayed]), misplaced);
    assert_eq!(run.chain.check_join(round + 1, SECOND, peer), Err(misplaced.clone()), "it is there");
    assert_eq!(run.chain.check_join(round + 1, SessionId::NONE, peer), Err(misplaced), "no session is none");
    run.chain.check_join(round + 1, first, peer).unwrap();
}

#[test]
fn nothing_counts_that_another_session_says_in_the_name_of_a_member() {
    let mut run = Run::new();
    run.open(run.asks(SECOND));
    let (who, peer) = run.twice();
    let first = SessionId(peer.0);
    let other = |what| LedgerError::OtherSession { what, peer };
    let whole = run.content();
    let at = whole.commits.iter().position(|envelope| envelope.from == peer).unwrap();
    let open = |envelope: &Envelope| shoal_wire::record::Said::open(envelope, run.chain.run()).unwrap().into_inner();
    let mut foreign = whole.clone();
    foreign.commits[at] = say_as(&run.chain, who, first, open(&whole.commits[at]).message);
    assert_eq!(run.refuses(foreign, |_| {}), other("commit"));
    let leave = say_as(&run.chain, who, first, Message::Leave);
    assert_eq!(run.refuses(run.content(), |body| body.leaves = vec![leave]), other("leave"));
    let answer = Message::RecoveryAnswer(RecoveryAnswer { attempt: 0, lock: None });
    let answers = vec![say_as(&run.chain, who, first, answer)];
    let recovery = Some(Recovery { attempt: 0, answers });
    assert_eq!(run.refuses(nothing(&run.chain), |body| body.recovery = recovery), other("answer"));
    let ballot = shoal_wire::charter::Ballot { amendment: Digest::of(b"none"), approve: true };
    let ballot = say_as(&run.chain, who, first, Message::Ballot(ballot));
    assert_eq!(run.refuses(run.content(), |body| body.charter = vec![ballot]), other("amendment or ballot"));
}

#[test]
fn a_vote_of_another_session_signs_nothing() {
    let mut run = Run::new();
    let before = run.chain.clone();
    run.open(run.asks(SECOND));
    let (who, peer) = run.twice();
    let body = run.body(run.content(), |_| {}).unwrap();
    let mut certificate = certify(&run.chain, &body, 0, &run.all());
    run.chain.check(&certificate).unwrap();
    let vote = Vote { parent: body.parent, view: 0, kind: VoteKind::Precommit, body: Some(body.digest()) };
    let signed = certificate.signatures.iter_mut().find(|(signer, _)| *signer == peer).unwrap();
    // As the session before would have voted.
    signed.1 = who.sign(Domain::Swarm, &payload(&before, peer, body.round, vote));
    assert_eq!(run.chain.check(&certificate), Err(LedgerError::Signature(peer)));
}

#[test]
fn votes_of_two_sessions_convict_nobody_and_two_of_one_do() {
    let mut run = Run::new();
    run.open(run.asks(SECOND));
    let (who, peer) = run.twice();
    let first = SessionId(peer.0);
    let parent = run.chain.head().body;
    let vote = |body: u8| Vote { parent, view: 3, kind: VoteKind::Precommit, body: Some(Digest([body; 32])) };
    let said = |session, body| say_as(&run.chain, who, session, Message::Vote(vote(body)));
    let proof = |one, other| Equivocation { first: said(one, 1), second: said(other, 2) };
    let misplaced = LedgerError::Misplaced { what: "proof", peer };
    assert_eq!(run.chain.convicts(&proof(first, SECOND)), Err(misplaced.clone()));
    assert_eq!(run.chain.convicts(&proof(SECOND, THIRD)), Err(misplaced.clone()));
    assert_eq!(
        run.chain.convicts(&proof(SessionId::NONE, SessionId::NONE)),
        Err(misplaced.clone()),
        "whoever holds the key"
    );
    assert_eq!(run.chain.convicts(&proof(SECOND, SECOND)), Ok(peer));
    let proofs = vec![proof(first, SECOND)];
    assert_eq!(run.refuses(run.content(), |body| body.proofs = proofs), misplaced);
}

#[test]
fn a_session_that_says_good_bye_does_not_take_the_next_one_with_it() {
    let mut run = Run::new();
    let (who, peer) = run.twice();
    let (leave, asked) = (say(&run.chain, who, Message::Leave), run.asks(SECOND));
    let credit = run.chain.credit()[&peer].amount;
    run.go_on(run.content(), |body| (body.leaves, body.joins) = (vec![leave], vec![asked]));
    assert_eq!(run.member().session, SECOND);
    assert!(run.chain.credit()[&peer].amount > credit);
}

#[test]
fn to_say_good_bye_and_ask_for_the_place_at_once_wipes_out_neither_missed_rounds_nor_contradictions() {
    let mut run = Run::new();
    let (who, peer) = run.twice();
    let (parent, since) = (run.chain.head().body, run.member().since);
    let vote = |body: u8| {
        let vote = Vote { parent, view: 3, kind: VoteKind::Prevote, body: Some(Digest([body; 32])) };
        say(&run.chain, who, Message::Vote(vote))
    };
    let proof = Equivocation { first: vote(1), second: vote(2) };
    for (session, missed) in [(SECOND, 1), (THIRD, 1)] {
        let leave = say_as(&run.chain, run.twice().0, run.member().session, Message::Leave);
        let asked = run.asks(session);
        let work = nothing(&run.chain);
        run.go_on(work, |body| (body.leaves, body.joins) = (vec![leave], vec![asked]));
        let member = run.member();
        assert_eq!((member.session, member.since, member.missed), (session, since, missed));
    }
    assert_eq!(run.chain.convicts(&proof), Ok(peer));
}

#[test]
fn a_recovery_without_the_session_before_takes_the_next_one_in() {
    let mut run = Run::new();
    let asked = run.asks(SECOND);
    let answer = Message::RecoveryAnswer(RecoveryAnswer { attempt: 0, lock: None });
    let present = [&run.anchor, &run.volunteers[1]];
    let mut answers: Vec<Envelope> = present.iter().map(|who| say(&run.chain, who, answer.clone())).collect();
    answers.sort_by_key(|envelope| envelope.from);
    let body = run.body(nothing(&run.chain), |body| {
        body.recovery = Some(Recovery { attempt: 0, answers });
        body.joins = vec![asked];
    });
    let certificate = certify(&run.chain, &body.unwrap(), 0, &present);
    run.chain.apply(&certificate).unwrap();
    assert_eq!(run.member().session, SECOND);
    assert!(run.chain.member(run.volunteers[2].peer()).is_none(), "it was away, and nobody asked in its name");
}

#[test]
fn a_session_does_not_come_in_the_place_of_one_that_the_same_round_bans() {
    let mut run = Run::new();
    let (who, peer) = run.twice();
    let parent = run.chain.head().body;
    let vote = |body: u8| {
        let vote = Vote { parent, view: 3, kind: VoteKind::Prevote, body: Some(Digest([body; 32])) };
        say(&run.chain, who, Message::Vote(vote))
    };
    let proofs = vec![Equivocation { first: vote(1), second: vote(2) }];
    let asked = run.asks(SECOND);
    run.go_on(run.content(), |body| (body.proofs, body.joins) = (proofs, vec![asked]));
    assert!(run.chain.member(peer).is_none());
    assert!(run.chain.banned_until(peer).is_some());
    assert!(run.chain.check_join(run.chain.head().round + 1, THIRD, peer).is_err());
}

#[test]
fn an_anchor_speaks_for_its_key_until_it_asks_for_a_session() {
    let mut run = Run::new();
    let anchor = run.anchor.peer();
    assert_eq!(run.chain.member(anchor).unwrap().session, SessionId::NONE);
    let asked = say_as(&run.chain, &run.anchor, SECOND, Message::Join(Join { durable: true, trains: false }));
    let weight = run.chain.weights()[&anchor];
    run.go_on(run.content(), |body| body.joins = vec![asked]);
    assert_eq!(run.chain.member(anchor).unwrap().session, SECOND);
    assert_eq!(run.chain.weights()[&anchor], weight);
    run.go_on(run.content(), |_| {});
}
