//! What a peer holds: everything a [`Swarm`] decides from.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_ledger::{Chain, Step};
use shoal_wire::{
    Digest, Envelope, Millis, PeerId, Round, RunId, SessionId, View, codec,
    frame::Frame,
    limits::{BLOB_BYTES_MAX, MESSAGE_BYTES_MAX, UPDATE_BYTES_EXTRA},
    manifest::Codec,
    record::{Certificate, Join, Message, Proposal, Said, Verdict, Vote},
    share::Share,
    sign::Identity,
};

use crate::{
    Bytes, Event, Job, JobId, Output, RecordId,
    judge::Judging,
    pace::Pace,
    pool::{Pool, Views},
    rules::VoteState,
    transfer::Transfers,
};

/// A member not heard of for this long is not waited for.
pub(crate) const PRESENCE_MS: u64 = 5_000;
/// Heartbeats tell links where this peer stands.
pub(crate) const HEARTBEAT_MS: u64 = 1_000;
/// Between the end of training and the closing of the commits.
pub(crate) const CLOSING_GRACE_MS: u64 = 2_000;

/// One peer's state machine. See the crate's documentation for its one law.
#[derive(Debug)]
pub struct Swarm {
    pub(crate) me: PeerId,
    pub(crate) identity: Identity,
    pub(crate) session: SessionId,
    pub(crate) run: RunId,
    pub(crate) join: Join,
    pub(crate) archive: bool,
    pub(crate) now: Millis,
    pub(crate) out: VecDeque<Output>,
    pub(crate) drained: bool,
    /// Something changed in this pass of [`Swarm::advance`], so another pass is due.
    pub(crate) changed: bool,

    pub(crate) chain: Chain,
    pub(crate) certificates: BTreeMap<Round, Certificate>,
    /// The newest common model here, and the round that it belongs to.
    pub(crate) model: Option<(Round, Bytes)>,
    /// Bytes of any model of this run; 0 until one was seen.
    pub(crate) model_bytes: u64,
    /// Certified rounds whose model is not here yet.
    pub(crate) steps: BTreeMap<Round, Step>,
    /// A checkpoint being fetched, kept while the chain goes on.
    pub(crate) checkpoint: Option<(Round, Digest)>,
    pub(crate) stuck_since: Option<Millis>,

    pub(crate) links: BTreeMap<PeerId, Link>,
    pub(crate) heard: BTreeMap<PeerId, Millis>,
    pub(crate) pool: Pool,
    /// Messages of rounds to come.
    pub(crate) early: BTreeMap<u64, Envelope>,
    pub(crate) transfers: Transfers,
    pub(crate) round: RoundState,
    pub(crate) jobs: BTreeMap<JobId, Purpose>,
    pub(crate) next_job: JobId,
    pub(crate) records: BTreeMap<RecordId, Stored>,
    pub(crate) next_record: RecordId,
    pub(crate) next_heartbeat: Millis,
    /// When the rules were last looked at.
    pub(crate) advanced: Millis,

    /// The volunteer wants to take part.
    pub(crate) active: bool,
    /// Votes from before a restart, of rounds that the stored chain does not reach.
    pub(crate) stored_votes: Vec<crate::Persisted>,
    /// Blobs that the store was asked for in this round, and whether it lacks them.
    pub(crate) sought: BTreeMap<Digest, bool>,
    /// Updates of rounds that this archive could not replay, which it still looks for.
    pub(crate) backlog: BTreeMap<Round, BTreeMap<Digest, u64>>,
    /// Updates that were stored so that a lock on them survives a crash, by round.
    pub(crate) kept: BTreeMap<Round, BTreeSet<Digest>>,
    /// By which share the last trained update is done with, until there is a newer one.
    pub(crate) settled: Option<Share>,
    /// Amendments and ballots of this peer's person that no certificate carries yet.
    pub(crate) wishes: Vec<Message>,
    pub(crate) was_member: bool,
    /// Another session took the place of this one, which must not take it back on its own.
    pub(crate) replaced: bool,
    pub(crate) accepted_own: u64,
    /// Last round whose certificate went to the store.
    pub(crate) stored_round: Round,
    pub(crate) pace: Pace,
}

