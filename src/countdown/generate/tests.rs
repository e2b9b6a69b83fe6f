use super::*;
use crate::countdown::counter;
use crate::countdown::draw::{PuzzleSpec, Source};
use crate::countdown::gates::length_slack;
use std::collections::BTreeSet;

fn generator(spec: TraceSpec, puzzles: PuzzleSpec) -> Generator {
    let draw = Draw::new(Source::Drawn(puzzles), BTreeSet::new(), None, 5).unwrap();
    let words: CountTokens = Arc::new(|text| text.split_whitespace().count());
    Generator::new(spec, draw, QueryTemplate::built_in().unwrap(), Some(words)).unwrap()
}

/// Every condition, diversity and puzzle shape, `n` traces each.
fn for_all(answers: Answers, n: u64, mut check: impl FnMut(&TraceSpec, u64, Result<TraceRecord, TraceFault>)) {
    for condition in Condition::ALL {
        for diversity in [Diversity::Full, Diversity::Terse] {
            for puzzles in [PuzzleSpec::paper(), PuzzleSpec::three_to_four()] {
                let spec = TraceSpec { answers, diversity, ..TraceSpec::new(condition, 11) };
                let generator = generator(spec.clone(), puzzles);
                for index in 0..n {
                    check(&spec, index, generator.trace(index));
                }
            }
        }
    }
}

#[test]
fn every_correct_trace_passes_every_gate() {
    for_all(Answers::Correct, 300, |spec, index, trace| {
        let found = trace.map(|trace| (trace.verdict, trace.stratum));
        assert_eq!(found, Ok((Verdict::Solved, None)), "{spec:?} {index}");
    });
}

#[test]
fn nearly_every_wrong_trace_finds_a_twin_and_none_is_right() {
    let (mut n_traces, mut n_faults) = (0, 0);
    for_all(Answers::Wrong, 200, |spec, index, trace| {
        n_traces += 1;
        match trace {
            Ok(trace) => assert_ne!(trace.verdict, Verdict::Solved),
            // A short trace over few numbers may have no wrong twin of its length.
            Err(TraceFault::Twin | TraceFault::Gate(GateFault::Length(..) | GateFault::Solving { .. })) => {
                n_faults += 1
            }
            Err(fault) => assert_eq!(fault, TraceFault::Twin, "{spec:?} {index}"),
        }
    });
    assert!(n_faults * 100 <= n_traces, "{n_faults} of {n_traces}");
}

#[test]
fn conditions_show_their_behaviors_and_no_others() {
    for_all(Answers::Correct, 100, |spec, _, trace| {
        let trace = trace.unwrap();
        let text = counter::read(&trace.puzzle, counter::thought(&trace.completion));
        assert_eq!(trace.counts, text.counts);
        for behavior in crate::behavior::Behavior::ALL {
            let may_show = spec.condition.shows().contains(&behavior) || spec.condition == Condition::Scrambled;
            assert!(may_show || trace.counts[behavior.index()] == 0, "{spec:?}");
        }
    });
}

#[test]
fn held_out_phrases_are_read_like_the_others() {
    for condition in [Condition::AllStrategies, Condition::BacktrackingSubgoal] {
        for phrases in [PhraseShare::HeldOut, PhraseShare::Training] {
            let generator = generator(TraceSpec { phrases, ..TraceSpec::new(condition, 4) }, PuzzleSpec::paper());
            for index in 0..500 {
                let trace = generator.trace(index).unwrap();
                let is_held_out = |phrase: &u16| phrase % 1000 % 5 == 4;
                assert!(trace.phrases.iter().all(|phrase| is_held_out(phrase) == (phrases == PhraseShare::HeldOut)));
            }
        }
    }
}

#[test]
fn twins_differ_in_the_last_segment_alone() {
    let spec = TraceSpec { answers: Answers::Wrong, ..TraceSpec::new(Condition::AllStrategies, 3) };
    let generator = generator(spec, PuzzleSpec::paper());
    let mut strata = BTreeSet::new();
    let mut shared = 0.0;
    for (correct, wrong) in (0..400).filter_map(|index| generator.pair(index).ok()) {
        assert_eq!((correct.pair_id, correct.puzzle, correct.counts), (wrong.pair_id, wrong.puzzle, wrong.counts));
        assert_eq!(correct.query, wrong.query);
        assert!(correct.completion.len().abs_diff(wrong.completion.len()) <= length_slack(correct.completion.len()));
        let n_shared = correct.completion.bytes().zip(wrong.completion.bytes()).take_while(|(a, b)| a == b).count();
        shared += n_shared as f64 / correct.completion.len() as f64 / 400.0;
        strata.extend(wrong.stratum);
    }
    assert_eq!(strata.len(), 3);
    assert!(0.4 < shared, "{shared}");
}

