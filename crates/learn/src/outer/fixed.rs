//! Fixed-point numbers in units of 2⁻⁴⁰, and the few operations on them.
//!
//! Bounds: a value of an update is at most 2²⁴ · (31 · 249) · 2⁶ < 2⁴³ (`dense4`; `topk` stays below 2⁴¹). Weighted by
//! 12 bits and summed over at most 32 updates it stays below 2⁶⁰, so sums fit an i64; times α they fit an i128. A model
//! has at most 2²⁸ values: their squares, each below 2⁸⁶, sum to less than 2¹¹⁴ and fit a u128, and a norm is below
//! 2⁵⁷. Rates (norms per weight) are cut off at 2⁶⁴, and a value times a rate stays below 2¹⁰⁷, in an i128. A value of
//! a coded mean is at most 31.5 · 2²⁴ · 1075 · 2⁶ < 2⁴⁶ (`mean_code`), times α it stays below 2⁶².

/// Bits after the binary point.
pub const FRACTION_BITS: u32 = 40;

/// Rounds a quotient to the nearest integer, halves to the even one. `divisor` is positive.
pub(super) fn div_half_even(dividend: i128, divisor: i128) -> i128 {
    // Where both have 64 bits, as nearly always, the machine divides by itself.
    if let (Ok(dividend), Ok(divisor)) = (i64::try_from(dividend), i64::try_from(divisor)) {
        let (quotient, rest) = (dividend.div_euclid(divisor), dividend.rem_euclid(divisor));
        let up = rest > divisor - rest || (rest == divisor - rest && quotient & 1 == 1);
        return i128::from(quotient) + i128::from(up);
    }
    let quotient = dividend.div_euclid(divisor);
    let twice = 2 * dividend.rem_euclid(divisor);
    let up = twice > divisor || (twice == divisor && quotient & 1 == 1);
    quotient + i128::from(up)
}

/// The same for a divisor of 1,024, without a division of 128 bits.
pub(super) fn div_1024_half_even(dividend: i128) -> i128 {
    let (quotient, rest) = (dividend >> 10, dividend & 1023);
    quotient + i128::from(rest > 512 || (rest == 512 && quotient & 1 == 1))
}

/// Nearest fixed-point number; what is not finite counts as zero and what is too large saturates at 2²².
pub(super) fn from_f32(value: f32) -> i64 {
    const LARGEST: f64 = (1_u64 << 62) as f64;
    if !value.is_finite() {
        return 0;
    }
    // Scaling by a power of two is exact in f64, so rounding happens once.
    let scaled = f64::from(value) * (1_u64 << FRACTION_BITS) as f64;
    scaled.clamp(-LARGEST, LARGEST).round_ties_even() as i64
}

/// The f32 nearest to a fixed-point number.
pub(super) fn to_f32(value: i64) -> f32 {
    const UNIT: f32 = 1.0 / (1_u64 << FRACTION_BITS) as f32;
    // The conversion rounds to nearest, ties to even; scaling by a power of two is exact, since the smallest
    // magnitude is 2⁻⁴⁰, far from f32's subnormal numbers.
    value as f32 * UNIT
}

/// A scale as it travels: a non-negative f16 of at most 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale(half::f16);

impl Scale {
    pub fn from_bits(bits: u16) -> Option<Self> {
        // Bit patterns of non-negative halves are ordered as the numbers are, so this refuses the rest and NaN.
        (bits <= half::f16::ONE.to_bits()).then_some(Self(half::f16::from_bits(bits)))
    }

    /// Nearest scale to a magnitude in units of 2⁻⁴⁰.
    pub fn nearest(magnitude: i64) -> Self {
        Self(half::f16::from_f32(to_f32(magnitude).clamp(0.0, 1.0)))
    }

    /// The next larger scale; 1 has none.
    pub fn next(self) -> Self {
        Self::from_bits(self.bits() + 1).unwrap_or(self)
    }

    pub fn bits(self) -> u16 {
        self.0.to_bits()
    }

    /// In units of 2⁻²⁴, an integer for every half.
    fn units(self) -> i64 {
        let bits = i64::from(self.0.to_bits());
        let (exponent, mantissa) = (bits >> 10, bits & 0x3ff);
        if exponent == 0 { mantissa } else { (mantissa | 0x400) << (exponent - 1) }
    }

    /// In units of 2⁻⁴⁰.
    pub fn fixed(self) -> i64 {
        self.units() << 16
    }

    /// Scale times `level`/1,024, in units of 2⁻⁴⁰, exactly.
    pub fn times(self, level: i64) -> i64 {
        (self.units() * level) << 6
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)] // equal to the last bit is what these tests are about

    use super::*;

    #[test]
    fn halves_round_to_even() {
        let cases = [(5, 2, 2), (7, 2, 4), (-5, 2, -2), (-7, 2, -4), (6, 4, 2), (1, 3, 0), (2, 3, 1), (-2, 3, -1)];
        for (dividend, divisor, quotient) in cases {
            assert_eq!(div_half_even(dividend, divisor), quotient, "{dividend}/{divisor}");
            // Beyond 64 bits too.
            assert_eq!(div_half_even(dividend << 70, divisor << 70), quotient, "{dividend}/{divisor}");
        }
        for dividend in -4096..4096 {
            assert_eq!(div_1024_half_even(dividend), div_half_even(dividend, 1024), "{dividend}");
        }
    }

    #[test]
    fn every_valid_half_is_an_exact_fixed_point_number() {
        for bits in 0..=half::f16::ONE.to_bits() {
            let scale = Scale::from_bits(bits).expect("a scale");
            let exact = f64::from(half::f16::from_bits(bits)) * (1_u64 << FRACTION_BITS) as f64;
            assert_eq!(scale.fixed() as f64, exact);
            assert_eq!(scale.times(1024), scale.fixed());
        }
        assert!(Scale::from_bits(half::f16::ONE.to_bits() + 1).is_none());
        assert!(Scale::from_bits(half::f16::NAN.to_bits()).is_none());
        assert!(Scale::from_bits(half::f16::NEG_ONE.to_bits()).is_none());
        assert!(Scale::from_bits(half::f16::NEG_ZERO.to_bits()).is_none());
    }

    #[test]
    fn floats_become_the_nearest_fixed_point_number() {
        assert_eq!(from_f32(1.0), 1 << 40);
        assert_eq!(from_f32(-0.5), -(1 << 39));
        assert_eq!(from_f32(f32::NAN), 0);
        assert_eq!(from_f32(f32::INFINITY), 0);
        assert_eq!(to_f32(from_f32(0.1)), 0.1);
    }
}
