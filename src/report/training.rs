//! How a model's loss fell: curves of one training stage, thinned to what a picture can show.

use super::charts::{Chart, Curve, curves};
use super::summary::manifests;
use crate::data::sidecar;
use crate::plan::{Plan, Stage, Work};
use crate::run::dir::RunDir;
use anyhow::Context;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use serde::Serialize;
use std::collections::BTreeMap;

/// Points of a curve at most.
const POINTS: usize = 120;

/// What a training stage's metrics say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainedFindings {
    pub stage: String,
    pub arms: Vec<String>,
    /// Whether other stages go on from it: `[base]`.
    pub is_base: bool,
    pub steps: u64,
    /// Training tokens.
    pub tokens: u64,
    /// Mean loss by training tokens, over equal ranges of steps.
    pub train: Vec<Point>,
    /// Held-out loss by source.
    pub held_out: BTreeMap<String, Vec<Point>>,
}

/// A loss after so many training tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    pub tokens: u64,
    pub loss: f64,
}

/// The findings of every stage of a run that trained to its end.
pub fn of_run(plan: &Plan, dir: &RunDir) -> anyhow::Result<Vec<TrainedFindings>> {
    let stages = plan.stages.iter().filter(|stage| matches!(stage.work, Work::Base(_) | Work::Pretrain(_)));
    Ok(stages
        .map(|stage| trained(plan, stage, dir))
        .collect::<anyhow::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// The findings of a stage; none before it is done.
fn trained(plan: &Plan, stage: &Stage, dir: &RunDir) -> anyhow::Result<Option<TrainedFindings>> {
    let manifests = manifests(plan, stage, dir)?;
    let mut outputs = manifests.iter().flat_map(|manifest| &manifest.outputs);
    let Some(table) = outputs.find(|output| output.path.ends_with("/metrics.parquet")) else { return Ok(None) };
    let batch = sidecar::read(&dir.path(&table.path))?;
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("`{}` lacks `{name}`", table.path));
    let steps = column("step")?.as_primitive_opt::<Int64Type>().context("`step` is no number")?.clone();
    let tokens = column("tokens")?.as_primitive_opt::<Int64Type>().context("`tokens` is no number")?.clone();
    let losses = column("loss")?.as_primitive_opt::<Float64Type>().context("`loss` is no number")?.clone();
    let sources = column("held_out")?.as_string_opt::<i32>().context("`held_out` is no text")?.clone();
    let mut findings = TrainedFindings {
        stage: stage.folder.clone(),
        arms: stage.arms.clone(),
        is_base: matches!(stage.work, Work::Base(_)),
        steps: steps.values().last().copied().unwrap_or(0) as u64,
        tokens: tokens.values().last().copied().unwrap_or(0) as u64,
        train: Vec::new(),
        held_out: BTreeMap::new(),
    };
    let mut train = Vec::new();
    for row in 0..batch.num_rows() {
        let point = Point { tokens: tokens.value(row) as u64, loss: losses.value(row) };
        match sources.is_valid(row) {
            true => findings.held_out.entry(sources.value(row).to_owned()).or_default().push(point),
            false => train.push(point),
        }
    }
    findings.train = thinned(&train);
    for points in findings.held_out.values_mut() {
        *points = thinned(points);
    }
    Ok(Some(findings))
}

/// Means over equal runs of points, at most [`POINTS`] of them; each stands at its run's last place.
fn thinned(points: &[Point]) -> Vec<Point> {
    let mean = |run: &[Point]| {
        let loss = run.iter().map(|point| point.loss).sum::<f64>() / run.len() as f64;
        Point { tokens: run.last().map_or(0, |point| point.tokens), loss }
    };
    points.chunks(points.len().div_ceil(POINTS).max(1)).map(mean).collect()
}

/// One picture of several stages' curves. `variants` are what each stage is called.
pub(super) fn chart(name: &str, title: &str, stages: &[(String, &TrainedFindings)]) -> Chart {
    let mut all = Vec::new();
    for (hue, (variant, findings)) in stages.iter().enumerate() {
        let curve = |label: String, points: &[Point], dashed| Curve {
            label,
            hue,
            dashed,
            band: Vec::new(),
            points: points.iter().map(|point| (point.tokens as f64, point.loss)).collect(),
        };
        let named = |what: &str| if variant.is_empty() { what.to_owned() } else { format!("{variant}, {what}") };
        all.push(curve(named("training"), &findings.train, false));
        for (source, points) in &findings.held_out {
            let what = if findings.held_out.len() == 1 { "held out".to_owned() } else { format!("held out {source}") };
            all.push(curve(named(&what), points, true));
        }
    }
    curves(name, title, "training tokens", "loss", &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_are_thinned_to_means() {
        let points: Vec<Point> = (1..=1000).map(|i| Point { tokens: i, loss: i as f64 }).collect();
        let thin = thinned(&points);
        assert_eq!((thin.len(), thin[0]), (112, Point { tokens: 9, loss: 5.0 }));
        assert_eq!(thinned(&points[..3]), points[..3]);
        assert_eq!(thinned(&[]), []);
    }
}
