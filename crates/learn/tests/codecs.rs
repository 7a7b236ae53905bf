//! The update formats, natively and in Wasm: what they cost, what they lose, and what they refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use common::{CODECS, body, fixed, gaussian, layout, outer, relative_error, sealed, uniform, update};
use shoal_learn::{Layout, outer, outer::UpdateError, presets::Preset};
use shoal_wire::manifest::Codec;
use shoal_wire::share::Share;

fn bits_a_value(update: &[u8], count: usize) -> f64 {
    update.len() as f64 * 8.0 / count as f64
}

#[test]
fn dense4_takes_at_most_4_1_bits_a_value_and_loses_at_most_1_in_200() {
    let count = 4096 * 64;
    let layout = layout(&[count]);
    for seed in 0..5 {
        let delta = gaussian(count, seed, 0.001);
        let sent = update(Codec::Dense4, &layout, &delta);
        let (bits, error) = (
            bits_a_value(&sent, count),
            relative_error(&delta, &outer::decode(&layout, Codec::Dense4, &sent).unwrap()),
        );
        println!("seed {seed}: {bits:.4} bits a value, relative squared error {error:.5}");
        assert!(bits <= 4.1, "{bits} bits");
        assert!(error <= 0.005, "relative squared error {error}");
    }
}

/// Laplace values of one size a tensor, as a round of AdamW gives them.
fn laplace(layout: &Layout, seed: u64) -> Vec<f32> {
    let mut next = uniform(seed);
    let mut delta = Vec::with_capacity(layout.len());
    for tensor in &layout.tensors {
        let size = 0.0002 + 0.003 * next();
        delta.extend((0..tensor.len()).map(|_| {
            let part = next() - 0.5;
            (-size * part.signum() * (1.0 - 2.0 * part.abs()).ln()) as f32
        }));
    }
    delta
}

#[test]
fn dense4_costs_a_small_model_little_more_and_keeps_other_distributions_as_well() {
    let layout = Layout::of(&Preset::Small.model()).unwrap();
    for (name, delta) in [("Gaussian", gaussian(layout.len(), 1, 0.001)), ("Laplace", laplace(&layout, 2))] {
        let sent = update(Codec::Dense4, &layout, &delta);
        let (bits, error) = (
            bits_a_value(&sent, layout.len()),
            relative_error(&delta, &outer::decode(&layout, Codec::Dense4, &sent).unwrap()),
        );
        println!("{name}, {} parameters: {bits:.4} bits a value, error {error:.5}", layout.len());
        assert!(bits <= 4.1, "{name}: {bits} bits");
        assert!(error <= 0.005, "{name}: relative squared error {error}");
    }
}

#[test]
fn a_few_loud_rows_of_a_silent_chunk_are_kept_as_well() {
    let layout = layout(&[4096]);
    let mut delta = vec![0.0; 4096];
    delta[96..160].copy_from_slice(&gaussian(64, 1, 0.01));
    let sent = outer::decode(&layout, Codec::Dense4, &update(Codec::Dense4, &layout, &delta)).unwrap();
    assert!(relative_error(&delta, &sent) <= 0.006, "{}", relative_error(&delta, &sent));
    // A single value is 64 times the root mean square.
    let mut delta = vec![0.0; 4096];
    delta[7] = -0.5;
    let sent = outer::decode(&layout, Codec::Dense4, &update(Codec::Dense4, &layout, &delta)).unwrap();
    assert!(relative_error(&delta, &sent) <= 0.006, "{}", relative_error(&delta, &sent));
}

#[test]
fn topk_takes_at_most_ten_bits_a_kept_value_and_keeps_them_well() {
    let count = 4096 * 16;
    let layout = layout(&[count]);
    let delta = gaussian(count, 9, 0.001);
    let sent = update(Codec::Topk, &layout, &delta);
    let decoded = outer::decode(&layout, Codec::Topk, &sent).unwrap();
    let (kept, levels): (Vec<f32>, Vec<i64>) =
        delta.iter().zip(&decoded).filter(|(_, sent)| **sent != 0).map(|(value, sent)| (*value, *sent)).unzip();
    assert_eq!(kept.len(), 1024);
    let (bits, error) = (bits_a_value(&sent, kept.len()), relative_error(&kept, &levels));
    println!("{bits:.4} bits a kept value, relative squared error {error:.5}");
    assert!(bits <= 10.0, "{bits} bits");
    assert!(error <= 0.005, "relative squared error {error}");
}

#[test]
fn topk_keeps_one_in_64_of_a_short_chunk_and_never_fewer_than_one() {
    // A tensor of 4,160 values has a whole chunk and one of 64.
    for (size, kept) in [(1, 1), (63, 1), (64, 1), (65, 2), (300, 5), (4096, 64), (4097, 65), (4160, 65), (4161, 66)] {
        let layout = layout(&[size]);
        let delta = gaussian(size, 4, 0.01);
        let sent = outer::decode(&layout, Codec::Topk, &update(Codec::Topk, &layout, &delta)).unwrap();
        assert_eq!(sent.iter().filter(|value| **value != 0).count(), kept, "{size}");
    }
}

#[test]
fn a_chunk_never_crosses_from_one_tensor_into_the_next() {
    // A quiet tensor beside a loud one keeps its own scale and its own share of kept values.
    for codec in CODECS {
        let sizes = [100, 100];
        let (mut delta, loud) = (gaussian(100, 1, 0.0001), gaussian(100, 2, 0.1));
        delta.extend(&loud);
        let both = outer::decode(&layout(&sizes), codec, &update(codec, &layout(&sizes), &delta)).unwrap();
        let alone = |delta: &[f32]| {
            let layout = layout(&[delta.len()]);
            outer::decode(&layout, codec, &update(codec, &layout, delta)).unwrap()
        };
        assert_eq!(both, [alone(&delta[..100]), alone(&loud)].concat(), "{codec:?}");
        assert!(both[..100].iter().any(|value| *value != 0));
    }
}

