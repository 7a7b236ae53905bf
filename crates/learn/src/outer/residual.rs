//! Error feedback: what a peer learnt and has not sent yet.
//!
//! e ← βe + Δ; send Q(e); e ← e − Q(e). Kept in integers, so at β = 1 nothing is ever lost: e + Σ sent = Σ Δ exactly.

use shoal_wire::manifest::{Codec, Outer};
use shoal_wire::share::Share;

use super::{
    UpdateError,
    fixed::{div_1024_half_even, div_half_even, from_f32},
    update,
};
use crate::Layout;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residual {
    /// In units of 2⁻⁴⁰, in layout order.
    values: Vec<i64>,
    /// The last update, until it is known whether it is done with.
    sent: Option<(Codec, Vec<u8>)>,
}

impl Residual {
    pub fn new(layout: &Layout) -> Self {
        Self { values: vec![0; layout.len()], sent: None }
    }

    /// What is not sent yet, in units of 2⁻⁴⁰.
    pub fn values(&self) -> &[i64] {
        &self.values
    }

    /// Takes a peer's change of the model, θ before minus θ after, and returns the update to send.
    pub fn compress(&mut self, outer: &Outer, layout: &Layout, delta: &[f32]) -> Result<Vec<u8>, UpdateError> {
        if delta.len() != layout.len() || self.values.len() != layout.len() {
            return Err(UpdateError::Length { got: delta.len(), expected: layout.len() });
        }
        for (value, change) in self.values.iter_mut().zip(delta) {
            let decayed = div_1024_half_even(i128::from(*value) * i128::from(outer.feedback_1024));
            *value = (decayed + i128::from(from_f32(*change))).clamp(-(1 << 62), 1 << 62) as i64;
        }
        let bytes = update::encode(layout, outer.codec, &self.values);
        let sent = update::decode(layout, outer.codec, &bytes)?;
        for (value, sent) in self.values.iter_mut().zip(sent) {
            *value -= sent;
        }
        self.sent = Some((outer.codec, bytes.clone()));
        Ok(bytes)
    }

    /// The last update is done with by this share; the rest of its content goes back and is sent again later. Of an
    /// update that a round left out, that is the share that the round took of all: by so much it moved the model without
    /// it (docs/decisions/0026).
    pub fn settle(&mut self, layout: &Layout, done: Share) -> Result<(), UpdateError> {
        let promised = done.promised.max(1);
        let rest = promised.saturating_sub(done.taken);
        if let Some((codec, bytes)) = self.sent.take()
            && rest > 0
        {
            for (value, sent) in self.values.iter_mut().zip(update::decode(layout, codec, &bytes)?) {
                *value += div_half_even(i128::from(sent) * i128::from(rest), i128::from(promised)) as i64;
            }
        }
        Ok(())
    }

    /// For stable storage: i64 little-endian in layout order. An update that is not settled counts as done with.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    pub fn from_bytes(layout: &Layout, bytes: &[u8]) -> Result<Self, UpdateError> {
        if bytes.len() != layout.len() * 8 {
            return Err(UpdateError::Length { got: bytes.len() / 8, expected: layout.len() });
        }
        let value = |part: &[u8]| {
            let mut word = [0; 8];
            word.copy_from_slice(part);
            i64::from_le_bytes(word).clamp(-(1 << 62), 1 << 62)
        };
        Ok(Self { values: bytes.chunks_exact(8).map(value).collect(), sent: None })
    }
}
