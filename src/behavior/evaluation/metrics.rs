//! The metrics themselves, over documents that may count several times.
//!
//! A bootstrap resample is a weight per document. So each metric takes weights, and the sorting is done once: a resample
//! costs one pass.

use super::Judged;
use crate::behavior::Behavior;

/// Indices in the order of some value, cut into runs of equal values.
struct Order {
    indices: Vec<usize>,
    /// Where each run ends.
    ends: Vec<usize>,
}

impl Order {
    /// Ascending by `value`.
    fn by<T: PartialOrd>(values: &[T]) -> Self {
        let mut indices: Vec<usize> = (0..values.len()).collect();
        indices.sort_by(|&a, &b| values[a].partial_cmp(&values[b]).unwrap_or(std::cmp::Ordering::Equal));
        let mut ends: Vec<usize> =
            (1..indices.len()).filter(|&at| values[indices[at - 1]] < values[indices[at]]).collect();
        ends.extend((!indices.is_empty()).then_some(indices.len()));
        Self { indices, ends }
    }

    /// Runs of equal values, ascending.
    fn runs(&self) -> impl DoubleEndedIterator<Item = &[usize]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let bounds: Vec<(usize, usize)> = starts.zip(self.ends.iter().copied()).collect();
        bounds.into_iter().map(|(start, end)| &self.indices[start..end])
    }
}

/// The documents of an evaluation, sorted for one behavior.
pub(super) struct Ranked {
    gold: Vec<u32>,
    count: Vec<u32>,
    score: Vec<f64>,
    by_gold: Order,
    by_count: Order,
    by_score: Order,
}

/// The metrics of one behavior on one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scores {
    pub(super) precision: Option<f64>,
    pub(super) recall: Option<f64>,
    pub(super) f1: Option<f64>,
    pub(super) average_precision: Option<f64>,
    pub(super) roc_auc: Option<f64>,
    pub(super) spearman: Option<f64>,
}

/// A yes-or-no judgement against the truth.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Decision {
    true_positives: u64,
    false_positives: u64,
    false_negatives: u64,
}

impl Decision {
    pub(super) fn precision(&self) -> Option<f64> {
        ratio(self.true_positives, self.true_positives + self.false_positives)
    }

    pub(super) fn recall(&self) -> Option<f64> {
        ratio(self.true_positives, self.true_positives + self.false_negatives)
    }

