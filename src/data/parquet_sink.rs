//! Parquet files as the pipeline writes them: the same rows give the same bytes, however they were batched.
//!
//! Rows are gathered into row groups, each encoded by itself on a thread of its own, and the finished groups are appended in order. The file
//! appears when it is whole: see [`crate::run::commit`]. What the files look like follows what their readers do well with: zstd, pages of
//! about 1 MiB cut where the content says so (an edited corpus then shares most pages with the last one, and uploading it stores only the rest), a page index,
//! no dictionary where values do not repeat, plain strings that every reader knows, and no clock.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Result, anyhow, bail};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::{CdcOptions, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, SchemaDescriptor};

use super::parquet_footer;
use super::positioned_file::PositionedFile;
use crate::run::commit::{Committed, StagedFile, write_failure};

const CREATED_BY: &str = "four-habits";
const ZSTD_LEVEL: i32 = 3;
const MAX_ROW_GROUP_BYTES: u64 = 64 << 20;
/// Row groups being encoded at a time, however many threads there are: each holds its documents and their compressed form.
const MAX_GROUPS_IN_FLIGHT: usize = 4;
/// Columns whose values hardly repeat.
const FREE_TEXT: [&str; 7] = ["url", "text", "metadata", "id", "query", "completion", "content"];

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Documents: few rows of much text.
    Corpus,
    /// Rows of a page of text, written to many files at once: small row groups bound the memory of all of them together.
    Traces,
    /// Many short rows, such as labels: DuckDB works on one row group per thread, and this is the size that it writes itself.
    Labels,
}

impl Profile {
    fn max_row_group_rows(self) -> usize {
        match self {
            Self::Corpus => 32_768,
            Self::Traces => 8_192,
            Self::Labels => 122_880,
        }
    }
}

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub committed: Committed,
    pub rows: u64,
    pub row_groups: usize,
}

/// A Parquet file being written. Dropped before [`ParquetSink::finish`], it leaves nothing.
pub struct ParquetSink {
    path: PathBuf,
    schema: SchemaRef,
    profile: Profile,
    properties: Arc<WriterProperties>,
    writer: SerializedFileWriter<StagedFile>,
    /// The row group being gathered.
    gathered: Vec<RecordBatch>,
    gathered_rows: usize,
    gathered_bytes: u64,
    in_flight: VecDeque<JoinHandle<Result<EncodedGroup, ParquetError>>>,
    rows: u64,
    row_groups: usize,
}

/// A Parquet file of one row group, in memory.
struct EncodedGroup {
    file: Bytes,
    metadata: ParquetMetaData,
}

impl ParquetSink {
    /// Opens a file for batches of `schema`. `key_values` go to the footer as they are.
    pub fn create(path: &Path, schema: SchemaRef, profile: Profile, key_values: Vec<(String, String)>) -> Result<Self> {
        let descriptor = ArrowSchemaConverter::new().convert(&schema)?;
        let properties = Arc::new(properties(&descriptor, profile, key_values)?);
        let staged = StagedFile::create(path)?;
        let writer = SerializedFileWriter::new(staged, descriptor.root_schema_ptr(), Arc::clone(&properties))
            .map_err(|error| failure(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            schema,
            profile,
            properties,
            writer,
            gathered: Vec::new(),
            gathered_rows: 0,
            gathered_bytes: 0,
            in_flight: VecDeque::new(),
            rows: 0,
            row_groups: 0,
        })
    }