#[derive(Debug, Default)]
pub(crate) struct Link {
    pub head: Round,
    /// When it last said something itself. What others say of it is not passed on, or two peers would keep a third
    /// one present for ever.
    pub heard: Option<Millis>,
    pub asked_certificates: Option<Millis>,
    /// Envelopes that the other side surely holds.
    pub known: BTreeSet<u64>,
    pub asked: BTreeMap<u64, Millis>,
}

/// What a record on its way to storage stands for.
#[derive(Debug)]
pub(crate) enum Stored {
    Vote {
        round: Round,
        vote: Vote,
    },
    /// An update that a vote may stand for.
    Update(Digest),
    Session,
    Other,
}

#[derive(Debug)]
pub(crate) enum Purpose {
    Train {
        round: Round,
    },
    Check {
        update: Digest,
    },
    /// Measuring the updates of these authors.
    Judge {
        round: Round,
        draw: Digest,
        authors: Vec<PeerId>,
    },
    /// The outer step of the round in progress, by the digest of its inputs.
    Aggregate {
        key: Digest,
    },
    /// The outer step of a round that was certified without this peer.
    Replay {
        round: Round,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Aggregate {
    Pending,
    Done { digest: Digest, model: Bytes, norms: Vec<u64> },
}

#[derive(Debug, Default)]
pub(crate) struct RoundState {
    /// When the model to train from was here.
    pub started: Option<Millis>,
    pub training: Option<JobId>,
    /// When training was ordered, and how many steps.
    pub ordered: Option<(Millis, u32)>,
    pub stopped: bool,
    pub trained: bool,
    pub update: Option<(Digest, Bytes)>,
    pub revealed: bool,
    pub closing_since: Option<Millis>,
    /// More than a third of the others' weight voted before this peer would have closed the commits.
    pub vouched: bool,
    /// Views of the lists that count here.
    pub counting: BTreeSet<View>,
    /// Views whose leader made two different lists.
    pub void_lists: BTreeSet<View>,
    /// When a list first counted: from then on, seeds and updates can be seen.
    pub listed_at: Option<Millis>,
    /// The view of the list that counts, and since when it does.
    pub exchange_since: Option<(View, Millis)>,
    /// Updates of every list that counted, with the sizes that commits name, those that came first in front.
    pub exchanged: BTreeMap<Digest, Vec<u64>>,
    /// True sizes of the updates that came.
    pub sizes: BTreeMap<Digest, u64>,
    /// Form checks: `None` while under way.
    pub checks: BTreeMap<Digest, Option<bool>>,
    pub aggregates: BTreeMap<Digest, Aggregate>,
    /// When work that failed may be tried again: the check of an update, or an outer step by its key.
    pub retry_at: BTreeMap<Digest, Millis>,
    /// Updates of bodies that were judged.
    pub needed: BTreeSet<Digest>,
    pub judging: Judging,
    pub have_said: usize,
    pub have_at: Option<Millis>,

    pub standing: VoteState<Digest>,
    /// Of the bodies that its lock and its newest quorum name.
    pub proposals: BTreeMap<Digest, Box<Proposal>>,
    pub view_since: Option<Millis>,
    pub prevotes_since: Option<Millis>,
    pub precommits_since: Option<Millis>,
    pub bodies: BTreeMap<Digest, bool>,

    pub lacking_since: Option<Millis>,
    /// Since when a recovery without this peer waits for the round that it would replace.
    pub held_since: Option<Millis>,
    pub attempt: Option<(u32, Millis)>,
    pub recovery_proposed: Option<u32>,
    /// How many attempts each peer answered and did not sign.
    pub unsigned: BTreeMap<PeerId, u32>,
}

impl Swarm {
    pub(crate) fn next_round(&self) -> Round {
        self.chain.head().round + 1
    }

    /// Whether an update can have this size: what the run's codec makes of a model, twice over, and a little more.
    pub(crate) fn is_update_size(&self, bytes: u64) -> bool {
        let share = match self.chain.manifest().recipe.outer.codec {
            Codec::Dense4 => self.model_bytes / 4,
            Codec::Topk => self.model_bytes / 16,
        };
        let most = if self.model_bytes == 0 { BLOB_BYTES_MAX } else { share + UPDATE_BYTES_EXTRA };
        bytes > 0 && bytes <= most
    }

    pub(crate) fn anchors(&self) -> &[PeerId] {
        &self.chain.manifest().anchors
    }

    pub(crate) fn has_head_model(&self) -> bool {
        self.model.as_ref().is_some_and(|(round, _)| *round == self.chain.head().round)
    }

    pub(crate) fn is_voter(&self) -> bool {
        let weighs = || self.chain.weights().get(&self.me).is_some_and(|weight| *weight > 0);
        self.join.durable && self.is_member() && weighs()
    }

    /// Whether a peer was heard of lately, directly or through others.
    pub(crate) fn is_present(&self, peer: PeerId) -> bool {
        let since = self.heard.get(&peer).copied().max(self.round.started);
        peer == self.me || since.is_some_and(|since| self.now.since(since) <= PRESENCE_MS)
    }

    pub(crate) fn total_weight(&self) -> u64 {
        self.chain.weights().values().sum()
    }

    pub(crate) fn weight_of(&self, peers: &BTreeSet<PeerId>) -> u64 {
        peers.iter().filter_map(|peer| self.chain.weights().get(peer)).sum()
    }

    pub(crate) fn emit(&mut self, output: Output) {
        self.out.push_back(output);
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.emit(Output::Tell(event));
    }

    pub(crate) fn send(&mut self, to: PeerId, frame: &Frame) {
        if self.links.contains_key(&to) {
            self.emit(Output::Send { to, frame: frame.encode(), bulk: frame.is_bulk() });
        }
    }

    pub(crate) fn compute(&mut self, purpose: Purpose, work: Job) -> JobId {
        let job = self.next_job;
        self.next_job += 1;
        self.jobs.insert(job, purpose);
        self.emit(Output::Compute { job, work });
        job
    }

    pub(crate) fn persist(&mut self, stored: Stored, record: crate::Record) {
        let id = self.next_record;
        self.next_record += 1;
        self.records.insert(id, stored);
        self.emit(Output::Persist { id, record });
    }

    /// Signs a message about the round in progress, keeps it, and sends it to every link.
    pub(crate) fn say(&mut self, message: Message) {
        let session = if let Message::Join(_) = message { self.session } else { self.speaks_as() };
        let said = Said { run: self.run, round: self.next_round(), session, message };
        let envelope = said.clone().seal(&self.identity);
        let views = self.views();
        let chain = &self.chain;
        if self.pool.insert(envelope.clone(), said, &views, self.now, |peer| chain.member(peer).is_some()) {
            self.changed = true;
            self.forward(&envelope, None);
        }
    }

    /// Views of which messages must stay.
    pub(crate) fn views(&self) -> Views {
        let VoteState { view, lock, valid, .. } = &self.round.standing;
        Views { now: *view, kept: lock.iter().chain(valid).map(|(view, _)| *view).collect() }
    }

    pub(crate) fn forward(&mut self, envelope: &Envelope, except: Option<PeerId>) {
        let id = crate::pool::short(envelope.id());
        let frame = Frame::Said(envelope.clone()).encode();
        let mut to = Vec::new();
        for (peer, link) in &mut self.links {
            if Some(*peer) != except && *peer != envelope.from && link.known.insert(id) {
                to.push(*peer);
            }
        }
        for peer in to {
            self.emit(Output::Send { to: peer, frame: frame.clone(), bulk: false });
        }
    }

    /// This peer's verdict in a body, when it committed.
    pub(crate) fn own_verdict(&self, certificate: &Certificate) -> Option<Verdict> {
        let content = &certificate.body.content;
        let at = content.commits.iter().position(|envelope| envelope.from == self.me)?;
        let said: Said = codec::decode("commit", &content.commits.get(at)?.payload, MESSAGE_BYTES_MAX).ok()?;
        content.verdicts.get(at).copied().filter(|_| said.session == self.session)
    }
}
