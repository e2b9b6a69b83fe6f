//! The run folder: its layout, and the lock that keeps two runs apart.
//!
//! ```text
//! runs/curate/
//!   plan.json                          what is to be done, written once
//!   events.jsonl                       what happened, with times
//!   manifests/<stage>/<unit>.json      what is done
//!   classify/labels/<unit>.parquet     label sidecars        classify/quarantine/<unit>.parquet
//!   classify/journal/<unit>.jsonl      labels of the unit in hand
//!   sketch/<unit>.parquet              sizes and MinHash keys
//!   curate/<corpus>/train-00000-of-000NN.parquet, test-…, README.md
//!   rewrite/<corpus>/{train,test,quarantine}.parquet, rewrite.json, README.md
//!   prime/<condition>/{train,test,rejected}.parquet, prime/verl/…, fairness.json, README.md
//!   tokens/<hash>.tokens                training data as tokens, shared by arms
//!   pretrain/model/                    the trained model; checkpoints/, metrics.jsonl, metrics.parquet, samples.jsonl, README.md
//!   ppo/model/                         the model trained by reinforcement; checkpoints/, metrics.jsonl, metrics.parquet,
//!                                      rollouts/step-*.parquet, evaluations/step-*.parquet
//!   attempts/<stage>/<unit>.json       units that failed, how often and why
//!   submit/                            scripts and logs of schedulers
//!   arms/<arm>/…                       the same for stages that an arm changes
//! ```

use crate::error::{Exit, Failure};
use crate::run::commit;
use anyhow::Context;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// A run folder.
#[derive(Debug, Clone)]
pub struct RunDir {
    root: PathBuf,
}

/// What runs put into their folder. The plan is last: as long as it is there, the folder is known as a run's.
const OURS: [&str; 18] = [
    "manifests",
    "arms",
    "classify",
    "sketch",
    "curate",
    "rewrite",
    "arithmetic",
    "prime",
    "base",
    "pretrain",
    "ppo",
    "tokens",
    "report",
    "fetch",
    "attempts",
    "submit",
    "events.jsonl",
    "plan.json",
];

const LOCK: &str = "run.lock";

/// Holds the run folder for as long as it lives; the operating system frees it when the process dies.
#[derive(Debug)]
pub struct RunLock {
    _files: Vec<File>,
}

impl RunDir {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    pub fn plan(&self) -> PathBuf {
        self.path("plan.json")
    }

    pub fn events(&self) -> PathBuf {
        self.path("events.jsonl")
    }

    /// Creates the folder and takes it: alone for a whole run, shared with other tasks for one task.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Usage`] if another process has it, or it holds files of somebody else under names that
    /// runs write and delete; one with [`Exit::Failed`] if it cannot be written.
    pub fn lock(&self, task_index: Option<u64>) -> anyhow::Result<RunLock> {
        self.check_ours()?;
        commit::create_folder(&self.root)?;
        let file = self.open_lock(LOCK)?;
        let taken = if task_index.is_some() { file.try_lock_shared() } else { file.try_lock() };
        self.check(taken, "another run")?;
        let mut files = vec![file];
        if let Some(index) = task_index {
            let file = self.open_lock(&format!("task-{index}.lock"))?;
            self.check(file.try_lock(), &format!("task {index}"))?;
            files.push(file);
        }
        Ok(RunLock { _files: files })
    }

    /// Deletes what runs have put here, and nothing else.
    pub fn clear(&self) -> anyhow::Result<()> {
        OURS.iter().try_for_each(|name| self.remove(name))
    }

    /// Deletes a file or folder of this run folder, if it is there.
    pub fn remove(&self, relative: impl AsRef<Path>) -> anyhow::Result<()> {
        let path = self.path(relative);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove `{}`", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// A folder is a run's if a run has locked it or its plan is one (the lock may not have been copied along).
    fn check_ours(&self) -> anyhow::Result<()> {
        let is_plan = || {
            let plan = std::fs::read(self.plan()).ok()?;
            serde_json::from_slice::<serde_json::Value>(&plan).ok()?.get("plan_id").map(|_| ())
        };
        if self.path(LOCK).exists() || is_plan().is_some() {
            return Ok(());
        }
        match OURS.iter().find(|name| self.path(name).exists()) {
            None => Ok(()),
            Some(name) => {
                let message = format!("`{}` is not a run folder, and holds `{name}`", self.root.display());
                Err(Failure::new(Exit::Usage, message).hint("choose another folder with `--run-dir`").into())
            }
        }
    }

    fn open_lock(&self, name: &str) -> anyhow::Result<File> {
        let path = self.path(name);
        File::options().create(true).append(true).open(&path).map_err(|error| commit::write_failure(&path, &error))
    }

    fn check(&self, taken: Result<(), TryLockError>, who: &str) -> anyhow::Result<()> {
        match taken {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                Err(Failure::new(Exit::Usage, format!("`{}` is in use by {who}", self.root.display()))
                    .hint("wait for it, or choose another folder with `--run-dir`")
                    .into())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock `{}`", self.root.display()))
            }
        }
    }
}
