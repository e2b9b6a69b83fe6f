//! Resolving what a recipe names and pinning it by content: shards, models, tokenizers, lexicons, test sets.

use super::{Input, keys, units};
use crate::config::{Config, Fetch, Recipe, TRAINED};
use crate::data::document::ColumnMap;
use crate::data::hub::{self, Hub, RemoteFile};
use crate::data::sample;
use crate::data::shard::{Footer, Format, ShardReader};
use crate::error::{Exit, Failure};
use crate::lm::{Checkpoint, EMBEDDED, ModelConfig};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where a pinned file is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Location {
    /// As the recipe or its glob names it: absolute, or relative to the working directory.
    Local(PathBuf),
    Remote(RemoteFile),
    /// Part of the program: the sample shard, or the embedded model.
    Sample,
}

/// One shard of an input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    /// What people call it: its path, or its path within the repository.
    pub name: String,
    pub location: Location,
    pub bytes: u64,
    /// SHA-256 of the content, or what the server gives in its place (an ETag).
    pub sha256: String,
    /// What documents' and units' ids derive from: the content hash, with a number if the corpus holds the same shard twice.
    pub identity: String,
    /// Rows of each row group; none for formats that do not say.
    pub row_groups: Option<Vec<u64>>,
    /// Bytes of the text column before compression, as far as the footer tells.
    pub text_bytes: Option<u64>,
}

#[cfg(test)]
impl Shard {
    pub fn for_test(name: &str, row_groups: Option<Vec<u64>>) -> Self {
        let hash = blake3::hash(name.as_bytes()).to_hex().to_string();
        Self {
            name: name.into(),
            location: Location::Sample,
            bytes: 0,
            sha256: hash.clone(),
            identity: hash,
            row_groups,
            text_bytes: None,
        }
    }
}

/// Files behind one setting, such as the folder of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    pub files: Vec<PinnedFile>,
    /// The `config.json` of a model on the hub: its sizes are known before its weights are here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
}

/// One file of a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PinnedFile {
    /// Its name within the resource.
    pub name: String,
    pub location: Location,
    pub bytes: u64,
    pub sha256: String,
}

impl Resource {
    /// A hash of names and contents.
    pub fn digest(&self) -> String {
        let files: Vec<(&str, &str)> =
            self.files.iter().map(|file| (file.name.as_str(), file.sha256.as_str())).collect();
        keys::digest(&serde_json::json!(files))
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Lists, pins and cuts the shards of one `[fetch]` table.
pub(super) fn resolve(recipe: &Recipe, fetch: &Fetch, limit: Option<u64>, hub: &Hub) -> anyhow::Result<Input> {
    let columns = ColumnMap::from(&fetch.columns);
    let mut shards: Vec<Shard> = Vec::new();
    let mut rows_known = Some(0u64);
    for (index, source) in fetch.sources.iter().enumerate() {
        let key = format!("fetch.sources[{index}]");
        for (name, location) in list(recipe, &key, source, hub)? {
            // A limit that is reached needs no more footers.
            if limit.is_some_and(|limit| rows_known.is_some_and(|rows| rows >= limit)) {
                break;
            }
            let shard = pin_shard(name, location, &columns, hub)?;
            rows_known = rows_known
                .zip(shard.row_groups.as_ref())
                .map(|(rows, row_groups)| rows + row_groups.iter().sum::<u64>());
            shards.push(shard);
        }
    }
    number_equal_shards(&mut shards);
    let units = units::cut(&shards, fetch.rows_per_unit, limit);
    let key = keys::input_key(fetch, &shards, &units);
    Ok(Input { key, shards, units, fetch: fetch.clone() })
}

/// The files of one source, in order of their names.
fn list(recipe: &Recipe, key: &str, source: &str, hub: &Hub) -> anyhow::Result<Vec<(String, Location)>> {
    if source == "sample:" {
        return Ok(vec![(sample::NAME.to_owned(), Location::Sample)]);
    }
    let files: Vec<(String, Location)> = if source.starts_with("hf://") {
        let address = hub::parse_hf_url(source).map_err(|error| recipe.error(key, &format!("{error:#}")))?;
        let listing = hub
            .list(&address.repo, &address.revision, &address.glob)
            .with_context(|| format!("cannot list `{source}`"))?;
        listing.files.into_iter().map(|file| (file.path.clone(), Location::Remote(file))).collect()
    } else if source.starts_with("s3://") {
        let files = hub.list_objects(source).with_context(|| format!("cannot list `{source}`"))?;
        files.into_iter().map(|file| (file.path.clone(), Location::Remote(file))).collect()
    } else if source.starts_with("http://") || source.starts_with("https://") {
        let file = hub.head(source).with_context(|| format!("cannot reach `{source}`"))?;
        vec![(file.path.clone(), Location::Remote(file))]
    } else {
        local_files(source)
            .map_err(|message| recipe.error(key, &message))?
            .into_iter()
            .map(|path| (path.to_string_lossy().into_owned(), Location::Local(path)))
            .collect()
    };
    if files.is_empty() {
        return Err(recipe
            .error(key, &format!("`{source}` matches no file"))
            .hint("check the path; globs are resolved from the working directory")
            .into());
    }
    Ok(files)
}

/// The files that a path or glob names, sorted.
pub(super) fn local_files(pattern: &str) -> Result<Vec<PathBuf>, String> {
    if Path::new(pattern).is_file() {
        return Ok(vec![pattern.into()]);
    }
    if Path::new(pattern).is_dir() {
        return Err(format!(
            "`{pattern}` is a folder; expected a file or a glob such as `{}/*.parquet`",
            pattern.trim_end_matches('/')
        ));
    }
    let paths = glob::glob(pattern).map_err(|error| format!("`{pattern}` is not a glob: {error}"))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| format!("cannot read `{}`: {}", error.path().display(), error.error()))?;
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => files.push(path),
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(format!("`{}` is no regular file", path.display())),
            // A link to nowhere is a shard that is lost, not one less to read.
            Err(error) => return Err(format!("cannot read `{}`: {error}", path.display())),
        }
    }
    files.sort();
    Ok(files)
}

