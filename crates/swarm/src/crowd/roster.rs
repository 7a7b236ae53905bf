//! The roster of a large run as a Merkle tree: everybody can hold its root, and a member proves its place with a
//! logarithm of hashes.
//!
//! The tree has the shape of RFC 6962's (section 2.1): a left half of the largest power of two. Leaves and inner nodes are
//! hashed in domains of their own.

use shoal_ledger::vote_weights;
use shoal_wire::{
    Digest, PeerId, Round, codec,
    limits::CROWD_MAX,
    record::{Join, Member},
};

/// What an author counts for at most when sums are weighed: 12 bits.
const TRUST_MAX: u64 = 4095;

/// A member that was absent for so many rounds in a row is dropped: in a large run peers come and go, and a return within
/// a few rounds costs less than asking to be taken in again.
const MISSED_ROUNDS_MAX: u32 = 4;

/// A member and what it weighs, a leaf of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Seat {
    pub member: Member,
    /// Weight of its vote.
    pub weight: u64,
    /// How much its updates count, 1 to 4,095.
    pub trust: u16,
}

impl Seat {
    fn leaf(&self) -> Digest {
        Digest::in_domain("shoal 2026 v1 roster leaf", &codec::encode(self))
    }
}

/// All members, in peer order, with the root of their tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    seats: Vec<Seat>,
    root: Digest,
}

/// That a seat is in a roster of a size.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Proof {
    pub index: u32,
    pub size: u32,
    /// Siblings from the leaf up.
    pub path: Vec<Digest>,
}

impl Roster {
    /// Weighs members by the ledger's rules. An author counts in proportion to what its vote would weigh if it were durable and
    /// had not been away, so what bounds the votes of fresh identities bounds their share of the model too.
    pub fn new(mut members: Vec<Member>, anchors: &[PeerId]) -> Self {
        members.sort_unstable_by_key(|member| member.peer);
        members.dedup_by_key(|member| member.peer);
        members.truncate(CROWD_MAX);
        let weights = vote_weights(&members, anchors);
        let durable: Vec<Member> =
            members.iter().map(|member| Member { durable: true, missed: 0, ..*member }).collect();
        let counts = vote_weights(&durable, anchors);
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        let seat = |((member, weight), count): ((Member, u64), u64)| Seat {
            member,
            weight,
            trust: (count * TRUST_MAX / most).max(1) as u16,
        };
        let seats: Vec<Seat> = members.into_iter().zip(weights).zip(counts).map(seat).collect();
        let leaves: Vec<Digest> = seats.iter().map(Seat::leaf).collect();
        let root = bound(leaves.len() as u32, root_of(&leaves));
        Self { seats, root }
    }

    pub fn root(&self) -> Digest {
        self.root
    }

    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    pub fn find(&self, peer: PeerId) -> Option<usize> {
        self.seats.binary_search_by_key(&peer, |seat| seat.member.peer).ok()
    }

    /// The roster after a round: who contributed, who asked to be taken in, and who was found to lie.
    #[must_use]
    pub fn after(
        &self,
        round: Round,
        attended: impl Fn(usize) -> bool,
        joins: &[(PeerId, Join)],
        convicted: &[PeerId],
        anchors: &[PeerId],
    ) -> Self {
        let kept = self.seats.iter().enumerate().filter_map(|(index, seat)| {
            let mut member = seat.member;
            if attended(index) {
                member.valid = member.valid.saturating_add(1);
                member.missed = 0;
            } else if member.trains {
                member.missed = member.missed.saturating_add(1);
            }
            let is_anchor = anchors.contains(&member.peer);
            let stays = !convicted.contains(&member.peer) && (is_anchor || member.missed < MISSED_ROUNDS_MAX);
            stays.then_some(member)
        });
        let joined = joins.iter().map(|(peer, join)| Member::new(*peer, round + 1, *join));
        Self::new(kept.chain(joined).collect(), anchors)
    }

    pub fn prove(&self, index: usize) -> Option<Proof> {
        let leaves: Vec<Digest> = self.seats.iter().map(Seat::leaf).collect();
        let mut path = Vec::new();
        (index < leaves.len()).then(|| walk(&leaves, index, &mut path))?;
        Some(Proof { index: index as u32, size: leaves.len() as u32, path })
    }
}

impl Proof {
    /// Whether this seat is where the proof says in the roster with this root.
    pub fn holds(&self, seat: &Seat, root: Digest) -> bool {
        let mut path = self.path.iter();
        let climbed = climb(seat.leaf(), self.index, self.size, &mut path);
        let named = climbed.map(|tree| bound(self.size, tree));
        self.index < self.size && named == Some(root) && path.next().is_none()
    }
}

/// The tree's root with its size, since a tree's hash alone does not say how many leaves it has.
fn bound(size: u32, tree: Digest) -> Digest {
    Digest::in_domain("shoal 2026 v1 roster", &[&size.to_le_bytes()[..], &tree.0].concat())
}