    /// Adds rows. How rows are divided into batches leaves no trace in the file.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.schema().fields() != self.schema.fields() {
            bail!(
                "the rows for `{}` have columns {:?}, expected {:?}",
                self.path.display(),
                batch.schema(),
                self.schema
            );
        }
        self.rows += batch.num_rows() as u64;
        let mut start = 0;
        for (row, bytes) in row_bytes(batch).into_iter().enumerate() {
            let rows = self.gathered_rows + row - start;
            let is_full = rows == self.profile.max_row_group_rows()
                || (rows > 0 && self.gathered_bytes + bytes > MAX_ROW_GROUP_BYTES);
            if is_full {
                self.gather(batch, start, row);
                start = row;
                self.encode_gathered()?;
            }
            self.gathered_bytes += bytes;
        }
        self.gather(batch, start, batch.num_rows());
        Ok(())
    }

    /// Writes what is left, checks the file and makes it visible.
    pub fn finish(mut self) -> Result<Written> {
        self.encode_gathered()?;
        while let Some(group) = self.in_flight.pop_front() {
            self.append(group)?;
        }
        let Self { path, writer, rows, row_groups, .. } = self;
        let schema = writer.schema_descr().clone();
        let staged = writer.into_inner().map_err(|error| failure(&path, error))?;
        let committed = staged.commit(|temporary| check(temporary, &path, rows, row_groups, &schema))?;
        Ok(Written { committed, rows, row_groups })
    }

    fn gather(&mut self, batch: &RecordBatch, start: usize, end: usize) {
        if start < end {
            self.gathered.push(batch.slice(start, end - start));
            self.gathered_rows += end - start;
        }
    }

    /// Hands the gathered rows to a thread. Not to rayon's pool, whose threads may all be writing to sinks and waiting in `append`.
    fn encode_gathered(&mut self) -> Result<()> {
        let batches = std::mem::take(&mut self.gathered);
        self.gathered_rows = 0;
        self.gathered_bytes = 0;
        if batches.is_empty() {
            return Ok(());
        }
        if self.in_flight.len() >= rayon::current_num_threads().min(MAX_GROUPS_IN_FLIGHT)
            && let Some(first) = self.in_flight.pop_front()
        {
            self.append(first)?;
        }
        let (schema, properties) = (Arc::clone(&self.schema), Arc::clone(&self.properties));
        let encoder = std::thread::Builder::new().name("parquet-encoder".to_owned());
        self.in_flight.push_back(encoder.spawn(move || encode(&batches, &schema, &properties))?);
        Ok(())
    }

    fn append(&mut self, group: JoinHandle<Result<EncodedGroup, ParquetError>>) -> Result<()> {
        let group = group.join().map_err(|_| anyhow!("encoding a row group of `{}` panicked", self.path.display()))?;
        group.and_then(|group| splice(&mut self.writer, &group)).map_err(|error| failure(&self.path, error))?;
        self.row_groups += 1;
        Ok(())
    }
}

/// Encodes one row group. The batches become one first, because the encoder cuts pages at the ends of batches too.
fn encode(
    batches: &[RecordBatch],
    schema: &SchemaRef,
    properties: &WriterProperties,
) -> Result<EncodedGroup, ParquetError> {
    let batch = concat_batches(schema, batches)?;
    // Without Arrow's own schema in the footer, readers see plain strings: some do not know views.
    let options = ArrowWriterOptions::new().with_properties(properties.clone()).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(schema), options)?;
    writer.write(&batch)?;
    let metadata = writer.finish()?;
    Ok(EncodedGroup { file: Bytes::from(std::mem::take(writer.inner_mut())), metadata })
}

/// Appends an encoded group to the file.
fn splice(writer: &mut SerializedFileWriter<StagedFile>, group: &EncodedGroup) -> Result<(), ParquetError> {
    let mut row_group = writer.next_row_group()?;
    for (column, chunk) in group.metadata.row_group(0).columns().iter().enumerate() {
        let index = group.metadata.page_index();
        row_group.append_column(
            &group.file,
            ColumnCloseResult {
                bytes_written: chunk.compressed_size().unsigned_abs(),
                rows_written: group.metadata.row_group(0).num_rows().unsigned_abs(),
                metadata: chunk.clone(),
                bloom_filter: None,
                column_index: index.and_then(|index| index.column_index(0, column)).cloned(),
                offset_index: index.and_then(|index| index.offset_index(0, column)).cloned(),
            },
        )?;
    }
    row_group.close()?;
    Ok(())
}

/// Checks the closed file as a reader would open it.
fn check(temporary: &Path, path: &Path, rows: u64, row_groups: usize, schema: &SchemaDescriptor) -> Result<()> {
    let name = path.display().to_string();
    let metadata = parquet_footer::read_file(&name, &PositionedFile::open(temporary)?)?;
    let found = metadata.file_metadata();
    if found.num_rows().unsigned_abs() != rows || metadata.num_row_groups() != row_groups {
        bail!(
            "`{name}` was written with {rows} rows in {row_groups} row groups and reads back with {} in {}",
            found.num_rows(),
            metadata.num_row_groups()
        );
    }
    if found.schema_descr().root_schema() != schema.root_schema() {
        bail!("`{name}` was written with other columns than it reads back with");
    }
    Ok(())
}

