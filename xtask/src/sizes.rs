//! How much a volunteer downloads, compressed as the relay sends it, against budgets that are written down here.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{paths, step};

const KIB: u64 = 1024;

/// (key in the report, what it is, most bytes)
const BUDGETS: [(&str, &str, u64); 3] = [
    ("wasmBrotli", "Wasm module, Brotli", 3 * KIB * KIB / 2),
    ("pageGzip", "page before the click, gzip", 60 * KIB),
    ("embedGzip", "embed.js, gzip", 6 * KIB),
];

/// Prints the sizes of what `web/dist` holds; fails when one is over its budget.
pub fn sizes() -> Result<()> {
    let report = step::output(step::command("node").arg("xtask/sizes.mjs").arg(paths::at("web/dist")))
        .context("measuring web/dist")?;
    let report: Value = serde_json::from_str(&report).context("reading the report of sizes.mjs")?;
    let bytes = |key: &str| report[key].as_u64().with_context(|| format!("sizes.mjs did not report {key}"));
    println!("{:>9} bytes  Wasm module, raw", bytes("wasmRaw")?);
    println!("{:>9} bytes  page JavaScript before the click, gzip", bytes("pageScriptGzip")?);
    let mut over = vec![];
    for (key, what, budget) in BUDGETS {
        let size = bytes(key)?;
        println!("{size:>9} bytes  {what} (budget {budget})");
        if size > budget {
            over.push(format!("{what}: {size} bytes, {} over its budget", size - budget));
        }
    }
    if over.is_empty() { Ok(()) } else { bail!("too big: {}", over.join("; ")) }
}
