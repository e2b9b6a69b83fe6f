//! One file per subcommand.

mod bench;
mod compare;
mod completions;
mod doctor;
mod evaluate;
mod export;
mod inspect;
mod man;
mod plan;
mod report;
mod run;
pub mod schema;
mod status;
mod submit;
mod summary;
mod verify;

use crate::cli::{Cli, Command, RecipeArgs};
use crate::config::Recipe;
use crate::data::hub::{Hub, HubConfig, Notice};
use crate::error::{Exit, Failure};
use crate::plan::Plan;
use crate::run::dir::RunDir;
use crate::run::reporter::Reporter;
use anyhow::Context;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs the command that was typed.
pub fn run(cli: Cli) -> anyhow::Result<Exit> {
    let json = cli.json;
    match cli.command {
        Command::Run(args) => run::run(&args, json),
        Command::Plan(args) => plan::run(&args, json),
        Command::Status(args) => status::run(&args, json),
        Command::Verify(args) => verify::run(&args, json),
        Command::Inspect(args) => inspect::run(&args, json),
        Command::Evaluate(args) => evaluate::run(&args, json),
        Command::Compare(args) => compare::run(&args, json),
        Command::Bench(args) => bench::run(&args, json),
        Command::Report(args) => report::run(&args, json),
        Command::Export(args) => export::run(&args, json),
        Command::Doctor(args) => doctor::run(&args, json),
        Command::Man(args) => man::run(&args),
        Command::Submit(args) => submit::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Completions { shell } => completions::run(shell),
    }
}

/// Prints data on stdout; a reader that went away is an error that `main` forgives.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to stdout")
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Makes `--threads` the number of threads for parallel work; without it, all cores. Once, before any such work.
fn start_threads(threads: Option<u64>) -> anyhow::Result<()> {
    let Some(threads) = threads else { return Ok(()) };
    rayon::ThreadPoolBuilder::new().num_threads(threads as usize).build_global().context("cannot start threads")
}

/// Tells of what does not end a command that has no reporter.
fn notice_on_stderr() -> Notice {
    Arc::new(|message: &str| {
        // Nothing is left to do if stderr is closed.
        let _ = writeln!(std::io::stderr(), "{message}");
    })
}

/// The client of hub and web servers, set up by the environment as the Hub's own clients are.
fn hub(reporter: &Arc<Reporter>) -> anyhow::Result<Hub> {
    let config = HubConfig::from_env(|name| std::env::var(name).ok())?;
    let reporter = Arc::clone(reporter);
    Ok(Hub::new(config, Arc::new(move |message: &str| reporter.notice(message))))
}

fn run_dir(args: &RecipeArgs, recipe: &Recipe) -> RunDir {
    RunDir::new(args.run_dir.clone().unwrap_or_else(|| PathBuf::from("runs").join(recipe.name())))
}

/// The plan of a run folder; none if there is none yet.
fn stored_plan(dir: &RunDir) -> anyhow::Result<Option<Plan>> {
    let path = dir.plan();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::new(Exit::Usage, format!("cannot read `{}`: {error}", path.display())).into());
        }
    };
    let plan = serde_json::from_slice(&text).map_err(|error| {
        Failure::new(Exit::Usage, format!("`{}` is not a plan of this program: {error}", path.display()))
            .hint("start over with `--fresh`, or choose another folder")
    })?;
    Ok(Some(plan))
}

/// The plan of what must be a run folder.
fn existing_plan(run: &Path) -> anyhow::Result<(RunDir, Plan)> {
    let dir = RunDir::new(run);
    match stored_plan(&dir)? {
        Some(plan) => Ok((dir, plan)),
        None => {
            Err(Failure::new(Exit::Usage, format!("`{}` is not a run folder: it has no `plan.json`", run.display()))
                .hint("`pipeline run RECIPE` makes one under `runs/`")
                .into())
        }
    }
}
