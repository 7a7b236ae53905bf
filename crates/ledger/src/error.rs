//! Why a body or a certificate does not hold.

use shoal_wire::{Digest, PeerId, Round, WireError};
use thiserror::Error;

use crate::CharterError;

#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum LedgerError {
    #[error("round {got} does not follow round {head}")]
    NotNext { got: Round, head: Round },
    #[error("it belongs to another run")]
    OtherRun,
    #[error("its parent {got} is not the last body {head}")]
    OtherParent { got: Digest, head: Digest },
    #[error("{what}: {source}")]
    Envelope { what: &'static str, source: WireError },
    #[error("{what} of {peer} does not belong in this round")]
    Misplaced { what: &'static str, peer: PeerId },
    #[error("{0} are not in peer order, or repeat a peer")]
    Order(&'static str),
    #[error("the list of commits is not from the leader of its view")]
    NotLeader,
    #[error("the commits are not those of the list")]
    NotListed,
    #[error("seeds and verdicts do not fit the commits")]
    Verdicts,
    #[error("the seed of {0} is not the one it committed to")]
    Seed(PeerId),
    #[error("the verdict on the update of {0} is not what its judgements say")]
    Judged(PeerId),
    #[error("the update of {0} is accepted twice")]
    Copied(PeerId),
    #[error("a round without accepted updates must not change the model")]
    ChangedWithoutUpdates,
    #[error("the run was decided to stop after round {last}")]
    Over { last: Round },
    #[error("amendment or ballot of {peer}: {source}")]
    Charter { peer: PeerId, source: CharterError },
    #[error("{what} of {peer}: not by the session that the roster has")]
    OtherSession { what: &'static str, peer: PeerId },
    #[error("the recovery does not carry on the newest lock")]
    IgnoredLock,
    #[error("the next roster is not the one that follows")]
    Roster,
    #[error("the randomness is not the one that follows")]
    Randomness,
    #[error("vote of {0}: not a voter, or not in peer order")]
    Voter(PeerId),
    #[error("signature of {0} does not hold")]
    Signature(PeerId),
    #[error("signed by weight {got} of {total}: no quorum")]
    NoQuorum { got: u64, total: u64 },
    #[error("a recovery needs all who are present and most anchors")]
    NoRecoveryQuorum,
}
