//! Who takes part and how much each one weighs.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use shoal_wire::{
    Digest, Manifest, PeerId, Round,
    judging::Standing,
    manifest::Recipe,
    record::{Member, Verdict},
};

use crate::judging::{Assessment, BAN_ROUNDS, Finding, assigned, evidence};

/// Consecutive audits that found a peer's work good after which it is established.
pub const ESTABLISHED_ROUNDS: u32 = 10;
/// Until this many peers are established, the run is young and all weigh the same.
const ESTABLISHED_PEERS_MIN: usize = 4;
/// Weight of an established peer's vote.
const FULL_WEIGHT: u64 = 600;
/// A member that did not commit in this many rounds in a row is dropped.
const MISSED_ROUNDS_MAX: u32 = 2;
/// Largest aggregation weight: 12 bits.
const AGGREGATE_WEIGHT_MAX: u64 = 4095;
/// Those who went and of whom something is remembered.
const DEPARTED_MAX: usize = 1024;

/// Tokens that a member trains on when it does all steps.
pub(crate) fn assigned_tokens(recipe: &Recipe) -> u64 {
    u64::from(recipe.local_steps).saturating_mul(u64::from(recipe.batch)).saturating_mul(u64::from(recipe.context))
}

/// Is `part` more than two thirds of `total`?
pub const fn more_than_two_thirds(part: u64, total: u64) -> bool {
    part * 3 > total * 2
}

/// Whether a member's own audits have earned it trust: only then may an audit be left out.
pub(crate) fn is_trusted(member: &Member) -> bool {
    member.valid >= ESTABLISHED_ROUNDS
}

pub(crate) fn is_established(member: &Member, anchors: &[PeerId]) -> bool {
    is_trusted(member) || (anchors.contains(&member.peer) && member.standing.bans == 0)
}

pub(crate) fn is_young(roster: &[Member]) -> bool {
    roster.iter().filter(|member| is_trusted(member)).count() < ESTABLISHED_PEERS_MIN
}

/// Whether a member that was banned has not worked its way back yet: it is audited, and weighs nothing.
pub(crate) fn is_on_probation(member: &Member) -> bool {
    member.standing.bans > 0 && !is_trusted(member)
}

/// Vote weight of each member, in roster order. A member without durable storage weighs nothing, and one that does not
/// train neither, unless it is an anchor; nor does one that was banned and is not trusted again. In a young run all
/// others weigh the same; later all fresh members together hold at most a tenth of the vote. Each round of absence
/// halves a weight.
pub fn vote_weights(roster: &[Member], anchors: &[PeerId]) -> Vec<u64> {
    let young = is_young(roster);
    let may_vote = |member: &Member| {
        let works = member.trains || anchors.contains(&member.peer);
        member.durable && works && !is_on_probation(member)
    };
    let full = |member: &Member| FULL_WEIGHT >> member.missed.min(MISSED_ROUNDS_MAX);
    let votes = |member: &&Member| may_vote(member);
    let established: u64 = roster.iter().filter(votes).filter(|member| is_established(member, anchors)).map(full).sum();
    let fresh = roster.iter().filter(votes).filter(|member| !is_established(member, anchors)).count() as u64;
    // fresh / (fresh + established) <= 1/10
    let each_fresh = (established / 9).checked_div(fresh).unwrap_or(0);
    let weigh = |member: &Member| match (may_vote(member), young || is_established(member, anchors)) {
        (false, _) => 0,
        (true, true) => full(member),
        (true, false) => each_fresh.min(full(member)),
    };
    roster.iter().map(weigh).collect()
}

