//! The logs of runs, and the relay as a witness of others' logs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{path::Path, time::Duration};

use common::{Answer, Fixture, get, publish_tiny_run, relay, request};
use shoal_ledger::log::{
    AddCheckpoint, Checkpoint, Cosigner, Entry, Note, NoteSignature, Tile, TileKind, Tree, VerifierKey, View,
    decode_bundle, decode_hashes,
};
use shoal_node::witness::WitnessAddress;
use shoal_relay::{Config, Relay};
use shoal_store::FileStore;
use shoal_wire::{
    Digest, RunId,
    record::{Body, Certificate, Content, Recovery},
};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// A certificate that says nothing but where it belongs. The relay stores what its resident checked, and checks nothing
/// itself, so it needs no signatures here.
fn certificate(run: RunId, round: u64, parent: Digest, branch: u8, recovery: bool) -> Certificate {
    let nothing = Content {
        list: None,
        commits: vec![],
        seeds: vec![],
        judgements: vec![],
        verdicts: vec![],
        norms: vec![],
        model: Digest([branch; 32]),
    };
    let body = Body {
        run,
        round,
        parent,
        view: 0,
        content: nothing,
        joins: vec![],
        leaves: vec![],
        proofs: vec![],
        charter: vec![],
        recovery: recovery.then(|| Recovery { attempt: 0, answers: vec![] }),
        roster: vec![],
        randomness: Digest([branch; 32]),
    };
    Certificate { body, view: 0, signatures: vec![] }
}

/// Stores certificates from a round on, of which the first may be a recovery; returns what the log says of them.
fn store(dir: &Path, run: RunId, rounds: std::ops::RangeInclusive<u64>, branch: u8, recovery: bool) -> Vec<Entry> {
    let store = FileStore::open(dir).unwrap();
    let first = *rounds.start();
    store.truncate_certificates(run, first).unwrap();
    let before = store.certificate(run, first - 1).unwrap();
    let mut parent = before.map_or(run.into(), |before| before.body.digest());
    let mut entries = Vec::new();
    for round in rounds {
        let certificate = certificate(run, round, parent, branch, recovery && round == first);
        store.put_certificate(run, &certificate).unwrap();
        parent = certificate.body.digest();
        entries.push(Entry::of(&certificate));
    }
    entries
}

async fn key(fixture: &Fixture, path: &str) -> VerifierKey {
    let answer = get(fixture.relay.http_addr, path).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    VerifierKey::parse(answer.text().trim_end()).unwrap()
}

async fn log_key(fixture: &Fixture, run: RunId) -> VerifierKey {
    key(fixture, &format!("/log/{run}/vkey")).await
}

