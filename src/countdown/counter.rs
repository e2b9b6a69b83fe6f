//! Counts the four behaviors in the text of an attempt at a puzzle, whoever wrote it: a generated trace, a rollout, another
//! model. It knows the puzzle and the text, and nothing of how the text was made.
//!
//! What counts, after the paper's judge prompts (arXiv 2503.01307, `behavioral_evals`):
//! - *verification*: a computed result is held against the target, openly ("14, not 24") or not ("too high", "this works"),
//!   once per result;
//! - *backtracking*: a computation that begins a new combination instead of going on from the result before it. It begins
//!   one if the text turns away ("something else", "back to 12"), or if the numbers that it uses are not there: every
//!   statement takes its operands from what is left and gives its result back. Restating or explaining the combination in
//!   hand begins nothing;
//! - *subgoal setting*: a number other than the target is said to be wanted before it is computed ("let's first reach 12");
//! - *backward chaining*: a computation that starts from the target, or from a number so found ("24 / 2 = 12").
//!
//! One pass over the statements and words; the work per statement is bounded. English only.

use super::lexer::Mark;
use super::lexicon::{Signals, signals};
use super::puzzle::Puzzle;
use super::ratio::Ratio;
use super::reader::{Item, Reader, Statement};
use crate::behavior::Behavior;
use ledger::{Announced, Ledger, Move};

mod ledger;

/// What a text shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// By [`Behavior::index`].
    pub counts: [u32; 4],
    /// Expressions the text computes or states.
    pub n_statements: u32,
    /// Neighbouring sides of those that are not equal.
    pub n_false: u32,
    /// Combinations tried; backtracking is what lies between two.
    pub n_attempts: u32,
    /// The first attempt, counted from 0, that truly reaches the target with every number used once.
    pub first_solving: Option<u32>,
}

/// The part of a completion that is thought: up to `</think>`, or without it up to the last answer.
pub fn thought(completion: &str) -> &str {
    let end = completion.find("</think>").or_else(|| completion.rfind("<answer>"));
    &completion[..end.unwrap_or(completion.len())]
}

/// Reads a thought.
pub fn read(puzzle: &Puzzle, thought: &str) -> Reading {
    let mut counter = Counter::new(puzzle);
    for item in Reader::new(thought) {
        counter.take(&item);
    }
    counter.finish()
}

/// How far a wish for a number has been said: "let's" "reach" "12".
#[derive(Clone, Copy, PartialEq)]
enum Wish {
    None,
    Intent,
    Reach,
}

struct Counter {
    target: Ratio,
    ledger: Ledger,
    reading: Reading,
    announced: Announced,
    /// A result waits for judgement.
    is_armed: bool,
    /// A check was announced, and whether something was computed since.
    examining: Option<bool>,
    /// "not" was said; what follows decides whether it judges.
    owes_not: bool,
    /// "new" or "next" was said; what follows decides whether it turns.
    maybe_turns: bool,
    /// The clause reasons from the end.
    is_reversed: bool,
    /// The clause said "is".
    has_copula: bool,
    /// The outcome was announced.
    concludes: bool,
    wish: Wish,
    /// The number wished for last, until something is combined.
    wanted: Option<Ratio>,
    /// The number found by working back last, until something is combined.
    need: Option<Ratio>,
    last_word: Signals,
}

impl Counter {
    fn new(puzzle: &Puzzle) -> Self {
        Self {
            target: Ratio::whole(puzzle.target().into()),
            ledger: Ledger::new(puzzle),
            reading: Reading::default(),
            announced: Announced::Nothing,
            is_armed: false,
            examining: None,
            owes_not: false,
            maybe_turns: false,
            is_reversed: false,
            has_copula: false,
            concludes: false,
            wish: Wish::None,
            wanted: None,
            need: None,
            last_word: Signals::default(),
        }
    }

    fn take(&mut self, item: &Item<'_>) {
        if self.owes_not {
            self.owes_not = false;
            if !matches!(item, Item::Word(word) if signals(word).has(Signals::RULE)) {
                self.judge();
            }
        }
        match item {
            Item::Word(word) => self.word(signals(word)),
            Item::Number(value) => self.number(*value),
            Item::Statement(statement) => {
                self.statement(statement);
                self.end_clause();
            }
            Item::Mark(Mark::Good | Mark::Bad | Mark::Unequal) => self.judge(),
            Item::Mark(Mark::Arrow) | Item::Colon => {}
            Item::Comma => self.wish = Wish::None,
            Item::Stop | Item::Newline => self.end_clause(),
        }
    }

    fn finish(mut self) -> Reading {
        self.close_examination();
        Reading { n_attempts: self.ledger.n_combinations, first_solving: self.ledger.first_solving, ..self.reading }
    }

    fn end_clause(&mut self) {
        self.wish = Wish::None;
        self.is_reversed = false;
        self.has_copula = false;
        self.maybe_turns = false;
        self.last_word = Signals::default();
    }

    fn count(&mut self, behavior: Behavior) {
        self.reading.counts[behavior.index()] += 1;
    }

