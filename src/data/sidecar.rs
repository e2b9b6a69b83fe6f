//! Reading back the small Parquet files that stages write for each other.

use crate::error::{Exit, Failure};
use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::Path;

/// A whole file as one batch.
///
/// # Errors
/// A [`Failure`] with [`Exit::BadData`] that names the file, if it is missing or damaged.
pub fn read(path: &Path) -> anyhow::Result<RecordBatch> {
    let damaged = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::BadData, format!("cannot read `{}`: {error}", path.display()))
            .hint("`pipeline verify` lists what is damaged; `pipeline run --fresh` starts over")
    };
    let file = File::open(path).map_err(|error| damaged(&error))?;
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(&error))?.with_batch_size(1 << 16);
    let schema = reader.schema().clone();
    let reader = reader.build().map_err(|error| damaged(&error))?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| damaged(&error))?;
    Ok(arrow::compute::concat_batches(&schema, &batches)?)
}
