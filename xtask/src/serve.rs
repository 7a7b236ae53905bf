//! Serves a demo run.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{build, paths, step};

/// Builds everything, then becomes the relay. `false` never comes back; success means that it ended well.
pub fn serve(relay_arguments: &[String]) -> Result<bool> {
    build::everything()?;
    eprintln!();
    let mut relay = step::command(paths::target().join("release/shoal-relay"));
    relay.args(["--demo", "--resident"]).args(relay_arguments);
    become_it(relay)
}

/// Replaces this process, so that signals reach the relay itself.
#[cfg(unix)]
fn become_it(mut relay: Command) -> Result<bool> {
    use std::os::unix::process::CommandExt;
    let error = relay.exec();
    Err(error).context("cannot start the relay")
}

#[cfg(not(unix))]
fn become_it(mut relay: Command) -> Result<bool> {
    let status = relay.status().context("cannot start the relay")?;
    if status.success() { Ok(true) } else { anyhow::bail!("the relay ended with {status}") }
}
