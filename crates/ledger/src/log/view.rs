//! How a log of certificates is read: which of its entries stand.
//!
//! A log only grows, and a provisional recovery may be beaten by an ordinary certificate from the same parent. Then the
//! log gets an entry for the certificate that stands, and those before it for that round and later ones stand no longer.
//! So the rounds that stand are read by taking each entry in turn: it takes back what stands for its round and after.

use shoal_wire::{Digest, Round, RunId};
use thiserror::Error;

use super::Entry;

/// The rounds of a run that stand after the entries read so far.
#[derive(Clone, Debug)]
pub struct View {
    run: RunId,
    /// Entry of each round from 1 on, and its index in the log.
    rounds: Vec<(u64, Entry)>,
    read: u64,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ViewError {
    #[error("entry {index} is about another run")]
    OtherRun { index: u64 },
    #[error("entry {index} is about round {round}, and the rounds before it end at {head}")]
    Gap { index: u64, round: Round, head: Round },
    #[error("entry {index} is about round {round} and does not follow the body before it")]
    Parent { index: u64, round: Round },
    #[error(
        "entry {index} replaces round {round}; only a recovery can be replaced, and only by an ordinary certificate"
    )]
    Final { index: u64, round: Round },
}

impl View {
    pub fn new(run: RunId) -> Self {
        Self { run, rounds: Vec::new(), read: 0 }
    }

    /// The last round that stands; 0 when none does.
    pub fn head(&self) -> Round {
        self.rounds.len() as Round
    }

    /// What stands for a round, and where in the log.
    pub fn round(&self, round: Round) -> Option<&(u64, Entry)> {
        let at = usize::try_from(round.checked_sub(1)?).ok()?;
        self.rounds.get(at)
    }

    /// Takes the next entry of the log.
    pub fn push(&mut self, entry: Entry) -> Result<(), ViewError> {
        let (index, round) = (self.read, entry.round);
        if entry.run != self.run {
            return Err(ViewError::OtherRun { index });
        }
        let head = self.head();
        if round == 0 || round > head + 1 {
            return Err(ViewError::Gap { index, round, head });
        }
        let before = self.round(round - 1).map_or(Digest::from(self.run), |(_, before)| before.body);
        if entry.parent != before {
            return Err(ViewError::Parent { index, round });
        }
        if self.round(round).is_some_and(|(_, replaced)| !replaced.recovery || entry.recovery) {
            return Err(ViewError::Final { index, round });
        }
        // It is at most the head's, so it fits.
        self.rounds.truncate(round as usize - 1);
        self.rounds.push((index, entry));
        self.read += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const RUN: RunId = RunId([9; 32]);

    fn digest(branch: u8, round: Round) -> Digest {
        if round == 0 { RUN.into() } else { Digest([branch * 50 + round as u8; 32]) }
    }

    fn entry(branch: u8, round: Round, recovery: bool) -> Entry {
        let (parent, body) = (digest(branch, round - 1), digest(branch, round));
        Entry { run: RUN, round, recovery, parent, body, model: Digest([0; 32]) }
    }

    fn read(entries: &[Entry]) -> Result<View, ViewError> {
        let mut view = View::new(RUN);
        entries.iter().try_for_each(|entry| view.push(*entry))?;
        Ok(view)
    }

    /// Rounds 1 to 3, of which 2 was a recovery; then 2 again, certified by a quorum.
    fn replaced() -> Vec<Entry> {
        let again = Entry { parent: digest(0, 1), ..entry(1, 2, false) };
        vec![entry(0, 1, false), entry(0, 2, true), entry(0, 3, false), again]
    }

    #[test]
    fn an_ordinary_certificate_takes_back_the_recovery_that_it_beats_and_what_followed() {
        let view = read(&replaced()).unwrap();
        assert_eq!(view.head(), 2);
        assert_eq!(view.round(1), Some(&(0, entry(0, 1, false))));
        assert_eq!(view.round(2).map(|(index, entry)| (*index, entry.body)), Some((3, digest(1, 2))));
        assert_eq!((view.round(0), view.round(3)), (None, None));
        let on = [replaced(), vec![entry(1, 3, false)]].concat();
        assert_eq!(read(&on).unwrap().round(3), Some(&(4, entry(1, 3, false))));
    }

    #[test]
    fn what_is_final_is_never_replaced_nor_a_recovery_by_another() {
        let first = [entry(0, 1, false), entry(1, 1, false)];
        assert_eq!(read(&first).unwrap_err(), ViewError::Final { index: 1, round: 1 });
        let twice = [entry(0, 1, true), entry(1, 1, true)];
        assert_eq!(read(&twice).unwrap_err(), ViewError::Final { index: 1, round: 1 });
        let stale = [replaced(), vec![entry(0, 3, false)]].concat();
        assert_eq!(read(&stale).unwrap_err(), ViewError::Parent { index: 4, round: 3 });
    }

    #[test]
    fn gaps_other_parents_and_other_runs_are_refused() {
        assert_eq!(read(&[entry(0, 2, false)]).unwrap_err(), ViewError::Gap { index: 0, round: 2, head: 0 });
        let zero = Entry { round: 0, ..entry(0, 1, false) };
        assert_eq!(read(&[zero]).unwrap_err(), ViewError::Gap { index: 0, round: 0, head: 0 });
        let other = Entry { run: RunId([8; 32]), ..entry(0, 1, false) };
        assert_eq!(read(&[other]).unwrap_err(), ViewError::OtherRun { index: 0 });
        let orphan = Entry { parent: Digest([3; 32]), ..entry(0, 1, false) };
        assert_eq!(read(&[orphan]).unwrap_err(), ViewError::Parent { index: 0, round: 1 });
    }
}
