//! A unit's documents, with damage turned into quarantined rows, so that every stage sees the same rows.
//!
//! Which rows are damaged must not depend on who reads: stages read in batches of different sizes, and a row that one of them
//! has and another lacks cannot be joined. So every stage reads all columns, and where a batch fails its rows are read one
//! by one: those before the damage are documents, and from the first that fails the rest of the row group is lost. The
//! next row group is read as if nothing had happened.

use crate::data::document::{Defect, DocumentBatch, Wanted};
use crate::data::shard::{Batches, ShardReader};
use crate::error::{Exit, exit_of};
use crate::plan::Unit;
use arrow::array::{StringViewArray, new_null_array};
use arrow::datatypes::DataType;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::sync_channel;

/// Reads a unit in batches of `batch_rows` rows, whole from the unit's first row on, so that batches are the same in every attempt.
///
/// Where the shard is damaged, rows come back as defects that say so: each of them if the footer tells how many there are,
/// else one row that stands for the rest of the file.
///
/// # Errors
/// What the disk does wrong, such as a file that vanished; that is no property of the data.
pub fn unit_batches<'r>(reader: &'r ShardReader, unit: &Unit, wanted: Wanted, batch_rows: usize) -> UnitBatches<'r> {
    let end = unit.take.or(unit.rows).map(|rows| unit.first_row + rows);
    UnitBatches {
        reader,
        wanted,
        batch_rows,
        groups: unit.row_groups.clone(),
        rows_known: unit.rows.is_some(),
        next_row: unit.first_row,
        end,
        batches: None,
        ready: VecDeque::new(),
    }
}

/// See [`unit_batches`].
pub struct UnitBatches<'r> {
    reader: &'r ShardReader,
    wanted: Wanted,
    batch_rows: usize,
    /// What is left of the unit, from the row group of `next_row` on when `batches` is none.
    groups: Range<usize>,
    rows_known: bool,
    next_row: u64,
    end: Option<u64>,
    batches: Option<Batches>,
    ready: VecDeque<DocumentBatch>,
}

impl Iterator for UnitBatches<'_> {
    type Item = anyhow::Result<DocumentBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Some(Ok(batch));
            }
            if self.end.is_some_and(|end| self.next_row >= end) {
                return None;
            }
            let batch = match &mut self.batches {
                Some(batches) => batches.next()?,
                None => match self.reader.batches(self.groups.clone(), self.wanted, None, self.batch_rows) {
                    Ok(batches) => self.batches.insert(batches).next()?,
                    Err(error) => Err(error),
                },
            };
            match batch {
                Ok(batch) => {
                    let left =
                        self.end.map_or(batch.len(), |end| (end - self.next_row).min(batch.len() as u64) as usize);
                    self.next_row += left as u64;
                    return Some(Ok(if left < batch.len() { head(batch, left) } else { batch }));
                }
                Err(error) if is_damage(&error) => self.pass_damage(&error),
                Err(error) => {
                    self.end = Some(self.next_row);
                    return Some(Err(error));
                }
            }
        }
    }
}

