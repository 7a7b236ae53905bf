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

/// Words of a stranger, fit for a terminal: one line without control characters.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The same for Markdown, where they stay words.
pub fn markdown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in plain(text).chars() {
        if "\\`*_[]<>#|!".contains(c) {
            safe.push('\\');
        }
        safe.push(c);
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_strangers_steer_neither_terminals_nor_pages() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{9b}d"), "a [2Jb c d");
        assert_eq!(markdown("![x](y) <b>\n# a_b"), "\\!\\[x\\](y) \\<b\\> \\# a\\_b");
    }
}
