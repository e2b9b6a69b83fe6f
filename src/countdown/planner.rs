//! Plans a trace: which combinations are tried, in which order, with which subgoals, backward steps and checks.
//!
//! The tries are planned from the last one, the solution, to the first: whatever backtracking keeps of a try, the next one
//! begins with, so each failed try is grown from the first steps of its successor. A trace searches by one taste, drawn at
//! random, so that no single order of search is taught. All values stay natural numbers, as the paper's generator has it.

use super::condition::{Habits, TryOrder};
use super::derivation::{Derivation, Operator, Step, Values};
use super::in_turn;
use super::puzzle::Puzzle;
use super::solver::Operators;
use super::trace::{Event, Outcome, Reason, Trace, Try};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What a thinker likes to see next.
#[derive(Clone, Copy)]
pub(super) enum Taste {
    /// Values near the target.
    Near,
    /// Divisors and multiples of the target.
    Factors,
    Anything,
}

/// What a try may do.
#[derive(Clone, Copy)]
pub(super) struct Means {
    pub(super) operators: Operators,
    /// No step gives more.
    pub(super) highest: Option<i64>,
    pub(super) order: TryOrder,
}

impl Means {
    pub(super) fn new(operators: Operators, habits: &Habits) -> Self {
        Self { operators, highest: habits.highest.map(i64::from), order: habits.order }
    }

    /// Whether a step of a try for this target may give this value.
    pub(super) fn allows(&self, value: i64, target: i64) -> bool {
        // Nobody multiplies on and on towards a small target.
        0 < value && value <= self.highest.unwrap_or(20 * target.max(25))
    }
}

/// Plans a trace that ends with `solution`, or in turn with its like. `failure_odds` is the chance of one more failed try after
/// each. `None` if a search in turn does not come by the solution.
pub fn plan(
    puzzle: &Puzzle,
    solution: &Derivation,
    operators: Operators,
    habits: &Habits,
    failure_odds: f64,
    rng: &mut ChaCha8Rng,
) -> Option<Trace> {
    let means = Means::new(operators, habits);
    let taste = match rng.random_range(0..3) {
        0 => Taste::Near,
        1 => Taste::Factors,
        _ => Taste::Anything,
    };
    let mut n_failed = 0;
    while n_failed < habits.max_failed_tries && rng.random_bool(failure_odds) {
        n_failed += 1;
    }
    if means.order == TryOrder::InTurn {
        let tries = in_turn::tries(puzzle, solution, means, n_failed.into(), habits.keeps_steps, rng)?;
        return Some(tell_of(puzzle, &tries, habits, rng));
    }
    let mut tries = vec![Try { derivation: commuted(solution, rng), from: 0, slip: None }];
    let mut known: Vec<u64> = tries.iter().map(|attempt| attempt.derivation.class()).collect();
    for _ in 0..n_failed {
        let kept = match tries.last() {
            Some(next) if rng.random_bool(habits.keeps_steps) => {
                let n_steps = next.derivation.steps().len();
                if n_steps < 2 { 0 } else { rng.random_range(1..n_steps) }
            }
            _ => 0,
        };
        // A state that has the target as a part invites reading what follows as reasoning from it.
        let holds_target = |derivation: &Derivation| {
            let from = derivation.result_item(0);
            let values = derivation.values();
            values.is_none_or(|values| values[from..from + kept].contains(&puzzle.target().into()))
        };
        let kept = if tries.last().is_some_and(|next| holds_target(&next.derivation)) { 0 } else { kept };
        let failed = failed_try(&tries, &known, kept, puzzle, means, habits, taste, rng).map(|failed| (failed, kept));
        // What was kept may leave no other way; the start does.
        let from_start = || failed_try(&tries, &known, 0, puzzle, means, habits, taste, rng).map(|failed| (failed, 0));
        let Some((failed, kept)) = failed.or_else(from_start) else { break };
        if let Some(next) = tries.last_mut() {
            next.from = kept as u8;
        }
        known.push(failed.derivation.class());
        tries.push(failed);
    }
    tries.reverse();
    Some(tell_of(puzzle, &tries, habits, rng))
}

/// The events of a search: tries, each announced and checked as the habits have it, with turns between them.
fn tell_of(puzzle: &Puzzle, tries: &[Try], habits: &Habits, rng: &mut ChaCha8Rng) -> Trace {
    let mut events = Vec::with_capacity(4 * tries.len() + 2);
    let mut seen = Seen::new(puzzle);
    let mut last_segment = 0;
    let n_tries = tries.len();
    for (index, attempt) in tries.iter().enumerate() {
        let is_last = index + 1 == n_tries;
        if 0 < index {
            last_segment = if is_last { events.len() } else { 0 };
            events.push(Event::Backtrack { kept: attempt.from });
        }
        let wants_subgoal = rng.random_bool(habits.subgoals);
        let wants_back_step = rng.random_bool(habits.back_steps);
        announce(&mut events, attempt, wants_subgoal, wants_back_step, &seen, rng);
        events.push(Event::Try(*attempt));
        seen.learn(attempt);
        let checks = if is_last { habits.checks_hits } else { habits.checks_misses };
        if rng.random_bool(checks) {
            events.push(Event::Check { value: attempt.stated(), equal: is_last });
        }
    }
    events.push(Event::Stop { outcome: Outcome::Reached });
    Trace { puzzle: *puzzle, events, last_segment }
}

