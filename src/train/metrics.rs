//! The numbers of a training run, written as it goes: a line of JSON for each step and each look at held-out data, a table at the end.
//!
//! They hold no clock reading: a run that was killed and went on writes the same bytes as one that was not.

use crate::data::parquet_sink::{ParquetSink, Profile, Written};
use crate::data::schema;
use crate::run::commit::write_failure;
use anyhow::Context;
use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Optimizer steps done.
    pub step: u64,
    /// The source whose held-out documents were looked at; absent for training steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<String>,
    /// Mean negative log-likelihood of the targets, in nats.
    pub loss: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Over all parameters, before clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Tokens to predict, in this step or look.
    pub targets: u64,
    /// Training tokens seen so far.
    pub tokens: u64,
    /// The same in passes over all data.
    pub epochs: f64,
}

/// A file to which lines are appended, and that can be cut back to what a checkpoint knows of.
#[derive(Debug)]
pub struct LineLog {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LineLog {
    /// Opens the log and cuts it to its first `bytes` bytes: what came after belongs to steps that are done again.
    pub fn open(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        let fail = |error: &std::io::Error| write_failure(path, error);
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(|error| fail(&error))?;
        let found = file.metadata().map_err(|error| fail(&error))?.len();
        anyhow::ensure!(found >= bytes, "`{}` has {found} bytes, but its checkpoint knows of {bytes}", path.display());
        file.set_len(bytes).map_err(|error| fail(&error))?;
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    pub fn append(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(|error| write_failure(&self.path, &error))?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Makes all lines durable and says how many bytes they are.
    pub fn sync(&mut self) -> anyhow::Result<u64> {
        self.file.sync_all().map_err(|error| write_failure(&self.path, &error))?;
        Ok(self.bytes)
    }
}

/// All lines of `metrics.jsonl`.
pub fn read(path: &Path) -> anyhow::Result<Vec<Metric>> {
    let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let lines = BufReader::new(file).lines();
    lines
        .map(|line| {
            serde_json::from_str(&line?).with_context(|| format!("a line of `{}` is no metric", path.display()))
        })
        .collect()
}

/// The whole lines of a `metrics.jsonl` that somebody may be writing.
pub fn read_whole_lines(path: &Path) -> anyhow::Result<Vec<Metric>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole
        .map(|line| serde_json::from_str(line).with_context(|| format!("a line of `{}` is no metric", path.display())))
        .collect()
}

/// Writes metrics as a table.
pub fn write_table(metrics: &[Metric], path: &Path, stage_key: &str) -> anyhow::Result<Written> {
    let schema = schema::metrics();
    let mut sink =
        ParquetSink::create(path, Arc::clone(&schema), Profile::Labels, schema::key_values("metrics", stage_key))?;
    let whole = |number: fn(&Metric) -> u64| {
        Arc::new(Int64Array::from_iter_values(metrics.iter().map(|one| number(one) as i64)))
    };
    let batch = RecordBatch::try_new(
        schema,
        vec![
            whole(|one| one.step),
            Arc::new(metrics.iter().map(|one| one.held_out.as_deref()).collect::<StringArray>()),
            Arc::new(Float64Array::from_iter_values(metrics.iter().map(|one| one.loss))),
            Arc::new(metrics.iter().map(|one| one.learning_rate).collect::<Float64Array>()),
            Arc::new(metrics.iter().map(|one| one.gradient_norm).collect::<Float64Array>()),
            whole(|one| one.targets),
            whole(|one| one.tokens),
            Arc::new(Float64Array::from_iter_values(metrics.iter().map(|one| one.epochs))),
        ],
    )?;
    sink.write(&batch)?;
    sink.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(step: u64) -> Metric {
        Metric {
            step,
            held_out: (step == 2).then(|| "a".to_owned()),
            loss: 1.0 / step as f64,
            learning_rate: (step != 2).then_some(1e-3),
            gradient_norm: None,
            targets: 3,
            tokens: 10 * step,
            epochs: 0.5,
        }
    }

    #[test]
    fn a_log_is_cut_back_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = LineLog::open(&path, 0).unwrap();
        log.append(&metric(1)).unwrap();
        let bytes = log.sync().unwrap();
        log.append(&metric(2)).unwrap();
        drop(log);
        let mut log = LineLog::open(&path, bytes).unwrap();
        log.append(&metric(3)).unwrap();
        assert_eq!(read(&path).unwrap().iter().map(|one| one.step).collect::<Vec<_>>(), [1, 3]);
        assert!(LineLog::open(&path, 1 << 20).is_err());
    }

    #[test]
    fn the_table_holds_every_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.parquet");
        let written = write_table(&[metric(1), metric(2)], &path, "key").unwrap();
        assert_eq!(written.rows, 2);
    }
}
