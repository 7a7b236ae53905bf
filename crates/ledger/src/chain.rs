//! The chain: checks each certificate against everything before it.

mod body;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
};

use shoal_wire::{
    Digest, Envelope, Manifest, PeerId, Round, RunId, SessionId, Verified,
    limits::ROSTER_MAX,
    record::{Body, Certificate, Commit, Join, Member, Said, Verdict, Vote, VoteKind, vote_payload},
    share::Share,
    sign::{self, Domain},
};

use body::commit_in;

use crate::{
    LedgerError,
    books::{Books, Page},
    judging::Assessment,
    roster::{
        self, Departed, ESTABLISHED_ROUNDS, Fate, Leaving, Reputation, Work, assigned_tokens, leaders,
        more_than_two_thirds, vote_weights,
    },
    taken::{AcceptedUpdate, Taken},
};

/// Rounds whose median norms bound the next round's updates.
pub const HISTORY_ROUNDS: usize = 8;
/// A join signed this many rounds ago still counts.
const JOIN_ROUNDS_MAX: Round = 16;

/// Where the chain stands after a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    pub round: Round,
    pub body: Digest,
    /// The model that the next round starts from: the one that this round certified, unless the run is rolled back.
    pub model: Digest,
    pub randomness: Digest,
    /// Who takes part in the next round.
    pub roster: Vec<Member>,
    /// What is remembered of those who are not in it any more.
    pub departed: Arc<BTreeMap<PeerId, Departed>>,
    /// Median norms of the last rounds that accepted updates, oldest first.
    pub history: VecDeque<Vec<u64>>,
    /// Updates that the last rounds accepted, oldest first: nobody is paid for one of them again.
    pub recent: VecDeque<Vec<Digest>>,
    /// Whether the round was certified by a recovery.
    pub recovery: bool,
}

/// What replaying a round takes: start from the model before it, aggregate these updates with these weights, this
/// share of what was promised and this history, and arrive at `model`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub round: Round,
    pub before: Digest,
    pub accepted: Vec<AcceptedUpdate>,
    pub share: Share,
    pub history: Vec<Vec<u64>>,
    pub norms: Vec<u64>,
    pub model: Digest,
    pub recovery: bool,
    /// What the round did to its members.
    members: Vec<(Member, Fate)>,
}

impl Step {
    /// What its outer step takes.
    pub fn taken(&self) -> Taken {
        Taken { accepted: self.accepted.clone(), share: self.share }
    }
}

/// The certified history of a run, as far as it was checked.
#[derive(Clone, Debug)]
pub struct Chain {
    manifest: Manifest,
    run: RunId,
    head: Head,
    /// Leaders and vote weights of the next round, once somebody asked: both are asked for much more often than they
    /// change.
    leaders: OnceLock<Vec<PeerId>>,
    weights: OnceLock<BTreeMap<PeerId, u64>>,
    /// States before the last rounds, oldest first, so that a provisional recovery can be undone.
    earlier: VecDeque<(Head, Page)>,
    books: Books,
}

impl Chain {
    /// The chain before round 1: the roster is the manifest's anchors.
    pub fn new(manifest: Manifest) -> Self {
        let run = manifest.run();
        let mut anchors = manifest.anchors.clone();
        anchors.sort_unstable();
        anchors.dedup();
        anchors.truncate(ROSTER_MAX);
        let member = |peer| Member::new(peer, 1, Join { durable: true, trains: false });
        let head = Head {
            round: 0,
            body: run.into(),
            model: manifest.genesis,
            randomness: Digest::in_domain("shoal 2026 v1 first randomness", &[manifest.seed.0, run.0].concat()),
            roster: anchors.into_iter().map(member).collect(),
            departed: Arc::default(),
            history: VecDeque::new(),
            recent: VecDeque::new(),
            recovery: false,
        };
        let books = Books::new(&manifest);
        Self {
            manifest,
            run,
            head,
            leaders: OnceLock::new(),
            weights: OnceLock::new(),
            earlier: VecDeque::new(),
            books,
        }
    }

    pub fn run(&self) -> RunId {
        self.run
    }
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    pub fn head(&self) -> &Head {
        &self.head
    }
    pub(crate) fn books(&self) -> &Books {
        &self.books
    }

    pub fn member(&self, peer: PeerId) -> Option<&Member> {
        self.head.roster.iter().find(|member| member.peer == peer)
    }

