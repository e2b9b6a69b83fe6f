//! The journal of a unit in hand: one line per batch of costly results, appended as it is made, replayed after a kill.
//!
//! A line is a checksum and a JSON array. A torn or damaged line ends the replay: it and what follows are made again.

use super::commit;
use crate::error::{Exit, Failure};
use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// At most this much work is lost when the machine, not only the process, dies.
const SYNC_INTERVAL: Duration = Duration::from_secs(2);

/// An open journal.
pub struct Journal {
    path: PathBuf,
    file: File,
    synced: Instant,
}

impl Journal {
    /// Opens a unit's journal and replays its whole batches: their entries and how many batches there were. A journal whose
    /// header differs was made by another judge, model or recipe, and starts anew.
    pub fn open<E: DeserializeOwned>(path: &Path, header: &str) -> anyhow::Result<(Self, Vec<E>, usize)> {
        if let Some(folder) = path.parent() {
            commit::create_folder(folder)?;
        }
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| commit::write_failure(path, &error))?;
        // Tasks of an earlier, other number may still run. The operating system frees the lock when its holder dies.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let message = format!("`{}` is in the hands of another task", path.display());
            return Err(Failure::new(Exit::TryAgain, message)
                .hint("let it end, then run the same command again")
                .into());
        }
        let mut present = Vec::new();
        file.read_to_end(&mut present).with_context(|| format!("cannot read `{}`", path.display()))?;
        let (entries, batches, valid_bytes) = replay(&present, header);
        file.set_len(valid_bytes as u64).map_err(|error| commit::write_failure(path, &error))?;
        file.seek(SeekFrom::End(0)).map_err(|error| commit::write_failure(path, &error))?;
        let mut journal = Self { path: path.to_owned(), file, synced: Instant::now() };
        if valid_bytes == 0 {
            journal.write(&line(header))?;
        }
        Ok((journal, entries, batches))
    }

    /// Appends a batch's entries as one line.
    pub fn append<E: Serialize>(&mut self, entries: &[E]) -> anyhow::Result<()> {
        self.write(&line(&serde_json::to_string(entries)?))?;
        commit::kill_point("journal: batch appended");
        if self.synced.elapsed() >= SYNC_INTERVAL {
            self.sync()?;
        }
        Ok(())
    }

    pub fn sync(&mut self) -> anyhow::Result<()> {
        self.synced = Instant::now();
        self.file.sync_data().map_err(|error| commit::write_failure(&self.path, &error))
    }

    fn write(&mut self, line: &str) -> anyhow::Result<()> {
        self.file.write_all(line.as_bytes()).map_err(|error| commit::write_failure(&self.path, &error))
    }
}

fn line(payload: &str) -> String {
    format!("{} {payload}\n", checksum(payload))
}

fn checksum(payload: &str) -> String {
    blake3::hash(payload.as_bytes()).to_hex()[..16].to_owned()
}

/// The entries of the whole batches, their number, and how many bytes they take with the header.
fn replay<E: DeserializeOwned>(bytes: &[u8], header: &str) -> (Vec<E>, usize, usize) {
    let mut payloads = bytes.split_inclusive(|&byte| byte == b'\n').map_while(|line| {
        let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
        let (sum, payload) = text.split_once(' ')?;
        (sum == checksum(payload)).then_some((payload, line.len()))
    });
    let Some((_, mut valid)) = payloads.next().filter(|(payload, _)| *payload == header) else {
        return (Vec::new(), 0, 0);
    };
    let mut entries = Vec::new();
    let mut batches = 0;
    for (payload, bytes) in payloads {
        let Ok(batch) = serde_json::from_str::<Vec<E>>(payload) else { break };
        entries.extend(batch);
        batches += 1;
        valid += bytes;
    }
    (entries, batches, valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entry = (u64, Result<f32, String>);

    fn batch(row: u64) -> Vec<Entry> {
        vec![(row, Ok(0.1 + row as f32 / 3.0)), (row + 1, Err("text is null".into()))]
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test tears a journal")]
    fn a_torn_tail_is_forgotten_and_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal/u.jsonl");
        let (mut journal, entries, batches) = Journal::open::<Entry>(&path, "header").unwrap();
        assert_eq!((entries.len(), batches), (0, 0));
        journal.append(&batch(0)).unwrap();
        journal.append(&batch(2)).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let first_two: usize = whole.split_inclusive(|&byte| byte == b'\n').take(2).map(<[u8]>::len).sum();

        for cut in first_two..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, entries, batches) = Journal::open::<Entry>(&path, "header").unwrap();
            assert_eq!((entries, batches), (batch(0), 1), "cut at {cut}");
            journal.append(&batch(2)).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn another_header_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("u.jsonl");
        Journal::open::<Entry>(&path, "one judge").unwrap().0.append(&batch(0)).unwrap();
        assert_eq!(Journal::open::<Entry>(&path, "another judge").unwrap().2, 0);
        assert_eq!(Journal::open::<Entry>(&path, "another judge").unwrap().1, vec![]);
    }
}
