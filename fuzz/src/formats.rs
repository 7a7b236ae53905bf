//! Updates and model files.

use std::sync::LazyLock;

use shoal_learn::{
    Layout,
    folder::{FolderError, parse_batches, parse_config, parse_weights, weights_bytes},
    outer,
};
use shoal_wire::{
    Digest,
    manifest::{Codec, ModelSpec, Outer, RopeScaling},
    share::Share,
};

pub const MODEL: ModelSpec = ModelSpec {
    vocab_size: 16,
    hidden_size: 4,
    intermediate_size: 6,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    max_position_embeddings: 8,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000.0,
    rope_scaling: RopeScaling::Default,
    tie_word_embeddings: true,
};

pub static LAYOUT: LazyLock<Layout> = LazyLock::new(|| Layout::of(&MODEL).expect("a model that fits"));

/// What is well formed decodes, and can be merged with any weight. The first bytes choose codec and weight.
pub fn updates(data: &[u8]) {
    let Some(([codec, low, high], content)) = data.split_first_chunk() else { return };
    let codec = if codec % 2 == 0 { Codec::Dense4 } else { Codec::Topk };
    let weight = u16::from_le_bytes([*low, *high]) % 4095 + 1;
    // A liar makes the checksum fit.
    let sum = Digest::in_domain("shoal 2026 v1 update checksum", content).0;
    let summed = [content, &sum[..4]].concat();
    for bytes in [content, &summed] {
        let checked = outer::check(&LAYOUT, codec, bytes);
        let decoded = outer::decode(&LAYOUT, codec, bytes);
        assert_eq!(checked.is_ok(), decoded.is_ok());
        let Ok(values) = decoded else { continue };
        assert_eq!(values.len(), LAYOUT.len());
        let outer = Outer { codec, alpha_1024: 1024, feedback_1024: 1024 };
        let theta = vec![0.5; LAYOUT.len()];
        let merged = outer::aggregate(
            &LAYOUT,
            &outer,
            &theta,
            &[(weight, bytes), (4095, bytes)],
            &[],
            Share { taken: u32::from(weight), promised: 4095 },
        );
        let (next, norms) = merged.expect("a well-formed update can be merged");
        assert!(next.iter().all(|value| value.is_finite()));
        assert_eq!(norms.len(), LAYOUT.tensors.len());
    }
}

/// Weights, batches and a config from a stranger's folder.
pub fn weights(data: &[u8]) {
    match parse_weights(data, &LAYOUT) {
        Ok(flat) => {
            let again = weights_bytes(&LAYOUT, &flat).expect("weights of this layout");
            assert_eq!(parse_weights(&again, &LAYOUT), Ok(flat));
        }
        Err(error) => assert!(!matches!(error, FolderError::OutOfMemory { .. }), "{error}"),
    }
    if let Ok((tokens, [batches, batch, context])) = parse_batches(data, MODEL.vocab_size) {
        assert_eq!(tokens.len(), batches * batch * context);
    }
    if let Ok(model) = parse_config(data) {
        assert!(Layout::of(&model).is_ok(), "a config that is read names a model that can be laid out");
    }
}
