//! The compute worker: trains, checks and merges updates, measures the common model, writes samples.

mod engine;
mod sample;
mod trial;
mod worker;

use js_sys::Reflect;
use serde::Deserialize;
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::spawn_local;
use web_sys::MessagePort;

use crate::{
    inbox::Inbox,
    messages::{ComputeCommand, ToCompute},
    scope,
};
use engine::Choice;

#[derive(Debug)]
enum Ask {
    Peer(ToCompute),
    Page(ComputeCommand),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Start {
    engine: Choice,
    duty: f64,
    /// Each common model is measured, however slow that makes this machine.
    measure_all: bool,
}

#[wasm_bindgen]
pub struct ComputeWorker {
    inbox: Inbox<Ask>,
}

#[wasm_bindgen]
impl ComputeWorker {
    #[wasm_bindgen(constructor)]
    pub fn new(start: JsValue) -> Result<Self, JsValue> {
        scope::report_panics("compute worker");
        let port: MessagePort = Reflect::get(&start, &"port".into())?.dyn_into()?;
        let start: Start = serde_wasm_bindgen::from_value(start)?;
        let inbox = Inbox::default();
        inbox.listen(&port, Ask::Peer);
        let asks = inbox.clone();
        spawn_local(async move { worker::run(start, port, asks).await });
        Ok(Self { inbox })
    }

    /// Takes a message of the page.
    pub fn handle(&self, message: JsValue) -> Result<(), JsValue> {
        self.inbox.push(Ask::Page(serde_wasm_bindgen::from_value(message)?));
        Ok(())
    }
}