fn pin_shard(name: String, location: Location, columns: &ColumnMap, hub: &Hub) -> anyhow::Result<Shard> {
    let format = format_of(&name)?;
    let (bytes, sha256, footer) = match &location {
        Location::Local(path) => {
            let footer = ShardReader::open(path, format, columns)?.footer().clone();
            let (bytes, sha256) = hash_file(path)?;
            (bytes, sha256, Some(footer))
        }
        Location::Sample => (sample::DOCUMENTS.len() as u64, sample::sha256(), None),
        Location::Remote(file) => {
            let footer = match format {
                Format::Parquet => {
                    let footer = Footer::read_remote(&name, file.size, &mut |range| hub.read_range(file, range))?;
                    footer.check_columns(&name, columns)?;
                    Some(footer)
                }
                Format::Jsonl(_) => None,
            };
            let identity =
                file.sha256.clone().unwrap_or_else(|| keys::digest(&serde_json::json!([file.etag, file.size])));
            (file.size, identity, footer)
        }
    };
    let row_groups = footer.as_ref().and_then(|footer| footer.row_groups.iter().map(|group| group.rows).collect());
    let text = footer.as_ref().and_then(|footer| footer.columns.iter().find(|column| column.name == columns.text));
    let text_bytes = text.map(|column| column.bytes_uncompressed);
    Ok(Shard { name, location, bytes, identity: sha256.clone(), sha256, row_groups, text_bytes })
}

/// A shard's format, by its name.
pub fn format_of(name: &str) -> anyhow::Result<Format> {
    let failure = || {
        Failure::new(Exit::Usage, format!("`{name}` is of no known format"))
            .hint("known by name: `.parquet`, `.jsonl`, `.jsonl.gz`, `.jsonl.zst`")
    };
    Ok(Format::of(name).ok_or_else(failure)?)
}

/// A corpus may hold the same shard twice; its documents are duplicates, but they are two.
fn number_equal_shards(shards: &mut [Shard]) {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for shard in shards {
        let times = seen.entry(shard.sha256.clone()).or_default();
        if *times > 0 {
            shard.identity = format!("{}#{times}", shard.sha256);
        }
        *times += 1;
    }
}

