//! Bodies and certificates made by hand, for tests that keep or break one rule each.

// Each test takes what it needs of these.
#![allow(dead_code, clippy::unwrap_used)]

use shoal_ledger::{Chain, LedgerError};
use shoal_wire::{
    Digest, Envelope, Identity, PeerId, SessionId,
    record::{
        Body, Certificate, Commit, CommitList, Content, Join, Message, Said, Verdict, Vote, VoteKind, seed_hash,
        vote_payload,
    },
    sign::Domain,
};

/// Identities of these secrets, in peer order.
pub fn identities(secrets: core::ops::Range<u8>) -> Vec<Identity> {
    let mut identities: Vec<Identity> = secrets.map(|secret| Identity::from_secret([secret; 32])).collect();
    identities.sort_by_key(Identity::peer);
    identities
}

/// Says something about the next round, in the session that the roster has, or in a first one of its own.
pub fn say(chain: &Chain, who: &Identity, message: Message) -> Envelope {
    let own = SessionId(who.peer().0);
    let asks = matches!(message, Message::Join(_));
    let session = chain.member(who.peer()).filter(|_| !asks).map_or(own, |member| member.session);
    say_as(chain, who, session, message)
}

pub fn say_as(chain: &Chain, who: &Identity, session: SessionId, message: Message) -> Envelope {
    Said { run: chain.run(), round: chain.head().round + 1, session, message }.seal(who)
}

pub fn join() -> Message {
    Message::Join(Join { durable: true, trains: true })
}

/// Of a round in which nobody commits.
pub fn nothing(chain: &Chain) -> Content {
    Content {
        list: None,
        commits: vec![],
        seeds: vec![],
        judgements: vec![],
        verdicts: vec![],
        norms: vec![],
        model: chain.head().model,
    }
}

/// What somebody commits to: an update, a seed, and how many tokens it trained.
pub type Work<'a> = (&'a Identity, Digest, Digest, u64);

/// Of a round with these commits, in peer order, listed by its first leader, whose key is among `all`.
pub fn training(chain: &Chain, all: &[&Identity], work: &[Work<'_>], verdicts: Vec<Verdict>) -> Content {
    let commit = |(who, update, seed, tokens): &Work<'_>| {
        let commit = Commit {
            parent: chain.head().body,
            update: *update,
            update_bytes: 64,
            steps: 10,
            tokens: *tokens,
            loss_first: 2.0,
            loss_last: 1.0,
            seed_hash: seed_hash(*seed),
        };
        say(chain, who, Message::Commit(commit))
    };
    let commits: Vec<Envelope> = work.iter().map(commit).collect();
    let list = CommitList { view: 0, commits: commits.iter().map(Envelope::id).collect() };
    let accepted = verdicts.contains(&Verdict::Accepted);
    let next = format!("model {} after {}", chain.head().round + 1, chain.head().model);
    Content {
        list: Some(say(chain, named(all, chain.leaders()[0]), Message::CommitList(list))),
        commits,
        seeds: work.iter().map(|(_, _, seed, _)| Some(*seed)).collect(),
        judgements: vec![],
        verdicts,
        norms: if accepted { vec![1] } else { vec![] },
        model: if accepted { Digest::of(next.as_bytes()) } else { chain.head().model },
    }
}

pub fn named<'a>(all: &[&'a Identity], peer: PeerId) -> &'a Identity {
    all.iter().find(|who| who.peer() == peer).unwrap()
}

/// The next body around a content, with what `change` puts into it.
pub fn body(chain: &Chain, content: Content, change: impl FnOnce(&mut Body)) -> Result<Body, LedgerError> {
    let head = chain.head();
    let mut body = Body {
        run: chain.run(),
        round: head.round + 1,
        parent: head.body,
        view: 0,
        randomness: chain.randomness_after(&content.seeds),
        content,
        joins: vec![],
        leaves: vec![],
        proofs: vec![],
        charter: vec![],
        recovery: None,
        roster: vec![],
    };
    change(&mut body);
    body.roster = chain.roster_after(&body)?;
    Ok(body)
}

/// A body with the votes of these under it.
pub fn certify(chain: &Chain, body: &Body, view: u32, signers: &[&Identity]) -> Certificate {
    let kind = if body.recovery.is_some() { VoteKind::Recovery } else { VoteKind::Precommit };
    let vote = Vote { parent: body.parent, view, kind, body: Some(body.digest()) };
    let sign = |who: &&Identity| (who.peer(), who.sign(Domain::Swarm, &payload(chain, who.peer(), body.round, vote)));
    let mut signatures: Vec<_> = signers.iter().map(sign).collect();
    signatures.sort_by_key(|(peer, _)| *peer);
    Certificate { body: body.clone(), view, signatures }
}

/// What a member signs as its vote.
pub fn payload(chain: &Chain, peer: PeerId, round: u64, vote: Vote) -> Vec<u8> {
    let session = chain.member(peer).map_or(SessionId::NONE, |member| member.session);
    vote_payload(chain.run(), round, session, vote)
}
