//! The rules of recoveries and of bodies, each on a certificate made for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{body, certify, identities, join, nothing, payload, say, training};
use shoal_ledger::{Chain, LedgerError};
use shoal_sim::toy_manifest;
use shoal_wire::{
    Digest, Envelope, Identity,
    record::{Body, Certificate, Lock, Message, Recovery, RecoveryAnswer, Verdict, Vote, VoteKind},
    sign::Domain,
};

/// Three anchors and two volunteers, in peer order, and the chain after the round that took the volunteers in.
struct Run {
    anchors: Vec<Identity>,
    volunteers: Vec<Identity>,
    chain: Chain,
}

impl Run {
    fn new() -> Self {
        let (anchors, volunteers) = (identities(1..4), identities(11..13));
        let manifest = toy_manifest(anchors.iter().map(Identity::peer).collect());
        let mut run = Self { anchors, volunteers, chain: Chain::new(manifest) };
        let joins = run.volunteers.iter().map(|who| say(&run.chain, who, join())).collect();
        let first = body(&run.chain, nothing(&run.chain), |body| body.joins = joins).unwrap();
        let certificate = certify(&run.chain, &first, 0, &run.anchors.iter().collect::<Vec<_>>());
        run.chain.apply(&certificate).unwrap();
        run
    }

    fn all(&self) -> Vec<&Identity> {
        self.anchors.iter().chain(&self.volunteers).collect()
    }

    /// A round in which nothing happens.
    fn quiet(&self) -> Body {
        body(&self.chain, nothing(&self.chain), |_| {}).unwrap()
    }

    fn sign(&self, body: &Body, signers: &[&Identity]) -> Certificate {
        certify(&self.chain, body, 0, signers)
    }

    /// A recovery that these answered, with their locks.
    fn recovery(&self, present: &[&Identity], lock: Option<Lock>) -> Body {
        let answer = Message::RecoveryAnswer(RecoveryAnswer { attempt: 0, lock });
        let mut answers: Vec<Envelope> = present.iter().map(|who| say(&self.chain, who, answer.clone())).collect();
        answers.sort_by_key(|envelope| envelope.from);
        let recovery = Some(Recovery { attempt: 0, answers });
        body(&self.chain, nothing(&self.chain), |body| body.recovery = recovery).unwrap()
    }

    /// A round in which both volunteers commit to these updates, and both are accepted.
    fn accepting(&self, updates: [Digest; 2]) -> Certificate {
        let work = [0, 1].map(|at| (&self.volunteers[at], updates[at], Digest([at as u8 + 1; 32]), 80));
        let content = training(&self.chain, &self.all(), &work, vec![Verdict::Accepted; 2]);
        self.sign(&body(&self.chain, content, |_| {}).unwrap(), &self.all())
    }
}

#[test]
fn two_thirds_of_the_weight_are_no_quorum() {
    let run = Run::new();
    let (body, all) = (run.quiet(), run.all());
    run.chain.check(&run.sign(&body, &all[..4])).unwrap();
    assert!(matches!(run.chain.check(&run.sign(&body, &all[..3])), Err(LedgerError::NoQuorum { .. })));
}

#[test]
fn a_vote_for_the_same_body_after_another_parent_signs_nothing() {
    let run = Run::new();
    let (body, all) = (run.quiet(), run.all());
    let mut certificate = run.sign(&body, &all);
    let elsewhere = Vote { parent: Digest([9; 32]), view: 0, kind: VoteKind::Precommit, body: Some(body.digest()) };
    let first = &mut certificate.signatures[0];
    let payload = payload(&run.chain, first.0, body.round, elsewhere);
    first.1 = common::named(&all, first.0).sign(Domain::Swarm, &payload);
    assert!(matches!(run.chain.check(&certificate), Err(LedgerError::Signature(_))));
}

#[test]
fn a_recovery_needs_a_majority_of_the_anchors() {
    let run = Run::new();
    let (a, v) = (&run.anchors, &run.volunteers);
    let body = run.recovery(&[&a[0], &a[1], &v[0]], None);
    run.chain.check(&run.sign(&body, &[&a[0], &a[1], &v[0]])).unwrap();
    assert_eq!(run.chain.check(&run.sign(&body, &[&a[0], &v[0]])), Err(LedgerError::NoRecoveryQuorum));
}

#[test]
fn a_recovery_needs_everybody_who_answered_and_nobody_else() {
    let run = Run::new();
    let (a, v) = (&run.anchors, &run.volunteers);
    let body = run.recovery(&[&a[0], &a[1], &v[0]], None);
    assert_eq!(run.chain.check(&run.sign(&body, &[&a[0], &a[1]])), Err(LedgerError::NoRecoveryQuorum));
    let others = [&a[0], &a[1], &v[0], &v[1]];
    assert_eq!(run.chain.check(&run.sign(&body, &others)), Err(LedgerError::NoRecoveryQuorum));
    let roster: Vec<_> = body.roster.iter().map(|member| member.peer).collect();
    assert!(roster.contains(&v[0].peer()) && !roster.contains(&v[1].peer()), "those absent leave the roster");
}

#[test]
fn a_recovery_carries_on_the_newest_lock() {
    let run = Run::new();
    let (a, v) = (&run.anchors, &run.volunteers);
    let present = [&a[0], &a[1], &v[0]];
    let lock = |content| Some(Lock { view: 1, content });
    let kept = run.recovery(&present, lock(nothing(&run.chain).digest()));
    run.chain.check(&run.sign(&kept, &present)).unwrap();
    let ignored = run.recovery(&present, lock(Digest([7; 32])));
    assert_eq!(run.chain.check(&run.sign(&ignored, &present)), Err(LedgerError::IgnoredLock));
}

#[test]
fn an_update_is_accepted_once_and_not_again_in_the_next_rounds() {
    let mut run = Run::new();
    let [first, second] = [Digest::of(b"one"), Digest::of(b"two")];
    assert_eq!(run.chain.check(&run.accepting([first; 2])), Err(LedgerError::Copied(run.volunteers[1].peer())));
    run.chain.apply(&run.accepting([first, second])).unwrap();
    let again = run.accepting([Digest::of(b"three"), first]);
    let copier = run.volunteers[1].peer();
    assert_eq!(run.chain.check(&again), Err(LedgerError::Misplaced { what: "commit", peer: copier }));
}
