//! What a native peer makes of the answers of relays, and of sites that are none.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use axum::{
    Router,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use shoal_node::{
    NodeError, RelayClient, Trust, parse_relay,
    verify::{Source, VerifyError, verify},
};
use shoal_wire::{Digest, RunId};
use tokio::net::TcpListener;

const RUN: RunId = RunId([7; 32]);

/// A client of a site that answers everything in the same way.
async fn site(answer: fn() -> Response) -> RelayClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(async move || answer());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    RelayClient::new(parse_relay(&address.to_string()).unwrap(), Trust::Anyone).unwrap()
}

fn json(status: StatusCode, body: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[tokio::test]
async fn an_address_that_is_no_relay_is_called_so() {
    let page = || Html("<h1>Welcome</h1>").into_response();
    let lost_page = || (StatusCode::NOT_FOUND, Html("<h1>404</h1>")).into_response();
    let other_json = || json(StatusCode::OK, r#"{"hello": "world"}"#);
    let bare = || StatusCode::NOT_FOUND.into_response();
    for answer in [page, lost_page, other_json, bare] {
        let error = site(answer).await.runs().await.unwrap_err();
        assert!(matches!(error, NodeError::NotARelay { .. }), "{error}");
        assert!(error.to_string().contains("does not look like a Shoal relay"), "{error}");
    }
    for answer in [page, lost_page] {
        let error = site(answer).await.manifest(RUN).await.unwrap_err();
        assert!(matches!(error, NodeError::NotARelay { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_run_that_a_relay_does_not_have_is_called_unknown() {
    let relay = site(|| json(StatusCode::NOT_FOUND, r#"{"error": "the run is not here", "hint": ""}"#)).await;
    assert!(matches!(relay.manifest(RUN).await, Err(NodeError::UnknownRun(RUN))));
    assert!(matches!(relay.run_details(RUN).await, Err(NodeError::UnknownRun(RUN))));
    assert!(matches!(relay.blob(Digest::of(b"x"), 10).await, Ok(None)));
}

#[tokio::test]
async fn a_refusal_is_told_in_the_relay_s_words() {
    const BUSY: &str = r#"{"error": "busy", "hint": "try again in a second"}"#;
    let relay = site(|| json(StatusCode::SERVICE_UNAVAILABLE, BUSY)).await;
    let error = relay.runs().await.unwrap_err().to_string();
    assert!(error.ends_with("answered 503: busy (try again in a second)"), "{error}");
}

#[tokio::test]
async fn only_damage_accuses_a_history_and_a_relay_in_trouble_does_not() {
    let outcome = async |answer| verify(&Source::Relay(site(answer).await), RUN, |_| {}).await.unwrap_err();
    for answer in [
        || json(StatusCode::INTERNAL_SERVER_ERROR, r#"{"error": "the relay's storage failed", "hint": "see its log"}"#),
        || json(StatusCode::SERVICE_UNAVAILABLE, r#"{"error": "corrupt"}"#),
        || StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        || StatusCode::BAD_GATEWAY.into_response(),
        || Html("a page").into_response(),
    ] {
        let error = outcome(answer).await;
        assert!(matches!(error, VerifyError::Unavailable(_)), "{error}");
    }
    let damaged = || json(StatusCode::INTERNAL_SERVER_ERROR, r#"{"error": "corrupt", "hint": "restore it"}"#);
    let error = outcome(damaged).await;
    assert!(matches!(&error, VerifyError::Fails(failure) if failure.round == 0), "{error}");
}
