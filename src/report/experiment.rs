//! The arms of an experiment against one of them, problem by problem: what `pipeline compare` prints and a report shows.
//!
//! It reads the evaluations that `ppo` wrote. A problem's score is the share of its responses that solve it; its area is the mean of
//! that score over steps, by the trapezoidal rule. Differences are paired by problem, and their intervals are bootstrapped over
//! problems. Of several runs the problems stand together, each compared within its own seed; arms of one seed may lie in several runs.

use crate::data::sidecar;
use crate::error::{Exit, Failure};
use crate::plan::{Plan, Stage, Work};
use crate::rl::statistics::{Interval, mean_over_steps, paired_bootstrap};
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;
use anyhow::Context;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use serde::Serialize;
use std::collections::BTreeMap;

const RESAMPLES: usize = 10_000;
const SEED: u64 = 1;
/// The paper's control: primed without a thought.
pub const BASELINE: &str = "empty";

/// One arm, over all runs.
#[derive(Debug, Default)]
struct Arm {
    runs: usize,
    /// Which problem each score is of: the run's seed and the prompt.
    problems: Vec<String>,
    area: Vec<f64>,
    /// By steps done.
    looks: BTreeMap<u64, Pooled>,
}

/// A look at held-out problems, of all runs together.
#[derive(Debug, Default)]
struct Pooled {
    scores: Vec<f64>,
    /// Means per response, summed over runs.
    habits: Habits,
}

/// Means per response of one look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Habits {
    pub verification: f64,
    pub backtracking: f64,
    pub subgoal_setting: f64,
    pub backward_chaining: f64,
    pub attempts: f64,
    pub tokens: f64,
    pub truncated: f64,
}

/// An arm's line. Intervals are of 95 %.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    pub arm: String,
    pub runs: usize,
    pub problems: usize,
    pub steps: u64,
    pub pass_at_1_before: Interval,
    pub pass_at_1: Interval,
    pub area: Interval,
    /// This arm's minus the baseline's; absent for the baseline.
    pub pass_at_1_difference: Option<Interval>,
    pub area_difference: Option<Interval>,
    pub curve: Vec<Point>,
    /// The last look's share of right responses, by seed and prompt.
    pub scores: BTreeMap<String, f64>,
}

/// One look of an arm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    pub step: u64,
    pub pass_at_1: f64,
    pub low: f64,
    pub high: f64,
    /// The share of problems that any response solves.
    pub solved_by_any: f64,
    #[serde(flatten)]
    pub habits: Habits,
}

/// Arms side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Experiment {
    /// The arm that the others are compared with.
    pub baseline: String,
    /// By name.
    pub lines: Vec<Line>,
}

impl Experiment {
    /// # Errors
    /// A [`Failure`] if no such arm is done, or arms were evaluated on other problems than the baseline; files that cannot be read.
    pub fn new(runs: &[(&Plan, &RunDir)], baseline: &str) -> anyhow::Result<Self> {
        let arms = arms(runs)?;
        let against = arms.get(baseline).ok_or_else(|| {
            let names: Vec<&str> = arms.keys().map(String::as_str).collect();
            let hint = match names.is_empty() {
                true => "no arm of these runs has a finished `ppo`".to_owned(),
                false => format!("arms with a finished `ppo`: {}", names.join(", ")),
            };
            Failure::new(Exit::Usage, format!("no arm `{baseline}` is done")).hint(hint)
        })?;
        Self::against(baseline, against, &arms)
    }

    /// What there is to compare, against `empty` or else the first arm; none with fewer than two arms, or when arms were evaluated
    /// on different problems.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn find(runs: &[(&Plan, &RunDir)]) -> anyhow::Result<Option<Self>> {
        let arms = arms(runs)?;
        let Some((first, _)) = arms.first_key_value().filter(|_| 1 < arms.len()) else { return Ok(None) };
        let (baseline, against) = arms.get_key_value(BASELINE).unwrap_or((first, &arms[first]));
        Ok(Self::against(baseline, against, &arms).ok())
    }

    fn against(baseline: &str, against: &Arm, arms: &BTreeMap<String, Arm>) -> anyhow::Result<Self> {
        let lines = arms.iter().map(|(name, arm)| line(name, arm, against)).collect::<anyhow::Result<Vec<Line>>>()?;
        Ok(Self { baseline: baseline.to_owned(), lines })
    }

    /// The arms that had as many steps as the baseline.
    pub fn of_equal_steps(&self) -> Vec<&Line> {
        let steps = self.lines.iter().find(|line| line.arm == self.baseline).map(|line| line.steps);
        self.lines.iter().filter(|line| Some(line.steps) == steps).collect()
    }
}

