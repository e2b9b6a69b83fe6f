//! `pipeline submit ENGINE RECIPE --tasks N`: the task protocol handed to a scheduler.
//!
//! Every engine does the same: the plan is made once, here; N tasks run `pipeline run --task-index I --task-count N`; what is
//! missing afterwards is submitted again; a last `pipeline run` does what needs all units. Nothing but the run folder is shared.

mod kubernetes;
mod local;
mod ray;
mod slurm;

use crate::cli::{Engine, Submit};
use crate::config;
use crate::error::{Exit, Failure};
use crate::plan::Plan;
use crate::run::commit::{self, Created};
use crate::run::dir::RunDir;
use crate::run::reporter::Reporter;
use anyhow::Context;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value};
use std::path::PathBuf;
use std::sync::Arc;

/// What every engine needs to know of a run.
struct Job<'a> {
    args: &'a Submit,
    /// The run's name, of letters that every engine accepts in a job's name.
    name: String,
    /// This program.
    program: String,
    /// Where the run folder is, as `run` would be told it.
    run_dir: PathBuf,
    /// Where recipe and sources are relative to.
    folder: PathBuf,
}

pub fn run(args: &Submit) -> anyhow::Result<Exit> {
    let recipe = config::load(&args.recipe.recipe)?;
    let dir = super::run_dir(&args.recipe, &recipe);
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let job = Job {
        args,
        name: format!("pipeline-{}", job_name(&recipe.name())),
        program: program.display().to_string(),
        run_dir: dir.root().to_owned(),
        folder: std::env::current_dir().context("cannot tell the working directory")?,
    };
    if args.print {
        super::print(&job.text()?)?;
        return Ok(Exit::Done);
    }
    if args.engine == Engine::K8s {
        return Err(Failure::new(Exit::Usage, "`submit k8s` prints a manifest and applies nothing")
            .hint("use `--print`, then `kubectl apply`")
            .into());
    }
    // Tasks that start together read one plan; a recipe that cannot run is said here and not in N logs.
    store_plan(args, &dir)?;
    match args.engine {
        Engine::Slurm => slurm::submit(&job),
        Engine::Ray => ray::submit(&job),
        Engine::Local | Engine::K8s => local::submit(&job),
    }
}

/// Plans the run if it is not planned yet.
fn store_plan(args: &Submit, dir: &RunDir) -> anyhow::Result<()> {
    let recipe = config::load(&args.recipe.recipe)?;
    let reopen = |plan: Plan| plan.reopen(&recipe, args.recipe.limit, &dir.root().display().to_string()).map(|_| ());
    if let Some(plan) = super::stored_plan(dir)? {
        return reopen(plan);
    }
    let reporter = Arc::new(Reporter::new(false));
    let plan = Plan::resolve(&recipe, args.recipe.limit, &super::hub(&reporter)?)?;
    let _lock = dir.lock(None)?;
    let mut text = serde_json::to_vec_pretty(&plan)?;
    text.push(b'\n');
    if commit::create_exclusive(&dir.plan(), &text)? == Created::AlreadyThere {
        return reopen(super::stored_plan(dir)?.context("the plan vanished")?);
    }
    Ok(())
}

impl Job<'_> {
    fn text(&self) -> anyhow::Result<String> {
        match self.args.engine {
            Engine::Slurm => {
                Ok(format!("# array.sbatch\n{}\n# finish.sbatch\n{}", slurm::array(self)?, slurm::finish(self)?))
            }
            Engine::K8s => kubernetes::manifest(self),
            Engine::Ray => Ok(shell(&ray::command(self)) + "\n"),
            Engine::Local => Ok(local::commands(self).iter().map(|command| shell(command) + "\n").collect()),
        }
    }

    /// The arguments behind `pipeline run` that all tasks have in common.
    fn arguments(&self) -> Vec<String> {
        let recipe = &self.args.recipe;
        let mut arguments =
            vec![recipe.recipe.display().to_string(), "--run-dir".into(), self.run_dir.display().to_string()];
        let mut add = |flag: &str, value: Option<String>| {
            arguments.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
        };
        add("--limit", recipe.limit.map(|limit| limit.to_string()));
        add("--threads", self.args.threads.map(|threads| threads.to_string()));
        arguments
    }

    /// Where scripts and the tasks' output go.
    fn submit_folder(&self) -> PathBuf {
        self.run_dir.join("submit")
    }
}

/// Renders a template whose values are of `context`.
fn render(template: &str, context: Value) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_template("job", template).context("the job's template is wrong")?;
    Ok(environment.get_template("job")?.render(context).context("cannot write the job")? + "\n")
}

/// A command as a shell reads it.
fn shell<S: AsRef<str>>(words: &[S]) -> String {
    words.iter().map(|word| quoted(word.as_ref())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A name of lower-case letters, digits and hyphens, as Kubernetes asks for.
fn job_name(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let name: String = name.trim_matches('-').chars().take(40).collect();
    if name.is_empty() { "run".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(shell(&["pipeline", "run", "a b.toml", "it's", ""]), r"pipeline run 'a b.toml' 'it'\''s' ''");
    }

    #[test]
    fn names_suit_every_engine() {
        assert_eq!(job_name("My_Run.2"), "my-run-2");
        assert_eq!(job_name("ÄÖ"), "run");
    }
}
