//! The golden vector of the deterministic outer step, so that tests can compare browsers.

use shoal_learn::outer::golden;
use wasm_bindgen::{JsError, prelude::wasm_bindgen};

/// Digest of the golden vector's model, as this browser computes it.
#[wasm_bindgen(js_name = goldenDigest)]
pub fn golden_digest() -> Result<String, JsError> {
    Ok(golden::run()?.to_string())
}