/// Aggregation weights (1 to 4,095) of accepted updates: proportional to tokens trained up to the amount assigned;
/// once the run is not young, fresh peers together weigh at most a tenth. Who was banned and is not trusted again has
/// the least weight there is.
pub fn aggregate_weights(manifest: &Manifest, roster: &[Member], accepted: &[(PeerId, u64)]) -> Vec<u16> {
    let recipe = &manifest.recipe;
    let assigned = assigned_tokens(recipe);
    let young = is_young(roster);
    let established = |peer: PeerId| {
        young || roster.iter().any(|member| member.peer == peer && is_established(member, &manifest.anchors))
    };
    let on_probation = |peer: PeerId| roster.iter().any(|member| member.peer == peer && is_on_probation(member));
    let by_work: Vec<u64> = accepted
        .iter()
        .map(|(peer, tokens)| {
            let by_tokens = AGGREGATE_WEIGHT_MAX.saturating_mul((*tokens).min(assigned)) / assigned.max(1);
            if on_probation(*peer) { 1 } else { by_tokens.max(1) }
        })
        .collect();
    let sum = |wanted: bool| -> u64 {
        accepted
            .iter()
            .zip(&by_work)
            .filter(|((peer, _), _)| established(*peer) == wanted)
            .map(|(_, weight)| weight)
            .sum()
    };
    let (old, fresh) = (sum(true), sum(false));
    let weigh = |((peer, _), weight): (&(PeerId, u64), &u64)| {
        if established(*peer) || old == 0 || fresh * 9 <= old {
            *weight as u16
        } else {
            (weight * old / (9 * fresh)).max(1) as u16
        }
    };
    accepted.iter().zip(&by_work).map(weigh).collect()
}

/// The voters in the order in which they lead the views of a round: drawn by the previous round's randomness.
pub fn leaders(roster: &[Member], anchors: &[PeerId], round: Round, randomness: Digest) -> Vec<PeerId> {
    let weights = vote_weights(roster, anchors);
    let mut drawn: Vec<(Digest, PeerId)> = roster
        .iter()
        .zip(weights)
        .filter(|(_, weight)| *weight > 0)
        .map(|(member, _)| {
            let mut bytes = randomness.0.to_vec();
            bytes.extend_from_slice(&round.to_le_bytes());
            bytes.extend_from_slice(&member.peer.0);
            (Digest::in_domain("shoal 2026 v1 leader", &bytes), member.peer)
        })
        .collect();
    drawn.sort_unstable();
    drawn.into_iter().map(|(_, peer)| peer).collect()
}

/// What a round did to one of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Stays,
    /// It said good-bye, or was away for too long.
    Gone,
    /// Its audits or its own contradictions convict it.
    Banned,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub verdict: Verdict,
    /// Another commit of the round names the same update and is not malformed, so the update itself may be a good one.
    pub shared: bool,
}

/// What is remembered of somebody who is not in the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departed {
    /// The last round that it was a member in.
    pub round: Round,
    pub valid: u32,
    pub standing: Standing,
    /// The first round in which it may be a member again.
    pub banned_until: Round,
}

/// What a run holds of somebody besides credit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reputation {
    /// How its updates compare with others': Elo points above a newcomer's.
    pub rating: i32,
    /// Consecutive audits that found its work good, less the rounds that it was away.
    pub valid: u32,
    /// Whether these are enough for audits to become rare, and its vote to weigh fully.
    pub trusted: bool,
    /// How often it was banned.
    pub bans: u32,
    /// The first round in which it may take part again, while it is banned.
    pub banned_until: Option<Round>,
}

/// What decides over members besides their work.
pub(crate) struct Leaving<'a> {
    pub round: Round,
    pub anchors: &'a [PeerId],
    pub leavers: &'a [PeerId],
    /// Those whose own signatures convict them.
    pub convicted: &'a [PeerId],
    /// In a recovery, those who answered.
    pub present: Option<&'a [PeerId]>,
}

/// Every member of a round as it is after it, and whether it stays. Anchors stay, whatever they did, since recoveries
/// need them; a banned one has no weight.
pub(crate) fn after_round(
    roster: &[Member],
    leaving: &Leaving<'_>,
    found: &Assessment,
    work: impl Fn(PeerId) -> Option<Work>,
) -> Vec<(Member, Fate)> {
    let ratings: BTreeMap<PeerId, i32> = roster.iter().map(|member| (member.peer, member.standing.rating)).collect();
    let rating = |peer: PeerId| ratings.get(&peer).copied().unwrap_or_default();
    let noise_1024 = assigned::noise_1024(roster.iter().map(|member| &member.standing));
    let after = |member: &Member| {
        let (peer, anchor) = (member.peer, leaving.anchors.contains(&member.peer));
        let mut next = *member;
        let points = evidence::points(peer, member.standing.rating, found, rating);
        next.standing.rating += points;
        next.standing = evidence::after_round(next.standing, peer, found, noise_1024);
        if member.trains {
            next = after_work(next, work(peer), found);
        }
        if leaving.convicted.contains(&peer) || evidence::is_to_be_banned(&next.standing) {
            next.standing = evidence::banned(next.standing);
            next.valid = 0;
            next.since = leaving.round + 1;
            return (next, if anchor { Fate::Stays } else { Fate::Banned });
        }
        let absent = leaving.present.is_some_and(|present| !present.contains(&peer));
        let goes = leaving.leavers.contains(&peer) || absent || next.missed >= MISSED_ROUNDS_MAX;
        (next, if goes && !anchor { Fate::Gone } else { Fate::Stays })
    };
    roster.iter().map(after).collect()
}

