//! What a run found, in a few lines, and what to type next.

use crate::plan::{Plan, Work};
use crate::report::summary::{Judged, RunSummary, manifests};
use crate::report::training;
use crate::run::dir::RunDir;
use indicatif::HumanCount;

/// The summary of a finished run.
pub fn of_run(plan: &Plan, dir: &RunDir) -> anyhow::Result<String> {
    let summary = RunSummary::new(plan, dir)?;
    let mut lines = found_lines(&summary, dir);
    lines.extend(rewrite_lines(plan, dir)?);
    lines.extend(prime_lines(plan, dir)?);
    lines.extend(pretrain_lines(plan, dir)?);
    lines.extend(report_lines(plan, dir)?);
    lines.push(String::new());
    lines.push("next:".into());
    lines.push(format!("  pipeline inspect {}", dir.root().display()));
    lines.push(format!("  pipeline verify {}", dir.root().display()));
    if let Some((folder, corpus)) = summary.first_corpus() {
        let path = dir.path(folder).join(&corpus.name).join("train-*.parquet");
        lines.push(format!("  duckdb -c \"select url, backtracking_count, text from '{}' limit 5\"", path.display()));
    }
    Ok(lines.join("\n"))
}

/// What the judges found, and the corpora with their folders.
pub(super) fn found_lines(summary: &RunSummary, dir: &RunDir) -> Vec<String> {
    let mut lines: Vec<String> = summary.judged.iter().flat_map(judged_lines).collect();
    for made in &summary.curated {
        for corpus in &made.corpora {
            let path = dir.path(&made.stage).join(&corpus.name);
            lines.push(format!(
                "{:14} {} documents, {} tokens → {}",
                corpus.name,
                HumanCount(corpus.documents),
                HumanCount(corpus.tokens),
                path.display()
            ));
        }
    }
    lines
}

/// What each rewritten corpus holds, and how many documents were not rewritten.
fn rewrite_lines(plan: &Plan, dir: &RunDir) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for stage in plan.stages.iter().filter(|stage| matches!(stage.work, Work::Rewrite(_))) {
        for manifest in manifests(plan, stage, dir)? {
            let dropped = HumanCount(manifest.counts.dropped.values().sum());
            let (kept, failed) = (HumanCount(manifest.counts.kept), HumanCount(manifest.counts.quarantined));
            lines.extend([
                String::new(),
                format!("{}: {kept} documents rewritten, {dropped} without a question, {failed} failed", stage.folder),
            ]);
            for output in &manifest.outputs {
                let Some(folder) = output.path.strip_suffix("/train.parquet") else { continue };
                let name = folder.rsplit('/').next().unwrap_or(folder);
                lines.push(format!(
                    "  {name:26} {:>9} train → {}",
                    HumanCount(output.rows),
                    dir.path(folder).display()
                ));
            }
            lines.push(format!("  {:26} {}", "card", dir.path(&stage.folder).join("README.md").display()));
        }
    }
    Ok(lines)
}

/// What each condition's folder holds, and how many traces were made in vain.
fn prime_lines(plan: &Plan, dir: &RunDir) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for stage in plan.stages.iter().filter(|stage| matches!(stage.work, Work::Prime(_))) {
        for manifest in manifests(plan, stage, dir)? {
            let dropped: u64 = manifest.counts.dropped.values().sum();
            let (kept, dropped) = (HumanCount(manifest.counts.kept), HumanCount(dropped));
            lines.extend([String::new(), format!("{}: {kept} traces, {dropped} dropped", stage.folder)]);
            let rows =
                |path: &str| manifest.outputs.iter().find(|output| output.path == path).map_or(0, |output| output.rows);
            for output in &manifest.outputs {
                let Some(folder) = output.path.strip_suffix("/train.parquet") else { continue };
                let name = folder.rsplit('/').next().unwrap_or(folder);
                let (train, tests) = (HumanCount(output.rows), HumanCount(rows(&format!("{folder}/test.parquet"))));
                lines.push(format!("  {name:26} {train:>9} train {tests:>9} test → {}", dir.path(folder).display()));
            }
            lines.push(format!("  {:26} {}", "card", dir.path(&stage.folder).join("README.md").display()));
        }
    }
    Ok(lines)
}

/// Each trained model, and where it lies.
fn pretrain_lines(plan: &Plan, dir: &RunDir) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for findings in training::of_run(plan, dir)? {
        let steps = HumanCount(findings.steps);
        lines.extend([
            String::new(),
            format!("{}: {steps} steps, {} tokens", findings.stage, HumanCount(findings.tokens)),
        ]);
        let curves = findings.held_out.iter().map(|(name, points)| (format!("held out {name}"), points));
        for (name, points) in std::iter::once(("training".to_owned(), &findings.train)).chain(curves) {
            if let [first, .., last] = points[..] {
                lines.push(format!("  {name:26} loss {:.4} → {:.4}", first.loss, last.loss));
            }
        }
        lines.push(format!("  {:26} {}", "model", dir.path(&findings.stage).join("model").display()));
    }
    Ok(lines)
}

/// Where the report is, if it is done.
pub(super) fn report_lines(plan: &Plan, dir: &RunDir) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for stage in plan.stages.iter().filter(|stage| matches!(stage.work, Work::Report(_))) {
        let manifests = manifests(plan, stage, dir)?;
        let outputs = manifests.iter().flat_map(|manifest| &manifest.outputs);
        let pages = outputs.filter(|output| output.path.ends_with(".html"));
        lines.extend(pages.map(|output| format!("{:14} {}", "report", dir.path(&output.path).display())));
    }
    Ok(lines)
}

fn judged_lines(judged: &Judged) -> Vec<String> {
    let judge = judged.judge.as_ref().map_or(String::new(), |judge| format!(" by {} ({})", judge.model, judge.kind));
    let mut lines = vec![
        String::new(),
        format!(
            "{}: {} documents judged{judge}, {} quarantined",
            judged.stage,
            HumanCount(judged.documents),
            HumanCount(judged.quarantined)
        ),
    ];
    for found in &judged.behaviors {
        lines.push(format!(
            "  {:18} {:>7} documents  {:>5.1} %  {:>7} instances",
            found.behavior.name(),
            HumanCount(found.documents).to_string(),
            100.0 * found.share,
            HumanCount(found.instances).to_string()
        ));
    }
    lines.push(format!(
        "  {:18} {:>7} documents  {:>5.1} %",
        "none",
        HumanCount(judged.none).to_string(),
        100.0 * judged.none as f64 / judged.documents.max(1) as f64
    ));
    if judged.partly_read > 0 {
        lines.push(format!("  {} documents were read in part only", HumanCount(judged.partly_read)));
    }
    lines
}
