//! The update formats and the outer step, natively and in Wasm.
// Powers of two are exact, and what is compared with equality is exact by design.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, clippy::float_cmp)]

use shoal_learn::{Layout, TensorInfo, outer};
use shoal_wire::manifest::{Codec, Outer};

const CODECS: [Codec; 2] = [Codec::Dense4, Codec::Topk];

fn layout(sizes: &[usize]) -> Layout {
    let mut offset = 0;
    let tensors = sizes.iter().enumerate().map(|(index, size)| {
        let tensor = TensorInfo { name: format!("t{index}"), shape: vec![*size], offset };
        offset += size;
        tensor
    });
    Layout { tensors: tensors.collect() }
}

fn outer(codec: Codec) -> Outer {
    Outer { codec, alpha_1024: 1024, feedback_1024: 1024 }
}

/// Roughly Gaussian values whose scale changes from chunk to chunk.
fn gaussian(count: usize, seed: u64, size: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u32 << 24) as f32
    };
    let scale = |index: usize| size * [1.0, 0.1, 3.0, 0.02][index / 4096 % 4];
    (0..count).map(|index| ((0..12).map(|_| next()).sum::<f32>() - 6.0) * scale(index)).collect()
}

fn fixed(value: f32) -> i64 {
    (f64::from(value) * f64::powi(2.0, outer::FRACTION_BITS as i32)).round_ties_even() as i64
}

#[test]
fn the_golden_outer_step_gives_the_same_bytes_everywhere() {
    assert_eq!(outer::golden::run().unwrap().to_string(), outer::golden::DIGEST);
}

#[test]
fn at_beta_one_nothing_is_lost() {
    for codec in CODECS {
        let layout = layout(&[5000, 3, 64, 4096]);
        let mut residual = outer::Residual::new(&layout);
        let mut learnt = vec![0_i64; layout.len()];
        let mut sent = vec![0_i64; layout.len()];
        for round in 0..5 {
            let delta = gaussian(layout.len(), round + 1, 0.01);
            for (sum, value) in learnt.iter_mut().zip(&delta) {
                *sum += fixed(*value);
            }
            let update = residual.compress(&outer(codec), &layout, &delta).unwrap();
            for (sum, value) in sent.iter_mut().zip(outer::decode(&layout, codec, &update).unwrap()) {
                *sum += value;
            }
            residual.settle(&layout, true).unwrap();
        }
        let kept: Vec<i64> = residual.values().iter().zip(&sent).map(|(rest, sent)| rest + sent).collect();
        assert_eq!(kept, learnt, "{codec:?}");
    }
}

#[test]
fn a_refused_update_goes_back_whole() {
    for codec in CODECS {
        let layout = layout(&[700]);
        let delta = gaussian(700, 3, 0.01);
        let mut residual = outer::Residual::new(&layout);
        residual.compress(&outer(codec), &layout, &delta).unwrap();
        residual.settle(&layout, false).unwrap();
        assert_eq!(residual.values(), delta.iter().map(|value| fixed(*value)).collect::<Vec<_>>());
        let again = outer::Residual::from_bytes(&layout, &residual.to_bytes()).unwrap();
        assert_eq!(again.values(), residual.values());
    }
}

#[test]
fn topk_takes_at_most_ten_bits_a_kept_value_and_keeps_them_well() {
    let count = 4096 * 16;
    let layout = layout(&[count]);
    let delta = gaussian(count, 9, 0.01);
    let update = outer::Residual::new(&layout).compress(&outer(Codec::Topk), &layout, &delta).unwrap();
    let decoded = outer::decode(&layout, Codec::Topk, &update).unwrap();
    let kept: Vec<(f64, f64)> = delta
        .iter()
        .zip(&decoded)
        .filter(|(_, sent)| **sent != 0)
        .map(|(value, sent)| (f64::from(*value), *sent as f64 / f64::powi(2.0, 40)))
        .collect();
    assert_eq!(kept.len(), 1024);
    let bits = update.len() as f64 * 8.0 / kept.len() as f64;
    let error = kept.iter().map(|(value, sent)| (value - sent).powi(2)).sum::<f64>();
    let energy = kept.iter().map(|(value, _)| value.powi(2)).sum::<f64>();
    assert!(bits <= 10.0, "{bits} bits");
    assert!(error / energy <= 0.005, "relative squared error {}", error / energy);
}

