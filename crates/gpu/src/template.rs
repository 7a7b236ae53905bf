//! WGSL with a few directives, so that what must lie in registers can be written once instead of sixteen times.
//!
//! A line `//@ for i in N` repeats what follows, up to its `//@ end`, for i from 0 below N, and writes the number where
//! `$i` stands; `//@ if FLAG`, `//@ else`, `//@ end` choose. N is a number or one of the names that the host gives. The
//! GPU's compilers need this: an array with a computed index leaves the registers.

use shoal_learn::EngineError;

/// Names with their numbers; a flag is a name whose number is not 0.
pub(crate) type Names<'a> = &'a [(&'a str, u32)];

/// Writes out all directives.
pub(crate) fn expand(text: &str, names: Names<'_>) -> Result<String, EngineError> {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::with_capacity(text.len() * 4);
    block(&lines, names, &mut Vec::new(), &mut out)?;
    Ok(out)
}

fn wrong(what: &str, line: &str) -> EngineError {
    EngineError::Failed(format!("a shader's directive {what}: {line}"))
}

fn number(word: &str, names: Names<'_>, line: &str) -> Result<u32, EngineError> {
    let named = names.iter().find(|(name, _)| *name == word).map(|(_, number)| *number);
    named.or_else(|| word.parse().ok()).ok_or_else(|| wrong("names nothing", line))
}

fn block<'a>(
    lines: &[&'a str],
    names: Names<'_>,
    loops: &mut Vec<(&'a str, u32)>,
    out: &mut String,
) -> Result<(), EngineError> {
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        at += 1;
        let Some(directive) = line.trim().strip_prefix("//@ ") else {
            write(line, loops, out);
            continue;
        };
        let (middle, end) = extent(&lines[at..]).ok_or_else(|| wrong("has no end", line))?;
        let (first, second) =
            (&lines[at..at + middle.unwrap_or(end)], &lines[at + middle.map_or(end, |m| m + 1)..at + end]);
        match directive.split_whitespace().collect::<Vec<_>>()[..] {
            ["for", variable, "in", count] => {
                for index in 0..number(count, names, line)? {
                    loops.push((variable, index));
                    block(first, names, loops, out)?;
                    loops.pop();
                }
            }
            ["if", flag] => {
                let chosen = if number(flag, names, line)? == 0 { second } else { first };
                block(chosen, names, loops, out)?;
            }
            _ => return Err(wrong("is not known", line)),
        }
        at += end + 1;
    }
    Ok(())
}

/// Where the `else` (if there is one) and the `end` of a block are that was just opened.
fn extent(lines: &[&str]) -> Option<(Option<usize>, usize)> {
    let (mut depth, mut middle) = (0, None);
    for (index, line) in lines.iter().enumerate() {
        match line.trim().strip_prefix("//@ ").and_then(|rest| rest.split_whitespace().next()) {
            Some("for" | "if") => depth += 1,
            Some("else") if depth == 0 => middle = Some(index),
            Some("end") if depth == 0 => return Some((middle, index)),
            Some("end") => depth -= 1,
            _ => {}
        }
    }
    None
}

fn write(line: &str, loops: &[(&str, u32)], out: &mut String) {
    let mut line = line.to_owned();
    for (variable, index) in loops {
        line = line.replace(&format!("${variable}"), &index.to_string());
    }
    out.push_str(&line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn loops_nest_and_choices_choose() {
        let text = "a\n//@ for i in N\n//@ for j in 2\nb$i$j\n//@ end\n//@ end\n//@ if Q\nq\n//@ else\np\n//@ end\nz\n";
        let flat = |flag| expand(text, &[("N", 2), ("Q", flag)]).unwrap().replace('\n', " ");
        assert_eq!(flat(1), "a b00 b01 b10 b11 q z ");
        assert_eq!(flat(0), "a b00 b01 b10 b11 p z ");
    }

    #[test]
    fn directives_that_make_no_sense_are_errors() {
        for text in ["//@ for i in 2\nx", "//@ for i in M\n//@ end", "//@ while x\n//@ end", "//@ end"] {
            assert!(expand(text, &[]).is_err(), "{text}");
        }
    }
}
