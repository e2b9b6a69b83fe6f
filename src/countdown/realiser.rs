//! Puts a planned trace into words.
//!
//! Each trace is told by a persona: a notation, a layout, a way to join steps, and favourite phrases of each kind, all drawn
//! from the trace's seed. The last segment draws from a source of its own, so that a trace and its wrong twin share every
//! byte before it.

use super::derivation::{Derivation, Notation, Operator, Values};
use super::phrases::{Bank, Diversity, Piece, Section, Slot};
use super::puzzle::{Puzzle, mix};
use super::trace::{Event, Outcome, Reason, Trace, Try};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::fmt::Write as _;
use std::ops::Range;

/// How one trace is told, throughout.
#[derive(Debug, Clone, Copy)]
pub struct Persona {
    notation: Notation,
    /// Between two phrases, and between two attempts.
    phrase_gap: &'static str,
    attempt_gap: &'static str,
    /// Between two steps of a try.
    step_gap: &'static str,
    brackets: bool,
    opens: bool,
    lowercase: bool,
    /// Where the favourites start in each section.
    favourites: u64,
}

/// How many phrases of a section one persona uses.
const N_FAVOURITES: usize = 10;

impl Persona {
    pub fn draw(diversity: Diversity, rng: &mut ChaCha8Rng) -> Self {
        if diversity == Diversity::Terse {
            return Self {
                notation: Notation::Words,
                phrase_gap: " ",
                attempt_gap: " ",
                step_gap: " , ",
                brackets: false,
                opens: false,
                lowercase: false,
                favourites: 0,
            };
        }
        let notations =
            [Notation::Spaced, Notation::Spaced, Notation::Tight, Notation::Typographic, Notation::Typographic];
        let layouts = [(" ", " "), (" ", " "), (" ", "\n"), ("\n", "\n"), (" ", "\n\n")];
        let step_gaps = [
            ", ",
            ", then ",
            ", and ",
            "; ",
            ". Then ",
            ". ",
            " and then ",
            " → ",
            ", so ",
            "; then ",
            ". After that, ",
        ];
        let (phrase_gap, attempt_gap) = layouts[rng.random_range(0..layouts.len())];
        Self {
            notation: notations[rng.random_range(0..notations.len())],
            phrase_gap,
            attempt_gap,
            step_gap: if phrase_gap == "\n" && rng.random() {
                "\n"
            } else {
                step_gaps[rng.random_range(0..step_gaps.len())]
            },
            brackets: rng.random(),
            opens: rng.random_bool(0.7),
            lowercase: rng.random_bool(0.1),
            favourites: rng.random(),
        }
    }

    /// The same teller with other favourites.
    pub fn with_favourites(self, draw: u64) -> Self {
        Self { favourites: mix(self.favourites ^ draw), ..self }
    }

    /// How the answer is written: in ASCII whatever the thought uses.
    pub fn answer_notation(&self) -> Notation {
        match self.notation {
            Notation::Words => Notation::Words,
            _ => Notation::Spaced,
        }
    }
}

/// A told thought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    pub text: String,
    /// The phrases used, as section × 1000 + line.
    pub phrases: Vec<u16>,
}

/// Tells what comes before the last segment, the opening included.
pub fn tell_prefix(told: &mut Told, trace: &Trace, bank: &Bank, persona: &Persona, rng: &mut ChaCha8Rng) {
    if persona.opens {
        let mut teller =
            Teller { told, puzzle: &trace.puzzle, bank, persona, attempt: None, from: 0, keeps_steps: false, rng };
        teller.say(&[Section::Opening], &Event::Stop { outcome: Outcome::Reached });
    }
    tell(told, trace, 0..trace.last_segment, bank, persona, rng);
}

/// Tells the last segment, after what `told` already has.
pub fn tell_last_segment(told: &mut Told, trace: &Trace, bank: &Bank, persona: &Persona, rng: &mut ChaCha8Rng) {
    tell(told, trace, trace.last_segment..trace.events.len(), bank, persona, rng);
}

