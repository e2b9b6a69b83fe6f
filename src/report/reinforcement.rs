//! What reinforcement learning made of a model: held-out success and the four behaviors over steps, the health of learning,
//! and the same puzzles' responses before and after.

use super::charts::{Chart, Curve, curves};
use super::experiment::{Habits, Line};
use super::summary::manifests;
use crate::behavior::Behavior;
use crate::data::sidecar;
use crate::plan::{Plan, Stage, Work};
use crate::rl::statistics::mean_over_steps;
use crate::run::dir::RunDir;
use anyhow::Context;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use serde::Serialize;

/// Points of a curve of learning at most.
const POINTS: usize = 120;
/// Puzzles whose responses are shown before and after.
const PUZZLES_SHOWN: usize = 3;
/// Characters of a response that are shown.
const CHARS_SHOWN: usize = 1200;

/// What a stage's metrics and evaluations say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReinforcedFindings {
    pub stage: String,
    pub arms: Vec<String>,
    pub steps: u64,
    /// Looks at held-out puzzles, by step.
    pub looks: Vec<Look>,
    /// The area under pass@1 over steps, divided by the steps: its mean; none without two looks.
    pub area: Option<f64>,
    /// Means over equal ranges of steps.
    pub learning: Vec<Learning>,
    /// Responses to the first held-out puzzles at the first look and at the last.
    pub before: Vec<Response>,
    pub after: Vec<Response>,
}

/// A look at held-out puzzles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Look {
    pub step: u64,
    pub pass_at_1: f64,
    /// The 95 % interval over puzzles.
    pub low: f64,
    pub high: f64,
    pub k: u64,
    pub pass_at_k: f64,
    /// Instances per response, in the order of [`Behavior::ALL`].
    pub behaviors: [f64; 4],
    pub attempts: f64,
    pub response_tokens: f64,
    pub truncated: f64,
}

/// Means over a range of training steps that ends at `step`; none where no step of it has the figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Learning {
    pub step: u64,
    pub reward: Option<f64>,
    pub truncated: Option<f64>,
    pub response_tokens: Option<f64>,
    pub kl: Option<f64>,
    pub entropy: Option<f64>,
    pub clip_fraction: Option<f64>,
    pub explained_variance: Option<f64>,
}

/// A response to a held-out puzzle.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Response {
    pub numbers: Vec<i32>,
    /// None: a question.
    pub target: Option<i32>,
    /// A question's.
    pub answer: Option<String>,
    pub verdict: String,
    pub solved: bool,
    pub tokens: u64,
    /// Its beginning.
    pub text: String,
    pub chars_left_out: u64,
}

/// The findings of every stage of a run that trained by reinforcement to its end.
pub fn of_run(plan: &Plan, dir: &RunDir) -> anyhow::Result<Vec<ReinforcedFindings>> {
    let stages = plan.stages.iter().filter(|stage| matches!(stage.work, Work::Ppo(_)));
    stages.filter_map(|stage| reinforced(plan, stage, dir).transpose()).collect()
}

/// The findings of a stage; none before it is done.
fn reinforced(plan: &Plan, stage: &Stage, dir: &RunDir) -> anyhow::Result<Option<ReinforcedFindings>> {
    let manifests = manifests(plan, stage, dir)?;
    let outputs = || manifests.iter().flat_map(|manifest| &manifest.outputs);
    let Some(table) = outputs().find(|output| output.path.ends_with("/metrics.parquet")) else { return Ok(None) };
    let metrics = Metrics { batch: sidecar::read(&dir.path(&table.path))?, path: &table.path };
    let looks = metrics.looks()?;
    let mut evaluations: Vec<&str> =
        outputs().map(|output| output.path.as_str()).filter(|path| path.contains("/evaluations/")).collect();
    evaluations.sort_unstable();
    let shown = |path: Option<&&str>| match path {
        Some(path) => responses(&sidecar::read(&dir.path(path))?).with_context(|| format!("cannot read `{path}`")),
        None => Ok(Vec::new()),
    };
    Ok(Some(ReinforcedFindings {
        stage: stage.folder.clone(),
        arms: stage.arms.clone(),
        steps: metrics.steps()?.last().copied().unwrap_or(0),
        area: area(&looks),
        looks,
        learning: metrics.learning()?,
        before: shown(evaluations.first())?,
        after: if evaluations.len() > 1 { shown(evaluations.last())? } else { Vec::new() },
    }))
}

