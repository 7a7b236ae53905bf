//! The HTTP API and the headers of the pages.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{get, publish, publish_tiny_run, put_blob, relay, request, tiny_run};
use shoal_wire::{
    Digest, Envelope, Manifest, codec, limits,
    manifest::{AdamW, Optimizer, Sgd},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::test]
async fn a_blob_comes_back_as_it_was_uploaded() {
    let fixture = relay(|_| {}).await;
    let (to, token) = (fixture.relay.http_addr, fixture.relay.host_token.as_str());
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(put_blob(to, token, &bytes).await.unwrap().status, 201);
    assert_eq!(put_blob(to, token, &bytes).await.unwrap().status, 200, "the second time changes nothing");
    let answer = get(to, &format!("/api/blobs/{}", Digest::of(&bytes))).await;
    assert_eq!((answer.status, answer.body == bytes), (200, true));
    assert!(answer.head.contains("immutable"), "{}", answer.head);
    assert_eq!(get(to, &format!("/api/blobs/{}", Digest::of(b"absent"))).await.status, 404);
    let answer = get(to, "/api/blobs/nonsense").await;
    assert_eq!(answer.status, 400);
    assert!(answer.json()["hint"].is_string(), "{}", answer.text());
}

#[tokio::test]
async fn uploads_need_the_hosts_token_the_right_digest_and_a_sane_size() {
    let fixture = relay(|_| {}).await;
    let (to, token) = (fixture.relay.http_addr, fixture.relay.host_token.as_str());
    assert_eq!(put_blob(to, "wrong", b"text").await.unwrap().status, 401);
    let path = format!("/api/blobs/{}", Digest::of(b"text"));
    assert_eq!(request(to, "PUT", &path, &[], b"text").await.unwrap().status, 401);
    let authorization = format!("Bearer {token}");
    let authorization = [("authorization", authorization.as_str())];
    let answer = request(to, "PUT", &path, &authorization, b"texT").await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.json()["error"].as_str().unwrap().contains("digest"), "{}", answer.text());
    assert_eq!(get(to, &path).await.status, 404, "nothing was kept");
    // The announced size alone is refused: no byte of the body is sent.
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
        limits::BLOB_BYTES_MAX + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn uploads_beyond_the_quota_are_refused() {
    let fixture = relay(|config| config.quota_bytes = 1000).await;
    let (to, token) = (fixture.relay.http_addr, fixture.relay.host_token.as_str());
    assert_eq!(put_blob(to, token, &[1; 600]).await.unwrap().status, 201);
    let answer = put_blob(to, token, &[2; 401]).await.unwrap();
    assert_eq!(answer.status, 507);
    assert!(answer.json()["hint"].as_str().unwrap().contains("--quota-bytes"));
    assert_eq!(put_blob(to, token, &[3; 400]).await.unwrap().status, 201);
    assert_eq!(put_blob(to, token, &[1; 600]).await.unwrap().status, 200, "what is here may come again");
}

#[tokio::test]
async fn a_rotten_blob_is_reported_and_not_served() {
    let fixture = relay(|_| {}).await;
    let (to, token) = (fixture.relay.http_addr, fixture.relay.host_token.as_str());
    put_blob(to, token, b"text").await.unwrap();
    let hex = Digest::of(b"text").to_string();
    std::fs::write(fixture.dir.path().join("blobs").join(&hex[..2]).join(&hex), b"texT").unwrap();
    let answer = get(to, &format!("/api/blobs/{hex}")).await;
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("corrupt"), "{}", answer.text());
}

