//! A training stage as it stands, done or not: its last numbers, its checkpoints, what the model wrote.

use super::layout;
use crate::plan::{Plan, Work};
use crate::run::dir::RunDir;
use crate::train::metrics::{self, Metric};
use crate::train::trainer::{METRICS, SAMPLES};
use anyhow::Context;
use indicatif::HumanCount;
use std::collections::BTreeMap;
use std::path::Path;

/// Training steps that are shown, the last ones.
const STEPS: usize = 5;

/// The most of a sample that is shown, in characters.
const SAMPLE: usize = 100;

/// A block of lines for every stage that has begun to train.
pub(super) fn lines(plan: &Plan, dir: &RunDir) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for stage in plan.stages.iter().filter(|stage| matches!(stage.work, Work::Pretrain(_))) {
        let folder = dir.path(&stage.folder);
        if !folder.join(METRICS).is_file() {
            continue;
        }
        let metrics = metrics::read_whole_lines(&folder.join(METRICS))?;
        lines.push(String::new());
        lines.extend(numbers(&stage.folder, &metrics));
        lines.extend(checkpoints(&folder.join("checkpoints"))?);
        lines.extend(samples(&folder.join(SAMPLES))?);
    }
    Ok(lines)
}

/// The last steps, and the last look at each held-out source.
fn numbers(stage: &str, metrics: &[Metric]) -> Vec<String> {
    let steps: Vec<&Metric> = metrics.iter().filter(|metric| metric.held_out.is_none()).collect();
    let Some(last) = steps.last() else { return vec![format!("{stage}: no step is done")] };
    let mut lines = vec![format!(
        "{stage}: step {}, {} tokens, {:.2} epochs",
        HumanCount(last.step),
        HumanCount(last.tokens),
        last.epochs
    )];
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3e}"));
    let mut rows = vec![["step", "loss", "learning rate", "gradient norm", "targets"].map(str::to_owned).to_vec()];
    rows.extend(steps[steps.len().saturating_sub(STEPS)..].iter().map(|metric| {
        let rate = number(metric.learning_rate);
        let norm = metric.gradient_norm.map_or("–".to_owned(), |norm| format!("{norm:.3}"));
        vec![metric.step.to_string(), format!("{:.4}", metric.loss), rate, norm, HumanCount(metric.targets).to_string()]
    }));
    lines.extend(layout::table(&rows, 0..5));
    let held_out: BTreeMap<&str, &Metric> =
        metrics.iter().filter_map(|metric| Some((metric.held_out.as_deref()?, metric))).collect();
    for (source, metric) in held_out {
        lines.push(format!("held out {source}: loss {:.4} after step {}", metric.loss, metric.step));
    }
    lines
}

/// Which checkpoints there are.
fn checkpoints(folder: &Path) -> anyhow::Result<Vec<String>> {
    let named = |name: &str| std::fs::read_to_string(folder.join(name)).map(|text| text.trim().to_owned()).ok();
    let (latest, best) = (named("latest"), named("best"));
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("step-") {
            names.push(name);
        }
    }
    names.sort();
    let line = |name: String| {
        let marks = [(&latest, "latest"), (&best, "best")];
        let marks: Vec<&str> =
            marks.into_iter().filter(|(marked, _)| marked.as_ref() == Some(&name)).map(|(_, mark)| mark).collect();
        let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
        format!("checkpoint {}{marks}", folder.join(name).display())
    };
    Ok(names.into_iter().map(line).collect())
}

/// What the model wrote last.
fn samples(path: &Path) -> anyhow::Result<Vec<String>> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(Vec::new()) };
    let mut samples: Vec<serde_json::Value> = Vec::new();
    // A last line without its end is being written.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        samples
            .push(serde_json::from_str(line).with_context(|| format!("a line of `{}` is no sample", path.display()))?);
    }
    let Some(step) = samples.last().map(|sample| sample["step"].clone()) else { return Ok(Vec::new()) };
    let written = samples.iter().filter(|sample| sample["step"] == step);
    let line = |sample: &serde_json::Value| {
        let text = |key: &str| layout::shortened(sample[key].as_str().unwrap_or_default(), SAMPLE);
        format!("sample after step {step}: {} … {}", text("prompt"), text("text"))
    };
    Ok(written.map(line).collect())
}
