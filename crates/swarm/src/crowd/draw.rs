//! Who works with whom in a round: a function of the roster and the previous round's randomness, so nobody chooses.
//!
//! Members are dealt like cards, the trusted ones first, so that every group and every panel has its share of them, and
//! a crowd of fresh identities cannot meet in one.

use shoal_wire::{
    Digest, PeerId, Round,
    crowd::Node,
    limits::{COMMITTEE_MAX, GROUP_MAX},
};

use super::{Roster, Seat};

/// Parts of the model, each merged by panels of its own.
pub const PARTS: usize = 16;
/// Peers that recompute a group that was drawn for it.
const AUDITORS: usize = 2;
/// One of so many groups is recomputed in a round.
const GROUPS_PER_AUDIT: usize = 16;

/// The draw of one round. Members are named by their place in the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    groups: Vec<Vec<u32>>,
    /// Each member's group.
    group_of: Vec<Option<u32>>,
    /// By level from 1 and by node: the members below it, in the order in which panels are dealt from them.
    below: Vec<Vec<Vec<u32>>>,
    committee: Vec<u32>,
    audits: Vec<(u32, u32)>,
}

impl Draw {
    pub fn new(roster: &Roster, round: Round, randomness: Digest) -> Self {
        let seats = roster.seats();
        let lot = |role: &str, peer: PeerId| {
            Digest::in_domain(
                "shoal 2026 v1 crowd draw",
                &[&randomness.0[..], &round.to_le_bytes(), role.as_bytes(), &peer.0].concat(),
            )
        };
        let ordered = |role: &str, members: &mut Vec<u32>| {
            members.sort_by_cached_key(|member| {
                let seat = &seats[*member as usize];
                (core::cmp::Reverse((seat.trust, seat.weight)), lot(role, seat.member.peer))
            });
        };
        let mut trainers: Vec<u32> = (0..seats.len() as u32).filter(|at| seats[*at as usize].member.trains).collect();
        ordered("group", &mut trainers);
        let count = trainers.len().div_ceil(GROUP_MAX).max(1);
        let mut groups = vec![Vec::new(); count];
        let mut group_of = vec![None; seats.len()];
        for (card, member) in trainers.iter().enumerate() {
            groups[card % count].push(*member);
            group_of[*member as usize] = Some((card % count) as u32);
        }
        let mut below = Vec::new();
        let (mut nodes, mut span, mut level) = (count, 1, 1);
        while level == 1 || nodes > 1 {
            span *= GROUP_MAX;
            nodes = nodes.div_ceil(GROUP_MAX);
            let mut members: Vec<Vec<u32>> = groups.chunks(span).map(<[Vec<u32>]>::concat).collect();
            for members in &mut members {
                ordered(&format!("panel {level}"), members);
            }
            below.push(members);
            level += 1;
        }
        let seed = |role: &str| lot(role, PeerId::default());
        let committee = committee(seats, seed("committee"), |peer| lot("committee", peer));
        let audits = audits(seats, &groups, &group_of, |role, peer| lot(role, peer));
        Self { groups, group_of, below, committee, audits }
    }

    /// Groups of 8 to 16 (or one of all when there are fewer), each in the order in which its members lead.
    pub fn groups(&self) -> &[Vec<u32>] {
        &self.groups
    }

    pub fn group_of(&self, member: usize) -> Option<u32> {
        self.group_of.get(member).copied().flatten()
    }

    /// The level of the root; groups are level 0.
    pub fn top(&self) -> u8 {
        self.below.len() as u8
    }

    /// How many nodes a node has below it.
    pub fn children(&self, node: Node) -> usize {
        let under = match node.level {
            0 => return 0,
            1 => self.groups.len(),
            level => self.below.get(usize::from(level) - 2).map_or(0, Vec::len),
        };
        under.saturating_sub(node.index as usize * GROUP_MAX).min(GROUP_MAX)
    }

    /// Who makes the sum of a node, in the order in which they lead: a group, or at most 16 of the peers below it.
    pub fn panel(&self, node: Node) -> Vec<u32> {
        let Some(level) = usize::from(node.level).checked_sub(1) else {
            return self.groups.get(node.index as usize).cloned().unwrap_or_default();
        };
        let Some(members) = self.below.get(level).and_then(|nodes| nodes.get(node.index as usize)) else {
            return Vec::new();
        };
        // Evenly spaced in an order that begins with the trusted: each panel gets its share of them, and where there are
        // enough members, none sits in two panels of a node.
        let size = members.len().min(GROUP_MAX);
        let stride = members.len() / size.max(1);
        (0..size).map(|place| members[(usize::from(node.part) + place * stride) % members.len()]).collect()
    }

