//! What follows from a certified body alone: who is in the next round, how they work together, and how far updates reach.

use std::collections::BTreeMap;

use shoal_ledger::HISTORY_ROUNDS;
use shoal_wire::{
    Digest, PeerId, Round, RunId,
    crowd::{Body, Message, Said},
    limits::{CROWD_MAX, JOINS_MAX},
    record::Join,
};
use thiserror::Error;

use super::{Draw, PARTS, Roster};

/// Median rates of a round: for each part, one for each piece of a tensor; empty for a part that no round had yet.
pub type Rates = Vec<Vec<u64>>;

/// Everything that peers agree on before a round.
#[derive(Clone, Debug)]
pub struct Epoch {
    pub run: RunId,
    /// The round to come.
    pub round: Round,
    pub roster: Roster,
    pub draw: Draw,
    pub randomness: Digest,
    /// Of the last rounds, oldest first.
    pub history: Vec<Rates>,
    pub anchors: Vec<PeerId>,
}

/// Why a body does not follow from what was agreed on before.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    #[error("it is about another run or round")]
    Round,
    #[error("it does not name {PARTS} parts")]
    Parts,
    #[error("a request to join does not hold, is not in order, or comes from a member")]
    Join,
    #[error("whom it convicts is not in order, or not a member")]
    Convicted,
}

impl Epoch {
    /// Before round 1.
    pub fn first(run: RunId, roster: Roster, randomness: Digest, anchors: Vec<PeerId>) -> Self {
        let draw = Draw::new(&roster, 1, randomness);
        Self { run, round: 1, roster, draw, randomness, history: Vec::new(), anchors }
    }

    /// After a round with this body. The body's roster, model and view do not enter: they are what is checked against it.
    pub fn after(&self, body: &Body) -> Result<Self, Refused> {
        if body.run != self.run || body.round != self.round {
            return Err(Refused::Round);
        }
        if body.parts.len() != PARTS {
            return Err(Refused::Parts);
        }
        let joins = self.joins(body)?;
        let in_order = body.convicted.is_sorted_by(|a, b| a < b);
        if !in_order || body.convicted.iter().any(|peer| self.roster.find(*peer).is_none()) {
            return Err(Refused::Convicted);
        }
        let present = self.attended(&body.attendance);
        let roster = self.roster.after(self.round, |at| present[at], &joins, &body.convicted, &self.anchors);
        let mut history = self.history.clone();
        let last = |part: usize| history.last().and_then(|rates| rates.get(part)).cloned().unwrap_or_default();
        let rates = body.parts.iter().enumerate();
        let rates =
            rates.map(|(at, part)| part.as_ref().map_or_else(|| last(at), |part| part.mean.rates.clone())).collect();
        history.push(rates);
        let old = history.len().saturating_sub(HISTORY_ROUNDS);
        history.drain(..old);
        let draw = Draw::new(&roster, self.round + 1, body.randomness);
        let (anchors, randomness) = (self.anchors.clone(), body.randomness);
        Ok(Self { run: self.run, round: self.round + 1, roster, draw, randomness, history, anchors })
    }

    fn joins(&self, body: &Body) -> Result<Vec<(PeerId, Join)>, Refused> {
        let in_order = body.joins.is_sorted_by(|a, b| a.from < b.from);
        if !in_order || body.joins.len() > JOINS_MAX || self.roster.seats().len() + body.joins.len() > CROWD_MAX {
            return Err(Refused::Join);
        }
        let open = |envelope| match Said::open(envelope, self.run).map_err(|_| Refused::Join)?.message {
            Message::Join(join) if self.roster.find(envelope.from).is_none() => Ok((envelope.from, join)),
            _ => Err(Refused::Join),
        };
        body.joins.iter().map(open).collect()
    }

    /// Who contributed, by place in the roster.
    fn attended(&self, attendance: &BTreeMap<u32, u16>) -> Vec<bool> {
        let mut present = vec![false; self.roster.seats().len()];
        for (group, mask) in attendance {
            let members = self.draw.groups().get(*group as usize).into_iter().flatten().enumerate();
            members.filter(|(place, _)| mask >> place & 1 == 1).for_each(|(_, at)| present[*at as usize] = true);
        }
        present
    }

    /// Whether everybody is in one group, and so has the sum of all before anybody could send it.
    pub fn is_one_group(&self) -> bool {
        self.draw.groups().len() == 1
    }

    pub(crate) fn peer(&self, member: u32) -> PeerId {
        self.roster.seats().get(member as usize).map_or(PeerId::default(), |seat| seat.member.peer)
    }

    /// Randomness after a round: of the one before and what the roots say of the revealed seeds.
    pub(crate) fn randomness_after(&self, seeds: &[Digest]) -> Digest {
        let seeds: Vec<u8> = seeds.iter().flat_map(|seed| seed.0).collect();
        Digest::in_domain("shoal 2026 v1 crowd randomness", &[&self.randomness.0[..], &seeds].concat())
    }
}
