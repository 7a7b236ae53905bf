//! `config.json` of a `LlamaForCausalLM`.

use serde_json::{Map, Value, json};
use shoal_wire::manifest::{ModelSpec, RopeScaling};

use super::FolderError;
use crate::Layout;

/// The base of the rotary frequencies where a config names none, as in `transformers`.
const ROPE_THETA: f32 = 10_000.0;

/// Reads `config.json`. Anything that would change the computation is refused, and so is a field of the wrong type: a
/// field that is absent or null takes the default of `transformers`.
pub fn parse_config(bytes: &[u8]) -> Result<ModelSpec, FolderError> {
    let config: Map<String, Value> = serde_json::from_slice(bytes)?;
    let config = Fields { prefix: "", map: &config };
    refuse_variants(config)?;
    let heads = config.required("num_attention_heads", Fields::whole)?;
    let longest = config.required("max_position_embeddings", Fields::whole)?;
    let (rope_theta, rope_scaling) = rope(config, longest)?;
    let model = ModelSpec {
        vocab_size: config.required("vocab_size", Fields::whole)?,
        hidden_size: config.required("hidden_size", Fields::whole)?,
        intermediate_size: config.required("intermediate_size", Fields::whole)?,
        num_hidden_layers: config.required("num_hidden_layers", Fields::whole)?,
        num_attention_heads: heads,
        num_key_value_heads: config.whole("num_key_value_heads")?.unwrap_or(heads),
        max_position_embeddings: longest,
        rms_norm_eps: config.real("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        tie_word_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(false),
    };
    Layout::of(&model)?;
    match config.whole("head_dim")? {
        Some(width) if width != model.hidden_size / heads => Err(FolderError::HeadDim(width)),
        _ => Ok(model),
    }
}

fn refuse_variants(config: Fields<'_>) -> Result<(), FolderError> {
    for (field, only, required) in [("model_type", "llama", true), ("hidden_act", "silu", false)] {
        match config.text(field)? {
            None if required => return Err(FolderError::Missing(field.to_owned())),
            Some(value) if value != only => {
                return Err(FolderError::Unsupported { field, value: format!("\"{value}\""), only });
            }
            _ => {}
        }
    }
    for field in ["attention_bias", "mlp_bias"] {
        if config.flag(field)? == Some(true) {
            return Err(FolderError::Unsupported { field, value: "true".to_owned(), only: "false" });
        }
    }
    match config.real("partial_rotary_factor")? {
        Some(share) if (share - 1.0).abs() > 0.0 => {
            let field = "partial_rotary_factor";
            Err(FolderError::Unsupported { field, value: share.to_string(), only: "1" })
        }
        _ => Ok(()),
    }
}

/// The base and the scaling: `rope_parameters` of newer configs, `rope_scaling` of older ones.
fn rope(config: Fields<'_>, longest: u32) -> Result<(f32, RopeScaling), FolderError> {
    let theta = config.real("rope_theta")?.unwrap_or(ROPE_THETA);
    let (new, old) = (config.object("rope_parameters")?, config.object("rope_scaling")?);
    let read = |prefix, map| {
        let fields = Fields { prefix, map };
        Ok::<_, FolderError>((fields.real("rope_theta")?.unwrap_or(theta), scaling(fields, longest)?))
    };
    let new = new.map(|map| read("rope_parameters.", map)).transpose()?;
    let old = old.map(|map| read("rope_scaling.", map)).transpose()?;
    match (new, old) {
        (None, None) => Ok((theta, RopeScaling::Default)),
        (Some(only), None) | (None, Some(only)) => Ok(only),
        (Some(new), Some(old)) if new == old => Ok(new),
        (Some(_), Some((_, scaling))) => Err(FolderError::Field {
            field: "rope_scaling".to_owned(),
            value: format!("{scaling:?}"),
            rule: "what rope_parameters says",
        }),
    }
}

fn scaling(fields: Fields<'_>, longest: u32) -> Result<RopeScaling, FolderError> {
    if let Some(share) = fields.real("partial_rotary_factor")?
        && (share - 1.0).abs() > 0.0
    {
        return Err(fields.wrong("partial_rotary_factor", "1"));
    }
    let kind_field = if fields.present("rope_type").is_some() { "rope_type" } else { "type" };
    match fields.text(kind_field)?.unwrap_or("default") {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: fields.required("factor", Fields::real)? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: fields.required("factor", Fields::real)?,
            low_freq_factor: fields.required("low_freq_factor", Fields::real)?,
            high_freq_factor: fields.required("high_freq_factor", Fields::real)?,
            original_max_position_embeddings: fields.whole("original_max_position_embeddings")?.unwrap_or(longest),
        }),
        _ => Err(fields.wrong(kind_field, "default, linear or llama3, the supported scalings")),
    }
}

