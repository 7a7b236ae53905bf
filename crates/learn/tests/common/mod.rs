//! Layouts and values that the tests of the outer step share.
#![allow(dead_code)] // not every test uses all of it

use shoal_learn::{Layout, TensorInfo, outer};
use shoal_wire::Digest;
use shoal_wire::manifest::{Codec, Outer};

pub const CODECS: [Codec; 2] = [Codec::Dense4, Codec::Topk];

/// Tensors of these sizes.
pub fn layout(sizes: &[usize]) -> Layout {
    let mut offset = 0;
    let tensors = sizes.iter().enumerate().map(|(index, size)| {
        let tensor = TensorInfo { name: format!("t{index}"), shape: vec![*size], offset };
        offset += size;
        tensor
    });
    Layout { tensors: tensors.collect() }
}

pub fn outer(codec: Codec) -> Outer {
    Outer { codec, alpha_1024: 1024, feedback_1024: 1024 }
}

/// The update of a peer that learnt `delta` and owes nothing.
pub fn update(codec: Codec, layout: &Layout, delta: &[f32]) -> Vec<u8> {
    outer::Residual::new(layout).compress(&outer(codec), layout, delta).unwrap()
}

/// The bytes between header and checksum, with a header and a checksum that hold: what a hostile peer can send.
pub fn sealed(codec: Codec, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, if codec == Codec::Dense4 { 1 } else { 2 }];
    bytes.extend(body);
    let sum = Digest::in_domain("shoal 2026 v1 update checksum", &bytes);
    bytes.extend(&sum.0[..4]);
    bytes
}

pub fn body(update: &[u8]) -> &[u8] {
    &update[2..update.len() - 4]
}

/// Uniform numbers between 0 and 1, neither included.
pub fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }
}

/// Unit Gaussian numbers (Box and Muller, 1958).
pub fn unit_gaussian(seed: u64) -> impl FnMut() -> f64 {
    let mut uniform = uniform(seed);
    move || (-2.0 * uniform().ln()).sqrt() * (core::f64::consts::TAU * uniform()).cos()
}

/// Gaussian values whose scale is log-normal: another one for each 4,096 values.
pub fn gaussian(count: usize, seed: u64, size: f64) -> Vec<f32> {
    let (mut scales, mut values) = (unit_gaussian(seed + 1000), unit_gaussian(seed));
    let mut scale = 0.0;
    let mut value = |index| {
        if index % 4096 == 0 {
            scale = size * scales().exp();
        }
        (values() * scale) as f32
    };
    (0..count).map(&mut value).collect()
}

pub fn fixed(value: f32) -> i64 {
    (f64::from(value) * f64::powi(2.0, outer::FRACTION_BITS as i32)).round_ties_even() as i64
}

/// Squared error of what is sent, relative to the energy of `delta`.
pub fn relative_error(delta: &[f32], sent: &[i64]) -> f64 {
    let off = |(value, sent): (&f32, &i64)| (f64::from(*value) - *sent as f64 / f64::powi(2.0, 40)).powi(2);
    let energy: f64 = delta.iter().map(|value| f64::from(*value).powi(2)).sum();
    delta.iter().zip(sent).map(off).sum::<f64>() / energy
}
