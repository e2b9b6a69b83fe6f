//! Executing a plan into a run folder: for every stage, for every unit: skip if done, work, commit, record.

pub mod attempts;
pub mod commit;
pub mod dir;
pub mod events;
pub mod generators;
pub mod in_flight;
pub mod journal;
pub mod judges;
pub mod manifest;
pub mod reporter;
pub mod stop;
pub mod work;

use crate::cli::Device;
use crate::data::document::ColumnMap;
use crate::data::hub::Hub;
use crate::data::shard::ShardReader;
use crate::data::shard_store::{Prefetch, ShardProgress, ShardSource, ShardStore};
use crate::error::{Exit, Failure};
use crate::plan::{Location, Plan, Shard, Stage, Unit, Work};
use crate::stages;
use anyhow::Context;
use attempts::Failed;
use dir::RunDir;
use events::Event;
use in_flight::InFlight;
use manifest::{Counts, LabelStatistics, Manifest};
use reporter::Reporter;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use stop::Stop;
use work::{Assignment, Tracker, UnitWork, Verdict, WorkContext};

/// How this run behaves. None of it changes bytes, but that a GPU rounds otherwise than a CPU.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// This is task I of N: it does units k with k mod N = I, and leaves what needs all units to a run without a task.
    pub task: Option<(u64, u64)>,
    /// Where a language model runs; opened when one is due.
    pub device: Device,
}

/// Everything a run works with.
pub struct Runner<'a> {
    pub plan: &'a Plan,
    pub dir: &'a RunDir,
    pub hub: &'a Hub,
    pub reporter: &'a Arc<Reporter>,
    pub stop: &'a Stop,
    pub options: Options,
    /// Local shards that are known to be what was planned.
    pub unchanged: RefCell<BTreeSet<PathBuf>>,
}

/// Runs what is missing.
///
/// Returns [`Exit::Done`] when everything (or this task's share) is done, or the code of the signal that stopped it.
pub fn execute(runner: &Runner) -> anyhow::Result<Exit> {
    commit::sweep_temporaries(runner.dir.root())?;
    for input in 0..runner.plan.inputs.len() {
        let stages: Vec<&Stage> =
            runner.plan.stages.iter().filter(|stage| stage.input == input && stage.work.per_unit()).collect();
        if !runner.documents_pass(input, &stages)? {
            return Ok(runner.stop.exit());
        }
    }
    if runner.options.task.is_some() {
        return Ok(Exit::Done);
    }
    for stage in runner.plan.stages.iter().filter(|stage| !stage.work.per_unit()) {
        if !runner.whole_stage(stage)? {
            return Ok(runner.stop.exit());
        }
    }
    Ok(Exit::Done)
}

/// One stage of a pass over the documents, with what of it is done.
struct PassStage<'a> {
    stage: &'a Stage,
    tools: Option<Tools>,
    missing: Vec<bool>,
    tracker: Tracker<'a>,
    started: Instant,
}

/// What is met on the way through an input's shards.
enum Visit<'a> {
    /// A unit of a shard that is open.
    Unit(usize, &'a ShardReader),
    /// A shard that cannot be opened, by name, and its units.
    Damaged(&'a str, &'a [usize], anyhow::Error),
}

/// A unit whose work or commit has ended; `stage` and `unit` are places in the pass.
struct Ended {
    stage: usize,
    unit: usize,
    manifest: anyhow::Result<Manifest>,
}

/// What failed without ending the run, and the first unit that it concerns.
struct UnitFailure {
    unit: usize,
    what: String,
    error: anyhow::Error,
}

/// What a per-unit stage needs beside documents; made when its first unit is due.
enum Tools {
    Judge(Box<dyn crate::behavior::judge::Judge>),
    Sketcher(stages::sketch::Sketcher),
}

