//! This machine: all tasks as processes at once, those that did not finish again, then the finishing run.

use super::{Job, shell};
use crate::error::Exit;
use crate::run::stop::Stop;
use anyhow::Context;
use std::process::{Child, Command};
use std::time::Duration;

/// The tasks' commands, and the finishing one.
pub(super) fn commands(job: &Job) -> Vec<Vec<String>> {
    let mut commands: Vec<Vec<String>> = (0..job.args.tasks).map(|task| command(job, Some(task))).collect();
    commands.push(command(job, None));
    commands
}

fn command(job: &Job, task: Option<u64>) -> Vec<String> {
    let mut command = vec![job.program.clone(), "run".to_owned()];
    command.extend(job.arguments());
    if let Some(task) = task {
        command.extend(["--task-index".into(), task.to_string(), "--task-count".into(), job.args.tasks.to_string()]);
    }
    command
}

pub(super) fn submit(job: &Job) -> anyhow::Result<Exit> {
    let stop = Stop::on_signals().context("cannot listen to signals")?;
    let mut left: Vec<u64> = (0..job.args.tasks).collect();
    for attempt in 1..=job.args.attempts {
        left = attempt_tasks(job, &left, &stop)?;
        if stop.requested() {
            return Ok(stop.exit());
        }
        if left.is_empty() {
            break;
        }
        eprint_line(&format!("attempt {attempt} of {}: tasks {left:?} did not finish", job.args.attempts));
    }
    if !left.is_empty() {
        return Ok(Exit::Incomplete);
    }
    let finish = run_all(&[command(job, None)], &stop)?;
    Ok(match finish.first() {
        Some(0) => Exit::Done,
        _ if stop.requested() => stop.exit(),
        Some(65) => Exit::BadData,
        Some(69) => Exit::Unavailable,
        Some(75) => Exit::TryAgain,
        Some(2) => Exit::Usage,
        _ => Exit::Failed,
    })
}

/// Runs some tasks at once; those that did not end well.
fn attempt_tasks(job: &Job, tasks: &[u64], stop: &Stop) -> anyhow::Result<Vec<u64>> {
    let commands: Vec<Vec<String>> = tasks.iter().map(|&task| command(job, Some(task))).collect();
    let codes = run_all(&commands, stop)?;
    Ok(tasks.iter().zip(codes).filter(|(_, code)| *code != 0).map(|(&task, _)| task).collect())
}

/// Runs commands at once and gives their exit codes; a signal to this program goes on to them.
fn run_all(commands: &[Vec<String>], stop: &Stop) -> anyhow::Result<Vec<i32>> {
    let mut running: Vec<Child> = Vec::new();
    for command in commands {
        let child = Command::new(&command[0]).args(&command[1..]).spawn();
        running.push(child.with_context(|| format!("cannot start `{}`", shell(command)))?);
    }
    let mut codes = vec![None; running.len()];
    let mut told = false;
    while codes.contains(&None) {
        if stop.requested() && !told {
            told = true;
            for child in &running {
                // The keyboard's interrupt reaches them by itself; TERM to this process alone does not.
                let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            }
        }
        for (child, code) in running.iter_mut().zip(&mut codes) {
            if code.is_none() {
                *code = child.try_wait()?.map(|status| status.code().unwrap_or(-1));
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(codes.into_iter().flatten().collect())
}

#[expect(clippy::print_stderr, reason = "what went wrong is said where the tasks say it")]
fn eprint_line(line: &str) {
    eprintln!("{line}");
}
