//! Records that peers sign: commits, lists, votes, and the body and certificate of a round.
//!
//! A round's *body* holds everything that follows rounds depend on; a *certificate* is a body with the
//! signatures that a quorum put under it. Chain, randomness and credit are functions of bodies, never of
//! which signatures happen to be attached.

use serde::{Deserialize, Serialize};

use crate::{
    Digest, Envelope, PeerId, Round, RunId, SessionId, View, WireError,
    charter::{Amendment, Ballot},
    codec,
    judging::{Equivocation, Judgement, Standing},
    limits,
    sign::{Domain, Identity, Signature, Verified},
};

/// What an envelope between peers of a run holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    pub run: RunId,
    /// The round that it is about.
    pub round: Round,
    /// The opening of its author's identity that says it. Of a member, only what the session in the roster says counts.
    pub session: SessionId,
    pub message: Message,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// "Take me into the roster", or "this session takes the place of the one that is there".
    Join(Join),
    /// "I am going; do not wait for me."
    Leave,
    /// The digest of an update, before anyone can see it.
    Commit(Commit),
    /// A leader closes the commits.
    CommitList(CommitList),
    /// The seed that a commit hid.
    Reveal(Digest),
    /// Which of the listed updates this peer holds.
    Have(Have),
    Proposal(Box<Proposal>),
    Vote(Vote),
    /// An anchor asks who is there.
    RecoveryCall(RecoveryCall),
    RecoveryAnswer(RecoveryAnswer),
    /// What an auditor measured of the updates that were drawn for it.
    Judgement(Judgement),
    /// "This peer signed two things that contradict each other."
    Equivocation(Box<Equivocation>),
    Amendment(Box<Amendment>),
    Ballot(Ballot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Votes survive a crash of this peer, so it may vote.
    pub durable: bool,
    pub trains: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Digest of the previous round's body.
    pub parent: Digest,
    pub update: Digest,
    pub update_bytes: u64,
    pub steps: u32,
    pub tokens: u64,
    /// Mean losses in nats over the first and the last quarter of the local steps.
    pub loss_first: f32,
    pub loss_last: f32,
    /// [`seed_hash`] of a fresh seed.
    pub seed_hash: Digest,
}

/// What a commit says of its seed before the seed is revealed.
pub fn seed_hash(seed: Digest) -> Digest {
    Digest::in_domain("shoal 2026 v1 seed", &seed.0)
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitList {
    pub view: View,
    /// [`Envelope::id`]s of the commits, in peer order.
    pub commits: Vec<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    pub updates: Vec<Digest>,
}

/// What a round did to the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The leader's signed [`CommitList`]; none in a round without commits.
    pub list: Option<Envelope>,
    /// The listed commits, signed, in the list's order.
    pub commits: Vec<Envelope>,
    /// The revealed seed of each commit.
    pub seeds: Vec<Option<Digest>>,
    /// Signed [`Message::Judgement`]s, in peer order.
    pub judgements: Vec<Envelope>,
    /// What became of each commit's update.
    pub verdicts: Vec<Verdict>,
    /// Median norm of the accepted updates for each tensor, in units of 2⁻⁴⁰; empty without updates.
    pub norms: Vec<u64>,
    /// Digest of the resulting parameters.
    pub model: Digest,
}

