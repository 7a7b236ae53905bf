//! Serves a demo run.

use std::{ffi::OsString, process::Command};

use anyhow::{Context, Result};

use crate::{build, paths};

/// Builds everything, then becomes the relay. `false` never comes back; success means that it ended well.
pub fn serve(relay_arguments: &[String]) -> Result<bool> {
    build::everything()?;
    eprintln!();
    become_it(relay(relay_arguments, std::env::var_os(DATA_DIR)))
}

/// What the relay reads its data directory from when no flag names it.
const DATA_DIR: &str = "SHOAL_DATA_DIR";

/// Runs where the caller is, so that the paths in its arguments mean what the caller meant; only the data directory's
/// default is the repository's, wherever one calls from.
fn relay(arguments: &[String], data_dir: Option<OsString>) -> Command {
    let mut relay = Command::new(paths::target().join("release/shoal-relay"));
    relay.args(["--demo", "--resident"]).args(arguments);
    relay.env(DATA_DIR, data_dir.unwrap_or_else(|| paths::at("shoal-data").into()));
    relay
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_runs_where_the_caller_is_and_keeps_its_data_in_the_repository() {
        let command = relay(&["--data".to_owned(), "book.txt".to_owned()], None);
        assert_eq!(command.get_current_dir(), None);
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["--demo", "--resident", "--data", "book.txt"]);
        let data_dir = |command: &Command| {
            command.get_envs().find_map(|(name, value)| (name == DATA_DIR).then_some(value?.to_owned()))
        };
        assert_eq!(data_dir(&command), Some(paths::at("shoal-data").into()));
        assert_eq!(data_dir(&relay(&[], Some("elsewhere".into()))), Some("elsewhere".into()));
    }
}
