#![allow(clippy::unwrap_used)]
use super::*;

const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-5}"#;

fn with(field: &str, value: Value) -> Result<ModelSpec, FolderError> {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config[field] = value;
    parse_config(config.to_string().as_bytes())
}

#[test]
fn a_config_round_trips_and_prints_short_decimals() {
    let model = with("rope_theta", json!(500_000.0)).unwrap();
    let text = String::from_utf8(config_json(&model).unwrap()).unwrap();
    assert_eq!(parse_config(text.as_bytes()).unwrap(), model);
    assert!(!text.contains("999"), "{text}");
    assert_eq!(model.num_key_value_heads, 4);
}

#[test]
fn both_ways_to_write_the_rope_base_are_read() {
    let old = with("rope_theta", json!(300.0)).unwrap();
    let new = with("rope_parameters", json!({"rope_type": "default", "rope_theta": 300.0})).unwrap();
    assert_eq!(old, new);
}

#[test]
fn what_would_change_the_computation_is_refused() {
    for (field, value) in [
        ("model_type", json!("gpt2")),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("head_dim", json!(32)),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
        ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 300.0})),
        ("hidden_size", json!(-1)),
        ("vocab_size", json!(1e30)),
        ("num_key_value_heads", json!(3)),
        ("rms_norm_eps", json!(0.0)),
        ("rope_theta", json!(1e300)),
        ("intermediate_size", json!(1 << 22)),
    ] {
        assert!(with(field, value).is_err(), "{field}");
    }
}

#[test]
fn every_truncation_of_weights_is_an_error() {
    let layout = Layout::of(&with("vocab_size", json!(1)).unwrap()).unwrap();
    let bytes = weights_bytes(&layout, &vec![0.5; layout.len()]).unwrap();
    assert_eq!(parse_weights(&bytes, &layout).unwrap().len(), layout.len());
    for length in (0..bytes.len()).step_by(101) {
        assert!(parse_weights(&bytes[..length], &layout).is_err());
    }
}

/// A file with one tensor, whatever its name, type and content.
fn file(name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> Vec<u8> {
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

#[test]
fn batches_keep_their_shape_and_tokens_stay_in_the_vocabulary() {
    let tokens = |values: &[i32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let good = file("tokens", Dtype::I32, &[1, 2, 3], &tokens(&[1, 2, 3, 4, 5, 6]));
    assert_eq!(parse_batches(&good, 7).unwrap(), (vec![1, 2, 3, 4, 5, 6], [1, 2, 3]));
    assert!(matches!(parse_batches(&good, 6), Err(FolderError::Token { token: 6, vocab: 6 })));
    for shape in [&[6][..], &[0, 2, 3], &[1, 0, 3], &[2, 3, 1]] {
        let size = shape.iter().product::<usize>() * 4;
        let bad = file("tokens", Dtype::I32, shape, &vec![0; size]);
        assert!(matches!(parse_batches(&bad, 7), Err(FolderError::Shape { .. })), "{shape:?}");
    }
}
