#![allow(clippy::unwrap_used)]
use shoal_wire::manifest::ModelSpec;

use super::*;
use crate::presets::Preset;

#[test]
fn every_truncation_of_weights_is_an_error() {
    let layout = Layout::of(&ModelSpec { vocab_size: 1, ..Preset::Tiny.model() }).unwrap();
    let bytes = weights_bytes(&layout, &vec![0.5; layout.len()]).unwrap();
    assert_eq!(parse_weights(&bytes, &layout).unwrap().len(), layout.len());
    for length in (0..bytes.len()).step_by(101) {
        assert!(parse_weights(&bytes[..length], &layout).is_err());
    }
}

/// A file with one tensor, whatever its name, type and content.
pub(in crate::folder) fn file(name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let view = TensorView::new(dtype, shape.to_vec(), data).unwrap();
    safetensors::serialize([(name, view)], None).unwrap()
}

#[test]
fn half_precision_is_widened_and_integers_are_refused() {
    let tensor = crate::TensorInfo { name: "w".to_owned(), shape: vec![2], offset: 0 };
    let layout = Layout { tensors: vec![tensor] };
    let halves = [f16::from_f32(1.5), f16::from_f32(-2.0)].map(f16::to_le_bytes).concat();
    assert_eq!(parse_weights(&file("w", Dtype::F16, &[2], &halves), &layout).unwrap(), [1.5, -2.0]);
    let brains = [bf16::from_f32(1.5), bf16::from_f32(-2.0)].map(bf16::to_le_bytes).concat();
    assert_eq!(parse_weights(&file("w", Dtype::BF16, &[2], &brains), &layout).unwrap(), [1.5, -2.0]);
    let integers = file("w", Dtype::I32, &[2], &[0; 8]);
    assert!(matches!(parse_weights(&integers, &layout), Err(FolderError::Type { .. })));
    let infinite = [f32::INFINITY, 0.0].map(f32::to_le_bytes).concat();
    assert!(matches!(parse_weights(&file("w", Dtype::F32, &[2], &infinite), &layout), Err(FolderError::NotFinite(_))));
    assert!(matches!(parse_weights(&file("v", Dtype::F16, &[2], &halves), &layout), Err(FolderError::NoTensor(_))));
    assert!(matches!(parse_weights(&file("w", Dtype::F16, &[1, 2], &halves), &layout), Err(FolderError::Shape { .. })));
}

#[test]
fn a_header_that_claims_too_much_is_refused_before_it_is_read() {
    let layout = Layout { tensors: Vec::new() };
    let mut bytes = vec![b' '; 64];
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(parse_weights(&bytes, &layout), Err(FolderError::Header { bytes: u64::MAX })));
}
