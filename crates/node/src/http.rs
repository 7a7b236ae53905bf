//! A relay's HTTP API. Nothing it answers is believed: manifests are opened, blobs are hashed, sizes are bounded.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode, Url};
use serde::{Deserialize, de::DeserializeOwned};
use shoal_wire::{Digest, Envelope, Manifest, PeerId, Round, RunId, codec, limits, record::Certificate};

use crate::{NodeError, Trust, tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two pieces of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const JSON_BYTES_MAX: u64 = 4 * 1024 * 1024;
const CERTIFICATES_AT_ONCE: usize = 16;

/// A run as a relay lists it.
#[derive(Clone, Debug, Deserialize)]
pub struct RunSummary {
    pub id: RunId,
    pub name: String,
    pub description: String,
    pub host: String,
    pub round: Round,
    pub peers: usize,
    pub parameters: usize,
}

/// Talks to one relay.
#[derive(Clone, Debug)]
pub struct RelayClient {
    base: Url,
    http: reqwest::Client,
    trust: Trust,
}

/// Reads a relay's address as a person types it: the scheme may be left out.
pub fn parse_relay(text: &str) -> Result<Url, NodeError> {
    let refused = |why: &str| NodeError::Address { text: text.to_owned(), why: why.to_owned() };
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else if ["localhost", "127.", "[::1]"].iter().any(|local| text.starts_with(local)) {
        format!("http://{text}")
    } else {
        format!("https://{text}")
    };
    let mut url = Url::parse(&with_scheme).map_err(|error| refused(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(refused("it must start with http:// or https://"));
    }
    url.set_query(None);
    url.set_fragment(None);
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

impl RelayClient {
    pub fn new(base: Url, trust: Trust) -> Result<Self, NodeError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&trust)?)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .map_err(|error| NodeError::Tls(error.to_string()))?;
        Ok(Self { base, http, trust })
    }

    pub fn base(&self) -> &Url {
        &self.base
    }

    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Address of the signalling WebSocket.
    pub fn signal_url(&self) -> Result<Url, NodeError> {
        let mut url = self.url("api/signal")?;
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        url.set_scheme(scheme)
            .map_err(|()| NodeError::Address { text: url.to_string(), why: "it has no WebSocket form".to_owned() })?;
        Ok(url)
    }

    pub async fn runs(&self) -> Result<Vec<RunSummary>, NodeError> {
        self.json("api/runs", || self.not_a_relay("api/runs", "it has no list of runs")).await
    }

    /// The run's details as the relay tells them, for people.
    pub async fn run_details(&self, run: RunId) -> Result<serde_json::Value, NodeError> {
        self.json(&format!("api/runs/{run}"), || NodeError::UnknownRun(run)).await
    }

    /// The signed manifest, after checking its signature and that it is this run's.
    pub async fn manifest(&self, run: RunId) -> Result<(Envelope, Manifest), NodeError> {
        let path = format!("api/runs/{run}/manifest");
        let limit = limits::MANIFEST_BYTES_MAX + 256;
        let bytes = self.get(&path, limit as u64).await?.ok_or(NodeError::UnknownRun(run))?;
        let envelope: Envelope = codec::decode("signed manifest", &bytes, limit)?;
        let manifest = Manifest::open(&envelope)?;
        if manifest.run() == run { Ok((envelope, manifest)) } else { Err(NodeError::OtherRun(run)) }
    }

    /// Certificates from a round on, as the relay has them; none when it has no more. They are decoded, not checked.
    pub async fn certificates(&self, run: RunId, from: Round) -> Result<Vec<Certificate>, NodeError> {
        self.certificates_at_most(run, from, CERTIFICATES_AT_ONCE).await
    }

    /// As [`Self::certificates`], with a bound on how many.
    pub async fn certificates_at_most(
        &self,
        run: RunId,
        from: Round,
        count: usize,
    ) -> Result<Vec<Certificate>, NodeError> {
        let path = format!("api/runs/{run}/certificates?from={from}&limit={count}");
        let limit = (count * (limits::CERTIFICATE_BYTES_MAX + 4)) as u64;
        let bytes = self.get(&path, limit).await?.ok_or(NodeError::UnknownRun(run))?;
        let mut rest = &bytes[..];
        let mut certificates = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            let (encoded, tail) = tail.split_at_checked(length).ok_or(NodeError::CutShort(path.clone()))?;
            certificates.push(Certificate::decode(encoded)?);
            rest = tail;
        }
        if rest.is_empty() { Ok(certificates) } else { Err(NodeError::CutShort(path)) }
    }

    /// A blob of at most `limit` bytes, hashed; `None` when the relay has none.
    pub async fn blob(&self, digest: Digest, limit: u64) -> Result<Option<Vec<u8>>, NodeError> {
        let answer = self.get(&format!("api/blobs/{digest}"), limit.min(limits::BLOB_BYTES_MAX)).await?;
        let Some(bytes) = answer else { return Ok(None) };
        if Digest::of(&bytes) == digest { Ok(Some(bytes)) } else { Err(NodeError::CorruptBlob(digest)) }
    }

    /// A file of a run's log, at most `limit` bytes; `None` when the relay has none.
    pub(crate) async fn log_file(&self, run: RunId, path: &str, limit: u64) -> Result<Option<Vec<u8>>, NodeError> {
        self.get(&format!("log/{run}/{path}"), limit).await
    }

    /// The peer that the relay's resident would be in a run with this genesis model and seed.
    pub async fn anchor(&self, genesis: Digest, seed: Digest) -> Result<PeerId, NodeError> {
        #[derive(Deserialize)]
        struct Named {
            anchor: PeerId,
        }
        let path = format!("api/anchor?genesis={genesis}&seed={seed}");
        let named: Named = self.json(&path, || self.not_a_relay(&path, "it names no anchor")).await?;
        Ok(named.anchor)
    }

    /// Uploads a blob as the host.
    pub async fn put_blob(&self, token: &str, bytes: Vec<u8>) -> Result<Digest, NodeError> {
        let digest = Digest::of(&bytes);
        self.upload(Method::PUT, &format!("api/blobs/{digest}"), token, bytes).await?;
        Ok(digest)
    }

    /// Publishes a run as the host; its blobs must be there.
    pub async fn create_run(&self, token: &str, manifest: &Envelope) -> Result<(), NodeError> {
        self.upload(Method::POST, "api/runs", token, codec::encode(manifest)).await
    }

    async fn upload(&self, method: Method, path: &str, token: &str, bytes: Vec<u8>) -> Result<(), NodeError> {
        let url = self.url(path)?;
        let request = self.http.request(method, url.clone()).bearer_auth(token).body(bytes);
        let response = request.send().await.map_err(|error| unreachable(&url, &error))?;
        if response.status().is_success() { Ok(()) } else { Err(refused(response).await) }
    }

    async fn json<T: DeserializeOwned>(&self, path: &str, unknown: impl FnOnce() -> NodeError) -> Result<T, NodeError> {
        let bytes = self.get(path, JSON_BYTES_MAX).await?.ok_or_else(unknown)?;
        serde_json::from_slice(&bytes).map_err(|error| self.not_a_relay(path, &format!("its answer: {error}")))
    }

    fn not_a_relay(&self, path: &str, why: &str) -> NodeError {
        NodeError::NotARelay { url: format!("{}{path}", self.base), why: why.to_owned() }
    }

    /// The body of a GET, read no further than `limit`; `None` for 404.
    async fn get(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, NodeError> {
        let url = self.url(path)?;
        let mut response = self.http.get(url.clone()).send().await.map_err(|error| unreachable(&url, &error))?;
        // Some other site, or its page for what it does not have: a relay's API never answers with a page.
        if is_page(&response) {
            return Err(self.not_a_relay(path, &format!("it answered {} with a web page", response.status().as_u16())));
        }
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let too_large = || NodeError::TooLarge { url: url.to_string(), limit };
        let announced = response.content_length().unwrap_or(0);
        if announced > limit {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(announced as usize);
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&url, &error))? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    fn url(&self, path: &str) -> Result<Url, NodeError> {
        let why = |error: <Url as std::str::FromStr>::Err| NodeError::Address {
            text: path.to_owned(),
            why: error.to_string(),
        };
        self.base.join(path).map_err(why)
    }
}

