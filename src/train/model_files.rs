//! The small files of a Hugging Face folder, beside the weights: `config.json`, `generation_config.json` and the tokenizer's.

use super::vocabulary::Vocabulary;
use crate::error::{Exit, Failure};
use crate::lm::{Architecture, ModelConfig, RopeScaling};
use anyhow::Context;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Files by name, the same in every checkpoint of a training run.
pub type ModelFiles = BTreeMap<String, Vec<u8>>;

/// The files of a model that is trained. A folder's own `config.json` and `generation_config.json` are kept, since they may say
/// more than our decoder reads; only the type of the weights is told anew.
pub fn model_files(config: &ModelConfig, base: Option<&Path>, vocabulary: &Vocabulary) -> anyhow::Result<ModelFiles> {
    let mut files = vocabulary.files().clone();
    let read = |name: &str| -> anyhow::Result<Option<Vec<u8>>> {
        match base.map(|base| base.join(name)).filter(|path| path.is_file()) {
            Some(path) => Ok(Some(std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?)),
            None => Ok(None),
        }
    };
    let config = match read("config.json")? {
        Some(text) => retyped(serde_json::from_slice(&text)?),
        None => config_json(config, vocabulary.end())?,
    };
    files.insert("config.json".into(), pretty(&config)?);
    let generation = match read("generation_config.json")? {
        Some(text) => text,
        None => pretty(&json!({ "eos_token_id": config["eos_token_id"] }))?,
    };
    files.insert("generation_config.json".into(), generation);
    Ok(files)
}

fn pretty(value: &Value) -> anyhow::Result<Vec<u8>> {
    Ok((serde_json::to_string_pretty(value)? + "\n").into_bytes())
}

/// Weights are written in f32.
fn retyped(mut config: Value) -> Value {
    if let Value::Object(map) = &mut config {
        // Newer versions of transformers call it `dtype`.
        let key = if map.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        map.insert(key.into(), "float32".into());
    }
    config
}

/// A configuration as transformers writes it.
fn config_json(config: &ModelConfig, end: u32) -> anyhow::Result<Value> {
    let (model_type, class) = match config.architecture {
        Architecture::Llama => ("llama", "LlamaForCausalLM"),
        Architecture::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        Architecture::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
    };
    let ends = match config.end_tokens[..] {
        [] => json!(end),
        [one] => json!(one),
        ref many => json!(many),
    };
    let mut value = json!({
        "architectures": [class],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "initializer_range": 0.02,
        // As it is written, not as its nearest f32 looks in f64.
        "rms_norm_eps": config.rms_norm_eps.to_string().parse::<f64>()?,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope_scaling(config)?,
        "tie_word_embeddings": config.tied_head,
        "attention_dropout": 0.0,
        "use_cache": true,
        "eos_token_id": ends,
        "torch_dtype": "float32",
    });
    if config.architecture != Architecture::Qwen2 {
        value["attention_bias"] = config.qkv_bias.into();
    }
    if config.architecture == Architecture::Llama {
        value["mlp_bias"] = config.mlp_bias.into();
    }
    if let Some(window) = config.windows.iter().flatten().next() {
        let kinds =
            config.windows.iter().map(|window| if window.is_some() { "sliding_attention" } else { "full_attention" });
        value["sliding_window"] = (*window).into();
        value["use_sliding_window"] = true.into();
        value["layer_types"] = kinds.collect::<Vec<_>>().into();
    }
    Ok(value)
}

fn rope_scaling(config: &ModelConfig) -> anyhow::Result<Value> {
    Ok(match config.rope_scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_context as u64,
        }),
        RopeScaling::Factors(_) => {
            return Err(Failure::new(
                Exit::Usage,
                "the GGUF's rotary frequencies (`rope_freqs`) have no form in `config.json`",
            )
            .hint("start from the Hugging Face folder of the same model")
            .into());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_reads_back_as_it_was() {
        for architecture in ["llama", "qwen2", "qwen3"] {
            let text = format!(
                r#"{{"model_type": "{architecture}", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 48,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 7,
                "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": true,
                "rope_scaling": {{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192}}}}"#
            );
            let config = ModelConfig::from_json(&text).unwrap();
            let written = config_json(&config, 7).unwrap();
            assert_eq!(ModelConfig::from_json(&written.to_string()).unwrap(), config);
            assert_eq!(written["rms_norm_eps"], 1e-5);
        }
    }

    #[test]
    fn a_folder_keeps_its_own_configuration() {
        let config = retyped(json!({ "model_type": "llama", "torch_dtype": "bfloat16", "novel": 1 }));
        assert_eq!(config, json!({ "model_type": "llama", "torch_dtype": "float32", "novel": 1 }));
        assert_eq!(retyped(json!({ "dtype": "bfloat16" })), json!({ "dtype": "float32" }));
    }
}
