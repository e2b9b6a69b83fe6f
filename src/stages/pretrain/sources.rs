//! The training data of a run: which files, tokenised where, and what became of their documents.

use super::TOKENS;
use super::questions;
use crate::behavior::lm_judge::Lessons;
use crate::config::{Answerer, DataKind, LongCompletions, Pretrain, TrainingData};
use crate::error::{Exit, Failure};
use crate::plan::{Location, Stage};
use crate::run::manifest::{Counts, Manifest};
use crate::run::{Runner, commit};
use crate::train::documents::{Columns, DataFile, tokenise};
use crate::train::source::{Cutting, Source, SourceCounts, TOO_LONG, Wanted};
use crate::train::token_file::TokenFile;
use crate::train::vocabulary::Vocabulary;
use anyhow::Context;
use indicatif::HumanCount;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Files with a hash of their contents.
struct Files {
    files: Vec<DataFile>,
    identity: String,
}

/// What the rows of a source are.
#[derive(Debug, Clone)]
enum Rows {
    Documents(Columns),
    /// Texts with a judge's questions; `context` decides on windows.
    Questions {
        text: String,
        answers: Answerer,
        context: usize,
    },
}

impl Rows {
    /// The columns in which there is text.
    fn columns(&self) -> Columns {
        match self {
            Self::Documents(columns) => columns.clone(),
            Self::Questions { text, .. } => Columns::Text(text.clone()),
        }
    }

    /// Whether a sequence means nothing without its end.
    fn are_whole(&self) -> bool {
        !matches!(self, Self::Documents(Columns::Text(_)))
    }
}

/// One source, found.
struct Located {
    name: String,
    rows: Rows,
    train: Files,
    /// What to hold out, if it has files of its own.
    held_out: Option<Files>,
}

/// All sources, found.
pub(super) struct Data {
    sources: Vec<Located>,
}

/// All sources as tokens: those to train on, and those held out.
pub(super) struct Tokenised {
    sources: Vec<(Located, Arc<TokenFile>, Option<Arc<TokenFile>>)>,
}

/// All sources, divided.
pub(super) struct Divided {
    pub(super) train: Vec<Source>,
    /// One for each source to train on; 1 without weights.
    pub(super) weights: Vec<f64>,
    pub(super) held_out: Vec<Source>,
    pub(super) counts: DataCounts,
    pub(super) sum: Counts,
}

/// `data.json`: what became of each source's documents.
pub(super) type DataCounts = BTreeMap<String, DataCount>;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct DataCount {
    /// As the recipe names it.
    pub(super) source: String,
    pub(super) files: Vec<String>,
    #[serde(flatten)]
    pub(super) documents: SourceCounts,
    pub(super) train_tokens: u64,
    pub(super) held_out_tokens: u64,
    /// Tokens that stand for what the vocabulary lacks.
    pub(super) unknown_tokens: u64,
}

impl Data {
    /// Finds every source's files.
    pub(super) fn locate(runner: &Runner, stage: &Stage, pretrain: &Pretrain) -> anyhow::Result<Self> {
        let locate = |(name, data): (&String, &TrainingData)| -> anyhow::Result<Located> {
            let (train, held_out) = match data.stage() {
                Some((other, set)) => {
                    let (train, test) = stage_files(runner, stage, other, set)?;
                    (train, Some(test).filter(|test| !test.files.is_empty()))
                }
                None => {
                    let held_out = data.held_out.as_ref().map(|source| named_files(runner, source)).transpose()?;
                    (named_files(runner, &data.source)?, held_out)
                }
            };
            if train.files.is_empty() {
                return Err(nothing_to_train_on(name, data, "there are no files"));
            }
            let rows = rows(data, &train.files, pretrain.context)?;
            Ok(Located { name: name.clone(), rows, train, held_out })
        };
        Ok(Self { sources: pretrain.data.iter().map(locate).collect::<anyhow::Result<_>>()? })
    }

    /// Files and columns of what is trained on.
    pub(super) fn files(&self) -> Vec<(Vec<DataFile>, Columns)> {
        self.sources.iter().map(|source| (source.train.files.clone(), source.rows.columns())).collect()
    }

    /// What stands around the texts, beside what is in the files.
    pub(super) fn phrases(&self) -> Vec<String> {
        let asked = self.sources.iter().any(|source| matches!(source.rows, Rows::Questions { .. }));
        if asked { Lessons::phrases() } else { Vec::new() }
    }

    /// A hash of contents and columns, and of a purpose.
    pub(super) fn digest(&self, purpose: &str) -> String {
        let all = self.sources.iter().map(|source| format!("{} {:?}", source.train.identity, source.rows.columns()));
        digest(&format!("{purpose} {:?} {:?}", all.collect::<Vec<_>>(), self.phrases()))
    }

