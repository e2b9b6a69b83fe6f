//! `pipeline plan RECIPE`: resolves and pins everything, compares it with the run folder, and stops.

use crate::cli::PlanArgs;
use crate::config;
use crate::error::Exit;
use crate::plan::Plan;
use crate::plan::overview::Overview;
use crate::run::reporter::Reporter;
use std::sync::Arc;

pub fn run(args: &PlanArgs, json: bool) -> anyhow::Result<Exit> {
    let recipe = config::load(&args.recipe.recipe)?;
    let dir = super::run_dir(&args.recipe, &recipe);
    let reporter = Arc::new(Reporter::new(false));
    let plan = Plan::resolve(&recipe, args.recipe.limit, &super::hub(&reporter)?)?;
    let overview = Overview::new(&plan, &dir)?;
    if json {
        super::print_json(&overview)?;
    } else {
        super::print(&overview.text())?;
        if let Some(stored) = super::stored_plan(&dir)?
            && stored.plan_id != plan.plan_id
        {
            reporter.notice(format!(
                "`{}` holds another plan ({}); `pipeline run --replan` adopts this one and keeps what is not stale",
                dir.root().display(),
                stored.plan_id
            ));
        }
    }
    Ok(Exit::Done)
}