/// Pins the files that one configuration's settings name.
pub(super) fn pin_resources(
    recipe: &Recipe,
    config: &Config,
    hub: &Hub,
    resources: &mut BTreeMap<String, Resource>,
) -> anyhow::Result<()> {
    let mut pin = |key: &str, name: &str, files: &dyn Fn() -> anyhow::Result<Vec<PinnedFile>>| -> anyhow::Result<()> {
        if !resources.contains_key(name) {
            let files = files().map_err(|error| {
                if crate::error::hint_of(&error).is_some() {
                    error
                } else {
                    recipe.error(key, &format!("{error:#}")).into()
                }
            })?;
            let config = hub_config(&files, hub).map_err(|error| error.context(format!("cannot plan `{name}`")))?;
            resources.insert(name.to_owned(), Resource { files, config });
        }
        Ok(())
    };
    if let Some(classify) = &config.classify {
        if let Some(lexicon) = classify.cue.as_ref().and_then(|cue| cue.lexicon.as_ref()) {
            pin("classify.cue.lexicon", lexicon, &|| pin_path(lexicon))?;
        }
        if let Some(lm) = &classify.lm {
            pin("classify.lm.model", &lm.model, &|| pin_model(&lm.model, hub))?;
            if let Some(prompts) = &lm.prompts {
                pin("classify.lm.prompts", prompts, &|| pin_path(prompts))?;
            }
        }
    }
    if let Some(rewrite) = &config.rewrite {
        if let Some(lm) = &rewrite.lm {
            pin("rewrite.lm.model", &lm.model, &|| pin_model(&lm.model, hub))?;
        }
        if let Some(prompts) = &rewrite.prompts {
            pin("rewrite.prompts", prompts, &|| pin_path(prompts))?;
        }
    }
    if let Some(endpoint) = config.classify.as_ref().and_then(|classify| classify.endpoint.as_ref()) {
        for (key, path) in [("tokenizer", &endpoint.tokenizer), ("prompts", &endpoint.prompts)] {
            if let Some(path) = path {
                pin(&format!("classify.endpoint.{key}"), path, &|| pin_path(path))?;
            }
        }
    }
    if let Some(prime) = &config.prime {
        for (key, file) in [("query", &prime.query), ("tokenizer", &prime.tokenizer)] {
            if let Some(file) = file {
                pin(&format!("prime.{key}"), file, &|| pin_path(file))?;
            }
        }
        for (key, files) in [("exclude", &prime.exclude), ("puzzles", &prime.puzzles)] {
            for (index, file) in files.iter().enumerate() {
                pin(&format!("prime.{key}[{index}]"), file, &|| pin_path(file))?;
            }
        }
        if let Some(lm) = prime.author.as_ref().and_then(|author| author.lm.as_ref()) {
            pin("prime.author.lm.model", &lm.model, &|| pin_model(&lm.model, hub))?;
        }
    }
    for (table, pretrain) in config.trainings() {
        if let Some(from) = pretrain.from.as_ref().filter(|from| !TRAINED.contains(&from.as_str())) {
            pin(&format!("{table}.from"), from, &|| pin_model(from, hub))?;
        }
        if let Some(model) =
            pretrain.model.as_ref().filter(|model| !["bpe", "words"].contains(&model.tokenizer.as_str()))
        {
            pin(&format!("{table}.model.tokenizer"), &model.tokenizer, &|| pin_path(&model.tokenizer))?;
        }
        for (name, data) in &pretrain.data {
            let source = Some(&data.source).filter(|_| data.stage().is_none());
            for (key, source) in [("source", source), ("held-out", data.held_out.as_ref())] {
                if let Some(source) = source {
                    let key = format!("{table}.data.{name}.{key}");
                    pin(&key, source, &|| pin_data(recipe, &key, source, hub))?;
                }
            }
        }
    }
    if let Some(ppo) = &config.ppo {
        if !TRAINED.contains(&ppo.from.as_str()) {
            pin("ppo.from", &ppo.from, &|| pin_model(&ppo.from, hub))?;
        }
        if let Some(query) = &ppo.puzzles.query {
            pin("ppo.puzzles.query", query, &|| pin_path(query))?;
        }
        if let Some(questions) = &ppo.questions {
            for (index, file) in questions.files.iter().enumerate() {
                pin(&format!("ppo.questions.files[{index}]"), file, &|| pin_path(file))?;
            }
            if let Some(query) = &questions.query {
                pin("ppo.questions.query", query, &|| pin_path(query))?;
            }
        }
    }
    if let Some(curate) = &config.curate {
        if curate.token_counter != "pieces" {
            pin("curate.token-counter", &curate.token_counter, &|| pin_path(&curate.token_counter))?;
        }
        if let Some(decontaminate) = &curate.decontaminate {
            for (index, set) in decontaminate.test_sets.iter().enumerate() {
                pin(&format!("curate.decontaminate.test-sets[{index}]"), set, &|| pin_path(set))?;
            }
        }
    }
    let begins = config.trainings().filter_map(|(table, pretrain)| Some((table, pretrain.from.as_ref()?)));
    let begins = begins.chain(config.ppo.as_ref().map(|ppo| ("ppo", &ppo.from)));
    for (table, from) in begins {
        if let Some(json) = resources.get(from).and_then(|resource| resource.config.as_ref()) {
            // Said before its weights are fetched.
            ModelConfig::from_json(&json.to_string()).and_then(|config| config.check_trainable()).map_err(|error| {
                let failure = recipe.error(&format!("{table}.from"), &error.to_string());
                match crate::error::hint_of(&error) {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            })?;
        }
    }
    Ok(())
}

/// A file, or all files directly in a folder.
fn pin_path(path: &str) -> anyhow::Result<Vec<PinnedFile>> {
    let path = Path::new(path);
    let mut files = if path.is_dir() {
        let entries = std::fs::read_dir(path).with_context(|| format!("cannot read folder `{}`", path.display()))?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        files.retain(|file| file.is_file());
        files.sort();
        files
    } else {
        vec![path.to_owned()]
    };
    anyhow::ensure!(!files.is_empty(), "folder `{}` holds no file", path.display());
    files
        .drain(..)
        .map(|file| {
            let (bytes, sha256) = hash_file(&file)?;
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Ok(PinnedFile { name, location: Location::Local(file), bytes, sha256 })
        })
        .collect()
}

/// The files of a source of training data.
fn pin_data(recipe: &Recipe, key: &str, source: &str, hub: &Hub) -> anyhow::Result<Vec<PinnedFile>> {
    let pin = |(name, location): (String, Location)| {
        format_of(&name)?;
        let (bytes, sha256) = match &location {
            Location::Local(path) => hash_file(path)?,
            Location::Remote(file) => (file.size, file.sha256.clone().unwrap_or_else(|| file.etag.clone())),
            Location::Sample => (sample::DOCUMENTS.len() as u64, sample::sha256()),
        };
        Ok(PinnedFile { name, location, bytes, sha256 })
    };
    list(recipe, key, source, hub)?.into_iter().map(pin).collect()
}

/// What a judge needs of a model repository; weights in other formats stay where they are.
const MODEL_FILES: &str = "{config.json,generation_config.json,tokenizer.json,tokenizer_config.json,special_tokens_map.json,chat_template.jinja,*.safetensors,*.safetensors.index.json}";

fn pin_model(model: &str, hub: &Hub) -> anyhow::Result<Vec<PinnedFile>> {
    if model == EMBEDDED && !Path::new(model).exists() {
        let sha256 = Checkpoint::open(Path::new(model))?.revision()?;
        return Ok(vec![PinnedFile { name: EMBEDDED.into(), location: Location::Sample, bytes: 0, sha256 }]);
    }
    if !model.starts_with("hf://") {
        return pin_path(model);
    }
    let address = hub::parse_hf_url(&format!("{}/{MODEL_FILES}", model.trim_end_matches('/')))?;
    let listing =
        hub.list(&address.repo, &address.revision, &address.glob).with_context(|| format!("cannot list `{model}`"))?;
    let pinned = listing.files.into_iter().map(|file| PinnedFile {
        name: file.path.clone(),
        bytes: file.size,
        sha256: file.sha256.clone().unwrap_or_else(|| file.etag.clone()),
        location: Location::Remote(file),
    });
    let pinned: Vec<PinnedFile> = pinned.collect();
    anyhow::ensure!(
        pinned.iter().any(|file| file.name.ends_with(".safetensors")),
        "`{model}` holds no safetensors weights"
    );
    Ok(pinned)
}

/// A `config.json` is a few kilobytes.
const MOST_CONFIG_BYTES: u64 = 1 << 20;

/// The `config.json` among files on the hub.
fn hub_config(files: &[PinnedFile], hub: &Hub) -> anyhow::Result<Option<serde_json::Value>> {
    let found = files.iter().find_map(|file| match &file.location {
        Location::Remote(remote) if file.name == "config.json" && remote.size <= MOST_CONFIG_BYTES => Some(remote),
        _ => None,
    });
    let Some(file) = found else { return Ok(None) };
    // Whole and into the cache: the run needs it as well, and not every host serves ranges of small files.
    let path = hub.fetch(file, Path::new("."), &|_| {})?;
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let config = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(Exit::Usage, format!("`{}` is not JSON: {error}", file.label())))?;
    Ok(Some(config))
}

/// Size and SHA-256 (lowercase hex) of a file.
pub fn hash_file(path: &Path) -> anyhow::Result<(u64, String)> {
    let missing = |error: std::io::Error| -> anyhow::Error {
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::new(Exit::Usage, format!("`{}` does not exist", path.display())).into()
            }
            _ => anyhow::Error::new(error).context(format!("cannot read `{}`", path.display())),
        }
    };
    let mut file = File::open(path).map_err(missing)?;
    let mut hasher = <sha2::Sha256 as sha2::Digest>::new();
    let bytes = std::io::copy(&mut file, &mut hasher).map_err(missing)?;
    Ok((bytes, format!("{:x}", sha2::Digest::finalize(hasher))))
}
