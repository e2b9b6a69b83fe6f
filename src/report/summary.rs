//! A run folder in numbers: its plan and a fold of its manifests. No data file is opened here.

use crate::behavior::Behavior;
use crate::behavior::judge::JudgeIdentity;
use crate::plan::{Input, Plan, Stage, Work};
use crate::run::dir::RunDir;
use crate::run::manifest::{CorpusRecord, Counts, LabelStatistics, Manifest, Output};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A run. Paths are relative to the run folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSummary {
    pub name: String,
    pub plan_id: String,
    pub seed: u64,
    pub limit: Option<u64>,
    /// The versions of the programs that did the work.
    pub versions: BTreeSet<String>,
    /// The recipe's settings that change bytes, by dotted key; an arm's stand under `arm.NAME.`.
    pub settings: BTreeMap<String, Value>,
    /// Names of the arms; empty without arms.
    pub arms: Vec<String>,
    pub inputs: Vec<InputSummary>,
    /// Every stage but the report.
    pub stages: Vec<StageSummary>,
    /// One per stage that judges.
    pub judged: Vec<Judged>,
    /// One per stage that writes corpora.
    pub curated: Vec<Curated>,
}

/// Where documents came from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputSummary {
    pub sources: Vec<String>,
    pub shards: u64,
    pub bytes: u64,
    /// Unknown for formats without a row count.
    pub rows: Option<u64>,
}

/// How far a stage is, and where its rows went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageSummary {
    /// Its folder, which is its name.
    pub stage: String,
    /// The arms that use it; empty without arms.
    pub arms: Vec<String>,
    pub units: u64,
    pub units_done: u64,
    pub counts: Counts,
    pub files: u64,
    pub bytes: u64,
}

impl StageSummary {
    pub fn complete(&self) -> bool {
        self.units_done == self.units
    }
}

/// What a judge found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    pub stage: String,
    pub arms: Vec<String>,
    /// None before the first unit is done.
    pub judge: Option<JudgeIdentity>,
    /// Documents that have labels.
    pub documents: u64,
    pub quarantined: u64,
    /// Documents of which a part was not read, because the recipe caps the windows.
    pub partly_read: u64,
    pub tokens_read: u64,
    pub behaviors: Vec<Found>,
    /// Documents that show none of the four.
    pub none: u64,
    /// `together[a][b]`: documents that show both, in the order of `behaviors`; `together[a][a]` is those that show `a`.
    pub together: [[u64; 4]; 4],
}

/// How often a behavior was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    pub behavior: Behavior,
    /// Documents that show it, and their share of all judged ones.
    pub documents: u64,
    pub share: f64,
    pub instances: u64,
}

/// The corpora of one curate stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curated {
    pub stage: String,
    pub arms: Vec<String>,
    pub corpora: Vec<CorpusSummary>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CorpusSummary {
    pub name: String,
    /// The SQL condition that selects it.
    #[serde(rename = "where")]
    pub condition: String,
    /// The corpus that it is matched to.
    #[serde(rename = "match")]
    pub matched: Option<String>,
    /// The budget.
    pub tokens_wanted: Option<u64>,
    pub documents: u64,
    pub tokens: u64,
    pub record: CorpusRecord,
    pub files: Vec<Output>,
}

impl RunSummary {
    pub fn new(plan: &Plan, dir: &RunDir) -> anyhow::Result<Self> {
        let mut summary = Self {
            name: plan.name.clone(),
            plan_id: plan.plan_id.clone(),
            seed: plan.seed,
            limit: plan.limit,
            versions: BTreeSet::new(),
            settings: plan.settings.clone(),
            arms: plan
                .stages
                .iter()
                .flat_map(|stage| stage.arms.clone())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            inputs: plan.inputs.iter().map(InputSummary::new).collect(),
            stages: Vec::new(),
            judged: Vec::new(),
            curated: Vec::new(),
        };
        for stage in plan.stages.iter().filter(|stage| !matches!(stage.work, Work::Report(_))) {
            let manifests = manifests(plan, stage, dir)?;
            summary.versions.extend(manifests.iter().map(|manifest| manifest.version.clone()));
            summary.stages.push(StageSummary::new(plan, stage, &manifests));
            match &stage.work {
                Work::Classify(_) => summary.judged.push(Judged::new(stage, &manifests)),
                Work::Curate(_) => summary.curated.push(Curated::new(stage, &manifests)),
                Work::Sketch(_)
                | Work::Rewrite(_)
                | Work::Arithmetic(_)
                | Work::Prime(_)
                | Work::Base(_)
                | Work::Pretrain(_)
                | Work::Ppo(_)
                | Work::Report(_) => {}
            }
        }
        Ok(summary)
    }

