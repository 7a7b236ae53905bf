//! No byte of a ledger can change unseen: every byte of every certificate and of the manifest, one bit and all bits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_ledger::Chain;
use shoal_sim::{Network, World};
use shoal_swarm::Command;
use shoal_wire::{
    Envelope, Manifest, PeerId, RunId, WireError,
    charter::{Amendment, Ballot, Change},
    codec,
    limits::MANIFEST_BYTES_MAX,
    manifest::Charter,
    record::Certificate,
    sign::Domain,
};

/// A short history with everything that a certificate can hold in a quiet run: joins, commits, an amendment, a ballot,
/// a leave.
fn history() -> (World, Vec<Certificate>) {
    let quiet = Network { latency_ms: (5, 20), loss_per_mille: 0, duplicate_per_mille: 0 };
    let mut world = World::with_manifest(11, quiet, |manifest| {
        manifest.charter = Charter { open_rounds_min: 1, open_rounds_max: 50, ..Charter::default() };
    });
    let (first, second) = (world.join(), world.join());
    let sees = |world: &World, peer: PeerId, wanted: fn(&Chain, PeerId) -> bool| {
        wanted(world.swarm(peer).unwrap().chain(), peer)
    };
    let paid = |chain: &Chain, peer: PeerId| chain.credit().get(&peer).is_some_and(|credit| credit.amount > 0);
    assert!(world.run_until(120_000, |world| sees(world, first, paid) && sees(world, second, paid)));
    let closes = world.round() + 4;
    let change = Change::ScaleLearningRate(512);
    let amendment = Amendment { change, reason: "a test".to_owned(), closes, effective: closes + 1 };
    world.command(first, Command::Amend(Box::new(amendment)));
    assert!(world.run_until(120_000, |world| sees(world, first, |chain, _| !chain.motions().is_empty())));
    let amendment = world.swarm(first).unwrap().chain().motions()[0].id;
    world.command(first, Command::Ballot(Ballot { amendment, approve: true }));
    assert!(world.run_until(120_000, |world| sees(world, first, |chain, _| !chain.motions()[0].ballots.is_empty())));
    // A good-bye counts in the round that it is said in, so it is said at the beginning of one.
    let round = world.round();
    assert!(world.run_until(120_000, |world| world.round() > round && world.agree()));
    world.command(second, Command::Leave);
    let left = |world: &World| world.swarm(world.anchor()).unwrap().chain().member(second).is_none();
    assert!(world.run_until(120_000, left));
    let certificates = world.swarm(world.anchor()).unwrap().certificates().values().cloned().collect();
    (world, certificates)
}

/// The bytes with one of them changed, each in turn: one bit of it, and all bits.
fn changed(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len()).flat_map(move |index| {
        [1 << (index % 8), 0xFF].map(|flip: u8| {
            let mut bad = bytes.to_vec();
            bad[index] ^= flip;
            (index, bad)
        })
    })
}

#[test]
fn any_changed_byte_of_any_certificate_is_found() {
    let (world, certificates) = history();
    let all = |wanted: fn(&Certificate) -> bool| certificates.iter().any(wanted);
    assert!(all(|it| !it.body.joins.is_empty()) && all(|it| !it.body.content.commits.is_empty()));
    assert!(all(|it| !it.body.charter.is_empty()) && all(|it| !it.body.leaves.is_empty()));
    let mut chain = Chain::new(world.manifest().clone());
    for certificate in &certificates {
        let bytes = codec::encode(certificate);
        for (index, bad) in changed(&bytes) {
            let holds = Certificate::decode(&bad).is_ok_and(|certificate| chain.check(&certificate).is_ok());
            assert!(!holds, "byte {index} of {} in round {}", bytes.len(), certificate.body.round);
        }
        chain.apply(certificate).unwrap();
    }
}

#[test]
fn any_changed_byte_of_a_signature_under_a_certificate_is_found() {
    let (world, certificates) = history();
    let mut chain = Chain::new(world.manifest().clone());
    for certificate in &certificates {
        for at in 0..certificate.signatures.len() {
            for byte in 0..64 {
                let mut bad = certificate.clone();
                bad.signatures[at].1.0[byte] ^= 0x80;
                assert!(chain.check(&bad).is_err(), "byte {byte} of signature {at}");
            }
        }
        chain.apply(certificate).unwrap();
    }
}

#[test]
fn any_changed_byte_of_the_manifest_is_found() {
    let (world, certificates) = history();
    let run = world.manifest().run();
    let bytes = codec::encode(world.manifest());
    for (index, bad) in changed(&bytes) {
        let other: Result<Manifest, WireError> = codec::decode("manifest", &bad, MANIFEST_BYTES_MAX);
        let holds = other.is_ok_and(|manifest| Chain::new(manifest).check(&certificates[0]).is_ok());
        assert!(!holds, "byte {index} of {}", bytes.len());
    }
    // As a relay keeps it: signed by its publisher. Another signer makes no other run, so its key is found by the
    // signature.
    let publisher = world.identity(world.anchor()).unwrap();
    let signed = codec::encode(&publisher.seal(Domain::Manifest, world.manifest()));
    let opens = |bytes: &[u8]| -> Option<RunId> {
        let envelope: Envelope = codec::decode("envelope", bytes, 2 * MANIFEST_BYTES_MAX).ok()?;
        Manifest::open(&envelope).ok().map(|manifest| manifest.run())
    };
    assert_eq!(opens(&signed), Some(run));
    for (index, bad) in changed(&signed) {
        assert_eq!(opens(&bad), None, "byte {index} of {}", signed.len());
    }
}
