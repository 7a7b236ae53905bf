//! Judgements and proofs of contradiction as the chain sees them.

use shoal_wire::{
    Digest, Envelope, PeerId, Round, SessionId,
    judging::{Equivocation, Judgement, Score},
    record::{Body, Commit, Message, Verdict, Vote, VoteKind},
};

use super::{Assessment, Measurable, Opinion, Panels, assess, draw};
use crate::{
    Chain, LedgerError,
    chain::{ascending, open},
};

/// A proof counts for so many rounds after the votes that it holds.
const PROOF_ROUNDS_MAX: Round = 16;

/// What judging a round takes: the listed commits in peer order, and for each the seed and how its update's form is.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    pub commits: &'a [(PeerId, Commit)],
    pub seeds: &'a [Option<Digest>],
    /// [`Verdict::Harmful`] and [`Verdict::Copied`] count as good form.
    pub verdicts: &'a [Verdict],
    pub judgements: &'a [Envelope],
}

impl Chain {
    /// Who audits whom in the next round, once these seeds are revealed.
    pub fn draw(&self, authors: &[PeerId], seeds: &[Option<Digest>]) -> Panels {
        let revealed: Vec<PeerId> =
            authors.iter().zip(seeds).filter(|(_, seed)| seed.is_some()).map(|(author, _)| *author).collect();
        let head = self.head();
        draw(self.randomness_after(seeds), &head.roster, &self.manifest().anchors, &revealed)
    }

    /// What the judgements of a round find.
    pub fn assess(&self, round: &Judged<'_>) -> Result<Assessment, LedgerError> {
        let authors: Vec<PeerId> = round.commits.iter().map(|(author, _)| *author).collect();
        let draw = self.draw(&authors, round.seeds);
        let randomness = self.randomness_after(round.seeds);
        ascending("judgements", round.judgements.iter().map(|envelope| envelope.from))?;
        let mut opinions = Vec::new();
        for envelope in round.judgements {
            let said = self.hear("judgement", envelope, self.head().round + 1)?;
            let Message::Judgement(judgement) = &said.message else {
                return Err(LedgerError::Misplaced { what: "judgement", peer: said.from() });
            };
            if judgement.draw != randomness {
                return Err(LedgerError::Misplaced { what: "judgement", peer: said.from() });
            }
            opinions.extend(opinions_in(judgement, said.from(), &draw, round.commits)?);
        }
        let is_formed = |verdict: &Verdict| matches!(verdict, Verdict::Accepted | Verdict::Harmful | Verdict::Copied);
        let assigned = self.assigned_tokens().max(1);
        let subjects: Vec<Measurable> = round
            .commits
            .iter()
            .zip(round.verdicts)
            .filter(|(_, verdict)| is_formed(verdict))
            .map(|((author, commit), _)| Measurable {
                author: *author,
                update: commit.update,
                work_1024: (commit.tokens.min(assigned).saturating_mul(1024) / assigned).max(1) as i64,
            })
            .collect();
        Ok(assess(&subjects, &draw, &opinions))
    }

    /// What a body's judgements find.
    pub(crate) fn assess_body(&self, body: &Body, commits: &[(PeerId, Commit)]) -> Result<Assessment, LedgerError> {
        let content = &body.content;
        self.assess(&Judged {
            commits,
            seeds: &content.seeds,
            verdicts: &content.verdicts,
            judgements: &content.judgements,
        })
    }

    /// Whom two signed messages convict: a member of whom one session signed two different votes where it has one. Two
    /// sessions of one identity are two processes that know nothing of each other's votes, and only one of them counts.
    pub fn convicts(&self, proof: &Equivocation) -> Result<PeerId, LedgerError> {
        let (first, second) = (open("vote", &proof.first, self.run())?, open("vote", &proof.second, self.run())?);
        let peer = first.from();
        let misplaced = Err(LedgerError::Misplaced { what: "proof", peer });
        let (Message::Vote(one), Message::Vote(other)) = (&first.message, &second.message) else { return misplaced };
        let place = |vote: &Vote| (vote.parent, vote.view, vote.kind);
        let one_session = first.session == second.session && first.session != SessionId::NONE;
        let ordinary = matches!(one.kind, VoteKind::Prevote | VoteKind::Precommit);
        let contradict = place(one) == place(other) && first.round == second.round && one.body != other.body;
        let next = self.head().round + 1;
        let recent = first.round <= next && first.round + PROOF_ROUNDS_MAX >= next;
        let member = self.member(peer).is_some_and(|member| member.since <= first.round);
        if second.from() == peer && one_session && ordinary && contradict && recent && member {
            Ok(peer)
        } else {
            misplaced
        }
    }

    /// Those whom a body's proofs convict, in peer order.
    pub(crate) fn convicted(&self, body: &Body) -> Result<Vec<PeerId>, LedgerError> {
        let peers: Vec<PeerId> =
            body.proofs.iter().map(|proof| self.convicts(proof)).collect::<Result<_, LedgerError>>()?;
        ascending("proofs", peers.iter().copied())?;
        Ok(peers)
    }
}

/// Checks that a judgement speaks of updates that were drawn for its author, in order.
pub fn check_judgement(
    judgement: &Judgement,
    auditor: PeerId,
    draw: &Panels,
    commits: &[(PeerId, Commit)],
) -> Result<(), LedgerError> {
    opinions_in(judgement, auditor, draw, commits).map(|_| ())
}

/// Checks that the verdicts in a body on updates of good form are those that follow.
pub(crate) fn check_verdicts(
    commits: &[(PeerId, Commit)],
    verdicts: &[Verdict],
    found: &Assessment,
) -> Result<(), LedgerError> {
    for ((author, _), verdict) in commits.iter().zip(verdicts) {
        let judged = matches!(verdict, Verdict::Accepted | Verdict::Harmful | Verdict::Copied);
        if judged && *verdict != found.verdict(*author) {
            return Err(LedgerError::Judged(*author));
        }
    }
    Ok(())
}

/// What a judgement says, of whom: its scores must be of updates drawn for its author, in the order of theirs. One that
/// could not be measured may be left out.
fn opinions_in(
    judgement: &Judgement,
    auditor: PeerId,
    draw: &Panels,
    commits: &[(PeerId, Commit)],
) -> Result<Vec<Opinion>, LedgerError> {
    let mut drawn = commits.iter().filter(|(author, _)| draw.get(author).is_some_and(|all| all.contains(&auditor)));
    let is_auditor = draw.values().any(|auditors| auditors.contains(&auditor));
    let mut find = |(update, score): &(Digest, Score)| {
        let (author, _) = drawn.find(|(_, commit)| commit.update == *update)?;
        Some(Opinion { auditor, author: *author, score: *score })
    };
    let opinions: Option<Vec<Opinion>> = judgement.scores.iter().map(&mut find).collect();
    match opinions.filter(|_| is_auditor) {
        Some(opinions) => Ok(opinions),
        None => Err(LedgerError::Misplaced { what: "judgement", peer: auditor }),
    }
}
