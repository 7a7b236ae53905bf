//! Clients of a whole relay: entering, signalling, forwarding, and what happens to those that misbehave.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Client, publish_tiny_run, relay};
use futures_util::SinkExt as _;
use shoal_relay::Rates;
use shoal_wire::{
    Identity, RunId, limits,
    relay::{FromRelay, LinkSignal, LinkStep, Refusal, ToRelay},
};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::{self, Message};

fn identity(n: u8) -> Identity {
    Identity::from_secret([n; 32])
}

#[tokio::test]
async fn two_clients_find_each_other_and_exchange_signals_and_pieces() {
    let fixture = relay(|_| {}).await;
    let (to, run) = (fixture.relay.http_addr, publish_tiny_run(&fixture, "signals").await);
    let (one, two) = (identity(1), identity(2));
    let (mut first, entered) = Client::enter(to, run, &one).await;
    assert_eq!(entered, FromRelay::Entered { peers: vec![] });
    let (mut second, entered) = Client::enter(to, run, &two).await;
    assert_eq!(entered, FromRelay::Entered { peers: vec![one.peer()] });
    assert_eq!(first.next().await, Some(FromRelay::PeerEntered(two.peer())));

    let signal = LinkSignal { run, to: one.peer(), attempt: 1, step: LinkStep::Offer { sdp: "v=0".to_owned() } };
    let envelope = signal.seal(&two);
    second.send(&ToRelay::Signal { to: one.peer(), envelope: envelope.clone() }).await.unwrap();
    let Some(FromRelay::Signal { from, envelope: received }) = first.next().await else { panic!("no signal") };
    assert_eq!((from, &received), (two.peer(), &envelope));
    LinkSignal::open(&received, run, one.peer()).expect("the signature holds");

    let piece = vec![9; limits::PIECE_BYTES_MAX];
    first.send(&ToRelay::Forward { to: two.peer(), piece: piece.clone() }).await.unwrap();
    assert_eq!(second.next().await, Some(FromRelay::Forward { from: one.peer(), piece }));

    first.send(&ToRelay::Ping).await.unwrap();
    assert_eq!(first.next().await, Some(FromRelay::Pong));
    first.socket.close(None).await.unwrap();
    assert_eq!(second.next().await, Some(FromRelay::PeerLeft(one.peer())));
}

#[tokio::test]
async fn clients_that_have_entered_fill_the_cap_on_connections_until_they_leave() {
    let fixture = relay(|config| config.connections_per_address_max = 3).await;
    let (to, run) = (fixture.relay.http_addr, publish_tiny_run(&fixture, "a cap").await);
    // The relay notices in its own time that earlier connections have ended.
    let somehow = async |n| loop {
        if let Ok(client) = Client::connect(to, None).await {
            break client.introduce(run, &identity(n)).await;
        }
        tokio::task::yield_now().await;
    };
    let mut clients = Vec::new();
    for n in 1..=3 {
        let (client, entered) = somehow(n).await;
        assert!(matches!(entered, FromRelay::Entered { .. }), "{entered:?}");
        clients.push(client);
    }
    for client in &mut clients {
        // All three are there and served, so whatever refuses the fourth is their number.
        client.send(&ToRelay::Ping).await.unwrap();
        while client.next().await.expect("served") != FromRelay::Pong {}
    }
    assert!(Client::connect(to, None).await.is_err(), "a fourth");
    drop(clients.pop());
    somehow(4).await;
}

#[tokio::test]
async fn a_wrong_signature_and_an_unknown_run_are_refused() {
    let fixture = relay(|_| {}).await;
    let (to, run) = (fixture.relay.http_addr, publish_tiny_run(&fixture, "refusals").await);
    let mut client = Client::connect(to, None).await.unwrap();
    let Some(FromRelay::Challenge { nonce }) = client.next().await else { panic!("no challenge") };
    let mut other_nonce = nonce;
    other_nonce[0] ^= 1;
    client.send(&ToRelay::enter(&identity(1), run, &other_nonce)).await.unwrap();
    assert_eq!(client.next().await, Some(FromRelay::Refused(Refusal::BadSignature)));
    assert_eq!(client.next().await, None, "and the connection ends");
    let (_, answer) = Client::enter(to, RunId([9; 32]), &identity(1)).await;
    assert_eq!(answer, FromRelay::Refused(Refusal::UnknownRun));
}

#[tokio::test]
async fn a_room_takes_its_limit_and_not_one_more() {
    let fixture = relay(|config| config.room_peers_max = 3).await;
    let (to, run) = (fixture.relay.http_addr, publish_tiny_run(&fixture, "limits").await);
    let mut inside = Vec::new();
    for n in 1..=3 {
        let (client, answer) = Client::enter(to, run, &identity(n)).await;
        assert!(matches!(answer, FromRelay::Entered { peers } if peers.len() == usize::from(n) - 1));
        inside.push(client);
    }
    let (_, answer) = Client::enter(to, run, &identity(4)).await;
    assert_eq!(answer, FromRelay::Refused(Refusal::RoomFull));
    let (_, answer) = Client::enter(to, run, &identity(3)).await;
    assert!(matches!(answer, FromRelay::Entered { .. }), "who is inside may reconnect");
}

