//! What goes into a [`super::Crowd`] and what comes out.

use std::sync::Arc;

use shoal_wire::{
    Digest, Millis, PeerId, Round, RunId,
    crowd::{Blob, Body, Heard, Proposal},
    record::{Lock, Vote},
    sign::Identity,
};

use crate::Bytes;
pub use crate::{JobId, RecordId};

use super::Epoch;

/// Who this peer is and how long it waits for others.
#[derive(Clone, Debug)]
pub struct Config {
    pub run: RunId,
    pub identity: Identity,
    pub timing: Timing,
    /// A relay that keeps updates for everybody, where there is one.
    pub cache: Option<PeerId>,
}

/// How long peers wait. All of them end something that would otherwise wait for those who are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "units stand last in names")]
pub struct Timing {
    /// For the rest, once two thirds are there.
    pub grace_ms: u64,
    /// For each present peer whose turn it is before one's own.
    pub turn_ms: u64,
    /// For what a level of the tree, or the exchange in a group, has not got.
    pub level_ms: u64,
    /// For audits, from the first root that the committee has: it proposes nothing earlier.
    pub audit_ms: u64,
    /// For commits, from the start of the round.
    pub train_ms: u64,
    /// First timeout of each step of agreement; it grows with each view.
    pub view_ms: u64,
}

/// What happens to a peer.
#[derive(Debug)]
pub enum Input<'a> {
    /// A frame whose signatures were checked ([`shoal_wire::crowd::Frame::open`]).
    Heard {
        from: PeerId,
        heard: &'a Heard,
    },
    /// This peer can be reached again, or cannot be.
    Reachable {
        peer: PeerId,
        reachable: bool,
    },
    /// A [`Output::Fetch`] succeeded; the shell compared the bytes with their digest.
    Fetched {
        blob: Digest,
        from: PeerId,
        bytes: Bytes,
    },
    FetchFailed {
        blob: Digest,
        from: PeerId,
        why: Missing,
    },
    /// A [`Output::Compute`] finished.
    Computed {
        job: JobId,
        outcome: Outcome,
    },
    /// A [`Output::Persist`] reached stable storage.
    Persisted(RecordId),
    /// It did not: this peer votes no more.
    PersistFailed(RecordId),
    /// Time passed.
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Its uplink has enough to do.
    Busy,
    /// It has not got it, or went.
    Lacks,
}

#[derive(Clone, Debug)]
pub enum Output {
    /// One frame for each of these peers.
    Send {
        to: Vec<PeerId>,
        frame: Arc<[u8]>,
    },
    /// Get a blob from a peer.
    Fetch {
        blob: Blob,
        from: PeerId,
    },
    /// It took too long: the bytes are asked of somebody else.
    Cancel {
        blob: Digest,
        from: PeerId,
    },
    /// Serve these bytes to others.
    Keep {
        blob: Digest,
        bytes: Bytes,
    },
    Forget {
        blob: Digest,
    },
    Compute {
        job: JobId,
        work: Job,
    },
    /// Store a vote, then say [`Input::Persisted`].
    Persist {
        id: RecordId,
        record: Box<Stored>,
    },
    Tell(Event),
    /// Nothing more until an input, or this time.
    Idle(Millis),
}

/// An update and how much it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted {
    pub work: u16,
    pub trust: u16,
    pub update: Bytes,
}

/// Work for the engine and for integer sums.
#[derive(Clone, Debug)]
pub enum Job {
    /// Train from `model` (the parameters after round `epoch.round - 1`).
    Train { epoch: Arc<Epoch>, model: Bytes },
    /// Sum a group's updates, part by part.
    Sum { epoch: Arc<Epoch>, updates: Vec<Weighted> },
    /// Add sums of one part.
    Merge { part: u8, sums: Vec<Bytes> },
    /// Take the mean of a part and code it once. Where all are one group ([`Epoch::is_one_group`]) everybody has the sum
    /// already: then it stands for its mean, as it is.
    Finish { epoch: Arc<Epoch>, part: u8, sum: Bytes },
    /// Apply the means of all parts, coded or as sums.
    Apply { epoch: Arc<Epoch>, model: Bytes, coded: Vec<Option<Bytes>> },
    /// What follows from a body: the next roster and draw ([`Epoch::after`]).
    Next { epoch: Arc<Epoch>, body: Box<Body> },
}

#[derive(Clone, Debug)]
pub enum Outcome {
    /// `work` is the share of the assigned work that was done, 1 to 4,095.
    Trained {
        update: Bytes,
        work: u16,
    },
    Summed {
        sums: Vec<Bytes>,
    },
    Merged {
        sum: Bytes,
    },
    Finished {
        coded: Bytes,
        rates: Vec<u64>,
    },
    Applied {
        model: Bytes,
    },
    Next(Arc<Epoch>),
    /// Something does not decode, or was refused: these inputs (by position) when that is known, all of them otherwise.
    Refused {
        which: Vec<usize>,
    },
}

/// A vote as it is stored before it is sent, with the lock it stands for.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Stored {
    pub round: Round,
    pub vote: Vote,
    pub lock: Option<Lock>,
    pub proposal: Option<Box<Proposal>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The round is over and the model is here.
    Adopted { round: Round, model: Digest, contributors: u32 },
    /// A group's certified sum is not the sum of what its list names.
    WrongSum { group: u32 },
    /// Something failed here, in words.
    Trouble(String),
}
