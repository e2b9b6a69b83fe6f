//! Ray: the driver of `python/`, one Ray task for each task of the protocol.

use super::Job;
use crate::error::{Exit, Failure};
use std::process::Command;

pub(super) fn command(job: &Job) -> Vec<String> {
    let mut command: Vec<String> =
        ["python3", "-m", "four_habits_ray", "--program", &job.program, "--run-dir"].map(str::to_owned).into();
    command.extend([
        job.run_dir.display().to_string(),
        "--tasks".into(),
        job.args.tasks.to_string(),
        "--attempts".into(),
        job.args.attempts.to_string(),
        "--gpus".into(),
        job.args.gpus.to_string(),
    ]);
    command.extend(job.args.options.iter().cloned());
    command.push("--".into());
    command.extend(job.arguments());
    command
}

pub(super) fn submit(job: &Job) -> anyhow::Result<Exit> {
    let command = command(job);
    let python = std::env::var("PYTHON").unwrap_or_else(|_| command[0].clone());
    let status = Command::new(&python)
        .args(&command[1..])
        .status()
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot start `{python}`: {error}")))?;
    match status.code() {
        Some(0) => Ok(Exit::Done),
        Some(3) => Ok(Exit::Incomplete),
        code => {
            let message =
                format!("the Ray driver ended with {}", code.map_or("a signal".into(), |code| code.to_string()));
            Err(Failure::new(Exit::Failed, message).hint("it needs `pip install ./python`").into())
        }
    }
}
