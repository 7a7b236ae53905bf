//! `shoal train` as a person runs it, on a model and batches whose losses PyTorch gave.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use shoal_learn::{Layout, folder};
use tempfile::TempDir;

/// A model folder, batches and a recipe: those of `crates/cpu/tests/golden/grouped_untied.json`.
struct World {
    folder: TempDir,
    golden: Value,
}

/// MurmurHash3's finaliser over a counter, as in `docs/golden/make_golden.py`.
fn hashed(seed: u32, index: u32) -> u32 {
    let mut x = index.wrapping_add(seed.wrapping_mul(0x9E37_79B9));
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    x ^ (x >> 16)
}

fn write_safetensors(path: &Path, tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) {
    let view = |(name, dtype, shape, bytes): &(String, Dtype, Vec<usize>, Vec<u8>)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap().data().to_vec(), *dtype, shape.clone())
    };
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views = owned
        .iter()
        .map(|(name, bytes, dtype, shape)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

impl World {
    fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
            golden: serde_json::from_str(include_str!("../../cpu/tests/golden/grouped_untied.json")).unwrap(),
        };
        world.write_model("model", &world.golden["config"]);
        // The same with bytes as tokens, for texts.
        let mut bytes = world.golden["config"].clone();
        bytes["vocab_size"] = json!(256);
        world.write_model("bytes", &bytes);
        world.write_batches();
        let adamw = &world.golden["optimizer"]["adamw"];
        let recipe = json!({"optimizer": {
            "type": "adamw", "lr": adamw["lr"], "beta1": adamw["beta1"], "beta2": adamw["beta2"],
            "eps": adamw["eps"], "weightDecay": adamw["weight_decay"], "gradClip": adamw["grad_clip"],
        }});
        fs::write(world.path("recipe.json"), recipe.to_string()).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_model(&self, name: &str, spec: &Value) {
        fs::create_dir(self.path(name)).unwrap();
        fs::write(self.path(name).join("config.json"), spec.to_string()).unwrap();
        let spec = folder::parse_config(spec.to_string().as_bytes()).unwrap();
        let value = |tensor: &shoal_learn::TensorInfo, i: usize| {
            let x = ((hashed(1, i as u32) >> 8) as f32 / (1 << 24) as f32 - 0.5) / 2.0;
            if tensor.decays() { x } else { x + 1.0 }
        };
        let tensors = Layout::of(&spec).unwrap().tensors.into_iter().map(|tensor| {
            let bytes = tensor.range().flat_map(|i| value(&tensor, i).to_le_bytes()).collect();
            (tensor.name, Dtype::F32, tensor.shape, bytes)
        });
        write_safetensors(&self.path(name).join("model.safetensors"), &tensors.collect::<Vec<_>>());
    }

    fn write_batches(&self) {
        let size = |field: &str| self.golden[field].as_u64().unwrap() as usize;
        let (batch, row) = (size("batch"), size("context") + 1);
        let vocab = self.golden["config"]["vocab_size"].as_u64().unwrap() as u32;
        let tokens = (0..(4 * batch * row) as u32).flat_map(|i| ((hashed(2, i) % vocab) as i32).to_le_bytes());
        let tensor = ("tokens".to_owned(), Dtype::I32, vec![4, batch, row], tokens.collect());
        write_safetensors(&self.path("batches.safetensors"), &[tensor]);
    }

    fn golden_losses(&self) -> Vec<f64> {
        self.golden["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect()
    }

    fn shoal(&self, arguments: &[&str]) -> Output {
        let arguments = arguments.iter().flat_map(|line| line.split_whitespace());
        Command::new(env!("CARGO_BIN_EXE_shoal")).args(arguments).current_dir(self.folder.path()).output().unwrap()
    }

    fn losses(&self, arguments: &str) -> Vec<f64> {
        let output = self.shoal(&["train --recipe recipe.json --json", arguments]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (index, line) in lines.iter().enumerate() {
            assert_eq!(line["step"], index + 1);
            assert!(line["ms"].as_f64().unwrap() >= 0.0);
        }
        lines.iter().map(|line| line["loss"].as_f64().unwrap()).collect()
    }

    /// Runs what must fail; returns its complaint.
    fn complaint(&self, arguments: &str, code: i32) -> String {
        let output = self.shoal(&[arguments]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        text
    }
}

fn assert_same_losses(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (step, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got / expected - 1.0).abs() < 1e-4, "step {}: loss {got} is not {expected}", step + 1);
    }
}

#[test]
fn the_cpu_engine_prints_the_losses_that_pytorch_gives() {
    let world = World::new();
    let losses = world.losses("--model model --batches batches.safetensors --steps 50 --engine cpu");
    assert_same_losses(&losses, &world.golden_losses());
}

#[test]
fn both_engines_print_the_same_losses() {
    let world = World::new();
    let losses =
        |engine| world.losses(&format!("--model model --batches batches.safetensors --steps 50 --engine {engine}"));
    assert_same_losses(&losses("gpu"), &losses("cpu"));
}

#[test]
fn a_written_folder_continues_where_training_stopped() {
    let world = World::new();
    let whole = world.losses("--model model --batches batches.safetensors --steps 5 --engine cpu");
    world.losses("--model model --batches batches.safetensors --steps 4 --engine cpu --out new/trained");
    // The fifth step uses batch 4 mod 4: the first.
    let resumed = world.losses("--model new/trained --batches batches.safetensors --steps 1 --engine cpu");
    assert_same_losses(&resumed, &whole[4..]);
    let config: Value = serde_json::from_slice(&fs::read(world.path("new/trained/config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], json!(["LlamaForCausalLM"]));
    assert_eq!(fs::read_dir(world.path("new/trained")).unwrap().count(), 2);
}

#[test]
fn training_on_a_text_lowers_its_loss() {
    let world = World::new();
    let text: String = (0..400).map(|i| ["!# ", "%+ ", "-&' "][i * i % 3]).collect();
    fs::write(world.path("text.txt"), text).unwrap();
    let losses = world.losses("--model bytes --data text.txt --batch 4 --context 16 --seed 7 --steps 60 --engine cpu");
    assert!(losses[59] < losses[0] * 0.4, "{losses:?}");
}

#[test]
fn a_text_is_refused_as_bytes_where_the_model_has_other_tokens() {
    let world = World::new();
    fs::write(world.path("text.txt"), "a text that is long enough for a few sequences of tokens").unwrap();
    let arguments = |model| format!("train --steps 1 --engine cpu --model {model} --data text.txt --context 8");
    let text = world.complaint(&arguments("model"), 1);
    assert!(text.contains("vocabulary of 80") && text.contains("--batches"), "{text}");
    fs::write(world.path("bytes/tokenizer.json"), "{}").unwrap();
    let text = world.complaint(&arguments("bytes"), 1);
    assert!(text.contains("tokenizer.json") && text.contains("not a tokenizer"), "{text}");
}

/// A `tokenizer.json` that knows `words` words, each by a number.
fn words(words: u32) -> String {
    let vocab: serde_json::Map<String, Value> = (0..words).map(|word| (format!("w{word}"), word.into())).collect();
    json!({ "version": "1.0", "added_tokens": [], "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" } })
    .to_string()
}

#[test]
fn a_text_is_read_with_the_tokenizer_of_the_model() {
    let world = World::new();
    // Each word follows from the one before, and no byte of a text says so much.
    let text = ["w3", "w71", "w15", "w42", "w8"].repeat(120).join(" ");
    fs::write(world.path("text.txt"), text).unwrap();
    fs::write(world.path("model/tokenizer.json"), words(80)).unwrap();
    let losses = world.losses("--model model --data text.txt --batch 4 --context 8 --steps 60 --engine cpu");
    assert!(losses[59] < losses[0] * 0.4, "{losses:?}");
}

#[test]
fn a_tokenizer_that_does_not_fit_the_vocabulary_is_named_with_its_token() {
    let world = World::new();
    fs::write(world.path("text.txt"), "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11").unwrap();
    fs::write(world.path("model/tokenizer.json"), words(81)).unwrap();
    let text = world.complaint("train --steps 1 --engine cpu --model model --data text.txt --context 8", 1);
    assert!(text.contains("tokenizer.json") && text.contains("\"w80\"") && text.contains("vocab_size is 80"), "{text}");
}

#[test]
fn a_written_folder_keeps_what_belongs_to_the_model() {
    let world = World::new();
    let read = |name: &str| serde_json::from_slice::<Value>(&fs::read(world.path(name)).unwrap()).unwrap();
    let mut config = read("model/config.json");
    let own = json!({ "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 4, "torch_dtype": "bfloat16",
        "some_field": {"of": "others"} });
    own.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
    fs::write(world.path("model/config.json"), config.to_string()).unwrap();
    let companions = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];
    for name in companions {
        fs::write(world.path("model").join(name), format!("{{\"this is\": \"{name}\"}}")).unwrap();
    }
    fs::write(world.path("model/notes.txt"), "stays where it is").unwrap();
    world.losses("--model model --batches batches.safetensors --steps 1 --engine cpu --out trained");

    let written = read("trained/config.json");
    for field in ["bos_token_id", "eos_token_id", "pad_token_id", "some_field", "hidden_size", "vocab_size"] {
        assert_eq!(written[field], config[field], "{field}");
    }
    assert_eq!((&written["dtype"], &written["torch_dtype"]), (&json!("float32"), &json!("float32")));
    for name in companions {
        assert_eq!(
            fs::read(world.path("trained").join(name)).unwrap(),
            fs::read(world.path("model").join(name)).unwrap()
        );
    }
    assert!(!world.path("trained/notes.txt").exists());

    // In place, nothing but weights and config changes.
    world.losses("--model model --batches batches.safetensors --steps 1 --engine cpu --out model");
    assert_eq!(read("model/config.json"), written);
    assert_eq!(fs::read_dir(world.path("model")).unwrap().count(), 3 + companions.len());
}

#[test]
fn mistakes_are_named_without_a_panic() {
    let world = World::new();
    fs::write(world.path("empty.txt"), "").unwrap();
    fs::write(world.path("binary.dat"), [0, 159, 146, 150]).unwrap();
    fs::write(world.path("bad.json"), r#"{"optimizer": {"type": "sgd", "lr": 1}}"#).unwrap();
    let train = "train --steps 1 --engine cpu --model";
    for (arguments, word) in [
        ("absent --data empty.txt", "config.json"),
        ("bytes --data empty.txt", "empty"),
        ("bytes --data binary.dat", "UTF-8"),
        ("bytes --data empty.txt --context 65", "empty"),
        ("model --batches model/model.safetensors", "tokens"),
        ("model --batches recipe.json", "safetensors"),
        ("model --batches absent.safetensors", "absent.safetensors"),
        ("model --batches batches.safetensors --recipe bad.json", "recipe"),
        ("model --batches batches.safetensors --out recipe.json", "recipe.json"),
    ] {
        let text = world.complaint(&format!("{train} {arguments}"), 1);
        assert!(text.contains(word), "{arguments}: {text}");
    }
    for usage in ["train --model model --steps 1 --engine cpu", "train --model model --data a --steps 0 --engine cpu"] {
        world.complaint(usage, 2);
    }
    let mut model = fs::read(world.path("model/model.safetensors")).unwrap();
    model.truncate(1000);
    fs::write(world.path("model/model.safetensors"), model).unwrap();
    let text = world.complaint(&format!("{train} model --batches batches.safetensors"), 1);
    assert!(text.contains("model.safetensors"), "{text}");
}

/// The weights of a folder in several files, as `save_pretrained` writes large models.
fn split_into_shards(folder: &Path) {
    let whole = fs::read(folder.join("model.safetensors")).unwrap();
    let spec = folder::parse_config(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let layout = Layout::of(&spec).unwrap();
    let weights = folder::parse_weights(&whole, &layout).unwrap();
    let shards = folder::Shards::new(&layout, &weights, 20_000).unwrap();
    for file in shards.files() {
        let (name, bytes) = file.unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
    fs::write(folder.join("model.safetensors.index.json"), shards.index().unwrap().unwrap()).unwrap();
    fs::remove_file(folder.join("model.safetensors")).unwrap();
}

#[test]
fn a_model_in_several_files_trains_as_in_one_and_is_written_back_over_them() {
    let world = World::new();
    let arguments = "--model model --batches batches.safetensors --steps 2 --engine cpu";
    let whole = world.losses(arguments);
    split_into_shards(&world.path("model"));
    assert_same_losses(&world.losses(arguments), &whole);
    world.losses(&format!("{arguments} --out model"));
    assert!(world.path("model/model.safetensors").exists());
    assert!(!world.path("model/model.safetensors.index.json").exists());
    assert!(world.losses(arguments)[0] < whole[0]);
}

#[test]
fn a_folder_that_cannot_be_used_names_the_file_and_what_is_wrong() {
    let train = "train --model model --batches batches.safetensors --steps 1 --engine cpu";
    let complain = |spoil: fn(&Path)| {
        let world = World::new();
        spoil(&world.path("model"));
        world.complaint(train, 1)
    };
    let text = complain(|model| {
        split_into_shards(model);
        fs::remove_file(model.join("model-00002-of-00005.safetensors")).unwrap();
    });
    assert!(text.contains("model-00002-of-00005.safetensors"), "{text}");
    let text = complain(|model| fs::rename(model.join("model.safetensors"), model.join("pytorch_model.bin")).unwrap());
    assert!(text.contains("pytorch_model.bin") && text.contains("save_pretrained"), "{text}");
    let text = complain(|model| {
        let config = fs::read_to_string(model.join("config.json")).unwrap();
        fs::write(model.join("config.json"), config.replace("false", "\"no\"")).unwrap();
    });
    assert!(text.contains("config.json") && text.contains("tie_word_embeddings"), "{text}");
}

#[test]
fn an_adapter_is_written_for_peft_and_the_merged_model_continues_where_it_stopped() {
    let world = World::new();
    let train = "--model model --batches batches.safetensors --engine cpu --lora 2 --lora-targets q_proj,down_proj";
    let losses = world.losses(&format!("{train} --steps 5 --out adapter"));
    assert!(losses[4] < losses[0], "{losses:?}");
    let config: Value = serde_json::from_slice(&fs::read(world.path("adapter/adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["peft_type"], &config["r"], &config["lora_alpha"]), (&"LORA".into(), &2.into(), &4.0.into()));
    assert_eq!(config["target_modules"], json!(["q_proj", "down_proj"]));
    let adapter = fs::read(world.path("adapter/adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&adapter).unwrap();
    assert_eq!(file.len(), 2 * 2 * 2);
    let b = file.tensor("base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight").unwrap();
    assert_eq!(b.shape(), [32, 2]);
    assert!(!world.path("adapter/model.safetensors").exists());

    world.losses(&format!("{train} --steps 4 --merge --out merged"));
    // The fifth step uses batch 4 mod 4: the first, which is also the first of a new training.
    let next = world.losses("--model merged --batches batches.safetensors --engine cpu --steps 1");
    assert_same_losses(&next, &losses[4..]);
    world.losses(&format!("{train} --steps 1 --merge --gguf f16 --out merged"));
    assert!(fs::read(world.path("merged/model.gguf")).unwrap().starts_with(b"GGUF"));
    let text = world.complaint("train --model model --batches batches.safetensors --engine gpu --lora 2 --steps 1", 1);
    assert!(text.contains("--engine cpu"), "{text}");
}
