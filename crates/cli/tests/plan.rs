//! `shoal plan` says what a model takes.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

use serde_json::Value;
use shoal_learn::folder;
use shoal_learn::presets::Preset;

fn plan(arguments: &[&str]) -> (bool, String, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), folder::config_json(&Preset::Base.model()).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    let output = command.arg("plan").arg("--model").arg(folder.path()).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_plan_tells_each_shards_memory_and_time_by_class_of_device() {
    let (ok, text, _) = plan(&["--shards", "2"]);
    assert!(ok && text.contains("shard 2: blocks 5 to 8"), "{text}");
    assert!(["phone", "laptop", "MiB", "ms a step"].iter().all(|word| text.contains(word)), "{text}");
    let bytes = |arguments: &[&str], shard: usize| {
        let (ok, text, error) = plan(arguments);
        assert!(ok, "{error}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        answer["shards"][shard]["classes"]["desktop GPU"]["bytes"].as_u64().unwrap()
    };
    let whole = bytes(&["--json"], 0);
    for shard in [0, 1] {
        assert!(bytes(&["--json", "--shards", "2"], shard) < whole);
    }
}

#[test]
fn a_plan_without_sense_is_refused_in_words() {
    for (arguments, word) in [
        (&["--shards", "9"][..], "at least as many blocks"),
        (&["--context", "257"], "--context must be 1 to 256"),
        (&["--batch", "0"], "--batch must be at least 1"),
    ] {
        let (ok, _, error) = plan(arguments);
        assert!(!ok && error.contains(word), "{error}");
    }
}
