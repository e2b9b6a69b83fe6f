//! `[pretrain]`: what to train, on what, and how.

use crate::error::Failure;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Trains a language model, from a checkpoint or from scratch. Exactly one of the key `from` and the table `model` says what is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pretrain {
    /// The model to go on from: `base` for that of this run's `[base]`, a Hugging Face folder, a `.gguf` file, or `hf://OWNER/REPO@REVISION`. Llama, Qwen2 and Qwen3 architectures.
    pub from: Option<String>,
    /// The sizes of a model to train from scratch.
    pub model: Option<NewModel>,
    /// What to train on, by name. At least one; with several, see `weight`.
    pub data: BTreeMap<String, TrainingData>,
    /// The longest sequence, in tokens. Longer documents are cut into pieces.
    #[serde(default = "Pretrain::default_context")]
    pub context: usize,
    /// How many times to go through the data; the default is 1. 0 trains nothing: the model is evaluated and written as it is.
    pub epochs: Option<u64>,
    /// How many tokens to train on, in place of `epochs`. Data that is used up begins again, in another order.
    pub tokens: Option<u64>,
    /// The seed of the order of documents and of random weights; the run's seed if absent.
    pub seed: Option<u64>,
    /// What to do with completions that are longer than the context: they cannot be cut without losing their ends.
    #[serde(default)]
    pub long_completions: LongCompletions,
    /// What goes into one step.
    #[serde(default)]
    pub batch: BatchSize,
    /// AdamW, with master weights and moments in f32. Norms and biases do not decay.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// How the learning rate rises and falls.
    #[serde(default)]
    pub schedule: LearningRate,
    /// How often to look at held-out data.
    #[serde(default)]
    pub eval: HeldOutLoss,
    /// What to let the model write on the way, for people to read.
    pub samples: Option<WritingSamples>,
    /// How often to save, and what to keep.
    #[serde(default)]
    pub checkpoint: Checkpoints,
    /// In what the model multiplies.
    #[serde(default)]
    pub precision: TrainingPrecision,
    /// Compute activations again on the way back: about a third more work, a fraction of the memory.
    #[serde(default)]
    pub recompute: bool,
    /// Weight of a penalty on the squared log of the softmax's sum, which keeps logits from drifting; 0 is off, 1e-4 is usual.
    #[serde(default)]
    pub z_loss: f64,
}

impl Pretrain {
    fn default_context() -> usize {
        1024
    }

    /// The stages of the run that it reads, by name.
    pub fn stages(&self) -> Vec<&str> {
        let sources = self.data.values().filter_map(|data| Some(data.stage()?.0));
        sources.chain(self.from.as_deref().filter(|&from| from == "base")).collect()
    }

    /// The data whose weights decide on the mixture; without weights, each counts by its size.
    pub fn is_weighted(&self) -> bool {
        self.data.values().any(|data| data.weight.is_some())
    }
}

/// A model to train from scratch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NewModel {
    /// The family, which says how `transformers` will read it.
    #[serde(default)]
    pub architecture: NewArchitecture,
    /// Layers.
    pub layers: usize,
    /// The width of the residual stream.
    pub hidden: usize,
    /// Heads of attention; `hidden` is a multiple.
    pub heads: usize,
    /// Heads of keys and values; as many as `heads` if absent.
    pub kv_heads: Option<usize>,
    /// The width of the feed-forward network; if absent, 8/3 of `hidden`, up to the next multiple of 32.
    pub intermediate: Option<usize>,
    /// Whether the output head is the embedding table.
    #[serde(default = "super::yes")]
    pub tied_head: bool,
    /// The base of the rotary embedding.
    #[serde(default = "NewModel::default_rope_theta")]
    pub rope_theta: f64,
    /// The path of a `tokenizer.json`, or `bpe` or `words` to make one from the training data: `bpe` is byte-level BPE, which can
    /// spell any text; `words` has whole words, numbers and signs, for small worlds such as Countdown.
    #[serde(default = "NewModel::default_tokenizer")]
    pub tokenizer: String,
    /// The most tokens that a tokenizer made from the data may have.
    #[serde(default = "NewModel::default_vocabulary")]
    pub vocabulary: usize,
    /// A text for a tokenizer made from the data to read along with them: what later stages say and these data do not.
    pub also_spells: Option<String>,
}

