//! The web pages, embedded in the binary, with the headers that keep them to themselves.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
};
use rust_embed::RustEmbed;

/// Built by `npm run build` in `web/`, and encoded by `cargo xtask build`; in a development build the files are read when they are asked for.
#[derive(RustEmbed)]
#[folder = "../web/dist"]
#[allow_missing = true]
struct Dist;

const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Shoal</title>\
    <h1>The relay is running, its pages are not built</h1>\
    <p>Run <code>cargo xtask build</code>, then start the relay again. The API is at \
    <a href=\"/api/runs\">/api/runs</a>.</p></html>";

/// Who may show the compact page in a frame.
#[derive(Clone, Debug)]
pub struct Embedding {
    frame_ancestors: String,
}

impl Embedding {
    /// `origins`: sites such as `https://example.org`; none means any.
    pub fn new(origins: &[String]) -> Self {
        let frame_ancestors = if origins.is_empty() { "*".to_owned() } else { format!("'self' {}", origins.join(" ")) };
        Self { frame_ancestors }
    }
}

pub fn router(embedding: Embedding, api: Router) -> Router {
    Router::new().fallback(page).merge(api).layer(middleware::from_fn_with_state(Arc::new(embedding), protect))
}

async fn page(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if !matches!(method, Method::GET | Method::HEAD) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let path = match uri.path().trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    answer(path, &headers, |name| Dist::get(name).map(|file| (file.data, file.metadata.sha256_hash())))
}

/// A file's bytes and their digest.
type Content = (Cow<'static, [u8]>, [u8; 32]);

/// Encodings that the build leaves beside a file, the smaller first.
const ENCODINGS: [(&str, &str); 2] = [("br", "br"), ("gzip", "gz")];

/// The file in the smallest encoding that is there and that the client takes.
fn answer(path: &str, headers: &HeaderMap, find: impl Fn(&str) -> Option<Content>) -> Response {
    let Some(plain) = find(path) else { return missing(path) };
    let encoded = ENCODINGS
        .iter()
        .filter(|(name, _)| takes(headers, name))
        .find_map(|(name, ending)| Some((find(&format!("{path}.{ending}"))?, *name)));
    let ((bytes, digest), encoding) = encoded.map_or((plain, None), |(file, name)| (file, Some(name)));
    // Of the bytes that are sent, so each encoding has its own.
    let tag = format!("\"{}\"", hex::encode(&digest[..16]));
    let cache = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let common = [
        (header::CACHE_CONTROL, cache.to_owned()),
        (header::ETAG, tag.clone()),
        (header::VARY, "accept-encoding".to_owned()),
    ];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let encoding = encoding.map(|name| [(header::CONTENT_ENCODING, name)]);
    (common, [(header::CONTENT_TYPE, content_type(path))], encoding, bytes.into_owned()).into_response()
}

/// Whether the client takes this encoding: it names it, and not with a weight of zero.
fn takes(headers: &HeaderMap, encoding: &str) -> bool {
    let lists = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|one| {
        let (name, parameters) = one.split_once(';').unwrap_or((one, ""));
        let weight = parameters.trim().strip_prefix("q=").and_then(|weight| weight.parse().ok()).unwrap_or(1.0_f32);
        name.trim().eq_ignore_ascii_case(encoding) && weight > 0.0
    })
}

fn missing(path: &str) -> Response {
    if path == "index.html" {
        return (StatusCode::SERVICE_UNAVAILABLE, Html(NOT_BUILT)).into_response();
    }
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "There is no such page.\n")
        .into_response()
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "wasm" => "application/wasm",
        "json" | "map" | "webmanifest" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Adds the security headers to every response.
