//! How long a round trains, and how many of its steps this peer can do until then: from what the last rounds took.
//!
//! Every peer has its own view of this, from when commits came to it; what must be agreed on is which commits a list
//! names, never when they came.

use std::collections::VecDeque;

/// Rounds that are looked back on: a change of speed shows in the median after three.
const ROUNDS: usize = 5;
/// Trainings of this peer that are looked back on: one that was held up for once does not count.
const TRAININGS: usize = 3;
/// The deadline is at least 13/10 of the median…
const MEDIAN_TENTHS: u64 = 13;
/// …and at least so many median deviations above it: about two standard deviations of a normal spread.
const DEVIATIONS: u64 = 3;
/// Of the time until the deadline, a training is to take this many tenths.
const BUDGET_TENTHS: u64 = 9;

#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// For each of the last rounds, what its commits say of the time that all steps take, in milliseconds.
    rounds: VecDeque<Vec<u64>>,
    /// What these make of a deadline, before bounds: it is asked for with every input.
    deadline_ms: Option<u64>,
    /// What this peer's last trainings took in milliseconds, and how many steps they did.
    trainings: VecDeque<(u64, u32)>,
    /// Most steps to order, after rounds that did not wait for this peer.
    steps_max: Option<u32>,
}

impl Pace {
    /// Notes the commits that a round gathered: when each came, in milliseconds after the round began here, and the steps
    /// that it stands for. One that did `steps` of `all` steps would have needed longer for all of them.
    pub fn gathered(&mut self, commits: impl Iterator<Item = (u64, u32)>, all: u32) {
        let whole = |(ms, steps): (u64, u32)| ms.saturating_mul(u64::from(all)) / u64::from(steps.clamp(1, all.max(1)));
        let commits: Vec<u64> = commits.map(whole).collect();
        if commits.is_empty() {
            return;
        }
        self.rounds.push_back(commits);
        while self.rounds.len() > ROUNDS {
            self.rounds.pop_front();
        }
        self.deadline_ms = self.unbounded_deadline_ms();
    }

    /// Notes a training of this peer that ended in time.
    pub fn trained(&mut self, ms: u64, steps: u32) {
        self.trainings.push_back((ms, steps.max(1)));
        while self.trainings.len() > TRAININGS {
            self.trainings.pop_front();
        }
        self.steps_max = self.steps_max.map(|most| most.saturating_mul(2));
    }

    /// Notes a round that closed without this peer's work, of which `ordered` steps were ordered.
    pub fn missed(&mut self, ordered: u32) {
        self.steps_max = Some((ordered / 2).max(1));
    }

    /// How long training goes on, for at most `longest_ms`: as long as the median of the last rounds' commits needed for
    /// all steps, and some more that grows with how far apart they were.
    pub fn deadline_ms(&self, longest_ms: u64) -> u64 {
        self.deadline_ms.map_or(longest_ms, |deadline_ms| deadline_ms.clamp(longest_ms / 4, longest_ms))
    }

    fn unbounded_deadline_ms(&self) -> Option<u64> {
        let middle = median(self.rounds.iter().flatten().copied())?;
        let deviation = median(self.rounds.iter().flatten().map(|ms| ms.abs_diff(middle)))?;
        let spread = middle.saturating_add(deviation.saturating_mul(DEVIATIONS));
        Some((middle.saturating_mul(MEDIAN_TENTHS) / 10).max(spread))
    }

    /// How many of `all` steps this peer can do in the time that is left, by what its last trainings took.
    pub fn steps(&self, all: u32, left_ms: u64) -> u32 {
        let most = self.steps_max.unwrap_or(all).min(all);
        // In thousandths, since a step may take less than a millisecond.
        let each = self.trainings.iter().map(|(ms, steps)| ms.saturating_mul(1000) / u64::from(*steps));
        let Some(each) = median(each).filter(|each| *each > 0) else { return most };
        let fit = left_ms.saturating_mul(BUDGET_TENTHS * 100) / each;
        u32::try_from(fit).unwrap_or(u32::MAX).min(most).max(1)
    }
}

