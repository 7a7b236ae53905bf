//! What a training step costs on this machine's adapter, kernel by kernel. `cargo run --release --example profile_step`;
//! `-- micro` takes the larger model. `VK_DRIVER_FILES` chooses a Vulkan driver.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

#[cfg(not(target_arch = "wasm32"))]
fn main() {
    use std::time::Instant;

    use pollster::block_on;
    use shoal_gpu::GpuEngine;
    use shoal_learn::{Batch, Engine, StepSettings};
    use shoal_wire::{
        Digest,
        manifest::{AdamW, ModelSpec, RopeScaling},
    };

    let micro = std::env::args().any(|word| word == "micro");
    let [hidden, layers, heads, inner, context, batch] =
        if micro { [256, 6, 8, 704, 256, 4] } else { [128, 4, 4, 352, 128, 8] };
    let model = ModelSpec {
        vocab_size: 256,
        hidden_size: hidden,
        intermediate_size: inner,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        max_position_embeddings: context,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: false,
    };
    let adamw = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: None };
    let rows: Vec<u32> = (0..batch * (context + 1)).map(|index| index * index / 3 % 251).collect();
    let tokens = Batch::from_rows(&rows, batch as usize, context as usize).unwrap();
    let started = Instant::now();
    let mut engine = block_on(GpuEngine::new(&model, batch as usize, context as usize)).unwrap();
    println!(
        "{}: ready in {:.0} ms; forms: {}",
        engine.describe(),
        started.elapsed().as_secs_f64() * 1e3,
        engine.forms()
    );
    engine.load(&shoal_learn::init::genesis(&model, Digest::of(b"profile")).unwrap()).unwrap();
    let settings = |step| StepSettings { optimizer: adamw.into(), lr: adamw.lr, step };
    let mut times = Vec::new();
    for step in 1..=4 {
        let started = Instant::now();
        engine.step(&tokens, &settings(step)).unwrap();
        let loss = block_on(engine.losses()).unwrap();
        times.push(started.elapsed().as_secs_f64() * 1e3);
        println!("step {step}: {:.1} ms, loss {:.5}", times.last().unwrap(), loss[0]);
    }
    let Some(kernels) = block_on(engine.profile(&tokens, &settings(5))).unwrap() else { return };
    let total: f64 = kernels.iter().map(|kernel| kernel.ms).sum();
    println!("{total:.1} ms in {} dispatches:", kernels.iter().map(|kernel| kernel.dispatches).sum::<usize>());
    for kernel in kernels {
        println!(
            "{:>9.2} ms {:>5.1} %  {:>3} × {}",
            kernel.ms,
            kernel.ms / total * 100.0,
            kernel.dispatches,
            kernel.kernel
        );
    }
}

#[cfg(target_arch = "wasm32")]
fn main() {}
