//! Judging: who audits whom, what follows from what auditors measured, and what it adds up to over rounds.
//!
//! Everything here is a function of certified bodies, in integers, so that everybody arrives at the same verdicts, bans
//! and weights. Reasons and figures: `docs/decisions/0020-judging.md`.

pub(crate) mod assigned;
mod check;
mod draw;
pub(crate) mod evidence;
mod verdict;

pub(crate) use check::check_verdicts;
pub use check::{Judged, check_judgement};
pub use draw::{AUDITORS, Panels, draw};
pub use evidence::{BAN_MILLINATS, BAN_ROUNDS};
pub use verdict::{Assessment, Finding, Measurable, Opinion, assess};
