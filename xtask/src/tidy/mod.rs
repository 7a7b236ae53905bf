//! House rules that no compiler checks.

mod graph;
mod limits;
mod text;

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{paths, step};

/// One file under version control.
pub struct Source {
    /// Relative to the root, with forward slashes.
    pub path: String,
    pub text: String,
}

/// Looks for breaches of the rules; with `bless`, rewrites what is derived from the source.
pub fn tidy(bless: bool) -> Result<()> {
    let started = Instant::now();
    let sources = sources()?;
    let mut faults: Vec<String> = sources.iter().flat_map(text::faults).collect();
    faults.extend(graph::faults()?);
    faults.extend(limits::faults(bless)?);
    if faults.is_empty() {
        step::done(&format!("house rules ({} files)", sources.len()), started);
        return Ok(());
    }
    for fault in &faults {
        eprintln!("  {fault}");
    }
    bail!("house rules: {} faults", faults.len());
}

fn sources() -> Result<Vec<Source>> {
    let list = step::output(step::command("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]))
        .context("the house rules look at the files that git knows")?;
    let mut sources = vec![];
    for path in list.lines() {
        // Binary files, and files that are deleted but not yet committed, have no text to look at.
        if let Ok(text) = std::fs::read_to_string(paths::at(path)) {
            sources.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(sources)
}
