//! A model on disk: a Hugging Face folder or a GGUF, opened memory-mapped, its tensors handed out as f32 under the
//! names that transformers gives them, with the shapes the configuration asks for.

use super::config::ModelConfig;
use super::folder::{EmbeddedFile, Folder};
use super::gguf::Gguf;
use super::shape;
use super::tokenizer::TextTokenizer;
use crate::error::{Exit, Failure};
use candle_core::Tensor;
use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
#[cfg(any(feature = "cuda", test))]
use rayon::prelude::*;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened model. Opening reads headers only; tensors are read when asked for. Clones share what is opened.
#[derive(Clone)]
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Folder(Arc<Folder>),
    Gguf(Arc<Gguf>),
    /// No file at all: random weights.
    Shape,
}

/// What names the model that is part of the program, where a path is expected: a judge of the four behaviors.
pub const EMBEDDED: &str = "embedded";

/// What the embedded model is called in labels.
const EMBEDDED_NAME: &str = "four-habits-judge";

/// The embedded model, as `pipelines/judge.toml` made it.
const EMBEDDED_FILES: [EmbeddedFile; 5] = [
    ("config.json", include_bytes!("../../assets/judge/config.json")),
    ("generation_config.json", include_bytes!("../../assets/judge/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../assets/judge/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../assets/judge/tokenizer_config.json")),
    ("model.safetensors", include_bytes!("../../assets/judge/model.safetensors")),
];

impl Checkpoint {
    /// Opens a folder with `config.json` and safetensors, a `.gguf` file, or [`EMBEDDED`].
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Usage`] for a path that is none of these, and for headers that are cut short or make no sense.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let (config, source) = if path == Path::new(EMBEDDED) || path.is_dir() {
            let folder = match path.is_dir() {
                true => Folder::open(path)?,
                false => Folder::embedded(EMBEDDED, &EMBEDDED_FILES)?,
            };
            let mut config = ModelConfig::from_json(&folder.read_text("config.json")?)?;
            if let Some(text) = folder.generation_config()? {
                config.add_generation_config(&text)?;
            }
            (config, Source::Folder(Arc::new(folder)))
        } else if path.is_file() {
            let gguf = Gguf::open(path)?;
            (gguf.config()?, Source::Gguf(Arc::new(gguf)))
        } else {
            return Err(Failure::new(Exit::Usage, format!("no model at `{}`", path.display()))
                .hint("give a Hugging Face folder (config.json, model.safetensors, tokenizer.json) or a .gguf file")
                .into());
        };
        Ok(Self { path: path.to_owned(), config, source })
    }

    /// A model of a published shape (`smollm2-135m`, `qwen2.5-7b`, …) with random weights and a tokenizer of four characters a
    /// token, for measuring speed.
    ///
    /// # Errors
    /// A [`Failure`] for a shape that is not known.
    pub fn random(shape: &str) -> anyhow::Result<Self> {
        Ok(Self { path: PathBuf::from(shape), config: shape::config(shape)?, source: Source::Shape })
    }

    /// Whether it is the model that is part of the program.
    pub fn is_embedded(&self) -> bool {
        matches!(&self.source, Source::Folder(folder) if folder.is_embedded())
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The folder's or the file's own name.
    pub fn name(&self) -> String {
        if self.is_embedded() {
            return EMBEDDED_NAME.to_owned();
        }
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// The tokenizer: `tokenizer.json`, or the one rebuilt from a GGUF's metadata.
    pub fn tokenizer(&self) -> anyhow::Result<TextTokenizer> {
        match &self.source {
            Source::Folder(folder) => folder.tokenizer(),
            Source::Gguf(gguf) => gguf.tokenizer(),
            Source::Shape => shape::tokenizer(),
        }
    }

    /// Every token that ends a reply: the configuration's, and what ends a turn in the chat template.
    pub fn end_tokens(&self, tokenizer: &TextTokenizer) -> anyhow::Result<Vec<u32>> {
        let mut tokens = self.config.end_tokens.clone();
        tokens.extend(tokenizer.end_of_turn()?.filter(|token| !tokens.contains(token)));
        Ok(tokens)
    }

    /// A tensor as f32 on the CPU, by its name in transformers' checkpoints (`model.layers.0.mlp.up_proj.weight`).
    ///
    /// # Errors
    /// A [`Failure`] when it is missing, has another shape, a type that is no float, or lies beyond the file's end.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> anyhow::Result<Tensor> {
        let tensor = match &self.source {
            Source::Folder(folder) => folder.tensor(name, shape),
            Source::Gguf(gguf) => gguf.tensor(name, shape, &self.config),
            Source::Shape => Ok(shape::tensor(name, shape)?),
        }?;
        Ok(tensor)
    }

    /// Whether a folder's weights have a tensor of this name.
    pub(super) fn has_tensor(&self, name: &str) -> bool {
        matches!(&self.source, Source::Folder(folder) if folder.has_tensor(name))
    }

    /// A folder's `config.json`.
    pub(super) fn config_json(&self) -> anyhow::Result<String> {
        match &self.source {
            Source::Folder(folder) => folder.read_text("config.json"),
            _ => anyhow::bail!("`{}` has no `config.json`", self.name()),
        }
    }

    /// The same tensor's numbers as bf16, little-endian; straight from the mapped file where that is how they are stored.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn bf16(&self, name: &str, shape: &[usize]) -> anyhow::Result<std::borrow::Cow<'_, [u8]>> {
        if let Source::Folder(folder) = &self.source
            && let Some(bytes) = folder.bf16(name, shape)?
        {
            return Ok(bytes.into());
        }
        let values = self.tensor(name, shape)?.flatten_all()?;
        let (storage, _) = values.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { anyhow::bail!("tensor `{name}` is not on the CPU") };
        let values = storage.as_slice::<f32>()?;
        let mut bytes = vec![0; 2 * values.len()];
        bytes.par_chunks_mut(1 << 16).zip(values.par_chunks(1 << 15)).for_each(|(bytes, values)| {
            for (bytes, value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                *bytes = half::bf16::from_f32(*value).to_le_bytes();
            }
        });
        Ok(bytes.into())
    }

    /// A hash over the contents of every file that shapes what the model answers: weights, configuration, tokenizer.
    /// It does not depend on where the model lies. 32 hexadecimal characters.
    pub fn revision(&self) -> anyhow::Result<String> {
        let files = match &self.source {
            Source::Folder(folder) => folder.files(),
            Source::Gguf(_) => vec![self.path.clone()],
            Source::Shape => Vec::new(),
        };
        let mut hasher = blake3::Hasher::new();
        for file in files {
            if let Source::Folder(folder) = &self.source
                && let Some(bytes) = folder.embedded_file(&file)
            {
                hasher.update(file.file_name().unwrap_or_default().as_encoded_bytes());
                hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
                continue;
            }
            let fail =
                |error: std::io::Error| Failure::new(Exit::Usage, format!("cannot read `{}`: {error}", file.display()));
            let mut content = File::open(&file).map_err(fail)?;
            // A GGUF may be renamed at will; a folder's files have their fixed names.
            if matches!(self.source, Source::Folder(_)) {
                hasher.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            }
            hasher.update(&content.metadata().map_err(fail)?.len().to_le_bytes());
            // Read and not mapped, so that the file does not count as this process's memory.
            hasher.update_reader(&mut content).map_err(fail)?;
        }
        Ok(hasher.finalize().to_hex()[..32].to_owned())
    }
}

impl TextTokenizer {
    /// The tokenizer of a model whose weights are elsewhere: a folder with `tokenizer.json`, or a `.gguf` file.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Usage`] for a path that is neither, and for files that make no sense.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new(EMBEDDED) && !path.exists() {
            Folder::embedded(EMBEDDED, &EMBEDDED_FILES)?.tokenizer()
        } else if path.is_dir() {
            Folder::without_weights(path).tokenizer()
        } else if path.is_file() {
            Gguf::open(path)?.tokenizer()
        } else {
            Err(Failure::new(Exit::Usage, format!("no tokenizer at `{}`", path.display()))
                .hint("give a Hugging Face folder (tokenizer.json, tokenizer_config.json) or a .gguf file")
                .into())
        }
    }
}