impl<'a> Runner<'a> {
    /// Goes through an input's shards once, in order, and does all that any per-unit stage lacks. False: stopped by a signal.
    fn documents_pass(&self, input: usize, stages: &[&'a Stage]) -> anyhow::Result<bool> {
        let units = &self.plan.inputs[input].units;
        let mut pass = stages.iter().map(|stage| self.pass_stage(stage, units)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut failures: Vec<UnitFailure> = Vec::new();
        let poison: Vec<(String, Failed)> = pass.iter_mut().flat_map(|stage| self.leave_poison(stage, units)).collect();
        let needed: Vec<usize> =
            (0..units.len()).filter(|&unit| pass.iter().any(|stage| stage.missing[unit])).collect();
        // One stage speaks for the pass: the first that has work, as it is the slowest.
        let mut working: Vec<&mut PassStage> = pass.iter_mut().filter(|stage| stage.missing.contains(&true)).collect();
        working.iter_mut().skip(1).for_each(|stage| stage.tracker.hush());
        working.iter().rev().for_each(|stage| self.start(stage, units));
        let finished = std::thread::scope(|scope| {
            let mut commits = InFlight::new(scope);
            let visited = self.visit_shards(input, &needed, |visit| match visit {
                Visit::Unit(unit, reader) => {
                    for stage in 0..pass.len() {
                        if !pass[stage].missing[unit] {
                            continue;
                        }
                        while let Some(ended) = commits.next_due() {
                            self.settle(&pass, ended, &mut failures)?;
                        }
                        match self.run_unit(&mut pass[stage], &units[unit], reader) {
                            Ok(Verdict::Done(commit)) => {
                                let assignment = self.assignment(pass[stage].stage, &units[unit]);
                                let write = move || Ended { stage, unit, manifest: write(&assignment, commit.write) };
                                commits.begin(commit.rows, write)?;
                            }
                            Ok(Verdict::Present) => {}
                            Ok(Verdict::Stopped) => return Ok(false),
                            Err(error) => {
                                self.settle(&pass, Ended { stage, unit, manifest: Err(error) }, &mut failures)?
                            }
                        }
                    }
                    Ok(true)
                }
                Visit::Damaged(shard, of_shard, mut error) => {
                    for &unit in of_shard {
                        for stage in pass.iter().filter(|stage| stage.missing[unit]) {
                            error = self.count_failure(stage, &units[unit], error)?;
                        }
                    }
                    let unit = of_shard.first().copied().unwrap_or_default();
                    failures.push(UnitFailure { unit, what: format!("shard `{shard}`"), error });
                    Ok(true)
                }
            });
            // Also after an error: what is durable is reported.
            let settled = commits.try_for_each(|ended| self.settle(&pass, ended, &mut failures));
            visited.and_then(|finished| settled.map(|()| finished))
        })?;
        if finished && !(failures.is_empty() && poison.is_empty()) {
            // Commits end later than work: told in the order of the units, a failure does not depend on time.
            failures.sort_by_key(|failure| failure.unit);
            let failed = failures.into_iter().map(|failure| (failure.what, failure.error)).collect();
            return Err(attempts::summary(failed, poison));
        }
        for stage in pass.iter().filter(|_| finished) {
            self.finish(stage, units)?;
        }
        Ok(finished)
    }

    /// Reports a unit's end.
    ///
    /// # Errors
    /// One that is not the unit's own, so that the others cannot go on either.
    fn settle(&self, pass: &[PassStage], ended: Ended, failures: &mut Vec<UnitFailure>) -> anyhow::Result<()> {
        let stage = &pass[ended.stage];
        let unit = &self.plan.inputs[stage.stage.input].units[ended.unit];
        match ended.manifest {
            Ok(manifest) => self.reporter.emit(Event::UnitDone {
                stage: stage.stage.folder.clone(),
                unit: unit.id.clone(),
                counts: manifest.counts,
            }),
            Err(error) => {
                let error = self.count_failure(stage, unit, error)?;
                failures.push(UnitFailure { unit: ended.unit, what: format!("unit `{}`", unit.id), error });
            }
        }
        Ok(())
    }

    /// Takes units that failed too often out of a pass.
    fn leave_poison(&self, pass: &mut PassStage, units: &[Unit]) -> Vec<(String, Failed)> {
        let mut poison = Vec::new();
        for (missing, unit) in pass.missing.iter_mut().zip(units).filter(|(missing, _)| **missing) {
            if let Some(failed) = attempts::read(self.dir, pass.stage, &unit.id).filter(Failed::is_poison) {
                *missing = false;
                poison.push((unit.id.clone(), failed));
            }
        }
        poison
    }

    /// Counts a unit's failure and gives the error back, if the others can go on; else the run ends with it.
    fn count_failure(&self, pass: &PassStage, unit: &Unit, error: anyhow::Error) -> anyhow::Result<anyhow::Error> {
        let too_many = match &pass.stage.work {
            Work::Classify(classify) => {
                let progress = pass.tracker.snapshot();
                let share = classify.max_quarantined_share;
                work::check_share(&pass.stage.folder, progress.quarantined, progress.documents, share).is_err()
            }
            _ => false,
        };
        if too_many || !attempts::is_of_the_unit(&error) {
            return Err(error);
        }
        let failed = attempts::record(self.dir, pass.stage, &unit.id, &error)?;
        self.reporter.notice(format!(
            "{}: unit `{}` failed ({} of {} attempts), the others go on: {error:#}",
            pass.stage.folder,
            unit.id,
            failed.attempts,
            attempts::MOST_ATTEMPTS
        ));
        Ok(error)
    }

    fn pass_stage(&self, stage: &'a Stage, units: &'a [Unit]) -> anyhow::Result<PassStage<'a>> {
        let (mut counts, mut labels, mut missing) = (Counts::default(), LabelStatistics::default(), Vec::new());
        for (index, unit) in units.iter().enumerate() {
            let manifest = self.manifest(stage, &unit.id)?;
            if let Some(manifest) = &manifest {
                remove_journal(&self.assignment(stage, unit))?;
                counts.add(&manifest.counts);
                labels.add(manifest.labels.as_ref().unwrap_or(&LabelStatistics::default()));
            }
            missing
                .push(manifest.is_none() && self.options.task.is_none_or(|(task, tasks)| index as u64 % tasks == task));
        }
        let total = units.iter().map(|unit| unit.rows).sum();
        let tracker = Tracker::new(self.reporter, &stage.folder, total, &counts, &labels);
        Ok(PassStage { stage, tools: None, missing, tracker, started: Instant::now() })
    }

    /// A unit's manifest, if it is there and not of an earlier recipe.
    fn manifest(&self, stage: &Stage, unit: &str) -> anyhow::Result<Option<Manifest>> {
        Ok(Manifest::read(&self.dir.path(stage.manifest(unit)))?.filter(|manifest| manifest.stage_key == stage.key))
    }

    fn start(&self, pass: &PassStage, units: &[Unit]) {
        let progress = pass.tracker.snapshot();
        self.reporter.emit(Event::StageStarted {
            stage: pass.stage.folder.clone(),
            units: units.len() as u64,
            units_done: pass.missing.iter().filter(|&&missing| !missing).count() as u64,
            documents: progress.documents_total,
            documents_done: progress.documents,
        });
    }

    /// Removes the manifest of an earlier recipe before its outputs are overwritten: who returns to that recipe must not find
    /// them vouched for.
    fn remove_stale(&self, stage: &Stage, unit: &str) -> anyhow::Result<()> {
        commit::remove(&self.dir.path(stage.manifest(unit)))
    }

    fn assignment(&self, stage: &'a Stage, unit: &'a Unit) -> Assignment<'a> {
        let shard = &self.plan.inputs[stage.input].shards[unit.shard];
        Assignment { plan: self.plan, stage, unit, shard, dir: self.dir }
    }

