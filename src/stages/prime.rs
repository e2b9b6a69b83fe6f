//! `prime`: Countdown priming traces, the same puzzles under every condition, each past every gate before it is written.
//!
//! It is one unit: a puzzle that one condition cannot use is used by none, so that no condition can be made by itself.
//! Traces are made in chunks and streamed to the files of all conditions at once, each from its seed and index alone: memory
//! does not grow with their number, but for the numbers of the sets that no training trace may use. Where a language model
//! writes, its replies are journaled.

mod authored;
mod card;
mod puzzles;
pub(super) mod rows;
mod supply;
mod writing;

use crate::config::{Config, Prime, Recipe};
use crate::countdown::condition::Strata;
use crate::countdown::draw::{Draw, PuzzleSpec, Source};
use crate::countdown::fairness::Fairness;
use crate::countdown::generate::{CountTokens, Generator, TraceSpec};
use crate::countdown::puzzle::{Multiset, Split, Splits, mix};
use crate::countdown::query::QueryTemplate;
use crate::data::token_count::TokenCounter;
use crate::error::{Exit, Failure};
use crate::plan::Stage;
use crate::run::journal::Journal;
use crate::run::manifest::{Counts, LabelStatistics, Manifest};
use crate::run::work::Tracker;
use crate::run::{Runner, generators};
use crate::stages::curate::write_text;
use authored::{Answered, AuthorReport, Desk};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use supply::{PuzzleCounts, Supply};
use writing::Work;

/// The version of the traces. Raise it when equal settings give other bytes.
pub const FORMAT: u32 = 2;

/// The share of all number multisets held for testing, and for RL prompts; the rest is for priming.
const TEST_SHARE: f64 = 0.1;
const RL_SHARE: f64 = 0.4;

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

    /// What it is called in reports.
    const fn label(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Test => "test",
            Part::RlTrain => "verl-train",
            Part::RlTest => "verl-test",
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
        let rl = prime.rl.as_ref();
        let wanted = match self {
            Part::Train => prime.train,
            Part::Test => prime.test,
            Part::RlTrain => rl.map_or(0, |rl| rl.train),
            Part::RlTest => rl.map_or(0, |rl| rl.test),
        };
        limit.map_or(wanted, |limit| wanted.min(limit))
    }
}

/// How many traces a run makes, of all conditions, and how many RL prompts.
pub fn rows(prime: &Prime, limit: Option<u64>) -> (u64, u64) {
    let each = Part::Train.wanted(prime, limit).saturating_add(Part::Test.wanted(prime, limit));
    let prompts = Part::RlTrain.wanted(prime, limit).saturating_add(Part::RlTest.wanted(prime, limit));
    (each.saturating_mul(prime.conditions.len() as u64), prompts)
}

/// What must be alike between conditions, measured, and where everything came from: `fairness.json`.
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
    /// Rows of the recipe's puzzle files, by what they were looked at for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    puzzles: BTreeMap<&'static str, PuzzleCounts>,
    /// The model that wrote the traces, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<AuthorReport>,
    /// By condition and split.
    conditions: BTreeMap<&'static str, BTreeMap<&'static str, Fairness>>,
}

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
            puzzles::exclude(Path::new(file), &mut excluded)
                .map_err(|failure| (format!("prime.exclude[{index}]"), failure))?;
        }
        for (index, file) in prime.puzzles.iter().enumerate() {
            puzzles::PuzzleFile::open(Path::new(file), true)
                .and_then(|mut file| file.next_row())
                .map_err(|failure| (format!("prime.puzzles[{index}]"), failure))?;
        }
        Ok(Self { query, count_tokens, excluded })
    }

    fn draw(&self, prime: &Prime, seed: u64, part: Part) -> Result<Draw, Failure> {
        let splits = splits(seed);
        let drawn = || Source::Drawn(PuzzleSpec::from(prime));
        let source = if prime.puzzles.is_empty() { drawn() } else { Source::Given };
        Draw::new(source, self.excluded.clone(), Some((splits, part.split())), seed_of(seed, part))
    }

    fn supply<'p>(&self, prime: &'p Prime, seed: u64, part: Part) -> Result<Supply<'p>, Failure> {
        Ok(Supply::new(prime, self.draw(prime, seed, part)?))
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
                habits: Some(prime.habits.over(condition)),
                ..TraceSpec::new(condition, seed_of(seed, part))
            };
            Generator::new(spec, draw.clone(), self.query.clone(), self.count_tokens.clone())
        });
        generators.collect()
    }

    /// In tokens if there is a tokenizer, else in characters.
    fn length(&self, completion: &str) -> usize {
        self.count_tokens.as_ref().map_or_else(|| completion.chars().count(), |count| count(completion))
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
        if part != Part::RlTrain || prime.rl.is_some() {
            tools.generators(prime, config.seed, part).map_err(|failure| located("prime", failure))?;
        }
    }
    Ok(())
}

