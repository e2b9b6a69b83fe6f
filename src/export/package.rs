//! Collects what is exported: which files, under which names, with which card.

use super::card::{self, Card};
use crate::data::hub::{Content, Outgoing, RepoKind};
use crate::error::{Exit, Failure};
use crate::plan::{Plan, Stage, Work};
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const CARD: &str = "README.md";
const ATTRIBUTES: &str = ".gitattributes";
/// Files that git keeps as pointers to a storage.
const STORED: [&str; 4] = ["*.parquet", "*.safetensors", "*.zst", "tokenizer.json"];
/// What a stage writes for its own use: what failed and why.
const ASIDE: [&str; 2] = ["quarantine.parquet", "rejected.parquet"];

/// What the user says about the package.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The Hub's id of a licence, for the card.
    pub license: Option<String>,
    /// `OWNER/NAME`, for the card's code.
    pub repo: Option<String>,
}

/// Files on their way out.
#[derive(Debug)]
pub struct Package {
    pub kind: RepoKind,
    /// Sorted by path. The card and `.gitattributes` are among them.
    pub files: Vec<Outgoing>,
    /// Whether the card names a licence.
    pub is_licensed: bool,
}

impl Package {
    /// Reads `source`: a stage's folder in a run, a corpus or a model in it, a checkpoint, or a folder that was exported
    /// before.
    ///
    /// # Errors
    /// The folder is not there or holds nothing to export, or its stage is not finished.
    pub fn collect(source: &Path, options: &Options) -> anyhow::Result<Package> {
        let root = source.canonicalize().ok().filter(|path| path.is_dir()).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("there is no folder `{}`", source.display()))
                .hint("name a stage's folder of a run, such as `runs/curate/curate`, or a checkpoint")
        })?;
        let found = match run_of(&root)? {
            Some((dir, plan)) => of_stage(&dir, &plan, &root, source)?,
            None => of_folder(&root)?,
        };
        found.finish(options, source)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// What was found, before it is made presentable.
struct Found {
    kind: RepoKind,
    files: BTreeMap<String, (PathBuf, u64, Option<String>)>,
    card: Card,
    /// The name of what was made, for a card that has to be written.
    title: String,
    /// Only a part of what the card describes.
    is_part: bool,
}

/// The run that a folder is in.
fn run_of(folder: &Path) -> anyhow::Result<Option<(RunDir, Plan)>> {
    for above in folder.ancestors() {
        let dir = RunDir::new(above);
        if !dir.path("manifests").is_dir() {
            continue;
        }
        let Ok(text) = std::fs::read(dir.plan()) else { continue };
        let plan = serde_json::from_slice(&text).with_context(|| format!("cannot read `{}`", dir.plan().display()))?;
        return Ok(Some((dir, plan)));
    }
    Ok(None)
}

fn can_be_exported(stage: &Stage) -> bool {
    matches!(stage.work, Work::Curate(_) | Work::Prime(_) | Work::Rewrite(_) | Work::Pretrain(_) | Work::Ppo(_))
}

/// The finished output of a stage, or what lies below one of its folders.
fn of_stage(dir: &RunDir, plan: &Plan, root: &Path, source: &Path) -> anyhow::Result<Found> {
    let inside = root.strip_prefix(dir.root()).unwrap_or(root);
    let stage =
        plan.stages.iter().filter(|stage| can_be_exported(stage)).find(|stage| inside.starts_with(&stage.folder));
    let Some(stage) = stage else {
        let names: Vec<String> = plan
            .stages
            .iter()
            .filter(|stage| can_be_exported(stage))
            .map(|stage| format!("`{}`", source.join(&stage.folder).display()))
            .collect();
        let failure = Failure::new(Exit::Usage, format!("`{}` is not a stage's output", source.display()));
        return Err(if names.is_empty() {
            failure.hint("this run makes nothing that can be exported: no corpus, no traces, no model").into()
        } else {
            failure.hint(format!("name one of {}", names.join(", "))).into()
        });
    };
    let is_model = matches!(stage.work, Work::Pretrain(_) | Work::Ppo(_));
    if is_model && inside != Path::new(&stage.folder) && inside != Path::new(&stage.folder).join("model") {
        // A checkpoint on the way; it was committed as a whole.
        return of_folder(root);
    }
    let manifest = stage_manifest(dir, stage, source)?;
    let base = if is_model { format!("{}/model", stage.folder) } else { stage.folder.clone() };
    let wanted = if is_model { Path::new(&base) } else { inside };
    let mut files = BTreeMap::new();
    for output in &manifest.outputs {
        let Some(name) = output.path.strip_prefix(&base).and_then(|rest| rest.strip_prefix('/')) else { continue };
        let is_aside = ASIDE.iter().any(|aside| name.ends_with(aside));
        if Path::new(&output.path).starts_with(wanted) && name != CARD && !is_aside {
            files.insert(name.to_owned(), (dir.path(&output.path), output.bytes, Some(output.sha256.clone())));
        }
    }
    let card = match std::fs::read_to_string(dir.path(&stage.folder).join(CARD)) {
        Ok(text) => Card::parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let made = format!(
                "\n# {}\n\nMade by the stage `{}` of four-habits, plan `{}`, seed {}.\n",
                plan.name, stage.folder, plan.plan_id, plan.seed
            );
            Card::parse(&made)
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read the card of `{}`", source.display())),
    };
    let kind = if is_model { RepoKind::Model } else { RepoKind::Dataset };
    let is_part = !is_model && inside != Path::new(&stage.folder);
    Ok(Found { kind, files, card, title: plan.name.clone(), is_part })
}

