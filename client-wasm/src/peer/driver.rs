//! The loop that owns a peer's state: news in, `handle`, then `poll` until idle.

use std::collections::VecDeque;

use shoal_swarm::{
    Command, Event, Input, Output, Swarm,
    mesh::{Mesh, MeshInput, MeshOutput, RelayState},
};
use shoal_wire::{Millis, PeerId, limits, record::Verdict};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use web_sys::{MessagePort, RtcDataChannel};

use super::{
    links::{self, LinkKey, Links},
    relay::{Relay, RelayNews},
    restore::Kept,
};
use crate::{
    blob::Blob,
    inbox::Inbox,
    lane::LaneEvent,
    messages::{
        Counters, Failure, FromCompute, LinkCommand, LinkName, LinkNews, PageCommand, PeerNews, Status, ToCompute,
    },
    scope,
};

/// The page hears of progress at most this often.
const STATUS_MS: u64 = 200;
/// What a good-bye gets to leave the browser's buffers.
const LEAVE_MS: f64 = 150.0;

#[derive(Debug)]
pub enum News {
    Relay(u64, RelayNews),
    Channels { link: LinkName, channels: [RtcDataChannel; 2] },
    Lane { key: LinkKey, bulk: bool, event: LaneEvent },
    Link(LinkNews),
    Compute(FromCompute),
    Page(PageCommand),
    Alarm,
}

/// An input of the swarm that owns its bytes.
enum Due {
    Up(PeerId),
    Down(PeerId),
    Frame { from: PeerId, frame: Vec<u8> },
    Plain(Input<'static>),
}

pub struct Driver {
    swarm: Swarm,
    mesh: Mesh,
    kept: Kept,
    compute: MessagePort,
    relay: Relay,
    links: Links,
    inbox: Inbox<News>,
    alarm: scope::Alarm,
    counters: Counters,
    due: VecDeque<Due>,
    status_at: Millis,
    swarm_wakes: Millis,
}

pub fn post_to(port: &MessagePort, message: &ToCompute) {
    let posted = postcard::to_allocvec(message)
        .map_err(|error| error.to_string())
        .and_then(|bytes| scope::post_bytes(port, &bytes).map_err(|error| scope::words(&error)));
    if let Err(error) = posted {
        scope::post_failure(&Failure::new("engine", &format!("the compute worker cannot be reached: {error}")));
    }
}

impl Driver {
    pub fn new(
        swarm: Swarm,
        mesh: Mesh,
        kept: Kept,
        compute: MessagePort,
        relay_origin: &str,
        inbox: Inbox<News>,
    ) -> Self {
        let ringing = inbox.clone();
        let ring: JsValue = Closure::<dyn FnMut()>::new(move || ringing.push(News::Alarm)).into_js_value();
        let durable = kept.is_durable();
        Self {
            swarm,
            mesh,
            kept,
            compute,
            relay: Relay::new(relay_origin, inbox.clone()),
            links: Links::new(inbox.clone()),
            inbox,
            alarm: scope::Alarm::new(ring.unchecked_into()),
            counters: Counters { durable, ..Counters::default() },
            due: VecDeque::new(),
            status_at: Millis(0),
            swarm_wakes: Millis(0),
        }
    }

    pub async fn run(mut self) {
        self.due.push_back(Due::Plain(Input::Command(Command::Start)));
        self.mesh_input(MeshInput::Tick);
        self.evaluate();
        loop {
            self.settle().await;
            match self.inbox.next().await {
                News::Page(PageCommand::Leave) => {
                    self.due.push_back(Due::Plain(Input::Command(Command::Leave)));
                    self.settle().await;
                    scope::sleep(LEAVE_MS).await;
                    scope::post(&PeerNews::Left);
                    return;
                }
                news => self.hear(news).await,
            }
        }
    }

    /// Works off everything that is due, then sets the alarm and tells the page.
    async fn settle(&mut self) {
        // Most news say nothing new to the swarm, which looks at its rules at the times that it names itself.
        if scope::now() >= self.swarm_wakes {
            self.due.push_back(Due::Plain(Input::Tick));
        }
        self.mesh_input(MeshInput::Tick);
        while let Some(due) = self.due.pop_front() {
            let now = scope::now();
            let taken = match due {
                Due::Up(peer) => self.swarm.handle(now, Input::LinkUp(peer)),
                Due::Down(peer) => self.swarm.handle(now, Input::LinkDown(peer)),
                Due::Frame { from, frame } => self.swarm.handle(now, Input::Frame { from, bytes: &frame }),
                Due::Plain(input) => self.swarm.handle(now, input),
            };
            if let Err(misuse) = taken {
                scope::post_failure(&Failure::new("panic", &misuse));
            }
            self.swarm_wakes = loop {
                match self.swarm.poll() {
                    Output::Idle(wake) => break wake,
                    output => self.obey(output).await,
                }
            };
        }
        let now = scope::now();
        if now >= self.status_at + STATUS_MS {
            self.status_at = now;
            let snapshot = self.swarm.snapshot(now);
            let status = Status::new(snapshot, self.mesh.linked(), self.counters);
            scope::post(&PeerNews::Status(Box::new(status)));
        }
        let mesh_wake = self.mesh_wake();
        self.alarm.set(now, self.swarm_wakes.min(mesh_wake));
    }

