//! What a client and a relay say to each other over the WebSocket `/api/signal`: postcard, one message each.
//!
//! The relay sends [`FromRelay::Challenge`]; the client answers with [`ToRelay::Enter`]; after
//! [`FromRelay::Entered`] it signals to the other peers in the room, and has frames carried to those it has no
//! direct link to. What is forwarded is a piece as a data channel would carry it ([`crate::frame::pieces`]).

use serde::{Deserialize, Serialize};

use crate::{
    Envelope, PeerId, RunId, WireError, codec, limits,
    sign::{self, Domain, Identity, Signature, Verified},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToRelay {
    /// Signs [`challenge_payload`].
    Enter {
        run: RunId,
        peer: PeerId,
        signature: Signature,
    },
    /// A sealed [`LinkSignal`] for a peer in the room.
    Signal {
        to: PeerId,
        envelope: Envelope,
    },
    /// A piece of a frame for a peer in the room.
    Forward {
        to: PeerId,
        piece: Vec<u8>,
    },
    Ping,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromRelay {
    Challenge {
        nonce: [u8; 32],
    },
    Entered {
        peers: Vec<PeerId>,
    },
    PeerEntered(PeerId),
    PeerLeft(PeerId),
    Signal {
        from: PeerId,
        envelope: Envelope,
    },
    Forward {
        from: PeerId,
        piece: Vec<u8>,
    },
    Pong,
    /// The relay is shutting down: reconnect after this long.
    Draining {
        retry_ms: u32,
    },
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    UnknownRun,
    BadSignature,
    RoomFull,
    TooFast,
    Malformed,
    /// The same peer entered again from elsewhere; the newer connection stays.
    Replaced,
}

/// What peers tell each other to set up a direct link, sealed under [`Domain::Link`]: a relay cannot put
/// itself in the middle, because the DTLS fingerprint inside the description is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSignal {
    pub run: RunId,
    pub to: PeerId,
    /// Attempt number chosen by the offerer (the lower peer id); answers and candidates repeat it.
    pub attempt: u64,
    pub step: LinkStep,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkStep {
    Offer {
        sdp: String,
    },
    Answer {
        sdp: String,
    },
    Candidate {
        candidate: String,
        mid: Option<String>,
        line: Option<u16>,
    },
    /// "Please offer": sent by the peer with the higher id, which never offers itself.
    Invite,
}

impl LinkSignal {
    pub fn seal(&self, identity: &Identity) -> Envelope {
        identity.seal(Domain::Link, self)
    }

    /// Opens a signal that must be for `me` in `run`.
    pub fn open(envelope: &Envelope, run: RunId, me: PeerId) -> Result<Verified<Self>, WireError> {
        let signal: Verified<Self> = envelope.open("link signal", Domain::Link, limits::SIGNAL_BYTES_MAX)?;
        if signal.run == run && signal.to == me { Ok(signal) } else { Err(WireError::OtherRun { what: "link signal" }) }
    }
}

/// What [`ToRelay::Enter`] signs under [`Domain::RelayChallenge`].
pub fn challenge_payload(nonce: &[u8; 32], run: RunId, peer: PeerId) -> Vec<u8> {
    codec::encode(&(nonce, run, peer))
}

pub fn verify_enter(nonce: &[u8; 32], run: RunId, peer: PeerId, signature: &Signature) -> Result<(), WireError> {
    sign::verify(peer, Domain::RelayChallenge, &challenge_payload(nonce, run, peer), signature)
}

impl ToRelay {
    pub fn enter(identity: &Identity, run: RunId, nonce: &[u8; 32]) -> Self {
        let peer = identity.peer();
        let signature = identity.sign(Domain::RelayChallenge, &challenge_payload(nonce, run, peer));
        Self::Enter { run, peer, signature }
    }

    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        codec::decode("relay message", bytes, limits::RELAY_MESSAGE_BYTES_MAX)
    }
}

impl FromRelay {
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        codec::decode("relay message", bytes, limits::RELAY_MESSAGE_BYTES_MAX)
    }
}
