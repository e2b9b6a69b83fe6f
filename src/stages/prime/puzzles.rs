//! Public puzzle sets, row by row: the 3-to-4 set as Parquet, JSON lines, the list of the Game of 24 as CSV.
//!
//! It reads what rows say and leaves what to make of it to others. A file that is of no known form is an error that names
//! the row; a row with odd values is not.

use crate::countdown::puzzle::{MAX_NUMBERS, Multiset};
use crate::error::{Exit, Failure};
use arrow::array::{Array, AsArray, Int64Array, ListArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The columns or fields that hold a puzzle's numbers.
const NUMBERS: [&str; 2] = ["nums", "numbers"];
/// The Game of 24's column, numbers between blanks.
const GAME_OF_24: &str = "Puzzles";
const TARGET: &str = "target";

/// What a row says. `None` where that is no whole number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Row {
    pub numbers: Vec<Option<i64>>,
    pub target: Option<i64>,
}

/// Rows of a file, in order and constant memory.
pub(super) struct PuzzleFile {
    path: PathBuf,
    rows: Rows,
    /// Rows or lines read so far.
    n_read: u64,
    needs_target: bool,
}

enum Rows {
    Parquet { batches: Box<ParquetRecordBatchReader>, numbers: ListArray, targets: Option<Int64Array>, next: usize },
    Jsonl(Lines<BufReader<File>>),
    Csv { lines: Lines<BufReader<File>>, numbers: usize, target: Option<usize> },
}

impl PuzzleFile {
    pub(super) fn open(path: &Path, needs_target: bool) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| refuse(path, &error))?;
        let (rows, n_read) = match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => (open_parquet(path, file, needs_target)?, 0),
            Some("jsonl") => (Rows::Jsonl(BufReader::new(file).lines()), 0),
            Some("csv") => (open_csv(path, file)?, 1),
            _ => return Err(refuse(path, &"its name ends with none of `.parquet`, `.jsonl` and `.csv`")),
        };
        Ok(Self { path: path.to_owned(), rows, n_read, needs_target })
    }

    /// The next row, or `None` at the end.
    pub(super) fn next_row(&mut self) -> Result<Option<Row>, Failure> {
        let path = &self.path;
        match &mut self.rows {
            Rows::Parquet { batches, numbers, targets, next } => {
                while *next == numbers.len() {
                    let Some(batch) = batches.next() else { return Ok(None) };
                    let batch = batch.map_err(|error| refuse(path, &error))?;
                    let list = DataType::List(Arc::new(Field::new("element", DataType::Int64, true)));
                    let column = |name: &str| batch.column_by_name(name);
                    let lists = NUMBERS.iter().find_map(|name| column(name));
                    let lists = lists.ok_or_else(|| refuse(path, &"it has no column `nums` or `numbers`"))?;
                    *numbers = cast(lists, &list).map_err(|error| refuse(path, &error))?.as_list::<i32>().clone();
                    *targets = match column(TARGET) {
                        None => None,
                        Some(targets) => {
                            let targets = cast(targets, &DataType::Int64).map_err(|error| refuse(path, &error))?;
                            Some(targets.as_primitive::<Int64Type>().clone())
                        }
                    };
                    *next = 0;
                }
                let row = *next;
                *next += 1;
                self.n_read += 1;
                let whole = numbers.is_valid(row).then(|| numbers.value(row));
                let whole = whole.map(|list| list.as_primitive::<Int64Type>().iter().collect());
                let target = targets.as_ref().filter(|targets| targets.is_valid(row)).map(|targets| targets.value(row));
                Ok(Some(Row { numbers: whole.unwrap_or_default(), target }))
            }
            Rows::Jsonl(lines) => loop {
                let Some(line) = lines.next() else { return Ok(None) };
                self.n_read += 1;
                let line = line.map_err(|error| refuse(path, &error))?;
                if line.trim().is_empty() {
                    continue;
                }
                let at = |cause: &dyn Display| refuse(path, &format!("line {} {cause}", self.n_read));
                let row: serde_json::Value =
                    serde_json::from_str(&line).map_err(|error| at(&format!("is no JSON: {error}")))?;
                let numbers = NUMBERS.iter().find_map(|name| row.get(name)?.as_array());
                let numbers = numbers.ok_or_else(|| at(&"has no list `nums` or `numbers`"))?;
                let target = row.get(TARGET);
                if self.needs_target && target.is_none() {
                    return Err(at(&"has no `target`"));
                }
                let numbers = numbers.iter().map(serde_json::Value::as_i64).collect();
                return Ok(Some(Row { numbers, target: target.and_then(serde_json::Value::as_i64) }));
            },
            Rows::Csv { lines, numbers, target } => loop {
                let Some(line) = lines.next() else { return Ok(None) };
                self.n_read += 1;
                let line = line.map_err(|error| refuse(path, &error))?;
                if line.trim().is_empty() {
                    continue;
                }
                let cells: Vec<&str> = line.split(',').map(str::trim).collect();
                let cell = |column: usize| {
                    let missing = || refuse(path, &format!("line {} has too few columns", self.n_read));
                    cells.get(column).copied().ok_or_else(missing)
                };
                let words = cell(*numbers)?.split_whitespace();
                let numbers = words.take(MAX_NUMBERS + 1).map(|word| word.parse().ok()).collect();
                let target = match target {
                    Some(column) => cell(*column)?.parse().ok(),
                    None => Some(24),
                };
                return Ok(Some(Row { numbers, target }));
            },
        }
    }
}