fn tell(told: &mut Told, trace: &Trace, range: Range<usize>, bank: &Bank, persona: &Persona, rng: &mut ChaCha8Rng) {
    let mut teller =
        Teller { told, puzzle: &trace.puzzle, bank, persona, attempt: None, from: 0, keeps_steps: false, rng };
    // Announcements speak of the try that follows; checks, answers and turns of the last one.
    for index in range {
        let event = &trace.events[index];
        let next = trace.events[index..].iter().find_map(as_try);
        let last = trace.events[..=index].iter().rev().find_map(as_try);
        (teller.attempt, teller.from) = match event {
            Event::Check { .. } | Event::Stop { .. } => (last, 0),
            Event::Backtrack { kept } => (last, usize::from(*kept)),
            _ => (next, next.map_or(0, |attempt| attempt.from.into())),
        };
        let turn = trace.events[index + 1..].iter().find(|event| matches!(event, Event::Backtrack { .. }));
        teller.keeps_steps = matches!((event, turn), (Event::Try(_), Some(Event::Backtrack { kept: 1.. })));
        match event {
            Event::Try(_) => teller.say(&[Section::Try], event),
            Event::Check { equal: true, .. } => teller.say(&[Section::CheckHit], event),
            Event::Check { value, .. } => {
                let is_low = *value < i64::from(trace.puzzle.target());
                teller.say(&[Section::CheckMiss, if is_low { Section::CheckLow } else { Section::CheckHigh }], event);
            }
            Event::Backtrack { kept: 0 } => teller.say(&[Section::BacktrackRoot], event),
            Event::Backtrack { .. } => teller.say(&[Section::BacktrackKept], event),
            Event::Subgoal { reason, .. } => match reason {
                Reason::Factor => teller.say(&[Section::Subgoal, Section::SubgoalFactor], event),
                Reason::Multiple => teller.say(&[Section::Subgoal, Section::SubgoalMultiple], event),
                Reason::Near(_) => teller.say(&[Section::Subgoal, Section::SubgoalNear], event),
                Reason::None => teller.say(&[Section::Subgoal], event),
            },
            Event::BackStep { .. } => teller.say(&[Section::BackStep], event),
            Event::Stop { outcome: Outcome::Reached } => teller.say(&[Section::StopReached], event),
            Event::Stop { outcome: Outcome::GivenUp } => teller.say(&[Section::StopGivenUp], event),
        }
    }
}

fn as_try(event: &Event) -> Option<&Try> {
    match event {
        Event::Try(attempt) => Some(attempt),
        _ => None,
    }
}

struct Teller<'a> {
    told: &'a mut Told,
    puzzle: &'a Puzzle,
    bank: &'a Bank,
    persona: &'a Persona,
    /// The try in question.
    attempt: Option<&'a Try>,
    /// How many of its steps are known already.
    from: usize,
    /// The event is a try of which the next backtracking keeps some steps.
    keeps_steps: bool,
    rng: &'a mut ChaCha8Rng,
}

