//! Dependencies between the crates point one way.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::step;

/// What each library may depend on. Shells may use all of these.
const LIBRARIES: [(&str, &[&str]); 7] = [
    ("shoal-wire", &[]),
    ("shoal-ledger", &["shoal-wire"]),
    ("shoal-swarm", &["shoal-wire", "shoal-ledger"]),
    ("shoal-learn", &["shoal-wire"]),
    ("shoal-cpu", &["shoal-wire", "shoal-learn"]),
    ("shoal-gpu", &["shoal-wire", "shoal-learn"]),
    ("shoal-store", &["shoal-wire"]),
];

/// The shells; a native peer is also a library for two of the others.
const SHELLS: [(&str, &[&str]); 6] = [
    ("shoal-client", &[]),
    ("shoal-node", &[]),
    ("shoal-relay", &["shoal-node"]),
    ("shoal-cli", &["shoal-node"]),
    ("shoal-sim", &[]),
    ("shoal-fuzz", &["shoal-sim"]),
];

/// Edges of the workspace's dependency graph that should not be there.
pub fn faults() -> Result<Vec<String>> {
    let metadata = step::output(step::cargo().args(["metadata", "--no-deps", "--offline", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("reading cargo's metadata")?;
    let packages = metadata["packages"].as_array().context("cargo's metadata names no packages")?;
    let mut faults = vec![];
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let dependencies = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
        for dependency in dependencies {
            // What only tests use may look anywhere.
            let for_tests = dependency["kind"].as_str() == Some("dev");
            let on = dependency["name"].as_str().unwrap_or_default();
            if !for_tests && !allowed(name, on) {
                faults.push(format!("{name} depends on {on}: dependencies point from shells to cores"));
            }
        }
    }
    Ok(faults)
}

fn allowed(from: &str, on: &str) -> bool {
    let house = |name: &str| name.starts_with("shoal-");
    if !house(on) || !house(from) || from == "shoal-tests" {
        return true;
    }
    if let Some((_, may)) = LIBRARIES.iter().find(|(name, _)| *name == from) {
        return may.contains(&on);
    }
    let shells_it_may_use = SHELLS.iter().find(|(name, _)| *name == from).map_or(&[][..], |(_, may)| may);
    LIBRARIES.iter().any(|(name, _)| *name == on) || shells_it_may_use.contains(&on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_do_not_look_up_and_shells_do_not_look_sideways() {
        assert!(allowed("shoal-swarm", "shoal-wire"));
        assert!(allowed("shoal-swarm", "serde"));
        assert!(!allowed("shoal-wire", "shoal-swarm"));
        assert!(!allowed("shoal-swarm", "shoal-learn"));
        assert!(!allowed("shoal-store", "shoal-node"));
        assert!(allowed("shoal-relay", "shoal-node"));
        assert!(!allowed("shoal-node", "shoal-relay"));
    }
}
