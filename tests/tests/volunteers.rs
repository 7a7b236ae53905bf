//! Native volunteers and a resident peer, as processes, on a real relay.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use shoal_tests::{Relay, tiny_shakespeare};

#[test]
fn two_native_volunteers_certify_rounds_that_replay_to_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_shakespeare().map(|file| file.to_string_lossy().into_owned());
    let mut more = vec!["--train-ms-max", "2000"];
    if let Some(data) = &data {
        more.extend(["--data", data]);
    }
    let mut relay = Relay::demo(&folder.path().join("relay"), &more).unwrap();
    let mut ana = relay.join(&folder.path().join("ana")).unwrap();
    let mut ben = relay.join(&folder.path().join("ben")).unwrap();
    relay.reach(5, Duration::from_mins(4)).unwrap();
    ana.check().unwrap();
    ben.check().unwrap();
    drop((ana, ben));

    let verdict = relay.verify().unwrap();
    assert!(verdict.holds, "{}", verdict.text);
    let model = relay.details().unwrap()["model"].as_str().unwrap().to_owned();
    assert!(verdict.text.contains(&model), "{model} is not in\n{}", verdict.text);
}
