//! Units that failed for a reason of their own, such as a damaged shard: how often, and why. The others go on without them.
//!
//! What stops a whole run (a full disk, an endpoint that is down, a recipe that cannot work) is no attempt, nor is a kill.

use super::commit;
use super::dir::RunDir;
use crate::error::{Exit, Failure};
use crate::plan::Stage;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A unit that failed so often is left alone until somebody says otherwise.
pub const MOST_ATTEMPTS: u32 = 3;

/// The folder of all records, relative to the run folder.
pub const FOLDER: &str = "attempts";

/// A unit's failures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Failures under another recipe do not count.
    stage_key: String,
    pub attempts: u32,
    /// The last error.
    pub error: String,
}

impl Failed {
    pub fn is_poison(&self) -> bool {
        self.attempts >= MOST_ATTEMPTS
    }
}

/// A unit's record; none if it never failed. A damaged record counts for nothing: the unit is tried again.
pub fn read(dir: &RunDir, stage: &Stage, unit: &str) -> Option<Failed> {
    let failed: Failed = serde_json::from_slice(&std::fs::read(path(dir, stage, unit)).ok()?).ok()?;
    (failed.stage_key == stage.key).then_some(failed)
}

/// Counts one more failure.
pub fn record(dir: &RunDir, stage: &Stage, unit: &str, error: &anyhow::Error) -> anyhow::Result<Failed> {
    let before = read(dir, stage, unit).map_or(0, |failed| failed.attempts);
    let failed = Failed { stage_key: stage.key.clone(), attempts: before + 1, error: format!("{error:#}") };
    let mut text = serde_json::to_vec_pretty(&failed)?;
    text.push(b'\n');
    commit::write_atomic(&path(dir, stage, unit), &text)?;
    Ok(failed)
}

fn path(dir: &RunDir, stage: &Stage, unit: &str) -> PathBuf {
    dir.path(FOLDER).join(&stage.folder).join(format!("{unit}.json"))
}

/// Whether an error is about the unit's own data, so that other units may do better: bad data, or something that no part of
/// the program expected.
pub fn is_of_the_unit(error: &anyhow::Error) -> bool {
    let foreseen = error.chain().any(|cause| cause.downcast_ref::<Failure>().is_some());
    !foreseen || crate::error::exit_of(error) == Exit::BadData
}

/// Fails the unit whose id `FOUR_HABITS_FAIL_UNIT` holds, so that a test can see the others go on.
pub fn fail_point(unit: &str) -> anyhow::Result<()> {
    anyhow::ensure!(!std::env::var("FOUR_HABITS_FAIL_UNIT").is_ok_and(|ids| ids.contains(unit)), "made to fail");
    Ok(())
}

/// How a pass ends in which units or shards failed: with the one error, or with their number and the first one.
pub fn summary(mut failed: Vec<(String, anyhow::Error)>, poison: Vec<(String, Failed)>) -> anyhow::Error {
    let (count, known) = (failed.len(), poison.len());
    if count == 1 && known == 0 {
        return failed.remove(0).1;
    }
    let first = match (failed.first(), poison.first()) {
        (Some((what, error)), _) => format!("{what}: {error:#}"),
        (None, Some((unit, record))) => format!("unit `{unit}`: {}", record.error),
        (None, None) => String::new(),
    };
    let message = match (count, known) {
        (_, 0) => format!("{count} units or shards failed, the first is {first}"),
        (0, 1) => format!("a unit failed {MOST_ATTEMPTS} times and was left alone, {first}"),
        (0, _) => format!("{known} units failed {MOST_ATTEMPTS} times and were left alone, the first is {first}"),
        _ => format!(
            "{count} units or shards failed, {known} were left alone after {MOST_ATTEMPTS} attempts, the first is {first}"
        ),
    };
    Failure::new(Exit::BadData, message)
        .hint("all other units are done; `pipeline status` lists these; mend their input, then `pipeline run --retry-failed`")
        .into()
}
