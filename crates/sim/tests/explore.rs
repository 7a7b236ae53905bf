//! The voting rules in every order of events: nothing certifies two bodies, and without any one of the rules something
//! does.

use shoal_sim::explore::{Flaw, Report, Setting, explore};

fn explored(name: &str, setting: Setting) -> Report {
    let report = explore(setting);
    println!("{name}: {} states, {} steps, {} with a certificate", report.states, report.steps, report.certified);
    for line in report.conflict.iter().flatten() {
        println!("    {line}");
    }
    report
}

const FOUR: Setting = Setting { peers: 4, liars: 1, views: 2, bodies: 2, flaw: None };

#[test]
fn four_peers_with_a_liar_never_certify_two_bodies() {
    let report = explored("4 peers, 1 liar, 2 views, 2 bodies", FOUR);
    assert_eq!(report.conflict, None);
    assert!(report.certified > 0);
}

#[test]
fn a_third_body_makes_no_difference() {
    let report = explored("4 peers, 1 liar, 2 views, 3 bodies", Setting { bodies: 3, ..FOUR });
    assert_eq!(report.conflict, None);
    assert!(report.certified > 0);
}

#[test]
fn three_peers_with_a_liar_never_certify_two_bodies_in_three_views() {
    let report = explored("3 peers, 1 liar, 3 views, 2 bodies", Setting { peers: 3, views: 3, ..FOUR });
    assert_eq!(report.conflict, None);
    assert!(report.certified > 0);
}

#[test]
fn without_the_lock_two_bodies_are_certified() {
    assert!(explored("no lock", Setting { flaw: Some(Flaw::NoLock), ..FOUR }).conflict.is_some());
}

#[test]
fn a_quorum_of_two_thirds_and_no_more_certifies_two_bodies() {
    // Of four equal peers, three are both the least that is 2/3 and the least that is more; of three they differ.
    let three = Setting { peers: 3, ..FOUR };
    assert!(explored("2/3 of 3", Setting { flaw: Some(Flaw::TwoThirds), ..three }).conflict.is_some());
    assert!(explored("half of 4", Setting { flaw: Some(Flaw::Half), ..FOUR }).conflict.is_some());
}

#[test]
fn a_quorum_that_is_only_claimed_certifies_two_bodies() {
    assert!(explored("unproven", Setting { flaw: Some(Flaw::UnprovenQuorum), ..FOUR }).conflict.is_some());
}

#[test]
fn peers_that_forget_their_votes_certify_two_bodies() {
    assert!(explored("lost votes", Setting { flaw: Some(Flaw::LostVotes), ..FOUR }).conflict.is_some());
}

#[test]
fn two_liars_of_four_certify_two_bodies() {
    assert!(explored("2 liars of 4", Setting { liars: 2, ..FOUR }).conflict.is_some());
}
