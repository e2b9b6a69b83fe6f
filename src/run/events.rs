//! What happens during a run, as data. The work emits events; [`super::reporter`] renders them, `events.jsonl` keeps them.
//!
//! Only this file reads the clock: nothing that goes into an output may depend on it.

use crate::behavior::Behavior;
use crate::run::manifest::Counts;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One event. `pipeline run --json` prints each as a line; `events.jsonl` keeps all but [`Event::Progress`] and [`Event::Fetching`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run begins, or goes on.
    RunStarted { name: String, plan_id: String, run_dir: String, version: String },
    /// A stage begins; `units_done` were found finished.
    StageStarted { stage: String, units: u64, units_done: u64, documents: Option<u64>, documents_done: u64 },
    /// A shard is being downloaded.
    Fetching { shard: String, bytes: u64, total_bytes: u64 },
    /// How far a stage is. Rates count this process's work alone.
    Progress { stage: String, progress: Progress },
    /// A unit's output is committed.
    UnitDone { stage: String, unit: String, counts: Counts },
    /// Something the user should know, that does not end the run.
    Notice { message: String },
    /// A stage is complete.
    StageDone { stage: String, seconds: f64, counts: Counts },
    /// The run ends, with the process's exit code.
    RunDone { seconds: f64, exit_code: u8, message: Option<String> },
}

/// How far a stage is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Progress {
    /// Documents done, those found finished included.
    pub documents: u64,
    /// Documents in all, unknown for formats without a row count.
    pub documents_total: Option<u64>,
    /// Documents and tokens that this process did, and how long it took.
    pub documents_here: u64,
    pub tokens_here: u64,
    pub seconds: f64,
    /// Documents of this stage that show each behavior, in the order of [`Behavior::ALL`]; all zero for other stages.
    pub shown: [u64; 4],
    pub quarantined: u64,
    /// How far training is, for the stage that trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingProgress>,
}

/// How far training is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TrainingProgress {
    /// Optimizer steps done, and in all.
    pub step: u64,
    pub steps: u64,
    /// The last step's mean loss, in nats per token.
    pub loss: f64,
    /// Tokens trained on, and in all.
    pub tokens: u64,
    pub tokens_total: u64,
    /// Tokens that this process trained on.
    pub tokens_here: u64,
    /// Floating-point operations that this process's steps asked for, per second, as a share of what the matrix kernel reaches on
    /// operands in cache. Looks at held-out data and checkpoints take time and count for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_of_peak: Option<f64>,
    /// Of reinforcement: reward, divergence, entropy and others, to be read. Its tokens are counted in responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<String>,
}

impl Progress {
    /// Documents per second of this process.
    pub fn documents_per_second(&self) -> f64 {
        self.documents_here as f64 / self.seconds.max(1e-9)
    }

    /// Tokens per second of this process.
    pub fn tokens_per_second(&self) -> f64 {
        let here = self.training.as_ref().map_or(self.tokens_here, |training| training.tokens_here);
        here as f64 / self.seconds.max(1e-9)
    }

    /// The time left at the rate so far.
    pub fn eta(&self) -> Option<Duration> {
        if let Some(training) = &self.training {
            let left = training.tokens_total.saturating_sub(training.tokens) as f64 / self.tokens_per_second();
            return (training.tokens_here > 0).then(|| Duration::try_from_secs_f64(left).unwrap_or_default());
        }
        let left = self.documents_total?.saturating_sub(self.documents);
        (self.documents_here > 0).then(|| Duration::from_secs_f64(left as f64 / self.documents_per_second()))
    }

    /// The share of judged documents that show a behavior.
    pub fn rate(&self, behavior: Behavior) -> f64 {
        self.shown[behavior.index()] as f64 / (self.documents.saturating_sub(self.quarantined)).max(1) as f64
    }
}

/// An event with its time, as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stamped {
    /// Milliseconds since the Unix epoch.
    pub at: u64,
    #[serde(flatten)]
    pub event: Event,
}

impl Stamped {
    pub fn now(event: Event) -> Self {
        #[expect(clippy::disallowed_methods, reason = "events carry the time; outputs do not")]
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64);
        Self { at, event }
    }
}
