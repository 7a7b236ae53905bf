//! Counts what test runners say passed and failed.

use std::fs;
use std::ops::AddAssign;
use std::path::PathBuf;

use anyhow::Result;

use crate::paths;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl Count {
    /// Adds what a summary line of libtest, nextest, Vitest or Node's test runner says; other lines say nothing.
    pub fn line(&mut self, line: &str) {
        let plain = without_colours(line);
        let text = plain.trim();
        let numbers_lead = text.starts_with("test result:")
            || text.starts_with("Summary [")
            || (text.starts_with("Tests ") && (text.contains("passed") || text.contains("failed")));
        let words: Vec<&str> =
            text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        if numbers_lead {
            for pair in words.windows(2) {
                let Ok(number) = pair[0].parse::<u64>() else { continue };
                match pair[1] {
                    "passed" => self.passed += number,
                    "failed" | "timed" | "exec" => self.failed += number,
                    _ => {}
                }
            }
        } else if let [word, number] = words[..]
            && (text.starts_with('#') || text.starts_with('ℹ'))
            && let Ok(number) = number.parse::<u64>()
        {
            match word {
                "pass" => self.passed += number,
                "fail" | "cancelled" => self.failed += number,
                _ => {}
            }
        }
    }

    /// A runner that fails without naming a failure (it did not compile, say) is one failure.
    pub fn settle(&mut self, succeeded: bool) {
        if !succeeded && self.failed == 0 {
            self.failed = 1;
        }
    }

    /// Prints the closing line and keeps it for `.ci/run`.
    pub fn close(self, name: &str) -> Result<bool> {
        let file = file(name);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(file, format!("{} {}\n", self.passed, self.failed))?;
        println!("\n{name}: {} passed, {} failed", self.passed, self.failed);
        Ok(self.failed == 0)
    }
}

fn file(name: &str) -> PathBuf {
    paths::at("target/xtask").join(format!("{name}.count"))
}

fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c == '\x1b' {
            rest.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(line: &str) -> (u64, u64) {
        let mut count = Count::default();
        count.line(line);
        (count.passed, count.failed)
    }

    #[test]
    fn summary_lines_of_each_runner_are_understood() {
        assert_eq!(count("test result: ok. 3 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out"), (3, 1));
        assert_eq!(
            count("     Summary [   0.1s] 5 tests run: 2 passed (1 slow), 1 failed, 1 timed out, 4 skipped"),
            (2, 2)
        );
        assert_eq!(count("\x1b[2m      Tests \x1b[22m \x1b[31m1 failed\x1b[39m | 11 passed (12)"), (11, 1));
        assert_eq!(count("ℹ pass 7"), (7, 0));
        assert_eq!(count("# fail 2"), (0, 2));
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in ["12 passed", "pass 3", " Test Files  1 passed (1)", "ℹ tests 4", "running 3 tests"] {
            assert_eq!(count(line), (0, 0), "{line}");
        }
    }

    #[test]
    fn a_runner_that_fails_silently_is_one_failure() {
        let mut count = Count::default();
        count.settle(false);
        assert_eq!(count, Count { passed: 0, failed: 1 });
    }
}
