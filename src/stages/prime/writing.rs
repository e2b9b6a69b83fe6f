//! The stage in the middle of its work: traces and prompts on their way into their files.

use super::authored::{Assignment, Desk, Rejected};
use super::supply::{Supplied, Supply};
use super::{FairnessReport, Part, Tools, rows, seed_of};
use crate::config::{Author, Prime};
use crate::countdown::condition::Condition;
use crate::countdown::fairness::Meter;
use crate::countdown::generate::{Generator, TraceFault, TraceRecord};
use crate::countdown::puzzle::{Multiset, Puzzle, mix};
use crate::data::parquet_sink::{ParquetSink, Profile, Written};
use crate::data::schema;
use crate::error::{Exit, Failure};
use crate::plan::Stage;
use crate::run::Runner;
use crate::run::manifest::{Counts, Output};
use crate::run::work::Tracker;
use arrow::datatypes::SchemaRef;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Puzzles that are made at a time, for all conditions.
const CHUNK: u64 = 1024;

/// So many puzzles may fail for each one that succeeds, beside some to begin with, before the stage gives up.
const MAX_FAILED: u64 = 100;

/// A trace with the length of its completion, or why there is none.
type Made = Result<(TraceRecord, usize), TraceFault>;

pub(super) struct Work<'a> {
    runner: &'a Runner<'a>,
    stage: &'a Stage,
    prime: &'a Prime,
    tools: &'a Tools,
    tracker: &'a Tracker<'a>,
    desk: Option<Desk<'a>>,
    /// Replies that were not used, one file for each condition that a model is asked for.
    rejected: BTreeMap<Condition, ParquetSink>,
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

impl<'a> Work<'a> {
    pub(super) fn new(
        runner: &'a Runner<'a>,
        stage: &'a Stage,
        prime: &'a Prime,
        tools: &'a Tools,
        tracker: &'a Tracker<'a>,
        desk: Option<Desk<'a>>,
        report: FairnessReport,
    ) -> anyhow::Result<Self> {
        let mut work = Self {
            runner,
            stage,
            prime,
            tools,
            tracker,
            desk,
            rejected: BTreeMap::new(),
            outputs: Vec::new(),
            counts: Counts::default(),
            seen: Vec::new(),
            report,
        };
        if work.desk.is_some() {
            let is_derived = |one: &Condition| matches!(one, Condition::Scrambled | Condition::Empty | Condition::Dots);
            for &condition in prime.conditions.iter().filter(|one| !is_derived(one)) {
                let sink = work.create(condition.name(), "rejected", "rejected", schema::rejected())?;
                work.rejected.insert(condition, sink);
            }
        }
        Ok(work)
    }

    /// What was written, and its figures.
    pub(super) fn finish(mut self) -> anyhow::Result<(Vec<Output>, Counts, FairnessReport)> {
        for (condition, sink) in std::mem::take(&mut self.rejected) {
            let written = sink.finish()?;
            self.committed(condition.name(), "rejected", written);
        }
        self.report.dropped = self.counts.dropped.clone();
        if let Some(desk) = self.desk {
            self.report.author = Some(desk.report);
            let n_train: u64 = self
                .outputs
                .iter()
                .filter(|output| output.path.ends_with("/train.parquet"))
                .map(|file| file.rows)
                .sum();
            if n_train == 0 {
                return Err(no_trace(&self.report).into());
            }
        }
        Ok((self.outputs, self.counts, self.report))
    }

    fn create(&self, folder: &str, name: &str, kind: &str, columns: SchemaRef) -> anyhow::Result<ParquetSink> {
        let path = self.runner.dir.path(&self.stage.folder).join(folder).join(format!("{name}.parquet"));
        ParquetSink::create(&path, columns, Profile::Traces, schema::key_values(kind, &self.stage.key))
    }

    fn committed(&mut self, folder: &str, name: &str, written: Written) {
        self.outputs.push(Output {
            path: format!("{}/{folder}/{name}.parquet", self.stage.folder),
            bytes: written.committed.bytes,
            sha256: written.committed.sha256,
            rows: written.rows,
        });
    }