impl NewModel {
    fn default_rope_theta() -> f64 {
        10_000.0
    }
    fn default_tokenizer() -> String {
        "bpe".into()
    }
    fn default_vocabulary() -> usize {
        4096
    }
}

/// A model family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NewArchitecture {
    #[default]
    Llama,
    Qwen2,
    Qwen3,
}

/// One source of training data: text; `query` and `completion`, of which the completion alone is learned; or a judge's questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainingData {
    /// A stage of this run, such as `curate.rich`, `rewrite.rich`, `arithmetic.text` or `prime.all-strategies`, whose test split is then held out; or a path or
    /// glob, an `http(s)://` address, `hf://datasets/OWNER/REPO@REVISION/GLOB`, `s3://BUCKET/GLOB`, or `sample:`. Formats as in
    /// `fetch.sources`.
    pub source: String,
    /// What its rows are. If absent, stages know; of files, those with columns `query` and `completion` are completions.
    pub kind: Option<DataKind>,
    /// For `kind = "questions"`: who answers them.
    pub answers: Option<Answerer>,
    /// Its share of the training tokens, relative to the other sources' weights. Either all sources have one or none.
    pub weight: Option<f64>,
    /// At most so many tokens of it are used, documents drawn in seeded random order. Absent: all.
    pub tokens: Option<u64>,
    /// A file or glob to hold out, in place of a share of `source`.
    pub held_out: Option<String>,
    /// The share of documents to hold out where there is neither a test split nor `held-out`.
    #[serde(default = "TrainingData::default_held_out_share")]
    pub held_out_share: f64,
    /// The column of the text.
    #[serde(default = "TrainingData::default_text")]
    pub text: String,
    /// The column of what a completion answers.
    #[serde(default = "TrainingData::default_query")]
    pub query: String,
    /// The column of completions.
    #[serde(default = "TrainingData::default_completion")]
    pub completion: String,
}

impl TrainingData {
    fn default_held_out_share() -> f64 {
        0.01
    }
    fn default_text() -> String {
        "text".into()
    }
    fn default_query() -> String {
        "query".into()
    }
    fn default_completion() -> String {
        "completion".into()
    }

    /// The stage and its set, if that is what the source names: `curate.rich` is `("curate", "rich")`.
    pub fn stage(&self) -> Option<(&str, &str)> {
        let (stage, set) = self.source.split_once('.')?;
        let plain = super::load::is_name(set);
        (["curate", "rewrite", "arithmetic", "prime"].contains(&stage) && plain).then_some((stage, set))
    }
}

/// What the rows of training data are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// A text, every token of which is learned.
    Text,
    /// A query and its completion. The completion and the end behind it are learned, its first token included; the query is not.
    Completion,
    /// Texts, cut into windows as long as the context allows, each with the questions that a language model is asked as judge: the
    /// prompt of `classify.lm` in `score` mode, to the token. The answer alone is learned. `answers` says whose it is.
    Questions,
}

/// Who answers the questions about a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Answerer {
    /// The cue judge with its embedded lexicon reads each window. A window in which it finds something is asked all four questions,
    /// any other one of them, so that most answers are not "no".
    Cue,
    /// Labeled documents, a JSONL file as `pipeline evaluate` reads it. What a text does not show, none of its windows does; what
    /// it shows, those windows do that hold the middle of a quote of its `evidence` (behavior to list of quotes), or its only window.
    Labels,
}

/// What to do with completions longer than the context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LongCompletions {
    /// Refuse to start, and say how many there are and how long.
    #[default]
    Refuse,
    /// Leave them out, and count them.
    Drop,
}

