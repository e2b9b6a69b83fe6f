//! `pipeline bench generate`: sequences continued side by side with a cache of keys and values, reading the prompts and
//! sampling included.

use super::breakdown::{self, Share, breakdown};
use super::{median, process};
use crate::cli::{BenchGenerate, Device};
use crate::commands::{print, print_json, start_threads};
use crate::error::{Exit, Failure};
use crate::lm::{BatchLimits, Checkpoint, Decoder, Endings, Meter, Part, Request, SamplingRule};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
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
    prompt_tokens: usize,
    new_tokens: usize,
    load_seconds: f64,
    peak_memory_bytes: Option<u64>,
    /// What the matrix kernel reaches on operands in cache, measured in this run.
    peak_flops_per_second: f64,
    batches: Vec<Batch>,
}

/// So many sequences at once.
#[derive(Serialize)]
struct Batch {
    batch: usize,
    /// By the median of the repeats.
    generated_tokens_per_second: f64,
    milliseconds_per_step: f64,
    /// Wall-clock time of each repeat.
    seconds: Vec<f64>,
    /// Over all repeats.
    cpu_seconds: Option<f64>,
    /// Keys and values at the end.
    cache_bytes: usize,
    flops: f64,
    breakdown: Vec<Share<Part>>,
}

pub fn run(args: &BenchGenerate, json: bool) -> anyhow::Result<Exit> {
    if args.device == Device::Cuda {
        return Err(Failure::new(Exit::Usage, "text is generated on the CPU only").hint("use `--device cpu`").into());
    }
    start_threads(args.threads)?;
    let started = Instant::now();
    let checkpoint = match (&args.shape, &args.model) {
        (Some(shape), _) => Checkpoint::random(shape)?,
        (None, model) => Checkpoint::open(&model.clone().unwrap_or_default())?,
    };
    let (prompt_tokens, new_tokens) = (args.prompt_tokens as usize, args.new_tokens as usize);
    let context = checkpoint.config().max_positions;
    if prompt_tokens + new_tokens > context {
        let message = format!(
            "{prompt_tokens} prompt tokens and {new_tokens} new ones make {}, the model's context is {context}",
            prompt_tokens + new_tokens
        );
        return Err(Failure::new(Exit::Usage, message).hint("lower `--prompt-tokens` or `--new-tokens`").into());
    }
    let precision = args.precision.into();
    let mut decoder = Decoder::load(&checkpoint, &candle_core::Device::Cpu, precision)?;
    let load_seconds = started.elapsed().as_secs_f64();

    let peak = precision.peak();
    let mut batches = Vec::new();
    for &batch in &args.batch {
        batches.push(measure(&mut decoder, batch as usize, args, peak)?);
    }
    let outcome = Outcome {
        engine: "four-habits",
        model: checkpoint.name(),
        device: "cpu",
        precision: precision.name(),
        threads: rayon::current_num_threads(),
        prompt_tokens,
        new_tokens,
        load_seconds,
        peak_memory_bytes: process::peak_memory(),
        peak_flops_per_second: peak,
        batches,
    };
    if json {
        print_json(&outcome)?;
    } else {
        print(&outcome.table()?)?;
    }
    Ok(Exit::Done)
}

fn measure(decoder: &mut Decoder, batch: usize, args: &BenchGenerate, peak: f64) -> anyhow::Result<Batch> {
    let (prompt_tokens, new_tokens) = (args.prompt_tokens as usize, args.new_tokens as usize);
    let vocabulary = decoder.config().vocab_size as u32;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let requests: Vec<Request> = (0..batch as u64)
        .map(|seed| {
            let prompt = (0..prompt_tokens).map(|_| rng.random_range(0..vocabulary)).collect();
            Request { prompt, max_tokens: new_tokens, seed }
        })
        .collect();
    // All at once, and to the end: no token ends a sequence.
    let limits = BatchLimits { sequences: batch, cache_bytes: usize::MAX, prompt_tokens: usize::MAX };
    let generate = |decoder: &Decoder| -> anyhow::Result<()> {
        for answer in decoder.generate(&requests, SamplingRule::PLAIN, Endings::default(), limits)? {
            anyhow::ensure!(answer?.tokens.len() == new_tokens, "a sequence ended early");
        }
        Ok(())
    };
    // The first round packs the head and touches the memory.
    decoder.set_meter(Meter::default());
    generate(decoder)?;
    let meter = Meter::running();
    decoder.set_meter(meter.clone());
    let cpu_before = process::cpu_seconds();
    let mut seconds = Vec::new();
    for _ in 0..args.repeat {
        let started = Instant::now();
        generate(decoder)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    let cpu_seconds = process::cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    let median = median(&seconds);
    let breakdown = breakdown(breakdown::readings(&meter), seconds.iter().sum(), peak);
    Ok(Batch {
        batch,
        generated_tokens_per_second: (batch * new_tokens) as f64 / median,
        milliseconds_per_step: 1e3 * median / new_tokens as f64,
        seconds,
        cpu_seconds,
        cache_bytes: batch * decoder.cache_bytes(prompt_tokens + new_tokens),
        flops: breakdown::flops(&breakdown),
        breakdown,
    })
}

impl Outcome {
    fn table(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let Self { model, precision, device, threads, prompt_tokens, new_tokens, .. } = self;
        writeln!(
            out,
            "{model}, {precision}, {device}, {threads} threads: {new_tokens} tokens after prompts of {prompt_tokens}"
        )?;
        writeln!(
            out,
            "\n{:>6}{:>12}{:>10}{:>11}{:>13}{:>12}",
            "batch", "tokens/s", "ms/step", "seconds", "processor s", "cache MiB"
        )?;
        for row in &self.batches {
            let total: f64 = row.seconds.iter().sum();
            writeln!(
                out,
                "{:6}{:12.0}{:10.2}{:11.3}{:>13}{:12.1}",
                row.batch,
                row.generated_tokens_per_second,
                row.milliseconds_per_step,
                total,
                row.cpu_seconds.map_or_else(|| "?".into(), |seconds| format!("{seconds:.2}")),
                row.cache_bytes as f64 / f64::from(1 << 20),
            )?;
        }
        writeln!(out)?;
        if let Some(bytes) = self.peak_memory_bytes {
            writeln!(out, "{:22}{} MiB", "peak memory", bytes >> 20)?;
        }
        writeln!(out, "{:22}{:.2} s", "model loaded in", self.load_seconds)?;
        if let Some(last) = self.batches.last() {
            writeln!(out, "\nat batch {}:", last.batch)?;
            breakdown::write(&mut out, &last.breakdown, last.seconds.iter().sum(), self.peak_flops_per_second)?;
        }
        Ok(out)
    }
}