    /// Writes one split of every condition. False: stopped by a signal.
    pub(super) fn write_traces(&mut self, part: Part, seed: u64) -> anyhow::Result<bool> {
        let mut lanes = Vec::new();
        for condition in &self.prime.conditions {
            let sink = self.create(condition.name(), part.name(), "traces", schema::traces())?;
            lanes.push(Lane { sink, meter: Meter::default(), puzzles: 0, chunk: Vec::new() });
        }
        let mut supply = self.tools.supply(self.prime, seed, part)?;
        let is_done = match self.prime.author.as_ref().zip(self.desk.take()) {
            None => self.synthesise(part, seed, &mut supply, &mut lanes)?,
            Some((author, mut desk)) => {
                let is_done = self.have_written(part, seed, author, &mut desk, &mut supply, &mut lanes)?;
                self.desk = Some(desk);
                is_done
            }
        };
        if !is_done {
            return Ok(false);
        }
        self.report.puzzles.extend(supply.counts().map(|counts| (part.label(), counts)));
        self.report.same_puzzles &= lanes.windows(2).all(|pair| pair[0].puzzles == pair[1].puzzles);
        for (condition, lane) in self.prime.conditions.iter().zip(lanes) {
            let written = lane.sink.finish()?;
            self.committed(condition.name(), part.name(), written);
            let figures = self.report.conditions.entry(condition.name()).or_default();
            figures.insert(part.name(), lane.meter.finish());
        }
        Ok(true)
    }

    /// Plans and tells as many traces as are wanted. False: stopped by a signal.
    fn synthesise(
        &mut self,
        part: Part,
        seed: u64,
        supply: &mut Supply<'_>,
        lanes: &mut [Lane],
    ) -> anyhow::Result<bool> {
        let generators = self.tools.generators(self.prime, seed, part)?;
        let wanted = part.wanted(self.prime, self.runner.plan.limit);
        let mut numbers = BTreeSet::new();
        let (mut kept, mut tried) = (0, 0);
        while kept < wanted {
            if self.runner.stop.requested() {
                return Ok(false);
            }
            let asked = (wanted - kept).min(CHUNK);
            let puzzles = supply.take(asked)?;
            let is_last = (puzzles.len() as u64) < asked;
            tried += puzzles.len() as u64;
            let tools = self.tools;
            let make = |generator: &Generator, one: &Supplied| make(tools, generator, one);
            let made: Vec<Vec<Made>> = puzzles
                .into_par_iter()
                .map(|one| generators.iter().map(|generator| make(generator, &one)).collect())
                .collect();
            let before = kept;
            for traces in made {
                if traces.iter().all(Result::is_ok) {
                    kept += 1;
                    self.take(part, traces.into_iter().flatten().collect(), lanes, &mut numbers);
                } else {
                    let reason = |made: &Made| made.as_ref().err().map_or("unpaired", TraceFault::name);
                    self.drop_rows(traces.iter().map(reason));
                }
            }
            lanes.par_iter_mut().try_for_each(Lane::write)?;
            self.tracker.add_documents((kept - before) * lanes.len() as u64);
            if kept < wanted && is_last {
                return Err(supply.too_few(&format!("`{}`", part.label()), wanted).into());
            }
            if tried > MAX_FAILED * (kept + 100) {
                return Err(self.gives_up(tried, kept).into());
            }
        }
        self.seen.push((part.label(), numbers));
        Ok(true)
    }

    /// Has a model write as many traces as are wanted, or as it manages. False: stopped by a signal.
    fn have_written(
        &mut self,
        part: Part,
        seed: u64,
        author: &Author,
        desk: &mut Desk<'a>,
        supply: &mut Supply<'_>,
        lanes: &mut [Lane],
    ) -> anyhow::Result<bool> {
        let assignment = Assignment {
            split: part.name(),
            seed: seed_of(seed, part),
            query: &self.tools.query,
            count_tokens: self.tools.count_tokens.as_ref(),
        };
        let wanted = part.wanted(self.prime, self.runner.plan.limit);
        let budget = wanted.saturating_mul(author.puzzles_per_trace.into());
        let mut numbers = BTreeSet::new();
        let (mut kept, mut tried) = (0, 0);
        while kept < wanted && tried < budget {
            let puzzles = supply.take((wanted - kept).min(desk.batch_size()).min(budget - tried))?;
            if puzzles.is_empty() {
                break;
            }
            tried += puzzles.len() as u64;
            let Some((outcomes, rejected)) = desk.write(&assignment, &puzzles)? else { return Ok(false) };
            for outcome in outcomes {
                match outcome {
                    Ok(traces) => {
                        kept += 1;
                        let length = |trace: TraceRecord| {
                            let length = self.tools.length(&trace.completion);
                            (trace, length)
                        };
                        self.take(part, traces.into_iter().map(length).collect(), lanes, &mut numbers);
                        self.tracker.add_documents(lanes.len() as u64);
                    }
                    Err(reasons) => self.drop_rows(reasons.into_iter()),
                }
            }
            lanes.iter_mut().try_for_each(Lane::write)?;
            for (condition, sink) in &mut self.rejected {
                let own: Vec<&Rejected> = rejected.iter().filter(|one| one.condition == *condition).collect();
                sink.write(&rows::rejected(&own)?)?;
            }
        }
        if kept < wanted {
            self.runner.reporter.notice(format!(
                "`{}` gave {kept} of {wanted} traces per condition for `{}`, of {tried} puzzles: `{}/*/rejected.parquet` holds the other replies and why they were refused",
                desk.report.author.model,
                part.label(),
                self.stage.folder,
            ));
        }
        self.seen.push((part.label(), numbers));
        Ok(true)
    }

