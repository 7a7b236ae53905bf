//! A GGUF file read by the letter of its specification; `docs/golden/check_gguf.py` reads it with the `gguf` package.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "golden/world.rs"]
mod world;

use std::collections::BTreeMap;

use shoal_learn::Layout;
use shoal_learn::gguf::{GgufTokenizer, GgufType, gguf_bytes};
use world::{Golden, weights};

const F32: u32 = 0;
const F16: u32 = 1;

/// Where a reader stands in a file.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes[self.at..][..N].try_into().unwrap();
        self.at += N;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn size(&mut self) -> usize {
        u64::from_le_bytes(self.take()) as usize
    }

    fn text(&mut self) -> String {
        let length = self.size();
        self.at += length;
        String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap()
    }

    /// A value as text; of an array, its length.
    fn value(&mut self, kind: u32) -> String {
        match kind {
            4 => self.u32().to_string(),
            5 => i32::from_le_bytes(self.take()).to_string(),
            6 => f32::from_le_bytes(self.take()).to_string(),
            7 => (self.take::<1>()[0] == 1).to_string(),
            8 => self.text(),
            9 => {
                let (kind, length) = (self.u32(), self.size());
                (0..length).for_each(|_| drop(self.value(kind)));
                length.to_string()
            }
            other => panic!("a value of type {other}"),
        }
    }
}

struct File {
    metadata: BTreeMap<String, String>,
    /// Type, axes with the fastest first, values.
    tensors: BTreeMap<String, (u32, Vec<usize>, Vec<f32>)>,
}

fn half(bytes: [u8; 2]) -> f32 {
    let word = u16::from_le_bytes(bytes);
    let (exponent, fraction) = (i32::from(word >> 10 & 31), f32::from(word & 1023));
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    };
    if word >> 15 == 1 { -size } else { size }
}

fn parse(bytes: &[u8]) -> File {
    let mut reader = Reader { bytes, at: 0 };
    assert_eq!(&reader.take::<4>(), b"GGUF");
    assert_eq!(reader.u32(), 3);
    let (tensors, pairs) = (reader.size(), reader.size());
    let mut metadata = BTreeMap::new();
    for _ in 0..pairs {
        let (key, kind) = (reader.text(), reader.u32());
        assert!(metadata.insert(key, reader.value(kind)).is_none(), "a key comes twice");
    }
    let mut infos = Vec::new();
    for _ in 0..tensors {
        let name = reader.text();
        let axes: Vec<usize> = (0..reader.u32()).map(|_| reader.size()).collect();
        infos.push((name, axes, reader.u32(), reader.size()));
    }
    let start = reader.at.next_multiple_of(32);
    let read = |(name, axes, kind, offset): (String, Vec<usize>, u32, usize)| {
        assert_eq!(offset % 32, 0);
        let (count, data) = (axes.iter().product::<usize>(), &bytes[start + offset..]);
        let values = match kind {
            F32 => data.as_chunks().0[..count].iter().map(|word| f32::from_le_bytes(*word)).collect(),
            F16 => data.as_chunks().0[..count].iter().map(|word| half(*word)).collect(),
            other => panic!("a tensor of type {other}"),
        };
        (name, (kind, axes, values))
    };
    File { metadata, tensors: infos.into_iter().map(read).collect() }
}

#[test]
fn a_written_file_reads_back_with_its_metadata_and_every_tensor() {
    let golden = Golden::parse(include_str!("golden/grouped_untied.json"));
    let model = golden.model();
    let layout = Layout::of(&model).unwrap();
    let flat = weights(&layout);
    for (kind, expected) in [(GgufType::F32, F32), (GgufType::F16, F16)] {
        let bytes = gguf_bytes("test", &model, &flat, &GgufTokenizer::None, kind).unwrap();
        let file = parse(&bytes);
        for (key, value) in [
            ("general.architecture", "llama"),
            ("llama.block_count", "2"),
            ("llama.attention.head_count", "4"),
            ("llama.attention.head_count_kv", "2"),
            ("llama.rope.dimension_count", "8"),
            ("llama.rope.freq_base", "10000"),
            ("tokenizer.ggml.model", "none"),
        ] {
            assert_eq!(file.metadata[key], value, "{key}");
        }
        assert_eq!(file.tensors.len(), layout.tensors.len());
        let read = |name: &str| {
            let (kind, _, values) = &file.tensors[name];
            assert_eq!(*kind, if name.contains("norm") { F32 } else { expected }, "{name}");
            values.clone()
        };
        assert_eq!(file.tensors["blk.0.attn_k.weight"].1, [32, 16]);
        // Weights are multiples of 2⁻²⁵ below 1/4: half precision rounds them.
        let close = |got: &[f32], expected: &[f32]| {
            let tolerance = if kind == GgufType::F32 { 0.0 } else { 2e-4 };
            assert!(got.len() == expected.len() && got.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance));
        };
        for (theirs, ours) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
            ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
        ] {
            close(&read(theirs), &flat[layout.find(ours).unwrap().range()]);
        }
        // Row 1 of a head of 8 is the one that turned with row 0: its fifth.
        let queries = &flat[layout.find("model.layers.0.self_attn.q_proj.weight").unwrap().range()];
        let written = read("blk.0.attn_q.weight");
        close(&written[32..64], &queries[4 * 32..5 * 32]);
        close(&written[8 * 32..9 * 32], &queries[8 * 32..9 * 32]);
    }
}

#[test]
fn scaled_positions_and_the_letters_of_bytes_are_written() {
    let mut linear = Golden::parse(include_str!("golden/linear.json")).model();
    linear.vocab_size = 256;
    let flat = weights(&Layout::of(&linear).unwrap());
    let bytes = gguf_bytes("test", &linear, &flat, &GgufTokenizer::Bytes, GgufType::F16).unwrap();
    let file = parse(&bytes);
    assert_eq!(file.metadata["llama.rope.scaling.type"], "linear");
    assert_eq!(file.metadata["tokenizer.ggml.tokens"], "256");

    let llama3 = Golden::parse(include_str!("golden/llama3.json")).model();
    let flat = weights(&Layout::of(&llama3).unwrap());
    let bytes = gguf_bytes("test", &llama3, &flat, &GgufTokenizer::None, GgufType::F16).unwrap();
    let factors = &parse(&bytes).tensors["rope_freqs.weight"].2;
    assert!(factors.len() == 4 && (factors[0] - 1.0).abs() < 1e-6 && (factors[3] - 8.0).abs() < 1e-5, "{factors:?}");
    assert!(factors[1] > 1.0 && factors[1] < 8.0, "{factors:?}");
}