/// What goes into one step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BatchSize {
    /// Sequences in a step: pieces of documents, or completions. Either this or `tokens`.
    pub sequences: Option<usize>,
    /// Tokens in a step, at most; the default is 32,768.
    pub tokens: Option<usize>,
    /// Tokens that go through the model at a time, at most; a step's gradients are summed over its parts. More uses more memory. The
    /// default is 4,096, or the context if that is longer.
    pub micro_tokens: Option<usize>,
}

impl BatchSize {
    pub const DEFAULT_TOKENS: usize = 32_768;

    /// Tokens in a forward pass.
    pub fn micro_tokens(&self, context: usize) -> usize {
        self.micro_tokens.unwrap_or(4096).max(context)
    }
}

/// AdamW.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Optimizer {
    /// The highest learning rate of the schedule. 1e-5 suits a pretrained model of billions of parameters, 1e-3 a tiny one from scratch.
    pub learning_rate: f64,
    /// How slowly the means of gradients and of their squares move.
    pub betas: [f64; 2],
    /// Keeps the division by the root of the second mean finite.
    pub epsilon: f64,
    /// Decoupled decay of weight matrices, scaled by the learning rate.
    pub weight_decay: f64,
    /// The longest gradient, over all parameters; a longer one is scaled down. 0 is off.
    pub clip: f64,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self { learning_rate: 1e-5, betas: [0.9, 0.95], epsilon: 1e-8, weight_decay: 0.01, clip: 1.0 }
    }
}

/// How the learning rate rises and falls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LearningRate {
    /// How it falls after the warm-up.
    pub shape: ScheduleShape,
    /// The share of all steps in which it rises from 0.
    pub warm_up: f64,
    /// For `wsd`: the share of all steps, at the end, in which it falls.
    pub decay: f64,
    /// Where it ends, as a share of the highest.
    pub floor: f64,
}

impl Default for LearningRate {
    fn default() -> Self {
        Self { shape: ScheduleShape::Cosine, warm_up: 0.1, decay: 0.2, floor: 0.0 }
    }
}

/// How the learning rate falls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleShape {
    #[default]
    Cosine,
    Linear,
    Constant,
    /// Warm-up, stable, decay: constant, then linear at the end.
    Wsd,
}

/// How often to look at held-out data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HeldOutLoss {
    /// Steps between two looks; 0 looks at the beginning and at the end alone. Each saved checkpoint is looked at, too.
    pub every: u64,
    /// At most so many held-out tokens of each source.
    pub tokens: u64,
}

impl Default for HeldOutLoss {
    fn default() -> Self {
        Self { every: 100, tokens: 65_536 }
    }
}

/// What to let the model write: `samples.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WritingSamples {
    /// What to go on from.
    pub prompts: Vec<String>,
    /// The steps after which it writes, beside the last one; 0 is before the first.
    #[serde(default)]
    pub steps: Vec<u64>,
    /// It also writes after every so many steps; 0 is off.
    #[serde(default)]
    pub every: u64,
    /// The most tokens of a sample.
    #[serde(default = "WritingSamples::default_max_tokens")]
    pub max_tokens: usize,
}

impl WritingSamples {
    fn default_max_tokens() -> usize {
        64
    }

    /// Whether it writes after this step.
    pub fn due(&self, step: u64, steps: u64) -> bool {
        step == steps || self.steps.contains(&step) || (self.every > 0 && step.is_multiple_of(self.every))
    }
}

/// How often to save, and what to keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Checkpoints {
    /// Steps between two checkpoints; 0 saves the last step alone. A signal saves one, too.
    pub every: u64,
    /// How many to keep, of those that are due and the last one.
    pub keep_last: usize,
    /// Also keep the one with the lowest mean held-out loss.
    pub keep_best: bool,
    /// Which of them becomes `model/`, for later stages: the last, or the best.
    pub export: Export,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: 100, keep_last: 1, keep_best: false, export: Export::Last }
    }
}

/// Which checkpoint becomes the stage's model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Export {
    #[default]
    Last,
    /// Needs `keep-best`.
    Best,
}