impl Teller<'_> {
    /// Says an event by one of the favourite phrases of these sections.
    fn say(&mut self, sections: &[Section], event: &Event) {
        let bank = self.bank;
        let n_phrases = |section: Section| bank.phrases(section).len();
        let total: usize = sections.iter().map(|&section| n_phrases(section)).sum();
        if total == 0 {
            return;
        }
        let start = mix(self.persona.favourites ^ sections[0] as u64) as usize % total;
        let mut index = (start + self.rng.random_range(0..total.min(N_FAVOURITES))) % total;
        // What is gone back to was stated: a try whose steps are kept is not told as one expression.
        if self.keeps_steps {
            let tells_steps = |index: usize| {
                let phrase = bank.phrases(sections[0]).get(index).map(|(_, phrase)| phrase);
                phrase.is_none_or(|phrase| phrase.contains(&Piece::Slot(Slot::Steps)))
            };
            index =
                (0..total).map(|offset| (index + offset) % total).find(|&index| tells_steps(index)).unwrap_or(index);
        }
        for &section in sections {
            if let Some((line, phrase)) = bank.phrases(section).get(index) {
                self.told.phrases.push(section as u16 * 1000 + line);
                self.put_gap(event);
                let from = self.told.text.len();
                phrase.iter().for_each(|piece| self.put(piece, event));
                if self.persona.lowercase && self.told.text[from..].starts_with(|c: char| c.is_ascii_uppercase()) {
                    // "I" stays.
                    let is_pronoun = self.told.text[from + 1..].starts_with([' ', '\'']);
                    if !is_pronoun {
                        let lower = self.told.text[from..=from].to_ascii_lowercase();
                        self.told.text.replace_range(from..=from, &lower);
                    }
                }
                return;
            }
            index = index.saturating_sub(n_phrases(section));
        }
    }

    fn put_gap(&mut self, event: &Event) {
        if !self.told.text.is_empty() {
            let is_turn = matches!(event, Event::Backtrack { .. });
            self.told.text.push_str(if is_turn { self.persona.attempt_gap } else { self.persona.phrase_gap });
        }
    }

    fn put(&mut self, piece: &Piece, event: &Event) {
        let slot = match piece {
            Piece::Text(text) => return self.told.text.push_str(text),
            Piece::Slot(slot) => *slot,
        };
        let target = i64::from(self.puzzle.target());
        let subgoal = match event {
            Event::Subgoal { value, .. } => *value,
            _ => 0,
        };
        match slot {
            Slot::Target => self.put_number(target),
            Slot::Value | Slot::Gap => {
                let value = self.attempt.map_or(0, Try::stated);
                self.put_number(if slot == Slot::Gap { (value - target).abs() } else { value });
            }
            Slot::Numbers => {
                let puzzle = *self.puzzle;
                self.put_list(puzzle.numbers().iter().map(|&number| i64::from(number)));
            }
            Slot::Subgoal => self.put_number(subgoal),
            Slot::Quotient => self.put_number(subgoal.max(target) / subgoal.min(target).max(1)),
            Slot::Distance => self.put_number((subgoal - target).abs()),
            Slot::Number | Slot::Need | Slot::Equation | Slot::Decomposition | Slot::Forward => {
                self.put_back_step(slot, event)
            }
            Slot::Steps | Slot::Formula | Slot::Expression | Slot::Rest | Slot::Kept | Slot::State => {
                self.put_of_try(slot, event)
            }
        }
    }

    fn put_back_step(&mut self, slot: Slot, event: &Event) {
        let Event::BackStep { operator, number, number_first, need } = *event else { return };
        let target = i64::from(self.puzzle.target());
        // The target is `need operator number`, or `number operator need`.
        let forward = if number_first { (number, operator, need) } else { (need, operator, number) };
        let backward = if number_first { (number, operator, target) } else { (target, operator.inverse(), number) };
        match slot {
            Slot::Number => self.put_number(number),
            Slot::Need => self.put_number(need),
            Slot::Equation => self.put_equation(backward, need),
            Slot::Forward => self.put_equation(forward, target),
            _ => {
                self.put_number(target);
                self.told.text.push_str(self.equals());
                self.put_operation(forward);
            }
        }
    }

    fn put_of_try(&mut self, slot: Slot, event: &Event) {
        let Some(attempt) = self.attempt else { return };
        let derivation = &attempt.derivation;
        let Some(values) = derivation.values() else { return };
        let from = self.from;
        let free = || derivation.free_items(from).map(|item| values[usize::from(item)]);
        match slot {
            Slot::Steps => self.put_steps(attempt, &values),
            Slot::Formula => {
                derivation.write_expression(&mut self.told.text, self.persona.notation, from, Some(&values))
            }
            Slot::Expression => derivation.write_expression(&mut self.told.text, self.persona.notation, 0, None),
            Slot::Kept => self.put_number(from.checked_sub(1).map_or(0, |index| values[derivation.result_item(index)])),
            Slot::State => self.put_list(free()),
            _ => {
                let aside = match event {
                    Event::BackStep { number, .. } => *number,
                    _ => 0,
                };
                let mut is_aside = false;
                self.put_list(free().filter(|&value| {
                    let drops = value == aside && !is_aside;
                    is_aside |= drops;
                    !drops
                }));
            }
        }
    }

    fn put_steps(&mut self, attempt: &Try, values: &Values) {
        let derivation: &Derivation = &attempt.derivation;
        let n_steps = derivation.steps().len();
        for (index, step) in derivation.steps().iter().enumerate().skip(attempt.from.into()) {
            if usize::from(attempt.from) < index {
                self.told.text.push_str(self.persona.step_gap);
            }
            let stated = attempt.slip.filter(|_| index + 1 == n_steps);
            let result = stated.unwrap_or(values[derivation.result_item(index)]);
            let (left, right) = (values[usize::from(step.left)], values[usize::from(step.right)]);
            self.put_equation((left, step.operator, right), result);
        }
    }

    fn put_equation(&mut self, operation: (i64, Operator, i64), result: i64) {
        self.put_operation(operation);
        self.told.text.push_str(self.equals());
        self.put_number(result);
    }

    fn put_operation(&mut self, (left, operator, right): (i64, Operator, i64)) {
        self.put_number(left);
        self.persona.notation.write_operator(&mut self.told.text, operator);
        self.put_number(right);
    }

    fn equals(&self) -> &'static str {
        if self.persona.notation == Notation::Tight { "=" } else { " = " }
    }

    fn put_list(&mut self, values: impl Iterator<Item = i64>) {
        let mut values = values.peekable();
        let mut is_first = true;
        if self.persona.brackets {
            self.told.text.push('[');
        }
        while let Some(value) = values.next() {
            let is_last = values.peek().is_none();
            if !is_first {
                self.told.text.push_str(if is_last && !self.persona.brackets { " and " } else { ", " });
            }
            self.put_number(value);
            is_first = false;
        }
        if self.persona.brackets {
            self.told.text.push(']');
        }
    }

    fn put_number(&mut self, value: i64) {
        let _ = write!(self.told.text, "{value}");
    }
}
