//! The relay: introduces peers to each other, carries their messages until they have direct links, keeps runs and
//! blobs, and serves the pages.
//!
//! It can drop, delay and reorder what it carries; it cannot forge, because everything that matters is signed by
//! peers or addressed by digest.

mod admission;
mod anchor;
mod api;
pub mod config;
mod database;
pub mod demo;
mod error;
mod files;
mod hub;
mod log;
mod origin;
mod pages;
mod patience;
mod publish;
mod rate;
mod resident;
mod rooms;
mod serve;
mod socket;
mod storage;
mod tls;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use shoal_store::{FileStore, StoreError};
use shoal_wire::RunId;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    admission::Admission,
    anchor::Anchors,
    api::App,
    demo::DemoError,
    files::FileError,
    hub::Hub,
    log::{Logs, LogsError},
    origin::Origins,
    pages::Embedding,
    resident::Resident,
    storage::{Storage, StorageError},
    tls::TlsError,
};
pub use crate::{config::Config, demo::Demo, socket::Rates};

/// Clients come back this long after a restart was announced.
const RETRY_MS: u32 = 2000;
/// What is still being answered when the relay stops gets this long.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Published runs that wait for the resident to take them up.
const PUBLISHED_MAX: usize = 64;

#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {error}; choose another address with --{flag}")]
    Listen { address: SocketAddr, flag: &'static str, error: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("HTTPS: {0}")]
    Tls(#[from] TlsError),
    #[error("cannot create the demo run: {0}")]
    Demo(#[from] DemoError),
    #[error(transparent)]
    Logs(#[from] LogsError),
    #[error(transparent)]
    Resident(#[from] resident::ResidentError),
}

/// Starts relays.
#[derive(Debug)]
pub struct Relay;

/// A relay that serves until it is stopped.
pub struct RunningRelay {
    pub http_addr: SocketAddr,
    pub https_addr: Option<SocketAddr>,
    /// Addresses of this machine at which HTTPS answers with a certificate that names them.
    pub lan_addresses: Vec<IpAddr>,
    pub host_token: String,
    pub host_token_file: PathBuf,
    /// The run that the host asked for with [`Config::demo`].
    pub demo: Option<RunId>,
    /// Every run that is served, oldest first.
    pub runs: Vec<RunId>,
    hub: Arc<Hub>,
    stop: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    resident: Option<Resident>,
}

impl Relay {
    pub async fn start(config: Config) -> Result<RunningRelay, StartError> {
        let files = Arc::new(FileStore::open(&config.data_dir)?);
        let anchors = Anchors::new(files.device_secret()?);
        let host_token_file = config.data_dir.join("host.token");
        let host_token = files::host_token(&host_token_file)?;
        let storage = Arc::new(Storage::open(files, config.quota_bytes)?);
        let logs = Logs::new(&config, &anchors)?;
        let demo = config.demo.as_ref().map(|demo| demo::ensure(&storage, &anchors, demo)).transpose()?;
        let hub = Arc::new(Hub::new(config.room_peers_max));
        let runs: Vec<RunId> = storage.runs().into_iter().map(|(run, _)| run).collect();
        for &run in &runs {
            hub.open(run);
        }

        let (published, publications) = mpsc::channel(PUBLISHED_MAX);
        let app = App {
            hub: hub.clone(),
            storage: storage.clone(),
            anchors: anchors.clone(),
            logs: logs.clone(),
            origins: Origins::new(&config.allow_origins),
            rates: config.rates,
            host_token: blake3::hash(host_token.as_bytes()),
            uploads: App::uploads(),
            published,
        };
        let router = pages::router(Embedding::new(&config.embed_origins), api::router(Arc::new(app)));
        let mut servers = Servers::new(&config, router);
        servers.tasks.push(logs.keep(storage.clone(), servers.stop.subscribe()));
        let http_addr = servers.listen(config.listen, None, "listen").await?;
        let (mut https_addr, mut lan_addresses) = (None, Vec::new());
        if let Some(address) = config.https_listen {
            let (acceptor, named) = tls::acceptor(&config.data_dir, &tls::lan_addresses(address))?;
            lan_addresses = named;
            https_addr = Some(servers.listen(address, Some(acceptor), "https-listen").await?);
        }
        let resident = if config.resident {
            Some(Resident::start(http_addr, storage, anchors, logs, publications)?)
        } else {
            None
        };
        let Servers { tasks, stop, .. } = servers;
        Ok(RunningRelay {
            http_addr,
            https_addr,
            lan_addresses,
            host_token,
            host_token_file,
            demo,
            runs,
            hub,
            stop,
            servers: tasks,
            resident,
        })
    }
}

/// The listening sockets, which share one router and one count of connections.
struct Servers {
    router: Router,
    admission: Arc<Admission>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Servers {
    fn new(config: &Config, router: Router) -> Self {
        let admission = Admission::new(config.connections_per_address_max, config.connections_max);
        Self { router, admission, stop: watch::Sender::new(false), tasks: Vec::new() }
    }

    async fn listen(
        &mut self,
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        flag: &'static str,
    ) -> Result<SocketAddr, StartError> {
        let failed = |error| StartError::Listen { address, flag, error };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let (router, admission, stop) = (self.router.clone(), self.admission.clone(), self.stop.subscribe());
        self.tasks.push(tokio::spawn(serve::accept(listener, tls, router, admission, stop)));
        Ok(bound)
    }
}

impl RunningRelay {
    /// Address of the pages on this machine.
    pub fn url(&self) -> String {
        format!("http://{}", self.http_addr)
    }

    /// Tells the clients to come back later, lets what is being answered finish, and returns within five seconds.
    pub async fn stop(mut self) {
        // The resident first: it says goodbye through the rooms.
        if let Some(resident) = self.resident.take() {
            resident.stop().await;
        }
        self.hub.drain(RETRY_MS);
        self.stop.send_replace(true);
        let finished = async {
            self.hub.empty().await;
            for server in &mut self.servers {
                if let Err(error) = server.await {
                    tracing::error!(%error, "a server task failed");
                }
            }
        };
        if timeout(STOP_TIMEOUT, finished).await.is_err() {
            tracing::warn!("some connections did not finish in time");
            for server in &self.servers {
                server.abort();
            }
        }
    }
}