/// The record of a finished stage; `source` is its name for a message.
pub(super) fn stage_manifest(dir: &RunDir, stage: &Stage, source: &Path) -> anyhow::Result<Manifest> {
    let manifest = Manifest::read(&dir.path(stage.manifest("all")))?.filter(|manifest| manifest.stage_key == stage.key);
    manifest.ok_or_else(|| {
        Failure::new(Exit::Incomplete, format!("`{}` is not finished", source.display()))
            .hint("`pipeline run RECIPE` goes on where it stopped")
            .into()
    })
}

/// Any folder: a checkpoint, or what was exported before and perhaps edited.
fn of_folder(root: &Path) -> anyhow::Result<Found> {
    let mut names = Vec::new();
    walk(root, root, &mut names)?;
    let is_model = names.iter().any(|name| name == "config.json")
        && names.iter().any(|name| name.ends_with(".safetensors") && !name.contains('/'));
    let mut files = BTreeMap::new();
    for name in names {
        // A checkpoint's `trainer/` is for going on with training here.
        if name == CARD || (is_model && name.contains('/')) {
            continue;
        }
        let path = root.join(&name);
        let size = std::fs::metadata(&path).with_context(|| format!("cannot read `{}`", path.display()))?.len();
        files.insert(name, (path, size, None));
    }
    let text = match std::fs::read_to_string(root.join(CARD)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read `{}`", root.join(CARD).display()))?,
    };
    let title = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let kind = if is_model { RepoKind::Model } else { RepoKind::Dataset };
    Ok(Found { kind, files, card: Card::parse(&text), title, is_part: false })
}

impl Found {
    fn finish(mut self, options: &Options, source: &Path) -> anyhow::Result<Package> {
        let has_data = self.files.keys().any(|name| match self.kind {
            RepoKind::Model => name.ends_with(".safetensors"),
            RepoKind::Dataset => [".parquet", ".jsonl", ".jsonl.zst"].iter().any(|end| name.ends_with(end)),
        });
        if !has_data {
            return Err(Failure::new(Exit::Usage, format!("`{}` holds neither data nor a model", source.display()))
                .hint("name a stage's folder of a run, such as `runs/curate/curate`, or a checkpoint")
                .into());
        }
        self.complete_card(options);
        let is_licensed = self.card.has("license");
        let mut files: Vec<Outgoing> = self
            .files
            .into_iter()
            .map(|(path, (from, size, sha256))| Outgoing { path, content: Content::File(from), size, sha256 })
            .collect();
        let mut add = |path: &str, text: String| {
            let bytes = text.into_bytes();
            let size = bytes.len() as u64;
            files.push(Outgoing { path: path.to_owned(), content: Content::Bytes(bytes), size, sha256: None });
        };
        add(CARD, self.card.text());
        if !source.join(ATTRIBUTES).is_file() {
            add(ATTRIBUTES, STORED.map(|name| format!("{name} filter=lfs diff=lfs merge=lfs -text\n")).concat());
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(Package { kind: self.kind, files, is_licensed })
    }

    fn complete_card(&mut self, options: &Options) {
        let card = &mut self.card;
        if card.body.trim().is_empty() {
            card.body = format!("\n# {}\n", self.title);
        }
        if let Some(license) = &options.license {
            card.set("license", vec![format!("license: {license}")]);
        }
        match self.kind {
            RepoKind::Dataset if self.is_part || !card.has("configs") => {
                let configurations = card::configurations(self.files.keys().map(String::as_str));
                // Without Parquet files the loader finds its own way.
                if !configurations.is_empty() {
                    card.set("configs", card::configs(&configurations));
                }
            }
            RepoKind::Dataset => {}
            RepoKind::Model => {
                if !card.has("library_name") {
                    card.set("library_name", vec!["library_name: transformers".into()]);
                    card.set("pipeline_tag", vec!["pipeline_tag: text-generation".into()]);
                }
                let place = options.repo.as_deref().unwrap_or(".");
                card.body = card.body.replace("from_pretrained(\"model\")", &format!("from_pretrained(\"{place}\")"));
            }
        }
    }
}

/// The files below `folder` by their paths relative to `root`, without hidden ones.
pub(super) fn walk(root: &Path, folder: &Path, names: &mut Vec<String>) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read `{}`", folder.display()))?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name != ATTRIBUTES {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, names)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            let name = relative.to_str().ok_or_else(|| {
                Failure::new(Exit::Usage, format!("the name of `{}` is not UTF-8", path.display())).hint("rename it")
            })?;
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(())
}
