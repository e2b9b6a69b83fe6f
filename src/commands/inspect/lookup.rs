//! Finding a document of a run: in sidecars by its id, then in its shard, in decisions and in corpora.

use super::document::{Decision, Document};
use super::value;
use crate::data::parquet_table::ParquetTable;
use crate::error::{Exit, Failure};
use crate::plan::{Plan, Stage, Unit, Work};
use crate::report::source::{self, SourceDocument};
use crate::report::summary::{RunSummary, manifests};
use crate::run::dir::RunDir;
use crate::run::manifest::{Manifest, Output};
use anyhow::Context;
use arrow::array::{Array, AsArray};
use serde_json::{Map, Value};

/// Where a document is.
pub(super) struct Place<'p> {
    pub(super) stage: &'p Stage,
    pub(super) unit: &'p Unit,
    pub(super) row: u64,
}

/// A unit's manifest, if it is done and not stale.
pub(super) fn current(stage: &Stage, unit: &Unit, dir: &RunDir) -> anyhow::Result<Option<Manifest>> {
    Ok(Manifest::read(&dir.path(stage.manifest(&unit.id)))?.filter(|manifest| manifest.stage_key == stage.key))
}

/// The row of a file whose `id` is the given one, as fields.
pub(super) fn find(dir: &RunDir, output: &Output, id: &str) -> anyhow::Result<Option<Map<String, Value>>> {
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

pub(super) fn not_found(plan: &Plan, dir: &RunDir, id: &str) -> anyhow::Result<Failure> {
    let summary = RunSummary::new(plan, dir)?;
    let classify = summary.stages.iter().filter(|stage| summary.judged.iter().any(|one| one.stage == stage.stage));
    let left: u64 = classify.map(|stage| stage.units - stage.units_done).sum();
    let failure = Failure::new(Exit::Usage, format!("`{}` has no document `{id}`", dir.root().display()));
    Ok(match left {
        0 => failure.hint("ids derive from a shard's content and the row: another version of a shard has other ids"),
        left => failure.hint(format!("{left} units are not judged yet, and it may be in one of them")),
    })
}

pub(super) fn look_up(plan: &Plan, dir: &RunDir, id: &str, place: &Place) -> anyhow::Result<Document> {
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
