//! What the recipe says: the TOML file as types. The doc comments are the manual; `pipeline schema` prints them as JSON Schema.
//!
//! A recipe is read in passes, each with its own error: TOML syntax, then the shape of every arm ([`load`]), then values
//! that a type cannot rule out ([`check`]). Nothing here touches the data.

mod check;
mod endpoint;
mod lm;
mod load;
mod ppo;
mod pretrain;
mod prime;
mod sizes;

pub use endpoint::{EndpointConfig, EndpointJudgeConfig};
pub use lm::{LmConfig, LmMode, Weights};
pub use load::{Recipe, load};
pub use ppo::{
    Compat, Evaluation, EvaluationSplit, Kl, KlWhere, Learner, Ppo, Puzzles, Questions, RewardConfig, Truncated,
};
pub use pretrain::{
    Answerer, BatchSize, Checkpoints, DataKind, Export, HeldOutLoss, LearningRate, LongCompletions, NewArchitecture,
    NewModel, Optimizer, Pretrain, ScheduleShape, TrainingData, TrainingPrecision, WritingSamples,
};
pub use prime::{Arithmetic, Author, HabitsConfig, Prime, RlPrompts, StrataMix};
pub use sizes::ByteSize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A recipe: one table per stage, in the order in which the stages run. A stage without a table does not run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The seed of everything random: shuffles, splits, samples. Two runs with one seed give equal bytes.
    #[serde(default)]
    pub seed: u64,
    /// Where documents come from.
    pub fetch: Option<Fetch>,
    /// Judges every document for the four behaviors and writes label sidecars.
    pub classify: Option<Classify>,
    /// Joins documents with labels, removes duplicates and writes corpora.
    pub curate: Option<Curate>,
    /// Has a language model turn curated documents into question, thoughts and answer.
    pub rewrite: Option<Rewrite>,
    /// Writes texts of arithmetic to train a model from scratch on; needs no documents.
    pub arithmetic: Option<Arithmetic>,
    /// Synthesises Countdown priming traces; needs no documents.
    pub prime: Option<Prime>,
    /// Trains a model for `pretrain` or `ppo` to go on from with `from = "base"`. Its keys are those of `[pretrain]`; arms that say
    /// nothing else share it.
    pub base: Option<Pretrain>,
    /// Trains a language model.
    pub pretrain: Option<Pretrain>,
    /// Trains a language model by reinforcement.
    pub ppo: Option<Ppo>,
    /// Writes `report.html` and `summary.json` at the end of the run.
    pub report: Option<Report>,
}

/// Where documents come from, and how many shards may lie on disk at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fetch {
    /// Each is a path or glob (relative to the working directory), an `http(s)://` address, an
    /// `hf://datasets/OWNER/REPO@REVISION/GLOB`, an `s3://BUCKET/GLOB`, or `sample:`, the embedded sample shard.
    /// Formats, by name: `.parquet`, `.jsonl`, `.jsonl.gz`, `.jsonl.zst`.
    pub sources: Vec<String>,
    /// The source's column names. The default is OpenWebMath's `url, text, date, metadata`.
    #[serde(default)]
    pub columns: Columns,
    /// Documents per unit of work, rounded to whole Parquet row groups. A kill costs at most the batch in hand, not the unit.
    #[serde(default = "Fetch::default_rows_per_unit")]
    pub rows_per_unit: u64,
    /// How many shards to download ahead of the one being judged.
    #[serde(default = "Fetch::default_prefetch_shards")]
    pub prefetch_shards: usize,
    /// How many bytes of downloaded shards may wait on disk; one shard is always allowed.
    #[serde(default = "Fetch::default_prefetch_bytes")]
    pub prefetch_bytes: ByteSize,
    /// Keep downloaded shards. If false, a shard is deleted once it was used, and fetched again if a later stage needs it:
    /// a corpus larger than the disk works, for twice the traffic.
    #[serde(default = "yes")]
    pub keep_shards: bool,
}

impl Fetch {
    fn default_rows_per_unit() -> u64 {
        8192
    }
    fn default_prefetch_shards() -> usize {
        2
    }
    fn default_prefetch_bytes() -> ByteSize {
        ByteSize(4 << 30)
    }
}