#[test]
fn dense4_takes_at_most_4_1_bits_a_value() {
    let count = 100_000;
    let layout = layout(&[count]);
    let delta = gaussian(count, 9, 0.01);
    let update = outer::Residual::new(&layout).compress(&outer(Codec::Dense4), &layout, &delta).unwrap();
    assert!(update.len() as f64 * 8.0 / count as f64 <= 4.1);
    let decoded = outer::decode(&layout, Codec::Dense4, &update).unwrap();
    let error: f64 =
        delta.iter().zip(&decoded).map(|(v, s)| (f64::from(*v) - *s as f64 / f64::powi(2.0, 40)).powi(2)).sum();
    let energy: f64 = delta.iter().map(|v| f64::from(*v).powi(2)).sum();
    assert!(error / energy <= 0.015, "relative squared error {}", error / energy);
}

#[test]
fn damaged_updates_give_an_error_or_another_update_but_never_a_panic() {
    for codec in CODECS {
        let layout = layout(&[301, 7, 130]);
        // The last tensor was not trained, or so little that its scale is zero.
        let mut delta = gaussian(438, 5, 0.01);
        delta[308..].fill(0.0);
        delta[400] = 1e-11;
        let good = outer::Residual::new(&layout).compress(&outer(codec), &layout, &delta).unwrap();
        outer::check(&layout, codec, &good).unwrap();
        let original = outer::decode(&layout, codec, &good).unwrap();
        for end in 0..good.len() {
            assert!(outer::check(&layout, codec, &good[..end]).is_err(), "{codec:?} cut at {end}");
        }
        for index in 0..good.len() {
            for change in 1..=255_u8 {
                let mut bad = good.clone();
                bad[index] ^= change;
                if outer::check(&layout, codec, &bad).is_ok() {
                    assert_ne!(outer::decode(&layout, codec, &bad).unwrap(), original, "{codec:?} byte {index}");
                }
            }
        }
        let mut long = good;
        long.push(0);
        assert!(outer::check(&layout, codec, &long).is_err());
    }
}

#[test]
fn a_loud_update_is_clipped_to_the_median_norm() {
    let layout = layout(&[64]);
    let spec = outer(Codec::Dense4);
    let make = |size: f32| outer::Residual::new(&layout).compress(&spec, &layout, &[size; 64]).unwrap();
    let (quiet, loud) = (make(0.001), make(1.0));
    let theta = vec![0.0; 64];
    let updates = [(100, quiet.as_slice()), (100, quiet.as_slice()), (100, loud.as_slice())];
    let (next, norms) = outer::aggregate(&layout, &spec, &theta, &updates, &[]).unwrap();
    assert!(next.iter().all(|value| (value + 0.001).abs() < 1e-5), "{:?}", next[0]);
    // Earlier rounds with larger updates allow larger ones now: half of their median norm.
    let history = vec![vec![norms[0] * 20]];
    let (next, _) = outer::aggregate(&layout, &spec, &theta, &updates, &history).unwrap();
    assert!(next.iter().all(|value| (value + 0.004).abs() < 1e-4), "{:?}", next[0]);
}

#[test]
fn sums_at_the_limits_do_not_overflow() {
    let layout = layout(&[4096]);
    for codec in CODECS {
        let spec = Outer { codec, alpha_1024: u16::MAX, feedback_1024: 1024 };
        let update = outer::Residual::new(&layout).compress(&spec, &layout, &[f32::MAX; 4096]).unwrap();
        let updates: Vec<(u16, &[u8])> = (0..32).map(|_| (4095, update.as_slice())).collect();
        let (next, _) = outer::aggregate(&layout, &spec, &vec![0.0; 4096], &updates, &[]).unwrap();
        let largest = if codec == Codec::Topk { 1189.0 / 1024.0 } else { 1.0 };
        assert_eq!(next[0], -largest * f32::from(u16::MAX) / 1024.0);
    }
}

#[test]
fn weights_count_and_no_updates_change_nothing() {
    let layout = layout(&[256]);
    let spec = outer(Codec::Dense4);
    let make = |size: f32| outer::Residual::new(&layout).compress(&spec, &layout, &[size; 256]).unwrap();
    let (plus, minus) = (make(0.5), make(-0.5));
    let theta = vec![1.0; 256];
    let (next, _) = outer::aggregate(&layout, &spec, &theta, &[(3, &plus), (1, &minus)], &[]).unwrap();
    assert_eq!(next, vec![0.75; 256]);
    assert_eq!(outer::aggregate(&layout, &spec, &theta, &[], &[]).unwrap(), (theta.clone(), vec![]));
    assert!(outer::aggregate(&layout, &spec, &theta, &[(0, &plus)], &[]).is_err());
}
