//! Architectures beyond our decoder's, run by candle-transformers: Gemma 3 and Phi-3, as judges.
//!
//! Their models read one sequence at a time and keep their caches to themselves, so that a document is read once per question.
//! What candle-transformers computes otherwise than the models' authors is refused or put right here, each with its reason.

use super::checkpoint::Checkpoint;
use super::config::Architecture;
use super::packed::Packed;
use super::scorer::Scorer;
use crate::error::{Exit, Failure};
use candle_core::{DType, Device, IndexOp, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Activation, Init, VarBuilder};
use candle_transformers::models::{gemma3, phi3};
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};

/// A model of candle-transformers.
pub(super) struct Foreign {
    model: Mutex<Model>,
    device: Device,
    vocab_size: usize,
}

enum Model {
    Gemma3(gemma3::Model),
    Phi3(phi3::Model),
}

impl Foreign {
    /// Reads the model in f32. It is made for sequences of at most `positions` tokens.
    ///
    /// # Errors
    /// A [`Failure`] for a configuration that candle-transformers does not compute as its authors meant, and for tensors that are
    /// missing, misshapen or cut off.
    pub(super) fn load(checkpoint: &Checkpoint, device: &Device, positions: usize) -> anyhow::Result<Self> {
        let config: Value = serde_json::from_str(&checkpoint.config_json()?)?;
        let weights = VarBuilder::from_backend(Box::new(Weights(checkpoint.clone())), DType::F32, device.clone());
        let unusable = |error: candle_core::Error| {
            Failure::new(Exit::Usage, format!("cannot make `{}`: {error}", checkpoint.name()))
                .hint("the weights and the configuration must be of the same model")
        };
        let model = match checkpoint.config().architecture {
            Architecture::Gemma3 => {
                Model::Gemma3(gemma3::Model::new(false, &gemma3(&config, positions)?, weights).map_err(unusable)?)
            }
            _ => Model::Phi3(phi3::Model::new(&phi3(&config, positions)?, weights).map_err(unusable)?),
        };
        let vocab_size = checkpoint.config().vocab_size;
        Ok(Self { model: Mutex::new(model), device: device.clone(), vocab_size })
    }

    /// Logits of the vocabulary after a sequence, `(V)`.
    fn logits_after(&self, tokens: &[u32]) -> anyhow::Result<Tensor> {
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.vocab_size) {
            let message = format!("token {token} is beyond the model's vocabulary of {}", self.vocab_size);
            return Err(Failure::new(Exit::Usage, message).hint("the tokenizer belongs to another model").into());
        }
        let ids = Tensor::from_slice(tokens, (1, tokens.len()), &self.device)?;
        // The cache is cleared before every use, so that a panic between leaves nothing behind.
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let logits = match &mut *model {
            Model::Gemma3(model) => {
                model.clear_kv_cache();
                model.forward(&ids, 0)?
            }
            Model::Phi3(model) => {
                model.clear_kv_cache();
                model.forward(&ids, 0)?
            }
        };
        Ok(logits.i((0, 0))?)
    }
}

