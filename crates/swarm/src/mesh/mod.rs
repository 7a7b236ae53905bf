//! Who is linked to whom, and how: the relay's WebSocket at once, a direct link as soon as one opens.
//!
//! One sans-I/O state machine per peer process, for every shell. It enters the relay's room, offers direct
//! links (the lower [`PeerId`] of a pair offers), signs and opens what peers tell each other to set them up,
//! cuts frames into pieces for the path in use, and starts again, with bounded backoff, whatever broke. Direct
//! links outlive the relay.
//!
//! The law is the swarm's: [`Mesh::handle`], then [`Mesh::poll`] until it says [`MeshOutput::Idle`]. The shell
//! names each direct link by peer and attempt, and drops events of links and sockets that it was told to close
//! or to replace. `now` should start at the wall clock's milliseconds, so that attempt numbers grow across
//! restarts.

mod link;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use shoal_wire::{
    Envelope, Identity, Millis, PeerId, RunId, frame, limits,
    relay::{FromRelay, LinkSignal, LinkStep, Refusal, ToRelay},
};

use link::{Link, Peer};
use session::{Due, Session};

/// Attempts at direct links in an hour: browsers refuse to construct more than some hundreds in a page's life.
const ATTEMPTS_PER_HOUR: u64 = 64;
const HOUR_MS: u64 = 3_600_000;
/// A direct link that has not opened by then never will.
const ATTEMPT_MS_MAX: u64 = 20_000;
/// How long the peer with the higher id waits for an offer before it asks for one.
const INVITE_AFTER_MS: u64 = 5_000;
/// No link with a peer that broke the rules for this long.
const BAN_MS: u64 = 300_000;

/// What happens to a mesh.
#[derive(Debug)]
pub enum MeshInput<'a> {
    /// The WebSocket asked for by [`MeshOutput::ConnectRelay`] is open.
    RelayOpen,
    /// It closed, or could not be opened.
    RelayLost,
    Relay(FromRelay),
    /// A message of a direct link's channel.
    Piece {
        from: PeerId,
        attempt: u64,
        bulk: bool,
        bytes: &'a [u8],
    },
    /// The local description that [`MeshOutput::Offer`] or [`MeshOutput::AcceptOffer`] led to.
    Described {
        peer: PeerId,
        attempt: u64,
        offer: bool,
        sdp: String,
    },
    /// A local candidate.
    Candidate {
        peer: PeerId,
        attempt: u64,
        candidate: String,
        mid: Option<String>,
        line: Option<u16>,
    },
    /// Both channels of the direct link are open.
    Opened {
        peer: PeerId,
        attempt: u64,
    },
    /// The direct link failed or closed.
    Closed {
        peer: PeerId,
        attempt: u64,
    },
    Send {
        to: PeerId,
        frame: Vec<u8>,
        bulk: bool,
    },
    /// This peer broke the rules: no link with it for a while.
    Drop(PeerId),
    /// Another process of this identity takes part: leave it the identity's links and its place at the relay.
    Rest,
    /// Look for links again after [`MeshInput::Rest`]; nothing otherwise.
    GoOn,
    Tick,
}

