//! Errors of the HTTP API: a status, what is wrong, and what to do.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shoal_store::StoreError;

use crate::{publish::Unfit, storage::StorageError};

#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    error: String,
    hint: String,
}

impl ApiError {
    pub fn new(status: StatusCode, error: impl ToString, hint: impl ToString) -> Self {
        Self { status, error: error.to_string(), hint: hint.to_string() }
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{what} is not here"), "GET /api/runs lists what is")
    }

    pub fn bad_request(error: impl ToString, hint: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, hint)
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        let (status, hint) = match &error {
            StorageError::OtherDigest { .. } => {
                (StatusCode::BAD_REQUEST, "the address must be the body's BLAKE3 digest")
            }
            StorageError::Manifest(_) => (StatusCode::BAD_REQUEST, "send a manifest that its publisher signed"),
            StorageError::QuotaFull { .. } => {
                (StatusCode::INSUFFICIENT_STORAGE, "the host can raise it with --quota-bytes")
            }
            StorageError::Store(StoreError::TooLarge { .. }) => (StatusCode::PAYLOAD_TOO_LARGE, "split it"),
            StorageError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "try again in a second"),
            StorageError::Store(StoreError::Corrupt { .. }) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the file on the relay is corrupt; the host must restore it")
            }
            StorageError::Store(_) | StorageError::Database(_) | StorageError::Log(_) | StorageError::Task(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the relay's log says more")
            }
        };
        if matches!(status, StatusCode::INTERNAL_SERVER_ERROR) {
            // Paths and causes are for the host's log, not for everybody.
            tracing::error!(%error, "request failed");
            let public = if matches!(error, StorageError::Store(StoreError::Corrupt { .. })) {
                "corrupt"
            } else {
                "the relay's storage failed"
            };
            return Self::new(status, public, hint);
        }
        Self::new(status, error, hint)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        StorageError::from(error).into()
    }
}

impl From<Unfit> for ApiError {
    fn from(error: Unfit) -> Self {
        let status = if matches!(error, Unfit::Missing { .. }) {
            StatusCode::CONFLICT
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        };
        Self::new(status, error, "correct the manifest or upload what it names, then publish again")
    }
}

#[derive(Serialize)]
struct ErrorBody {
    error: String,
    hint: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.error, hint: self.hint })).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
