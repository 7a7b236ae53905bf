//! Builds the Wasm module, the pages and the relay.

use std::time::Instant;

use anyhow::{Context, Result};
use wasm_bindgen_cli_support::Bindgen;

use crate::{
    paths,
    stamp::Stamp,
    step,
    tools::{self, BROWSER_WASM},
};

pub fn everything() -> Result<()> {
    pages()?;
    relay()
}

/// The relay with the pages inside it.
fn relay() -> Result<()> {
    tools::c_compiler()?;
    step::shown("build the relay", step::cargo().args(["build", "--release", "--package", "shoal-relay"]))
}

/// The Wasm module and the pages in `web/dist`, each file also compressed, as the relay sends it.
pub fn pages() -> Result<()> {
    tools::node()?;
    tools::npm_packages("web")?;
    wasm()?;
    let web = paths::at("web");
    let mut inputs = vec![];
    for entry in std::fs::read_dir(&web)? {
        let entry = entry?;
        let made = ["dist", "node_modules"].iter().any(|name| entry.file_name() == *name);
        if !made {
            inputs.push(entry.path());
        }
    }
    inputs.push(paths::at("xtask/compress.mjs"));
    inputs.sort();
    let stamp = Stamp::of("web", &inputs)?;
    // A build by hand empties the folder and leaves no compressed files, so their absence tells of it, too.
    if stamp.fresh(&web.join("dist/index.html.br")) {
        return Ok(());
    }
    step::quiet("build the pages", step::command("npm").args(["run", "build"]).current_dir(&web))?;
    step::quiet("compress the pages", step::command("node").arg("xtask/compress.mjs").arg(web.join("dist")))?;
    stamp.save()
}

/// The Wasm module and its JavaScript glue in `web/src/wasm`.
pub fn wasm() -> Result<()> {
    tools::rust_target(BROWSER_WASM)?;
    step::shown(
        "build the client for Wasm",
        step::cargo().args(["build", "--package", "shoal-client", "--target", BROWSER_WASM, "--profile", "wasm"]),
    )?;
    bind()
}

/// Makes the module that browsers load, and its glue, from what rustc made.
fn bind() -> Result<()> {
    let raw = paths::raw_wasm();
    let folder = paths::at("web/src/wasm");
    let stamp = Stamp::of("bind", &[raw.clone(), paths::at("Cargo.lock")])?;
    if stamp.fresh(&folder.join("shoal_client_bg.wasm")) {
        return Ok(());
    }
    let started = Instant::now();
    Bindgen::new()
        .input_path(&raw)
        .web(true)
        .and_then(|bindgen| {
            bindgen
                .typescript(true)
                .omit_default_module_path(false)
                .remove_name_section(true)
                .remove_producers_section(true)
                .generate(&folder)
        })
        .context("making the JavaScript glue")?;
    step::done("make the JavaScript glue", started);
    stamp.save()
}
