//! The HTTP API under `/api`, and `/healthz`.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, State, WebSocketUpgrade, ws::WebSocket},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shoal_learn::Layout;
use shoal_wire::{Digest, Envelope, Manifest, PeerId, Round, RunId, codec, limits};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::{
    admission::Place,
    anchor::Anchors,
    error::ApiError,
    hub::Hub,
    log::{self, Logs},
    origin::Origins,
    publish::{self, Unfit},
    socket::{self, Rates},
    storage::{Run, Storage, StorageError},
};

/// A signed manifest: its payload with the signer and the signature around it.
const ENVELOPE_BYTES_MAX: usize = limits::MANIFEST_BYTES_MAX + 256;
/// An upload must arrive within this.
const UPLOAD_TIMEOUT: Duration = Duration::from_mins(10);
/// A manifest is small.
const PUBLISH_TIMEOUT: Duration = Duration::from_mins(1);
/// Room for the outgoing buffer of one WebSocket: a few messages.
const WRITE_BUFFER_BYTES_MAX: usize = 4 * limits::RELAY_MESSAGE_BYTES_MAX;

/// What every request can reach.
pub struct App {
    pub hub: Arc<Hub>,
    pub storage: Arc<Storage>,
    pub anchors: Anchors,
    pub logs: Arc<Logs>,
    pub origins: Origins,
    pub rates: Rates,
    /// Digest of the host's token: comparing digests takes the same time whatever is wrong.
    pub host_token: blake3::Hash,
    pub uploads: Semaphore,
    pub published: mpsc::Sender<RunId>,
}

impl App {
    pub fn uploads() -> Semaphore {
        Semaphore::new(limits::UPLOADS_MAX)
    }
}

pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/api/runs", get(list_runs).post(publish_run))
        .route("/api/runs/{id}", get(show_run))
        .route("/api/runs/{id}/manifest", get(manifest))
        .route("/api/runs/{id}/certificates", get(certificates))
        .route("/api/blobs/{digest}", get(blob).put(put_blob))
        .route("/api/anchor", get(anchor))
        .route("/api/signal", get(signal))
        .route("/api/{*rest}", get(no_such_route).fallback(no_such_route))
        .merge(log::routes())
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

async fn no_such_route() -> ApiError {
    ApiError::not_found("such an address")
}

async fn wrong_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take this method", "see the Allow header")
}

async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let stored = app.storage.blocking(Storage::check).await.map_err(|error| {
        tracing::error!(%error, "health check failed");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the index does not answer", "the relay's log says more")
    })?;
    let details = json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "runs": app.storage.runs().len(),
        "peers": app.hub.peers_total(),
        "connections": app.hub.connections(),
        "uploaded_bytes": stored,
    });
    Ok(Json(details).into_response())
}

#[derive(Serialize)]
struct RunSummary {
    id: RunId,
    name: String,
    description: String,
    host: String,
    round: Round,
    peers: usize,
    parameters: usize,
    /// Milliseconds since 1970.
    created: i64,
}

async fn list_runs(State(app): State<Arc<App>>) -> Result<Json<Vec<RunSummary>>, ApiError> {
    let hub = app.hub.clone();
    let summaries = app.storage.blocking(move |storage| {
        let summary = |(id, run): (RunId, Run)| {
            Ok(RunSummary {
                id,
                name: run.manifest.name.clone(),
                description: run.manifest.description.clone(),
                host: run.manifest.host.clone(),
                round: storage.files().last_round(id)?,
                peers: hub.peers(id),
                parameters: Layout::of(&run.manifest.model).map_or(0, |layout| layout.len()),
                created: run.created_ms,
            })
        };
        storage.runs().into_iter().map(summary).collect()
    });
    Ok(Json(summaries.await?))
}

pub fn find(app: &App, id: &str) -> Result<(RunId, Run), ApiError> {
    let run = RunId::from_hex(id)
        .ok_or_else(|| ApiError::bad_request("a run's id has 64 hexadecimal digits", "GET /api/runs lists them"))?;
    let found = app.storage.run(run).ok_or_else(|| ApiError::not_found("this run"))?;
    Ok((run, found))
}