/// What a shell is to do.
#[derive(Debug, PartialEq)]
pub enum MeshOutput {
    Relay(ToRelay),
    /// Open the WebSocket now, closing an earlier one, whose events no longer count.
    ConnectRelay,
    /// Close the WebSocket, whose events no longer count.
    LeaveRelay,
    /// How the connection to the relay stands, for people.
    RelayState(RelayState),
    /// Make a direct link and describe it, as the side that offers.
    Offer {
        peer: PeerId,
        attempt: u64,
    },
    /// Make a direct link from the other side's offer, and describe this side.
    AcceptOffer {
        peer: PeerId,
        attempt: u64,
        sdp: String,
    },
    AcceptAnswer {
        peer: PeerId,
        attempt: u64,
        sdp: String,
    },
    AddCandidate {
        peer: PeerId,
        attempt: u64,
        candidate: String,
        mid: Option<String>,
        line: Option<u16>,
    },
    Close {
        peer: PeerId,
        attempt: u64,
    },
    /// Send one message on a channel of a direct link.
    Write {
        peer: PeerId,
        attempt: u64,
        bulk: bool,
        piece: Vec<u8>,
    },
    Up(PeerId),
    Down(PeerId),
    Frame {
        from: PeerId,
        frame: Vec<u8>,
    },
    /// Which way frames to this peer go from now on.
    Path {
        peer: PeerId,
        direct: bool,
    },
    /// Nothing more until an input, or this time.
    Idle(Millis),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayState {
    Away,
    Open,
    Refused(Refusal),
}

/// The links of one peer in one run.
#[derive(Debug)]
pub struct Mesh {
    run: RunId,
    identity: Identity,
    me: PeerId,
    direct: bool,
    now: Millis,
    session: Session,
    peers: BTreeMap<PeerId, Peer>,
    last_attempt: u64,
    /// Attempts that may be started now, in units of one attempt × [`HOUR_MS`].
    budget: u64,
    budget_at: Millis,
    outputs: VecDeque<MeshOutput>,
}

impl Mesh {
    /// `direct: false` keeps everything on the relay.
    pub fn new(run: RunId, identity: Identity, direct: bool) -> Self {
        let me = identity.peer();
        Self {
            run,
            identity,
            me,
            direct,
            now: Millis(0),
            session: Session::new(me),
            peers: BTreeMap::new(),
            last_attempt: 0,
            budget: ATTEMPTS_PER_HOUR * HOUR_MS,
            budget_at: Millis(0),
            outputs: VecDeque::new(),
        }
    }

    pub fn handle(&mut self, now: Millis, input: MeshInput<'_>) {
        self.now = self.now.max(now);
        match input {
            MeshInput::RelayOpen => self.session.opened(self.now),
            MeshInput::RelayLost => self.relay_lost(),
            MeshInput::Relay(message) => self.relay_said(message),
            MeshInput::Piece { from, attempt, bulk, bytes } => self.piece(from, attempt, bulk, bytes),
            MeshInput::Described { peer, attempt, offer, sdp } => self.described(peer, attempt, offer, sdp),
            MeshInput::Candidate { peer, attempt, candidate, mid, line } => {
                self.local_candidate(peer, attempt, LinkStep::Candidate { candidate, mid, line });
            }
            MeshInput::Opened { peer, attempt } => {
                let now = self.now;
                if let Some(link) = self.link_mut(peer, attempt) {
                    link.opened = Some(now);
                }
            }
            MeshInput::Closed { peer, attempt } => self.link_failed(peer, attempt),
            MeshInput::Send { to, frame, bulk } => self.send(to, &frame, bulk),
            MeshInput::Drop(peer) => self.ban(peer),
            MeshInput::Rest => self.rest(),
            MeshInput::GoOn => self.session.go_on(self.now),
            MeshInput::Tick => {}
        }
        self.advance();
    }

    pub fn poll(&mut self) -> MeshOutput {
        self.outputs.pop_front().unwrap_or_else(|| MeshOutput::Idle(self.wake_at()))
    }

    /// Peers that frames can be exchanged with now, and whether directly.
    pub fn linked(&self) -> impl Iterator<Item = (PeerId, bool)> + '_ {
        self.peers.iter().filter(|(_, peer)| peer.up).map(|(&id, peer)| (id, peer.is_direct()))
    }

    fn link_mut(&mut self, peer: PeerId, attempt: u64) -> Option<&mut Link> {
        self.peers.get_mut(&peer)?.link.as_mut().filter(|link| link.attempt == attempt)
    }

    // The relay.

    fn relay_lost(&mut self) {
        self.session.lost(self.now);
        self.outputs.push_back(MeshOutput::RelayState(RelayState::Away));
        for peer in self.peers.values_mut() {
            peer.left_room();
        }
    }

