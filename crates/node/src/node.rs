//! Starting a native peer, and what its owner hears and can ask.

use std::{collections::BTreeMap, sync::Arc};

use shoal_learn::{data::Corpus, trainer::StepReport};
use shoal_store::{FileStore, PeerLock};
use shoal_swarm::{
    Bytes, Command, Config, Event, Snapshot, Swarm,
    mesh::{Mesh, RelayState},
};
use shoal_wire::{Digest, Identity, Manifest, PeerId, Round, RunId, limits, record::Join};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_tungstenite::Connector;

use crate::{
    NodeError, RelayClient,
    compute::{Compute, ComputeEvent, Workers},
    driver::{Driver, Inbox, Parts, Relay},
    engine::EngineChoice,
    rtc::RtcLinks,
    storage::{self, Place, Storage},
    tls,
    training::Training,
};

const EVENTS_MAX: usize = 4096;
/// Messages from links that wait for the driver; then links wait.
const LINK_EVENTS_MAX: usize = 256;

/// What a native peer needs to know.
pub struct NodeConfig {
    pub relay: RelayClient,
    pub run: RunId,
    pub store: Arc<FileStore>,
    /// `None`: this device's identity in the run.
    pub identity: Option<Identity>,
    /// `None`: follows, votes and archives, but does not train.
    pub engine: Option<EngineChoice>,
    /// Keeps every update of the run.
    pub archive: bool,
    /// `false`: frames go through the relay only, and other peers do not learn this computer's address.
    pub direct: bool,
}

/// News of a peer.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeEvent {
    Swarm(Event),
    Relay(RelayState),
    Linked {
        peer: PeerId,
        direct: bool,
    },
    Unlinked(PeerId),
    /// A step of local training.
    Step {
        round: Round,
        report: StepReport,
    },
    /// Loss in nats of the common model after `round`, on text that nobody trains on.
    HeldOut {
        round: Round,
        loss: f32,
    },
    /// Another engine took over the training, because the one before failed.
    Engine {
        name: String,
        why: String,
    },
}

/// Where a peer stands.
#[derive(Clone, Debug)]
pub struct Status {
    pub snapshot: Snapshot,
    /// The newest common model that is here.
    pub model: Option<(Round, Bytes)>,
    pub relay: RelayState,
    /// Linked peers, and whether directly.
    pub paths: BTreeMap<PeerId, bool>,
}

pub(crate) enum Request {
    Command(Command),
    Leave,
}

pub struct Node;

/// A running peer. Dropping it stops the peer without a good-bye, as a crash would.
pub struct NodeHandle {
    peer: PeerId,
    manifest: Arc<Manifest>,
    engine: String,
    requests: mpsc::Sender<Request>,
    events: Option<mpsc::Receiver<NodeEvent>>,
    status: watch::Receiver<Status>,
    task: JoinHandle<()>,
}

impl Node {
    /// Fetches what is missing, restores what was stored, and starts. Returns once the peer runs; it need not have
    /// reached the relay by then, unless something was missing.
    pub async fn start(config: NodeConfig) -> Result<NodeHandle, NodeError> {
        let manifest = fetch_manifest(&config).await?;
        let identity = match &config.identity {
            Some(identity) => identity.clone(),
            None => Identity::for_run(&config.store.device_secret()?, config.run),
        };
        let peer = identity.peer();
        let lock = config.store.lock_peer(config.run, peer)?.ok_or(NodeError::InUse)?;
        let genesis = fetch_genesis(&config, &manifest).await?;
        let training = match config.engine {
            None => None,
            Some(engine) => {
                let corpus = fetch_corpus(&config, &manifest).await?;
                let residual = config.store.residual(config.run, peer).unwrap_or_else(|error| {
                    tracing::warn!(%error, "what was not sent before is lost");
                    None
                });
                Some(Training { peer, engine, corpus, residual })
            }
        };
        let (compute_sender, compute_events) = mpsc::unbounded_channel();
        let starting = manifest.clone();
        let workers = tokio::task::spawn_blocking(move || Workers::start(&starting, training, compute_sender))
            .await
            .map_err(|_| NodeError::Task("starting the engine"))??;
        let engine = workers.engine().to_owned();
        let compute = Computing { workers: Box::new(workers), events: compute_events };
        Self::start_with(config, manifest, identity, genesis, compute, engine, lock)
    }

