//! The charter: what participants propose, how they vote on it, and what is in force.
//!
//! All of it is a function of the certified bodies. An amendment is open from the round that carries it to its `closes`;
//! then the ballots on it are weighed by the credit that their authors have at that round, once and for all.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use serde::Serialize;
use shoal_wire::{
    Digest, Envelope, PeerId, Round,
    charter::{Amendment, Ballot, Change},
    limits::{
        AMENDMENT_CHUNKS_MAX, AMENDMENTS_IN_BODY_MAX, AMENDMENTS_OPEN_MAX, CHARTER_IN_BODY_MAX, DESCRIPTION_BYTES_MAX,
        LEARNING_RATE_1024_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX, TEXT_BYTES_MAX,
    },
    manifest::{Charter, DataSource},
    record::{Body, Message},
};
use thiserror::Error;

use crate::{Chain, Credit, LedgerError, chain::open};

/// The models of the first round and of each round that this divides are kept by native peers for as long as the run, so
/// a run can be rolled back to them.
pub const CHECKPOINT_ROUNDS: Round = 50;

/// The recipe's learning rate.
const SCALE_ONE: u32 = 1024;

/// Why an amendment or a ballot does not count.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CharterError {
    #[error("it is neither an amendment nor a ballot of this round")]
    Misplaced,
    #[error("only members with credit propose and vote")]
    NoCredit,
    #[error("who is banned proposes and votes again from round {0} on")]
    Banned(Round),
    #[error("each member has one open amendment at a time")]
    OneEach,
    #[error("{what} must be between {min} and {max}, and is {found}")]
    Number { what: &'static str, min: u64, max: u64, found: u64 },
    #[error(
        "the model of round {0} is not kept: a run goes back to round 0 or to one that {CHECKPOINT_ROUNDS} divides"
    )]
    NotKept(Round),
    #[error("no such amendment is open")]
    NotOpen,
    #[error("a member votes once on an amendment")]
    VotedBefore,
    #[error("a body carries no more of them")]
    Full,
    #[error("they are not in the order of their ids")]
    Order,
}

/// An amendment as the chain knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Motion {
    /// Of the envelope that carries it; ballots name it.
    pub id: Digest,
    pub by: PeerId,
    pub amendment: Amendment,
    /// The round whose certificate carries it.
    pub opened: Round,
    /// Who approves and who does not.
    pub ballots: BTreeMap<PeerId, bool>,
    /// None while it is open.
    pub outcome: Option<Outcome>,
}

/// How a vote ended, in credit at the round that closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub approving: u64,
    pub opposing: u64,
    /// Of everybody who voted, or earned credit while the vote was open.
    pub concerned: u64,
    pub accepted: bool,
}

impl Motion {
    pub fn is_open(&self) -> bool {
        self.outcome.is_none()
    }

    pub fn is_accepted(&self) -> bool {
        self.outcome.is_some_and(|outcome| outcome.accepted)
    }

    fn decide(&self, rules: &Charter, credit: &BTreeMap<PeerId, Credit>) -> Outcome {
        let weight = |approve: bool| -> u64 {
            let of =
                self.ballots.iter().filter(|(_, ballot)| **ballot == approve).filter_map(|(peer, _)| credit.get(peer));
            of.fold(0, |sum, credit| sum.saturating_add(credit.amount))
        };
        let (approving, opposing) = (weight(true), weight(false));
        let is_concerned =
            |(peer, credit): &(&PeerId, &Credit)| credit.last_earned >= self.opened || self.ballots.contains_key(peer);
        let concerned =
            credit.iter().filter(is_concerned).fold(0_u64, |sum, (_, credit)| sum.saturating_add(credit.amount));
        let reaches =
            |part: u64, of: u64, per_mille: u16| u128::from(part) * 1000 >= u128::from(of) * u128::from(per_mille);
        let cast = approving.saturating_add(opposing);
        let accepted = approving > 0
            && reaches(approving, cast, rules.approve_per_mille)
            && reaches(cast, concerned, rules.turnout_per_mille);
        Outcome { approving, opposing, concerned, accepted }
    }
}

/// All amendments of a run, in the order in which bodies carried them. A copy shares what does not change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Motions(Vec<Arc<Motion>>);

impl Motions {
    fn open(&self) -> impl Iterator<Item = &Motion> {
        // Only late ones can be open, but how late is the manifest's choice.
        self.0.iter().map(|motion| &**motion).filter(|motion| motion.is_open())
    }

