//! The jobs of a crowd on a model of 256 values, with the real integer code.

use std::sync::Arc;

use shoal_learn::{
    Layout, TensorInfo,
    outer::{
        self, Bounds, Contribution, Grid, Part, PartialSum, Residual, params_from_bytes, params_to_bytes, partial_sums,
        parts,
    },
};
use shoal_swarm::crowd::{Epoch, Job, Outcome, PARTS, Weighted};
use shoal_wire::{
    Digest, PeerId,
    manifest::{Codec, Outer},
};

/// How a peer lies about sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liar {
    /// Signs and spreads sums whose first part is another.
    WrongSum,
    /// Commits bytes that are no update.
    Garbage,
}

pub(super) struct Engine {
    layout: Layout,
    parts: Vec<Part>,
    outer: Outer,
}

/// Everything that is not an update, a sum or a model of this engine, in one word.
struct Unfit;

impl Engine {
    pub fn new() -> Self {
        let tensor = |at: usize| TensorInfo { name: format!("t{at}"), shape: vec![16], offset: 16 * at };
        let layout = Layout { tensors: (0..PARTS).map(tensor).collect() };
        let parts = parts(&layout, PARTS);
        Self { layout, parts, outer: Outer { codec: Codec::Dense4, alpha_1024: 1024, feedback_1024: 1024 } }
    }

    pub fn genesis(&self) -> Arc<[u8]> {
        params_to_bytes(&vec![0.0; self.layout.len()]).into()
    }

    /// Does a job for a peer, as a liar would if it is one.
    pub fn run(&self, me: PeerId, liar: Option<Liar>, job: &Job) -> Outcome {
        let all = |count: usize| Outcome::Refused { which: (0..count).collect() };
        match job {
            Job::Train { epoch, .. } if liar == Some(Liar::Garbage) => {
                Outcome::Trained { update: self.noise(me, epoch.round).1.into(), work: 4095 }
            }
            Job::Train { epoch, .. } => match self.train(me, epoch.round) {
                Ok(update) => Outcome::Trained { update: update.into(), work: 4095 },
                Err(Unfit) => all(0),
            },
            Job::Sum { epoch, updates } => self.sum_as(liar, epoch, updates),
            Job::Merge { part, sums } => match self.merge(*part, sums) {
                Ok(sum) => Outcome::Merged { sum },
                Err(Unfit) => all(sums.len()),
            },
            Job::Finish { epoch, part, sum } => match self.finish(epoch, *part, sum) {
                Ok((coded, rates)) => Outcome::Finished { coded: coded.into(), rates },
                Err(Unfit) => all(1),
            },
            Job::Apply { epoch, model, coded } => match self.apply(epoch, model, coded) {
                Ok(model) => Outcome::Applied { model: model.into() },
                Err(Unfit) => all(coded.len()),
            },
            Job::Next { epoch, body } => match epoch.after(body) {
                Ok(next) => Outcome::Next(Arc::new(next)),
                Err(_) => all(1),
            },
        }
    }

    fn sum_as(&self, liar: Option<Liar>, epoch: &Epoch, updates: &[Weighted]) -> Outcome {
        let Ok(mut sums) = self.sum(epoch, updates) else {
            let bad = |(at, one): (usize, &Weighted)| {
                outer::check(&self.layout, self.outer.codec, &one.update).is_err().then_some(at)
            };
            return Outcome::Refused { which: updates.iter().enumerate().filter_map(bad).collect() };
        };
        // Another sum that is well-formed: the part counted twice.
        if liar == Some(Liar::WrongSum) {
            sums[0] = self.merge(0, &[sums[0].clone(), sums[0].clone()]).unwrap_or(sums[0].clone());
        }
        Outcome::Summed { sums }
    }

    fn noise(&self, me: PeerId, round: u64) -> (Vec<f32>, Vec<u8>) {
        let mut bytes = Vec::new();
        for block in 0..self.layout.len() as u64 / 32 {
            let material = [&me.0[..], &round.to_le_bytes(), &block.to_le_bytes()].concat();
            bytes.extend(Digest::in_domain("shoal 2026 v1 simulated update", &material).0);
        }
        (bytes.iter().map(|byte| (f32::from(*byte) - 127.5) / 65_536.0).collect(), bytes)
    }

