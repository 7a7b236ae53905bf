//! The chain's rules, natively and in Wasm, on certificates that a simulated run made.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_ledger::{Chain, LedgerError, Taken, aggregate_weights, leaders, vote_weights};
use shoal_sim::{Network, World};
use shoal_wire::{
    Digest, Identity, PeerId, codec,
    record::{Certificate, Commit, Join, Member, Verdict},
    share::Share,
};

fn history() -> (World, Vec<Certificate>) {
    let mut world = World::new(3, Network { latency_ms: (5, 20), loss_per_mille: 0, duplicate_per_mille: 0 });
    world.join();
    world.join();
    assert!(world.run_until(60_000, |world| world.swarm(world.anchor()).unwrap().certificates().len() >= 4));
    let certificates = world.swarm(world.anchor()).unwrap().certificates().values().cloned().collect();
    (world, certificates)
}

#[test]
fn a_chain_replays_from_its_certificates_alone() {
    let (world, certificates) = history();
    let mut chain = Chain::new(world.manifest().clone());
    for certificate in &certificates {
        chain.apply(certificate).unwrap();
    }
    let live = world.swarm(world.anchor()).unwrap().chain().head();
    assert_eq!(chain.head(), live);
    // The volunteers for what they trained, and whoever judged for that.
    assert!(chain.credit().values().all(|credit| credit.amount > 0));
    assert!(chain.credit().values().all(|credit| credit.tokens > 0 || credit.judged > 0));
    assert_eq!(chain.credit().values().filter(|credit| credit.tokens > 0).count(), 2);
}

#[test]
fn any_flipped_bit_of_a_certificate_is_found() {
    let (world, certificates) = history();
    let mut chain = Chain::new(world.manifest().clone());
    let last = certificates.last().unwrap();
    for certificate in &certificates[..certificates.len() - 1] {
        chain.apply(certificate).unwrap();
    }
    let bytes = codec::encode(last);
    chain.check(last).unwrap();
    for index in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[index] ^= 1 << (index % 8);
        let holds = Certificate::decode(&bad).is_ok_and(|certificate| chain.check(&certificate).is_ok());
        assert!(!holds, "byte {index} of {}", bytes.len());
    }
}

#[test]
fn a_certificate_needs_more_than_two_thirds_of_the_weight_once_each() {
    let (world, certificates) = history();
    let mut chain = Chain::new(world.manifest().clone());
    for certificate in &certificates[..3] {
        chain.apply(certificate).unwrap();
    }
    let mut short = certificates[3].clone();
    assert_eq!((chain.head().roster.len(), short.signatures.len()), (3, 3), "two of three are two thirds, not more");
    short.signatures.pop();
    assert!(matches!(chain.check(&short), Err(LedgerError::NoQuorum { .. })));
    let mut twice = certificates[3].clone();
    let first = twice.signatures[0];
    twice.signatures = vec![first; 3];
    assert_eq!(chain.check(&twice), Err(LedgerError::Order("votes")));
    assert!(matches!(chain.check(&certificates[0]), Err(LedgerError::NotNext { got: 1, head: 3 })));
}

fn members(valid: &[u32]) -> Vec<Member> {
    let mut members: Vec<Member> = valid
        .iter()
        .enumerate()
        .map(|(index, valid)| {
            let peer = Identity::from_secret([index as u8 + 1; 32]).peer();
            Member { valid: *valid, ..Member::new(peer, 1, Join { durable: true, trains: true }) }
        })
        .collect();
    members.sort_by_key(|member| member.peer);
    members
}

#[test]
fn in_a_young_run_all_weigh_the_same_and_later_newcomers_share_a_tenth() {
    let young = vote_weights(&members(&[12, 11, 10, 0, 0]), &[]);
    assert!(young.iter().all(|weight| *weight == young[0]));
    let roster = members(&[12, 11, 10, 30, 0, 1, 2, 3, 4, 5, 6]);
    let weights = vote_weights(&roster, &[]);
    let fresh: u64 =
        roster.iter().zip(&weights).filter(|(member, _)| member.valid < 10).map(|(_, weight)| weight).sum();
    assert!(fresh > 0 && fresh * 10 <= weights.iter().sum::<u64>(), "{fresh} of {weights:?}");
    let mut fleeting = members(&[1, 1]);
    fleeting[0].durable = false;
    assert_eq!(vote_weights(&fleeting, &[])[0], 0);
}