    /// Takes what a body carries, then decides what closes with it. `credit` includes the body's round.
    pub fn advance(
        &mut self,
        round: Round,
        said: &[(Digest, PeerId, Message)],
        rules: &Charter,
        credit: &BTreeMap<PeerId, Credit>,
    ) {
        for (id, by, message) in said {
            match message {
                Message::Amendment(amendment) => {
                    let amendment = Amendment::clone(amendment);
                    let motion =
                        Motion { id: *id, by: *by, amendment, opened: round, ballots: BTreeMap::new(), outcome: None };
                    self.0.push(Arc::new(motion));
                }
                Message::Ballot(ballot) => {
                    if let Some(motion) = self.0.iter_mut().find(|motion| motion.id == ballot.amendment) {
                        Arc::make_mut(motion).ballots.insert(*by, ballot.approve);
                    }
                }
                _ => {}
            }
        }
        for motion in self.0.iter_mut().filter(|motion| motion.is_open() && motion.amendment.closes <= round) {
            let outcome = motion.decide(rules, credit);
            Arc::make_mut(motion).outcome = Some(outcome);
        }
    }

    /// Accepted amendments that hold in a round, those that win over others last.
    fn in_force(&self, round: Round) -> Vec<&Motion> {
        let mut accepted: Vec<&Motion> = self
            .0
            .iter()
            .map(|motion| &**motion)
            .filter(|motion| motion.is_accepted() && motion.amendment.effective <= round)
            .collect();
        accepted.sort_by_key(|motion| (motion.amendment.effective, motion.amendment.closes, motion.id));
        accepted
    }
}

/// What a body adds to the charter, message by message, so that whoever makes a body and whoever checks it follow one
/// set of rules.
struct Docket<'a> {
    chain: &'a Chain,
    last: Option<Digest>,
    taken: usize,
    proposers: Vec<PeerId>,
    ballots: Vec<(PeerId, Digest)>,
}

impl<'a> Docket<'a> {
    fn new(chain: &'a Chain) -> Self {
        Self { chain, last: None, taken: 0, proposers: Vec::new(), ballots: Vec::new() }
    }

    fn admit(&mut self, id: Digest, from: PeerId, message: &Message) -> Result<(), CharterError> {
        if self.last.is_some_and(|last| last >= id) {
            return Err(CharterError::Order);
        }
        if self.taken >= CHARTER_IN_BODY_MAX {
            return Err(CharterError::Full);
        }
        match message {
            Message::Amendment(amendment) => {
                self.chain.check_amendment(amendment, from)?;
                if self.proposers.contains(&from) {
                    return Err(CharterError::OneEach);
                }
                let open = self.chain.motions().iter().filter(|motion| motion.is_open()).count();
                if self.proposers.len() >= AMENDMENTS_IN_BODY_MAX || open + self.proposers.len() >= AMENDMENTS_OPEN_MAX
                {
                    return Err(CharterError::Full);
                }
                self.proposers.push(from);
            }
            Message::Ballot(ballot) => {
                self.chain.check_ballot(*ballot, from)?;
                if self.ballots.contains(&(from, ballot.amendment)) {
                    return Err(CharterError::VotedBefore);
                }
                self.ballots.push((from, ballot.amendment));
            }
            _ => return Err(CharterError::Misplaced),
        }
        (self.last, self.taken) = (Some(id), self.taken + 1);
        Ok(())
    }
}

fn between(what: &'static str, found: u64, min: u64, max: u64) -> Result<(), CharterError> {
    if (min..=max).contains(&found) { Ok(()) } else { Err(CharterError::Number { what, min, max, found }) }
}

impl Chain {
    /// Every amendment that was certified, oldest first.
    pub fn motions(&self) -> &[Arc<Motion>] {
        &self.books().motions.0
    }

    /// Checks an amendment for the next round, whoever passed it on.
    pub fn check_amendment(&self, amendment: &Amendment, from: PeerId) -> Result<(), CharterError> {
        self.check_citizen(from)?;
        if self.books().motions.open().any(|motion| motion.by == from) {
            return Err(CharterError::OneEach);
        }
        let rules = &self.manifest().charter;
        let next = self.head().round + 1;
        let (soon, late) = (u64::from(rules.open_rounds_min), u64::from(rules.open_rounds_max));
        between("closes", amendment.closes, next.saturating_add(soon), next.saturating_add(late))?;
        let first = amendment.closes.saturating_add(1);
        between("effective", amendment.effective, first, amendment.closes.saturating_add(late.max(1)))?;
        between("the reason's bytes", amendment.reason.len() as u64, 1, REASON_BYTES_MAX as u64)?;
        match &amendment.change {
            Change::Stop => Ok(()),
            Change::ScaleLearningRate(scale) => {
                between("the scale in 1/1024", (*scale).into(), 1, LEARNING_RATE_1024_MAX.into())
            }
            Change::RollBack(to) => self.checkpoint(*to).map(drop).ok_or(CharterError::NotKept(*to)),
            Change::AddSource(source) => check_source(source),
        }
    }