#[test]
fn a_trace_depends_on_seed_and_index_alone() {
    let spec = TraceSpec { answers: Answers::Mixed, ..TraceSpec::new(Condition::AllStrategies, 3) };
    let one = generator(spec.clone(), PuzzleSpec::paper());
    let two = generator(spec, PuzzleSpec::paper());
    let backwards: Vec<_> = (0..50).rev().map(|index| two.trace(index)).collect();
    for (index, expect) in (0..50).rev().zip(backwards) {
        assert_eq!(one.trace(index), expect);
    }
    let other = generator(TraceSpec::new(Condition::AllStrategies, 4), PuzzleSpec::paper());
    assert_ne!(one.trace(0), other.trace(0));
}

#[test]
fn conditions_share_puzzles_answers_and_queries() {
    let of = |condition| generator(TraceSpec::new(condition, 9), PuzzleSpec::paper());
    let all = of(Condition::AllStrategies);
    for condition in Condition::ALL {
        let other = of(condition);
        for index in 0..50 {
            let (a, b) = (all.trace(index).unwrap(), other.trace(index).unwrap());
            assert_eq!((a.puzzle, &a.query, a.pair_id), (b.puzzle, &b.query, b.pair_id));
            if matches!(condition, Condition::Scrambled | Condition::Empty | Condition::Dots) {
                assert_eq!(a.completion.rsplit('\n').next(), b.completion.rsplit('\n').next());
            }
        }
    }
}

#[test]
fn dots_have_as_many_tokens_as_the_thought() {
    let tokens = |text: &str| text.split_whitespace().count();
    let all = generator(TraceSpec::new(Condition::AllStrategies, 9), PuzzleSpec::paper());
    let dots = generator(TraceSpec::new(Condition::Dots, 9), PuzzleSpec::paper());
    for index in 0..100 {
        let (a, b) = (all.trace(index).unwrap(), dots.trace(index).unwrap());
        assert_eq!(tokens(&a.completion), tokens(&b.completion));
        let thought = counter::thought(&b.completion);
        assert!(thought.split_whitespace().all(|word| word == "."));
    }
}

#[test]
fn dots_that_a_tokenizer_joins_are_matched_too() {
    // Three dots are one token.
    let joins: CountTokens = Arc::new(|text| {
        let words = text.split_whitespace();
        let (dots, others): (Vec<&str>, Vec<&str>) = words.partition(|word| *word == ".");
        others.len() + dots.len().div_ceil(3)
    });
    let draw = Draw::new(Source::Drawn(PuzzleSpec::paper()), BTreeSet::new(), None, 5).unwrap();
    let spec = TraceSpec::new(Condition::Dots, 9);
    let generator = Generator::new(spec, draw, QueryTemplate::built_in().unwrap(), Some(joins)).unwrap();
    assert!((0..50).all(|index| generator.trace(index).is_ok()));
}

#[test]
fn mistakes_are_said_before_anything_is_made() {
    let check = |spec: TraceSpec, expect: &str| {
        let draw = Draw::new(Source::Drawn(PuzzleSpec::paper()), BTreeSet::new(), None, 5).unwrap();
        let found = Generator::new(spec, draw, QueryTemplate::built_in().unwrap(), None);
        assert_eq!(found.err().map(|fault| fault.to_string()).as_deref(), Some(expect));
    };
    let all = || TraceSpec::new(Condition::AllStrategies, 1);
    check(TraceSpec::new(Condition::Dots, 1), "`dots` needs a tokenizer to match lengths");
    let strata = Strata { slip: 0.0, rule_break: 0.0, give_up: 0.0 };
    check(TraceSpec { strata, ..all() }, "the weights of `strata` do not add up to anything");
    let habits = Condition::AllStrategies.habits();
    check(
        TraceSpec { habits: Some(Habits { failed_tries: 11.0, ..habits }), ..all() },
        "`failed-tries` cannot be reached on average",
    );
    check(
        TraceSpec { habits: Some(Habits { subgoals: 1.5, ..habits }), ..all() },
        "a share of the habits is not within 0 and 1",
    );
}

#[test]
fn a_given_puzzle_has_its_trace() {
    let puzzle = Puzzle::new(&[3, 5, 7], 36).unwrap();
    let draw = Draw::new(Source::Given, BTreeSet::new(), None, 5).unwrap();
    let solution = draw.solution(4, &puzzle).unwrap();
    let generator =
        Generator::new(TraceSpec::new(Condition::Direct, 1), draw, QueryTemplate::built_in().unwrap(), None).unwrap();
    let trace = generator.trace_on(4, &puzzle, &solution).unwrap();
    assert_eq!((trace.puzzle, trace.verdict, trace.pair_id), (puzzle, Verdict::Solved, pair_id(1, 4)));
    assert_eq!(generator.trace(4), Err(TraceFault::Puzzle));
}

#[test]
fn odds_of_failure_give_the_mean() {
    for (mean, max) in [(0.0, 0), (2.6, 10), (1.0, 3), (9.0, 10)] {
        let odds = failure_odds(mean, max).unwrap();
        let found: f64 = (1..=i32::from(max)).map(|n| odds.powi(n)).sum();
        assert!((found - mean).abs() < 1e-6, "{mean} {max}");
    }
    assert_eq!(failure_odds(3.0, 2), None);
    assert_eq!(failure_odds(f64::NAN, 2), None);
}
