//! The numbers of puzzles that no trace may use, from public puzzle sets.

use crate::countdown::puzzle::{MAX_NUMBERS, Multiset};
use crate::error::{Exit, Failure};
use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

/// The columns or fields that hold a puzzle's numbers.
const NAMES: [&str; 2] = ["nums", "numbers"];

/// Adds the numbers of every puzzle of a `.parquet` or `.jsonl` file.
pub(super) fn read(path: &Path, excluded: &mut BTreeSet<Multiset>) -> Result<(), Failure> {
    let file = File::open(path).map_err(|error| refuse(path, &error))?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("parquet") => read_parquet(path, file, excluded),
        Some("jsonl") => read_jsonl(path, file, excluded),
        _ => Err(refuse(path, &"its name ends with neither `.parquet` nor `.jsonl`")),
    }
}

fn refuse(path: &Path, cause: &dyn Display) -> Failure {
    Failure::new(Exit::Usage, format!("cannot read puzzles from `{}`: {cause}", path.display()))
        .hint("expected rows with a list of whole numbers in `nums` or `numbers`")
}

fn read_parquet(path: &Path, file: File, excluded: &mut BTreeSet<Multiset>) -> Result<(), Failure> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| refuse(path, &error))?;
    let fields = builder.schema().fields();
    let column = fields.iter().position(|field| NAMES.contains(&field.name().as_str()));
    let column = column.ok_or_else(|| refuse(path, &"it has no column `nums` or `numbers`"))?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), [column]);
    let reader = builder.with_projection(mask).build().map_err(|error| refuse(path, &error))?;
    let list = DataType::List(Arc::new(Field::new("element", DataType::Int64, true)));
    let mut row = 0u64;
    for batch in reader {
        let batch = batch.map_err(|error| refuse(path, &error))?;
        let lists = cast(batch.column(0), &list).map_err(|error| refuse(path, &error))?;
        for numbers in lists.as_list::<i32>().iter() {
            row += 1;
            let numbers = numbers.ok_or_else(|| refuse(path, &format!("row {row} has no numbers")))?;
            let numbers: Vec<Option<i64>> = numbers.as_primitive::<Int64Type>().iter().collect();
            add(&numbers, excluded).map_err(|cause| refuse(path, &format!("row {row} {cause}")))?;
        }
    }
    Ok(())
}

fn read_jsonl(path: &Path, file: File, excluded: &mut BTreeSet<Multiset>) -> Result<(), Failure> {
    for (line, text) in (1..).zip(BufReader::new(file).lines()) {
        let text = text.map_err(|error| refuse(path, &error))?;
        if text.trim().is_empty() {
            continue;
        }
        let at = |cause: &dyn Display| refuse(path, &format!("line {line} {cause}"));
        let row: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| at(&format!("is no JSON: {error}")))?;
        let numbers = NAMES.iter().find_map(|name| row.get(name)?.as_array());
        let numbers = numbers.ok_or_else(|| at(&"has no list `nums` or `numbers`"))?;
        let numbers: Vec<Option<i64>> = numbers.iter().map(serde_json::Value::as_i64).collect();
        add(&numbers, excluded).map_err(|cause| at(&cause))?;
    }
    Ok(())
}

/// A puzzle of more numbers than ours can have excludes nothing.
fn add(numbers: &[Option<i64>], excluded: &mut BTreeSet<Multiset>) -> Result<(), &'static str> {
    let whole = numbers.iter().map(|number| number.and_then(|number| u32::try_from(number).ok()));
    let whole: Option<Vec<u32>> = whole.collect();
    let whole = whole.ok_or("has a number that is not whole, or below 0")?;
    if whole.len() <= MAX_NUMBERS {
        excluded.insert(Multiset::new(&whole));
    }
    Ok(())
}