/// The mean of pass@1 over steps.
fn area(looks: &[Look]) -> Option<f64> {
    mean_over_steps(&looks.iter().map(|look| (look.step, look.pass_at_1)).collect::<Vec<_>>())
}

/// `metrics.parquet`: rows of looks have pass@1, rows of training steps do not.
struct Metrics<'a> {
    batch: RecordBatch,
    path: &'a str,
}

impl Metrics<'_> {
    fn steps(&self) -> anyhow::Result<Vec<u64>> {
        let column = self.batch.column_by_name("step").and_then(|column| column.as_primitive_opt::<Int64Type>());
        let column = column.with_context(|| format!("`{}` has no steps", self.path))?;
        Ok(column.values().iter().map(|&step| step as u64).collect())
    }

    fn figure(&self, name: &str) -> anyhow::Result<Vec<Option<f64>>> {
        let column = self.batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Float64Type>());
        Ok(column.with_context(|| format!("`{}` has no `{name}`", self.path))?.iter().collect())
    }

    fn looks(&self) -> anyhow::Result<Vec<Look>> {
        let names = [
            "pass_at_1_low",
            "pass_at_1_high",
            "k",
            "pass_at_k",
            "attempts_mean",
            "response_tokens_mean",
            "truncated_share",
        ];
        let [low, high, k, pass_at_k, attempts, response_tokens, truncated] = names.map(|name| self.figure(name));
        let (low, high, k, pass_at_k) = (low?, high?, k?, pass_at_k?);
        let (attempts, response_tokens, truncated) = (attempts?, response_tokens?, truncated?);
        let behaviors = Behavior::ALL.map(|behavior| self.figure(&format!("{}_mean", behavior.name())));
        let [a, b, c, d] = behaviors;
        let behaviors = [a?, b?, c?, d?];
        let rows = self.steps()?.into_iter().zip(self.figure("pass_at_1")?).enumerate();
        let looks = rows.filter_map(|(row, (step, pass_at_1))| {
            let of = |column: &[Option<f64>]| column[row].unwrap_or(f64::NAN);
            Some(Look {
                step,
                pass_at_1: pass_at_1?,
                low: of(&low),
                high: of(&high),
                k: of(&k) as u64,
                pass_at_k: of(&pass_at_k),
                behaviors: behaviors.each_ref().map(|column| of(column)),
                attempts: of(&attempts),
                response_tokens: of(&response_tokens),
                truncated: of(&truncated),
            })
        });
        Ok(looks.collect())
    }

    fn learning(&self) -> anyhow::Result<Vec<Learning>> {
        let names = [
            "reward_mean",
            "truncated_share",
            "response_tokens_mean",
            "kl",
            "entropy",
            "clip_fraction",
            "explained_variance",
        ];
        let columns = names.iter().map(|name| self.figure(name)).collect::<anyhow::Result<Vec<_>>>()?;
        let (steps, looks) = (self.steps()?, self.figure("pass_at_1")?);
        let rows: Vec<usize> = (0..steps.len()).filter(|&row| looks[row].is_none()).collect();
        let mean = |range: &[usize], column: usize| {
            let values: Vec<f64> =
                range.iter().filter_map(|&row| columns[column][row]).filter(|value| value.is_finite()).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let ranges = rows.chunks(rows.len().div_ceil(POINTS).max(1));
        Ok(ranges
            .map(|range| Learning {
                step: range.last().map_or(0, |&row| steps[row]),
                reward: mean(range, 0),
                truncated: mean(range, 1),
                response_tokens: mean(range, 2),
                kl: mean(range, 3),
                entropy: mean(range, 4),
                clip_fraction: mean(range, 5),
                explained_variance: mean(range, 6),
            })
            .collect())
    }
}

