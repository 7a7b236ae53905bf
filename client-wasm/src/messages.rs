//! What the page and the workers say to each other. The page's side is `web/src/client/messages.ts`.

use serde::{Deserialize, Serialize};
use shoal_swarm::{Bytes, Job, JobId, Outcome, Phase, RosterEntry, Snapshot};
use shoal_wire::{Digest, PeerId, Round, judging::Score, share::Share};

use crate::blob::Blob;

/// A worker cannot go on.
#[derive(Debug, Serialize)]
pub struct Failure {
    #[serde(rename = "type")]
    kind_of_message: &'static str,
    pub kind: &'static str,
    pub text: String,
}

impl Failure {
    pub fn new(kind: &'static str, text: &impl ToString) -> Self {
        Self { kind_of_message: "failed", kind, text: text.to_string() }
    }
}

/// Names one direct link. Attempts go as text: JavaScript's numbers do not hold all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkName {
    pub peer: PeerId,
    pub attempt: String,
}

impl LinkName {
    pub fn new(peer: PeerId, attempt: u64) -> Self {
        Self { peer, attempt: attempt.to_string() }
    }
}

/// From the peer worker to the page's links.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum LinkCommand {
    Offer {
        link: LinkName,
    },
    AcceptOffer {
        link: LinkName,
        sdp: String,
    },
    AcceptAnswer {
        link: LinkName,
        sdp: String,
    },
    AddCandidate {
        link: LinkName,
        candidate: String,
        mid: Option<String>,
        line: Option<u16>,
    },
    Close {
        link: LinkName,
    },
    /// Only where channels cannot move to a worker.
    Write {
        link: LinkName,
        bulk: bool,
        piece: Blob,
    },
}

/// From the page's links to the peer worker. Channels that moved are announced by a message of type
/// `channels`, which carries them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum LinkNews {
    Described {
        link: LinkName,
        offer: bool,
        sdp: String,
    },
    Candidate {
        link: LinkName,
        candidate: String,
        mid: Option<String>,
        line: Option<u16>,
    },
    Closed {
        link: LinkName,
    },
    /// The channels stay on the page.
    Pumped {
        link: LinkName,
    },
    /// Both pumped channels are open.
    Opened {
        link: LinkName,
    },
    Piece {
        link: LinkName,
        bulk: bool,
        bytes: Blob,
    },
}

/// From the page itself to the peer worker.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum PageCommand {
    Pause,
    Resume,
    Leave,
}

/// From the peer worker to the page.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum PeerNews {
    Opening { text: String },
    Ready { peer: PeerId, durable: bool, why: Option<String>, head: Round },
    Status(Box<Status>),
    Certified { round: Round, model: Digest, accepted: u32, own: bool, recovery: bool },
    CaughtUp { round: Round, model: Digest },
    RolledBack { to: Round },
    Notice { text: String },
    Link { command: LinkCommand },
    Left,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub head: Round,
    pub round: Round,
    pub phase: Phase,
    pub phase_progress: f32,
    pub roster: Vec<RosterEntry>,
    pub present: u64,
    pub needed: u64,
    pub accepted_own: u64,
    pub links: Vec<LinkStatus>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub relay: bool,
    pub durable: bool,
}

#[derive(Debug, Serialize)]
pub struct LinkStatus {
    pub peer: PeerId,
    pub direct: bool,
}

/// What the shell counts beside the swarm's own snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub relay: bool,
    pub durable: bool,
}

impl Status {
    pub fn new(snapshot: Snapshot, links: impl Iterator<Item = (PeerId, bool)>, counters: Counters) -> Self {
        Self {
            head: snapshot.head,
            round: snapshot.head + 1,
            phase: snapshot.phase,
            phase_progress: snapshot.progress,
            present: snapshot.weight_present,
            needed: snapshot.weight_total * 2 / 3 + 1,
            roster: snapshot.roster,
            accepted_own: snapshot.accepted_own,
            links: links.map(|(peer, direct)| LinkStatus { peer, direct }).collect(),
            bytes_up: counters.bytes_up,
            bytes_down: counters.bytes_down,
            relay: counters.relay,
            durable: counters.durable,
        }
    }
}

