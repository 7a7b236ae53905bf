//! Direct links over WebRTC: a task a link, two negotiated data channels.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::BytesMut;
use tokio::{
    sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
};
use webrtc::{
    data_channel::{DataChannel, DataChannelEvent, RTCDataChannelInit},
    peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceCandidateInit,
        RTCPeerConnectionIceEvent, RTCPeerConnectionState, RTCSessionDescription, SettingEngineBuilder,
    },
};

use crate::link::{Candidate, LinkEvent, LinkId, Links};

/// Bytes handed to a channel and not yet acknowledged, before writes wait.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Bytes that wait for a channel; a peer that lets more pile up is cut off.
const QUEUED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A window of 1 MiB would limit a link of 100 ms to 80 Mbit/s.
const RECEIVE_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The first connection's value holds for the process; drivers on all of tokio's threads are slower.
const REACTOR_THREADS: usize = 2;
/// Stream ids of the two channels, in both directions the same.
const CHANNELS: [(&str, u16); 2] = [("control", 0), ("bulk", 1)];

/// Links by webrtc-rs. Dropping it closes them.
pub struct RtcLinks {
    events: Sender<LinkEvent>,
    /// Offer addresses on this computer only, for peers that share it.
    loopback: bool,
    links: BTreeMap<LinkId, UnboundedSender<Command>>,
}

enum Command {
    Answer(String),
    Candidate(Candidate),
    Write { bulk: bool, piece: Vec<u8> },
}

impl RtcLinks {
    /// Must be used inside a tokio runtime.
    pub fn new(events: Sender<LinkEvent>, loopback: bool) -> Self {
        Self { events, loopback, links: BTreeMap::new() }
    }

    fn start(&mut self, id: LinkId, offer: Option<String>) {
        let (sender, commands) = unbounded_channel();
        self.links.insert(id, sender);
        tokio::spawn(run_link(id, offer, self.loopback, commands, self.events.clone()));
    }

    fn command(&mut self, id: LinkId, command: Command) {
        if self.links.get(&id).is_some_and(|link| link.send(command).is_err()) {
            // Its task ended and said so in an event.
            self.links.remove(&id);
        }
    }
}

impl Links for RtcLinks {
    fn offer(&mut self, id: LinkId) {
        self.start(id, None);
    }

    fn accept_offer(&mut self, id: LinkId, sdp: String) {
        self.start(id, Some(sdp));
    }

    fn accept_answer(&mut self, id: LinkId, sdp: String) {
        self.command(id, Command::Answer(sdp));
    }

    fn add_candidate(&mut self, id: LinkId, candidate: Candidate) {
        self.command(id, Command::Candidate(candidate));
    }

    fn write(&mut self, id: LinkId, bulk: bool, piece: Vec<u8>) {
        self.command(id, Command::Write { bulk, piece });
    }

    fn close(&mut self, id: LinkId) {
        // The task ends when its commands do.
        self.links.remove(&id);
    }
}

/// Why a link ended, for the log.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Rtc(#[from] webrtc::error::Error),
    #[error("the connection failed or was closed by the other side")]
    Lost,
    #[error("{0} bytes wait to be sent")]
    Congested(usize),
    #[error("this peer stopped")]
    Stopped,
}

async fn run_link(
    id: LinkId,
    offer: Option<String>,
    loopback: bool,
    commands: UnboundedReceiver<Command>,
    events: Sender<LinkEvent>,
) {
    match Box::pin(drive_link(id, offer, loopback, commands, &events)).await {
        Ok(()) => tracing::debug!(peer = %id.peer.short(), attempt = id.attempt, "link closed here"),
        Err(error) => tracing::debug!(peer = %id.peer.short(), attempt = id.attempt, %error, "link ended"),
    }
    if events.send(LinkEvent::Closed(id)).await.is_err() {
        tracing::trace!("nobody is interested in links any more");
    }
}

/// What a link's channels and connection tell its task.
enum Inner {
    Open,
    Lost,
}

async fn drive_link(
    id: LinkId,
    offer: Option<String>,
    loopback: bool,
    mut commands: UnboundedReceiver<Command>,
    events: &Sender<LinkEvent>,
) -> Result<(), LinkError> {
    let (inner_sender, mut inner) = unbounded_channel();
    let handler = Handler { id, events: events.clone(), inner: inner_sender.clone() };
    let connection = Box::pin(connect(handler, loopback)).await?;
    let mut tasks = JoinSet::new();
    let queued = Arc::new(AtomicUsize::new(0));
    let mut writers = Vec::with_capacity(CHANNELS.len());
    for (index, (label, stream)) in CHANNELS.into_iter().enumerate() {
        let init = RTCDataChannelInit { negotiated: Some(stream), ..RTCDataChannelInit::default() };
        let channel = connection.create_data_channel(label, Some(init)).await?;
        tasks.spawn(read_channel(id, index == 1, channel.clone(), events.clone(), inner_sender.clone()));
        let (writer, pieces) = unbounded_channel();
        tasks.spawn(write_channel(channel, pieces, queued.clone(), inner_sender.clone()));
        writers.push(writer);
    }
    describe(&connection, id, offer, events).await?;

    let mut open = 0;
    let ended = loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => break Ok(()),
                Some(Command::Answer(sdp)) => {
                    connection.set_remote_description(RTCSessionDescription::answer(sdp)?).await?;
                }
                Some(Command::Candidate(candidate)) => add_candidate(&connection, candidate).await,
                Some(Command::Write { bulk, piece }) => {
                    let waiting = queued.fetch_add(piece.len(), Ordering::Relaxed) + piece.len();
                    if waiting > QUEUED_BYTES_MAX {
                        break Err(LinkError::Congested(waiting));
                    }
                    if writers[usize::from(bulk)].send(piece).is_err() {
                        break Err(LinkError::Lost);
                    }
                }
            },
            event = inner.recv() => match event {
                Some(Inner::Open) => {
                    open += 1;
                    if open == CHANNELS.len() {
                        events.send(LinkEvent::Opened(id)).await.map_err(|_| LinkError::Stopped)?;
                    }
                }
                Some(Inner::Lost) | None => break Err(LinkError::Lost),
            },
        }
    };
    tasks.abort_all();
    connection.close().await?;
    ended
}