    /// Runs one unit of one stage, all but its commit.
    fn run_unit(&self, pass: &mut PassStage<'a>, unit: &'a Unit, reader: &ShardReader) -> anyhow::Result<Verdict<'a>> {
        let stage = pass.stage;
        if self.manifest(stage, &unit.id)?.is_some() {
            // Another task was faster.
            return Ok(Verdict::Present);
        }
        self.remove_stale(stage, &unit.id)?;
        let max_quarantined_share = match &stage.work {
            Work::Classify(classify) => classify.max_quarantined_share,
            _ => 1.0,
        };
        if pass.tools.is_none() {
            pass.tools = match &stage.work {
                Work::Classify(classify) => {
                    Some(Tools::Judge(judges::make(classify, self.plan, self.hub, self.options.device)?))
                }
                Work::Sketch(curate) => Some(Tools::Sketcher(stages::sketch::Sketcher::new(curate)?)),
                Work::Curate(_)
                | Work::Rewrite(_)
                | Work::Arithmetic(_)
                | Work::Prime(_)
                | Work::Base(_)
                | Work::Pretrain(_)
                | Work::Ppo(_)
                | Work::Report(_) => None,
            };
        }
        let assignment = self.assignment(stage, unit);
        let cx = WorkContext { assignment, stop: self.stop, progress: &pass.tracker, max_quarantined_share };
        attempts::fail_point(&unit.id)?;
        let verdict = match &mut pass.tools {
            Some(Tools::Judge(judge)) => stages::classify::run_unit(&cx, reader, judge.as_mut()),
            Some(Tools::Sketcher(sketcher)) => stages::sketch::run_unit(&cx, reader, sketcher),
            None => return Ok(Verdict::Present),
        };
        verdict.with_context(|| failed(&assignment))
    }

    /// Ends a stage's pass. Whether too much is quarantined is asked of the whole, also when nothing was left to do: a run
    /// that ended for that reason ends so again. A task sees a part, which proves nothing.
    fn finish(&self, pass: &PassStage, units: &[Unit]) -> anyhow::Result<()> {
        let mut counts = Counts::default();
        for unit in units {
            if let Some(manifest) = self.manifest(pass.stage, &unit.id)? {
                counts.add(&manifest.counts);
            }
        }
        if let (Work::Classify(classify), None) = (&pass.stage.work, self.options.task) {
            work::check_share(&pass.stage.folder, counts.quarantined, counts.rows_in, classify.max_quarantined_share)?;
        }
        if !pass.missing.contains(&true) {
            return Ok(());
        }
        self.reporter.emit(Event::StageDone {
            stage: pass.stage.folder.clone(),
            seconds: pass.started.elapsed().as_secs_f64(),
            counts,
        });
        Ok(())
    }

    /// Opens the shards of the given units in order, one after the other, with the next ones being downloaded meanwhile.
    /// `visit(unit index, reader)` returns whether to go on.
    pub fn over_shards(
        &self,
        input: usize,
        units: &[usize],
        mut visit: impl FnMut(usize, &ShardReader) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        self.visit_shards(input, units, |what| match what {
            Visit::Unit(unit, reader) => visit(unit, reader),
            Visit::Damaged(_, _, error) => Err(error),
        })
    }

    /// The same, where a shard that cannot be opened need not be the end.
    fn visit_shards(
        &self,
        input: usize,
        units: &[usize],
        mut visit: impl FnMut(Visit) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        let input = &self.plan.inputs[input];
        let mut by_shard: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &unit in units {
            by_shard.entry(input.units[unit].shard).or_default().push(unit);
        }
        let sources = by_shard
            .keys()
            .map(|&shard| self.source(&input.shards[shard].location))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let prefetch = Prefetch { count: input.fetch.prefetch_shards, bytes: input.fetch.prefetch_bytes.0 };
        let reporter = Arc::clone(self.reporter);
        let names: Vec<String> = by_shard.keys().map(|&shard| input.shards[shard].name.clone()).collect();
        let progress = move |progress: ShardProgress| {
            reporter.emit(Event::Fetching {
                shard: names[progress.index].clone(),
                bytes: progress.bytes,
                total_bytes: progress.total,
            })
        };
        let store = ShardStore::new(
            sources,
            prefetch,
            input.fetch.keep_shards,
            self.hub,
            &self.dir.path("fetch"),
            Arc::new(progress),
        )?;
        let columns = ColumnMap::from(input.columns());
        for (place, (&index, units)) in by_shard.iter().enumerate() {
            if self.stop.requested() {
                return Ok(false);
            }
            let shard = &input.shards[index];
            let guard = store.acquire(place).with_context(|| format!("cannot fetch shard `{}`", shard.name))?;
            self.check_unchanged(guard.path(), shard)?;
            match ShardReader::open(guard.path(), crate::plan::format_of(&shard.name)?, &columns) {
                Ok(reader) => {
                    for &unit in units {
                        if self.stop.requested() || !visit(Visit::Unit(unit, &reader))? {
                            return Ok(false);
                        }
                    }
                }
                Err(error) => {
                    if !visit(Visit::Damaged(&shard.name, units, error))? {
                        return Ok(false);
                    }
                }
            }
            guard.release();
        }
        Ok(true)
    }

    /// A local shard that was changed since it was planned would give labels for other documents.
    fn check_unchanged(&self, path: &Path, shard: &Shard) -> anyhow::Result<()> {
        if !matches!(shard.location, Location::Local(_)) || self.unchanged.borrow().contains(path) {
            return Ok(());
        }
        let changed = |exit, how: String| {
            Failure::new(exit, format!("shard `{}` {how}", path.display()))
                .hint("restore it, or plan anew with `--replan`")
        };
        let bytes = match std::fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) => return Err(changed(Exit::Usage, format!("cannot be read any more: {error}")).into()),
        };
        if bytes != shard.bytes {
            let how = format!("has {bytes} bytes, but had {} when it was planned", shard.bytes);
            return Err(changed(Exit::BadData, how).into());
        }
        if crate::plan::hash_file(path)?.1 != shard.sha256 {
            return Err(changed(Exit::BadData, "has other content than when it was planned".into()).into());
        }
        self.unchanged.borrow_mut().insert(path.to_owned());
        Ok(())
    }

    fn source(&self, location: &Location) -> anyhow::Result<ShardSource> {
        Ok(match location {
            Location::Local(path) => ShardSource::Local(path.clone()),
            Location::Remote(file) => ShardSource::Remote(file.clone()),
            Location::Sample => {
                let path = self.dir.path("fetch").join(crate::data::sample::NAME);
                commit::write_atomic(&path, crate::data::sample::DOCUMENTS)?;
                ShardSource::Local(path)
            }
        })
    }

    /// Runs a stage that is one unit, if it is not done; false: stopped by a signal.
    fn whole_stage(&self, stage: &Stage) -> anyhow::Result<bool> {
        if self.manifest(stage, "all")?.is_some() {
            return Ok(true);
        }
        if self.stop.requested() {
            return Ok(false);
        }
        self.remove_stale(stage, "all")?;
        self.reporter.emit(Event::StageStarted {
            stage: stage.folder.clone(),
            units: 1,
            units_done: 0,
            documents: None,
            documents_done: 0,
        });
        let started = Instant::now();
        let manifest = match &stage.work {
            Work::Curate(curate) => match stages::curate::run(self, stage, curate)? {
                Some(manifest) => manifest,
                None => return Ok(false),
            },
            Work::Rewrite(rewrite) => match stages::rewrite::run(self, stage, rewrite)? {
                Some(manifest) => manifest,
                None => return Ok(false),
            },
            Work::Arithmetic(arithmetic) => match stages::arithmetic::run(self, stage, arithmetic)? {
                Some(manifest) => manifest,
                None => return Ok(false),
            },
            Work::Prime(prime) => match stages::prime::run(self, stage, prime)? {
                Some(manifest) => manifest,
                None => return Ok(false),
            },
            Work::Base(pretrain) | Work::Pretrain(pretrain) => match stages::pretrain::run(self, stage, pretrain)? {
                Some(manifest) => manifest,
                None => return Ok(false),
            },
            Work::Ppo(ppo) => match stages::ppo::run(self, stage, ppo)? {
                Some(manifest) => manifest,
                None => return Ok(false),
            },
            Work::Report(report) => stages::report::run(self, stage, report)?,
            Work::Classify(_) | Work::Sketch(_) => return Ok(true),
        };
        manifest.create(&self.dir.path(stage.manifest("all")))?;
        match &stage.work {
            Work::Rewrite(_) => self.dir.remove(stages::rewrite::journal_of(stage))?,
            Work::Prime(_) => self.dir.remove(stages::prime::journal_of(stage))?,
            _ => {}
        }
        self.reporter.emit(Event::StageDone {
            stage: stage.folder.clone(),
            seconds: started.elapsed().as_secs_f64(),
            counts: manifest.counts,
        });
        Ok(true)
    }
}

/// Puts a unit's outputs in their places, and then its manifest, which makes them count.
fn write(to: &Assignment, outputs: impl FnOnce() -> anyhow::Result<UnitWork>) -> anyhow::Result<Manifest> {
    let manifest = to.manifest(outputs().with_context(|| failed(to))?);
    manifest.create(&to.dir.path(to.stage.manifest(&to.unit.id)))?;
    remove_journal(to)?;
    Ok(manifest)
}

fn failed(assignment: &Assignment) -> String {
    let Assignment { stage, unit, shard, .. } = assignment;
    format!("{} of `{}`, rows from {}, failed", stage.folder, shard.name, unit.first_row)
}

/// Removes what made a unit resumable, now that it is done.
fn remove_journal(of: &Assignment) -> anyhow::Result<()> {
    match &of.stage.work {
        Work::Classify(_) => of.dir.remove(stages::classify::journal_of(of.stage, &of.unit.id)),
        _ => Ok(()),
    }
}
