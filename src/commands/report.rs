//! `pipeline report RUN...`: one page about one or several run folders, side by side.

use crate::cli;
use crate::error::Exit;
use crate::report::page::{Report, ReportedRun};
use crate::stages;
use serde_json::json;

pub fn run(args: &cli::Report, json: bool) -> anyhow::Result<Exit> {
    let mut runs = Vec::new();
    for folder in &args.runs {
        let (dir, plan) = super::existing_plan(folder)?;
        runs.push(ReportedRun::new(&plan, &dir, Some(folder.display().to_string()))?);
    }
    let out = args.out.as_ref().unwrap_or(&args.runs[0]);
    let files = stages::report::write(&Report::new(None, runs), out)?;
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
