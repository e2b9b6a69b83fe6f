//! A shard: one file of documents, in any format that the pipeline reads.
//!
//! This module knows formats by name, says what is in a shard before it is read, and hands out batches; how a format is
//! read is in `parquet_source` and `jsonl_source`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::document::{ColumnMap, DocumentBatch, Wanted};
use super::jsonl_source::JsonlShard;
use super::parquet_footer;
use super::parquet_source::ParquetShard;
use crate::error::{Exit, Failure};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Parquet,
    /// One JSON object a line.
    Jsonl(Compression),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Format {
    /// The format that a file's name promises, if any: `.parquet`; `.jsonl`, `.ndjson` or `.json`, alone or with `.gz` or `.zst`.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        if name.ends_with(".parquet") {
            return Some(Self::Parquet);
        }
        let (stem, compression) = if let Some(stem) = name.strip_suffix(".gz") {
            (stem, Compression::Gzip)
        } else if let Some(stem) = name.strip_suffix(".zst") {
            (stem, Compression::Zstd)
        } else {
            (name.as_str(), Compression::None)
        };
        [".jsonl", ".ndjson", ".json"].iter().any(|suffix| stem.ends_with(suffix)).then_some(Self::Jsonl(compression))
    }
}

/// What a shard says about itself before its documents are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// `None` for JSONL, which is counted by reading it.
    pub rows: Option<u64>,
    /// Ranges of these are the units of work. A JSONL shard is one.
    pub row_groups: Vec<RowGroup>,
    /// In file order; empty for JSONL.
    pub columns: Vec<Column>,
    pub key_values: Vec<(String, String)>,
    pub created_by: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowGroup {
    /// `None` for JSONL.
    pub rows: Option<u64>,
    pub bytes_compressed: u64,
    /// `None` for compressed JSONL.
    pub bytes_uncompressed: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// In Arrow's words, except that text is `string` and bytes are `binary`.
    pub kind: String,
    pub bytes_compressed: u64,
    pub bytes_uncompressed: u64,
}

impl Footer {
    /// The footer of a remote Parquet file of `size` bytes, of which `fetch` gets byte ranges: one range, or two for a long footer.
    /// `name` is for messages.
    pub fn read_remote(name: &str, size: u64, fetch: &mut dyn FnMut(Range<u64>) -> Result<Vec<u8>>) -> Result<Self> {
        let metadata = parquet_footer::read(name, size, fetch)?;
        Ok(parquet_footer::describe(&metadata))
    }
}

impl Footer {
    /// # Errors
    /// A [`Failure`] if a column that is needed does not exist. Its type is looked at when the shard is opened.
    pub fn check_columns(&self, name: &str, columns: &ColumnMap) -> Result<()> {
        let present: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let needed = [Some(&columns.text), columns.url.as_ref(), columns.date.as_ref(), columns.metadata.as_ref()];
        match needed.into_iter().flatten().find(|wanted| !present.contains(&wanted.as_str())) {
            Some(wanted) => Err(no_column(name, wanted, &present)),
            None => Ok(()),
        }
    }
}

/// A batch at a time, in row order. After an error there is nothing more.
pub type Batches = Box<dyn Iterator<Item = Result<DocumentBatch>> + Send>;

/// An open shard whose columns have been found. Cheap to share between threads; each call of [`ShardReader::batches`] reads
/// independently of the others.
#[derive(Debug)]
pub struct ShardReader {
    path: PathBuf,
    footer: Footer,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Parquet(ParquetShard),
    Jsonl(JsonlShard),
}

