//! A relay with its resident peer, and a run published while it serves.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Client, publish_tiny_run, relay};
use shoal_learn::presets::Preset;
use shoal_relay::{Config, Demo, Relay};
use shoal_wire::{Identity, PeerId, RunId, relay::FromRelay};
use tokio::time::timeout;

/// Enters the run's room and waits until a peer other than `me` is in it.
async fn somebody_in(fixture: &common::Fixture, run: RunId, me: &Identity) -> PeerId {
    let (mut client, entered) = Client::enter(fixture.relay.http_addr, run, me).await;
    let FromRelay::Entered { peers } = entered else { panic!("{entered:?}") };
    if let Some(&peer) = peers.first() {
        return peer;
    }
    loop {
        if let FromRelay::PeerEntered(peer) = client.next().await.expect("the relay stays") {
            return peer;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_resident_is_in_the_demo_run_as_its_anchor_and_takes_up_runs_published_later() {
    let fixture = relay(|config| {
        config.resident = true;
        config.demo = Some(Demo { preset: Some(Preset::Tiny), ..Demo::default() });
    })
    .await;
    let me = Identity::from_secret([5; 32]);
    let demo = fixture.relay.runs[0];
    let resident = somebody_in(&fixture, demo, &me).await;
    let details = common::get(fixture.relay.http_addr, &format!("/api/runs/{demo}")).await.json();
    assert_eq!(details["manifest"]["anchors"][0], resident.to_string());
    let later = publish_tiny_run(&fixture, "later").await;
    assert_ne!(somebody_in(&fixture, later, &me).await, resident, "another identity in another run");
    timeout(Duration::from_secs(5), fixture.relay.stop()).await.expect("stops within five seconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_holds_a_run_serves_the_chosen_text_too_with_the_resident_in_it() {
    let tiny = |data| Some(Demo { preset: Some(Preset::Tiny), data, ..Demo::default() });
    let mut fixture = relay(|config| config.demo = tiny(None)).await;
    let stories = fixture.relay.demo.expect("made");
    fixture.relay.stop().await;

    let book = fixture.dir.path().join("book.txt");
    std::fs::write(&book, "Call me Ishmael. ".repeat(300)).unwrap();
    let mut config = Config::new(fixture.dir.path());
    (config.demo, config.resident) = (tiny(Some(book)), true);
    fixture.relay = Relay::start(config).await.unwrap();
    let chosen = fixture.relay.demo.expect("made");
    assert_eq!(fixture.relay.runs, [stories, chosen]);
    let details = common::get(fixture.relay.http_addr, &format!("/api/runs/{chosen}")).await.json();
    assert_eq!(details["manifest"]["data"]["sources"][0]["name"], "book.txt");
    let me = Identity::from_secret([5; 32]);
    let resident = somebody_in(&fixture, chosen, &me).await;
    assert_eq!(details["manifest"]["anchors"][0], resident.to_string());
    somebody_in(&fixture, stories, &me).await;
    fixture.relay.stop().await;
}
