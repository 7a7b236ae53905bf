//! A run's log: every round is in it, its witness has signed it, and a relay that lies in it is found out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use shoal_ledger::log::{Entry, Note, Tree, VerifierKey};
use shoal_store::FileStore;
use shoal_tests::{Relay, copy_folder, shoal};

const PATIENCE: Duration = Duration::from_mins(4);
const QUICK: [&str; 4] = ["--train-ms-max", "1000", "--recovery-ms", "3000"];

/// Lets a volunteer train until the relay has this round.
fn train(relay: &mut Relay, folder: &Path, round: u64) {
    let _volunteer = relay.join(folder).unwrap();
    relay.reach(round, PATIENCE).unwrap();
}

fn key(relay: &Relay, path: &str) -> String {
    let key = String::from_utf8(relay.get(path).unwrap()).unwrap();
    VerifierKey::parse(key.trim_end()).unwrap();
    key.trim_end().to_owned()
}

fn verified(relay: &Relay, more: &[&str]) -> Value {
    let answer = shoal(&[&["verify", &relay.url(), "--run", &relay.run, "--json"], more].concat()).unwrap();
    assert_eq!(answer["holds"], true, "{answer}");
    answer
}

#[test]
fn a_witness_signs_the_log_of_a_run_and_not_that_of_a_copy_which_parted() {
    let home = tempfile::tempdir().unwrap();
    let folder = |name: &str| home.path().join(name);
    let mut relay = Relay::demo(&folder("relay"), &QUICK).unwrap();
    train(&mut relay, &folder("ana"), 2);
    let log_key = key(&relay, &format!("/log/{}/vkey", relay.run));
    drop(relay);
    copy_folder(&folder("relay"), &folder("copy")).unwrap();

    let witness = Relay::demo(&folder("witness"), &["--witness-log", &log_key]).unwrap();
    let witness_key = key(&witness, "/witness/vkey");
    let address = format!("{}/witness+{witness_key}", witness.url());
    let with_witness = ["--resident", "--witness", &address];
    let seen = folder("seen").to_string_lossy().into_owned();
    let asked = ["--witness", &witness_key, "--log-key", &log_key, "--checkpoint", &seen];

    let mut relay = Relay::start(&folder("relay"), &with_witness).unwrap();
    let first = verified(&relay, &asked);
    assert_eq!((&first["log"]["included"], &first["log"]["consistent"]), (&first["rounds"], &Value::Null));
    train(&mut relay, &folder("ana"), 5);
    let second = verified(&relay, &asked);
    let log = &second["log"];
    assert!(second["rounds"].as_u64().unwrap() >= 5, "{second}");
    assert_eq!(log["included"], second["rounds"]);
    assert_eq!(log["consistent"], true);
    assert_eq!(log["cosigned"][0].as_str(), witness_key.split('+').next());
    let note = Note::parse(&fs::read(&seen).unwrap()).unwrap();
    assert!(note.verify(&VerifierKey::parse(&witness_key).unwrap()).unwrap().is_some());

    // Whoever holds the certificates has the same log, without having kept one.
    let root = log["root"].as_str().unwrap().to_owned();
    let size = log["size"].as_u64().unwrap();
    drop(relay);
    let store = FileStore::open(folder("relay")).unwrap();
    let run = store.runs().unwrap()[0];
    let entries: Vec<Entry> = store.certificates(run, 1, 1000).unwrap().iter().map(Entry::of).collect();
    assert_eq!(Tree::of(&entries).root_at(size).unwrap().to_string(), root);
    let directory = folder("relay").to_string_lossy().into_owned();
    let answer = shoal(&["verify", &directory, "--run", &run.to_string(), "--checkpoint", &seen, "--json"]).unwrap();
    assert_eq!((&answer["log"]["size"], &answer["log"]["consistent"]), (&answer["rounds"], &Value::Bool(true)));

    // A copy of the relay, with its keys, goes on with another history.
    let mut copied = Relay::start(&folder("copy"), &with_witness).unwrap();
    train(&mut copied, &folder("ben"), size + 1);
    let parted = copied.verify_at(copied.address, &["--checkpoint", &seen]).unwrap();
    assert_eq!((parted.holds, parted.status), (false, Some(1)), "{}", parted.text);
    assert!(parted.text.contains("does not follow the checkpoint"), "{}", parted.text);
    let unsigned = copied.verify_at(copied.address, &["--witness", &witness_key]).unwrap();
    assert_eq!((unsigned.holds, unsigned.status), (false, Some(1)), "{}", unsigned.text);
    assert!(unsigned.text.contains("has not signed"), "{}", unsigned.text);
    assert!(verified(&copied, &[])["log"]["included"].as_u64().unwrap() > size, "by itself it holds");
}

