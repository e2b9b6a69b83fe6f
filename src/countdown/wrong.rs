//! The wrong twin of a correct trace: the same up to its last segment, which ends in a wrong answer of a chosen kind.

use super::condition::{Stratum, TryOrder};
use super::derivation::{Derivation, Operator, Step};
use super::in_turn;
use super::planner::{Means, Seen, Taste, announce, commuted, play};
use super::puzzle::{Multiset, Puzzle};
use super::solver::{Intermediates, Rules, visit_solutions};
use super::trace::{Event, Outcome, Trace, Try};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::ops::ControlFlow;

/// A candidate for the wrong twin of `correct`, or `None` if this draw led nowhere. It shows the same behaviors equally often.
pub fn wrong_twin(correct: &Trace, stratum: Stratum, means: Means, rng: &mut ChaCha8Rng) -> Option<Trace> {
    let (prefix, last) = correct.events.split_at(correct.last_segment);
    let right = last.iter().find_map(|event| match event {
        Event::Try(attempt) => Some(attempt),
        _ => None,
    })?;
    let shows = |wanted: fn(&Event) -> bool| last.iter().any(wanted);
    let target = i64::from(correct.puzzle.target());
    let attempt = match stratum {
        Stratum::Slip => Try { slip: Some(target), ..missing_try(correct, right, means, 4, rng)? },
        Stratum::GiveUp => missing_try(correct, right, means, 1, rng)?,
        Stratum::RuleBreak => rule_breaking(&correct.puzzle, right, means, rng)?,
    };
    let mut events = prefix.to_vec();
    if shows(|event| matches!(event, Event::Backtrack { .. })) {
        events.push(Event::Backtrack { kept: attempt.from });
    }
    let mut seen = Seen::new(&correct.puzzle);
    correct.tries().filter(|&other| other != right).for_each(|other| seen.learn(other));
    let wants_subgoal = shows(|event| matches!(event, Event::Subgoal { .. }));
    let wants_back_step = shows(|event| matches!(event, Event::BackStep { .. }));
    if !announce(&mut events, &attempt, wants_subgoal, wants_back_step, &seen, rng) {
        return None;
    }
    events.push(Event::Try(attempt));
    let (equal, outcome) = match stratum {
        Stratum::Slip | Stratum::RuleBreak => (true, Outcome::Reached),
        Stratum::GiveUp => (false, Outcome::GivenUp),
    };
    if shows(|event| matches!(event, Event::Check { .. })) {
        events.push(Event::Check { value: attempt.stated(), equal });
    }
    events.push(Event::Stop { outcome });
    Some(Trace { puzzle: correct.puzzle, events, last_segment: correct.last_segment })
}

/// A complete try in place of `right` that misses the target: of `n_draws`, the one that comes nearest. It keeps as many
/// steps as `right` does, or fewer where that leaves too little choice.
fn missing_try(trace: &Trace, right: &Try, means: Means, n_draws: usize, rng: &mut ChaCha8Rng) -> Option<Try> {
    if means.order == TryOrder::InTurn {
        return in_turn::missing_try(&trace.puzzle, &right.derivation, means, rng);
    }
    let target = i64::from(trace.puzzle.target());
    let from = if rng.random_bool(0.8) { right.from } else { rng.random_range(0..=right.from) };
    let mut start = right.derivation;
    start.truncate(from.into());
    // Better something new; but where little is left, people try the same thing twice.
    let may_repeat = rng.random_bool(0.2);
    let known: Vec<u64> = trace.tries().map(|attempt| attempt.derivation.class()).collect();
    let draws = (0..n_draws).filter_map(|_| play(&start, None, target, means, Taste::Near, rng));
    let derivation = draws
        .filter(|derivation| may_repeat || !known.contains(&derivation.class()))
        .min_by_key(|derivation| derivation.value().map_or(i64::MAX, |value| (value - target).abs()))?;
    Some(Try { derivation, from, slip: None })
}

/// A true way to the target that does not use each number exactly once. Where `right` keeps steps, it mostly does too.
fn rule_breaking(puzzle: &Puzzle, right: &Try, means: Means, rng: &mut ChaCha8Rng) -> Option<Try> {
    if 0 < right.from && rng.random_bool(0.8) {
        let mut start = right.derivation;
        start.truncate(right.from.into());
        let derivation = with_invention(&start, puzzle, means, rng)?;
        return Some(Try { derivation, from: right.from, slip: None });
    }
    let derivation = from_other_numbers(puzzle, means, rng)?;
    Some(Try { derivation, from: 0, slip: None })
}

