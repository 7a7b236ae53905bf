//! The resident: native peers in this process, one for each run, that archive the run and anchor it where its
//! manifest names them. They train nothing.
//!
//! They share the relay's files, and reach the other peers as everybody does: through the relay's own WebSocket.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shoal_node::{Node, NodeConfig, NodeError, NodeEvent, NodeHandle, RelayClient, Trust, parse_relay};
use shoal_swarm::Event;
use shoal_wire::RunId;
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::{debug, error, info};

use crate::{anchor::Anchors, log::Logs, storage::Storage};

/// A peer has this long to say good-bye and write what is to be written; a crash would lose nothing either.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(2500);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

#[derive(Debug, Error)]
#[error("the resident peer cannot start: {0}")]
pub struct ResidentError(#[from] NodeError);

pub struct Resident {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What each run's peer is started from.
#[derive(Clone)]
struct Home {
    relay: RelayClient,
    storage: Arc<Storage>,
    anchors: Anchors,
    logs: Arc<Logs>,
}

impl Resident {
    /// Takes up every run that is there, and those that are published later.
    pub fn start(
        relay: SocketAddr,
        storage: Arc<Storage>,
        anchors: Anchors,
        logs: Arc<Logs>,
        publications: mpsc::Receiver<RunId>,
    ) -> Result<Self, ResidentError> {
        let relay = RelayClient::new(parse_relay(&format!("http://{}", reachable(relay)))?, Trust::System)?;
        let stop = watch::Sender::new(false);
        let home = Home { relay, storage, anchors, logs };
        let task = tokio::spawn(look_after_runs(home, publications, stop.subscribe()));
        Ok(Self { stop, task })
    }

    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            error!(%error, "the resident peer's task failed");
        }
    }
}

/// The address at which this process reaches itself.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { [0, 0, 0, 0, 0, 0, 0, 1_u16].into() });
    }
    address
}

async fn look_after_runs(home: Home, mut publications: mpsc::Receiver<RunId>, mut stop: watch::Receiver<bool>) {
    let stopping = stop.clone();
    let mut peers = JoinSet::new();
    for (run, _) in home.storage.runs() {
        peers.spawn(look_after(home.clone(), run, stop.clone()));
    }
    loop {
        tokio::select! {
            // The sender lives as long as the resident.
            _ = stop.wait_for(|&stop| stop) => break,
            Some(run) = publications.recv() => {
                peers.spawn(look_after(home.clone(), run, stopping.clone()));
            }
            Some(ended) = peers.join_next() => report(ended),
        }
    }
    while let Some(ended) = peers.join_next().await {
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a resident peer's task failed");
    }
}

/// Keeps a peer in the run until the relay stops, starting it anew when it ends.
async fn look_after(home: Home, run: RunId, mut stop: watch::Receiver<bool>) {
    let mut wait = RETRY_FIRST;
    while !*stop.borrow_and_update() {
        match home.start(run).await {
            Ok(peer) => {
                wait = RETRY_FIRST;
                follow(peer, run, &home.logs, &mut stop).await;
            }
            Err(error) => {
                error!(run = run.short(), %error, retry_s = wait.as_secs(), "the resident peer cannot take part");
            }
        }
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => {}
            () = sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
        }
    }
}

impl Home {
    async fn start(&self, run: RunId) -> Result<NodeHandle, NodeError> {
        let identity = self.storage.run(run).and_then(|run| self.anchors.identity_in(&run.manifest));
        let anchors = identity.is_some();
        let peer = Node::start(NodeConfig {
            relay: self.relay.clone(),
            run,
            store: self.storage.files().clone(),
            identity,
            engine: None,
            archive: true,
            direct: true,
        })
        .await?;
        info!(run = run.short(), peer = peer.peer().short(), anchors, "the resident peer takes part");
        Ok(peer)
    }
}

/// Logs the peer's news until it ends or the relay stops.
async fn follow(mut peer: NodeHandle, run: RunId, logs: &Logs, stop: &mut watch::Receiver<bool>) {
    let Some(mut events) = peer.events() else { return };
    loop {
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => break,
            event = events.recv() => match event {
                Some(NodeEvent::HeldOut { round, loss }) => info!(run = run.short(), round, loss, "held-out loss"),
                Some(event) => {
                    if let NodeEvent::Swarm(Event::Certified { .. } | Event::CaughtUp { .. } | Event::RolledBack { .. }) = event {
                        logs.touch(run);
                    }
                    debug!(run = run.short(), ?event, "resident");
                }
                None => {
                    error!(run = run.short(), "the resident peer ended by itself");
                    return;
                }
            },
        }
    }
    if timeout(LEAVE_TIMEOUT, peer.leave()).await.is_err() {
        tracing::warn!(run = run.short(), "the resident peer did not leave in time");
    }
}
