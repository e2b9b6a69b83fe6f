//! The shape of a model: what `config.json` or a GGUF's metadata says of it, in one type.
//!
//! Everything the decoder would have to guess at is refused here by name: another architecture, a rope scaling or an
//! activation that it does not implement.

use crate::error::{Exit, Failure};
use serde_json::{Map, Value};

/// A model family. Those that the decoder implements differ in biases, in q/k norms and in defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 1–3.x, SmolLM2, TinyLlama and others of that shape.
    Llama,
    /// Mistral: a Llama whose every layer may slide a window.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
    /// Qwen3: RMSNorm over each head of q and k.
    Qwen3,
    /// Gemma 3's language model, by candle-transformers.
    Gemma3,
    /// Phi-3, by candle-transformers.
    Phi3,
}

impl Architecture {
    /// As `model_type` in config.json and `general.architecture` in a GGUF have it.
    pub(crate) fn parse(name: &str) -> anyhow::Result<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.name() == name).ok_or_else(|| {
            let supported: Vec<String> = Self::ALL.iter().map(|known| format!("`{}`", known.name())).collect();
            Failure::new(Exit::Usage, format!("the model's architecture `{name}` is not supported"))
                .hint(format!("supported: {}", supported.join(", ")))
                .into()
        })
    }

    const ALL: [Self; 6] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Gemma3, Self::Phi3];

    /// `model_type` in config.json.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3_text",
            Self::Phi3 => "phi3",
        }
    }

    /// Whether [`Decoder`](super::Decoder) implements it.
    pub fn decoded(self) -> bool {
        !matches!(self, Self::Gemma3 | Self::Phi3)
    }
}

/// How rotary frequencies are stretched beyond the trained context.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// Every frequency divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1's rule: long wavelengths divided by `factor`, short ones kept, a smooth blend between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: f64,
    },
    /// Each frequency divided by its own factor, `head_dim / 2` of them: how a GGUF stores Llama 3.1's rule.
    Factors(Vec<f32>),
}

/// Sizes and switches of a decoder, in the names of `transformers`' configs.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    /// Heads of keys and values; divides `num_heads`.
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// The longest sequence the model was made for.
    pub max_positions: usize,
    /// The output head is the embedding table.
    pub tied_head: bool,
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub mlp_bias: bool,
    /// Per layer: how many positions back a query sees, its own included; `None` for all.
    pub windows: Vec<Option<usize>>,
    /// Tokens that end a sequence, from `config.json` and `generation_config.json`, or from the GGUF.
    pub end_tokens: Vec<u32>,
}

