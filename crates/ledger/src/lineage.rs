//! Where a model comes from: its data with their licences, who made it, and what was decided on the way.

use serde::Serialize;
use shoal_wire::{
    Digest, Manifest, PeerId, Round, RunId,
    charter::{Amendment, Change},
    manifest::CreditRule,
    record::Certificate,
};

use crate::{Chain, Credit, LedgerError};

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    pub run: RunId,
    pub name: String,
    pub host: String,
    /// Digest of the model's parameters.
    pub model: Digest,
    /// The model that all of this was added to.
    pub first_model: Digest,
    /// Rounds up to the one that certified the model, each with its certificate.
    pub rounds: Round,
    pub first_body: Option<Digest>,
    /// Each body names the one before it: this digest stands for all certificates.
    pub certified_body: Digest,
    pub accepted_updates: u64,
    pub credit_rule: CreditRule,
    /// Those with credit, most first.
    pub contributors: Vec<Contributor>,
    /// What the run trains on. A source that an amendment added is among the amendments only: it is on record, and this
    /// version's peers do not train on it.
    pub data: Vec<Source>,
    /// Accepted amendments that the run was under, oldest first.
    pub amendments: Vec<Accepted>,
    /// Certified rounds that did not make it into the model, because the run was rolled back: from, to.
    pub rolled_back: Vec<(Round, Round)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contributor {
    pub peer: PeerId,
    #[serde(flatten)]
    pub credit: Credit,
    /// Of all credit of the run.
    pub share: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    pub name: String,
    /// SPDX licence expression.
    pub licence: String,
    pub attribution: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    pub id: Digest,
    pub by: PeerId,
    #[serde(flatten)]
    pub amendment: Amendment,
}

impl Lineage {
    /// The lineage of a model that a history led to; `None` when none of these rounds did. The certificates are checked
    /// on the way, from round 1 on.
    pub fn of(
        model: Digest,
        manifest: &Manifest,
        certificates: impl IntoIterator<Item = Certificate>,
    ) -> Result<Option<Self>, LedgerError> {
        let mut chain = Chain::new(manifest.clone());
        let mut certificates = certificates.into_iter();
        while chain.head().model != model {
            let Some(certificate) = certificates.next() else { return Ok(None) };
            chain.apply(&certificate)?;
        }
        Ok(Some(chain.lineage()))
    }
}

impl Chain {
    /// Everybody who committed or judged, most credit first.
    pub fn contributors(&self) -> Vec<Contributor> {
        let total: u128 = self.credit().values().map(|credit| u128::from(credit.amount)).sum();
        let share = |amount: u64| if total == 0 { 0.0 } else { amount as f64 / total as f64 };
        let all = self.credit().iter();
        let mut contributors: Vec<Contributor> = all
            .map(|(peer, credit)| Contributor { peer: *peer, credit: *credit, share: share(credit.amount) })
            .collect();
        contributors.sort_by_key(|contributor| (core::cmp::Reverse(contributor.credit.amount), contributor.peer));
        contributors
    }

    /// The lineage of the model that the next round starts from.
    pub fn lineage(&self) -> Lineage {
        let manifest = self.manifest();
        let mut contributors = self.contributors();
        contributors.retain(|contributor| contributor.credit.amount > 0);
        let in_force = self.in_force();
        let sources = manifest.data.sources.iter();
        let data = sources.map(|source| Source {
            name: source.name.clone(),
            licence: source.licence.clone(),
            attribution: source.attribution.clone(),
        });
        Lineage {
            run: self.run(),
            name: manifest.name.clone(),
            host: manifest.host.clone(),
            model: self.head().model,
            first_model: manifest.genesis,
            rounds: self.head().round,
            first_body: self.first_body(),
            certified_body: self.head().body,
            accepted_updates: contributors.iter().map(|contributor| contributor.credit.rounds).sum(),
            credit_rule: manifest.credit,
            contributors,
            data: data.collect(),
            rolled_back: in_force.iter().filter_map(|motion| left_out(&motion.amendment)).collect(),
            amendments: in_force
                .iter()
                .map(|motion| Accepted { id: motion.id, by: motion.by, amendment: motion.amendment.clone() })
                .collect(),
        }
    }
}

/// The first and the last round that a roll-back leaves out.
fn left_out(amendment: &Amendment) -> Option<(Round, Round)> {
    match amendment.change {
        Change::RollBack(to) => Some((to + 1, amendment.effective - 1)),
        _ => None,
    }
}
