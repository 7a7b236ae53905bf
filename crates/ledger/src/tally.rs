//! How much of a history was checked, for whoever wants to know what "it holds" rests on.

use serde::Serialize;
use shoal_wire::record::{Body, Certificate};

use crate::Chain;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    pub certificates: u64,
    /// Under certificates, and on every message in them.
    pub signatures: u64,
    pub judgements: u64,
    /// That members contradicted themselves.
    pub proofs: u64,
    pub amendments: u64,
    pub ballots: u64,
    /// Of all peers together.
    pub credit: u64,
}

impl Tally {
    /// Adds a certificate that `chain` was just moved on to.
    pub fn count(&mut self, certificate: &Certificate, chain: &Chain) {
        let body = &certificate.body;
        self.certificates += 1;
        self.signatures += certificate.signatures.len() as u64 + envelopes(body);
        self.judgements += body.content.judgements.len() as u64;
        self.proofs += body.proofs.len() as u64;
        self.amendments = chain.motions().len() as u64;
        self.ballots = chain.motions().iter().map(|motion| motion.ballots.len() as u64).sum();
        self.credit = chain.credit().values().fold(0, |sum, credit| sum.saturating_add(credit.amount));
    }
}

/// Signed messages in a body.
fn envelopes(body: &Body) -> u64 {
    let content = &body.content;
    let answers = body.recovery.as_ref().map_or(0, |recovery| recovery.answers.len());
    let count = content.list.iter().len()
        + content.commits.len()
        + content.judgements.len()
        + body.joins.len()
        + body.leaves.len()
        + 2 * body.proofs.len()
        + body.charter.len()
        + answers;
    count as u64
}