/// A JSON object and where it stands, for messages.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub prefix: &'static str,
    pub map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// A field that is there and not null.
    pub fn present(self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    pub fn wrong(self, field: &str, rule: &'static str) -> FolderError {
        let mut value = self.map.get(field).map_or_else(|| "absent".to_owned(), Value::to_string);
        if let Some((cut, _)) = value.char_indices().nth(100) {
            value.truncate(cut);
            value.push('…');
        }
        FolderError::Field { field: format!("{}{field}", self.prefix), value, rule }
    }

    fn read<T>(
        self,
        field: &str,
        rule: &'static str,
        as_type: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FolderError> {
        let value = self.present(field);
        value.map(|value| as_type(value).ok_or_else(|| self.wrong(field, rule))).transpose()
    }

    pub fn required<T>(
        self,
        field: &str,
        read: impl Fn(Self, &str) -> Result<Option<T>, FolderError>,
    ) -> Result<T, FolderError> {
        read(self, field)?.ok_or_else(|| FolderError::Missing(format!("{}{field}", self.prefix)))
    }

    pub fn whole(self, field: &str) -> Result<Option<u32>, FolderError> {
        let as_u32 = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        self.read(field, "a whole number from 0 to 2³² − 1", as_u32)
    }

    pub fn real(self, field: &str) -> Result<Option<f32>, FolderError> {
        let as_f32 = |value: &Value| value.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
        self.read(field, "a number that f32 holds", as_f32)
    }

    pub fn flag(self, field: &str) -> Result<Option<bool>, FolderError> {
        self.read(field, "true or false", Value::as_bool)
    }

    pub fn text(self, field: &str) -> Result<Option<&'a str>, FolderError> {
        self.read(field, "a text", Value::as_str)
    }

    pub fn object(self, field: &str) -> Result<Option<&'a Map<String, Value>>, FolderError> {
        self.read(field, "an object", Value::as_object)
    }
}

/// The shortest decimal of the f32, not the digits of the f64 beside it.
pub(crate) fn short(x: f32) -> Result<Value, FolderError> {
    Ok(serde_json::from_str(&format!("{x:?}"))?)
}

/// `rope_parameters`, and `rope_scaling` for readers that know only that.
fn rope_json(model: &ModelSpec) -> Result<(Value, Value), FolderError> {
    let theta = short(model.rope_theta)?;
    let scaling = match model.rope_scaling {
        RopeScaling::Default => return Ok((json!({"rope_type": "default", "rope_theta": theta}), Value::Null)),
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "rope_theta": theta, "factor": short(factor)?}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "rope_type": "llama3", "rope_theta": theta, "factor": short(factor)?,
            "low_freq_factor": short(low_freq_factor)?, "high_freq_factor": short(high_freq_factor)?,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    };
    Ok((scaling.clone(), scaling))
}