fn pair(left: Digest, right: Digest) -> Digest {
    Digest::in_domain("shoal 2026 v1 roster node", &[left.0, right.0].concat())
}

/// Size of the left half of a tree of `size` > 1 leaves.
fn left_half(size: usize) -> usize {
    1 << (size - 1).ilog2()
}

fn root_of(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest::default(),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(left_half(leaves.len()));
            pair(root_of(left), root_of(right))
        }
    }
}

/// Collects the siblings of a leaf, the deepest first.
fn walk(leaves: &[Digest], index: usize, path: &mut Vec<Digest>) {
    if leaves.len() > 1 {
        let half = left_half(leaves.len());
        let (left, right) = leaves.split_at(half);
        let (within, index, sibling) = if index < half { (left, index, right) } else { (right, index - half, left) };
        walk(within, index, path);
        path.push(root_of(sibling));
    }
}

fn climb<'a>(leaf: Digest, index: u32, size: u32, path: &mut impl Iterator<Item = &'a Digest>) -> Option<Digest> {
    if size <= 1 {
        return Some(leaf);
    }
    let half = left_half(size as usize) as u32;
    if index < half {
        let left = climb(leaf, index, half, path)?;
        Some(pair(left, *path.next()?))
    } else {
        let right = climb(leaf, index - half, size - half, path)?;
        Some(pair(*path.next()?, right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn members(count: u64, valid: u32) -> Vec<Member> {
        let peer = |index: u64| PeerId(Digest::of(&index.to_le_bytes()).0);
        let join = Join { durable: true, trains: true };
        let member = |index| Member { valid, ..Member::new(peer(index), 1, join) };
        (0..count).map(member).collect()
    }

    #[test]
    fn a_member_of_ten_thousand_proves_its_seat_with_fourteen_hashes() {
        let roster = Roster::new(members(10_000, 20), &[]);
        for index in [0, 1, 4_095, 8_191, 8_192, 9_999] {
            let proof = roster.prove(index).unwrap();
            assert!(proof.path.len() <= 14);
            assert!(proof.holds(&roster.seats()[index], roster.root()));
        }
        assert_eq!(roster.prove(10_000), None);
    }

    #[test]
    fn a_proof_holds_for_its_seat_alone_in_rosters_of_every_small_size() {
        for size in 1..40 {
            let roster = Roster::new(members(size, 20), &[]);
            for index in 0..size as usize {
                let proof = roster.prove(index).unwrap();
                let seat = roster.seats()[index];
                assert!(proof.holds(&seat, roster.root()), "{index} of {size}");
                assert!(!proof.holds(&Seat { weight: seat.weight + 1, ..seat }, roster.root()));
                assert!(
                    !Proof { size: proof.size + 1, index: proof.size, ..proof.clone() }.holds(&seat, roster.root())
                );
                let longer = Proof { path: [&proof.path[..], &[Digest::default()]].concat(), ..proof.clone() };
                assert!(!longer.holds(&seat, roster.root()));
                let other = Proof { index: (proof.index + 1) % size as u32, ..proof };
                assert!(size == 1 || !other.holds(&seat, roster.root()));
            }
        }
    }

    #[test]
    fn eight_hundred_fresh_of_a_thousand_hold_a_tenth_of_votes_and_of_the_sum() {
        let mut all = members(1000, 20);
        all.iter_mut().take(800).for_each(|member| member.valid = 0);
        let roster = Roster::new(all, &[]);
        let share = |of: fn(&Seat) -> u64| {
            let fresh: u64 = roster.seats().iter().filter(|seat| seat.member.valid == 0).map(of).sum();
            fresh as f64 / roster.seats().iter().map(of).sum::<u64>() as f64
        };
        assert!(share(|seat| seat.weight) <= 0.1, "{}", share(|seat| seat.weight));
        let trust = share(|seat| seat.trust.into());
        assert!((0.05..=0.1).contains(&trust), "{trust}");
    }

    #[test]
    fn who_is_away_for_four_rounds_or_convicted_leaves_and_who_asks_comes() {
        let roster = Roster::new(members(20, 20), &[]);
        let away = roster.seats()[3].member.peer;
        let liar = roster.seats()[7].member.peer;
        let newcomer = PeerId([9; 32]);
        let join = Join { durable: true, trains: true };
        let next = roster.after(5, |index| index != 3, &[(newcomer, join)], &[liar], &[]);
        assert!(next.find(away).is_some() && next.find(liar).is_none());
        assert_eq!(next.seats()[next.find(newcomer).unwrap()].member.since, 6);
        let mut later = next.clone();
        for round in 6..9 {
            let away = later.find(away).unwrap();
            later = later.after(round, |index| index != away, &[], &[], &[]);
        }
        assert!(later.find(away).is_none());
        assert_ne!(later.root(), next.root());
    }
}