fn from_other_numbers(puzzle: &Puzzle, means: Means, rng: &mut ChaCha8Rng) -> Option<Derivation> {
    let numbers = puzzle.numbers();
    let n = numbers.len();
    for _ in 0..3 {
        let mut changed = numbers.to_vec();
        if 2 < n && rng.random_bool(0.3) {
            changed.remove(rng.random_range(0..n));
        } else if 1 < n {
            changed[rng.random_range(0..n)] = numbers[rng.random_range(0..n)];
        }
        if let Some(derivation) = chain_to_target(&changed, puzzle, means, rng) {
            return Some(commuted(&derivation, rng));
        }
    }
    with_invention(&Derivation::new(numbers), puzzle, means, rng)
}

/// Goes on with all numbers but one, and at the end takes, in its place, the one that happens to be needed.
fn with_invention(start: &Derivation, puzzle: &Puzzle, means: Means, rng: &mut ChaCha8Rng) -> Option<Derivation> {
    let target = i64::from(puzzle.target());
    let n_numbers = start.numbers().len();
    let free: Vec<u8> = start.free_items(start.steps().len()).filter(|&item| usize::from(item) < n_numbers).collect();
    if free.is_empty() || n_numbers == 1 {
        return None;
    }
    let left_out = free[rng.random_range(0..free.len())];
    let played = play(start, Some(left_out), target, means, Taste::Anything, rng)?;
    let values = played.values()?;
    let last = played.free_items(played.steps().len()).find(|&item| item != left_out)?;
    let value = values[usize::from(last)];
    let choices = [
        (Operator::Add, target - value, false),
        (Operator::Subtract, value - target, false),
        (Operator::Subtract, value + target, true),
        (Operator::Multiply, if target % value == 0 { target / value } else { 0 }, false),
        (Operator::Divide, if value % target == 0 { value / target } else { 0 }, false),
    ];
    let first = rng.random_range(0..choices.len());
    let is_plausible = |&&(operator, number, _): &&(Operator, i64, bool)| {
        means.operators.contains(operator)
            && 1 < number
            && means.allows(number, target)
            && number != target
            && number != values[usize::from(left_out)]
    };
    let (operator, number, number_first) =
        *choices.iter().cycle().skip(first).take(choices.len()).find(is_plausible)?;
    let (mut derivation, item) = played.with_number(u32::try_from(number).ok()?)?;
    let last = if usize::from(last) < n_numbers { last } else { last + 1 };
    let (left, right) = if number_first { (item, last) } else { (last, item) };
    derivation.push(Step { left, operator, right });
    Some(derivation)
}

/// A solution of other numbers in which every step goes on from the one before, drawn evenly from all of them.
fn chain_to_target(numbers: &[u32], puzzle: &Puzzle, means: Means, rng: &mut ChaCha8Rng) -> Option<Derivation> {
    if Multiset::new(numbers) == puzzle.multiset() {
        return None;
    }
    let other = Puzzle::new(numbers, puzzle.target()).ok()?;
    let rules = Rules { operators: means.operators, intermediates: Intermediates::Naturals };
    let target = i64::from(puzzle.target());
    let mut found = None;
    let mut n_found = 0u32;
    let _ = visit_solutions(&other, rules, |derivation| {
        let goes_on = |index: usize, step: &Step| {
            let last = derivation.result_item(index) as u8;
            step.left == last || step.right == last
        };
        let steps = derivation.steps();
        let is_chain = steps.iter().skip(1).enumerate().all(|(index, step)| goes_on(index, step));
        let touches_target_early = derivation.values().is_none_or(|values| {
            let last = derivation.last_item();
            values[..last].contains(&target) && !puzzle.numbers().contains(&puzzle.target())
        });
        let is_allowed = derivation.values().is_some_and(|values| {
            values[derivation.result_item(0)..=derivation.last_item()].iter().all(|&value| means.allows(value, target))
        });
        if is_chain && !touches_target_early && is_allowed {
            n_found += 1;
            if rng.random_ratio(1, n_found) {
                found = Some(*derivation);
            }
        }
        ControlFlow::Continue(())
    });
    found
}
