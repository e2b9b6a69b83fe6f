//! Parquet shards, read a batch at a time.
//!
//! Text columns are read as raw bytes and checked here, whatever the file annotates them as: so an invalid row is a defect of that row and not
//! of the file, and text that a writer left unannotated is checked too. Nothing is copied: the arrays view the decompressed pages.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, RecordBatch, StringViewArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, FieldRef, Schema};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_schema};
use parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMask, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::ChunkReader;
use parquet::schema::types::{SchemaDescriptor, Type};

use super::document::{ColumnMap, Defect, DocumentBatch, Wanted};
use super::parquet_claims;
use super::parquet_footer;
use super::positioned_file::PositionedFile;
use super::shard::{Batches, Footer, cannot_open, damaged, no_column};
use super::shield::shielded;
use crate::error::{Exit, Failure};

/// An open Parquet file and where its documents' columns are.
#[derive(Debug)]
pub(super) struct ParquetShard {
    name: Arc<str>,
    file: PositionedFile,
    metadata: ArrowReaderMetadata,
    roots: Roots,
}

/// The index of each column among the schema's top-level fields.
#[derive(Debug, Clone, Copy)]
struct Roots {
    url: Option<usize>,
    text: usize,
    date: Option<usize>,
    metadata: Option<usize>,
}

impl ParquetShard {
    pub(super) fn open(path: &Path, columns: &ColumnMap) -> Result<Self> {
        let name: Arc<str> = path.display().to_string().into();
        let file = PositionedFile::open(path).map_err(|error| cannot_open(path, &error))?;
        let size = file.size();
        let footer = parquet_footer::fetch_footer(&name, size, &mut |range| file.range(&name, range))?;
        let metadata = parquet_footer::decode(&name, &footer, None)?;
        parquet_footer::check_extents(&metadata, size).map_err(|reason| damaged(&name, reason))?;

        let schema = metadata.file_metadata().schema_descr();
        let arrow = shielded(&name, || parquet_to_arrow_schema(schema, None))?;
        let optional = |column: &Option<String>| match column {
            Some(column) => find(&name, &arrow, column, false).map(Some),
            None => Ok(None),
        };
        let roots = Roots {
            url: optional(&columns.url)?,
            text: find(&name, &arrow, &columns.text, true)?,
            date: optional(&columns.date)?,
            metadata: optional(&columns.metadata)?,
        };

        // The same footer once more, its text columns declared as plain bytes.
        let schema = Arc::new(shielded(&name, || as_bytes(schema, &roots.all()))?);
        let metadata = parquet_footer::decode(&name, &footer, Some(Arc::clone(&schema)))?;
        let metadata = shielded(&name, || {
            let arrow = parquet_to_arrow_schema(&schema, None)?;
            let options = ArrowReaderOptions::new().with_schema(Arc::new(with_views(&arrow, &roots.all())));
            ArrowReaderMetadata::try_new(Arc::new(metadata), options)
        })?;
        let chunks = metadata.metadata().row_groups().iter().flat_map(|group| group.columns());
        let file = file.with_chunks_at(chunks.map(|chunk| chunk.byte_range().0).collect());
        Ok(Self { name, file, metadata, roots })
    }

    pub(super) fn footer(&self) -> Footer {
        parquet_footer::describe(self.metadata.metadata())
    }