/// The first response to each of the first puzzles: not chosen by what they show.
fn responses(batch: &RecordBatch) -> anyhow::Result<Vec<Response>> {
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("`{name}` is missing"));
    let sample = column("sample")?.as_primitive_opt::<Int32Type>().context("`sample` is no number")?;
    let target = column("target")?.as_primitive_opt::<Int32Type>().context("`target` is no number")?;
    let tokens = column("tokens")?.as_primitive_opt::<Int32Type>().context("`tokens` is no number")?;
    let text = column("response")?.as_string_opt::<i32>().context("`response` is no text")?;
    let solved = column("solved")?.as_boolean_opt().context("`solved` is no boolean")?;
    let numbers = column("numbers")?.as_list_opt::<i32>().context("`numbers` is no list")?;
    // Runs of before have puzzles alone.
    let answer = batch.column_by_name("answer").and_then(|answer| answer.as_string_opt::<i32>());
    let verdicts = arrow::compute::cast(column("verdict")?, &arrow::datatypes::DataType::Utf8)?;
    let verdicts = verdicts.as_string_opt::<i32>().context("`verdict` is no text")?;
    let rows = (0..batch.num_rows()).filter(|&row| sample.value(row) == 0).take(PUZZLES_SHOWN);
    rows.map(|row| {
        let numbers = numbers.value(row);
        let text = text.value(row);
        Ok(Response {
            numbers: numbers.as_primitive_opt::<Int32Type>().context("`numbers` holds no numbers")?.values().to_vec(),
            target: target.is_valid(row).then(|| target.value(row)),
            answer: answer.filter(|answer| answer.is_valid(row)).map(|answer| answer.value(row).to_owned()),
            verdict: verdicts.value(row).to_owned(),
            solved: solved.value(row),
            tokens: tokens.value(row) as u64,
            text: text.chars().take(CHARS_SHOWN).collect(),
            chars_left_out: text.chars().count().saturating_sub(CHARS_SHOWN) as u64,
        })
    })
    .collect()
}

fn curve(label: &str, hue: usize, points: impl Iterator<Item = (u64, f64)>) -> Curve {
    let points = points.map(|(step, value)| (step as f64, value)).collect();
    Curve { label: label.to_owned(), hue, dashed: false, band: Vec::new(), points }
}

/// A variant's pass@1 by step, with its interval: step, mean, low, high.
pub(super) type Success = Vec<(u64, f64, f64, f64)>;

/// Pass@1 with its interval, one curve per variant.
pub(super) fn success(name: &str, title: &str, variants: &[(String, Success)]) -> Chart {
    let all = variants.iter().enumerate().map(|(hue, (variant, looks))| Curve {
        band: looks.iter().map(|&(step, _, low, high)| (step as f64, low, high)).collect(),
        ..curve(variant, hue, looks.iter().map(|&(step, mean, ..)| (step, mean)))
    });
    curves(name, title, "steps", "share of problems", &all.collect::<Vec<_>>())
}

/// One behavior's instances per response by step, one curve per variant.
pub(super) fn behavior(name: &str, behavior: Behavior, variants: &[(String, Vec<(u64, f64)>)]) -> Chart {
    let title = format!("{} per response", behavior.name().replace('_', " "));
    let all = variants.iter().enumerate().map(|(hue, (variant, looks))| curve(variant, hue, looks.iter().copied()));
    curves(name, &title, "steps", "instances per response", &all.collect::<Vec<_>>())
}

impl ReinforcedFindings {
    pub(super) fn success(&self) -> Success {
        self.looks.iter().map(|look| (look.step, look.pass_at_1, look.low, look.high)).collect()
    }

    pub(super) fn behavior(&self, behavior: Behavior) -> Vec<(u64, f64)> {
        self.looks.iter().map(|look| (look.step, look.behaviors[behavior.index()])).collect()
    }
}

impl Line {
    pub(super) fn success(&self) -> Success {
        self.curve.iter().map(|point| (point.step, point.pass_at_1, point.low, point.high)).collect()
    }

    pub(super) fn behavior(&self, behavior: Behavior) -> Vec<(u64, f64)> {
        let of = |habits: &Habits| match behavior {
            Behavior::Verification => habits.verification,
            Behavior::Backtracking => habits.backtracking,
            Behavior::SubgoalSetting => habits.subgoal_setting,
            Behavior::BackwardChaining => habits.backward_chaining,
        };
        self.curve.iter().map(|point| (point.step, of(&point.habits))).collect()
    }
}

/// The four behaviors of one stage.
pub(super) fn behaviors(name: &str, one: &ReinforcedFindings) -> Chart {
    let all = Behavior::ALL.map(|behavior| {
        curve(&behavior.name().replace('_', " "), behavior.index(), one.behavior(behavior).into_iter())
    });
    curves(name, "Behaviors in responses to held-out problems", "steps", "instances per response", &all)
}

