#![allow(clippy::disallowed_methods)] // errors are measured in f64

use super::*;
use crate::TensorInfo;

fn layout(sizes: &[usize]) -> Layout {
    let mut offset = 0;
    let tensors = sizes.iter().map(|size| {
        offset += size;
        TensorInfo { name: "t".to_owned(), shape: vec![*size], offset: offset - size }
    });
    Layout { tensors: tensors.collect() }
}

fn read(layout: &Layout, values: &[i64], seed: u64) -> Vec<i64> {
    decode(layout, &encode(layout, values, seed)).expect("a code")
}

/// About Gaussian (Irwin and Hall) with this root mean square.
fn gaussian(count: usize, size: f64) -> Vec<i64> {
    let numbers = Dither::new(9);
    let uniform = |at: usize| numbers.at(at as u64) as f64 / 2_f64.powi(64);
    (0..count).map(|at| (((0..12).map(|part| uniform(12 * at + part)).sum::<f64>() - 6.0) * size) as i64).collect()
}

fn energy(values: impl Iterator<Item = i64>) -> f64 {
    values.map(|value| (value as f64).powi(2)).sum()
}

#[test]
fn the_error_is_a_twelfth_of_the_squared_step_and_a_value_costs_2_1_bits() {
    let layout = layout(&[4096 * 64]);
    let values = gaussian(4096 * 64, 1e9);
    let code = encode(&layout, &values, 5);
    let read = decode(&layout, &code).expect("a code");
    let error = energy(read.iter().zip(&values).map(|(read, value)| read - value)) / energy(values.iter().copied());
    let (ideal, bits) = ((STEP as f64 / 1024.0).powi(2) / 12.0, code.len() as f64 * 8.0 / values.len() as f64);
    println!("relative squared error {error:.4}, ideally {ideal:.4}; {bits:.3} bits a value");
    assert!((error / ideal - 1.0).abs() < 0.05, "{error} instead of {ideal}");
    assert!(bits < 2.15, "{bits} bits a value");
}

#[test]
fn over_many_codes_every_value_comes_through_however_small() {
    const CODES: u64 = 4000;
    let layout = layout(&[4096]);
    let mut values = gaussian(4096, 1e9);
    // From a thousandth of the root mean square down to nothing, and the largest that the scale must reach.
    values[..6].copy_from_slice(&[1_000_000, -1_000_000, 30_000_000, 1, 0, 20_000_000_000]);
    let mut sums = vec![0; values.len()];
    for seed in 0..CODES {
        read(&layout, &values, seed).iter().zip(&mut sums).for_each(|(read, sum)| *sum += read);
    }
    let mean = |sum: &i64| *sum as f64 / CODES as f64;
    let off = energy(sums.iter().zip(&values).map(|(sum, value)| mean(sum) as i64 - value));
    let error = off / energy(values.iter().copied()) * CODES as f64;
    // As large as that of one code over their number: nothing is left that is common to all.
    assert!((0.08..0.1).contains(&error), "{error}");
    for (sum, value) in sums.iter().zip(&values) {
        let off = (mean(sum) - *value as f64).abs();
        assert!(off < 5.0 * 1.1e9 * 0.29 / (CODES as f64).sqrt(), "{value} is off by {off}");
    }
}

#[test]
fn no_value_is_off_by_more_than_half_a_step_unless_it_is_beyond_the_largest_scale() {
    let layout = layout(&[4096 + 5, 1, 300]);
    let chunks = [(0, 0..4096), (4095, 0..4096), (4100, 4096..4101), (4101, 4101..4102), (4102, 4102..4402)];
    for spike in [1, 1 << 10, 1 << 15, 1 << 20, 1 << 30, 1 << 40, 32 << 40] {
        for (at, chunk) in chunks.clone() {
            let mut values = vec![0; layout.len()];
            values[at] = -spike;
            let half = 1 + STEP * scale(&values[chunk]).fixed() / 2048;
            assert!(read(&layout, &values, 3).iter().zip(&values).all(|(read, value)| (read - value).abs() <= half));
        }
    }
    // The step's inverse has its fewest bits here, so the last ten-thousandth between two levels may go to either.
    let (step, far) = (STEP << 30, read(&layout, &vec![-1 << 60; layout.len()], 3));
    assert!(far.iter().all(|value| (value + 31 * step).abs() <= step / 2 + step / 1000));
}

#[test]
fn silence_has_one_code_and_levels_of_zero_are_no_silence() {
    let layout = layout(&[4096, 7]);
    assert_eq!(encode(&layout, &vec![0; layout.len()], 1).len(), 1 + 8 + 4 + 2 * 2 + 4);
    assert_eq!(read(&layout, &vec![0; layout.len()], 1), vec![0; layout.len()]);
    // The smallest value gets the smallest scale; where its level is zero all that is read is dither.
    let mut values = vec![0; layout.len()];
    values[4096] = 1;
    let noise = read(&layout, &values, 1);
    assert!(noise[..4096].iter().all(|value| *value == 0));
    assert!(noise[4096..].iter().all(|value| *value != 0 && value.abs() <= 1 + STEP * (1 << 16) / 2048));
}

#[test]
fn damage_is_found_and_what_a_liar_writes_is_refused_by_name() {
    let layout = layout(&[300, 4096]);
    let whole = encode(&layout, &gaussian(layout.len(), 1e8), 2);
    let sealed = |content: &[u8]| [content, &checksum(content)].concat();
    let content = &whole[..whole.len() - CHECKSUM_BYTES];
    let refused = |bytes: &[u8]| decode(&layout, bytes).expect_err("damaged");
    for at in [0, 1, 9, 13, 200, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 16;
        assert_eq!(refused(&damaged), UpdateError::Checksum);
    }
    assert_eq!(refused(&whole[..3]), UpdateError::Truncated { at: 3 });
    assert_eq!(refused(&sealed(&[1, 2, 3])), UpdateError::Truncated { at: 7 });
    assert_eq!(refused(&sealed(&[&[2], &content[1..]].concat())), UpdateError::Header);
    assert_eq!(refused(&sealed(&[content, &[0]].concat())), UpdateError::Trailing { bytes: 1 });
    assert!(matches!(refused(&sealed(&content[..content.len() - 1])), UpdateError::Truncated { .. }));
    let mut coder = content.to_vec();
    coder[9..13].copy_from_slice(&[0; 4]);
    assert_eq!(refused(&sealed(&coder)), UpdateError::Coder);
    let mut scale = content.to_vec();
    scale[13..15].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(refused(&sealed(&scale)), UpdateError::Scale);
}

#[test]
fn everybody_arrives_at_these_bytes() {
    let layout = layout(&[4096 * 2 + 77, 1, 300]);
    let mut values = gaussian(layout.len(), 3e8);
    values[4096..8192].iter_mut().for_each(|value| *value /= 1 << 20);
    values[8270] = 1 << 41;
    let digest = shoal_wire::Digest::of(&encode(&layout, &values, 7)).to_string();
    assert_eq!(digest, "9e187c3b5be8e46064abb97050bf5c7f066beeee5a6f8d55a63a3e8f89514239");
}
