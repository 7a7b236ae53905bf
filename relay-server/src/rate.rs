//! A token bucket in integers; time is an argument.

use shoal_wire::Millis;

/// Refills at `per_second` up to `burst`. Taking more than it holds leaves a debt, which time pays off.
#[derive(Clone, Debug)]
pub struct Bucket {
    per_second: u64,
    burst: u64,
    /// Thousandths of a token, so that a refill of a few milliseconds is not rounded away.
    level: i64,
    at: Millis,
}

impl Bucket {
    pub fn full(now: Millis, per_second: u64, burst: u64) -> Self {
        Self { per_second: per_second.max(1), burst, level: thousandths(burst), at: now }
    }

    /// Takes `cost` and returns for how many milliseconds the taker must wait before it goes on.
    pub fn take(&mut self, now: Millis, cost: u64) -> u64 {
        // Milliseconds times tokens a second are thousandths of a token.
        let gained = i64::try_from(now.since(self.at).saturating_mul(self.per_second)).unwrap_or(i64::MAX);
        self.at = self.at.max(now);
        self.level = self.level.saturating_add(gained).min(thousandths(self.burst)).saturating_sub(thousandths(cost));
        if self.level >= 0 { 0 } else { self.level.unsigned_abs().div_ceil(self.per_second) }
    }
}

fn thousandths(tokens: u64) -> i64 {
    i64::try_from(tokens.saturating_mul(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_gives_its_burst_at_once() {
        let mut bucket = Bucket::full(Millis(0), 10, 5);
        for _ in 0..5 {
            assert_eq!(bucket.take(Millis(0), 1), 0);
        }
        assert_eq!(bucket.take(Millis(0), 1), 100, "the sixth waits for a tenth of a second");
    }

    #[test]
    fn time_refills_up_to_the_burst_only() {
        let mut bucket = Bucket::full(Millis(0), 1000, 10);
        assert_eq!(bucket.take(Millis(0), 10), 0);
        assert_eq!(bucket.take(Millis(3), 3), 0);
        assert_eq!(bucket.take(Millis(60_000), 11), 1);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut bucket = Bucket::full(Millis(1000), 10, 1);
        assert_eq!(bucket.take(Millis(1000), 1), 0);
        assert_eq!(bucket.take(Millis(0), 1), 100);
    }

    #[test]
    fn extreme_values_do_not_overflow() {
        let mut bucket = Bucket::full(Millis(0), u64::MAX, u64::MAX);
        bucket.take(Millis(u64::MAX), u64::MAX);
        let mut slow = Bucket::full(Millis(0), 0, 0);
        assert!(slow.take(Millis(0), u64::MAX) > 0);
    }
}
