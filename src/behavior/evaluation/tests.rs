//! Values marked as such were computed once with scikit-learn 1.9.1, scipy 1.17.1 and numpy 2.4.6 (PyPI), by
//! `precision_score`, `recall_score`, `f1_score`, `average_precision_score`, `roc_auc_score`,
//! `scipy.stats.spearmanr(gold, count).statistic` and `numpy.quantile`, with `gold > 0` as the truth.

use super::*;

const NO_BOOTSTRAP: Bootstrap = Bootstrap { resamples: 0, level: 0.95, seed: 0 };

/// Documents of one source whose four behaviors all have the given numbers.
fn documents(gold: &[u32], count: &[u32], score: &[f32]) -> Vec<Judged> {
    let zipped = gold.iter().zip(count).zip(score);
    zipped
        .map(|((&gold, &count), &score)| Judged {
            source: "s".into(),
            gold: [gold; 4],
            predicted: [Mark { score, count }; 4],
        })
        .collect()
}

/// Precision, recall, F1, average precision, ROC AUC, Spearman of verification over all sources.
fn metrics(documents: &[Judged], bootstrap: Bootstrap) -> [Option<Estimate>; 6] {
    let row = evaluate(documents, bootstrap).rows.swap_remove(0);
    [row.precision, row.recall, row.f1, row.average_precision, row.roc_auc, row.spearman]
}

fn check(documents: &[Judged], expect: [Option<f64>; 6]) {
    let found = metrics(documents, NO_BOOTSTRAP).map(|metric| metric.map(|estimate| estimate.value));
    for (found, expect) in found.iter().zip(&expect) {
        let near = found.zip(*expect).is_none_or(|(found, expect)| (found - expect).abs() < 1e-12);
        assert!(near && found.is_some() == expect.is_some(), "{found:?} is not {expect:?} in {documents:?}");
    }
}

const GOLD: [u32; 12] = [0, 0, 3, 1, 0, 0, 2, 1, 0, 5, 0, 1];
const COUNT: [u32; 12] = [0, 1, 2, 0, 0, 0, 4, 1, 0, 3, 2, 0];
const SCORE: [f32; 12] = [0.1, 0.6, 0.7, 0.1, 0.2, 0.1, 0.9, 0.6, 0.3, 0.8, 0.7, 0.4];

#[test]
fn by_hand() {
    // Down the scores: right, wrong, right. Precision at the two right ones: 1 and 2/3.
    let three = documents(&[2, 0, 1], &[1, 1, 0], &[0.9, 0.5, 0.1]);
    check(&three, [Some(0.5), Some(0.5), Some(0.5), Some((1.0 + 2.0 / 3.0) / 2.0), Some(0.5), Some(0.0)]);
    let perfect = documents(&[0, 1, 2], &[0, 1, 2], &[0.1, 0.2, 0.3]);
    check(&perfect, [Some(1.0); 6]);
    let all_equal = documents(&[0, 1], &[1, 1], &[0.5, 0.5]);
    check(&all_equal, [Some(0.5), Some(1.0), Some(2.0 / 3.0), Some(0.5), Some(0.5), None]);
}

#[test]
fn against_scikit_learn_and_scipy() {
    let two_thirds = Some(0.6666666666666666);
    let expect = [two_thirds, two_thirds, two_thirds, Some(0.7718253968253969), Some(0.75), Some(0.5967790451147154)];
    check(&documents(&GOLD, &COUNT, &SCORE), expect);

    let residue = |i: u32| i * i * 7 % 13;
    let gold: Vec<u32> = (0..300).map(|i| residue(i).saturating_sub(7)).collect();
    let count: Vec<u32> = (0..300).map(|i| residue(i).saturating_sub(6 + i % 5)).collect();
    let score: Vec<f32> = (0..300u16).map(|i| f32::from(residue(i.into()) as u16 + i * 3 % 7) / 32.0).collect();
    let expect = GOLDEN_300.map(Some);
    check(&documents(&gold, &count, &score), expect);
}