pub(crate) fn unreachable(url: &Url, error: &reqwest::Error) -> NodeError {
    // reqwest names the cause only in the chain of sources.
    let mut why = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        why = cause.to_string();
        source = cause.source();
    }
    NodeError::Unreachable { url: url.to_string(), why }
}

fn is_page(response: &Response) -> bool {
    let kind = response.headers().get(reqwest::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/html"))
}

/// A relay's own words for why it does not answer.
#[derive(Deserialize)]
struct Complaint {
    error: String,
    #[serde(default)]
    hint: String,
}

/// What a relay calls a file of its own that does not match its digest or checksum.
const DAMAGED: &str = "corrupt";

pub(crate) async fn refused(mut response: Response) -> NodeError {
    const WHY_BYTES_MAX: usize = 2000;
    let (url, status) = (response.url().to_string(), response.status());
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= WHY_BYTES_MAX {
            body.truncate(WHY_BYTES_MAX);
            break;
        }
    }
    let why = match serde_json::from_slice(&body) {
        Ok(Complaint { error, .. }) if status == StatusCode::INTERNAL_SERVER_ERROR && error == DAMAGED => {
            return NodeError::Damaged { url };
        }
        Ok(Complaint { error, hint }) if hint.is_empty() => error,
        Ok(Complaint { error, hint }) => format!("{error} ({hint})"),
        Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
    };
    NodeError::Refused { url, status: status.as_u16(), why }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn addresses_are_read_as_people_type_them() {
        let read = |text| parse_relay(text).unwrap().to_string();
        assert_eq!(read("localhost:8080"), "http://localhost:8080/");
        assert_eq!(read("127.0.0.1:8080"), "http://127.0.0.1:8080/");
        assert_eq!(read("relay.example"), "https://relay.example/");
        assert_eq!(read("https://relay.example/shoal?run=1#x"), "https://relay.example/shoal/");
        for bad in ["", "ftp://relay.example", "http://", "https://[", "file:///etc/passwd"] {
            assert!(parse_relay(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_websocket_uses_tls_where_the_relay_does() {
        let client = |text| RelayClient::new(parse_relay(text).unwrap(), Trust::Anyone).unwrap();
        assert_eq!(client("http://a.example/x").signal_url().unwrap().as_str(), "ws://a.example/x/api/signal");
        assert_eq!(client("https://a.example").signal_url().unwrap().as_str(), "wss://a.example/api/signal");
    }
}