    /// Defined where something is positive or predicted so; 0 where nothing of it agrees.
    pub(super) fn f1(&self) -> Option<f64> {
        ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl Scores {
    /// The mean over behaviors, where all are defined.
    pub(super) fn mean(behaviors: &[Scores; 4]) -> Self {
        let mean = |metric: fn(&Scores) -> Option<f64>| {
            behaviors.iter().map(metric).sum::<Option<f64>>().map(|sum| sum / behaviors.len() as f64)
        };
        Self {
            precision: mean(|scores| scores.precision),
            recall: mean(|scores| scores.recall),
            f1: mean(|scores| scores.f1),
            average_precision: mean(|scores| scores.average_precision),
            roc_auc: mean(|scores| scores.roc_auc),
            spearman: mean(|scores| scores.spearman),
        }
    }
}

impl Ranked {
    pub(super) fn new(documents: &[&Judged], behavior: Behavior) -> Self {
        let mark = |document: &&Judged| document.predicted[behavior.index()];
        let gold: Vec<u32> = documents.iter().map(|document| document.gold[behavior.index()]).collect();
        let count: Vec<u32> = documents.iter().map(|document| mark(document).count).collect();
        let score: Vec<f64> = documents.iter().map(|document| f64::from(mark(document).score)).collect();
        let (by_gold, by_count, by_score) = (Order::by(&gold), Order::by(&count), Order::by(&score));
        Self { gold, count, score, by_gold, by_count, by_score }
    }

    /// All metrics, document `i` counting `weights[i]` times.
    pub(super) fn scores(&self, weights: &[u32]) -> Scores {
        let decision = self.decide(weights, |document| self.count[document] > 0);
        Scores {
            precision: decision.precision(),
            recall: decision.recall(),
            f1: decision.f1(),
            average_precision: self.average_precision(weights),
            roc_auc: self.roc_auc(weights),
            spearman: self.spearman(weights),
        }
    }

    /// The decision of a score of at least `threshold`.
    pub(super) fn at_threshold(&self, threshold: f64, weights: &[u32]) -> Decision {
        self.decide(weights, |document| self.score[document] >= threshold)
    }

    fn decide(&self, weights: &[u32], predicted: impl Fn(usize) -> bool) -> Decision {
        let mut decision = Decision::default();
        for (document, &weight) in weights.iter().enumerate() {
            match (predicted(document), self.gold[document] > 0) {
                (true, true) => decision.true_positives += u64::from(weight),
                (true, false) => decision.false_positives += u64::from(weight),
                (false, true) => decision.false_negatives += u64::from(weight),
                (false, false) => {}
            }
        }
        decision
    }

    /// Weights of positives and negatives among some documents.
    fn split(&self, documents: &[usize], weights: &[u32]) -> (u64, u64) {
        documents.iter().fold((0, 0), |(positive, negative), &document| {
            let weight = u64::from(weights[document]);
            if self.gold[document] > 0 { (positive + weight, negative) } else { (positive, negative + weight) }
        })
    }

    /// Σ (recall gained at a score) × (precision down to that score), equal scores together.
    fn average_precision(&self, weights: &[u32]) -> Option<f64> {
        let (positives, _) = self.split(&self.by_score.indices, weights);
        let (mut seen, mut right, mut area) = (0, 0, 0.0);
        for run in self.by_score.runs().rev() {
            let (positive, negative) = self.split(run, weights);
            seen += positive + negative;
            right += positive;
            if positive > 0 {
                area += positive as f64 * (right as f64 / seen as f64);
            }
        }
        (positives > 0).then(|| area / positives as f64)
    }

    /// The chance that a positive scores above a negative, equal scores half.
    fn roc_auc(&self, weights: &[u32]) -> Option<f64> {
        let (positives, negatives) = self.split(&self.by_score.indices, weights);
        let (mut below, mut won) = (0, 0.0);
        for run in self.by_score.runs() {
            let (positive, negative) = self.split(run, weights);
            won += positive as f64 * (below as f64 + negative as f64 / 2.0);
            below += negative;
        }
        (positives > 0 && negatives > 0).then(|| won / (positives as f64 * negatives as f64))
    }

    /// Pearson's correlation of the ranks of gold and predicted counts; undefined where one of them is constant.
    fn spearman(&self, weights: &[u32]) -> Option<f64> {
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        // Ranks from their mean, so that sums of products are covariances.
        let ranks = |order: &Order| {
            let mut ranks = vec![0.0; weights.len()];
            let mut before = 0.0;
            for run in order.runs() {
                let weight: f64 = run.iter().map(|&document| f64::from(weights[document])).sum();
                run.iter().for_each(|&document| ranks[document] = before + weight / 2.0 - total / 2.0);
                before += weight;
            }
            ranks
        };
        let (gold, count) = (ranks(&self.by_gold), ranks(&self.by_count));
        let covariance = |a: &[f64], b: &[f64]| -> f64 {
            weights.iter().zip(a).zip(b).map(|((&weight, a), b)| f64::from(weight) * a * b).sum()
        };
        let spread = covariance(&gold, &gold) * covariance(&count, &count);
        (spread > 0.0).then(|| covariance(&gold, &count) / spread.sqrt())
    }

    /// The score whose use as a threshold gives the largest F1, the larger of equals; None without positives.
    pub(super) fn best_threshold(&self, weights: &[u32]) -> Option<f64> {
        let (positives, _) = self.split(&self.by_score.indices, weights);
        let (mut seen, mut right, mut best) = (0, 0, None);
        for run in self.by_score.runs().rev() {
            let (positive, negative) = self.split(run, weights);
            seen += positive + negative;
            right += positive;
            let f1 = ratio(2 * right, seen + positives).filter(|_| positive > 0);
            if f1.is_some_and(|f1| best.is_none_or(|(best, _)| f1 > best)) {
                best = f1.zip(run.first().map(|&document| self.score[document]));
            }
        }
        best.map(|(_, threshold)| threshold)
    }
}
