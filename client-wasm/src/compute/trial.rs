//! Which engine is faster here, measured for a moment: an old graphics card loses against the cores beside it.

use shoal_learn::{Batch, Engine, EngineError, Layout, StepSettings};
use shoal_wire::Manifest;

use crate::scope;

/// A step of a larger model is a graphics card's in any case, and would hold a processor up.
const OPERATIONS_MAX: f64 = 2e10;
/// Steps that are timed, after one that is not.
const STEPS: u32 = 2;

/// Whether trying the run's model on both engines takes only a moment.
pub fn is_short(manifest: &Manifest) -> bool {
    let tokens = f64::from(manifest.recipe.batch) * f64::from(manifest.recipe.context);
    // Two operations a weight and token forward, four backward.
    Layout::of(&manifest.model).is_ok_and(|layout| 6.0 * layout.len() as f64 * tokens <= OPERATIONS_MAX)
}

/// Milliseconds that a step takes. What the engine holds is worth nothing afterwards, but its moments are zero.
pub async fn step_ms(engine: &mut impl Engine, manifest: &Manifest) -> Result<f64, EngineError> {
    let recipe = &manifest.recipe;
    let (batch, context) = (recipe.batch as usize, recipe.context as usize);
    // What is trained does not matter for the time that it takes.
    let rows: Vec<u32> = (0..batch * (context + 1)).map(|index| index as u32 % manifest.model.vocab_size).collect();
    let tokens = Batch::from_rows(&rows, batch, context);
    let tokens = tokens.ok_or_else(|| EngineError::Unsupported("the recipe's batch is empty".to_owned()))?;
    let settings = |step| StepSettings { optimizer: recipe.inner, lr: 0.0, step };
    engine.step(&tokens, &settings(1))?;
    engine.losses().await?;
    let started = scope::precise_ms();
    for step in 2..2 + STEPS {
        engine.step(&tokens, &settings(step))?;
    }
    engine.losses().await?;
    let ms = (scope::precise_ms() - started) / f64::from(STEPS);
    engine.reset_moments()?;
    Ok(ms)
}
