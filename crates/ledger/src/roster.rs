//! Who takes part and how much each one weighs.

use shoal_wire::{
    Digest, Manifest, PeerId, Round,
    record::{Body, Member, Verdict},
};

/// Consecutive valid rounds after which a peer is established.
const ESTABLISHED_ROUNDS: u32 = 10;
/// Until this many peers are established, the run is young and all weigh the same.
const ESTABLISHED_PEERS_MIN: usize = 4;
/// Weight of an established peer's vote.
const FULL_WEIGHT: u64 = 600;
/// A member that did not commit in this many rounds in a row is dropped.
const MISSED_ROUNDS_MAX: u32 = 2;
/// Largest aggregation weight: 12 bits.
const AGGREGATE_WEIGHT_MAX: u64 = 4095;

/// Is `part` more than two thirds of `total`?
pub const fn more_than_two_thirds(part: u64, total: u64) -> bool {
    part * 3 > total * 2
}

fn is_established(member: &Member, anchors: &[PeerId]) -> bool {
    member.valid >= ESTABLISHED_ROUNDS || anchors.contains(&member.peer)
}

fn is_young(roster: &[Member]) -> bool {
    roster.iter().filter(|member| member.valid >= ESTABLISHED_ROUNDS).count() < ESTABLISHED_PEERS_MIN
}

/// Vote weight of each member, in roster order. A member without durable storage weighs nothing, and one that does not
/// train neither, unless it is an anchor. In a young run all others weigh the same; later all fresh members together hold at most a tenth of the vote.
pub fn vote_weights(roster: &[Member], anchors: &[PeerId]) -> Vec<u64> {
    let young = is_young(roster);
    let may_vote = |member: &Member| member.durable && (member.trains || anchors.contains(&member.peer));
    let votes = |member: &&Member| may_vote(member);
    let established =
        roster.iter().filter(votes).filter(|member| is_established(member, anchors)).count() as u64 * FULL_WEIGHT;
    let fresh = roster.iter().filter(votes).filter(|member| !is_established(member, anchors)).count() as u64;
    // fresh / (fresh + established) <= 1/10
    let each_fresh = (established / 9).checked_div(fresh).unwrap_or(0).min(FULL_WEIGHT);
    let weigh = |member: &Member| match (may_vote(member), young || is_established(member, anchors)) {
        (false, _) => 0,
        (true, true) => FULL_WEIGHT,
        (true, false) => each_fresh,
    };
    roster.iter().map(weigh).collect()
}

/// Aggregation weights (1 to 4,095) of accepted updates: proportional to tokens trained up to the amount assigned;
/// once the run is not young, fresh peers together weigh at most a tenth.
pub fn aggregate_weights(manifest: &Manifest, roster: &[Member], accepted: &[(PeerId, u64)]) -> Vec<u16> {
    let recipe = &manifest.recipe;
    let assigned = u64::from(recipe.local_steps) * u64::from(recipe.batch) * u64::from(recipe.context);
    let young = is_young(roster);
    let established = |peer: PeerId| {
        young || roster.iter().any(|member| member.peer == peer && is_established(member, &manifest.anchors))
    };
    let by_work: Vec<u64> = accepted
        .iter()
        .map(|(_, tokens)| (AGGREGATE_WEIGHT_MAX * (*tokens).min(assigned) / assigned.max(1)).max(1))
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

/// What a member did in a round.
#[derive(Clone, Copy)]
pub(crate) enum Deed {
    Accepted,
    Refused,
    Absent,
}

/// The next roster: members without those that left, were absent for too long or (in a recovery) are not present, and
/// with those that join. `deed` tells what each training member did.
pub(crate) fn next_roster(
    roster: &[Member],
    anchors: &[PeerId],
    body: &Body,
    leavers: &[PeerId],
    joiners: &[Member],
    present: Option<&[PeerId]>,
    deed: impl Fn(PeerId) -> Deed,
) -> Vec<Member> {
    let mut next: Vec<Member> = roster
        .iter()
        .filter(|member| anchors.contains(&member.peer) || !leavers.contains(&member.peer))
        .filter(|member| anchors.contains(&member.peer) || present.is_none_or(|present| present.contains(&member.peer)))
        .map(|member| after_round(*member, deed(member.peer)))
        .filter(|member| anchors.contains(&member.peer) || member.missed < MISSED_ROUNDS_MAX)
        .collect();
    next.extend(joiners.iter().map(|member| Member { since: body.round + 1, ..*member }));
    next.sort_unstable_by_key(|member| member.peer);
    next.dedup_by_key(|member| member.peer);
    next
}

fn after_round(mut member: Member, deed: Deed) -> Member {
    if !member.trains {
        return member;
    }
    match deed {
        Deed::Accepted => {
            member.valid = member.valid.saturating_add(1);
            member.missed = 0;
        }
        Deed::Refused => {
            member.valid = 0;
            member.missed = 0;
        }
        Deed::Absent => member.missed = member.missed.saturating_add(1),
    }
    member
}

impl Deed {
    pub(crate) fn of(verdict: Option<Verdict>) -> Self {
        match verdict {
            Some(Verdict::Accepted) => Self::Accepted,
            // The peer was there; that too few got its update in time is not held against its trust.
            Some(Verdict::Withheld | Verdict::Malformed | Verdict::Copied | Verdict::Harmful) => Self::Refused,
            Some(Verdict::Unavailable) | None => Self::Absent,
        }
    }
}
