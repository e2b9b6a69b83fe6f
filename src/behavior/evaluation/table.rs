//! An evaluation as a table that reads well as plain text and is Markdown.

use super::{Calibration, Estimate, Evaluation, Row};
use crate::behavior::Behavior;

const HEADER: [&str; 10] =
    ["behavior", "source", "n", "prevalence", "precision", "recall", "F1", "AP", "ROC AUC", "Spearman"];

impl Evaluation {
    /// A Markdown table, columns padded. An interval stands in brackets; `–` is a metric that is not defined.
    pub fn table(&self) -> String {
        let rows = self.rows.iter().map(|row: &Row| {
            vec![
                row.behavior.map_or("macro", Behavior::name).to_owned(),
                row.source.clone().unwrap_or_else(|| "all".into()),
                row.n.to_string(),
                row.prevalence.map_or("–".into(), |prevalence| format!("{prevalence:.2}")),
                estimate(row.precision, 2),
                estimate(row.recall, 2),
                estimate(row.f1, 2),
                estimate(row.average_precision, 2),
                estimate(row.roc_auc, 2),
                estimate(row.spearman, 2),
            ]
        });
        markdown(&HEADER, rows.collect())
    }
}

impl Calibration {
    /// A Markdown table of thresholds.
    pub fn table(calibrations: &[Calibration]) -> String {
        let rows = calibrations.iter().map(|calibration| {
            vec![
                calibration.behavior.name().to_owned(),
                estimate(calibration.threshold, 3),
                estimate(calibration.precision, 2),
                estimate(calibration.recall, 2),
                estimate(calibration.f1, 2),
            ]
        });
        markdown(&["behavior", "threshold", "precision", "recall", "F1"], rows.collect())
    }
}

fn estimate(estimate: Option<Estimate>, decimals: usize) -> String {
    match estimate {
        None => "–".into(),
        Some(Estimate { value, interval: None, .. }) => format!("{value:.decimals$}"),
        Some(Estimate { value, interval: Some([low, high]), .. }) => {
            format!("{value:.decimals$} [{low:.decimals$}, {high:.decimals$}]")
        }
    }
}

fn markdown(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count(), 3]).max().unwrap_or(3)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).map(|(cell, &width)| format!(" {cell:<width$} "));
        format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
    };
    let rule = format!("|{}|\n", widths.iter().map(|&width| "-".repeat(width + 2)).collect::<Vec<_>>().join("|"));
    let body: String = rows.iter().map(|row| line(row.iter().map(String::as_str).collect())).collect();
    line(header.to_vec()) + &rule + &body
}
