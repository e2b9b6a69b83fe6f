//! Traces as rows: planned, told, checked at every gate, each from its seed and index alone.

use super::condition::{Answers, Condition, Habits, Strata, Stratum};
use super::derivation::Derivation;
use super::draw::Draw;
use super::gates::{self, GateFault};
use super::phrases::{Bank, Diversity, PhraseShare};
use super::planner;
use super::puzzle::{Puzzle, mix};
use super::query::QueryTemplate;
use super::realiser::{Persona, Told, tell_last_segment, tell_prefix};
use super::scramble::scramble;
use super::trace::Trace;
use super::verdict::Verdict;
use super::wrong::wrong_twin;
use super::{Stream, stream};
use crate::error::{Exit, Failure};
use rand::Rng;
use std::sync::Arc;

/// What a set of traces is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSpec {
    pub condition: Condition,
    pub answers: Answers,
    pub strata: Strata,
    /// Share of wrong answers if `answers` is mixed.
    pub wrong_share: f64,
    pub diversity: Diversity,
    pub phrases: PhraseShare,
    /// In place of the condition's own.
    pub habits: Option<Habits>,
    pub seed: u64,
}

impl TraceSpec {
    pub fn new(condition: Condition, seed: u64) -> Self {
        Self {
            condition,
            answers: Answers::Correct,
            strata: Strata::DEFAULT,
            wrong_share: 0.5,
            diversity: Diversity::Full,
            phrases: PhraseShare::All,
            habits: None,
            seed,
        }
    }
}

/// Counts the tokens of a text under the recipe's tokenizer.
pub type CountTokens = Arc<dyn Fn(&str) -> usize + Send + Sync>;

/// One row of a priming set.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceRecord {
    pub query: String,
    /// From behind the query's `<think>` to `</answer>`.
    pub completion: String,
    pub puzzle: Puzzle,
    pub condition: Condition,
    pub verdict: Verdict,
    /// `None` for a correct answer.
    pub stratum: Option<Stratum>,
    /// By [`crate::behavior::Behavior::index`], read from the text.
    pub counts: [u32; 4],
    /// Equal for twins, and for the traces of other conditions on the same puzzle.
    pub pair_id: u64,
    /// The phrases used, as section × 1000 + line of the bank.
    pub phrases: Vec<u16>,
}

/// Why there is no trace for an index.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TraceFault {
    #[error("the puzzle has no solution in natural numbers, is excluded, or is of another split")]
    Puzzle,
    #[error("a search in turn does not come by the solution")]
    Turn,
    #[error("no wrong twin fits the puzzle")]
    Twin,
    #[error("no number of dots has exactly as many tokens as the thought")]
    Dots,
    #[error(transparent)]
    Gate(#[from] GateFault),
}

impl TraceFault {
    /// A name for counting.
    pub const fn name(&self) -> &'static str {
        match self {
            TraceFault::Puzzle => "puzzle",
            TraceFault::Turn => "turn",
            TraceFault::Twin => "twin",
            TraceFault::Dots => "dots",
            TraceFault::Gate(fault) => fault.name(),
        }
    }
}

/// Makes the traces of a spec, in any order and from any number of threads.
#[derive(Clone)]
pub struct Generator {
    spec: TraceSpec,
    draw: Draw,
    query: QueryTemplate,
    bank: Bank,
    habits: Habits,
    failure_odds: f64,
    count_tokens: Option<CountTokens>,
}

/// A trace in words, before its condition changes the thought.
struct Draft {
    thought: String,
    phrases: Vec<u16>,
    answer: String,
    trace: Trace,
    stratum: Option<Stratum>,
    /// How much of the thought twins share.
    shared: usize,
    n_shared_phrases: usize,
}

impl Generator {
    pub fn new(
        spec: TraceSpec,
        draw: Draw,
        query: QueryTemplate,
        count_tokens: Option<CountTokens>,
    ) -> Result<Self, Failure> {
        let fault = |what: &str, hint: &str| Err(Failure::new(Exit::Usage, what).hint(hint));
        if spec.condition == Condition::Dots && count_tokens.is_none() {
            return fault("`dots` needs a tokenizer to match lengths", "name the recipe's tokenizer");
        }
        let weights = spec.strata.weights();
        if weights.iter().any(|weight| !weight.is_finite() || *weight < 0.0) || weights.iter().sum::<f64>() <= 0.0 {
            return fault("the weights of `strata` do not add up to anything", "give at least one a positive weight");
        }
        let habits = spec.habits.unwrap_or(spec.condition.habits());
        let shares = [habits.checks_misses, habits.checks_hits, habits.subgoals, habits.back_steps, habits.keeps_steps];
        if !shares.iter().chain([&habits.abandons, &spec.wrong_share]).all(|share| (0.0..=1.0).contains(share)) {
            return fault("a share of the habits is not within 0 and 1", "shares go from 0 to 1");
        }
        let Some(failure_odds) = failure_odds(habits.failed_tries, habits.max_failed_tries) else {
            return fault("`failed-tries` cannot be reached on average", "it lies between 0 and `max-failed-tries`");
        };
        let bank = Bank::built_in(spec.diversity, spec.phrases)?;
        Ok(Self { spec, draw, query, bank, habits, failure_odds, count_tokens })
    }

