//! Prints the CPU engine's logits after some tokens, to compare an exported folder with `transformers`:
//! `cargo run -p shoal-cpu --example next_logits -- DIR 3 1 4 > DIR/logits.json`, then
//! `python docs/golden/make_golden.py check DIR`.

use std::error::Error;
use std::path::PathBuf;

use shoal_cpu::CpuEngine;
use shoal_learn::{Engine, Layout};
use shoal_wire::manifest::ModelSpec;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: next_logits DIR TOKEN...")?);
    let tokens = arguments.map(|token| token.parse()).collect::<Result<Vec<u32>, _>>()?;
    let model: ModelSpec = serde_json::from_slice(&std::fs::read(dir.join("config.json"))?)?;
    let file = std::fs::read(dir.join("model.safetensors"))?;
    let tensors = candle_core::safetensors::load_buffer(&file, &candle_core::Device::Cpu)?;
    let mut parameters = Vec::new();
    for tensor in &Layout::of(&model)?.tensors {
        let values = tensors.get(&tensor.name).ok_or_else(|| format!("no tensor {}", tensor.name))?;
        parameters.extend(values.flatten_all()?.to_vec1::<f32>()?);
    }
    let mut engine = CpuEngine::new(&model, 1, tokens.len())?;
    engine.load(&parameters)?;
    let logits = pollster::block_on(engine.next_logits(&tokens))?;
    println!("{}", serde_json::json!({"tokens": tokens, "logits": logits}));
    Ok(())
}