/// The lower median: of two peers the faster one counts, and the slower one does less.
fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: u32 = 20;
    const LONGEST_MS: u64 = 20_000;

    /// Rounds of these commits, one after the other.
    fn pace(rounds: usize, commits: &[(u64, u32)]) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..rounds {
            pace.gathered(commits.iter().copied(), H);
        }
        pace
    }

    #[test]
    fn the_first_round_may_take_as_long_as_the_manifest_allows() {
        assert_eq!(Pace::default().deadline_ms(LONGEST_MS), LONGEST_MS);
        assert_eq!(Pace::default().steps(H, LONGEST_MS), H);
        assert_eq!(pace(3, &[]).deadline_ms(LONGEST_MS), LONGEST_MS);
    }

    #[test]
    fn the_deadline_is_a_third_above_the_median_or_further_where_peers_are_far_apart() {
        assert_eq!(pace(2, &[(10_000, H); 3]).deadline_ms(LONGEST_MS), 13_000);
        // Median 8,000; deviations 0, 2,000, 2,000.
        assert_eq!(pace(1, &[(6_000, H), (8_000, H), (10_000, H)]).deadline_ms(LONGEST_MS), 14_000);
    }

    #[test]
    fn the_deadline_stays_within_the_manifests_bounds() {
        assert_eq!(pace(1, &[(10, H)]).deadline_ms(LONGEST_MS), LONGEST_MS / 4);
        assert_eq!(pace(1, &[(u64::MAX, 1)]).deadline_ms(LONGEST_MS), LONGEST_MS);
    }

    #[test]
    fn one_slow_peer_does_not_move_the_deadline() {
        let with = pace(3, &[(6_000, H), (6_000, H), (6_000, H), (60_000, H)]);
        assert_eq!(with.deadline_ms(LONGEST_MS), 7_800);
        // Of two, too, the faster one counts.
        assert_eq!(pace(3, &[(6_000, H), (60_000, H)]).deadline_ms(LONGEST_MS), 7_800);
    }

    #[test]
    fn a_peer_that_was_cut_counts_with_the_time_that_all_steps_would_have_taken() {
        assert_eq!(pace(1, &[(5_000, H / 2)]).deadline_ms(LONGEST_MS), 13_000);
    }

    #[test]
    fn the_deadline_follows_a_change_of_speed_within_three_rounds() {
        let mut pace = pace(9, &[(6_000, H); 3]);
        for _ in 0..3 {
            pace.gathered([(12_000, H); 3].into_iter(), H);
        }
        assert_eq!(pace.deadline_ms(LONGEST_MS), 15_600);
        for _ in 0..3 {
            pace.gathered([(6_000, H); 3].into_iter(), H);
        }
        assert_eq!(pace.deadline_ms(LONGEST_MS), 7_800);
    }

    #[test]
    fn a_slow_peer_orders_what_it_can_do_in_time_and_a_faster_one_goes_back_up() {
        let mut pace = Pace::default();
        pace.trained(8_000, 8);
        assert_eq!(pace.steps(H, 10_000), 9);
        for _ in 0..2 {
            pace.trained(450, 9);
        }
        assert_eq!(pace.steps(H, 10_000), H);
    }

    #[test]
    fn a_single_slow_training_changes_nothing() {
        let mut pace = Pace::default();
        for ms in [1_000, 1_000, 60_000] {
            pace.trained(ms, H);
        }
        assert_eq!(pace.steps(H, 2_000), H);
    }

    #[test]
    fn rounds_that_did_not_wait_halve_the_steps_and_those_that_did_double_them() {
        let mut pace = Pace::default();
        pace.missed(H);
        assert_eq!(pace.steps(H, LONGEST_MS), 10);
        pace.missed(10);
        assert_eq!(pace.steps(H, LONGEST_MS), 5);
        pace.missed(1);
        assert_eq!(pace.steps(H, LONGEST_MS), 1);
        for _ in 0..5 {
            pace.trained(0, 1);
        }
        assert_eq!(pace.steps(H, LONGEST_MS), H);
    }
}