impl ModelConfig {
    /// Heads of queries that share one head of keys and values.
    pub fn group_size(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// Width of the fused projection: all queries, then all keys, then all values.
    pub fn qkv_size(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }

    /// # Errors
    /// A [`Failure`] for an architecture that the decoder does not implement.
    pub fn check_trainable(&self) -> anyhow::Result<()> {
        if self.architecture.decoded() {
            return Ok(());
        }
        let message = format!("models of architecture `{}` can judge and cannot be trained", self.architecture.name());
        Err(Failure::new(Exit::Usage, message).hint("`llama`, `mistral`, `qwen2` and `qwen3` can be").into())
    }

    /// Numbers in the embedding, and in the head if that is another matrix.
    pub fn embedding_size(&self) -> u64 {
        let matrices = if self.tied_head { 1 } else { 2 };
        matrices * (self.vocab_size * self.hidden_size) as u64
    }

    /// Weights in one layer's matrices.
    pub fn layer_size(&self) -> u64 {
        let attention = self.qkv_size() + self.num_heads * self.head_dim;
        self.hidden_size as u64 * (attention + 3 * self.intermediate_size) as u64
    }

    pub fn has_qk_norm(&self) -> bool {
        self.architecture == Architecture::Qwen3
    }

    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// A [`Failure`] naming the key that is missing, of the wrong type or beyond what the decoder implements.
    pub fn from_json(text: &str) -> anyhow::Result<Self> {
        let map: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| Failure::new(Exit::Usage, format!("`config.json` is not a JSON object: {error}")))?;
        let json = Json { map: &map, file: "config.json" };
        let architecture = Architecture::parse(json.text("model_type")?)?;
        if json.map.get("quantization_config").is_some_and(|value| !value.is_null()) {
            return Err(Failure::new(Exit::Usage, "`config.json` describes quantised weights (`quantization_config`)")
                .hint("use the unquantised folder, or a GGUF")
                .into());
        }
        match json.text_or("hidden_act", "silu")? {
            "silu" => {}
            other => return Err(refuse("hidden_act", other, "only `silu` is implemented")),
        }

        let num_heads = json.size("num_attention_heads")?;
        let hidden_size = json.size("hidden_size")?;
        let num_layers = json.size("num_hidden_layers")?;
        let llama_bias = json.flag_or("attention_bias", false)?;
        let (rope_theta, rope_scaling) = json.rope()?;
        let config = Self {
            architecture,
            vocab_size: json.size("vocab_size")?,
            hidden_size,
            intermediate_size: json.size("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads: json.size_or("num_key_value_heads", num_heads)?,
            head_dim: json.size_or("head_dim", hidden_size / num_heads.max(1))?,
            rms_norm_eps: json.number_or("rms_norm_eps", 1e-6)? as f32,
            rope_theta,
            rope_scaling,
            max_positions: json.size_or("max_position_embeddings", 2048)?,
            tied_head: json.flag_or("tie_word_embeddings", false)?,
            qkv_bias: architecture == Architecture::Qwen2 || llama_bias,
            output_bias: architecture != Architecture::Qwen2 && llama_bias,
            mlp_bias: json.flag_or("mlp_bias", false)?,
            windows: json.windows(architecture, num_layers)?,
            end_tokens: json.end_tokens()?,
        };
        config.check()?;
        Ok(config)
    }

    /// Adds the end tokens of a `generation_config.json`, which often knows more of them than `config.json`.
    ///
    /// # Errors
    /// A [`Failure`] when it is not JSON, or its `eos_token_id` no token id.
    pub(super) fn add_generation_config(&mut self, text: &str) -> anyhow::Result<()> {
        let file = "generation_config.json";
        let map: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| Failure::new(Exit::Usage, format!("`{file}` is not a JSON object: {error}")))?;
        for token in (Json { map: &map, file }).end_tokens()? {
            if !self.end_tokens.contains(&token) {
                self.end_tokens.push(token);
            }
        }
        Ok(())
    }

    /// Relations between sizes that the decoder relies on.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let wrong =
            |what: String| Err(Failure::new(Exit::Usage, format!("the model's configuration is wrong: {what}")).into());
        for (name, value) in [
            ("the vocabulary", self.vocab_size),
            ("the hidden size", self.hidden_size),
            ("the intermediate size", self.intermediate_size),
            ("the number of layers", self.num_layers),
            ("the number of heads", self.num_heads),
            ("the number of key/value heads", self.num_kv_heads),
            ("the head size", self.head_dim),
        ] {
            // The upper bound keeps products of sizes far from overflow; no model comes near it.
            if value == 0 || value > 1 << 24 {
                return wrong(format!("{name} is {value}"));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return wrong(format!("{} heads do not divide into {} key/value heads", self.num_heads, self.num_kv_heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return wrong(format!("rotary embedding needs an even head size, it is {}", self.head_dim));
        }
        Ok(())
    }

    /// Angular step per position of each pair of a head's dimensions, `head_dim / 2` numbers, scaling applied.
    pub fn rope_frequencies(&self) -> Vec<f32> {
        let dim = self.head_dim as f64;
        (0..self.head_dim / 2)
            .map(|pair| self.rope_scaling.apply(pair, self.rope_theta.powf(-2.0 * pair as f64 / dim)) as f32)
            .collect()
    }
}

impl RopeScaling {
    fn apply(&self, pair: usize, frequency: f64) -> f64 {
        match *self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Factors(ref factors) => frequency / f64::from(factors.get(pair).copied().unwrap_or(1.0)),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let wavelength = std::f64::consts::TAU / frequency;
                if wavelength < original_context / high_freq_factor {
                    frequency
                } else if wavelength > original_context / low_freq_factor {
                    frequency / factor
                } else {
                    let blend =
                        (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - blend) * frequency / factor + blend * frequency
                }
            }
        }
    }
}

