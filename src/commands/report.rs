//! `pipeline report RUN...`: one page about one or several run folders, side by side.

use crate::cli;
use crate::error::Exit;
use crate::plan::{Plan, Work};
use crate::report::experiment::Experiment;
use crate::report::page::{Report, ReportedRun};
use crate::run::dir::RunDir;
use crate::stages;
use serde_json::json;

pub fn run(args: &cli::Report, json: bool) -> anyhow::Result<Exit> {
    let (mut runs, mut titles, mut plans) = (Vec::new(), Vec::new(), Vec::new());
    for folder in &args.runs {
        let (dir, plan) = super::existing_plan(folder)?;
        titles.extend(plan.stages.iter().filter_map(|stage| match &stage.work {
            Work::Report(report) => report.title.clone(),
            _ => None,
        }));
        runs.push(ReportedRun::new(&plan, &dir, Some(folder.display().to_string()))?);
        plans.push((plan, dir));
    }
    // A title is of one run; several are named by their recipes.
    let title = titles.pop().filter(|_| args.runs.len() == 1);
    let out = args.out.as_ref().unwrap_or(&args.runs[0]);
    let plans: Vec<(&Plan, &RunDir)> = plans.iter().map(|(plan, dir)| (plan, dir)).collect();
    let files = stages::report::write(&Report::new(title, runs, Experiment::find(&plans)?), out)?;
    let paths: Vec<String> = files.iter().map(|file| out.join(&file.path).display().to_string()).collect();
    if json {
        let ending = |end: &str| paths.iter().filter(|path| path.ends_with(end)).collect::<Vec<_>>();
        super::print_json(&json!({
            "report": ending("report.html").first(),
            "summary": ending("summary.json").first(),
            "pictures": ending(".svg"),
        }))?;
    } else {
        super::print(&paths.iter().map(|path| format!("{path}\n")).collect::<String>())?;
    }
    Ok(Exit::Done)
}
