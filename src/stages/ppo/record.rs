//! What a run tells of itself: a line of figures per step and per look at held-out puzzles, and rollouts to be read.

use super::prompts::Prompt;
use crate::behavior::Behavior;
use crate::behavior::cue::{CueJudge, Lexicon};
use crate::behavior::judge::Judge;
use crate::countdown::counter::{self, Reading};
use crate::countdown::puzzle::Puzzle;
use crate::data::parquet_sink::{ParquetSink, Profile, Written};
use crate::data::schema;
use crate::rl::ppo::StepStatistics;
use crate::rl::reward::{Outcome, Problem};
use crate::rl::rollout::Rollout;
use crate::rl::statistics::{Interval, interval, pass_at_k};
use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Int32Type};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    /// Steps done.
    pub step: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<Training>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluated>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Training {
    pub statistics: StepStatistics,
    pub solved_share: f64,
    /// The share of responses by verdict.
    pub verdicts: BTreeMap<String, f64>,
    pub behaviors: BehaviorMeans,
}

/// Means per response, counted in what was thought. Attempts and statements are those of puzzles; of questions they are 0.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct BehaviorMeans {
    /// In the order of [`Behavior::ALL`].
    pub counts: [f64; 4],
    /// Combinations tried.
    pub attempts: f64,
    /// Statements, and those of them that are false.
    pub statements: f64,
    pub false_statements: f64,
}

/// A look at held-out puzzles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Evaluated {
    pub puzzles: usize,
    pub samples: usize,
    /// The share of right responses, averaged over samples; with an interval over puzzles.
    pub pass_at_1: Interval,
    /// The k of the next figure.
    pub k: usize,
    pub pass_at_k: Interval,
    pub reward_mean: f64,
    pub truncated_share: f64,
    pub response_tokens_mean: f64,
    pub verdicts: BTreeMap<String, f64>,
    pub behaviors: BehaviorMeans,
}

/// A response with all that is known of it.
pub(super) struct Judged<'a> {
    pub prompt: &'a Prompt,
    pub rollout: &'a Rollout,
    pub text: &'a str,
    pub outcome: &'a Outcome,
    pub reading: Reading,
}

/// Who reads what was thought: for puzzles the counter, which follows the calculation; for questions the cue judge, which knows English phrases and
/// nothing of what is asked.
#[derive(Default)]
pub(super) struct Readers {
    cues: Option<CueJudge>,
}

impl Readers {
    /// Puts together what a step's responses said and earned, and reads their thoughts.
    pub(super) fn judged<'a>(
        &mut self,
        prompts: &'a [Prompt],
        rollouts: &'a [Rollout],
        texts: &'a [String],
        outcomes: &'a [Outcome],
    ) -> anyhow::Result<Vec<Judged<'a>>> {
        let rows = rollouts.iter().zip(texts).zip(outcomes);
        rows.map(|((rollout, text), outcome)| {
            let prompt = &prompts[rollout.prompt];
            let thought = counter::thought(text);
            let reading = match &prompt.problem {
                Problem::Countdown(puzzle) => counter::read(puzzle, thought),
                Problem::Question { .. } => self.cues(thought)?,
            };
            Ok(Judged { prompt, rollout, text, outcome, reading })
        })
        .collect()
    }

    fn cues(&mut self, thought: &str) -> anyhow::Result<Reading> {
        let judge = self.cues.get_or_insert_with(|| CueJudge::new(&Lexicon::embedded()));
        let labels = judge.judge(&[thought])?.pop();
        // Of a thought without a word there is nothing to judge.
        let counts = labels.and_then(Result::ok).map(|labels| labels.marks.map(|mark| mark.count)).unwrap_or_default();
        Ok(Reading { counts, ..Reading::default() })
    }
}

