//! The columns of every Parquet kind that a run writes. Declared here, never inferred; `pipeline schema` lists them.

use crate::behavior::Behavior;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;

/// The version that files carry as `four-habits.schema-version`. Raise it when a column changes its name, type or meaning.
pub const VERSION: &str = "1";

fn dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn marks(nullable: bool) -> impl Iterator<Item = Field> {
    Behavior::ALL.into_iter().flat_map(move |behavior| {
        [
            Field::new(format!("{}_score", behavior.name()), DataType::Float32, nullable),
            Field::new(format!("{}_count", behavior.name()), DataType::Int32, nullable),
        ]
    })
}

/// `classify/labels/<unit>.parquet`: one row per judged document, never its text.
pub fn labels() -> SchemaRef {
    let mut fields = vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("source_row", DataType::Int64, false),
        Field::new("char_count", DataType::Int64, false),
    ];
    fields.extend(marks(false));
    fields.extend([
        Field::new("chars_read", DataType::Int64, false),
        Field::new("tokens_read", DataType::Int64, false),
        Field::new("windows", DataType::Int32, false),
    ]);
    fields.extend(
        ["judge_kind", "judge_model", "judge_revision", "prompt_hash"]
            .map(|name| Field::new(name, dictionary(), false)),
    );
    Arc::new(Schema::new(fields))
}

/// `classify/quarantine/<unit>.parquet`: one row per document that could not be judged, with the reason.
pub fn quarantine() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("source_file", dictionary(), false),
        Field::new("source_row", DataType::Int64, false),
        Field::new("reason", DataType::Utf8, false),
    ]))
}

/// `sketch/<unit>.parquet`: one row per readable document: the URL's host, sizes, duplicate keys, test-set overlap.
pub fn sketch(bands: usize) -> SchemaRef {
    let mut fields = vec![
        Field::new("source_row", DataType::Int64, false),
        Field::new("char_count", DataType::Int64, false),
        Field::new("token_count", DataType::Int32, false),
        Field::new("host", dictionary(), true),
        Field::new("contaminated_by", DataType::Utf8, true),
        Field::new("text_key_high", DataType::UInt64, false),
        Field::new("text_key_low", DataType::UInt64, false),
    ];
    // Null: the text has no words to compare.
    fields.extend((0..bands).map(|band| Field::new(band_name(band), DataType::UInt64, true)));
    Arc::new(Schema::new(fields))
}

/// The name of a MinHash band's column.
pub fn band_name(band: usize) -> String {
    format!("band_{band:02}")
}

/// `curate/<corpus>/*.parquet`: the source's columns untouched, then sizes, labels and provenance.
pub fn corpus() -> SchemaRef {
    let mut fields = vec![
        Field::new("url", DataType::Utf8View, true),
        Field::new("text", DataType::Utf8View, false),
        Field::new("date", DataType::Utf8View, true),
        Field::new("metadata", DataType::Utf8View, true),
        Field::new("id", DataType::Utf8, false),
        Field::new("token_count", DataType::Int32, false),
        Field::new("char_count", DataType::Int32, false),
    ];
    fields.extend(marks(false));
    fields.extend([Field::new("source_file", dictionary(), false), Field::new("source_row", DataType::Int64, false)]);
    Arc::new(Schema::new(fields))
}

/// `curate/decisions.parquet`: one row per judged document: what each corpus did with it.
pub fn decisions<'a>(corpora: impl Iterator<Item = &'a str>) -> SchemaRef {
    let mut fields = vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("source_file", dictionary(), false),
        Field::new("source_row", DataType::Int64, false),
        Field::new("token_count", DataType::Int32, false),
        Field::new("duplicate_of", DataType::Utf8, true),
    ];
    fields.extend(corpora.map(|corpus| Field::new(corpus, dictionary(), false)));
    Arc::new(Schema::new(fields))
}

/// `rewrite/<corpus>/{train,test}.parquet`: one row per rewritten document, ready to train on.
pub fn rewritten() -> SchemaRef {
    let text = ["query", "completion", "question", "thoughts", "answer"];
    let mut fields: Vec<Field> = text.map(|name| Field::new(name, DataType::Utf8, false)).into();
    fields.push(Field::new("reply_tokens", DataType::Int32, false));
    fields
        .extend(Behavior::ALL.map(|behavior| Field::new(format!("{}_count", behavior.name()), DataType::Int32, false)));
    fields.extend([Field::new("url", DataType::Utf8, true), Field::new("id", DataType::Utf8, false)]);
    Arc::new(Schema::new(fields))
}

/// `rewrite/<corpus>/quarantine.parquet`: one row per document that was not rewritten, with the reason and the last reply.
pub fn rewrite_quarantine() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("split", dictionary(), false),
        Field::new("split_row", DataType::Int64, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("reply", DataType::Utf8, true),
    ]))
}

/// `arithmetic/text/{train,test}.parquet`: one row per text.
pub fn arithmetic() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, false)]))
}

/// `prime/<condition>/*.parquet`: one row per priming trace.
pub fn traces() -> SchemaRef {
    let mut fields = vec![
        Field::new("query", DataType::Utf8, false),
        Field::new("completion", DataType::Utf8, false),
        numbers(),
        Field::new("target", DataType::Int32, false),
        Field::new("condition", dictionary(), false),
        Field::new("verdict", dictionary(), false),
        // Null: the answer is correct, or a model wrote it.
        Field::new("stratum", dictionary(), true),
    ];
    fields
        .extend(Behavior::ALL.map(|behavior| Field::new(format!("{}_count", behavior.name()), DataType::Int32, false)));
    fields.extend([Field::new("pair_id", DataType::UInt64, false), messages("messages")]);
    Arc::new(Schema::new(fields))
}

