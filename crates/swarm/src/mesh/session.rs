//! The connection to the relay: when to open it, when to give it up, when to try again.

use shoal_wire::{Millis, PeerId, relay::Refusal};

const ENTER_MS_MAX: u64 = 15_000;
const PING_MS: u64 = 20_000;
/// Without a word for this long (more than two pings), the connection is dead.
const SILENCE_MS_MAX: u64 = 50_000;
const RETRY_MS: u64 = 500;
const RETRY_MS_MAX: u64 = 15_000;
/// Refusals that trying again soon will not change.
const REFUSED_RETRY_MS: u64 = 60_000;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Connect,
    Ping,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Away {
        retry_at: Millis,
    },
    Connecting {
        since: Millis,
    },
    Open,
    /// Not wanted for now.
    Resting,
}

#[derive(Debug)]
pub(super) struct Session {
    phase: Phase,
    failures: u32,
    heard_at: Millis,
    pinged_at: Millis,
    /// The relay's own wish for the next attempt.
    wait_ms: u64,
    /// Spreads the peers of a relay that restarts, without randomness.
    spread_ms: u64,
}

impl Session {
    pub(super) fn new(me: PeerId) -> Self {
        Self {
            phase: Phase::Away { retry_at: Millis(0) },
            failures: 0,
            heard_at: Millis(0),
            pinged_at: Millis(0),
            wait_ms: 0,
            spread_ms: u64::from(me.0[31]) * 2,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(super) fn opened(&mut self, now: Millis) {
        self.heard(now);
    }

    pub(super) fn heard(&mut self, now: Millis) {
        self.heard_at = now;
    }

    pub(super) fn entered(&mut self) {
        self.phase = Phase::Open;
        self.failures = 0;
    }

    pub(super) fn draining(&mut self, retry_ms: u64) {
        self.wait_ms = retry_ms.min(REFUSED_RETRY_MS);
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        self.wait_ms = match refusal {
            Refusal::Malformed | Refusal::TooFast | Refusal::RoomFull => RETRY_MS_MAX,
            Refusal::UnknownRun | Refusal::BadSignature | Refusal::Replaced => REFUSED_RETRY_MS,
        };
    }

    pub(super) fn rest(&mut self) {
        self.phase = Phase::Resting;
    }

    /// Ends a rest, if there is one.
    pub(super) fn go_on(&mut self, now: Millis) {
        if self.phase == Phase::Resting {
            self.phase = Phase::Away { retry_at: now };
        }
    }

    pub(super) fn lost(&mut self, now: Millis) {
        if self.phase == Phase::Resting {
            return;
        }
        self.phase = Phase::Away { retry_at: now + self.next_wait_ms() };
    }

    fn next_wait_ms(&mut self) -> u64 {
        let wait_ms = (RETRY_MS << self.failures.min(8)).min(RETRY_MS_MAX).max(self.wait_ms) + self.spread_ms;
        self.failures = self.failures.saturating_add(1);
        self.wait_ms = 0;
        wait_ms
    }

    pub(super) fn due(&mut self, now: Millis) -> Option<Due> {
        if now < self.wake_at() {
            return None;
        }
        if self.is_open() && now.since(self.heard_at) < SILENCE_MS_MAX {
            self.pinged_at = now;
            return Some(Due::Ping);
        }
        if matches!(self.phase, Phase::Connecting { .. }) {
            // The socket opened to nothing: treat it as lost, and come back.
            self.lost(now);
            return None;
        }
        self.phase = Phase::Connecting { since: now };
        self.heard(now);
        self.pinged_at = now;
        Some(Due::Connect)
    }

    pub(super) fn wake_at(&self) -> Millis {
        match self.phase {
            Phase::Away { retry_at } => retry_at,
            Phase::Connecting { since } => since + ENTER_MS_MAX,
            Phase::Resting => Millis::NEVER,
            Phase::Open => (self.heard_at.max(self.pinged_at) + PING_MS).min(self.heard_at + SILENCE_MS_MAX),
        }
    }
}
