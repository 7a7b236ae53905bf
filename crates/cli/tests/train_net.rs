//! `shoal train --table` and `--images` as a person runs them, on made data; and on well-known data where it is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_push_string)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

struct World(TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.0.path().join(name), bytes).unwrap();
    }

    fn shoal(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_shoal"))
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// All lines of a training that works.
    fn lines(&self, arguments: &str) -> Vec<Value> {
        let output = self.shoal(&format!("train --json {arguments}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn held_out(&self, arguments: &str) -> Value {
        self.lines(arguments).pop().unwrap()["held_out"].take()
    }

    fn complaint(&self, arguments: &str, code: i32) -> String {
        let output = self.shoal(&format!("train {arguments}"));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        text
    }
}

fn number(value: &Value, field: &str) -> f64 {
    value[field].as_f64().unwrap_or_else(|| panic!("{field} in {value}"))
}

/// Values in [0, 1) without a pattern.
fn noise(index: u32) -> f64 {
    let mut x = index.wrapping_mul(0x9E37_79B9);
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    f64::from(x ^ (x >> 16)) / f64::from(u32::MAX)
}

/// People whose income follows from age, city and a missing number of children, and who like tea if it is high.
fn people(rows: u32) -> String {
    let mut text = "age,city,children,income,tea\n".to_owned();
    for row in 0..rows {
        let at = |part| noise(row * 8 + part);
        let (age, city) = (20.0 + 60.0 * at(0), ["Oslo", "Rome", "Bern"][(at(1) * 3.0) as usize]);
        let children = if at(2) < 0.2 { String::new() } else { ((at(3) * 4.0) as u32).to_string() };
        let base = if city == "Bern" { 5000.0 } else { 3000.0 };
        let income = base + 20.0 * age - if children.is_empty() { 1000.0 } else { 0.0 };
        text += &format!("{age:.1},{city},{children},{income:.1},{}\n", if income > 4200.0 { "yes" } else { "no" });
    }
    text
}

/// IDX files of 6 × 6 images with a bright row, column or corner, in noise.
fn shapes(count: u32) -> (Vec<u8>, Vec<u8>) {
    let header = |sizes: &[u32]| {
        let sizes_bytes = sizes.iter().flat_map(|size| size.to_be_bytes());
        [0, 0, 8, sizes.len() as u8].into_iter().chain(sizes_bytes).collect::<Vec<u8>>()
    };
    let (mut images, mut labels) = (header(&[count, 6, 6]), header(&[count]));
    for index in 0..count {
        let label = index % 3;
        let place = (noise(index + 7) * 5.0) as u32;
        labels.push(label as u8 * 4);
        images.extend((0..36u32).map(|pixel| {
            let (y, x) = (pixel / 6, pixel % 6);
            let bright = match label {
                0 => y == place,
                1 => x == place,
                _ => y / 2 == place / 2 && x / 2 == place / 2,
            };
            (if bright { 150.0 } else { 0.0 } + 100.0 * noise(index * 36 + pixel + 1000)) as u8
        }));
    }
    (images, labels)
}

#[test]
fn a_table_is_classified_and_what_is_written_says_how() {
    let world = World::new();
    world.write("people.csv", people(500));
    let lines = world.lines("--table people.csv --target tea --ignore income --steps 300 --out new/tea");
    assert_eq!(lines.len(), 301);
    assert_eq!(lines[299]["step"], 300);
    let report = &lines[300]["held_out"];
    assert_eq!(report["examples"], 100);
    assert!(number(report, "accuracy") > 0.93 && number(report, "auc") > 0.97, "{report}");
    let read = |name: &str| fs::read(world.0.path().join("new/tea").join(name)).unwrap();
    let preprocessing: Value = serde_json::from_slice(&read("preprocessing.json")).unwrap();
    assert_eq!(preprocessing["target"]["classes"]["words"], serde_json::json!(["no", "yes"]));
    assert_eq!(preprocessing["columns"][1]["values"]["one_hot"]["words"], serde_json::json!(["Bern", "Oslo", "Rome"]));
    assert_eq!(preprocessing["columns"][2]["marks_missing"], true);
    let tensors = read("model.safetensors");
    let file = safetensors::SafeTensors::deserialize(&tensors).unwrap();
    assert_eq!(file.tensor("0.weight").unwrap().shape(), [64, 7]);
    // The same again, from the layers that were written.
    let again = world.lines("--table people.csv --target tea --ignore income --steps 300 --net new/tea/net.json");
    assert_eq!(again[300], lines[300]);
}

#[test]
fn a_number_is_predicted_in_its_own_unit() {
    let world = World::new();
    world.write("people.csv", people(500).replace(',', ";"));
    let report = world.held_out("--table people.csv --delimiter ; --target income --ignore tea");
    assert!(number(&report, "r2") > 0.97 && (5.0..250.0).contains(&number(&report, "mae")), "{report}");
    assert!(number(&report, "rmse") >= number(&report, "mae"));
}

#[test]
fn images_are_told_apart_by_their_shapes() {
    let world = World::new();
    let (images, labels) = shapes(600);
    world.write("images", images);
    world.write("labels", labels);
    let report = world.held_out("--images images --labels labels --steps 150 --held-out 0.2 --seed 3 --out shapes");
    assert_eq!(report["examples"], 120);
    assert!(number(&report, "accuracy") > 0.95, "{report}");
    let preprocessing = fs::read(world.0.path().join("shapes/preprocessing.json")).unwrap();
    let preprocessing: Value = serde_json::from_slice(&preprocessing).unwrap();
    assert_eq!(preprocessing["labels"], serde_json::json!([0, 4, 8]));
}

#[test]
fn both_engines_print_the_same_losses_of_a_network() {
    let world = World::new();
    let (images, labels) = shapes(100);
    world.write("images", images);
    world.write("labels", labels);
    world.write("people.csv", people(100));
    for data in
        ["--images images --labels labels", "--table people.csv --target tea", "--table people.csv --target age"]
    {
        let losses = |engine: &str| {
            let mut lines = world.lines(&format!("{data} --steps 50 --engine {engine}"));
            assert!(lines.pop().unwrap()["held_out"]["examples"].as_u64() > Some(0));
            lines.iter().map(|line| number(line, "loss")).collect::<Vec<_>>()
        };
        for (step, (ours, theirs)) in losses("gpu").into_iter().zip(losses("cpu")).enumerate() {
            assert!((ours / theirs - 1.0).abs() < 1e-3, "{data}, step {step}: {ours} is not {theirs}");
        }
    }
}

#[test]
fn mistakes_with_tables_and_images_are_named() {
    let world = World::new();
    world.write("people.csv", people(60));
    world.write("short.csv", "a\n1,2\n3,4\n");
    world.write("one.csv", "a,b\n1,x\n2,x\n3,x\n");
    world.write("bad.csv", format!("{}4O,Rome,1,3000,no\n", people(60)));
    let (images, labels) = shapes(9);
    world.write("images", &images);
    world.write("labels", &labels[..labels.len() - 1]);
    world.write("image.json", r#"{"input": {"flat": 3}, "layers": [{"linear": {"outputs": 1}}], "loss": "binary"}"#);
    world.write("wrong.json", r#"{"input": {"flat": 3}, "layers": ["flattened"], "loss": "binary"}"#);
    for (arguments, words) in [
        ("--table absent.csv --target x", "absent.csv"),
        ("--table people.csv --target weight", "no column \"weight\""),
        ("--table people.csv --target tea --ignore weight", "no column \"weight\""),
        ("--table people.csv --target tea --category weight", "no column \"weight\""),
        ("--table people.csv --target city --task regress", "has words"),
        ("--table short.csv --target a", "line 2"),
        ("--table one.csv --target b", "\"x\" in every row"),
        ("--table bad.csv --target tea", "line 62, column \"age\": \"4O\""),
        ("--table people.csv --target tea --net image.json", "image.json takes Flat(3)"),
        ("--table people.csv --target tea --net wrong.json", "wrong.json is not a network"),
        ("--images images --labels labels", "labels"),
        ("--images people.csv --labels labels", "IDX"),
    ] {
        let text = world.complaint(arguments, 1);
        assert!(text.contains(words), "{arguments}: {text}");
    }
    for usage in [
        "--table people.csv",
        "--images images",
        "--target tea",
        "--table people.csv --target tea --images images --labels labels",
        "--table people.csv --target tea --model m",
        "--table people.csv --target tea --held-out 1.5",
        "--table people.csv --target tea --data people.csv",
        "--table people.csv --target tea --lora 4",
        "--table people.csv --target tea --context 4",
        "--table people.csv --target tea --out o --gguf f16",
    ] {
        world.complaint(usage, 2);
    }
}

/// A data set in the folder that SHOAL_DATA names, else in `../shared/data`, where there is one.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    let folder = std::env::var_os("SHOAL_DATA").map_or_else(beside, PathBuf::from);
    let path = Some(folder.join(name)).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("{name} is not there, so nothing is shown");
    }
    path
}

#[test]
fn breast_cancer_is_diagnosed_where_its_table_is_there() {
    let Some(table) = shared("wdbc.csv") else { return };
    let arguments = format!("--table {} --header some --target Diagnosis --ignore ID", table.display());
    let report = World::new().held_out(&arguments);
    assert!(number(&report, "auc") > 0.98, "{report}");
}

#[test]
fn handwritten_digits_are_read_where_their_images_are_there() {
    let (Some(images), Some(labels)) = (shared("t10k-images-idx3-ubyte.gz"), shared("t10k-labels-idx1-ubyte.gz"))
    else {
        return;
    };
    let arguments = format!("--images {} --labels {} --steps 400", images.display(), labels.display());
    let report = World::new().held_out(&arguments);
    assert_eq!(report["examples"], 1000);
    assert!(number(&report, "accuracy") > 0.95, "{report}");
}
