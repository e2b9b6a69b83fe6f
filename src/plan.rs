//! What the recipe means: every path resolved, every input pinned by content, the work cut into units.
//!
//! A plan is made once and written to `plan.json`; tasks of a run read it and never list anything again.
//! After [`Plan::resolve`] nothing about the recipe can be wrong.

mod inputs;
mod keys;
pub mod overview;
mod units;

pub use inputs::{Location, PinnedFile, Resource, Shard, format_of, hash_file};
pub use units::Unit;

use crate::config::TRAINED;
use crate::config::{
    Arithmetic, Classify, Columns, Config, Curate, Fetch, Ppo, Pretrain, Prime, Recipe, Report, Rewrite,
};
use crate::data::hub::Hub;
use crate::error::{Exit, Failure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The version of `plan.json` and of everything whose bytes it promises. Raise it when outputs change for equal recipes.
pub const FORMAT: u32 = 1;

/// From here on a pinned file's content is not read again when a run goes on.
const LARGE_RESOURCE_BYTES: u64 = 64 << 20;

/// What a run does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub format: u32,
    /// A hash of everything that changes bytes: settings and inputs. Throughput knobs are outside.
    pub plan_id: String,
    pub name: String,
    pub seed: u64,
    /// `--limit`: at most this many documents, and traces per condition and split.
    pub limit: Option<u64>,
    /// The recipe's settings that change bytes, by dotted key.
    pub settings: BTreeMap<String, Value>,
    /// One per distinct `[fetch]` table of the arms.
    pub inputs: Vec<Input>,
    /// Files that settings name: models, tokenizers, lexicons, test sets; by the setting's value.
    pub resources: BTreeMap<String, Resource>,
    /// Stages in the order in which they run; a stage that several arms share stands here once.
    pub stages: Vec<Stage>,
}

/// A corpus of shards, pinned, and its units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// A hash of the columns and units, and of all shards' names and contents.
    pub key: String,
    pub shards: Vec<Shard>,
    pub units: Vec<Unit>,
    pub fetch: Fetch,
}

impl Input {
    pub fn columns(&self) -> &Columns {
        &self.fetch.columns
    }

    /// Rows in all units, if every shard's format tells.
    pub fn rows(&self) -> Option<u64> {
        self.units.iter().map(|unit| unit.rows).sum()
    }
}

/// One stage, of one or more arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub work: Work,
    /// A hash of everything that shapes this stage's bytes: its settings, its inputs and the keys of the stages before.
    pub key: String,
    /// Relative to the run folder: `classify`, or `arms/<arm>/classify` if the arms differ.
    pub folder: String,
    /// The arms that use it; empty without arms.
    pub arms: Vec<String>,
    /// Index into [`Plan::inputs`], for work that reads documents; see [`Plan::documents_of`].
    pub input: usize,
    /// Indices into [`Plan::stages`] of the stages whose outputs it reads.
    pub reads: Vec<usize>,
}

/// What a stage does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Per unit: labels.
    Classify(Classify),
    /// Per unit: sizes, duplicate keys, test-set overlap.
    Sketch(Curate),
    /// Once: corpora.
    Curate(Curate),
    /// Once: corpora as question, thoughts and answer.
    Rewrite(Rewrite),
    /// Once: texts of arithmetic.
    Arithmetic(Arithmetic),
    /// Once: priming traces.
    Prime(Prime),
    /// Once: a trained model for `pretrain` or `ppo` to go on from.
    Base(Box<Pretrain>),
    /// Once: a trained model.
    Pretrain(Box<Pretrain>),
    /// Once: a model trained by reinforcement.
    Ppo(Box<Ppo>),
    /// Once: the report.
    Report(Report),
}