pub(super) fn verdicts(judged: &[Judged<'_>]) -> BTreeMap<String, f64> {
    let mut shares = BTreeMap::new();
    for one in judged {
        *shares.entry(one.outcome.verdict.to_string()).or_default() += 1.0 / judged.len() as f64;
    }
    shares
}

pub(super) fn solved_share(judged: &[Judged<'_>]) -> f64 {
    judged.iter().filter(|one| one.outcome.is_solved).count() as f64 / judged.len().max(1) as f64
}

pub(super) fn behaviors(judged: &[Judged<'_>]) -> BehaviorMeans {
    let mean = |count: &dyn Fn(&Reading) -> u32| {
        judged.iter().map(|one| f64::from(count(&one.reading))).sum::<f64>() / judged.len().max(1) as f64
    };
    BehaviorMeans {
        counts: [0, 1, 2, 3].map(|index| mean(&|reading| reading.counts[index])),
        attempts: mean(&|reading| reading.n_attempts),
        statements: mean(&|reading| reading.n_statements),
        false_statements: mean(&|reading| reading.n_false),
    }
}

/// The figures of a look: `judged` holds `samples` responses per puzzle, those of a puzzle side by side.
pub(super) fn evaluated(judged: &[Judged<'_>], samples: usize, k: usize) -> Evaluated {
    let solved: Vec<usize> =
        judged.chunks(samples.max(1)).map(|one| one.iter().filter(|one| one.outcome.is_solved).count()).collect();
    let passes = |k: usize| interval(&solved.iter().map(|&c| pass_at_k(samples, c, k)).collect::<Vec<f64>>());
    let mean = |value: &dyn Fn(&Judged<'_>) -> f64| judged.iter().map(value).sum::<f64>() / judged.len().max(1) as f64;
    Evaluated {
        puzzles: solved.len(),
        samples,
        pass_at_1: passes(1),
        k,
        pass_at_k: passes(k),
        reward_mean: mean(&|one| one.outcome.reward),
        truncated_share: mean(&|one| f64::from(u8::from(one.rollout.is_truncated))),
        response_tokens_mean: mean(&|one| one.rollout.tokens.len() as f64),
        verdicts: verdicts(judged),
        behaviors: behaviors(judged),
    }
}

/// Writes responses in the columns of [`schema::rollouts`].
pub(super) fn write_rollouts(
    step: u64,
    judged: &[Judged<'_>],
    path: &Path,
    stage_key: &str,
) -> anyhow::Result<Written> {
    let schema = schema::rollouts();
    let DataType::List(element) = schema.field_with_name("numbers")?.data_type() else {
        anyhow::bail!("`numbers` is no list")
    };
    let puzzle = |one: &Judged<'_>| match one.prompt.problem {
        Problem::Countdown(puzzle) => Some(puzzle),
        Problem::Question { .. } => None,
    };
    let puzzles: Vec<Option<Puzzle>> = judged.iter().map(puzzle).collect();
    let listed = |puzzle: &Option<Puzzle>| puzzle.map(|puzzle| puzzle.numbers().to_vec()).unwrap_or_default();
    let numbers = puzzles.iter().flat_map(listed).map(|number| number as i32);
    let offsets = OffsetBuffer::from_lengths(puzzles.iter().map(|puzzle| listed(puzzle).len()));
    let answers = judged.iter().map(|one| match &one.prompt.problem {
        Problem::Countdown(_) => None,
        Problem::Question { answer } => Some(answer),
    });
    let of_puzzles = |value: &dyn Fn(&Reading) -> u32| -> ArrayRef {
        let values = judged.iter().zip(&puzzles);
        Arc::new(values.map(|(one, puzzle)| puzzle.map(|_| value(&one.reading) as i32)).collect::<Int32Array>())
    };
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(numbers));
    let whole = |value: &dyn Fn(&Judged<'_>) -> usize| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(judged.iter().map(|one| value(one) as i32)))
    };
    let verdicts: DictionaryArray<Int32Type> = judged.iter().map(|one| Some(&*one.outcome.verdict)).collect();
    let log_probs = |one: &Judged<'_>| -> f64 { one.rollout.log_probs.iter().map(|&value| f64::from(value)).sum() };
    let lowest = |one: &Judged<'_>| one.rollout.log_probs.iter().copied().fold(0.0, f32::min);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(judged.iter().map(|_| step as i64))),
        whole(&|one| one.rollout.prompt),
        whole(&|one| one.rollout.sample),
        Arc::new(StringArray::from_iter_values(judged.iter().map(|one| &one.prompt.text))),
        Arc::new(StringArray::from_iter_values(judged.iter().map(|one| one.text))),
        Arc::new(ListArray::try_new(Arc::clone(element), offsets, numbers, None)?),
        Arc::new(puzzles.iter().map(|puzzle| puzzle.map(|puzzle| puzzle.target() as i32)).collect::<Int32Array>()),
        Arc::new(answers.collect::<StringArray>()),
        Arc::new(verdicts),
        Arc::new(judged.iter().map(|one| Some(one.outcome.is_solved)).collect::<BooleanArray>()),
        Arc::new(Float64Array::from_iter_values(judged.iter().map(|one| one.outcome.reward))),
        Arc::new(judged.iter().map(|one| Some(one.rollout.is_truncated)).collect::<BooleanArray>()),
        whole(&|one| one.rollout.tokens.len()),
    ];
    columns.extend(Behavior::ALL.map(|behavior| whole(&move |one| one.reading.counts[behavior.index()] as usize)));
    columns.extend([
        of_puzzles(&|reading| reading.n_attempts),
        of_puzzles(&|reading| reading.n_statements),
        of_puzzles(&|reading| reading.n_false),
        Arc::new(Float64Array::from_iter_values(judged.iter().map(log_probs))) as ArrayRef,
        Arc::new(Float32Array::from_iter_values(judged.iter().map(lowest))),
    ]);
    let mut sink =
        ParquetSink::create(path, Arc::clone(&schema), Profile::Labels, schema::key_values("rollouts", stage_key))?;
    sink.write(&RecordBatch::try_new(schema, columns)?)?;
    sink.finish()
}

/// Writes lines in the columns of [`schema::ppo_metrics`].
pub(super) fn write_table(lines: &[Line], path: &Path, stage_key: &str) -> anyhow::Result<Written> {
    let schema = schema::ppo_metrics();
    let column =
        |value: fn(&Line) -> Option<f64>| -> ArrayRef { Arc::new(lines.iter().map(value).collect::<Float64Array>()) };
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from_iter_values(lines.iter().map(|line| line.step as i64)))];
    columns.extend(FIGURES.map(|(_, value)| column(value)));
    let mut sink =
        ParquetSink::create(path, Arc::clone(&schema), Profile::Labels, schema::key_values("ppo-metrics", stage_key))?;
    sink.write(&RecordBatch::try_new(schema, columns)?)?;
    sink.finish()
}

fn either(line: &Line, train: fn(&Training) -> f64, evaluation: fn(&Evaluated) -> f64) -> Option<f64> {
    line.train.as_ref().map(train).or_else(|| line.evaluation.as_ref().map(evaluation))
}

fn behavior(line: &Line, index: usize) -> Option<f64> {
    let means = line.train.as_ref().map(|one| &one.behaviors).or(line.evaluation.as_ref().map(|one| &one.behaviors));
    means.map(|means| means.counts[index])
}

fn statistics(line: &Line) -> Option<&StepStatistics> {
    line.train.as_ref().map(|one| &one.statistics)
}

type Figure = (&'static str, fn(&Line) -> Option<f64>);

/// The figures of a line, in the order of [`schema::ppo_metrics`]. Those of learning are null for looks, those of looks for steps.
const FIGURES: [Figure; 27] = [
    ("reward_mean", |line| either(line, |one| one.statistics.reward_mean, |one| one.reward_mean)),
    ("solved_share", |line| either(line, |one| one.solved_share, |one| one.pass_at_1.mean)),
    ("truncated_share", |line| either(line, |one| one.statistics.truncated_share, |one| one.truncated_share)),
    ("response_tokens_mean", |line| {
        either(line, |one| one.statistics.response_tokens_mean, |one| one.response_tokens_mean)
    }),
    ("verification_mean", |line| behavior(line, 0)),
    ("backtracking_mean", |line| behavior(line, 1)),
    ("subgoal_setting_mean", |line| behavior(line, 2)),
    ("backward_chaining_mean", |line| behavior(line, 3)),
    ("attempts_mean", |line| either(line, |one| one.behaviors.attempts, |one| one.behaviors.attempts)),
    ("kl", |line| statistics(line)?.kl),
    ("kl_coefficient", |line| Some(statistics(line)?.kl_coefficient)),
    ("entropy", |line| Some(statistics(line)?.policy?.entropy)),
    ("clip_fraction", |line| Some(statistics(line)?.policy?.clip_fraction)),
    ("ratio_mean", |line| Some(statistics(line)?.policy?.ratio_mean)),
    ("ratio_max", |line| Some(statistics(line)?.policy?.ratio_max)),
    ("approx_kl", |line| Some(statistics(line)?.policy?.approx_kl3)),
    ("policy_loss", |line| Some(statistics(line)?.policy?.loss)),
    ("value_loss", |line| Some(statistics(line)?.critic?.loss)),
    ("explained_variance", |line| statistics(line)?.critic?.explained_variance),
    ("actor_gradient_norm", |line| Some(statistics(line)?.actor_gradient_norm)),
    ("critic_gradient_norm", |line| Some(statistics(line)?.critic_gradient_norm)),
    ("first_ratio_error", |line| statistics(line)?.first_ratio_error),
    ("pass_at_1", |line| Some(line.evaluation.as_ref()?.pass_at_1.mean)),
    ("pass_at_1_low", |line| Some(line.evaluation.as_ref()?.pass_at_1.low)),
    ("pass_at_1_high", |line| Some(line.evaluation.as_ref()?.pass_at_1.high)),
    ("pass_at_k", |line| Some(line.evaluation.as_ref()?.pass_at_k.mean)),
    ("k", |line| Some(line.evaluation.as_ref()?.k as f64)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_names_of_the_columns() {
        let names: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
        let schema = schema::ppo_metrics();
        let columns: Vec<&String> = schema.fields().iter().skip(1).map(|field| field.name()).collect();
        assert_eq!(names, columns);
    }
}
