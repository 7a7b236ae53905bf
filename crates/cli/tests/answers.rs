//! What programs that call `shoal … --json` read when there is no relay to answer.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::process::{Command, Output};

use serde_json::Value;
use shoal_sim::toy_manifest;
use shoal_store::FileStore;
use shoal_wire::{Identity, sign::Domain};

const RUN: &str = "0707070707070707070707070707070707070707070707070707070707070707";

fn shoal(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shoal")).args(arguments.split_whitespace()).output().unwrap()
}

/// The object in the last line of standard output.
fn answer(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(text.lines().last().expect("a line of JSON")).unwrap()
}

/// An address at which nothing listens.
fn nowhere() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn without_a_verdict_verify_says_so_and_accuses_nobody() {
    let folder = tempfile::tempdir().unwrap();
    for source in [nowhere(), folder.path().display().to_string(), "ftp://not.a.relay".to_owned()] {
        let output = shoal(&format!("verify {source} --run {RUN} --json"));
        assert_eq!(output.status.code(), Some(3), "{source}");
        let answer = answer(&output);
        assert_eq!(answer["event"], "unavailable", "{source}: {answer}");
        assert_eq!(answer["holds"], Value::Null);
        assert_eq!(answer["run"], RUN);
        assert!(!answer["why"].as_str().unwrap().is_empty());
    }
}

#[test]
fn without_a_history_the_ledger_says_so_and_accuses_nobody() {
    let folder = tempfile::tempdir().unwrap();
    for source in [nowhere(), folder.path().display().to_string()] {
        let output = shoal(&format!("ledger {source} --run {RUN} --json"));
        assert_eq!(output.status.code(), Some(3), "{source}");
        let answer = answer(&output);
        assert_eq!((&answer["event"], &answer["run"]), (&"unavailable".into(), &RUN.into()), "{source}: {answer}");
        assert_eq!(answer["holds"], Value::Null);
    }
}

#[test]
fn a_ledger_that_does_not_hold_ends_as_verify_does_and_names_the_round() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path()).unwrap();
    let host = Identity::from_secret([1; 32]);
    let run = store.put_manifest(&host.seal(Domain::Manifest, &toy_manifest(vec![host.peer()]))).unwrap();
    let certificates = folder.path().join(format!("runs/{run}/certificates"));
    std::fs::create_dir_all(&certificates).unwrap();
    std::fs::write(certificates.join("0000000001.cert"), [7; 200]).unwrap();
    let output = shoal(&format!("ledger {} --run {run} --json", folder.path().display()));
    assert_eq!(output.status.code(), Some(1));
    let answer = answer(&output);
    assert_eq!((&answer["event"], &answer["holds"]), (&"failed".into(), &false.into()), "{answer}");
    assert!(answer["why"].as_str().unwrap().contains("round 1 does not hold"), "{answer}");
}

#[test]
fn a_failure_is_one_object_where_a_program_waits_for_one() {
    let (relay, folder) = (nowhere(), tempfile::tempdir().unwrap());
    let file = folder.path().join("file");
    std::fs::write(&file, "a token and a text").unwrap();
    let (out, file) = (folder.path().join("out"), file.display());
    for arguments in [
        format!("run list {relay}"),
        format!("run show {relay} {RUN}"),
        format!("run create {relay} --token-file {file} --data {file} --name a --host b --licence CC0-1.0"),
        format!("export {relay} --run {RUN} --out {}", out.display()),
    ] {
        let output = shoal(&format!("{arguments} --json"));
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        assert!(answer(&output)["error"].is_string(), "{arguments}");
    }
    assert!(!out.exists());
}
