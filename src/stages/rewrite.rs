//! `rewrite`: a language model turns curated documents into question, thoughts and answer, ready for pretraining.
//!
//! It runs once the corpora stand, as one unit. Replies are journaled batch by batch as they come, since they are what costs:
//! after a kill it goes on behind the last whole batch. Each document has a seed of its own, so that with a local model the
//! files do not depend on where a run was interrupted.

mod card;
mod reply;
mod rows;

pub use reply::embedded_prompt;

use crate::behavior::cue::{CueJudge, Lexicon};
use crate::config::{Rewrite, RewriteStyle};
use crate::data::parquet_sink::{ParquetSink, Profile};
use crate::data::parquet_table::ParquetTable;
use crate::data::schema;
use crate::error::{Exit, Failure};
use crate::generation::{GeneratorIdentity, Prompt, Reply, Sampling, TextGenerator, Unanswered};
use crate::lm::Message;
use crate::plan::{Stage, Work};
use crate::run::journal::Journal;
use crate::run::manifest::{Counts, LabelStatistics, Manifest, Output};
use crate::run::work::Tracker;
use crate::run::{Runner, commit, generators};
use crate::stages::curate::write_text;
use anyhow::Context;
use arrow::array::{Array, AsArray, RecordBatch};
use reply::{Reading, Worked};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// A retry is drawn at least at this temperature: a greedy reply would come out the same again.
const RETRY_TEMPERATURE: f32 = 0.7;

/// Documents that must be seen before the share of failures means anything.
const SHARE_AFTER: u64 = 100;

/// Rows written at a time.
const WRITE_ROWS: usize = 1024;

/// The splits of a corpus, in the order in which they are rewritten.
const SPLITS: [&str; 2] = ["train", "test"];

/// One curated document.
#[derive(Debug, Clone, PartialEq)]
struct Source {
    id: String,
    url: Option<String>,
    text: String,
}

/// What became of one curated document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    corpus: String,
    split: String,
    /// Its row in the split, counted over the split's files.
    row: u64,
    id: String,
    url: Option<String>,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Worked { question: String, thoughts: String, answer: String, reply_tokens: u64 },
    NoQuestion,
    Failed { reason: String, reply: Option<String> },
}

/// What one corpus became: `rewrite.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct CorpusReport {
    style: RewriteStyle,
    counts: Counts,
    /// By split.
    rows: BTreeMap<String, u64>,
    reply_tokens: u64,
    /// Failed documents by reason.
    failed: BTreeMap<String, u64>,
    /// Instances per document that the cue judge counts in the rewritten thoughts, in the order of [`crate::behavior::Behavior::ALL`].
    mean_counts: [f64; 4],
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RewriteReport {
    writer: GeneratorIdentity,
    corpora: BTreeMap<String, CorpusReport>,
}