async fn show_run(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let (id, run) = find(&app, &id)?;
    let (round, model) = app
        .storage
        .blocking(move |storage| {
            let round = storage.files().last_round(id)?;
            let certificate = storage.files().certificate(id, round)?;
            Ok((round, certificate.map(|certificate| certificate.body.content.model)))
        })
        .await?;
    let manifest = &run.manifest;
    let genesis_bytes = Layout::of(&manifest.model).map_or(0, |layout| 4 * layout.len() as u64);
    let data_bytes: u64 = manifest.chunks().map(|chunk| u64::from(chunk.bytes)).sum();
    let details = json!({
        "id": id,
        "manifest": **manifest,
        "round": round,
        "model": model.unwrap_or(manifest.genesis),
        "peers": app.hub.peers(id),
        "parameters": genesis_bytes / 4,
        "blobs_bytes": genesis_bytes + data_bytes,
        "created": run.created_ms,
    });
    Ok(Json(details).into_response())
}

pub fn octets(bytes: impl Into<Body>, cache: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, cache)];
    (headers, bytes.into()).into_response()
}

/// For what its digest names: it never changes.
pub const IMMUTABLE: &str = "public, max-age=31536000, immutable";

async fn manifest(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let (_, run) = find(&app, &id)?;
    Ok(octets(codec::encode(&*run.envelope), IMMUTABLE))
}

#[derive(Deserialize)]
struct CertificateRange {
    #[serde(default = "first_round")]
    from: Round,
    #[serde(default = "certificates_max")]
    limit: usize,
}

fn first_round() -> Round {
    1
}

fn certificates_max() -> usize {
    limits::RELAY_CERTIFICATES_MAX
}

async fn certificates(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    range: Result<Query<CertificateRange>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(range) =
        range.map_err(|error| ApiError::bad_request(error.body_text(), "use ?from=ROUND&limit=NUMBER"))?;
    let (id, _) = find(&app, &id)?;
    let (from, limit) = (range.from.max(1), range.limit.min(limits::RELAY_CERTIFICATES_MAX));
    let bytes = app
        .storage
        .blocking(move |storage| {
            let mut bytes = Vec::new();
            for certificate in storage.files().certificates(id, from, limit)? {
                let encoded = codec::encode(&certificate);
                bytes.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
                bytes.extend_from_slice(&encoded);
            }
            Ok(bytes)
        })
        .await?;
    Ok(octets(bytes, "no-cache"))
}

fn digest(text: &str) -> Result<Digest, ApiError> {
    let hint = "it is the BLAKE3 digest of the blob";
    Digest::from_hex(text).ok_or_else(|| ApiError::bad_request("a blob's address has 64 hexadecimal digits", hint))
}

async fn blob(State(app): State<Arc<App>>, Path(text): Path<String>) -> Result<Response, ApiError> {
    let digest = digest(&text)?;
    let bytes = app.storage.blocking(move |storage| storage.read_blob(digest)).await?;
    bytes.map(|bytes| octets(bytes, IMMUTABLE)).ok_or_else(|| ApiError::not_found("this blob"))
}

/// Checks that the request comes from the host.
fn authorise(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let refused =
        |error| ApiError::new(StatusCode::UNAUTHORIZED, error, "send `Authorization: Bearer` with the host's token");
    let value = headers.get(header::AUTHORIZATION).ok_or_else(|| refused("this is for the host only"))?;
    let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if blake3::hash(token.trim().as_bytes()) == app.host_token { Ok(()) } else { Err(refused("the token is wrong")) }
}

