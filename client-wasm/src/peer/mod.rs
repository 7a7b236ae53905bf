//! The peer worker: opens the run, then drives the swarm and the mesh until it leaves.

mod driver;
mod links;
mod relay;
mod restore;

use js_sys::Reflect;
use serde::Deserialize;
use shoal_learn::Layout;
use shoal_swarm::{Config, Swarm, mesh::Mesh};
use shoal_wire::{Envelope, Identity, Manifest, RunId, SessionId, codec, limits, record::Join};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::spawn_local;
use web_sys::{MessagePort, RtcDataChannel};

use crate::{
    blob::Blob,
    files::BrowserFiles,
    http,
    inbox::Inbox,
    messages::{Failure, LinkName, LinkNews, PageCommand, PeerNews, ToCompute},
    scope,
};
use driver::{Driver, News};

/// A run's text is held in memory.
const TEXT_BYTES_MAX: u64 = limits::BLOB_BYTES_MAX;
/// What a signature and a sender add to a manifest.
const ENVELOPE_BYTES: usize = 1024;

#[derive(Clone, Debug, Deserialize)]
struct Start {
    /// The relay's origin.
    relay: String,
    run: String,
    direct: bool,
}

#[wasm_bindgen]
pub struct PeerWorker {
    inbox: Inbox<News>,
}

#[wasm_bindgen]
impl PeerWorker {
    /// Starts at once; what goes wrong is posted to the page.
    #[wasm_bindgen(constructor)]
    pub fn new(start: JsValue) -> Result<Self, JsValue> {
        scope::report_panics("peer worker");
        let port: MessagePort = Reflect::get(&start, &"port".into())?.dyn_into()?;
        let start: Start = serde_wasm_bindgen::from_value(start)?;
        let inbox = Inbox::default();
        inbox.listen(&port, News::Compute);
        let news = inbox.clone();
        spawn_local(async move {
            match open(start, port, news).await {
                Ok(driver) => driver.run().await,
                Err(failure) => scope::post_failure(&failure),
            }
        });
        Ok(Self { inbox })
    }

    /// Takes a message of the page or of its links.
    pub fn handle(&self, message: JsValue) -> Result<(), JsValue> {
        let kind = Reflect::get(&message, &"type".into())?.as_string().unwrap_or_default();
        let news = match kind.as_str() {
            "channels" => {
                let field = |name: &str| Reflect::get(&message, &name.into());
                let link: LinkName = serde_wasm_bindgen::from_value(field("link")?)?;
                let channel = |name| field(name).map(JsCast::unchecked_into::<RtcDataChannel>);
                News::Channels { link, channels: [channel("control")?, channel("bulk")?] }
            }
            "pause" | "resume" | "leave" => News::Page(serde_wasm_bindgen::from_value::<PageCommand>(message)?),
            _ => News::Link(serde_wasm_bindgen::from_value::<LinkNews>(message)?),
        };
        self.inbox.push(news);
        Ok(())
    }
}

fn opening(text: impl Into<String>) {
    scope::post(&PeerNews::Opening { text: text.into() });
}

