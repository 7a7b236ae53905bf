//! The outer step, natively and in Wasm.
// Powers of two are exact, and what is compared with equality is exact by design.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, clippy::float_cmp)]

mod common;

use common::{CODECS, gaussian, layout, outer, update};
use shoal_learn::{Layout, outer, outer::UpdateError};
use shoal_wire::limits::ROSTER_MAX;
use shoal_wire::manifest::{Codec, Outer};
use shoal_wire::share::Share;

/// Parameters after these updates at θ = 0, and the median rates.
fn step(layout: &Layout, updates: &[(u16, &[u8])], history: &[Vec<u64>]) -> (Vec<f32>, Vec<u64>) {
    let theta = vec![0.0; layout.len()];
    outer::aggregate(layout, &outer(Codec::Dense4), &theta, updates, history, Share::WHOLE).unwrap()
}

/// A dense update of `size` in every one of 64 values, and what it says after rounding.
fn flat(size: f32) -> (Vec<u8>, f32) {
    let layout = layout(&[64]);
    let bytes = update(Codec::Dense4, &layout, &[size; 64]);
    let value = outer::decode(&layout, Codec::Dense4, &bytes).unwrap()[0];
    (bytes, value as f32 / (1_u64 << 40) as f32)
}

fn close(value: f32, expected: f32) -> bool {
    (value - expected).abs() <= expected.abs() * 1e-3
}

#[test]
fn the_golden_outer_step_gives_the_same_bytes_everywhere() {
    assert_eq!(outer::golden::run().unwrap().to_string(), outer::golden::DIGEST);
}

#[test]
fn a_loud_update_is_clipped_to_the_median_norm() {
    let layout = layout(&[64]);
    let ((quiet, small), (loud, _)) = (flat(0.001), flat(1.0));
    let updates = [(100, quiet.as_slice()), (100, quiet.as_slice()), (100, loud.as_slice())];
    let (next, rates) = step(&layout, &updates, &[]);
    assert!(close(next[0], -small), "{:?}", next[0]);
    // Earlier rounds with larger updates allow larger ones now: half of their median.
    let (next, _) = step(&layout, &updates, &[vec![rates[0] * 20]]);
    assert!(close(next[0], -4.0 * small), "{:?}", next[0]);
}

#[test]
fn a_peer_that_did_few_steps_does_not_throttle_one_that_did_many() {
    let layout = layout(&[64]);
    // 4 of 60 steps give a fifteenth of the weight and, here, of the change.
    let ((phone, little), (gpu, much)) = (flat(0.001), flat(0.015));
    let (next, _) = step(&layout, &[(273, phone.as_slice()), (4095, gpu.as_slice())], &[]);
    let mean = (273.0 * little + 4095.0 * much) / (273.0 + 4095.0);
    assert!(close(next[0], -mean), "{} instead of {}", next[0], -mean);
    // Whichever of the two is the median, neither loses a bit.
    let (next, _) = step(&layout, &[(4095, gpu.as_slice())], &[]);
    assert_eq!(next[0], -much);
}

#[test]
fn one_liar_of_three_is_clipped_whatever_weight_it_claims() {
    let layout = layout(&[64]);
    let ((honest, small), (liar, _)) = (flat(0.001), flat(1.0));
    for weight in [1, 273, 4095] {
        let updates = [(4095, honest.as_slice()), (4095, honest.as_slice()), (weight, liar.as_slice())];
        let (next, _) = step(&layout, &updates, &[]);
        assert!(next[0].abs() <= small * 1.001, "{} at weight {weight}", next[0]);
    }
}

#[test]
fn a_sender_of_zeros_can_slow_a_pair_but_not_three() {
    let layout = layout(&[64]);
    let ((honest, small), (zeros, _)) = (flat(0.001), flat(0.0));
    let three = [(4095, honest.as_slice()), (4095, honest.as_slice()), (4095, zeros.as_slice())];
    let (next, rates) = step(&layout, &three, &[]);
    assert!(close(next[0], -small * 2.0 / 3.0));
    // With two, the lower median is the zero: what the history allows is left, until half of it is zeros too.
    let mut history = vec![rates; 8];
    for round in 0..8 {
        let pair = [(4095, honest.as_slice()), (4095, zeros.as_slice())];
        let (next, rates) = step(&layout, &pair, &history);
        let allowed = if round < 4 { small / 2.0 / 2.0 } else { 0.0 };
        assert!(close(next[0], -allowed), "{} in round {round}", next[0]);
        history.remove(0);
        history.push(rates);
    }
    // Gone, it leaves nothing behind.
    assert_eq!(step(&layout, &[(4095, honest.as_slice())], &history).0[0], -small);
}