/// The journal of a model's replies, relative to the run folder. It is of no use once the stage has its manifest, and not before.
pub fn journal_of(stage: &Stage) -> String {
    format!("{}/{JOURNAL}", stage.folder)
}

const JOURNAL: &str = "journal.jsonl";

/// Writes everything. None: stopped by a signal.
pub fn run(runner: &Runner, stage: &Stage, prime: &Prime) -> anyhow::Result<Option<Manifest>> {
    let (seed, limit) = (runner.plan.seed, runner.plan.limit);
    let tools = Tools::load(prime).map_err(|(_, failure)| failure)?;
    // What an earlier recipe left must not be read along with this one's: it may have had other conditions.
    remove_leftovers(runner, stage)?;
    let (traces, prompts) = rows(prime, limit);
    let tracker = Tracker::new(
        runner.reporter,
        &stage.folder,
        Some(traces + prompts),
        &Counts::default(),
        &LabelStatistics::default(),
    );
    let stops = || runner.stop.requested();
    let desk = match &prime.author {
        None => None,
        Some(author) => {
            let generator = generators::make(author.lm.as_ref(), author.endpoint.as_ref(), runner)?;
            let header = format!("{} {}", stage.key, serde_json::to_string(generator.identity())?);
            let (journal, answered, _) = Journal::open::<Answered>(&runner.dir.path(journal_of(stage)), &header)?;
            Some(Desk::new((prime, author), generator, (journal, answered), &stops))
        }
    };
    let report = FairnessReport {
        length_unit: if tools.count_tokens.is_some() { "tokens" } else { "characters" },
        same_puzzles: true,
        overlap: BTreeMap::from([("test", 0), ("excluded", 0)]),
        dropped: BTreeMap::new(),
        puzzles: BTreeMap::new(),
        author: None,
        conditions: BTreeMap::new(),
    };
    let mut work = Work::new(runner, stage, prime, &tools, &tracker, desk, report)?;
    if prime.rl.is_some() {
        for part in [Part::RlTest, Part::RlTrain] {
            if !work.write_prompts(part, seed)? {
                return Ok(None);
            }
        }
    }
    for part in [Part::Test, Part::Train] {
        if !work.write_traces(part, seed)? {
            return Ok(None);
        }
    }
    let (mut outputs, counts, report) = work.finish()?;
    let json = serde_json::to_string_pretty(&report)? + "\n";
    outputs.push(write_text(runner, stage, "fairness.json", &json)?);
    outputs.push(write_text(runner, stage, "README.md", &card::render(runner.plan, prime, &report)?)?);
    let input = if prime.puzzles.is_empty() { "drawn puzzles".to_owned() } else { prime.puzzles.join(", ") };
    Ok(Some(Manifest {
        plan_id: runner.plan.plan_id.clone(),
        stage: stage.work.name().to_owned(),
        stage_key: stage.key.clone(),
        unit: "all".to_owned(),
        input,
        input_sha256: String::new(),
        outputs,
        counts,
        labels: None,
        judge: None,
        corpora: BTreeMap::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}

/// Empties the stage's folder, but for the journal.
fn remove_leftovers(runner: &Runner, stage: &Stage) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(runner.dir.path(&stage.folder)) else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name();
        if name != JOURNAL {
            runner.dir.remove(Path::new(&stage.folder).join(name))?;
        }
    }
    Ok(())
}
