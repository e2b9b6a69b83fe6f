//! `pipeline verify RUN`: proves that plan, manifests and files agree and that no row was lost.

use crate::cli::Verify;
use crate::error::Exit;
use crate::plan::{Input, Location, Plan, Stage, Work};
use crate::run::dir::RunDir;
use crate::run::manifest::{Counts, Manifest};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// What was found; what `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Findings {
    units: u64,
    files: u64,
    rows_in: u64,
    /// Units without a manifest.
    missing: Vec<String>,
    /// What contradicts: each a sentence.
    problems: Vec<String>,
    /// Files of no manifest; harmless leftovers of killed attempts.
    orphans: Vec<String>,
}

pub fn run(args: &Verify, json: bool) -> anyhow::Result<Exit> {
    let (dir, plan) = super::existing_plan(&args.run)?;
    let mut findings = Findings::default();
    let mut known = BTreeSet::new();
    for stage in &plan.stages {
        verify_stage(&plan, stage, &dir, args.deep, &mut findings, &mut known)?;
    }
    if args.deep {
        verify_shards(&plan, &mut findings);
    }
    for stage in &plan.stages {
        find_orphans(dir.root(), &dir.path(&stage.folder), &known, &mut findings.orphans)?;
    }
    findings.orphans.sort();
    findings.orphans.dedup();

    if json {
        super::print_json(&findings)?;
    } else {
        let mut text = String::new();
        for problem in &findings.problems {
            text += &format!("problem: {problem}\n");
        }
        for orphan in &findings.orphans {
            text += &format!("leftover: `{orphan}` belongs to no finished unit\n");
        }
        text += &format!(
            "{}: {} units, {} files, {} rows in; {} missing, {} problem{}\n",
            if findings.problems.is_empty() && findings.missing.is_empty() { "verified" } else { "not verified" },
            findings.units,
            findings.files,
            findings.rows_in,
            findings.missing.len(),
            findings.problems.len(),
            if findings.problems.len() == 1 { "" } else { "s" },
        );
        super::print(&text)?;
    }
    Ok(match (findings.problems.is_empty(), findings.missing.is_empty()) {
        (false, _) => Exit::BadData,
        (true, false) => Exit::Incomplete,
        (true, true) => Exit::Done,
    })
}

fn verify_stage(
    plan: &Plan,
    stage: &Stage,
    dir: &RunDir,
    deep: bool,
    findings: &mut Findings,
    known: &mut BTreeSet<String>,
) -> anyhow::Result<()> {
    let documents = plan.documents_of(stage);
    let mut sum = Counts::default();
    for (index, unit) in stage.unit_ids(plan).into_iter().enumerate() {
        let name = format!("{}/{unit}", stage.folder);
        let manifest = match Manifest::read(&dir.path(stage.manifest(unit))) {
            Ok(Some(manifest)) if manifest.stage_key == stage.key => manifest,
            Ok(_) => {
                findings.missing.push(name);
                continue;
            }
            Err(error) => {
                findings.problems.push(format!("{error:#}"));
                continue;
            }
        };
        findings.units += 1;
        sum.add(&manifest.counts);
        let parts =
            manifest.corpora.iter().map(|(corpus, record)| (format!("{name}, corpus `{corpus}`"), &record.counts));
        for (name, counts) in std::iter::once((name.clone(), &manifest.counts)).chain(parts) {
            if !counts.conserve() {
                findings.problems.push(format!(
                    "unit `{name}` does not account for every row: {}",
                    crate::run::reporter::counts_text(counts)
                ));
            }
        }
        let rows = documents.filter(|_| stage.work.per_unit()).and_then(|input| input.units[index].rows);
        if rows.is_some_and(|rows| rows != manifest.counts.rows_in) {
            findings.problems.push(format!(
                "unit `{name}` read {} rows, the plan has {}",
                manifest.counts.rows_in,
                rows.unwrap_or(0)
            ));
        }
        // Every row that was read stands in the labels or in the quarantine.
        let rows_out: u64 = manifest.outputs.iter().map(|output| output.rows).sum();
        if matches!(stage.work, Work::Classify(_)) && rows_out != manifest.counts.rows_in {
            findings
                .problems
                .push(format!("unit `{name}` read {} rows and its files hold {rows_out}", manifest.counts.rows_in));
        }
        for output in &manifest.outputs {
            findings.files += 1;
            known.insert(output.path.clone());
            check_output(&dir.path(&output.path), output, deep, &mut findings.problems);
        }
    }
    let planned = documents.filter(|_| !stage.work.per_unit() && sum.rows_in > 0).and_then(Input::rows);
    if let Some(rows) = planned.filter(|&rows| rows != sum.rows_in) {
        findings.problems.push(format!("stage `{}` saw {} rows, the plan has {rows}", stage.folder, sum.rows_in));
    }
    if stage.work.per_unit() || documents.is_none() {
        findings.rows_in = findings.rows_in.max(sum.rows_in);
    }
    Ok(())
}

fn check_output(path: &Path, output: &crate::run::manifest::Output, deep: bool, problems: &mut Vec<String>) {
    match std::fs::metadata(path) {
        Err(error) => problems.push(format!("`{}` is missing: {error}", output.path)),
        Ok(metadata) if metadata.len() != output.bytes => {
            problems.push(format!("`{}` has {} bytes, its manifest says {}", output.path, metadata.len(), output.bytes))
        }
        Ok(_) if deep => match crate::plan::hash_file(path) {
            Ok((_, sha256)) if sha256 == output.sha256 => {}
            Ok(_) => problems.push(format!("`{}` has other content than its manifest says", output.path)),
            Err(error) => problems.push(format!("{error:#}")),
        },
        Ok(_) => {}
    }
}

fn verify_shards(plan: &Plan, findings: &mut Findings) {
    for shard in plan.inputs.iter().flat_map(|input| &input.shards) {
        if let Location::Local(path) = &shard.location {
            match crate::plan::hash_file(path) {
                Ok((_, sha256)) if sha256 == shard.sha256 => {}
                Ok(_) => findings.problems.push(format!("shard `{}` was changed since it was planned", shard.name)),
                Err(error) => findings.problems.push(format!("{error:#}")),
            }
        }
    }
}

/// Files of a stage's folder that no manifest names; but for those that a network file system keeps while a removed file is still open.
fn find_orphans(root: &Path, folder: &Path, known: &BTreeSet<String>, orphans: &mut Vec<String>) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_orphans(root, &path, known, orphans)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            let relative = relative.to_string_lossy().into_owned();
            let is_removed = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".nfs"));
            if !known.contains(&relative) && !is_removed {
                orphans.push(relative);
            }
        }
    }
    Ok(())
}
