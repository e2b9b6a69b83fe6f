//! Shards of every format and state are read, or refused in one sentence.

use std::path::{Path, PathBuf};

use four_habits::data::document::{ColumnMap, DocumentBatch, Wanted};
use four_habits::data::shard::{Format, ShardReader};

fn shared_data(what: &str) -> Option<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data")).join(what);
    if !folder.exists() {
        println!("skipped: {what} (no ../shared/data)");
        return None;
    }
    Some(folder)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn open(path: &Path, columns: &ColumnMap) -> anyhow::Result<ShardReader> {
    ShardReader::open(path, Format::of(path.to_str().unwrap()).unwrap(), columns)
}

fn read(reader: &ShardReader, rows: Option<&[u64]>, batch_rows: usize) -> anyhow::Result<Vec<DocumentBatch>> {
    reader.batches(0..reader.footer().row_groups.len(), Wanted::ALL, rows, batch_rows)?.collect()
}

#[test]
fn shards_of_three_writers_read_alike() {
    let Some(folder) = shared_data("math_docs") else { return };
    let mut rows = 0;
    let mut null_dates = 0;
    for path in files(&folder).into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "parquet")) {
        let reader = open(&path, &ColumnMap::default()).unwrap();
        let batches = read(&reader, None, 1000).unwrap();
        let count: usize = batches.iter().map(DocumentBatch::len).sum();
        assert_eq!(Some(count as u64), reader.footer().rows);
        let numbers: Vec<u64> = batches.iter().flat_map(|batch| batch.rows.clone()).collect();
        assert!(numbers.into_iter().eq(0..count as u64));
        for batch in &batches {
            assert!(batch.defects.is_empty() && batch.len() <= 1000);
            null_dates += arrow::array::Array::null_count(&batch.date);
        }
        rows += count;
    }
    assert_eq!((rows, null_dates), (5852, 266));
}
