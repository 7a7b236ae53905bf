//! What a body holds, checked against the chain: its commits, its list, who joins and leaves, and a recovery's answers.

use std::collections::BTreeSet;

use shoal_wire::{
    Digest, Envelope, PeerId, Round, Verified,
    record::{Body, Commit, Member, Message, Said, Verdict, seed_hash},
};

use super::{Chain, ascending, open};
use crate::{
    LedgerError,
    judging::{self, Assessment},
};

impl Chain {
    pub(super) fn check_content(&self, body: &Body) -> Result<(Vec<(PeerId, Commit)>, Assessment), LedgerError> {
        let content = &body.content;
        ascending("commits", content.commits.iter().map(|envelope| envelope.from))?;
        let mut commits = Vec::with_capacity(content.commits.len());
        for envelope in &content.commits {
            let commit = commit_in(self.hear("commit", envelope, body.round)?)?;
            self.check_commit(&commit, envelope.from)?;
            commits.push((envelope.from, commit));
        }
        self.check_list(body)?;
        if content.seeds.len() != commits.len() || content.verdicts.len() != commits.len() {
            return Err(LedgerError::Verdicts);
        }
        for (((peer, commit), seed), verdict) in commits.iter().zip(&content.seeds).zip(&content.verdicts) {
            match seed {
                Some(seed) if seed_hash(*seed) != commit.seed_hash => return Err(LedgerError::Seed(*peer)),
                Some(_) if *verdict == Verdict::Withheld => return Err(LedgerError::Verdicts),
                None if *verdict != Verdict::Withheld => return Err(LedgerError::Verdicts),
                _ => {}
            }
        }
        let mut taken = BTreeSet::new();
        let accepted = commits.iter().zip(&content.verdicts).filter(|(_, verdict)| **verdict == Verdict::Accepted);
        if let Some(((peer, _), _)) = accepted.into_iter().find(|((_, commit), _)| !taken.insert(commit.update)) {
            return Err(LedgerError::Copied(*peer));
        }
        let accepted = content.verdicts.contains(&Verdict::Accepted);
        if accepted == content.norms.is_empty() {
            return Err(LedgerError::Verdicts);
        }
        if !accepted && content.model != self.head.model {
            return Err(LedgerError::ChangedWithoutUpdates);
        }
        let found = self.assess_body(body, &commits)?;
        judging::check_verdicts(&commits, &content.verdicts, &found)?;
        Ok((commits, found))
    }

    fn check_list(&self, body: &Body) -> Result<(), LedgerError> {
        let ids: Vec<Digest> = body.content.commits.iter().map(Envelope::id).collect();
        let Some(envelope) = &body.content.list else {
            return if ids.is_empty() { Ok(()) } else { Err(LedgerError::NotListed) };
        };
        let said = self.hear("list", envelope, body.round)?;
        let Message::CommitList(list) = &said.message else {
            return Err(LedgerError::Misplaced { what: "list", peer: said.from() });
        };
        if self.leaders().get(list.view as usize) != Some(&said.from()) {
            return Err(LedgerError::NotLeader);
        }
        if list.commits == ids { Ok(()) } else { Err(LedgerError::NotListed) }
    }

    /// Opens what a member said about a round, in the session that the roster has.
    pub(crate) fn hear(
        &self,
        what: &'static str,
        envelope: &Envelope,
        round: Round,
    ) -> Result<Verified<Said>, LedgerError> {
        let said = open(what, envelope, self.run)?;
        let peer = said.from();
        if said.round != round || self.member(peer).is_none() {
            return Err(LedgerError::Misplaced { what, peer });
        }
        self.check_session(what, &said)?;
        Ok(said)
    }

    /// Of a member, only what the session in the roster says counts.
    pub(crate) fn check_session(&self, what: &'static str, said: &Verified<Said>) -> Result<(), LedgerError> {
        let peer = said.from();
        match self.member(peer) {
            Some(member) if member.session != said.session => Err(LedgerError::OtherSession { what, peer }),
            _ => Ok(()),
        }
    }

    pub(super) fn joiners(&self, body: &Body) -> Result<Vec<Member>, LedgerError> {
        ascending("joins", body.joins.iter().map(|envelope| envelope.from))?;
        let mut members = Vec::with_capacity(body.joins.len());
        for envelope in &body.joins {
            let said = open("join", envelope, self.run)?;
            let Message::Join(join) = said.message else {
                return Err(LedgerError::Misplaced { what: "join", peer: said.from() });
            };
            self.check_join(said.round, said.session, said.from())?;
            let (session, session_round) = (said.session, said.round);
            let newcomer = Member::new(said.from(), body.round + 1, join);
            members.push(Member { session, session_round, ..newcomer });
        }
        Ok(members)
    }

    pub(super) fn leavers(&self, body: &Body) -> Result<Vec<PeerId>, LedgerError> {
        ascending("leaves", body.leaves.iter().map(|envelope| envelope.from))?;
        for envelope in &body.leaves {
            let said = self.hear("leave", envelope, body.round)?;
            if said.message != Message::Leave {
                return Err(LedgerError::Misplaced { what: "leave", peer: said.from() });
            }
        }
        Ok(body.leaves.iter().map(|envelope| envelope.from).collect())
    }

    /// In a recovery, the members that answered.
    pub(super) fn present(&self, body: &Body) -> Result<Option<Vec<PeerId>>, LedgerError> {
        let Some(recovery) = &body.recovery else { return Ok(None) };
        ascending("answers", recovery.answers.iter().map(|envelope| envelope.from))?;
        for envelope in &recovery.answers {
            let said = self.hear("answer", envelope, body.round)?;
            let answers =
                matches!(&said.message, Message::RecoveryAnswer(answer) if answer.attempt == recovery.attempt);
            if !answers {
                return Err(LedgerError::Misplaced { what: "answer", peer: said.from() });
            }
        }
        Ok(Some(recovery.answers.iter().map(|envelope| envelope.from).collect()))
    }

    /// The newest lock among the answers must be carried on.
    pub(super) fn check_locks(&self, body: &Body) -> Result<(), LedgerError> {
        let answers = body.recovery.iter().flat_map(|recovery| &recovery.answers);
        let mut newest = None;
        for envelope in answers {
            if let Message::RecoveryAnswer(answer) = open("answer", envelope, self.run)?.into_inner().message {
                newest = newest.max(answer.lock.map(|lock| (lock.view, lock.content)));
            }
        }
        match newest {
            Some((_, content)) if content != body.content.digest() => Err(LedgerError::IgnoredLock),
            _ => Ok(()),
        }
    }

    pub(super) fn check_recovery_quorum(&self, body: &Body, signers: &[PeerId]) -> Result<(), LedgerError> {
        let present = self.present(body)?.unwrap_or_default();
        let anchors = &self.manifest.anchors;
        let voters = self.weights();
        let all_present = present
            .iter()
            .filter(|peer| !anchors.contains(peer) && voters.get(peer).is_some_and(|weight| *weight > 0))
            .all(|peer| signers.contains(peer));
        let signed = anchors.iter().filter(|anchor| signers.contains(anchor)).count();
        let only_present = signers.iter().all(|signer| present.contains(signer));
        if all_present && only_present && signed * 2 > anchors.len() {
            Ok(())
        } else {
            Err(LedgerError::NoRecoveryQuorum)
        }
    }
}

pub(super) fn commit_in(said: Verified<Said>) -> Result<Commit, LedgerError> {
    let from = said.from();
    match said.into_inner().message {
        Message::Commit(commit) => Ok(commit),
        _ => Err(LedgerError::Misplaced { what: "commit", peer: from }),
    }
}