    fn train(&self, me: PeerId, round: u64) -> Result<Vec<u8>, Unfit> {
        let delta = self.noise(me, round).0;
        Residual::new(&self.layout).compress(&self.outer, &self.layout, &delta).map_err(|_| Unfit)
    }

    /// Rates of the last rounds, one a tensor: here each part is one tensor.
    fn history(epoch: &Epoch) -> Vec<Vec<u64>> {
        let round = |rates: &Vec<Vec<u64>>| rates.iter().map(|part| part.first().copied().unwrap_or(0)).collect();
        epoch.history.iter().map(round).collect()
    }

    fn grid(&self, epoch: &Epoch) -> Grid {
        Grid::of(&self.layout, self.outer.codec, &Self::history(epoch), epoch.roster.seats().len())
    }

    fn sum(&self, epoch: &Epoch, updates: &[Weighted]) -> Result<Vec<Arc<[u8]>>, Unfit> {
        let one = |one: &'_ Weighted| (one.work, one.trust);
        let shares: Vec<(u16, u16)> = updates.iter().map(one).collect();
        let all: Vec<Contribution<'_>> = updates
            .iter()
            .zip(shares)
            .map(|(one, (work, trust))| Contribution { work, trust, update: &one.update })
            .collect();
        let history = Self::history(epoch);
        let bounds = Bounds::Median { history: &history };
        let grid = self.grid(epoch);
        let sums = partial_sums(&self.layout, self.outer.codec, &all, bounds, &grid, &self.parts).map_err(|_| Unfit)?;
        Ok(self.parts.iter().zip(sums).map(|(part, sum)| sum.to_bytes(part).into()).collect())
    }

    fn merge(&self, part: u8, sums: &[Arc<[u8]>]) -> Result<Arc<[u8]>, Unfit> {
        let part = self.parts.get(usize::from(part)).ok_or(Unfit)?;
        let sums: Result<Vec<PartialSum>, _> = sums.iter().map(|sum| PartialSum::from_bytes(part, sum)).collect();
        let merged = sums.and_then(|sums| PartialSum::merge(&sums)).map_err(|_| Unfit)?;
        Ok(merged.to_bytes(part).into())
    }

    fn finish(&self, epoch: &Epoch, part: u8, sum: &[u8]) -> Result<(Vec<u8>, Vec<u64>), Unfit> {
        let part = self.parts.get(usize::from(part)).ok_or(Unfit)?;
        if epoch.is_one_group() {
            return Ok((sum.to_vec(), PartialSum::rates_in(part, sum).map_err(|_| Unfit)?));
        }
        let sum = PartialSum::from_bytes(part, sum).map_err(|_| Unfit)?;
        Ok((sum.code(part, &self.grid(epoch)).map_err(|_| Unfit)?, sum.rates))
    }

    fn apply(&self, epoch: &Epoch, model: &[u8], coded: &[Option<Arc<[u8]>>]) -> Result<Vec<u8>, Unfit> {
        let mut theta = params_from_bytes(&self.layout, model).map_err(|_| Unfit)?;
        if epoch.is_one_group() {
            let grid = self.grid(epoch);
            for (part, sum) in self.parts.iter().zip(coded) {
                let Some(sum) = sum else { continue };
                let sum = PartialSum::from_bytes(part, sum).map_err(|_| Unfit)?;
                let next = sum.apply_exactly(part, &grid, &self.outer, &theta).map_err(|_| Unfit)?;
                theta.get_mut(part.range()).ok_or(Unfit)?.copy_from_slice(&next);
            }
            return Ok(params_to_bytes(&theta));
        }
        let coded: Vec<Option<&[u8]>> = coded.iter().map(Option::as_deref).collect();
        let next = outer::apply(&self.parts, &self.outer, &theta, &coded).map_err(|_| Unfit)?;
        Ok(params_to_bytes(&next))
    }

    /// Weight of the sum that a part's merged sum carries, for those who look at it from outside.
    pub fn contributors(&self, part: u8, sum: &[u8]) -> u32 {
        let part = self.parts.get(usize::from(part));
        part.and_then(|part| PartialSum::from_bytes(part, sum).ok()).map_or(1, |sum| sum.contributors)
    }
}
