//! A store in a directory, and what it does when files are damaged.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::PathBuf};

use shoal_store::{FileStore, StoreError};
use shoal_wire::{
    Digest, Identity, Manifest, PeerId, RunId, SessionId,
    manifest::{
        AdamW, Charter, Codec, CreditRule, DataSpec, ModelSpec, Outer, Privacy, Recipe, RopeScaling, Timing, Tokenizer,
    },
    record::{Body, Certificate, Content},
    sign::{Domain, Signature},
};

const RUN: RunId = RunId([7; 32]);
const PEER: PeerId = PeerId([9; 32]);

fn open() -> (tempfile::TempDir, FileStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::open(directory.path().join("data")).unwrap();
    (directory, store)
}

fn certificate(round: u64) -> Certificate {
    let content = Content {
        list: None,
        commits: Vec::new(),
        seeds: Vec::new(),
        judgements: Vec::new(),
        verdicts: Vec::new(),
        norms: vec![1, 2, 3],
        model: Digest::of(b"model"),
    };
    let body = Body {
        run: RUN,
        round,
        parent: Digest::of(b"parent"),
        view: 0,
        content,
        joins: Vec::new(),
        leaves: Vec::new(),
        proofs: Vec::new(),
        charter: Vec::new(),
        recovery: None,
        roster: Vec::new(),
        randomness: Digest::of(b"randomness"),
    };
    Certificate { body, view: 0, signatures: vec![(PEER, Signature([5; 64]))] }
}

fn manifest() -> Manifest {
    Manifest {
        version: shoal_wire::manifest::VERSION,
        name: "a run".into(),
        description: String::new(),
        host: "us".into(),
        model: ModelSpec {
            vocab_size: 256,
            hidden_size: 8,
            intermediate_size: 16,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 16,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::Default,
            tie_word_embeddings: true,
        },
        tokenizer: Tokenizer::Bytes,
        genesis: Digest::of(b"genesis"),
        data: DataSpec { sources: Vec::new(), held_out_bytes: 10 },
        recipe: Recipe {
            batch: 1,
            context: 8,
            local_steps: 1,
            inner: AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) }
                .into(),
            warmup_rounds: 1,
            decay_from: 0,
            decay_rounds: 0,
            outer: Outer { codec: Codec::Dense4, alpha_1024: 1024, feedback_1024: 973 },
        },
        timing: Timing { train_ms_max: 1, exchange_ms_max: 1, view_ms: 1, recovery_ms: 1, recovery_window_rounds: 1 },
        privacy: Privacy::Public,
        credit: CreditRule::default(),
        charter: Charter::default(),
        anchors: Vec::new(),
        seed: Digest::of(b"seed"),
    }
}

/// Calls `read` with each bit of the file flipped in turn, then restores the file.
fn with_each_bit_flipped(file: &PathBuf, mut read: impl FnMut(usize)) {
    let sound = fs::read(file).unwrap();
    for bit in 0..sound.len() * 8 {
        let mut flipped = sound.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(file, flipped).unwrap();
        read(bit);
    }
    fs::write(file, sound).unwrap();
}

fn certificate_file(store: &FileStore, round: u64) -> PathBuf {
    store.directory().join(format!("runs/{RUN}/certificates/{round:010}.cert"))
}

#[test]
fn blobs_come_back_by_digest_and_can_be_removed() {
    let (_directory, store) = open();
    let digest = store.put_blob(b"some bytes").unwrap();
    assert_eq!(digest, Digest::of(b"some bytes"));
    assert_eq!(store.put_blob(b"some bytes").unwrap(), digest);
    assert_eq!(store.get_blob(digest).unwrap().unwrap(), b"some bytes");
    assert!(store.has_blob(digest).unwrap());
    store.remove_blob(digest).unwrap();
    store.remove_blob(digest).unwrap();
    assert_eq!(store.get_blob(digest).unwrap(), None);
    assert!(!store.has_blob(digest).unwrap());
}

#[test]
fn every_flipped_bit_of_a_blob_is_detected_and_putting_it_again_heals_it() {
    let (_directory, store) = open();
    let digest = store.put_blob(b"some bytes").unwrap();
    let hex = digest.to_string();
    let file = store.directory().join(format!("blobs/{}/{hex}", &hex[..2]));
    with_each_bit_flipped(&file, |bit| {
        let error = store.get_blob(digest).unwrap_err();
        assert!(matches!(&error, StoreError::Corrupt { path, .. } if path.contains(&hex)), "bit {bit}: {error}");
    });
    fs::write(&file, b"some bytez").unwrap();
    store.put_blob(b"some bytes").unwrap();
    assert_eq!(store.get_blob(digest).unwrap().unwrap(), b"some bytes");
}

