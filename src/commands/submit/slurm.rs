//! Slurm: an array of tasks, and a job behind it that submits again what is missing and then finishes the run.

use super::{Job, quoted, render, shell};
use crate::error::{Exit, Failure};
use crate::run::commit;
use minijinja::context;
use std::process::Command;

pub(super) fn array(job: &Job) -> anyhow::Result<String> {
    script(job, include_str!("../../../assets/submit/array.sbatch.jinja"), &job.args.options)
}

pub(super) fn finish(job: &Job) -> anyhow::Result<String> {
    script(job, include_str!("../../../assets/submit/finish.sbatch.jinja"), &finishing(&job.args.options))
}

fn script(job: &Job, template: &str, options: &[String]) -> anyhow::Result<String> {
    render(
        template,
        context! {
            name => job.name.as_str(),
            tasks => job.args.tasks,
            attempts => job.args.attempts,
            folder => job.folder.display().to_string(),
            submit => quoted(&job.submit_folder().display().to_string()),
            run_dir => quoted(&job.run_dir.display().to_string()),
            program => quoted(&job.program),
            arguments => shell(&job.arguments()),
            options => options.to_vec(),
        },
    )
}

/// What of the tasks' options is meant for the finishing job, too: where it may run, not what a judge needs.
fn finishing(options: &[String]) -> Vec<String> {
    let of_tasks = ["--gres", "--gpus", "-G", "--array", "-a", "--constraint", "-C"];
    options.iter().filter(|option| !of_tasks.iter().any(|flag| option.starts_with(flag))).cloned().collect()
}

pub(super) fn submit(job: &Job) -> anyhow::Result<Exit> {
    let folder = job.submit_folder();
    for (name, text) in [("array.sbatch", array(job)?), ("finish.sbatch", finish(job)?)] {
        commit::write_atomic(&folder.join(name), text.as_bytes())?;
    }
    let array = sbatch(&["--parsable".to_owned(), folder.join("array.sbatch").display().to_string()])?;
    let finish = sbatch(&[
        "--parsable".to_owned(),
        format!("--dependency=afterany:{array}"),
        folder.join("finish.sbatch").display().to_string(),
    ])?;
    crate::commands::print(&format!(
        "array {array} ({} tasks), finishing job {finish}\nwatch: pipeline status {}\nlogs:  {}\n",
        job.args.tasks,
        quoted(&job.run_dir.display().to_string()),
        folder.display()
    ))?;
    Ok(Exit::Done)
}

/// The id of a job submitted.
fn sbatch(arguments: &[String]) -> anyhow::Result<String> {
    let output = Command::new("sbatch").args(arguments).output().map_err(|error| {
        Failure::new(Exit::Usage, format!("cannot start `sbatch`: {error}"))
            .hint("submit from a node that has Slurm's commands, or see the scripts with `--print`")
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(Exit::Failed, format!("`sbatch` refused: {}", said.trim())).into());
    }
    // `--parsable` gives the id, and behind a semicolon the cluster's name.
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.trim().split(';').next().unwrap_or_default().to_owned())
}