    /// The member that a session speaks for in the next round.
    pub fn speaker(&self, peer: PeerId, session: SessionId) -> Option<&Member> {
        self.member(peer).filter(|member| member.session == session)
    }

    /// Vote weights of the next round, by peer.
    pub fn weights(&self) -> &BTreeMap<PeerId, u64> {
        self.weights.get_or_init(|| {
            let weights = vote_weights(&self.head.roster, &self.manifest.anchors);
            self.head.roster.iter().map(|member| member.peer).zip(weights).collect()
        })
    }

    /// Leaders of the next round's views, in order.
    pub fn leaders(&self) -> &[PeerId] {
        let Head { roster, round, randomness, .. } = &self.head;
        self.leaders.get_or_init(|| leaders(roster, &self.manifest.anchors, round + 1, *randomness))
    }

    /// Tokens that a member trains on when it does all steps.
    pub fn assigned_tokens(&self) -> u64 {
        assigned_tokens(&self.manifest.recipe)
    }

    /// Checks a commit for the next round, whoever passed it on.
    pub fn check_commit(&self, commit: &Commit, from: PeerId) -> Result<(), LedgerError> {
        let trains = self.member(from).is_some_and(|member| member.trains);
        let fits = commit.parent == self.head.body
            && commit.tokens > 0
            && commit.tokens <= self.assigned_tokens()
            && commit.loss_first.is_finite()
            && commit.loss_last.is_finite()
            && !self.head.recent.iter().flatten().any(|update| *update == commit.update);
        if trains && fits { Ok(()) } else { Err(LedgerError::Misplaced { what: "commit", peer: from }) }
    }

    /// Checks a join for the next round. Of a member it brings another session, unless it was said no later than the join
    /// that brought the one in the roster: an old join takes nothing back. Who is banned may ask again once the ban is
    /// over.
    pub fn check_join(&self, said: Round, session: SessionId, from: PeerId) -> Result<(), LedgerError> {
        let next = self.head.round + 1;
        let fresh = said <= next && said + JOIN_ROUNDS_MAX >= next;
        let may_come = match self.member(from) {
            Some(member) => session != member.session && said > member.session_round,
            None => self.banned_until(from).is_none(),
        };
        if fresh && session != SessionId::NONE && may_come {
            Ok(())
        } else {
            Err(LedgerError::Misplaced { what: "join", peer: from })
        }
    }

    /// The first round in which somebody may take part again who is banned in the next one. An anchor keeps its place
    /// meanwhile, without a vote.
    pub fn banned_until(&self, peer: PeerId) -> Option<Round> {
        let until = match self.member(peer) {
            Some(member) if self.manifest.anchors.contains(&peer) => roster::ban_ends(member.since, &member.standing),
            Some(_) => return None,
            None => self.head.departed.get(&peer)?.banned_until,
        };
        Some(until).filter(|until| *until > self.head.round + 1)
    }

    /// What the run holds of somebody; of a newcomer where nothing is remembered.
    pub fn reputation(&self, peer: PeerId) -> Reputation {
        let newcomer = Member::new(peer, self.head.round + 1, Join { durable: true, trains: true });
        let departed = self.head.departed.get(&peer);
        let known = self.member(peer).copied().or_else(|| roster::joining(newcomer, None, departed));
        let Member { valid, standing, .. } = known.unwrap_or(newcomer);
        let trusted = valid >= ESTABLISHED_ROUNDS;
        let banned_until = self.banned_until(peer);
        Reputation { rating: standing.rating, valid, trusted, bans: standing.bans, banned_until }
    }

    /// Peers that may still be taken into the roster in the next round.
    pub fn free_places(&self) -> usize {
        ROSTER_MAX.saturating_sub(self.head.roster.len())
    }

    /// The roster that follows from a body whose other parts are filled in.
    pub fn roster_after(&self, body: &Body) -> Result<Vec<Member>, LedgerError> {
        let commits = self.open_commits(body)?;
        let found = self.assess_body(body, &commits)?;
        self.roster_from(body, &self.members_after(body, &commits, &found)?)
    }

