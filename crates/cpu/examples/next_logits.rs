//! Prints the CPU engine's logits after some tokens, to compare an exported folder with `transformers`:
//! `cargo run -p shoal-cpu --example next_logits -- DIR 3 1 4 > DIR/logits.json`, then
//! `python docs/golden/make_golden.py check DIR`.

use std::error::Error;
use std::path::PathBuf;

use shoal_cpu::CpuEngine;
use shoal_learn::{Engine, Layout, folder};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: next_logits DIR TOKEN...")?);
    let tokens = arguments.map(|token| token.parse()).collect::<Result<Vec<u32>, _>>()?;
    let model = folder::parse_config(&std::fs::read(dir.join("config.json"))?)?;
    let layout = Layout::of(&model)?;
    let parameters = folder::parse_weights(&std::fs::read(dir.join("model.safetensors"))?, &layout)?;
    let mut engine = CpuEngine::new(&model, 1, tokens.len())?;
    engine.load(&parameters)?;
    let logits = pollster::block_on(engine.next_logits(&tokens))?;
    println!("{}", serde_json::json!({"tokens": tokens, "logits": logits}));
    Ok(())
}