    pub(super) fn batches(
        &self,
        row_groups: Range<usize>,
        wanted: Wanted,
        rows: Option<&[u64]>,
        batch_rows: usize,
    ) -> Result<Batches> {
        let groups = Groups::new(self.metadata.metadata(), row_groups, rows);
        if groups.rows == 0 {
            return Ok(Box::new(std::iter::empty()));
        }
        let roots = self.roots.only(wanted);
        let projected: Vec<usize> = roots.all();
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), projected.iter().copied());
        let metadata = match &groups.selection {
            Some(_) => self.with_offset_index(&groups.indices, &mask)?,
            None => self.metadata.clone(),
        };
        let reader = shielded(&self.name, || {
            let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), metadata)
                .with_projection(mask)
                .with_row_groups(groups.indices)
                .with_batch_size(batch_rows);
            if let Some(selection) = groups.selection {
                builder = builder.with_row_selection(selection);
            }
            builder.build()
        })?;
        Ok(Box::new(ParquetBatches {
            name: Arc::clone(&self.name),
            reader: Some(reader),
            roots,
            projected,
            rows: groups.numbers,
            rows_left: groups.rows,
        }))
    }

    /// Our metadata with the pages' places in `groups`, so that pages without a selected row are not even read. A file without
    /// (or with a damaged) index is read without.
    fn with_offset_index(&self, groups: &[usize], mask: &ProjectionMask) -> Result<ArrowReaderMetadata> {
        let metadata = self.metadata.metadata();
        let leaves = (0..self.metadata.parquet_schema().num_columns()).filter(|leaf| mask.leaf_included(*leaf));
        let leaves: Vec<usize> = leaves.collect();
        let sound = groups.iter().all(|group| {
            leaves.iter().all(|leaf| {
                let chunk = metadata.row_group(*group).column(*leaf);
                let (Some(offset), Some(length)) = (chunk.offset_index_offset(), chunk.offset_index_length()) else {
                    return false;
                };
                let (Ok(offset), Ok(length)) = (u64::try_from(offset), usize::try_from(length)) else { return false };
                let index = self.file.get_bytes(offset, length);
                index.is_ok_and(|index| parquet_claims::check_offset_index(&index).is_some())
            })
        });
        if !sound {
            return Ok(self.metadata.clone());
        }
        let indexed: Result<ParquetMetaData> = shielded(&self.name, || {
            let mut reader = ParquetMetaDataReader::new_with_metadata(metadata.as_ref().clone())
                .with_column_index_policy(PageIndexPolicy::Skip)
                .with_offset_index_policy(PageIndexPolicy::Optional)
                .with_offset_index_mask(ColumnChunkMask::row_groups_and_columns(groups.iter().copied(), leaves));
            reader.read_page_indexes(&self.file)?;
            reader.finish()
        });
        match indexed {
            Ok(indexed) => shielded(&self.name, || {
                let options = ArrowReaderOptions::new().with_schema(Arc::clone(self.metadata.schema()));
                ArrowReaderMetadata::try_new(Arc::new(indexed), options)
            }),
            Err(_) => Ok(self.metadata.clone()),
        }
    }
}

impl Roots {
    fn only(self, wanted: Wanted) -> RootsWanted {
        RootsWanted {
            url: self.url.filter(|_| wanted.url),
            text: wanted.text.then_some(self.text),
            date: self.date.filter(|_| wanted.date),
            metadata: self.metadata.filter(|_| wanted.metadata),
        }
    }

    fn all(self) -> Vec<usize> {
        self.only(Wanted::ALL).all()
    }
}

#[derive(Debug, Clone, Copy)]
struct RootsWanted {
    url: Option<usize>,
    text: Option<usize>,
    date: Option<usize>,
    metadata: Option<usize>,
}