/// A `config.json` that `transformers` loads.
pub fn config_json(model: &ModelSpec) -> Result<Vec<u8>, FolderError> {
    let (parameters, scaling) = rope_json(model)?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "dtype": "float32",
        "vocab_size": model.vocab_size, "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size, "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads, "num_key_value_heads": model.num_key_value_heads,
        "max_position_embeddings": model.max_position_embeddings, "rms_norm_eps": short(model.rms_norm_eps)?,
        "rope_theta": short(model.rope_theta)?, "rope_parameters": parameters, "rope_scaling": scaling,
        "tie_word_embeddings": model.tie_word_embeddings, "attention_bias": false, "mlp_bias": false,
        "bos_token_id": null, "eos_token_id": null,
    });
    let mut text = serde_json::to_vec_pretty(&config)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-5}"#;

    fn with(field: &str, value: Value) -> Result<ModelSpec, FolderError> {
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        config[field] = value;
        parse_config(config.to_string().as_bytes())
    }

    fn llama3() -> Value {
        json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32})
    }

    #[test]
    fn a_config_round_trips_and_prints_short_decimals() {
        let models = [
            with("rope_theta", json!(500_000.0)).unwrap(),
            with("rope_scaling", json!({"type": "linear", "factor": 2.3})).unwrap(),
            with("rope_parameters", llama3()).unwrap(),
        ];
        for model in models {
            let text = String::from_utf8(config_json(&model).unwrap()).unwrap();
            assert_eq!(parse_config(text.as_bytes()).unwrap(), model);
            assert!(!text.contains("999") && !text.contains("0000000"), "{text}");
            assert_eq!(model.num_key_value_heads, 4);
        }
    }

    #[test]
    fn both_ways_to_write_the_rope_base_are_read() {
        let old = with("rope_theta", json!(300.0)).unwrap();
        let new = with("rope_parameters", json!({"rope_type": "default", "rope_theta": 300.0})).unwrap();
        assert_eq!(old, new);
    }

    #[test]
    fn scalings_are_read_and_a_missing_context_is_the_models() {
        let linear = RopeScaling::Linear { factor: 4.0 };
        for kind in ["type", "rope_type"] {
            assert_eq!(with("rope_scaling", json!({kind: "linear", "factor": 4})).unwrap().rope_scaling, linear);
        }
        let mut short = llama3();
        short["original_max_position_embeddings"] = Value::Null;
        let RopeScaling::Llama3 { original_max_position_embeddings, .. } =
            with("rope_parameters", short).unwrap().rope_scaling
        else {
            panic!("not llama3")
        };
        assert_eq!(original_max_position_embeddings, 128);
    }

    #[test]
    fn what_would_change_the_computation_is_refused_and_named() {
        for (field, value, named) in [
            ("model_type", json!("gpt2"), "model_type"),
            ("hidden_act", json!("gelu"), "hidden_act"),
            ("attention_bias", json!(true), "attention_bias"),
            ("mlp_bias", json!(true), "mlp_bias"),
            ("head_dim", json!(32), "head_dim"),
            ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
            ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor"),
            ("rope_scaling", json!({"rope_type": "linear"}), "factor"),
            ("rope_scaling", json!({"rope_type": "linear", "factor": 0.5}), "rope_scaling.factor"),
            ("rope_scaling", json!({"type": "dynamic", "factor": 2.0}), "rope_scaling.type"),
            ("rope_parameters", json!({"rope_type": "yarn", "factor": 2.0}), "rope_parameters.rope_type"),
            ("rope_parameters", json!({"partial_rotary_factor": 0.5}), "rope_parameters.partial_rotary_factor"),
            ("hidden_size", json!(-1), "hidden_size"),
            ("vocab_size", json!(1e30), "vocab_size"),
            ("num_key_value_heads", json!(3), "num_key_value_heads"),
            ("rms_norm_eps", json!(0.0), "rms_norm_eps"),
            ("rope_theta", json!(1e300), "rope_theta"),
            ("intermediate_size", json!(1 << 22), "intermediate_size"),
        ] {
            let message = with(field, value).unwrap_err().to_string();
            assert!(message.contains(named), "{field}: {message}");
        }
    }

    #[test]
    fn a_field_of_the_wrong_type_is_an_error_and_not_a_default() {
        for (field, value) in [
            ("tie_word_embeddings", json!("yes")),
            ("tie_word_embeddings", json!(1)),
            ("rms_norm_eps", json!("1e-5")),
            ("rope_theta", json!([1])),
            ("rope_parameters", json!("linear")),
            ("rope_scaling", json!(2.0)),
            ("num_key_value_heads", json!(2.0)),
            ("head_dim", json!("16")),
            ("attention_bias", json!("false")),
            ("hidden_act", json!(1)),
            ("vocab_size", json!("256")),
        ] {
            let message = with(field, value).unwrap_err().to_string();
            assert!(message.starts_with(field), "{field}: {message}");
        }
        assert!(with("num_key_value_heads", Value::Null).is_ok());
    }

    #[test]
    fn two_scalings_that_differ_are_refused() {
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 1e4});
        config["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
        let error = parse_config(config.to_string().as_bytes()).unwrap_err();
        assert!(matches!(error, FolderError::Field { ref field, .. } if field == "rope_scaling"), "{error}");
    }
}
