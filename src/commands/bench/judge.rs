//! `pipeline bench judge`: documents through the language-model judge, end to end, tokenisation included.

use super::breakdown::{self, Share, breakdown};
use super::process;
use crate::behavior::judge::{Judge, Labels};
use crate::behavior::lm_judge::{LmJudge, LmJudgeSpec};
use crate::cli::BenchJudge;
use crate::commands::{print, print_json, start_threads};
use crate::data::document::{ColumnMap, Wanted};
use crate::data::shard::{Format, ShardReader};
use crate::error::{Exit, Failure};
use crate::lm::{Checkpoint, Meter, Part, WeightStorage, precision_on};
use anyhow::Context;
use serde::Serialize;
use std::fmt::Write;
use std::time::Instant;

/// What `--json` prints.
#[derive(Serialize)]
struct Outcome {
    engine: &'static str,
    model: String,
    device: &'static str,
    precision: &'static str,
    threads: usize,
    documents: usize,
    repeats: u64,
    /// Wall-clock time of each time that the documents were judged.
    seconds: Vec<f64>,
    cpu_seconds: Option<f64>,
    /// Over all repeats, as are the other rates.
    documents_per_second: f64,
    /// Tokens of the documents' own text, each counted once.
    tokens_per_second: f64,
    /// The same work counted as four plain prompts per document.
    prompt_tokens_per_second: f64,
    document_tokens: u64,
    plain_prompt_tokens: u64,
    load_seconds: f64,
    peak_memory_bytes: Option<u64>,
    flops: f64,
    flops_per_second: f64,
    /// What the matrix kernel reaches on operands in cache, measured in this run.
    peak_flops_per_second: f64,
    share_of_peak: f64,
    /// The same by processor time instead of the clock, which other programs do not disturb.
    share_of_peak_by_cpu_seconds: Option<f64>,
    breakdown: Vec<Share<Part>>,
    /// Per document, of verification, backtracking, subgoal setting and backward chaining.
    scores: Vec<[f32; 4]>,
}

