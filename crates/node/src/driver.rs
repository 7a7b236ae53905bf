//! One task that drives a peer: what happens goes into the mesh and the swarm, what they ask for goes out to links,
//! the relay's socket, threads that compute and the thread that writes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use shoal_swarm::{
    Command, Event, Input, Output, Swarm,
    mesh::{Mesh, MeshInput, MeshOutput, RelayState},
};
use shoal_wire::{Millis, PeerId};
use tokio::{
    sync::{
        mpsc::{Receiver, Sender, UnboundedReceiver},
        watch,
    },
    time::sleep_until,
};
use tokio_tungstenite::Connector;

use crate::{
    compute::{Compute, ComputeEvent},
    link::{Candidate, LinkEvent, LinkId, Links},
    node::{NodeEvent, Request, Status},
    socket::{Socket, SocketEvent},
    storage::{Storage, StorageEvent},
};

/// For a good-bye to reach the other peers.
const LEAVING: Duration = Duration::from_millis(700);
const STATUS_INTERVAL_MS: u64 = 250;

/// Milliseconds that grow with the monotonic clock, and start at the wall clock's.
struct Clock {
    start: Instant,
    start_ms: u64,
}

impl Clock {
    fn new() -> Self {
        // A clock set before 1970 counts as 1970.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), start_ms: wall.as_millis() as u64 }
    }

    fn now(&self) -> Millis {
        Millis(self.start_ms + self.start.elapsed().as_millis() as u64)
    }

    fn instant(&self, at: Millis) -> tokio::time::Instant {
        let ms = at.0.saturating_sub(self.start_ms).min(u64::from(u32::MAX));
        (self.start + Duration::from_millis(ms)).into()
    }
}

/// Everything that talks to the driver.
pub(crate) struct Inbox {
    pub links: Receiver<LinkEvent>,
    pub socket: Receiver<(u64, SocketEvent)>,
    pub compute: UnboundedReceiver<ComputeEvent>,
    pub storage: UnboundedReceiver<StorageEvent>,
    pub requests: Receiver<Request>,
}

/// Where the relay is.
pub(crate) struct Relay {
    pub url: String,
    pub connector: Connector,
    pub events: Sender<(u64, SocketEvent)>,
}

pub(crate) struct Driver {
    clock: Clock,
    mesh: Mesh,
    swarm: Swarm,
    /// What the mesh has for the swarm.
    arrived: VecDeque<Arrived>,
    links: Box<dyn Links>,
    compute: Box<dyn Compute>,
    storage: Storage,
    relay: Relay,
    socket: Option<Socket>,
    sockets: u64,
    relay_state: RelayState,
    paths: BTreeMap<PeerId, bool>,
    events: Sender<NodeEvent>,
    status: watch::Sender<Status>,
    status_at: Millis,
    mesh_wakes: Millis,
    swarm_wakes: Millis,
}

enum Arrived {
    Up(PeerId),
    Down(PeerId),
    Frame { from: PeerId, frame: Vec<u8> },
}

pub(crate) struct Parts {
    pub mesh: Mesh,
    pub links: Box<dyn Links>,
    pub compute: Box<dyn Compute>,
    pub storage: Storage,
    pub relay: Relay,
    pub events: Sender<NodeEvent>,
}

impl Driver {
    /// `make_swarm` gets the driver's time.
    pub fn new<E>(
        parts: Parts,
        make_swarm: impl FnOnce(Millis) -> Result<Swarm, E>,
    ) -> Result<(Self, watch::Receiver<Status>), E> {
        let clock = Clock::new();
        let swarm = make_swarm(clock.now())?;
        let first = Status {
            snapshot: swarm.snapshot(clock.now()),
            model: swarm.model(),
            relay: RelayState::Away,
            paths: BTreeMap::new(),
        };
        let (status, watched) = watch::channel(first);
        let Parts { mesh, links, compute, storage, relay, events } = parts;
        let driver = Self {
            clock,
            mesh,
            swarm,
            arrived: VecDeque::new(),
            links,
            compute,
            storage,
            relay,
            socket: None,
            sockets: 0,
            relay_state: RelayState::Away,
            paths: BTreeMap::new(),
            events,
            status,
            status_at: Millis(0),
            mesh_wakes: Millis(0),
            swarm_wakes: Millis(0),
        };
        Ok((driver, watched))
    }

