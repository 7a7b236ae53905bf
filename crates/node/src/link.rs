//! Direct links to other peers, whatever makes them.

use shoal_wire::PeerId;

/// Makes, describes and carries direct links, each named by the other peer and the attempt. Everything answers
/// through [`LinkEvent`]s; nothing waits. Links that are unknown or closed are ignored.
pub trait Links: Send {
    /// Makes a link and describes it, as the side that offers.
    fn offer(&mut self, id: LinkId);
    /// Makes a link from the other side's offer, and describes this side.
    fn accept_offer(&mut self, id: LinkId, sdp: String);
    fn accept_answer(&mut self, id: LinkId, sdp: String);
    fn add_candidate(&mut self, id: LinkId, candidate: Candidate);
    /// Sends one message on the control or the bulk channel, in order.
    fn write(&mut self, id: LinkId, bulk: bool, piece: Vec<u8>);
    fn close(&mut self, id: LinkId);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId {
    pub peer: PeerId,
    pub attempt: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The `candidate` attribute's value.
    pub text: String,
    pub mid: Option<String>,
    pub line: Option<u16>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum LinkEvent {
    Described {
        id: LinkId,
        offer: bool,
        sdp: String,
    },
    Candidate {
        id: LinkId,
        candidate: Candidate,
    },
    /// Both channels are open.
    Opened(LinkId),
    Closed(LinkId),
    Piece {
        id: LinkId,
        bulk: bool,
        bytes: Vec<u8>,
    },
}