/// From the compute worker to the page.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ComputeNews {
    Engine { kind: &'static str, name: String, why: Option<String> },
    Progress { round: Round, step: u32, steps: u32, loss: Option<f32>, tokens: u64, tokens_per_second: f64 },
    Evaluated { round: Round, loss: f32 },
    Sample { id: u32, text: String, done: bool },
}

/// From the page to the compute worker.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ComputeCommand {
    Pace { duty: f64 },
    Sample { id: u32, prompt: String },
}

/// From the peer worker to the compute worker, in postcard over their port.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToCompute {
    Setup {
        manifest: Blob,
        peer: PeerId,
        text: Blob,
        residual: Option<Blob>,
    },
    Train {
        job: JobId,
        round: Round,
        model: Blob,
        randomness: Digest,
        steps: u32,
        learning_rate_1024: u32,
        settled: Option<Share>,
    },
    Check {
        job: JobId,
        update: Blob,
    },
    Aggregate {
        job: JobId,
        model: Blob,
        updates: Vec<(u16, Blob)>,
        history: Vec<Vec<u64>>,
        share: Share,
    },
    Judge(JudgeJob),
    Stop {
        job: JobId,
        keep: bool,
    },
    Evaluate {
        round: Round,
        model: Blob,
    },
}

/// [`Job::Judge`].
#[derive(Debug, Serialize, Deserialize)]
pub struct JudgeJob {
    pub job: JobId,
    pub model: Blob,
    pub randomness: Digest,
    pub draw: Digest,
    /// Authors, their updates, and the steps that they say they trained.
    pub subjects: Vec<(PeerId, Blob, u32)>,
    pub own: Option<Blob>,
    pub round_updates: Vec<(PeerId, Blob)>,
}

/// From the compute worker to the peer worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromCompute {
    Trained { job: JobId, update: Blob, steps: u32, tokens: u64, loss_first: f32, loss_last: f32 },
    Checked { job: JobId, well_formed: bool },
    Aggregated { job: JobId, model: Blob, norms: Vec<u64> },
    Judged { job: JobId, scores: Vec<Score> },
    Failed { job: JobId, reason: String },
    Residual(Blob),
}

fn blob(bytes: &Bytes) -> Blob {
    Blob(bytes.to_vec())
}

impl ToCompute {
    pub fn from_job(job: JobId, work: &Job) -> Self {
        match work {
            Job::Train { round, model, randomness, steps, learning_rate_1024, settled } => Self::Train {
                job,
                round: *round,
                model: blob(model),
                randomness: *randomness,
                steps: *steps,
                learning_rate_1024: *learning_rate_1024,
                settled: *settled,
            },
            Job::Check { update } => Self::Check { job, update: blob(update) },
            Job::Aggregate { model, updates, history, share } => Self::Aggregate {
                job,
                model: blob(model),
                updates: updates.iter().map(|(weight, update)| (*weight, blob(update))).collect(),
                history: history.clone(),
                share: *share,
            },
            Job::Judge { model, randomness, draw, subjects, own, round_updates, .. } => Self::Judge(JudgeJob {
                job,
                model: blob(model),
                randomness: *randomness,
                draw: *draw,
                subjects: subjects.iter().map(|of| (of.author, blob(&of.update), of.steps)).collect(),
                own: own.as_ref().map(blob),
                round_updates: round_updates.iter().map(|(author, update)| (*author, blob(update))).collect(),
            }),
        }
    }
}

impl FromCompute {
    /// The swarm's input, or the residual to keep.
    pub fn into_outcome(self) -> Result<(JobId, Outcome), Blob> {
        Ok(match self {
            Self::Trained { job, update, steps, tokens, loss_first, loss_last } => {
                (job, Outcome::Trained { update: update.0.into(), steps, tokens, loss_first, loss_last })
            }
            Self::Checked { job, well_formed } => (job, Outcome::Checked { well_formed }),
            Self::Aggregated { job, model, norms } => (job, Outcome::Aggregated { model: model.0.into(), norms }),
            Self::Judged { job, scores } => (job, Outcome::Judged { scores }),
            Self::Failed { job, reason } => (job, Outcome::Failed { reason }),
            Self::Residual(residual) => return Err(residual),
        })
    }
}