impl ShardReader {
    /// Opens `path` and finds the columns. Fails in one sentence when the file is not of that format or damaged where it can be
    /// seen without reading it all, and when a column is absent or cannot be read as text.
    pub fn open(path: &Path, format: Format, columns: &ColumnMap) -> Result<Self> {
        let (source, footer) = match format {
            Format::Parquet => {
                let shard = ParquetShard::open(path, columns)?;
                let footer = shard.footer();
                (Source::Parquet(shard), footer)
            }
            Format::Jsonl(compression) => {
                let shard = JsonlShard::open(path, compression, columns)?;
                let footer = shard.footer();
                (Source::Jsonl(shard), footer)
            }
        };
        Ok(Self { path: path.to_owned(), footer, source })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// The documents of `row_groups`, or those of them whose shard rows are in `rows` (ascending), in batches of at most `batch_rows`.
    ///
    /// Texts share memory with the pages that they were read from: a batch that is kept for long keeps its pages too.
    pub fn batches(
        &self,
        row_groups: Range<usize>,
        wanted: Wanted,
        rows: Option<&[u64]>,
        batch_rows: usize,
    ) -> Result<Batches> {
        let found = self.footer.row_groups.len();
        if row_groups.start > row_groups.end || row_groups.end > found {
            let Range { start, end } = row_groups;
            return Err(Failure::new(
                Exit::BadData,
                format!("row groups {start} to {end} are wanted of `{}`, which has {found}", self.path.display()),
            )
            .hint("the file changed since the plan was made: make a new one")
            .into());
        }
        if rows.is_some_and(|rows| !rows.is_sorted_by(|a, b| a < b)) {
            anyhow::bail!("the rows wanted of `{}` are not in ascending order", self.path.display());
        }
        let batch_rows = batch_rows.clamp(1, 1 << 16);
        match &self.source {
            Source::Parquet(shard) => shard.batches(row_groups, wanted, rows, batch_rows),
            Source::Jsonl(shard) if row_groups.is_empty() => Ok(shard.no_batches()),
            Source::Jsonl(shard) => shard.batches(wanted, rows, batch_rows),
        }
    }
}

/// The failure of a file that cannot be what it should be.
pub(super) fn damaged(name: impl std::fmt::Display, reason: impl std::fmt::Display) -> anyhow::Error {
    Failure::new(Exit::BadData, format!("cannot read `{name}`: {reason}"))
        .hint("fetch the file again; if it stays so, leave it out of the source")
        .into()
}

/// The failure to open a file.
pub(super) fn cannot_open(path: &Path, error: &std::io::Error) -> anyhow::Error {
    let reason = match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    };
    Failure::new(Exit::Usage, format!("cannot open `{}`: {reason}", path.display())).into()
}

/// The failure to find column `wanted` of a file that has the columns `present`.
pub(super) fn no_column(name: impl std::fmt::Display, wanted: &str, present: &[&str]) -> anyhow::Error {
    let nearest = present
        .iter()
        .map(|column| (strsim::damerau_levenshtein(&column.to_lowercase(), &wanted.to_lowercase()), column))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    let hint = match nearest {
        Some((_, column)) => format!("did you mean `{column}`? Name the column in the recipe"),
        None => "name the column in the recipe".to_owned(),
    };
    let mut listed: Vec<_> = present.iter().take(20).map(|column| format!("`{column}`")).collect();
    if present.len() > listed.len() {
        listed.push(format!("{} more", present.len() - listed.len()));
    }
    Failure::new(Exit::Usage, format!("`{name}` has no column `{wanted}`; it has {}", listed.join(", ")))
        .hint(hint)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_name() {
        let check = |name, expect| assert_eq!(Format::of(name), expect, "{name}");
        check("train-00000-of-00114.parquet", Some(Format::Parquet));
        check("A.PARQUET", Some(Format::Parquet));
        check("a.jsonl", Some(Format::Jsonl(Compression::None)));
        check("a.ndjson", Some(Format::Jsonl(Compression::None)));
        check("a.json.gz", Some(Format::Jsonl(Compression::Gzip)));
        check("a.jsonl.gz", Some(Format::Jsonl(Compression::Gzip)));
        check("a.jsonl.zst", Some(Format::Jsonl(Compression::Zstd)));
        check("a.csv", None);
        check("a.gz", None);
        check("parquet", None);
    }
}
