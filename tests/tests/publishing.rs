//! A host publishes a run, a volunteer trains in it, and somebody takes the model home.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use shoal_learn::{Layout, folder};
use shoal_tests::{Relay, shoal, shoal_text, until};
use shoal_wire::Digest;

const ROUNDS: &str = "2";
const PATIENCE: Duration = Duration::from_mins(2);

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// Digest of an exported folder's parameters, as a run's certificates take it: f32 little-endian in layout order.
fn digest(out: &Path) -> String {
    let spec = folder::parse_config(&fs::read(out.join("config.json")).unwrap()).unwrap();
    let layout = Layout::of(&spec).unwrap();
    let parameters = folder::parse_weights(&fs::read(out.join("model.safetensors")).unwrap(), &layout).unwrap();
    let bytes: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
    Digest::of(&bytes).to_string()
}

/// The relay may certify a round more in the meantime, so figures only grow.
fn the_ledger_says_the_same(url: &str, folder: &Path, run: &str, peer: &str, lineage: &Value) {
    let contributed = lineage["contributors"][0]["amount"].as_u64().unwrap();
    for source in [url, &folder.to_string_lossy()] {
        let summary = shoal(&["ledger", source, "--run", run, "--json"]).unwrap();
        assert_eq!((&summary["event"], &summary["creditRule"]), (&"ledger".into(), &"trained_tokens".into()));
        assert!(summary["checked"]["credit"].as_u64().unwrap() >= contributed && contributed > 0, "{summary}");
        let (certificates, signatures) = (&summary["checked"]["certificates"], &summary["checked"]["signatures"]);
        assert_eq!(certificates, &summary["rounds"]);
        assert!(signatures.as_u64() > certificates.as_u64(), "{summary}");
        let table = shoal_text(&["ledger", source, "--run", run, "--peer", &peer[..12]]).unwrap();
        assert!(table.contains(&peer[..8]) && table.contains("100.0 %"), "{table}");
        assert!(table.contains("rating") && table.contains(" of 10 audits"), "{table}");
    }
    let refused = shoal(&["ledger", url, "--run", run, "--peer", "zz"]).unwrap_err().to_string();
    assert!(refused.contains("no peer whose id begins with"), "{refused}");
}

#[test]
fn a_published_run_is_listed_trained_in_and_exported_with_its_lineage() {
    let home = tempfile::tempdir().unwrap();
    let text = home.path().join("text.txt");
    fs::write(&text, "a line of a text that is easy to learn\n".repeat(800)).unwrap();
    let about = ["--model", "tiny", "--local-steps", "4", "--name", "Lines", "--host", "tests"];
    let rights = ["--licence", "CC0-1.0", "--attribution", "nobody"];
    let relay = Relay::publish(&home.path().join("relay"), &text, &[&about[..], &rights].concat()).unwrap();
    let (url, run) = (relay.url(), relay.run.as_str());

    let listed = shoal(&["run", "list", &url, "--json"]).unwrap();
    assert_eq!((&listed["runs"][0]["id"], &listed["runs"][0]["name"]), (&run.into(), &"Lines".into()));
    let shown = shoal(&["run", "show", &url, run, "--json"]).unwrap();
    assert_eq!((&shown["id"], &shown["round"]), (&run.into(), &0.into()));

    let data = home.path().join("volunteer");
    let place = ["--data-dir", &data.to_string_lossy(), "--engine", "cpu"];
    let visit = ["join", &url, "--run", run, "--rounds", ROUNDS, "--json"];
    let left = shoal(&[&visit[..], &place].concat()).unwrap();
    assert_eq!(left["event"], "left");

    // The volunteer has left, but a round that was under way then may still be certified between the two.
    let out = home.path().join("out");
    let (exported, verified) = until("export and verify see the same round", PATIENCE, || {
        let exported = shoal(&["export", &url, "--run", run, "--out", &out.to_string_lossy(), "--json"])?;
        let verified = shoal(&["verify", &url, "--run", run, "--json"])?;
        Ok((exported["round"] == verified["rounds"]).then_some((exported, verified)))
    })
    .unwrap();
    assert_eq!(verified["holds"], true);
    assert_eq!(verified["model"], digest(&out));
    assert_eq!(verified["model"], exported["model"]);
    assert_eq!(verified["checked"]["certificates"], verified["rounds"]);

    let lineage = json(&out.join("lineage.json"));
    assert_eq!((&lineage["run"], &lineage["model"]), (&run.into(), &exported["model"]));
    assert_eq!(lineage["certifiedBody"].as_str().unwrap().len(), 64);
    assert_eq!(
        (&lineage["data"][0]["licence"], &lineage["data"][0]["attribution"]),
        (&"CC0-1.0".into(), &"nobody".into())
    );
    let [contributor] = &lineage["contributors"].as_array().unwrap()[..] else { panic!("{lineage}") };
    assert_eq!(contributor["acceptedRounds"], lineage["acceptedUpdates"]);
    assert!(contributor["acceptedRounds"].as_u64() > Some(0) && contributor["tokens"].as_u64() > Some(0), "{lineage}");
    let peer = contributor["peer"].as_str().unwrap();
    assert_eq!(peer.len(), 64);
    assert_eq!(contributor["amount"], contributor["tokens"]);
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.starts_with("# Lines\n") && card.contains("text.txt (CC0-1.0): nobody"), "{card}");
    the_ledger_says_the_same(&url, &home.path().join("relay"), run, peer, &lineage);
}
