//! How well a judge agrees with labeled documents: precision, recall, F1, average precision, ROC AUC and rank
//! correlation of counts, per behavior and per source, each with a bootstrap interval.
//!
//! Pure: it compares numbers. Who judged and where the labels lie is the caller's.
//!
//! A metric that has no meaning on some documents (the recall where nobody shows the behavior) is `None`, never 0.

mod gold;
mod metrics;
mod table;

pub use gold::{GoldDocument, read_gold};

use super::Behavior;
use super::judge::Mark;
use metrics::{Ranked, Scores};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One labeled document and what a judge said of it, per behavior in the order of [`Behavior::ALL`].
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub source: String,
    /// How many instances the annotators found.
    pub gold: [u32; 4],
    pub predicted: [Mark; 4],
}

/// How intervals are made: documents are drawn with replacement, and the metric computed again, `resamples` times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    pub resamples: u32,
    /// The share of the resamples that an interval covers, between 0 and 1.
    pub level: f64,
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1_000, level: 0.95, seed: 0 }
    }
}

/// A metric on the documents as they are, and its percentile interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    /// None when no resample defines the metric.
    pub interval: Option<[f64; 2]>,
    /// On how many resamples the metric is defined; the interval is over these.
    pub resamples: u32,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// None for the macro row: the mean over the four behaviors, undefined if one of them is.
    pub behavior: Option<Behavior>,
    /// None for all sources together.
    pub source: Option<String>,
    /// Documents.
    pub n: usize,
    /// The share of documents whose gold count is at least 1; None without documents.
    pub prevalence: Option<f64>,
    /// Of the documents with a predicted count of at least 1, the share whose gold count is at least 1.
    pub precision: Option<Estimate>,
    pub recall: Option<Estimate>,
    pub f1: Option<Estimate>,
    /// The mean precision over the positives, going down the scores (scikit-learn's `average_precision_score`).
    pub average_precision: Option<Estimate>,
    pub roc_auc: Option<Estimate>,
    /// Rank correlation of gold and predicted counts, ties at their mean rank.
    pub spearman: Option<Estimate>,
}

/// A judge's agreement with labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub bootstrap: Bootstrap,
    /// Behaviors in their order and the macro row, first over all sources; then behaviors by source.
    pub rows: Vec<Row>,
}

/// The threshold on the score that gives the best F1, for one behavior.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    pub behavior: Behavior,
    /// A document shows the behavior when its score is at least this. The interval is of the best threshold, chosen
    /// again on each resample. None when no document shows the behavior.
    pub threshold: Option<Estimate>,
    /// F1 at that threshold, held fixed; optimistic, as the threshold was chosen on the same documents.
    pub f1: Option<Estimate>,
    pub precision: Option<Estimate>,
    pub recall: Option<Estimate>,
}

/// Compares a judge with labels. Equal inputs give equal intervals: the draws depend on the seed and the source's name.
pub fn evaluate(documents: &[Judged], bootstrap: Bootstrap) -> Evaluation {
    let mut rows = subset_rows(&documents.iter().collect::<Vec<_>>(), None, bootstrap);
    let sources: BTreeSet<&str> = documents.iter().map(|document| document.source.as_str()).collect();
    let mut by_source = Vec::new();
    for source in sources {
        let subset: Vec<_> = documents.iter().filter(|document| document.source == source).collect();
        by_source.extend(subset_rows(&subset, Some(source), bootstrap));
    }
    by_source.sort_by_key(|row| row.behavior);
    rows.extend(by_source);
    Evaluation { bootstrap, rows }
}