/// Rewrites everything. None: stopped by a signal.
pub fn run(runner: &Runner, stage: &Stage, rewrite: &Rewrite) -> anyhow::Result<Option<Manifest>> {
    let mut writer = generators::make(rewrite.lm.as_ref(), runner)?;
    let header = format!("{} {}", stage.key, serde_json::to_string(writer.identity())?);
    let path = runner.dir.path(journal_of(stage));
    let (journal, entries, _) = Journal::open::<Entry>(&path, &header)?;
    let mut work = Writing { runner, rewrite, prompts: Prompts::load(rewrite)?, journal, entries };
    let curated = curated(runner, stage)?;
    if !work.write_all(writer.as_mut(), stage, &curated)? {
        work.journal.sync()?;
        return Ok(None);
    }
    let entries = work.entries;
    let (mut outputs, report) = commit_corpora(runner, stage, rewrite, writer.identity(), &entries)?;
    let json = serde_json::to_string_pretty(&report)? + "\n";
    outputs.push(write_text(runner, stage, "rewrite.json", &json)?);
    outputs.push(write_text(runner, stage, "README.md", &card::render(runner.plan, &report)?)?);
    let mut counts = Counts::default();
    report.corpora.values().for_each(|corpus| counts.add(&corpus.counts));
    Ok(Some(Manifest {
        plan_id: runner.plan.plan_id.clone(),
        stage: stage.work.name().to_owned(),
        stage_key: stage.key.clone(),
        unit: "all".to_owned(),
        input: curated.folder,
        input_sha256: String::new(),
        outputs,
        counts,
        labels: None,
        judge: None,
        corpora: BTreeMap::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}

/// The stage's journal, relative to the run folder. It is of no use once the stage has its manifest, and not before.
pub fn journal_of(stage: &Stage) -> String {
    format!("{}/journal.jsonl", stage.folder)
}

/// The curate stage's folder and files.
struct Curated {
    folder: String,
    outputs: Vec<Output>,
}

fn curated(runner: &Runner, stage: &Stage) -> anyhow::Result<Curated> {
    let mut reads = stage.reads.iter().map(|&index| &runner.plan.stages[index]);
    let curate = reads.find(|stage| matches!(stage.work, Work::Curate(_))).context("rewrite reads no curate stage")?;
    let manifest = Manifest::read(&runner.dir.path(curate.manifest("all")))?.context("the corpora are not done")?;
    Ok(Curated { folder: curate.folder.clone(), outputs: manifest.outputs })
}

impl Curated {
    /// The files of one split of a corpus, in order.
    fn files(&self, corpus: &str, split: &str) -> impl Iterator<Item = &Output> {
        let prefix = format!("{}/{corpus}/{split}-", self.folder);
        self.outputs.iter().filter(move |output| output.path.starts_with(&prefix))
    }

    fn rows(&self, corpus: &str) -> u64 {
        SPLITS.iter().flat_map(|split| self.files(corpus, split)).map(|output| output.rows).sum()
    }
}

/// The prompt of every style.
struct Prompts(BTreeMap<RewriteStyle, String>);

impl Prompts {
    fn load(rewrite: &Rewrite) -> anyhow::Result<Self> {
        let mut prompts = BTreeMap::new();
        for &style in rewrite.corpus.values() {
            prompts.insert(style, read_prompt(rewrite.prompts.as_deref(), style)?);
        }
        Ok(Self(prompts))
    }
}

/// A style's prompt: the file of that name in the recipe's folder, else the embedded one.
///
/// # Errors
/// A [`Failure`] for a file that cannot be read or does not have `{document}` exactly once.
pub fn read_prompt(folder: Option<&str>, style: RewriteStyle) -> anyhow::Result<String> {
    let embedded = || Ok(reply::embedded_prompt(style).to_owned());
    let Some(folder) = folder else { return embedded() };
    let path = Path::new(folder).join(format!("{}.txt", style.name()));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return embedded(),
        Err(error) => {
            return Err(Failure::new(Exit::Usage, format!("cannot read prompt `{}`: {error}", path.display())).into());
        }
    };
    if text.matches("{document}").count() != 1 {
        let message = format!("prompt `{}` does not have `{{document}}` exactly once", path.display());
        return Err(Failure::new(Exit::Usage, message).into());
    }
    Ok(text)
}

/// The stage in the middle of its work.
struct Writing<'a> {
    runner: &'a Runner<'a>,
    rewrite: &'a Rewrite,
    prompts: Prompts,
    journal: Journal,
    /// What is done, in the order of the corpora, their splits and rows.
    entries: Vec<Entry>,
}

impl Writing<'_> {
    /// Rewrites what is left. False: stopped by a signal.
    fn write_all(&mut self, writer: &mut dyn TextGenerator, stage: &Stage, curated: &Curated) -> anyhow::Result<bool> {
        let total = self.rewrite.corpus.keys().map(|corpus| curated.rows(corpus)).sum();
        let done = Counts { rows_in: self.entries.len() as u64, ..Counts::default() };
        let tracker =
            Tracker::new(self.runner.reporter, &stage.folder, Some(total), &done, &LabelStatistics::default());
        let mut skip = self.entries.len();
        let batch_rows = writer.batch_size().max(1);
        let corpora: Vec<(String, RewriteStyle)> =
            self.rewrite.corpus.iter().map(|(corpus, style)| (corpus.clone(), *style)).collect();
        for (corpus, style) in corpora {
            for split in SPLITS {
                let mut row = 0;
                for file in curated.files(&corpus, split) {
                    let table = ParquetTable::open(&self.runner.dir.path(&file.path))?;
                    for batch in table.columns(&["id", "url", "text"])? {
                        let documents = sources(&batch?)?;
                        let left = documents.get(skip.min(documents.len())..).unwrap_or_default();
                        row += (documents.len() - left.len()) as u64;
                        skip -= documents.len() - left.len();
                        for part in left.chunks(batch_rows) {
                            if self.runner.stop.requested() {
                                return Ok(false);
                            }
                            let outcomes = self.write(writer, style, part)?;
                            let entries: Vec<Entry> = part
                                .iter()
                                .zip(outcomes)
                                .zip(row..)
                                .map(|((document, outcome), row)| Entry {
                                    corpus: corpus.clone(),
                                    split: split.to_owned(),
                                    row,
                                    id: document.id.clone(),
                                    url: document.url.clone(),
                                    outcome,
                                })
                                .collect();
                            row += part.len() as u64;
                            self.journal.append(&entries)?;
                            self.entries.extend(entries);
                            tracker.add_documents(part.len() as u64);
                            self.check_failures()?;
                        }
                    }
                }
            }
        }
        Ok(true)
    }

    /// Rewrites some documents of one style; those that fail are asked again, with other seeds.
    fn write(
        &self,
        writer: &mut dyn TextGenerator,
        style: RewriteStyle,
        documents: &[Source],
    ) -> anyhow::Result<Vec<Outcome>> {
        let template = self.prompts.0.get(&style).map_or("", String::as_str);
        let mut outcomes: Vec<Option<Outcome>> = vec![None; documents.len()];
        for attempt in 0..self.rewrite.attempts {
            let left: Vec<usize> = (0..documents.len())
                .filter(|&document| matches!(outcomes[document], None | Some(Outcome::Failed { reply: Some(_), .. })))
                .collect();
            if left.is_empty() {
                break;
            }
            let prompts: Vec<Prompt> = left
                .iter()
                .map(|&document| {
                    let content = reply::ask(template, &documents[document].text, self.rewrite.max_document_chars);
                    Prompt {
                        messages: vec![Message { role: "user", content }],
                        reply_prefix: String::new(),
                        seed: seed(self.runner.plan.seed, &documents[document].id, style, attempt),
                    }
                })
                .collect();
            let replies = writer.generate(&prompts, &self.sampling(attempt))?;
            anyhow::ensure!(
                replies.len() == prompts.len(),
                "the writer answered {} of {} prompts",
                replies.len(),
                prompts.len()
            );
            for (document, reply) in left.into_iter().zip(replies) {
                outcomes[document] = Some(outcome(reply));
            }
        }
        let unasked = || Outcome::Failed { reason: "not asked".to_owned(), reply: None };
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unasked)).collect())
    }

    fn sampling(&self, attempt: u32) -> Sampling {
        let temperature = self.rewrite.temperature;
        Sampling {
            temperature: if attempt == 0 { temperature } else { temperature.max(RETRY_TEMPERATURE) },
            top_p: 1.0,
            top_k: 0,
            max_tokens: self.rewrite.max_reply_tokens,
            stop: vec![],
        }
    }

    /// Ends the run when too many documents fail: the writer or the prompt does not suit, and tokens cost.
    fn check_failures(&self) -> anyhow::Result<()> {
        let seen = self.entries.len() as u64;
        let failed = self.entries.iter().filter(|entry| matches!(entry.outcome, Outcome::Failed { .. })).count() as u64;
        let allowed = self.rewrite.max_quarantined_share;
        if seen < SHARE_AFTER || failed as f64 <= allowed * seen as f64 {
            return Ok(());
        }
        let message = format!(
            "`rewrite` could not rewrite {failed} of {seen} documents, more than the allowed {:.0} %",
            100.0 * allowed
        );
        Err(Failure::new(Exit::BadData, message)
            .hint("the stage's `journal.jsonl` holds every reply and why it was refused; a larger model, or `rewrite.max-reply-tokens` may help; or raise `rewrite.max-quarantined-share`")
            .into())
    }
}

