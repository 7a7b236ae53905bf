//! The rules of recoveries and of bodies, each on a certificate made for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_ledger::{Chain, LedgerError};
use shoal_sim::toy_manifest;
use shoal_wire::{
    Digest, Envelope, Identity,
    record::{
        Body, Certificate, Commit, CommitList, Content, Join, Lock, Message, Recovery, RecoveryAnswer, Said, Verdict,
        Vote, VoteKind, seed_hash, vote_payload,
    },
    sign::Domain,
};

/// Three anchors and two volunteers, in peer order, and the chain after the round that took the volunteers in.
struct Run {
    anchors: Vec<Identity>,
    volunteers: Vec<Identity>,
    chain: Chain,
}

fn sorted(secrets: core::ops::Range<u8>) -> Vec<Identity> {
    let mut identities: Vec<Identity> = secrets.map(|secret| Identity::from_secret([secret; 32])).collect();
    identities.sort_by_key(Identity::peer);
    identities
}

impl Run {
    fn new() -> Self {
        let (anchors, volunteers) = (sorted(1..4), sorted(11..13));
        let manifest = toy_manifest(anchors.iter().map(Identity::peer).collect());
        let mut run = Self { anchors, volunteers, chain: Chain::new(manifest) };
        let join = Message::Join(Join { durable: true, trains: true });
        let joins = run.volunteers.iter().map(|who| run.say(who, join.clone())).collect();
        let body = run.body(run.nothing(), None, joins);
        let certificate = sign(&body, 0, &run.anchors.iter().collect::<Vec<_>>());
        run.chain.apply(&certificate).unwrap();
        run
    }

    fn say(&self, who: &Identity, message: Message) -> Envelope {
        Said { run: self.chain.run(), round: self.chain.head().round + 1, message }.seal(who)
    }

    fn nothing(&self) -> Content {
        let model = self.chain.head().model;
        Content {
            list: None,
            commits: vec![],
            seeds: vec![],
            judgements: vec![],
            verdicts: vec![],
            norms: vec![],
            model,
        }
    }

    fn body(&self, content: Content, recovery: Option<Recovery>, joins: Vec<Envelope>) -> Body {
        let head = self.chain.head();
        let mut body = Body {
            run: self.chain.run(),
            round: head.round + 1,
            parent: head.body,
            view: 0,
            randomness: self.chain.randomness_after(&content.seeds),
            content,
            joins,
            leaves: vec![],
            proofs: Vec::new(),
            charter: Vec::new(),
            recovery,
            roster: vec![],
        };
        body.roster = self.chain.roster_after(&body).unwrap();
        body
    }

    /// A recovery that these answered, with their locks.
    fn recovery(&self, present: &[&Identity], lock: Option<Lock>) -> Body {
        let mut answers: Vec<Envelope> = present
            .iter()
            .map(|who| self.say(who, Message::RecoveryAnswer(RecoveryAnswer { attempt: 0, lock })))
            .collect();
        answers.sort_by_key(|envelope| envelope.from);
        self.body(self.nothing(), Some(Recovery { attempt: 0, answers }), vec![])
    }

    /// A round in which both volunteers commit to these updates, and both are accepted.
    fn accepting(&self, updates: [Digest; 2]) -> Certificate {
        let seeds = [Digest([1; 32]), Digest([2; 32])];
        let commit = |(who, (update, seed)): (&Identity, (Digest, Digest))| {
            let parent = self.chain.head().body;
            let (update_bytes, steps, tokens, loss_first, loss_last) = (64, 10, 80, 2.0, 1.0);
            let seed_hash = seed_hash(seed);
            let commit = Commit { parent, update, update_bytes, steps, tokens, loss_first, loss_last, seed_hash };
            self.say(who, Message::Commit(commit))
        };
        let commits: Vec<Envelope> = self.volunteers.iter().zip(updates.into_iter().zip(seeds)).map(commit).collect();
        let ids = commits.iter().map(Envelope::id).collect();
        let leader = self.chain.leaders()[0];
        let leader = self.anchors.iter().chain(&self.volunteers).find(|who| who.peer() == leader).unwrap();
        let content = Content {
            list: Some(self.say(leader, Message::CommitList(CommitList { view: 0, commits: ids }))),
            commits,
            seeds: seeds.into_iter().map(Some).collect(),
            judgements: Vec::new(),
            verdicts: vec![Verdict::Accepted; 2],
            norms: vec![2],
            model: Digest::of(b"the next model"),
        };
        let everybody: Vec<&Identity> = self.anchors.iter().chain(&self.volunteers).collect();
        sign(&self.body(content, None, vec![]), 0, &everybody)
    }
}

