//! What the tests of a whole relay share: a relay on a free port, a small HTTP client, a signalling client.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use shoal_relay::{Config, Relay, RunningRelay};
use shoal_wire::{
    Digest, Envelope, Identity, Manifest, RunId, codec,
    manifest::{
        AdamW, Charter, Chunk, Codec, CreditRule, DataSource, DataSpec, ModelSpec, Outer, Privacy, Recipe, RopeScaling,
        Timing, Tokenizer,
    },
    relay::{FromRelay, ToRelay},
    sign::Domain,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

/// Longer than anything here takes; a hang fails instead of blocking the suite.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Fixture {
    pub relay: RunningRelay,
    pub dir: tempfile::TempDir,
}

pub async fn relay(adjust: impl FnOnce(&mut Config)) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    adjust(&mut config);
    Fixture { relay: Relay::start(config).await.unwrap(), dir }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// One request on a connection of its own.
pub async fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(to).await?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    if !body.is_empty() || method == "PUT" || method == "POST" {
        write!(head, "content-length: {}\r\n", body.len()).unwrap();
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    // A server that refuses early closes before it read everything: its answer still counts.
    stream.write_all(body).await.ok();
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an answer in time")?;
    let cut = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let cut = cut.ok_or_else(|| std::io::Error::other("the connection ended before the headers did"))?;
    let head = String::from_utf8_lossy(&bytes[..cut]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Ok(Answer { status, head, body: bytes.split_off(cut + 4) })
}

pub async fn get(to: SocketAddr, path: &str) -> Answer {
    request(to, "GET", path, &[], &[]).await.unwrap()
}

pub async fn put_blob(to: SocketAddr, token: &str, bytes: &[u8]) -> std::io::Result<Answer> {
    let path = format!("/api/blobs/{}", Digest::of(bytes));
    request(to, "PUT", &path, &[("authorization", &format!("Bearer {token}"))], bytes).await
}

pub async fn publish(to: SocketAddr, token: &str, envelope: &Envelope) -> std::io::Result<Answer> {
    let authorization = format!("Bearer {token}");
    request(to, "POST", "/api/runs", &[("authorization", &authorization)], &codec::encode(envelope)).await
}

/// A run of the smallest model, with its blobs.
pub struct TinyRun {
    pub envelope: Envelope,
    pub id: RunId,
    pub blobs: Vec<Vec<u8>>,
}

pub fn tiny_run(name: &str) -> TinyRun {
    let model = ModelSpec {
        vocab_size: 256,
        hidden_size: 4,
        intermediate_size: 4,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        max_position_embeddings: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: true,
    };
    let parameters = shoal_learn::Layout::of(&model).unwrap().len();
    let genesis = vec![0; 4 * parameters];
    let text = format!("Once upon a time there was {name}. ").repeat(20).into_bytes();
    let host = Identity::from_secret([1; 32]);
    let manifest = Manifest {
        version: shoal_wire::manifest::VERSION,
        name: name.to_owned(),
        description: "For a test".to_owned(),
        host: "a test".to_owned(),
        model,
        tokenizer: Tokenizer::Bytes,
        genesis: Digest::of(&genesis),
        data: DataSpec {
            sources: vec![DataSource {
                name: "text".to_owned(),
                licence: "CC0-1.0".to_owned(),
                attribution: String::new(),
                chunks: vec![Chunk { digest: Digest::of(&text), bytes: text.len() as u32 }],
            }],
            held_out_bytes: 64,
        },
        recipe: Recipe {
            batch: 1,
            context: 8,
            local_steps: 2,
            inner: AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) }
                .into(),
            warmup_rounds: 0,
            decay_from: 0,
            decay_rounds: 0,
            outer: Outer { codec: Codec::Dense4, alpha_1024: 1024, feedback_1024: 973 },
        },
        timing: Timing {
            train_ms_max: 1000,
            exchange_ms_max: 1000,
            view_ms: 1000,
            recovery_ms: 5000,
            recovery_window_rounds: 10,
        },
        privacy: Privacy::Public,
        credit: CreditRule::default(),
        charter: Charter::default(),
        anchors: vec![host.peer()],
        seed: Digest([3; 32]),
    };
    TinyRun { id: manifest.run(), envelope: host.seal(Domain::Manifest, &manifest), blobs: vec![genesis, text] }
}

/// Uploads and publishes a run.
pub async fn publish_tiny_run(fixture: &Fixture, name: &str) -> RunId {
    let (to, token) = (fixture.relay.http_addr, &fixture.relay.host_token);
    let run = tiny_run(name);
    for blob in &run.blobs {
        assert_eq!(put_blob(to, token, blob).await.unwrap().status, 201);
    }
    let answer = publish(to, token, &run.envelope).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    run.id
}

/// A signalling client.
pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    /// Connects; the challenge has not been read yet.
    pub async fn connect(to: SocketAddr, origin: Option<&str>) -> Result<Self, tungstenite::Error> {
        let mut request = format!("ws://{to}/api/signal").into_client_request()?;
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        let (socket, _) = connect_async(request).await?;
        Ok(Self { socket })
    }

    /// Connects and enters; returns what the relay said to that.
    pub async fn enter(to: SocketAddr, run: RunId, identity: &Identity) -> (Self, FromRelay) {
        Self::connect(to, None).await.unwrap().introduce(run, identity).await
    }

    /// Enters; returns what the relay said to that.
    pub async fn introduce(mut self, run: RunId, identity: &Identity) -> (Self, FromRelay) {
        let Some(FromRelay::Challenge { nonce }) = self.next().await else { panic!("no challenge") };
        self.send(&ToRelay::enter(identity, run, &nonce)).await.unwrap();
        let answer = self.next().await.expect("an answer");
        (self, answer)
    }

    pub async fn send(&mut self, message: &ToRelay) -> Result<(), tungstenite::Error> {
        self.socket.send(Message::Binary(message.encode().into())).await
    }

    /// The next message; `None` when the relay ended the connection.
    pub async fn next(&mut self) -> Option<FromRelay> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("a message in time")? {
                Ok(Message::Binary(bytes)) => return Some(FromRelay::decode(&bytes).expect("a relay message")),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}