/// The seed of one reply: its document, style and attempt decide, not its place in a batch.
fn seed(seed: u64, id: &str, style: RewriteStyle, attempt: u32) -> u64 {
    let hash = blake3::hash(format!("rewrite {seed} {id} {} {attempt}", style.name()).as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

fn outcome(reply: Result<Reply, Unanswered>) -> Outcome {
    let reply = match reply {
        Ok(reply) => reply,
        Err(Unanswered(reason)) => return Outcome::Failed { reason, reply: None },
    };
    match reply::read(&reply) {
        Ok(Reading::Worked(Worked { question, thoughts, answer })) => {
            Outcome::Worked { question, thoughts, answer, reply_tokens: reply.reply_tokens }
        }
        Ok(Reading::NoQuestion) => Outcome::NoQuestion,
        Err(fault) => Outcome::Failed { reason: fault.to_string(), reply: Some(reply.text) },
    }
}

fn sources(batch: &RecordBatch) -> anyhow::Result<Vec<Source>> {
    let column = |index: usize| {
        batch.column(index).as_string_opt::<i32>().with_context(|| format!("column {index} of a corpus is no text"))
    };
    let (ids, urls, texts) = (column(0)?, column(1)?, column(2)?);
    Ok((0..batch.num_rows())
        .map(|row| Source {
            id: ids.value(row).to_owned(),
            url: urls.is_valid(row).then(|| urls.value(row).to_owned()),
            text: texts.value(row).to_owned(),
        })
        .collect())
}

/// Writes the files of every corpus.
fn commit_corpora(
    runner: &Runner,
    stage: &Stage,
    rewrite: &Rewrite,
    writer: &GeneratorIdentity,
    entries: &[Entry],
) -> anyhow::Result<(Vec<Output>, RewriteReport)> {
    let mut outputs = Vec::new();
    let mut report = RewriteReport { writer: writer.clone(), corpora: BTreeMap::new() };
    let mut cues = CueJudge::new(&Lexicon::embedded());
    for (corpus, &style) in &rewrite.corpus {
        // What an earlier recipe left must not be read along with this one's.
        runner.dir.remove(format!("{}/{corpus}", stage.folder))?;
        let create = |name: &str, kind: &str, columns| {
            let path = runner.dir.path(&stage.folder).join(corpus).join(name);
            ParquetSink::create(&path, columns, Profile::Corpus, schema::key_values(kind, &stage.key))
        };
        let mut figures = CorpusReport { style, ..CorpusReport::default() };
        let mut quarantine = create("quarantine.parquet", "rewrite-quarantine", schema::rewrite_quarantine())?;
        let mut sums = [0u64; 4];
        for split in SPLITS {
            let own: Vec<&Entry> =
                entries.iter().filter(|entry| entry.corpus == *corpus && entry.split == split).collect();
            let mut sink = create(&format!("{split}.parquet"), "rewritten", schema::rewritten())?;
            for part in own.chunks(WRITE_ROWS) {
                let (rows, counts) = rows::rewritten(part, &mut cues)?;
                sink.write(&rows)?;
                quarantine.write(&rows::quarantined(part)?)?;
                for counts in counts {
                    for (sum, count) in sums.iter_mut().zip(counts) {
                        *sum += u64::from(count);
                    }
                }
                figures.add(part);
            }
            let written = sink.finish()?;
            figures.rows.insert(split.to_owned(), written.rows);
            outputs.push(output(stage, corpus, &format!("{split}.parquet"), written));
        }
        outputs.push(output(stage, corpus, "quarantine.parquet", quarantine.finish()?));
        figures.mean_counts = sums.map(|sum| sum as f64 / figures.counts.kept.max(1) as f64);
        report.corpora.insert(corpus.clone(), figures);
        commit::kill_point("rewrite: corpus written");
    }
    Ok((outputs, report))
}

fn output(stage: &Stage, corpus: &str, name: &str, written: crate::data::parquet_sink::Written) -> Output {
    Output {
        path: format!("{}/{corpus}/{name}", stage.folder),
        bytes: written.committed.bytes,
        sha256: written.committed.sha256,
        rows: written.rows,
    }
}

impl CorpusReport {
    fn add(&mut self, entries: &[&Entry]) {
        for entry in entries {
            self.counts.rows_in += 1;
            match &entry.outcome {
                Outcome::Worked { reply_tokens, .. } => {
                    self.counts.kept += 1;
                    self.reply_tokens += reply_tokens;
                }
                Outcome::NoQuestion => self.counts.drop_rows("no-question", 1),
                Outcome::Failed { reason, .. } => {
                    self.counts.quarantined += 1;
                    *self.failed.entry(reason.clone()).or_default() += 1;
                }
            }
        }
    }
}
