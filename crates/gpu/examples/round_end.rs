//! What the end of a round costs on this machine: reading the trained parameters back from the device, and turning their
//! change into an update, with either codec.

#[cfg(target_arch = "wasm32")]
fn main() {}

#[cfg(not(target_arch = "wasm32"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::time::Instant;

    use pollster::block_on;
    use shoal_gpu::GpuEngine;
    use shoal_learn::{Batch, Engine, Layout, StepSettings, init::genesis, outer::Residual, presets::Preset};
    use shoal_wire::{
        Digest,
        manifest::{Codec, Outer},
    };

    const ROUNDS: u32 = 3;
    let (model, recipe) = (Preset::Base.model(), Preset::Base.recipe());
    let layout = Layout::of(&model)?;
    let theta = genesis(&model, Digest::of(b"round end"))?;
    let mut engine = block_on(GpuEngine::new(&model, 1, 32))?;
    engine.load(&theta)?;
    println!("{} parameters on {}", layout.len(), engine.describe());
    let rows: Vec<u32> = (0..33).map(|index| index * 7 % 61).collect();
    let batch = Batch::from_rows(&rows, 1, 32).ok_or("a batch has rows")?;
    let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    for codec in [Codec::Topk, Codec::Dense4] {
        let outer = Outer { codec, alpha_1024: 1024, feedback_1024: 973 };
        let mut residual = Residual::new(&layout);
        for round in 1..=ROUNDS {
            let settings = StepSettings { optimizer: recipe.inner, lr: 1e-3, step: round };
            engine.step(&batch, &settings)?;
            block_on(engine.losses())?;
            let started = Instant::now();
            let local = block_on(engine.parameters())?;
            let read = ms(started);
            let delta: Vec<f32> = theta.iter().zip(&local).map(|(before, after)| before - after).collect();
            let started = Instant::now();
            let update = residual.compress(&outer, &layout, &delta)?;
            println!(
                "{codec:?} round {round}: read {} bytes in {read:.1} ms; an update of {} bytes in {:.1} ms; a residual \
                 of {} bytes to keep",
                4 * layout.len(),
                update.len(),
                ms(started),
                residual.to_bytes().len()
            );
        }
    }
    Ok(())
}
