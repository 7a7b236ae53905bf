//! Tools that the other commands need: found, or installed, or the person is told what to install.

use std::env;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{paths, stamp::Stamp, step};

pub const BROWSER_WASM: &str = "wasm32-unknown-unknown";
/// Runs ordinary tests in Wasm, under Node.
pub const TEST_WASM: &str = "wasm32-wasip1";
const CARGO_DENY: &str = "0.20.2";

/// A program on the `PATH`.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

pub fn rust_target(name: &str) -> Result<()> {
    let libraries = step::output(step::command("rustc").args(["--print", "target-libdir", "--target", name]))?;
    if Path::new(&libraries).exists() {
        return Ok(());
    }
    if find("rustup").is_none() {
        bail!("Rust's target {name} is missing: install it with your system's packages, or install rustup");
    }
    step::quiet(&format!("install Rust target {name}"), step::command("rustup").args(["target", "add", name]))
        .with_context(|| format!("run `rustup target add {name}` by hand"))
}

/// A C compiler, which the embedded database needs.
pub fn c_compiler() -> Result<()> {
    if env::var_os("CC").is_some() || find("cc").is_some() {
        return Ok(());
    }
    packages("a C compiler", &["build-essential"])
}

/// A C++ compiler, which the fuzzer needs.
pub fn cpp_compiler() -> Result<()> {
    if env::var_os("CXX").is_some() || find("c++").is_some() {
        return Ok(());
    }
    packages("a C++ compiler", &["build-essential"])
}

/// cargo-deny of a known version, so that all read `deny.toml` alike.
pub fn cargo_deny() -> Result<PathBuf> {
    let own = paths::tools().join("bin/cargo-deny");
    for candidate in find("cargo-deny").into_iter().chain([own.clone()]) {
        // One that does not start is as good as missing.
        let said = step::output(step::command(&candidate).arg("--version")).unwrap_or_default();
        if said.split_whitespace().nth(1) == Some(CARGO_DENY) {
            return Ok(candidate);
        }
    }
    // Unoptimised: it reads a few megabytes, and an optimised build takes minutes longer than it saves.
    step::shown(
        &format!("install cargo-deny {CARGO_DENY} (minutes, once)"),
        step::cargo()
            .args(["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--debug", "--no-default-features"])
            .arg("--root")
            .arg(paths::tools())
            .env("CARGO_TARGET_DIR", paths::tools().join("build")),
    )
    .with_context(|| format!("run `cargo install cargo-deny --version {CARGO_DENY} --locked` by hand"))?;
    Ok(own)
}

pub fn node() -> Result<()> {
    let said = step::output(step::command("node").arg("--version"))
        .context("Node 20 or newer is needed: see https://nodejs.org")?;
    let major: u32 = said.trim_start_matches('v').split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    if major < 20 {
        bail!("Node 20 or newer is needed and this is {said}: see https://nodejs.org");
    }
    if find("npm").is_none() {
        bail!("npm is missing: install it together with Node, see https://nodejs.org");
    }
    Ok(())
}

/// Installs the packages that `folder`'s lock file names.
pub fn npm_packages(folder: &str) -> Result<()> {
    let folder_path = paths::at(folder);
    let stamp = Stamp::of(&format!("npm-{}", folder.replace('/', "-")), &[folder_path.join("package-lock.json")])?;
    if stamp.fresh(&folder_path.join("node_modules")) {
        return Ok(());
    }
    step::quiet(
        &format!("npm packages of {folder}"),
        // Not `npm ci`: it refuses a lock file that was written where the registry has no binaries for other systems.
        step::command("npm").args(["install", "--no-save", "--no-audit", "--no-fund"]).current_dir(&folder_path),
    )
    .with_context(|| format!("npm must reach its registry; try `npm install --no-save` in {folder}"))?;
    stamp.save()
}

pub struct Browsers {
    pub chromium: PathBuf,
    pub firefox: PathBuf,
}

/// Chromium for benchmarks.
pub fn chromium() -> Result<PathBuf> {
    if find_chromium().is_none() {
        if is_ubuntu(&distribution()) {
            bail!("Chromium is missing. {UBUNTU_BROWSERS}");
        }
        packages("Chromium", &["chromium"])?;
    }
    find_chromium().context("no Chromium found: set CHROMIUM to its path")
}

fn find_chromium() -> Option<PathBuf> {
    browser("CHROMIUM", &["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"])
}

/// Chromium and Firefox for the browser tests.
pub fn browsers() -> Result<Browsers> {
    let chromium = find_chromium;
    let firefox = || browser("FIREFOX", &["firefox-esr", "firefox"]);
    let missing: Vec<&str> = [(chromium().is_none(), "chromium"), (firefox().is_none(), "firefox-esr")]
        .into_iter()
        .filter_map(|(missing, package)| missing.then_some(package))
        .collect();
    if !missing.is_empty() {
        if is_ubuntu(&distribution()) {
            bail!("browsers for the tests are missing. {UBUNTU_BROWSERS}");
        }
        packages("browsers for the tests", &missing)?;
    }
    match (chromium(), firefox()) {
        (Some(chromium), Some(firefox)) => Ok(Browsers { chromium, firefox }),
        _ => bail!("no Chromium or no Firefox found: set CHROMIUM and FIREFOX to their paths"),
    }
}

