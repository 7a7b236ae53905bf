//! Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): W + (α/r)·B·A in the place of W, with A [r, in] and B [out, r].
//!
//! Names, shapes and files are PEFT's, so that an adapter loads with `PeftModel.from_pretrained`.

use serde_json::json;
use shoal_wire::Digest;
use thiserror::Error;

use crate::folder::{FolderError, short, tensors_bytes};
use crate::init::Normals;
use crate::{Layout, TensorInfo};

const DOMAIN: &str = "shoal 2026 v1 first adapter";
pub const RANK_MAX: u32 = 1024;

/// Projections of a block that may be adapted.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

#[derive(Clone, Debug, PartialEq)]
pub struct LoraSpec {
    /// r, the rank of the change.
    pub rank: u32,
    /// α: the change counts α/r times.
    pub alpha: f32,
    /// Of [`TARGETS`].
    pub targets: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LoraError {
    #[error("the adapter's {field} is {value}, and must be {rule}")]
    Field { field: &'static str, value: String, rule: String },
    #[error("{what} has {got} values, expected {expected}")]
    Length { what: &'static str, got: usize, expected: usize },
}

/// One adapted matrix: where it lies in the model, and its two factors in the adapter.
#[derive(Clone, Debug)]
struct Pair {
    base: TensorInfo,
    a: TensorInfo,
    b: TensorInfo,
}

/// An adapter's tensors, as a layout of their own, and the model's that they change.
#[derive(Clone, Debug)]
pub struct Adapter {
    spec: LoraSpec,
    layout: Layout,
    pairs: Vec<Pair>,
    /// Parameters of the model.
    base_len: usize,
}

impl Adapter {
    pub fn new(base: &Layout, spec: LoraSpec) -> Result<Self, LoraError> {
        check(&spec)?;
        let adapted = |tensor: &&TensorInfo| spec.targets.iter().any(|target| is_target(&tensor.name, target));
        let rank = spec.rank as usize;
        let mut named = Vec::new();
        for tensor in base.tensors.iter().filter(adapted) {
            let [out, inner] = tensor.shape[..] else { continue };
            named.push((factor(&tensor.name, "lora_A"), vec![rank, inner], tensor));
            named.push((factor(&tensor.name, "lora_B"), vec![out, rank], tensor));
        }
        named.sort_by(|x, y| x.0.cmp(&y.0));
        let (mut layout, mut offset) = (Layout { tensors: Vec::new() }, 0);
        let mut pairs = Vec::new();
        for (name, shape, base) in named {
            let tensor = TensorInfo { name, shape, offset };
            offset += tensor.len();
            // Sorted by name, a matrix's A comes right before its B.
            match layout.tensors.last() {
                Some(a) if tensor.name == factor(&base.name, "lora_B") => {
                    pairs.push(Pair { base: base.clone(), a: a.clone(), b: tensor.clone() });
                }
                _ => {}
            }
            layout.tensors.push(tensor);
        }
        Ok(Self { spec, layout, pairs, base_len: base.len() })
    }

    /// The adapter's own tensors, with PEFT's names.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn scale(&self) -> f32 {
        self.spec.alpha / self.spec.rank as f32
    }

    /// An adapter that changes nothing yet: A is about N(0, 1/in), B is 0.
    pub fn first(&self, seed: Digest) -> Vec<f32> {
        let mut normals = Normals::new(DOMAIN, seed);
        let mut values = vec![0.0; self.layout.len()];
        for Pair { a, .. } in &self.pairs {
            let deviation = 1.0 / (a.shape[1] as f64).sqrt();
            values[a.range()].iter_mut().for_each(|x| *x = (normals.draw() * deviation) as f32);
        }
        values
    }

    /// Writes W + (α/r)·B·A over the adapted matrices of `merged`; the rest of it stays.
    pub fn merge(&self, base: &[f32], adapter: &[f32], merged: &mut [f32]) -> Result<(), LoraError> {
        self.check_lengths(base.len(), adapter.len())?;
        expect("the merged model", merged.len(), self.base_len)?;
        let (rank, scale) = (self.spec.rank as usize, self.scale());
        for Pair { base: tensor, a, b } in &self.pairs {
            let inner = a.shape[1];
            let (a, b) = (&adapter[a.range()], &adapter[b.range()]);
            let rows = merged[tensor.range()].chunks_exact_mut(inner).zip(base[tensor.range()].chunks_exact(inner));
            for ((row, old), b) in rows.zip(b.chunks_exact(rank)) {
                row.fill(0.0);
                for (a, b) in a.chunks_exact(inner).zip(b) {
                    row.iter_mut().zip(a).for_each(|(x, a)| *x += b * a);
                }
                row.iter_mut().zip(old).for_each(|(x, old)| *x = old + scale * *x);
            }
        }
        Ok(())
    }

    /// Gradients of the factors from the gradient of the merged model: dA = (α/r)·Bᵀ·dW, dB = (α/r)·dW·Aᵀ.
    pub fn gradient(&self, adapter: &[f32], merged: &[f32], out: &mut [f32]) -> Result<(), LoraError> {
        self.check_lengths(merged.len(), adapter.len())?;
        expect("the adapter's gradient", out.len(), self.layout.len())?;
        let (rank, scale) = (self.spec.rank as usize, self.scale());
        out.fill(0.0);
        for Pair { base, a, b } in &self.pairs {
            let inner = a.shape[1];
            let rows = merged[base.range()].chunks_exact(inner);
            for (row, (dw, b_row)) in rows.zip(adapter[b.range()].chunks_exact(rank)).enumerate() {
                for (k, b_value) in b_row.iter().enumerate() {
                    let a_row = a.offset + k * inner..a.offset + (k + 1) * inner;
                    let dot: f32 = dw.iter().zip(&adapter[a_row.clone()]).map(|(x, y)| x * y).sum();
                    out[b.offset + row * rank + k] = scale * dot;
                    let factor = scale * b_value;
                    out[a_row].iter_mut().zip(dw).for_each(|(da, dw)| *da += factor * dw);
                }
            }
        }
        Ok(())
    }

    fn check_lengths(&self, base: usize, adapter: usize) -> Result<(), LoraError> {
        expect("the model", base, self.base_len)?;
        expect("the adapter", adapter, self.layout.len())
    }

    /// PEFT's `adapter_config.json`; `base` is the name or path of the model that the adapter belongs to.
    pub fn config_json(&self, base: &str) -> Result<Vec<u8>, FolderError> {
        let config = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": true,
            "r": self.spec.rank, "lora_alpha": short(self.spec.alpha)?, "lora_dropout": 0.0,
            "target_modules": self.spec.targets, "bias": "none", "fan_in_fan_out": false, "init_lora_weights": true,
            "use_rslora": false, "use_dora": false, "modules_to_save": null, "layers_to_transform": null,
        });
        let mut text = serde_json::to_vec_pretty(&config)?;
        text.push(b'\n');
        Ok(text)
    }

