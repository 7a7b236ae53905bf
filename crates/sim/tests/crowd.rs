//! Runs with many peers: the real state machines and the real sums.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_sim::crowd::{CrowdWorld, Liar, Settings};
use shoal_wire::PeerId;

fn settings(peers: usize) -> Settings {
    Settings { peers, train_ms: 20_000, parameters: 1_000_000, ..Settings::default() }
}

fn all_agree(world: &CrowdWorld, rounds: u64) {
    assert!(world.troubles.is_empty(), "{:?}", world.troubles);
    for round in 1..=rounds {
        assert_eq!(world.rounds[&round].models.len(), 1, "round {round}");
    }
}

#[test]
fn a_group_alone_and_a_tree_of_groups_end_each_round_with_one_model() {
    for peers in [5, 16, 40, 264] {
        let mut world = CrowdWorld::new(settings(peers));
        assert!(world.run_rounds(2, 400_000), "{peers}: {:?}", world.rounds);
        all_agree(&world, 2);
        for round in 1..=2 {
            assert_eq!(world.rounds[&round].contributors as usize, peers, "{peers} peers, round {round}");
        }
    }
}

#[test]
fn with_churn_rounds_go_on_and_those_who_come_back_catch_up() {
    let mut world = CrowdWorld::new(Settings { churn_per_mille: 100, away_ms: (5_000, 40_000), ..settings(200) });
    assert!(world.run_rounds(6, 500_000), "{:?}", world.rounds);
    all_agree(&world, 6);
    let mean = world.rounds.range(1..=6).map(|(_, tally)| f64::from(tally.contributors)).sum::<f64>() / 6.0;
    assert!(mean > 150.0, "{mean}");
}

#[test]
fn who_signs_wrong_sums_is_outvoted_in_its_group() {
    // Those who lead, and may propose first, lie; the others recompute.
    let mut world = CrowdWorld::with_liars(settings(16), |epoch, peer| {
        let seat = epoch.roster.find(peer)? as u32;
        epoch.draw.groups()[0][..3].contains(&seat).then_some(Liar::WrongSum)
    });
    assert!(world.run_rounds(2, 400_000), "{:?}", world.rounds);
    all_agree(&world, 2);
    assert!(world.wrong_sums.is_empty());
    let mut honest = CrowdWorld::new(settings(16));
    assert!(honest.run_rounds(1, 400_000));
    assert_eq!(world.rounds[&1].contributors, 16);
    assert_eq!(world.rounds[&1].models, honest.rounds[&1].models, "the sum is the honest one");
}

#[test]
fn a_group_that_lies_together_is_found_by_its_auditors_and_loses_its_places() {
    let settings = Settings { audit_ms: 8_000, ..settings(64) };
    let mut liars: Vec<PeerId> = Vec::new();
    let mut world = CrowdWorld::with_liars(settings, |epoch, peer| {
        let audited = epoch.draw.audits()[0].1;
        let seat = epoch.roster.find(peer)?;
        (epoch.draw.group_of(seat)? == audited).then_some(Liar::WrongSum)
    });
    let first = world.epochs[&1].clone();
    let audited = first.draw.audits()[0].1;
    for member in &first.draw.groups()[audited as usize] {
        liars.push(first.roster.seats()[*member as usize].member.peer);
    }
    assert!(world.run_rounds(1, 400_000), "{:?}", world.rounds);
    all_agree(&world, 1);
    assert!(world.wrong_sums.contains(&audited));
    let next = &world.epochs[&2];
    let left = liars.iter().filter(|peer| next.roster.find(**peer).is_some()).count();
    assert!(left * 3 < liars.len(), "{left} of {} liars kept their places", liars.len());
    assert_eq!(next.roster.seats().len() + liars.len() - left, 64);
}

#[test]
fn bytes_that_are_no_update_are_left_out_and_the_rest_counts() {
    let mut world = CrowdWorld::with_liars(settings(48), |epoch, peer| {
        (epoch.roster.find(peer)?.is_multiple_of(12)).then_some(Liar::Garbage)
    });
    assert!(world.run_rounds(1, 400_000), "{:?}", world.rounds);
    all_agree(&world, 1);
    assert_eq!(world.rounds[&1].contributors, 44);
}

#[test]
fn a_world_is_the_same_each_time() {
    let run = || {
        let mut world = CrowdWorld::new(Settings { churn_per_mille: 100, ..settings(40) });
        world.run_rounds(2, 400_000);
        (world.events, world.rounds[&2].models.clone(), world.sent_bytes().1)
    };
    assert_eq!(run(), run());
}
