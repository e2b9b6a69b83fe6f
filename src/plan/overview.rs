//! What a plan comes to: units, rows, estimated tokens, disk and work, and what of it is done or stale.

use super::{Plan, Work};
use crate::config::ByteSize;
use crate::run::attempts;
use crate::run::dir::RunDir;
use crate::run::manifest::{Counts, Manifest};
use crate::stages::ppo::estimate::PpoEstimate;
use crate::stages::pretrain::estimate::TrainingEstimate;
use indicatif::HumanCount;
use serde::Serialize;
use std::collections::BTreeMap;

/// Bytes of English and mathematical text per token of today's tokenizers, about.
const BYTES_PER_TOKEN: f64 = 3.3;

/// Bytes of a labels sidecar per document, measured on real labels.
const LABEL_BYTES: u64 = 60;

/// Bytes of a priming trace in Parquet, about.
const TRACE_BYTES: u64 = 700;
/// Of an RL prompt.
const PROMPT_BYTES: u64 = 60;

/// A plan in numbers; what `pipeline plan --json` and `pipeline status --json` print.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    pub name: String,
    pub plan_id: String,
    pub inputs: Vec<InputOverview>,
    pub resources: Vec<ResourceOverview>,
    pub stages: Vec<StageOverview>,
    /// Bytes that the run will need on disk at most, beside what is there already; an estimate.
    pub disk_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputOverview {
    pub sources: Vec<String>,
    pub shards: usize,
    pub bytes: u64,
    /// Unknown for formats without a row count.
    pub rows: Option<u64>,
    pub units: usize,
    /// Estimated from the size of the text columns.
    pub estimated_tokens: Option<u64>,
    pub pinned: Vec<PinnedShard>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PinnedShard {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
    pub rows: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResourceOverview {
    pub name: String,
    pub files: usize,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageOverview {
    pub stage: String,
    pub arms: Vec<String>,
    pub units: usize,
    pub done: usize,
    /// Units done by an earlier recipe; they are done again.
    pub stale: usize,
    pub counts: Counts,
    /// Tokens that a language model has to read for the units that are not done; an estimate.
    pub tokens_to_judge: Option<u64>,
    /// What training will take, for a stage that trains and is not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingEstimate>,
    /// What reinforcement will take, for such a stage that is not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reinforcement: Option<PpoEstimate>,
    /// Units that are not done.
    pub missing: Vec<String>,
    /// Those of them that failed too often and are left alone, with their last error.
    pub poison: BTreeMap<String, String>,
}

impl StageOverview {
    pub fn complete(&self) -> bool {
        self.done == self.units
    }
}

impl Overview {
    /// Compares a plan with what its run folder holds.
    pub fn new(plan: &Plan, dir: &RunDir) -> anyhow::Result<Overview> {
        let inputs: Vec<InputOverview> = plan.inputs.iter().map(input_overview).collect();
        let mut stages = Vec::new();
        for stage in &plan.stages {
            let mut overview = StageOverview {
                stage: stage.folder.clone(),
                arms: stage.arms.clone(),
                units: 0,
                done: 0,
                stale: 0,
                counts: Counts::default(),
                tokens_to_judge: None,
                training: None,
                reinforcement: None,
                missing: Vec::new(),
                poison: BTreeMap::new(),
            };
            for unit in stage.unit_ids(plan) {
                overview.units += 1;
                match Manifest::read(&dir.path(stage.manifest(unit)))? {
                    Some(manifest) if manifest.stage_key == stage.key => {
                        overview.done += 1;
                        overview.counts.add(&manifest.counts);
                        continue;
                    }
                    Some(_) => overview.stale += 1,
                    None => {}
                }
                overview.missing.push(unit.to_owned());
                if let Some(failed) = attempts::read(dir, stage, unit).filter(attempts::Failed::is_poison) {
                    overview.poison.insert(unit.to_owned(), failed.error);
                }
            }
            if let (Work::Base(pretrain) | Work::Pretrain(pretrain), false) = (&stage.work, overview.complete()) {
                overview.training = Some(TrainingEstimate::new(plan, stage, pretrain));
            }
            if let (Work::Ppo(ppo), false) = (&stage.work, overview.complete()) {
                overview.reinforcement = Some(PpoEstimate::new(plan, stage, ppo));
            }
            if matches!(&stage.work, Work::Classify(classify) if classify.cue.is_none()) {
                let left = overview.missing.len() as f64 / overview.units.max(1) as f64;
                overview.tokens_to_judge =
                    inputs[stage.input].estimated_tokens.map(|tokens| (tokens as f64 * left) as u64);
            }
            stages.push(overview);
        }
        let resources = plan.resources.iter().map(|(name, resource)| ResourceOverview {
            name: name.clone(),
            files: resource.files.len(),
            bytes: resource.bytes(),
        });
        Ok(Overview {
            name: plan.name.clone(),
            plan_id: plan.plan_id.clone(),
            disk_bytes: disk_bytes(plan, &inputs, &stages),
            inputs,
            resources: resources.collect(),
            stages,
        })
    }

    pub fn complete(&self) -> bool {
        self.stages.iter().all(StageOverview::complete)
    }

    /// The overview as a few lines of text.
    pub fn text(&self) -> String {
        let mut lines = vec![format!("{} · plan {}", self.name, self.plan_id)];
        let plural = |count: usize, one: &str| {
            format!("{} {one}{}", HumanCount(count as u64), if count == 1 { "" } else { "s" })
        };
        for input in &self.inputs {
            lines.push(format!("from     {}", input.sources.join(", ")));
            // Formats without a row count tell neither before they are read.
            let known = [(input.rows, "", "rows"), (input.estimated_tokens, "about ", "tokens")];
            let parts = [plural(input.shards, "shard"), ByteSize(input.bytes).to_string()]
                .into_iter()
                .chain(
                    known
                        .into_iter()
                        .filter_map(|(number, about, what)| Some(format!("{about}{} {what}", HumanCount(number?)))),
                )
                .chain([plural(input.units, "unit")]);
            lines.push(format!("         {}", parts.collect::<Vec<_>>().join(", ")));
        }
        for resource in &self.resources {
            lines.push(format!(
                "with     {} ({}, {})",
                resource.name,
                plural(resource.files, "file"),
                ByteSize(resource.bytes)
            ));
        }
        for stage in &self.stages {
            let state = match (stage.done, stage.units) {
                (done, units) if done == units => "done".to_owned(),
                (0, units) => format!("{units} to do"),
                (done, units) => format!("{done} of {units} done"),
            };
            let stale = if stage.stale > 0 { format!(", {} stale", stage.stale) } else { String::new() };
            let tokens = stage
                .tokens_to_judge
                .filter(|&tokens| tokens > 0)
                .map_or(String::new(), |tokens| format!(", about {} tokens to judge", HumanCount(tokens)));
            let tokens = tokens
                + &stage.training.as_ref().map_or(String::new(), training_text)
                + &stage.reinforcement.as_ref().map_or(String::new(), reinforcement_text);
            let arms = if stage.arms.is_empty() { String::new() } else { format!(" (arms {})", stage.arms.join(", ")) };
            lines.push(format!("{:8} {state}{stale}{tokens}{arms}", stage.stage));
            for (unit, error) in &stage.poison {
                lines.push(format!("         unit `{unit}` is left alone, it failed too often: {error}"));
            }
        }
        if self.disk_bytes > 0 {
            lines.push(format!("disk     at most about {} more", ByteSize(self.disk_bytes)));
        }
        lines.join("\n") + "\n"
    }
}

fn reinforcement_text(ppo: &PpoEstimate) -> String {
    let count = |number: u64| HumanCount(number).to_string();
    let parts = [
        ppo.parameters.map(|parameters| parameters_text(parameters, ppo.at_most)),
        Some(format!("{} steps", count(ppo.steps))),
        Some(format!("{} responses, at most {} tokens", count(ppo.responses), count(ppo.response_tokens))),
        ppo.operations.map(|operations| format!("at most {}", flop(operations))),
        ppo.memory_bytes.map(|bytes| format!("{} of memory", ByteSize(bytes))),
    ];
    parts.into_iter().flatten().map(|part| format!(", {part}")).collect()
}

fn parameters_text(parameters: u64, at_most: bool) -> String {
    format!("{}{} parameters", if at_most { "at most " } else { "" }, HumanCount(parameters))
}

/// `1.5 PFLOP`.
fn flop(operations: f64) -> String {
    let units = ["", "k", "M", "G", "T", "P", "E", "Z"];
    let unit = (operations.max(1.0).log10() / 3.0).floor().min(7.0);
    format!("{:.1} {}FLOP", operations / 1000f64.powf(unit), units[unit as usize])
}

fn training_text(training: &TrainingEstimate) -> String {
    let count = |number: u64| HumanCount(number).to_string();
    let parts = [
        training.parameters.map(|parameters| parameters_text(parameters, training.at_most)),
        training.tokens.map(|tokens| format!("about {} tokens", count(tokens))),
        training.steps.map(|steps| format!("about {} steps", count(steps))),
        training.operations.map(|operations| format!("about {}", flop(operations))),
        training.memory_bytes.map(|bytes| format!("{} of memory", ByteSize(bytes))),
    ];
    parts.into_iter().flatten().map(|part| format!(", {part}")).collect()
}

fn input_overview(input: &super::Input) -> InputOverview {
    let rows = input.rows();
    let all_rows: Option<u64> =
        input.shards.iter().map(|shard| shard.row_groups.as_ref().map(|groups| groups.iter().sum::<u64>())).sum();
    let text_bytes: Option<u64> = input.shards.iter().map(|shard| shard.text_bytes).sum();
    // A limit reads a part of the rows.
    let part = rows.zip(all_rows).map_or(1.0, |(rows, all)| rows as f64 / all.max(1) as f64);
    InputOverview {
        sources: input.fetch.sources.clone(),
        shards: input.shards.len(),
        bytes: input.shards.iter().map(|shard| shard.bytes).sum(),
        rows,
        units: input.units.len(),
        estimated_tokens: text_bytes.map(|bytes| (bytes as f64 * part / BYTES_PER_TOKEN) as u64),
        pinned: input
            .shards
            .iter()
            .map(|shard| PinnedShard {
                name: shard.name.clone(),
                bytes: shard.bytes,
                sha256: shard.sha256.clone(),
                rows: shard.row_groups.as_ref().map(|groups| groups.iter().sum()),
            })
            .collect(),
    }
}

/// What the stages that are not done still need: downloads (all, or as many as the recipe lets wait), sidecars of the units that
/// are missing, and corpora as large as their sources at worst.
fn disk_bytes(plan: &Plan, inputs: &[InputOverview], stages: &[StageOverview]) -> u64 {
    let unfinished = || plan.stages.iter().zip(stages).filter(|(_, overview)| !overview.complete());
    let mut total = 0;
    for (index, (input, overview)) in plan.inputs.iter().zip(inputs).enumerate() {
        let mut readers = unfinished().map(|(stage, _)| stage).filter(|stage| stage.input == index);
        if !readers.clone().any(|stage| stage.work.per_unit() || matches!(stage.work, Work::Curate(_))) {
            continue;
        }
        let remote = input
            .shards
            .iter()
            .filter(|shard| matches!(shard.location, super::Location::Remote(_)))
            .map(|shard| shard.bytes);
        let largest = remote.clone().max().unwrap_or(0);
        total += if input.fetch.keep_shards {
            remote.sum()
        } else {
            remote.sum::<u64>().min(input.fetch.prefetch_bytes.0.max(largest) + largest)
        };
        let corpora = readers.any(|stage| matches!(stage.work, Work::Curate(_)));
        total += if corpora { overview.bytes } else { 0 };
    }
    for (stage, overview) in unfinished() {
        let all_rows = inputs.get(stage.input).and_then(|input| input.rows).unwrap_or(0);
        let rows = (all_rows as f64 * overview.missing.len() as f64 / overview.units.max(1) as f64) as u64;
        total += match &stage.work {
            Work::Classify(_) => rows * LABEL_BYTES,
            Work::Sketch(curate) => {
                rows * crate::stages::sketch::bytes_per_document(if curate.deduplicate.near {
                    curate.deduplicate.bands
                } else {
                    0
                })
                .0
            }
            Work::Prime(prime) => {
                let (traces, prompts) = crate::stages::prime::rows(prime, plan.limit);
                traces.saturating_mul(TRACE_BYTES).saturating_add(prompts.saturating_mul(PROMPT_BYTES))
            }
            Work::Arithmetic(arithmetic) => {
                let texts = crate::stages::arithmetic::rows(arithmetic, plan.limit);
                texts.iter().map(|(_, rows)| rows * u64::from(arithmetic.lengths[1]) * 2).sum()
            }
            Work::Base(pretrain) | Work::Pretrain(pretrain) => {
                TrainingEstimate::new(plan, stage, pretrain).disk_bytes(pretrain)
            }
            Work::Ppo(ppo) => PpoEstimate::new(plan, stage, ppo).disk_bytes(ppo),
            Work::Curate(_) | Work::Rewrite(_) | Work::Report(_) => 0,
        };
    }
    total
}
