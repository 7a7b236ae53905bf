//! The native side of `cargo xtask bench train`: what `/bench.html` does in a browser, on one adapter or the processor.
//!
//! Takes one JSON object as its argument and prints one as its last line. `WGPU_ADAPTER_NAME` chooses the adapter.
//! ```sh
//! cargo run --release -p shoal-gpu --example train_bench -- '{"task": "adapters"}'
//! cargo run --release -p shoal-gpu --example train_bench -- '{"task": "gemm", "sizes": [1024], "ms": 500}'
//! cargo run --release -p shoal-gpu --example train_bench -- '{"task": "train", "engine": "gpu", "folder": "…", …}'
//! ```
//! A folder holds `config.json`, `recipe.json`, `weights.safetensors` and `batches.safetensors`.
#![allow(clippy::unwrap_used)] // a fault of the bench is shown where it happens

#[cfg(not(target_arch = "wasm32"))]
fn main() {
    let order = std::env::args().nth(1).unwrap_or_default();
    let order = serde_json::from_str(&order).unwrap_or_else(|error| panic!("the order {order:?}: {error}"));
    println!("{}", pollster::block_on(native::answer(order)));
}

#[cfg(target_arch = "wasm32")]
fn main() {}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::{fs, path::PathBuf, time::Instant};

    use serde::Deserialize;
    use serde_json::{Value, json};
    use shoal_cpu::CpuEngine;
    use shoal_gpu::{GemmBench, GemmForm, GpuEngine, KernelTime};
    use shoal_learn::{Batch, Engine, Layout, folder, recipe::SoloRecipe};

    #[derive(Deserialize)]
    #[serde(tag = "task", rename_all = "lowercase")]
    pub enum Order {
        Adapters,
        /// The best form of each size, each measured for about `ms`.
        Gemm {
            sizes: Vec<u32>,
            ms: f64,
        },
        Train(Train),
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub struct Train {
        engine: String,
        folder: PathBuf,
        steps: u32,
        warmup: u32,
        sync_every: u32,
        /// Also times each kernel of one more step.
        #[serde(default)]
        profile: bool,
    }

    pub async fn answer(order: Order) -> Value {
        match order {
            Order::Adapters => {
                let adapters = shoal_gpu::adapters().await;
                adapters.into_iter().map(|(name, software)| json!({ "name": name, "software": software })).collect()
            }
            Order::Gemm { sizes, ms } => {
                let mut bench = GemmBench::open().await.unwrap();
                let mut rates = Vec::new();
                for size in sizes {
                    for form in GemmForm::ALL {
                        let rate = bench.rate(form, size, ms).await.unwrap();
                        let form = format!("{form:?}").to_lowercase();
                        rates.push(json!({ "form": form, "size": size, "gflops": rate.gflops, "kernel": rate.kernel }));
                    }
                }
                json!({ "adapter": bench.adapter_name(), "rates": rates })
            }
            Order::Train(order) => run(&order).await,
        }
    }

    struct Task<'a> {
        order: &'a Train,
        batches: Vec<Batch>,
        recipe: SoloRecipe,
        parameters: Vec<f32>,
    }

    async fn run(order: &Train) -> Value {
        let read = |name: &str| fs::read(order.folder.join(name)).unwrap();
        let spec = folder::parse_config(&read("config.json")).unwrap();
        let layout = Layout::of(&spec).unwrap();
        let parameters = folder::parse_weights(&read("weights.safetensors"), &layout).unwrap();
        let (tokens, [_, batch, row]) = folder::parse_batches(&read("batches.safetensors"), spec.vocab_size).unwrap();
        let rows = tokens.chunks_exact(batch * row);
        let batches = rows.map(|rows| Batch::from_rows(rows, batch, row - 1).unwrap()).collect();
        let recipe = SoloRecipe::parse(&read("recipe.json")).unwrap();
        let task = Task { order, batches, recipe, parameters };
        let started = Instant::now();
        if order.engine == "cpu" {
            let engine = CpuEngine::new(&spec, batch, row - 1).unwrap();
            return task.train(engine, started).await.1;
        }
        let engine = GpuEngine::new(&spec, batch, row - 1).await.unwrap();
        let (mut engine, mut report) = task.train(engine, started).await;
        let counters = engine.counters();
        report["counts"] = json!({
            "dispatches": counters.dispatches, "submits": counters.submits, "peak_bytes": counters.buffer_bytes,
        });
        report["extra"]["forms"] = engine.forms().into();
        if order.profile {
            let settings = task.recipe.settings(order.warmup + order.steps + 1);
            let times = engine.profile(&task.batches[0], &settings).await.unwrap();
            report["extra"]["classes"] = json!(times.map(|times| KernelTime::by_class(&times)));
        }
        report
    }

    impl Task<'_> {
        fn step(&self, engine: &mut impl Engine, step: u32) {
            let batch = &self.batches[(step - 1) as usize % self.batches.len()];
            engine.step(batch, &self.recipe.settings(step)).unwrap();
        }

        async fn train<E: Engine>(&self, mut engine: E, started: Instant) -> (E, Value) {
            let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
            engine.load(&self.parameters).unwrap();
            let (mut first_step_ms, mut warmup_losses) = (0.0, Vec::new());
            for step in 1..=self.order.warmup {
                self.step(&mut engine, step);
                warmup_losses.extend(engine.losses().await.unwrap());
                if step == 1 {
                    first_step_ms = ms(started);
                }
            }
            let counted = Instant::now();
            let mut losses: Vec<Option<f32>> = Vec::new();
            for step in 1..=self.order.steps {
                self.step(&mut engine, self.order.warmup + step);
                let read = step % self.order.sync_every == 0 || step == self.order.steps;
                losses.push(if read { engine.losses().await.unwrap().last().copied() } else { None });
            }
            let ms_per_step = ms(counted) / f64::from(self.order.steps.max(1));
            let extra =
                json!({ "engine": engine.describe(), "firstStepMs": first_step_ms, "warmupLosses": warmup_losses });
            (engine, json!({ "msPerStep": ms_per_step, "losses": losses, "extra": extra, "counts": {} }))
        }
    }
}
