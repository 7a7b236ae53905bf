//! Golden bytes, canonical decoding and signatures, natively and in Wasm.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_wire::{
    Digest, Identity, Millis, PeerId, RunId, SessionId, WireError, codec,
    frame::{Frame, Joiner, Status, pieces},
    limits,
    record::{Commit, Join, Message, Said, Vote, VoteKind, seed_hash},
    relay::{FromRelay, LinkSignal, LinkStep, ToRelay, verify_enter},
    sign::Domain,
};

const SESSION: SessionId = SessionId([12; 32]);

fn identity() -> Identity {
    Identity::from_secret([7; 32])
}

fn run() -> RunId {
    RunId([1; 32])
}

fn commit() -> Message {
    Message::Commit(Commit {
        parent: Digest([2; 32]),
        update: Digest([3; 32]),
        update_bytes: 1000,
        steps: 20,
        tokens: 10_240,
        loss_first: 5.5,
        loss_last: 5.25,
        seed_hash: seed_hash(Digest([4; 32])),
    })
}

#[test]
fn frames_have_these_bytes() {
    let status = Frame::Status(Status {
        head: 300,
        body: Digest([9; 32]),
        envelopes: vec![1, 1 << 40],
        seen: vec![PeerId([5; 32])],
    });
    let cases = [
        (Frame::Ask(vec![1, 2, 300]), "02030102ac02".to_owned()),
        (Frame::GetCertificates(128), "038001".to_owned()),
        (
            Frame::GetRange { blob: Digest([0xab; 32]), offset: 16_128, bytes: 256 },
            format!("05{}807e8002", "ab".repeat(32)),
        ),
        (Frame::NoBlob(Digest([1; 32])), format!("07{}", "01".repeat(32))),
        (status, format!("01ac02{}0201808080808020 01{}", "09".repeat(32), "05".repeat(32)).replace(' ', "")),
    ];
    for (frame, hex_bytes) in cases {
        assert_eq!(hex::encode(frame.encode()), hex_bytes, "{frame:?}");
        assert_eq!(Frame::decode(&hex::decode(hex_bytes).unwrap()).unwrap(), frame);
    }
}

#[test]
fn a_vote_is_signed_over_these_bytes() {
    let vote = Vote { parent: Digest([6; 32]), view: 3, kind: VoteKind::Precommit, body: Some(Digest([8; 32])) };
    let payload = shoal_wire::record::vote_payload(run(), 17, SESSION, vote);
    assert_eq!(
        hex::encode(&payload),
        format!("{}11{}07{}030101{}", "01".repeat(32), "0c".repeat(32), "06".repeat(32), "08".repeat(32))
    );
    let envelope = Said { run: run(), round: 17, session: SESSION, message: Message::Vote(vote) }.seal(&identity());
    assert_eq!(envelope.payload, payload);
    assert_eq!(identity().peer().to_string(), "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c");
}

#[test]
fn what_is_sealed_opens_for_its_run_only() {
    let envelope = Said { run: run(), round: 5, session: SESSION, message: commit() }.seal(&identity());
    let said = Said::open(&envelope, run()).unwrap();
    assert_eq!((said.from(), said.round, &said.message), (identity().peer(), 5, &commit()));
    assert_eq!(Said::open(&envelope, RunId([2; 32])).unwrap_err(), WireError::OtherRun { what: "message" });
}

#[test]
fn any_changed_byte_of_an_envelope_is_refused() {
    let envelope = Said { run: run(), round: 5, session: SESSION, message: commit() }.seal(&identity());
    let bytes = codec::encode(&envelope);
    for index in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[index] ^= 1;
        let decoded = codec::decode::<shoal_wire::Envelope>("envelope", &bad, bytes.len());
        assert!(decoded.is_err() || Said::open(&decoded.unwrap(), run()).is_err(), "byte {index}");
    }
}

#[test]
fn a_signature_in_one_role_is_worthless_in_another() {
    let (nonce, me) = ([6; 32], identity());
    let ToRelay::Enter { signature, .. } = ToRelay::enter(&me, run(), &nonce) else { panic!("an entry") };
    verify_enter(&nonce, run(), me.peer(), &signature).unwrap();
    assert!(verify_enter(&[7; 32], run(), me.peer(), &signature).is_err());
    assert!(verify_enter(&nonce, RunId([3; 32]), me.peer(), &signature).is_err());
    let payload = shoal_wire::relay::challenge_payload(&nonce, run(), me.peer());
    assert!(shoal_wire::sign::verify(me.peer(), Domain::Swarm, &payload, &signature).is_err());
}