    /// The traces of one puzzle go to their lanes.
    fn take(
        &mut self,
        part: Part,
        traces: Vec<(TraceRecord, usize)>,
        lanes: &mut [Lane],
        numbers: &mut BTreeSet<Multiset>,
    ) {
        self.counts.rows_in += traces.len() as u64;
        self.counts.kept += traces.len() as u64;
        if let Some((trace, _)) = traces.first() {
            self.compare(part, trace.puzzle.multiset(), numbers);
        }
        for (lane, trace) in lanes.iter_mut().zip(traces) {
            lane.chunk.push(trace);
        }
    }

    /// The traces of one puzzle are not used.
    fn drop_rows(&mut self, reasons: impl Iterator<Item = &'static str>) {
        for reason in reasons {
            self.counts.rows_in += 1;
            self.counts.drop_rows(reason, 1);
        }
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

    /// Writes one split of RL prompts. False: stopped by a signal.
    pub(super) fn write_prompts(&mut self, part: Part, seed: u64) -> anyhow::Result<bool> {
        self.report.overlap.entry(part.label()).or_default();
        let mut supply = self.tools.supply(self.prime, seed, part)?;
        let mut sink = self.create("verl", part.name(), "verl", schema::verl())?;
        let wanted = part.wanted(self.prime, self.runner.plan.limit);
        let mut kept = 0;
        let mut numbers = BTreeSet::new();
        while kept < wanted {
            if self.runner.stop.requested() {
                return Ok(false);
            }
            let asked = (wanted - kept).min(CHUNK);
            let puzzles: Vec<Puzzle> = supply.take(asked)?.into_iter().map(|one| one.puzzle).collect();
            sink.write(&rows::prompts(&puzzles, &self.tools.query, part.name(), kept)?)?;
            numbers.extend(puzzles.iter().map(Puzzle::multiset));
            kept += puzzles.len() as u64;
            self.tracker.add_documents(puzzles.len() as u64);
            if (puzzles.len() as u64) < asked {
                return Err(supply.too_few("RL prompts", wanted).into());
            }
        }
        let written = sink.finish()?;
        self.committed("verl", part.name(), written);
        self.report.puzzles.extend(supply.counts().map(|counts| (part.label(), counts)));
        self.seen.push((part.label(), numbers));
        Ok(true)
    }
}

fn make(tools: &Tools, generator: &Generator, one: &Supplied) -> Made {
    let mut trace = generator.trace_on(one.index, &one.puzzle, &one.solution)?;
    if matches!(trace.condition, Condition::Empty | Condition::Dots) {
        // They are of the thought that is not shown.
        trace.phrases.clear();
    }
    let length = tools.length(&trace.completion);
    Ok((trace, length))
}

/// A model of which no reply passed.
fn no_trace(report: &FairnessReport) -> Failure {
    let author = report.author.as_ref();
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, replies) in author.into_iter().flat_map(|author| author.rejected.values()).flatten() {
        *reasons.entry(reason).or_default() += replies;
    }
    let reasons: Vec<String> = reasons.iter().map(|(reason, replies)| format!("{replies} {reason}")).collect();
    let (model, replies) = author.map_or(("", 0), |author| (author.author.model.as_str(), author.replies));
    let message =
        format!("`{model}` wrote no trace for `train` that passes: of {replies} replies, {}", reasons.join(", "));
    Failure::new(Exit::BadData, message)
        .hint("`rejected.parquet` in each condition's folder holds the replies and why they were refused; a larger model, more `attempts` or `puzzles-per-trace` may help")
}