/// Ubuntu's packages `chromium-browser` and `firefox` are snaps, which start neither as root nor with a profile in
/// `/tmp`, so they are neither installed nor used.
const UBUNTU_BROWSERS: &str = "Ubuntu's own chromium and firefox are snaps, which cannot run these tests. Install \
    Chrome (https://www.google.com/chrome, the .deb) and Firefox (https://support.mozilla.org/kb/install-firefox-linux, \
    Mozilla's .deb or archive), set CHROMIUM and FIREFOX to their programs, say /opt/google/chrome/chrome and \
    /usr/lib/firefox/firefox, and try again; or run `cargo xtask test --quick`, without browsers";

fn browser(variable: &str, names: &[&str]) -> Option<PathBuf> {
    let found = || names.iter().filter_map(|name| find(name)).find(|file| !is_snap(file));
    env::var_os(variable).map(PathBuf::from).or_else(found)
}

/// Whether this program is a snap, or the script that installs one.
fn is_snap(file: &Path) -> bool {
    let real = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let in_snap = |path: &Path| path.starts_with("/snap");
    // A browser's own starting script is short, too, but names no snap.
    let names_snap = || {
        let mut start = Vec::new();
        let read = std::fs::File::open(&real).and_then(|file| file.take(4096).read_to_end(&mut start));
        read.is_ok() && start.starts_with(b"#!") && start.windows(10).any(|part| part == b"/snap/bin/")
    };
    in_snap(file) || in_snap(&real) || real.ends_with("usr/bin/snap") || names_snap()
}

fn is_ubuntu(distribution: &str) -> bool {
    distribution.lines().any(|line| line == "id=ubuntu" || line.starts_with("id_like=") && line.contains("ubuntu"))
}

/// A Vulkan driver that runs without a graphics card, for tests of the GPU engine.
pub fn vulkan() -> Result<()> {
    let driver = |folder: &str| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if driver("/usr/share/vulkan/icd.d") || driver("/etc/vulkan/icd.d") || env::var_os("VK_DRIVER_FILES").is_some() {
        return Ok(());
    }
    packages("a Vulkan driver", &["mesa-vulkan-drivers", "libvulkan1"])
}

fn distribution() -> String {
    // A system without the file is of no known distribution.
    std::fs::read_to_string("/etc/os-release").unwrap_or_default().to_lowercase()
}

/// Installs system packages where that is allowed, else says what to install.
fn packages(what: &str, names: &[&str]) -> Result<()> {
    let list = names.join(" ");
    let debian = find("apt-get").is_some() && ["debian", "ubuntu"].iter().any(|name| distribution().contains(name));
    if !debian {
        bail!("{what} is missing: install the equivalent of Debian's packages {list}");
    }
    let root = step::output(step::command("id").arg("-u"))? == "0";
    let by_hand = format!("run `sudo apt-get update && sudo apt-get install -y {list}`, then try again");
    if !root {
        bail!("{what} is missing: {by_hand}");
    }
    let apt = || {
        let mut apt = step::command("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    step::quiet("refresh the package list", apt().arg("update")).with_context(|| by_hand.clone())?;
    step::quiet(&format!("install {list}"), apt().args(["install", "-y", "--no-install-recommends"]).args(names))
        .context(by_hand)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn ubuntu_and_what_is_made_from_it_are_told_from_debian() {
        assert!(is_ubuntu("name=\"ubuntu\"\nid=ubuntu\nid_like=debian"));
        assert!(is_ubuntu("id=pop\nid_like=\"ubuntu debian\""));
        assert!(!is_ubuntu("name=\"debian gnu/linux\"\nid=debian\nhome_url=\"https://www.debian.org/\""));
    }

    #[test]
    fn a_script_that_only_installs_a_snap_is_no_browser() {
        let file = env::temp_dir().join(format!("shoal-xtask-snap-{}", std::process::id()));
        let with = |text: &str| {
            std::fs::write(&file, text).unwrap();
            is_snap(&file)
        };
        let stub = with("#!/bin/sh\nif ! [ -x /snap/bin/firefox ]; then echo 'snap install firefox'; exit 1; fi\n");
        let browser = with("#!/bin/sh\nexec /usr/lib/firefox/firefox \"$@\"\n");
        std::fs::remove_file(&file).unwrap();
        assert!(stub);
        assert!(!browser);
        assert!(is_snap(Path::new("/snap/bin/chromium")));
    }
}