/// From scikit-learn and scipy.
const GOLDEN_300: [f64; 6] = [
    0.8767123287671232,
    0.6956521739130435,
    0.7757575757575758,
    0.804859414874115,
    0.9033758361204014,
    0.7846351286940452,
];

#[test]
fn a_weight_is_a_repetition() {
    let weights = [2, 0, 1, 3, 0, 1, 1, 0, 2, 1, 0, 1];
    let original = documents(&GOLD, &COUNT, &SCORE);
    let repeated: Vec<Judged> =
        original.iter().zip(weights).flat_map(|(document, times)| vec![document.clone(); times as usize]).collect();
    let ranked = |documents: &[Judged]| Ranked::new(&documents.iter().collect::<Vec<_>>(), Behavior::Verification);
    let scores = ranked(&original).scores(&weights);
    assert_eq!(scores, ranked(&repeated).scores(&[1; 12]));
    // From scikit-learn and scipy, on the repeated documents.
    assert!((scores.average_precision.unwrap() - 0.8214285714285714).abs() < 1e-12);
    assert!((scores.roc_auc.unwrap() - 0.7).abs() < 1e-12);
    assert!((scores.spearman.unwrap() - 0.7761505257063328).abs() < 1e-12);
    assert_eq!(ranked(&original).best_threshold(&weights), ranked(&repeated).best_threshold(&[1; 12]));
}

#[test]
fn what_has_no_meaning_is_none() {
    check(&[], [None; 6]);
    // Nobody shows it and nothing is predicted.
    check(&documents(&[0, 0], &[0, 0], &[0.1, 0.2]), [None; 6]);
    // Nobody shows it, one is predicted.
    check(&documents(&[0, 0], &[0, 1], &[0.1, 0.2]), [Some(0.0), None, Some(0.0), None, None, None]);
    // All show it, none is predicted.
    check(&documents(&[1, 1], &[0, 0], &[0.1, 0.2]), [None, Some(0.0), Some(0.0), Some(1.0), None, None]);
}

#[test]
fn quantiles_as_numpy() {
    let values = [1.0, 2.0, 4.0, 8.0];
    // From numpy.
    for (share, expect) in [(0.025, 1.075), (0.5, 3.0), (0.975, 7.7), (0.0, 1.0), (1.0, 8.0)] {
        assert!((quantile(&values, share) - expect).abs() < 1e-12);
    }
    assert_eq!(quantile(&[5.0], 0.3), 5.0);
}

#[test]
fn intervals() {
    let documents = documents(&GOLD, &COUNT, &SCORE);
    let bootstrap = Bootstrap::default();
    let [precision, ..] = metrics(&documents, bootstrap);
    let Estimate { value, interval, resamples } = precision.unwrap();
    let [low, high] = interval.unwrap();
    assert!(low < value && value < high && resamples <= 1_000);
    assert_eq!(metrics(&documents, bootstrap), metrics(&documents, bootstrap));
    assert_ne!(metrics(&documents, bootstrap), metrics(&documents, Bootstrap { seed: 1, ..bootstrap }));
    let wider = metrics(&documents, Bootstrap { level: 0.99, ..bootstrap })[0].unwrap().interval.unwrap();
    assert!(wider[0] <= low && high <= wider[1]);
    // One positive in three: a resample misses it with probability (2/3)³, and then recall is not defined.
    let rare = super::tests::documents(&[1, 0, 0], &[1, 0, 0], &[0.9, 0.1, 0.1]);
    let recall = metrics(&rare, bootstrap)[1].unwrap();
    assert_eq!((recall.value, recall.interval), (1.0, Some([1.0, 1.0])));
    assert!((recall.resamples as f64 - 1_000.0 * 19.0 / 27.0).abs() < 60.0, "{}", recall.resamples);
}

