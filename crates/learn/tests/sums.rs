//! Sums of updates: any grouping gives the bytes of all at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use common::{CODECS, gaussian, layout, outer, relative_error, update};
use proptest::prelude::*;
use shoal_learn::Layout;
use shoal_learn::outer::{self, Bounds, Contribution, Grid, Part, PartialSum, UpdateError, apply, partial_sums, parts};
use shoal_wire::Digest;
use shoal_wire::manifest::Codec;
use shoal_wire::share::Share;

fn some_layout() -> Layout {
    layout(&[4096 * 2 + 77, 5, 300, 4096, 1])
}

fn updates(codec: Codec, layout: &Layout, count: u64, seed: u64) -> Vec<Vec<u8>> {
    let sizes = [0.001, 0.002, 0.01];
    (0..count)
        .map(|peer| update(codec, layout, &gaussian(layout.len(), seed + peer, sizes[peer as usize % 3])))
        .collect()
}

fn contributions<'a>(updates: &'a [Vec<u8>], works: &[u16]) -> Vec<Contribution<'a>> {
    let one = |(update, work): (&'a Vec<u8>, &u16)| Contribution { work: *work, trust: 4095, update };
    updates.iter().zip(works).map(one).collect()
}

/// Sums groups of these sizes, then merges the sums two by two from the end.
fn grouped(
    (layout, codec): (&Layout, Codec),
    all: &[Contribution<'_>],
    sizes: &[usize],
    bounds: Bounds<'_>,
    grid: &Grid,
    parts: &[Part],
) -> Vec<PartialSum> {
    let mut groups = Vec::new();
    let mut rest = all;
    for size in sizes {
        let (group, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        if !group.is_empty() {
            groups.push(partial_sums(layout, codec, group, bounds, grid, parts).unwrap());
        }
    }
    if !rest.is_empty() {
        groups.push(partial_sums(layout, codec, rest, bounds, grid, parts).unwrap());
    }
    while groups.len() > 1 {
        let (last, before) = (groups.pop().unwrap(), groups.pop().unwrap());
        groups.push(before.into_iter().zip(last).map(|(a, b)| PartialSum::merge(&[a, b]).unwrap()).collect());
    }
    groups.pop().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_grouping_gives_the_bytes_of_the_flat_outer_step(
        sizes in prop::collection::vec(1_usize..6, 1..6),
        works in prop::collection::vec(1_u16..=4095, 12),
        seed in 0_u64..1000,
        topk in any::<bool>(),
        count in 1_usize..6,
    ) {
        let (layout, codec) = (some_layout(), CODECS[usize::from(topk)]);
        let (parts, grid) = (parts(&layout, count), Grid::exact(&layout));
        let updates = updates(codec, &layout, 12, seed);
        let all = contributions(&updates, &works);
        let theta = gaussian(layout.len(), seed + 99, 0.02);
        let weighted: Vec<(u16, &[u8])> = all.iter().map(|one| (one.work, one.update)).collect();
        // The flat step clips to the median of all; groups are given the same bounds.
        let (flat, rates) = outer::aggregate(&layout, &outer(codec), &theta, &weighted, &[], Share::WHOLE).unwrap();
        let sums = grouped((&layout, codec), &all, &sizes, Bounds::Given(&rates), &grid, &parts);
        let next: Vec<f32> = parts.iter().zip(&sums)
            .flat_map(|(part, sum)| sum.apply_exactly(part, &grid, &outer(codec), &theta).unwrap())
            .collect();
        prop_assert_eq!(outer::params_to_bytes(&next), outer::params_to_bytes(&flat));
    }

    #[test]
    fn on_a_coarse_grid_too_grouping_changes_no_byte_of_sum_or_code(
        sizes in prop::collection::vec(1_usize..6, 1..6),
        seed in 0_u64..1000,
        topk in any::<bool>(),
    ) {
        let (layout, codec) = (some_layout(), CODECS[usize::from(topk)]);
        let parts = parts(&layout, 3);
        let updates = updates(codec, &layout, 12, seed);
        let all = contributions(&updates, &[4095, 100, 17, 4095, 2000, 1, 4095, 4095, 3, 800, 4000, 12]);
        let rates = vec![1 << 36; layout.tensors.len()];
        let grid = Grid::of(&layout, codec, std::slice::from_ref(&rates), 1000);
        prop_assert!(grid != Grid::exact(&layout));
        let bounds = Bounds::Given(&rates);
        let flat = partial_sums(&layout, codec, &all, bounds, &grid, &parts).unwrap();
        let tree = grouped((&layout, codec), &all, &sizes, bounds, &grid, &parts);
        for ((part, flat), tree) in parts.iter().zip(&flat).zip(&tree) {
            prop_assert_eq!((flat.weight, flat.contributors), (tree.weight, tree.contributors));
            prop_assert_eq!(flat.code(part, &grid).unwrap(), tree.code(part, &grid).unwrap());
        }
    }

    #[test]
    fn what_is_not_the_encoding_of_a_sum_is_refused_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        flip in 0_usize..1_000_000,
    ) {
        let layout = some_layout();
        let part = &parts(&layout, 2)[1];
        prop_assert!(PartialSum::from_bytes(part, &bytes).is_err());
        let updates = updates(Codec::Topk, &layout, 2, 5);
        let all = contributions(&updates, &[4095, 4095]);
        let bounds = Bounds::Median { history: &[] };
        let sums = partial_sums(&layout, Codec::Topk, &all, bounds, &Grid::exact(&layout), &parts(&layout, 2)).unwrap();
        let whole = sums[1].to_bytes(part);
        prop_assert_eq!(&PartialSum::from_bytes(part, &whole).unwrap(), &sums[1]);
        let mut damaged = whole.clone();
        let at = flip % (whole.len() * 8);
        damaged[at / 8] ^= 1 << (at % 8);
        prop_assert!(PartialSum::from_bytes(part, &damaged).is_err());
        prop_assert!(PartialSum::from_bytes(part, &whole[..whole.len() - 1]).is_err());
    }

    #[test]
    fn what_is_not_the_code_of_a_mean_is_refused_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        flip in 0_usize..1_000_000,
    ) {
        let layout = some_layout();
        let (parts, grid, outer) = (parts(&layout, 2), Grid::exact(&layout), outer(Codec::Topk));
        let updates = updates(Codec::Topk, &layout, 2, 5);
        let bounds = Bounds::Median { history: &[] };
        let all = contributions(&updates, &[4095, 4095]);
        let sums = partial_sums(&layout, Codec::Topk, &all, bounds, &grid, &parts).unwrap();
        let whole = sums[1].code(&parts[1], &grid).unwrap();
        let theta = vec![0.0; layout.len()];
        let applied = |bytes: &[u8]| apply(&parts, &outer, &theta, &[None, Some(bytes)]);
        prop_assert!(applied(&whole).is_ok());
        let mut damaged = whole.clone();
        let at = flip % (whole.len() * 8);
        damaged[at / 8] ^= 1 << (at % 8);
        prop_assert!(applied(&damaged).is_err());
        prop_assert!(applied(&whole[..whole.len() - 1]).is_err());
        // What a hostile peer can write: a version and a checksum that hold.
        let seal = |mut content: Vec<u8>| {
            content.extend(&Digest::in_domain("shoal 2026 v1 update checksum", &content).0[..4]);
            content
        };
        prop_assert!(applied(&bytes).is_err());
        prop_assert!(applied(&seal([&[1], &bytes[..]].concat())).is_err());
        damaged.truncate(whole.len() - 4);
        // Another seed and most other scales are codes too, of other means.
        if let Ok(next) = applied(&seal(damaged)) {
            prop_assert!(next.iter().all(|value| value.abs() < 34.0));
        }
    }
}