impl Work {
    pub fn name(&self) -> &'static str {
        match self {
            Work::Classify(_) => "classify",
            Work::Sketch(_) => "sketch",
            Work::Curate(_) => "curate",
            Work::Rewrite(_) => "rewrite",
            Work::Arithmetic(_) => "arithmetic",
            Work::Prime(_) => "prime",
            Work::Base(_) => "base",
            Work::Pretrain(_) => "pretrain",
            Work::Ppo(_) => "ppo",
            Work::Report(_) => "report",
        }
    }

    /// Whether the work is about the input's documents; else it makes its own, or reads what stages wrote.
    pub fn reads_documents(&self) -> bool {
        matches!(self, Work::Classify(_) | Work::Sketch(_) | Work::Curate(_) | Work::Report(_))
    }

    /// Whether the work is cut into the input's units; else it is one unit that needs all of the stages before.
    pub fn per_unit(&self) -> bool {
        matches!(self, Work::Classify(_) | Work::Sketch(_))
    }
}

impl Stage {
    /// The manifest's place, relative to the run folder.
    pub fn manifest(&self, unit: &str) -> String {
        format!("manifests/{}/{unit}.json", self.folder)
    }

    /// The unit ids of this stage, in order.
    pub fn unit_ids<'p>(&self, plan: &'p Plan) -> Vec<&'p str> {
        if self.work.per_unit() {
            plan.inputs[self.input].units.iter().map(|unit| unit.id.as_str()).collect()
        } else {
            vec!["all"]
        }
    }
}

impl Plan {
    /// Resolves and pins everything that a recipe names.
    ///
    /// # Errors
    /// A [`Failure`] that names the recipe's key, for sources without files, unreadable shards, missing models, wrong SQL.
    pub fn resolve(recipe: &Recipe, limit: Option<u64>, hub: &Hub) -> anyhow::Result<Plan> {
        let mut plan = Plan {
            format: FORMAT,
            plan_id: String::new(),
            name: recipe.name(),
            seed: recipe.base.seed,
            limit,
            settings: keys::settings(recipe, limit),
            inputs: Vec::new(),
            resources: BTreeMap::new(),
            stages: Vec::new(),
        };
        for (arm, config) in arms(recipe) {
            crate::stages::curate::condition::check_recipe(recipe, arm, config)?;
            crate::stages::arithmetic::check_recipe(recipe, arm, config)?;
            crate::stages::prime::check_recipe(recipe, arm, config)?;
            crate::stages::pretrain::check_recipe(recipe, arm, config)?;
            crate::stages::ppo::check_recipe(recipe, arm, config)?;
            if let Some(fetch) = &config.fetch
                && !plan.inputs.iter().any(|input| keys::same_bytes(&input.fetch, fetch))
            {
                plan.inputs.push(inputs::resolve(recipe, fetch, limit, hub)?);
            }
            inputs::pin_resources(recipe, config, hub, &mut plan.resources)?;
        }
        plan.lay_out(recipe);
        Ok(plan)
    }

