//! Numbers that are as good as random and that everybody computes alike: SplitMix64 (Steele, Lea and Flood, 2014),
//! whose outputs are a function of the seed and a place, so that values can be read in any order.

/// A sequence of such numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dither(u64);

impl Dither {
    /// The seed is mixed first: sequences of seeds that differ by little must not be shifts of one another.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// 64 evenly distributed bits for a value's place.
    pub fn at(self, place: u64) -> u64 {
        mix(self.0.wrapping_add(place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Rounds to a multiple of 2^`shift` next to the value, below 2⁶², up or down such that the average is the value
    /// itself (stochastic rounding); returns the multiple. `shift` is below 62.
    pub fn round(self, value: i64, shift: u32, place: u64) -> i64 {
        if shift == 0 {
            return value;
        }
        (value + (self.at(place) >> (64 - shift)) as i64) >> shift
    }
}

const fn mix(z: u64) -> u64 {
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_split_mix_64() {
        let known = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        for (place, number) in known.into_iter().enumerate() {
            assert_eq!(Dither(1_234_567).at(place as u64), number);
        }
    }

    #[test]
    fn rounding_leaves_multiples_and_is_right_on_average() {
        const SHIFT: u32 = 20;
        for value in [1 << SHIFT, -3 << SHIFT, 5, -5, 1 << 15, (1 << SHIFT) - 1, -(1 << 19), 7 * (1 << 18)] {
            let dither = Dither::new(value as u64);
            let rounded = (0..200_000).map(|place| dither.round(value, SHIFT, place));
            let (lower, upper) = (value >> SHIFT, -(-value >> SHIFT));
            let sum: i64 = rounded.inspect(|at| assert!(*at == lower || *at == upper)).sum();
            let (mean, exact) = (sum as f64 / 200_000.0, value as f64 / f64::from(1 << SHIFT));
            assert!((mean - exact).abs() < 0.005, "{mean} instead of {exact}");
            assert_eq!(dither.round(value, 0, 3), value);
        }
    }
}