/// A figure of learning: what it is called, and where it stands.
pub(super) type Figure = (&'static str, fn(&Learning) -> Option<f64>);

/// Figures of learning that share a scale.
pub(super) fn health(name: &str, title: &str, unit: &str, one: &ReinforcedFindings, figures: &[Figure]) -> Chart {
    let all = figures.iter().enumerate().map(|(hue, (label, figure))| {
        curve(label, hue, one.learning.iter().filter_map(|step| Some((step.step, figure(step)?))))
    });
    curves(name, title, "steps", unit, &all.collect::<Vec<_>>())
}

/// Figures that are shares.
pub(super) const SHARES: [Figure; 3] = [
    ("reward", |step| step.reward),
    ("truncated", |step| step.truncated),
    ("clip fraction", |step| step.clip_fraction),
];
/// Figures in nats.
pub(super) const NATS: [Figure; 2] = [("entropy", |step| step.entropy), ("KL to the start", |step| step.kl)];

/// A result of the paper (arXiv 2503.01307, its published result tables): accuracy on held-out Countdown puzzles at the first step of PPO and at
/// the last, 250 (240 for the unprimed Qwen).
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Published {
    pub condition: &'static str,
    /// Llama-3.2-3B.
    pub llama: Option<[f64; 2]>,
    /// Qwen-2.5-3B.
    pub qwen: Option<[f64; 2]>,
}

const fn published(condition: &'static str, llama: Option<[f64; 2]>, qwen: Option<[f64; 2]>) -> Published {
    Published { condition, llama, qwen }
}

/// Rounded to three places.
pub(super) const PUBLISHED: [Published; 12] = [
    published("not primed", Some([0.000, 0.338]), Some([0.006, 0.535])),
    published("all strategies", Some([0.352, 0.736]), Some([0.292, 0.773])),
    published("all strategies, wrong answers only", Some([0.283, 0.735]), Some([0.332, 0.746])),
    published("backtracking", Some([0.409, 0.769]), Some([0.445, 0.728])),
    published("backtracking and verification", Some([0.419, 0.774]), Some([0.445, 0.723])),
    published("backtracking and subgoals", Some([0.176, 0.706]), Some([0.187, 0.716])),
    published("backtracking and backward chaining", Some([0.310, 0.773]), Some([0.292, 0.757])),
    published("direct chain of thought", Some([0.012, 0.562]), Some([0.009, 0.556])),
    published("empty thought", Some([0.061, 0.410]), Some([0.049, 0.405])),
    published("dots as long as a thought", Some([0.111, 0.381]), Some([0.131, 0.327])),
    published("pretrained on behavior-rich OpenWebMath", Some([0.002, 0.489]), None),
    published("pretrained on behavior-minimal OpenWebMath", Some([0.001, 0.368]), None),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn look(step: u64, pass_at_1: f64) -> Look {
        Look {
            step,
            pass_at_1,
            low: pass_at_1 - 0.1,
            high: pass_at_1 + 0.1,
            k: 4,
            pass_at_k: 0.5,
            behaviors: [1.0, 2.0, 0.0, 0.5],
            attempts: 3.0,
            response_tokens: 50.0,
            truncated: 0.0,
        }
    }

    #[test]
    fn the_area_is_the_mean_over_steps() {
        assert_eq!(area(&[look(0, 0.2), look(10, 0.4), look(40, 0.4)]), Some((0.3 * 10.0 + 0.4 * 30.0) / 40.0));
        assert_eq!(area(&[look(0, 0.2)]), None);
        assert_eq!(area(&[]), None);
    }

    #[test]
    fn pictures_show_intervals_and_say_their_numbers() {
        let one = ReinforcedFindings {
            stage: "ppo".into(),
            arms: vec!["all".into()],
            steps: 10,
            looks: vec![look(0, 0.2), look(10, 0.4)],
            area: None,
            learning: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
        };
        let chart = success("pass", "Success", &[("all".to_owned(), one.success())]);
        assert_eq!(chart.description, "all: from 0.200 to 0.400 (0.300 to 0.500)");
        assert!(chart.file().contains("fill-opacity"));
        assert_eq!(
            behavior("b", Behavior::ALL[0], &[("all".to_owned(), one.behavior(Behavior::ALL[0]))]).description,
            "all: from 1.000 to 1.000"
        );
        assert!(behaviors("c", &one).description.starts_with("verification: from 1.000"));
        assert!(!health("d", "t", "u", &one, &SHARES).file().contains("NaN"));
    }
}
