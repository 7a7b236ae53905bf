//! The relay, native volunteers and the verifier as child processes that end with the test.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::http;

/// Where cargo leaves the workspace's programs: beside the folder that this test runs from.
fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("a test runs from target/PROFILE/deps")?;
    let file = folder.join(name);
    if !file.exists() {
        bail!("{} is missing: run `cargo build --workspace --bins` first", file.display());
    }
    Ok(file)
}

/// Waits until `probe` succeeds; the last error is part of the message when time is up.
pub fn until<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        let trouble = match probe() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > end {
            bail!("not within {} s: {what} {trouble}", within.as_secs());
        }
        // Nothing unparks this thread: it looks again after a moment.
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// A running program; it is killed when this is dropped.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a program of the workspace; what it prints goes to a file in `folder`.
    pub fn start(name: &str, arguments: &[String], folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}-{}.log", unique()));
        let file = File::create(&log)?;
        let child = Command::new(program(name)?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { child, log })
    }

    pub fn log(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(4000)..];
        String::from_utf8_lossy(tail).into_owned()
    }

    /// Fails when the program has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("it ended with {status}:\n{}", self.log()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself; waiting leaves no zombie either way.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Starts a relay on what `folder` holds, at an address of this machine.
fn serve(folder: &Path, more: &[&str]) -> Result<(SocketAddr, Program)> {
    // Free when asked; nothing else on a test machine takes it in the meantime.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let listen = address.to_string();
    let folder_text = folder.to_string_lossy();
    let mut arguments = vec!["--listen", &listen, "--no-https", "--data-dir", &folder_text];
    arguments.extend(more);
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let logs = folder.parent().context("a relay's folder stands in the test's folder")?;
    Ok((address, Program::start("shoal-relay", &arguments, logs)?))
}

/// Runs `shoal … --json` to its end and returns the object in its last line.
pub fn shoal(arguments: &[&str]) -> Result<Value> {
    let text = shoal_text(arguments)?;
    let last = text.lines().last().context("it printed nothing")?;
    serde_json::from_str(last).with_context(|| format!("its last line is no JSON: {last}"))
}

/// Runs `shoal` to its end and returns what it printed.
pub fn shoal_text(arguments: &[&str]) -> Result<String> {
    let output = Command::new(program("shoal")?)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting shoal {arguments:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("shoal {arguments:?} ended with {}:\n{text}\n{complaint}", output.status);
    }
    Ok(text.into_owned())
}

/// What `shoal verify` said.
#[derive(Debug)]
pub struct Verification {
    pub holds: bool,
    pub status: Option<i32>,
    pub text: String,
}

/// A relay with one run.
pub struct Relay {
    pub address: SocketAddr,
    pub run: String,
    pub program: Program,
}

impl Relay {
    /// Starts a relay with a demo run in `folder`.
    pub fn demo(folder: &Path, more: &[&str]) -> Result<Self> {
        let mut arguments = vec!["--demo", "--resident", "--model", "tiny"];
        arguments.extend(more);
        Self::start(folder, &arguments)
    }

    /// Starts a relay without runs in `folder` and publishes one on it, as its host would.
    pub fn publish(folder: &Path, text: &Path, more: &[&str]) -> Result<Self> {
        let (address, mut program) = serve(folder, &["--resident"])?;
        until("the relay answers", Duration::from_mins(2), || {
            program.check()?;
            http::get(address, "/healthz").map(Some)
        })?;
        let (url, token) = (format!("http://{address}"), folder.join("host.token"));
        let (token, text) = (token.to_string_lossy(), text.to_string_lossy());
        let mut arguments = vec!["run", "create", &url, "--token-file", &token, "--data", &text, "--json"];
        arguments.extend(more);
        let created = shoal(&arguments)?;
        let run = created["id"].as_str().with_context(|| format!("no id in {created}"))?.to_owned();
        Ok(Self { address, run, program })
    }

    /// Starts a relay on what `folder` holds and waits until it serves a run.
    pub fn start(folder: &Path, more: &[&str]) -> Result<Self> {
        let (address, mut program) = serve(folder, more)?;
        let run = until("the relay serves a run", Duration::from_mins(2), || {
            program.check()?;
            let runs: Value = serde_json::from_slice(&http::get(address, "/api/runs")?)?;
            Ok(runs[0]["id"].as_str().map(str::to_owned))
        })?;
        Ok(Self { address, run, program })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The body of a `200` answer.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        http::get(self.address, path)
    }

    /// What the relay says of its run.
    pub fn details(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&http::get(self.address, &format!("/api/runs/{}", self.run))?)?)
    }

    pub fn round(&self) -> Result<u64> {
        self.details()?["round"].as_u64().context("a run has a round")
    }

    /// Waits until the relay holds the certificate of `round`.
    pub fn reach(&mut self, round: u64, within: Duration) -> Result<()> {
        until(&format!("round {round}"), within, || {
            self.program.check()?;
            let now = self.round()?;
            if now < round {
                bail!("round {now} so far");
            }
            Ok(Some(()))
        })
        .with_context(|| format!("the relay said:\n{}", self.program.log()))
    }

    /// A native volunteer that keeps its state in `folder`.
    pub fn join(&self, folder: &Path) -> Result<Program> {
        let arguments =
            ["join", &self.url(), "--run", &self.run, "--engine", "cpu", "--data-dir", &folder.to_string_lossy()]
                .map(str::to_owned);
        Program::start("shoal", &arguments, folder.parent().context("a folder in the test's folder")?)
    }

    /// Replays the run from genesis.
    pub fn verify(&self) -> Result<Verification> {
        self.verify_at(self.address, &[])
    }

    /// Replays the run as it is shown at an address.
    pub fn verify_at(&self, address: SocketAddr, more: &[&str]) -> Result<Verification> {
        let output = Command::new(program("shoal")?)
            .args(["verify", &format!("http://{address}"), "--run", &self.run])
            .args(more)
            .stdin(Stdio::null())
            .output()
            .context("starting shoal verify")?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join("\n");
        Ok(Verification { holds: output.status.success(), status: output.status.code(), text })
    }
}