impl Scorer for Foreign {
    fn next_token_logits(&self, packed: &Packed, rows: &[usize], tokens: Option<&[u32]>) -> anyhow::Result<Tensor> {
        let logits = rows
            .iter()
            .map(|&row| {
                let logits = self.logits_after(&packed.sequence(row))?;
                Ok(match tokens {
                    Some(tokens) => logits.index_select(&Tensor::from_slice(tokens, tokens.len(), &self.device)?, 0)?,
                    None => logits,
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Tensor::stack(&logits, 0)?)
    }
}

/// Hands out a checkpoint's tensors, in its own words if there is something wrong with one.
struct Weights(Checkpoint);

impl SimpleBackend for Weights {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let tensor =
            self.0.tensor(name, shape.dims()).map_err(|error| candle_core::Error::msg(format!("{error:#}")))?;
        tensor.to_device(device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("`{name}` is asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.has_tensor(name)
    }
}

fn gemma3(config: &Value, positions: usize) -> anyhow::Result<gemma3::Config> {
    let head_dim = size(config, "head_dim", 256)?;
    expect(config, "hidden_activation", "gelu_pytorch_tanh")?;
    expect(config, "query_pre_attn_scalar", head_dim)?;
    // candle-nn's cache refuses the values of several heads. The text-only models, 270M and 1B, have one.
    expect(config, "num_key_value_heads", 1)?;
    expect(config, "rope_scaling", Value::Null)?;
    expect(config, "use_bidirectional_attention", false)?;
    expect(config, "tie_word_embeddings", true)?;
    let layers = size(config, "num_hidden_layers", 26)?;
    // transformers 5 nests the two rotary bases.
    let base = |kind: &str, key: &str, default: f64| -> anyhow::Result<f64> {
        let nested = &config["rope_parameters"][kind];
        expect(nested, "rope_type", "default")?;
        Ok(nested["rope_theta"].as_f64().or(config[key].as_f64()).unwrap_or(default))
    };
    Ok(gemma3::Config {
        attention_bias: config["attention_bias"].as_bool().unwrap_or(false),
        head_dim,
        hidden_activation: Activation::GeluPytorchTanh,
        hidden_size: size(config, "hidden_size", 2304)?,
        intermediate_size: size(config, "intermediate_size", 9216)?,
        num_attention_heads: size(config, "num_attention_heads", 8)?,
        num_hidden_layers: layers,
        num_key_value_heads: 1,
        rms_norm_eps: config["rms_norm_eps"].as_f64().unwrap_or(1e-6),
        rope_theta: base("full_attention", "rope_theta", 1e6)?,
        rope_local_base_freq: base("sliding_attention", "rope_local_base_freq", 1e4)?,
        vocab_size: size(config, "vocab_size", 262_208)?,
        final_logit_softcapping: config["final_logit_softcapping"].as_f64(),
        attn_logit_softcapping: config["attn_logit_softcapping"].as_f64(),
        query_pre_attn_scalar: head_dim,
        // candle-transformers lets a row see one position more than the window.
        sliding_window: size(config, "sliding_window", 4096)?.saturating_sub(1),
        sliding_window_pattern: pattern(config, layers)?,
        max_position_embeddings: positions,
    })
}

/// Every how many layers attention is full.
fn pattern(config: &Value, layers: usize) -> anyhow::Result<usize> {
    let Some(types) = config["layer_types"].as_array() else {
        return size(config, "sliding_window_pattern", 6);
    };
    let full = |layer: &Value| layer == "full_attention";
    let pattern = types.iter().position(full).map_or(layers + 1, |first| first + 1);
    let regular = types.iter().enumerate().all(|(index, layer)| full(layer) == (index + 1).is_multiple_of(pattern));
    if types.len() != layers || !regular {
        return Err(refused("layer_types", &config["layer_types"], "every so many layers full attention"));
    }
    Ok(pattern)
}

fn phi3(config: &Value, positions: usize) -> anyhow::Result<phi3::Config> {
    expect(config, "hidden_act", "silu")?;
    // Its long ropes are not those of the authors.
    expect(config, "rope_scaling", Value::Null)?;
    expect(&config["rope_parameters"], "rope_type", "default")?;
    // A window that no sequence outgrows slides over nothing.
    if let Some(window) = config["sliding_window"].as_u64().filter(|window| *window < positions as u64) {
        let message = format!("prompts of {positions} tokens outgrow the model's sliding window of {window}");
        return Err(Failure::new(Exit::Usage, message).hint("lower `window-tokens`").into());
    }
    let heads = size(config, "num_attention_heads", 32)?;
    let partial = config["rope_parameters"]["partial_rotary_factor"].as_f64();
    Ok(phi3::Config {
        vocab_size: size(config, "vocab_size", 32_064)?,
        hidden_act: Activation::Silu,
        hidden_size: size(config, "hidden_size", 3072)?,
        intermediate_size: size(config, "intermediate_size", 8192)?,
        num_hidden_layers: size(config, "num_hidden_layers", 32)?,
        num_attention_heads: heads,
        num_key_value_heads: size(config, "num_key_value_heads", heads)?,
        rms_norm_eps: config["rms_norm_eps"].as_f64().unwrap_or(1e-5),
        rope_theta: config["rope_parameters"]["rope_theta"].as_f64().or(config["rope_theta"].as_f64()).unwrap_or(1e4),
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: positions,
        original_max_position_embeddings: None,
        partial_rotary_factor: partial.or(config["partial_rotary_factor"].as_f64()).filter(|factor| *factor != 1.0),
        tie_word_embeddings: config["tie_word_embeddings"].as_bool().unwrap_or(false),
    })
}

/// A size, or what transformers takes where the key is absent.
fn size(config: &Value, key: &str, default: usize) -> anyhow::Result<usize> {
    match &config[key] {
        Value::Null => Ok(default),
        value => value.as_u64().map(|value| value as usize).ok_or_else(|| refused(key, value, "a whole number")),
    }
}

/// Refuses another value than the only one that is computed right; an absent key has it.
fn expect(config: &Value, key: &str, value: impl serde::Serialize) -> anyhow::Result<()> {
    let expected = json!(value);
    match &config[key] {
        Value::Null => Ok(()),
        found if *found == expected => Ok(()),
        found => Err(refused(key, found, &format!("only `{expected}`"))),
    }
}

fn refused(key: &str, value: &Value, expected: &str) -> anyhow::Error {
    Failure::new(Exit::Usage, format!("`{key} = {value}` in `config.json`: {expected} is implemented")).into()
}
