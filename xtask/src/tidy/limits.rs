//! The table of limits in SECURITY.md says what `wire::limits` says.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};

use crate::paths;

const START: &str = "<!-- limits: written by `cargo xtask tidy --bless` -->\n";
const END: &str = "<!-- end of limits -->";

/// Compares the table with the source, or writes it anew with `bless`.
pub fn faults(bless: bool) -> Result<Vec<String>> {
    let source = std::fs::read_to_string(paths::at("crates/wire/src/limits.rs")).context("reading wire::limits")?;
    let file = paths::at("SECURITY.md");
    let page = std::fs::read_to_string(&file).context("reading SECURITY.md")?;
    let wanted = table(&source)?;
    let place = page.split_once(START).and_then(|(before, rest)| Some((before, rest.split_once(END)?)));
    let Some((before, (current, after))) = place else {
        return Ok(vec!["SECURITY.md: its table of limits has lost its markers".to_owned()]);
    };
    if current == wanted {
        return Ok(vec![]);
    }
    if bless {
        std::fs::write(&file, format!("{before}{START}{wanted}{END}{after}")).context("writing SECURITY.md")?;
        return Ok(vec![]);
    }
    Ok(vec!["SECURITY.md: its table of limits is out of date: run `cargo xtask tidy --bless`".to_owned()])
}

fn table(source: &str) -> Result<String> {
    let mut table = "| limit | value | on what |\n|---|---|---|\n".to_owned();
    let mut known = BTreeMap::new();
    let mut words = vec![];
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            words.push(text);
        } else if let Some(constant) = line.strip_prefix("pub const ") {
            let (name, rest) = constant.split_once(':').context("a constant without a type")?;
            let (_, expression) = rest.trim_end_matches(';').split_once('=').context("a constant without a value")?;
            let value = evaluate(expression, &known).with_context(|| format!("the value of {name}"))?;
            known.insert(name.to_owned(), value);
            let on = if words.is_empty() { subject(name) } else { words.join(" ") };
            writeln!(table, "| `{name}` | {} | {} |", shown(name, value), on.trim_end_matches('.'))?;
            words.clear();
        }
    }
    Ok(table)
}

/// What a constant without a comment is about: `MANIFEST_BYTES_MAX` is about one manifest.
fn subject(name: &str) -> String {
    let words = name.trim_end_matches("_MAX").trim_end_matches("_BYTES").to_lowercase().replace('_', " ");
    format!("One {words}")
}

/// Products, sums, differences and shifts of numbers and of constants above, from left to right.
fn evaluate(expression: &str, known: &BTreeMap<String, u64>) -> Result<u64> {
    let mut value = None;
    let mut operator = "";
    for word in expression.split_whitespace() {
        if matches!(word, "*" | "+" | "-" | "<<") {
            operator = word;
            continue;
        }
        let number = match known.get(word) {
            Some(number) => *number,
            None => word.replace('_', "").parse().with_context(|| format!("cannot read `{word}`"))?,
        };
        value = match (value, operator) {
            (None, _) => Some(number),
            (Some(left), "*") => u64::checked_mul(left, number),
            (Some(left), "+") => u64::checked_add(left, number),
            (Some(left), "<<") => 1_u64.checked_shl(number as u32).and_then(|factor| left.checked_mul(factor)),
            (Some(left), _) => u64::checked_sub(left, number),
        };
    }
    value.context("not a number")
}

fn shown(name: &str, value: u64) -> String {
    const KIB: u64 = 1024;
    match value {
        _ if !name.contains("BYTES") => value.to_string(),
        _ if value.is_multiple_of(KIB * KIB) => format!("{} MiB", value / (KIB * KIB)),
        _ if value.is_multiple_of(KIB) => format!("{} KiB", value / KIB),
        _ => format!("{value} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_become_rows() {
        let source = "/// One message\n/// of a channel.\npub const PIECE_BYTES_MAX: usize = 16 * 1024;\n\
            pub const ROOM_MAX: usize = 64;\npub const RANGE_BYTES: usize = PIECE_BYTES_MAX - 256;\n";
        let table = table(source).unwrap();
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| `PIECE_BYTES_MAX` | 16 KiB | One message of a channel |",
                "| `ROOM_MAX` | 64 | One room |",
                "| `RANGE_BYTES` | 16128 bytes | One range |",
            ]
        );
    }
}
