//! Who audits whom.
//!
//! The draw follows from the round's randomness, which nobody knows before the updates are committed to: an author cannot
//! tell whether it will be audited, nor by whom.

use std::collections::{BTreeMap, BTreeSet};

use shoal_wire::{Digest, PeerId, record::Member};

use super::{evidence, verdict::REFERENCE_UPDATES_MIN};
use crate::roster::{is_established, is_trusted, is_young, vote_weights};

/// Auditors of one update, where the roster has so many.
pub const AUDITORS: usize = 3;
/// Least probability of an audit, in 1/65536. One in sixteen, not one in twenty: a peer that turns to lying must be
/// caught and then fail audits until its ban, all within 90 rounds, in 99 of 100 cases.
const FLOOR_65536: u64 = 65_536 / 16;
/// Those who are trusted are audited together, in one round of so many: what one update brings says most beside what others
/// bring. Each is drawn as often as if it were alone, and nobody knows the round before its updates are committed to.
const TOGETHER: u64 = 4;

/// The auditors of each author whose update is audited.
pub type Panels = BTreeMap<PeerId, BTreeSet<PeerId>>;

/// Draws the audits of a round whose `authors` (in peer order) revealed their seeds. Who is not trusted yet, or suspected, is
/// always audited; others in one round of four, each with four times the probability max(1/n, 1/16) after n valid audits
/// (BOINC's adaptive replication, with a floor), and more of them where there would be too few to compare with: those who are
/// watched may all lie.
/// Auditors are those of them that weigh fully, and the anchors; audits are spread evenly.
pub fn draw(randomness: Digest, roster: &[Member], anchors: &[PeerId], authors: &[PeerId]) -> Panels {
    let auditors = auditors(roster, anchors, authors);
    let in_turn = |member: &Member| (ticket("shoal 2026 v1 audited in turn", randomness, &[member.peer]), member.peer);
    let present: Vec<&Member> = roster.iter().filter(|member| authors.contains(&member.peer)).collect();
    let (audited, others): (Vec<&Member>, Vec<&Member>) =
        present.iter().partition(|member| is_audited(randomness, member));
    let sorted = |members: Vec<&Member>| {
        let mut sorted: Vec<(Digest, PeerId)> = members.into_iter().map(in_turn).collect();
        sorted.sort_unstable();
        sorted
    };
    let watched = present.iter().filter(|member| is_watched(member)).count();
    let mut subjects = sorted(audited);
    let wanted = match watched {
        // Of fewer than four updates nothing can be said beyond what each does alone.
        0 if subjects.is_empty() || present.len() < REFERENCE_UPDATES_MIN => 0,
        _ => REFERENCE_UPDATES_MIN.max(3 * watched),
    };
    let lacking = wanted.saturating_sub(subjects.len());
    subjects.extend(sorted(others).into_iter().take(lacking));
    let mut load: BTreeMap<PeerId, u32> = auditors.iter().map(|peer| (*peer, 0)).collect();
    let mut drawn = Panels::new();
    for (_, author) in subjects {
        let mut by_load: Vec<(u32, Digest, PeerId)> = load
            .iter()
            .filter(|(auditor, _)| **auditor != author)
            .map(|(auditor, load)| (*load, ticket("shoal 2026 v1 auditor", randomness, &[author, *auditor]), *auditor))
            .collect();
        by_load.sort_unstable();
        let chosen: BTreeSet<PeerId> = by_load.into_iter().take(AUDITORS).map(|(_, _, auditor)| auditor).collect();
        for auditor in &chosen {
            *load.entry(*auditor).or_default() += 1;
        }
        drawn.insert(author, chosen);
    }
    drawn
}

/// Those whose judgement counts: present in this round, with a full vote. Once a run is not young, newcomers judge
/// nobody, so a crowd of fresh keys has no say in who is banned.
fn auditors(roster: &[Member], anchors: &[PeerId], authors: &[PeerId]) -> Vec<PeerId> {
    let young = is_young(roster);
    let weights = vote_weights(roster, anchors);
    let may_audit = |(member, weight): &(&Member, u64)| {
        let here = authors.contains(&member.peer) || anchors.contains(&member.peer);
        let full = *weight > 0 && (young || is_established(member, anchors));
        here && full && evidence::may_audit(&member.standing)
    };
    roster.iter().zip(weights).filter(may_audit).map(|(member, _)| member.peer).collect()
}