    /// The roster made of the members that stay and those that join, some of them for one that was there.
    fn roster_from(&self, body: &Body, members: &[(Member, Fate)]) -> Result<Vec<Member>, LedgerError> {
        let stay = members.iter().filter(|(_, fate)| *fate == Fate::Stays).map(|(member, _)| (member.peer, *member));
        let mut next: BTreeMap<PeerId, Member> = stay.collect();
        for newcomer in self.joiners(body)? {
            let before = members.iter().find(|(member, _)| member.peer == newcomer.peer);
            let departed = self.head.departed.get(&newcomer.peer);
            if let Some(member) = roster::joining(newcomer, before, departed) {
                next.insert(member.peer, member);
            }
        }
        Ok(next.into_values().collect())
    }

    /// What a round does to each of its members.
    fn members_after(
        &self,
        body: &Body,
        commits: &[(PeerId, Commit)],
        found: &Assessment,
    ) -> Result<Vec<(Member, Fate)>, LedgerError> {
        let present = self.present(body)?;
        let leaving = Leaving {
            round: body.round,
            anchors: &self.manifest.anchors,
            leavers: &self.leavers(body)?,
            convicted: &self.convicted(body)?,
            present: present.as_deref(),
        };
        let judged = || commits.iter().zip(&body.content.verdicts);
        let work = |peer: PeerId| {
            let ((_, own), verdict) = judged().find(|((author, _), _)| *author == peer)?;
            let shared = judged().any(|((author, commit), verdict)| {
                *author != peer && commit.update == own.update && *verdict != Verdict::Malformed
            });
            Some(Work { verdict: *verdict, shared })
        };
        Ok(roster::after_round(&self.head.roster, &leaving, found, work))
    }

    fn open_commits(&self, body: &Body) -> Result<Vec<(PeerId, Commit)>, LedgerError> {
        let open = |envelope: &Envelope| Ok((envelope.from, commit_in(open("commit", envelope, self.run)?)?));
        body.content.commits.iter().map(open).collect()
    }

    /// The randomness that follows from the revealed seeds, in peer order. Neither the accepted set nor any signature
    /// enters it.
    pub fn randomness_after(&self, seeds: &[Option<Digest>]) -> Digest {
        let mut bytes = self.head.randomness.0.to_vec();
        for seed in seeds.iter().flatten() {
            bytes.extend_from_slice(&seed.0);
        }
        Digest::in_domain("shoal 2026 v1 randomness", &bytes)
    }

    /// Checks everything about a body but the outcome of its aggregation, which takes the updates. Returns what
    /// recomputing it takes.
    pub fn check_body(&self, body: &Body) -> Result<Step, LedgerError> {
        if body.run != self.run {
            return Err(LedgerError::OtherRun);
        }
        if body.round != self.head.round + 1 {
            return Err(LedgerError::NotNext { got: body.round, head: self.head.round });
        }
        if body.parent != self.head.body {
            return Err(LedgerError::OtherParent { got: body.parent, head: self.head.body });
        }
        if self.is_over() {
            return Err(LedgerError::Over { last: self.head.round });
        }
        let (commits, found) = self.check_content(body)?;
        self.check_charter(body)?;
        if body.recovery.is_some() {
            self.check_locks(body)?;
        }
        let members = self.members_after(body, &commits, &found)?;
        if body.roster != self.roster_from(body, &members)? || body.roster.len() > ROSTER_MAX {
            return Err(LedgerError::Roster);
        }
        if body.randomness != self.randomness_after(&body.content.seeds) {
            return Err(LedgerError::Randomness);
        }
        Ok(self.step(body, &commits, members))
    }

    /// Checks a body and the signatures under it.
    pub fn check(&self, certificate: &Certificate) -> Result<Step, LedgerError> {
        let step = self.check_body(&certificate.body)?;
        let Certificate { body, view, .. } = certificate;
        let vote = Vote { parent: body.parent, view: *view, kind: certificate.kind(), body: Some(body.digest()) };
        let weights = self.weights();
        ascending("votes", certificate.signatures.iter().map(|(peer, _)| *peer))?;
        let mut signed = 0;
        for (peer, signature) in &certificate.signatures {
            let weight = weights.get(peer).copied().ok_or(LedgerError::Voter(*peer))?;
            let session = self.member(*peer).map_or(SessionId::NONE, |member| member.session);
            let payload = vote_payload(self.run, body.round, session, vote);
            sign::verify(*peer, Domain::Swarm, &payload, signature).map_err(|_| LedgerError::Signature(*peer))?;
            signed += weight;
        }
        let signers: Vec<PeerId> = certificate.signatures.iter().map(|(peer, _)| *peer).collect();
        let total = weights.values().sum();
        if vote.kind == VoteKind::Recovery {
            self.check_recovery_quorum(&certificate.body, &signers)?;
        } else if !more_than_two_thirds(signed, total) {
            return Err(LedgerError::NoQuorum { got: signed, total });
        }
        Ok(step)
    }

