//! What audits add up to over rounds: sequential tests and a rating, in integers.
//!
//! One audit proves little. Each test is a CUSUM (Page, Biometrika 1954) whose steps are the log-likelihood ratios of
//! Wald's sequential test (Annals of Mathematical Statistics, 1945) in thousandths of a nat: a failure adds
//! ln(p1/p0), a success subtracts ln((1-p0)/(1-p1)), it never falls below 0, and at a threshold h it decides. With an
//! honest failure rate of at most p0, an excursion reaches h with a probability of about e^-h.

use shoal_wire::{PeerId, judging::Standing};

use super::{Assessment, Finding, assigned};

/// A member is banned here: six failures in a row, or e^-11 = 1.7e-5 for an honest one that starts to fail.
pub const BAN_MILLINATS: u32 = 11_000;
/// From here on a member is suspected. One failed audit of a panel that is not divided is enough, and one update that helps on
/// its author's data no more than elsewhere where that shows well.
const SUSPECTED_MILLINATS: u32 = 1_400;
/// Rounds for which the first ban lasts; the n-th lasts n times as long.
pub const BAN_ROUNDS: u64 = 32;
/// Honest work fails an audit in at most 10 % of cases (p0), lies in at least 70 % (p1): ln 7 and ln 3.
const FAILED: u32 = 1946;
const PASSED: u32 = 1099;
/// What an accepted update brings, over what honest work does, is about normal with a deviation of 0.35, around 0.6 or
/// more for honest work and around 0 for noise. The logarithm of the likelihood ratio is then (0.6² - 2 · 0.6 · x) / (2 ·
/// 0.35²) at x: so much at 0, and so much less for each whole.
const WORTHLESS: i64 = 1469;
const A_WHOLE: i64 = 4898;
/// A divided panel convinces half as much: liars among the auditors make such ones.
const FAILED_DIVIDED: u32 = FAILED / 2;
/// Honest auditors are alone in at most one panel of six, even where 6 of 16 lie; false ones in four of ten or more:
/// ln(0.4/(1/6)) and ln((5/6)/0.6).
const ALONE: u32 = 875;
const AGREED: u32 = 329;
/// From here on a member audits nobody, until it falls with the rounds.
const DISSENT_MILLINATS: u32 = 7_000;
/// How much dissent is forgiven in a round without an audit.
const FORGIVEN: u32 = 100;
/// Elo points that change hands in one round at most, and those that a verdict alone against the others costs.
const RATING_STEP: i64 = 64;
const ALONE_POINTS: i32 = 8;
const RATING_MAX: i32 = 2_000;

/// Expected score of whoever is 0, 50, 100, ... 800 points ahead, in 1/1024: 1024 / (1 + 10^(-d/400)), rounded (Elo's
/// logistic curve, that of Bradley and Terry).
const EXPECTED_1024: [i64; 17] =
    [512, 585, 655, 720, 778, 828, 869, 904, 931, 953, 969, 983, 993, 1000, 1006, 1011, 1014];

/// One step of a CUSUM.
pub fn cusum(evidence: u32, failed: bool, up: u32, down: u32) -> u32 {
    if failed { evidence.saturating_add(up) } else { evidence.saturating_sub(down) }
}

pub fn may_audit(standing: &Standing) -> bool {
    standing.dissent < DISSENT_MILLINATS
}

/// Whether its work can count as its own.
pub fn is_proven(standing: &Standing) -> bool {
    assigned::is_proven(standing)
}

/// Whether one of the tests has begun to speak against it.
pub fn is_suspected(standing: &Standing) -> bool {
    standing.evidence.max(standing.unproven) >= SUSPECTED_MILLINATS
}

pub fn is_to_be_banned(standing: &Standing) -> bool {
    standing.evidence.max(standing.unproven) >= BAN_MILLINATS
}

/// The standing of somebody who is banned now: it comes back with half of the evidence.
pub fn banned(standing: Standing) -> Standing {
    let evidence = BAN_MILLINATS / 2;
    let unproven = assigned::after_ban(&standing);
    let bans = standing.bans.saturating_add(1);
    Standing { evidence, unproven, dissent: 0, bans, ..standing }
}

/// An update that does not decode counts as one that failed its audit.
pub fn malformed(standing: Standing) -> Standing {
    Standing { evidence: cusum(standing.evidence, true, FAILED, PASSED), ..standing }
}

