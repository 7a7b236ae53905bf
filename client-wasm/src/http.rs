//! Fetching from the relay, never more than a limit.

use js_sys::{Reflect, Uint8Array};
use shoal_wire::Digest;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{ReadableStreamDefaultReader, Response};

use crate::{messages::Failure, scope};

/// Reads a whole answer of at most `limit` bytes.
pub async fn get(url: &str, limit: usize) -> Result<Vec<u8>, Failure> {
    let away = |error: JsValue| Failure::new("relayAway", &format!("{url}: {}", scope::words(&error)));
    let response: Response = JsFuture::from(scope::worker().fetch_with_str(url)).await.map_err(away)?.unchecked_into();
    if response.status() == 404 {
        return Err(Failure::new("notFound", &format!("{url}: not found")));
    }
    if !response.ok() {
        let text = format!("{url}: the relay answered {} {}", response.status(), response.status_text());
        return Err(Failure::new("relayAway", &text));
    }
    let Some(body) = response.body() else { return Ok(Vec::new()) };
    let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    let mut bytes = Vec::new();
    loop {
        let part = JsFuture::from(reader.read()).await.map_err(away)?;
        let value = Reflect::get(&part, &"value".into()).map_err(away)?;
        let Ok(chunk) = value.dyn_into::<Uint8Array>() else { return Ok(bytes) };
        if bytes.len() + chunk.length() as usize > limit {
            return Err(Failure::new("data", &format!("{url}: more than the limit of {limit} bytes")));
        }
        let start = bytes.len();
        bytes.resize(start + chunk.length() as usize, 0);
        chunk.copy_to(&mut bytes[start..]);
    }
}

/// Reads a blob and checks it against its address.
pub async fn get_blob(relay: &str, digest: Digest, limit: usize) -> Result<Vec<u8>, Failure> {
    let url = format!("{relay}/api/blobs/{digest}");
    let bytes = get(&url, limit).await?;
    if Digest::of(&bytes) == digest {
        Ok(bytes)
    } else {
        Err(Failure::new("data", &format!("{url}: the bytes do not match their digest")))
    }
}