    /// Checks a certificate and moves the head on to it.
    pub fn apply(&mut self, certificate: &Certificate) -> Result<Step, LedgerError> {
        let step = self.check(certificate)?;
        self.advance(certificate, &step);
        Ok(step)
    }

    /// Moves the head on to a certificate that [`Self::check`] found good and made this step of, with nothing applied in
    /// between.
    pub fn advance(&mut self, certificate: &Certificate, step: &Step) {
        let body = &certificate.body;
        let mut history = self.head.history.clone();
        if !body.content.norms.is_empty() {
            history.push_back(body.content.norms.clone());
            while history.len() > HISTORY_ROUNDS {
                history.pop_front();
            }
        }
        let mut recent = self.head.recent.clone();
        recent.push_back(step.accepted.iter().map(|update| update.update).collect());
        while recent.len() > HISTORY_ROUNDS {
            recent.pop_front();
        }
        let mut departed = self.head.departed.clone();
        roster::note_departed(&mut departed, body.round, &step.members, &body.roster);
        let next = Head {
            round: body.round,
            body: body.digest(),
            model: body.content.model,
            randomness: body.randomness,
            roster: body.roster.clone(),
            departed,
            history,
            recent,
            recovery: body.recovery.is_some(),
        };
        self.forget_answers();
        let page = self.books.enter(body, &self.manifest, self.assigned_tokens());
        self.earlier.push_back((core::mem::replace(&mut self.head, next), page));
        while self.earlier.len() > self.manifest.timing.recovery_window_rounds.max(1) as usize {
            self.earlier.pop_front();
        }
        if let Some(model) = self.rolled_back_to(body.round + 1).and_then(|to| self.checkpoint(to)) {
            self.head.model = model;
        }
    }

    /// Whether `other` replaces what this chain holds for its round: an ordinary certificate from the same parent beats
    /// a provisional recovery.
    pub fn is_beaten_by(&self, other: &Certificate) -> bool {
        let round = other.body.round;
        if other.body.recovery.is_some() || round > self.head.round {
            return false;
        }
        let mut undone = self.clone();
        let ours_is_recovery = loop {
            let was_recovery = undone.head.recovery;
            let at = undone.head.round;
            if !undone.undo() {
                return false;
            }
            if at == round {
                break was_recovery;
            }
        };
        ours_is_recovery && undone.check(other).is_ok()
    }

    /// The head changes: what was computed from it does not hold.
    fn forget_answers(&mut self) {
        self.leaders.take();
        self.weights.take();
    }

    /// Takes the last round back; false when it is final.
    pub fn undo(&mut self) -> bool {
        let Some((head, page)) = self.earlier.pop_back() else { return false };
        self.forget_answers();
        self.head = head;
        self.books.take_back(page);
        true
    }

    /// What the next round's outer step takes of these commits, with one verdict each.
    pub fn taken(&self, commits: &[(PeerId, Commit)], verdicts: &[Verdict]) -> Taken {
        Taken::of(&self.manifest, &self.head.roster, commits, verdicts)
    }

    fn step(&self, body: &Body, commits: &[(PeerId, Commit)], members: Vec<(Member, Fate)>) -> Step {
        let Taken { accepted, share } = self.taken(commits, &body.content.verdicts);
        Step {
            round: body.round,
            before: self.head.model,
            accepted,
            share,
            history: self.head.history.iter().cloned().collect(),
            norms: body.content.norms.clone(),
            model: body.content.model,
            recovery: body.recovery.is_some(),
            members,
        }
    }
}

pub(crate) fn open(what: &'static str, envelope: &Envelope, run: RunId) -> Result<Verified<Said>, LedgerError> {
    Said::open(envelope, run).map_err(|source| LedgerError::Envelope { what, source })
}

pub(crate) fn ascending(what: &'static str, peers: impl Iterator<Item = PeerId>) -> Result<(), LedgerError> {
    let peers: Vec<PeerId> = peers.collect();
    if peers.is_sorted_by(|a, b| a < b) { Ok(()) } else { Err(LedgerError::Order(what)) }
}
