//! What the three others say: ballots, votes, commits, and the bodies that an honest leader makes of what was said.

use std::collections::BTreeMap;

use shoal_ledger::{Chain, aggregate_weights};
use shoal_swarm::{Bytes, Command};
use shoal_wire::{
    Digest, Envelope, PeerId, View,
    charter::{Amendment, Ballot, Change},
    record::{
        Body, Commit, CommitList, Content, Message, Proposal, Recovery, Said, Verdict, Vote, VoteKind, seed_hash,
    },
};

use super::{UPDATE_BYTES, World, merge, other, seed};
use crate::{
    ring::{ME, RING, body_after, empty_content},
    script::Choices,
};

impl World {
    pub(super) fn amendment(&self, draw: &mut Choices<'_>) -> Amendment {
        let closes = self.round() + draw.below(64) as u64;
        let change = match draw.below(3) {
            0 => Change::ScaleLearningRate(512),
            1 => Change::Stop,
            _ => Change::RollBack(draw.below(4) as u64),
        };
        Amendment { change, reason: "why".to_owned(), closes, effective: closes + draw.below(8) as u64 }
    }

    /// On the newest amendment; on none where there is none.
    pub(super) fn ballot(&self, approve: bool) -> Command {
        let is_amendment = |(_, said): &&(Envelope, Said)| matches!(said.message, Message::Amendment(_));
        let amendment = self.said.iter().rev().find(is_amendment).map(|(envelope, _)| envelope.id());
        Command::Ballot(Ballot { amendment: amendment.unwrap_or_default(), approve })
    }

    pub(super) fn vote(&mut self, draw: &mut Choices<'_>) {
        let ((by, _), kind, view, at) = (other(draw), draw.below(3), draw.below(4) as View, draw.below(8));
        let kind = [VoteKind::Prevote, VoteKind::Precommit, VoteKind::Recovery][kind];
        // The newest body first; 7 is nil.
        let body = self.bodies.iter().rev().nth(at).filter(|_| at < 7).map(Body::digest);
        let parent = self.swarm.chain().head().body;
        self.say(by, self.round(), Message::Vote(Vote { parent, view, kind, body }));
    }

    /// The leader of a view proposes what it should, or a body that was there before.
    pub(super) fn propose(&mut self, draw: &mut Choices<'_>) {
        let (view, at, valid_view) = (draw.below(4) as View, draw.below(8), draw.below(4) as View);
        let Some(by) = self.leader(view) else { return };
        let body = match at {
            0 => self.content().and_then(|content| self.body(content, view)),
            1 => self.body(empty_content(self.swarm.chain()), view),
            at => self.bodies.iter().rev().nth(at - 2).cloned(),
        };
        let Some(body) = body else { return };
        let valid_view = (valid_view > 0).then(|| valid_view - 1);
        self.say(by, self.round(), Message::Proposal(Box::new(Proposal { view, valid_view, body })));
    }

    /// The anchor goes on with all who answered.
    pub(super) fn recover(&mut self, attempt: u32) {
        let mut answers = BTreeMap::new();
        for (envelope, said) in self.said.iter().filter(|(_, said)| said.round == self.round()) {
            match said.message {
                Message::RecoveryAnswer(answer) if answer.attempt == attempt => {
                    answers.insert(envelope.from, envelope.clone());
                }
                _ => {}
            }
        }
        let content = self.content().unwrap_or_else(|| empty_content(self.swarm.chain()));
        let Some(mut body) = self.body(content, 0) else { return };
        body.recovery = Some(Recovery { attempt, answers: answers.into_values().collect() });
        let Ok(roster) = self.swarm.chain().roster_after(&body) else { return };
        body.roster = roster;
        let proposal = Proposal { view: attempt, valid_view: None, body };
        self.say(0, self.round(), Message::Proposal(Box::new(proposal)));
    }

    pub(super) fn commit(&mut self, draw: &mut Choices<'_>) {
        let ((by, _), copies) = (other(draw), draw.below(4) == 3);
        let bytes: Bytes = Digest::of(&[by as u8, self.round() as u8]).0.repeat(UPDATE_BYTES / 32).into();
        let copied = self.commits().first().map(|(_, commit)| commit.update).filter(|_| copies);
        let update = copied.unwrap_or_else(|| Digest::of(&bytes));
        self.blobs.insert(Digest::of(&bytes), bytes);
        let commit = Commit {
            parent: self.swarm.chain().head().body,
            update,
            update_bytes: UPDATE_BYTES as u64,
            steps: 10,
            tokens: 1 + draw.below(80) as u64,
            loss_first: 2.0,
            loss_last: 1.0,
            seed_hash: seed_hash(seed(by, self.round())),
        };
        self.say(by, self.round(), Message::Commit(commit));
    }

