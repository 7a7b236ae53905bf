//! Format, lints, dependencies, house rules and size budgets.

use anyhow::Result;

use crate::{
    build,
    count::Count,
    fuzz, paths, sizes, step, tidy,
    tools::{self, BROWSER_WASM},
};

/// What runs in browsers.
const BROWSER_CRATES: [&str; 8] = [
    "shoal-wire",
    "shoal-ledger",
    "shoal-swarm",
    "shoal-learn",
    "shoal-cpu",
    "shoal-gpu",
    "shoal-store",
    "shoal-client",
];

/// Runs every check, so that one run tells all that is wrong.
pub fn check(fuzzes: bool) -> Result<bool> {
    tools::node()?;
    tools::rust_target(BROWSER_WASM)?;
    let mut count = Count::default();
    let mut note = |outcome: Result<()>| match outcome {
        Ok(()) => count.passed += 1,
        Err(error) => {
            count.failed += 1;
            eprintln!("   failed {error:#}");
        }
    };
    note(step::quiet("format", step::cargo().args(["fmt", "--all", "--check"])));
    note(tidy::tidy(false));
    note(dependencies());
    note(build::pages());
    note(web());
    note(sizes::sizes());
    note(step::shown(
        "lints",
        step::cargo().args([
            "clippy",
            "--quiet",
            "--keep-going",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    ));
    let mut wasm = step::cargo();
    wasm.args(["clippy", "--quiet", "--keep-going", "--target", BROWSER_WASM]);
    for name in BROWSER_CRATES {
        wasm.args(["--package", name]);
    }
    note(step::shown("lints of what runs in browsers", wasm.args(["--", "-D", "warnings"])));
    if fuzzes {
        note(fuzz::fuzz(None, fuzz::SECONDS));
    }
    count.close("check")
}

/// Licences, sources and bans as `deny.toml` says. Advisories need a database from the network and are left to
/// whoever updates dependencies.
fn dependencies() -> Result<()> {
    let deny = tools::cargo_deny()?;
    step::quiet("dependencies", step::command(deny).args(["check", "licenses", "bans", "sources"]))
}

fn web() -> Result<()> {
    let web = paths::at("web");
    step::quiet("lint of the pages", step::command("npm").args(["run", "lint"]).current_dir(&web))?;
    step::quiet("types of the pages", step::command("npm").args(["run", "typecheck"]).current_dir(&web))
}
