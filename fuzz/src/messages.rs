//! Frames, envelopes, certificates and signalling as bytes from a peer or a relay.

use shoal_swarm::mesh::{Mesh, MeshInput, MeshOutput};
use shoal_wire::{
    Envelope, Manifest, Millis, codec,
    frame::{Frame, Joiner, pieces},
    limits::{CERTIFICATE_BYTES_MAX, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX},
    record::{Certificate, Message, Said},
    relay::{FromRelay, LinkSignal, ToRelay},
    sign::Domain,
};

use crate::{
    ring::{self, ME, RING},
    script::Choices,
};

/// A frame that decodes has this encoding and no other, whatever pieces it comes in.
pub fn frames(data: &[u8]) {
    if let Ok(frame) = Frame::decode(data) {
        assert_eq!(frame.encode(), data);
    }
    let mut joiner = Joiner::default();
    let joined: Vec<Vec<u8>> = pieces(data).filter_map(|piece| joiner.push(&piece).expect("pieces as cut")).collect();
    assert_eq!(joined, [data]);
    let mut draw = Choices::new(data);
    let mut joiner = Joiner::default();
    while let Some(piece) = draw.slice() {
        if let Ok(Some(frame)) = joiner.push(piece) {
            assert!(frame.len() <= FRAME_BYTES_MAX);
        }
    }
}

/// A liar's signature holds, whatever it signs.
pub fn envelopes(data: &[u8]) {
    let run = RING.chain.run();
    if let Ok(envelope) = codec::decode::<Envelope>("envelope", data, MESSAGE_BYTES_MAX)
        && let Ok(said) = Said::open(&envelope, run)
    {
        assert_eq!(codec::encode(&*said), envelope.payload);
    }
    let liar = &RING.identities[0];
    let sealed = |domain| Envelope { from: liar.peer(), payload: data.to_vec(), signature: liar.sign(domain, data) };
    if let Ok(said) = Said::open(&sealed(Domain::Swarm), run) {
        let said = said.into_inner();
        assert_eq!(codec::encode(&said), data);
        if let Message::Proposal(proposal) = said.message
            && let Ok(step) = RING.chain.check_body(&proposal.body)
        {
            assert_eq!(step.model, proposal.body.content.model);
        }
    }
    if let Ok(manifest) = Manifest::open(&sealed(Domain::Manifest)) {
        assert_eq!(codec::encode(&manifest), data);
    }
}

/// What applies has a quorum and is the next round, also when everybody lies together.
pub fn certificates(data: &[u8]) {
    let Ok(certificate) = Certificate::decode(data) else { return };
    assert_eq!(codec::encode(&certificate), data);
    let signed = ring::certificate(&RING.chain, &certificate.body, certificate.view, &RING.identities);
    for certificate in [certificate, signed] {
        let mut chain = RING.chain.clone();
        let before = chain.head().clone();
        if let Ok(step) = chain.apply(&certificate) {
            assert_eq!((step.round, step.before, step.model), (before.round + 1, before.model, chain.head().model));
            assert!(codec::encode(&certificate).len() <= CERTIFICATE_BYTES_MAX + 4096);
            assert!(chain.undo());
            assert_eq!(*chain.head(), before);
        }
        // Against the round before: what would take the place of one that is certified.
        RING.chain.is_beaten_by(&certificate);
    }
}

/// A relay says anything, and what it passes on may be signed by a member.
pub fn signals(data: &[u8]) {
    if let Ok(message) = ToRelay::decode(data) {
        assert_eq!(message.encode(), data);
    }
    if let Ok(message) = FromRelay::decode(data) {
        assert_eq!(message.encode(), data);
    }
    let mut mesh = Mesh::new(RING.chain.run(), RING.identities[ME].clone(), true);
    let mut now = Millis(1_000_000);
    mesh.handle(now, MeshInput::Tick);
    drain(&mut mesh);
    mesh.handle(now, MeshInput::RelayOpen);
    let mut draw = Choices::new(data);
    while let Some(kind) = draw.byte() {
        now = now + u64::from(kind / 4) * 100;
        let by = draw.below(ME);
        let Some(bytes) = draw.slice() else { break };
        let liar = &RING.identities[by];
        match kind % 4 {
            0 => {
                let Ok(message) = FromRelay::decode(bytes) else { continue };
                mesh.handle(now, MeshInput::Relay(message));
            }
            1 => {
                let Ok(signal) = codec::decode::<LinkSignal>("link signal", bytes, MESSAGE_BYTES_MAX) else { continue };
                let envelope = signal.seal(liar);
                mesh.handle(now, MeshInput::Relay(FromRelay::Signal { from: liar.peer(), envelope }));
            }
            2 => mesh.handle(now, MeshInput::Relay(FromRelay::Forward { from: liar.peer(), piece: bytes.to_vec() })),
            _ => mesh.handle(now, MeshInput::Send { to: liar.peer(), frame: bytes.to_vec(), bulk: false }),
        }
        drain(&mut mesh);
    }
}

fn drain(mesh: &mut Mesh) {
    for _ in 0..100_000 {
        match mesh.poll() {
            MeshOutput::Idle(_) => return,
            MeshOutput::Relay(message) => assert_eq!(ToRelay::decode(&message.encode()).as_ref(), Ok(&message)),
            MeshOutput::Frame { frame, .. } => assert!(frame.len() <= FRAME_BYTES_MAX),
            _ => {}
        }
    }
    panic!("a mesh that never comes to rest");
}
