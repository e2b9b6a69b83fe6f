//! `prime`: Countdown priming traces, the same puzzles under every condition, each past every gate before it is written.
//!
//! It is one unit. Traces are made in chunks and streamed to the files of all conditions at once, each from its seed and
//! index alone: memory does not grow with their number, but for the numbers of the test puzzles, which no other split may use.

mod card;
mod exclude;
mod rows;

use crate::config::{Config, Prime, Recipe};
use crate::countdown::condition::{Condition, Strata};
use crate::countdown::draw::{Draw, PuzzleSpec, Source};
use crate::countdown::fairness::{Fairness, Meter};
use crate::countdown::generate::{CountTokens, Generator, TraceFault, TraceRecord, TraceSpec};
use crate::countdown::puzzle::{Multiset, Puzzle, Split, Splits, mix};
use crate::countdown::query::QueryTemplate;
use crate::data::parquet_sink::{ParquetSink, Profile, Written};
use crate::data::schema;
use crate::data::token_count::TokenCounter;
use crate::error::{Exit, Failure};
use crate::plan::Stage;
use crate::run::Runner;
use crate::run::manifest::{Counts, LabelStatistics, Manifest, Output};
use crate::run::work::Tracker;
use crate::stages::curate::write_text;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// The version of the traces. Raise it when equal settings give other bytes.
pub const FORMAT: u32 = 1;

/// Puzzles that are made at a time, for all conditions.
const CHUNK: u64 = 1024;

/// The share of all number multisets held for testing, and for RL prompts; the rest is for priming.
const TEST_SHARE: f64 = 0.1;
const RL_SHARE: f64 = 0.4;

/// So many puzzles may fail for each one that succeeds, beside some to begin with, before the stage gives up.
const MAX_FAILED: u64 = 100;

/// What a set of puzzles is for. Each has a random stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Train,
    Test,
    RlTrain,
    RlTest,
}

impl Part {
    /// The file's stem.
    const fn name(self) -> &'static str {
        match self {
            Part::Train | Part::RlTrain => "train",
            Part::Test | Part::RlTest => "test",
        }
    }

    const fn split(self) -> Split {
        match self {
            Part::Train => Split::Train,
            Part::RlTrain => Split::Validation,
            Part::Test | Part::RlTest => Split::Test,
        }
    }

    fn wanted(self, prime: &Prime, limit: Option<u64>) -> u64 {
        let wanted = if self.name() == "train" { prime.train } else { prime.test };
        limit.map_or(wanted, |limit| wanted.min(limit))
    }
}

/// How many traces a run makes, of all conditions.
pub fn traces(prime: &Prime, limit: Option<u64>) -> u64 {
    let each = Part::Train.wanted(prime, limit) + Part::Test.wanted(prime, limit);
    each * prime.conditions.len() as u64
}

/// What must be alike between conditions, measured: `fairness.json`.
#[derive(Debug, Clone, Serialize)]
struct FairnessReport {
    /// What lengths are counted in.
    length_unit: &'static str,
    /// Whether all conditions hold the same puzzles in the same order.
    same_puzzles: bool,
    /// Traces of the training split whose numbers occur, in any order, in other sets. All must be 0.
    overlap: BTreeMap<&'static str, u64>,
    /// Traces that were made and not written, by reason.
    dropped: BTreeMap<String, u64>,
    /// By condition and split.
    conditions: BTreeMap<&'static str, BTreeMap<&'static str, Fairness>>,
}

/// A trace with the length of its completion, or why there is none.
type Made = Result<(TraceRecord, usize), TraceFault>;

/// What the recipe's files hold.
struct Tools {
    query: QueryTemplate,
    count_tokens: Option<CountTokens>,
    excluded: BTreeSet<Multiset>,
}

impl Tools {
    /// An error comes with the key that it is about.
    fn load(prime: &Prime) -> Result<Self, (String, Failure)> {
        let query = match &prime.query {
            None => QueryTemplate::built_in(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Failure::new(Exit::Usage, format!("cannot read `{path}`: {error}")))
                .and_then(|text| QueryTemplate::parse(text.trim_end_matches('\n'))),
        };
        let query = query.map_err(|failure| ("prime.query".to_owned(), failure))?;
        let tokenizer = prime.tokenizer.as_ref().map(|path| TokenCounter::load(Path::new(path))).transpose();
        let tokenizer = tokenizer.map_err(|failure| ("prime.tokenizer".to_owned(), failure))?;
        let count_tokens = tokenizer.map(|tokenizer| {
            let count: CountTokens = Arc::new(move |text: &str| tokenizer.count(text) as usize);
            count
        });
        let mut excluded = BTreeSet::new();
        for (index, file) in prime.exclude.iter().enumerate() {
            exclude::read(Path::new(file), &mut excluded)
                .map_err(|failure| (format!("prime.exclude[{index}]"), failure))?;
        }
        Ok(Self { query, count_tokens, excluded })
    }

