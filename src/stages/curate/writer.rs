//! Writes a corpus in shuffled order with bounded memory: rows arrive in corpus order and are spooled per output file;
//! each file is then put in order and written, as large as fits memory comfortably.

use crate::data::parquet_sink::{ParquetSink, Profile};
use crate::data::schema;
use crate::run::commit;
use crate::run::manifest::Output;
use anyhow::Context;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Text per output file: a file is held in memory once while it is put in order.
const FILE_CHARS: u64 = 128 << 20;

/// Rows of all files that may wait in memory before they are spooled to disk.
const SPOOL_BYTES: usize = 320 << 20;

/// Rows written at a time.
const WRITE_ROWS: usize = 4096;

/// Where a document goes: which of the corpus's files, and its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub file: u32,
    pub position: u32,
}

/// The files of one split, and every document's place.
pub struct Layout {
    pub split: &'static str,
    /// Rows per file.
    pub rows: Vec<u32>,
    /// By document.
    pub places: BTreeMap<u32, Place>,
}

/// Lays documents out over files in their order; `chars` gives a document's size.
pub fn lay_out(split: &'static str, order: &[u32], chars: impl Fn(u32) -> u32) -> Layout {
    let total: u64 = order.iter().map(|&document| u64::from(chars(document))).sum();
    let files = total.div_ceil(FILE_CHARS).max(u64::from(!order.is_empty()));
    let mut layout = Layout { split, rows: vec![0; files as usize], places: BTreeMap::new() };
    let mut before = 0;
    for &document in order {
        let file = (before * files / total.max(1)).min(files - 1) as u32;
        before += u64::from(chars(document));
        let position = &mut layout.rows[file as usize];
        layout.places.insert(document, Place { file, position: *position });
        *position += 1;
    }
    layout
}

/// The rows of one corpus on their way into its files.
pub struct CorpusWriter {
    folder: PathBuf,
    layouts: Vec<Layout>,
    spools: BTreeMap<(usize, u32), Spool>,
    bytes_waiting: usize,
}

/// Rows that belong into one file, in the order in which they came.
#[derive(Default)]
struct Spool {
    positions: Vec<u32>,
    waiting: Vec<RecordBatch>,
    on_disk: Option<StreamWriter<BufWriter<File>>>,
}

impl CorpusWriter {
    /// A writer into `folder`, the corpus's own.
    pub fn new(folder: PathBuf, layouts: Vec<Layout>) -> anyhow::Result<Self> {
        commit::create_folder(&folder)?;
        Ok(Self { folder, layouts, spools: BTreeMap::new(), bytes_waiting: 0 })
    }

    /// Adds the rows of a batch that the corpus keeps; `documents` gives each row's document.
    pub fn add(&mut self, batch: &RecordBatch, documents: &[u32]) -> anyhow::Result<()> {
        let mut rows: BTreeMap<(usize, u32), Vec<(u32, u32)>> = BTreeMap::new();
        for (row, document) in (0..).zip(documents) {
            if let Some((split, place)) =
                self.layouts.iter().enumerate().find_map(|(split, layout)| Some((split, layout.places.get(document)?)))
            {
                rows.entry((split, place.file)).or_default().push((row, place.position));
            }
        }
        for (file, rows) in rows {
            let taken = take(batch, &UInt32Array::from_iter_values(rows.iter().map(|&(row, _)| row)))?;
            let taken = compact(&taken)?;
            self.bytes_waiting += taken.get_array_memory_size();
            let spool = self.spools.entry(file).or_default();
            spool.positions.extend(rows.iter().map(|&(_, position)| position));
            spool.waiting.push(taken);
        }
        if self.bytes_waiting > SPOOL_BYTES {
            self.spill()?;
        }
        Ok(())
    }

    /// Moves all waiting rows to the disk.
    fn spill(&mut self) -> anyhow::Result<()> {
        for (&(split, file), spool) in &mut self.spools {
            let path = spool_path(&self.folder, split, file);
            for batch in spool.waiting.drain(..) {
                if spool.on_disk.is_none() {
                    let created = File::options()
                        .create(true)
                        .write(true)
                        .truncate(true)
                        .open(&path)
                        .map_err(|error| commit::write_failure(&path, &error))?;
                    let writer = StreamWriter::try_new(BufWriter::new(created), &batch.schema());
                    spool.on_disk = Some(writer.map_err(|error| spool_failure(&path, error))?);
                }
                if let Some(writer) = &mut spool.on_disk {
                    writer.write(&batch).map_err(|error| spool_failure(&path, error))?;
                }
            }
        }
        self.bytes_waiting = 0;
        Ok(())
    }

