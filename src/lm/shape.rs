//! Models of a known shape with random weights: for measuring speed where the real weights are not at hand.

use super::config::{Architecture, ModelConfig, RopeScaling};
use super::tokenizer::TextTokenizer;
use crate::error::{Exit, Failure};
use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

/// The names of the sizes: published models', and two small ones to train from scratch.
const NAMES: [&str; 7] =
    ["smollm2-135m", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b", "llama-3.2-3b", "mini-0.3m", "mini-10m"];

/// The sizes of one of [`NAMES`].
///
/// # Errors
/// A [`Failure`] for another name.
pub(super) fn config(name: &str) -> anyhow::Result<ModelConfig> {
    // Hidden, layers, heads, key/value heads, intermediate, vocabulary, rotary base, context.
    let (architecture, sizes, rope_theta, max_positions) = match name {
        "smollm2-135m" => (Architecture::Llama, [576, 30, 9, 3, 1536, 49_152], 1e5, 8192),
        "qwen2.5-0.5b" => (Architecture::Qwen2, [896, 24, 14, 2, 4864, 151_936], 1e6, 32_768),
        "qwen2.5-1.5b" => (Architecture::Qwen2, [1536, 28, 12, 2, 8960, 151_936], 1e6, 32_768),
        "qwen2.5-7b" => (Architecture::Qwen2, [3584, 28, 28, 4, 18_944, 152_064], 1e6, 32_768),
        "llama-3.2-3b" => (Architecture::Llama, [3072, 28, 24, 8, 8192, 128_256], 5e5, 131_072),
        "mini-0.3m" => (Architecture::Llama, [96, 3, 4, 4, 384, 160], 1e4, 8192),
        "mini-10m" => (Architecture::Llama, [384, 6, 6, 6, 1024, 512], 1e4, 8192),
        _ => {
            return Err(Failure::new(Exit::Usage, format!("`{name}` is not a shape"))
                .hint(format!("expected one of `{}`", NAMES.join("`, `")))
                .into());
        }
    };
    let [hidden_size, num_layers, num_heads, num_kv_heads, intermediate_size, vocab_size] = sizes;
    Ok(ModelConfig {
        architecture,
        vocab_size,
        hidden_size,
        intermediate_size,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim: hidden_size / num_heads,
        rms_norm_eps: 1e-5,
        rope_theta,
        rope_scaling: RopeScaling::None,
        max_positions,
        tied_head: name != "qwen2.5-7b",
        qkv_bias: architecture == Architecture::Qwen2,
        output_bias: false,
        mlp_bias: false,
        windows: vec![None; num_layers],
        end_tokens: Vec::new(),
    })
}

/// Random numbers, small ones, except that norms scale by 1. Equal names and shapes, equal numbers.
pub(super) fn tensor(name: &str, shape: &[usize]) -> candle_core::Result<Tensor> {
    // A prime number of values is repeated, so that a matrix's rows differ.
    const VALUES: usize = 1_000_003;
    let len = shape.iter().product();
    if name.ends_with("norm.weight") {
        return Tensor::from_vec(vec![1f32; len], shape, &Device::Cpu);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(name.len() as u64);
    let some: Vec<f32> = (0..VALUES.min(len)).map(|_| rng.random_range(-0.03..0.03)).collect();
    let mut values = Vec::with_capacity(len);
    while values.len() < len {
        values.extend_from_slice(&some[..some.len().min(len - values.len())]);
    }
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Four characters a token, which is about what real tokenizers do; tokens that say yes and no are there.
pub(super) fn tokenizer() -> anyhow::Result<TextTokenizer> {
    let failed = |error: tokenizers::Error| anyhow::anyhow!("{error}");
    let vocab = ["?", "yes", "no"].into_iter().map(str::to_owned).zip(0u32..).collect();
    let model = WordLevel::builder().vocab(vocab).unk_token("?".into()).build().map_err(failed)?;
    let mut tokenizer = Tokenizer::new(model);
    let pattern = SplitPattern::Regex(r"(?s).{1,4}".into());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
    tokenizer.with_pre_tokenizer(Some(split));
    TextTokenizer::new(tokenizer, serde_json::Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_reads_four_characters_a_token() {
        let tokenizer = tokenizer().unwrap();
        assert_eq!(tokenizer.encode("naïve\ntext").unwrap(), [0, 0, 0]);
        assert_eq!(tokenizer.single("yes").unwrap(), Some(1));
        assert_eq!(tokenizer.single("no").unwrap(), Some(2));
    }

    #[test]
    fn every_shape_makes_sense() {
        for name in NAMES {
            config(name).unwrap().check().unwrap();
        }
        assert!(config("gpt-5").unwrap_err().to_string().contains("`gpt-5` is not a shape"));
        let values: Vec<f32> = tensor("a", &[3, 5]).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert!(values.iter().all(|value| value.abs() < 0.03) && values[0] != values[1]);
    }
}