    /// The nodes in whose panels a member sits, its group first.
    pub fn duties(&self, member: usize) -> Vec<Node> {
        let Some(group) = self.group_of(member) else { return Vec::new() };
        let mut duties = vec![Node { level: 0, index: group, part: 0 }];
        let mut index = group;
        for level in 1..=self.top() {
            index /= GROUP_MAX as u32;
            let nodes = (0..PARTS as u8).map(|part| Node { level, index, part });
            duties.extend(nodes.filter(|node| self.panel(*node).contains(&(member as u32))));
        }
        duties
    }

    /// Who agrees on the round, in the order in which they lead its views.
    pub fn committee(&self) -> &[u32] {
        &self.committee
    }

    /// Who recomputes which group.
    pub fn audits(&self) -> &[(u32, u32)] {
        &self.audits
    }
}

/// At most 64 voters, drawn by weight. Seats are divided between the trusted and the fresh as their weights are, the
/// fraction to the trusted, so that luck does not give fresh identities more than they weigh.
fn committee(seats: &[Seat], seed: Digest, lot: impl Fn(PeerId) -> Digest) -> Vec<u32> {
    let voters = || seats.iter().enumerate().filter(|(_, seat)| seat.weight > 0);
    let most = voters().map(|(_, seat)| seat.trust).max().unwrap_or(0);
    let stratum = |trusted: bool| -> Vec<(u32, u64)> {
        voters()
            .filter(|(_, seat)| (seat.trust == most) == trusted)
            .map(|(at, seat)| (at as u32, seat.weight))
            .collect()
    };
    let (trusted, fresh) = (stratum(true), stratum(false));
    let weight = |of: &[(u32, u64)]| of.iter().map(|(_, weight)| u128::from(*weight)).sum::<u128>();
    let all = weight(&trusted) + weight(&fresh);
    let size = COMMITTEE_MAX.min(trusted.len() + fresh.len());
    let share = |size: usize| (size as u128 * weight(&fresh)).checked_div(all).unwrap_or(0) as usize;
    let taken = (size - share(size)).min(trusted.len());
    // With few trusted members the fresh must not fill the rest.
    let left = share(size).min((taken as u128 * weight(&fresh)).checked_div(weight(&trusted)).unwrap_or(0) as usize);
    let mut drawn = sample(&trusted, taken, seed);
    drawn.extend(sample(&fresh, left, Digest::of(&seed.0)));
    drawn.sort_by_cached_key(|at| lot(seats[*at as usize].member.peer));
    drawn
}

/// Draws members without putting them back, each with a chance that is proportional to its weight.
fn sample(stratum: &[(u32, u64)], count: usize, seed: Digest) -> Vec<u32> {
    if count >= stratum.len() {
        return stratum.iter().map(|(at, _)| *at).collect();
    }
    let mut ends = Vec::with_capacity(stratum.len());
    let mut total = 0_u128;
    for (_, weight) in stratum {
        total += u128::from(*weight);
        ends.push(total);
    }
    let mut drawn = Vec::with_capacity(count);
    // A draw that falls on somebody drawn before is repeated; the bound is far beyond what chance can need.
    for attempt in 0..(count as u64 * 256) {
        if drawn.len() == count {
            break;
        }
        let digest = Digest::in_domain("shoal 2026 v1 crowd sample", &[&seed.0[..], &attempt.to_le_bytes()].concat());
        let mut low = [0; 16];
        low.copy_from_slice(&digest.0[..16]);
        let at = ends.partition_point(|end| *end <= u128::from_le_bytes(low) % total.max(1));
        let member = stratum[at.min(stratum.len() - 1)].0;
        if !drawn.contains(&member) {
            drawn.push(member);
        }
    }
    drawn
}

