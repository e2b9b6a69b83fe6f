//! What a finished run found, in a few lines, and what to type next.

use crate::behavior::Behavior;
use crate::plan::{Plan, Stage};
use crate::run::dir::RunDir;
use crate::run::manifest::{Counts, LabelStatistics, Manifest};
use indicatif::HumanCount;

/// The summary of a run folder.
pub fn of_run(plan: &Plan, dir: &RunDir) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    let mut example = None;
    for stage in &plan.stages {
        let manifests = manifests(plan, stage, dir)?;
        match stage.work.name() {
            "classify" => lines.extend(classify_lines(stage, &manifests)),
            "curate" => {
                for (name, record) in manifests.iter().flat_map(|manifest| &manifest.corpora) {
                    let path = dir.path(&stage.folder).join(name);
                    lines.push(format!(
                        "{:14} {} documents, {} tokens → {}",
                        name,
                        HumanCount(record.train_documents + record.test_documents),
                        HumanCount(record.train_tokens + record.test_tokens),
                        path.display()
                    ));
                    example.get_or_insert(path.join("train-*.parquet"));
                }
            }
            "prime" => lines.extend(manifests.iter().flat_map(|manifest| prime_lines(stage, manifest, dir))),
            "report" => lines.extend(
                manifests
                    .iter()
                    .flat_map(|manifest| &manifest.outputs)
                    .filter(|output| output.path.ends_with(".html"))
                    .map(|output| format!("{:14} {}", "report", dir.path(&output.path).display())),
            ),
            _ => {}
        }
    }
    lines.push(String::new());
    lines.push("next:".into());
    lines.push(format!("  pipeline inspect {}", dir.root().display()));
    lines.push(format!("  pipeline verify {}", dir.root().display()));
    if let Some(path) = example {
        lines.push(format!("  duckdb -c \"select url, backtracking_count, text from '{}' limit 5\"", path.display()));
    }
    Ok(lines.join("\n"))
}

/// The manifests of a stage that are there and not stale.
pub(super) fn manifests(plan: &Plan, stage: &Stage, dir: &RunDir) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for unit in stage.unit_ids(plan) {
        manifests.extend(
            Manifest::read(&dir.path(stage.manifest(unit)))?.filter(|manifest| manifest.stage_key == stage.key),
        );
    }
    Ok(manifests)
}

/// What each condition's folder holds, and how many traces were made in vain.
fn prime_lines(stage: &Stage, manifest: &Manifest, dir: &RunDir) -> Vec<String> {
    let dropped: u64 = manifest.counts.dropped.values().sum();
    let sum = format!("{}: {} traces, {} dropped", stage.folder, HumanCount(manifest.counts.kept), HumanCount(dropped));
    let mut lines = vec![String::new(), sum];
    let rows = |path: &str| manifest.outputs.iter().find(|output| output.path == path).map_or(0, |output| output.rows);
    for output in &manifest.outputs {
        let Some(folder) = output.path.strip_suffix("/train.parquet") else { continue };
        let name = folder.rsplit('/').next().unwrap_or(folder);
        let tests = rows(&format!("{folder}/test.parquet"));
        let path = dir.path(folder);
        let (train, tests) = (HumanCount(output.rows), HumanCount(tests));
        lines.push(format!("  {name:26} {train:>9} train {tests:>9} test → {}", path.display()));
    }
    lines.push(format!("  {:26} {}", "card", dir.path(&stage.folder).join("README.md").display()));
    lines
}

fn classify_lines(stage: &Stage, manifests: &[Manifest]) -> Vec<String> {
    let (mut counts, mut labels) = (Counts::default(), LabelStatistics::default());
    for manifest in manifests {
        counts.add(&manifest.counts);
        labels.add(manifest.labels.as_ref().unwrap_or(&LabelStatistics::default()));
    }
    let judge = manifests
        .iter()
        .find_map(|manifest| manifest.judge.as_ref())
        .map_or(String::new(), |judge| format!(" by {} ({})", judge.model, judge.kind));
    let percent = |documents: u64| 100.0 * documents as f64 / labels.documents.max(1) as f64;
    let mut lines = vec![
        String::new(),
        format!(
            "{}: {} documents judged{judge}, {} quarantined",
            stage.folder,
            HumanCount(labels.documents),
            HumanCount(counts.quarantined)
        ),
    ];
    for behavior in Behavior::ALL {
        let shown = labels.shown(behavior);
        lines.push(format!(
            "  {:18} {:>7} documents  {:>5.1} %  {:>7} instances",
            behavior.name(),
            HumanCount(shown).to_string(),
            percent(shown),
            HumanCount(labels.instances[behavior.index()]).to_string()
        ));
    }
    lines.push(format!(
        "  {:18} {:>7} documents  {:>5.1} %",
        "none",
        HumanCount(labels.none()).to_string(),
        percent(labels.none())
    ));
    if labels.partly_read > 0 {
        lines.push(format!("  {} documents were read in part only", HumanCount(labels.partly_read)));
    }
    lines
}
