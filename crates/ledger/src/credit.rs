//! Credit: what everybody gave to a run, as a pure function of its certified bodies.
//!
//! It is proportional to honest work and to nothing else: a slow machine that trains half the steps gets half of it, and
//! being first earns nothing. `docs/credit.md` says the same for people.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use shoal_wire::{PeerId, Round, manifest::CreditRule, record::Verdict};

/// Judging one update earns this part of the tokens assigned for a round: it takes a few passes, forward only,
/// over batches that its author was assigned and others, where a round trains on many.
const JUDGED_PART: u64 = 64;
/// Judgements of one round that earn something: an eighth of a round's training at most.
const JUDGED_MAX: u64 = 8;

/// What a peer gave to a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Credit {
    /// Rounds with an accepted update.
    #[serde(rename = "acceptedRounds")]
    pub rounds: u64,
    /// Rounds whose update was refused: withheld, malformed, copied or harmful.
    pub refused: u64,
    /// Rounds whose update too few peers had in time.
    pub unavailable: u64,
    /// Tokens trained in the accepted updates, up to the number assigned.
    pub tokens: u64,
    /// Updates of others that it judged.
    pub judged: u64,
    /// What all this is worth under the run's rule; one is a token trained.
    pub amount: u64,
    /// The last round that earned something; 0 before the first.
    pub last_earned: Round,
}

/// What a peer did in a round, as the round's body has it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    Trained { tokens: u64, verdict: Verdict },
    Judged { updates: u64 },
}

impl Credit {
    /// Adds what a deed of a round is worth, where members were assigned so many tokens.
    fn add(&mut self, rule: CreditRule, assigned: u64, round: Round, deed: Deed) {
        let CreditRule::TrainedTokens = rule;
        let earned = match deed {
            Deed::Trained { tokens, verdict: Verdict::Accepted } => {
                let tokens = tokens.min(assigned);
                self.rounds += 1;
                self.tokens = self.tokens.saturating_add(tokens);
                tokens
            }
            Deed::Trained { verdict: Verdict::Unavailable, .. } => {
                self.unavailable += 1;
                0
            }
            Deed::Trained { .. } => {
                self.refused += 1;
                0
            }
            Deed::Judged { updates } => {
                self.judged = self.judged.saturating_add(updates);
                assigned / JUDGED_PART * updates.min(JUDGED_MAX)
            }
        };
        self.amount = self.amount.saturating_add(earned);
        if earned > 0 {
            self.last_earned = round;
        }
    }
}

/// The credit of all peers of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts(BTreeMap<PeerId, Credit>);

/// What the accounts that a round changed held before it.
pub(crate) type Before = Vec<(PeerId, Option<Credit>)>;

impl Accounts {
    pub fn all(&self) -> &BTreeMap<PeerId, Credit> {
        &self.0
    }

    /// Pays a round's deeds; each peer has at most one of each kind in a round.
    pub fn pay(&mut self, rule: CreditRule, assigned: u64, round: Round, deeds: &[(PeerId, Deed)]) -> Before {
        let peers: BTreeSet<PeerId> = deeds.iter().map(|(peer, _)| *peer).collect();
        let before = peers.into_iter().map(|peer| (peer, self.0.get(&peer).copied())).collect();
        for (peer, deed) in deeds {
            self.0.entry(*peer).or_default().add(rule, assigned, round, *deed);
        }
        before
    }

    pub fn take_back(&mut self, before: Before) {
        for (peer, credit) in before {
            match credit {
                Some(credit) => self.0.insert(peer, credit),
                None => self.0.remove(&peer),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: CreditRule = CreditRule::TrainedTokens;

    fn after(deeds: &[Deed]) -> Credit {
        let mut credit = Credit::default();
        for (round, deed) in (1..).zip(deeds) {
            credit.add(RULE, 6_400, round, *deed);
        }
        credit
    }

    fn trained(tokens: u64) -> Deed {
        Deed::Trained { tokens, verdict: Verdict::Accepted }
    }

    #[test]
    fn a_slow_machine_earns_as_much_for_a_token_as_a_fast_one() {
        let (slow, fast) = (after(&[trained(800); 8]), after(&[trained(6_400)]));
        assert_eq!((slow.amount, slow.tokens), (fast.amount, fast.tokens));
        assert_eq!((slow.rounds, fast.rounds), (8, 1));
    }

    #[test]
    fn claiming_more_than_was_assigned_earns_no_more() {
        assert_eq!(after(&[trained(u64::MAX)]), after(&[trained(6_400)]));
    }

    #[test]
    fn what_was_refused_or_came_too_late_earns_nothing() {
        use Verdict::{Copied, Harmful, Malformed, Unavailable, Withheld};
        let deeds =
            [Withheld, Malformed, Copied, Harmful, Unavailable].map(|verdict| Deed::Trained { tokens: 6_400, verdict });
        let credit = after(&deeds);
        assert_eq!((credit.amount, credit.tokens, credit.rounds, credit.last_earned), (0, 0, 0, 0));
        assert_eq!((credit.refused, credit.unavailable), (4, 1));
    }

    #[test]
    fn judging_earns_a_sixty_fourth_each_and_an_eighth_of_a_round_at_most() {
        assert_eq!(after(&[Deed::Judged { updates: 1 }]).amount, 100);
        assert_eq!(after(&[Deed::Judged { updates: 16 }]).amount, 800);
        assert_eq!(after(&[Deed::Judged { updates: 16 }]).judged, 16);
        assert_eq!(after(&[Deed::Judged { updates: 0 }]), Credit::default());
    }

    #[test]
    fn a_round_taken_back_leaves_no_trace() {
        let [old, new] = [1, 2].map(|byte| PeerId([byte; 32]));
        let mut accounts = Accounts::default();
        accounts.pay(RULE, 6_400, 1, &[(old, trained(10))]);
        let first = accounts.clone();
        let before = accounts.pay(RULE, 6_400, 2, &[(old, trained(10)), (new, trained(5)), (old, trained(0))]);
        assert_eq!([old, new].map(|peer| accounts.all()[&peer].amount), [20, 5]);
        accounts.take_back(before);
        assert_eq!(accounts.all(), first.all());
    }
}
