//! `cargo run --release -p shoal-sim --example scale -- [--json] [--peers N|none] [--only NAME]`: the figures of runs with
//! many peers. `--peers` sets the size of the largest world, or leaves it out.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use shoal_sim::crowd::{Row, row, scale, world};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let many = arguments.iter().position(|argument| argument == "--peers");
    let many = match many.map(|at| arguments.get(at + 1).map(String::as_str)) {
        None => Some(10_000),
        Some(Some("none")) => None,
        Some(count) => {
            let Some(count) = count.and_then(|count| count.parse().ok()) else {
                eprintln!("--peers takes a number, or none");
                std::process::exit(2);
            };
            Some(count)
        }
    };
    println!(
        "{:<18} {:>6} {:>6} {:>9} {:>7} {:>9} {:>9} {:>10} {:>8} {:>8}",
        "world", "peers", "rounds", "one model", "in sum", "MB sent", "most MB", "computing", "rest s", "wall s"
    );
    let each = |row: &Row| {
        println!(
            "{:<18} {:>6} {:>6} {:>9} {:>7.0} {:>9.2} {:>9.2} {:>9.2}% {:>8.1} {:>8.1}",
            row.name,
            row.peers,
            row.rounds,
            row.one_model,
            row.contributors,
            row.bytes / 1e6,
            row.most_bytes / 1e6,
            row.computing * 100.0,
            row.other_seconds,
            row.wall_seconds
        );
        let phases: Vec<String> = row.phases.iter().map(|(phase, seconds)| format!("{phase:?} {seconds:.1}")).collect();
        println!("    after so many seconds of a round: {}", phases.join(", ").to_lowercase());
    };
    if let Some(name) = arguments.iter().position(|argument| argument == "--only").and_then(|at| arguments.get(at + 1))
    {
        let Some(settings) = world(name, many.unwrap_or(10_000)) else {
            eprintln!("no world is called {name}");
            std::process::exit(2);
        };
        each(&row("only", &settings).0);
        return;
    }
    let report = scale(many, each);
    println!(
        "800 fresh of 1,000: {:.2}% of votes, {:.2}% of the committee, {:.2}% of the sum",
        report.sybil_votes * 100.0,
        report.sybil_committee * 100.0,
        report.sybil_sum * 100.0
    );
    if json {
        println!("{}", report.json());
    }
}