/// Whether each of its updates is audited: until it is trusted, and also later while a test speaks against it, so that a test
/// that is about to decide does not wait for a draw.
fn is_watched(member: &Member) -> bool {
    !is_trusted(member) || evidence::is_suspected(&member.standing)
}

fn is_audited(randomness: Digest, member: &Member) -> bool {
    let lot = |domain, peers: &[PeerId]| {
        let ticket = ticket(domain, randomness, peers);
        u64::from(u16::from_le_bytes([ticket.0[0], ticket.0[1]]))
    };
    let probability_65536 = || (65_536 / u64::from(member.valid)).max(FLOOR_65536);
    let is_round = || lot("shoal 2026 v1 audited together", &[]) < 65_536 / TOGETHER;
    let is_drawn = || lot("shoal 2026 v1 audited", &[member.peer]) < TOGETHER * probability_65536();
    is_watched(member) || (is_round() && is_drawn())
}

fn ticket(domain: &str, randomness: Digest, peers: &[PeerId]) -> Digest {
    let mut bytes = randomness.0.to_vec();
    for peer in peers {
        bytes.extend_from_slice(&peer.0);
    }
    Digest::in_domain(domain, &bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use shoal_wire::record::Join;

    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    fn roster(valid: &[u32]) -> (Vec<Member>, Vec<PeerId>) {
        let member = |(number, valid): (usize, &u32)| Member {
            valid: *valid,
            ..Member::new(peer(number as u8 + 1), 1, Join { durable: true, trains: true })
        };
        let roster: Vec<Member> = valid.iter().enumerate().map(member).collect();
        let authors = roster.iter().map(|member| member.peer).collect();
        (roster, authors)
    }

    fn load(draw: &Panels, auditor: PeerId) -> usize {
        draw.values().filter(|auditors| auditors.contains(&auditor)).count()
    }

    #[test]
    fn the_same_randomness_draws_the_same_audits_and_another_one_others() {
        let (roster, authors) = roster(&[0; 12]);
        let drawn = |seed: &[u8]| draw(Digest::of(seed), &roster, &[], &authors);
        assert_eq!(drawn(b"one"), drawn(b"one"));
        assert_ne!(drawn(b"one"), drawn(b"another"));
    }

    #[test]
    fn newcomers_are_audited_by_three_others_each_and_the_work_is_spread_evenly() {
        let (roster, authors) = roster(&[0; 16]);
        for seed in 0..100_u8 {
            let drawn = draw(Digest::of(&[seed]), &roster, &[], &authors);
            assert_eq!(drawn.len(), 16);
            assert!(drawn.iter().all(|(author, auditors)| auditors.len() == AUDITORS && !auditors.contains(author)));
            let loads: Vec<usize> = authors.iter().map(|auditor| load(&drawn, *auditor)).collect();
            assert!(loads.iter().all(|load| (2..=4).contains(load)), "{loads:?}");
        }
    }

    #[test]
    fn everybody_audits_about_as_often_as_everybody_else_over_many_rounds() {
        let (roster, authors) = roster(&[0; 9]);
        let mut loads = BTreeMap::new();
        for seed in 0..2_000_u32 {
            for auditor in draw(Digest::of(&seed.to_le_bytes()), &roster, &[], &authors).values().flatten() {
                *loads.entry(*auditor).or_insert(0_u32) += 1;
            }
        }
        assert!(loads.len() == 9 && loads.values().all(|load| (5_900..=6_100).contains(load)), "{loads:?}");
    }

    #[test]
    fn the_trusted_are_audited_with_one_over_n_and_never_less_than_in_one_round_of_sixteen() {
        let rounds = 20_000_u32;
        for (valid, expected) in [(10, 0.1), (12, 1.0 / 12.0), (16, 0.0625), (1_000_000, 0.0625)] {
            let (roster, _) = roster(&[valid; 5]);
            let audited = |round: u32| {
                roster.iter().filter(|member| is_audited(Digest::of(&round.to_le_bytes()), member)).count()
            };
            let share = (0..rounds).map(audited).sum::<usize>() as f64 / f64::from(rounds * 5);
            assert!((share - expected).abs() < 0.006, "{valid} valid audits: {share}");
        }
    }

    #[test]
    fn the_trusted_are_audited_together_so_that_their_updates_can_be_compared() {
        let (roster, authors) = roster(&[1_000; 16]);
        let (mut rounds, mut audits) = (0, 0);
        for seed in 0..2_000_u32 {
            let audited = draw(Digest::of(&seed.to_le_bytes()), &roster, &[], &authors).len();
            assert!(audited == 0 || audited >= REFERENCE_UPDATES_MIN, "{audited}");
            rounds += usize::from(audited > 0);
            audits += audited;
        }
        assert!((450..550).contains(&rounds) && audits < 2_000 * 5 / 4, "{audits} audits in {rounds} rounds");
    }

    #[test]
    fn who_is_suspected_is_audited_in_every_round_trusted_or_not() {
        let (mut roster, authors) = roster(&[1_000; 8]);
        roster[3].standing.evidence = 1_946;
        roster[5].standing.unproven = 1_946;
        for seed in 0..100_u8 {
            let drawn = draw(Digest::of(&[seed]), &roster, &[], &authors);
            assert!(drawn.contains_key(&authors[3]) && drawn.contains_key(&authors[5]) && drawn.len() >= 6);
        }
    }

    #[test]
    fn where_somebody_is_not_trusted_there_are_others_to_compare_it_with() {
        let (roster, authors) = roster(&[1_000, 1_000, 3, 1_000, 1_000, 1_000, 1_000]);
        let mut compared = BTreeSet::new();
        for seed in 0..100_u8 {
            let drawn = draw(Digest::of(&[seed]), &roster, &[], &authors);
            assert!(drawn.contains_key(&authors[2]) && drawn.len() >= REFERENCE_UPDATES_MIN, "{}", drawn.len());
            compared.extend(drawn.into_keys());
        }
        assert_eq!(compared.len(), authors.len(), "all in turn");
        let few = draw(Digest::of(b"few"), &roster[..3], &[], &authors[..3]);
        assert_eq!(few.len(), 3, "as many as there are");
    }

    #[test]
    fn of_those_audited_no_more_than_a_third_are_not_trusted() {
        let (roster, authors) = roster(&[1_000, 3, 1_000, 1_000, 0, 1_000, 1_000, 1_000, 9, 1_000, 1_000, 1_000]);
        for seed in 0..100_u8 {
            let drawn = draw(Digest::of(&[seed]), &roster, &[], &authors);
            assert!(drawn.len() >= 9, "{}", drawn.len());
        }
    }

    #[test]
    fn once_a_run_is_not_young_fresh_keys_audit_nobody_however_many_they_are() {
        let (roster, authors) = roster(&[20, 20, 20, 20, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0]);
        let drawn = draw(Digest::of(b"crowd"), &roster, &[], &authors);
        assert!(drawn.values().flatten().all(|auditor| authors[..4].contains(auditor)));
        assert!(authors[4..].iter().all(|author| drawn[author].len() == AUDITORS));
        let loads: Vec<usize> = authors[..4].iter().map(|auditor| load(&drawn, *auditor)).collect();
        assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 2, "{loads:?}");
    }

    #[test]
    fn nobody_audits_who_is_away_cannot_vote_or_was_alone_too_often() {
        let (mut roster, authors) = roster(&[0; 6]);
        roster[0].durable = false;
        roster[1].standing.dissent = u32::MAX;
        roster[2].standing.bans = 1;
        let drawn = draw(Digest::of(b"some"), &roster, &[], &authors[..5]);
        let auditors: BTreeSet<PeerId> = drawn.values().flatten().copied().collect();
        assert_eq!(auditors, authors[3..5].iter().copied().collect());
        assert!(!drawn.contains_key(&authors[5]), "what was not committed is not audited");
        let anchored = draw(Digest::of(b"some"), &roster, &authors[5..], &authors[..5]);
        assert!(anchored.values().flatten().any(|auditor| *auditor == authors[5]), "an anchor may audit");
    }
}
