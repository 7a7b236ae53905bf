//! Direct links between two peers on this computer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use shoal_node::{
    link::{LinkEvent, LinkId, Links},
    rtc::RtcLinks,
};
use shoal_wire::{Digest, PeerId};
use tokio::sync::mpsc::{Receiver, channel};

const PATIENCE: Duration = Duration::from_secs(30);
const A: LinkId = LinkId { peer: PeerId([2; 32]), attempt: 1 };
const B: LinkId = LinkId { peer: PeerId([1; 32]), attempt: 1 };

/// Two ends of one link, and the signalling between them.
struct Pair {
    a: RtcLinks,
    b: RtcLinks,
    a_events: Receiver<LinkEvent>,
    b_events: Receiver<LinkEvent>,
}

impl Pair {
    fn new() -> Self {
        let (a_sender, a_events) = channel(64);
        let (b_sender, b_events) = channel(64);
        Self { a: RtcLinks::new(a_sender, true), b: RtcLinks::new(b_sender, true), a_events, b_events }
    }

    /// Signals until both ends are open.
    async fn open(&mut self) {
        self.a.offer(A);
        let mut held = Vec::new();
        let (mut described, mut a_open, mut b_open) = (false, false, false);
        while !(a_open && b_open) {
            tokio::select! {
                event = self.a_events.recv() => match event.unwrap() {
                    LinkEvent::Described { sdp, offer, .. } => {
                        assert!(offer);
                        self.b.accept_offer(B, sdp);
                        described = true;
                        held.drain(..).for_each(|candidate| self.b.add_candidate(B, candidate));
                    }
                    LinkEvent::Candidate { candidate, .. } if described => self.b.add_candidate(B, candidate),
                    LinkEvent::Candidate { candidate, .. } => held.push(candidate),
                    LinkEvent::Opened(id) => a_open = id == A,
                    other => panic!("{other:?}"),
                },
                event = self.b_events.recv() => match event.unwrap() {
                    LinkEvent::Described { sdp, offer, .. } => {
                        assert!(!offer);
                        self.a.accept_answer(A, sdp);
                    }
                    LinkEvent::Candidate { candidate, .. } => self.a.add_candidate(A, candidate),
                    LinkEvent::Opened(id) => b_open = id == B,
                    other => panic!("{other:?}"),
                },
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_opens_and_carries_both_channels_in_order_without_damage() {
    let mut pair = Pair::new();
    tokio::time::timeout(PATIENCE, pair.open()).await.unwrap();
    let piece = |index: u32| Digest::of(&index.to_le_bytes()).0.repeat(512);
    let count = 512_u32;
    for index in 0..count {
        pair.a.write(A, true, piece(index));
    }
    pair.a.write(A, false, b"control".to_vec());
    let (mut bulk, mut control) = (0, 0);
    let receive = async {
        while bulk < count || control < 1 {
            match pair.b_events.recv().await.unwrap() {
                LinkEvent::Piece { bulk: true, bytes, .. } => {
                    assert!(bytes == piece(bulk), "piece {bulk}");
                    bulk += 1;
                }
                LinkEvent::Piece { bulk: false, bytes, .. } => {
                    assert_eq!(bytes, b"control");
                    assert!(bulk < count, "control waits for all of the bulk channel");
                    control += 1;
                }
                LinkEvent::Candidate { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, receive).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_one_end_closes_the_other() {
    let mut pair = Pair::new();
    tokio::time::timeout(PATIENCE, pair.open()).await.unwrap();
    pair.a.close(A);
    let closed = async { while pair.b_events.recv().await.unwrap() != LinkEvent::Closed(B) {} };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
}

#[tokio::test]
async fn an_offer_that_is_no_description_closes_the_link() {
    let (sender, mut events) = channel(64);
    let mut links = RtcLinks::new(sender, true);
    links.accept_offer(A, "nonsense".to_owned());
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    assert_eq!(event, LinkEvent::Closed(A));
}