async fn open(start: Start, compute: MessagePort, inbox: Inbox<News>) -> Result<Driver, Failure> {
    opening("Fetching what this run is…");
    let run = RunId::from_hex(&start.run).ok_or_else(|| Failure::new("notFound", &"the run's id is cut short"))?;
    let manifest = fetch_manifest(&start.relay, run).await?;
    let layout = Layout::of(&manifest.model).map_err(|error| Failure::new("badManifest", &error))?;

    opening("Opening this browser’s storage…");
    let (identity, files, why) = open_files(run).await?;
    let me = identity.peer();
    let mut kept = restore::Kept::open(files, run, me);
    let (restored, mut chain_why) = kept.restore().await;
    let durable = kept.is_durable();

    let text = fetch_text(&start.relay, &manifest).await?;
    let setup = ToCompute::Setup {
        manifest: Blob(codec::encode(&manifest)),
        peer: me,
        text: Blob(text),
        residual: kept.residual().await.map(Blob),
    };
    driver::post_to(&compute, &setup);

    let fresh = SessionId(scope::random().map_err(|error| Failure::new("storage", &error))?);
    let config = Config {
        manifest: manifest.clone(),
        identity: identity.clone(),
        session: kept.session(fresh).await,
        join: Join { durable, trains: true },
        archive: false,
    };
    let now = scope::now();
    let mut restored = restored;
    let mut swarm = loop {
        if restored.certificates.is_empty() {
            opening("Fetching the first model…");
            let genesis = http::get_blob(&start.relay, manifest.genesis, layout.len() * 4).await?;
            restored.model = Some(genesis.into());
        }
        match Swarm::new(config.clone(), restored.clone(), now) {
            Ok(swarm) => break swarm,
            Err(error) if !restored.certificates.is_empty() => {
                // What peers hold counts, not a damaged copy: begin again without it.
                chain_why = Some(error.to_string());
                kept.forget_chain().await;
                restored.certificates.clear();
            }
            Err(error) => return Err(Failure::new("storage", &error)),
        }
    };
    swarm.set_model_bytes(layout.len() as u64 * 4);
    if let Some(text) = chain_why {
        scope::post(&PeerNews::Notice { text: format!("The stored copy of the run was unusable: {text}") });
    }
    scope::post(&PeerNews::Ready { peer: me, durable, why, head: swarm.chain().head().round });
    let mesh = Mesh::new(run, identity, start.direct);
    Ok(Driver::new(swarm, mesh, kept, compute, &start.relay, inbox))
}

async fn fetch_manifest(relay: &str, run: RunId) -> Result<Manifest, Failure> {
    let bytes =
        http::get(&format!("{relay}/api/runs/{run}/manifest"), limits::MANIFEST_BYTES_MAX + ENVELOPE_BYTES).await?;
    let bad = |error| Failure::new("badManifest", &error);
    let envelope: Envelope = codec::decode("manifest", &bytes, bytes.len()).map_err(bad)?;
    let manifest = Manifest::open(&envelope).map_err(bad)?;
    if manifest.run() == run {
        Ok(manifest)
    } else {
        Err(Failure::new("badManifest", &"the relay sent another run's manifest"))
    }
}

/// This browser's key for the run, and where the run's files are kept; if not durably, why.
async fn open_files(run: RunId) -> Result<(Identity, BrowserFiles, Option<String>), Failure> {
    let fail = |error: &dyn ToString| Failure::new("storage", &error.to_string());
    let (device, why) = BrowserFiles::open("shoal").await;
    let fresh = scope::random().map_err(|error| fail(&error))?;
    let secret = shoal_store::Store::new(device).device_secret_or(fresh).await.map_err(|error| fail(&error))?;
    let identity = Identity::for_run(&secret, run);
    if why.is_some() {
        return Ok((identity, BrowserFiles::Memory(core::cell::RefCell::default()), why));
    }
    let (files, why) = BrowserFiles::open(&format!("shoal/runs/{run}")).await;
    Ok((identity, files, why))
}

async fn fetch_text(relay: &str, manifest: &Manifest) -> Result<Vec<u8>, Failure> {
    let total: u64 = manifest.chunks().map(|chunk| u64::from(chunk.bytes)).sum();
    if total > TEXT_BYTES_MAX {
        let text = format!("its {total} bytes of text are more than a browser should hold; use a native peer");
        return Err(Failure::new("data", &text));
    }
    let mut text = Vec::with_capacity(total as usize);
    for chunk in manifest.chunks() {
        opening(format!("Fetching the text, {} of {} kB…", text.len() / 1000, total / 1000));
        let bytes = http::get_blob(relay, chunk.digest, chunk.bytes as usize).await?;
        if bytes.len() != chunk.bytes as usize {
            return Err(Failure::new("data", &format!("chunk {} is not as long as announced", chunk.digest)));
        }
        text.extend_from_slice(&bytes);
    }
    Ok(text)
}
