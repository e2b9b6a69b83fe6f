//! `pipeline evaluate --labels FILE --judge SPEC`: how well a judge agrees with labeled documents.

use crate::behavior::Behavior;
use crate::behavior::evaluation::{Bootstrap, Calibration, Judged, calibrate, evaluate, read_gold};
use crate::behavior::judge::{JudgeIdentity, Mark};
use crate::cli::Evaluate;
use crate::error::{Exit, Failure};
use crate::run::judges;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fs::File;
use std::io::BufReader;

/// What `--json` prints.
#[derive(Serialize)]
struct Outcome {
    judge: JudgeIdentity,
    labels: String,
    documents: usize,
    /// Documents that the judge could not judge; they count as showing nothing.
    unjudged: usize,
    #[serde(flatten)]
    evaluation: crate::behavior::evaluation::Evaluation,
    #[serde(skip_serializing_if = "Option::is_none")]
    thresholds: Option<[Calibration; 4]>,
}

pub fn run(args: &Evaluate, json: bool) -> anyhow::Result<Exit> {
    let name = args.labels.display().to_string();
    let file = File::open(&args.labels)
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot read labels `{name}`: {error}")))?;
    let mut gold = read_gold(BufReader::new(file), &name)?;
    gold.truncate(args.limit.unwrap_or(usize::MAX));
    if gold.is_empty() {
        return Err(Failure::new(Exit::Usage, format!("`{name}` holds no labeled document")).into());
    }
    let mut judge = judges::from_spec(&args.judge, args.device, &super::notice_on_stderr())?;

    let bar = ProgressBar::new(gold.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("judging {bar:24} {human_pos}/{human_len} {per_sec} {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut documents = Vec::new();
    let mut unjudged = 0;
    let batch = judge.batch_size().max(1);
    for part in gold.chunks(batch) {
        let texts: Vec<&str> = part.iter().map(|document| document.text.as_str()).collect();
        for (document, labels) in part.iter().zip(judge.judge(&texts)?) {
            unjudged += usize::from(labels.is_err());
            let predicted = labels.map_or([Mark { score: 0.0, count: 0 }; 4], |labels| labels.marks);
            documents.push(Judged { source: document.source.clone(), gold: document.counts(), predicted });
        }
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();

    let bootstrap = Bootstrap { resamples: args.resamples as u32, ..Bootstrap::default() };
    let evaluation = evaluate(&documents, bootstrap);
    let thresholds = args.calibrate.then(|| calibrate(&documents, bootstrap));
    if json {
        let judge = judge.identity().clone();
        super::print_json(&Outcome {
            judge,
            labels: name,
            documents: documents.len(),
            unjudged,
            evaluation,
            thresholds,
        })?;
        return Ok(Exit::Done);
    }
    let identity = judge.identity();
    super::print(&format!(
        "{} ({}, revision {}) on {} documents of `{name}`",
        identity.model,
        identity.kind,
        identity.revision,
        documents.len()
    ))?;
    super::print(&if unjudged > 0 { format!(", {unjudged} not judgeable\n\n") } else { "\n\n".to_owned() })?;
    super::print(&evaluation.table())?;
    if let Some(thresholds) = thresholds {
        super::print(&format!("\n{}\n{}", Calibration::table(&thresholds), recipe_lines(&thresholds, &identity.kind)))?;
    }
    Ok(Exit::Done)
}

/// The thresholds as a recipe has them.
fn recipe_lines(thresholds: &[Calibration; 4], kind: &str) -> String {
    let table = if kind == "endpoint" { kind } else { "lm" };
    let mut lines = format!("[classify.{table}.thresholds]\n");
    for (behavior, calibration) in Behavior::ALL.into_iter().zip(thresholds) {
        lines += &match calibration.threshold {
            Some(threshold) => format!("{} = {:.4}\n", behavior.name(), threshold.value),
            None => format!("# {}: no labeled document shows it\n", behavior.name()),
        };
    }
    lines
}