#[test]
fn at_beta_one_nothing_is_lost() {
    for codec in CODECS {
        let layout = layout(&[5000, 3, 64, 4096]);
        let mut residual = outer::Residual::new(&layout);
        let mut learnt = vec![0_i64; layout.len()];
        let mut sent = vec![0_i64; layout.len()];
        for round in 0..5 {
            // One value in the last rounds is far beyond the reach of any scale.
            let mut delta = gaussian(layout.len(), round + 1, 0.01);
            delta[17] = if round > 2 { 1000.0 } else { delta[17] };
            for (sum, value) in learnt.iter_mut().zip(&delta) {
                *sum += fixed(*value);
            }
            let update = residual.compress(&outer(codec), &layout, &delta).unwrap();
            for (sum, value) in sent.iter_mut().zip(outer::decode(&layout, codec, &update).unwrap()) {
                *sum += value;
            }
            residual.settle(&layout, Share::WHOLE).unwrap();
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
        residual.settle(&layout, Share::NOTHING).unwrap();
        assert_eq!(residual.values(), delta.iter().map(|value| fixed(*value)).collect::<Vec<_>>());
        let again = outer::Residual::from_bytes(&layout, &residual.to_bytes()).unwrap();
        assert_eq!(again.values(), residual.values());
    }
}

#[test]
fn of_an_update_that_was_left_out_goes_back_what_the_round_did_not_take() {
    for codec in CODECS {
        let layout = layout(&[700]);
        let delta = gaussian(700, 3, 0.01);
        let mut residual = outer::Residual::new(&layout);
        let update = residual.compress(&outer(codec), &layout, &delta).unwrap();
        let rest = residual.values().to_vec();
        residual.settle(&layout, Share { taken: 3, promised: 4 }).unwrap();
        for ((value, rest), sent) in
            residual.values().iter().zip(&rest).zip(outer::decode(&layout, codec, &update).unwrap())
        {
            let quarter = (*value - rest) * 4 - sent;
            assert!(quarter.abs() <= 2, "{quarter} of {sent}");
        }
        // It is told once.
        let settled = residual.clone();
        residual.settle(&layout, Share::NOTHING).unwrap();
        assert_eq!(residual, settled);
    }
}

/// An update whose last tensor was trained so little that its scale is zero.
fn small(codec: Codec) -> (Layout, Vec<u8>) {
    let layout = layout(&[301, 7, 130]);
    let mut delta = gaussian(438, 5, 0.01);
    delta[308..].fill(0.0);
    delta[400] = 1e-11;
    let good = update(codec, &layout, &delta);
    outer::check(&layout, codec, &good).unwrap();
    (layout, good)
}

#[test]
fn every_truncation_and_every_changed_byte_is_an_error() {
    for codec in CODECS {
        let (layout, good) = small(codec);
        for end in 0..good.len() {
            assert!(outer::check(&layout, codec, &good[..end]).is_err(), "{codec:?} cut at {end}");
        }
        for index in 0..good.len() {
            for change in 1..=255_u8 {
                let mut bad = good.clone();
                bad[index] ^= change;
                assert_eq!(outer::check(&layout, codec, &bad), Err(UpdateError::Checksum), "{codec:?} byte {index}");
            }
        }
        let mut long = good;
        long.push(0);
        assert_eq!(outer::check(&layout, codec, &long), Err(UpdateError::Checksum));
    }
}

#[test]
fn damage_under_a_new_checksum_is_refused_or_is_another_update() {
    for codec in CODECS {
        let (layout, good) = small(codec);
        assert_eq!(sealed(codec, body(&good)), good);
        let original = outer::decode(&layout, codec, &good).unwrap();
        for end in 0..body(&good).len() {
            assert!(outer::check(&layout, codec, &sealed(codec, &body(&good)[..end])).is_err(), "{codec:?} {end}");
        }
        for index in 0..body(&good).len() {
            for change in 1..=255_u8 {
                let mut bad = body(&good).to_vec();
                bad[index] ^= change;
                if let Ok(values) = outer::decode(&layout, codec, &sealed(codec, &bad)) {
                    assert_ne!(values, original, "{codec:?} byte {index}");
                }
            }
        }
        let long = sealed(codec, &[body(&good), &[0]].concat());
        assert_eq!(outer::check(&layout, codec, &long), Err(UpdateError::Trailing { bytes: 1 }));
    }
}

#[test]
fn a_chunk_of_zeros_has_one_encoding() {
    let layout = layout(&[2]);
    let silent = update(Codec::Dense4, &layout, &[0.0, 0.0]);
    // The coder's first state, which is also its last, and a scale of zero.
    assert_eq!(body(&silent), [0, 0, 0x80, 0, 0, 0]);
    // Two levels of zero under a scale that is not zero: states come from the coder's own rule.
    let (share, start) = (6340_u32, (65_536 - 6340) / 2);
    let put = |state: u32| ((state / share) << 16) + start + state % share;
    let state = put(1 << 23);
    let (state, spilt) = if state >= share << 15 { (state >> 8, vec![state as u8]) } else { (state, vec![]) };
    let bytes = [&put(state).to_le_bytes()[..], &[0, 0x3c], &spilt].concat();
    assert_eq!(outer::check(&layout, Codec::Dense4, &sealed(Codec::Dense4, &bytes)), Err(UpdateError::Scale));
}
