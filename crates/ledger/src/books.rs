//! What adds up over a chain: credit, amendments, and the models that a run can go back to.

use std::collections::BTreeMap;

use shoal_wire::{
    Digest, Envelope, Manifest, PeerId, Round, codec,
    limits::MESSAGE_BYTES_MAX,
    record::{Body, Message, Said},
};

use crate::{
    CHECKPOINT_ROUNDS, Chain, Credit,
    charter::Motions,
    credit::{self, Accounts, Deed},
};

/// Changes with each body, and back again when one is undone.
#[derive(Clone, Debug)]
pub(crate) struct Books {
    pub accounts: Accounts,
    pub motions: Motions,
    /// Models of the first round and of each that [`CHECKPOINT_ROUNDS`] divides.
    checkpoints: BTreeMap<Round, Digest>,
    /// Body of round 1.
    pub first_body: Option<Digest>,
}

/// What it takes to undo a body.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    round: Round,
    accounts: credit::Before,
    motions: Motions,
}

impl Books {
    pub fn new(manifest: &Manifest) -> Self {
        let checkpoints = BTreeMap::from([(0, manifest.genesis)]);
        Self { accounts: Accounts::default(), motions: Motions::default(), checkpoints, first_body: None }
    }

    /// Enters a body that was checked; `assigned` is what a member can train in a round, in tokens.
    pub fn enter(&mut self, body: &Body, manifest: &Manifest, assigned: u64) -> Page {
        let round = body.round;
        let motions = self.motions.clone();
        let accounts = self.accounts.pay(manifest.credit, assigned, round, &deeds(body));
        let charter: Vec<(Digest, PeerId, Message)> = body
            .charter
            .iter()
            .filter_map(|envelope| Some((envelope.id(), envelope.from, read(envelope)?.message)))
            .collect();
        self.motions.advance(round, &charter, &manifest.charter, self.accounts.all());
        if round.is_multiple_of(CHECKPOINT_ROUNDS) {
            self.checkpoints.insert(round, body.content.model);
        }
        self.first_body.get_or_insert_with(|| body.digest());
        Page { round, accounts, motions }
    }

    /// Undoes the body that was entered last.
    pub fn take_back(&mut self, page: Page) {
        self.accounts.take_back(page.accounts);
        self.motions = page.motions;
        self.checkpoints.remove(&page.round);
        self.first_body = self.first_body.filter(|_| page.round > 1);
    }
}

/// What peers did in a body's round.
fn deeds(body: &Body) -> Vec<(PeerId, Deed)> {
    let judged = body.content.commits.iter().zip(&body.content.verdicts);
    let trained = judged.filter_map(|(envelope, verdict)| match read(envelope)?.message {
        Message::Commit(commit) => Some((envelope.from, Deed::Trained { tokens: commit.tokens, verdict: *verdict })),
        _ => None,
    });
    let judgements = body.content.judgements.iter().filter_map(|envelope| match read(envelope)?.message {
        Message::Judgement(judgement) => Some((envelope.from, Deed::Judged { updates: judgement.scores.len() as u64 })),
        _ => None,
    });
    trained.chain(judgements).collect()
}

/// What an envelope of a checked body says: its signature was looked at there.
fn read(envelope: &Envelope) -> Option<Said> {
    codec::decode("message", &envelope.payload, MESSAGE_BYTES_MAX).ok()
}

impl Chain {
    /// What everybody gave to the run.
    pub fn credit(&self) -> &BTreeMap<PeerId, Credit> {
        self.books().accounts.all()
    }

    /// The model of a round that the run can be rolled back to.
    pub fn checkpoint(&self, round: Round) -> Option<Digest> {
        self.books().checkpoints.get(&round).copied()
    }

    /// Every model that the run can be rolled back to so far.
    pub fn checkpoints(&self) -> impl Iterator<Item = Digest> {
        self.books().checkpoints.values().copied()
    }

    /// The body of round 1.
    pub fn first_body(&self) -> Option<Digest> {
        self.books().first_body
    }
}
