//! A model's trainable numbers: named f32 tensors in transformers' names and in one fixed order.
//!
//! Weights, gradients and an optimizer's moments all have this form, so that they can be walked side by side. The order
//! is the embedding, each layer (attention, MLP, norms), the final norm, and the head where it is not the embedding.

use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use crate::error::{Exit, Failure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// As in transformers' checkpoints: `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// All tensors of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    entries: Vec<Parameter>,
}

impl Parameters {
    /// Tensors of any names: a head that is no part of a decoder, for one.
    pub fn of(entries: Vec<Parameter>) -> Self {
        Self { entries }
    }

    /// Reads every tensor of a checkpoint, widened to f32.
    ///
    /// # Errors
    /// A [`Failure`] naming a tensor that is missing, misshapen or cut off.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        checkpoint.config().check_trainable()?;
        let read = |name: String, shape: Vec<usize>| {
            let values = checkpoint.tensor(&name, &shape)?.flatten_all()?.to_vec1()?;
            anyhow::Ok(Parameter { name, shape, values })
        };
        let entries = names_and_shapes(checkpoint.config()).into_iter().map(|(name, shape)| read(name, shape));
        Ok(Self { entries: entries.collect::<anyhow::Result<_>>()? })
    }

    /// A model to train from scratch: weights normal with deviation 0.02, those that write into the residual stream
    /// (`o_proj`, `down_proj`) divided by `sqrt(2 layers)` as in GPT-2, norms one, biases zero.
    pub fn random(config: &ModelConfig, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut parameters = Self::zeros(config);
        for parameter in &mut parameters.entries {
            if parameter.shape.len() == 1 {
                parameter.values.fill(if parameter.name.ends_with("bias") { 0.0 } else { 1.0 });
                continue;
            }
            let residual = parameter.name.ends_with("o_proj.weight") || parameter.name.ends_with("down_proj.weight");
            let deviation = if residual { 0.02 / (2.0 * config.num_layers as f64).sqrt() } else { 0.02 };
            for pair in parameter.values.chunks_mut(2) {
                // Box and Muller's transform; 1 - u is never zero.
                let radius = deviation * (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
                let (sin, cos) = (std::f64::consts::TAU * random.random::<f64>()).sin_cos();
                for (value, unit) in pair.iter_mut().zip([cos, sin]) {
                    *value = (radius * unit) as f32;
                }
            }
        }
        parameters
    }

    /// Zeros in the shapes that a configuration asks for.
    pub fn zeros(config: &ModelConfig) -> Self {
        let zeros =
            |(name, shape): (String, Vec<usize>)| Parameter { values: vec![0.0; shape.iter().product()], name, shape };
        Self { entries: names_and_shapes(config).into_iter().map(zeros).collect() }
    }

    /// Zeros in the same names and shapes.
    pub fn zeros_like(&self) -> Self {
        let zeros = |entry: &Parameter| Parameter {
            name: entry.name.clone(),
            shape: entry.shape.clone(),
            values: vec![0.0; entry.values.len()],
        };
        Self { entries: self.entries.iter().map(zeros).collect() }
    }

    /// Tensors given by name, in any order: a saved optimizer's moments, for one.
    ///
    /// # Errors
    /// A [`Failure`] naming a tensor that `find` does not have, or that has another size.
    pub fn from_named(
        config: &ModelConfig,
        mut find: impl FnMut(&str, &[usize]) -> anyhow::Result<Vec<f32>>,
    ) -> anyhow::Result<Self> {
        let entry = |(name, shape): (String, Vec<usize>)| {
            let values = find(&name, &shape)?;
            if values.len() != shape.iter().product::<usize>() {
                let message = format!("tensor `{name}` has {} numbers, its shape is {shape:?}", values.len());
                return Err(Failure::new(Exit::Usage, message).into());
            }
            Ok(Parameter { name, shape, values })
        };
        Ok(Self { entries: names_and_shapes(config).into_iter().map(entry).collect::<anyhow::Result<_>>()? })
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Parameter> {
        self.entries.iter()
    }

    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Parameter> {
        self.entries.iter_mut()
    }

    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Parameter> {
        self.entries.iter_mut().find(|entry| entry.name == name)
    }

    pub fn as_slice(&self) -> &[Parameter] {
        &self.entries
    }

    pub fn as_mut_slice(&mut self) -> &mut [Parameter] {
        &mut self.entries
    }

    /// How many numbers all tensors have together.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|entry| entry.values.len()).sum()
    }

    /// Sets every number, to start a new sum of gradients.
    pub fn fill(&mut self, value: f32) {
        self.entries.iter_mut().for_each(|entry| entry.values.fill(value));
    }

    /// Whether both have the same names and shapes in the same order.
    pub fn matches(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self.entries.iter().zip(&other.entries).all(|(a, b)| a.name == b.name && a.shape == b.shape)
    }

    /// Refuses parameters of another model.
    ///
    /// # Errors
    /// A [`Failure`] naming the first tensor that differs from what the configuration asks for.
    pub fn check(&self, config: &ModelConfig) -> anyhow::Result<()> {
        let expected = names_and_shapes(config);
        let differs = |message: String| Err(Failure::new(Exit::Usage, message).into());
        for (index, (name, shape)) in expected.iter().enumerate() {
            match self.entries.get(index) {
                Some(found) if found.name == *name && found.shape == *shape => {}
                Some(found) => {
                    return differs(format!(
                        "the model's configuration asks for tensor `{name}` of {shape:?}, not `{}` of {:?}",
                        found.name, found.shape
                    ));
                }
                None => {
                    return differs(format!("the model's configuration asks for tensor `{name}`, which is missing"));
                }
            }
        }
        match self.entries.get(expected.len()) {
            Some(extra) => differs(format!("the model's configuration has no place for tensor `{}`", extra.name)),
            None => Ok(()),
        }
    }
}