#[tokio::test]
async fn a_second_session_of_a_peer_replaces_the_first() {
    let fixture = relay(|_| {}).await;
    let (to, run) = (fixture.relay.http_addr, publish_tiny_run(&fixture, "sessions").await);
    let (mut old, _) = Client::enter(to, run, &identity(1)).await;
    let (mut new, answer) = Client::enter(to, run, &identity(1)).await;
    assert_eq!(answer, FromRelay::Entered { peers: vec![] });
    assert_eq!(old.next().await, Some(FromRelay::Refused(Refusal::Replaced)));
    assert_eq!(old.next().await, None);
    new.send(&ToRelay::Ping).await.unwrap();
    assert_eq!(new.next().await, Some(FromRelay::Pong));
}

#[tokio::test]
async fn oversize_malformed_and_text_messages_end_the_connection() {
    let fixture = relay(|_| {}).await;
    let (to, run) = (fixture.relay.http_addr, publish_tiny_run(&fixture, "sizes").await);
    let bad = [
        Message::Binary(vec![0; limits::RELAY_MESSAGE_BYTES_MAX + 1].into()),
        Message::Binary(vec![0xff; 100].into()),
        Message::Text("hello".into()),
        Message::Binary(
            ToRelay::Forward { to: identity(2).peer(), piece: vec![1; limits::PIECE_BYTES_MAX + 1] }.encode().into(),
        ),
    ];
    for message in bad {
        let (mut client, _) = Client::enter(to, run, &identity(1)).await;
        let size = message.len();
        client.socket.send(message).await.unwrap();
        while let Some(said) = client.next().await {
            assert_eq!(said, FromRelay::Refused(Refusal::Malformed), "{size} bytes");
        }
    }
}

#[tokio::test]
async fn a_flood_of_small_messages_is_refused() {
    let fixture = relay(|config| {
        config.rates = Rates { messages_per_second: 1, messages_burst: 10, ..Rates::default() };
    })
    .await;
    let (to, run) = (fixture.relay.http_addr, publish_tiny_run(&fixture, "floods").await);
    let (mut client, _) = Client::enter(to, run, &identity(1)).await;
    for _ in 0..20 {
        client.send(&ToRelay::Ping).await.unwrap();
    }
    let mut pongs = 0;
    while let Some(said) = client.next().await {
        match said {
            FromRelay::Pong => pongs += 1,
            other => assert_eq!(other, FromRelay::Refused(Refusal::TooFast)),
        }
    }
    assert!(pongs <= 12, "{pongs} pongs");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped_and_stalls_nobody() {
    let fixture = relay(|_| {}).await;
    let (to, run) = (fixture.relay.http_addr, publish_tiny_run(&fixture, "slow").await);
    let (slow, reading, sending) = (identity(1), identity(2), identity(3));
    let (_never_reads, _) = Client::enter(to, run, &slow).await;
    let (mut reader, _) = Client::enter(to, run, &reading).await;
    let (mut sender, _) = Client::enter(to, run, &sending).await;
    assert_eq!(reader.next().await, Some(FromRelay::PeerEntered(sending.peer())));
    let piece = vec![7; limits::PIECE_BYTES_MAX];
    // More than the queue and the kernel's buffers hold, with a message to the reader after each.
    let mut slowest = Duration::ZERO;
    let mut dropped = false;
    for _ in 0..4000 {
        if dropped {
            break;
        }
        sender.send(&ToRelay::Forward { to: slow.peer(), piece: piece.clone() }).await.unwrap();
        let start = Instant::now();
        sender.send(&ToRelay::Forward { to: reading.peer(), piece: vec![1] }).await.unwrap();
        loop {
            match reader.next().await.expect("the reader stays") {
                FromRelay::Forward { .. } => break,
                FromRelay::PeerLeft(peer) => {
                    assert_eq!(peer, slow.peer());
                    dropped = true;
                }
                other => panic!("{other:?}"),
            }
        }
        slowest = slowest.max(start.elapsed());
    }
    assert!(dropped, "the slow client is still there");
    assert!(slowest < Duration::from_secs(2), "a message to the reader took {slowest:?}");
}

#[tokio::test]
async fn scripts_of_other_sites_are_refused_and_listed_ones_are_not() {
    let fixture = relay(|config| config.allow_origins = vec!["https://partner.example".to_owned()]).await;
    let to = fixture.relay.http_addr;
    for good in [None, Some(format!("http://{to}")), Some("https://partner.example".to_owned())] {
        Client::connect(to, good.as_deref()).await.unwrap_or_else(|error| panic!("{good:?}: {error}"));
    }
    let Err(tungstenite::Error::Http(response)) = Client::connect(to, Some("https://evil.example")).await else {
        panic!("accepted")
    };
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn a_relay_that_stops_says_when_to_come_back_and_is_quick() {
    let fixture = relay(|_| {}).await;
    let (to, run) = (fixture.relay.http_addr, publish_tiny_run(&fixture, "draining").await);
    let (mut client, _) = Client::enter(to, run, &identity(1)).await;
    let stopping = tokio::spawn(fixture.relay.stop());
    assert!(matches!(client.next().await, Some(FromRelay::Draining { retry_ms }) if retry_ms > 0));
    assert_eq!(client.next().await, None);
    timeout(Duration::from_secs(5), stopping).await.expect("within five seconds").unwrap();
    Client::connect(to, None).await.err().expect("nobody listens any more");
}