/// The rows of one set of documents: a row per behavior, and for all sources the macro row.
fn subset_rows(documents: &[&Judged], source: Option<&str>, bootstrap: Bootstrap) -> Vec<Row> {
    let ranked = Behavior::ALL.map(|behavior| Ranked::new(documents, behavior));
    let scores = |weights: &[u32]| {
        let scores = ranked.each_ref().map(|ranked| ranked.scores(weights));
        let average = Scores::mean(&scores);
        [scores[0], scores[1], scores[2], scores[3], average]
    };
    let point = scores(&vec![1; documents.len()]);
    let mut samples = Vec::with_capacity(bootstrap.resamples as usize);
    resample(documents.len(), source, bootstrap, |weights| samples.push(scores(weights)));

    let positives = Behavior::ALL.map(|behavior| {
        let shown = documents.iter().filter(|document| document.gold[behavior.index()] > 0).count();
        (!documents.is_empty()).then(|| shown as f64 / documents.len() as f64)
    });
    let macro_prevalence = positives.iter().copied().sum::<Option<f64>>().map(|sum| sum / 4.0);
    let row = |index: usize| {
        let estimate = |metric: fn(&Scores) -> Option<f64>| {
            let values = samples.iter().filter_map(|sample| metric(&sample[index]));
            Estimate::new(metric(&point[index])?, values.collect(), bootstrap.level).into()
        };
        Row {
            behavior: Behavior::ALL.get(index).copied(),
            source: source.map(str::to_owned),
            n: documents.len(),
            prevalence: positives.get(index).copied().unwrap_or(macro_prevalence),
            precision: estimate(|scores| scores.precision),
            recall: estimate(|scores| scores.recall),
            f1: estimate(|scores| scores.f1),
            average_precision: estimate(|scores| scores.average_precision),
            roc_auc: estimate(|scores| scores.roc_auc),
            spearman: estimate(|scores| scores.spearman),
        }
    };
    (0..if source.is_none() { 5 } else { 4 }).map(row).collect()
}

/// The threshold per behavior that maximises F1 over `documents`, the larger of equals.
pub fn calibrate(documents: &[Judged], bootstrap: Bootstrap) -> [Calibration; 4] {
    let documents: Vec<_> = documents.iter().collect();
    Behavior::ALL.map(|behavior| {
        let ranked = Ranked::new(&documents, behavior);
        let ones = vec![1; documents.len()];
        let Some(best) = ranked.best_threshold(&ones) else {
            return Calibration { behavior, threshold: None, f1: None, precision: None, recall: None };
        };
        let mut thresholds = Vec::new();
        let mut samples = Vec::new();
        resample(documents.len(), None, bootstrap, |weights| {
            thresholds.extend(ranked.best_threshold(weights));
            samples.push(ranked.at_threshold(best, weights));
        });
        let point = ranked.at_threshold(best, &ones);
        let estimate = |metric: fn(&metrics::Decision) -> Option<f64>| {
            Some(Estimate::new(metric(&point)?, samples.iter().filter_map(metric).collect(), bootstrap.level))
        };
        Calibration {
            behavior,
            threshold: Some(Estimate::new(best, thresholds, bootstrap.level)),
            f1: estimate(metrics::Decision::f1),
            precision: estimate(metrics::Decision::precision),
            recall: estimate(metrics::Decision::recall),
        }
    })
}

/// Draws `documents` documents with replacement, again and again, and shows how often each was drawn.
fn resample(documents: usize, source: Option<&str>, bootstrap: Bootstrap, mut on_weights: impl FnMut(&[u32])) {
    if documents == 0 {
        return;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(bootstrap.seed);
    if let Some(source) = source {
        // A stream per source, so that a source's intervals do not depend on which others there are.
        let digest = blake3::hash(source.as_bytes());
        rng.set_stream(digest.as_bytes().iter().take(8).fold(0, |stream, &byte| stream << 8 | u64::from(byte)));
    }
    let mut weights = vec![0; documents];
    for _ in 0..bootstrap.resamples {
        weights.fill(0);
        for _ in 0..documents {
            weights[rng.random_range(0..documents)] += 1;
        }
        on_weights(&weights);
    }
}

impl Estimate {
    /// `values` are those of the resamples that define the metric.
    fn new(value: f64, mut values: Vec<f64>, level: f64) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - level) / 2.0;
        let interval = (!values.is_empty()).then(|| [quantile(&values, tail), quantile(&values, 1.0 - tail)]);
        Self { value, interval, resamples: values.len() as u32 }
    }
}

/// The quantile of sorted values, linear between neighbours, as numpy has it; `values` is not empty.
fn quantile(values: &[f64], share: f64) -> f64 {
    let position = share.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    values[below] + (values[above] - values[below]) * (position - position.floor())
}

#[cfg(test)]
mod tests;
