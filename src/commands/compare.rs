//! `pipeline compare RUN...`: the arms of an experiment against one of them, as a Markdown table or JSON.

use crate::cli::Compare;
use crate::error::Exit;
use crate::plan::Plan;
use crate::report::experiment::{Experiment, Habits, Line, Point};
use crate::rl::statistics::Interval;
use crate::run::dir::RunDir;
use std::fmt::Write as _;

pub fn run(args: &Compare, json: bool) -> anyhow::Result<Exit> {
    let runs = args.runs.iter().map(|folder| super::existing_plan(folder));
    let runs = runs.collect::<anyhow::Result<Vec<_>>>()?;
    let runs: Vec<(&Plan, &RunDir)> = runs.iter().map(|(dir, plan)| (plan, dir)).collect();
    let experiment = Experiment::new(&runs, &args.baseline)?;
    if json {
        super::print_json(&experiment.lines)?;
    } else {
        super::print(&table(&experiment.lines, &args.baseline))?;
    }
    Ok(Exit::Done)
}

fn table(lines: &[Line], baseline: &str) -> String {
    let shown = |interval: &Interval| format!("{:.3} [{:.3}, {:.3}]", interval.mean, interval.low, interval.high);
    let signed = |interval: &Option<Interval>| {
        interval.as_ref().map_or("–".into(), |i| format!("{:+.3} [{:+.3}, {:+.3}]", i.mean, i.low, i.high))
    };
    let mut text = format!(
        "| arm | runs | problems | steps | pass@1 before | pass@1 | minus `{baseline}` | area | minus `{baseline}` | checks | backtracks | tries | tokens | truncated |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    );
    for line in lines {
        let change = |of: fn(&Habits) -> f64, digits: usize| {
            let shown = |point: Option<&Point>| point.map_or(0.0, |point| of(&point.habits));
            format!("{:.digits$} → {:.digits$}", shown(line.curve.first()), shown(line.curve.last()))
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.3} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            line.arm,
            line.runs,
            line.problems,
            line.steps,
            line.pass_at_1_before.mean,
            shown(&line.pass_at_1),
            signed(&line.pass_at_1_difference),
            shown(&line.area),
            signed(&line.area_difference),
            change(|habits| habits.verification, 2),
            change(|habits| habits.backtracking, 2),
            change(|habits| habits.attempts, 2),
            change(|habits| habits.tokens, 0),
            change(|habits| habits.truncated, 3),
        );
    }
    text
}