impl UnitBatches<'_> {
    /// Makes ready what can be read of the batch that failed, and the defects that stand for what cannot.
    fn pass_damage(&mut self, error: &anyhow::Error) {
        let reason = format!("the shard is damaged: {error:#}");
        let Some(end) = self.end.filter(|_| self.rows_known) else {
            self.ready.push_back(damaged(self.next_row..self.next_row + 1, &reason));
            self.end = Some(self.next_row);
            return;
        };
        self.pass_groups_before_next_row();
        // Not by selecting rows: that would trust the page index, of which the stages' own reading knows nothing.
        if let Ok(rows) = self.reader.batches(self.groups.clone(), self.wanted, None, 1) {
            let passed = (self.next_row - self.first_row(self.groups.start)) as usize;
            for batch in rows.skip(passed).map_while(Result::ok).take((end - self.next_row) as usize) {
                self.next_row += batch.len() as u64;
                self.ready.push_back(batch);
            }
        }
        self.pass_groups_before_next_row();
        let lost = self.next_row..self.first_row(self.groups.start + 1).min(end);
        if !lost.is_empty() {
            self.next_row = lost.end;
            self.ready.push_back(damaged(lost, &reason));
        }
        self.groups.start += 1;
        self.batches = None;
    }

    /// Leaves the row group of `next_row` as the first.
    fn pass_groups_before_next_row(&mut self) {
        while self.groups.start + 1 < self.groups.end && self.first_row(self.groups.start + 1) <= self.next_row {
            self.groups.start += 1;
        }
    }

    /// The shard's row with which a row group begins.
    fn first_row(&self, group: usize) -> u64 {
        self.reader.footer().row_groups[..group].iter().filter_map(|group| group.rows).sum()
    }
}

/// Reads chosen rows of a unit, which all are readable, in batches of at most `batch_rows`.
///
/// A reader that goes on to the next row group passes over what is left of the last one, and may stumble over damage that
/// nobody wants to read; then each row group is read by itself.
///
/// # Errors
/// If a chosen row cannot be read after all.
pub fn chosen_batches(
    reader: &ShardReader,
    unit: &Unit,
    rows: &[u64],
    batch_rows: usize,
    mut visit: impl FnMut(&DocumentBatch) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut read = |groups: Range<usize>, rows: &[u64], done: &mut usize| -> anyhow::Result<()> {
        let batches = reader.batches(groups, Wanted::ALL, Some(rows), batch_rows)?;
        read_ahead(batches, |batch| {
            let batch = batch?;
            visit(&batch)?;
            *done += batch.len();
            Ok(true)
        })?;
        Ok(())
    };
    let mut done = 0;
    match read(unit.row_groups.clone(), rows, &mut done) {
        Err(error) if is_damage(&error) && unit.row_groups.len() > 1 => {}
        outcome => return outcome,
    }
    let mut start = unit.first_row;
    for group in unit.row_groups.clone() {
        let end = start + reader.footer().row_groups[group].rows.unwrap_or(0);
        let left = &rows[done..];
        let own = &left[..left.partition_point(|&row| row < end)];
        read(group..group + 1, own, &mut done)?;
        start = end;
    }
    Ok(())
}

/// Items that may wait while the one before is worked on.
const READ_AHEAD: usize = 2;

/// Visits items that another thread makes meanwhile, until there are no more or `visit` says false.
/// Returns whether all were visited.
pub fn read_ahead<T: Send>(
    items: impl Iterator<Item = T> + Send,
    mut visit: impl FnMut(T) -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(READ_AHEAD);
        scope.spawn(move || {
            for item in items {
                if send.send(item).is_err() {
                    return;
                }
            }
        });
        for item in receive {
            if !visit(item)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Whether the data is at fault, and not the disk, the network or us.
fn is_damage(error: &anyhow::Error) -> bool {
    exit_of(error) == Exit::BadData
}

fn head(mut batch: DocumentBatch, rows: usize) -> DocumentBatch {
    batch.rows.truncate(rows);
    batch.defects.retain(|defect| defect.row_in_batch < rows);
    for column in [&mut batch.url, &mut batch.text, &mut batch.date, &mut batch.metadata] {
        *column = column.slice(0, rows);
    }
    batch
}

fn damaged(rows: Range<u64>, reason: &str) -> DocumentBatch {
    let rows: Vec<u64> = rows.collect();
    let nulls = || StringViewArray::from(new_null_array(&DataType::Utf8View, rows.len()).to_data());
    let defects = (0..rows.len()).map(|row_in_batch| Defect { row_in_batch, reason: reason.to_owned() }).collect();
    DocumentBatch { url: nulls(), text: nulls(), date: nulls(), metadata: nulls(), defects, rows }
}
