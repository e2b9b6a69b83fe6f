//! One document of a run: where it came from, its text, its labels and the reasons for them, and what became of it.

use super::evidence::Reasons;
use super::{layout, value};
use crate::behavior::Behavior;
use crate::data::parquet_table::ParquetTable;
use crate::error::{Exit, Failure};
use crate::plan::{Plan, Stage, Unit, Work};
use crate::report::source::{self, SourceDocument};
use crate::report::summary::{RunSummary, manifests};
use crate::run::dir::RunDir;
use crate::run::manifest::{Manifest, Output};
use anyhow::Context;
use arrow::array::{Array, AsArray};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Lines shown of the text, and of other values.
const TEXT_LINES: usize = 30;
const VALUE_LINES: usize = 6;

/// What is known of a document.
#[derive(Serialize)]
struct Document {
    id: String,
    source_file: String,
    source_row: u64,
    unit: String,
    source: Option<SourceDocument>,
    /// Why the source cannot be shown.
    source_missing: Option<String>,
    labels: Vec<Labels>,
    quarantined: Vec<Quarantined>,
    decisions: Vec<Decision>,
    evidence: Option<Value>,
}

#[derive(Serialize)]
struct Labels {
    stage: String,
    arms: Vec<String>,
    /// The row of the labels sidecar.
    fields: Map<String, Value>,
}

#[derive(Serialize)]
struct Quarantined {
    stage: String,
    reason: String,
}

#[derive(Serialize)]
struct Decision {
    stage: String,
    arms: Vec<String>,
    /// By corpus: `train`, `test`, or why the corpus does not have it.
    corpora: BTreeMap<String, String>,
    duplicate_of: Option<String>,
    /// The test set that it overlaps with.
    contaminated_by: Option<String>,
    token_count: Option<u64>,
}

/// Where a document is.
struct Place<'p> {
    stage: &'p Stage,
    unit: &'p Unit,
    row: u64,
}

pub(super) fn run(plan: &Plan, dir: &RunDir, id: &str, json: bool) -> anyhow::Result<()> {
    if id.len() != 16 || !id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return Err(Failure::new(Exit::Usage, format!("`{id}` is not a document's id"))
            .hint("an id has 16 digits, 0 to 9 and a to f, and stands in the column `id` of labels, decisions and corpora")
            .into());
    }
    let (mut labels, mut quarantined, mut place) = (Vec::new(), Vec::new(), None);
    for stage in plan.stages.iter().filter(|stage| matches!(stage.work, Work::Classify(_))) {
        for unit in &plan.inputs[stage.input].units {
            let Some(manifest) = current(stage, unit, dir)? else { continue };
            for output in &manifest.outputs {
                let Some(fields) = find(dir, output, id)? else { continue };
                let row = fields.get("source_row").and_then(Value::as_u64).context("a sidecar lacks `source_row`")?;
                place.get_or_insert(Place { stage, unit, row });
                if output.path.contains("/quarantine/") {
                    let reason = fields.get("reason").map(value::text).unwrap_or_default();
                    quarantined.push(Quarantined { stage: stage.folder.clone(), reason });
                } else {
                    labels.push(Labels { stage: stage.folder.clone(), arms: stage.arms.clone(), fields });
                }
            }
        }
    }
    let Some(place) = place else { return Err(not_found(plan, dir, id)?.into()) };
    let mut document = look_up(plan, dir, id, &place)?;
    document.labels = labels;
    document.quarantined = quarantined;
    let text = document.source.as_ref().and_then(|source| source.text.clone());
    let reasons = text.as_deref().map(|text| Reasons::new(text, Some(place.stage))).transpose()?;
    if json {
        document.evidence = reasons.map(|reasons| reasons.json());
        return crate::commands::print_json(&document);
    }
    let width = layout::width();
    let mut lines = document.lines(plan, width);
    if let Some(reasons) = reasons {
        lines.push(String::new());
        lines.extend(reasons.lines(width));
    }
    crate::commands::print(&(lines.join("\n") + "\n"))
}

/// A unit's manifest, if it is done and not stale.
fn current(stage: &Stage, unit: &Unit, dir: &RunDir) -> anyhow::Result<Option<Manifest>> {
    Ok(Manifest::read(&dir.path(stage.manifest(&unit.id)))?.filter(|manifest| manifest.stage_key == stage.key))
}

/// The row of a file whose `id` is the given one, as fields.
fn find(dir: &RunDir, output: &Output, id: &str) -> anyhow::Result<Option<Map<String, Value>>> {
    let table = ParquetTable::open(&dir.path(&output.path))?;
    let mut before = 0;
    for batch in table.columns(&["id"])? {
        let batch = batch?;
        let ids =
            batch.column(0).as_string_opt::<i32>().with_context(|| format!("`id` of `{}` is not text", output.path))?;
        if let Some(row) = (0..ids.len()).find(|&row| ids.value(row) == id) {
            return fields(&table, before + row as u64).map(Some);
        }
        before += ids.len() as u64;
    }
    Ok(None)
}