    fn word(&mut self, word: Signals) {
        let last = std::mem::replace(&mut self.last_word, word);
        let is_reversal = word.has(Signals::BACK) && last.has(Signals::REASON);
        let turns = word.has(Signals::TURN)
            || (word.has(Signals::THING) && self.maybe_turns)
            || (word.has(Signals::ANEW) && last.has(Signals::TRY))
            || (word.has(Signals::BACK) && !is_reversal);
        self.maybe_turns = word.has(Signals::MAYBE_TURN);
        self.is_reversed |= word.has(Signals::REVERSE) || is_reversal;
        self.concludes |= word.has(Signals::CONCLUDE);
        if turns {
            self.announce(Announced::Turn);
        } else if word.has(Signals::TRY) {
            self.announce(Announced::Try);
        }
        if word.has(Signals::NOT) {
            self.owes_not = true;
        } else if word.has(Signals::JUDGE) || (word.has(Signals::AIM) && self.has_copula) {
            self.judge();
        } else if word.has(Signals::EXAMINE) && 0 < self.ledger.n_combinations {
            self.examining.get_or_insert(false);
        }
        self.has_copula = word.has(Signals::COPULA) || (self.has_copula && word.has(Signals::FILLER));
        let has_intent = self.wish != Wish::None || word.has(Signals::INTENT);
        self.wish = if word.has(Signals::WAYPOINT) || (word.has(Signals::REACH) && has_intent) {
            Wish::Reach
        } else if word.has(Signals::INTENT) {
            Wish::Intent
        } else if word.has(Signals::FILLER) {
            self.wish
        } else {
            Wish::None
        };
    }

    fn number(&mut self, value: Ratio) {
        let is_wanted = std::mem::replace(&mut self.wish, Wish::None) == Wish::Reach;
        if is_wanted && value != self.target && self.need != Some(value) && self.wanted != Some(value) {
            self.count(Behavior::SubgoalSetting);
            self.wanted = Some(value);
            self.is_armed = false;
        }
        // "Results in 24", "is equal to 24"; a bare "is 24" only states.
        let is_bare = self.last_word.has(Signals::COPULA) || !self.last_word.has(Signals::FILLER);
        if self.has_copula && value == self.target && !is_bare {
            self.judge();
        }
    }

    fn announce(&mut self, announced: Announced) {
        if announced == Announced::Turn {
            self.is_armed = false;
            self.close_examination();
        }
        self.concludes = false;
        if self.announced < announced {
            self.announced = announced;
        }
    }

    fn judge(&mut self) {
        if self.is_armed {
            self.count(Behavior::Verification);
            self.is_armed = false;
            self.examining = None;
            self.ledger.judge();
        }
    }

    /// A check that was announced and computed counts even if its outcome is left to the reader.
    fn close_examination(&mut self) {
        if self.examining.take() == Some(true) {
            self.is_armed = true;
            self.judge();
        }
    }

    fn statement(&mut self, statement: &Statement) {
        self.reading.n_statements += 1;
        self.reading.n_false += statement.n_false;
        let concludes = std::mem::replace(&mut self.concludes, false) && self.announced == Announced::Nothing;
        let restates_outcome = concludes && self.ledger.holds_value(statement.computed);
        if let Some(need) = self.need_of(statement) {
            self.count(Behavior::BackwardChaining);
            self.need = Some(need);
        } else if !self.restates_need(statement) && !restates_outcome {
            self.forward(statement);
        }
    }

    /// What a statement finds by working back: from the target, or from what was so found just before. `24 / 2 = 12` and
    /// `24 = 12 * 2` find 12. A longer expression with the target in it is an attempt that breaks the rules.
    fn need_of(&self, statement: &Statement) -> Option<Ratio> {
        let leaves = statement.leaves.as_slice();
        if 2 < leaves.len() {
            return None;
        }
        let is_goal = |leaf: Ratio| leaf == self.target || Some(leaf) == self.need;
        let is_start =
            |&leaf: &Ratio| is_goal(leaf) && (self.is_reversed || self.ledger.is_unmade(leaf, self.announced));
        if leaves.iter().any(is_start) && statement.value != Some(self.target) {
            return statement.value;
        }
        let decomposes =
            statement.is_number_first && statement.value == Some(self.target) && !self.ledger.explains(statement);
        leaves.iter().copied().find(|&leaf| decomposes && !self.ledger.is_left(leaf, self.announced))
    }

    /// `12 * 2 = 24` right after `24 / 2 = 12`: nothing was combined yet.
    fn restates_need(&self, statement: &Statement) -> bool {
        statement.value == Some(self.target) && self.need.is_some_and(|need| statement.leaves.contains(need))
    }

    fn forward(&mut self, statement: &Statement) {
        let announced = std::mem::replace(&mut self.announced, Announced::Nothing);
        self.need = None;
        let is_settled = self.ledger.is_settled();
        let is_first = self.ledger.n_combinations == 0;
        let outcome = self.ledger.book(statement, announced, self.examining.is_some());
        if outcome == Move::Begins && !is_first {
            self.close_examination();
            self.count(Behavior::Backtracking);
        }
        if let Some(is_computed) = &mut self.examining {
            *is_computed = true;
        }
        if outcome != Move::Restates {
            self.wanted = None;
        }
        // What reached the target and was found right is not judged again for being restated.
        self.is_armed |= outcome != Move::Restates || !is_settled;
    }
}

#[cfg(test)]
mod tests;
