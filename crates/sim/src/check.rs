//! What must hold in every world, whatever happens in it.

use std::collections::BTreeMap;

use shoal_wire::{Digest, Round};

/// Two peers hold different histories where they must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two ordinary certificates for one round.
    TwoCertificates { round: Round, first: Digest, second: Digest },
    /// One body, two models.
    TwoModels { round: Round },
}

#[derive(Debug, Default)]
pub struct Checker {
    ordinary: BTreeMap<Round, Digest>,
    models: BTreeMap<Digest, Digest>,
    pub recoveries: u64,
    pub violations: Vec<Violation>,
}

impl Checker {
    pub(crate) fn certified(&mut self, round: Round, body: Digest, model: Digest, recovery: bool) {
        if recovery {
            self.recoveries += 1;
        } else {
            let first = *self.ordinary.entry(round).or_insert(body);
            if first != body {
                self.violations.push(Violation::TwoCertificates { round, first, second: body });
            }
        }
        if *self.models.entry(body).or_insert(model) != model {
            self.violations.push(Violation::TwoModels { round });
        }
    }

    /// Rounds with an ordinary certificate.
    pub fn rounds(&self) -> usize {
        self.ordinary.len()
    }
}
