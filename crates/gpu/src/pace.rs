//! How long a step takes on this device, and what follows from that: a step's work is cut into submits short enough for
//! the system's watchdogs and for the page, and slow devices get few steps ahead of their readers.

use web_time::Instant;

/// The page and the system's watchdogs wait for a submit this long without harm.
const SUBMIT_MS: f64 = 250.0;
/// As much work as may wait in the device's queue.
const QUEUE_MS: f64 = 1000.0;
/// A step that took longer than the last estimate raises it by this much at most: it may have waited for something else.
const DOUBT: f64 = 1.5;

#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the first step was enqueued that is not yet read.
    since: Option<Instant>,
    step_ms: f64,
}

impl Pace {
    pub fn enqueued(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// The losses of so many steps came back.
    pub fn read(&mut self, steps: usize) {
        if let Some(since) = self.since.take() {
            self.measured(since.elapsed().as_secs_f64() * 1e3 / steps.max(1) as f64);
        }
    }

    fn measured(&mut self, ms: f64) {
        self.step_ms = if self.step_ms > 0.0 { ms.min(self.step_ms * DOUBT) } else { ms };
    }

    /// How many submits a step is cut into.
    pub fn submits(&self) -> usize {
        (self.step_ms / SUBMIT_MS).ceil().max(1.0) as usize
    }

    /// How many steps may be enqueued before losses are read.
    pub fn steps_ahead(&self) -> u32 {
        if self.step_ms > 0.0 { (QUEUE_MS / self.step_ms).max(1.0) as u32 } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_devices_submit_once_and_run_ahead_slow_ones_do_neither() {
        let mut pace = Pace::default();
        assert_eq!((pace.submits(), pace.steps_ahead()), (1, 1));
        pace.measured(5.0);
        assert_eq!((pace.submits(), pace.steps_ahead()), (1, 200));
        pace.measured(900.0);
        assert_eq!(pace.submits(), 1, "once may be chance");
        for _ in 0..20 {
            pace.measured(900.0);
        }
        assert_eq!((pace.submits(), pace.steps_ahead()), (4, 1));
        pace.measured(100.0);
        assert_eq!((pace.submits(), pace.steps_ahead()), (1, 10));
    }
}
