//! What a manifest must fulfil before a relay serves its run.

use std::collections::BTreeSet;

use shoal_learn::{Layout, layout::LayoutError};
use shoal_wire::{
    Digest, Manifest,
    limits::{self, DESCRIPTION_BYTES_MAX, DURATION_MS_MAX, NAME_BYTES_MAX, RECOVERY_WINDOW_ROUNDS_MAX, SOURCES_MAX},
    manifest::{Optimizer, OptimizerError, VERSION},
};
use thiserror::Error;

#[derive(Debug, Error, PartialEq)]
pub enum Unfit {
    #[error("the manifest speaks version {0} of the protocol, this relay speaks version {VERSION}")]
    Version(u16),
    #[error("{what} must have between {min} and {max} bytes, and has {found}")]
    Text { what: &'static str, min: usize, max: usize, found: usize },
    #[error("{what} must be between {min} and {max}, and is {found}")]
    Number { what: &'static str, min: u64, max: u64, found: u64 },
    #[error("recipe.inner: {0}")]
    Optimizer(#[from] OptimizerError),
    #[error("the model: {0}")]
    Model(#[from] LayoutError),
    #[error("anchors must differ from each other")]
    Anchors,
    #[error("{what} ({digest}) is not on this relay: upload it with PUT /api/blobs/{digest} first")]
    Missing { what: &'static str, digest: Digest },
    #[error("{what} ({digest}) has {found} bytes, and the manifest needs {needed}")]
    Size { what: &'static str, digest: Digest, found: u64, needed: u64 },
}

/// Checks everything that can be checked without the blobs' content. `size_of` looks a blob up.
pub fn check<E: From<Unfit>>(
    manifest: &Manifest,
    mut size_of: impl FnMut(Digest) -> Result<Option<u64>, E>,
) -> Result<(), E> {
    if manifest.version != VERSION {
        return Err(Unfit::Version(manifest.version).into());
    }
    texts(manifest)?;
    let layout = Layout::of(&manifest.model).map_err(Unfit::Model)?;
    numbers(manifest)?;
    let anchors: BTreeSet<_> = manifest.anchors.iter().collect();
    if anchors.len() != manifest.anchors.len() {
        return Err(Unfit::Anchors.into());
    }
    let mut blob = |what, digest, needed: u64| match size_of(digest)? {
        None => Err(E::from(Unfit::Missing { what, digest })),
        Some(found) if found != needed => Err(Unfit::Size { what, digest, found, needed }.into()),
        Some(_) => Ok(()),
    };
    blob("the genesis model", manifest.genesis, 4 * layout.len() as u64)?;
    for chunk in manifest.chunks() {
        blob("a chunk of data", chunk.digest, chunk.bytes.into())?;
    }
    Ok(())
}

fn texts(manifest: &Manifest) -> Result<(), Unfit> {
    let check = |what, text: &str, min, max| {
        let found = text.len();
        if (min..=max).contains(&found) { Ok(()) } else { Err(Unfit::Text { what, min, max, found }) }
    };
    check("name", &manifest.name, 1, NAME_BYTES_MAX)?;
    check("description", &manifest.description, 0, DESCRIPTION_BYTES_MAX)?;
    check("host", &manifest.host, 1, NAME_BYTES_MAX)?;
    for source in &manifest.data.sources {
        check("data.sources.name", &source.name, 1, NAME_BYTES_MAX)?;
        check("data.sources.licence", &source.licence, 1, NAME_BYTES_MAX)?;
        check("data.sources.attribution", &source.attribution, 0, DESCRIPTION_BYTES_MAX)?;
    }
    Ok(())
}

fn numbers(manifest: &Manifest) -> Result<(), Unfit> {
    let check = |what, found: u64, min, max| {
        if (min..=max).contains(&found) { Ok(()) } else { Err(Unfit::Number { what, min, max, found }) }
    };
    let (recipe, timing) = (&manifest.recipe, &manifest.timing);
    check("model.vocab_size", manifest.model.vocab_size.into(), 256, 1 << 20)?;
    check("anchors", manifest.anchors.len() as u64, 1, limits::ROSTER_MAX as u64 - 1)?;
    check("data.sources", manifest.data.sources.len() as u64, 1, SOURCES_MAX as u64)?;
    check("recipe.batch", recipe.batch.into(), 1, 4096)?;
    check("recipe.context", recipe.context.into(), 1, manifest.model.max_position_embeddings.into())?;
    check("recipe.local_steps", recipe.local_steps.into(), 1, 10_000)?;
    check("recipe.outer.alpha_1024", recipe.outer.alpha_1024.into(), 1, 2048)?;
    check("recipe.outer.feedback_1024", recipe.outer.feedback_1024.into(), 0, 1024)?;
    for (what, found) in [
        ("timing.train_ms_max", timing.train_ms_max),
        ("timing.exchange_ms_max", timing.exchange_ms_max),
        ("timing.view_ms", timing.view_ms),
        ("timing.recovery_ms", timing.recovery_ms),
    ] {
        check(what, found.into(), 1, DURATION_MS_MAX.into())?;
    }
    let charter = &manifest.charter;
    check("charter.approve_per_mille", charter.approve_per_mille.into(), 501, 1000)?;
    check("charter.turnout_per_mille", charter.turnout_per_mille.into(), 1, 1000)?;
    check("charter.open_rounds_min", charter.open_rounds_min.into(), 1, limits::OPEN_ROUNDS_MAX.into())?;
    let open_min = charter.open_rounds_min.into();
    check("charter.open_rounds_max", charter.open_rounds_max.into(), open_min, limits::OPEN_ROUNDS_MAX.into())?;
    check("timing.recovery_window_rounds", timing.recovery_window_rounds.into(), 0, RECOVERY_WINDOW_ROUNDS_MAX)?;
    let context = u64::from(recipe.context);
    // A chunk counts as often as it is named: that is how often a volunteer reads it.
    let total: u64 = manifest.chunks().map(|chunk| u64::from(chunk.bytes)).sum();
    check("the text's bytes", total, 1, limits::TEXT_BYTES_MAX)?;
    check("data.held_out_bytes", manifest.data.held_out_bytes, context + 1, total.saturating_sub(context + 1))?;
    recipe.inner.check()?;
    for (field, value) in capped(&recipe.inner) {
        if value > 1.0 {
            return Err(OptimizerError { field, value: value.to_string(), rule: "at most 1" }.into());
        }
    }
    Ok(())
}

/// What no run that is worth a volunteer's time has above 1.
fn capped(inner: &Optimizer) -> Vec<(&'static str, f32)> {
    match inner {
        Optimizer::AdamW(it) => vec![("lr", it.lr), ("eps", it.eps), ("weight_decay", it.weight_decay)],
        Optimizer::Sgd(it) => vec![("lr", it.lr), ("weight_decay", it.weight_decay)],
        Optimizer::Muon(it) => {
            vec![("lr", it.lr), ("adamw_lr", it.adamw_lr), ("eps", it.eps), ("weight_decay", it.weight_decay)]
        }
    }
}