#[test]
fn parts_cover_a_model_once_and_end_where_chunks_end() {
    for sizes in [&[4096 * 5 + 9, 3, 4096 * 2][..], &[16; 16], &[1], &[10, 10]] {
        let layout = layout(sizes);
        let parts = parts(&layout, 16);
        let mut next = 0;
        for part in &parts {
            assert_eq!(part.start, next);
            next = part.range().end;
            let inside = |at: usize| layout.tensors.iter().find(|tensor| tensor.range().contains(&at)).unwrap();
            assert!(part.start == layout.len() || (part.start - inside(part.start).offset).is_multiple_of(4096));
        }
        assert_eq!(next, layout.len());
    }
}

#[test]
fn the_coded_mean_is_what_everybody_applies_and_close_to_the_exact_one() {
    let layout = some_layout();
    let parts = parts(&layout, 4);
    let updates = updates(Codec::Dense4, &layout, 9, 3);
    let all = contributions(&updates, &[4095; 9]);
    let history = [vec![1 << 36; layout.tensors.len()]];
    let grid = Grid::of(&layout, Codec::Dense4, &history, 9);
    let sums = partial_sums(&layout, Codec::Dense4, &all, Bounds::Median { history: &history }, &grid, &parts).unwrap();
    let theta = vec![0.0; layout.len()];
    let exact: Vec<f32> = parts
        .iter()
        .zip(&sums)
        .flat_map(|(part, sum)| sum.apply_exactly(part, &grid, &outer(Codec::Dense4), &theta).unwrap())
        .collect();
    let coded: Vec<Vec<u8>> = parts.iter().zip(&sums).map(|(part, sum)| sum.code(part, &grid).unwrap()).collect();
    let coded: Vec<Option<&[u8]>> = coded.iter().map(|bytes| Some(bytes.as_slice())).collect();
    let next = apply(&parts, &outer(Codec::Dense4), &theta, &coded).unwrap();
    let sent: Vec<i64> = next.iter().map(|value| common::fixed(*value)).collect();
    let error = relative_error(&exact, &sent);
    // A twelfth of the squared step, which is 1.05 of a chunk's root mean square: nobody keeps it, but it is zero on average.
    assert!((0.085..0.1).contains(&error), "{error}");
    // A part without a mean stays.
    let kept = apply(&parts, &outer(Codec::Dense4), &theta, &[None; 4]).unwrap();
    assert_eq!(kept, theta);
}

