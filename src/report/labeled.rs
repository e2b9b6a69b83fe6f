//! Rows of the run's files that carry labels: sidecars and corpora.

use crate::behavior::Behavior;
use crate::behavior::judge::Mark;
use anyhow::Context;
use arrow::array::{AsArray, Float32Array, Int32Array, PrimitiveArray, RecordBatch, StringArray};
use arrow::datatypes::{ArrowPrimitiveType, Float32Type, Int32Type};

/// `id`, the scores and counts, and what else is wanted.
pub(super) fn label_columns(more: &str) -> Vec<String> {
    let marks = Behavior::ALL.into_iter().flat_map(|behavior| ["score", "count"].map(|what| mark_name(behavior, what)));
    ["id".to_owned(), more.to_owned()].into_iter().chain(marks).collect()
}

fn mark_name(behavior: Behavior, what: &str) -> String {
    format!("{}_{what}", behavior.name())
}

/// Rows with an id and labels.
pub(super) struct LabeledRows {
    pub(super) batch: RecordBatch,
    ids: StringArray,
    marks: Vec<(Float32Array, Int32Array)>,
}

impl LabeledRows {
    pub(super) fn new(batch: RecordBatch) -> anyhow::Result<Self> {
        let ids = batch.column_by_name("id").and_then(|ids| ids.as_string_opt()).context("`id` is not text")?.clone();
        let marks = Behavior::ALL.into_iter().map(|behavior| {
            let scores = numbers::<Float32Type>(&batch, &mark_name(behavior, "score"))?;
            Ok((scores, numbers::<Int32Type>(&batch, &mark_name(behavior, "count"))?))
        });
        let marks = marks.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self { batch, ids, marks })
    }

    pub(super) fn len(&self) -> usize {
        self.batch.num_rows()
    }

    pub(super) fn id(&self, row: usize) -> &str {
        self.ids.value(row)
    }

    pub(super) fn marks(&self, row: usize) -> [Mark; 4] {
        Behavior::ALL.map(|behavior| {
            let (scores, counts) = &self.marks[behavior.index()];
            Mark { score: scores.value(row), count: counts.value(row).max(0) as u32 }
        })
    }
}

/// A column of a file that the run wrote.
pub(super) fn numbers<T: ArrowPrimitiveType>(batch: &RecordBatch, name: &str) -> anyhow::Result<PrimitiveArray<T>> {
    let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<T>());
    Ok(column.with_context(|| format!("column `{name}` of a file of the run is missing or of another type"))?.clone())
}