    async fn obey(&mut self, output: Output) {
        match output {
            Output::Send { to, frame, bulk } => self.mesh_input(MeshInput::Send { to, frame, bulk }),
            Output::Drop { peer, why } => {
                web_sys::console::warn_1(&format!("peer {} is left out: {why}", peer.short()).into());
                self.mesh_input(MeshInput::Drop(peer));
            }
            Output::Compute { job, work } => post_to(&self.compute, &ToCompute::from_job(job, &work)),
            Output::Stop { job, keep } => post_to(&self.compute, &ToCompute::Stop { job, keep }),
            Output::Persist { id, record } => {
                let head = self.swarm.chain().head().round;
                let input = match self.kept.put(head, &record).await {
                    Ok(()) => Input::Persisted(id),
                    Err(error) => Input::PersistFailed { record: id, reason: error.to_string() },
                };
                self.due.push_back(Due::Plain(input));
            }
            Output::Load { blob } => {
                let bytes = self.kept.blob(blob).await.map(Into::into);
                self.due.push_back(Due::Plain(Input::Loaded { blob, bytes }));
            }
            Output::Forget { blob } => warn(self.kept.forget(blob).await.map_err(|error| error.to_string())),
            Output::Tell(event) => self.tell(event).await,
            Output::Idle(_) => {}
        }
    }

    async fn tell(&mut self, event: Event) {
        match event {
            Event::Certified { round, model, accepted, own, recovery, .. } => {
                let own = own == Some(Verdict::Accepted);
                scope::post(&PeerNews::Certified { round, model, accepted, own, recovery });
                self.evaluate();
                let tidied = self.kept.tidy(round, model).await;
                warn(tidied.map_err(|error| error.to_string()));
            }
            Event::CaughtUp { round, model } => {
                scope::post(&PeerNews::CaughtUp { round, model });
                self.evaluate();
            }
            Event::RolledBack { to } => {
                scope::post(&PeerNews::RolledBack { to });
                let rolled = self.kept.roll_back(to).await;
                warn(rolled.map_err(|error| error.to_string()));
            }
            Event::Replaced { round } => {
                self.mesh_input(MeshInput::Rest);
                scope::post(&PeerNews::Notice {
                    text: format!(
                        "This identity was opened somewhere else, which takes part from round {round} on. This tab makes \
                         room for it; pause and resume to take part here again."
                    ),
                });
            }
            Event::Trouble(text) => scope::post(&PeerNews::Notice { text }),
            // The status says the first of these; votes are native peers' for now.
            Event::JoinedRoster { .. }
            | Event::LeftRoster { .. }
            | Event::Waiting { .. }
            | Event::Over { .. }
            | Event::Proposed { .. }
            | Event::Decided { .. } => {}
        }
        self.status_at = Millis(0);
    }

    /// Has the common model measured and kept for samples.
    fn evaluate(&self) {
        if let Some((round, model)) = self.swarm.model() {
            post_to(&self.compute, &ToCompute::Evaluate { round, model: Blob(model.to_vec()) });
        }
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Page(PageCommand::Pause) => self.due.push_back(Due::Plain(Input::Command(Command::Pause))),
            News::Page(PageCommand::Resume) => {
                self.mesh_input(MeshInput::GoOn);
                self.due.push_back(Due::Plain(Input::Command(Command::Start)));
            }
            News::Relay(generation, news) if self.relay.is_current(generation) => match news {
                RelayNews::Open => self.mesh_input(MeshInput::RelayOpen),
                RelayNews::Lost => self.mesh_input(MeshInput::RelayLost),
                RelayNews::Said { message, bytes } => {
                    self.counters.bytes_down += bytes as u64;
                    self.mesh_input(MeshInput::Relay(message));
                }
            },
            // An alarm only wakes; a good-bye is the loop's own; a relay's echo is of an earlier socket.
            News::Alarm | News::Page(PageCommand::Leave) | News::Relay(..) => {}
            News::Channels { link, channels } => {
                if let Some(key) = links::key(&link) {
                    self.links.take(key, channels);
                }
            }
            News::Lane { key, bulk, event } => self.lane(key, bulk, event),
            News::Link(news) => self.link(news),
            News::Compute(message) => match message.into_outcome() {
                Ok((job, outcome)) => self.due.push_back(Due::Plain(Input::Computed { job, outcome })),
                Err(residual) => {
                    let kept = self.kept.put_residual(&residual.0).await;
                    warn(kept.map_err(|error| error.to_string()));
                }
            },
        }
    }

    fn lane(&mut self, (peer, attempt): LinkKey, bulk: bool, event: LaneEvent) {
        let key = (peer, attempt);
        match event {
            LaneEvent::Open if self.links.both_open(key) => self.mesh_input(MeshInput::Opened { peer, attempt }),
            LaneEvent::Open => {}
            LaneEvent::Piece(bytes) => self.piece(key, bulk, &bytes),
            LaneEvent::Room => {
                if self.links.flush(key, bulk).is_err() {
                    self.mesh_input(MeshInput::Closed { peer, attempt });
                }
            }
            LaneEvent::Closed => self.mesh_input(MeshInput::Closed { peer, attempt }),
        }
    }