    fn relay_said(&mut self, message: FromRelay) {
        self.session.heard(self.now);
        match message {
            FromRelay::Challenge { nonce } => {
                self.outputs.push_back(MeshOutput::Relay(ToRelay::enter(&self.identity, self.run, &nonce)));
            }
            FromRelay::Entered { peers } => {
                self.session.entered();
                self.outputs.push_back(MeshOutput::RelayState(RelayState::Open));
                for peer in peers {
                    self.peer_entered(peer);
                }
            }
            FromRelay::PeerEntered(peer) => self.peer_entered(peer),
            FromRelay::PeerLeft(peer) => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.left_room();
                }
            }
            FromRelay::Signal { from, envelope } => self.signal(from, &envelope),
            FromRelay::Forward { from, piece } => self.forwarded(from, &piece),
            FromRelay::Pong => {}
            FromRelay::Draining { retry_ms } => self.session.draining(retry_ms.into()),
            FromRelay::Refused(refusal) => {
                self.session.refused(refusal);
                self.outputs.push_back(MeshOutput::RelayState(RelayState::Refused(refusal)));
            }
        }
    }

    fn peer_entered(&mut self, peer: PeerId) {
        if peer == self.me || !self.session.is_open() {
            return;
        }
        let in_room = self.peers.values().filter(|peer| peer.in_room).count();
        if in_room >= limits::ROOM_PEERS_MAX && !self.peers.contains_key(&peer) {
            return;
        }
        let wait_ms = if self.me < peer { 0 } else { INVITE_AFTER_MS };
        self.peers.entry(peer).or_default().entered_room(self.now + wait_ms);
    }

    fn forwarded(&mut self, from: PeerId, piece: &[u8]) {
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| peer.in_room && peer.banned_until.is_none()) else {
            return;
        };
        match peer.relay_joiner.push(piece) {
            Ok(Some(frame)) => self.outputs.push_back(MeshOutput::Frame { from, frame }),
            Ok(None) => {}
            // A relay may lose or mix up pieces: start over with the next frame.
            Err(_) => peer.relay_joiner = frame::Joiner::default(),
        }
    }

    // Setting up direct links.

    fn signal(&mut self, from: PeerId, envelope: &Envelope) {
        // A signal that does not hold, or of somebody else than the relay says, is worth nothing.
        let Ok(signal) = LinkSignal::open(envelope, self.run, self.me) else { return };
        if signal.from() != from || !self.direct || !self.session.is_open() {
            return;
        }
        let signal = signal.into_inner();
        match signal.step {
            LinkStep::Offer { sdp } => self.offered(from, signal.attempt, sdp),
            LinkStep::Answer { sdp } => {
                if let Some(link) =
                    self.link_mut(from, signal.attempt).filter(|link| link.offerer && !link.remote_known)
                {
                    link.remote_known = true;
                    let held = core::mem::take(&mut link.remote_candidates);
                    self.outputs.push_back(MeshOutput::AcceptAnswer { peer: from, attempt: signal.attempt, sdp });
                    for step in held {
                        self.remote_candidate(from, signal.attempt, step);
                    }
                }
            }
            step @ LinkStep::Candidate { .. } => self.remote_candidate(from, signal.attempt, step),
            LinkStep::Invite => self.invited(from, signal.attempt),
        }
    }

    fn offered(&mut self, from: PeerId, attempt: u64, sdp: String) {
        let full = self.links() >= limits::LINKS_MAX;
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| peer.banned_until.is_none()) else { return };
        // Only the lower id offers; an old offer played again must not end a newer link.
        let fresh = attempt > peer.newest_attempt || (peer.link.is_none() && attempt != peer.newest_attempt);
        if self.me < from || !fresh || (full && peer.link.is_none()) {
            return;
        }
        peer.newest_attempt = attempt;
        let mut link = Link::new(attempt, false, now);
        link.remote_known = true;
        if let Some(old) = peer.link.replace(link) {
            self.outputs.push_back(MeshOutput::Close { peer: from, attempt: old.attempt });
        }
        self.outputs.push_back(MeshOutput::AcceptOffer { peer: from, attempt, sdp });
    }

    /// The other side has no link: what this side takes for one, if it is the same attempt, is dead.
    fn invited(&mut self, from: PeerId, attempt: u64) {
        let stale = |link: &Link| link.attempt == attempt && self.now.since(link.since) >= INVITE_AFTER_MS;
        if self.me < from && self.peers.get(&from).and_then(|peer| peer.link.as_ref()).is_some_and(stale) {
            self.link_failed(from, attempt);
        }
    }

    fn described(&mut self, peer: PeerId, attempt: u64, offer: bool, sdp: String) {
        let Some(link) = self.link_mut(peer, attempt).filter(|link| link.offerer == offer && !link.local_told) else {
            return;
        };
        link.local_told = true;
        let held = core::mem::take(&mut link.local_candidates);
        self.tell(peer, attempt, if offer { LinkStep::Offer { sdp } } else { LinkStep::Answer { sdp } });
        for step in held {
            self.tell(peer, attempt, step);
        }
    }

    /// Candidates follow the description that they belong to.
    fn local_candidate(&mut self, peer: PeerId, attempt: u64, step: LinkStep) {
        match self.link_mut(peer, attempt) {
            Some(link) if link.local_told => self.tell(peer, attempt, step),
            Some(link) => link.hold_local(step),
            None => {}
        }
    }

    fn remote_candidate(&mut self, peer: PeerId, attempt: u64, step: LinkStep) {
        match (self.link_mut(peer, attempt), step) {
            (Some(link), step) if !link.remote_known => link.hold_remote(step),
            (Some(_), LinkStep::Candidate { candidate, mid, line }) => {
                self.outputs.push_back(MeshOutput::AddCandidate { peer, attempt, candidate, mid, line });
            }
            _ => {}
        }
    }

    fn tell(&mut self, peer: PeerId, attempt: u64, step: LinkStep) {
        if self.session.is_open() {
            let envelope = LinkSignal { run: self.run, to: peer, attempt, step }.seal(&self.identity);
            self.outputs.push_back(MeshOutput::Relay(ToRelay::Signal { to: peer, envelope }));
        }
    }

    fn link_failed(&mut self, id: PeerId, attempt: u64) {
        let now = self.now;
        let invites = id < self.me;
        if let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.has_link(attempt)) {
            peer.fail(now, invites);
            self.outputs.push_back(MeshOutput::Close { peer: id, attempt });
        }
    }

    fn links(&self) -> usize {
        self.peers.values().filter(|peer| peer.link.is_some()).count()
    }

    fn rest(&mut self) {
        self.session.rest();
        self.outputs.push_back(MeshOutput::LeaveRelay);
        self.outputs.push_back(MeshOutput::RelayState(RelayState::Away));
        for (id, peer) in &mut self.peers {
            peer.left_room();
            if let Some(link) = peer.link.take() {
                self.outputs.push_back(MeshOutput::Close { peer: *id, attempt: link.attempt });
            }
        }
    }

    fn ban(&mut self, id: PeerId) {
        let until = self.now + BAN_MS;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.banned_until = Some(until);
        if let Some(link) = peer.link.take() {
            self.outputs.push_back(MeshOutput::Close { peer: id, attempt: link.attempt });
        }
    }

    // Frames.

    fn piece(&mut self, from: PeerId, attempt: u64, bulk: bool, bytes: &[u8]) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(link) = peer.link.as_mut().filter(|link| link.attempt == attempt) else { return };
        match link.joiners[usize::from(bulk)].push(bytes) {
            Ok(Some(frame)) if peer.up => self.outputs.push_back(MeshOutput::Frame { from, frame }),
            // The other side saw the link open first.
            Ok(Some(frame)) => link.hold_early(frame),
            Ok(None) => {}
            Err(_) => self.link_failed(from, attempt),
        }
    }

    /// Frames to a peer that is not linked are lost; [`MeshOutput::Down`] said so.
    fn send(&mut self, to: PeerId, frame: &[u8], bulk: bool) {
        let Some(peer) = self.peers.get(&to).filter(|peer| peer.up) else { return };
        if let Some(Link { opened: Some(_), attempt, .. }) = &peer.link {
            let attempt = *attempt;
            let writes = frame::pieces(frame).map(|piece| MeshOutput::Write { peer: to, attempt, bulk, piece });
            self.outputs.extend(writes);
        } else {
            let pieces = frame::pieces(frame).map(|piece| MeshOutput::Relay(ToRelay::Forward { to, piece }));
            self.outputs.extend(pieces);
        }
    }

    // Time.

    fn advance(&mut self) {
        let was_open = self.session.is_open();
        match self.session.due(self.now) {
            Some(Due::Connect) => {
                if was_open {
                    // A session that went silent is given up like one that closed.
                    self.outputs.push_back(MeshOutput::RelayState(RelayState::Away));
                    self.peers.values_mut().for_each(Peer::left_room);
                }
                self.outputs.push_back(MeshOutput::ConnectRelay);
            }
            Some(Due::Ping) => self.outputs.push_back(MeshOutput::Relay(ToRelay::Ping)),
            None => {}
        }
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            self.advance_peer(id);
        }
        let session_open = self.session.is_open();
        self.peers.retain(|_, peer| !peer.is_idle(session_open));
    }

    fn advance_peer(&mut self, id: PeerId) {
        let now = self.now;
        let timed_out = self.peers.get(&id).and_then(|peer| peer.attempt_overdue(now));
        if let Some(attempt) = timed_out {
            self.link_failed(id, attempt);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.settle(now);
        }
        self.start_link(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let usable = peer.banned_until.is_none() && (peer.in_room || peer.is_direct());
        let direct = peer.is_direct();
        if usable && !peer.up {
            self.outputs.push_back(MeshOutput::Up(id));
        } else if !usable && peer.up {
            self.outputs.push_back(MeshOutput::Down(id));
        }
        peer.up = usable;
        let path = usable.then_some(direct);
        if peer.path != path {
            peer.path = path;
            self.outputs.extend(path.map(|direct| MeshOutput::Path { peer: id, direct }));
        }
        if let Some(link) = peer.link.as_mut().filter(|_| usable) {
            let early = link.early.drain(..).map(|frame| MeshOutput::Frame { from: id, frame });
            self.outputs.extend(early);
        }
    }

    fn start_link(&mut self, id: PeerId) {
        let free = self.direct && self.session.is_open() && self.links() < limits::LINKS_MAX;
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| free && peer.wants_link(self.now)) else { return };
        if id < self.me {
            let attempt = peer.newest_attempt;
            peer.backoff(self.now, true);
            self.tell(id, attempt, LinkStep::Invite);
        } else if take_attempt(&mut self.budget, &mut self.budget_at, self.now) {
            self.last_attempt = self.now.0.max(self.last_attempt + 1);
            peer.link = Some(Link::new(self.last_attempt, true, self.now));
            self.outputs.push_back(MeshOutput::Offer { peer: id, attempt: self.last_attempt });
        } else {
            peer.retry_at = self.now + HOUR_MS / ATTEMPTS_PER_HOUR;
        }
    }

    fn wake_at(&self) -> Millis {
        let can_link = self.direct && self.session.is_open() && self.links() < limits::LINKS_MAX;
        let peers = self.peers.values().filter_map(|peer| peer.wake_at(can_link));
        peers.chain(core::iter::once(self.session.wake_at())).min().unwrap_or(Millis::NEVER)
    }
}

/// Takes one attempt from a budget that refills by [`ATTEMPTS_PER_HOUR`].
fn take_attempt(budget: &mut u64, budget_at: &mut Millis, now: Millis) -> bool {
    let earned = now.since(*budget_at).saturating_mul(ATTEMPTS_PER_HOUR);
    *budget = budget.saturating_add(earned).min(ATTEMPTS_PER_HOUR * HOUR_MS);
    *budget_at = now;
    let enough = *budget >= HOUR_MS;
    if enough {
        *budget -= HOUR_MS;
    }
    enough
}