async fn protect(State(embedding): State<Arc<Embedding>>, request: Request, next: Next) -> Response {
    let embedded = request.uri().path() == "/embed.html";
    // The partner's page loads the script and the frame; everything else is for this origin.
    let script = request.uri().path() == "/embed.js";
    let shared = embedded || script;
    let ancestors = if embedded { embedding.frame_ancestors.clone() } else { "'none'".to_owned() };
    let policy = content_security_policy(request.headers().get(header::HOST), &ancestors);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // An ancestor list that cannot be a header value must not mean "anybody".
    let policy = HeaderValue::from_str(&policy)
        .unwrap_or(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let resource_policy = if shared { "cross-origin" } else { "same-origin" };
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static(resource_policy));
    if !shared {
        // Isolated pages may share memory between the threads of their CPU engine.
        headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
        let policy = HeaderValue::from_static("require-corp");
        headers.insert(HeaderName::from_static("cross-origin-embedder-policy"), policy);
    }
    if script {
        // A module script from another site is fetched as any other data would be.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if !embedded {
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    }
    response
}

fn content_security_policy(host: Option<&HeaderValue>, ancestors: &str) -> String {
    // Some browsers do not count a WebSocket to the page's own host as 'self', so it is named.
    let host = host
        .and_then(|host| host.to_str().ok())
        .filter(|host| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]".contains(&b)));
    let sockets = host.map(|host| format!(" ws://{host} wss://{host}")).unwrap_or_default();
    format!(
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'{sockets}; \
         style-src 'self'; img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors {ancestors}"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use axum::body::to_bytes;

    use super::*;

    /// What a folder with these files gives to a client that sends these values of `Accept-Encoding`.
    async fn given(files: &[&'static str], path: &str, accept: &[&'static str]) -> (HeaderMap, String) {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
        }
        let find = |name: &str| {
            let name = *files.iter().find(|file| **file == name)?;
            let digest = std::array::from_fn(|at| name.as_bytes().get(at).copied().unwrap_or(0));
            Some((name.as_bytes().into(), digest))
        };
        let response = answer(path, &headers, find);
        let headers = response.headers().clone();
        let body = to_bytes(response.into_body(), 1000).await.expect("in memory");
        (headers, String::from_utf8(body.to_vec()).unwrap())
    }

    const BUILT: [&str; 3] = ["assets/a.wasm", "assets/a.wasm.br", "assets/a.wasm.gz"];

    #[tokio::test]
    async fn a_client_gets_the_smallest_encoding_that_it_takes() {
        for (accept, encoding, body) in [
            (&["gzip, deflate, br, zstd"][..], Some("br"), "assets/a.wasm.br"),
            (&["gzip", "BR"], Some("br"), "assets/a.wasm.br"),
            (&["gzip, br;q=0"], Some("gzip"), "assets/a.wasm.gz"),
            (&["br; q=0.1"], Some("br"), "assets/a.wasm.br"),
            (&["identity"], None, "assets/a.wasm"),
            (&[], None, "assets/a.wasm"),
        ] {
            let (headers, found) = given(&BUILT, "assets/a.wasm", accept).await;
            assert_eq!(found, body, "{accept:?}");
            assert_eq!(headers.get("content-encoding").map(|v| v.to_str().unwrap()), encoding, "{accept:?}");
            assert_eq!(headers["content-type"], "application/wasm");
            assert_eq!(headers["vary"], "accept-encoding");
            assert!(headers["cache-control"].to_str().unwrap().contains("immutable"));
        }
    }

    #[tokio::test]
    async fn each_encoding_has_a_tag_of_its_own() {
        let tag = async |accept| given(&["a.js", "a.js.br"], "a.js", &[accept]).await.0["etag"].clone();
        assert_ne!(tag("br").await, tag("identity").await);
    }

    #[tokio::test]
    async fn a_folder_without_encoded_files_is_served_as_it_is() {
        let (headers, body) = given(&["index.html"], "index.html", &["gzip, br"]).await;
        assert_eq!((body.as_str(), headers.get("content-encoding")), ("index.html", None));
        assert_eq!(headers["vary"], "accept-encoding");
    }

    #[test]
    fn a_host_header_cannot_add_directives() {
        let bad = HeaderValue::from_static("evil; script-src *");
        assert!(!content_security_policy(Some(&bad), "'none'").contains("evil"));
        let good = HeaderValue::from_static("[::1]:8080");
        assert!(content_security_policy(Some(&good), "'none'").contains("ws://[::1]:8080 wss://[::1]:8080;"));
    }
}
