//! Runs the fuzz targets under libFuzzer, with a stable compiler.

use anyhow::{Context, Result, bail};

use crate::{paths, step, tools};

/// How long a target runs where nobody says.
pub const SECONDS: u32 = 10;

/// What makes a program tell the fuzzer where it has been, as cargo-fuzz has it. Sanitizers take a nightly compiler, and
/// Shoal's own code has no `unsafe` that they would look at here.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];
const MEMORY_MIB_MAX: u32 = 1024;
/// One input may take this long.
const INPUT_SECONDS_MAX: u32 = 10;
const INPUT_BYTES_MAX: u32 = 8192;

/// Runs one target, or each, for so long; fails when one crashes, hangs or takes too much memory.
pub fn fuzz(target: Option<&str>, seconds: u32) -> Result<()> {
    let all = targets()?;
    let chosen: Vec<&String> = all.iter().filter(|name| target.is_none_or(|target| target == *name)).collect();
    if chosen.is_empty() {
        bail!("there is no such target: choose one of {}", all.join(", "));
    }
    tools::cpp_compiler()?;
    let host = step::output(step::command("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let folder = paths::target().join("fuzz");
    let mut build = step::cargo();
    // With a target named, what runs at build time is left as it is.
    build.args(["build", "--package", "shoal-fuzz", "--features", "libfuzzer", "--profile", "fuzz"]);
    // Not all programs: the one that writes seeds has no fuzzer to link with.
    build.args(chosen.iter().flat_map(|name| ["--bin", name.as_str()]));
    build.args(["--target", host]).env("RUSTFLAGS", COVERAGE.join(" ")).env("CARGO_TARGET_DIR", &folder);
    step::shown("build the fuzz targets", &mut build)?;
    for name in chosen {
        // What is new goes into the first folder, which is not under version control.
        let found = folder.join("found").join(name);
        std::fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
        let artifacts = folder.join(format!("{name}-"));
        let mut run = step::command(folder.join(host).join("fuzz").join(name));
        run.arg(&found).arg(paths::at("fuzz/corpus").join(name)).args([
            format!("-max_total_time={seconds}"),
            format!("-timeout={INPUT_SECONDS_MAX}"),
            format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
            format!("-max_len={INPUT_BYTES_MAX}"),
            format!("-artifact_prefix={}", artifacts.display()),
            "-print_final_stats=1".to_owned(),
        ]);
        step::quiet(&format!("fuzz {name} for {seconds} s"), &mut run)
            .with_context(|| format!("what broke it is in {}*", artifacts.display()))?;
    }
    Ok(())
}

fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(paths::at("fuzz/fuzz_targets")).context("reading fuzz/fuzz_targets")? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}
