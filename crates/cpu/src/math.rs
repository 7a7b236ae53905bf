//! Exponentials and sums that compilers turn into vector instructions: loops without calls and without an order that
//! additions must keep.
#![allow(clippy::inline_always)] // vectors are as wide as those of the caller that these are compiled into

/// Partial sums of a long sum.
const LANES: usize = 16;

/// `e^x` within 2 units in the last place; 0 or the largest float where that would not fit.
///
/// `x = n·ln 2 + r` with |r| ≤ ln 2 / 2, and `e^r` by its Taylor series to the seventh power (remainder below 6e-9).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 · 2²³ rounds to a whole number, which then is in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let series = 1.0 / 5040.0;
    let series = series * r + 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = (series * r) * r + r + 1.0;
    let power = shifted.to_bits().wrapping_add(127) << 23;
    series * f32::from_bits(power)
}

#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The sum of `f` over all indices below `count`, in an order that depends on `count` alone.
#[inline(always)]
pub fn sum(count: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
    }
    let rest: f32 = (whole..count).map(f).sum();
    lanes.iter().sum::<f32>() + rest
}

/// The largest value; negative infinity of none.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied();
    for chunk in chunks {
        for (most, x) in lanes.iter_mut().zip(chunk) {
            *most = if *x > *most { *x } else { *most };
        }
    }
    lanes.into_iter().chain(rest).fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)] // these results are exact
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place_and_saturates() {
        let mut worst = 0.0_f64;
        for step in -870_000..880_000 {
            let x = step as f32 * 1e-4;
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - expected).abs() / expected);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(1e9) > 1e38 && exp(1e9).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_take_every_value_once() {
        for count in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..count).map(|i| ((i * 37) % count.max(1)) as f32).collect();
            assert_eq!(sum(count, |i| values[i]), (count * count.saturating_sub(1) / 2) as f32);
            assert_eq!(max(&values), if count == 0 { f32::NEG_INFINITY } else { (count - 1) as f32 });
        }
    }
}