async fn put_blob(
    State(app): State<Arc<App>>,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    authorise(&app, &headers)?;
    let digest = digest(&text)?;
    let length: u64 = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .ok_or_else(|| ApiError::new(StatusCode::LENGTH_REQUIRED, "the upload has no length", "send Content-Length"))?;
    if length > limits::BLOB_BYTES_MAX {
        let error = format!("{length} bytes, more than the limit of {} for a blob", limits::BLOB_BYTES_MAX);
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error, "split it"));
    }
    // Before the body is read, so that an upload that cannot fit costs nothing; a blob that is here may come again.
    app.storage
        .blocking(move |storage| if storage.is_indexed(digest)? { Ok(()) } else { storage.check_quota(length) })
        .await?;
    let busy = |_| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the relay is shutting down", "try again later");
    let _place = app.uploads.acquire().await.map_err(busy)?;
    let bytes = read(body, length as usize, UPLOAD_TIMEOUT).await?;
    let new = app.storage.blocking(move |storage| storage.put_blob(digest, &bytes)).await?;
    Ok(if new { StatusCode::CREATED } else { StatusCode::OK })
}

/// Reads a body. It is held in memory: whoever calls this bounds how many are read at once, or knows who sends them.
pub async fn read(body: Body, bytes_max: usize, within: Duration) -> Result<Bytes, ApiError> {
    match timeout(within, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let error = format!("more than the limit of {bytes_max} bytes");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error, "send less"))
        }
        Ok(Err(error)) => Err(ApiError::bad_request(error, "the upload was cut short; send it again")),
        Err(_late) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the upload took too long", "send smaller blobs")),
    }
}

#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

async fn publish_run(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    authorise(&app, &headers)?;
    let body = read(body, ENVELOPE_BYTES_MAX, PUBLISH_TIMEOUT).await?;
    let hint = "the body is a postcard Envelope with the manifest, signed by its publisher";
    let envelope: Envelope = codec::decode("signed manifest", &body, ENVELOPE_BYTES_MAX)
        .map_err(|error| ApiError::bad_request(error, hint))?;
    let manifest = Manifest::open(&envelope).map_err(|error| ApiError::bad_request(error, hint))?;
    let published = app
        .storage
        .blocking(move |storage| {
            let size_of =
                |digest| storage.files().blob_size(digest).map_err(|error| PublishError::Storage(error.into()));
            match publish::check(&manifest, size_of) {
                Err(PublishError::Unfit(unfit)) => return Ok(Err(unfit)),
                Err(PublishError::Storage(error)) => return Err(error),
                Ok(()) => {}
            }
            storage.publish(&envelope).map(Ok)
        })
        .await?;
    let (run, new) = published?;
    app.hub.open(run);
    if new {
        tracing::info!(%run, "published");
        if app.published.send(run).await.is_err() {
            tracing::debug!(%run, "no resident peer takes new runs");
        }
    }
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(json!({ "id": run }))).into_response())
}

#[derive(Deserialize)]
struct AnchorQuery {
    genesis: String,
    seed: String,
}

#[derive(Serialize)]
struct AnchorAnswer {
    anchor: PeerId,
}

/// The peer that this relay's resident would be in a run, for the publisher to name it in the manifest.
async fn anchor(
    State(app): State<Arc<App>>,
    query: Result<Query<AnchorQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<AnchorAnswer>, ApiError> {
    let hint = "use ?genesis=DIGEST&seed=DIGEST as in the manifest";
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text(), hint))?;
    let anchor = app.anchors.identity(digest(&query.genesis)?, digest(&query.seed)?).peer();
    Ok(Json(AnchorAnswer { anchor }))
}

async fn signal(
    State(app): State<Arc<App>>,
    Extension(place): Extension<Arc<Place>>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !app.origins.allow(&headers) {
        let hint = "the host can allow this site with --allow-origin";
        return ApiError::new(StatusCode::FORBIDDEN, "this site may not connect", hint).into_response();
    }
    let (hub, rates) = (app.hub.clone(), app.rates);
    upgrade
        .read_buffer_size(8 * 1024)
        .write_buffer_size(16 * 1024)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(limits::RELAY_MESSAGE_BYTES_MAX)
        .max_frame_size(limits::RELAY_MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket: WebSocket| socket::serve(hub, rates, socket, place))
}
