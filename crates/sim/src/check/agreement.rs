//! There is one ordinary certificate for a round after a body, and one model for a body.

use std::collections::BTreeMap;

use shoal_wire::{Digest, Round};

use super::Violation;

#[derive(Debug, Default)]
pub(super) struct Agreement {
    ordinary: BTreeMap<(Round, Digest), Digest>,
    models: BTreeMap<Digest, Digest>,
}

impl Agreement {
    pub fn certified(
        &mut self,
        (parent, round): (Digest, Round),
        (body, model): (Digest, Digest),
        recovery: bool,
    ) -> Vec<Violation> {
        let mut violations = Vec::new();
        if !recovery {
            let first = *self.ordinary.entry((round, parent)).or_insert(body);
            if first != body {
                violations.push(Violation::TwoCertificates { round, first, second: body });
            }
        }
        if *self.models.entry(body).or_insert(model) != model {
            violations.push(Violation::TwoModels { round });
        }
        violations
    }

    pub fn rounds(&self) -> usize {
        self.ordinary.len()
    }
}