fn refuse(key: &str, value: &str, why: &str) -> anyhow::Error {
    Failure::new(Exit::Usage, format!("`{key} = {value}` in the model's configuration: {why}")).into()
}

/// Typed access to `config.json` and its like, where an absent key and `null` mean the same.
struct Json<'a> {
    map: &'a Map<String, Value>,
    file: &'static str,
}

impl<'a> Json<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn require<T>(&self, key: &str, value: anyhow::Result<Option<T>>) -> anyhow::Result<T> {
        value?.ok_or_else(|| Failure::new(Exit::Usage, format!("`{}` lacks `{key}`", self.file)).into())
    }

    fn read<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> anyhow::Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(Failure::new(
                    Exit::Usage,
                    format!("`{key}` in `{}` should be {expected}, it is `{value}`", self.file),
                )
                .into()),
            },
        }
    }

    fn text(&self, key: &str) -> anyhow::Result<&'a str> {
        self.require(key, self.read(key, "a string", Value::as_str))
    }

    fn text_or(&self, key: &str, default: &'a str) -> anyhow::Result<&'a str> {
        Ok(self.read(key, "a string", Value::as_str)?.unwrap_or(default))
    }

    fn size(&self, key: &str) -> anyhow::Result<usize> {
        self.require(key, self.optional_size(key))
    }

    fn size_or(&self, key: &str, default: usize) -> anyhow::Result<usize> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    fn optional_size(&self, key: &str) -> anyhow::Result<Option<usize>> {
        self.read(key, "a whole number", |value| value.as_u64().and_then(|value| usize::try_from(value).ok()))
    }

    fn number_or(&self, key: &str, default: f64) -> anyhow::Result<f64> {
        Ok(self.read(key, "a number", Value::as_f64)?.unwrap_or(default))
    }

    fn flag_or(&self, key: &str, default: bool) -> anyhow::Result<bool> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// `rope_theta` and `rope_scaling`, or `rope_parameters` as transformers 5 writes it.
    fn rope(&self) -> anyhow::Result<(f64, RopeScaling)> {
        let object = |key: &str| self.read(key, "an object", Value::as_object);
        let scaling = match object("rope_parameters")? {
            Some(map) => Some(map),
            None => object("rope_scaling")?,
        };
        let empty = Map::new();
        let scaling = Json { map: scaling.unwrap_or(&empty), file: self.file };
        let theta = match scaling.read("rope_theta", "a number", Value::as_f64)? {
            Some(theta) => theta,
            None => self.number_or("rope_theta", 10_000.0)?,
        };
        let number = |key: &str| scaling.require(key, scaling.read(key, "a number", Value::as_f64));
        let kind = match scaling.get("rope_type") {
            Some(_) => scaling.text("rope_type")?,
            None => scaling.text_or("type", "default")?,
        };
        let rule = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: number("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_context: number("original_max_position_embeddings")?,
            },
            other => return Err(refuse("rope_type", other, "only `default`, `linear` and `llama3` are implemented")),
        };
        Ok((theta, rule))
    }

    /// Which layers slide a window: `layer_types` where it is given, else `use_sliding_window` from `max_window_layers` on, or all
    /// of a Mistral's.
    fn windows(&self, architecture: Architecture, num_layers: usize) -> anyhow::Result<Vec<Option<usize>>> {
        let window = self.optional_size("sliding_window")?;
        if let Some(types) = self.read("layer_types", "a list", Value::as_array)? {
            if types.len() != num_layers {
                return Err(refuse("layer_types", &types.len().to_string(), "there must be one for each layer"));
            }
            return types
                .iter()
                .map(|kind| match kind.as_str() {
                    Some("full_attention") => Ok(None),
                    Some("sliding_attention") => Ok(Some(self.require("sliding_window", Ok(window))?)),
                    _ => {
                        Err(refuse("layer_types", &kind.to_string(), "only full and sliding attention are implemented"))
                    }
                })
                .collect();
        }
        if architecture == Architecture::Mistral {
            return Ok(vec![window; num_layers]);
        }
        let first = self.size_or("max_window_layers", num_layers)?;
        let slides = self.flag_or("use_sliding_window", false)?;
        Ok((0..num_layers).map(|layer| if slides && layer >= first { window } else { None }).collect())
    }

    fn end_tokens(&self) -> anyhow::Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.read("eos_token_id", "a token id or a list of them", |value| match value {
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => Some(vec![id(one)?]),
        })?;
        Ok(ids.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "eos_token_id": [1, 3]}"#;

    fn edited(key: &str, value: Value) -> String {
        let mut map: Map<String, Value> = serde_json::from_str(SMALL).unwrap();
        map.insert(key.into(), value);
        Value::Object(map).to_string()
    }

    fn refused(key: &str, value: Value, expect: &str) {
        let error = ModelConfig::from_json(&edited(key, value)).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let config = ModelConfig::from_json(SMALL).unwrap();
        assert_eq!((config.num_kv_heads, config.head_dim, config.tied_head), (2, 4, false));
        assert_eq!(config.end_tokens, [1, 3]);
        assert_eq!(config.windows, [None, None]);
        assert_eq!(config.rope_frequencies(), [1.0, 0.01]);
        let mut config = config;
        config.add_generation_config(r#"{"eos_token_id": [3, 5], "temperature": 0.6}"#).unwrap();
        config.add_generation_config(r#"{"eos_token_id": 7}"#).unwrap();
        config.add_generation_config("{}").unwrap();
        assert_eq!(config.end_tokens, [1, 3, 5, 7]);
        let error = config.add_generation_config(r#"{"eos_token_id": "x"}"#).unwrap_err().to_string();
        assert!(error.contains("`eos_token_id` in `generation_config.json` should be"), "{error}");
    }

    #[test]
    fn what_is_not_implemented_is_named() {
        refused("model_type", "mamba".into(), "`mamba`");
        refused("hidden_act", "gelu".into(), "hidden_act = gelu");
        refused("num_key_value_heads", 3.into(), "2 heads do not divide into 3");
        refused("vocab_size", "many".into(), "`vocab_size` in `config.json` should be a whole number");
        refused("hidden_size", 0.into(), "the hidden size is 0");
        refused("rope_scaling", serde_json::json!({"rope_type": "yarn"}), "rope_type = yarn");
        refused("rope_scaling", serde_json::json!({"type": "linear"}), "lacks `factor`");
        refused("quantization_config", serde_json::json!({}), "quantised");
        assert!(ModelConfig::from_json("[]").unwrap_err().to_string().contains("not a JSON object"));
        assert!(ModelConfig::from_json("{}").unwrap_err().to_string().contains("lacks `model_type`"));
    }

    #[test]
    fn sliding_windows_follow_either_notation() {
        let mut map: Map<String, Value> = serde_json::from_str(SMALL).unwrap();
        map.insert("sliding_window".into(), 64.into());
        let of =
            |map: &Map<String, Value>| ModelConfig::from_json(&Value::Object(map.clone()).to_string()).unwrap().windows;
        assert_eq!(of(&map), [None, None]);
        map.insert("use_sliding_window".into(), true.into());
        map.insert("max_window_layers".into(), 1.into());
        assert_eq!(of(&map), [None, Some(64)]);
        map.insert("layer_types".into(), serde_json::json!(["sliding_attention", "full_attention"]));
        assert_eq!(of(&map), [Some(64), None]);
    }

    /// Llama 3.2's published parameters; the expected numbers follow from the rule's three branches by hand.
    #[test]
    fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
        let rule =
            RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192.0 };
        assert_eq!(rule.apply(0, 1.0), 1.0);
        assert_eq!(rule.apply(0, 1e-6), 1e-6 / 32.0);
        // A wavelength of 4096 lies between 2048 and 8192: blend = (2 - 1) / (4 - 1).
        let frequency = std::f64::consts::TAU / 4096.0;
        let expected = frequency * ((2.0 / 3.0) / 32.0 + 1.0 / 3.0);
        assert!((rule.apply(0, frequency) - expected).abs() < 1e-12);
    }
}