/// The subgoal and the backward step before a try, in either order, as far as they are wanted and possible. Returns whether
/// all that is wanted was possible.
pub(super) fn announce(
    events: &mut Vec<Event>,
    attempt: &Try,
    wants_subgoal: bool,
    wants_back_step: bool,
    seen: &Seen,
    rng: &mut ChaCha8Rng,
) -> bool {
    let Some(values) = attempt.derivation.values() else { return false };
    let back_step = if wants_back_step { back_step(attempt, &values, seen, rng) } else { None };
    let need = match back_step {
        Some(Event::BackStep { need, .. }) => Some(need),
        _ => None,
    };
    let subgoal = if wants_subgoal { subgoal(attempt, &values, need, seen, rng) } else { None };
    let is_complete = subgoal.is_some() == wants_subgoal && back_step.is_some() == wants_back_step;
    let mut order = [subgoal, back_step];
    if rng.random() {
        order.reverse();
    }
    events.extend(order.into_iter().flatten());
    is_complete
}

/// What the trace has shown so far, which no backward step may find again.
pub(super) struct Seen {
    target: i64,
    values: Vec<i64>,
}

impl Seen {
    pub(super) fn new(puzzle: &Puzzle) -> Self {
        let values = puzzle.numbers().iter().map(|&number| number.into()).collect();
        Self { target: puzzle.target().into(), values }
    }

    pub(super) fn learn(&mut self, attempt: &Try) {
        if let Some(values) = attempt.derivation.values() {
            self.values.extend(&values[..=attempt.derivation.last_item()]);
        }
    }
}

/// A combination that keeps the first `kept` steps of the try after it and misses the target, unlike any other: its class is
/// not `known`.
#[expect(clippy::too_many_arguments, reason = "each is one choice of the plan")]
fn failed_try(
    tries: &[Try],
    known: &[u64],
    kept: usize,
    puzzle: &Puzzle,
    means: Means,
    habits: &Habits,
    taste: Taste,
    rng: &mut ChaCha8Rng,
) -> Option<Try> {
    let mut start = tries.last()?.derivation;
    start.truncate(kept);
    for _ in 0..12 {
        let Some(mut derivation) = play(&start, None, puzzle.target().into(), means, taste, rng) else { continue };
        let n_steps = derivation.steps().len();
        if 3 <= n_steps && kept + 1 < n_steps && rng.random_bool(habits.abandons) {
            derivation.truncate(n_steps - 1);
        }
        if !known.contains(&derivation.class()) {
            return Some(Try { derivation, from: 0, slip: None });
        }
    }
    None
}

/// Goes on at random until one item is left (besides one that is left out), without ever touching the target. `None` if it
/// gets stuck.
pub(super) fn play(
    start: &Derivation,
    left_out: Option<u8>,
    target: i64,
    means: Means,
    taste: Taste,
    rng: &mut ChaCha8Rng,
) -> Option<Derivation> {
    const DRAWS: usize = 12;
    let n_wanted = match taste {
        Taste::Anything => 1,
        Taste::Near | Taste::Factors => 2,
    };
    let mut derivation = *start;
    let mut values = derivation.values()?;
    let mut free: Vec<u8> =
        derivation.free_items(derivation.steps().len()).filter(|&item| Some(item) != left_out).collect();
    while 1 < free.len() {
        let mut best: Option<(i64, Step, i64)> = None;
        let mut n_found = 0;
        for _ in 0..DRAWS {
            let operator = Operator::ALL[rng.random_range(0..4)];
            let i = rng.random_range(0..free.len());
            let j = (i + rng.random_range(1..free.len())) % free.len();
            let (mut left, mut right) = (free[i], free[j]);
            if matches!(operator, Operator::Subtract | Operator::Divide)
                && values[usize::from(left)] < values[usize::from(right)]
            {
                (left, right) = (right, left);
            }
            let (a, b) = (values[usize::from(left)], values[usize::from(right)]);
            let is_idle = matches!(operator, Operator::Multiply | Operator::Divide) && (a == 1 || b == 1);
            let result = operator.apply(a, b).filter(|&result| means.allows(result, target) && result != target);
            let (true, Some(result)) = (means.operators.contains(operator), result) else { continue };
            if is_idle && rng.random_bool(0.7) {
                continue;
            }
            let distance = match taste {
                Taste::Factors if target % result == 0 || result % target == 0 => 0,
                _ => (result - target).abs(),
            };
            if best.is_none_or(|(known, _, _)| distance < known) {
                best = Some((distance, Step { left, operator, right }, result));
            }
            n_found += 1;
            if n_found == n_wanted {
                break;
            }
        }
        let (_, step, result) = best?;
        free.retain(|&item| item != step.left && item != step.right);
        let item = derivation.push(step);
        values[usize::from(item)] = result;
        free.push(item);
    }
    Some(derivation)
}

