//! The least relay that introduces peers: one run, one room, no limits.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{
        Path, Query, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use shoal_node::{RelayClient, Trust, parse_relay};
use shoal_store::FileStore;
use shoal_wire::{
    Digest, PeerId, RunId, codec,
    relay::{FromRelay, ToRelay, verify_enter},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

#[derive(Clone)]
struct App {
    store: Arc<FileStore>,
    room: Arc<Mutex<BTreeMap<PeerId, mpsc::UnboundedSender<FromRelay>>>>,
    /// Frames carried between peers.
    forwarded: Arc<Mutex<u64>>,
    stopped: watch::Receiver<bool>,
}

pub struct TestRelay {
    app: App,
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
}

impl TestRelay {
    pub async fn start(store: Arc<FileStore>) -> Self {
        Self::start_at(store, "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(store: Arc<FileStore>, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let app = App { store, room: Arc::default(), forwarded: Arc::default(), stopped: stopped.clone() };
        let router = Router::new()
            .route("/api/runs/{id}/manifest", get(manifest))
            .route("/api/runs/{id}/certificates", get(certificates))
            .route("/api/blobs/{digest}", get(blob))
            .route("/api/signal", get(signal))
            .with_state(app.clone());
        let mut until = stopped;
        let stopping = async move {
            until.wait_for(|stopped| *stopped).await.unwrap();
        };
        tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopping).await.unwrap() });
        Self { app, address, stop }
    }

    /// Closes the listener and every WebSocket.
    pub fn kill(&self) {
        self.stop.send_replace(true);
    }

    pub fn client(&self) -> RelayClient {
        RelayClient::new(parse_relay(&self.address.to_string()).unwrap(), Trust::Anyone).unwrap()
    }

    pub fn forwarded(&self) -> u64 {
        *self.app.forwarded.lock().unwrap()
    }
}

async fn manifest(State(app): State<App>, Path(id): Path<String>) -> impl IntoResponse {
    let envelope = app.store.manifest(RunId::from_hex(&id).unwrap()).unwrap();
    envelope.map(|envelope| codec::encode(&envelope)).ok_or(StatusCode::NOT_FOUND)
}

async fn certificates(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(range): Query<BTreeMap<String, u64>>,
) -> impl IntoResponse {
    let run = RunId::from_hex(&id).unwrap();
    let mut bytes = Vec::new();
    let found = app.store.certificates(run, range["from"], range["limit"] as usize);
    for certificate in found.map_err(|_| damaged())? {
        let encoded = codec::encode(&certificate);
        bytes.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&encoded);
    }
    Ok::<_, Response>(bytes)
}

/// As the real relay answers for a file of its own that is damaged.
fn damaged() -> Response {
    let body = r#"{"error": "corrupt", "hint": "the file on the relay is corrupt; the host must restore it"}"#;
    (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
}

async fn blob(State(app): State<App>, Path(digest): Path<String>) -> impl IntoResponse {
    match app.store.get_blob(Digest::from_hex(&digest).unwrap()) {
        Ok(found) => found.ok_or_else(|| StatusCode::NOT_FOUND.into_response()),
        Err(_) => Err(damaged()),
    }
}

async fn signal(State(app): State<App>, upgrade: WebSocketUpgrade) -> impl IntoResponse {
    upgrade.on_upgrade(move |socket| serve(app, socket))
}

async fn serve(app: App, mut socket: WebSocket) {
    let (sender, mut outgoing) = mpsc::unbounded_channel();
    sender.send(FromRelay::Challenge { nonce: [3; 32] }).unwrap();
    let mut me = None;
    let mut stopped = app.stopped.clone();
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            Some(message) = outgoing.recv() => {
                if socket.send(Message::Binary(message.encode().into())).await.is_err() {
                    break;
                }
            }
            received = socket.recv() => {
                let Some(Ok(message)) = received else { break };
                let Message::Binary(bytes) = message else { continue };
                handle(&app, &mut me, &sender, ToRelay::decode(&bytes).unwrap());
            }
        }
    }
    if let Some(me) = me {
        let mut room = app.room.lock().unwrap();
        room.remove(&me);
        room.values().for_each(|other| drop(other.send(FromRelay::PeerLeft(me))));
    }
}

fn handle(app: &App, me: &mut Option<PeerId>, sender: &mpsc::UnboundedSender<FromRelay>, message: ToRelay) {
    let mut room = app.room.lock().unwrap();
    let tell = |to: PeerId, message| {
        if let Some(other) = room.get(&to) {
            drop(other.send(message)); // fails only when that client just left
        }
    };
    match (message, *me) {
        (ToRelay::Enter { run, peer, signature }, None) => {
            verify_enter(&[3; 32], run, peer, &signature).unwrap();
            drop(sender.send(FromRelay::Entered { peers: room.keys().copied().collect() }));
            room.values().for_each(|other| drop(other.send(FromRelay::PeerEntered(peer))));
            room.insert(peer, sender.clone());
            *me = Some(peer);
        }
        (ToRelay::Signal { to, envelope }, Some(from)) => tell(to, FromRelay::Signal { from, envelope }),
        (ToRelay::Forward { to, piece }, Some(from)) => {
            *app.forwarded.lock().unwrap() += 1;
            tell(to, FromRelay::Forward { from, piece });
        }
        (ToRelay::Ping, _) => drop(sender.send(FromRelay::Pong)),
        (message, me) => panic!("{message:?} of {me:?}"),
    }
}
