//! A unit's documents, with damage turned into quarantined rows, so that every stage sees the same rows.

use crate::data::document::{Defect, DocumentBatch, Wanted};
use crate::data::shard::{Batches, ShardReader};
use crate::plan::Unit;
use arrow::array::{StringViewArray, new_null_array};
use arrow::datatypes::DataType;
use std::ops::Range;

/// Reads a unit in batches of `batch_rows` rows, whole from the unit's first row on, so that batches are the same in every attempt.
///
/// Where the shard is damaged the remaining rows come back as defects that say so: all of them if the footer tells how
/// many there are, else one row that stands for the rest of the file.
///
/// # Errors
/// What the disk does wrong, such as a file that vanished; that is no property of the data.
pub fn unit_batches<'r>(
    reader: &'r ShardReader,
    unit: &Unit,
    wanted: Wanted,
    batch_rows: usize,
) -> impl Iterator<Item = anyhow::Result<DocumentBatch>> + 'r {
    let end = unit.take.or(unit.rows).map(|rows| unit.first_row + rows);
    let rows_known = unit.rows.is_some();
    let mut next_row = unit.first_row;
    let mut batches: Option<Batches> = match reader.batches(unit.row_groups.clone(), wanted, None, batch_rows) {
        Ok(batches) => Some(batches),
        Err(error) => Some(Box::new(std::iter::once(Err(error)))),
    };
    std::iter::from_fn(move || {
        if end.is_some_and(|end| next_row >= end) {
            return None;
        }
        match batches.as_mut()?.next()? {
            Ok(batch) => {
                let left = end.map_or(batch.len(), |end| (end - next_row).min(batch.len() as u64) as usize);
                next_row += left as u64;
                Some(Ok(if left < batch.len() { head(batch, left) } else { batch }))
            }
            Err(error) if is_damage(&error) => {
                batches = None;
                let reason = format!("the shard is damaged: {error:#}");
                let rows = next_row..if rows_known { end.unwrap_or(next_row + 1) } else { next_row + 1 };
                next_row = rows.end;
                Some(Ok(damaged(rows, &reason)))
            }
            Err(error) => {
                batches = None;
                Some(Err(error))
            }
        }
    })
}

/// Whether the data is at fault, and not the disk or the network.
fn is_damage(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_none_or(|error| {
        matches!(
            error.kind(),
            std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::InvalidInput
                | std::io::ErrorKind::Other
        )
    })
}

fn head(mut batch: DocumentBatch, rows: usize) -> DocumentBatch {
    batch.rows.truncate(rows);
    batch.defects.retain(|defect| defect.row_in_batch < rows);
    for column in [&mut batch.url, &mut batch.text, &mut batch.date, &mut batch.metadata] {
        *column = column.slice(0, rows);
    }
    batch
}

fn damaged(rows: Range<u64>, reason: &str) -> DocumentBatch {
    let rows: Vec<u64> = rows.collect();
    let nulls = || StringViewArray::from(new_null_array(&DataType::Utf8View, rows.len()).to_data());
    let defects = (0..rows.len()).map(|row_in_batch| Defect { row_in_batch, reason: reason.to_owned() }).collect();
    DocumentBatch { url: nulls(), text: nulls(), date: nulls(), metadata: nulls(), defects, rows }
}