    fn draw(&self, prime: &Prime, seed: u64, part: Part) -> Result<Draw, Failure> {
        let splits = splits(seed);
        let source = Source::Drawn(PuzzleSpec::from(prime));
        Draw::new(source, self.excluded.clone(), Some((splits, part.split())), seed_of(seed, part))
    }

    /// One generator per condition, all on the same puzzles.
    fn generators(&self, prime: &Prime, seed: u64, part: Part) -> Result<Vec<Generator>, Failure> {
        let draw = self.draw(prime, seed, part)?;
        let strata = prime.strata;
        let strata = Strata { slip: strata.slip, rule_break: strata.rule_break, give_up: strata.give_up };
        let generators = prime.conditions.iter().map(|&condition| {
            let spec = TraceSpec {
                answers: prime.answers,
                strata,
                wrong_share: prime.wrong_share,
                diversity: prime.diversity,
                ..TraceSpec::new(condition, seed_of(seed, part))
            };
            Generator::new(spec, draw.clone(), self.query.clone(), self.count_tokens.clone())
        });
        generators.collect()
    }

    /// The trace of an index and the length of its completion.
    fn make(&self, generator: &Generator, index: u64) -> Made {
        let mut trace = generator.trace(index)?;
        if matches!(trace.condition, Condition::Empty | Condition::Dots) {
            // They are of the thought that is not shown.
            trace.phrases.clear();
        }
        let count = self.count_tokens.as_ref();
        let length = count.map_or_else(|| trace.completion.chars().count(), |count| count(&trace.completion));
        Ok((trace, length))
    }
}

/// How number multisets are divided: for priming, for RL prompts (there called validation), for testing.
pub(super) fn splits(seed: u64) -> Splits {
    Splits { seed, test: TEST_SHARE, validation: RL_SHARE }
}

fn seed_of(seed: u64, part: Part) -> u64 {
    mix(mix(seed) ^ part as u64)
}

/// Checks what a recipe's `[prime]` names, before anything runs.
///
/// # Errors
/// A [`Failure`] at the recipe's key: unreadable files, a template without slots, ranges that leave no puzzle for a split.
pub fn check_recipe(recipe: &Recipe, arm: &str, config: &Config) -> anyhow::Result<()> {
    let Some(prime) = &config.prime else { return Ok(()) };
    let located = |key: &str, failure: Failure| {
        let error = recipe.error_in_arm(arm, key, &failure.message);
        match failure.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    };
    let tools = Tools::load(prime).map_err(|(key, failure)| located(&key, failure))?;
    for part in [Part::Train, Part::Test, Part::RlTrain] {
        if part != Part::RlTrain || prime.verl {
            tools.generators(prime, config.seed, part).map_err(|failure| located("prime", failure))?;
        }
    }
    Ok(())
}