/// Some groups and, for each, trusted members of other groups that recompute it.
fn audits(
    seats: &[Seat],
    groups: &[Vec<u32>],
    group_of: &[Option<u32>],
    lot: impl Fn(&str, PeerId) -> Digest,
) -> Vec<(u32, u32)> {
    if groups.len() < 2 {
        return Vec::new();
    }
    let most = seats.iter().map(|seat| seat.trust).max().unwrap_or(0);
    let trusted =
        (0..seats.len() as u32).filter(|at| seats[*at as usize].trust == most && group_of[*at as usize].is_some());
    let mut auditors: Vec<u32> = trusted.collect();
    auditors.sort_by_cached_key(|at| lot("auditor", seats[*at as usize].member.peer));
    let leader = |group: usize| groups[group].first().map_or(PeerId::default(), |at| seats[*at as usize].member.peer);
    let mut audited: Vec<usize> = (0..groups.len()).collect();
    audited.sort_by_cached_key(|group| lot("audited", leader(*group)));
    let mut next = auditors.iter();
    let mut drawn = Vec::new();
    for group in audited.into_iter().take(groups.len().div_ceil(GROUPS_PER_AUDIT)) {
        let others = next.by_ref().filter(|at| group_of[**at as usize] != Some(group as u32));
        drawn.extend(others.take(AUDITORS).map(|auditor| (*auditor, group as u32)));
    }
    drawn
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use shoal_wire::record::{Join, Member};

    use super::*;

    fn roster(count: u64, fresh: u64) -> Roster {
        let peer = |index: u64| PeerId(Digest::of(&index.to_le_bytes()).0);
        let valid = |index| if index < fresh { 0 } else { 20 };
        let join = Join { durable: true, trains: true };
        let member = |at| Member { valid: valid(at), ..Member::new(peer(at), 1, join) };
        Roster::new((0..count).map(member).collect(), &[])
    }

    fn draw(roster: &Roster, seed: u8) -> Draw {
        Draw::new(roster, 7, Digest([seed; 32]))
    }

    #[test]
    fn every_peer_is_in_one_group_and_groups_have_eight_to_sixteen() {
        for count in [1, 5, 8, 16, 17, 31, 33, 100, 256, 257, 1000] {
            let draw = draw(&roster(count, 0), 1);
            let mut seen = BTreeSet::new();
            for (index, group) in draw.groups().iter().enumerate() {
                assert!(count < 8 || (8..=16).contains(&group.len()), "{} of {count}", group.len());
                for member in group {
                    assert!(seen.insert(*member));
                    assert_eq!(draw.group_of(*member as usize), Some(index as u32));
                }
            }
            assert_eq!(seen.len() as u64, count);
        }
    }

    #[test]
    fn the_tree_has_sixteen_children_a_node_and_one_root() {
        for (count, top) in [(16, 1), (256, 1), (257, 2), (4096, 2), (4097, 3)] {
            let draw = draw(&roster(count, 0), 2);
            assert_eq!(draw.top(), top, "{count}");
            let root = |part| Node { level: top, index: 0, part };
            assert!((1..=16).contains(&draw.children(root(0))));
            for part in 0..PARTS as u8 {
                let panel = draw.panel(root(part));
                assert_eq!(panel.len(), 16);
                assert_eq!(panel.iter().collect::<BTreeSet<_>>().len(), 16);
            }
            assert!(draw.panel(Node { level: top, index: 1, part: 0 }).is_empty());
            assert!(draw.panel(Node { level: top + 1, index: 0, part: 0 }).is_empty());
        }
    }

    #[test]
    fn panels_of_a_full_node_share_nobody_and_duties_tell_who_sits_where() {
        let roster = roster(1024, 0);
        let draw = draw(&roster, 3);
        let mut seats = BTreeMap::new();
        for part in 0..PARTS as u8 {
            for index in 0..4 {
                draw.panel(Node { level: 1, index, part })
                    .into_iter()
                    .for_each(|at| *seats.entry(at).or_insert(0) += 1);
            }
        }
        assert_eq!((seats.len(), seats.values().max()), (1024, Some(&1)));
        for member in [0_usize, 77, 1023] {
            for node in draw.duties(member) {
                assert!(draw.panel(node).contains(&(member as u32)));
            }
            assert_eq!(draw.duties(member).iter().filter(|node| node.level == 1).count(), 1);
        }
    }

    #[test]
    fn fresh_identities_are_spread_and_hold_at_most_a_tenth_of_the_committee() {
        let roster = roster(1000, 800);
        let is_fresh = |at: &u32| roster.seats()[*at as usize].member.valid == 0;
        for seed in 0..20 {
            let draw = draw(&roster, seed);
            for group in draw.groups() {
                let trusted = group.iter().filter(|at| !is_fresh(at)).count();
                assert!((3..=4).contains(&trusted), "{trusted} of {}", group.len());
                assert!(!is_fresh(&group[0]), "a fresh peer leads");
            }
            assert_eq!(draw.committee().len(), 64);
            assert!(draw.committee().iter().filter(|at| is_fresh(at)).count() <= 6);
            assert!(
                draw.audits()
                    .iter()
                    .all(|(auditor, group)| { !is_fresh(auditor) && draw.group_of(*auditor as usize) != Some(*group) })
            );
            assert_eq!(draw.audits().len(), 2 * 4);
        }
    }

    #[test]
    fn a_committee_is_drawn_by_weight_and_changes_with_the_randomness() {
        let roster = roster(200, 0);
        let mut chosen = vec![0_u32; 200];
        for seed in 0..200 {
            draw(&roster, seed).committee().iter().for_each(|at| chosen[*at as usize] += 1);
        }
        // 64 of 200 in each of 200 draws: 64 times each, with a standard deviation of 6.6.
        assert!(chosen.iter().all(|times| (30..100).contains(times)), "{chosen:?}");
        assert_ne!(draw(&roster, 1), draw(&roster, 2));
        assert_eq!(draw(&roster, 1), draw(&roster, 1));
    }

    #[test]
    fn few_trusted_members_are_not_outnumbered() {
        let roster = roster(1000, 990);
        let draw = draw(&roster, 4);
        let fresh = draw.committee().iter().filter(|at| roster.seats()[**at as usize].member.valid == 0).count();
        assert!(fresh * 9 <= draw.committee().len() - fresh, "{fresh} of {}", draw.committee().len());
    }
}