fn sign(body: &Body, view: u32, signers: &[&Identity]) -> Certificate {
    let kind = if body.recovery.is_some() { VoteKind::Recovery } else { VoteKind::Precommit };
    let vote = Vote { parent: body.parent, view, kind, body: Some(body.digest()) };
    let payload = vote_payload(body.run, body.round, vote);
    let mut signatures: Vec<_> = signers.iter().map(|who| (who.peer(), who.sign(Domain::Swarm, &payload))).collect();
    signatures.sort_by_key(|(peer, _)| *peer);
    Certificate { body: body.clone(), view, signatures }
}

#[test]
fn two_thirds_of_the_weight_are_no_quorum() {
    let run = Run::new();
    let body = run.body(run.nothing(), None, vec![]);
    let all: Vec<&Identity> = run.anchors.iter().chain(&run.volunteers).collect();
    run.chain.check(&sign(&body, 0, &all[..4])).unwrap();
    assert!(matches!(run.chain.check(&sign(&body, 0, &all[..3])), Err(LedgerError::NoQuorum { .. })));
}

#[test]
fn a_vote_for_the_same_body_after_another_parent_signs_nothing() {
    let run = Run::new();
    let body = run.body(run.nothing(), None, vec![]);
    let all: Vec<&Identity> = run.anchors.iter().chain(&run.volunteers).collect();
    let mut certificate = sign(&body, 0, &all);
    let elsewhere = Vote { parent: Digest([9; 32]), view: 0, kind: VoteKind::Precommit, body: Some(body.digest()) };
    let payload = vote_payload(body.run, body.round, elsewhere);
    certificate.signatures[0].1 =
        all.iter().find(|who| who.peer() == certificate.signatures[0].0).unwrap().sign(Domain::Swarm, &payload);
    assert!(matches!(run.chain.check(&certificate), Err(LedgerError::Signature(_))));
}

#[test]
fn a_recovery_needs_a_majority_of_the_anchors() {
    let run = Run::new();
    let (a, v) = (&run.anchors, &run.volunteers);
    let body = run.recovery(&[&a[0], &a[1], &v[0]], None);
    run.chain.check(&sign(&body, 0, &[&a[0], &a[1], &v[0]])).unwrap();
    assert_eq!(run.chain.check(&sign(&body, 0, &[&a[0], &v[0]])), Err(LedgerError::NoRecoveryQuorum));
}

#[test]
fn a_recovery_needs_everybody_who_answered_and_nobody_else() {
    let run = Run::new();
    let (a, v) = (&run.anchors, &run.volunteers);
    let body = run.recovery(&[&a[0], &a[1], &v[0]], None);
    assert_eq!(run.chain.check(&sign(&body, 0, &[&a[0], &a[1]])), Err(LedgerError::NoRecoveryQuorum));
    let others = [&a[0], &a[1], &v[0], &v[1]];
    assert_eq!(run.chain.check(&sign(&body, 0, &others)), Err(LedgerError::NoRecoveryQuorum));
    let roster: Vec<_> = body.roster.iter().map(|member| member.peer).collect();
    assert!(roster.contains(&v[0].peer()) && !roster.contains(&v[1].peer()), "those absent leave the roster");
}

#[test]
fn a_recovery_carries_on_the_newest_lock() {
    let run = Run::new();
    let (a, v) = (&run.anchors, &run.volunteers);
    let present = [&a[0], &a[1], &v[0]];
    let lock = |content| Some(Lock { view: 1, content });
    let kept = run.recovery(&present, lock(run.nothing().digest()));
    run.chain.check(&sign(&kept, 0, &present)).unwrap();
    let ignored = run.recovery(&present, lock(Digest([7; 32])));
    assert_eq!(run.chain.check(&sign(&ignored, 0, &present)), Err(LedgerError::IgnoredLock));
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