/// `prime/<condition>/rejected.parquet`: one row per reply of a model that no trace was made of.
pub fn rejected() -> SchemaRef {
    Arc::new(Schema::new(vec![
        numbers(),
        Field::new("target", DataType::Int32, false),
        Field::new("split", dictionary(), false),
        // Counted from 0.
        Field::new("attempt", DataType::Int32, false),
        Field::new("reason", dictionary(), false),
        Field::new("detail", DataType::Utf8, false),
        // Null: the model did not answer.
        Field::new("reply", DataType::Utf8, true),
    ]))
}

/// `prime/verl/*.parquet`: verl's format of RL prompts.
pub fn verl() -> SchemaRef {
    let ground_truth = vec![numbers(), Field::new("target", DataType::Int32, false)];
    let reward_model = vec![
        Field::new("style", DataType::Utf8, false),
        Field::new("ground_truth", DataType::Struct(ground_truth.into()), false),
    ];
    let extra_info = vec![Field::new("split", DataType::Utf8, false), Field::new("index", DataType::Int64, false)];
    Arc::new(Schema::new(vec![
        Field::new("data_source", DataType::Utf8, false),
        messages("prompt"),
        Field::new("ability", DataType::Utf8, false),
        Field::new("reward_model", DataType::Struct(reward_model.into()), false),
        Field::new("extra_info", DataType::Struct(extra_info.into()), false),
    ]))
}

/// `pretrain/metrics.parquet`: one row per training step, and one per source for each look at held-out data.
pub fn metrics() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("step", DataType::Int64, false),
        // Null: a training step.
        Field::new("held_out", DataType::Utf8, true),
        Field::new("loss", DataType::Float64, false),
        Field::new("learning_rate", DataType::Float64, true),
        Field::new("gradient_norm", DataType::Float64, true),
        Field::new("targets", DataType::Int64, false),
        Field::new("tokens", DataType::Int64, false),
        Field::new("epochs", DataType::Float64, false),
    ]))
}

/// `ppo/rollouts/step-*.parquet` and `ppo/evaluations/step-*.parquet`: one row per response.
pub fn rollouts() -> SchemaRef {
    let mut fields = vec![
        // Steps done before it was drawn.
        Field::new("step", DataType::Int64, false),
        // Which prompt of the step it answers, and which of the prompt's responses it is.
        Field::new("prompt_index", DataType::Int32, false),
        Field::new("sample", DataType::Int32, false),
        Field::new("prompt", DataType::Utf8, false),
        Field::new("response", DataType::Utf8, false),
        // Empty, and the target null: a question, whose answer is known.
        numbers(),
        Field::new("target", DataType::Int32, true),
        Field::new("answer", DataType::Utf8, true),
        Field::new("verdict", dictionary(), false),
        Field::new("solved", DataType::Boolean, false),
        Field::new("reward", DataType::Float64, false),
        Field::new("truncated", DataType::Boolean, false),
        Field::new("tokens", DataType::Int32, false),
    ];
    fields
        .extend(Behavior::ALL.map(|behavior| Field::new(format!("{}_count", behavior.name()), DataType::Int32, false)));
    fields.extend([
        // Null: a question.
        Field::new("attempts", DataType::Int32, true),
        Field::new("statements", DataType::Int32, true),
        Field::new("false_statements", DataType::Int32, true),
        Field::new("log_prob_sum", DataType::Float64, false),
        Field::new("log_prob_min", DataType::Float32, false),
    ]);
    Arc::new(Schema::new(fields))
}

/// `ppo/metrics.parquet`: one row per step and per look at held-out puzzles; nulls are what the other kind of row has.
pub fn ppo_metrics() -> SchemaRef {
    const FIGURES: [&str; 27] = [
        "reward_mean",
        "solved_share",
        "truncated_share",
        "response_tokens_mean",
        "verification_mean",
        "backtracking_mean",
        "subgoal_setting_mean",
        "backward_chaining_mean",
        "attempts_mean",
        "kl",
        "kl_coefficient",
        "entropy",
        "clip_fraction",
        "ratio_mean",
        "ratio_max",
        "approx_kl",
        "policy_loss",
        "value_loss",
        "explained_variance",
        "actor_gradient_norm",
        "critic_gradient_norm",
        "first_ratio_error",
        "pass_at_1",
        "pass_at_1_low",
        "pass_at_1_high",
        "pass_at_k",
        "k",
    ];
    let step = Field::new("step", DataType::Int64, false);
    let figures = FIGURES.map(|name| Field::new(name, DataType::Float64, true));
    Arc::new(Schema::new([step].into_iter().chain(figures).collect::<Vec<_>>()))
}

fn numbers() -> Field {
    Field::new("numbers", DataType::List(Arc::new(Field::new("element", DataType::Int32, false))), false)
}

fn messages(name: &str) -> Field {
    let message = vec![Field::new("role", DataType::Utf8, false), Field::new("content", DataType::Utf8, false)];
    let element = Field::new("element", DataType::Struct(message.into()), false);
    Field::new(name, DataType::List(Arc::new(element)), false)
}

/// The key-value metadata that every file of a stage carries.
pub fn key_values(kind: &str, stage_key: &str) -> Vec<(String, String)> {
    [("kind", kind), ("schema-version", VERSION), ("stage-key", stage_key), ("version", env!("CARGO_PKG_VERSION"))]
        .map(|(key, value)| (format!("four-habits.{key}"), value.to_owned()))
        .to_vec()
}