    /// Writes every file in its order and commits it. Paths in the result are relative to the corpus's folder.
    pub fn finish(mut self, stage_key: &str) -> anyhow::Result<Vec<Output>> {
        let mut outputs = Vec::new();
        for (split, layout) in self.layouts.iter().enumerate() {
            for (file, &rows) in (0..).zip(&layout.rows) {
                let spool = self.spools.remove(&(split, file)).unwrap_or_default();
                let spool_path = spool_path(&self.folder, split, file);
                let batch = spool.into_order(&spool_path)?;
                anyhow::ensure!(
                    batch.as_ref().map_or(0, RecordBatch::num_rows) == rows as usize,
                    "corpus `{}` lost rows on the way to the disk",
                    self.folder.display()
                );
                let name = format!("{}-{file:05}-of-{:05}.parquet", layout.split, layout.rows.len());
                let mut sink = ParquetSink::create(
                    &self.folder.join(&name),
                    schema::corpus(),
                    Profile::Corpus,
                    schema::key_values("corpus", stage_key),
                )?;
                if let Some(batch) = batch {
                    for start in (0..batch.num_rows()).step_by(WRITE_ROWS) {
                        sink.write(&batch.slice(start, WRITE_ROWS.min(batch.num_rows() - start)))?;
                    }
                }
                let written = sink.finish()?;
                outputs.push(Output {
                    path: name,
                    bytes: written.committed.bytes,
                    sha256: written.committed.sha256,
                    rows: written.rows,
                });
                remove_if_present(&spool_path)?;
            }
        }
        Ok(outputs)
    }
}

impl Spool {
    /// All rows in the order of their positions.
    fn into_order(mut self, path: &Path) -> anyhow::Result<Option<RecordBatch>> {
        let mut batches = Vec::new();
        if let Some(mut writer) = self.on_disk.take() {
            writer.finish().map_err(|error| spool_failure(path, error))?;
            drop(writer);
            let file = File::open(path).with_context(|| format!("cannot read back `{}`", path.display()))?;
            batches = StreamReader::try_new(BufReader::new(file), None)?.collect::<Result<_, _>>()?;
        }
        batches.append(&mut self.waiting);
        let Some(first) = batches.first() else { return Ok(None) };
        let all = arrow::compute::concat_batches(&first.schema(), &batches)?;
        let mut order = vec![0u32; self.positions.len()];
        for (row, &position) in (0..).zip(&self.positions) {
            order[position as usize] = row;
        }
        Ok(Some(take(&all, &UInt32Array::from(order))?))
    }
}

fn spool_path(folder: &Path, split: usize, file: u32) -> PathBuf {
    folder.join(format!(".spool-{split}-{file}.arrow"))
}

/// The failure to write a spool; the disk's own reason when it has one.
fn spool_failure(path: &Path, error: ArrowError) -> anyhow::Error {
    match error {
        ArrowError::IoError(_, error) => commit::write_failure(path, &error),
        error => anyhow::Error::new(error).context(format!("cannot write `{}`", path.display())),
    }
}

fn remove_if_present(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

fn take(batch: &RecordBatch, rows: &UInt32Array) -> anyhow::Result<RecordBatch> {
    Ok(arrow::compute::take_record_batch(batch, rows)?)
}

/// Copies the strings that rows refer to, so that the pages that they were read from can go.
fn compact(batch: &RecordBatch) -> anyhow::Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()) as ArrayRef,
        _ => Arc::clone(column),
    });
    Ok(RecordBatch::try_new(batch.schema(), columns.collect())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lie_in_order_over_files() {
        let order: Vec<u32> = vec![5, 3, 9, 1];
        let layout = lay_out("train", &order, |_| (FILE_CHARS / 2) as u32);
        assert_eq!(layout.rows, [2, 2]);
        assert_eq!(layout.places[&5], Place { file: 0, position: 0 });
        assert_eq!(layout.places[&3], Place { file: 0, position: 1 });
        assert_eq!(layout.places[&9], Place { file: 1, position: 0 });
        assert!(lay_out("test", &[], |_| 1).rows.is_empty());
        assert_eq!(lay_out("train", &[7], |_| 0).rows, [1]);
    }
}