fn fields(table: &ParquetTable, row: u64) -> anyhow::Result<Map<String, Value>> {
    let batch = table.row(row)?.context("a file of the run lost rows")?;
    let schema = batch.schema();
    let fields = schema.fields().iter().zip(batch.columns());
    fields.map(|(field, column)| Ok((field.name().clone(), value::json(column, 0)?))).collect()
}

fn not_found(plan: &Plan, dir: &RunDir, id: &str) -> anyhow::Result<Failure> {
    let summary = RunSummary::new(plan, dir)?;
    let classify = summary.stages.iter().filter(|stage| summary.judged.iter().any(|one| one.stage == stage.stage));
    let left: u64 = classify.map(|stage| stage.units - stage.units_done).sum();
    let failure = Failure::new(Exit::Usage, format!("`{}` has no document `{id}`", dir.root().display()));
    Ok(match left {
        0 => failure.hint("ids derive from a shard's content and the row: another version of a shard has other ids"),
        left => failure.hint(format!("{left} units are not judged yet, and it may be in one of them")),
    })
}

fn look_up(plan: &Plan, dir: &RunDir, id: &str, place: &Place) -> anyhow::Result<Document> {
    let input = &plan.inputs[place.stage.input];
    let (mut source, source_missing) = match source::read(dir, input, place.unit, place.row) {
        Ok(source) => (Some(source), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let mut decisions = Vec::new();
    for stage in plan.stages.iter().filter(|stage| matches!(stage.work, Work::Curate(_))) {
        for manifest in manifests(plan, stage, dir)? {
            if let Some(decision) = decision(plan, stage, &manifest, dir, id, place)? {
                if source.is_none() {
                    source = in_corpora(stage, &manifest, &decision, dir, id)?;
                }
                decisions.push(decision);
            }
        }
    }
    Ok(Document {
        id: id.to_owned(),
        source_file: input.shards[place.unit.shard].name.clone(),
        source_row: place.row,
        unit: place.unit.id.clone(),
        source_missing: source_missing.filter(|_| source.is_none()),
        source,
        labels: Vec::new(),
        quarantined: Vec::new(),
        decisions,
        evidence: None,
    })
}

fn decision(
    plan: &Plan,
    stage: &Stage,
    manifest: &Manifest,
    dir: &RunDir,
    id: &str,
    place: &Place,
) -> anyhow::Result<Option<Decision>> {
    let decisions = manifest.outputs.iter().find(|output| output.path.ends_with("/decisions.parquet"));
    let Some(decisions) = decisions else { return Ok(None) };
    let Some(fields) = find(dir, decisions, id)? else { return Ok(None) };
    let corpora = manifest.corpora.keys();
    let corpora = corpora.filter_map(|corpus| Some((corpus.clone(), value::text(fields.get(corpus)?))));
    let sketch = stage.reads.iter().map(|&index| &plan.stages[index]).find(|one| matches!(one.work, Work::Sketch(_)));
    let contaminated_by = match sketch {
        Some(sketch) => contaminated_by(sketch, dir, place)?,
        None => None,
    };
    Ok(Some(Decision {
        stage: stage.folder.clone(),
        arms: stage.arms.clone(),
        corpora: corpora.collect(),
        duplicate_of: fields.get("duplicate_of").and_then(Value::as_str).map(str::to_owned),
        contaminated_by,
        token_count: fields.get("token_count").and_then(Value::as_u64),
    }))
}

/// The test set that a unit's sketch names for a row.
fn contaminated_by(sketch: &Stage, dir: &RunDir, place: &Place) -> anyhow::Result<Option<String>> {
    let Some(manifest) = current(sketch, place.unit, dir)? else { return Ok(None) };
    for output in &manifest.outputs {
        for batch in ParquetTable::open(&dir.path(&output.path))?.columns(&["source_row", "contaminated_by"])? {
            let batch = batch?;
            for row in 0..batch.num_rows() {
                if value::json(batch.column(0), row)?.as_u64() == Some(place.row) {
                    return Ok(value::json(batch.column(1), row)?.as_str().map(str::to_owned));
                }
            }
        }
    }
    Ok(None)
}

/// The document as a corpus has it, for shards that are no longer on this disk.
fn in_corpora(
    stage: &Stage,
    manifest: &Manifest,
    decision: &Decision,
    dir: &RunDir,
    id: &str,
) -> anyhow::Result<Option<SourceDocument>> {
    let kept = decision.corpora.iter().find(|(_, fate)| matches!(fate.as_str(), "train" | "test"));
    let Some((corpus, _)) = kept else { return Ok(None) };
    let folder = format!("{}/{corpus}/", stage.folder);
    for output in manifest.outputs.iter().filter(|output| output.path.starts_with(&folder)) {
        if let Some(fields) = find(dir, output, id)? {
            let field = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
            let [url, date, metadata, text] = ["url", "date", "metadata", "text"].map(field);
            return Ok(Some(SourceDocument { url, date, metadata, text, defect: None }));
        }
    }
    Ok(None)
}

impl Document {
    fn lines(&self, plan: &Plan, width: usize) -> Vec<String> {
        let mut fields = vec![
            ("id", self.id.clone()),
            ("source", format!("{}, row {} (unit {})", self.source_file, self.source_row, self.unit)),
        ];
        let or_null = |value: &Option<String>| value.clone().unwrap_or_else(|| "(null)".into());
        let mut text = None;
        if let Some(source) = &self.source {
            fields.extend([("url", or_null(&source.url)), ("date", or_null(&source.date))]);
            fields.push(("metadata", or_null(&source.metadata)));
            text = source.text.as_ref();
            fields.push(match text {
                Some(text) => ("text", format!("{} characters", text.chars().count())),
                None => ("text", or_null(&source.defect)),
            });
        }
        if let Some(reason) = &self.source_missing {
            fields.push(("text", format!("not at hand: {reason}")));
        }
        for quarantined in &self.quarantined {
            fields.push(("quarantined", format!("{} ({})", quarantined.reason, quarantined.stage)));
        }
        let mut lines = layout::fields(fields.into_iter(), width, VALUE_LINES);
        if let Some(text) = text {
            lines.extend(layout::block(text, 2, width, TEXT_LINES));
        }
        for labels in &self.labels {
            lines.push(String::new());
            lines.extend(labels.lines());
        }
        for decision in &self.decisions {
            lines.push(String::new());
            lines.extend(decision.lines(plan, width));
        }
        lines
    }
}

impl Labels {
    fn lines(&self) -> Vec<String> {
        let text = |name: &str| self.fields.get(name).map(value::text).unwrap_or_default();
        let number = |name: &str| self.fields.get(name).and_then(Value::as_u64).unwrap_or(0);
        let mut lines = vec![format!(
            "{}: labels by {} ({}){}",
            self.stage,
            text("judge_model"),
            text("judge_kind"),
            of_arms(&self.arms)
        )];
        for behavior in Behavior::ALL {
            let score = self.fields.get(&format!("{}_score", behavior.name())).and_then(Value::as_f64);
            let count = number(&format!("{}_count", behavior.name()));
            let instances = if count == 1 { "instance" } else { "instances" };
            lines.push(format!(
                "  {:18}  score {:.2}  {count} {instances}",
                behavior.name(),
                score.unwrap_or(f64::NAN)
            ));
        }
        lines.push(format!(
            "  read {} of {} characters in {} window{}",
            number("chars_read"),
            number("char_count"),
            number("windows"),
            if number("windows") == 1 { "" } else { "s" }
        ));
        lines
    }
}

impl Decision {
    fn lines(&self, plan: &Plan, width: usize) -> Vec<String> {
        let curate = plan.stages.iter().find(|stage| stage.folder == self.stage).and_then(|stage| match &stage.work {
            Work::Curate(curate) => Some(curate),
            _ => None,
        });
        let mut fields: Vec<(&str, String)> = Vec::new();
        for (corpus, fate) in &self.corpora {
            let config = curate.and_then(|curate| curate.corpus.get(corpus));
            let why = match fate.as_str() {
                "train" | "test" => "kept, in this split".to_owned(),
                "not-selected" => {
                    format!("its condition is false: {}", config.map_or("", |corpus| corpus.condition.as_str()))
                }
                "contaminated" => {
                    format!("it overlaps with test set {}", self.contaminated_by.as_deref().unwrap_or("(unknown)"))
                }
                "exact-duplicate" => "a selected document before it has the same text".to_owned(),
                "near-duplicate" => "a selected document before it has nearly the same text".to_owned(),
                "over-budget" => "the corpus has all the tokens that it wants".to_owned(),
                "unmatched" => "no document of the partner needed it as a match".to_owned(),
                _ => "unknown to this version".to_owned(),
            };
            fields.push((corpus, format!("{fate}: {why}")));
        }
        if let Some(first) = &self.duplicate_of {
            fields.push(("duplicate of", format!("{first}, the first of its group")));
        }
        if let Some(tokens) = self.token_count {
            fields.push(("tokens", tokens.to_string()));
        }
        let fields = layout::fields(fields.into_iter(), width - 2, VALUE_LINES);
        let heading = format!("{}: what each corpus did with it{}", self.stage, of_arms(&self.arms));
        std::iter::once(heading).chain(fields.into_iter().map(|line| format!("  {line}"))).collect()
    }
}

fn of_arms(arms: &[String]) -> String {
    if arms.is_empty() { String::new() } else { format!(" (arms {})", arms.join(", ")) }
}