/// The names that the source gives to a document's columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Columns {
    /// The document's address. An empty name: the source has none, and outputs hold nulls.
    pub url: String,
    /// The document's text; the only column that must exist.
    pub text: String,
    /// When it was published; may be null. An empty name: the source has none.
    pub date: String,
    /// Anything else, by custom JSON. An empty name: the source has none.
    pub metadata: String,
}

impl Default for Columns {
    fn default() -> Self {
        Self { url: "url".into(), text: "text".into(), date: "date".into(), metadata: "metadata".into() }
    }
}

/// Judges every document. Exactly one of the tables `cue`, `lm` and `endpoint` names the judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Classify {
    /// The transparent baseline: a lexicon of phrases and patterns. Fast, honest about why, and easily fooled.
    pub cue: Option<CueConfig>,
    /// A local language model that is asked four questions about each document.
    pub lm: Option<LmConfig>,
    /// A language model behind a server that is asked the same.
    pub endpoint: Option<EndpointJudgeConfig>,
    /// The share of documents that may be quarantined (unreadable, empty, not judgeable) before the run stops with exit code 65.
    /// It is checked once 100 documents have been seen.
    #[serde(default = "Classify::default_max_quarantined_share")]
    pub max_quarantined_share: f64,
}

impl Classify {
    fn default_max_quarantined_share() -> f64 {
        0.01
    }
}

/// The lexicon judge.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct CueConfig {
    /// A lexicon file to use in place of the embedded one.
    pub lexicon: Option<String>,
}

/// One probability threshold per behavior.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    pub verification: f32,
    pub backtracking: f32,
    pub subgoal_setting: f32,
    pub backward_chaining: f32,
}

impl Thresholds {
    /// In the order of [`crate::behavior::Behavior::ALL`].
    pub fn in_order(&self) -> [f32; 4] {
        [self.verification, self.backtracking, self.subgoal_setting, self.backward_chaining]
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { verification: 0.5, backtracking: 0.5, subgoal_setting: 0.5, backward_chaining: 0.5 }
    }
}

/// Joins documents and labels, removes duplicates and test-set leaks, selects, and writes corpora.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Curate {
    /// How `token_count` is counted: `pieces` (a fast estimate, within about 5 % over a corpus) or the path of a `tokenizer.json`.
    #[serde(default = "Curate::default_token_counter")]
    pub token_counter: String,
    /// Which duplicates to remove. An empty table removes exact and near ones.
    #[serde(default)]
    pub deduplicate: Deduplicate,
    /// Removes documents that overlap with test sets.
    pub decontaminate: Option<Decontaminate>,
    /// The share of each corpus that goes to its `test` split.
    #[serde(default = "Curate::default_test_share")]
    pub test_share: f64,
    /// The corpora to write, by name.
    pub corpus: BTreeMap<String, Corpus>,
}

impl Curate {
    fn default_token_counter() -> String {
        "pieces".into()
    }
    fn default_test_share() -> f64 {
        0.01
    }
}

/// Duplicate removal. Of a group of duplicates that a corpus selects, the first in corpus order stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Deduplicate {
    /// Remove documents whose text is equal byte for byte.
    pub exact: bool,
    /// Remove near duplicates by MinHash over word 5-grams.
    pub near: bool,
    /// MinHash bands: two documents are near duplicates if all rows of one band agree.
    pub bands: usize,
    /// MinHash rows per band. The chance to be found at Jaccard similarity s is 1 - (1 - s^rows)^bands.
    pub rows: usize,
}

impl Default for Deduplicate {
    fn default() -> Self {
        Self { exact: true, near: true, bands: 14, rows: 8 }
    }
}

/// Test sets whose text must not appear in a corpus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Decontaminate {
    /// JSONL or Parquet files of test items.
    pub test_sets: Vec<String>,
    /// The fields of a test item whose text counts, such as `["question", "answer"]`.
    pub fields: Vec<String>,
    /// Words per n-gram.
    #[serde(default = "Decontaminate::default_ngram")]
    pub ngram: usize,
    /// Shared n-grams from which a document is dropped.
    #[serde(default = "Decontaminate::default_min_shared")]
    pub min_shared: usize,
}

impl Decontaminate {
    fn default_ngram() -> usize {
        13
    }
    fn default_min_shared() -> usize {
        1
    }
}

