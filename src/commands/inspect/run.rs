//! A run folder: its stages, what was found, and where the files are.

use super::{layout, training};
use crate::commands::summary::{found_lines, report_lines};
use crate::config::ByteSize;
use crate::plan::Plan;
use crate::report::summary::RunSummary;
use crate::run::dir::RunDir;
use indicatif::HumanCount;

pub(super) fn run(plan: &Plan, dir: &RunDir, json: bool) -> anyhow::Result<()> {
    let summary = RunSummary::new(plan, dir)?;
    if json {
        return crate::commands::print_json(&summary);
    }
    let root = dir.root().display();
    let mut lines = vec![format!("{} · plan {} · {root}", summary.name, summary.plan_id)];
    for input in &summary.inputs {
        let rows = input.rows.map_or(String::new(), |rows| format!(", {} rows", HumanCount(rows)));
        let sources: Vec<String> = input.sources.iter().map(|source| layout::shortened(source, 80)).collect();
        lines.push(format!(
            "from {} ({} shard{}, {}{rows})",
            sources.join(", "),
            HumanCount(input.shards),
            if input.shards == 1 { "" } else { "s" },
            ByteSize(input.bytes)
        ));
    }
    lines.push(String::new());
    lines.extend(stages_table(&summary, dir));
    lines.extend(found_lines(&summary, dir));
    lines.extend(report_lines(plan, dir)?);
    lines.extend(training::lines(plan, dir)?);
    lines.push(String::new());
    if !summary.complete() {
        lines.push("not complete: `pipeline status` says what is missing, `pipeline run` goes on".to_owned());
    }
    if let Some((_, corpus)) = summary.first_corpus()
        && let Some(file) = corpus.files.first()
    {
        let path = dir.path(&file.path);
        lines.push("look closer:".to_owned());
        lines.push(format!("  pipeline inspect {}", path.display()));
        lines.push(format!("  pipeline inspect {} --row 0", path.display()));
        lines.push(format!("  pipeline inspect {root} --id ID"));
    }
    crate::commands::print(&(lines.join("\n").trim_end().to_owned() + "\n"))
}

fn stages_table(summary: &RunSummary, dir: &RunDir) -> Vec<String> {
    let heading = ["stage", "units", "rows", "kept", "dropped", "quarantined", "files", "size", "in"];
    let mut rows: Vec<Vec<String>> = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(summary.stages.iter().map(|stage| {
        let counts = &stage.counts;
        vec![
            stage.stage.clone(),
            format!("{}/{}", stage.units_done, stage.units),
            HumanCount(counts.rows_in).to_string(),
            HumanCount(counts.kept).to_string(),
            HumanCount(counts.dropped.values().sum()).to_string(),
            HumanCount(counts.quarantined).to_string(),
            HumanCount(stage.files).to_string(),
            ByteSize(stage.bytes).to_string(),
            dir.path(&stage.stage).display().to_string(),
        ]
    }));
    layout::table(&rows, 1..8)
}
