//! What the swarm withstands, what it costs at size, and how well its rounds learn. Each part is an example of its own,
//! which prints tables and one JSON object; this builds and runs them, and makes one object of theirs.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value};

use crate::{paths, step};

#[derive(Args)]
pub struct Swarm {
    /// Measure how well rounds learn too, which takes most of an hour; what is done is kept in `target/quality`
    #[arg(long, conflicts_with = "quality_from")]
    quality: bool,
    /// Take what an earlier `cargo run --release -p shoal-cpu --example quality` printed
    #[arg(long)]
    quality_from: Option<PathBuf>,
    /// The text to learn with `--quality`; stories are generated without it
    #[arg(long, requires = "quality")]
    data: Option<PathBuf>,
    /// Seeds of each attack, and of each comparison of learning
    #[arg(long)]
    seeds: Option<u32>,
    /// Print nothing but the JSON object
    #[arg(long)]
    json: bool,
}

pub fn swarm(arguments: &Swarm) -> Result<bool> {
    // What is given is read before anything is built.
    let mut quality = arguments.quality_from.as_deref().map(read).transpose()?;
    build(arguments.quality)?;
    let seeds = arguments.seeds.map(|seeds| vec!["--seeds".to_owned(), seeds.to_string()]).unwrap_or_default();
    let attacks = run("attacks", &seeds, arguments.json)?;
    let scale = run("scale", &["--json".to_owned()], arguments.json)?;
    if arguments.quality {
        let mut options = seeds;
        if let Some(data) = &arguments.data {
            options.extend(["--data".to_owned(), data.display().to_string()]);
        }
        quality = Some(run("quality", &options, arguments.json)?);
    }
    println!("{}", merge(&attacks, &scale, quality.as_ref())?);
    Ok(true)
}

fn build(quality: bool) -> Result<()> {
    let mut command = step::cargo();
    command.args(["build", "--release", "--package", "shoal-sim", "--example", "attacks", "--example", "scale"]);
    if quality {
        command.args(["--package", "shoal-cpu", "--example", "quality"]);
    }
    step::shown("build the bench of the swarm", &mut command)
}

/// Runs an example from the repository's root, shows its tables and returns its object.
fn run(name: &str, options: &[String], quiet: bool) -> Result<Value> {
    eprintln!("      ... {name}");
    let mut command = step::command(paths::target().join("release/examples").join(name));
    let output = command.args(options).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        bail!("{name} failed ({})", output.status);
    }
    let text = String::from_utf8(output.stdout).with_context(|| format!("what {name} printed"))?;
    let (tables, object) = last_line(&text);
    if !quiet && !tables.trim().is_empty() {
        println!("{}\n", tables.trim_end());
    }
    serde_json::from_str(object).with_context(|| format!("the last line of {name} is no JSON: {object:?}"))
}

fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let (_, object) = last_line(&text);
    serde_json::from_str(object).with_context(|| format!("the last line of {} is no JSON", path.display()))
}

fn last_line(text: &str) -> (&str, &str) {
    let text = text.trim_end();
    text.rsplit_once('\n').unwrap_or(("", text))
}

/// The object that this command promises; the quality is empty where none was asked for.
fn merge(attacks: &Value, scale: &Value, quality: Option<&Value>) -> Result<Value> {
    let mut all = Map::new();
    let parts = [
        ("attacks", attacks, &["attacks", "judge_auc", "judge_share"][..]),
        ("scale", scale, &["sybil_weight", "utilisation", "bytes_per_peer"][..]),
    ];
    for (name, object, keys) in parts {
        for key in keys {
            let value = object.get(key).with_context(|| format!("{name} printed no {key}"))?;
            all.insert((*key).to_owned(), value.clone());
        }
    }
    let none = Value::Object(Map::new());
    let quality = match quality {
        Some(object) => object.get("quality").context("the results of quality have no quality")?,
        None => &none,
    };
    all.insert("quality".to_owned(), quality.clone());
    Ok(Value::Object(all))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn attacks() -> Value {
        json!({"attacks": {"noise": {"liars": 3}}, "judge_auc": 0.9, "judge_share": 0.1, "seconds": 5})
    }

    fn scale() -> Value {
        json!({"sybil_weight": 0.1, "utilisation": 0.95, "bytes_per_peer": {"16": 1}})
    }

    #[test]
    fn the_object_has_what_it_promises_and_nothing_else() {
        let quality = json!({"quality": {"topk": {"loss": 2.0, "spread": 0.1}}, "goals": []});
        let all = merge(&attacks(), &scale(), Some(&quality)).unwrap();
        let keys = ["attacks", "bytes_per_peer", "judge_auc", "judge_share", "quality", "sybil_weight", "utilisation"];
        let found: BTreeSet<&str> = all.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found, keys.into());
        assert_eq!(all["quality"]["topk"]["loss"], 2.0);
        assert_eq!(merge(&attacks(), &scale(), None).unwrap()["quality"], json!({}));
    }

    #[test]
    fn a_part_that_says_less_than_it_should_is_named() {
        let error = merge(&attacks(), &json!({"utilisation": 1.0}), None).unwrap_err().to_string();
        assert_eq!(error, "scale printed no sybil_weight");
        assert!(merge(&attacks(), &scale(), Some(&json!({}))).is_err());
    }

    #[test]
    fn the_object_is_the_last_line() {
        assert_eq!(last_line("a table\n\n{}\n"), ("a table\n", "{}"));
        assert_eq!(last_line("{}"), ("", "{}"));
    }
}