/// Maps a file into memory for reading.
pub(super) fn map_file(path: &Path) -> anyhow::Result<Mmap> {
    let fail = |error: std::io::Error| Failure::new(Exit::Usage, format!("cannot read `{}`: {error}", path.display()));
    let file = File::open(path).map_err(fail)?;
    // SAFETY: the mapping is read-only, and every offset into it is checked against its length. Another process that
    // cuts the file short while it is mapped would end this one with SIGBUS; model files are not written in place.
    let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
    Ok(map)
}

/// Lets go of mapped pages that have been read; whoever needs them again finds them in the system's cache or on disk.
pub(super) fn release(map: &Mmap, start: usize, len: usize) {
    // SAFETY: the mapping is of a file and read-only, so that its pages come back with the same content. That the system
    // may not follow the advice changes nothing.
    #[cfg(unix)]
    let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, len) };
    #[cfg(not(unix))]
    let _ = (map, start, len);
}

/// The error of a file that ends early or contradicts itself.
pub(super) fn broken(path: &Path, why: impl std::fmt::Display) -> anyhow::Error {
    Failure::new(Exit::Usage, format!("`{}` is truncated or corrupt: {why}", path.display()))
        .hint("download or copy the model again")
        .into()
}

/// The error of a tensor that the configuration asks for and the file does not have.
pub(super) fn missing_tensor(path: &Path, name: &str) -> anyhow::Error {
    Failure::new(Exit::Usage, format!("`{}` lacks the tensor `{name}`", path.display()))
        .hint("the weights and the configuration must be of the same model")
        .into()
}

/// Checks a tensor's shape before its bytes are read.
pub(super) fn check_shape(path: &Path, name: &str, found: &[usize], expected: &[usize]) -> anyhow::Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        format!("tensor `{name}` in `{}` has shape {found:?}, the configuration asks for {expected:?}", path.display()),
    )
    .hint("the weights and the configuration must be of the same model")
    .into())
}