/// What a commit that this member made does to it.
fn after_work(mut member: Member, work: Option<Work>, found: &Assessment) -> Member {
    let verdict = work.map(|work| work.verdict);
    member.missed = match verdict {
        // It was there; that too few got its update in time is not held against its trust.
        None | Some(Verdict::Unavailable) => member.missed.saturating_add(1),
        Some(_) => 0,
    };
    match verdict {
        Some(Verdict::Accepted) if found.finding(member.peer) == Finding::Good => {
            member.valid = member.valid.saturating_add(1);
        }
        Some(Verdict::Withheld | Verdict::Copied | Verdict::Harmful | Verdict::Malformed) => member.valid = 0,
        // What was not audited builds no trust.
        Some(Verdict::Accepted | Verdict::Unavailable) | None => {}
    }
    // Of two commits to one good update, the later one is malformed too, and which one that is can be contested.
    if work.is_some_and(|work| work.verdict == Verdict::Malformed && !work.shared) {
        member.standing = evidence::malformed(member.standing);
    }
    if !evidence::is_proven(&member.standing) {
        member.valid = 0;
    }
    member
}

/// What a join makes: of somebody who stays, the same member with another session; else a newcomer, or somebody who comes
/// back, whose trust falls by one for each round away, and whose evidence stays. None of somebody whom the round banned.
pub(crate) fn joining(
    newcomer: Member,
    before: Option<&(Member, Fate)>,
    departed: Option<&Departed>,
) -> Option<Member> {
    match (before, departed) {
        (Some((_, Fate::Banned)), _) => None,
        (Some((member, Fate::Stays)), _) => {
            let Member { session, session_round, durable, trains, .. } = newcomer;
            Some(Member { session, session_round, durable, trains, ..*member })
        }
        // To leave and join at once is to stay: what counts against it, and from when on, stays too.
        (Some((member, Fate::Gone)), _) => {
            let Member { since, missed, valid, standing, .. } = *member;
            Some(Member { since, missed: missed.min(MISSED_ROUNDS_MAX - 1), valid, standing, ..newcomer })
        }
        (None, Some(gone)) => {
            let away = newcomer.since.saturating_sub(gone.round + 1);
            let valid = gone.valid.saturating_sub(u32::try_from(away).unwrap_or(u32::MAX));
            Some(Member { valid, standing: gone.standing, ..newcomer })
        }
        (None, None) => Some(newcomer),
    }
}

/// The first round after a ban that began in a round, by how often that member was banned; 0 of one that never was.
pub(crate) fn ban_ends(began: Round, standing: &Standing) -> Round {
    if standing.bans == 0 { 0 } else { began + BAN_ROUNDS * Round::from(standing.bans) }
}

/// Notes those who went, and forgets those who are back. Of a newcomer that left no trace nothing is kept; when there
/// are too many, those who went first are forgotten, those without a ban before others.
pub(crate) fn note_departed(
    departed: &mut Arc<BTreeMap<PeerId, Departed>>,
    round: Round,
    members: &[(Member, Fate)],
    roster: &[Member],
) {
    let returned = roster.iter().any(|member| departed.contains_key(&member.peer));
    if !returned && members.iter().all(|(_, fate)| *fate == Fate::Stays) {
        return;
    }
    let departed = Arc::make_mut(departed);
    for (member, fate) in members {
        let Member { peer, valid, standing, .. } = *member;
        let banned_until = if *fate == Fate::Banned { ban_ends(round + 1, &standing) } else { 0 };
        if *fate != Fate::Stays && (valid > 0 || standing != Standing::default()) {
            departed.insert(peer, Departed { round, valid, standing, banned_until });
        }
    }
    for member in roster {
        departed.remove(&member.peer);
    }
    while departed.len() > DEPARTED_MAX {
        let first = departed.iter().min_by_key(|(_, gone)| (gone.standing.bans > 0, gone.round));
        let Some(peer) = first.map(|(peer, _)| *peer) else { return };
        departed.remove(&peer);
    }
}
