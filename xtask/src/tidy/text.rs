//! Rules about the text of single files.

use super::Source;

const LINES_MAX: usize = 900;

/// The crates that peers' agreement rests on: time, seeds and bytes are arguments there.
const CORES: [&str; 4] = ["crates/wire/src/", "crates/ledger/src/", "crates/swarm/src/", "crates/learn/src/"];

/// What a core must not name, and why.
const BANNED_IN_CORES: [(&str, &str); 11] = [
    ("std::time", "time is an argument"),
    ("Instant::", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("tokio", "no executor in a core"),
    ("std::thread", "no threads in a core"),
    ("thread::spawn", "no threads in a core"),
    ("std::fs", "only shells and the store touch files"),
    ("std::net", "only shells touch sockets"),
    ("rand::", "seeds are arguments"),
    ("getrandom", "seeds are arguments"),
    ("HashMap", "its order differs from run to run: use BTreeMap"),
];

/// Crates other than the cores where files are not touched either.
const WITHOUT_FILES: [&str; 2] = ["crates/cpu/src/", "client-wasm/src/"];

pub fn faults(source: &Source) -> Vec<String> {
    let mut faults = vec![];
    let mut fault = |line: usize, why: String| faults.push(format!("{}:{line}: {why}", source.path));
    let code = ["rs", "ts", "mts", "mjs", "js", "wgsl", "css"].iter().any(|end| has_ending(&source.path, end));
    let lines = source.text.lines().count();
    if code && lines > LINES_MAX {
        fault(lines, format!("{lines} lines; a file is one room and has at most {LINES_MAX}"));
    }
    if source.path.ends_with("package-lock.json") && source.text.contains("\"resolved\": \"http") {
        fault(1, "names a registry host: set omit-lockfile-registry-resolved=true in .npmrc".to_owned());
    }
    if is_crate_root(&source.path) && !source.text.trim_start().starts_with("//!") {
        fault(1, "a crate says in its first lines what it is for (`//!`)".to_owned());
    }
    for (index, line) in source.text.lines().enumerate() {
        if code {
            for why in line_faults(&source.path, line) {
                fault(index + 1, why);
            }
        }
        if let Some(path) = machine_path(line) {
            fault(index + 1, format!("names {path}…, a place on one machine"));
        }
    }
    faults
}

fn has_ending(path: &str, ending: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, end)| end == ending)
}

fn is_crate_root(path: &str) -> bool {
    path.ends_with("src/lib.rs") || path.ends_with("src/main.rs")
}

fn line_faults(path: &str, line: &str) -> Vec<String> {
    let mut faults = vec![];
    for (pattern, why) in [
        (concat!("to", "do!("), "unfinished"),
        (concat!("unimpl", "emented!("), "unfinished"),
        (concat!("#[ig", "nore"), "a silenced test"),
        (concat!(".on", "ly("), "silences all other tests"),
        (concat!(".sk", "ip("), "a silenced test"),
    ] {
        // Iterators skip, too: only test files silence tests that way.
        let iterator = pattern.ends_with("ip(") && !is_script_test(path);
        if line.contains(pattern) && !iterator {
            faults.push(format!("`{pattern}`: {why}"));
        }
    }
    let comment = line.trim_start().starts_with("//");
    if comment || !has_ending(path, "rs") {
        return faults;
    }
    if CORES.iter().any(|core| path.starts_with(core)) {
        for (banned, why) in BANNED_IN_CORES {
            if line.contains(banned) {
                faults.push(format!("`{banned}`: {why}"));
            }
        }
    }
    if WITHOUT_FILES.iter().any(|folder| path.starts_with(folder)) && line.contains("std::fs") {
        faults.push("`std::fs`: only shells and the store touch files".to_owned());
    }
    // Its fields are private, so elsewhere the compiler sees to it.
    let in_wire = path.starts_with("crates/wire/src/") && path != "crates/wire/src/sign.rs";
    if in_wire && line.contains(concat!("Verif", "ied {")) {
        faults.push("only wire::sign builds a Verified: it is the proof that a signature held".to_owned());
    }
    faults
}

fn is_script_test(path: &str) -> bool {
    !has_ending(path, "rs") && path.contains("test")
}

/// A path that exists only on the machine of whoever wrote it.
fn machine_path(line: &str) -> Option<&'static str> {
    [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("C:\\Us", "ers\\")].into_iter().find(|path| {
        line.match_indices(path).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        faults(&Source { path: path.to_owned(), text: text.to_owned() }).len()
    }

    #[test]
    fn clocks_threads_and_files_are_found_in_cores_only() {
        for text in ["use std::time::Instant;", "std::fs::read(path)", "let map: HashMap<u8, u8>;"] {
            assert!(found("crates/swarm/src/round.rs", text) > 0, "{text}");
            assert_eq!(found("crates/node/src/round.rs", text), 0, "{text}");
        }
        assert_eq!(found("crates/swarm/src/round.rs", "// unlike std::time"), 0);
    }

    #[test]
    fn silenced_tests_and_unfinished_code_are_found() {
        assert_eq!(found("crates/node/src/a.rs", concat!("to", "do!()")), 1);
        assert_eq!(found("crates/node/src/a.rs", concat!("#[ig", "nore]")), 1);
        assert_eq!(found("web/test/a.test.ts", concat!("test.sk", "ip('x')")), 1);
        assert_eq!(found("crates/node/src/a.rs", "list.iter().skip(1)"), 0);
    }

    #[test]
    fn long_files_and_undocumented_crates_are_found() {
        assert_eq!(found("crates/node/src/a.rs", &"\n".repeat(LINES_MAX + 1)), 1);
        assert_eq!(found("crates/node/src/lib.rs", "mod a;"), 1);
        assert_eq!(found("crates/node/src/lib.rs", "//! A peer.\nmod a;"), 0);
    }

    #[test]
    fn registry_hosts_and_machine_paths_are_found() {
        assert_eq!(found("web/package-lock.json", "\"resolved\": \"https://example.org/a.tgz\""), 1);
        assert_eq!(found("docs/a.md", concat!("see /ho", "me/someone/x")), 1);
        assert_eq!(found("docs/a.md", "see https://example.org/home/x"), 0);
    }

    #[test]
    fn verified_values_are_built_in_one_place() {
        let text = concat!("Verif", "ied { from, value }");
        assert_eq!(found("crates/wire/src/record.rs", text), 1);
        assert_eq!(found("crates/wire/src/sign.rs", text), 0);
    }
}
