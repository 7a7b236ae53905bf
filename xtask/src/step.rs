//! Runs external commands as titled steps, with the time each took.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths;

/// A command that runs in the repository's root.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(paths::root());
    command
}

/// Cargo, as it would be started from a shell: `cargo xtask` tells this program of its own package, and build scripts
/// that read such variables would run again whenever that differs from a plain `cargo build`.
pub fn cargo() -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| text.starts_with(prefix)) {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Runs a command whose output matters only when it fails; a terminal shows a spinner meanwhile.
pub fn quiet(title: &str, command: &mut Command) -> Result<()> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| cannot_start(command))?;
    let (sender, lines) = mpsc::channel();
    forward(child.stdout.take(), sender.clone());
    forward(child.stderr.take(), sender);
    let terminal = std::io::stderr().is_terminal();
    if !terminal {
        eprintln!("      ... {title}");
    }
    let mut log = Vec::new();
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => log.push(line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if terminal {
            spin(title, started);
        }
    }
    let status = child.wait().context("waiting for a command")?;
    if terminal {
        eprint!("\r\x1b[2K");
    }
    if status.success() {
        done(title, started);
        return Ok(());
    }
    for line in &log[log.len().saturating_sub(80)..] {
        eprintln!("  {line}");
    }
    bail!("{title}: `{}` failed ({status})", words(command));
}

/// Runs a command that shows its own progress.
pub fn shown(title: &str, command: &mut Command) -> Result<()> {
    let started = Instant::now();
    eprintln!("      ... {title}");
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("{title}: `{}` failed ({status})", words(command));
    }
    done(title, started);
    Ok(())
}

/// Runs a command, shows its output line by line and gives each line to `watch`. Tells whether it succeeded.
pub fn watched(title: &str, command: &mut Command, mut watch: impl FnMut(&str)) -> Result<bool> {
    let started = Instant::now();
    eprintln!("      ... {title}");
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| cannot_start(command))?;
    let (sender, lines) = mpsc::channel();
    forward(child.stdout.take(), sender.clone());
    forward(child.stderr.take(), sender);
    for line in lines {
        println!("{line}");
        watch(&line);
    }
    let status = child.wait().context("waiting for a command")?;
    if status.success() {
        done(title, started);
    } else {
        eprintln!("   failed {title} ({status}, {})", elapsed(started));
    }
    Ok(status.success())
}

/// What a command prints, trimmed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", words(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub fn done(title: &str, started: Instant) {
    eprintln!("{:>9} {title}", elapsed(started));
}

fn elapsed(started: Instant) -> String {
    format!("{:.1} s", started.elapsed().as_secs_f64())
}

fn spin(title: &str, started: Instant) {
    const FRAMES: [char; 4] = ['|', '/', '-', '\\'];
    let frame = FRAMES[(started.elapsed().as_millis() / 150) as usize % FRAMES.len()];
    eprint!("\r\x1b[2K{frame} {:>7} {title}", elapsed(started));
    // A terminal that cannot be flushed only loses the spinner.
    let _ = std::io::stderr().flush();
}

fn forward(source: Option<impl Read + Send + 'static>, sender: Sender<String>) {
    let Some(source) = source else { return };
    thread::spawn(move || {
        for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
}

fn words(command: &Command) -> String {
    let all = std::iter::once(command.get_program()).chain(command.get_args());
    all.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", command.get_program().to_string_lossy())
}
