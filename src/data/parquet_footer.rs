//! Parquet footers: fetched from the end of a file, checked, and described.
//!
//! The footer is the one part of a file that a reader must believe before it has read anything. The `parquet` crate reserves memory for what
//! a footer claims and recurses as deep as its schema nests, so a hostile one ends the process, which nobody can catch. Therefore [`check_schema`] walks
//! the Thrift bytes first, and [`check_extents`] compares the decoded claims with the file's size.

use std::ops::Range;

use anyhow::Result;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader};

use super::positioned_file::PositionedFile;
use super::shard::{Column, Footer, RowGroup, damaged};

/// Footers of 100,000 column chunks fit in 64 KiB to a few MiB; the first fetch gets most of them whole.
const FIRST_FETCH_BYTES: u64 = 64 << 10;
const MAX_FOOTER_BYTES: u64 = 256 << 20;
const MAX_SCHEMA_DEPTH: usize = 64;
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

/// Decodes a footer that [`fetch_footer`] got, after checking what decoding relies on.
pub(super) fn decode(name: &str, bytes: &[u8], options: Option<&ParquetMetaDataOptions>) -> Result<ParquetMetaData> {
    check_schema(bytes).ok_or_else(|| damaged(name, "its footer is damaged"))?;
    super::parquet_source::shielded(name, || ParquetMetaDataReader::decode_metadata_with_options(bytes, options))
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
            let start = chunk.dictionary_page_offset().filter(|offset| *offset > 0).unwrap_or(chunk.data_page_offset());
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

/// Checks the footer's schema: a well-formed tree of sane depth. `None` when it is not.
fn check_schema(footer: &[u8]) -> Option<()> {
    let mut thrift = Thrift { bytes: footer };
    let mut field = 0;
    while let Some(kind) = thrift.field(&mut field)? {
        // FileMetaData's field 2 is the schema: elements in depth-first order, each with its number of children.
        if field != 2 || kind != LIST {
            thrift.skip(kind, 0)?;
            continue;
        }
        let (element, count) = thrift.list()?;
        if element != STRUCT {
            return None;
        }
        // How many children each open ancestor still expects; the root is expected by nobody.
        let mut expected = vec![1];
        for _ in 0..count {
            while *expected.last()? == 0 {
                expected.pop();
            }
            *expected.last_mut()? -= 1;
            let children = thrift.schema_element()?;
            if children > count {
                return None;
            }
            if children > 0 {
                expected.push(children);
            }
            if expected.len() > MAX_SCHEMA_DEPTH {
                return None;
            }
        }
        if expected.iter().any(|left| *left > 0) {
            return None;
        }
    }
    Some(())
}

/// Whether an offset index may be decoded: the number of pages that it claims fits in its bytes.
pub(super) fn check_offset_index(index: &[u8]) -> Option<()> {
    let mut thrift = Thrift { bytes: index };
    let mut field = 0;
    while let Some(kind) = thrift.field(&mut field)? {
        thrift.skip(kind, 0)?;
    }
    Some(())
}

const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;
const MAX_THRIFT_DEPTH: usize = 32;

/// Thrift's compact protocol, as much of it as walking needs. Every method is `None` on malformed input.
struct Thrift<'a> {
    bytes: &'a [u8],
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn advance(&mut self, length: u64) -> Option<()> {
        self.bytes = self.bytes.get(usize::try_from(length).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next field's type, its id left in `id`; `Some(None)` at the end of the struct.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let header = self.byte()?;
        if header == 0 {
            return Some(None);
        }
        *id = match header >> 4 {
            0 => self.zigzag()?,
            delta => id.checked_add(i64::from(delta))?,
        };
        Some(Some(header & 0x0f))
    }

    /// A list's element type and length. Every element takes a byte at least.
    fn list(&mut self) -> Option<(u8, u64)> {
        let header = self.byte()?;
        let count = match header >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        (count <= self.bytes.len() as u64).then_some((header & 0x0f, count))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > MAX_THRIFT_DEPTH {
            return None;
        }
        match kind {
            // A field's boolean is in its header.
            1 | 2 => Some(()),
            3 => self.advance(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.advance(8),
            8 => {
                let length = self.varint()?;
                self.advance(length)
            }
            LIST | 10 => {
                let (element, count) = self.list()?;
                for _ in 0..count {
                    self.skip_element(element, depth)?;
                }
                Some(())
            }
            11 => {
                let count = self.varint()?;
                if count == 0 {
                    return Some(());
                }
                let kinds = self.byte()?;
                for _ in 0..count {
                    self.skip_element(kinds >> 4, depth)?;
                    self.skip_element(kinds & 0x0f, depth)?;
                }
                Some(())
            }
            STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    /// Inside a collection, a boolean takes a byte.
    fn skip_element(&mut self, kind: u8, depth: usize) -> Option<()> {
        if matches!(kind, 1 | 2) { self.advance(1) } else { self.skip(kind, depth + 1) }
    }

    /// Passes a SchemaElement and returns its number of children (field 5).
    fn schema_element(&mut self) -> Option<u64> {
        let mut children = 0;
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            if id == 5 && kind == I32 {
                children = u64::try_from(self.zigzag()?).ok()?;
            } else {
                self.skip(kind, 0)?;
            }
        }
        Some(children)
    }
}