#[tokio::test]
async fn a_run_is_published_once_its_blobs_are_there_and_is_listed_then() {
    let fixture = relay(|_| {}).await;
    let (to, token) = (fixture.relay.http_addr, fixture.relay.host_token.as_str());
    let run = tiny_run("a list");
    let early = publish(to, token, &run.envelope).await.unwrap();
    assert_eq!(early.status, 409);
    assert!(early.json()["error"].as_str().unwrap().contains("PUT /api/blobs/"), "{}", early.text());
    publish_tiny_run(&fixture, "a list").await;
    let again = publish(to, token, &run.envelope).await.unwrap();
    assert_eq!((again.status, again.json()["id"].as_str()), (200, Some(run.id.to_string().as_str())));

    let list = get(to, "/api/runs").await.json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!((list[0]["name"].as_str(), list[0]["round"].as_u64()), (Some("a list"), Some(0)));
    assert_eq!(list[0]["parameters"].as_u64().unwrap() * 4, run.blobs[0].len() as u64);
    let one = get(to, &format!("/api/runs/{}", run.id)).await.json();
    assert_eq!(one["manifest"]["recipe"]["local_steps"], 2);
    assert_eq!(one["model"], Digest::of(&run.blobs[0]).to_string());
    let manifest = get(to, &format!("/api/runs/{}/manifest", run.id)).await;
    let envelope: Envelope = codec::decode("manifest", &manifest.body, 1 << 20).unwrap();
    assert_eq!(Manifest::open(&envelope).unwrap().run(), run.id);
    let certificates = get(to, &format!("/api/runs/{}/certificates?from=1&limit=64", run.id)).await;
    assert_eq!((certificates.status, certificates.body.len()), (200, 0));
    assert_eq!(get(to, &format!("/api/runs/{}/certificates?from=x", run.id)).await.status, 400);
    assert_eq!(get(to, &format!("/api/runs/{}", Digest::of(b"none"))).await.status, 404);
}

#[tokio::test]
async fn a_manifest_that_is_unsigned_unfit_or_not_the_hosts_is_refused() {
    let fixture = relay(|_| {}).await;
    let (to, token) = (fixture.relay.http_addr, fixture.relay.host_token.as_str());
    let run = tiny_run("unfit");
    assert_eq!(publish(to, "wrong", &run.envelope).await.unwrap().status, 401);
    let mut forged = run.envelope.clone();
    forged.signature.0[0] ^= 1;
    assert_eq!(publish(to, token, &forged).await.unwrap().status, 400);
    let mut manifest = Manifest::open(&run.envelope).unwrap();
    manifest.recipe.local_steps = 0;
    let host = shoal_wire::Identity::from_secret([1; 32]);
    let answer = publish(to, token, &host.seal(shoal_wire::sign::Domain::Manifest, &manifest)).await.unwrap();
    assert_eq!(answer.status, 422);
    assert!(answer.json()["error"].as_str().unwrap().contains("recipe.local_steps"), "{}", answer.text());
    let authorization = format!("Bearer {token}");
    let huge = vec![0; limits::MANIFEST_BYTES_MAX * 2];
    let answer = request(to, "POST", "/api/runs", &[("authorization", &authorization)], &huge).await.unwrap();
    assert_eq!(answer.status, 413);
}

#[tokio::test]
async fn a_recipe_whose_numbers_no_run_has_is_refused_with_the_number_it_names() {
    let fixture = relay(|_| {}).await;
    let (to, token) = (fixture.relay.http_addr, fixture.relay.host_token.as_str());
    let run = tiny_run("wild numbers");
    let host = shoal_wire::Identity::from_secret([1; 32]);
    let adamw = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: None };
    let sgd = Sgd { lr: 1.5, momentum: 0.9, nesterov: false, weight_decay: 0.0, grad_clip: None };
    for (inner, field) in [
        (AdamW { lr: 1.5, ..adamw }.into(), "lr"),
        (AdamW { eps: 2.0, ..adamw }.into(), "eps"),
        (AdamW { weight_decay: 1.5, ..adamw }.into(), "weight_decay"),
        (AdamW { beta1: 1.0, ..adamw }.into(), "beta1"),
        (Optimizer::Sgd(sgd), "lr"),
    ] {
        let mut manifest = Manifest::open(&run.envelope).unwrap();
        manifest.recipe.inner = inner;
        let answer = publish(to, token, &host.seal(shoal_wire::sign::Domain::Manifest, &manifest)).await.unwrap();
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == 422 && error.contains(field), "{field}: {} {error}", answer.status);
    }
}

