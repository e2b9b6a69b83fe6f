//! `curate`: joins documents with their labels, removes duplicates and test-set leaks, selects, shuffles and writes corpora.
//!
//! Three steps: gather facts from the sidecars, select (pure), then read the chosen rows of each shard once and write them.
//! It runs when all units are labeled, as one unit; a kill costs this stage alone.

pub(super) mod card;
pub mod condition;
mod facts;
pub mod select;
pub mod test_sets;
mod writer;

use crate::behavior::Behavior;
use crate::config::Curate;
use crate::data::document::{DocumentBatch, document_id};
use crate::data::parquet_sink::{ParquetSink, Profile};
use crate::data::schema;
use crate::error::{Exit, Failure};
use crate::plan::{Plan, Shard, Stage};
use crate::run::manifest::{CorpusRecord, Counts, Manifest, Output};
use crate::run::{Runner, commit};
use crate::stages::documents::chosen_batches;
use anyhow::Context;
use arrow::array::{ArrayRef, AsArray, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use select::{Facts, Fate, Selection};
use std::collections::BTreeMap;
use std::sync::Arc;
use writer::CorpusWriter;

pub use card::{Host, Statistics};

/// Documents read from a shard at a time.
const READ_ROWS: usize = 1024;

/// Hosts listed one by one in the statistics.
const HOSTS_LISTED: usize = 50;

/// Curates everything. None: stopped by a signal.
pub fn run(runner: &Runner, stage: &Stage, curate: &Curate) -> anyhow::Result<Option<Manifest>> {
    let Some(gathered) = facts::gather(runner, stage, curate)? else { return Ok(None) };
    let facts = &gathered.facts;
    let selections = select::select(facts, curate, runner.plan.seed);
    let quarantined = quarantined_upstream(runner, stage)?;

    // What an earlier recipe left must not be read along with this one's: there may be more files, or other corpora.
    runner.dir.remove(&stage.folder)?;
    let Some(mut outputs) = write_corpora(runner, stage, facts, &selections)? else { return Ok(None) };
    outputs.push(write_decisions(runner, stage, facts, &selections)?);
    let corpora: BTreeMap<String, CorpusRecord> =
        selections.iter().map(|(name, selection)| (name.clone(), record(facts, selection, quarantined))).collect();
    let statistics = card::Statistics::new(&gathered, &corpora, HOSTS_LISTED);
    outputs.push(write_text(runner, stage, "statistics.json", &(serde_json::to_string_pretty(&statistics)? + "\n"))?);
    outputs.push(write_text(
        runner,
        stage,
        "README.md",
        &card::render(runner.plan, stage, curate, &statistics, &corpora)?,
    )?);

    for (name, record) in &corpora {
        if let Some(fit) = &record.fit
            && fit.matched < fit.wanted
        {
            runner.reporter.notice(format!(
                "corpus `{name}` found a match for {} of {} documents: there are too few to choose from",
                fit.matched, fit.wanted
            ));
        }
    }
    let kept = (0..facts.len())
        .filter(|&document| selections.values().any(|selection| selection.fates[document].kept()))
        .count() as u64;
    let mut counts = Counts { rows_in: facts.len() as u64 + quarantined, kept, quarantined, ..Counts::default() };
    counts.drop_rows("in-no-corpus", facts.len() as u64 - kept);
    let input = &runner.plan.inputs[stage.input];
    Ok(Some(Manifest {
        plan_id: runner.plan.plan_id.clone(),
        stage: stage.work.name().to_owned(),
        stage_key: stage.key.clone(),
        unit: "all".to_owned(),
        input: format!("{} shards", input.shards.len()),
        input_sha256: input.key.clone(),
        outputs,
        counts,
        labels: None,
        judge: None,
        corpora,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}

/// Rows that the judge could not judge; they are in no corpus, and counted in all.
fn quarantined_upstream(runner: &Runner, stage: &Stage) -> anyhow::Result<u64> {
    let classify = stage
        .reads
        .iter()
        .map(|&index| &runner.plan.stages[index])
        .find(|stage| stage.work.name() == "classify")
        .context("curate reads no classify stage")?;
    let mut quarantined = 0;
    for unit in classify.unit_ids(runner.plan) {
        let path = runner.dir.path(classify.manifest(unit));
        let manifest =
            Manifest::read(&path)?.with_context(|| format!("unit `{unit}` of {} is not done", classify.folder))?;
        quarantined += manifest.counts.quarantined;
    }
    Ok(quarantined)
}

fn write_corpora(
    runner: &Runner,
    stage: &Stage,
    facts: &[Facts],
    selections: &BTreeMap<String, Selection>,
) -> anyhow::Result<Option<Vec<Output>>> {
    let chars = |document: u32| facts[document as usize].chars;
    let mut writers: BTreeMap<&str, CorpusWriter> = BTreeMap::new();
    for (name, selection) in selections {
        let layouts = vec![
            writer::lay_out(Fate::Train.name(), &selection.train, chars),
            writer::lay_out(Fate::Test.name(), &selection.test, chars),
        ];
        writers.insert(name, CorpusWriter::new(runner.dir.path(&stage.folder).join(name), layouts)?);
    }

    // Documents to read, by unit; documents are numbered in the order of units and rows.
    let mut by_unit: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (document, fact) in (0..).zip(facts) {
        if selections.values().any(|selection| selection.fates[document as usize].kept()) {
            by_unit.entry(fact.unit as usize).or_default().push(document);
        }
    }
    let units: Vec<usize> = by_unit.keys().copied().collect();
    let finished = runner.over_shards(stage.input, &units, |unit, reader| {
        let documents = &by_unit[&unit];
        let plan_unit = &runner.plan.inputs[stage.input].units[unit];
        let table = facts::read_unit(runner, stage, plan_unit)?;
        let rows: Vec<u64> = documents.iter().map(|&document| facts[document as usize].row).collect();
        let mut done = 0;
        chosen_batches(reader, plan_unit, &rows, READ_ROWS, |batch| {
            let documents = &documents[done..done + batch.len()];
            done += batch.len();
            let rows = corpus_batch(runner.plan, stage, unit, batch, &table)?;
            writers.values_mut().try_for_each(|writer| writer.add(&rows, documents))
        })?;
        anyhow::ensure!(
            done == documents.len(),
            "unit `{}` gave {done} of {} chosen rows",
            plan_unit.id,
            documents.len()
        );
        Ok(true)
    })?;
    if !finished {
        return Ok(None);
    }
    let mut outputs = Vec::new();
    for (name, writer) in writers {
        let written = writer.finish(&stage.key)?;
        outputs.extend(
            written
                .into_iter()
                .map(|output| Output { path: format!("{}/{name}/{}", stage.folder, output.path), ..output }),
        );
    }
    Ok(Some(outputs))
}

/// Documents with their sizes, labels and provenance, in the corpus's columns.
fn corpus_batch(
    plan: &Plan,
    stage: &Stage,
    unit: usize,
    batch: &DocumentBatch,
    table: &facts::UnitTable,
) -> anyhow::Result<RecordBatch> {
    let input = &plan.inputs[stage.input];
    let shard = &input.shards[input.units[unit].shard];
    let judged =
        table.labels.column_by_name("source_row").context("labels lack `source_row`")?.as_primitive::<Int64Type>();
    let places = batch.rows.iter().map(|&row| judged.values().binary_search(&(row as i64)).map(|place| place as u32));
    let places: Vec<u32> =
        places.collect::<Result<_, _>>().map_err(|_| anyhow::anyhow!("a chosen row has no labels"))?;
    let labels = arrow::compute::take_record_batch(&table.labels, &UInt32Array::from(places.clone()))?;
    let sketch = arrow::compute::take_record_batch(&table.sketch, &UInt32Array::from(places))?;
    check_chars(shard, batch, &labels)?;
    let label = |name: &str| labels.column_by_name(name).cloned().with_context(|| format!("labels lack `{name}`"));
    let size = |name: &str| -> anyhow::Result<ArrayRef> {
        let column = sketch.column_by_name(name).with_context(|| format!("the sketch lacks `{name}`"))?;
        Ok(arrow::compute::cast(column, &DataType::Int32)?)
    };

    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(batch.url.clone()),
        Arc::new(batch.text.clone()),
        Arc::new(batch.date.clone()),
        Arc::new(batch.metadata.clone()),
    ];
    columns.extend([label("id")?, size("token_count")?, size("char_count")?]);
    for behavior in Behavior::ALL {
        columns.push(label(&format!("{}_score", behavior.name()))?);
        columns.push(label(&format!("{}_count", behavior.name()))?);
    }
    columns.push(super::classify::constant(&shard.name, batch.len()));
    columns.push(Arc::new(Int64Array::from_iter_values(batch.rows.iter().map(|&row| row as i64))));
    Ok(RecordBatch::try_new(schema::corpus(), columns)?)
}

/// Checks that the texts are as long as those that were judged: rows are chosen by the shard's page index, which may be damaged.
fn check_chars(shard: &Shard, batch: &DocumentBatch, labels: &RecordBatch) -> anyhow::Result<()> {
    let judged = labels.column_by_name("char_count").context("labels lack `char_count`")?.as_primitive::<Int64Type>();
    for (place, (&row, &chars)) in batch.rows.iter().zip(judged.values()).enumerate() {
        if batch.text(place).map(|text| text.chars().count() as i64) != Some(chars) {
            let message = format!("row {row} of `{}` is not the document that was judged", shard.name);
            let hint = "the shard was changed, or its page index is damaged: fetch it again";
            return Err(Failure::new(Exit::BadData, message).hint(hint).into());
        }
    }
    Ok(())
}

/// `decisions.parquet`: why each document is, or is not, in each corpus.
fn write_decisions(
    runner: &Runner,
    stage: &Stage,
    facts: &[Facts],
    selections: &BTreeMap<String, Selection>,
) -> anyhow::Result<Output> {
    let input = &runner.plan.inputs[stage.input];
    let schema = schema::decisions(selections.keys().map(String::as_str));
    let mut sink = ParquetSink::create(
        &runner.dir.path(&stage.folder).join("decisions.parquet"),
        Arc::clone(&schema),
        Profile::Labels,
        schema::key_values("decisions", &stage.key),
    )?;
    let id = |document: usize| document_id_of(runner.plan, stage, &facts[document]);
    for start in (0..facts.len()).step_by(1 << 16) {
        let range = start..facts.len().min(start + (1 << 16));
        let part = &facts[range.clone()];
        let files: DictionaryArray<Int32Type> =
            part.iter().map(|fact| Some(input.shards[input.units[fact.unit as usize].shard].name.as_str())).collect();
        let duplicate_of = range.clone().map(|document| {
            let first = facts[document].cluster as usize;
            (first != document).then(|| id(first))
        });
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(range.clone().map(id))),
            Arc::new(files),
            Arc::new(Int64Array::from_iter_values(part.iter().map(|fact| fact.row as i64))),
            Arc::new(Int32Array::from_iter_values(part.iter().map(|fact| fact.tokens as i32))),
            Arc::new(duplicate_of.collect::<StringArray>()),
        ];
        for selection in selections.values() {
            columns.push(Arc::new(
                selection.fates[range.clone()]
                    .iter()
                    .map(|fate| Some(fate.name()))
                    .collect::<DictionaryArray<Int32Type>>(),
            ));
        }
        sink.write(&RecordBatch::try_new(Arc::clone(&schema), columns)?)?;
    }
    let written = sink.finish()?;
    Ok(Output {
        path: format!("{}/decisions.parquet", stage.folder),
        bytes: written.committed.bytes,
        sha256: written.committed.sha256,
        rows: written.rows,
    })
}

fn document_id_of(plan: &Plan, stage: &Stage, fact: &Facts) -> String {
    let input = &plan.inputs[stage.input];
    document_id(&input.shards[input.units[fact.unit as usize].shard].identity, fact.row)
}

pub(super) fn write_text(runner: &Runner, stage: &Stage, name: &str, text: &str) -> anyhow::Result<Output> {
    use sha2::Digest;
    commit::write_atomic(&runner.dir.path(&stage.folder).join(name), text.as_bytes())?;
    Ok(Output {
        path: format!("{}/{name}", stage.folder),
        bytes: text.len() as u64,
        sha256: format!("{:x}", sha2::Sha256::digest(text)),
        rows: 0,
    })
}

/// The sum of one corpus.
fn record(facts: &[Facts], selection: &Selection, quarantined: u64) -> CorpusRecord {
    let mut counts = Counts { rows_in: facts.len() as u64 + quarantined, quarantined, ..Counts::default() };
    for fate in &selection.fates {
        if fate.kept() {
            counts.kept += 1;
        } else {
            counts.drop_rows(fate.name(), 1);
        }
    }
    let tokens = |documents: &[u32]| documents.iter().map(|&document| u64::from(facts[document as usize].tokens)).sum();
    let mut lengths: Vec<u32> =
        selection.train.iter().chain(&selection.test).map(|&document| facts[document as usize].tokens).collect();
    lengths.sort_unstable();
    let quantile = |share: f64| {
        lengths.get((share * lengths.len().saturating_sub(1) as f64).round() as usize).copied().unwrap_or(0)
    };
    CorpusRecord {
        counts,
        train_documents: selection.train.len() as u64,
        train_tokens: tokens(&selection.train),
        test_documents: selection.test.len() as u64,
        test_tokens: tokens(&selection.test),
        token_quantiles: [0.1, 0.5, 0.9].map(quantile),
        shown: Behavior::ALL.map(|behavior| {
            let kept = selection.train.iter().chain(&selection.test);
            kept.filter(|&&document| facts[document as usize].shown & 1 << behavior.index() != 0).count() as u64
        }),
        fit: selection.fit,
    }
}
