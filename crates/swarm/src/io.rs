//! What goes into a [`crate::Swarm`] and what comes out.

use std::sync::Arc;

use shoal_wire::{
    Digest, Envelope, Manifest, Millis, PeerId, Round, SessionId,
    charter::{Amendment, Ballot},
    judging::Score,
    record::{Certificate, Join, Lock, Verdict, Vote},
    share::Share,
    sign::Identity,
};

/// Bytes shared between the state machine and its shell without copying.
pub type Bytes = Arc<[u8]>;
pub type JobId = u64;
pub type RecordId = u64;

/// Who this peer is and what it offers.
#[derive(Clone, Debug)]
pub struct Config {
    pub manifest: Manifest,
    pub identity: Identity,
    /// This opening of the identity: 32 bytes drawn at random and kept beside the votes, so that it is the same after a
    /// restart, and another wherever the votes are not at hand.
    pub session: SessionId,
    /// Whether it trains, and whether its votes survive a crash.
    pub join: Join,
    /// Keeps every update of the run, so that others can replay it.
    pub archive: bool,
}

/// What the store gave back after a restart; all empty for a newcomer.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The chain from round 1, without gaps.
    pub certificates: Vec<Certificate>,
    /// The model of the last certified round, when the store has it.
    pub model: Option<Bytes>,
    /// Votes of the rounds after the last certificate.
    pub votes: Vec<Persisted>,
}

/// What happens to a peer.
#[derive(Debug)]
pub enum Input<'a> {
    /// Frames can be exchanged with this peer from now on, directly or through a relay.
    LinkUp(PeerId),
    LinkDown(PeerId),
    /// One frame, as bytes from outside.
    Frame {
        from: PeerId,
        bytes: &'a [u8],
    },
    /// A [`Output::Compute`] finished.
    Computed {
        job: JobId,
        outcome: Outcome,
    },
    /// A [`Output::Persist`] reached stable storage.
    Persisted(RecordId),
    /// A [`Output::Persist`] could not be stored. After a vote, this peer stops voting.
    PersistFailed {
        record: RecordId,
        reason: String,
    },
    /// Answer to [`Output::Load`].
    Loaded {
        blob: Digest,
        bytes: Option<Bytes>,
    },
    /// Time passed; nothing else.
    Tick,
    Command(Command),
}

/// What its person asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask to be taken into the roster and train.
    Start,
    /// Go on following the run without training.
    Pause,
    /// Say good-bye; links may be closed after the next drain.
    Leave,
    /// Propose a change of the run. It is said each round until a certificate carries it or it no longer fits.
    Amend(Box<Amendment>),
    /// Vote on an open amendment, in the same way.
    Ballot(Ballot),
}

#[derive(Debug, PartialEq)]
pub enum Output {
    /// One frame for one linked peer; `bulk` frames yield to others.
    Send {
        to: PeerId,
        frame: Vec<u8>,
        bulk: bool,
    },
    /// This peer broke the rules: close the link.
    Drop {
        peer: PeerId,
        why: String,
    },
    Compute {
        job: JobId,
        work: Job,
    },
    /// Training must end now; its outcome so far counts (`keep`) or is of no use any more.
    Stop {
        job: JobId,
        keep: bool,
    },
    /// Store this, then say [`Input::Persisted`].
    Persist {
        id: RecordId,
        record: Record,
    },
    /// Nobody needs this unpinned blob any more: it may be dropped.
    Forget {
        blob: Digest,
    },
    /// Read a blob from the store, then say [`Input::Loaded`].
    Load {
        blob: Digest,
    },
    Tell(Event),
    /// Nothing more until an input, or this time.
    Idle(Millis),
}

/// Work for the engine and the outer step.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// Train from `model` (the parameters after round `round - 1`).
    Train {
        round: Round,
        model: Bytes,
        randomness: Digest,
        steps: u32,
        /// Inner learning rates, in 1/1024 of the recipe's.
        learning_rate_1024: u32,
        /// By which share the last update that a training job made is done with; `None` when there was none. The rest of
        /// it goes back into the residual. Told again until a job makes the next one,
        /// since a job that was stopped may not have begun.
        settled: Option<Share>,
    },
    /// Is this a well-formed update for the run's model?
    Check { update: Bytes },
    /// The outer step: clip, weigh, average and apply updates, this share of what was promised, to `model`.
    Aggregate { model: Bytes, updates: Vec<(u16, Bytes)>, history: Vec<Vec<u64>>, share: Share },
    /// Measure what each of these updates does to `model`, the parameters after round `round - 1`.
    Judge {
        round: Round,
        model: Bytes,
        /// From which each author's data follows, as in [`Job::Train`].
        randomness: Digest,
        /// The randomness after this round's seeds, from which follows what part of these data is measured on, and on which
        /// others: the same for all auditors, so that they can agree.
        draw: Digest,
        subjects: Vec<Subject>,
        /// This peer's own update of the round.
        own: Option<Bytes>,
        /// Every update of the round that is here, with its author, those that were committed first in front.
        round_updates: Vec<(PeerId, Bytes)>,
    },
}

/// An update to judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    pub author: PeerId,
    pub update: Bytes,
    /// Steps that the tokens of its author's commit stand for: it is measured on their data.
    pub steps: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Trained {
        update: Bytes,
        steps: u32,
        tokens: u64,
        loss_first: f32,
        loss_last: f32,
    },
    Checked {
        well_formed: bool,
    },
    Aggregated {
        model: Bytes,
        norms: Vec<u64>,
    },
    /// In the order of the subjects.
    Judged {
        scores: Vec<Score>,
    },
    Failed {
        reason: String,
    },
}

/// What must survive a crash.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Vote(Persisted),
    /// The session to go on in after a restart, in place of the one before.
    Session(SessionId),
    Certificate(Box<Certificate>),
    /// An update or a checkpoint. Unpinned blobs may be dropped when space is short.
    Blob {
        digest: Digest,
        bytes: Bytes,
        pinned: bool,
    },
}

/// A vote as it is stored before it is sent, with the lock it stands for.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Persisted {
    pub round: Round,
    pub session: SessionId,
    pub vote: Vote,
    pub lock: Option<Lock>,
    /// The signed proposal of the lock or of the recovery, so that it can be proposed again after a restart, and had
    /// by others.
    pub proposal: Option<Box<Envelope>>,
}

/// News for the shell and its person.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The chain grew by one round and the model is here.
    Certified {
        round: Round,
        body: Digest,
        model: Digest,
        accepted: u32,
        own: Option<Verdict>,
        recovery: bool,
    },
    /// This peer was behind and now holds the common model of this round.
    CaughtUp {
        round: Round,
        model: Digest,
    },
    /// A provisional recovery was replaced by an ordinary certificate.
    RolledBack {
        to: Round,
    },
    JoinedRoster {
        round: Round,
    },
    LeftRoster {
        round: Round,
    },
    /// The same identity was opened somewhere else, and speaks for it from this round on: this peer only follows, until
    /// it is told to start again.
    Replaced {
        round: Round,
    },
    /// Somebody proposed a change of the run; ballots on it name `amendment`.
    Proposed {
        round: Round,
        amendment: Digest,
        by: PeerId,
    },
    /// The vote on an amendment closed.
    Decided {
        round: Round,
        amendment: Digest,
        accepted: bool,
    },
    /// It was decided that no round follows this one.
    Over {
        round: Round,
    },
    /// Too little weight is present; training goes on locally.
    Waiting {
        present: u32,
        needed: u32,
    },
    /// Something failed here, in words.
    Trouble(String),
}
