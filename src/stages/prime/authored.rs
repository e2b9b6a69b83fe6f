//! Traces by a language model: each condition asked for each puzzle, every reply judged by the same verdict and counter.
//!
//! Replies are what costs: each batch of them is journaled as it comes, and a run that was killed asks only for the rest. A
//! reply's seed comes from its puzzle, condition and attempt, so that the files do not depend on batches or kills.

use super::supply::Supplied;
use crate::config::{Author, Prime};
use crate::countdown::author::{accept, ask, derive};
use crate::countdown::condition::Condition;
use crate::countdown::generate::{CountTokens, TraceFault, TraceRecord, pair_id};
use crate::countdown::puzzle::{Puzzle, mix};
use crate::countdown::query::QueryTemplate;
use crate::generation::{GeneratorIdentity, Prompt, Sampling, TextGenerator};
use crate::lm::Message;
use crate::run::journal::Journal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A later attempt is drawn at least at this temperature: a greedy reply would come out the same again.
const RETRY_TEMPERATURE: f32 = 0.7;

/// What was asked: part of the data, puzzle, condition, attempt.
type Key = (String, u64, Condition, u32);

/// A reply, or why there is none: a line of the journal holds a batch of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answered {
    part: String,
    index: u64,
    condition: Condition,
    attempt: u32,
    reply: Result<Written, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Written {
    text: String,
    prompt_tokens: u64,
    reply_tokens: u64,
}

/// A reply that no trace was made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rejected {
    pub puzzle: Puzzle,
    pub condition: Condition,
    pub split: &'static str,
    pub attempt: u32,
    /// None: the model did not answer.
    pub reply: Option<String>,
    /// One of [`crate::countdown::author::ReplyFault::name`], or `unanswered`.
    pub reason: &'static str,
    pub detail: String,
}

/// What the author did: part of `fairness.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct AuthorReport {
    pub author: GeneratorIdentity,
    pub replies: u64,
    pub prompt_tokens: u64,
    pub reply_tokens: u64,
    /// By condition: how many replies passed, and how many did not, by reason.
    pub passed: BTreeMap<&'static str, u64>,
    pub rejected: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
}

/// The traces of one puzzle in the order of the conditions, or why each is missing.
pub(super) type Outcome = Result<Vec<TraceRecord>, Vec<&'static str>>;

/// The author at work.
pub(super) struct Desk<'a> {
    prime: &'a Prime,
    author: &'a Author,
    generator: Box<dyn TextGenerator>,
    journal: Journal,
    known: BTreeMap<Key, Result<Written, String>>,
    stops: &'a dyn Fn() -> bool,
    pub(super) report: AuthorReport,
}

/// What traces of one part of the data share.
pub(super) struct Assignment<'a> {
    pub split: &'static str,
    pub seed: u64,
    pub query: &'a QueryTemplate,
    pub count_tokens: Option<&'a CountTokens>,
}

impl<'a> Desk<'a> {
    /// `answered` is what the journal holds; `stops` says whether to stop between two batches.
    pub(super) fn new(
        (prime, author): (&'a Prime, &'a Author),
        generator: Box<dyn TextGenerator>,
        (journal, answered): (Journal, Vec<Answered>),
        stops: &'a dyn Fn() -> bool,
    ) -> Self {
        let report = AuthorReport {
            author: generator.identity().clone(),
            replies: 0,
            prompt_tokens: 0,
            reply_tokens: 0,
            passed: BTreeMap::new(),
            rejected: BTreeMap::new(),
        };
        let known = answered.into_iter().map(|one| ((one.part, one.index, one.condition, one.attempt), one.reply));
        Self { prime, author, generator, journal, known: known.collect(), stops, report }
    }

    pub(super) fn batch_size(&self) -> u64 {
        self.generator.batch_size().max(1) as u64
    }