/// Each contribution is a small part of a step: rounded to the nearest multiple, all would be nothing.
#[test]
fn light_contributions_come_through_a_coarse_grid_on_average() {
    for (codec, count, trust) in [(Codec::Topk, 480, 40), (Codec::Dense4, 32, 10)] {
        let layout = layout(&[4096 * 2]);
        let parts = parts(&layout, 1);
        let theta = vec![0.0; layout.len()];
        let rates = vec![norm_of(codec, &layout)];
        let grid = Grid::of(&layout, codec, std::slice::from_ref(&rates), 16);
        let (mut coarse, mut exact) = (Vec::new(), Vec::new());
        for group in 0..count / 16 {
            let updates: Vec<Vec<u8>> =
                (0..16).map(|peer| flat_update(codec, &layout, 1 + group * 16 + peer)).collect();
            let all: Vec<Contribution<'_>> =
                updates.iter().map(|update| Contribution { work: 4095, trust, update }).collect();
            for (grid, means) in [(&grid, &mut coarse), (&Grid::exact(&layout), &mut exact)] {
                let sums = partial_sums(&layout, codec, &all, Bounds::Given(&rates), grid, &parts).unwrap();
                means.extend(sums[0].apply_exactly(&parts[0], grid, &outer(codec), &theta).unwrap());
            }
        }
        let product = |left: &[f32]| -> f64 {
            left.iter().zip(&exact).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum()
        };
        let through = product(&coarse) / product(&exact);
        println!("{codec:?}: {through:.3} of what was sent came through");
        assert!((through - 1.0).abs() < 0.06, "{codec:?}: {through}");
    }
}

