//! A Hugging Face folder: `config.json`, one `model.safetensors` or several with an index, `tokenizer.json`.

use super::checkpoint::{broken, check_shape, map_file, missing_tensor, release};
use super::tokenizer::TextTokenizer;
use crate::error::{Exit, Failure};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const GENERATION: &str = "generation_config.json";
const INDEX: &str = "model.safetensors.index.json";

/// The folder's files, weights mapped.
pub(super) struct Folder {
    path: PathBuf,
    shards: Vec<Shard>,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
    /// Where the tensors' bytes begin in `map`.
    data_start: usize,
    header: Metadata,
}

impl Folder {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let shards = shard_names(path)?.iter().map(|name| Shard::open(&path.join(name))).collect::<Result<_, _>>()?;
        Ok(Self { path: path.to_owned(), shards })
    }

    /// For its tokenizer alone.
    pub(super) fn without_weights(path: &Path) -> Self {
        Self { path: path.to_owned(), shards: Vec::new() }
    }

    pub(super) fn read_text(&self, name: &str) -> anyhow::Result<String> {
        read_text(&self.path.join(name))
    }

    /// `generation_config.json`, where there is one.
    pub(super) fn generation_config(&self) -> anyhow::Result<Option<String>> {
        let path = self.path.join(GENERATION);
        if path.is_file() { read_text(&path).map(Some) } else { Ok(None) }
    }

    /// Every file whose content shapes what the model answers, in a fixed order.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let beside = ["config.json", GENERATION, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
        let beside = beside.map(|name| self.path.join(name)).into_iter().filter(|path| path.is_file());
        beside.chain(self.shards.iter().map(|shard| shard.path.clone())).collect()
    }

    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> anyhow::Result<Tensor> {
        let (shard, info) = self.find(name, shape)?;
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                let message = format!("tensor `{name}` in `{}` is {other:?}", shard.path.display());
                return Err(Failure::new(Exit::Usage, message).hint("weights must be F32, F16 or BF16").into());
            }
        };
        let bytes = shard.bytes(info);
        let tensor = Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)?.to_dtype(DType::F32)?;
        release(&shard.map, shard.data_start + info.data_offsets.0, bytes.len());
        Ok(tensor)
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.shards.iter().any(|shard| shard.header.info(name).is_some())
    }

    /// A tensor's bytes in the mapped file if they are bf16.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn bf16(&self, name: &str, shape: &[usize]) -> anyhow::Result<Option<&[u8]>> {
        let (shard, info) = self.find(name, shape)?;
        Ok((info.dtype == Dtype::BF16).then(|| shard.bytes(info)))
    }

    fn find(&self, name: &str, shape: &[usize]) -> anyhow::Result<(&Shard, &TensorInfo)> {
        let found = self.shards.iter().find_map(|shard| shard.header.info(name).map(|info| (shard, info)));
        let Some((shard, info)) = found else { return Err(missing_tensor(&self.path, name)) };
        check_shape(&shard.path, name, &info.shape, shape)?;
        Ok((shard, info))
    }

    pub(super) fn tokenizer(&self) -> anyhow::Result<TextTokenizer> {
        let path = self.path.join("tokenizer.json");
        if !path.is_file() {
            return Err(Failure::new(Exit::Usage, format!("`{}` has no `tokenizer.json`", self.path.display()))
                .hint("save it with transformers' fast tokenizer: `tokenizer.save_pretrained(folder)`")
                .into());
        }
        let inner =
            tokenizers::Tokenizer::from_bytes(read_text(&path)?.as_bytes()).map_err(|error| broken(&path, error))?;
        let config = self.tokenizer_config()?;
        TextTokenizer::new(inner, config)
    }

    /// `tokenizer_config.json`, with the template of `chat_template.jinja` where newer transformers put it.
    fn tokenizer_config(&self) -> anyhow::Result<Value> {
        let path = self.path.join("tokenizer_config.json");
        let mut config = if path.is_file() {
            serde_json::from_str(&read_text(&path)?).map_err(|error| broken(&path, error))?
        } else {
            Value::Object(serde_json::Map::new())
        };
        let template = self.path.join("chat_template.jinja");
        if template.is_file()
            && let Value::Object(map) = &mut config
        {
            map.insert("chat_template".into(), Value::String(read_text(&template)?));
        }
        Ok(config)
    }
}

impl Shard {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let map = map_file(path)?;
        let (header_len, header) =
            safetensors::SafeTensors::read_metadata(&map).map_err(|error| broken(path, error))?;
        Ok(Self { path: path.to_owned(), data_start: header_len + 8, map, header })
    }

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        // The header was checked against the file's length when it was opened, so the range lies inside.
        let (start, end) = info.data_offsets;
        &self.map[self.data_start + start..self.data_start + end]
    }
}

/// The weight files of a folder, by name, in order.
fn shard_names(folder: &Path) -> anyhow::Result<Vec<String>> {
    if folder.join(SINGLE).is_file() {
        return Ok(vec![SINGLE.to_owned()]);
    }
    let index = folder.join(INDEX);
    if !index.is_file() {
        return Err(Failure::new(Exit::Usage, format!("`{}` has no `{SINGLE}`", folder.display()))
            .hint("a model folder needs `model.safetensors`, or its shards with `model.safetensors.index.json`")
            .into());
    }
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: Index = serde_json::from_str(&read_text(&index)?).map_err(|error| broken(&index, error))?;
    let mut names: Vec<String> = parsed.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot read `{}`: {error}", path.display())).into())
}