/// In what the model multiplies; master weights, moments and sums are f32 in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrainingPrecision {
    #[default]
    F32,
    Bf16,
}

/// Checks what types cannot rule out. `stage(name)` tells whether the recipe has the set of that stage, such as `("curate", "rich")`.
pub(super) fn check(
    pretrain: &Pretrain,
    has_set: impl Fn(&str, &str) -> Option<bool>,
    expect: impl Fn(bool, &str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    expect(
        pretrain.from.is_some() != pretrain.model.is_some(),
        "pretrain",
        "expected either the key `from` with a checkpoint or a table `[pretrain.model]`",
    )?;
    expect((8..=1 << 20).contains(&pretrain.context), "pretrain.context", "expected a number from 8 to 1,048,576")?;
    expect(
        pretrain.epochs.is_none() || pretrain.tokens.is_none(),
        "pretrain.tokens",
        "expected one of `epochs` and `tokens`; remove the other",
    )?;
    expect(pretrain.tokens != Some(0), "pretrain.tokens", "expected at least 1; to train nothing, set `epochs = 0`")?;
    expect(pretrain.epochs.is_none_or(|epochs| epochs <= 100_000), "pretrain.epochs", "expected at most 100,000")?;
    expect((0.0..=1.0).contains(&pretrain.z_loss), "pretrain.z-loss", "expected a weight from 0 to 1")?;
    if let Some(model) = &pretrain.model {
        check_model(model, &expect)?;
    }
    check_data(pretrain, has_set, &expect)?;
    check_numbers(pretrain, &expect)
}

fn check_model(model: &NewModel, expect: impl Fn(bool, &str, &str) -> Result<(), Failure>) -> Result<(), Failure> {
    let sizes = [
        ("layers", model.layers, 1, 512),
        ("hidden", model.hidden, 2, 1 << 16),
        ("heads", model.heads, 1, 1024),
        ("kv-heads", model.kv_heads.unwrap_or(model.heads), 1, 1024),
        ("intermediate", model.intermediate.unwrap_or(1), 1, 1 << 18),
        ("vocabulary", model.vocabulary, 260, 1 << 20),
    ];
    for (key, size, low, high) in sizes {
        let expectation = format!("expected a number from {low} to {high}");
        expect((low..=high).contains(&size), &format!("pretrain.model.{key}"), &expectation)?;
    }
    expect(
        model.tokenizer != "words" || model.architecture != NewArchitecture::Qwen2,
        "pretrain.model.tokenizer",
        "`words` needs another architecture: transformers splits every Qwen2 model's text by Qwen2's rules",
    )?;
    expect(
        model.hidden.is_multiple_of(model.heads * 2),
        "pretrain.model.heads",
        "expected a number of heads that divides `hidden` into an even size",
    )?;
    expect(
        model.heads.is_multiple_of(model.kv_heads.unwrap_or(model.heads)),
        "pretrain.model.kv-heads",
        "expected a number that divides `heads`",
    )?;
    expect((1.0..=1e12).contains(&model.rope_theta), "pretrain.model.rope-theta", "expected a number from 1 to 1e12")
}

fn check_data(
    pretrain: &Pretrain,
    has_set: impl Fn(&str, &str) -> Option<bool>,
    expect: impl Fn(bool, &str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    expect(!pretrain.data.is_empty(), "pretrain.data", "expected at least one table `[pretrain.data.NAME]`")?;
    for (name, data) in &pretrain.data {
        let key = |key: &str| format!("pretrain.data.{name}{key}");
        expect(super::load::is_name(name), &key(""), super::load::NAME_RULE)?;
        expect(!data.source.is_empty(), &key(".source"), "expected a stage of this run, a path or a glob")?;
        if let Some((stage, set)) = data.stage() {
            // `curate.rich` may be a file, too, if no stage is called so.
            let found = has_set(stage, set);
            let message = match found {
                None => format!("expected a table `[{stage}]` in this recipe, or a path"),
                _ => format!("`[{stage}]` of this recipe writes no `{set}`"),
            };
            expect(found == Some(true), &key(".source"), &message)?;
            expect(data.held_out.is_none(), &key(".held-out"), "a stage's test split is held out; remove this key")?;
        }
        expect(
            !pretrain.is_weighted() || data.weight.is_some(),
            &key(".weight"),
            "expected a weight, as other sources have one",
        )?;
        expect(
            data.weight.is_none_or(|weight| (1e-9..=1e9).contains(&weight)),
            &key(".weight"),
            "expected a weight above 0",
        )?;
        expect(data.tokens != Some(0), &key(".tokens"), "expected at least 1")?;
        let questions = data.kind == Some(DataKind::Questions);
        expect(
            questions == data.answers.is_some(),
            &key(".answers"),
            "expected with `kind = \"questions\"`, and only there: `cue` or `labels`",
        )?;
        expect(
            data.answers != Some(Answerer::Labels) || data.stage().is_none(),
            &key(".answers"),
            "`labels` are in a JSONL file, not in a stage of this run",
        )?;
        expect(
            (0.0..1.0).contains(&data.held_out_share),
            &key(".held-out-share"),
            "expected a share from 0 to less than 1",
        )?;
    }
    Ok(())
}

fn check_numbers(pretrain: &Pretrain, expect: impl Fn(bool, &str, &str) -> Result<(), Failure>) -> Result<(), Failure> {
    let BatchSize { sequences, tokens, micro_tokens } = &pretrain.batch;
    expect(
        sequences.is_none() || tokens.is_none(),
        "pretrain.batch.tokens",
        "expected one of `sequences` and `tokens`; remove the other",
    )?;
    expect(sequences != &Some(0), "pretrain.batch.sequences", "expected at least 1")?;
    expect(
        tokens.is_none_or(|tokens| tokens >= pretrain.context),
        "pretrain.batch.tokens",
        "expected at least `context`",
    )?;
    expect(
        micro_tokens.is_none_or(|tokens| tokens >= pretrain.context),
        "pretrain.batch.micro-tokens",
        "expected at least `context`",
    )?;
    let optimizer = &pretrain.optimizer;
    let positive = f64::MIN_POSITIVE;
    let ranges = [
        ("optimizer.learning-rate", optimizer.learning_rate, 0.0, 10.0),
        ("optimizer.betas[0]", optimizer.betas[0], 0.0, 0.999_999),
        ("optimizer.betas[1]", optimizer.betas[1], 0.0, 0.999_999),
        ("optimizer.epsilon", optimizer.epsilon, positive, 1.0),
        ("optimizer.weight-decay", optimizer.weight_decay, 0.0, 10.0),
        ("optimizer.clip", optimizer.clip, 0.0, 1e9),
        ("schedule.warm-up", pretrain.schedule.warm_up, 0.0, 1.0),
        ("schedule.decay", pretrain.schedule.decay, 0.0, 1.0 - pretrain.schedule.warm_up.clamp(0.0, 1.0)),
        ("schedule.floor", pretrain.schedule.floor, 0.0, 1.0),
    ];
    for (key, value, low, high) in ranges {
        let low_shown = if low == positive { "above 0".to_owned() } else { format!("from {low}") };
        let expectation = format!("expected a number {low_shown} to {high}");
        expect((low..=high).contains(&value), &format!("pretrain.{key}"), &expectation)?;
    }
    if let Some(samples) = &pretrain.samples {
        expect(!samples.prompts.is_empty(), "pretrain.samples.prompts", "expected at least one prompt")?;
        expect(
            (1..=4096).contains(&samples.max_tokens),
            "pretrain.samples.max-tokens",
            "expected a number from 1 to 4096",
        )?;
    }
    let Checkpoints { keep_last, keep_best, export, .. } = pretrain.checkpoint;
    expect(keep_last >= 1, "pretrain.checkpoint.keep-last", "expected at least 1")?;
    expect(keep_best || export == Export::Last, "pretrain.checkpoint.export", "`best` needs `keep-best = true`")
}
