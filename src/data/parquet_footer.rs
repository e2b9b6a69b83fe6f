//! Parquet footers: fetched from the end of a file, checked, and described.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
};
use parquet::schema::types::SchemaDescriptor;

use super::parquet_claims;
use super::positioned_file::PositionedFile;
use super::shard::{Column, Footer, RowGroup, damaged};
use super::shield::shielded;

/// Footers of 100,000 column chunks fit in 64 KiB to a few MiB; the first fetch gets most of them whole.
const FIRST_FETCH_BYTES: u64 = 64 << 10;
const MAX_FOOTER_BYTES: u64 = 256 << 20;
const MAGIC: &[u8; 4] = b"PAR1";

/// The checked footer of a local file.
pub(super) fn read_file(name: &str, file: &PositionedFile) -> Result<ParquetMetaData> {
    read(name, file.size(), &mut |range| file.range(name, range))
}

/// Reads, checks and decodes the footer of a file of `size` bytes through `fetch`.
pub(super) fn read(
    name: &str,
    size: u64,
    fetch: &mut dyn FnMut(Range<u64>) -> Result<Vec<u8>>,
) -> Result<ParquetMetaData> {
    let bytes = fetch_footer(name, size, fetch)?;
    let metadata = decode(name, &bytes, None)?;
    check_extents(&metadata, size).map_err(|reason| damaged(name, reason))?;
    Ok(metadata)
}

/// The serialized `FileMetaData` of a file of `size` bytes.
pub(super) fn fetch_footer(
    name: &str,
    size: u64,
    fetch: &mut dyn FnMut(Range<u64>) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    // Magic at both ends and the footer's length.
    if size < 12 {
        return Err(damaged(name, format!("it has {size} bytes, too few for a Parquet file")));
    }
    let mut tail = fetch(size.saturating_sub(FIRST_FETCH_BYTES)..size)?;
    let Some((_, [l0, l1, l2, l3, magic @ ..])) = tail.split_last_chunk::<8>() else {
        return Err(damaged(name, "its end cannot be read"));
    };
    if magic == b"PARE" {
        return Err(damaged(name, "it is encrypted"));
    }
    if magic != MAGIC {
        return Err(damaged(name, "it does not end as a Parquet file does: it is cut short or of another format"));
    }
    let length = u64::from(u32::from_le_bytes([*l0, *l1, *l2, *l3]));
    if length > size - 12 || length > MAX_FOOTER_BYTES {
        return Err(damaged(name, format!("its footer claims {length} bytes of a file of {size}")));
    }
    if length + 8 > tail.len() as u64 {
        tail = fetch(size - 8 - length..size)?;
    }
    let end = tail.len().saturating_sub(8);
    let start = end.checked_sub(usize::try_from(length)?);
    start
        .and_then(|start| tail.get(start..end))
        .map(<[u8]>::to_vec)
        .ok_or_else(|| damaged(name, "its footer cannot be read"))
}

/// Decodes a footer that [`fetch_footer`] got, after checking what decoding relies on; with `schema` in place of its own.
pub(super) fn decode(name: &str, bytes: &[u8], schema: Option<Arc<SchemaDescriptor>>) -> Result<ParquetMetaData> {
    parquet_claims::check_schema(bytes).ok_or_else(|| damaged(name, "its footer is damaged"))?;
    // Statistics are not needed here, and some writers garble them.
    let mut options = ParquetMetaDataOptions::new()
        .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
    if let Some(schema) = schema {
        options.set_schema(schema);
    }
    shielded(name, || ParquetMetaDataReader::decode_metadata_with_options(bytes, Some(&options)))
}

/// What the footer says, in our words.
pub(super) fn describe(metadata: &ParquetMetaData) -> Footer {
    let file = metadata.file_metadata();
    let schema = file.schema_descr();
    let arrow = parquet_to_arrow_schema(schema, None).ok();
    let columns = schema.root_schema().get_fields().iter().enumerate().map(|(index, field)| {
        let kind = match arrow.as_ref().and_then(|arrow| arrow.fields().get(index)) {
            Some(field) => super::parquet_source::kind(field.data_type()),
            None => "unknown".to_owned(),
        };
        let chunks = metadata.row_groups().iter().flat_map(|group| group.columns().iter().enumerate());
        let own = chunks.filter(|(leaf, _)| schema.get_column_root_idx(*leaf) == index);
        let (bytes_compressed, bytes_uncompressed) = own.fold((0, 0), |(compressed, uncompressed), (_, chunk)| {
            (compressed + unsigned(chunk.compressed_size()), uncompressed + unsigned(chunk.uncompressed_size()))
        });
        Column { name: field.name().to_owned(), kind, bytes_compressed, bytes_uncompressed }
    });
    let row_groups = metadata.row_groups().iter().map(|group| RowGroup {
        rows: Some(unsigned(group.num_rows())),
        bytes_compressed: group.columns().iter().map(|chunk| unsigned(chunk.compressed_size())).sum(),
        bytes_uncompressed: Some(group.columns().iter().map(|chunk| unsigned(chunk.uncompressed_size())).sum()),
    });
    let key_values = file.key_value_metadata().into_iter().flatten();
    Footer {
        rows: Some(unsigned(file.num_rows())),
        row_groups: row_groups.collect(),
        columns: columns.collect(),
        key_values: key_values.map(|pair| (pair.key.clone(), pair.value.clone().unwrap_or_default())).collect(),
        created_by: file.created_by().map(str::to_owned),
    }
}

/// [`check_extents`] has refused negative values.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Checks that row counts add up and that every column chunk lies within the file.
pub(super) fn check_extents(metadata: &ParquetMetaData, size: u64) -> Result<(), String> {
    let claimed = metadata.file_metadata().num_rows();
    let mut rows = 0i64;
    for (index, group) in metadata.row_groups().iter().enumerate() {
        rows =
            rows.checked_add(group.num_rows()).filter(|_| group.num_rows() >= 0).ok_or("its row counts are damaged")?;
        for chunk in group.columns() {
            let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
            let end = start.checked_add(chunk.compressed_size());
            let within = start >= 0
                && chunk.data_page_offset() >= 0
                && chunk.compressed_size() >= 0
                && chunk.uncompressed_size() >= 0
                && chunk.num_values() >= 0
                && end.and_then(|end| u64::try_from(end).ok()).is_some_and(|end| end <= size);
            if !within {
                return Err(format!(
                    "row group {index} claims bytes of column `{}` that lie outside the file",
                    chunk.column_path().string()
                ));
            }
        }
    }
    if rows != claimed {
        return Err(format!("its footer claims {claimed} rows and its row groups {rows}"));
    }
    Ok(())
}
