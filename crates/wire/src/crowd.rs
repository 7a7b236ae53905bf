//! What peers of a run with many peers say: in groups, in the tree that merges the groups' sums, and in the committee.
//!
//! A *panel* is a set of peers that make one sum together: a group, or the peers that merge one part of the model at one
//! node of the tree. What more than two thirds of a panel's weight signed is a [`SumCertificate`], and whoever knows the
//! draw of the round can check it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Digest, Envelope, PeerId, Round, RunId, View, WireError, codec, limits,
    record::{Join, Vote},
    sign::{self, Domain, Identity, Signature, Verified},
};

/// What an envelope between peers of a large run holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    pub run: RunId,
    pub round: Round,
    /// Digest of the previous round's body.
    pub parent: Digest,
    pub message: Message,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// The digest of a sealed update, to its author's group.
    Commit(WorkCommit),
    /// A group's leader closes the commits.
    List(List),
    /// The seed that a commit hid, under which its update is sealed.
    Reveal(Digest),
    /// A panel's leader proposes a sum.
    Sum(Box<SumRecord>),
    /// "I computed the same": under the digest of a [`SumRecord`].
    Endorse(Digest),
    /// "Take me into the roster."
    Join(Join),
    Proposal(Box<Proposal>),
    Vote(Vote),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkCommit {
    /// The update as [`crate::sealed::seal`] makes it.
    pub update: Blob,
    /// How much of the assigned work was done, 1 to 4,095.
    pub work: u16,
    /// [`crate::record::seed_hash`] of a fresh seed.
    pub seed_hash: Digest,
}

/// The commits that a group goes on with: signed, in peer order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    pub view: View,
    pub commits: Vec<Envelope>,
}

impl List {
    /// Digest of the list, by which a group's sum names it.
    pub fn digest(&self) -> Digest {
        Digest::in_domain("shoal 2026 v1 crowd list", &codec::encode(&self.commits))
    }
}

/// A blob's address and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Blob {
    pub digest: Digest,
    pub bytes: u64,
}

/// A place in the tree of sums. Level 0 are the groups, which sum all parts of the model at once, under part 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Node {
    pub level: u8,
    pub index: u32,
    pub part: u8,
}

impl Node {
    /// Whether this node merges what `below` sums.
    pub fn is_over(self, below: Self) -> bool {
        below.level.checked_add(1) == Some(self.level)
            && self.index == below.index / limits::GROUP_MAX as u32
            && (below.level == 0 || below.part == self.part)
    }
}

/// A sum as a panel signs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumRecord {
    pub node: Node,
    /// The turn within the panel in which it was proposed.
    pub view: View,
    /// A group: the digest of its list. Further up: the digests of the merged records, in the order of their nodes.
    pub inputs: Vec<Digest>,
    /// Who is in it: for each group a bit for each place.
    pub attendance: BTreeMap<u32, u16>,
    /// Digest of the seeds that were revealed.
    pub seeds: Digest,
    /// The sum as a blob: in a group one for each part of the model, further up one.
    pub sums: Vec<Blob>,
    /// At the root, the mean.
    pub mean: Option<Mean>,
}

/// The mean of a part over all peers, coded once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mean {
    pub coded: Blob,
    /// Median rate of each piece of a tensor in the part.
    pub rates: Vec<u64>,
}

impl SumRecord {
    pub fn digest(&self) -> Digest {
        Digest::in_domain("shoal 2026 v1 crowd sum", &codec::encode(self))
    }
}

/// A sum and who endorsed it, in peer order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumCertificate {
    pub round: Round,
    pub parent: Digest,
    pub record: SumRecord,
    pub signatures: Vec<(PeerId, Signature)>,
}

impl SumCertificate {
    fn check(self, from: PeerId, run: RunId) -> Result<Verified<Self>, WireError> {
        let payload = endorsement(run, self.round, self.parent, self.record.digest());
        sign::verify_all(from, self, Domain::Crowd, &payload, |one| &one.signatures)
    }
}

/// A group's certified sum with what it takes to recompute it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub certificate: SumCertificate,
    /// The list that it names.
    pub list: List,
    /// The seeds of those who are in it, in the order of their places.
    pub seeds: Vec<Digest>,
}

/// A part of the model in a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartMean {
    /// Digest of the root's record, which names those that it merged, and so on down to the groups' lists.
    pub record: Digest,
    pub mean: Mean,
}

