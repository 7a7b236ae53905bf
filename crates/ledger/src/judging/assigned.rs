//! Whether a member trains on the data that it is assigned.
//!
//! What was trained on some data helps there more than elsewhere (Gauntlet, Templar). Old work, another one's work, and
//! updates that are computed from what others are thought to send do not, whatever they bring. A round's margins are taken
//! relative to what is usual in it and add up to a sequential test, as audits do (`evidence`). How much one of them says hangs on
//! the task, so the run measures it: by how much a member's margin differs from one of its updates to the next. Differences
//! within members are the same for those who lie, and the median over members is moved little by some who play with them.

use shoal_wire::judging::Standing;

use super::verdict::Margin;

/// From here on a member is not trusted, whatever its audits say otherwise.
const UNPROVEN_MILLINATS: u32 = 5_000;
/// What is forgiven for a good update in a round that cannot tell what it was trained on.
const FORGIVEN: u32 = 100;
/// Six of the largest steps are needed for a first ban, as six failed audits are; one takes away at most as much as a passed audit.
const STEP_MAX: i64 = 2150;
const STEP_MIN: i64 = -1099;
/// Before enough members have a scatter: 0.45, that of the simulator's model.
const NOISE_UNKNOWN_1024: i64 = 461;
/// A test is never thought better than this: 0.35.
const NOISE_MIN_1024: i64 = 358;
/// Where it is worse, it accuses nobody: what is usual is then mostly noise, and honest margins may lie anywhere below it.
const NOISE_MAX_1024: i64 = 717;
/// Members with a scatter, from which on their median stands.
const SCATTERS_MIN: usize = 4;
/// Margins beyond four times what is usual count as that.
const MARGIN_MAX_1024: i64 = 4 * 1024;
/// A first difference alone says little, and where it is taken for too small an honest member is soon accused: it counts at
/// least as that of the unknown noise does.
const SCATTER_FIRST: i32 = 520;
/// A difference moves a member's scatter by so much of what it is off.
const SCATTER_SHARE: i32 = 8;

/// Whether its work can count as its own.
pub(super) fn is_proven(standing: &Standing) -> bool {
    standing.unproven < UNPROVEN_MILLINATS
}

/// What is left of it after a ban: it does not stand in the way of trust, and is soon more again.
pub(super) fn after_ban(standing: &Standing) -> u32 {
    standing.unproven.min(UNPROVEN_MILLINATS - 1)
}

pub(super) fn forgiven(standing: &Standing) -> u32 {
    standing.unproven.saturating_sub(FORGIVEN)
}

/// Standard deviation of a margin, in 1/1024 of what is usual. The mean difference of two normal values is 2/√π =
/// 1.128 of it.
pub(crate) fn noise_1024<'a>(standings: impl Iterator<Item = &'a Standing>) -> i64 {
    let mut scatters: Vec<u16> =
        standings.map(|standing| standing.scatter_1024).filter(|scatter| *scatter > 0).collect();
    scatters.sort_unstable();
    if scatters.len() < SCATTERS_MIN {
        return NOISE_UNKNOWN_1024;
    }
    let median = scatters.get(scatters.len() / 2).copied().unwrap_or_default();
    (i64::from(median) * 907 / 1024).max(NOISE_MIN_1024)
}

/// The mean margin of honest work: below what is usual, which a third of the members reach, by about half of the noise where
/// nobody lies (of many normal values by 0.43, of few by up to 0.64 of it), and less far where some do.
fn honest_1024(noise_1024: i64) -> i64 {
    1024 - noise_1024.min(NOISE_MAX_1024) / 2
}

/// The logarithm of the likelihood ratio of two normal distributions, in thousandths of a nat: other work over honest
/// work. Less work than assigned shows as much less as its noise is scaled up.
fn step(margin: Margin, noise_1024: i64) -> i64 {
    let relative = margin.relative_1024.clamp(-MARGIN_MAX_1024, MARGIN_MAX_1024);
    let honest = honest_1024(noise_1024);
    let nats = 1000 * honest * (honest - 2 * relative) / (2 * noise_1024 * noise_1024);
    let weighed = nats * margin.work_1024 * margin.work_1024 / (1024 * 1024);
    weighed.clamp(STEP_MIN, if noise_1024 <= NOISE_MAX_1024 { STEP_MAX } else { 0 })
}

/// A member's standing after a round that could tell what its update was trained on.
pub(super) fn after(mut standing: Standing, margin: Margin, noise_1024: i64) -> Standing {
    let step = step(margin, noise_1024);
    standing.unproven = (i64::from(standing.unproven) + step).clamp(0, i64::from(u32::MAX)) as u32;
    let relative = margin.relative_1024.clamp(-MARGIN_MAX_1024, MARGIN_MAX_1024) as i16;
    if let Some(before) = standing.margin_1024 {
        // Of little work, what was scaled up is scaled down again.
        let difference = (i64::from(relative.abs_diff(before)) * margin.work_1024 / 1024) as i32;
        let scatter = i32::from(standing.scatter_1024);
        let next =
            if scatter == 0 { difference.max(SCATTER_FIRST) } else { scatter + (difference - scatter) / SCATTER_SHARE };
        standing.scatter_1024 = u16::try_from(next.max(1)).unwrap_or(u16::MAX);
    }
    standing.margin_1024 = Some(relative);
    standing
}

#[cfg(test)]
mod tests {
    // Samples are drawn, and what the integers stand for is computed, in floating point.
    #![allow(clippy::disallowed_methods)]
    use super::*;
    use crate::judging::{BAN_MILLINATS, verdict::usual};

    struct Draw(u64);

