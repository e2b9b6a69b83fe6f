//! What a stage gets to work on one unit, and what it gives back.

use super::dir::RunDir;
use super::events::{Event, Progress};
use super::manifest::{Counts, LabelStatistics, Manifest, Output};
use super::reporter::Reporter;
use super::stop::Stop;
use crate::behavior::judge::{JudgeIdentity, Labels};
use crate::data::parquet_sink::Written;
use crate::error::{Exit, Failure};
use crate::plan::{Plan, Shard, Stage, Unit};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One unit of one stage, and where its files go.
#[derive(Clone, Copy)]
pub struct Assignment<'a> {
    pub plan: &'a Plan,
    pub stage: &'a Stage,
    pub unit: &'a Unit,
    pub shard: &'a Shard,
    pub dir: &'a RunDir,
}

/// A unit in hand, with everything around it.
pub struct WorkContext<'a, 'p> {
    pub assignment: Assignment<'a>,
    pub stop: &'p Stop,
    pub progress: &'p Tracker<'p>,
    /// The share of rows that may be quarantined before the run stops.
    pub max_quarantined_share: f64,
}

/// How a unit's work ended.
pub enum Verdict<'a> {
    /// All that is left is to put the outputs in their places.
    Done(Commit<'a>),
    /// There is nothing to do.
    Present,
    /// A signal asked for it; what is done so far is journaled.
    Stopped,
}

/// A unit's results, which [`Commit::write`] puts in their places, on any thread.
pub struct Commit<'a> {
    /// How many documents the results are of.
    pub rows: u64,
    pub write: Box<dyn FnOnce() -> anyhow::Result<UnitWork> + Send + 'a>,
}

/// A finished unit, its outputs in place and its manifest not yet written.
pub struct UnitWork {
    pub outputs: Vec<Output>,
    pub counts: Counts,
    pub labels: Option<LabelStatistics>,
    pub judge: Option<JudgeIdentity>,
}

/// Rows seen before a quarantined share means anything.
const SHARE_AFTER_ROWS: u64 = 100;

impl Assignment<'_> {
    /// A path in the stage's folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path(&self.stage.folder).join(relative)
    }

    /// The record of a committed file of the stage's folder.
    pub fn output(&self, relative: &str, written: Written) -> Output {
        Output {
            path: format!("{}/{relative}", self.stage.folder),
            bytes: written.committed.bytes,
            sha256: written.committed.sha256,
            rows: written.rows,
        }
    }

    pub fn manifest(&self, work: UnitWork) -> Manifest {
        Manifest {
            plan_id: self.plan.plan_id.clone(),
            stage: self.stage.work.name().to_owned(),
            stage_key: self.stage.key.clone(),
            unit: self.unit.id.clone(),
            input: self.shard.name.clone(),
            input_sha256: self.shard.sha256.clone(),
            outputs: work.outputs,
            counts: work.counts,
            labels: work.labels,
            judge: work.judge,
            corpora: std::collections::BTreeMap::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl WorkContext<'_, '_> {
    /// Ends the run if too many documents had to be quarantined. Few rows prove nothing, so it waits for some.
    pub fn check_quarantined_share(&self) -> anyhow::Result<()> {
        let progress = self.progress.snapshot();
        if progress.documents < SHARE_AFTER_ROWS {
            Ok(())
        } else {
            check_share(
                &self.assignment.stage.folder,
                progress.quarantined,
                progress.documents,
                self.max_quarantined_share,
            )
        }
    }
}

/// # Errors
/// A [`Failure`] with [`Exit::BadData`] if more than `allowed` of the rows are quarantined.
pub fn check_share(folder: &str, quarantined: u64, rows: u64, allowed: f64) -> anyhow::Result<()> {
    if rows == 0 || quarantined as f64 <= allowed * rows as f64 {
        return Ok(());
    }
    let message = format!(
        "`{folder}` could not judge {quarantined} of {rows} documents, more than the allowed {:.2} %",
        100.0 * allowed
    );
    let hint = format!(
        "`{folder}/quarantine/` and `{folder}/journal/` say why for each; labels made so far are kept; raise `classify.max-quarantined-share` to go on"
    );
    Err(Failure::new(Exit::BadData, message).hint(hint).into())
}

/// Counts a stage's progress over all its units, and reports it a few times a second.
pub struct Tracker<'a> {
    reporter: &'a Reporter,
    stage: String,
    quiet: bool,
    state: Mutex<State>,
}

struct State {
    progress: Progress,
    started: Instant,
    reported: Option<Instant>,
}

const REPORT_INTERVAL: Duration = Duration::from_millis(200);

impl<'a> Tracker<'a> {
    /// `done` is what manifests of earlier attempts hold.
    pub fn new(
        reporter: &'a Reporter,
        stage: &str,
        documents_total: Option<u64>,
        done: &Counts,
        labels: &LabelStatistics,
    ) -> Self {
        let progress = Progress {
            documents: done.rows_in,
            documents_total,
            quarantined: done.quarantined,
            shown: crate::behavior::Behavior::ALL.map(|behavior| labels.shown(behavior)),
            ..Progress::default()
        };
        let state = Mutex::new(State { progress, started: Instant::now(), reported: None });
        Self { reporter, stage: stage.to_owned(), quiet: false, state }
    }

    /// Counts without reporting: another stage of the same pass speaks for both.
    pub fn hush(&mut self) {
        self.quiet = true;
    }

    /// Counts documents that are judged: each its labels, or none if it is quarantined.
    pub fn add_labels<'l>(&self, outcomes: impl Iterator<Item = Option<&'l Labels>>) {
        self.count_labels(outcomes, true);
    }

    /// Counts documents that an earlier attempt judged; they say nothing of this one's speed.
    pub fn replay_labels<'l>(&self, outcomes: impl Iterator<Item = Option<&'l Labels>>) {
        self.count_labels(outcomes, false);
    }

    fn count_labels<'l>(&self, outcomes: impl Iterator<Item = Option<&'l Labels>>, here: bool) {
        self.update(|progress| {
            for labels in outcomes {
                progress.documents += 1;
                progress.documents_here += u64::from(here);
                match labels {
                    None => progress.quarantined += 1,
                    Some(labels) => {
                        progress.tokens_here += if here { labels.tokens_read } else { 0 };
                        for (shown, mark) in progress.shown.iter_mut().zip(labels.marks) {
                            *shown += u64::from(mark.count > 0);
                        }
                    }
                }
            }
        });
    }

    /// Counts documents of a stage without labels.
    pub fn add_documents(&self, documents: u64) {
        self.update(|progress| {
            progress.documents += documents;
            progress.documents_here += documents;
        });
    }

    pub fn snapshot(&self) -> Progress {
        self.lock().progress.clone()
    }

    fn update(&self, change: impl FnOnce(&mut Progress)) {
        let mut state = self.lock();
        change(&mut state.progress);
        state.progress.seconds = state.started.elapsed().as_secs_f64();
        if !self.quiet && state.reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
            state.reported = Some(Instant::now());
            let progress = state.progress.clone();
            drop(state);
            self.reporter.emit(Event::Progress { stage: self.stage.clone(), progress });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
