//! `classify`: a judge reads every document of a unit; labels go to a sidecar, keyed by document id, never with the text.
//!
//! Labels are journaled batch by batch as they are made. After a kill the unit goes on behind the last whole batch, with
//! the same batches as an undisturbed run, so that the sidecar's bytes are the same.

use crate::behavior::Behavior;
use crate::behavior::judge::{Judge, JudgeIdentity, Labels};
use crate::data::document::{DocumentBatch, Wanted, document_id};
use crate::data::parquet_sink::{ParquetSink, Profile};
use crate::data::schema;
use crate::data::shard::ShardReader;
use crate::plan::Stage;
use crate::run::journal::Journal;
use crate::run::manifest::{Counts, LabelStatistics};
use crate::run::work::{Assignment, Commit, UnitWork, Verdict, WorkContext};
use crate::stages::documents::{read_ahead, unit_batches};
use arrow::array::{ArrayRef, DictionaryArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What became of one document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    row: u64,
    /// Unicode scalar values of its text.
    chars: u64,
    /// The labels, or why there are none.
    outcome: Result<Labels, String>,
}

impl Entry {
    fn judged(row: u64, chars: u64, labels: Labels) -> Self {
        Self { row, chars, outcome: Ok(labels) }
    }

    fn quarantined(row: u64, chars: u64, reason: String) -> Self {
        Self { row, chars, outcome: Err(reason) }
    }
}

/// Judges one unit.
pub fn run_unit<'a>(
    cx: &WorkContext<'a, '_>,
    reader: &ShardReader,
    judge: &mut dyn Judge,
) -> anyhow::Result<Verdict<'a>> {
    let assignment = cx.assignment;
    let Assignment { stage, unit, .. } = assignment;
    let identity = judge.identity().clone();
    let batch_rows = judge.batch_size().max(1);
    let journal_path = assignment.dir.path(journal_of(stage, &unit.id));
    let header = format!("{} {} {batch_rows} {}", stage.key, unit.id, serde_json::to_string(&identity)?);
    let (mut journal, mut entries, batches_done) = Journal::open::<Entry>(&journal_path, &header)?;
    cx.progress.replay_labels(outcomes(&entries));

    let finished = read_ahead(unit_batches(reader, unit, Wanted::ALL, batch_rows).skip(batches_done), |batch| {
        if cx.stop.requested() {
            return Ok(false);
        }
        let judged = judge_batch(judge, &batch?)?;
        journal.append(&judged)?;
        cx.progress.add_labels(outcomes(&judged));
        entries.extend(judged);
        cx.check_quarantined_share()?;
        Ok(true)
    })?;
    if !finished {
        journal.sync()?;
        return Ok(Verdict::Stopped);
    }

    let rows = entries.len() as u64;
    Ok(Verdict::Done(Commit { rows, write: Box::new(move || commit(&assignment, &identity, &entries)) }))
}

/// A unit's journal, relative to the run folder. It is of no use once the unit has its manifest, and not before.
pub fn journal_of(stage: &Stage, unit: &str) -> String {
    format!("{}/journal/{unit}.jsonl", stage.folder)
}

fn outcomes(entries: &[Entry]) -> impl Iterator<Item = Option<&Labels>> {
    entries.iter().map(|entry| entry.outcome.as_ref().ok())
}

fn judge_batch(judge: &mut dyn Judge, batch: &DocumentBatch) -> anyhow::Result<Vec<Entry>> {
    let readable: Vec<usize> = (0..batch.len()).filter(|&row| batch.text(row).is_some()).collect();
    let texts: Vec<&str> = readable.iter().filter_map(|&row| batch.text(row)).collect();
    let judged = if texts.is_empty() { Vec::new() } else { judge.judge(&texts)? };
    anyhow::ensure!(judged.len() == texts.len(), "the judge answered {} of {} documents", judged.len(), texts.len());

    let mut entries: Vec<Entry> = batch
        .defects
        .iter()
        .map(|defect| Entry::quarantined(batch.rows[defect.row_in_batch], 0, defect.reason.clone()))
        .collect();
    for ((row, text), result) in readable.into_iter().zip(texts).zip(judged) {
        let chars = text.chars().count() as u64;
        entries.push(match result {
            Ok(labels) => Entry::judged(batch.rows[row], chars, labels),
            Err(unjudgeable) => Entry::quarantined(batch.rows[row], chars, unjudgeable.0),
        });
    }
    entries.sort_by_key(|entry| entry.row);
    Ok(entries)
}