async fn connect(handler: Handler, loopback: bool) -> Result<impl PeerConnection, LinkError> {
    let mut addresses = vec!["0.0.0.0:0"];
    if loopback {
        addresses.push("127.0.0.1:0");
    }
    let settings = SettingEngineBuilder::new()
        .with_sctp_max_receive_buffer_size(RECEIVE_WINDOW_BYTES)
        .with_include_loopback_candidate(loopback)
        .build();
    let building = PeerConnectionBuilder::new()
        .with_setting_engine(settings)
        .with_handler(Arc::new(handler))
        .with_udp_addrs(addresses)
        .with_dedicated_reactor_pool_size(REACTOR_THREADS)
        .with_data_channel_send_buffer_limit(SEND_BUFFER_BYTES)
        .build();
    Ok(Box::pin(building).await?)
}

async fn describe(
    connection: &impl PeerConnection,
    id: LinkId,
    offer: Option<String>,
    events: &Sender<LinkEvent>,
) -> Result<(), LinkError> {
    let offers = offer.is_none();
    let description = match offer {
        None => connection.create_offer(None).await?,
        Some(sdp) => {
            connection.set_remote_description(RTCSessionDescription::offer(sdp)?).await?;
            connection.create_answer(None).await?
        }
    };
    let sdp = description.sdp.clone();
    connection.set_local_description(description).await?;
    events.send(LinkEvent::Described { id, offer: offers, sdp }).await.map_err(|_| LinkError::Stopped)
}

async fn add_candidate(connection: &impl PeerConnection, candidate: Candidate) {
    // Browsers hide addresses behind names that only multicast DNS resolves. They reach this peer's plain
    // addresses all the same, and their own are learnt from that.
    if candidate.text.is_empty() || candidate.text.contains(".local ") {
        return;
    }
    let init = RTCIceCandidateInit {
        candidate: candidate.text,
        sdp_mid: candidate.mid,
        sdp_mline_index: candidate.line,
        ..RTCIceCandidateInit::default()
    };
    if let Err(error) = connection.add_ice_candidate(init).await {
        // One candidate of several; others may do.
        tracing::debug!(%error, "a candidate is of no use");
    }
}

async fn read_channel(
    id: LinkId,
    bulk: bool,
    channel: Arc<dyn DataChannel>,
    events: Sender<LinkEvent>,
    inner: UnboundedSender<Inner>,
) {
    while let Some(event) = channel.poll().await {
        match event {
            DataChannelEvent::OnOpen if inner.send(Inner::Open).is_err() => return,
            DataChannelEvent::OnMessage(message) => {
                // Waiting here closes the receive window, so a slow peer slows its senders.
                let piece = LinkEvent::Piece { id, bulk, bytes: message.data.to_vec() };
                if events.send(piece).await.is_err() {
                    return;
                }
            }
            DataChannelEvent::OnClose => break,
            _ => {}
        }
    }
    drop(inner.send(Inner::Lost)); // fails only when the link's task ended before
}

async fn write_channel(
    channel: Arc<dyn DataChannel>,
    mut pieces: UnboundedReceiver<Vec<u8>>,
    queued: Arc<AtomicUsize>,
    inner: UnboundedSender<Inner>,
) {
    while let Some(piece) = pieces.recv().await {
        let bytes = piece.len();
        if channel.send(BytesMut::from(&piece[..])).await.is_err() {
            drop(inner.send(Inner::Lost)); // fails only when the link's task ended before
            return;
        }
        queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}

struct Handler {
    id: LinkId,
    events: Sender<LinkEvent>,
    inner: UnboundedSender<Inner>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        let Ok(init) = event.candidate.to_json() else { return };
        let candidate = Candidate { text: init.candidate, mid: init.sdp_mid, line: init.sdp_mline_index };
        if self.events.send(LinkEvent::Candidate { id: self.id, candidate }).await.is_err() {
            tracing::trace!("nobody is interested in candidates any more");
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        tracing::trace!(peer = %self.id.peer.short(), %state, "link state");
        if matches!(state, RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed) {
            drop(self.inner.send(Inner::Lost)); // fails only when the link's task ended before
        }
    }
}
