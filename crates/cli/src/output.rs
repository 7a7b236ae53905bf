//! What programs read from standard output.

use std::io::{Write, stdout};

use anyhow::Result;
use serde_json::Value;

/// Prints an object as one line, at once.
pub fn print_line(value: &Value) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(())
}