    /// Tokenises what is not tokenised yet. None: stopped by a signal.
    pub(super) fn tokenise(self, runner: &Runner, vocabulary: &Vocabulary) -> anyhow::Result<Option<Tokenised>> {
        let vocabulary_digest = vocabulary.digest();
        let mut sources = Vec::new();
        for source in self.sources {
            let tokens = |files: &Files| -> anyhow::Result<Option<Arc<TokenFile>>> {
                let what = format!("{} {:?} {vocabulary_digest}", files.identity, source.rows);
                let path = runner.dir.path(TOKENS).join(format!("{}.tokens", digest(&what)));
                if !path.is_file() {
                    runner.reporter.notice(format!("tokenising `{}`", source.name));
                    let go_on = |_| !runner.stop.requested();
                    let whole = match &source.rows {
                        Rows::Documents(columns) => tokenise(&files.files, columns, vocabulary, &path, &go_on)?,
                        Rows::Questions { text, answers, context } => {
                            let lessons = Lessons::new(vocabulary.tokenizer(), *context)?;
                            questions::tokenise(&files.files, text, *answers, &lessons, &path, &go_on)?
                        }
                    };
                    if !whole {
                        return Ok(None);
                    }
                }
                Ok(Some(Arc::new(TokenFile::open(&path)?)))
            };
            let Some(train) = tokens(&source.train)? else { return Ok(None) };
            let held_out = match &source.held_out {
                None => None,
                Some(files) => match tokens(files)? {
                    Some(tokens) => Some(tokens),
                    None => return Ok(None),
                },
            };
            sources.push((source, train, held_out));
        }
        Ok(Some(Tokenised { sources }))
    }
}

impl Tokenised {
    /// Divides documents into those to train on and those held out.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::BadData`] for a source of which nothing is left, and for completions longer than the context.
    pub(super) fn divide(self, runner: &Runner, pretrain: &Pretrain, seed: u64) -> anyhow::Result<Divided> {
        let mut divided = Divided {
            train: Vec::new(),
            weights: Vec::new(),
            held_out: Vec::new(),
            counts: BTreeMap::new(),
            sum: Counts::default(),
        };
        for (source, train_file, held_out_file) in self.sources {
            let Some(data) = pretrain.data.get(&source.name) else { continue };
            let cutting = Cutting { context: pretrain.context, whole: source.rows.are_whole() };
            let share = if held_out_file.is_some() { 0.0 } else { data.held_out_share };
            let wanted = Wanted { seed, documents: runner.plan.limit, tokens: data.tokens, held_out_share: share };
            let (train, mut held_out, mut counts) =
                Source::divide(&source.name, Arc::clone(&train_file), cutting, wanted);
            check_lengths(pretrain, &source.name, &counts)?;
            let mut unknown_tokens = train_file.facts().unknown_tokens;
            if let Some(file) = held_out_file {
                unknown_tokens += file.facts().unknown_tokens;
                let all = Wanted { seed, documents: None, tokens: None, held_out_share: 1.0 };
                let (_, others, more) = Source::divide(&source.name, file, cutting, all);
                held_out = others;
                counts.add(&more);
            }
            notices(runner, &source.name, pretrain, &counts, unknown_tokens);
            if train.is_empty() {
                let why = format!("of {} documents none is left {:?}", counts.documents, counts.dropped);
                return Err(nothing_to_train_on(&source.name, data, &why));
            }
            divided.sum.rows_in += counts.documents;
            divided.sum.kept += counts.train + counts.held_out;
            counts.dropped.iter().for_each(|(reason, rows)| divided.sum.drop_rows(reason, *rows));
            let count = DataCount {
                source: data.source.clone(),
                files: source
                    .train
                    .files
                    .iter()
                    .chain(source.held_out.iter().flat_map(|files| &files.files))
                    .map(|file| file.name.clone())
                    .collect(),
                documents: counts,
                train_tokens: train.tokens(),
                held_out_tokens: held_out.tokens(),
                unknown_tokens,
            };
            divided.counts.insert(source.name, count);
            divided.weights.push(data.weight.unwrap_or(1.0));
            divided.train.push(train);
            if !held_out.is_empty() {
                divided.held_out.push(held_out);
            }
        }
        Ok(divided)
    }
}

/// Completions that do not fit end the run, unless the recipe says to leave them out.
fn check_lengths(pretrain: &Pretrain, name: &str, counts: &SourceCounts) -> anyhow::Result<()> {
    let too_long = counts.dropped.get(TOO_LONG).copied().unwrap_or(0);
    if too_long == 0 || pretrain.long_completions == LongCompletions::Drop {
        return Ok(());
    }
    let message = format!(
        "{} of {} completions of `pretrain.data.{name}` are longer than the context of {} tokens, the longest has {}",
        HumanCount(too_long),
        HumanCount(counts.documents),
        pretrain.context,
        HumanCount(counts.longest)
    );
    Err(Failure::new(Exit::BadData, message)
        .hint("raise `pretrain.context`, or leave them out with `pretrain.long-completions = \"drop\"`")
        .into())
}