fn commit(to: &Assignment, identity: &JudgeIdentity, entries: &[Entry]) -> anyhow::Result<UnitWork> {
    let judged: Vec<(&Entry, &Labels)> =
        entries.iter().filter_map(|entry| Some((entry, entry.outcome.as_ref().ok()?))).collect();
    let mut statistics = LabelStatistics::default();
    for (entry, labels) in &judged {
        statistics.count(labels, entry.chars);
    }
    let counts = Counts {
        rows_in: entries.len() as u64,
        kept: judged.len() as u64,
        quarantined: (entries.len() - judged.len()) as u64,
        ..Counts::default()
    };

    let mut outputs = Vec::new();
    let path = format!("labels/{}.parquet", to.unit.id);
    let mut sink = ParquetSink::create(
        &to.path(&path),
        schema::labels(),
        Profile::Labels,
        schema::key_values("labels", &to.stage.key),
    )?;
    sink.write(&labels_batch(to, identity, &judged)?)?;
    outputs.push(to.output(&path, sink.finish()?));

    let quarantined: Vec<(u64, &str)> =
        entries.iter().filter_map(|entry| Some((entry.row, entry.outcome.as_ref().err()?.as_str()))).collect();
    if !quarantined.is_empty() {
        let path = format!("quarantine/{}.parquet", to.unit.id);
        let mut sink = ParquetSink::create(
            &to.path(&path),
            schema::quarantine(),
            Profile::Labels,
            schema::key_values("quarantine", &to.stage.key),
        )?;
        let ids = quarantined.iter().map(|(row, _)| document_id(&to.shard.identity, *row));
        sink.write(&RecordBatch::try_new(
            schema::quarantine(),
            vec![
                Arc::new(StringArray::from_iter_values(ids)),
                constant(&to.shard.name, quarantined.len()),
                Arc::new(Int64Array::from_iter_values(quarantined.iter().map(|(row, _)| *row as i64))),
                Arc::new(StringArray::from_iter_values(quarantined.iter().map(|(_, reason)| *reason))),
            ],
        )?)?;
        outputs.push(to.output(&path, sink.finish()?));
    }
    Ok(UnitWork { outputs, counts, labels: Some(statistics), judge: Some(identity.clone()) })
}

fn labels_batch(
    to: &Assignment,
    identity: &JudgeIdentity,
    judged: &[(&Entry, &Labels)],
) -> anyhow::Result<RecordBatch> {
    let int64 = |value: &dyn Fn(&Entry, &Labels) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(judged.iter().map(|(entry, labels)| value(entry, labels) as i64)))
    };
    let ids = judged.iter().map(|(entry, _)| document_id(&to.shard.identity, entry.row));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(ids)),
        int64(&|entry, _| entry.row),
        int64(&|entry, _| entry.chars),
    ];
    for behavior in Behavior::ALL {
        columns.push(Arc::new(Float32Array::from_iter_values(
            judged.iter().map(|(_, labels)| labels.mark(behavior).score),
        )));
        columns.push(Arc::new(Int32Array::from_iter_values(
            judged.iter().map(|(_, labels)| labels.mark(behavior).count as i32),
        )));
    }
    columns.push(int64(&|_, labels| labels.chars_read));
    columns.push(int64(&|_, labels| labels.tokens_read));
    columns.push(Arc::new(Int32Array::from_iter_values(judged.iter().map(|(_, labels)| labels.windows as i32))));
    for value in [&identity.kind, &identity.model, &identity.revision, &identity.prompt_hash] {
        columns.push(constant(value, judged.len()));
    }
    Ok(RecordBatch::try_new(schema::labels(), columns)?)
}

/// A dictionary column with one value in every row.
pub(super) fn constant(value: &str, rows: usize) -> ArrayRef {
    let keys = Int32Array::from_iter_values(std::iter::repeat_n(0, rows));
    let values = StringArray::from_iter_values([value]);
    Arc::new(DictionaryArray::<Int32Type>::new(keys, Arc::new(values)))
}
