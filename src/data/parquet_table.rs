//! Any Parquet file as a table: its checked footer, chosen columns, chosen rows. For those who look at files, ours or not.
//!
//! Dictionary and view columns come as plain strings: what a reader sees, not how it was encoded.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use super::parquet_footer;
use super::parquet_source::shielded;
use super::positioned_file::PositionedFile;
use super::shard::{Footer, cannot_open, no_column};

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

    fn builder(&self, batch_rows: usize) -> ParquetRecordBatchReaderBuilder<PositionedFile> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone())
            .with_batch_size(batch_rows)
    }
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
