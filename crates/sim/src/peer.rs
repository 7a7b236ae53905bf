//! A peer as its world sees it: its clock, its disk, and what lies outside its state machine.

use shoal_swarm::Swarm;
use shoal_wire::{Millis, sign::Identity};

use crate::{Lie, disk::Disk, engine::Engine};

pub(crate) struct Peer {
    pub identity: Identity,
    pub anchor: bool,
    pub disk: Disk,
    pub engine: Box<dyn Engine>,
    pub swarm: Option<Swarm>,
    /// Counts restarts, so that nothing meant for an earlier life arrives.
    pub life: u32,
    /// When the earliest timer that is set goes off, on the world's clock.
    pub wake: Millis,
    /// How long all steps of a round take.
    pub train_ms: u64,
    pub clock: Clock,
    /// Nothing reaches this peer before this, as in a tab that the browser froze.
    pub frozen_until: Millis,
    /// It speaks a later version too: now and then it says what nobody here understands.
    pub newer: bool,
    pub lie: Option<Lie>,
}

impl Peer {
    /// One that was never started.
    pub fn new(identity: Identity, disk: Disk, engine: Box<dyn Engine>, train_ms: u64) -> Self {
        Self {
            identity,
            anchor: false,
            disk,
            engine,
            swarm: None,
            life: 0,
            wake: Millis::NEVER,
            train_ms,
            clock: Clock::default(),
            frozen_until: Millis(0),
            newer: false,
            lie: None,
        }
    }
}

/// A clock that is off, and that runs fast or slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    pub ahead_ms: u64,
    /// By how many millionths it runs too fast.
    pub drift_ppm: i64,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    /// What it shows at a time of the world's.
    pub fn shows(self, now: Millis) -> Millis {
        let drifted = i128::from(now.0) * (MILLION + i128::from(self.drift_ppm)) / MILLION;
        Millis(self.ahead_ms.saturating_add(drifted.max(0) as u64))
    }

    /// The world's time at which it shows this.
    pub fn when(self, shown: Millis) -> Millis {
        if shown == Millis::NEVER {
            return shown;
        }
        let drifted = i128::from(shown.0.saturating_sub(self.ahead_ms)) * MILLION;
        let speed = MILLION + i128::from(self.drift_ppm);
        Millis(drifted.unsigned_abs().div_ceil(speed.unsigned_abs().max(1)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_goes_off_when_the_clock_shows_its_time_and_not_before() {
        for drift_ppm in [-20_000, -1, 0, 1, 20_000] {
            let clock = Clock { ahead_ms: 123_456, drift_ppm };
            for shown in (123_456..200_000).step_by(777).map(Millis) {
                let at = clock.when(shown);
                assert!(clock.shows(at) >= shown, "{drift_ppm} {shown:?}");
                assert!(at.0 == 0 || clock.shows(Millis(at.0 - 1)) < shown, "{drift_ppm} {shown:?}");
            }
        }
        assert_eq!(Clock::default().shows(Millis(5)), Millis(5));
    }
}