#[test]
fn every_flipped_bit_of_a_certificate_is_detected() {
    let (_directory, store) = open();
    store.put_certificate(RUN, &certificate(1)).unwrap();
    assert_eq!(store.certificate(RUN, 1).unwrap().unwrap(), certificate(1));
    let file = certificate_file(&store, 1);
    with_each_bit_flipped(&file, |bit| {
        let error = store.certificates(RUN, 1, 10).unwrap_err();
        assert!(matches!(&error, StoreError::Corrupt { path, .. } if path.contains("0000000001.cert")), "bit {bit}");
    });
    for length in 0..fs::read(&file).unwrap().len() {
        let sound = fs::read(&file).unwrap();
        fs::write(&file, &sound[..length]).unwrap();
        assert!(matches!(store.certificate(RUN, 1), Err(StoreError::Corrupt { .. })));
        fs::write(&file, sound).unwrap();
    }
}

#[test]
fn a_certificate_under_the_name_of_another_round_is_refused() {
    let (_directory, store) = open();
    store.put_certificate(RUN, &certificate(1)).unwrap();
    fs::copy(certificate_file(&store, 1), certificate_file(&store, 2)).unwrap();
    assert!(matches!(store.certificate(RUN, 2), Err(StoreError::Corrupt { .. })));
}

#[test]
fn certificates_are_listed_to_the_first_gap_and_rolled_back() {
    let (_directory, store) = open();
    for round in [1, 2, 3, 5] {
        store.put_certificate(RUN, &certificate(round)).unwrap();
    }
    let rounds = |from, limit| -> Vec<u64> {
        store.certificates(RUN, from, limit).unwrap().iter().map(|certificate| certificate.body.round).collect()
    };
    assert_eq!(rounds(1, 10), [1, 2, 3]);
    assert_eq!(rounds(2, 1), [2]);
    assert_eq!(store.last_round(RUN).unwrap(), 5);
    store.truncate_certificates(RUN, 2).unwrap();
    assert_eq!(rounds(1, 10), [1]);
    assert_eq!(store.last_round(RUN).unwrap(), 1);
}

#[test]
fn a_manifest_is_kept_with_its_signature_and_every_flipped_bit_is_detected() {
    let (_directory, store) = open();
    let envelope = Identity::from_secret([1; 32]).seal(Domain::Manifest, &manifest());
    let run = store.put_manifest(&envelope).unwrap();
    assert_eq!(run, manifest().run());
    assert_eq!(store.manifest(run).unwrap().unwrap(), envelope);
    assert_eq!(store.runs().unwrap(), [run]);
    let file = store.directory().join(format!("runs/{run}/manifest"));
    // The signature is checked anew for each bit, so only every 13th is tried.
    let sound = fs::read(&file).unwrap();
    for bit in (0..sound.len() * 8).step_by(13) {
        let mut flipped = sound.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, flipped).unwrap();
        assert!(matches!(store.manifest(run), Err(StoreError::Corrupt { .. })), "bit {bit}");
    }
}

#[test]
fn a_forged_manifest_is_not_stored() {
    let (_directory, store) = open();
    let mut envelope = Identity::from_secret([1; 32]).seal(Domain::Manifest, &manifest());
    envelope.signature.0[3] ^= 1;
    assert!(store.put_manifest(&envelope).is_err());
    assert!(store.runs().unwrap().is_empty());
}

#[test]
fn votes_survive_a_torn_append_and_later_ones_follow() {
    let (_directory, store) = open();
    store.append_vote(RUN, PEER, 1, b"first").unwrap();
    store.append_vote(RUN, PEER, 2, b"second").unwrap();
    let file = store.directory().join(format!("peers/{RUN}/{PEER}/votes.log"));
    let sound = fs::read(&file).unwrap();
    fs::write(&file, &sound[..sound.len() - 5]).unwrap();

    let reopened = FileStore::open(store.directory()).unwrap();
    reopened.append_vote(RUN, PEER, 2, b"again").unwrap();
    assert_eq!(reopened.votes(RUN, PEER).unwrap(), [(1, b"first".to_vec()), (2, b"again".to_vec())]);
}