async fn checkpoint(fixture: &Fixture, run: RunId) -> (Checkpoint, Note) {
    let answer = get(fixture.relay.http_addr, &format!("/log/{run}/checkpoint")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let note = Note::parse(&answer.body).unwrap();
    (Checkpoint::open(&note, &log_key(fixture, run).await).unwrap(), note)
}

/// Waits until the published checkpoint is as wanted.
async fn until(fixture: &Fixture, run: RunId, wanted: impl Fn(&Checkpoint, &Note) -> bool) -> Note {
    let waiting = async {
        loop {
            let path = format!("/log/{run}/checkpoint");
            let answer = get(fixture.relay.http_addr, &path).await;
            if answer.status == 200 {
                let note = Note::parse(&answer.body).unwrap();
                if wanted(&Checkpoint::parse(note.text()).unwrap(), &note) {
                    return note;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("a checkpoint in time")
}

async fn ask(witness: &Fixture, request_: &AddCheckpoint) -> Answer {
    let body = request_.to_string();
    request(witness.relay.http_addr, "POST", "/witness/add-checkpoint", &[], body.as_bytes()).await.unwrap()
}

async fn restart(fixture: Fixture, adjust: impl FnOnce(&mut Config)) -> Fixture {
    fixture.relay.stop().await;
    let mut config = Config::new(fixture.dir.path());
    adjust(&mut config);
    Fixture { relay: Relay::start(config).await.unwrap(), dir: fixture.dir }
}

#[tokio::test]
async fn a_run_without_rounds_has_an_empty_log_under_a_name_of_its_own() {
    // There is nothing yet that a witness, which is away here, could say.
    let away = Cosigner::new("away.example", &[1; 32]).unwrap();
    let away = WitnessAddress::parse(&format!("http://127.0.0.1:1/witness+{}", away.key())).unwrap();
    let adjust = |config: &mut Config| {
        config.log_name = Some("relay.example".to_owned());
        config.witnesses.push(away);
    };
    let fixture = relay(adjust).await;
    let run = publish_tiny_run(&fixture, "an empty log").await;
    let (empty, _) = checkpoint(&fixture, run).await;
    assert_eq!((empty.size, empty.origin), (0, format!("relay.example/log/{run}")));
    let to = fixture.relay.http_addr;
    for path in ["tile/0/000.p/1", "tile/0/000", "tile/entries/000.p/1", "tile/9/000", "tile/x", "nothing"] {
        assert_eq!(get(to, &format!("/log/{run}/{path}")).await.status, 404, "{path}");
    }
    assert_eq!(get(to, &format!("/log/{}/checkpoint", Digest::of(b"no run"))).await.status, 404);
    assert_eq!(get(to, "/log/nonsense/vkey").await.status, 400);
}

#[tokio::test]
async fn every_certificate_is_logged_in_order_and_served_in_tiles() {
    let fixture = relay(|_| {}).await;
    let run = publish_tiny_run(&fixture, "tiles").await;
    let mut entries = store(fixture.dir.path(), run, 1..=300, 1, false);
    let (first, _) = checkpoint(&fixture, run).await;
    assert_eq!(first.size, 300);
    // A restart changes neither key nor log.
    let fixture = restart(fixture, |_| {}).await;
    entries.extend(store(fixture.dir.path(), run, 301..=310, 1, false));
    let (second, _) = checkpoint(&fixture, run).await;
    let tree = Tree::of(&entries);
    assert_eq!((second.size, second.origin), (310, first.origin));
    assert_eq!((Some(first.root), Some(second.root)), (tree.root_at(300), tree.root_at(310)));

    let mut view = View::new(run);
    for tile in Tile::all(310) {
        let answer = get(fixture.relay.http_addr, &format!("/log/{run}/{}", tile.path())).await;
        assert_eq!(answer.status, 200, "{}", tile.path());
        assert!(answer.head.contains("immutable"), "{}", answer.head);
        if tile.kind == TileKind::Entries {
            for entry in decode_bundle(&answer.body, tile.width).unwrap() {
                view.push(Entry::decode(entry).unwrap()).unwrap();
            }
        } else if tile.kind == TileKind::Hashes(0) {
            let leaves = entries[tile.start() as usize..].iter().map(Entry::leaf);
            let hashes = decode_hashes(&answer.body, tile.width).unwrap();
            assert!(hashes.into_iter().eq(leaves.take(tile.width.into())));
        }
    }
    assert_eq!(view.round(310).map(|(index, entry)| (*index, *entry)), Some((309, entries[309])));
    // The partial tile of the first checkpoint stays; that of a tree which nobody has seen does not exist.
    let status = async |path: &str| get(fixture.relay.http_addr, &format!("/log/{run}/{path}")).await.status;
    assert_eq!((status("tile/0/001.p/44").await, status("tile/0/001.p/55").await), (200, 404));
}

#[tokio::test]
async fn a_replaced_recovery_stays_in_the_log_and_a_final_round_is_not_replaced() {
    let fixture = relay(|_| {}).await;
    let run = publish_tiny_run(&fixture, "a recovery").await;
    let dir = fixture.dir.path();
    let first = store(dir, run, 1..=1, 1, false);
    let recovered = store(dir, run, 2..=3, 1, true);
    assert_eq!(checkpoint(&fixture, run).await.0.size, 3);
    FileStore::open(dir).unwrap().truncate_certificates(run, 2).unwrap();
    assert_eq!(checkpoint(&fixture, run).await.0.size, 3, "nothing to add yet");
    let ordinary = store(dir, run, 2..=4, 2, false);
    let logged = [first, recovered, ordinary.clone()].concat();
    let (now, _) = checkpoint(&fixture, run).await;
    assert_eq!((now.size, Some(now.root)), (6, Tree::of(&logged).root_at(6)));
    let mut view = View::new(run);
    for entry in &logged {
        view.push(*entry).unwrap();
    }
    assert_eq!(view.round(2).map(|(index, entry)| (*index, *entry)), Some((3, ordinary[0])));

    store(dir, run, 3..=5, 3, false);
    assert_eq!(checkpoint(&fixture, run).await.0, now, "another final round 3 is not logged");
}

#[tokio::test]
async fn a_witness_cosigns_what_follows_and_refuses_a_split_view() {
    let log = relay(|_| {}).await;
    let run = publish_tiny_run(&log, "a split view").await;
    let entries = store(log.dir.path(), run, 1..=9, 1, false);
    let (nine, note) = checkpoint(&log, run).await;
    let key_of_log = log_key(&log, run).await;
    let witness = relay(|config| config.witness_logs.push(key_of_log)).await;
    let witness_key = key(&witness, "/witness/vkey").await;
    assert!(witness_key.cosigns());

    let answer = ask(&witness, &AddCheckpoint { old: 0, proof: vec![], note: note.clone() }).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut cosigned = note.clone();
    cosigned.add(&witness_key, NoteSignature::parse_lines(&answer.text()).unwrap()[0].clone()).unwrap();
    assert!(cosigned.verify(&witness_key).unwrap().is_some());

    // The same log, from a copy of its directory, shows another tenth round to others.
    let copy = tempfile::tempdir().unwrap();
    log.relay.stop().await;
    for entry in std::fs::read_dir(log.dir.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let mut shown = Vec::new();
    for (dir, branch) in [(log.dir, 1), (copy, 2)] {
        let stored = FileStore::open(dir.path()).unwrap();
        if branch == 2 {
            stored.put_manifest(&common::tiny_run("a split view").envelope).unwrap();
            store(dir.path(), run, 1..=9, 1, false);
        }
        let tenth = store(dir.path(), run, 10..=10, branch, false);
        let fixture = Fixture { relay: Relay::start(Config::new(dir.path())).await.unwrap(), dir };
        let (ten, note) = checkpoint(&fixture, run).await;
        let tree = Tree::of(&[entries.clone(), tenth].concat());
        assert_eq!((ten.size, Some(ten.root)), (10, tree.root_at(10)));
        shown.push((tree, note));
        fixture.relay.stop().await;
    }
    let [(ours, ours_note), (theirs, theirs_note)] = &shown[..] else { unreachable!() };

    let stale = ask(&witness, &AddCheckpoint { old: 0, proof: vec![], note: ours_note.clone() }).await;
    assert_eq!((stale.status, stale.text()), (409, "9\n".to_owned()));
    assert!(stale.head.contains("text/x.tlog.size"), "{}", stale.head);
    let proof = |tree: &Tree| tree.consistency(9, 10).unwrap();
    let followed = AddCheckpoint { old: nine.size, proof: proof(ours), note: ours_note.clone() };
    assert_eq!(ask(&witness, &followed).await.status, 200);
    assert_eq!(ask(&witness, &followed).await.status, 409, "it is at 10 now");
    let again = AddCheckpoint { old: 10, proof: vec![], note: ours_note.clone() };
    assert_eq!(ask(&witness, &again).await.status, 200, "the same checkpoint may be cosigned again");
    let split = AddCheckpoint { old: 10, proof: vec![], note: theirs_note.clone() };
    let refused = ask(&witness, &split).await;
    assert_eq!((refused.status, refused.text()), (409, "10\n".to_owned()));
    let forked = AddCheckpoint { old: 9, proof: proof(theirs), note: theirs_note.clone() };
    assert_eq!(ask(&witness, &forked).await.status, 409);
}

#[tokio::test]
async fn a_witness_refuses_other_logs_other_keys_and_other_bytes() {
    let log = relay(|_| {}).await;
    let run = publish_tiny_run(&log, "a witness").await;
    let entries = store(log.dir.path(), run, 1..=5, 1, false);
    let (_, note) = checkpoint(&log, run).await;
    let key_of_log = log_key(&log, run).await;
    let stranger = relay(|_| {}).await;
    let asked = AddCheckpoint { old: 0, proof: vec![], note };
    let answer = ask(&stranger, &asked).await;
    assert_eq!((answer.status, answer.json()["error"].is_string()), (404, true));

    let witness = relay(|config| config.witness_logs.push(key_of_log.clone())).await;
    let forged = shoal_ledger::log::LogSigner::new(key_of_log.name(), &[9; 32]).unwrap();
    let root = Tree::of(&entries).root_at(5).unwrap();
    let forged = Checkpoint { origin: key_of_log.name().to_owned(), size: 5, root }.sign(&forged);
    assert_eq!(ask(&witness, &AddCheckpoint { note: forged, ..asked.clone() }).await.status, 403);
    assert_eq!(ask(&witness, &AddCheckpoint { old: 6, ..asked.clone() }).await.status, 400);
    assert_eq!(ask(&witness, &AddCheckpoint { old: 4, ..asked.clone() }).await.status, 409);
    let with_proof = AddCheckpoint { proof: vec![root], ..asked.clone() };
    assert_eq!(ask(&witness, &with_proof).await.status, 422);
    let post = async |body: &[u8]| {
        request(witness.relay.http_addr, "POST", "/witness/add-checkpoint", &[], body).await.unwrap().status
    };
    assert_eq!(post(b"old 0\n").await, 400);
    assert_eq!(post(&vec![b'a'; shoal_wire::limits::ADD_CHECKPOINT_BYTES_MAX + 1]).await, 413);
    assert_eq!(ask(&witness, &asked).await.status, 200, "none of these was remembered");
    let witness = restart(witness, |config| config.witness_logs.push(key_of_log)).await;
    assert_eq!(ask(&witness, &asked).await.text(), "5\n", "what was cosigned is remembered over a restart");
}

#[tokio::test]
async fn a_checkpoint_is_published_with_its_witness_and_without_one_that_is_away() {
    let log = relay(|_| {}).await;
    let run = publish_tiny_run(&log, "witnesses").await;
    store(log.dir.path(), run, 1..=3, 1, false);
    let key_of_log = log_key(&log, run).await;
    let witness = relay(|config| config.witness_logs.push(key_of_log.clone())).await;
    let witness_key = key(&witness, "/witness/vkey").await;
    let address =
        |to: std::net::SocketAddr| WitnessAddress::parse(&format!("http://{to}/witness+{witness_key}")).unwrap();
    let there = address(witness.relay.http_addr);
    let log = restart(log, |config| config.witnesses.push(there.clone())).await;
    let note = until(&log, run, |checkpoint, note| checkpoint.size == 3 && note.verify(&witness_key).is_ok()).await;
    assert!(note.verify(&key_of_log).is_ok());
    // It says the size that it knows to a log that forgot it, as a restarted one does.
    let log = restart(log, |config| config.witnesses.push(there)).await;
    store(log.dir.path(), run, 4..=5, 1, false);
    until(&log, run, |checkpoint, note| checkpoint.size == 5 && note.verify(&witness_key).is_ok()).await;

    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let log = restart(log, |config| config.witnesses.push(address(nowhere))).await;
    store(log.dir.path(), run, 6..=6, 1, false);
    let note = until(&log, run, |checkpoint, _| checkpoint.size == 6).await;
    assert!(note.verify(&witness_key).is_err() && note.verify(&key_of_log).is_ok());
}
