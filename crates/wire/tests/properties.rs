//! Properties of the codec over arbitrary values and bytes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use shoal_wire::{
    Digest, Envelope, Identity, PeerId,
    frame::{Frame, Joiner, Status, pieces},
    record::Certificate,
    relay::{FromRelay, ToRelay},
    sign::Domain,
};

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn frame() -> impl Strategy<Value = Frame> {
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    let ids = prop::collection::vec(any::<u64>(), 0..20);
    let peers = prop::collection::vec(any::<[u8; 32]>().prop_map(PeerId), 0..5);
    prop_oneof![
        (any::<[u8; 32]>(), bytes.clone()).prop_map(|(secret, said)| {
            let envelope = Identity::from_secret(secret).seal(Domain::Swarm, &said);
            Frame::Said(envelope)
        }),
        (any::<u64>(), digest(), ids.clone(), peers).prop_map(|(head, body, envelopes, seen)| Frame::Status(Status {
            head,
            body,
            envelopes,
            seen
        })),
        ids.prop_map(Frame::Ask),
        any::<u64>().prop_map(Frame::GetCertificates),
        (digest(), any::<u64>(), any::<u32>()).prop_map(|(blob, offset, bytes)| Frame::GetRange {
            blob,
            offset,
            bytes
        }),
        (digest(), any::<u64>(), bytes).prop_map(|(blob, offset, bytes)| Frame::Range { blob, offset, bytes }),
        digest().prop_map(Frame::NoBlob),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn frames_survive_encoding_and_cutting(frame in frame()) {
        let bytes = frame.encode();
        prop_assert_eq!(&Frame::decode(&bytes).unwrap(), &frame);
        let mut joiner = Joiner::default();
        let joined = pieces(&bytes).filter_map(|piece| joiner.push(&piece).unwrap()).collect::<Vec<_>>();
        prop_assert_eq!(joined, vec![bytes]);
    }

    #[test]
    fn a_cut_frame_is_an_error(frame in frame()) {
        let bytes = frame.encode();
        for end in 0..bytes.len() {
            prop_assert!(Frame::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        // What decodes must have this encoding and no other.
        if let Ok(frame) = Frame::decode(&bytes) {
            prop_assert_eq!(frame.encode(), bytes.clone());
        }
        if let Ok(message) = ToRelay::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes.clone());
        }
        if let Ok(message) = FromRelay::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes.clone());
        }
        if let Ok(certificate) = Certificate::decode(&bytes) {
            prop_assert_eq!(shoal_wire::codec::encode(&certificate), bytes.clone());
        }
        if let Ok(envelope) = shoal_wire::codec::decode::<Envelope>("envelope", &bytes, 500) {
            prop_assert!(envelope.open::<Vec<u8>>("payload", Domain::Swarm, 500).is_err());
        }
    }
}
