//! What lies do to a run, and what becomes of the liars: the real swarm in simulated worlds, with a model small enough
//! for hundreds of them and real enough to be poisoned.
//!
//! ```sh
//! cargo run --release -p shoal-sim --example attacks -- --json
//! ```
//! Prints tables, then one JSON object. `--seeds N` (10) plays each attack in so many worlds, and ten times as many
//! honest ones; `--only NAME` shows what became of one attack, world by world.

mod play;
mod tally;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Mutex;
use std::thread;

use play::{Play, Seen};
use serde_json::json;
use shoal_sim::{Lie, Model};
use tally::{Attack, auc, judge_share};

/// Rounds after which losses are compared.
const ROUNDS: u64 = 30;
/// Rounds within which sleepers are to be banned.
const SLEEPERS_ROUNDS: u64 = 90;
/// The round by which ratings are compared.
const RATED_ROUND: u64 = 20;

/// Lies in updates, by the name in the results.
const LIES: [(&str, Lie); 10] = [
    ("sign_flip", Lie::SignFlip),
    ("times_1000", Lie::Times1000),
    ("nan", Lie::NotANumber),
    ("infinite", Lie::Infinite),
    ("noise", Lie::Noise),
    ("alie", Lie::SmallShift),
    ("label_flip", Lie::LabelFlip),
    ("stale", Lie::Stale),
    ("copy", Lie::Copy),
    ("free_ride", Lie::FreeRide),
];

/// Lies of those who earn trust first. The second one's updates bring as much as honest ones do.
const SLEEPERS: [(&str, Lie); 2] = [("sleepers", Lie::SignFlip), ("sleepers_alie", Lie::SmallShift)];

/// Whom the judges should rate below honest peers.
const RATED: [Lie; 5] = [Lie::HalfWork, Lie::Copy, Lie::Noise, Lie::SignFlip, Lie::Stale];

struct Arguments {
    seeds: u64,
    /// Only this play.
    only: Option<String>,
    json: bool,
}

fn main() -> Result<(), String> {
    let arguments = arguments()?;
    let attacks = attacks();
    let mut plays: Vec<(String, Play, u64)> = Vec::new();
    let honest = |rounds| Play { model: Model::Learner, lies: Vec::new(), asleep: false, rounds, until_banned: false };
    plays.push(("honest".to_owned(), honest(ROUNDS), arguments.seeds * 10));
    for attack in &attacks {
        plays.push((attack.name.clone(), attack.play.clone(), attack.seeds(arguments.seeds)));
        if let Some(plain) = attack.plain() {
            plays.push((format!("plain {}", attack.name), plain, arguments.seeds));
        }
    }
    plays.push(("rated".to_owned(), Play { lies: RATED.to_vec(), ..honest(RATED_ROUND) }, arguments.seeds));
    if let Some(only) = &arguments.only {
        plays.retain(|(name, ..)| name == only);
        for (seed, seen) in (1_u64..).zip(run_all(&plays).remove(only).ok_or_else(|| format!("there is no {only:?}"))?)
        {
            println!("{seed}: {seen:?}");
        }
        return Ok(());
    }
    let seen = run_all(&plays);
    let table: Vec<_> = attacks.iter().map(|attack| attack.tally(&seen)).collect();
    let auc = auc(&seen["rated"]);
    let share = judge_share(&seen["honest"]);
    let honest_banned: usize = seen["honest"].iter().map(|seen| seen.honest_banned).sum();
    if !arguments.json {
        println!("{} volunteers and an anchor, {ROUNDS} rounds, {} seeds\n", play::VOLUNTEERS, arguments.seeds);
        println!("{}", tally::HEADING);
        for row in &table {
            println!("{row}");
        }
        println!("\nhonest peers banned in {} honest worlds: {honest_banned}", seen["honest"].len());
        println!("AUC of the rating after {RATED_ROUND} rounds, honest above {RATED:?}: {auc:.3}");
        println!("share of compute that judging takes once peers are trusted: {:.1} %\n", share * 100.0);
    }
    let rows: serde_json::Map<_, _> = table.iter().map(|row| (row.name.clone(), row.json())).collect();
    println!(
        "{}",
        json!({
            "attacks": rows,
            "judge_auc": auc,
            "judge_share": share,
            "honest_worlds": seen["honest"].len(),
            "honest_banned": honest_banned,
        })
    );
    Ok(())
}

fn attacks() -> Vec<Attack> {
    let of = |name: &str, lie: Lie, liars: usize| Attack {
        name: name.to_owned(),
        play: Play {
            model: Model::Learner,
            lies: vec![lie; liars],
            asleep: false,
            rounds: ROUNDS,
            until_banned: false,
        },
    };
    let mut attacks: Vec<Attack> = LIES.iter().map(|(name, lie)| of(name, *lie, 3)).collect();
    attacks.extend(LIES.iter().map(|(name, lie)| of(&format!("six_{name}"), *lie, 6)));
    attacks.extend(SLEEPERS.map(|(name, lie)| {
        let attack = of(name, lie, 3);
        let play = Play { asleep: true, rounds: SLEEPERS_ROUNDS, until_banned: true, ..attack.play };
        Attack { play, ..attack }
    }));
    attacks
}

/// Every play in worlds of the seeds 1 and on, on all cores.
fn run_all(plays: &[(String, Play, u64)]) -> BTreeMap<String, Vec<Seen>> {
    // Seed by seed, so that a bench that is stopped has seen something of every play.
    let most = plays.iter().map(|(.., seeds)| *seeds).max().unwrap_or(0);
    let all = (1..=most).flat_map(|seed| {
        let of_seed = plays.iter().filter(move |(.., seeds)| seed <= *seeds);
        of_seed.map(move |(name, play, _)| (name, play, seed))
    });
    let queue = Mutex::new(all);
    let seen: Mutex<BTreeMap<String, BTreeMap<u64, Seen>>> = Mutex::default();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let work = || {
        // A lock is poisoned only where another thread panicked, which ends the bench when the scope does.
        while let Some((name, play, seed)) = queue.lock().ok().and_then(|mut queue| queue.next()) {
            let one = play.run(seed);
            let (loss, bans) = (one.loss.unwrap_or(f64::NAN), one.banned.values());
            eprintln!(
                "{name} {seed}: loss {loss}, bans {bans:?}, honest {}, stalled {}",
                one.honest_banned, one.stalled
            );
            if let Ok(mut seen) = seen.lock() {
                seen.entry(name.clone()).or_default().insert(seed, one);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let seen = seen.into_inner().unwrap_or_default();
    seen.into_iter().map(|(name, by_seed)| (name, by_seed.into_values().collect())).collect()
}

fn arguments() -> Result<Arguments, String> {
    let usage = || "usage: attacks [--seeds N] [--only NAME] [--json]".to_owned();
    let mut parsed = Arguments { seeds: 10, only: None, json: false };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--json" => parsed.json = true,
            "--only" => parsed.only = Some(given.next().ok_or_else(usage)?),
            "--seeds" => {
                let number = given.next().and_then(|number| number.parse().ok());
                parsed.seeds = number.filter(|seeds| *seeds > 0).ok_or_else(usage)?;
            }
            _ => return Err(usage()),
        }
    }
    Ok(parsed)
}
