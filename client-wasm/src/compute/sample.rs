//! Continues a text with the common model, for the volunteer to read.

use shoal_learn::{Engine, EngineError, Layout, outer};

use super::engine::SharedEngine;
use crate::{messages::ComputeNews, scope};

const BYTES: usize = 180;
/// A slow machine writes less rather than holding up training.
const MS_MAX: f64 = 6000.0;
const TEMPERATURE: f32 = 0.8;

/// What a sample needs.
pub struct Order<'a> {
    pub id: u32,
    pub prompt: &'a str,
    pub layout: &'a Layout,
    pub context: usize,
    /// The common model's bytes.
    pub model: &'a [u8],
}

/// Writes a text, posting it as it grows. What the engine held before is put back.
pub async fn write(engine: &mut SharedEngine, order: Order<'_>) -> Result<(), String> {
    let common = outer::params_from_bytes(order.layout, order.model).map_err(|error| error.to_string())?;
    let words = |error: EngineError| error.to_string();
    let held = engine.parameters().await.map_err(words)?;
    engine.load(&common).map_err(words)?;
    let written = continue_text(engine, &order).await;
    engine.load(&held).map_err(words)?;
    written
}

async fn continue_text(engine: &mut SharedEngine, order: &Order<'_>) -> Result<(), String> {
    let mut text = order.prompt.as_bytes().to_vec();
    if text.is_empty() {
        text.push(b'\n');
    }
    let (started, length) = (scope::precise_ms(), text.len() + BYTES);
    while text.len() < length && scope::precise_ms() - started < MS_MAX {
        let window = &text[text.len().saturating_sub(order.context)..];
        let tokens: Vec<u32> = window.iter().map(|byte| u32::from(*byte)).collect();
        let logits = engine.next_logits(&tokens).await.map_err(|error| error.to_string())?;
        text.push(draw(&logits, js_sys::Math::random()));
        post(order.id, &text, false);
    }
    post(order.id, &text, true);
    Ok(())
}

fn post(id: u32, text: &[u8], done: bool) {
    scope::post(&ComputeNews::Sample { id, text: String::from_utf8_lossy(text).into_owned(), done });
}

/// Draws a byte from the softmax of the logits, where `uniform` is in [0, 1).
fn draw(logits: &[f32], uniform: f64) -> u8 {
    let logits = &logits[..logits.len().min(256)];
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|logit| f64::from((logit - top) / TEMPERATURE).exp()).collect();
    let mut left = uniform * weights.iter().sum::<f64>();
    let found = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    found.unwrap_or(0) as u8
}