/// One corpus: which documents it takes, and how many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Corpus {
    /// An SQL condition over `url, text, date, metadata, id, char_count, token_count`, `<behavior>_score` and `<behavior>_count`:
    /// `backtracking_count >= 1 or verification_count >= 2`.
    #[serde(rename = "where")]
    pub condition: String,
    /// At most this many tokens, drawn in seeded random order. Absent: no bound.
    pub tokens: Option<u64>,
    /// The name of another corpus: for each of its documents, take the unused document nearest in token count, so that both
    /// have the same number of documents and tokens and the same distribution of lengths.
    #[serde(rename = "match")]
    pub matched: Option<String>,
}

/// Turns curated documents into question, thoughts and answer, ready for pretraining: `query` and `completion`. Exactly one of the
/// tables `lm` and `endpoint` says who writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rewrite {
    /// Which corpora of `[curate.corpus]` to rewrite, and how: `reasoning` is told in the first person and keeps the author's wrong
    /// turns, checks and goals; `plain` is a paraphrase in steps without them, for a behavior-minimal corpus.
    pub corpus: BTreeMap<String, RewriteStyle>,
    /// A local language model writes.
    pub lm: Option<WriterLm>,
    /// A language model behind a server writes.
    pub endpoint: Option<EndpointConfig>,
    /// A folder with prompts of your own: `reasoning.txt` and `plain.txt`, each with `{document}` once. A missing file falls back to
    /// the embedded one.
    pub prompts: Option<String>,
    /// At most so many characters of a document are shown to the writer, cut behind a line.
    #[serde(default = "Rewrite::default_max_document_chars")]
    pub max_document_chars: usize,
    /// A reply has at most so many tokens; one that is cut there is not used.
    #[serde(default = "Rewrite::default_max_reply_tokens")]
    pub max_reply_tokens: usize,
    /// 0 takes the likeliest token; more makes replies vary.
    #[serde(default)]
    pub temperature: f32,
    /// How often a document may be asked for until a reply has the right form. A retry draws at a temperature of at least 0.7.
    #[serde(default = "Rewrite::default_attempts")]
    pub attempts: u32,
    /// The share of documents without a usable reply from which the run stops with exit code 65. It is checked once 100
    /// documents have been seen.
    #[serde(default = "Rewrite::default_max_quarantined_share")]
    pub max_quarantined_share: f64,
}

impl Rewrite {
    fn default_max_document_chars() -> usize {
        12_000
    }
    fn default_max_reply_tokens() -> usize {
        4096
    }
    fn default_attempts() -> u32 {
        2
    }
    fn default_max_quarantined_share() -> f64 {
        0.5
    }
}

/// How a document is rewritten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RewriteStyle {
    /// In the first person, with the author's wrong turns, checks and goals.
    #[default]
    Reasoning,
    /// A paraphrase in steps.
    Plain,
}

impl RewriteStyle {
    pub const fn name(self) -> &'static str {
        match self {
            RewriteStyle::Reasoning => "reasoning",
            RewriteStyle::Plain => "plain",
        }
    }
}

/// A local language model that writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WriterLm {
    /// A Hugging Face folder, a `.gguf` file, or `hf://OWNER/REPO@REVISION`.
    pub model: String,
    /// The numbers that the model multiplies: `f32`, or, faster where the processor has it, `bf16` or `int8`.
    #[serde(default)]
    pub precision: crate::lm::Precision,
}

/// The stages whose models others may go on from, by name.
pub const TRAINED: [&str; 2] = ["base", "pretrain"];

impl Config {
    /// The tables that train a language model on texts, by name, in the order in which they run.
    pub fn trainings(&self) -> impl Iterator<Item = (&'static str, &Pretrain)> {
        let tables = TRAINED.into_iter().zip([&self.base, &self.pretrain]);
        tables.filter_map(|(name, table)| Some((name, table.as_ref()?)))
    }
}

/// The report at the end of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Report {
    /// The page's title; the recipe's name if absent.
    pub title: Option<String>,
}

impl From<&Columns> for crate::data::document::ColumnMap {
    fn from(columns: &Columns) -> Self {
        let named = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
        Self {
            text: columns.text.clone(),
            url: named(&columns.url),
            date: named(&columns.date),
            metadata: named(&columns.metadata),
        }
    }
}

fn yes() -> bool {
    true
}
