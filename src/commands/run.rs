//! `pipeline run RECIPE`: plan once, then do what is missing.

use super::summary;
use crate::cli::{Device, Run};
use crate::config::{self, Recipe};
use crate::data::hub::{self, Hub};
use crate::error::{Exit, Failure, exit_of};
use crate::plan::Plan;
use crate::run::attempts;
use crate::run::commit::{self, Created};
use crate::run::dir::RunDir;
use crate::run::events::Event;
use crate::run::reporter::Reporter;
use crate::run::stop::Stop;
use crate::run::{Options, Runner, execute};
use anyhow::Context;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

pub fn run(args: &Run, json: bool) -> anyhow::Result<Exit> {
    let recipe = config::load(&args.recipe.recipe)?;
    let task = task(args)?;
    if args.device == Device::Cuda {
        // What is wrong with the GPU is said before anything else is done.
        args.device.open()?;
    }
    super::start_threads(args.threads)?;
    let stop = Stop::on_signals().context("cannot listen to signals")?;
    let reporter = Arc::new(Reporter::new(json));
    let hub = super::hub(&reporter)?.stopped_by(hub::Stop::on(stop.flag()));
    let dir = super::run_dir(&args.recipe, &recipe);

    // What is wrong with a recipe is said before a folder is made for it.
    let early = if dir.root().exists() { None } else { Some(Plan::resolve(&recipe, args.recipe.limit, &hub)?) };
    let _lock = dir.lock(task.map(|(index, _)| index))?;
    if args.retry_failed {
        dir.remove(attempts::FOLDER)?;
    }
    let (plan, pinned_now) = plan(args, &recipe, &dir, &hub, early)?;
    reporter.log_to(&dir.events()).map_err(|error| commit::write_failure(&dir.events(), &error))?;
    reporter.emit(Event::RunStarted {
        name: plan.name.clone(),
        plan_id: plan.plan_id.clone(),
        run_dir: dir.root().display().to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
    });

    let started = Instant::now();
    let unchanged = RefCell::new(if pinned_now { plan.local_shards().collect() } else { BTreeSet::new() });
    let options = Options { task, device: args.device };
    let runner = Runner { plan: &plan, dir: &dir, hub: &hub, reporter: &reporter, stop: &stop, options, unchanged };
    let result = execute(&runner);
    let exit = result.as_ref().map_or_else(exit_of, |exit| *exit);
    let message = match (&result, task) {
        (Ok(Exit::Done), None) => Some(summary::of_run(&plan, &dir)?),
        (Ok(Exit::Done), Some((index, count))) => Some(format!(
            "task {index} of {count} is done; when all are, the same command without `--task-index` finishes the run"
        )),
        (Ok(_), _) => Some("stopped; the same command goes on from here".to_owned()),
        (Err(error), _) => Some(format!("{error:#}")).filter(|_| json),
    };
    reporter.emit(Event::RunDone { seconds: started.elapsed().as_secs_f64(), exit_code: exit as u8, message });
    result
}

/// The stored plan if it is of this recipe, else a new one (`early` if it is made already), stored; and whether its inputs
/// were pinned just now.
fn plan(args: &Run, recipe: &Recipe, dir: &RunDir, hub: &Hub, early: Option<Plan>) -> anyhow::Result<(Plan, bool)> {
    let reopen = |stored: Plan| -> anyhow::Result<(Plan, bool)> {
        let plan = stored.reopen(recipe, args.recipe.limit, &dir.root().display().to_string())?;
        plan.check_resources()?;
        Ok((plan, false))
    };
    let stored = if args.fresh { None } else { super::stored_plan(dir)? };
    if let (Some(stored), false) = (&stored, args.replan) {
        return reopen(stored.clone());
    }
    let plan = match early {
        Some(plan) => plan,
        None => Plan::resolve(recipe, args.recipe.limit, hub)?,
    };
    if args.fresh {
        dir.clear()?;
    }
    let mut text = serde_json::to_vec_pretty(&plan)?;
    text.push(b'\n');
    if stored.is_some() {
        commit::write_atomic(&dir.plan(), &text)?;
    } else if commit::create_exclusive(&dir.plan(), &text)? == Created::AlreadyThere {
        // Another task was first; its plan is the run's.
        let first = super::stored_plan(dir)?.context("the plan vanished")?;
        return reopen(first);
    }
    Ok((plan, true))
}

fn task(args: &Run) -> anyhow::Result<Option<(u64, u64)>> {
    match (args.task_index, args.task_count) {
        (Some(index), Some(count)) if index >= count => Err(Failure::new(
            Exit::Usage,
            format!(
                "`--task-index {index}` is out of range: with `--task-count {count}` the last index is {}",
                count - 1
            ),
        )
        .into()),
        (Some(index), Some(count)) => Ok(Some((index, count))),
        _ => Ok(None),
    }
}