    fn start_with(
        config: NodeConfig,
        manifest: Manifest,
        identity: Identity,
        genesis: Bytes,
        compute: Computing,
        engine: String,
        lock: PeerLock,
    ) -> Result<NodeHandle, NodeError> {
        let peer = identity.peer();
        let (restored, checkpoints) = storage::restore(&config.store, &manifest, peer, &genesis)?;
        let (storage_sender, storage_events) = mpsc::unbounded_channel();
        let place = Place {
            store: config.store.clone(),
            run: config.run,
            peer,
            recovery_window_rounds: u64::from(manifest.timing.recovery_window_rounds),
            checkpoints,
        };
        let (link_sender, link_events) = mpsc::channel(LINK_EVENTS_MAX);
        let (socket_sender, socket_events) = mpsc::channel(LINK_EVENTS_MAX);
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let (requests, request_receiver) = mpsc::channel(16);
        let parts = Parts {
            mesh: Mesh::new(config.run, identity.clone(), config.direct),
            links: Box::new(RtcLinks::new(link_sender, is_loopback(&config.relay))),
            compute: compute.workers,
            storage: Storage::start(place, storage_sender)?,
            relay: Relay {
                url: config.relay.signal_url()?.to_string(),
                connector: Connector::Rustls(Arc::new(tls::client_config(config.relay.trust())?)),
                events: socket_sender,
            },
            events: event_sender,
        };
        let swarm_config = Config {
            manifest: manifest.clone(),
            identity,
            session: config.store.session(config.run, peer)?,
            join: Join { durable: true, trains: config.engine.is_some() },
            archive: config.archive,
        };
        let make_swarm = |now| {
            let mut swarm = Swarm::new(swarm_config, restored, now)?;
            swarm.set_model_bytes(genesis.len() as u64);
            Ok::<_, NodeError>(swarm)
        };
        let (driver, status) = Driver::new(parts, make_swarm)?;
        let inbox = Inbox {
            links: link_events,
            socket: socket_events,
            compute: compute.events,
            storage: storage_events,
            requests: request_receiver,
        };
        let task = tokio::spawn(async move {
            let (driver, compute) = driver.run(inbox).await;
            let stopping = move || {
                driver.finish(compute);
                drop(lock);
            };
            if tokio::task::spawn_blocking(stopping).await.is_err() {
                tracing::error!("the peer did not stop cleanly");
            }
        });
        let manifest = Arc::new(manifest);
        let handle = NodeHandle { peer, manifest, engine, requests, events: Some(events), status, task };
        handle.request(Request::Command(Command::Start));
        Ok(handle)
    }
}

/// What computes, and how it answers.
struct Computing {
    workers: Box<dyn Compute>,
    events: mpsc::UnboundedReceiver<ComputeEvent>,
}

impl NodeHandle {
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Name of the engine that trains, and its device.
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// The peer's news; the first call takes them, later ones get `None`. News that nobody takes are dropped.
    pub fn events(&mut self) -> Option<mpsc::Receiver<NodeEvent>> {
        self.events.take()
    }

    /// Where the peer stands, always up to date to a quarter of a second.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Asks to take part again after [`Self::pause`].
    pub fn resume(&self) {
        self.request(Request::Command(Command::Start));
    }

    /// Goes on following the run without training.
    pub fn pause(&self) {
        self.request(Request::Command(Command::Pause));
    }

    /// Says good-bye, writes what is to be written, and stops.
    pub async fn leave(self) {
        if self.requests.send(Request::Leave).await.is_err() {
            tracing::debug!("the peer had stopped already");
        }
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the peer's task failed");
        }
    }

    fn request(&self, request: Request) {
        if self.requests.try_send(request).is_err() {
            tracing::warn!("the peer takes no requests");
        }
    }
}

/// Peers on this computer link by loopback addresses when they met at one.
fn is_loopback(relay: &RelayClient) -> bool {
    match relay.base().host_str() {
        Some(host) => host == "localhost" || host.starts_with("127.") || host == "[::1]",
        None => false,
    }
}

/// From the store, so that a peer restarts without its relay; else from the relay.
async fn fetch_manifest(config: &NodeConfig) -> Result<Manifest, NodeError> {
    if let Some(envelope) = config.store.manifest(config.run)? {
        return Ok(Manifest::open(&envelope)?);
    }
    let (envelope, manifest) = config.relay.manifest(config.run).await?;
    config.store.put_manifest(&envelope)?;
    Ok(manifest)
}

async fn fetch_genesis(config: &NodeConfig, manifest: &Manifest) -> Result<Bytes, NodeError> {
    let layout = shoal_learn::Layout::of(&manifest.model).map_err(|error| NodeError::Compute(error.to_string()))?;
    let announced = layout.len() as u64 * 4;
    fetch_blob(config, "the first model", manifest.genesis, announced).await.map(Bytes::from)
}

async fn fetch_corpus(config: &NodeConfig, manifest: &Manifest) -> Result<Corpus, NodeError> {
    let total = text_bytes(manifest)?;
    let mut text = Vec::new();
    for chunk in manifest.chunks() {
        let bytes = fetch_blob(config, "a piece of the run's text", chunk.digest, chunk.bytes.into()).await?;
        // Only once there is something of it: what a manifest announces alone takes no memory.
        text.reserve_exact(total - text.len());
        text.extend_from_slice(&bytes);
    }
    Corpus::new(text.into(), manifest.data.held_out_bytes).map_err(|error| NodeError::Compute(error.to_string()))
}

/// The length of a run's text. A manifest may list one chunk thousands of times, so the sum is bounded before anything
/// is fetched.
fn text_bytes(manifest: &Manifest) -> Result<usize, NodeError> {
    let bytes: u64 = manifest.chunks().map(|chunk| u64::from(chunk.bytes)).sum();
    let limit = limits::TEXT_BYTES_MAX;
    usize::try_from(bytes).ok().filter(|_| bytes <= limit).ok_or(NodeError::TextTooLarge { bytes, limit })
}

/// A blob of a known length, from the store, else from the relay into the store.
async fn fetch_blob(
    config: &NodeConfig,
    what: &'static str,
    digest: Digest,
    announced: u64,
) -> Result<Vec<u8>, NodeError> {
    let stored = config.store.get_blob(digest).unwrap_or_else(|error| {
        tracing::warn!(%error, "fetching it again");
        None
    });
    let bytes = if let Some(bytes) = stored {
        bytes
    } else {
        let bytes = config.relay.blob(digest, announced).await?.ok_or(NodeError::Missing { what, digest })?;
        config.store.put_blob(&bytes)?;
        bytes
    };
    let got = bytes.len() as u64;
    if got == announced { Ok(bytes) } else { Err(NodeError::OtherLength { what, digest, got, announced }) }
}