#[test]
fn fresh_authors_weigh_little_and_do_not_set_the_median() {
    let layout = layout(&[64]);
    let parts = parts(&layout, 1);
    let (quiet, loud) = (update(Codec::Dense4, &layout, &[0.001; 64]), update(Codec::Dense4, &layout, &[1.0; 64]));
    let mut all = vec![Contribution { work: 4095, trust: 4095, update: &quiet }; 3];
    all.extend([Contribution { work: 4095, trust: 100, update: &loud }; 13]);
    let bounds = Bounds::Median { history: &[] };
    let grid = Grid::exact(&layout);
    let sum = &partial_sums(&layout, Codec::Dense4, &all, bounds, &grid, &parts).unwrap()[0];
    assert_eq!(sum.weight, 3 * 4095 + 13 * 100);
    let next = sum.apply_exactly(&parts[0], &grid, &outer(Codec::Dense4), &[0.0; 64]).unwrap();
    assert!(next.iter().all(|value| value.abs() < 0.00102), "{}", next[0]);
}

#[test]
fn sums_that_do_not_fit_together_or_overflow_are_errors() {
    let layout = some_layout();
    let parts = parts(&layout, 2);
    let updates = updates(Codec::Topk, &layout, 1, 8);
    let all = contributions(&updates, &[4095]);
    let bounds = Bounds::Median { history: &[] };
    let sums = partial_sums(&layout, Codec::Topk, &all, bounds, &Grid::exact(&layout), &parts).unwrap();
    assert_eq!(PartialSum::merge(&[]).unwrap_err(), UpdateError::Parts);
    assert_eq!(PartialSum::merge(&[sums[0].clone(), sums[1].clone()]).unwrap_err(), UpdateError::Parts);
    let mut heavy = sums[0].clone();
    heavy.weight = u64::MAX;
    assert_eq!(PartialSum::merge(&[heavy, sums[0].clone()]).unwrap_err(), UpdateError::Overflow);
}

/// Bits a parameter of sums of `topk` updates, on which the documented sizes and the simulated world's costs rest.
#[test]
fn sums_of_sixteen_and_of_many_updates_are_compact() {
    let layout = layout(&[4096 * 8]);
    let parts = parts(&layout, 1);
    let bits = |count: u64| {
        let history = [vec![norm_of(Codec::Topk, &layout)]];
        let grid = Grid::of(&layout, Codec::Topk, &history, 1000);
        let mut merged: Option<PartialSum> = None;
        for group in 0..count / 16 {
            let updates: Vec<Vec<u8>> =
                (0..16).map(|peer| flat_update(Codec::Topk, &layout, 1 + group * 16 + peer)).collect();
            let all = contributions(&updates, &[4095; 16]);
            let bounds = Bounds::Median { history: &history };
            let sum = partial_sums(&layout, Codec::Topk, &all, bounds, &grid, &parts).unwrap().remove(0);
            merged = Some(merged.map_or(sum.clone(), |before| PartialSum::merge(&[before, sum]).unwrap()));
        }
        merged.unwrap().to_bytes(&parts[0]).len() as f64 * 8.0 / layout.len() as f64
    };
    for (count, most) in [(16, 2.0), (256, 5.7), (1024, 6.7)] {
        let bits = bits(count);
        println!("{count} updates: {bits:.2} bits a parameter");
        assert!(bits < most, "{count} updates: {bits} bits a parameter");
    }
}

fn flat_update(codec: Codec, layout: &Layout, seed: u64) -> Vec<u8> {
    let mut value = common::unit_gaussian(seed);
    let delta: Vec<f32> = (0..layout.len()).map(|_| (value() * 0.001) as f32).collect();
    update(codec, layout, &delta)
}

fn norm_of(codec: Codec, layout: &Layout) -> u64 {
    let values = outer::decode(layout, codec, &flat_update(codec, layout, 77)).unwrap();
    let squares: u128 = values.iter().map(|value| u128::from(value.unsigned_abs()).pow(2)).sum();
    squares.isqrt() as u64
}