/// Every tensor of a model in the fixed order.
fn names_and_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (vocab, hidden, inner) = (config.vocab_size, config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
    for layer in 0..config.num_layers {
        let mut push = |module: &str, shape: Vec<usize>| all.push((format!("model.layers.{layer}.{module}"), shape));
        let projections = [
            ("self_attn.q_proj", q, hidden, config.qkv_bias),
            ("self_attn.k_proj", kv, hidden, config.qkv_bias),
            ("self_attn.v_proj", kv, hidden, config.qkv_bias),
            ("self_attn.o_proj", hidden, q, config.output_bias),
            ("mlp.gate_proj", inner, hidden, config.mlp_bias),
            ("mlp.up_proj", inner, hidden, config.mlp_bias),
            ("mlp.down_proj", hidden, inner, config.mlp_bias),
        ];
        for (module, out, columns, bias) in projections {
            push(&format!("{module}.weight"), vec![out, columns]);
            if bias {
                push(&format!("{module}.bias"), vec![out]);
            }
        }
        if config.has_qk_norm() {
            push("self_attn.q_norm.weight", vec![config.head_dim]);
            push("self_attn.k_norm.weight", vec![config.head_dim]);
        }
        push("input_layernorm.weight", vec![hidden]);
        push("post_attention_layernorm.weight", vec![hidden]);
    }
    all.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !config.tied_head {
        all.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(architecture: &str, tied: bool) -> ModelConfig {
        ModelConfig::from_json(&format!(
            r#"{{"model_type": "{architecture}", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": {tied}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn names_follow_the_architecture() {
        let names = |architecture, tied| -> Vec<String> {
            Parameters::zeros(&config(architecture, tied)).iter().map(|entry| entry.name.clone()).collect()
        };
        let llama = names("llama", true);
        assert_eq!(
            (llama.len(), llama[0].as_str(), llama[19].as_str()),
            (20, "model.embed_tokens.weight", "model.norm.weight")
        );
        let qwen2 = names("qwen2", false);
        assert_eq!((qwen2.len(), qwen2[25].as_str(), qwen2[26].as_str()), (27, "model.norm.weight", "lm_head.weight"));
        assert!(qwen2.contains(&"model.layers.1.self_attn.v_proj.bias".to_owned()));
        assert!(names("qwen3", false).contains(&"model.layers.0.self_attn.k_norm.weight".to_owned()));
    }

    #[test]
    fn random_weights_have_their_deviations_and_seeds() {
        let config = config("qwen2", true);
        let parameters = Parameters::random(&config, 7);
        assert_eq!(parameters, Parameters::random(&config, 7));
        assert_ne!(parameters, Parameters::random(&config, 8));
        let deviation = |name: &str| {
            let values = &parameters.get(name).unwrap().values;
            (values.iter().map(|x| f64::from(x * x)).sum::<f64>() / values.len() as f64).sqrt()
        };
        assert!((deviation("model.embed_tokens.weight") - 0.02).abs() < 5e-4);
        assert!((deviation("model.layers.1.mlp.down_proj.weight") - 0.01).abs() < 5e-4);
        assert_eq!(deviation("model.norm.weight"), 1.0);
        assert_eq!(deviation("model.layers.0.self_attn.q_proj.bias"), 0.0);
    }

    #[test]
    fn another_model_is_refused() {
        let parameters = Parameters::zeros(&config("llama", true));
        parameters.check(&config("llama", true)).unwrap();
        let message = |config: &ModelConfig| parameters.check(config).unwrap_err().to_string();
        assert!(message(&config("llama", false)).contains("`lm_head.weight`, which is missing"));
        assert!(message(&config("qwen2", true)).contains("q_proj.bias"));
        assert!(!parameters.matches(&Parameters::zeros(&config("llama", false))));
    }
}