pub fn run(args: &BenchJudge, json: bool) -> anyhow::Result<Exit> {
    let device = args.device.open()?;
    start_threads(args.threads)?;
    let texts = read_texts(args)?;
    let precision = precision_on(&device, args.precision.into());
    let spec = LmJudgeSpec {
        window_tokens: args.max_doc_tokens as usize,
        max_windows: 1,
        batch_tokens: args.batch_tokens as usize,
        precision,
        weights: if args.kept { WeightStorage::Kept } else { WeightStorage::Widened },
        device,
        ..LmJudgeSpec::new(args.model.clone().unwrap_or_default())
    };

    let started = Instant::now();
    let checkpoint = match &args.shape {
        Some(shape) => Checkpoint::random(shape)?,
        None => Checkpoint::open(&spec.model)?,
    };
    let mut judge = LmJudge::of(&checkpoint, &spec)?;
    let load_seconds = started.elapsed().as_secs_f64();

    let meter = Meter::running();
    judge.set_meter(meter.clone());
    let cpu_before = process::cpu_seconds();
    let (mut seconds, mut labels) = (Vec::new(), Vec::new());
    for _ in 0..args.repeat {
        let started = Instant::now();
        labels = judge_all(&mut judge, &texts)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    let cpu_seconds = process::cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    let peak = judge.peak_flops(precision)?;

    let total: f64 = seconds.iter().sum();
    let rate = |count: u64| (count * args.repeat) as f64 / total;
    let document_tokens = labels.iter().map(|labels| labels.tokens_read).sum();
    let plain_prompt_tokens = labels.iter().map(|labels| judge.plain_prompt_tokens(labels)).sum();
    let threads = rayon::current_num_threads();
    let breakdown = breakdown(breakdown::readings(&meter), total, peak);
    let flops = breakdown::flops(&breakdown);
    let outcome = Outcome {
        engine: "four-habits",
        model: checkpoint.name(),
        device: if spec.device.is_cuda() { "cuda" } else { "cpu" },
        precision: precision.name(),
        threads,
        documents: texts.len(),
        repeats: args.repeat,
        cpu_seconds,
        documents_per_second: rate(texts.len() as u64),
        tokens_per_second: rate(document_tokens),
        prompt_tokens_per_second: rate(plain_prompt_tokens),
        document_tokens,
        plain_prompt_tokens,
        load_seconds,
        peak_memory_bytes: process::peak_memory(),
        flops,
        flops_per_second: flops / total,
        peak_flops_per_second: peak,
        share_of_peak: flops / total / peak,
        share_of_peak_by_cpu_seconds: cpu_seconds.map(|seconds| flops / seconds / (peak / threads as f64)),
        breakdown,
        scores: labels.iter().map(|labels| labels.marks.map(|mark| mark.score)).collect(),
        seconds,
    };
    if json {
        print_json(&outcome)?;
    } else {
        print(&outcome.table()?)?;
    }
    Ok(Exit::Done)
}

/// The first documents that have a text.
fn read_texts(args: &BenchJudge) -> anyhow::Result<Vec<String>> {
    let name = args.docs.display().to_string();
    let Some(format) = Format::of(&name) else {
        return Err(Failure::new(Exit::Usage, format!("`{name}` is neither Parquet nor JSONL by its name"))
            .hint("give a `.parquet`, `.jsonl`, `.jsonl.gz` or `.jsonl.zst` file")
            .into());
    };
    let reader = ShardReader::open(&args.docs, format, &ColumnMap::text_only("text"))?;
    let mut texts = Vec::new();
    for batch in reader.batches(0..reader.footer().row_groups.len(), Wanted::TEXT, None, 64)? {
        let batch = batch?;
        let present = (0..batch.len()).filter_map(|row| batch.text(row)).filter(|text| !text.trim().is_empty());
        texts.extend(present.take(args.limit as usize - texts.len()).map(str::to_owned));
        if texts.len() as u64 == args.limit {
            break;
        }
    }
    if texts.is_empty() {
        return Err(Failure::new(Exit::Usage, format!("`{name}` holds no document with a text")).into());
    }
    Ok(texts)
}

/// All documents, in calls of the size that a run makes.
fn judge_all(judge: &mut LmJudge, texts: &[String]) -> anyhow::Result<Vec<Labels>> {
    let mut labels = Vec::with_capacity(texts.len());
    for texts in texts.chunks(judge.batch_size()) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for judged in judge.judge(&texts)? {
            labels.push(judged.context("a document could not be judged")?);
        }
    }
    Ok(labels)
}

impl Outcome {
    fn table(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        writeln!(
            out,
            "{}, {}, {}, {} threads: {} documents, {} tokens of text, {} times",
            self.model, self.precision, self.device, self.threads, self.documents, self.document_tokens, self.repeats
        )?;
        let mut line = |name: &str, value: String| writeln!(out, "{name:22}{value}");
        line("documents/s", format!("{:.3}", self.documents_per_second))?;
        line("document tokens/s", format!("{:.0}", self.tokens_per_second))?;
        line("prompt tokens/s", format!("{:.0} (as four plain prompts)", self.prompt_tokens_per_second))?;
        line("wall-clock seconds", self.seconds.iter().map(|s| format!("{s:.2}")).collect::<Vec<_>>().join(", "))?;
        if let Some(seconds) = self.cpu_seconds {
            line("processor seconds", format!("{seconds:.2}"))?;
        }
        let (rate, peak) = (self.flops_per_second / 1e9, self.peak_flops_per_second / 1e9);
        line(
            "GFLOP/s",
            format!("{rate:.0}, {:.0} % of the {peak:.0} that products reach", 100.0 * self.share_of_peak),
        )?;
        if let Some(share) = self.share_of_peak_by_cpu_seconds {
            line("by processor time", format!("{:.0} %", 100.0 * share))?;
        }
        if let Some(bytes) = self.peak_memory_bytes {
            line("peak memory", format!("{} MiB", bytes >> 20))?;
        }
        line("model loaded in", format!("{:.2} s", self.load_seconds))?;
        breakdown::write(&mut out, &self.breakdown, self.seconds.iter().sum(), self.peak_flops_per_second)?;
        Ok(out)
    }
}
