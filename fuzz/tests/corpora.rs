//! The corpora without a fuzzer: nothing in them breaks a promise, and the values to start from are real ones of today.
#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use shoal_fuzz::{TARGETS, operations, seeds};
use shoal_sim::Random;

fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", target].iter().collect()
}

#[test]
fn nothing_in_a_corpus_breaks_a_promise() {
    for (name, target) in TARGETS {
        let files: Vec<PathBuf> = fs::read_dir(corpus(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            target(&fs::read(file).unwrap());
        }
    }
}

/// A few steps of what the fuzzer does, without its eyes: any stable compiler can do these. `SHOAL_MUTATIONS` says how many
/// for each file.
#[test]
fn what_is_a_little_off_breaks_no_promise() {
    let count = std::env::var("SHOAL_MUTATIONS").map_or(20, |text| text.parse().unwrap());
    let mut random = Random::new(1);
    for (name, target) in TARGETS {
        let values: Vec<Vec<u8>> =
            seeds::seeds().into_iter().filter(|seed| seed.target == name).map(|s| s.bytes).collect();
        for value in &values {
            for _ in 0..count {
                let other = &values[random.place(values.len())];
                target(&mutated(&mut random, value.clone(), other));
            }
        }
    }
}

/// Changes, removes and repeats bytes, or goes on with those of another value.
fn mutated(random: &mut Random, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
    for _ in 0..=random.place(4) {
        let at = random.place(bytes.len() + 1);
        let end = (at + 1 + random.place(8)).min(bytes.len());
        match random.place(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, random.place(256) as u8),
            3 => bytes.extend_from_within(at..end),
            4 => bytes.extend_from_slice(&other[at.min(other.len())..]),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.place(8)),
        }
    }
    bytes
}

#[test]
fn the_values_to_start_from_are_real_ones_of_today() {
    for seed in seeds::seeds() {
        let file = corpus(seed.target).join(&seed.name);
        let kept = fs::read(&file).unwrap_or_default();
        assert!(kept == seed.bytes, "{}: run `cargo run -p shoal-fuzz --bin seeds`", file.display());
    }
}

#[test]
fn scripts_reach_the_rounds_that_they_are_meant_to() {
    for (name, script, round) in seeds::scripts() {
        assert_eq!(operations(&script), round, "{name}");
    }
}
