//! Parameters as bytes: f32 little-endian in layout order. The digest of these bytes is the model's.

use super::UpdateError;
use crate::Layout;

pub fn params_to_bytes(parameters: &[f32]) -> Vec<u8> {
    parameters.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Reads the parameters of a model; every one must be finite.
pub fn params_from_bytes(layout: &Layout, bytes: &[u8]) -> Result<Vec<f32>, UpdateError> {
    if bytes.len() != layout.len() * 4 {
        return Err(UpdateError::Length { got: bytes.len() / 4, expected: layout.len() });
    }
    let parameters: Vec<f32> =
        bytes.chunks_exact(4).map(|part| f32::from_le_bytes([part[0], part[1], part[2], part[3]])).collect();
    match parameters.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(UpdateError::NotFinite { index }),
        None => Ok(parameters),
    }
}