fn notices(runner: &Runner, name: &str, pretrain: &Pretrain, counts: &SourceCounts, unknown_tokens: u64) {
    let say = |message: String| runner.reporter.notice(format!("`{name}`: {message}"));
    if counts.cut > 0 {
        say(format!(
            "{} documents are longer than {} tokens and are cut into pieces",
            HumanCount(counts.cut),
            pretrain.context
        ));
    }
    for (reason, documents) in &counts.dropped {
        say(format!("{} documents left out ({reason})", HumanCount(*documents)));
    }
    if unknown_tokens > 0 {
        say(format!("{} words are not in the vocabulary", HumanCount(unknown_tokens)));
    }
}

fn nothing_to_train_on(name: &str, data: &TrainingData, why: &str) -> anyhow::Error {
    Failure::new(Exit::BadData, format!("`pretrain.data.{name}` (`{}`) has nothing to train on: {why}", data.source))
        .into()
}

/// What the rows are: as the recipe says, as the stage is known to write, or as the first file looks.
fn rows(data: &TrainingData, files: &[DataFile], context: usize) -> anyhow::Result<Rows> {
    let known = data.kind.or_else(|| match data.stage()?.0 {
        "curate" | "arithmetic" => Some(DataKind::Text),
        _ => Some(DataKind::Completion),
    });
    let completions = || Columns::Completion { query: data.query.clone(), completion: data.completion.clone() };
    Ok(match known {
        Some(DataKind::Text) => Rows::Documents(Columns::Text(data.text.clone())),
        Some(DataKind::Completion) => Rows::Documents(completions()),
        Some(DataKind::Questions) => {
            Rows::Questions { text: data.text.clone(), answers: data.answers.unwrap_or(Answerer::Cue), context }
        }
        None => Rows::Documents(Columns::detect(&files[0], &data.text, &data.query, &data.completion)?),
    })
}

/// The files that another stage of this run wrote: its training split and its test split.
fn stage_files(runner: &Runner, stage: &Stage, other: &str, set: &str) -> anyhow::Result<(Files, Files)> {
    let stages = stage.reads.iter().filter_map(|&index| runner.plan.stages.get(index));
    let upstream = stages.into_iter().find(|stage| stage.work.name() == other);
    let upstream = upstream.with_context(|| format!("`{}` does not read `{other}`", stage.folder))?;
    let manifest = Manifest::read(&runner.dir.path(upstream.manifest("all")))?;
    let manifest = manifest.with_context(|| format!("stage `{}` is not done", upstream.folder))?;
    let of_split = |split: &str| {
        let prefix = format!("{}/{set}/{split}", upstream.folder);
        let outputs: Vec<_> = (manifest.outputs.iter())
            .filter(|output| output.path.starts_with(&prefix) && output.path.ends_with(".parquet"))
            .collect();
        let files =
            outputs.iter().map(|output| DataFile { name: output.path.clone(), path: runner.dir.path(&output.path) });
        let hashes: Vec<&str> = outputs.iter().map(|output| output.sha256.as_str()).collect();
        Files { files: files.collect(), identity: digest(&format!("{hashes:?}")) }
    };
    Ok((of_split("train"), of_split("test")))
}

/// The files that a source of the recipe names, on this disk; fetched first if they are elsewhere.
fn named_files(runner: &Runner, source: &str) -> anyhow::Result<Files> {
    let resource = runner.plan.resources.get(source).with_context(|| format!("`{source}` is not in the plan"))?;
    let mut files = Vec::new();
    for file in &resource.files {
        let path = match &file.location {
            Location::Local(path) => path.clone(),
            Location::Remote(remote) => runner
                .hub
                .fetch(remote, &runner.dir.path("fetch"), &|_| {})
                .with_context(|| format!("cannot fetch `{}` of `{source}`", file.name))?,
            Location::Sample => {
                let path = runner.dir.path("fetch").join(crate::data::sample::NAME);
                commit::write_atomic(&path, crate::data::sample::DOCUMENTS)?;
                path
            }
        };
        files.push(DataFile { name: shown(&file.location, &file.name), path });
    }
    Ok(Files { files, identity: resource.digest() })
}

/// A file's name for people, with which `pipeline inspect` finds it where it is local.
fn shown(location: &Location, name: &str) -> String {
    match location {
        Location::Local(path) => Path::display(path).to_string(),
        _ => name.to_owned(),
    }
}

fn digest(text: &str) -> String {
    blake3::hash(format!("{} {text}", super::FORMAT).as_bytes()).to_hex()[..16].to_owned()
}