#[test]
fn a_link_signal_opens_only_for_the_peer_it_is_for() {
    let other = Identity::from_secret([8; 32]).peer();
    let signal = LinkSignal { run: run(), to: other, attempt: 1, step: LinkStep::Offer { sdp: "v=0".to_owned() } };
    let envelope = signal.seal(&identity());
    assert!(LinkSignal::open(&envelope, run(), other).is_ok());
    assert!(LinkSignal::open(&envelope, run(), identity().peer()).is_err());
}

#[test]
fn only_the_shortest_encoding_of_a_number_is_accepted() {
    assert_eq!(Frame::decode(&[3, 5]).unwrap(), Frame::GetCertificates(5));
    assert_eq!(Frame::decode(&[3, 0x85, 0]).unwrap_err(), WireError::NotCanonical { what: "frame" });
    assert!(Frame::decode(&[3, 5, 0]).is_err(), "trailing bytes");
    assert!(Frame::decode(&[3]).is_err(), "truncated");
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    // A list of envelopes' ids that claims 2^60 entries.
    let lie = [2, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    assert!(Frame::decode(&lie).is_err());
    let large = vec![0; limits::FRAME_BYTES_MAX + 1];
    let refused = Frame::decode(&large).unwrap_err();
    assert_eq!(refused, WireError::TooLarge { what: "frame", size: large.len(), limit: limits::FRAME_BYTES_MAX });
}

#[test]
fn pieces_join_to_the_frame_they_were_cut_from() {
    for size in [0, 1, limits::PIECE_BYTES_MAX - 2, limits::PIECE_BYTES_MAX - 1, limits::PIECE_BYTES_MAX, 100_000] {
        let frame: Vec<u8> = (0..size).map(|index| index as u8).collect();
        let mut joiner = Joiner::default();
        let cut: Vec<Vec<u8>> = pieces(&frame).collect();
        assert!(cut.iter().all(|piece| piece.len() <= limits::PIECE_BYTES_MAX));
        for (index, piece) in cut.iter().enumerate() {
            let joined = joiner.push(piece).unwrap();
            assert_eq!(joined.is_some(), index + 1 == cut.len());
            assert!(joined.is_none_or(|joined| joined == frame));
        }
    }
}

#[test]
fn a_frame_that_never_ends_is_dropped_at_the_limit() {
    let mut joiner = Joiner::default();
    let piece = vec![0; limits::PIECE_BYTES_MAX];
    let refused = (0..100).find_map(|_| joiner.push(&piece).err()).unwrap();
    assert!(matches!(refused, WireError::TooLarge { what: "frame", .. }));
    assert!(joiner.push(&[2]).is_err());
    assert!(joiner.push(&[]).is_err());
}

#[test]
fn relay_messages_round_trip() {
    let messages = [
        FromRelay::Challenge { nonce: [1; 32] },
        FromRelay::Entered { peers: vec![identity().peer()] },
        FromRelay::Draining { retry_ms: 1000 },
    ];
    for message in messages {
        assert_eq!(FromRelay::decode(&message.encode()).unwrap(), message);
    }
}

#[test]
fn a_device_has_another_identity_in_every_run() {
    let secret = [9; 32];
    let (a, b) = (Identity::for_run(&secret, run()), Identity::for_run(&secret, RunId([2; 32])));
    assert_ne!(a.peer(), b.peer());
    assert_eq!(a.peer(), Identity::for_run(&secret, run()).peer());
}

#[test]
fn a_derived_secret_comes_back_for_its_identity_and_role_only() {
    let secret = identity().derive("a role", b"round 1");
    assert_eq!(secret, identity().derive("a role", b"round 1"));
    assert_ne!(secret, identity().derive("a role", b"round 2"));
    assert_ne!(secret, identity().derive("another role", b"round 1"));
    assert_ne!(secret, Identity::from_secret([8; 32]).derive("a role", b"round 1"));
}

#[test]
fn digests_are_hexadecimal_for_people() {
    let digest = Digest::of(b"shoal");
    let text = serde_json::to_string(&digest).unwrap();
    assert_eq!(text, format!("\"{digest}\""));
    assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
    assert_eq!(Digest::from_hex("zz"), None);
    assert!(serde_json::from_str::<Digest>("\"ab\"").is_err());
    assert_eq!(Join { durable: true, trains: false }, Join { durable: true, trains: false });
    assert_eq!(Millis(5).since(Millis(9)), 0);
}