fn properties(
    schema: &SchemaDescriptor,
    profile: Profile,
    key_values: Vec<(String, String)>,
) -> Result<WriterProperties> {
    let mut key_values: Vec<_> = key_values.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect();
    let mut builder = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(None);
    if profile == Profile::Corpus {
        let options = CdcOptions::default();
        // The key by which `datasets` says that a file is chunked so.
        let CdcOptions { min_chunk_size, max_chunk_size, norm_level } = options;
        let said = serde_json::json!({
            "min_chunk_size": min_chunk_size, "max_chunk_size": max_chunk_size, "norm_level": norm_level
        });
        key_values.push(KeyValue::new("content_defined_chunking".to_owned(), said.to_string()));
        builder = builder.set_content_defined_chunking(Some(options));
    }
    for column in schema.columns() {
        use parquet::basic::Type;
        let path = || ColumnPath::clone(column.path());
        match column.physical_type() {
            Type::BYTE_ARRAY if FREE_TEXT.contains(&column.name()) => {
                builder = builder.set_column_dictionary_enabled(path(), false);
            }
            Type::FLOAT | Type::DOUBLE => builder = builder.set_column_dictionary_enabled(path(), false),
            // Row numbers and sizes; counts are 32 bits wide.
            Type::INT64 => {
                builder = builder
                    .set_column_dictionary_enabled(path(), false)
                    .set_column_encoding(path(), Encoding::DELTA_BINARY_PACKED);
            }
            _ => {}
        }
    }
    Ok(builder.set_key_value_metadata(Some(key_values)).build())
}

/// The uncompressed size of each row, near enough to divide rows into groups, and independent of the batches they come in.
fn row_bytes(batch: &RecordBatch) -> Vec<u64> {
    let mut sizes = vec![0; batch.num_rows()];
    for column in batch.columns() {
        add_row_bytes(column, &mut sizes);
    }
    sizes
}

fn add_row_bytes(column: &ArrayRef, sizes: &mut [u64]) {
    fn add(sizes: &mut [u64], lengths: impl Iterator<Item = u64>) {
        for (size, length) in sizes.iter_mut().zip(lengths) {
            *size += 4 + length;
        }
    }
    match column.data_type() {
        DataType::Utf8View => add(sizes, column.as_string_view().lengths().map(u64::from)),
        DataType::BinaryView => add(sizes, column.as_binary_view().lengths().map(u64::from)),
        DataType::Utf8 => add(sizes, column.as_string::<i32>().offsets().lengths().map(|length| length as u64)),
        DataType::LargeUtf8 => add(sizes, column.as_string::<i64>().offsets().lengths().map(|length| length as u64)),
        DataType::Binary => add(sizes, column.as_binary::<i32>().offsets().lengths().map(|length| length as u64)),
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            let mut elements = vec![0; list.values().len()];
            add_row_bytes(list.values(), &mut elements);
            for (size, ends) in sizes.iter_mut().zip(list.offsets().windows(2)) {
                *size += 4 + elements[ends[0] as usize..ends[1] as usize].iter().sum::<u64>();
            }
        }
        DataType::Struct(_) => column.as_struct().columns().iter().for_each(|column| add_row_bytes(column, sizes)),
        other => {
            let width = other.primitive_width().map_or(64, |width| width as u64);
            sizes.iter_mut().for_each(|size| *size += width);
        }
    }
}