/// What a committee agrees on for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    pub run: RunId,
    pub round: Round,
    /// Digest of the previous round's body; of the run's id for round 1.
    pub parent: Digest,
    pub view: View,
    /// By part; a part without a sum stays as it is.
    pub parts: Vec<Option<PartMean>>,
    /// Who contributed: for each group a bit for each place.
    pub attendance: BTreeMap<u32, u16>,
    /// Signed [`Message::Join`]s of peers that are taken into the roster, in peer order.
    pub joins: Vec<Envelope>,
    /// Peers that endorsed a sum which the committee found wrong, in peer order.
    pub convicted: Vec<PeerId>,
    /// Root of the next roster's tree.
    pub roster: Digest,
    pub randomness: Digest,
    /// Digest of the resulting parameters.
    pub model: Digest,
}

impl Body {
    pub fn digest(&self) -> Digest {
        Digest::in_domain("shoal 2026 v1 crowd body", &codec::encode(self))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub view: View,
    /// The view in which more than 2/3 prevoted this body, when it is proposed again.
    pub valid_view: Option<View>,
    pub body: Body,
}

/// A body and the committee's precommits, in peer order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    pub body: Body,
    pub view: View,
    pub signatures: Vec<(PeerId, Signature)>,
}

/// What travels between two peers. What matters in it is signed; the rest are hints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Frame {
    Said(Envelope),
    Sum(SumCertificate),
    Certificate(Certificate),
    /// "I hold these updates."
    Holds(Vec<Blob>),
    /// "I hold these parts of the round's mean, coded."
    Coded {
        round: Round,
        parts: Vec<(u8, Blob)>,
    },
    /// To an auditor: "check this"; from one to the committee: "this is wrong".
    Audit(Evidence),
    /// "Send me the certificate of this round."
    Get(Round),
}

/// A frame whose signatures, all of them, were checked. Whether their authors count is for whoever knows the draw.
#[derive(Clone, Debug)]
pub enum Heard {
    Said(Envelope, Verified<Said>),
    Sum(Verified<SumCertificate>),
    Certificate(Verified<Certificate>),
    Holds(Vec<Blob>),
    Coded { round: Round, parts: Vec<(u8, Blob)> },
    Audit { certificate: Verified<SumCertificate>, list: List, seeds: Vec<Digest> },
    Get(Round),
}

impl Frame {
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a frame from outside and checks every signature in it.
    pub fn open(bytes: &[u8], from: PeerId, run: RunId) -> Result<Heard, WireError> {
        let frame: Self = codec::decode("crowd frame", bytes, limits::FRAME_BYTES_MAX)?;
        Ok(match frame {
            Self::Said(envelope) => {
                let said = Said::open(&envelope, run)?;
                Heard::Said(envelope, said)
            }
            Self::Sum(certificate) => Heard::Sum(certificate.check(from, run)?),
            Self::Audit(Evidence { certificate, list, seeds }) => {
                Heard::Audit { certificate: certificate.check(from, run)?, list, seeds }
            }
            Self::Certificate(certificate) => {
                if certificate.body.run != run {
                    return Err(WireError::OtherRun { what: "certificate" });
                }
                let payload = ballot(&certificate);
                Heard::Certificate(sign::verify_all(from, certificate, Domain::Crowd, &payload, |one| &one.signatures)?)
            }
            Self::Holds(blobs) => Heard::Holds(blobs),
            Self::Coded { round, parts } => Heard::Coded { round, parts },
            Self::Get(round) => Heard::Get(round),
        })
    }
}

impl Said {
    pub fn seal(self, identity: &Identity) -> Envelope {
        identity.seal(Domain::Crowd, &self)
    }

    /// Opens an envelope that must be about `run`.
    pub fn open(envelope: &Envelope, run: RunId) -> Result<Verified<Self>, WireError> {
        let said: Verified<Self> = envelope.open("crowd message", Domain::Crowd, limits::MESSAGE_BYTES_MAX)?;
        if said.run == run { Ok(said) } else { Err(WireError::OtherRun { what: "crowd message" }) }
    }
}

/// The bytes that an endorsement signs, so that a certificate can carry the signature alone.
pub fn endorsement(run: RunId, round: Round, parent: Digest, record: Digest) -> Vec<u8> {
    codec::encode(&Said { run, round, parent, message: Message::Endorse(record) })
}

/// The bytes that a certificate's precommits sign.
fn ballot(certificate: &Certificate) -> Vec<u8> {
    let Body { run, round, parent, .. } = certificate.body;
    let vote = Vote {
        parent,
        view: certificate.view,
        kind: crate::record::VoteKind::Precommit,
        body: Some(certificate.body.digest()),
    };
    codec::encode(&Said { run, round, parent, message: Message::Vote(vote) })
}
