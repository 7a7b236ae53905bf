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
    let tensor = TensorInfo { name: "w".to_owned(), shape: vec![2], offset: 0 };
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

/// A safetensors file of a header as it stands and some data.
fn raw(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn tensors_that_overlap_leave_gaps_or_reach_beyond_the_file_are_refused() {
    let tensor = |name: &str, offset| TensorInfo { name: name.to_owned(), shape: vec![2], offset };
    let layout = Layout { tensors: vec![tensor("a", 0), tensor("b", 2)] };
    let header = |a: [u64; 2], b: [u64; 2]| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a:?}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b:?}}}}}"#
        )
    };
    assert_eq!(parse_weights(&raw(&header([0, 8], [8, 16]), 16), &layout).unwrap(), [0.0; 4]);
    for (a, b, data) in [
        ([0, 8], [4, 12], 12),
        ([0, 8], [0, 8], 8),
        ([0, 8], [12, 20], 20),
        ([0, 8], [8, 16], 15),
        ([0, 8], [8, 16], 17),
        ([8, 0], [8, 16], 16),
        ([0, u64::MAX], [8, 16], 16),
        ([0, 8], [8, 12], 12),
    ] {
        let error = parse_weights(&raw(&header(a, b), data), &layout).unwrap_err();
        assert!(matches!(error, FolderError::Safetensors(_)), "{a:?} {b:?}: {error}");
    }
}

#[test]
fn a_header_that_is_no_table_of_tensors_is_refused() {
    let layout = Layout { tensors: Vec::new() };
    for header in
        ["", "[]", "{", r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, r#"{"a":{"dtype":"F32"}}"#]
    {
        assert!(matches!(parse_weights(&raw(header, 8), &layout), Err(FolderError::Safetensors(_))), "{header}");
    }
    let shape = format!(r#"{{"a":{{"dtype":"F32","shape":[{0},{0},{0}],"data_offsets":[0,8]}}}}"#, 1u64 << 40);
    assert!(matches!(parse_weights(&raw(&shape, 8), &layout), Err(FolderError::Safetensors(_))));
}

#[test]
fn nan_and_infinity_are_refused_in_every_type_with_their_tensor() {
    let tensor = TensorInfo { name: "w".to_owned(), shape: vec![1], offset: 0 };
    let layout = Layout { tensors: vec![tensor] };
    for (dtype, bytes) in [
        (Dtype::F32, f32::NAN.to_le_bytes().to_vec()),
        (Dtype::F32, f32::NEG_INFINITY.to_le_bytes().to_vec()),
        (Dtype::F16, f16::NAN.to_le_bytes().to_vec()),
        (Dtype::BF16, bf16::INFINITY.to_le_bytes().to_vec()),
    ] {
        let error = parse_weights(&file("w", dtype, &[1], &bytes), &layout).unwrap_err();
        assert_eq!(error, FolderError::NotFinite("w".to_owned()));
    }
}

#[test]
fn a_model_far_larger_than_its_file_is_refused_before_memory_is_taken() {
    let tensor = TensorInfo { name: "w".to_owned(), shape: vec![1 << 30], offset: 0 };
    let layout = Layout { tensors: vec![tensor] };
    let error = parse_weights(&file("w", Dtype::F32, &[1], &[0; 4]), &layout).unwrap_err();
    assert!(matches!(error, FolderError::Shape { .. }), "{error}");
}