/// The same solution with the operands of some sums and products swapped.
pub(super) fn commuted(derivation: &Derivation, rng: &mut ChaCha8Rng) -> Derivation {
    let mut swapped = *derivation;
    swapped.truncate(0);
    for &step in derivation.steps() {
        let commutes = matches!(step.operator, Operator::Add | Operator::Multiply);
        let swaps = commutes && rng.random_bool(0.4);
        swapped.push(if swaps { Step { left: step.right, right: step.left, ..step } } else { step });
    }
    swapped
}

/// A value on the way of this try, or one that it will not reach.
fn subgoal(attempt: &Try, values: &Values, need: Option<i64>, seen: &Seen, rng: &mut ChaCha8Rng) -> Option<Event> {
    let derivation = &attempt.derivation;
    let target = seen.target;
    let from = usize::from(attempt.from);
    let free: Vec<i64> = derivation.free_items(from).map(|item| values[usize::from(item)]).collect();
    let is_good = |value: i64| 1 < value && value != target && Some(value) != need && !free.contains(&value);
    let reason = |value: i64| {
        let distance = (value - target).abs();
        if value < target && target % value == 0 {
            Reason::Factor
        } else if target < value && value % target == 0 {
            Reason::Multiple
        } else if free.contains(&distance) {
            Reason::Near(distance)
        } else {
            Reason::None
        }
    };
    let n_steps = derivation.steps().len();
    let reached = (from..n_steps.saturating_sub(1)).rev().map(|index| values[derivation.result_item(index)]);
    let mut reached = reached.filter(|&value| is_good(value));
    // A thinker who goes by reasons also sets goals that the try then misses.
    let aims_elsewhere = rng.random_bool(0.3);
    let value = reached.next().filter(|_| !aims_elsewhere).or_else(|| {
        (0..6).find_map(|_| {
            let value = match rng.random_range(0..4) {
                0 => target / rng.random_range(2..=4),
                1 => target * rng.random_range(2..=3),
                2 => target + free[rng.random_range(0..free.len())],
                _ => target - free[rng.random_range(0..free.len())],
            };
            (is_good(value) && reason(value) != Reason::None).then_some(value)
        })
    });
    value.or_else(|| reached.next()).map(|value| Event::Subgoal { value, reason: reason(value) })
}

/// What must be made if one number comes last. The try that reaches the target goes by it; one that does not may set out
/// from any number and be led elsewhere.
fn back_step(attempt: &Try, values: &Values, seen: &Seen, rng: &mut ChaCha8Rng) -> Option<Event> {
    if seen.values.contains(&seen.target) {
        return None;
    }
    let derivation = &attempt.derivation;
    let n_numbers = derivation.numbers().len();
    let is_number = |item: u8| usize::from(item) < n_numbers;
    let step = derivation.steps().last()?;
    let last = [(step.right, false), (step.left, true)].into_iter().find(|&(item, _)| is_number(item));
    let planned = last.and_then(|(item, is_left)| {
        let commutes = matches!(step.operator, Operator::Add | Operator::Multiply);
        back_step_by(step.operator, values[usize::from(item)], is_left && !commutes, seen)
    });
    if attempt.stated() == seen.target && attempt.slip.is_none() {
        return planned;
    }
    use Operator::{Add, Divide, Multiply, Subtract};
    const USUAL: [Operator; 6] = [Add, Add, Subtract, Subtract, Multiply, Divide];
    let free: Vec<u8> = derivation.free_items(attempt.from.into()).filter(|&item| is_number(item)).collect();
    planned.or_else(|| {
        (0..8).find_map(|_| {
            let item = free.get(rng.random_range(0..free.len().max(1)))?;
            let operator = USUAL[rng.random_range(0..USUAL.len())];
            let number_first = matches!(operator, Operator::Subtract | Operator::Divide) && rng.random();
            back_step_by(operator, values[usize::from(*item)], number_first, seen)
        })
    })
}

/// The backward step by one number, if what it finds is a number that the trace has not shown yet.
fn back_step_by(operator: Operator, number: i64, number_first: bool, seen: &Seen) -> Option<Event> {
    let need =
        if number_first { operator.apply(number, seen.target) } else { operator.inverse().apply(seen.target, number) };
    // Multiplying the target by a large number is nobody's plan.
    let is_new = |&need: &i64| {
        1 < need && need != seen.target && need < 10 * seen.target.max(25) && !seen.values.contains(&need)
    };
    let need = need.filter(is_new)?;
    (1 < number).then_some(Event::BackStep { operator, number, number_first, need })
}