/// The failure to write the file; the disk's own reason when it has one.
fn failure(path: &Path, error: ParquetError) -> anyhow::Error {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return write_failure(path, error);
        }
        cause = error.source();
    }
    anyhow!(error).context(format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::document::{ColumnMap, Wanted};
    use crate::data::shard::{Format, ShardReader};
    use arrow::array::{Float32Array, Int32Array, Int64Array, StringViewArray};
    use arrow::datatypes::{Field, Schema};

    /// `rows` documents of about `length` bytes.
    fn documents(rows: usize, length: usize) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("url", DataType::Utf8View, true),
            Field::new("text", DataType::Utf8View, true),
            Field::new("date", DataType::Utf8View, true),
            Field::new("metadata", DataType::Utf8View, true),
            Field::new("source_row", DataType::Int64, false),
            Field::new("token_count", DataType::Int32, false),
            Field::new("verification_score", DataType::Float32, true),
        ]);
        let text = (0..rows).map(|row| (row % 7 != 3).then(|| format!("{row} ").repeat(length / 4 + row % 11)));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values((0..rows).map(|row| format!("https://example.org/{row}")))),
            Arc::new(text.collect::<StringViewArray>()),
            Arc::new(StringViewArray::new_null(rows)),
            Arc::new(StringViewArray::from_iter_values((0..rows).map(|row| format!("{{\"row\":{row}}}")))),
            Arc::new((0..rows as i64).collect::<Int64Array>()),
            Arc::new((0..rows as i32).map(|row| row % 50).collect::<Int32Array>()),
            Arc::new((0..rows).map(|row| Some(row as f32 / 10.0)).collect::<Float32Array>()),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn write(folder: &Path, rows: &RecordBatch, batch_rows: usize) -> (Vec<u8>, Written) {
        let path = folder.join("a.parquet");
        let key_values = vec![("pipeline.schema".to_owned(), "1".to_owned())];
        let mut sink = ParquetSink::create(&path, rows.schema(), Profile::Corpus, key_values).unwrap();
        for start in (0..rows.num_rows()).step_by(batch_rows) {
            sink.write(&rows.slice(start, batch_rows.min(rows.num_rows() - start))).unwrap();
        }
        let written = sink.finish().unwrap();
        (std::fs::read(&path).unwrap(), written)
    }

    #[test]
    fn bytes_do_not_depend_on_batches() {
        let folder = tempfile::tempdir().unwrap();
        // 150 MB in 3 row groups.
        let rows = documents(3000, 50_000);
        let (bytes, written) = write(folder.path(), &rows, 3000);
        assert_eq!((written.rows, written.row_groups), (3000, 3));
        assert_eq!(written.committed.bytes, bytes.len() as u64);
        for batch_rows in [1, 17, 1024] {
            assert!(write(folder.path(), &rows, batch_rows) == (bytes.clone(), written.clone()), "{batch_rows}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        for rows in [documents(0, 10), documents(1, 10), documents(40_000, 100)] {
            let (_, written) = write(folder.path(), &rows, 999);
            let reader =
                ShardReader::open(&folder.path().join("a.parquet"), Format::Parquet, &ColumnMap::default()).unwrap();
            let footer = reader.footer();
            assert_eq!(footer.rows, Some(rows.num_rows() as u64));
            assert!(footer.row_groups.iter().all(|group| group.rows <= Some(32_768)));
            assert_eq!(footer.created_by.as_deref(), Some(CREATED_BY));
            assert!(footer.key_values.contains(&("pipeline.schema".to_owned(), "1".to_owned())));
            let batches = reader.batches(0..written.row_groups, Wanted::ALL, None, 777).unwrap();
            let mut read = 0;
            for batch in batches {
                let batch = batch.unwrap();
                let expect = rows.slice(read, batch.len());
                assert_eq!(&batch.url, expect.column(0).as_string_view());
                assert_eq!(&batch.text, expect.column(1).as_string_view());
                assert_eq!(&batch.date, expect.column(2).as_string_view());
                assert_eq!(&batch.metadata, expect.column(3).as_string_view());
                read += batch.len();
            }
            assert_eq!(read, rows.num_rows());
        }
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let rows = documents(100, 10);
        let mut sink = ParquetSink::create(&folder.path().join("a"), rows.schema(), Profile::Labels, vec![]).unwrap();
        sink.write(&rows).unwrap();
        drop(sink);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn rows_of_other_columns_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let rows = documents(1, 10);
        let mut sink = ParquetSink::create(&folder.path().join("a"), rows.schema(), Profile::Labels, vec![]).unwrap();
        sink.write(&rows.project(&[0, 1]).unwrap()).unwrap_err();
    }
}