    /// Drives the peer until it is asked to leave, or nobody holds its handle any more. [`Self::finish`] what it
    /// returns.
    pub async fn run(mut self, mut inbox: Inbox) -> (Self, UnboundedReceiver<ComputeEvent>) {
        self.drain_swarm();
        self.settle();
        let mut leaving_until = None;
        loop {
            let wake = self.clock.instant(self.mesh_wakes.min(self.swarm_wakes));
            let wake = leaving_until.map_or(wake, |until: tokio::time::Instant| wake.min(until));
            tokio::select! {
                Some(event) = inbox.links.recv() => self.on_link(event),
                Some((number, event)) = inbox.socket.recv() => self.on_socket(number, event),
                Some(event) = inbox.compute.recv() => self.on_compute(event),
                Some(event) = inbox.storage.recv() => self.on_storage(event),
                request = inbox.requests.recv(), if leaving_until.is_none() => match request {
                    Some(Request::Command(command)) => {
                        if command == Command::Start {
                            self.mesh(MeshInput::GoOn);
                        }
                        self.swarm(Input::Command(command));
                    }
                    Some(Request::Leave) => {
                        self.swarm(Input::Command(Command::Leave));
                        leaving_until = Some(tokio::time::Instant::now() + LEAVING);
                    }
                    // Dropped without a good-bye, like a crash.
                    None => return (self, inbox.compute),
                },
                () = sleep_until(wake) => {
                    self.mesh(MeshInput::Tick);
                    self.swarm(Input::Tick);
                }
            }
            self.settle();
            if leaving_until.is_some_and(|until| until <= tokio::time::Instant::now()) {
                return (self, inbox.compute);
            }
        }
    }

    /// Ends the threads, and stores what the last training still owes to the run. Blocks until they have ended.
    pub fn finish(self, mut compute: UnboundedReceiver<ComputeEvent>) {
        let Self { compute: workers, storage, .. } = self;
        drop(workers);
        while let Ok(event) = compute.try_recv() {
            if let ComputeEvent::Residual(residual) = event {
                storage.put_residual(residual);
            }
        }
    }

    /// Hands what the mesh received to the swarm, until both are idle.
    fn settle(&mut self) {
        while let Some(arrived) = self.arrived.pop_front() {
            match arrived {
                Arrived::Up(peer) => self.swarm(Input::LinkUp(peer)),
                Arrived::Down(peer) => self.swarm(Input::LinkDown(peer)),
                Arrived::Frame { from, frame } => self.swarm(Input::Frame { from, bytes: &frame }),
            }
        }
        let now = self.clock.now();
        if now.since(self.status_at) >= STATUS_INTERVAL_MS {
            self.publish(now);
        }
    }

    fn publish(&mut self, now: Millis) {
        self.status_at = now;
        self.status.send_replace(Status {
            snapshot: self.swarm.snapshot(now),
            model: self.swarm.model(),
            relay: self.relay_state,
            paths: self.paths.clone(),
        });
    }

