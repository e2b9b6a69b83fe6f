//! Shards of every format and state are read, or refused in one sentence.

use std::path::{Path, PathBuf};

use four_habits::data::document::{ColumnMap, DocumentBatch, Wanted};
use four_habits::data::shard::{Column, Footer, Format, ShardReader};
use four_habits::error::{Exit, exit_of, hint_of};

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
    open_as(path, Format::of(path.to_str().unwrap()).unwrap(), columns)
}

fn open_as(path: &Path, format: Format, columns: &ColumnMap) -> anyhow::Result<ShardReader> {
    ShardReader::open(path, format, columns)
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

/// Reads every column that can be read, each as text if it can be and else as a date. The number of rows seen, or the
/// first error.
fn read_every_column(path: &Path) -> anyhow::Result<usize> {
    let bytes = std::fs::read(path)?;
    let mut fetch = |range: std::ops::Range<u64>| Ok(bytes[range.start as usize..range.end as usize].to_vec());
    let footer = Footer::read_remote(&path.display().to_string(), bytes.len() as u64, &mut fetch)?;
    let is_text = |column: &&Column| ["string", "binary"].contains(&column.kind.as_str());
    let mut seen = 0;
    for column in &footer.columns {
        let text = if is_text(&column) { Some(column) } else { footer.columns.iter().find(is_text) };
        let Some(text) = text else { continue };
        let columns = ColumnMap { date: Some(column.name.clone()), ..ColumnMap::text_only(&text.name) };
        let reader = open_as(path, Format::Parquet, &columns)?;
        for batch_rows in [1, 1024] {
            let rows: usize = read(&reader, None, batch_rows)?.iter().map(DocumentBatch::len).sum();
            assert_eq!(Some(rows as u64), footer.rows);
            seen = rows;
        }
        let odd: Vec<u64> = (0..footer.rows.unwrap_or(0)).filter(|row| row % 2 == 1).collect();
        read(&reader, Some(&odd), 7)?;
    }
    Ok(seen)
}

fn one_clear_sentence(path: &Path, error: &anyhow::Error) {
    let sentence = format!("{error:#}");
    assert!(!sentence.contains('\n') && sentence.contains(&path.display().to_string()), "{sentence}");
    assert!(matches!(exit_of(error), Exit::BadData | Exit::Usage), "{sentence}");
    assert!(hint_of(error).is_some(), "{sentence}");
}

#[test]
fn conformance_files_are_read_or_refused() {
    let Some(folder) = shared_data("oracles/parquet_testing") else { return };
    let (mut read, mut refused) = (0, Vec::new());
    let corrupt = files(&folder.join("bad_data"));
    for path in files(&folder.join("data")).into_iter().chain(corrupt) {
        if path.extension().is_none_or(|ext| ext != "parquet") {
            continue;
        }
        match read_every_column(&path) {
            Ok(_) => read += 1,
            Err(error) => {
                one_clear_sentence(&path, &error);
                refused.push(format!("{error:#}"));
            }
        }
    }
    println!("{read} read, refused: {refused:#?}");
}
