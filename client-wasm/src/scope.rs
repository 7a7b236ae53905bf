//! What a worker's global scope gives: time, randomness, timers, posting to the page.

use js_sys::{Array, Function, Promise, Reflect};
use serde::Serialize;
use shoal_wire::Millis;
use wasm_bindgen::{JsCast, JsError, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;
use web_sys::DedicatedWorkerGlobalScope;

use crate::messages::Failure;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(handler: &Function, ms: i32) -> i32;
    #[wasm_bindgen(js_name = clearTimeout)]
    fn clear_timeout(id: i32);
    /// Both workers and pages have these.
    #[wasm_bindgen(thread_local_v2, js_name = performance)]
    static PERFORMANCE: web_sys::Performance;
    #[wasm_bindgen(thread_local_v2, js_name = crypto)]
    static CRYPTO: web_sys::Crypto;
}

/// The longest delay that timers take; longer ones would fire at once.
const TIMEOUT_MS_MAX: u64 = i32::MAX as u64;

pub fn worker() -> DedicatedWorkerGlobalScope {
    js_sys::global().unchecked_into()
}

/// Monotonic, and near the wall clock, so that it grows across restarts.
pub fn now() -> Millis {
    Millis(PERFORMANCE.with(|clock| clock.time_origin() + clock.now()) as u64)
}

/// Milliseconds with fractions, for measuring.
pub fn precise_ms() -> f64 {
    PERFORMANCE.with(web_sys::Performance::now)
}

/// Leaves a mark that the page's tools see.
pub fn mark(name: &str) -> Result<(), JsError> {
    PERFORMANCE.with(|clock| clock.mark(name)).map(drop).map_err(|error| JsError::new(&words(&error)))
}

pub fn random() -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    CRYPTO
        .with(|crypto| crypto.get_random_values_with_u8_array(&mut bytes).map(|_| bytes))
        .map_err(|error| format!("the browser gives no random bytes: {}", words(&error)))
}

/// Plain object form: no `Map`s, no `BigInt`s.
pub fn to_js<T: Serialize>(value: &T) -> JsValue {
    let serializer = serde_wasm_bindgen::Serializer::json_compatible().serialize_bytes_as_arrays(false);
    value.serialize(&serializer).unwrap_or_else(Into::into)
}

/// Posts a message to the page.
pub fn post<T: Serialize>(message: &T) {
    post_js(&to_js(message));
}

pub fn post_js(message: &JsValue) {
    if let Err(error) = worker().post_message(message) {
        web_sys::console::error_2(&"a message to the page was refused".into(), &error);
    }
}

/// Tells the page why this worker cannot go on.
pub fn post_failure(failure: &Failure) {
    post(failure);
}

/// A JavaScript error in words.
pub fn words(error: &JsValue) -> String {
    let text = |name: &str| Reflect::get(error, &name.into()).ok().and_then(|value| value.as_string());
    match (text("name"), text("message")) {
        (Some(name), Some(message)) if !message.is_empty() => format!("{name}: {message}"),
        _ => error.as_string().unwrap_or_else(|| format!("{error:?}")),
    }
}

pub async fn sleep(ms: f64) {
    let promise = Promise::new(&mut |resolve, _| {
        set_timeout(&resolve, ms.clamp(0.0, TIMEOUT_MS_MAX as f64) as i32);
    });
    // A promise that only resolves cannot fail.
    JsFuture::from(promise).await.ok();
}

/// One timer that is set again and again.
#[derive(Debug)]
pub struct Alarm {
    ring: Function,
    id: Option<i32>,
}

impl Alarm {
    pub fn new(ring: Function) -> Self {
        Self { ring, id: None }
    }

    pub fn set(&mut self, now: Millis, at: Millis) {
        if let Some(id) = self.id.take() {
            clear_timeout(id);
        }
        if at != Millis::NEVER {
            self.id = Some(set_timeout(&self.ring, at.since(now).min(TIMEOUT_MS_MAX) as i32));
        }
    }
}

/// Lets messages in between two steps of work. A message to oneself is delivered at once, where a timer
/// would wait for at least four milliseconds.
#[derive(Debug)]
pub struct Breath {
    channel: web_sys::MessagePort,
    echo: web_sys::MessagePort,
}

#[wasm_bindgen]
extern "C" {
    type MessageChannel;
    #[wasm_bindgen(constructor)]
    fn new() -> MessageChannel;
    #[wasm_bindgen(method, getter)]
    fn port1(this: &MessageChannel) -> web_sys::MessagePort;
    #[wasm_bindgen(method, getter)]
    fn port2(this: &MessageChannel) -> web_sys::MessagePort;
}

impl Breath {
    pub fn new() -> Self {
        let channel = MessageChannel::new();
        Self { channel: channel.port1(), echo: channel.port2() }
    }

    pub async fn take(&self) {
        let promise = Promise::new(&mut |resolve, _| {
            self.echo.set_onmessage(Some(&resolve));
        });
        if self.channel.post_message(&JsValue::NULL).is_ok() {
            // This promise is never rejected.
            JsFuture::from(promise).await.ok();
        }
    }
}

/// Posts bytes over a port without copying them again.
pub fn post_bytes(port: &web_sys::MessagePort, bytes: &[u8]) -> Result<(), JsValue> {
    let buffer = js_sys::Uint8Array::from(bytes).buffer();
    port.post_message_with_transferable(&buffer, &Array::of1(&buffer))
}

/// Reports panics to the page; the worker is of no use after one.
pub fn report_panics(part: &'static str) {
    std::panic::set_hook(Box::new(move |info| {
        let text = format!("{part}: {info}");
        web_sys::console::error_1(&text.as_str().into());
        post_failure(&Failure::new("panic", &text));
    }));
}
