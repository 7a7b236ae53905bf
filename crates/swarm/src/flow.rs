//! How much one link is asked for at a time.
//!
//! A window of unanswered ranges, as in congestion control by delay (Brakmo and Peterson 1995, TCP Vegas): it grows while
//! answers come quickly and shrinks when they take long. What waits on a link is then worth a second or two of what
//! that link lately delivered, however slow it is.

use shoal_wire::{Millis, limits::RANGES_IN_FLIGHT_MAX};

/// The window of a link of which nothing is known.
const WINDOW_START: usize = 4;
/// An answer that takes no longer than this lets the window grow by one range, so that it doubles with each turn.
const QUICK_MS: u64 = 1_000;
/// An answer that takes longer than this halves the window, once for all that was asked before.
const SLOW_MS: u64 = 2_000;
/// An answer is overdue after so many times as long as another link takes to answer…
const OVERDUE_TIMES: u64 = 3;
/// …and this.
const OVERDUE_MS: u64 = 100;

#[derive(Debug)]
pub(crate) struct Flow {
    window: usize,
    /// How long an answer takes, smoothed; none before the first.
    answer_ms: Option<u64>,
    shrunk_at: Option<Millis>,
    /// When the last range came.
    last: Option<Millis>,
}

impl Default for Flow {
    fn default() -> Self {
        Self { window: WINDOW_START, answer_ms: None, shrunk_at: None, last: None }
    }
}

impl Flow {
    /// Most ranges that may be unanswered.
    pub fn window(&self) -> usize {
        self.window
    }

    /// When the link last delivered anything, or a range was asked, whichever is later.
    pub fn alive(&self, asked: Millis) -> Millis {
        self.last.unwrap_or(asked).max(asked)
    }

    /// Something came.
    pub fn heard(&mut self, now: Millis) {
        self.last = Some(now);
    }

    /// A range came that was asked for at this time.
    pub fn answered(&mut self, now: Millis, asked: Millis) {
        let took = now.since(asked);
        self.answer_ms = Some(self.answer_ms.map_or(took, |before| (7 * before + took) / 8));
        if took <= QUICK_MS {
            self.window = (self.window + 1).min(RANGES_IN_FLIGHT_MAX);
        } else if took > SLOW_MS {
            self.shrink(now, asked);
        }
    }

    /// A range that was asked for at this time came from elsewhere sooner.
    pub fn overtaken(&mut self, now: Millis, asked: Millis) {
        self.shrink(now, asked);
    }

    /// Nothing came for so long that what was asked for is given up.
    pub fn stalled(&mut self) {
        self.window = 1;
    }

    fn shrink(&mut self, now: Millis, asked: Millis) {
        if self.shrunk_at.is_none_or(|shrunk| asked >= shrunk) {
            self.window = (self.window / 2).max(1);
            self.shrunk_at = Some(now);
        }
    }

    /// Whether this link would have answered long ago what another one was asked for at this time.
    pub fn overtakes(&self, now: Millis, asked: Millis) -> bool {
        self.answer_ms.is_some_and(|ms| now.since(asked) > OVERDUE_TIMES * ms + OVERDUE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_doubles_with_each_turn_of_quick_answers_up_to_the_limit() {
        let mut flow = Flow::default();
        for window in [8, 16, 32, 32] {
            for _ in 0..flow.window() {
                flow.answered(Millis(500), Millis(0));
            }
            assert_eq!(flow.window(), window);
        }
    }

    #[test]
    fn slow_answers_halve_the_window_once_for_all_that_was_asked_before() {
        let mut flow = Flow { window: 32, ..Flow::default() };
        for _ in 0..9 {
            flow.answered(Millis(5_000), Millis(10));
        }
        assert_eq!(flow.window(), 16);
        flow.answered(Millis(9_000), Millis(6_000));
        assert_eq!(flow.window(), 8);
        for turn in 1..9 {
            flow.answered(Millis(9_000 + turn * 5_000), Millis(4_001 + turn * 5_000));
        }
        assert_eq!(flow.window(), 1);
    }

    #[test]
    fn a_link_that_answers_neither_quickly_nor_slowly_keeps_its_window() {
        let mut flow = Flow::default();
        flow.answered(Millis(1_500), Millis(0));
        assert_eq!(flow.window(), WINDOW_START);
    }

    #[test]
    fn only_a_link_that_is_known_to_be_much_quicker_overtakes() {
        let mut flow = Flow::default();
        assert!(!flow.overtakes(Millis(60_000), Millis(0)));
        flow.answered(Millis(50), Millis(0));
        assert!(!flow.overtakes(Millis(250), Millis(0)));
        assert!(flow.overtakes(Millis(251), Millis(0)));
    }
}