/// Evidence after an update that was good enough to be accepted. One alone may be a poor one by chance; who brings
/// little in most rounds does not work.
fn good(evidence: u32, worth_1024: Option<i64>, failed: u32) -> u32 {
    let Some(worth_1024) = worth_1024 else { return cusum(evidence, false, failed, PASSED) };
    let step = WORTHLESS - A_WHOLE.saturating_mul(worth_1024) / 1024;
    let up = u32::try_from(step.max(0)).unwrap_or(u32::MAX).min(failed);
    let down = u32::try_from(-step.min(0)).unwrap_or(u32::MAX).min(PASSED);
    cusum(evidence, step > 0, up, down)
}

/// A member's standing after a round in which margins had this noise ([`assigned::noise_1024`]).
pub fn after_round(mut standing: Standing, peer: PeerId, round: &Assessment, noise_1024: i64) -> Standing {
    let failed = if round.is_unanimous(peer) { FAILED } else { FAILED_DIVIDED };
    standing.evidence = match round.finding(peer) {
        Finding::Open => standing.evidence,
        Finding::Good => good(standing.evidence, round.worth_1024(peer), failed),
        Finding::Harmful | Finding::Copied => cusum(standing.evidence, true, failed, PASSED),
    };
    if let Some(margin) = round.margin(peer) {
        standing = assigned::after(standing, margin, noise_1024);
    } else if round.finding(peer) == Finding::Good {
        standing.unproven = assigned::forgiven(&standing);
    }
    let (alone, agreed) = round.auditors().get(&peer).copied().unwrap_or_default();
    for _ in 0..alone {
        standing.dissent = cusum(standing.dissent, true, ALONE, AGREED);
    }
    for _ in 0..agreed {
        standing.dissent = cusum(standing.dissent, false, ALONE, AGREED);
    }
    if alone + agreed == 0 {
        standing.dissent = standing.dissent.saturating_sub(FORGIVEN);
    }
    standing.rating = (standing.rating - ALONE_POINTS * alone.min(4) as i32).clamp(-RATING_MAX, RATING_MAX);
    standing
}

/// Expected score, in 1/1024, of whoever is `ahead` points ahead.
fn expected_1024(ahead: i64) -> i64 {
    let at = (ahead.unsigned_abs() as usize / 50).min(EXPECTED_1024.len() - 1);
    let expected = EXPECTED_1024.get(at).copied().unwrap_or(512);
    if ahead < 0 { 1024 - expected } else { expected }
}

/// Points that a member wins in a round in which its update is compared with every other audited one.
pub fn points(peer: PeerId, rating: i32, round: &Assessment, rating_of: impl Fn(PeerId) -> i32) -> i32 {
    let Some(own) = round.rates().get(&peer) else { return 0 };
    let others = round.rates().iter().filter(|(other, _)| **other != peer);
    let mut won = 0;
    let mut count = 0;
    for (other, rate) in others {
        let score = match own.cmp(rate) {
            core::cmp::Ordering::Less => 0,
            core::cmp::Ordering::Equal => 512,
            core::cmp::Ordering::Greater => 1024,
        };
        won += score - expected_1024(i64::from(rating) - i64::from(rating_of(*other)));
        count += 1;
    }
    if count == 0 { 0 } else { (won * RATING_STEP / (1024 * count)) as i32 }
}

#[cfg(test)]
mod tests {
    // What the integers stand for is computed with the platform's library, to within half a thousandth.
    #![allow(clippy::disallowed_methods)]
    use super::*;

    /// SplitMix64, as a source of coin tosses.
    fn toss(state: &mut u64, per_mille: u64) -> bool {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % 1000 < per_mille
    }

    /// Audits until a ban, when each fails with this probability; `None` when there is none in so many.
    fn audits_until_ban(state: &mut u64, failing_per_mille: u64, most: u32) -> Option<u32> {
        let mut evidence = 0;
        (1..=most).find(|_| {
            evidence = cusum(evidence, toss(state, failing_per_mille), FAILED, PASSED);
            evidence >= BAN_MILLINATS
        })
    }

