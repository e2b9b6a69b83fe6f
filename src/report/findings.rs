//! What a run's files say beyond its manifests: distributions, reasons, hosts and sample documents.
//!
//! Everything here derives from committed files and from the plan, so that equal runs give equal findings. Samples come
//! from the corpora; a run without corpora shows documents of local shards.

use super::labeled::{LabeledRows, label_columns, numbers};
use super::reinforcement::{self, ReinforcedFindings};
use super::samples::{Candidate, Picker, Quoter, Sample, SampleGroup, excerpt};
use super::source;
use super::summary::manifests;
use super::training::{self, TrainedFindings};
use crate::data::parquet_table::ParquetTable;
use crate::plan::{Location, Plan, Stage, Work};
use crate::run::dir::RunDir;
use crate::run::manifest::{Manifest, Output};
use crate::stages::curate::{Host, Statistics};
use anyhow::Context;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type};
use serde::Serialize;
use std::collections::BTreeMap;

/// Reasons listed one by one.
const REASONS_LISTED: usize = 20;

/// The first number of instances in each bin of [`JudgedFindings::instances`].
pub const INSTANCE_BINS: [u32; 6] = [1, 2, 3, 4, 5, 10];

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Findings {
    /// One per stage that judges, in the order of [`super::summary::RunSummary::judged`].
    pub judged: Vec<JudgedFindings>,
    /// One per stage that writes corpora, in the order of [`super::summary::RunSummary::curated`].
    pub curated: Vec<CuratedFindings>,
    /// One per stage that trained to its end.
    pub trained: Vec<TrainedFindings>,
    /// One per stage that trained by reinforcement to its end.
    pub reinforced: Vec<ReinforcedFindings>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgedFindings {
    pub stage: String,
    /// For each behavior, documents with 1, 2, 3, 4, 5 to 9, and 10 or more instances.
    pub instances: [[u64; INSTANCE_BINS.len()]; 4],
    /// Documents by score in tenths, for each behavior.
    pub scores: [[u64; 10]; 4],
    /// Why documents were quarantined, the most frequent reason first; numbers in a reason are written `#`.
    pub quarantine: Vec<Reason>,
    pub samples: Vec<SampleGroup>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reason {
    pub reason: String,
    pub rows: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CuratedFindings {
    pub stage: String,
    /// Tokens of all judged documents.
    pub tokens: u64,
    /// The hosts with the most documents, and the rest together.
    pub hosts: Vec<Host>,
    /// By corpus.
    pub lengths: BTreeMap<String, Vec<LengthBin>>,
    pub samples: Vec<SampleGroup>,
}

/// Documents of `from` to `2 · from - 1` tokens (0 and 1 tokens: from 0).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LengthBin {
    pub from: u64,
    pub documents: u64,
}

impl Findings {
    pub fn new(plan: &Plan, dir: &RunDir) -> anyhow::Result<Self> {
        let mut findings = Self {
            judged: Vec::new(),
            curated: Vec::new(),
            trained: training::of_run(plan, dir)?,
            reinforced: reinforcement::of_run(plan, dir)?,
        };
        for (index, stage) in plan.stages.iter().enumerate() {
            let sampled_elsewhere = || {
                let mut others = plan.stages.iter();
                others.any(|other| matches!(other.work, Work::Curate(_)) && other.reads.contains(&index))
            };
            match &stage.work {
                Work::Classify(_) => findings.judged.push(judged(plan, stage, dir, !sampled_elsewhere())?),
                Work::Curate(_) => findings.curated.push(curated(stage, &manifests(plan, stage, dir)?, dir)?),
                Work::Sketch(_)
                | Work::Rewrite(_)
                | Work::Arithmetic(_)
                | Work::Prime(_)
                | Work::Base(_)
                | Work::Pretrain(_)
                | Work::Ppo(_)
                | Work::Report(_) => {}
            }
        }
        Ok(findings)
    }
}

fn judged(plan: &Plan, stage: &Stage, dir: &RunDir, sample: bool) -> anyhow::Result<JudgedFindings> {
    let input = &plan.inputs[stage.input];
    let mut findings = JudgedFindings {
        stage: stage.folder.clone(),
        instances: Default::default(),
        scores: Default::default(),
        quarantine: Vec::new(),
        samples: Vec::new(),
    };
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    let mut picker = Picker::default();
    for (index, unit) in input.units.iter().enumerate() {
        let Some(manifest) = Manifest::read(&dir.path(stage.manifest(&unit.id)))? else { continue };
        if manifest.stage_key != stage.key {
            continue;
        }
        let local = !matches!(input.shards[unit.shard].location, Location::Remote(_));
        for output in &manifest.outputs {
            let table = ParquetTable::open(&dir.path(&output.path))?;
            if output.path.contains("/quarantine/") {
                for batch in table.columns(&["reason"])? {
                    let batch = batch?;
                    let reasons_given = batch.column(0).as_string_opt::<i32>().context("`reason` is not text")?;
                    for reason in reasons_given.iter().flatten() {
                        *reasons.entry(without_numbers(reason)).or_default() += 1;
                    }
                }
                continue;
            }
            for batch in table.columns(&label_columns("source_row"))? {
                let rows = LabeledRows::new(batch?)?;
                let source_rows = numbers::<Int64Type>(&rows.batch, "source_row")?;
                for row in 0..rows.len() {
                    let marks = rows.marks(row);
                    for (behavior, mark) in marks.iter().enumerate() {
                        if let Some(bin) = INSTANCE_BINS.iter().rposition(|&first| mark.count >= first) {
                            findings.instances[behavior][bin] += 1;
                        }
                        findings.scores[behavior][((mark.score * 10.0) as usize).min(9)] += 1;
                    }
                    if sample && local {
                        picker.offer(rows.id(row), &marks, None, (index, source_rows.value(row) as u64));
                    }
                }
            }
        }
    }
    findings.quarantine = most_frequent(reasons);
    let read = |one: &Candidate| -> anyhow::Result<Option<Read>> {
        let unit = &input.units[one.place.0];
        // A shard that is gone costs its sample, not the report.
        let Ok(document) = source::read(dir, input, unit, one.place.1) else { return Ok(None) };
        let source_file = input.shards[unit.shard].name.clone();
        Ok(document.text.map(|text| Read { url: document.url, text, source_file, source_row: one.place.1 }))
    };
    findings.samples = samples(picker, &read)?;
    Ok(findings)
}

fn curated(stage: &Stage, manifests: &[Manifest], dir: &RunDir) -> anyhow::Result<CuratedFindings> {
    let mut findings = CuratedFindings {
        stage: stage.folder.clone(),
        tokens: 0,
        hosts: Vec::new(),
        lengths: BTreeMap::new(),
        samples: Vec::new(),
    };
    let mut picker = Picker::default();
    let mut files: Vec<&Output> = Vec::new();
    for (manifest, corpus) in manifests.iter().flat_map(|one| one.corpora.keys().map(move |corpus| (one, corpus))) {
        let folder = format!("{}/{corpus}/", stage.folder);
        let mut lengths = [0u64; 33];
        for output in manifest.outputs.iter().filter(|output| output.path.starts_with(&folder)) {
            let mut row_in_file = 0;
            for batch in ParquetTable::open(&dir.path(&output.path))?.columns(&label_columns("token_count"))? {
                let rows = LabeledRows::new(batch?)?;
                for &tokens in numbers::<Int32Type>(&rows.batch, "token_count")?.values() {
                    lengths[length_bin(tokens.unsigned_abs())] += 1;
                }
                for row in 0..rows.len() {
                    picker.offer(rows.id(row), &rows.marks(row), Some(corpus), (files.len(), row_in_file + row as u64));
                }
                row_in_file += rows.len() as u64;
            }
            files.push(output);
        }
        findings.lengths.insert(corpus.clone(), length_bins(&lengths));
    }
    let statistics = format!("{}/statistics.json", stage.folder);
    if manifests.iter().flat_map(|manifest| &manifest.outputs).any(|output| output.path == statistics) {
        let path = dir.path(&statistics);
        let text = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let statistics: Statistics =
            serde_json::from_slice(&text).with_context(|| format!("`{}` is damaged", path.display()))?;
        findings.tokens = statistics.tokens;
        findings.hosts = statistics.hosts;
    }
    let read = |one: &Candidate| -> anyhow::Result<Option<Read>> {
        let path = dir.path(&files[one.place.0].path);
        let row = ParquetTable::open(&path)?.row(one.place.1)?.context("a corpus's file lost rows")?;
        let string = |name: &str| {
            let column = row.column_by_name(name)?.as_string_opt::<i32>()?;
            column.is_valid(0).then(|| column.value(0).to_owned())
        };
        Ok(Some(Read {
            url: string("url"),
            text: string("text").context("a corpus lacks `text`")?,
            source_file: string("source_file").context("a corpus lacks `source_file`")?,
            source_row: numbers::<Int64Type>(&row, "source_row")?.value(0) as u64,
        }))
    };
    findings.samples = samples(picker, &read)?;
    Ok(findings)
}

/// A chosen document, read.
struct Read {
    url: Option<String>,
    text: String,
    source_file: String,
    source_row: u64,
}

fn samples(
    picker: Picker,
    read: &dyn Fn(&Candidate) -> anyhow::Result<Option<Read>>,
) -> anyhow::Result<Vec<SampleGroup>> {
    let quoter = Quoter::embedded();
    let mut groups = Vec::new();
    for (behavior, candidates) in picker.pick() {
        let mut documents = Vec::new();
        for one in candidates {
            let Some(Read { url, text, source_file, source_row }) = read(&one)? else { continue };
            let (excerpt, chars_left_out) = excerpt(&text);
            documents.push(Sample {
                id: one.id,
                url,
                source_file,
                source_row,
                corpora: one.corpora,
                marks: one.marks,
                excerpt,
                chars_left_out,
                quotes: behavior.map_or(Vec::new(), |behavior| quoter.quotes(&text, behavior)),
            });
        }
        groups.push(SampleGroup { behavior, documents });
    }
    groups.retain(|group| !group.documents.is_empty());
    Ok(groups)
}

fn length_bin(tokens: u32) -> usize {
    tokens.max(1).ilog2() as usize
}

/// The bins from the first to the last that holds a document.
fn length_bins(counts: &[u64]) -> Vec<LengthBin> {
    let first = counts.iter().position(|&count| count > 0).unwrap_or(0);
    let end = counts.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
    (first..end).map(|bin| LengthBin { from: if bin == 0 { 0 } else { 1 << bin }, documents: counts[bin] }).collect()
}

/// Reasons that differ in a number alone, such as a byte's position, are one. `UTF-8` is no number.
fn without_numbers(reason: &str) -> String {
    let mut plain = String::with_capacity(reason.len());
    let mut before = ' ';
    for character in reason.chars() {
        let in_name = before.is_alphanumeric() || before == '-';
        match character {
            '0'..='9' if plain.ends_with('#') && before.is_ascii_digit() => {}
            '0'..='9' if !in_name => plain.push('#'),
            other => plain.push(other),
        }
        before = character;
    }
    plain
}

fn most_frequent(reasons: BTreeMap<String, u64>) -> Vec<Reason> {
    let mut sorted: Vec<Reason> = reasons.into_iter().map(|(reason, rows)| Reason { reason, rows }).collect();
    sorted.sort_by_key(|one| std::cmp::Reverse(one.rows));
    let rest: u64 = sorted.iter().skip(REASONS_LISTED).map(|one| one.rows).sum();
    sorted.truncate(REASONS_LISTED);
    if rest > 0 {
        sorted.push(Reason { reason: "(other)".into(), rows: rest });
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_fall_into_powers_of_two() {
        assert_eq!([0, 1, 2, 3, 4, 1023, 1024, u32::MAX].map(length_bin), [0, 0, 1, 1, 2, 9, 10, 31]);
        let bins = length_bins(&[0, 3, 0, 1, 0]);
        assert_eq!(bins.iter().map(|bin| (bin.from, bin.documents)).collect::<Vec<_>>(), [(2, 3), (4, 0), (8, 1)]);
        assert_eq!(length_bins(&[0; 5]), []);
    }

    #[test]
    fn reasons_that_differ_in_a_number_are_one() {
        let mut reasons = BTreeMap::new();
        for reason in ["invalid UTF-8 at byte 17", "invalid UTF-8 at byte 4", "text is null"] {
            *reasons.entry(without_numbers(reason)).or_default() += 1;
        }
        let listed: Vec<_> = most_frequent(reasons).into_iter().map(|one| (one.reason, one.rows)).collect();
        assert_eq!(listed, [("invalid UTF-8 at byte #".to_owned(), 2), ("text is null".to_owned(), 1)]);
    }
}