/// What a lying relay does to an answer: given its path and body, the body that it sends; `None` sends 404.
type Lie = Box<dyn Fn(&str, Vec<u8>) -> Option<Vec<u8>> + Send>;

/// Passes requests on to a relay and lies in the answers. Ends with the test's process.
fn liar(relay: SocketAddr) -> (SocketAddr, Arc<Mutex<Lie>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let lie: Arc<Mutex<Lie>> = Arc::new(Mutex::new(Box::new(|_, body| Some(body))));
    let told = lie.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            answer(client.unwrap(), relay, &told);
        }
    });
    (address, lie)
}

fn answer(mut client: TcpStream, relay: SocketAddr, lie: &Mutex<Lie>) {
    let mut request = String::new();
    let mut lines = BufReader::new(client.try_clone().unwrap());
    lines.read_line(&mut request).unwrap();
    let mut header = String::new();
    while lines.read_line(&mut header).unwrap() > 2 {
        header.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let truth = shoal_tests::get(relay, path).ok();
    let told = truth.and_then(|body| lie.lock().unwrap()(path, body));
    let (status, body) = told.map_or((404, Vec::new()), |body| (200, body));
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    // The verifier may have heard enough.
    client.write_all(head.as_bytes()).and_then(|()| client.write_all(&body)).ok();
}

#[test]
fn a_relay_that_lies_in_its_log_is_found_out() {
    let home = tempfile::tempdir().unwrap();
    let mut relay = Relay::demo(&home.path().join("relay"), &QUICK).unwrap();
    train(&mut relay, &home.path().join("ana"), 3);
    drop(relay);
    // Without a resident peer the history rests.
    let relay = Relay::start(&home.path().join("relay"), &[]).unwrap();
    let rounds = relay.round().unwrap();
    let (address, lie) = liar(relay.address);
    let seen = home.path().join("seen").to_string_lossy().into_owned();
    let honest = relay.verify_at(address, &["--checkpoint", &seen]).unwrap();
    assert!(honest.holds, "{}", honest.text);
    assert!(honest.text.contains(&format!("all {rounds} rounds are in it")), "{}", honest.text);

    let flip = |what: &'static str, at: usize| -> Lie {
        Box::new(move |path, mut body| {
            if path.contains(what) {
                let at = at % body.len();
                body[at] ^= 1;
            }
            Some(body)
        })
    };
    let absent = |what: &'static str| -> Lie { Box::new(move |path, body| (!path.contains(what)).then_some(body)) };
    let lies: Vec<(&str, Lie)> = vec![
        ("the checkpoint's origin", flip("/checkpoint", 0)),
        ("the checkpoint's root", flip("/checkpoint", 120)),
        ("the checkpoint's signature", flip("/checkpoint", usize::MAX)),
        ("a hash", flip("/tile/0/", 40)),
        ("an entry's round", flip("/tile/entries/", 43)),
        ("an entry's model", flip("/tile/entries/", 139)),
        ("a missing tile", absent("/tile/0/")),
        ("missing entries", absent("/tile/entries/")),
        ("the key", flip("/vkey", 30)),
        ("a log that is gone", absent("/log/")),
    ];
    for (what, told) in lies {
        *lie.lock().unwrap() = told;
        let verdict = relay.verify_at(address, &["--checkpoint", &seen]).unwrap();
        assert_eq!((verdict.holds, verdict.status), (false, Some(1)), "{what}:\n{}", verdict.text);
        assert!(verdict.text.contains("the log does not hold"), "{what}:\n{}", verdict.text);
    }
    // Who has seen no log before cannot know that there is one: an older relay has none, and its history still holds.
    *lie.lock().unwrap() = absent("/log/");
    let older = relay.verify_at(address, &[]).unwrap();
    assert!(older.holds && older.text.contains("keeps no log"), "{}", older.text);
}