fn refuse(path: &Path, cause: &dyn Display) -> Failure {
    Failure::new(Exit::Usage, format!("cannot read puzzles from `{}`: {cause}", path.display()))
        .hint("expected rows with a list of whole numbers in `nums` or `numbers` and a `target`, or the list of the Game of 24")
}

fn open_parquet(path: &Path, file: File, needs_target: bool) -> Result<Rows, Failure> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| refuse(path, &error))?;
    let fields = builder.schema().fields();
    let position = |names: &[&str]| fields.iter().position(|field| names.contains(&field.name().as_str()));
    let numbers = position(&NUMBERS).ok_or_else(|| refuse(path, &"it has no column `nums` or `numbers`"))?;
    let target = position(&[TARGET]);
    if needs_target && target.is_none() {
        return Err(refuse(path, &"it has no column `target`"));
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), target.into_iter().chain([numbers]));
    let batches = builder.with_projection(mask).build().map_err(|error| refuse(path, &error))?;
    let numbers = ListArray::new_null(Arc::new(Field::new("element", DataType::Int64, true)), 0);
    Ok(Rows::Parquet { batches: Box::new(batches), numbers, targets: None, next: 0 })
}

fn open_csv(path: &Path, file: File) -> Result<Rows, Failure> {
    let mut lines = BufReader::new(file).lines();
    let header = lines.next().transpose().map_err(|error| refuse(path, &error))?.unwrap_or_default();
    let position = |name: &str| header.split(',').position(|column| column.trim() == name);
    let numbers = position(GAME_OF_24).ok_or_else(|| refuse(path, &format!("line 1 has no column `{GAME_OF_24}`")))?;
    Ok(Rows::Csv { lines, numbers, target: position(TARGET) })
}

/// Adds the numbers of every puzzle of a file. A puzzle of more numbers than ours can have excludes nothing.
pub(super) fn exclude(path: &Path, excluded: &mut BTreeSet<Multiset>) -> Result<(), Failure> {
    let mut file = PuzzleFile::open(path, false)?;
    while let Some(row) = file.next_row()? {
        let whole = row.numbers.iter().map(|number| number.and_then(|number| u32::try_from(number).ok()));
        let whole: Option<Vec<u32>> = whole.collect();
        let whole = whole.filter(|whole| !whole.is_empty()).ok_or_else(|| {
            refuse(path, &format!("row {} has no numbers, or one that is not whole or below 0", file.n_read))
        })?;
        if whole.len() <= MAX_NUMBERS {
            excluded.insert(Multiset::new(&whole));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test's input needs no commit")]
    fn check(name: &str, text: &str, expect: Result<Vec<Row>, &str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let read = || {
            let mut file = PuzzleFile::open(&path, true)?;
            let mut rows = Vec::new();
            while let Some(row) = file.next_row()? {
                rows.push(row);
            }
            Ok(rows)
        };
        match (read(), expect) {
            (Ok(rows), expect) => assert_eq!(Ok(rows), expect),
            (Err(failure), expect) => {
                let failure: Failure = failure;
                let cause = failure.message.split_once("`: ").unwrap().1;
                assert_eq!(Err(cause), expect);
            }
        }
    }

    fn row(numbers: &[i64], target: i64) -> Row {
        Row { numbers: numbers.iter().copied().map(Some).collect(), target: Some(target) }
    }

    #[test]
    fn rows_of_each_form() {
        check("a.jsonl", "{\"nums\": [3, 4], \"target\": 7}\n\n", Ok(vec![row(&[3, 4], 7)]));
        check(
            "a.jsonl",
            "{\"numbers\": [3.5, -4], \"target\": \"x\"}\n",
            Ok(vec![Row { numbers: vec![None, Some(-4)], target: None }]),
        );
        check("a.csv", "Rank,Puzzles,x\n1,1 1 4 6,9\n", Ok(vec![row(&[1, 1, 4, 6], 24)]));
        check("a.csv", "Puzzles,target\n1 2,3\n", Ok(vec![row(&[1, 2], 3)]));
    }

    #[test]
    fn files_of_another_form_are_refused() {
        check("a.jsonl", "{\"nums\": [3, 4]}\n", Err("line 1 has no `target`"));
        check("a.jsonl", "{\"target\": 4}\n", Err("line 1 has no list `nums` or `numbers`"));
        check("a.csv", "a,b\n1,2\n", Err("line 1 has no column `Puzzles`"));
        check("a.csv", "a,Puzzles\n1\n", Err("line 2 has too few columns"));
        check("a.txt", "", Err("its name ends with none of `.parquet`, `.jsonl` and `.csv`"));
    }
}