    /// PEFT's `adapter_model.safetensors`.
    pub fn weights_bytes(&self, adapter: &[f32]) -> Result<Vec<u8>, FolderError> {
        let (got, expected) = (adapter.len(), self.layout.len());
        if got != expected {
            return Err(FolderError::Length { got, expected });
        }
        let tensors = self.layout.tensors.iter();
        tensors_bytes(tensors.map(|tensor| (tensor.name.as_str(), &*tensor.shape, &adapter[tensor.range()])))
    }
}

fn check(spec: &LoraSpec) -> Result<(), LoraError> {
    let field = |field, value, rule: String| Err(LoraError::Field { field, value, rule });
    if spec.rank == 0 || spec.rank > RANK_MAX {
        return field("rank", spec.rank.to_string(), format!("between 1 and {RANK_MAX}"));
    }
    if !(spec.alpha.is_finite() && spec.alpha > 0.0) {
        return field("alpha", spec.alpha.to_string(), "a finite number above 0".to_owned());
    }
    match spec.targets.iter().find(|target| !TARGETS.contains(&target.as_str())) {
        Some(unknown) => field("targets", unknown.clone(), format!("of {}", TARGETS.join(", "))),
        None if spec.targets.is_empty() => field("targets", "empty".to_owned(), format!("of {}", TARGETS.join(", "))),
        None => Ok(()),
    }
}