#[test]
fn rows() {
    let mut documents = documents(&GOLD, &COUNT, &SCORE);
    documents[..5].iter_mut().for_each(|document| document.source = "a".into());
    documents.iter_mut().for_each(|document| document.gold[3] = 0);
    let bootstrap = Bootstrap { resamples: 20, ..Bootstrap::default() };
    let evaluation = evaluate(&documents, bootstrap);
    let found: Vec<_> = evaluation.rows.iter().map(|row| (row.behavior, row.source.as_deref(), row.n)).collect();
    let [v, b, s, c] = Behavior::ALL.map(Some);
    let pooled = [v, b, s, c, None].map(|behavior| (behavior, None, 12));
    let by_source = [v, b, s, c].map(|behavior| [(behavior, Some("a"), 5), (behavior, Some("s"), 7)]);
    assert_eq!(found, [&pooled[..], &by_source.concat()].concat());
    assert_eq!(evaluation.rows[0].prevalence, Some(0.5));
    assert_eq!(evaluation.rows[4].prevalence, Some(0.375));
    // Recall of the fourth behavior is not defined, so the mean is not; its F1 is 0.
    assert_eq!(evaluation.rows[4].recall, None);
    assert!((evaluation.rows[4].f1.unwrap().value - 0.5).abs() < 1e-12);
    // A source's rows are what they would be without the other source.
    let alone = evaluate(&documents[..5], bootstrap);
    assert_eq!(evaluation.rows[5], alone.rows[5]);
    // Behaviors with equal numbers have equal rows: they share the draws.
    assert_eq!(evaluation.rows[0].f1, evaluation.rows[1].f1);

    let json = serde_json::to_value(&evaluation).unwrap();
    assert_eq!(json["rows"][4]["behavior"], serde_json::Value::Null);
    assert_eq!(json["rows"][5]["source"], "a");
    assert_eq!(serde_json::from_value::<Evaluation>(json).unwrap(), evaluation);
}

#[test]
fn thresholds() {
    let bootstrap = Bootstrap { resamples: 200, ..Bootstrap::default() };
    let verification = |documents: &[Judged]| calibrate(documents, bootstrap)[0].clone();
    // From scikit-learn's `precision_recall_curve`: F1 is largest, 10/13, at 0.4.
    let found = verification(&documents(&GOLD, &COUNT, &SCORE));
    assert_eq!(found.threshold.unwrap().value, f64::from(0.4f32));
    assert!((found.f1.unwrap().value - 10.0 / 13.0).abs() < 1e-12);
    assert!((found.recall.unwrap().value - 5.0 / 6.0).abs() < 1e-12);
    let [low, high] = found.threshold.unwrap().interval.unwrap();
    assert!(low <= 0.41 && 0.39 <= high);
    // F1 is 2/3 at 0.9 (one of two found, no false alarm) and at 0.1 (both found, two false alarms): the larger wins.
    let tie = verification(&documents(&[1, 0, 0, 1], &[0; 4], &[0.9, 0.5, 0.5, 0.1]));
    assert_eq!(tie.threshold.unwrap().value, f64::from(0.9f32));
    // Nobody shows it.
    let none = verification(&documents(&[0, 0], &[1, 1], &[0.9, 0.1]));
    assert_eq!((none.threshold, none.f1), (None, None));
}

#[test]
fn table() {
    let bootstrap = Bootstrap { resamples: 2, ..Bootstrap::default() };
    let mut evaluation = evaluate(&documents(&[0, 1], &[0, 1], &[0.1, 0.9]), bootstrap);
    evaluation.rows.truncate(5);
    evaluation.rows[1].f1 = Some(Estimate { value: 0.5, interval: Some([0.25, 0.75]), resamples: 2 });
    evaluation.rows.iter_mut().for_each(|row| row.average_precision = None);
    let table = evaluation.table();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 7);
    assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{table}");
    assert!(lines[3].contains("| backtracking") && lines[3].contains("| 0.50 [0.25, 0.75] |"), "{table}");
    assert!(lines[3].contains("| –"), "{table}");
    assert!(lines[6].starts_with("| macro"), "{table}");
    assert_eq!(Calibration::table(&calibrate(&[], bootstrap)).lines().count(), 6);
}