impl RootsWanted {
    /// Ascending and without repeats, as the reader orders them.
    fn all(self) -> Vec<usize> {
        let mut all: Vec<usize> = [self.url, self.text, self.date, self.metadata].into_iter().flatten().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The row groups to read, the rows to select in them, and those rows' numbers in the shard.
struct Groups {
    indices: Vec<usize>,
    selection: Option<RowSelection>,
    numbers: RowNumbers,
    rows: u64,
}

enum RowNumbers {
    From(u64),
    These(std::vec::IntoIter<u64>),
}

impl RowNumbers {
    fn take(&mut self, count: usize) -> Vec<u64> {
        match self {
            Self::From(next) => {
                let first = *next;
                *next += count as u64;
                (first..*next).collect()
            }
            Self::These(rows) => rows.take(count).collect(),
        }
    }
}

impl Groups {
    fn new(metadata: &ParquetMetaData, range: Range<usize>, rows: Option<&[u64]>) -> Self {
        let rows_of = |index: usize| metadata.row_group(index).num_rows().unsigned_abs();
        let mut start: u64 = (0..range.start).map(rows_of).sum();
        let Some(rows) = rows else {
            let count = range.clone().map(rows_of).sum();
            return Self { indices: range.collect(), selection: None, numbers: RowNumbers::From(start), rows: count };
        };
        let (mut indices, mut numbers, mut ranges) = (Vec::new(), Vec::new(), Vec::<Range<usize>>::new());
        // Rows of the groups that are read, counted as if they followed one another.
        let mut concatenated = 0;
        for index in range {
            let end = start + rows_of(index);
            let own = &rows[rows.partition_point(|row| *row < start)..rows.partition_point(|row| *row < end)];
            if !own.is_empty() {
                indices.push(index);
                numbers.extend_from_slice(own);
                for row in own {
                    let at = concatenated + (row - start) as usize;
                    match ranges.last_mut() {
                        Some(range) if range.end == at => range.end += 1,
                        _ => ranges.push(at..at + 1),
                    }
                }
                concatenated += (end - start) as usize;
            }
            start = end;
        }
        let selection = RowSelection::from_consecutive_ranges(ranges.into_iter(), concatenated);
        let count = numbers.len() as u64;
        Self { indices, selection: Some(selection), numbers: RowNumbers::These(numbers.into_iter()), rows: count }
    }
}

struct ParquetBatches {
    name: Arc<str>,
    /// `None` after the end or an error.
    reader: Option<ParquetRecordBatchReader>,
    roots: RootsWanted,
    projected: Vec<usize>,
    rows: RowNumbers,
    rows_left: u64,
}

impl Iterator for ParquetBatches {
    type Item = Result<DocumentBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.reader.as_mut()?;
        let batch = match shielded(&self.name, || reader.next().transpose().map_err(ParquetError::from)) {
            Ok(Some(batch)) => self.documents(&batch),
            // Conservation: a chunk that ends early must not pass for the end of the documents.
            Ok(None) if self.rows_left > 0 => {
                Err(damaged(&self.name, format!("{} of the rows that its footer claims are not there", self.rows_left)))
            }
            Ok(None) => {
                self.reader = None;
                return None;
            }
            Err(error) => Err(error),
        };
        if batch.is_err() {
            self.reader = None;
        }
        Some(batch)
    }
}

impl ParquetBatches {
    fn documents(&mut self, batch: &RecordBatch) -> Result<DocumentBatch> {
        let length = batch.num_rows();
        self.rows_left = self
            .rows_left
            .checked_sub(length as u64)
            .ok_or_else(|| damaged(&self.name, "it has more rows than its footer claims"))?;
        let mut defects = Vec::new();
        let column = |root: Option<usize>| {
            root.and_then(|root| self.projected.iter().position(|projected| *projected == root))
                .map(|at| batch.column(at))
        };
        let mut strings = |root: Option<usize>, column_name: &str| match column(root) {
            Some(array) => strings(array, column_name, &mut defects).map_err(|error| damaged(&self.name, error)),
            None => Ok(StringViewArray::new_null(length)),
        };
        let url = strings(self.roots.url, "url")?;
        let date = strings(self.roots.date, "date")?;
        let metadata = strings(self.roots.metadata, "metadata")?;
        let mut text = strings(self.roots.text, "")?;
        if self.roots.text.is_some() {
            text = without_defects(text, &mut defects)?;
        }
        Ok(DocumentBatch { rows: self.rows.take(length), url, text, date, metadata, defects })
    }
}

/// `array` as text. Rows that are not UTF-8 become null, each with a defect; `column` is empty for the text itself.
fn strings(array: &ArrayRef, column: &str, defects: &mut Vec<Defect>) -> Result<StringViewArray, String> {
    let Some(bytes) = array.as_binary_view_opt() else {
        let cast = cast(array, &DataType::Utf8View).map_err(|error| error.to_string())?;
        return Ok(cast.as_string_view().clone());
    };
    match bytes.clone().to_string_view() {
        Ok(strings) => Ok(strings),
        Err(_) => valid_strings(bytes, column, defects),
    }
}

fn valid_strings(bytes: &BinaryViewArray, column: &str, defects: &mut Vec<Defect>) -> Result<StringViewArray, String> {
    let mut invalid = Vec::new();
    for (row, value) in bytes.iter().enumerate() {
        if let Some(Err(error)) = value.map(std::str::from_utf8) {
            let at = error.valid_up_to();
            let reason = match column {
                "" => format!("invalid UTF-8 at byte {at}"),
                column => format!("`{column}` has invalid UTF-8 at byte {at}"),
            };
            defects.push(Defect { row_in_batch: row, reason });
            invalid.push(row);
        }
    }
    let (views, buffers, nulls) = bytes.clone().into_parts();
    let (views, nulls) = nulled(&views, nulls.as_ref(), &invalid);
    StringViewArray::try_new(views, buffers, nulls).map_err(|error| error.to_string())
}

/// Null in `rows` too. Their views are emptied, so that nobody who looks behind the null finds bytes that are not text.
fn nulled(
    views: &ScalarBuffer<u128>,
    nulls: Option<&NullBuffer>,
    rows: &[usize],
) -> (ScalarBuffer<u128>, Option<NullBuffer>) {
    let mut views = views.to_vec();
    let mut valid: Vec<bool> = (0..views.len()).map(|row| nulls.is_none_or(|nulls| nulls.is_valid(row))).collect();
    for (row, valid) in valid.iter().enumerate() {
        if !valid {
            views[row] = 0;
        }
    }
    for row in rows {
        views[*row] = 0;
        valid[*row] = false;
    }
    (views.into(), Some(NullBuffer::from(valid)))
}

/// Adds a defect for each null text, and makes text null where another column has a defect, so that the two always agree.
fn without_defects(text: StringViewArray, defects: &mut Vec<Defect>) -> Result<StringViewArray> {
    if text.null_count() == 0 && defects.is_empty() {
        return Ok(text);
    }
    for row in (0..text.len()).filter(|row| text.is_null(*row)) {
        defects.push(Defect { row_in_batch: row, reason: "text is null".to_owned() });
    }
    // A row's first defect is the one that was found first.
    defects.sort_by_key(|defect| defect.row_in_batch);
    defects.dedup_by_key(|defect| defect.row_in_batch);
    let rows: Vec<usize> = defects.iter().map(|defect| defect.row_in_batch).collect();
    let (views, buffers, nulls) = text.into_parts();
    let (views, nulls) = nulled(&views, nulls.as_ref(), &rows);
    Ok(StringViewArray::try_new(views, buffers, nulls)?)
}

/// The index of the top-level column `wanted`, if it can be read as text.
fn find(name: &str, schema: &Schema, wanted: &str, is_text: bool) -> Result<usize> {
    let Some((index, field)) = schema.column_with_name(wanted) else {
        let present: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        return Err(no_column(name, wanted, &present));
    };
    let found = field.data_type();
    let readable = match found {
        DataType::Utf8 | DataType::Binary => true,
        // A date may be a timestamp and an address a number; a document's text is text.
        other => !is_text && !other.is_nested() && can_cast_types(other, &DataType::Utf8View),
    };
    if readable {
        return Ok(index);
    }
    let kind = kind(found);
    Err(Failure::new(Exit::Usage, format!("column `{wanted}` of `{name}` is {kind}, expected string"))
        .hint("name a column of text in the recipe")
        .into())
}

/// A column's type for people.
pub(super) fn kind(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "string".to_owned(),
        DataType::Binary => "binary".to_owned(),
        other => other.to_string(),
    }
}

