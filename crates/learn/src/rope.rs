//! Rotary positions: by how much each pair of a head's values turns from one token to the next.
//!
//! Su et al. 2021, arXiv:2104.09864; the scalings are those of `transformers`, computed in f32 in the same order, so that
//! a model trained elsewhere sees the angles that it was trained with.

use core::f32::consts::TAU;

use shoal_wire::manifest::{ModelSpec, RopeScaling};

/// Radians a token, [half of a head's width]: `θ^(−2i/width)`, scaled as the model says.
#[allow(clippy::disallowed_methods)] // engines differ in the last bits anyway: nobody has to agree on them
pub fn inverse_frequencies(model: &ModelSpec) -> Vec<f32> {
    let width = model.hidden_size / model.num_attention_heads;
    let base = |index: u32| {
        let exponent = (2 * index) as f32 / width as f32;
        // A power in f64, rounded once, is within half a unit of the last place of any good f32 power.
        1.0 / f64::from(model.rope_theta).powf(f64::from(exponent)) as f32
    };
    (0..width / 2).map(|index| scaled(base(index), model.rope_scaling)).collect()
}

/// Cosines, then sines, each [context, half of a head's width]. Angles are rounded to f32, as in published models.
pub fn table(model: &ModelSpec, context: usize) -> (Vec<f32>, Vec<f32>) {
    let frequencies = inverse_frequencies(model);
    let angles = (0..context).flat_map(|position| frequencies.iter().map(move |f| f64::from(position as f32 * f)));
    angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip()
}

fn scaled(frequency: f32, scaling: RopeScaling) -> f32 {
    match scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let trained = original_max_position_embeddings as f32;
            let wavelength = TAU / frequency;
            if wavelength > trained / low_freq_factor {
                frequency / factor
            } else if wavelength < trained / high_freq_factor {
                frequency
            } else {
                let blend = (trained / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - blend) * frequency / factor + blend * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::Preset;

    fn model(rope_scaling: RopeScaling) -> ModelSpec {
        ModelSpec {
            hidden_size: 256,
            num_attention_heads: 4,
            rope_theta: 500_000.0,
            rope_scaling,
            ..Preset::Tiny.model()
        }
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let plain = inverse_frequencies(&model(RopeScaling::Default));
        let linear = inverse_frequencies(&model(RopeScaling::Linear { factor: 4.0 }));
        assert_eq!(plain.len(), 32);
        assert!(plain.iter().zip(&linear).all(|(a, b)| (a / 4.0).to_bits() == b.to_bits()));
    }

    #[test]
    fn llama3_keeps_short_waves_divides_long_ones_and_blends_between() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let plain = inverse_frequencies(&model(RopeScaling::Default));
        let ratios: Vec<f32> = plain.iter().zip(inverse_frequencies(&model(scaling))).map(|(a, b)| a / b).collect();
        assert!(ratios.is_sorted(), "{ratios:?}");
        assert!((ratios[0] - 1.0).abs() < 1e-6 && (ratios[31] - 8.0).abs() < 1e-6);
        assert!(ratios.iter().any(|ratio| *ratio > 1.01 && *ratio < 7.99), "{ratios:?}");
    }

    #[test]
    fn the_first_position_does_not_turn() {
        let (cosines, sines) = table(&model(RopeScaling::Default), 2);
        assert!(cosines[..32].iter().all(|c| c.to_bits() == 1f32.to_bits()));
        assert!(sines[..32].iter().all(|s| s.to_bits() == 0));
        assert_eq!((cosines.len(), sines.len()), (64, 64));
    }
}