    /// The traces of some puzzles, and the replies that were not used. None: stopped.
    ///
    /// A puzzle that fails under one condition is not asked for under the next: all conditions hold the same puzzles.
    pub(super) fn write(
        &mut self,
        assignment: &Assignment<'_>,
        puzzles: &[Supplied],
    ) -> anyhow::Result<Option<(Vec<Outcome>, Vec<Rejected>)>> {
        let mut made: Vec<BTreeMap<Condition, TraceRecord>> = vec![BTreeMap::new(); puzzles.len()];
        let mut failed: Vec<Option<(Condition, &'static str)>> = vec![None; puzzles.len()];
        let mut rejected = Vec::new();
        let conditions = &self.prime.conditions;
        // What others are made of comes first.
        let first = conditions.iter().find(|one| **one == Condition::AllStrategies);
        let others = conditions.iter().filter(|one| **one != Condition::AllStrategies);
        for &condition in first.into_iter().chain(others) {
            for attempt in 0..self.author.attempts {
                let open: Vec<usize> = (0..puzzles.len())
                    .filter(|&one| failed[one].is_none() && !made[one].contains_key(&condition))
                    .collect();
                let prompts: Vec<(Key, Prompt)> =
                    open.iter().filter_map(|&one| prompt(assignment, condition, &puzzles[one], attempt)).collect();
                if prompts.is_empty() {
                    break;
                }
                let Some(replies) = self.ask(prompts, attempt)? else { return Ok(None) };
                for (one, reply) in open.into_iter().zip(replies) {
                    match self.judge(assignment, condition, &puzzles[one], attempt, reply) {
                        Ok(trace) => _ = made[one].insert(condition, trace),
                        Err(fault) => rejected.push(*fault),
                    }
                }
            }
            for one in 0..puzzles.len() {
                if failed[one].is_some() || made[one].contains_key(&condition) {
                    continue;
                }
                match self.derived(assignment, condition, &made[one], puzzles[one].index) {
                    Some(Ok(trace)) => _ = made[one].insert(condition, trace),
                    Some(Err(fault)) => failed[one] = Some((condition, fault.name())),
                    None => failed[one] = Some((condition, "no-reply-passed")),
                }
            }
        }
        let outcomes = made.into_iter().zip(failed).map(|(mut made, failed)| match failed {
            None => Ok(conditions.iter().filter_map(|condition| made.remove(condition)).collect()),
            Some((at, reason)) => {
                Err(conditions.iter().map(|&condition| if condition == at { reason } else { "unpaired" }).collect())
            }
        });
        Ok(Some((outcomes.collect(), rejected)))
    }

    /// The replies to some prompts, in order; those of the journal are not asked for again. None: stopped.
    fn ask(
        &mut self,
        prompts: Vec<(Key, Prompt)>,
        attempt: u32,
    ) -> anyhow::Result<Option<Vec<Result<Written, String>>>> {
        let keys: Vec<Key> = prompts.iter().map(|(key, _)| key.clone()).collect();
        let new: Vec<(Key, Prompt)> = prompts.into_iter().filter(|(key, _)| !self.known.contains_key(key)).collect();
        let temperature = self.author.temperature;
        let sampling = Sampling {
            temperature: if attempt == 0 { temperature } else { temperature.max(RETRY_TEMPERATURE) },
            top_p: 1.0,
            top_k: 0,
            max_tokens: self.author.max_reply_tokens,
            stop: Vec::new(),
        };
        for batch in new.chunks(self.generator.batch_size().max(1)) {
            if (self.stops)() {
                self.journal.sync()?;
                return Ok(None);
            }
            let prompts: Vec<Prompt> = batch.iter().map(|(_, prompt)| prompt.clone()).collect();
            let replies = self.generator.generate(&prompts, &sampling)?;
            anyhow::ensure!(
                replies.len() == prompts.len(),
                "the author answered {} of {} prompts",
                replies.len(),
                prompts.len()
            );
            let answered: Vec<Answered> = batch
                .iter()
                .zip(replies)
                .map(|((key, _), reply)| Answered {
                    part: key.0.clone(),
                    index: key.1,
                    condition: key.2,
                    attempt: key.3,
                    reply: reply.map_err(|unanswered| unanswered.0).map(|reply| Written {
                        text: reply.text,
                        prompt_tokens: reply.prompt_tokens,
                        reply_tokens: reply.reply_tokens,
                    }),
                })
                .collect();
            self.journal.append(&answered)?;
            let replies = answered.into_iter().map(|one| one.reply);
            self.known.extend(batch.iter().map(|(key, _)| key.clone()).zip(replies));
        }
        // Each is used once; what was used is forgotten.
        let reply = |key: &Key| self.known.remove(key).unwrap_or_else(|| Err("not asked".to_owned()));
        Ok(Some(keys.iter().map(reply).collect()))
    }

    fn judge(
        &mut self,
        assignment: &Assignment<'_>,
        condition: Condition,
        supplied: &Supplied,
        attempt: u32,
        reply: Result<Written, String>,
    ) -> Result<TraceRecord, Box<Rejected>> {
        self.report.replies += 1;
        let puzzle = supplied.puzzle;
        let (reply, reason, detail) = match reply {
            Err(unanswered) => (None, "unanswered", unanswered),
            Ok(written) => {
                self.report.prompt_tokens += written.prompt_tokens;
                self.report.reply_tokens += written.reply_tokens;
                let id = pair_id(assignment.seed, supplied.index);
                let query = assignment.query.fill(&puzzle);
                match accept(&puzzle, query, condition, self.prime.answers, &written.text, id) {
                    Ok(trace) => {
                        *self.report.passed.entry(condition.name()).or_default() += 1;
                        return Ok(trace);
                    }
                    Err(fault) => (Some(written.text), fault.name(), fault.to_string()),
                }
            }
        };
        *self.report.rejected.entry(condition.name()).or_default().entry(reason).or_default() += 1;
        let split = assignment.split;
        Err(Box::new(Rejected { puzzle, condition, split, attempt, reply, reason, detail }))
    }

    /// What a condition that is not asked for makes of the puzzle's first trace. `None` for one that is asked for.
    fn derived(
        &self,
        assignment: &Assignment<'_>,
        condition: Condition,
        made: &BTreeMap<Condition, TraceRecord>,
        index: u64,
    ) -> Option<Result<TraceRecord, TraceFault>> {
        if !matches!(condition, Condition::Scrambled | Condition::Empty | Condition::Dots) {
            return None;
        }
        let original = made.get(&Condition::AllStrategies)?;
        Some(derive(original, condition, assignment.count_tokens, assignment.seed, index))
    }
}

/// What to ask about a puzzle. `None` for the conditions that are made from another's traces.
fn prompt(
    assignment: &Assignment<'_>,
    condition: Condition,
    supplied: &Supplied,
    attempt: u32,
) -> Option<(Key, Prompt)> {
    let content = ask(condition, &supplied.puzzle)?;
    let mut seed = mix(assignment.seed);
    for part in [supplied.index, condition as u64, attempt.into()] {
        seed = mix(seed ^ part);
    }
    let messages = vec![Message { role: "user", content }];
    let key = (assignment.split.to_owned(), supplied.index, condition, attempt);
    Some((key, Prompt { messages, reply_prefix: String::new(), seed }))
}

#[cfg(test)]
mod tests;