    pub(super) fn list(&mut self, view: View) {
        let Some(by) = self.leader(view) else { return };
        let mut commits: Vec<(PeerId, Digest)> =
            self.commits().iter().map(|(envelope, _)| (envelope.from, envelope.id())).collect();
        commits.sort_unstable();
        let commits = commits.into_iter().map(|(_, id)| id).collect();
        self.say(by, self.round(), Message::CommitList(CommitList { view, commits }));
    }

    /// Whoever leads a view, unless it is the peer under test.
    pub(super) fn leader(&self, view: View) -> Option<usize> {
        let leaders = self.swarm.chain().leaders();
        let leader = leaders.get(view as usize % leaders.len().max(1))?;
        RING.identities[..ME].iter().position(|identity| identity.peer() == *leader)
    }

    /// The first commit of each peer in this round.
    pub(super) fn commits(&self) -> Vec<(Envelope, Commit)> {
        let mut commits = BTreeMap::new();
        for (envelope, said) in self.said.iter().filter(|(_, said)| said.round == self.round()) {
            if let Message::Commit(commit) = &said.message {
                commits.entry(envelope.from).or_insert_with(|| (envelope.clone(), commit.clone()));
            }
        }
        commits.into_values().collect()
    }

    /// What an honest leader would propose from all that was said in this round.
    pub(super) fn content(&self) -> Option<Content> {
        let chain = self.swarm.chain();
        let of_round = || self.said.iter().filter(|(_, said)| said.round == self.round());
        let (list, named) = of_round().find_map(|(envelope, said)| match &said.message {
            Message::CommitList(list) => Some((envelope.clone(), list.commits.clone())),
            _ => None,
        })?;
        let commits = self.commits();
        let commits: Vec<_> = commits.into_iter().filter(|(envelope, _)| named.contains(&envelope.id())).collect();
        let revealed = |(envelope, commit): &(Envelope, Commit)| {
            of_round().find_map(|(said_by, said)| match &said.message {
                Message::Reveal(seed) if said_by.from == envelope.from && seed_hash(*seed) == commit.seed_hash => {
                    Some(*seed)
                }
                _ => None,
            })
        };
        let seeds: Vec<Option<Digest>> = commits.iter().map(revealed).collect();
        let mut verdicts = Vec::new();
        let mut accepted: Vec<(PeerId, &Commit)> = Vec::new();
        for ((envelope, commit), seed) in commits.iter().zip(&seeds) {
            let copied = accepted.iter().any(|(_, other)| other.update == commit.update);
            verdicts.push(match (seed, copied) {
                (None, _) => Verdict::Withheld,
                (_, true) => Verdict::Malformed,
                (_, false) => Verdict::Accepted,
            });
            if seed.is_some() && !copied {
                accepted.push((envelope.from, commit));
            }
        }
        let tokens: Vec<(PeerId, u64)> = accepted.iter().map(|(peer, commit)| (*peer, commit.tokens)).collect();
        let weights = aggregate_weights(chain.manifest(), &chain.head().roster, &tokens);
        let updates: Option<Vec<(u16, Bytes)>> = weights
            .into_iter()
            .zip(&accepted)
            .map(|(weight, (_, commit))| Some((weight, self.blobs.get(&commit.update)?.clone())))
            .collect();
        let before = self.blobs.get(&chain.head().model)?;
        let (model, norms) = merge(before, &updates?);
        Some(Content {
            list: Some(list),
            commits: commits.into_iter().map(|(envelope, _)| envelope).collect(),
            seeds,
            judgements: Vec::new(),
            verdicts,
            norms,
            model: Digest::of(&model),
        })
    }

    pub(super) fn body(&self, content: Content, view: View) -> Option<Body> {
        let chain: &Chain = self.swarm.chain();
        let mut joins = BTreeMap::new();
        let mut leaves = BTreeMap::new();
        for (envelope, said) in self.said.iter().filter(|(_, said)| said.round == self.round()) {
            match said.message {
                Message::Join(_) if chain.check_join(said.round, said.session, envelope.from).is_ok() => {
                    joins.insert(envelope.from, envelope.clone());
                }
                Message::Leave if chain.member(envelope.from).is_some() => {
                    leaves.insert(envelope.from, envelope.clone());
                }
                _ => {}
            }
        }
        body_after(chain, content, view, joins.into_values().collect(), leaves.into_values().collect())
    }
}
