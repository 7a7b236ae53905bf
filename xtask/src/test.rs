//! Runs all tests.

use std::process::Command;

use anyhow::Result;

use crate::{
    build,
    count::Count,
    paths, step,
    tools::{self, BROWSER_WASM, TEST_WASM},
};

/// The crates whose tests must say the same in Wasm as natively; the swarm's are worlds of many peers.
const CORES: [&str; 5] = ["shoal-wire", "shoal-ledger", "shoal-swarm", "shoal-sim", "shoal-learn"];

pub fn test(quick: bool) -> Result<bool> {
    tools::c_compiler()?;
    tools::node()?;
    tools::vulkan()?;
    tools::rust_target(BROWSER_WASM)?;
    tools::rust_target(TEST_WASM)?;
    let browsers = if quick { None } else { Some(tools::browsers()?) };
    tools::npm_packages("web")?;
    build::pages()?;

    let mut total = Count::default();
    // Whole-system tests start the relay and the command-line tool that this leaves in `target/debug`.
    step::shown("build all programs", step::cargo().args(["build", "--workspace", "--bins"]))?;
    total += run("Rust tests", &mut rust_tests())?;
    total += run("tests of the cores in Wasm", &mut core_tests_in_wasm())?;
    total += run("tests of the pages", step::command("npm").arg("test").current_dir(paths::at("web")))?;
    if let Some(browsers) = browsers {
        total += browser_tests(&browsers)?;
    }
    total.close("test")
}

fn run(title: &str, command: &mut Command) -> Result<Count> {
    let mut count = Count::default();
    let succeeded = step::watched(title, command, |line| count.line(line))?;
    count.settle(succeeded);
    Ok(count)
}

fn rust_tests() -> Command {
    let mut tests = step::cargo();
    if tools::find("cargo-nextest").is_some() {
        tests.args(["nextest", "run", "--workspace", "--no-fail-fast", "--status-level", "slow"]);
    } else {
        tests.args(["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    tests
}

fn core_tests_in_wasm() -> Command {
    let mut tests = step::cargo();
    tests.args(["test", "--no-fail-fast", "--lib", "--tests", "--target", TEST_WASM]);
    for core in CORES {
        tests.args(["--package", core]);
    }
    tests
}

fn browser_tests(browsers: &tools::Browsers) -> Result<Count> {
    tools::npm_packages("tests/browser")?;
    run(
        "browser tests",
        step::command("npm")
            .arg("test")
            .current_dir(paths::at("tests/browser"))
            .env("CHROMIUM", &browsers.chromium)
            .env("FIREFOX", &browsers.firefox)
            .env("SHOAL_TARGET", paths::target().join("debug")),
    )
}
