//! `report`: one page about the run.

use crate::config::Report;
use crate::plan::Stage;
use crate::run::Runner;
use crate::run::manifest::{Counts, Manifest};

pub fn run(runner: &Runner, stage: &Stage, _report: &Report) -> anyhow::Result<Manifest> {
    Ok(Manifest {
        plan_id: runner.plan.plan_id.clone(),
        stage: stage.work.name().to_owned(),
        stage_key: stage.key.clone(),
        unit: "all".to_owned(),
        input: "the run".to_owned(),
        input_sha256: String::new(),
        outputs: vec![],
        counts: Counts::default(),
        labels: None,
        judge: None,
        corpora: Default::default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