    pub fn complete(&self) -> bool {
        self.stages.iter().all(StageSummary::complete)
    }

    /// A corpus to show as an example, and its stage's folder: the first that is not another's match.
    pub fn first_corpus(&self) -> Option<(&str, &CorpusSummary)> {
        let corpora = || self.curated.iter().flat_map(|made| made.corpora.iter().map(|one| (made.stage.as_str(), one)));
        corpora().find(|(_, corpus)| corpus.matched.is_none()).or_else(|| corpora().next())
    }
}

/// The manifests of a stage that are there and not stale, in the order of its units.
pub fn manifests(plan: &Plan, stage: &Stage, dir: &RunDir) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for unit in stage.unit_ids(plan) {
        manifests.extend(
            Manifest::read(&dir.path(stage.manifest(unit)))?.filter(|manifest| manifest.stage_key == stage.key),
        );
    }
    Ok(manifests)
}

impl InputSummary {
    fn new(input: &Input) -> Self {
        Self {
            sources: input.fetch.sources.clone(),
            shards: input.shards.len() as u64,
            bytes: input.shards.iter().map(|shard| shard.bytes).sum(),
            rows: input.rows(),
        }
    }
}

impl StageSummary {
    fn new(plan: &Plan, stage: &Stage, manifests: &[Manifest]) -> Self {
        let mut counts = Counts::default();
        manifests.iter().for_each(|manifest| counts.add(&manifest.counts));
        let outputs = || manifests.iter().flat_map(|manifest| &manifest.outputs);
        Self {
            stage: stage.folder.clone(),
            arms: stage.arms.clone(),
            units: stage.unit_ids(plan).len() as u64,
            units_done: manifests.len() as u64,
            counts,
            files: outputs().count() as u64,
            bytes: outputs().map(|output| output.bytes).sum(),
        }
    }
}

impl Judged {
    fn new(stage: &Stage, manifests: &[Manifest]) -> Self {
        let mut labels = LabelStatistics::default();
        manifests.iter().filter_map(|manifest| manifest.labels.as_ref()).for_each(|part| labels.add(part));
        let found = |behavior: Behavior| Found {
            behavior,
            documents: labels.shown(behavior),
            share: labels.shown(behavior) as f64 / labels.documents.max(1) as f64,
            instances: labels.instances[behavior.index()],
        };
        Self {
            stage: stage.folder.clone(),
            arms: stage.arms.clone(),
            judge: manifests.iter().find_map(|manifest| manifest.judge.clone()),
            documents: labels.documents,
            quarantined: manifests.iter().map(|manifest| manifest.counts.quarantined).sum(),
            partly_read: labels.partly_read,
            tokens_read: labels.tokens_read,
            behaviors: Behavior::ALL.map(found).to_vec(),
            none: labels.none(),
            together: Behavior::ALL.map(|a| Behavior::ALL.map(|b| labels.both(a, b))),
        }
    }
}

impl Curated {
    fn new(stage: &Stage, manifests: &[Manifest]) -> Self {
        let config = match &stage.work {
            Work::Curate(curate) => Some(curate),
            _ => None,
        };
        let corpora = manifests.iter().flat_map(|manifest| {
            manifest.corpora.iter().map(|(name, record)| {
                let corpus = config.and_then(|curate| curate.corpus.get(name));
                let folder = format!("{}/{name}/", stage.folder);
                CorpusSummary {
                    name: name.clone(),
                    condition: corpus.map_or(String::new(), |corpus| corpus.condition.clone()),
                    matched: corpus.and_then(|corpus| corpus.matched.clone()),
                    tokens_wanted: corpus.and_then(|corpus| corpus.tokens),
                    documents: record.train_documents + record.test_documents,
                    tokens: record.train_tokens + record.test_tokens,
                    record: record.clone(),
                    files: manifest.outputs.iter().filter(|output| output.path.starts_with(&folder)).cloned().collect(),
                }
            })
        });
        Self { stage: stage.folder.clone(), arms: stage.arms.clone(), corpora: corpora.collect() }
    }
}