/// The schema with the byte-array columns among `roots` declared as bytes and nothing more.
fn as_bytes(schema: &SchemaDescriptor, roots: &[usize]) -> Result<SchemaDescriptor, ParquetError> {
    let root = schema.root_schema();
    let mut fields = root.get_fields().to_vec();
    for index in roots {
        let field = &mut fields[*index];
        let info = field.get_basic_info();
        let is_text = matches!(
            info.logical_type_ref(),
            None | Some(LogicalType::String | LogicalType::Json | LogicalType::Enum | LogicalType::Bson)
        ) && matches!(
            info.converted_type(),
            ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::JSON | ConvertedType::ENUM | ConvertedType::BSON
        );
        if !field.is_primitive() || field.get_physical_type() != PhysicalType::BYTE_ARRAY || !is_text {
            continue;
        }
        let plain = Type::primitive_type_builder(field.name(), PhysicalType::BYTE_ARRAY)
            .with_repetition(info.repetition())
            .with_id(info.has_id().then(|| info.id()))
            .build()?;
        *field = Arc::new(plain);
    }
    let root = Type::group_type_builder(root.name()).with_fields(fields).build()?;
    Ok(SchemaDescriptor::new(Arc::new(root)))
}

/// The schema with the bytes among `roots` read as views.
fn with_views(schema: &Schema, roots: &[usize]) -> Schema {
    let field = |(index, field): (usize, &FieldRef)| match field.data_type() {
        DataType::Binary if roots.contains(&index) => {
            Arc::new(field.as_ref().clone().with_data_type(DataType::BinaryView))
        }
        _ => Arc::clone(field),
    };
    Schema::new(schema.fields().iter().enumerate().map(field).collect::<Vec<_>>())
}