/// The arms of all runs whose reinforcement is done.
fn arms(runs: &[(&Plan, &RunDir)]) -> anyhow::Result<BTreeMap<String, Arm>> {
    let mut arms: BTreeMap<String, Arm> = BTreeMap::new();
    for (plan, dir) in runs {
        for stage in plan.stages.iter().filter(|stage| matches!(stage.work, Work::Ppo(_))) {
            read(plan, dir, stage, &mut arms)?;
        }
    }
    Ok(arms)
}

/// Reads the looks of one stage into the arms that share it.
fn read(plan: &Plan, dir: &RunDir, stage: &Stage, arms: &mut BTreeMap<String, Arm>) -> anyhow::Result<()> {
    let Some(manifest) = Manifest::read(&dir.path(stage.manifest("all")))? else { return Ok(()) };
    let prefix = format!("{}/evaluations/", stage.folder);
    let mut looks = Vec::new();
    for output in manifest.outputs.iter().filter(|output| output.path.starts_with(&prefix)) {
        let path = dir.path(&output.path);
        looks.push(Look::read(&sidecar::read(&path)?).with_context(|| format!("cannot use `{}`", path.display()))?);
    }
    looks.sort_by_key(|look| look.step);
    let Some(last) = looks.last() else { return Ok(()) };
    let names = if stage.arms.is_empty() { vec![plan.name.clone()] } else { stage.arms.clone() };
    for name in names {
        let arm = arms.entry(name).or_default();
        arm.runs += 1;
        arm.area.extend(areas(&looks));
        arm.problems.extend(last.problems.iter().map(|problem| format!("{} {problem}", plan.seed)));
        for look in &looks {
            let pooled = arm.looks.entry(look.step).or_default();
            pooled.scores.extend(&look.scores);
            pooled.habits.add(&look.habits);
        }
    }
    Ok(())
}

/// A look at held-out problems.
struct Look {
    step: u64,
    problems: Vec<String>,
    /// The share of each problem's responses that solve it.
    scores: Vec<f64>,
    habits: Habits,
}

impl Look {
    fn read(batch: &RecordBatch) -> anyhow::Result<Self> {
        let column = |name: &str| batch.column_by_name(name).with_context(|| format!("there is no column `{name}`"));
        let whole = |name: &str| -> anyhow::Result<Vec<i32>> {
            let column =
                column(name)?.as_primitive_opt::<Int32Type>().with_context(|| format!("`{name}` is no number"))?;
            Ok(column.values().to_vec())
        };
        let flags = |name: &str| -> anyhow::Result<Vec<f64>> {
            let column = column(name)?.as_boolean_opt().with_context(|| format!("`{name}` is no flag"))?;
            Ok(column.values().iter().map(|flag| f64::from(u8::from(flag))).collect())
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let mean_of = |name: &str| -> anyhow::Result<f64> {
            Ok(mean(&whole(name)?.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>()))
        };
        let steps = column("step")?.as_primitive_opt::<Int64Type>().context("`step` is no number")?;
        let prompts = column("prompt")?.as_string_opt::<i32>().context("`prompt` is no text")?;
        let solved = flags("solved")?;
        let mut sums: BTreeMap<i32, (f64, f64, &str)> = BTreeMap::new();
        for ((row, prompt), solved) in whole("prompt_index")?.into_iter().enumerate().zip(solved) {
            let sum = sums.entry(prompt).or_insert((0.0, 0.0, prompts.value(row)));
            *sum = (sum.0 + solved, sum.1 + 1.0, sum.2);
        }
        Ok(Self {
            step: steps.values().first().copied().unwrap_or(0) as u64,
            problems: sums.values().map(|(.., prompt)| (*prompt).to_owned()).collect(),
            scores: sums.values().map(|(solved, responses, _)| solved / responses).collect(),
            habits: Habits {
                verification: mean_of("verification_count")?,
                backtracking: mean_of("backtracking_count")?,
                subgoal_setting: mean_of("subgoal_setting_count")?,
                backward_chaining: mean_of("backward_chaining_count")?,
                attempts: mean_of("attempts")?,
                tokens: mean_of("tokens")?,
                truncated: mean(&flags("truncated")?),
            },
        })
    }
}

/// Each problem's score averaged over steps, by the trapezoidal rule; of a single look, its score.
fn areas(looks: &[Look]) -> Vec<f64> {
    let Some(last) = looks.last() else { return Vec::new() };
    let area = |(problem, &score): (usize, &f64)| {
        let points: Vec<(u64, f64)> = looks.iter().map(|look| (look.step, look.scores[problem])).collect();
        mean_over_steps(&points).unwrap_or(score)
    };
    last.scores.iter().enumerate().map(area).collect()
}

impl Habits {
    fn add(&mut self, other: &Self) {
        self.verification += other.verification;
        self.backtracking += other.backtracking;
        self.subgoal_setting += other.subgoal_setting;
        self.backward_chaining += other.backward_chaining;
        self.attempts += other.attempts;
        self.tokens += other.tokens;
        self.truncated += other.truncated;
    }