/// Writes everything. None: stopped by a signal.
pub fn run(runner: &Runner, stage: &Stage, prime: &Prime) -> anyhow::Result<Option<Manifest>> {
    let (seed, limit) = (runner.plan.seed, runner.plan.limit);
    let tools = Tools::load(prime).map_err(|(_, failure)| failure)?;
    // What an earlier recipe left must not be read along with this one's: it may have had other conditions.
    runner.dir.remove(&stage.folder)?;
    let total = traces(prime, limit);
    let tracker =
        Tracker::new(runner.reporter, &stage.folder, Some(total), &Counts::default(), &LabelStatistics::default());
    let mut work = Work {
        runner,
        stage,
        prime,
        tools: &tools,
        tracker: &tracker,
        outputs: Vec::new(),
        counts: Counts::default(),
        seen: Vec::new(),
        report: FairnessReport {
            length_unit: if tools.count_tokens.is_some() { "tokens" } else { "characters" },
            same_puzzles: true,
            overlap: BTreeMap::from([("test", 0), ("excluded", 0)]),
            dropped: BTreeMap::new(),
            conditions: BTreeMap::new(),
        },
    };
    if prime.verl {
        work.report.overlap.extend([("verl-train", 0), ("verl-test", 0)]);
        for (part, name) in [(Part::RlTest, "verl-test"), (Part::RlTrain, "verl-train")] {
            let Some(numbers) = work.write_prompts(part, seed)? else { return Ok(None) };
            work.seen.push((name, numbers));
        }
    }
    for part in [Part::Test, Part::Train] {
        let Some(numbers) = work.write_traces(part, seed)? else { return Ok(None) };
        if part == Part::Test {
            work.seen.push(("test", numbers));
        }
    }
    let Work { mut outputs, counts, mut report, .. } = work;
    report.dropped = counts.dropped.clone();
    let json = serde_json::to_string_pretty(&report)? + "\n";
    outputs.push(write_text(runner, stage, "fairness.json", &json)?);
    outputs.push(write_text(runner, stage, "README.md", &card::render(runner.plan, prime, &report)?)?);
    Ok(Some(Manifest {
        plan_id: runner.plan.plan_id.clone(),
        stage: stage.work.name().to_owned(),
        stage_key: stage.key.clone(),
        unit: "all".to_owned(),
        input: "drawn puzzles".to_owned(),
        input_sha256: String::new(),
        outputs,
        counts,
        labels: None,
        judge: None,
        corpora: BTreeMap::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}

/// The stage in the middle of its work.
struct Work<'a> {
    runner: &'a Runner<'a>,
    stage: &'a Stage,
    prime: &'a Prime,
    tools: &'a Tools,
    tracker: &'a Tracker<'a>,
    outputs: Vec<Output>,
    counts: Counts,
    /// The numbers of sets that the training traces must not share.
    seen: Vec<(&'static str, BTreeSet<Multiset>)>,
    report: FairnessReport,
}

/// One condition's file and figures.
struct Lane {
    sink: ParquetSink,
    meter: Meter,
    /// A running hash of its puzzles.
    puzzles: u64,
    chunk: Vec<(TraceRecord, usize)>,
}

impl Lane {
    fn write(&mut self) -> anyhow::Result<()> {
        for (trace, length) in &self.chunk {
            self.meter.add(trace, *length);
            let numbers = trace.puzzle.numbers().iter().copied().chain([trace.puzzle.target()]);
            self.puzzles = numbers.fold(self.puzzles, |hash, number| mix(hash ^ u64::from(number)));
        }
        self.sink.write(&rows::traces(&self.chunk)?)?;
        self.chunk.clear();
        Ok(())
    }
}

impl Work<'_> {
    fn create(
        &self,
        folder: &str,
        part: Part,
        kind: &str,
        columns: arrow::datatypes::SchemaRef,
    ) -> anyhow::Result<ParquetSink> {
        let path = self.runner.dir.path(&self.stage.folder).join(folder).join(format!("{}.parquet", part.name()));
        ParquetSink::create(&path, columns, Profile::Corpus, schema::key_values(kind, &self.stage.key))
    }

    fn committed(&mut self, folder: &str, part: Part, written: Written) {
        self.outputs.push(Output {
            path: format!("{}/{folder}/{}.parquet", self.stage.folder, part.name()),
            bytes: written.committed.bytes,
            sha256: written.committed.sha256,
            rows: written.rows,
        });
    }

    /// Writes one split of every condition and gives the numbers of a test split's puzzles. None: stopped by a signal.
    fn write_traces(&mut self, part: Part, seed: u64) -> anyhow::Result<Option<BTreeSet<Multiset>>> {
        let tools = self.tools;
        let generators = tools.generators(self.prime, seed, part)?;
        let mut lanes = Vec::new();
        for condition in &self.prime.conditions {
            let sink = self.create(condition.name(), part, "traces", schema::traces())?;
            lanes.push(Lane { sink, meter: Meter::default(), puzzles: 0, chunk: Vec::new() });
        }
        let wanted = part.wanted(self.prime, self.runner.plan.limit);
        let (mut kept, mut tried) = (0, 0);
        let mut numbers = BTreeSet::new();
        while kept < wanted {
            if self.runner.stop.requested() {
                return Ok(None);
            }
            let made: Vec<Vec<Made>> = (tried..tried + (wanted - kept).clamp(64, CHUNK))
                .into_par_iter()
                .map(|index| generators.iter().map(|generator| tools.make(generator, index)).collect())
                .collect();
            let before = kept;
            for traces in made {
                if kept == wanted {
                    break;
                }
                tried += 1;
                if let Some(multiset) = self.take(traces, &mut lanes) {
                    kept += 1;
                    self.compare(part, multiset, &mut numbers);
                }
            }
            lanes.par_iter_mut().try_for_each(Lane::write)?;
            self.tracker.add_documents((kept - before) * lanes.len() as u64);
            if tried > MAX_FAILED * (kept + 100) {
                return Err(self.gives_up(tried, kept).into());
            }
        }
        self.report.same_puzzles &= lanes.windows(2).all(|pair| pair[0].puzzles == pair[1].puzzles);
        for (condition, lane) in self.prime.conditions.iter().zip(lanes) {
            let written = lane.sink.finish()?;
            self.committed(condition.name(), part, written);
            let figures = self.report.conditions.entry(condition.name()).or_default();
            figures.insert(part.name(), lane.meter.finish());
        }
        Ok(Some(numbers))
    }

    /// Accounts for the traces of one puzzle: all go to their lanes, or all are dropped.
    fn take(&mut self, traces: Vec<Made>, lanes: &mut [Lane]) -> Option<Multiset> {
        self.counts.rows_in += traces.len() as u64;
        if traces.iter().any(Result::is_err) {
            for made in traces {
                self.counts.drop_rows(made.as_ref().err().map_or("unpaired", TraceFault::name), 1);
            }
            return None;
        }
        self.counts.kept += traces.len() as u64;
        let mut multiset = None;
        for (lane, made) in lanes.iter_mut().zip(traces.into_iter().flatten()) {
            multiset = Some(made.0.puzzle.multiset());
            lane.chunk.push(made);
        }
        multiset
    }

    /// Counts what a training puzzle shares with other sets; remembers a test puzzle.
    fn compare(&mut self, part: Part, multiset: Multiset, numbers: &mut BTreeSet<Multiset>) {
        let mut count = |name: &'static str, shared: bool| {
            *self.report.overlap.entry(name).or_default() += u64::from(shared);
        };
        count("excluded", self.tools.excluded.contains(&multiset));
        if part == Part::Test {
            numbers.insert(multiset);
        } else {
            self.seen.iter().for_each(|(name, set)| count(name, set.contains(&multiset)));
        }
    }

    fn gives_up(&self, tried: u64, kept: u64) -> Failure {
        let most =
            self.counts.dropped.iter().filter(|(reason, _)| *reason != "unpaired").max_by_key(|(_, rows)| **rows);
        let reason = most.map_or("puzzle", |(reason, _)| reason.as_str());
        let message =
            format!("of {tried} puzzles only {kept} gave a trace for every condition; the most fail at `{reason}`");
        Failure::new(Exit::BadData, message).hint("widen `prime.numbers` or `prime.targets`, or leave a condition out")
    }

    /// Writes one split of RL prompts and gives their numbers. None: stopped by a signal.
    fn write_prompts(&mut self, part: Part, seed: u64) -> anyhow::Result<Option<BTreeSet<Multiset>>> {
        let draw = self.tools.draw(self.prime, seed, part)?;
        let mut sink = self.create("verl", part, "verl", schema::verl())?;
        let wanted = part.wanted(self.prime, self.runner.plan.limit);
        let (mut kept, mut tried) = (0, 0);
        let mut numbers = BTreeSet::new();
        while kept < wanted {
            if self.runner.stop.requested() {
                return Ok(None);
            }
            let chunk = tried..tried + (wanted - kept).clamp(64, CHUNK);
            tried = chunk.end;
            let made: Vec<Option<Puzzle>> =
                chunk.into_par_iter().map(|index| draw.puzzle(index).map(|(puzzle, _)| puzzle)).collect();
            let mut puzzles: Vec<Puzzle> = made.into_iter().flatten().collect();
            puzzles.truncate((wanted - kept) as usize);
            sink.write(&rows::prompts(&puzzles, &self.tools.query, part.name(), kept)?)?;
            numbers.extend(puzzles.iter().map(Puzzle::multiset));
            kept += puzzles.len() as u64;
            if tried > MAX_FAILED * (kept + 100) {
                return Err(self.gives_up(tried, kept).into());
            }
        }
        let written = sink.finish()?;
        self.committed("verl", part, written);
        Ok(Some(numbers))
    }
}
