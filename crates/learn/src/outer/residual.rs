//! Error feedback: what a peer learnt and has not sent yet.
//!
//! e ← βe + Δ; send Q(e); e ← e − Q(e). Kept in integers, so at β = 1 nothing is ever lost: e + Σ sent = Σ Δ exactly.

use shoal_wire::manifest::{Codec, Outer};

use super::{
    UpdateError,
    fixed::{div_1024_half_even, from_f32},
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

    /// An update that is not done with goes back: its content is sent again later. That is for rounds that took no
    /// update at all (docs/decisions/0023): where others' were taken, their mean moved the model as far.
    pub fn settle(&mut self, layout: &Layout, done: bool) -> Result<(), UpdateError> {
        if let Some((codec, bytes)) = self.sent.take()
            && !done
        {
            for (value, sent) in self.values.iter_mut().zip(update::decode(layout, codec, &bytes)?) {
                *value += sent;
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