    fn link(&mut self, news: LinkNews) {
        let (LinkNews::Described { link, .. }
        | LinkNews::Candidate { link, .. }
        | LinkNews::Closed { link }
        | LinkNews::Pumped { link }
        | LinkNews::Opened { link }
        | LinkNews::Piece { link, .. }) = &news;
        let Some((peer, attempt)) = links::key(link) else { return };
        match news {
            LinkNews::Described { offer, sdp, .. } => {
                self.mesh_input(MeshInput::Described { peer, attempt, offer, sdp });
            }
            LinkNews::Candidate { candidate, mid, line, .. } => {
                self.mesh_input(MeshInput::Candidate { peer, attempt, candidate, mid, line });
            }
            LinkNews::Closed { .. } => self.mesh_input(MeshInput::Closed { peer, attempt }),
            LinkNews::Pumped { .. } => self.links.pumped((peer, attempt)),
            LinkNews::Opened { .. } => self.mesh_input(MeshInput::Opened { peer, attempt }),
            LinkNews::Piece { bulk, bytes, .. } => self.piece((peer, attempt), bulk, &bytes.0),
        }
    }

    fn piece(&mut self, (from, attempt): LinkKey, bulk: bool, bytes: &[u8]) {
        self.counters.bytes_down += bytes.len() as u64;
        if bytes.len() <= limits::PIECE_BYTES_MAX {
            self.mesh_input(MeshInput::Piece { from, attempt, bulk, bytes });
        }
    }

    /// One input for the mesh; what it wants done is done, and what is for the swarm becomes due.
    fn mesh_input(&mut self, input: MeshInput<'_>) {
        let now = scope::now();
        self.mesh.handle(now, input);
        let mut broken = Vec::new();
        loop {
            match self.mesh.poll() {
                MeshOutput::Idle(_) => break,
                MeshOutput::Write { peer, attempt, bulk, piece } => {
                    let bytes = piece.len() as u64;
                    match self.links.write((peer, attempt), bulk, piece) {
                        Ok(()) => self.counters.bytes_up += bytes,
                        Err(_) => broken.push((peer, attempt)),
                    }
                }
                output => self.mesh_output(output),
            }
        }
        broken.dedup();
        for (peer, attempt) in broken {
            self.mesh_input(MeshInput::Closed { peer, attempt });
        }
    }

    fn mesh_wake(&mut self) -> Millis {
        match self.mesh.poll() {
            MeshOutput::Idle(wake) => wake,
            // Every input drains the mesh; if not, come back at once.
            output => {
                self.mesh_output(output);
                scope::now()
            }
        }
    }

    fn mesh_output(&mut self, output: MeshOutput) {
        match output {
            MeshOutput::Relay(message) => self.counters.bytes_up += self.relay.send(&message) as u64,
            MeshOutput::ConnectRelay => self.relay.connect(),
            MeshOutput::LeaveRelay => self.relay.leave(),
            MeshOutput::RelayState(state) => {
                self.counters.relay = state == RelayState::Open;
                self.status_at = Millis(0);
                if let RelayState::Refused(refusal) = state {
                    scope::post(&PeerNews::Notice { text: format!("The relay refused this browser: {refusal:?}.") });
                }
            }
            MeshOutput::Offer { peer, attempt } => {
                self.links.asked((peer, attempt));
                Links::command(LinkCommand::Offer { link: LinkName::new(peer, attempt) });
            }
            MeshOutput::AcceptOffer { peer, attempt, sdp } => {
                self.links.asked((peer, attempt));
                Links::command(LinkCommand::AcceptOffer { link: LinkName::new(peer, attempt), sdp });
            }
            MeshOutput::AcceptAnswer { peer, attempt, sdp } => {
                Links::command(LinkCommand::AcceptAnswer { link: LinkName::new(peer, attempt), sdp });
            }
            MeshOutput::AddCandidate { peer, attempt, candidate, mid, line } => {
                let link = LinkName::new(peer, attempt);
                Links::command(LinkCommand::AddCandidate { link, candidate, mid, line });
            }
            MeshOutput::Close { peer, attempt } => self.links.close((peer, attempt)),
            MeshOutput::Up(peer) => self.due.push_back(Due::Up(peer)),
            MeshOutput::Down(peer) => self.due.push_back(Due::Down(peer)),
            MeshOutput::Frame { from, frame } => self.due.push_back(Due::Frame { from, frame }),
            MeshOutput::Path { .. } => self.status_at = Millis(0),
            MeshOutput::Write { .. } | MeshOutput::Idle(_) => {}
        }
    }
}

/// What fails here costs space or a start from peers, not correctness.
fn warn(result: Result<(), String>) {
    if let Err(text) = result {
        web_sys::console::warn_1(&text.into());
    }
}
