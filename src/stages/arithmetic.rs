//! `arithmetic`: texts that teach a model from scratch to calculate before it learns to search.
//!
//! It is one unit, made anew from its seed in seconds, so that nothing of it is journaled.

use crate::config::{Arithmetic as Settings, Config, Recipe};
use crate::countdown::arithmetic::{Arithmetic, ArithmeticSpec};
use crate::countdown::puzzle::mix;
use crate::countdown::solver::Operators;
use crate::data::parquet_sink::{ParquetSink, Profile};
use crate::data::schema;
use crate::error::Failure;
use crate::plan::Stage;
use crate::run::Runner;
use crate::run::manifest::{Counts, LabelStatistics, Manifest, Output};
use crate::run::work::Tracker;
use arrow::array::{RecordBatch, StringArray};
use rayon::prelude::*;
use std::sync::Arc;

/// The version of the texts. Raise it when equal settings give other bytes.
pub const FORMAT: u32 = 1;

/// The name under which training sources find the texts: `arithmetic.text`.
pub const SET: &str = "text";

/// Texts that are made at a time.
const CHUNK: u64 = 4096;

/// The texts of both splits, within a run's limit.
pub fn rows(settings: &Settings, limit: Option<u64>) -> [(&'static str, u64); 2] {
    let within = |rows: u64| limit.map_or(rows, |limit| rows.min(limit));
    [("train", within(settings.train)), ("test", within(settings.test))]
}

fn texts(settings: &Settings, seed: u64, split: u64) -> Result<Arithmetic, Failure> {
    let operators = settings.operators.as_ref().map_or(Operators::ALL, |operators| Operators::new(operators));
    Arithmetic::new(ArithmeticSpec {
        sizes: settings.sizes.clone(),
        numbers: settings.numbers[0]..=settings.numbers[1],
        highest: settings.highest,
        operators,
        lengths: settings.lengths[0] as usize..=settings.lengths[1] as usize,
        seed: mix(mix(seed) ^ split),
    })
}

/// Checks what a recipe's `[arithmetic]` asks for, before anything runs.
///
/// # Errors
/// A [`Failure`] at the recipe's table if its numbers make no expression.
pub fn check_recipe(recipe: &Recipe, arm: &str, config: &Config) -> anyhow::Result<()> {
    let Some(settings) = &config.arithmetic else { return Ok(()) };
    let located = |failure: Failure| {
        let error = recipe.error_in_arm(arm, "arithmetic", &failure.message);
        match failure.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    };
    texts(settings, config.seed, 0).map(drop).map_err(|failure| located(failure).into())
}

/// Writes the texts. None: stopped by a signal.
pub fn run(runner: &Runner, stage: &Stage, settings: &Settings) -> anyhow::Result<Option<Manifest>> {
    let rows = rows(settings, runner.plan.limit);
    let total = rows.iter().map(|(_, rows)| rows).sum();
    let statistics = LabelStatistics::default();
    let tracker = Tracker::new(runner.reporter, &stage.folder, Some(total), &Counts::default(), &statistics);
    let mut outputs = Vec::new();
    for (split, (name, wanted)) in rows.into_iter().enumerate() {
        let arithmetic = texts(settings, runner.plan.seed, split as u64)?;
        let path = format!("{}/{SET}/{name}.parquet", stage.folder);
        let key_values = schema::key_values("arithmetic", &stage.key);
        let mut sink = ParquetSink::create(&runner.dir.path(&path), schema::arithmetic(), Profile::Traces, key_values)?;
        let mut made = 0;
        while made < wanted {
            if runner.stop.requested() {
                return Ok(None);
            }
            let chunk = made..wanted.min(made + CHUNK);
            made = chunk.end;
            let texts: Vec<String> = chunk.clone().into_par_iter().map(|index| arithmetic.text(index)).collect();
            let column = Arc::new(StringArray::from_iter_values(texts));
            sink.write(&RecordBatch::try_new(schema::arithmetic(), vec![column])?)?;
            tracker.add_documents(chunk.end - chunk.start);
        }
        let written = sink.finish()?;
        outputs.push(Output {
            path,
            bytes: written.committed.bytes,
            sha256: written.committed.sha256,
            rows: written.rows,
        });
    }
    Ok(Some(Manifest {
        plan_id: runner.plan.plan_id.clone(),
        stage: stage.work.name().to_owned(),
        stage_key: stage.key.clone(),
        unit: "all".to_owned(),
        input: "the run's seed".to_owned(),
        input_sha256: String::new(),
        outputs,
        counts: Counts { rows_in: total, kept: total, ..Counts::default() },
        labels: None,
        judge: None,
        corpora: Default::default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}
