//! Any Parquet file as a table: its checked footer, chosen columns, chosen rows. For those who look at files, ours or not.
//!
//! Dictionary and view columns come as plain strings: what a reader sees, not how it was encoded.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{SortOptions, sort_to_indices, take};
use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::parquet_footer;
use super::positioned_file::PositionedFile;
use super::shard::{Footer, cannot_open, no_column};
use super::shield::shielded;

const BATCH_ROWS: usize = 1 << 16;

/// An open Parquet file.
#[derive(Debug)]
pub struct ParquetTable {
    name: Arc<str>,
    file: PositionedFile,
    metadata: ArrowReaderMetadata,
}

impl ParquetTable {
    /// # Errors
    /// A [`Failure`](crate::error::Failure) in one sentence, if the file cannot be opened or its footer is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let name: Arc<str> = path.display().to_string().into();
        let file = PositionedFile::open(path).map_err(|error| cannot_open(path, &error))?;
        let metadata = parquet_footer::read_file(&name, &file)?;
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = shielded(&name, || ArrowReaderMetadata::try_new(Arc::new(metadata), options))?;
        Ok(Self { name, file, metadata })
    }

    pub fn bytes(&self) -> u64 {
        self.file.size()
    }

    pub fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().unsigned_abs()
    }

    pub fn footer(&self) -> Footer {
        parquet_footer::describe(self.metadata.metadata())
    }

    pub fn metadata(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }

    pub fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// Some columns of all rows, in the order of the file, a batch at a time.
    ///
    /// # Errors
    /// A [`Failure`](crate::error::Failure) that lists what there is, if a column does not exist.
    pub fn columns<N: AsRef<str>>(&self, names: &[N]) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<N>> {
        let present: Vec<&str> = self.schema().fields().iter().map(|field| field.name().as_str()).collect();
        let places = names.iter().map(|name| {
            let place = present.iter().position(|present| *present == name.as_ref());
            place.ok_or_else(|| no_column(&self.name, name.as_ref(), &present))
        });
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), places.collect::<Result<Vec<_>>>()?);
        let reader = shielded(&self.name, || self.builder(BATCH_ROWS).with_projection(mask).build())?;
        Ok(Batches { name: Arc::clone(&self.name), reader: Some(reader) })
    }

    /// All columns of one row; none if there are not so many.
    pub fn row(&self, row: u64) -> Result<Option<RecordBatch>> {
        // Only the group that holds it is read.
        let mut first = 0;
        for (index, group) in self.metadata().row_groups().iter().enumerate() {
            let rows = group.num_rows().unsigned_abs();
            if row < first + rows {
                let at = (row - first) as usize;
                let selection = RowSelection::from_consecutive_ranges(std::iter::once(at..at + 1), rows as usize);
                let reader = shielded(&self.name, || {
                    self.builder(1).with_row_groups(vec![index]).with_row_selection(selection).build()
                })?;
                return Batches { name: Arc::clone(&self.name), reader: Some(reader) }.next().transpose();
            }
            first += rows;
        }
        Ok(None)
    }

    /// What the row groups' statistics say of each top-level column, as far as there are any. They are decoded here and
    /// not when the file is opened, since some writers garble them: then nothing is known.
    pub fn statistics(&self) -> Vec<ColumnStatistics> {
        let metadata = self.metadata_with_statistics().ok();
        let names = self.schema().fields().iter().map(|field| field.name());
        names.map(|name| metadata.as_ref().and_then(|all| self.of_column(all, name).ok()).unwrap_or_default()).collect()
    }

    fn metadata_with_statistics(&self) -> Result<ParquetMetaData> {
        let footer =
            parquet_footer::fetch_footer(&self.name, self.bytes(), &mut |range| self.file.range(&self.name, range))?;
        shielded(&self.name, || ParquetMetaDataReader::decode_metadata(&footer))
    }

    fn of_column(&self, metadata: &ParquetMetaData, column: &str) -> Result<ColumnStatistics> {
        let groups = metadata.row_groups();
        let schema = metadata.file_metadata().schema_descr();
        let (nulls, mins, maxes) = shielded(&self.name, || {
            let statistics = StatisticsConverter::try_new(column, self.schema(), schema)?;
            let statistics = statistics.with_missing_null_counts_as_zero(false);
            let nulls = statistics.row_group_null_counts(groups)?;
            Ok((nulls, statistics.row_group_mins(groups)?, statistics.row_group_maxes(groups)?))
        })?;
        let known = nulls.null_count() == 0 && !nulls.is_empty();
        Ok(ColumnStatistics {
            nulls: known.then(|| nulls.values().iter().sum()),
            min: first(&mins, false),
            max: first(&maxes, true),
        })
    }

    fn builder(&self, batch_rows: usize) -> ParquetRecordBatchReaderBuilder<PositionedFile> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone())
            .with_batch_size(batch_rows)
    }
}

/// What is known of a column before it is read.
#[derive(Debug, Clone, Default)]
pub struct ColumnStatistics {
    pub nulls: Option<u64>,
    /// Arrays of one value. Long text may be cut by its writer: then these are bounds.
    pub min: Option<ArrayRef>,
    pub max: Option<ArrayRef>,
}

/// The lowest or highest value of all row groups; none if a group does not tell, or the type has no order.
fn first(values: &ArrayRef, descending: bool) -> Option<ArrayRef> {
    if values.is_empty() || values.null_count() > 0 {
        return None;
    }
    let order = sort_to_indices(values, Some(SortOptions { descending, nulls_first: false }), Some(1)).ok()?;
    take(values, &order, None).ok()
}

struct Batches {
    name: Arc<str>,
    /// `None` after the end or an error.
    reader: Option<ParquetRecordBatchReader>,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.reader.as_mut()?;
        let batch = shielded(&self.name, || reader.next().transpose().map_err(ParquetError::from)).transpose();
        if !matches!(batch, Some(Ok(_))) {
            self.reader = None;
        }
        batch
    }
}
