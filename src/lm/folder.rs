//! A Hugging Face folder, on disk or embedded in the program: `config.json`, one `model.safetensors` or several with an index,
//! `tokenizer.json`.

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
    /// For messages, where the folder is part of the program.
    path: PathBuf,
    /// Its files by name, where they are part of the program.
    embedded: Option<&'static [EmbeddedFile]>,
    shards: Vec<Shard>,
}

/// A file's name and content.
pub(super) type EmbeddedFile = (&'static str, &'static [u8]);

struct Shard {
    path: PathBuf,
    content: Content,
    /// Where the tensors' bytes begin in `content`.
    data_start: usize,
    header: Metadata,
}

/// The bytes of a weight file.
enum Content {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl std::ops::Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

impl Folder {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let open = |name: &String| {
            let path = path.join(name);
            Shard::new(Content::Mapped(map_file(&path)?), path)
        };
        let shards = shard_names(path)?.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { path: path.to_owned(), embedded: None, shards })
    }

    /// A folder that is part of the program, with one weight file.
    pub(super) fn embedded(name: &str, files: &'static [EmbeddedFile]) -> anyhow::Result<Self> {
        let weights = files.iter().filter(|(name, _)| *name == SINGLE);
        let shards = weights.map(|(file, bytes)| Shard::new(Content::Embedded(bytes), Path::new(name).join(file)));
        Ok(Self { path: name.into(), embedded: Some(files), shards: shards.collect::<Result<_, _>>()? })
    }

    /// For its tokenizer alone.
    pub(super) fn without_weights(path: &Path) -> Self {
        Self { path: path.to_owned(), embedded: None, shards: Vec::new() }
    }

    /// One of its small files.
    pub(super) fn read_text(&self, name: &str) -> anyhow::Result<String> {
        let path = self.path.join(name);
        match self.embedded {
            None => read_text(&path),
            Some(files) => match files.iter().find(|(file, _)| *file == name) {
                Some((_, bytes)) => Ok(String::from_utf8(bytes.to_vec()).map_err(|error| broken(&path, error))?),
                None => Err(broken(&path, "there is no such file")),
            },
        }
    }

    pub(super) fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    fn has_file(&self, name: &str) -> bool {
        match self.embedded {
            None => self.path.join(name).is_file(),
            Some(files) => files.iter().any(|(file, _)| *file == name),
        }
    }

    /// `generation_config.json`, where there is one.
    pub(super) fn generation_config(&self) -> anyhow::Result<Option<String>> {
        if self.has_file(GENERATION) { self.read_text(GENERATION).map(Some) } else { Ok(None) }
    }

    /// Every file whose content shapes what the model answers, in a fixed order.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let beside = ["config.json", GENERATION, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
        let beside = beside.into_iter().filter(|name| self.has_file(name)).map(|name| self.path.join(name));
        beside.chain(self.shards.iter().map(|shard| shard.path.clone())).collect()
    }

    /// The content of one of [`Folder::files`], where the folder is part of the program.
    pub(super) fn embedded_file(&self, path: &Path) -> Option<&'static [u8]> {
        let name = path.file_name()?;
        self.embedded?.iter().find(|(file, _)| name == *file).map(|(_, bytes)| *bytes)
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
        if let Content::Mapped(map) = &shard.content {
            release(map, shard.data_start + info.data_offsets.0, bytes.len());
        }
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
        if !self.has_file("tokenizer.json") {
            return Err(Failure::new(Exit::Usage, format!("`{}` has no `tokenizer.json`", self.path.display()))
                .hint("save it with transformers' fast tokenizer: `tokenizer.save_pretrained(folder)`")
                .into());
        }
        let inner = tokenizers::Tokenizer::from_bytes(self.read_text("tokenizer.json")?.as_bytes())
            .map_err(|error| broken(&path, error))?;
        let config = self.tokenizer_config()?;
        TextTokenizer::new(inner, config)
    }

    /// `tokenizer_config.json`, with the template of `chat_template.jinja` where newer transformers put it.
    fn tokenizer_config(&self) -> anyhow::Result<Value> {
        let path = self.path.join("tokenizer_config.json");
        let mut config = if self.has_file("tokenizer_config.json") {
            serde_json::from_str(&self.read_text("tokenizer_config.json")?).map_err(|error| broken(&path, error))?
        } else {
            Value::Object(serde_json::Map::new())
        };
        if self.has_file("chat_template.jinja")
            && let Value::Object(map) = &mut config
        {
            map.insert("chat_template".into(), Value::String(self.read_text("chat_template.jinja")?));
        }
        Ok(config)
    }
}

impl Shard {
    fn new(content: Content, path: PathBuf) -> anyhow::Result<Self> {
        let (header_len, header) =
            safetensors::SafeTensors::read_metadata(&content).map_err(|error| broken(&path, error))?;
        Ok(Self { path, data_start: header_len + 8, content, header })
    }

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        // The header was checked against the file's length when it was opened, so the range lies inside.
        let (start, end) = info.data_offsets;
        &self.content[self.data_start + start..self.data_start + end]
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