    /// The plan of an earlier start, with this start's throughput knobs. Nothing is listed or hashed again.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Usage`] that names the settings that differ.
    pub fn reopen(mut self, recipe: &Recipe, limit: Option<u64>, folder: &str) -> anyhow::Result<Plan> {
        if self.format != FORMAT {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "`{folder}` was planned by another version (plan format {}, this program's is {FORMAT})",
                    self.format
                ),
            )
            .hint("choose another folder with `--run-dir`, or start over with `--fresh`")
            .into());
        }
        let differing = keys::differences(&self.settings, &keys::settings(recipe, limit));
        if !differing.is_empty() {
            return Err(Failure::new(Exit::Usage, format!("`{folder}` belongs to another plan; what differs: {}", differing.join(", ")))
                .hint("`--replan` keeps the stages that the change does not touch; `--run-dir DIR` starts beside it; `--fresh` starts over")
                .into());
        }
        for (_, config) in arms(recipe) {
            if let Some(fetch) = &config.fetch
                && let Some(input) = self.inputs.iter_mut().find(|input| keys::same_bytes(&input.fetch, fetch))
            {
                input.fetch = fetch.clone();
            }
        }
        self.name = recipe.name();
        self.lay_out(recipe);
        Ok(self)
    }

    /// The documents that a stage is about; none for one that makes its own.
    pub fn documents_of(&self, stage: &Stage) -> Option<&Input> {
        self.inputs.get(stage.input).filter(|_| stage.work.reads_documents())
    }

    /// The shards that lie on this disk.
    pub fn local_shards(&self) -> impl Iterator<Item = PathBuf> {
        self.inputs.iter().flat_map(|input| &input.shards).filter_map(|shard| match &shard.location {
            Location::Local(path) => Some(path.clone()),
            _ => None,
        })
    }

    /// Checks that the local files which settings name are what they were when they were pinned. Of large ones, which are
    /// models, only the size is looked at: to read them takes as long as to load them.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Usage`] that names the file.
    pub fn check_resources(&self) -> anyhow::Result<()> {
        for file in self.resources.values().flat_map(|resource| &resource.files) {
            let Location::Local(path) = &file.location else { continue };
            let same = match std::fs::metadata(path) {
                Ok(metadata) if metadata.len() != file.bytes => false,
                Ok(metadata) if metadata.len() > LARGE_RESOURCE_BYTES => true,
                _ => hash_file(path)?.1 == file.sha256,
            };
            if !same {
                let message = format!("`{}` was changed since the run was planned", path.display());
                return Err(Failure::new(Exit::Usage, message).hint("restore it, or plan anew with `--replan`").into());
            }
        }
        Ok(())
    }

    /// Lays the arms' stages out over the pinned inputs: equal keys run once.
    fn lay_out(&mut self, recipe: &Recipe) {
        self.stages.clear();
        let base: Vec<String> = self.chain(&recipe.base).into_iter().map(|(_, key, _)| key).collect();
        for (arm, config) in arms(recipe) {
            let mut own = Vec::new();
            for (work, key, reads) in self.chain(config) {
                let index = match self.stages.iter().position(|stage| stage.key == key) {
                    Some(index) => index,
                    None => {
                        let home =
                            if arm.is_empty() || base.contains(&key) { String::new() } else { format!("arms/{arm}/") };
                        let folder = format!("{home}{}", work.name());
                        let reads = reads.iter().map(|&place: &usize| own[place]).collect();
                        self.stages.push(Stage {
                            work,
                            key,
                            folder,
                            arms: Vec::new(),
                            input: self.input_of(config).unwrap_or(0),
                            reads,
                        });
                        self.stages.len() - 1
                    }
                };
                own.push(index);
                if !arm.is_empty() {
                    self.stages[index].arms.push(arm.to_owned());
                }
            }
        }
        // Work that is cut into units goes first, so that a shard is at hand for all of it in one pass.
        self.order_units_first();
        self.add_report(recipe);
        self.plan_id = keys::plan_id(self);
    }

    /// One arm's stages with their keys, and which earlier stages of the chain each reads.
    fn chain(&self, config: &Config) -> Vec<Link> {
        let mut chain = Vec::new();
        let mut add = |work: Work, reads: &dyn Fn(&[Link]) -> Vec<usize>| {
            let reads = reads(&chain);
            let link = self.link(config, &chain, work, reads);
            chain.push(link);
        };
        let named = |names: &'static [&str]| move |chain: &[Link]| places(chain, names);
        if let Some(classify) = &config.classify {
            add(Work::Classify(classify.clone()), &named(&[]));
        }
        if let Some(curate) = &config.curate {
            add(Work::Sketch(curate.clone()), &named(&[]));
            add(Work::Curate(curate.clone()), &named(&["classify", "sketch"]));
        }
        if let Some(rewrite) = &config.rewrite {
            add(Work::Rewrite(rewrite.clone()), &named(&["curate"]));
        }
        if let Some(arithmetic) = &config.arithmetic {
            add(Work::Arithmetic(arithmetic.clone()), &named(&[]));
        }
        if let Some(prime) = &config.prime {
            add(Work::Prime(prime.clone()), &named(&[]));
        }
        if let Some(base) = &config.base {
            add(Work::Base(Box::new(base.clone())), &|chain| places(chain, &base.stages()));
        }
        if let Some(pretrain) = &config.pretrain {
            add(Work::Pretrain(Box::new(pretrain.clone())), &|chain| places(chain, &pretrain.stages()));
        }
        if let Some(ppo) = &config.ppo {
            let from = TRAINED.iter().copied().filter(|&name| name == ppo.from);
            let sources: Vec<&str> = from.collect();
            add(Work::Ppo(Box::new(ppo.resolved(config.prime.as_ref()))), &|chain| places(chain, &sources));
        }
        chain
    }

    /// One stage with its key.
    fn link(&self, config: &Config, chain: &[Link], work: Work, reads: Vec<usize>) -> Link {
        let upstream: Vec<&str> = reads.iter().map(|&place| chain[place].1.as_str()).collect();
        let input = self.input_of(config).map(|index| &self.inputs[index]).filter(|_| work.reads_documents());
        let key = keys::stage_key(&work, input, &self.resources, config.seed, self.limit, &upstream);
        (work, key, reads)
    }

    /// One report of all arms, last, since it compares them. It shows the settings, so its key covers them.
    fn add_report(&mut self, recipe: &Recipe) {
        let mut reports = arms(recipe).filter_map(|(_, config)| config.report.as_ref());
        let Some(report) = recipe.base.report.as_ref().or_else(|| reports.next()) else { return };
        let work = Work::Report(report.clone());
        let shown = keys::digest(&serde_json::json!(self.settings));
        let upstream: Vec<&str> = self.stages.iter().map(|stage| stage.key.as_str()).chain([shown.as_str()]).collect();
        let key = keys::stage_key(&work, self.inputs.first(), &self.resources, self.seed, self.limit, &upstream);
        let folder = work.name().to_owned();
        let arms = recipe.arms.iter().map(|(name, _)| name.clone()).collect();
        self.stages.push(Stage { work, key, folder, arms, input: 0, reads: (0..self.stages.len()).collect() });
    }

    fn input_of(&self, config: &Config) -> Option<usize> {
        let fetch = config.fetch.as_ref()?;
        self.inputs.iter().position(|input| keys::same_bytes(&input.fetch, fetch))
    }

    fn order_units_first(&mut self) {
        let mut order: Vec<usize> = (0..self.stages.len()).collect();
        order.sort_by_key(|&index| {
            (
                !self.stages[index].work.per_unit(),
                self.stages[index].input * usize::from(self.stages[index].work.per_unit()),
                index,
            )
        });
        let mut place = vec![0; order.len()];
        for (new, &old) in order.iter().enumerate() {
            place[old] = new;
        }
        let mut stages: Vec<Option<Stage>> = std::mem::take(&mut self.stages).into_iter().map(Some).collect();
        self.stages = order.iter().filter_map(|&old| stages[old].take()).collect();
        for stage in &mut self.stages {
            for read in &mut stage.reads {
                *read = place[*read];
            }
        }
    }
}

/// A stage of one arm: its work, its key, and the places of the stages that it reads.
type Link = (Work, String, Vec<usize>);

/// Where the stages of these names stand in a chain.
fn places(chain: &[Link], names: &[&str]) -> Vec<usize> {
    (0..chain.len()).filter(|&place| names.contains(&chain[place].0.name())).collect()
}

/// The arms of a recipe by name; a recipe without arms is one nameless arm.
fn arms(recipe: &Recipe) -> impl Iterator<Item = (&str, &Config)> {
    let base = recipe.arms.is_empty().then_some(("", &recipe.base));
    base.into_iter().chain(recipe.arms.iter().map(|(name, config)| (name.as_str(), config)))
}