#[test]
fn who_does_not_train_has_no_vote_unless_it_is_an_anchor() {
    let mut idle = members(&[0, 0]);
    idle[0].trains = false;
    let weights = vote_weights(&idle, &[]);
    assert!(weights[0] == 0 && weights[1] > 0);
    assert!(vote_weights(&idle, &[idle[0].peer])[0] > 0);
}

#[test]
fn aggregation_weights_follow_the_tokens_trained() {
    let (world, _) = history();
    let manifest = world.manifest();
    let roster = members(&[0, 0, 0]);
    let all = |tokens: [u64; 3]| -> Vec<u16> {
        let accepted: Vec<(PeerId, u64)> = roster.iter().map(|member| member.peer).zip(tokens).collect();
        aggregate_weights(manifest, &roster, &accepted)
    };
    assert_eq!(all([80, 80, 80]), [4095, 4095, 4095]);
    assert_eq!(all([80, 40, 1]), [4095, 2047, 51]);
    assert_eq!(all([800, 80, 80])[0], 4095, "no more than what was assigned");
}

/// Commits of these members, all of a whole round's work.
fn commits(roster: &[Member], tokens: u64) -> Vec<(PeerId, Commit)> {
    let commit = |member: &Member| Commit {
        parent: Digest::default(),
        update: Digest::of(&member.peer.0),
        update_bytes: 100,
        steps: 1,
        tokens,
        loss_first: 2.0,
        loss_last: 1.0,
        seed_hash: Digest::default(),
    };
    roster.iter().map(|member| (member.peer, commit(member))).collect()
}

#[test]
fn a_round_takes_its_share_of_what_was_promised_and_what_was_refused_is_no_promise() {
    let (world, _) = history();
    let roster = members(&[0; 6]);
    let verdicts = [
        Verdict::Accepted,
        Verdict::Unavailable,
        Verdict::Accepted,
        Verdict::Withheld,
        Verdict::Malformed,
        Verdict::Harmful,
    ];
    let taken = Taken::of(world.manifest(), &roster, &commits(&roster, 80), &verdicts);
    assert_eq!(taken.share, Share { taken: 2 * 4095, promised: 3 * 4095 });
    let authors: Vec<PeerId> = taken.accepted.iter().map(|update| update.peer).collect();
    assert_eq!(authors, [roster[0].peer, roster[2].peer]);
    let none = Taken::of(world.manifest(), &roster, &commits(&roster, 80), &[Verdict::Unavailable; 6]);
    assert_eq!((none.accepted.len(), none.share.taken), (0, 0));
}

#[test]
fn newcomers_that_promise_and_do_not_deliver_are_missed_by_a_tenth_at_most() {
    let (world, _) = history();
    let roster = members(&[12, 11, 10, 30, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0]);
    let delivers = |member: &Member| if member.valid >= 10 { Verdict::Accepted } else { Verdict::Unavailable };
    let verdicts: Vec<Verdict> = roster.iter().map(delivers).collect();
    let Share { taken, promised } = Taken::of(world.manifest(), &roster, &commits(&roster, 80), &verdicts).share;
    assert_eq!(taken, 4 * 4095);
    assert!(promised > taken && (promised - taken) * 10 <= promised, "{taken} of {promised}");
}

#[test]
fn leaders_change_with_the_randomness_and_are_all_voters() {
    let roster = members(&[0; 6]);
    let order = |seed: &[u8]| leaders(&roster, &[], 1, Digest::of(seed));
    assert_eq!(order(b"a"), order(b"a"));
    assert!((0..20_u8).any(|seed| order(&[seed])[0] != order(b"a")[0]));
    let mut sorted = order(b"a");
    sorted.sort_unstable();
    assert_eq!(sorted, roster.iter().map(|member| member.peer).collect::<Vec<_>>());
}