#[test]
fn a_session_stays_the_same_and_one_that_rotted_is_followed_by_another() {
    let (_directory, store) = open();
    let first = store.session(RUN, PEER).unwrap();
    let file = store.directory().join(format!("peers/{RUN}/{PEER}/session"));
    let reopened = FileStore::open(store.directory()).unwrap();
    assert_eq!(reopened.session(RUN, PEER).unwrap(), first);
    store.put_session(RUN, PEER, SessionId([9; 32])).unwrap();
    assert_eq!(reopened.session(RUN, PEER).unwrap(), SessionId([9; 32]));
    let whole = fs::read(&file).unwrap();
    for damaged in [&whole[..40], &[&whole[..], &whole[..]].concat(), &[whole[0] ^ 1, 0].repeat(32)] {
        fs::write(&file, damaged).unwrap();
        let next = reopened.session(RUN, PEER).unwrap();
        assert_ne!(next, first);
        assert_eq!(store.session(RUN, PEER).unwrap(), next);
    }
}

#[test]
fn a_damaged_vote_that_others_follow_is_an_error_not_a_gap() {
    let (_directory, store) = open();
    store.append_vote(RUN, PEER, 1, b"first").unwrap();
    store.append_vote(RUN, PEER, 2, b"second").unwrap();
    let file = store.directory().join(format!("peers/{RUN}/{PEER}/votes.log"));
    let mut bytes = fs::read(&file).unwrap();
    bytes[10] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(matches!(store.votes(RUN, PEER), Err(StoreError::Corrupt { .. })));
    let reopened = FileStore::open(store.directory()).unwrap();
    assert!(reopened.append_vote(RUN, PEER, 3, b"third").is_err());
}

#[test]
fn settled_votes_are_forgotten() {
    let (_directory, store) = open();
    for round in 1..=4 {
        store.append_vote(RUN, PEER, round, &[round as u8]).unwrap();
    }
    store.forget_votes(RUN, PEER, 3).unwrap();
    store.append_vote(RUN, PEER, 5, &[5]).unwrap();
    let rounds: Vec<u64> = store.votes(RUN, PEER).unwrap().iter().map(|(round, _)| *round).collect();
    assert_eq!(rounds, [3, 4, 5]);
}

#[test]
fn unfinished_files_are_ignored() {
    let (_directory, store) = open();
    store.put_certificate(RUN, &certificate(1)).unwrap();
    let left_behind = certificate_file(&store, 2).with_file_name(".0000000002.cert.1.1");
    fs::write(left_behind, b"half").unwrap();
    assert_eq!(store.last_round(RUN).unwrap(), 1);
    assert_eq!(store.certificates(RUN, 1, 10).unwrap().len(), 1);
}

#[test]
fn no_unfinished_file_is_left_by_finished_writes() {
    let (_directory, store) = open();
    for round in 1..=3 {
        store.put_certificate(RUN, &certificate(round)).unwrap();
    }
    let names = fs::read_dir(store.directory().join(format!("runs/{RUN}/certificates"))).unwrap().count();
    assert_eq!(names, 3);
}

#[test]
fn the_residual_is_checked_when_read() {
    let (_directory, store) = open();
    assert_eq!(store.residual(RUN, PEER).unwrap(), None);
    store.put_residual(RUN, PEER, &[1, 2, 3, 4]).unwrap();
    assert_eq!(store.residual(RUN, PEER).unwrap().unwrap(), [1, 2, 3, 4]);
    let file = store.directory().join(format!("peers/{RUN}/{PEER}/residual"));
    with_each_bit_flipped(&file, |bit| {
        assert!(matches!(store.residual(RUN, PEER), Err(StoreError::Corrupt { .. })), "bit {bit}");
    });
}

#[test]
fn a_residual_that_could_not_be_read_back_is_not_stored() {
    let (_directory, store) = open();
    let zeros = vec![0; shoal_wire::limits::RESIDUAL_BYTES_MAX as usize + 1];
    assert!(matches!(store.put_residual(RUN, PEER, &zeros), Err(StoreError::TooLarge { .. })));
    assert_eq!(store.residual(RUN, PEER).unwrap(), None);
}

#[test]
fn the_device_secret_stays_the_same_and_is_private() {
    let (_directory, store) = open();
    let secret = store.device_secret().unwrap();
    assert_ne!(secret, [0; 32]);
    assert_eq!(FileStore::open(store.directory()).unwrap().device_secret().unwrap(), secret);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(store.directory().join("device.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn an_identity_is_used_by_one_holder_at_a_time() {
    let (_directory, store) = open();
    let other = FileStore::open(store.directory()).unwrap();
    let lock = store.lock_peer(RUN, PEER).unwrap();
    assert!(lock.is_some());
    assert!(other.lock_peer(RUN, PEER).unwrap().is_none());
    assert!(other.lock_peer(RUN, PeerId([1; 32])).unwrap().is_some());
    drop(lock);
    assert!(other.lock_peer(RUN, PEER).unwrap().is_some());
}
