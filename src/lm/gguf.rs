//! A GGUF file: llama.cpp's single-file models. Quantised tensors are widened to f32 as they are read.
//!
//! llama.cpp's converter stores the query and key weights of Llama models with each head's rows interleaved, so that
//! its rotary embedding can turn neighbours. The decoder turns halves, as transformers does, so the rows go back to
//! their places here and nothing else needs to know.

use super::checkpoint::{broken, check_shape, map_file, missing_tensor};
use super::config::{Architecture, ModelConfig, RopeScaling};
use super::gguf_tokenizer;
use super::tokenizer::TextTokenizer;
use crate::error::{Exit, Failure};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};
use memmap2::Mmap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// An opened GGUF, its header parsed.
pub(super) struct Gguf {
    path: PathBuf,
    map: Mmap,
    content: Content,
}

impl Gguf {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let map = map_file(path)?;
        if !map.starts_with(b"GGUF") {
            return Err(Failure::new(Exit::Usage, format!("`{}` is not a GGUF file", path.display()))
                .hint("give a Hugging Face folder (config.json, model.safetensors, tokenizer.json) or a .gguf file")
                .into());
        }
        let content = Content::read(&mut Cursor::new(&map[..])).map_err(|error| broken(path, error))?;
        Ok(Self { path: path.to_owned(), map, content })
    }

    pub(super) fn tokenizer(&self) -> anyhow::Result<TextTokenizer> {
        gguf_tokenizer::rebuild(&Metadata { path: &self.path, content: &self.content })
    }

    pub(super) fn config(&self) -> anyhow::Result<ModelConfig> {
        let metadata = Metadata { path: &self.path, content: &self.content };
        let name = metadata.text("general.architecture")?;
        let architecture = Architecture::parse(name)?;
        let key = |suffix: &str| format!("{name}.{suffix}");
        if metadata.optional_size(&key("expert_count"))?.unwrap_or(0) > 0 {
            return Err(Failure::new(Exit::Usage, format!("`{}` is a mixture of experts", self.path.display()))
                .hint("supported: dense `llama`, `qwen2`, `qwen3`")
                .into());
        }
        let num_heads = metadata.size(&key("attention.head_count"))?;
        let hidden_size = metadata.size(&key("embedding_length"))?;
        let num_layers = metadata.size(&key("block_count"))?;
        let head_dim = metadata.optional_size(&key("attention.key_length"))?.unwrap_or(hidden_size / num_heads.max(1));
        let vocab_size = match self.content.tensor_infos.get("token_embd.weight") {
            Some(info) => info.shape.dims().first().copied().unwrap_or(0),
            None => return Err(missing_tensor(&self.path, "token_embd.weight")),
        };
        let has = |name: &str| self.content.tensor_infos.contains_key(name);
        let config = ModelConfig {
            architecture,
            vocab_size,
            hidden_size,
            intermediate_size: metadata.size(&key("feed_forward_length"))?,
            num_layers,
            num_heads,
            num_kv_heads: metadata.optional_size(&key("attention.head_count_kv"))?.unwrap_or(num_heads),
            head_dim,
            rms_norm_eps: metadata.number(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-6) as f32,
            rope_theta: metadata.number(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_scaling: self.rope_scaling(&metadata, name, head_dim)?,
            max_positions: metadata.optional_size(&key("context_length"))?.unwrap_or(2048),
            tied_head: !has("output.weight"),
            qkv_bias: has("blk.0.attn_q.bias"),
            output_bias: has("blk.0.attn_output.bias"),
            mlp_bias: has("blk.0.ffn_up.bias"),
            windows: vec![None; num_layers],
            end_tokens: metadata.end_tokens()?,
        };
        config.check()?;
        Ok(config)
    }

    fn rope_scaling(&self, metadata: &Metadata<'_>, name: &str, head_dim: usize) -> anyhow::Result<RopeScaling> {
        if self.content.tensor_infos.contains_key("rope_freqs.weight") {
            let factors = self.read("rope_freqs.weight", "rope_freqs.weight", &[head_dim / 2])?;
            return Ok(RopeScaling::Factors(factors.to_vec1()?));
        }
        match metadata.optional_text(&format!("{name}.rope.scaling.type"))? {
            None | Some("none") => Ok(RopeScaling::None),
            Some("linear") => {
                let factor = metadata.number(&format!("{name}.rope.scaling.factor"))?.unwrap_or(1.0);
                Ok(RopeScaling::Linear { factor })
            }
            Some(other) => Err(Failure::new(Exit::Usage, format!("rope scaling `{other}` is not implemented"))
                .hint("supported: `linear` and Llama 3's")
                .into()),
        }
    }

    /// The tensor that transformers calls `name`, as f32, rows of q and k in transformers' order.
    pub(super) fn tensor(&self, name: &str, shape: &[usize], config: &ModelConfig) -> anyhow::Result<Tensor> {
        let Some(stored) = stored_name(name) else { return Err(missing_tensor(&self.path, name)) };
        let tensor = self.read(&stored, name, shape)?;
        let interleaved =
            config.architecture == Architecture::Llama && (name.contains(".q_proj.") || name.contains(".k_proj."));
        Ok(if interleaved { halves_from_pairs(&tensor, config.head_dim)? } else { tensor })
    }

    fn read(&self, stored: &str, name: &str, shape: &[usize]) -> anyhow::Result<Tensor> {
        let Some(info) = self.content.tensor_infos.get(stored) else { return Err(missing_tensor(&self.path, stored)) };
        check_shape(&self.path, name, info.shape.dims(), shape)?;
        let tensor = info
            .read(&mut Cursor::new(&self.map[..]), self.content.tensor_data_offset, &Device::Cpu)
            .map_err(|error| broken(&self.path, format!("tensor `{stored}`: {error}")))?;
        Ok(tensor.dequantize(&Device::Cpu)?)
    }
}