    fn tell(&self, event: NodeEvent) {
        // News are for whoever listens; a listener that is too slow misses some.
        if self.events.try_send(event).is_err() {
            tracing::trace!("nobody took an event");
        }
    }

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Described { id: LinkId { peer, attempt }, offer, sdp } => {
                self.mesh(MeshInput::Described { peer, attempt, offer, sdp });
            }
            LinkEvent::Candidate { id: LinkId { peer, attempt }, candidate } => {
                let Candidate { text: candidate, mid, line } = candidate;
                self.mesh(MeshInput::Candidate { peer, attempt, candidate, mid, line });
            }
            LinkEvent::Opened(LinkId { peer, attempt }) => self.mesh(MeshInput::Opened { peer, attempt }),
            LinkEvent::Closed(LinkId { peer, attempt }) => self.mesh(MeshInput::Closed { peer, attempt }),
            LinkEvent::Piece { id: LinkId { peer, attempt }, bulk, bytes } => {
                self.mesh(MeshInput::Piece { from: peer, attempt, bulk, bytes: &bytes });
            }
        }
    }

    fn on_socket(&mut self, number: u64, event: SocketEvent) {
        if self.socket.as_ref().is_none_or(|socket| socket.number != number) {
            return;
        }
        match event {
            SocketEvent::Open => self.mesh(MeshInput::RelayOpen),
            SocketEvent::Message(message) => self.mesh(MeshInput::Relay(message)),
            SocketEvent::Lost(why) => {
                tracing::debug!(why, "the relay is away");
                self.socket = None;
                self.mesh(MeshInput::RelayLost);
            }
        }
    }

    fn on_compute(&mut self, event: ComputeEvent) {
        match event {
            ComputeEvent::Done { job, outcome } => self.swarm(Input::Computed { job, outcome }),
            ComputeEvent::Step { round, report } => self.tell(NodeEvent::Step { round, report }),
            ComputeEvent::HeldOut { round, loss } => self.tell(NodeEvent::HeldOut { round, loss }),
            ComputeEvent::Residual(residual) => self.storage.put_residual(residual),
            ComputeEvent::Engine { name, why } => self.tell(NodeEvent::Engine { name, why }),
        }
    }

    fn on_storage(&mut self, event: StorageEvent) {
        match event {
            StorageEvent::Persisted(record) => self.swarm(Input::Persisted(record)),
            StorageEvent::Failed { record, reason } => self.swarm(Input::PersistFailed { record, reason }),
            StorageEvent::Loaded { blob, bytes } => self.swarm(Input::Loaded { blob, bytes }),
        }
    }

    fn swarm(&mut self, input: Input<'_>) {
        if let Err(misuse) = self.swarm.handle(self.clock.now(), input) {
            tracing::error!(%misuse, "the swarm was not drained");
        }
        self.drain_swarm();
    }

    fn drain_swarm(&mut self) {
        loop {
            match self.swarm.poll() {
                Output::Idle(until) => {
                    self.swarm_wakes = until;
                    return;
                }
                Output::Send { to, frame, bulk } => self.mesh(MeshInput::Send { to, frame, bulk }),
                Output::Drop { peer, why } => {
                    tracing::warn!(peer = %peer.short(), why, "no longer linked with this peer");
                    self.mesh(MeshInput::Drop(peer));
                }
                Output::Compute { job, work } => self.compute.start(job, work),
                Output::Stop { job, keep } => self.compute.stop(job, keep),
                Output::Persist { id, record } => self.storage.persist(id, record),
                Output::Load { blob } => self.storage.load(blob),
                Output::Forget { blob } => self.storage.forget(blob),
                Output::Tell(event) => {
                    if let Event::RolledBack { to } = event {
                        self.storage.roll_back(to);
                    }
                    let replaced = matches!(event, Event::Replaced { .. });
                    self.publish(self.clock.now());
                    self.tell(NodeEvent::Swarm(event));
                    if replaced {
                        self.mesh(MeshInput::Rest);
                    }
                }
            }
        }
    }

    fn mesh(&mut self, input: MeshInput<'_>) {
        self.mesh.handle(self.clock.now(), input);
        loop {
            match self.mesh.poll() {
                MeshOutput::Idle(until) => {
                    self.mesh_wakes = until;
                    return;
                }
                output => self.mesh_output(output),
            }
        }
    }

    fn mesh_output(&mut self, output: MeshOutput) {
        match output {
            MeshOutput::Relay(message) => {
                if let Some(socket) = &self.socket {
                    socket.send(message);
                }
            }
            MeshOutput::ConnectRelay => self.connect_relay(),
            MeshOutput::LeaveRelay => {
                self.sockets += 1;
                self.socket = None;
            }
            MeshOutput::RelayState(state) => {
                self.relay_state = state;
                self.tell(NodeEvent::Relay(state));
            }
            MeshOutput::Offer { peer, attempt } => self.links.offer(LinkId { peer, attempt }),
            MeshOutput::AcceptOffer { peer, attempt, sdp } => self.links.accept_offer(LinkId { peer, attempt }, sdp),
            MeshOutput::AcceptAnswer { peer, attempt, sdp } => self.links.accept_answer(LinkId { peer, attempt }, sdp),
            MeshOutput::AddCandidate { peer, attempt, candidate, mid, line } => {
                self.links.add_candidate(LinkId { peer, attempt }, Candidate { text: candidate, mid, line });
            }
            MeshOutput::Close { peer, attempt } => self.links.close(LinkId { peer, attempt }),
            MeshOutput::Write { peer, attempt, bulk, piece } => {
                self.links.write(LinkId { peer, attempt }, bulk, piece);
            }
            MeshOutput::Up(peer) => self.arrived.push_back(Arrived::Up(peer)),
            MeshOutput::Down(peer) => {
                self.paths.remove(&peer);
                self.arrived.push_back(Arrived::Down(peer));
                self.tell(NodeEvent::Unlinked(peer));
            }
            MeshOutput::Frame { from, frame } => self.arrived.push_back(Arrived::Frame { from, frame }),
            MeshOutput::Path { peer, direct } => {
                self.paths.insert(peer, direct);
                self.tell(NodeEvent::Linked { peer, direct });
            }
            MeshOutput::Idle(_) => {}
        }
    }

    fn connect_relay(&mut self) {
        self.sockets += 1;
        let Relay { url, connector, events } = &self.relay;
        // The earlier socket closes when it is dropped here.
        self.socket = Some(Socket::connect(self.sockets, url.clone(), connector.clone(), events.clone()));
    }
}