    /// The trace of an index, on the puzzle drawn for it.
    pub fn trace(&self, index: u64) -> Result<TraceRecord, TraceFault> {
        let (puzzle, solution) = self.draw.puzzle(index).ok_or(TraceFault::Puzzle)?;
        self.trace_on(index, &puzzle, &solution)
    }

    /// The trace of an index on a puzzle that was drawn or given, which ends with this solution.
    pub fn trace_on(&self, index: u64, puzzle: &Puzzle, solution: &Derivation) -> Result<TraceRecord, TraceFault> {
        let mut rng = stream(self.spec.seed, index, Stream::Answer);
        let is_wrong = match self.spec.answers {
            Answers::Correct => false,
            Answers::Wrong => true,
            Answers::Mixed => rng.random_bool(self.spec.wrong_share),
        };
        let correct = self.correct(index, puzzle, solution)?;
        if is_wrong {
            let stratum = self.stratum(rng.random());
            self.finish(self.wrong(&correct, stratum, index)?, index)
        } else {
            self.finish(correct, index)
        }
    }

    /// The correct trace of an index and its wrong twin.
    pub fn pair(&self, index: u64) -> Result<(TraceRecord, TraceRecord), TraceFault> {
        let mut rng = stream(self.spec.seed, index, Stream::Answer);
        if self.spec.answers == Answers::Mixed {
            // The same draws as `trace` makes.
            rng.random_bool(self.spec.wrong_share);
        }
        let stratum = self.stratum(rng.random());
        let (puzzle, solution) = self.draw.puzzle(index).ok_or(TraceFault::Puzzle)?;
        let correct = self.correct(index, &puzzle, &solution)?;
        let wrong = self.wrong(&correct, stratum, index)?;
        Ok((self.finish(correct, index)?, self.finish(wrong, index)?))
    }

    /// `point` in [0, 1) picks a stratum by the weights.
    fn stratum(&self, point: f64) -> Stratum {
        let weights = self.spec.strata.weights();
        let mut point = point * weights.iter().sum::<f64>();
        let mut strata = Stratum::ALL.into_iter().zip(weights).filter(|(_, weight)| 0.0 < *weight);
        let found = strata.find(|(_, weight)| {
            point -= weight;
            point < 0.0
        });
        found.map_or(Stratum::RuleBreak, |(stratum, _)| stratum)
    }

    fn correct(&self, index: u64, puzzle: &Puzzle, solution: &Derivation) -> Result<Draft, TraceFault> {
        let mut rng = stream(self.spec.seed, index, Stream::Plan);
        let trace = planner::plan(puzzle, solution, self.draw.operators(), &self.habits, self.failure_odds, &mut rng);
        let trace = trace.ok_or(TraceFault::Turn)?;
        let draft = self.told(trace, None, index, 0);
        self.check(&draft)?;
        Ok(draft)
    }

    /// The first candidate that passes every gate and is about as long as its twin.
    fn wrong(&self, correct: &Draft, stratum: Stratum, index: u64) -> Result<Draft, TraceFault> {
        const MAX_CANDIDATES: u64 = 400;
        let mut rng = stream(self.spec.seed, index, Stream::Twin);
        let means = planner::Means::new(self.draw.operators(), &self.habits);
        let mut fault = TraceFault::Twin;
        for attempt in 1..=MAX_CANDIDATES {
            let Some(trace) = wrong_twin(&correct.trace, stratum, means, &mut rng) else { continue };
            let wrong = self.told(trace, Some((stratum, correct)), index, attempt);
            match self.check_twins(correct, &wrong).and_then(|()| self.check(&wrong)) {
                Ok(()) => return Ok(wrong),
                Err(found) => fault = found.into(),
            }
        }
        Err(fault)
    }

    /// Lengths as the condition shows them: of an empty thought, the answers'.
    fn check_twins(&self, correct: &Draft, wrong: &Draft) -> Result<(), GateFault> {
        if self.spec.condition == Condition::Empty {
            return gates::check_twins(&complete("", &correct.answer), &complete("", &wrong.answer), 0);
        }
        let completion = |draft: &Draft| complete(&draft.thought, &draft.answer);
        gates::check_twins(&completion(correct), &completion(wrong), correct.shared)
    }