    #[test]
    fn a_constant_liar_is_banned_after_six_audits_and_one_of_ten_passes_within_fifteen() {
        let mut state = 1;
        assert_eq!(audits_until_ban(&mut state, 1000, 100), Some(6));
        let banned = (0..10_000).filter(|_| audits_until_ban(&mut state, 900, 15).is_some()).count();
        assert!(banned >= 9_900, "{banned} of 10,000");
    }

    #[test]
    fn honest_peers_are_not_banned_even_where_one_audit_in_twenty_fails() {
        let mut state = 2;
        let banned = (0..2_000).filter(|_| audits_until_ban(&mut state, 50, 1_000).is_some()).count();
        assert_eq!(banned, 0, "of 2,000 in 1,000 audits each");
    }

    #[test]
    fn a_sleeper_is_banned_within_ninety_rounds_in_99_of_100_cases() {
        let mut state = 3;
        let trials = 20_000;
        let is_banned = |state: &mut u64| {
            // Trusted, audited in one round of sixteen; the first failed audit ends that.
            let found = (0..90).find(|_| toss(state, 62));
            found.is_some_and(|round| round + 6 <= 90)
        };
        let banned = (0..trials).filter(|_| is_banned(&mut state)).count();
        assert!(banned * 100 >= trials * 99, "{banned} of {trials}");
    }

    #[test]
    fn the_steps_are_logarithms_of_likelihood_ratios() {
        let nats = |ratio: f64| (ratio.ln() * 1000.0).round() as u32;
        assert_eq!((FAILED, PASSED), (nats(0.7 / 0.1), nats(0.9 / 0.3)));
        let (honest, deviation) = (0.6_f64, 0.35_f64);
        let ratio = |worth: f64| ((honest * honest - 2.0 * honest * worth) / (2.0 * deviation * deviation)).exp();
        assert_eq!(WORTHLESS, i64::from(nats(ratio(0.0))));
        assert_eq!(A_WHOLE, (1000.0 * (ratio(0.0) / ratio(1.0)).ln()).round() as i64);
        assert_eq!((ALONE, AGREED), (nats(0.4 * 6.0), nats(5.0 / 6.0 / 0.6)));
    }

    #[test]
    fn who_brings_nothing_is_banned_in_eight_rounds_although_its_updates_pass_and_half_work_never_is() {
        let after = |rounds: u32, worth: i64| (0..rounds).fold(0, |evidence, _| good(evidence, Some(worth), FAILED));
        assert!(after(7, 0) < BAN_MILLINATS && after(8, 0) >= BAN_MILLINATS);
        assert!(after(15, 1024 / 8) >= BAN_MILLINATS, "an eighth of what others bring");
        assert_eq!(after(1000, 1024 / 2), 0);
        assert_eq!(after(1000, 1024 / 3), 0);
        // One alone counts no more than a failed or a passed audit, however far it is off.
        assert_eq!(good(0, Some(i64::MIN), FAILED), FAILED);
        assert_eq!(good(5_000, Some(i64::MAX), FAILED), 5_000 - PASSED);
        assert_eq!(good(5_000, None, FAILED), 5_000 - PASSED);
    }

    #[test]
    fn the_table_is_the_logistic_curve() {
        for (index, expected) in EXPECTED_1024.iter().enumerate() {
            let ahead = 50.0 * index as f64;
            let exact = 1024.0 / (1.0 + 10.0_f64.powf(-ahead / 400.0));
            assert_eq!(*expected, exact.round() as i64, "{ahead} points");
        }
        assert_eq!(expected_1024(-400) + expected_1024(400), 1024);
        assert_eq!(expected_1024(i64::from(i32::MAX)), 1014);
    }

    #[test]
    fn who_is_banned_comes_back_with_half_of_the_evidence_and_one_ban_more() {
        let before =
            Standing { evidence: 12_000, unproven: 9, dissent: 9, rating: -70, bans: 1, ..Standing::default() };
        assert!(is_to_be_banned(&before));
        let after = banned(before);
        assert!(!is_to_be_banned(&after));
        assert_eq!(after, Standing { evidence: 5_500, unproven: 9, dissent: 0, rating: -70, bans: 2, ..before });
        let unproven = Standing { unproven: 12_000, ..Standing::default() };
        assert!(is_to_be_banned(&unproven));
        assert!(is_proven(&banned(unproven)));
    }
}