#[tokio::test]
async fn a_manifest_that_names_one_chunk_again_and_again_is_refused() {
    let fixture = relay(|_| {}).await;
    let (to, token) = (fixture.relay.http_addr, fixture.relay.host_token.as_str());
    let run = tiny_run("an endless text");
    for blob in &run.blobs {
        put_blob(to, token, blob).await.unwrap();
    }
    let mut manifest = Manifest::open(&run.envelope).unwrap();
    let chunks = &mut manifest.data.sources[0].chunks;
    chunks[0].bytes = limits::BLOB_BYTES_MAX as u32;
    let more = limits::TEXT_BYTES_MAX / limits::BLOB_BYTES_MAX;
    chunks.extend(vec![chunks[0]; more as usize]);
    let host = shoal_wire::Identity::from_secret([1; 32]);
    let answer = publish(to, token, &host.seal(shoal_wire::sign::Domain::Manifest, &manifest)).await.unwrap();
    assert_eq!(answer.status, 422);
    assert!(answer.json()["error"].as_str().unwrap().contains("the text's bytes"), "{}", answer.text());
}

#[tokio::test]
async fn a_manifest_without_the_token_is_refused_before_its_body_is_sent() {
    let fixture = relay(|_| {}).await;
    let to = fixture.relay.http_addr;
    for authorization in ["", "authorization: Bearer wrong\r\n"] {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let head = format!("POST /api/runs HTTP/1.1\r\nhost: x\r\n{authorization}content-length: 1000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 401");
    }
}

#[tokio::test]
async fn pages_carry_a_strict_policy_and_only_the_embedded_one_may_be_framed() {
    let fixture = relay(|config| config.embed_origins = vec!["https://partner.example".to_owned()]).await;
    let to = fixture.relay.http_addr;
    let head = get(to, "/").await.head.to_lowercase();
    for part in ["script-src 'self' 'wasm-unsafe-eval'", "frame-ancestors 'none'", "nosniff", "referrer-policy"] {
        assert!(head.contains(part), "{part} in {head}");
    }
    // Isolated, so that threads may share memory.
    for part in ["cross-origin-opener-policy: same-origin", "cross-origin-embedder-policy: require-corp"] {
        assert!(head.contains(part), "{part} in {head}");
    }
    assert!(!head.contains("access-control-allow"), "{head}");
    let head = get(to, "/embed.html").await.head.to_lowercase();
    assert!(head.contains("frame-ancestors 'self' https://partner.example"), "{head}");
    assert!(!head.contains("x-frame-options") && !head.contains("embedder-policy"), "{head}");
    for path in ["/../Cargo.toml", "/%2e%2e/Cargo.toml", "/assets/..%2f..%2fpackage.json", "/.gitignore"] {
        assert_eq!(get(to, path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn health_says_what_is_going_on() {
    let fixture = relay(|_| {}).await;
    let answer = get(fixture.relay.http_addr, "/healthz").await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("ok")));
    assert_eq!(get(fixture.relay.http_addr, "/api/nothing").await.status, 404);
    let answer = request(fixture.relay.http_addr, "DELETE", "/api/runs", &[], &[]).await.unwrap();
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let fixture = relay(|config| config.connections_per_address_max = 3).await;
    let to = fixture.relay.http_addr;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(to).await.unwrap());
    }
    let mut fourth = TcpStream::connect(to).await.unwrap();
    let closed = fourth.read(&mut [0; 1]).await;
    assert!(matches!(closed, Ok(0) | Err(_)), "the fourth is closed at once");
    drop(held);
    // The relay notices the closed connections in its own time.
    while request(to, "GET", "/healthz", &[], &[]).await.is_err() {
        tokio::task::yield_now().await;
    }
}