impl Content {
    pub fn digest(&self) -> Digest {
        Digest::in_domain("shoal 2026 v1 content", &codec::encode(self))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Accepted,
    /// Too few peers got it in time.
    Unavailable,
    /// Its seed was not revealed.
    Withheld,
    /// It does not decode for this model, or is a copy of another.
    Malformed,
    /// Its auditors found that it repeats what an earlier commit holds.
    Copied,
    /// Its auditors found that it does not help the model as honest work does.
    Harmful,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Body {
    pub run: RunId,
    pub round: Round,
    /// Digest of the previous round's body; of the run's id for round 1.
    pub parent: Digest,
    /// View in which this body was first proposed.
    pub view: View,
    pub content: Content,
    /// Signed [`Message::Join`]s taken into the next roster.
    pub joins: Vec<Envelope>,
    /// Signed [`Message::Leave`]s.
    pub leaves: Vec<Envelope>,
    /// Proofs that members contradicted themselves, in the order of whom they convict.
    pub proofs: Vec<Equivocation>,
    /// Signed [`Message::Amendment`]s and [`Message::Ballot`]s, by id.
    pub charter: Vec<Envelope>,
    /// Set when those present and the anchors go on without a quorum.
    pub recovery: Option<Recovery>,
    /// Who takes part in the next round.
    pub roster: Vec<Member>,
    pub randomness: Digest,
}

impl Body {
    pub fn digest(&self) -> Digest {
        Digest::in_domain("shoal 2026 v1 body", &codec::encode(self))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    pub attempt: u32,
    /// Signed [`RecoveryAnswer`]s of everyone present, in peer order.
    pub answers: Vec<Envelope>,
}

/// A participant as the chain knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub peer: PeerId,
    /// First round it takes part in.
    pub since: Round,
    /// Who speaks for it.
    pub session: SessionId,
    /// The round that this session's join names: only one of a later round brings another session.
    pub session_round: Round,
    /// Consecutive audits that found its work good, less the rounds that it was away.
    pub valid: u32,
    /// Consecutive rounds without a commit.
    pub missed: u32,
    pub durable: bool,
    pub trains: bool,
    pub standing: Standing,
}

impl Member {
    /// Somebody of whom nothing is known yet, with no session.
    pub fn new(peer: PeerId, since: Round, join: Join) -> Self {
        let Join { durable, trains } = join;
        let (session, session_round) = (SessionId::NONE, 0);
        Self {
            peer,
            since,
            session,
            session_round,
            valid: 0,
            missed: 0,
            durable,
            trains,
            standing: Standing::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    pub view: View,
    /// The view in which more than 2/3 prevoted this body, when it is proposed again.
    pub valid_view: Option<View>,
    pub body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum VoteKind {
    Prevote,
    Precommit,
    /// Under a recovery's body; the vote's view is the recovery's attempt.
    Recovery,
}

/// A vote for a body, or for none of those proposed in the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Digest of the previous round's body: where histories part for a while, a vote counts in one of them.
    pub parent: Digest,
    pub view: View,
    pub kind: VoteKind,
    pub body: Option<Digest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryCall {
    pub attempt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryAnswer {
    pub attempt: u32,
    pub lock: Option<Lock>,
}

/// The content that a peer saw more than 2/3 prevote for, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    pub view: View,
    pub content: Digest,
}

/// A body and the votes that decided it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    pub body: Body,
    /// The view (or the recovery's attempt) of the attached votes.
    pub view: View,
    /// Precommits, or recovery votes when the body is a recovery, in peer order.
    pub signatures: Vec<(PeerId, Signature)>,
}

impl Certificate {
    pub fn kind(&self) -> VoteKind {
        if self.body.recovery.is_some() { VoteKind::Recovery } else { VoteKind::Precommit }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        codec::decode("certificate", bytes, limits::CERTIFICATE_BYTES_MAX)
    }
}

impl Said {
    pub fn seal(self, identity: &Identity) -> Envelope {
        identity.seal(Domain::Swarm, &self)
    }

    /// Opens an envelope that must be about `run`.
    pub fn open(envelope: &Envelope, run: RunId) -> Result<Verified<Self>, WireError> {
        let said: Verified<Self> = envelope.open("message", Domain::Swarm, limits::MESSAGE_BYTES_MAX)?;
        if said.run == run { Ok(said) } else { Err(WireError::OtherRun { what: "message" }) }
    }
}

/// The bytes that a vote signs, so that a certificate can carry the signature alone.
pub fn vote_payload(run: RunId, round: Round, session: SessionId, vote: Vote) -> Vec<u8> {
    codec::encode(&Said { run, round, session, message: Message::Vote(vote) })
}