    /// Checks a ballot for the next round, whoever passed it on.
    pub fn check_ballot(&self, ballot: Ballot, from: PeerId) -> Result<(), CharterError> {
        self.check_citizen(from)?;
        let motion = self.books().motions.open().find(|motion| motion.id == ballot.amendment);
        match motion {
            None => Err(CharterError::NotOpen),
            Some(motion) if motion.ballots.contains_key(&from) => Err(CharterError::VotedBefore),
            Some(_) => Ok(()),
        }
    }

    fn check_citizen(&self, peer: PeerId) -> Result<(), CharterError> {
        if let Some(until) = self.banned_until(peer) {
            return Err(CharterError::Banned(until));
        }
        let has_credit = self.credit().get(&peer).is_some_and(|credit| credit.amount > 0);
        if has_credit && self.member(peer).is_some() { Ok(()) } else { Err(CharterError::NoCredit) }
    }

    /// Of signed amendments and ballots of the next round, those that its body can carry, in its order.
    pub fn charter_of<'a>(&self, said: impl Iterator<Item = (&'a Envelope, &'a Message)>) -> Vec<Envelope> {
        let mut said: Vec<(Digest, &Envelope, &Message)> =
            said.map(|(envelope, message)| (envelope.id(), envelope, message)).collect();
        said.sort_unstable_by_key(|(id, ..)| *id);
        let mut docket = Docket::new(self);
        let fits = said.into_iter().filter(|(id, envelope, message)| docket.admit(*id, envelope.from, message).is_ok());
        fits.map(|(_, envelope, _)| envelope.clone()).collect()
    }

    pub(crate) fn check_charter(&self, body: &Body) -> Result<(), LedgerError> {
        let mut docket = Docket::new(self);
        for envelope in &body.charter {
            let peer = envelope.from;
            let what = "amendment or ballot";
            let said = open(what, envelope, self.run())?;
            self.check_session(what, &said)?;
            let admitted = if said.round == body.round {
                docket.admit(envelope.id(), peer, &said.message)
            } else {
                Err(CharterError::Misplaced)
            };
            admitted.map_err(|source| LedgerError::Charter { peer, source })?;
        }
        Ok(())
    }

    /// Inner learning rates of the next round, in 1/1024 of the recipe's.
    pub fn learning_rate_1024(&self) -> u32 {
        let mut scales = self.in_force().into_iter().rev().filter_map(|motion| match motion.amendment.change {
            Change::ScaleLearningRate(scale) => Some(scale),
            _ => None,
        });
        scales.next().unwrap_or(SCALE_ONE)
    }

    /// The sources of the run's data from the next round on, those that were added last. Peers of this version train on
    /// the manifest's alone: they join the text once, when they start.
    pub fn data(&self) -> Vec<&DataSource> {
        let added = self.in_force().into_iter().filter_map(|motion| match &motion.amendment.change {
            Change::AddSource(source) => Some(source),
            _ => None,
        });
        self.manifest().data.sources.iter().chain(added).collect()
    }

    /// The last round of the run, when it was decided to stop.
    pub fn last_round(&self) -> Option<Round> {
        let stops =
            self.motions().iter().filter(|motion| motion.is_accepted() && motion.amendment.change == Change::Stop);
        stops.map(|motion| motion.amendment.effective - 1).min()
    }

    /// Whether no round follows any more.
    pub fn is_over(&self) -> bool {
        self.last_round().is_some_and(|last| self.head().round >= last)
    }

    /// Accepted amendments that hold in the next round, those that win over others last.
    pub fn in_force(&self) -> Vec<&Motion> {
        self.books().motions.in_force(self.head().round + 1)
    }

    /// The round whose model a round starts from, when it is not the one before it.
    pub fn rolled_back_to(&self, round: Round) -> Option<Round> {
        let mut targets =
            self.books().motions.in_force(round).into_iter().rev().filter_map(|motion| match motion.amendment {
                Amendment { change: Change::RollBack(to), effective, .. } if effective == round => Some(to),
                _ => None,
            });
        targets.next()
    }

    /// Whether one of these rounds starts from another model than the round before it led to.
    pub fn is_rolled_back_within(&self, rounds: RangeInclusive<Round>) -> bool {
        self.motions().iter().filter(|motion| motion.is_accepted()).any(|motion| {
            matches!(motion.amendment.change, Change::RollBack(_)) && rounds.contains(&motion.amendment.effective)
        })
    }
}

fn check_source(source: &DataSource) -> Result<(), CharterError> {
    between("the source's name", source.name.len() as u64, 1, NAME_BYTES_MAX as u64)?;
    between("the source's licence", source.licence.len() as u64, 1, NAME_BYTES_MAX as u64)?;
    between("the source's attribution", source.attribution.len() as u64, 0, DESCRIPTION_BYTES_MAX as u64)?;
    between("the source's chunks", source.chunks.len() as u64, 1, AMENDMENT_CHUNKS_MAX as u64)?;
    let bytes = source.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
    between("the source's bytes", bytes, 1, TEXT_BYTES_MAX)
}