    fn over(&self, runs: usize) -> Self {
        let share = |sum: f64| sum / runs.max(1) as f64;
        Self {
            verification: share(self.verification),
            backtracking: share(self.backtracking),
            subgoal_setting: share(self.subgoal_setting),
            backward_chaining: share(self.backward_chaining),
            attempts: share(self.attempts),
            tokens: share(self.tokens),
            truncated: share(self.truncated),
        }
    }
}

impl Arm {
    fn first(&self) -> &[f64] {
        self.looks.first_key_value().map_or(&[], |(_, look)| &look.scores)
    }

    fn last(&self) -> &[f64] {
        self.looks.last_key_value().map_or(&[], |(_, look)| &look.scores)
    }

    fn curve(&self) -> Vec<Point> {
        let point = |(&step, look): (&u64, &Pooled)| {
            let Interval { mean, low, high } = own(&look.scores);
            let solved = look.scores.iter().filter(|&&score| 0.0 < score).count();
            Point {
                step,
                pass_at_1: mean,
                low,
                high,
                solved_by_any: solved as f64 / look.scores.len().max(1) as f64,
                habits: look.habits.over(self.runs),
            }
        };
        self.looks.iter().map(point).collect()
    }
}

/// The mean of scores with its interval.
fn own(scores: &[f64]) -> Interval {
    paired_bootstrap(scores, &vec![0.0; scores.len()], RESAMPLES, SEED)
}

fn line(name: &str, arm: &Arm, baseline: &Arm) -> anyhow::Result<Line> {
    if arm.runs != baseline.runs {
        let message = format!("runs with a result: {} of arm `{name}`, {} of the baseline", arm.runs, baseline.runs);
        return Err(Failure::new(Exit::Usage, message)
            .hint("compare runs that have the same arms, all of them done")
            .into());
    }
    if arm.problems != baseline.problems || arm.looks.values().any(|look| look.scores.len() != arm.problems.len()) {
        let message =
            format!("arm `{name}` was not evaluated on the baseline's problems at the same steps in every run");
        return Err(Failure::new(Exit::Usage, message).hint("compare runs with equal `[ppo.eval]`").into());
    }
    let against = |scores: &[f64], others: &[f64]| {
        (!std::ptr::eq(arm, baseline)).then(|| paired_bootstrap(scores, others, RESAMPLES, SEED))
    };
    Ok(Line {
        arm: name.to_owned(),
        runs: arm.runs,
        problems: arm.problems.len(),
        steps: arm.looks.keys().last().copied().unwrap_or(0),
        pass_at_1_before: own(arm.first()),
        pass_at_1: own(arm.last()),
        area: own(&arm.area),
        pass_at_1_difference: against(arm.last(), baseline.last()),
        area_difference: against(&arm.area, &baseline.area),
        curve: arm.curve(),
        scores: arm.problems.iter().cloned().zip(arm.last().iter().copied()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_means_over_steps() {
        let look = |step: u64, score: f64| Look {
            step,
            problems: vec!["p".into()],
            scores: vec![score],
            habits: Habits::default(),
        };
        let check = |looks: &[Look], expect: &[f64]| assert_eq!(areas(looks), expect);
        check(&[look(0, 0.0), look(10, 1.0)], &[0.5]);
        check(&[look(0, 0.0), look(10, 1.0), look(40, 1.0)], &[0.875]);
        check(&[look(5, 0.25)], &[0.25]);
        check(&[], &[]);
    }
}