    impl Draw {
        /// About normal: twelve uniform numbers (Irwin and Hall), by SplitMix64.
        fn normal(&mut self) -> f64 {
            let mut uniform = || {
                self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mut z = self.0;
                z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
            };
            (0..12).map(|_| uniform()).sum::<f64>() - 6.0
        }
    }

    fn margin(relative: f64) -> Margin {
        let relative_1024 = (relative * 1024.0) as i64;
        Margin { relative_1024, work_1024: 1024 }
    }

    /// Rounds after which members are banned whose margins lie around these means with this deviation.
    fn rounds_until_ban(means: &[f64], deviation: f64, rounds: u32, seed: u64) -> Vec<Option<u32>> {
        let mut draw = Draw(seed);
        let mut standings = vec![Standing::default(); means.len()];
        let mut banned = vec![None; means.len()];
        for round in 1..=rounds {
            let here = standings.iter().zip(&banned).filter(|(_, banned)| banned.is_none());
            let noise = noise_1024(here.map(|(standing, _)| standing));
            let drawn: Vec<f64> = means.iter().map(|mean| mean + deviation * draw.normal()).collect();
            let here = drawn.iter().zip(&banned).filter(|(_, banned)| banned.is_none());
            let mut sorted: Vec<i64> = here.map(|(margin, _)| (margin * 10_000.0) as i64).collect();
            sorted.sort_unstable();
            let usual = usual(&sorted) as f64 / 10_000.0;
            if usual < 0.05 {
                continue;
            }
            for (standing, drawn) in standings.iter_mut().zip(drawn) {
                *standing = after(*standing, margin(drawn / usual), noise);
            }
            for (banned, standing) in banned.iter_mut().zip(&standings) {
                if banned.is_none() && standing.unproven >= BAN_MILLINATS {
                    *banned = Some(round);
                }
            }
        }
        banned
    }

    #[test]
    fn six_of_sixteen_who_train_on_other_data_are_banned_most_of_them_within_fifteen_rounds() {
        let means: Vec<f64> = (0..16).map(|peer| if peer < 6 { 0.0 } else { 1.0 }).collect();
        let mut in_time = 0;
        for seed in 0..100 {
            let banned = rounds_until_ban(&means, 0.4, 30, seed);
            assert!(banned[..6].iter().all(Option::is_some), "{banned:?}");
            assert!(banned[6..].iter().all(Option::is_none), "{banned:?}");
            in_time += banned.iter().flatten().filter(|round| **round <= 15).count();
        }
        assert!(in_time >= 500, "{in_time} of 600");
    }

    #[test]
    fn honest_members_are_not_banned_however_little_a_margin_says() {
        for (mean, deviation) in
            [(1.0, 0.2), (1.0, 0.4), (1.0, 0.6), (1.0, 0.8), (1.0, 1.0), (1.0, 1.5), (1.0, 3.0), (0.0, 1.0)]
        {
            for (members, seed) in
                [4, 6, 9, 16].into_iter().flat_map(|members| (0..10).map(move |seed| (members, seed)))
            {
                let banned = rounds_until_ban(&vec![mean; members], deviation, 300, seed);
                assert!(banned.iter().all(Option::is_none), "{members}, {mean}, {deviation}: {banned:?}");
            }
        }
    }

    #[test]
    fn six_false_auditors_of_sixteen_ban_no_honest_member_by_what_they_say_of_its_margin() {
        let mut draw = Draw(7);
        let mut standings = vec![Standing::default(); 100];
        for _ in 0..300 {
            for standing in &mut standings {
                // Of three auditors, those among six of sixteen that lie.
                let uniform = |draw: &mut Draw| draw.normal().abs() < 0.489;
                let false_ones = (0..3).filter(|_| uniform(&mut draw)).count();
                let honest = 1.0 + 0.4 * draw.normal();
                match false_ones {
                    // Auditors who differ say nothing of it.
                    2 => standing.unproven = forgiven(standing),
                    3 => *standing = after(*standing, margin(-4.0), NOISE_UNKNOWN_1024),
                    _ => *standing = after(*standing, margin(honest), NOISE_UNKNOWN_1024),
                }
                assert!(standing.unproven < BAN_MILLINATS);
            }
        }
    }

    #[test]
    fn steps_are_logarithms_of_likelihood_ratios() {
        let (honest, deviation): (f64, f64) = (1.0 - 0.45_f64 / 2.0, 0.45_f64);
        for relative in [0.2, 0.3, 0.4] {
            let density = |mean: f64| (-(relative - mean) * (relative - mean) / (2.0 * deviation * deviation)).exp();
            let exact = 1000.0 * (density(0.0) / density(honest)).ln();
            let found = step(margin(relative), NOISE_UNKNOWN_1024);
            assert!((found as f64 - exact).abs() < 10.0, "{relative}: {found} and {exact}");
        }
        assert_eq!((step(margin(-9.0), 461), step(margin(9.0), 461)), (STEP_MAX, STEP_MIN));
        let half = Margin { work_1024: 512, ..margin(0.0) };
        assert_eq!(step(half, 461), step(margin(0.0), 461) / 4, "half of the work shows a quarter as much");
    }

    #[test]
    fn extreme_values_neither_overflow_nor_panic() {
        let standing =
            Standing { unproven: u32::MAX, margin_1024: Some(i16::MIN), scatter_1024: u16::MAX, ..Standing::default() };
        for relative_1024 in [i64::MIN, -1, 0, i64::MAX] {
            for work_1024 in [1, 1024] {
                for noise in [NOISE_MIN_1024, 65_535] {
                    after(standing, Margin { relative_1024, work_1024 }, noise);
                }
            }
        }
    }
}
