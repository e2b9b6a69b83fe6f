//! Countdown against the public sets and other projects' verdicts, as far as they lie beside the checkout.

use four_habits::behavior::Behavior;
use four_habits::countdown::puzzle::{Multiset, Puzzle, Split, Splits, parse_game_of_24};
use four_habits::countdown::solver::{Rules, is_solvable, solutions};
use four_habits::countdown::verdict::{Reward, Verdict, judge, judge_answer};
use four_habits::countdown::{compat, counter};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, List, RowAccessor};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;

/// A file of the puzzle sets, or a line that says why nothing was tested.
fn shared(test: &str, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/countdown")).join(name);
    #[expect(clippy::print_stderr, reason = "says why nothing was tested")]
    if !path.exists() {
        eprintln!("skipped: {test} (no ../shared/data)");
        return None;
    }
    Some(path)
}

fn json_lines(path: &PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn puzzle(row: &Value) -> Puzzle {
    let numbers: Vec<i64> = row["numbers"].as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect();
    Puzzle::from_row(&numbers, row["target"].as_i64().unwrap()).unwrap()
}

/// 4,527 answers of real models, judged by three other projects. Every difference is one of these:
///
/// - they take ASCII alone and call `(90 − 23) − (46 ÷ 46)` unparsable; we read `−`, `×` and `÷`.
///
/// TinyZero's scorer, reimplemented, gives what their run of it gave, but for one row: it scores an empty answer as one of
/// bad form, 0.1, where that run has 0 because it took the empty text for a missing one, as we do.
#[test]
fn verdicts_agree_with_three_other_projects() {
    let Some(path) = shared("verdicts_agree_with_three_other_projects", "verdicts.jsonl") else { return };
    let mut differences: BTreeMap<&str, u32> = BTreeMap::new();
    let rows = json_lines(&path);
    for row in &rows {
        let puzzle = puzzle(row);
        let answer = row["expr"].as_str();
        let verdict = answer.map_or(Verdict::Missing, |answer| judge_answer(&puzzle, answer));
        let theirs = row["tinyzero"].as_f64().unwrap();
        let has_typography = answer.is_some_and(|answer| answer.contains(['−', '×', '÷']));
        if Reward::TINYZERO.of(verdict) != theirs {
            assert!(has_typography && verdict == Verdict::Solved, "{row}");
            *differences.entry("typographic operators").or_default() += 1;
        }
        assert!(has_typography || (verdict == Verdict::Solved) == (row["reasoning_gym"] == 1.0), "{row}");
        if let Some(fault) = row.get("beibeizzz_error").filter(|_| !has_typography) {
            let expect = match fault.as_str() {
                None => Verdict::Solved,
                Some("missing_answer_tag") => Verdict::Missing,
                Some("invalid_expression") => Verdict::Unparsable,
                Some("number_mismatch") => Verdict::WrongNumbers,
                _ => Verdict::WrongValue,
            };
            assert_eq!(verdict, expect, "{row}");
        }
        let rescored = answer.map_or(0.0, |answer| compat::score_answer(&puzzle, answer));
        if rescored != theirs {
            assert_eq!(answer, Some(""));
            *differences.entry("an empty answer").or_default() += 1;
        }
    }
    assert_eq!(rows.len(), 4527);
    assert_eq!(differences, BTreeMap::from([("an empty answer", 1), ("typographic operators", 44)]));
}

/// Counts by V, B, S, W of traces of Qwen3-8B, read and counted by hand before the counter's figures were looked at. A
/// random sample of 50, on which the counter's rules were then improved.
#[rustfmt::skip]
const SAMPLE: [(&str, [u32; 4]); 50] = [
    ("023355", [0, 0, 0, 0]), ("042919", [4, 3, 0, 0]), ("028663", [2, 1, 0, 0]), ("029274", [0, 0, 0, 0]),
    ("053316", [12, 13, 0, 0]), ("027477", [2, 1, 0, 0]), ("016475", [0, 0, 0, 0]), ("015779", [7, 6, 0, 0]),
    ("029480", [3, 2, 0, 0]), ("048737", [1, 0, 0, 0]), ("027890", [6, 5, 0, 0]), ("001223", [1, 0, 0, 0]),
    ("040335", [5, 4, 0, 0]), ("048577", [1, 0, 0, 0]), ("016521", [1, 0, 0, 0]), ("035150", [1, 0, 0, 0]),
    ("005577", [1, 0, 0, 0]), ("031689", [2, 1, 0, 0]), ("025825", [4, 4, 0, 0]), ("042409", [4, 3, 0, 0]),
    ("007654", [3, 2, 0, 0]), ("034333", [2, 1, 0, 0]), ("007107", [2, 1, 0, 0]), ("011998", [5, 4, 0, 0]),
    ("005169", [6, 5, 0, 0]), ("048680", [2, 1, 0, 0]), ("054367", [4, 3, 0, 0]), ("018435", [4, 3, 0, 0]),
    ("020890", [1, 0, 0, 0]), ("047419", [8, 7, 0, 0]), ("040883", [1, 0, 0, 0]), ("006023", [7, 6, 0, 0]),
    ("030039", [3, 2, 0, 0]), ("035838", [1, 0, 0, 0]), ("002185", [1, 1, 0, 0]), ("051449", [12, 11, 0, 0]),
    ("005349", [2, 1, 0, 0]), ("051269", [5, 4, 0, 0]), ("018686", [4, 3, 0, 0]), ("049527", [5, 4, 0, 0]),
    ("024936", [7, 6, 0, 0]), ("035940", [2, 1, 0, 0]), ("014718", [5, 4, 0, 0]), ("037456", [1, 0, 0, 0]),
    ("029199", [1, 0, 0, 0]), ("003166", [1, 0, 0, 0]), ("010548", [0, 0, 0, 0]), ("014701", [2, 1, 0, 0]),
    ("014959", [8, 7, 0, 0]), ("003842", [5, 4, 0, 0]),
];
/// Read later: first those that the counter had found odd, then long ones at random, counted blind.
#[rustfmt::skip]
const LATER: [(&str, [u32; 4]); 30] = [
    ("022163", [3, 2, 0, 0]), ("017330", [8, 7, 0, 0]), ("026674", [1, 0, 0, 0]), ("052700", [1, 0, 0, 0]),
    ("032031", [2, 1, 0, 0]), ("049792", [5, 5, 0, 0]), ("015854", [1, 0, 0, 0]), ("018009", [0, 0, 0, 0]),
    ("008198", [12, 12, 0, 0]), ("048121", [2, 1, 0, 0]), ("035685", [4, 3, 0, 0]), ("028666", [1, 0, 0, 0]),
    ("018122", [1, 0, 0, 0]), ("026122", [1, 1, 0, 0]), ("001728", [6, 6, 1, 0]), ("023028", [2, 1, 0, 0]),
    ("039573", [3, 5, 0, 0]), ("049346", [7, 7, 0, 0]), ("021502", [1, 1, 0, 0]), ("008622", [7, 6, 0, 0]),
    ("017794", [3, 2, 0, 0]), ("034347", [7, 6, 0, 0]),
    ("009548", [5, 6, 0, 0]), ("035700", [5, 4, 0, 0]), ("019071", [9, 8, 0, 0]), ("033094", [5, 4, 0, 0]),
    ("022255", [6, 6, 0, 0]), ("049092", [7, 6, 0, 0]), ("051057", [6, 5, 0, 0]), ("005992", [10, 9, 0, 0]),
];

#[test]
fn the_counter_agrees_with_counts_by_hand() {
    let Some(path) = shared("the_counter_agrees_with_counts_by_hand", "beibeizzz_sft_teacher_traces_2k.jsonl") else {
        return;
    };
    let traces: BTreeMap<String, Value> =
        json_lines(&path).into_iter().map(|row| (row["id"].as_str().unwrap().to_owned(), row)).collect();
    for (rows, n_exact) in [(&SAMPLE[..], 48), (&LATER[..], 28)] {
        let mut exact = 0;
        let mut errors = [0u32; 4];
        let mut total = [0u32; 4];
        for (id, by_hand) in rows {
            let row = &traces[&format!("train-{id}")];
            let text = counter::thought(row["response"].as_str().unwrap());
            let counts = counter::read(&puzzle(row), text).counts;
            exact += usize::from(counts == *by_hand);
            for behavior in Behavior::ALL.map(Behavior::index) {
                errors[behavior] += counts[behavior].abs_diff(by_hand[behavior]);
                total[behavior] += by_hand[behavior];
            }
        }
        assert!(n_exact <= exact, "{exact} of {}", rows.len());
        let of = |behavior: Behavior| (errors[behavior.index()], total[behavior.index()]);
        for behavior in [Behavior::Verification, Behavior::Backtracking] {
            let (errors, total) = of(behavior);
            assert!(errors * 50 <= total, "{behavior:?}: off by {errors} of {total}");
        }
        // These traces hardly ever set subgoals or reason backwards: what can be tested is that little is imagined.
        assert!(of(Behavior::SubgoalSetting).0 <= 1 && of(Behavior::BackwardChaining).0 == 0, "{errors:?}");
    }
}

/// Every one of them ends with a solution, in Markdown and LaTeX of many kinds.
#[test]
fn the_counter_finds_the_solution_in_real_traces() {
    let Some(path) = shared("the_counter_finds_the_solution", "beibeizzz_sft_teacher_traces_2k.jsonl") else { return };
    let rows = json_lines(&path);
    let mut n_found = 0;
    for row in &rows {
        let (puzzle, response) = (puzzle(row), row["response"].as_str().unwrap());
        assert_eq!(judge(&puzzle, response), Verdict::Solved, "{}", row["id"]);
        n_found += usize::from(counter::read(&puzzle, counter::thought(response)).first_solving.is_some());
    }
    assert!(rows.len() * 99 <= n_found * 100, "{n_found} of {}", rows.len());
}

#[test]
fn the_game_of_24_is_solved_and_its_order_of_difficulty_felt() {
    let Some(path) = shared("the_game_of_24_is_solved", "tot_24.csv") else { return };
    let rows = parse_game_of_24(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(rows.len(), 1362);
    let mut ranked: Vec<(f64, f64)> = Vec::new();
    for row in &rows {
        let found = solutions(&row.puzzle, Rules::RATIONAL);
        ranked.push((row.solve_rate, found.easiest().unwrap().effort));
    }
    // People fail where the easiest solution takes more effort: halves by effort differ in their solve rates.
    ranked.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mean = |rows: &[(f64, f64)]| rows.iter().map(|row| row.0).sum::<f64>() / rows.len() as f64;
    let (easy, hard) = ranked.split_at(ranked.len() / 2);
    assert!(mean(hard) + 0.02 < mean(easy), "{} {}", mean(easy), mean(hard));
}

fn three_to_four(path: &PathBuf) -> Vec<Puzzle> {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let schema = reader.metadata().file_metadata().schema().clone();
    let column = |name: &str| schema.get_fields().iter().position(|field| field.name() == name).unwrap();
    let (target, numbers) = (column("target"), column("nums"));
    let whole = |field: &Field| match field {
        Field::Long(value) => *value,
        other => panic!("{other:?}"),
    };
    let rows = reader.get_row_iter(None).unwrap().map(|row| {
        let row = row.unwrap();
        let list: &List = row.get_list(numbers).unwrap();
        let numbers: Vec<i64> = list.elements().iter().map(whole).collect();
        Puzzle::from_row(&numbers, row.get_long(target).unwrap()).unwrap()
    });
    rows.collect()
}

#[test]
fn the_public_three_to_four_set_is_read_solved_and_split_without_leaks() {
    let Some(path) = shared("the_public_three_to_four_set", "beibeizzz_raw_train.parquet") else { return };
    let puzzles = three_to_four(&path);
    assert_eq!(puzzles.len(), 117_000);
    let unsolvable = puzzles.iter().take(5000).filter(|puzzle| !is_solvable(puzzle, Rules::RATIONAL)).count();
    assert_eq!(unsolvable, 0);

    let splits = Splits { seed: 1, test: 0.1, validation: 0.05 };
    let of = |split: Split| -> BTreeSet<Multiset> {
        puzzles.iter().map(Puzzle::multiset).filter(|multiset| splits.of(multiset) == split).collect()
    };
    let (train, test) = (of(Split::Train), of(Split::Test));
    assert!(train.is_disjoint(&test) && train.is_disjoint(&of(Split::Validation)));
    assert!((0.08..0.12).contains(&(test.len() as f64 / (test.len() + train.len()) as f64)));
}

#[test]
fn other_puzzle_files_are_read() {
    let Some(path) = shared("other_puzzle_files_are_read", "d1_countdown_cd3_test_256.jsonl") else { return };
    for row in json_lines(&path) {
        let target = row["output"].as_str().unwrap().parse().unwrap();
        let puzzle = Puzzle::from_text(row["input"].as_str().unwrap(), target).unwrap();
        assert_eq!(puzzle.numbers().len(), 3);
        assert!(is_solvable(&puzzle, Rules::RATIONAL), "{puzzle:?}");
    }
}