#[test]
fn liars_that_are_the_majority_reach_a_quarter_in_a_first_round_and_four_times_as_far_in_each_after_it() {
    let layout = layout(&[64]);
    let ((honest, _), (liar, _)) = (flat(0.01), flat(5.0));
    let updates = [(4095, honest.as_slice()), (4095, liar.as_slice()), (4095, liar.as_slice())];
    let mut history: Vec<Vec<u64>> = Vec::new();
    for reached in [0.25, 1.0, 4.0] {
        let (next, rates) = step(&layout, &updates[1..], &history);
        assert!(close(next[0], -reached), "{} instead of {reached}", next[0]);
        assert_eq!(step(&layout, &updates, &history).1, rates, "what is noted is what was let through");
        history = vec![rates];
    }
    // Once honest rounds went before, not even that.
    let before = step(&layout, &updates[..1], &[]).1;
    let (next, _) = step(&layout, &updates[1..], &[before]);
    assert!(next[0].abs() < 0.0401, "{}", next[0]);
}

#[test]
fn sums_at_the_limits_do_not_overflow() {
    let layout = layout(&[4096]);
    for codec in CODECS {
        let spec = Outer { codec, alpha_1024: u16::MAX, feedback_1024: 1024 };
        let update = update(codec, &layout, &[f32::MAX; 4096]);
        let largest = outer::decode(&layout, codec, &update).unwrap()[0] as f64 / (1_u64 << 40) as f64;
        assert_eq!(largest, if codec == Codec::Topk { 1189.0 } else { 31.0 * 249.0 } / 1024.0);
        let updates: Vec<(u16, &[u8])> = (0..ROSTER_MAX).map(|_| (4095, update.as_slice())).collect();
        let (next, _) =
            outer::aggregate(&layout, &spec, &vec![0.0; 4096], &updates, &[vec![u64::MAX]], Share::WHOLE).unwrap();
        assert_eq!(next[0], (-largest * f64::from(u16::MAX) / 1024.0) as f32);
        // The largest rate that a certificate can carry, and the largest norm at the least weight.
        let liar = [(1, update.as_slice()), (4095, update.as_slice()), (4095, update.as_slice())];
        outer::aggregate(&layout, &spec, &vec![0.0; 4096], &liar, &[vec![u64::MAX]], Share::WHOLE).unwrap();
    }
}

#[test]
fn weights_count_and_no_updates_change_nothing() {
    let layout = layout(&[64]);
    let ((plus, size), (minus, _)) = (flat(0.5), flat(-0.5));
    let (next, _) = step(&layout, &[(3, &plus), (1, &minus)], &[vec![u64::MAX]]);
    assert_eq!(next, vec![-size / 2.0; 64]);
    let theta = vec![1.0; 64];
    let none = outer::aggregate(&layout, &outer(Codec::Dense4), &theta, &[], &[], Share::WHOLE).unwrap();
    assert_eq!(none, (theta, vec![]));
}

#[test]
fn a_step_shrinks_with_the_root_of_the_share_of_what_was_promised() {
    let layout = layout(&[64]);
    let (update, size) = flat(0.5);
    let with = |taken, promised| {
        let share = Share { taken, promised };
        let updates = [(4095, update.as_slice()), (4095, update.as_slice())];
        outer::aggregate(&layout, &outer(Codec::Dense4), &[0.0; 64], &updates, &[vec![u64::MAX]], share).unwrap().0[0]
    };
    assert_eq!(with(1, 1), -size);
    // Nothing was lost, however it is counted: the same bytes.
    assert_eq!(with(8190, 8190), -size);
    assert_eq!(with(1, 4), -size / 2.0);
    assert!((with(8190, 16_380) + size / 2.0_f32.sqrt()).abs() < size / 1e4);
    // A share that no ledger makes is the nearest that one could.
    assert_eq!(with(9, 1), -size);
    assert!(with(0, u32::MAX).is_finite());
}

#[test]
fn a_weight_outside_twelve_bits_is_refused() {
    let layout = layout(&[64]);
    let (update, _) = flat(0.5);
    let with =
        |weight| outer::aggregate(&layout, &outer(Codec::Dense4), &[0.0; 64], &[(weight, &update)], &[], Share::WHOLE);
    assert_eq!(with(0), Err(UpdateError::Weight));
    assert_eq!(with(4096), Err(UpdateError::Weight));
    assert!(with(1).is_ok() && with(4095).is_ok());
}

#[test]
fn more_updates_than_a_roster_has_members_are_refused() {
    let layout = layout(&[64]);
    let (update, _) = flat(0.5);
    let many = vec![(1, update.as_slice()); ROSTER_MAX + 1];
    let merged = outer::aggregate(&layout, &outer(Codec::Dense4), &[0.0; 64], &many, &[], Share::WHOLE);
    assert_eq!(merged, Err(UpdateError::TooMany { got: ROSTER_MAX + 1 }));
}

#[test]
fn one_damaged_update_fails_the_whole_step() {
    let layout = layout(&[128]);
    for codec in CODECS {
        let good = update(codec, &layout, &gaussian(128, 1, 0.01));
        let mut bad = good.clone();
        bad[9] ^= 1;
        let merged = outer::aggregate(&layout, &outer(codec), &[0.0; 128], &[(1, &good), (1, &bad)], &[], Share::WHOLE);
        assert_eq!(merged, Err(UpdateError::Checksum));
    }
}
