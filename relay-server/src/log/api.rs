//! The logs' addresses, and the witness's.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use shoal_ledger::log::{AddCheckpoint, Note, Refusal, Tile, TileKind, encode_bundle};
use shoal_wire::limits::ADD_CHECKPOINT_BYTES_MAX;

use super::{Head, Logs, is_published};
use crate::{
    api::{App, IMMUTABLE, find, octets, read},
    error::ApiError,
    storage::{Storage, StorageError},
};

/// A request to the witness is small.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/log/{run}/checkpoint", get(checkpoint))
        .route("/log/{run}/vkey", get(log_key))
        .route("/log/{run}/tile/{*path}", get(tile))
        .route("/witness/add-checkpoint", post(add_checkpoint))
        .route("/witness/vkey", get(witness_key))
}

fn text(text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (headers, text).into_response()
}

/// The log as it is now. Where it cannot be brought up to date, what was logged still stands.
async fn current(app: &App, run: &str) -> Result<Head, ApiError> {
    let (run, _) = find(app, run)?;
    let logs = app.logs.clone();
    let head = app.storage.blocking(move |storage| {
        logs.sync(storage, run).or_else(|error| {
            tracing::error!(run = run.short(), %error, "the run's log could not be brought up to date");
            Ok(logs.head(storage, run)?)
        })
    });
    let head = head.await?;
    if !is_published(&head).map_err(|error| StorageError::from(super::LogError::from(error)))? {
        app.logs.touch(run);
    }
    Ok(head)
}

async fn checkpoint(State(app): State<Arc<App>>, Path(run): Path<String>) -> Result<Response, ApiError> {
    let head = current(&app, &run).await?;
    let hint = "the witnesses have not seen the first one yet: ask again in a few seconds";
    head.published.map(text).ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "no checkpoint is published yet", hint))
}

async fn log_key(State(app): State<Arc<App>>, Path(run): Path<String>) -> Result<Response, ApiError> {
    let (run, _) = find(&app, &run)?;
    let logs = app.logs.clone();
    let key = app.storage.blocking(move |storage| {
        let head = logs.head(storage, run)?;
        Ok(logs.signer(&head.origin)?.key().to_string())
    });
    Ok(text(format!("{}\n", key.await?)))
}

async fn tile(State(app): State<Arc<App>>, Path((run, path)): Path<(String, String)>) -> Result<Response, ApiError> {
    let (run, _) = find(&app, &run)?;
    let hint = "C2SP tlog-tiles says how tiles are named";
    let absent = || ApiError::new(StatusCode::NOT_FOUND, "the log has no such tile", hint);
    let tile = Tile::parse(&format!("tile/{path}")).ok_or_else(absent)?;
    let bytes = app.storage.blocking(move |storage| read_tile(storage, run, tile)).await?;
    bytes.map(|bytes| octets(bytes, IMMUTABLE)).ok_or_else(absent)
}

fn read_tile(storage: &Storage, run: shoal_wire::RunId, tile: Tile) -> Result<Option<Vec<u8>>, StorageError> {
    let database = storage.database();
    let size = database.log_head(run)?.map_or(0, |head| head.size);
    if Tile::within(tile.kind, tile.index, size).is_none_or(|widest| widest.width < tile.width) {
        return Ok(None);
    }
    if tile.kind == TileKind::Entries {
        let entries = database.log_entries(run, tile)?;
        let bundle = encode_bundle(entries.iter().map(Vec::as_slice)).map_err(crate::database::DatabaseError::from)?;
        return Ok(Some(bundle));
    }
    Ok(Some(database.log_hashes(run, tile)?))
}

async fn witness_key(State(app): State<Arc<App>>) -> Response {
    text(format!("{}\n", app.logs.witness_key()))
}

/// Why the witness gives no signature.
enum No {
    Refused(Refusal),
    Failed(ApiError),
}

async fn add_checkpoint(State(app): State<Arc<App>>, body: Body) -> Response {
    match cosign(&app, body).await {
        Ok(line) => text(line),
        Err(No::Failed(error)) => error.into_response(),
        Err(No::Refused(refusal)) => {
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
            match refusal.size() {
                Some(size) => {
                    (status, [(header::CONTENT_TYPE, "text/x.tlog.size")], format!("{size}\n")).into_response()
                }
                None => {
                    ApiError::new(status, refusal, "C2SP tlog-witness says what a request looks like").into_response()
                }
            }
        }
    }
}

async fn cosign(app: &App, body: Body) -> Result<String, No> {
    let Ok(_place) = app.logs.requests.try_acquire() else {
        let error = "the witness is asked by too many at once";
        return Err(No::Failed(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error, "try again in a second")));
    };
    let body = read(body, ADD_CHECKPOINT_BYTES_MAX, REQUEST_TIMEOUT).await.map_err(No::Failed)?;
    let request = AddCheckpoint::parse(&body).map_err(No::Refused)?;
    let logs = app.logs.clone();
    let decided = app.storage.blocking(move |storage| decide(&logs, storage, &request)).await;
    match decided {
        Ok(Ok(line)) => Ok(line),
        Ok(Err(refusal)) => Err(No::Refused(refusal)),
        Err(error) => Err(No::Failed(error.into())),
    }
}

/// Checks, remembers, signs. Between the first two another request may have come first: then it checks again.
fn decide(logs: &Logs, storage: &Storage, request: &AddCheckpoint) -> Result<Result<String, Refusal>, StorageError> {
    let database = storage.database();
    loop {
        let last = database.witnessed(request.origin())?;
        let accepted = match logs.witness.check(request, last) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                if refusal.accuses() {
                    // Signed by the log itself, so it can be shown to anybody.
                    let (origin, note) = (request.origin(), request.note.to_string());
                    tracing::error!(origin, note, %refusal, "a log shows more than one history");
                }
                return Ok(Err(refusal));
            }
        };
        let note: &Note = accepted.note();
        if database.remember(accepted.origin(), accepted.before(), accepted.after(), &note.to_string())? {
            return Ok(Ok(accepted.cosign(&logs.witness, now_s()).to_string()));
        }
    }
}

fn now_s() -> u64 {
    // A clock set before 1970 counts as 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