    /// Puts a trace into words: its last segment by `attempt`, what comes before it as its twin has it, if it has one.
    fn told(&self, trace: Trace, twin: Option<(Stratum, &Draft)>, index: u64, attempt: u64) -> Draft {
        let mut rng = stream(self.spec.seed, index, Stream::Words);
        let persona = Persona::draw(self.spec.diversity, &mut rng);
        let mut told = Told { text: String::with_capacity(1024), phrases: Vec::with_capacity(32) };
        match twin {
            Some((_, twin)) => {
                told.text.push_str(&twin.thought[..twin.shared]);
                told.phrases.extend(&twin.phrases[..twin.n_shared_phrases]);
            }
            None => tell_prefix(&mut told, &trace, &self.bank, &persona, &mut rng),
        }
        let (shared, n_shared_phrases) = (told.text.len(), told.phrases.len());
        // Where the favourite phrases are all too long or too short for the twin, others must do.
        let persona = if attempt < 40 { persona } else { persona.with_favourites(attempt / 8) };
        let mut rng = stream(mix(self.spec.seed ^ attempt), index, Stream::LastWords);
        tell_last_segment(&mut told, &trace, &self.bank, &persona, &mut rng);
        let answer = trace.answer().map(|answer: &Derivation| answer.expression(persona.answer_notation()));
        Draft {
            thought: told.text,
            phrases: told.phrases,
            answer: answer.unwrap_or_default(),
            trace,
            stratum: twin.map(|(stratum, _)| stratum),
            shared,
            n_shared_phrases,
        }
    }

    /// Every gate for the trace in words, whatever its condition makes of it afterwards.
    fn check(&self, draft: &Draft) -> Result<(), GateFault> {
        let n_tries = draft.trace.tries().count() as u32;
        gates::check_thought(&draft.trace.puzzle, &draft.thought, draft.stratum, draft.trace.counts(), n_tries)?;
        Ok(())
    }

    fn finish(&self, draft: Draft, index: u64) -> Result<TraceRecord, TraceFault> {
        let puzzle = draft.trace.puzzle;
        let planned = draft.trace.counts();
        let thought = match self.spec.condition {
            Condition::Empty => String::new(),
            Condition::Dots => dots(&draft.thought, self.count_tokens.as_ref().ok_or(TraceFault::Dots)?)?,
            Condition::Scrambled => scramble(&draft.thought, &mut stream(self.spec.seed, index, Stream::Scramble)),
            _ => draft.thought.clone(),
        };
        let counts = match self.spec.condition {
            Condition::Empty | Condition::Dots => [0; 4],
            Condition::Scrambled => {
                let n_false = gates::expected_false(draft.stratum);
                gates::check_scrambled(&puzzle, &thought, &draft.thought, n_false)?.counts
            }
            _ => planned,
        };
        let query = self.query.fill(&puzzle);
        let completion = complete(&thought, &draft.answer);
        let verdict = gates::check_answer(&puzzle, &query, &completion, gates::expected_verdict(draft.stratum))?;
        Ok(TraceRecord {
            query,
            completion,
            puzzle,
            condition: self.spec.condition,
            verdict,
            stratum: draft.stratum,
            counts,
            pair_id: pair_id(self.spec.seed, index),
            phrases: draft.phrases,
        })
    }
}

/// As many tokens of dots as the thought has tokens.
pub(super) fn dots(thought: &str, count: &CountTokens) -> Result<String, TraceFault> {
    let wanted = count(thought);
    let mut n_dots = wanted;
    // Where a tokenizer joins dots, more of them are needed than tokens; each round scales by what is missing.
    for _ in 0..16 {
        let dots = " .".repeat(n_dots);
        let dots = dots.trim_start();
        let found = count(dots);
        if found == wanted {
            return Ok(dots.to_owned());
        }
        let scaled = if found == 0 { n_dots + 1 } else { (n_dots * wanted).div_ceil(found) };
        n_dots = match scaled == n_dots {
            true if found < wanted => n_dots + 1,
            true => n_dots.saturating_sub(1),
            false => scaled,
        };
    }
    Err(TraceFault::Dots)
}

/// What ties the traces of one puzzle together, by seed and index.
pub fn pair_id(seed: u64, index: u64) -> u64 {
    mix(mix(seed) ^ index)
}

/// A completion from its parts. The thought stands between blanks so that it never joins a tag; without one, a blank stays.
pub fn complete(thought: &str, answer: &str) -> String {
    let gap = if thought.is_empty() { "" } else { " " };
    [" ", thought, gap, "</think>\n<answer> ", answer, " </answer>"].concat()
}

/// The odds of one more failed try for a mean of `mean`, at most `max` of them. `None` if there are none.
fn failure_odds(mean: f64, max: u8) -> Option<f64> {
    // The mean of a truncated geometric distribution is p + p² + … + pᵐᵃˣ.
    let mean_of = |odds: f64| (1..=i32::from(max)).map(|n| odds.powi(n)).sum::<f64>();
    if !(0.0..=f64::from(max)).contains(&mean) {
        return None;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if mean_of(middle) < mean { low = middle } else { high = middle }
    }
    Some(0.5 * (low + high)).map(|odds| if mean == 0.0 { 0.0 } else { odds })
}

#[cfg(test)]
mod tests;
