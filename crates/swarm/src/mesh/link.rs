//! What a mesh knows of one other peer and of the direct link to it.

use shoal_wire::{
    Millis,
    frame::Joiner,
    limits::{CANDIDATES_HELD_MAX, FRAMES_HELD_MAX},
    relay::LinkStep,
};

use super::{ATTEMPT_MS_MAX, INVITE_AFTER_MS};

const BACKOFF_MS: u64 = 2_000;
const BACKOFF_MS_MAX: u64 = 600_000;
/// A link that was open for this long clears the failures before it.
const STABLE_MS: u64 = 60_000;

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Reachable through the relay.
    pub in_room: bool,
    pub link: Option<Link>,
    pub retry_at: Millis,
    pub failures: u32,
    pub newest_attempt: u64,
    pub banned_until: Option<Millis>,
    pub up: bool,
    /// What was last told of the path: whether direct.
    pub path: Option<bool>,
    pub relay_joiner: Joiner,
}

impl Peer {
    pub fn entered_room(&mut self, retry_at: Millis) {
        self.in_room = true;
        self.relay_joiner = Joiner::default();
        self.failures = 0;
        self.retry_at = retry_at;
    }

    pub fn left_room(&mut self) {
        self.in_room = false;
        self.relay_joiner = Joiner::default();
    }

    pub fn has_link(&self, attempt: u64) -> bool {
        self.link.as_ref().is_some_and(|link| link.attempt == attempt)
    }

    pub fn is_direct(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.opened.is_some())
    }

    pub fn attempt_overdue(&self, now: Millis) -> Option<u64> {
        let link = self.link.as_ref().filter(|link| link.opened.is_none())?;
        (now.since(link.since) >= ATTEMPT_MS_MAX).then_some(link.attempt)
    }

    pub fn wants_link(&self, now: Millis) -> bool {
        self.in_room && self.link.is_none() && self.banned_until.is_none() && self.retry_at <= now
    }

    pub fn fail(&mut self, now: Millis, invites: bool) {
        if self.link.take().and_then(|link| link.opened).is_some_and(|opened| now.since(opened) >= STABLE_MS) {
            self.failures = 0;
        }
        self.backoff(now, invites);
    }

    pub fn backoff(&mut self, now: Millis, invites: bool) {
        let wait_ms = (BACKOFF_MS << self.failures.min(16)).min(BACKOFF_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + wait_ms + if invites { INVITE_AFTER_MS } else { 0 };
    }

    /// Ends a ban whose time is over.
    pub fn settle(&mut self, now: Millis) {
        if self.banned_until.is_some_and(|until| until <= now) {
            self.banned_until = None;
            self.relay_joiner = Joiner::default();
        }
    }

    pub fn is_idle(&self, session_open: bool) -> bool {
        !(self.in_room && session_open) && self.link.is_none() && self.banned_until.is_none() && !self.up
    }

    pub fn wake_at(&self, can_link: bool) -> Option<Millis> {
        let attempt_ends =
            self.link.as_ref().filter(|link| link.opened.is_none()).map(|link| link.since + ATTEMPT_MS_MAX);
        let retry = (can_link && self.wants_link(Millis::NEVER)).then_some(self.retry_at);
        [attempt_ends, retry, self.banned_until].into_iter().flatten().min()
    }
}

#[derive(Debug)]
pub(super) struct Link {
    pub attempt: u64,
    pub offerer: bool,
    pub since: Millis,
    pub opened: Option<Millis>,
    /// The local description was sent, so candidates may follow it.
    pub local_told: bool,
    /// The remote description was given to the shell.
    pub remote_known: bool,
    pub local_candidates: Vec<LinkStep>,
    pub remote_candidates: Vec<LinkStep>,
    /// Of the control and the bulk channel.
    pub joiners: [Joiner; 2],
    /// Frames that came before the shell said that the link is open.
    pub early: Vec<Vec<u8>>,
}

impl Link {
    pub fn new(attempt: u64, offerer: bool, since: Millis) -> Self {
        Self {
            attempt,
            offerer,
            since,
            opened: None,
            local_told: false,
            remote_known: false,
            local_candidates: Vec::new(),
            remote_candidates: Vec::new(),
            joiners: [Joiner::default(), Joiner::default()],
            early: Vec::new(),
        }
    }

    pub fn hold_local(&mut self, step: LinkStep) {
        if self.local_candidates.len() < CANDIDATES_HELD_MAX {
            self.local_candidates.push(step);
        }
    }

    pub fn hold_remote(&mut self, step: LinkStep) {
        if self.remote_candidates.len() < CANDIDATES_HELD_MAX {
            self.remote_candidates.push(step);
        }
    }

    pub fn hold_early(&mut self, frame: Vec<u8>) {
        if self.early.len() < FRAMES_HELD_MAX {
            self.early.push(frame);
        }
    }
}
