//! Whoever changes a byte of what a relay keeps is found out, and the round is named.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_ledger::Chain;
use shoal_store::FileStore;
use shoal_tests::{Relay, Verification, copy_folder};
use shoal_wire::{Digest, Manifest, RunId, record::Certificate, record::Commit, record::Message, record::Said};

const ROUNDS: u64 = 4;
/// Flipped bytes per file when the whole verifier runs for each.
const FLIPS: usize = 16;

/// Offsets in a file: its ends, and others spread by a fixed sequence.
fn offsets(bytes: usize) -> Vec<usize> {
    let spread = (1..FLIPS - 1).map(|index| (index * 2_654_435_761) % bytes);
    [0, bytes - 1].into_iter().chain(spread).collect()
}

/// What the verifier says with one bit of a file changed; the file is mended afterwards.
fn with_flip(relay: &Relay, file: &Path, offset: usize) -> Verification {
    let sound = fs::read(file).unwrap();
    let mut bytes = sound.clone();
    bytes[offset] ^= 1 << (offset % 8);
    fs::write(file, &bytes).unwrap();
    let verdict = relay.verify().unwrap();
    fs::write(file, sound).unwrap();
    verdict
}

fn names(verdict: &Verification, round: u64) -> bool {
    let words: Vec<&str> =
        verdict.text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.windows(2).any(|pair| pair[0].eq_ignore_ascii_case("round") && pair[1] == round.to_string())
}

fn commits(run: RunId, certificate: &Certificate) -> Vec<Commit> {
    let opened =
        certificate.body.content.commits.iter().map(|envelope| Said::open(envelope, run).unwrap().into_inner());
    opened.filter_map(|said| if let Message::Commit(commit) = said.message { Some(commit) } else { None }).collect()
}

fn blob(folder: &Path, digest: Digest) -> PathBuf {
    let name = digest.to_string();
    folder.join("blobs").join(&name[..2]).join(name)
}

/// Certificates, updates and checkpoints, each with the first round that needs it; older checkpoints than the last few
/// are not kept.
fn kept(folder: &Path, run: RunId, manifest: &Manifest, certificates: &[Certificate]) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::from([(blob(folder, manifest.genesis), 0)]);
    for (round, certificate) in (1..).zip(certificates) {
        let name = format!("{round:010}.cert");
        files.insert(folder.join("runs").join(run.to_string()).join("certificates").join(name), round);
        let updates = commits(run, certificate).into_iter().map(|commit| commit.update);
        for digest in updates.chain([certificate.body.content.model]) {
            files.entry(blob(folder, digest)).or_insert(round);
        }
    }
    files.retain(|file, _| file.exists());
    files
}

#[test]
fn any_changed_byte_of_what_a_relay_keeps_is_found_and_its_round_named() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("relay");
    {
        let mut relay = Relay::demo(&original, &["--train-ms-max", "1000"]).unwrap();
        let _volunteer = relay.join(&folder.path().join("volunteer")).unwrap();
        relay.reach(ROUNDS, Duration::from_mins(4)).unwrap();
    }
    let changed = folder.path().join("copy");
    copy_folder(&original, &changed).unwrap();
    let store = FileStore::open(&changed).unwrap();
    let run = store.runs().unwrap()[0];
    let manifest = Manifest::open(&store.manifest(run).unwrap().unwrap()).unwrap();
    let certificates = store.certificates(run, 1, 64).unwrap();
    assert!(certificates.len() as u64 >= ROUNDS);
    every_byte_of_a_certificate_counts(&manifest, &certificates);

    let relay = Relay::start(&changed, &[]).unwrap();
    let sound = relay.verify().unwrap();
    assert!(sound.holds, "{}", sound.text);

    let mut checked = 0;
    for (file, round) in kept(&changed, run, &manifest, &certificates) {
        for offset in offsets(fs::metadata(&file).unwrap().len() as usize) {
            let verdict = with_flip(&relay, &file, offset);
            assert!(!verdict.holds, "byte {offset} of {} was changed unnoticed", file.display());
            assert!(names(&verdict, round), "round {round} is not named for {}:\n{}", file.display(), verdict.text);
            checked += 1;
        }
    }
    assert!(checked > 3 * FLIPS, "only {checked} changes were tried");
    let mended = relay.verify().unwrap();
    assert!(mended.holds, "{}", mended.text);
}

/// The last certificate, each byte in turn, without the programs around the ledger.
fn every_byte_of_a_certificate_counts(manifest: &Manifest, certificates: &[Certificate]) {
    let (last, before) = certificates.split_last().unwrap();
    let mut chain = Chain::new(manifest.clone());
    for certificate in before {
        chain.apply(certificate).unwrap();
    }
    chain.check(last).unwrap();
    let sound = shoal_wire::codec::encode(last);
    for offset in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[offset] ^= 1 << (offset % 8);
        let holds = Certificate::decode(&bytes).is_ok_and(|certificate| chain.check(&certificate).is_ok());
        assert!(!holds, "byte {offset} of {} was changed unnoticed", sound.len());
    }
}