/// Undoes the interleaving of a head's rows: stored row `2 * pair + half` goes to row `half * head_dim / 2 + pair`.
fn halves_from_pairs(tensor: &Tensor, head_dim: usize) -> candle_core::Result<Tensor> {
    let shape = tensor.shape();
    let rows = shape.dims().first().copied().unwrap_or(0);
    let columns = shape.elem_count() / rows.max(1);
    tensor.reshape((rows / head_dim, head_dim / 2, 2, columns))?.transpose(1, 2)?.contiguous()?.reshape(shape)
}

/// llama.cpp's name of a tensor, from transformers' name.
fn stored_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let module = match module {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{module}.{kind}"))
}

/// Typed access to a GGUF's key-value metadata.
pub(super) struct Metadata<'a> {
    pub(super) path: &'a Path,
    pub(super) content: &'a Content,
}

impl<'a> Metadata<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.content.metadata.get(key)
    }

    /// The error of a key that is absent or has another type.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> anyhow::Error {
        let verb = if self.get(key).is_some() { "should be" } else { "is missing, it should be" };
        Failure::new(Exit::Usage, format!("metadata `{key}` of `{}` {verb} {expected}", self.path.display())).into()
    }

    pub(super) fn optional_text(&self, key: &str) -> anyhow::Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    pub(super) fn text(&self, key: &str) -> anyhow::Result<&'a str> {
        self.optional_text(key)?.ok_or_else(|| self.wrong(key, "a string"))
    }

    pub(super) fn optional_size(&self, key: &str) -> anyhow::Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => integer(value)
                .and_then(|value| usize::try_from(value).ok())
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a whole number")),
        }
    }

    fn size(&self, key: &str) -> anyhow::Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.wrong(key, "a whole number"))
    }

    /// Ends of a sequence, of a turn and of a message, as far as the file knows them.
    fn end_tokens(&self) -> anyhow::Result<Vec<u32>> {
        let mut tokens = Vec::new();
        for kind in ["eos", "eot", "eom"] {
            let id = self.optional_size(&format!("tokenizer.ggml.{kind}_token_id"))?;
            tokens.extend(id.and_then(|id| u32::try_from(id).ok()).filter(|id| !tokens.contains(id)));
        }
        Ok(tokens)
    }

    fn number(&self, key: &str) -> anyhow::Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(value)) => Ok(Some(f64::from(*value))),
            Some(Value::F64(value)) => Ok(Some(*value)),
            Some(value) => integer(value).map(|value| Some(value as f64)).ok_or_else(|| self.wrong(key, "a number")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> anyhow::Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A required array, each element read by `read`.
    pub(super) fn list<T>(&self, key: &str, of: &str, read: impl Fn(&'a Value) -> Option<T>) -> anyhow::Result<Vec<T>> {
        let Some(Value::Array(values)) = self.get(key) else { return Err(self.wrong(key, &format!("a list of {of}"))) };
        values.iter().map(|value| read(value).ok_or_else(|| self.wrong(key, &format!("a list of {of}")))).collect()
    }
}

/// Any of the integer types; writers differ in the one they choose.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match *value {
        Value::U8(value) => Some(value.into()),
        Value::I8(value) => Some(value.into()),
        Value::U16(value) => Some(value.into()),
        Value::I16(value) => Some(value.into()),
        Value::U32(value) => Some(value.into()),
        Value::I32(value) => Some(value.into()),
        Value::U64(value) => i64::try_from(value).ok(),
        Value::I64(value) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_return_to_transformers_order() {
        // Two heads of four rows, one column; llama.cpp stores the halves a, b of a head as a0 b0 a1 b1.
        let stored = Tensor::new(&[[0f32], [2.], [1.], [3.], [4.], [6.], [5.], [7.]], &Device::Cpu).unwrap();
        let rows = halves_from_pairs(&stored, 4).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(rows, [0., 1., 2., 3., 4., 5., 6., 7.]);
    }

    #[test]
    fn every_module_has_its_stored_name() {
        assert_eq!(stored_name("model.layers.12.mlp.down_proj.weight").as_deref(), Some("blk.12.ffn_down.weight"));
        assert_eq!(stored_name("model.layers.0.self_attn.q_proj.bias").as_deref(), Some("blk.0.attn_q.bias"));
        assert_eq!(stored_name("lm_head.weight").as_deref(), Some("output.weight"));
        assert_eq!(stored_name("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
    }
}