fn expect(what: &'static str, got: usize, expected: usize) -> Result<(), LoraError> {
    if got == expected { Ok(()) } else { Err(LoraError::Length { what, got, expected }) }
}

fn is_target(name: &str, target: &str) -> bool {
    name.strip_suffix(".weight").and_then(|name| name.rsplit('.').next()) == Some(target)
}

fn factor(name: &str, which: &str) -> String {
    format!("base_model.model.{}.{which}.weight", name.strip_suffix(".weight").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)] // these results are exact
    use super::*;
    use crate::presets::Preset;

    fn spec(rank: u32, alpha: f32, targets: &[&str]) -> LoraSpec {
        LoraSpec { rank, alpha, targets: targets.iter().map(|&target| target.to_owned()).collect() }
    }

    #[test]
    fn an_adapter_has_pefts_names_and_two_factors_for_each_target() {
        let base = Layout::of(&Preset::Tiny.model()).unwrap();
        let adapter = Adapter::new(&base, spec(4, 8.0, &["q_proj", "down_proj"])).unwrap();
        let names: Vec<&str> = adapter.layout.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names.len(), 2 * 2 * 2);
        assert_eq!(names[0], "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight");
        assert_eq!(names[1], "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight");
        assert_eq!(adapter.layout.tensors[0].shape, [4, 88]);
        assert_eq!(adapter.layout.tensors[1].shape, [32, 4]);
        assert_eq!(adapter.pairs.len(), 4);
    }

    #[test]
    fn a_first_adapter_changes_nothing_and_is_not_zero() {
        let base = Layout::of(&Preset::Tiny.model()).unwrap();
        let adapter = Adapter::new(&base, spec(4, 8.0, &TARGETS)).unwrap();
        let weights: Vec<f32> = (0..base.len()).map(|i| (i as f32).sqrt()).collect();
        let values = adapter.first(Digest([3; 32]));
        let mut merged = weights.clone();
        adapter.merge(&weights, &values, &mut merged).unwrap();
        assert_eq!(merged, weights);
        assert!(values.iter().any(|x| x.abs() > 0.01));
    }

    #[test]
    fn only_targets_change_and_by_the_scaled_product() {
        let tensor = |name: &str, offset| TensorInfo { name: name.to_owned(), shape: vec![2, 3], offset };
        let base = Layout { tensors: vec![tensor("x.q_proj.weight", 0), tensor("x.v_proj.weight", 6)] };
        let adapter = Adapter::new(&base, spec(1, 2.0, &["v_proj"])).unwrap();
        let weights = [1.0; 12];
        let mut merged = weights;
        adapter.merge(&weights, &[1.0, 2.0, 3.0, 10.0, 20.0], &mut merged).unwrap();
        assert_eq!(merged[..6], weights[..6]);
        assert_eq!(merged[6..], [21.0, 41.0, 61.0, 41.0, 81.0, 121.0]);
        let mut gradient = [9.0; 5];
        let mut dw = [0.0; 12];
        dw[6] = 1.0; // of the first row and column of v_proj
        adapter.gradient(&[1.0, 2.0, 3.0, 10.0, 20.0], &dw, &mut gradient).unwrap();
        assert_eq!(gradient, [20.0, 0.0, 0.0, 2.0, 0.0]);
    }

    #[test]
    fn an_adapter_without_sense_is_refused_with_its_field() {
        let base = Layout::of(&Preset::Tiny.model()).unwrap();
        for (spec, field) in [
            (spec(0, 1.0, &["q_proj"]), "rank"),
            (spec(RANK_MAX + 1, 1.0, &["q_proj"]), "rank"),
            (spec(1, 0.0, &["q_proj"]), "alpha"),
            (spec(1, f32::NAN, &["q_proj"]), "alpha"),
            (spec(1, 1.0, &["lm_head"]), "targets"),
            (spec(1, 1.0, &[]), "targets"),
        ] {
            let error = Adapter::new(&base, spec).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
        let adapter = Adapter::new(&base, spec(1, 1.0, &["q_proj"])).unwrap();
        assert!(adapter.merge(&[0.0], &[0.0], &mut [0.0]).is_err());
    }
}
