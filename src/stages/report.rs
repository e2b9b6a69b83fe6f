//! `report`: one page about the run, its pictures, and the same numbers as JSON.
//!
//! It runs last, once, and reads committed files alone. It holds no clock reading and no path outside the run folder,
//! so that equal runs give equal bytes wherever they lie.

use crate::config;
use crate::plan::Stage;
use crate::report::experiment::Experiment;
use crate::report::page::{Report, ReportedRun};
use crate::run::Runner;
use crate::run::commit::StagedFile;
use crate::run::manifest::{Counts, Manifest, Output};
use std::io::Write;
use std::path::Path;

pub fn run(runner: &Runner, stage: &Stage, settings: &config::Report) -> anyhow::Result<Manifest> {
    let run = ReportedRun::new(runner.plan, runner.dir, None)?;
    let report = Report::new(settings.title.clone(), vec![run], Experiment::find(&[(runner.plan, runner.dir)])?);
    let mut outputs = write(&report, &runner.dir.path(&stage.folder))?;
    for output in &mut outputs {
        output.path = format!("{}/{}", stage.folder, output.path);
    }
    Ok(Manifest {
        plan_id: runner.plan.plan_id.clone(),
        stage: stage.work.name().to_owned(),
        stage_key: stage.key.clone(),
        unit: "all".to_owned(),
        input: "the run".to_owned(),
        input_sha256: String::new(),
        outputs,
        counts: Counts::default(),
        labels: None,
        judge: None,
        corpora: Default::default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Writes a report's files into `folder`. Paths in the result are relative to it.
pub fn write(report: &Report, folder: &Path) -> anyhow::Result<Vec<Output>> {
    let mut outputs = Vec::new();
    for file in report.files()? {
        let path = folder.join(&file.path);
        let mut staged = StagedFile::create(&path)?;
        staged.write_all(file.text.as_bytes()).map_err(|error| crate::run::commit::write_failure(&path, &error))?;
        let committed = staged.commit(|_| Ok(()))?;
        outputs.push(Output { path: file.path, bytes: committed.bytes, sha256: committed.sha256, rows: 0 });
    }
    Ok(outputs)
}
