//! Priming traces as a stage: every condition on the same puzzles, equal bytes after any kill, clear errors for bad input.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, UInt64Type};
use four_habits::countdown::condition::Condition;
use four_habits::countdown::puzzle::Puzzle;
use four_habits::countdown::verdict::{Verdict, judge};
use four_habits::data::sidecar;

use super::program::Workplace;

/// Every condition that needs no tokenizer, a few traces of each.
const RECIPE: &str = r#"seed = 5

[prime]
conditions = ["all-strategies", "only-backtracking", "backtracking-verification", "backtracking-backward", "backtracking-subgoal", "direct", "scrambled", "empty"]
train = 60
test = 12
answers = "mixed"
[prime.rl]
train = 30
test = 6
"#;

fn workplace(recipe: &str) -> Workplace {
    Workplace::with(recipe, &[])
}

fn table(workplace: &Workplace, run: &str, name: &str) -> RecordBatch {
    sidecar::read(&workplace.path(run).join("prime").join(name)).unwrap()
}

/// The puzzles of a table whose columns are `numbers` and `target`.
fn puzzles(numbers: &dyn Array, target: &dyn Array) -> Vec<Puzzle> {
    let targets = target.as_primitive::<Int32Type>();
    let lists = numbers.as_list::<i32>().iter().zip(targets.values());
    let unsigned = |list: &dyn Array| -> Vec<u32> {
        list.as_primitive::<Int32Type>().values().iter().map(|&number| number as u32).collect()
    };
    lists.map(|(list, &target)| Puzzle::new(&unsigned(&list.unwrap()), target as u32).unwrap()).collect()
}

fn traces_of(table: &RecordBatch) -> Vec<Puzzle> {
    puzzles(table.column_by_name("numbers").unwrap(), table.column_by_name("target").unwrap())
}

fn multisets(puzzles: &[Puzzle]) -> BTreeSet<String> {
    puzzles.iter().map(|puzzle| puzzle.multiset().to_string()).collect()
}

#[test]
fn all_conditions_hold_the_same_puzzles_and_what_they_say_is_true() {
    let workplace = workplace(RECIPE);
    let ended = workplace.run("run", &[]).expect(0);
    assert!(ended.stderr.contains("all-strategies"), "{}", ended.stderr);
    workplace.verify("run");
    let [made, kept, dropped, quarantined] = workplace.counts("run", "prime");
    assert_eq!((made - dropped, kept, quarantined), (8 * 72, 8 * 72, 0));

    let mut of_first: Option<(Vec<Puzzle>, Vec<u64>)> = None;
    let mut priming = BTreeSet::new();
    for condition in Condition::ALL.into_iter().filter(|condition| *condition != Condition::Dots) {
        let train = table(&workplace, "run", &format!("{}/train.parquet", condition.name()));
        let test = table(&workplace, "run", &format!("{}/test.parquet", condition.name()));
        assert_eq!((train.num_rows(), test.num_rows()), (60, 12));
        let puzzles = traces_of(&train);
        assert!(multisets(&puzzles).is_disjoint(&multisets(&traces_of(&test))));
        priming.extend(multisets(&puzzles));
        let text = |name: &str| train.column_by_name(name).unwrap().as_string::<i32>().clone();
        let (queries, completions, verdicts) = (text("query"), text("completion"), text("verdict"));
        let strata = text("stratum");
        let turns = train.column_by_name("messages").unwrap().as_list::<i32>();
        for (row, puzzle) in puzzles.iter().enumerate() {
            let verdict = judge(puzzle, completions.value(row));
            assert_eq!(verdict.name(), verdicts.value(row));
            assert_eq!(verdict == Verdict::Solved, strata.is_null(row));
            let chat = turns.value(row);
            let contents = chat.as_struct().column_by_name("content").unwrap().as_string::<i32>();
            let said = [contents.value(0), contents.value(1)].concat();
            assert_eq!(said, [queries.value(row), completions.value(row)].concat());
        }
        let pairs = train.column_by_name("pair_id").unwrap().as_primitive::<UInt64Type>().values().to_vec();
        let (first_puzzles, first_pairs) = of_first.get_or_insert_with(|| (puzzles.clone(), pairs.clone()));
        assert_eq!((&puzzles, &pairs), (&*first_puzzles, &*first_pairs), "{}", condition.name());
    }

    for split in ["train", "test"] {
        let prompts = table(&workplace, "run", &format!("verl/{split}.parquet"));
        let truth = prompts.column_by_name("reward_model").unwrap().as_struct().column_by_name("ground_truth").unwrap();
        let truth = truth.as_struct();
        let puzzles = puzzles(truth.column_by_name("numbers").unwrap(), truth.column_by_name("target").unwrap());
        assert_eq!(puzzles.len(), if split == "train" { 60 } else { 12 });
        assert!(multisets(&puzzles).is_disjoint(&priming), "priming traces leak into RL's {split}");
        let prompt = prompts.column_by_name("prompt").unwrap().as_list::<i32>().value(0);
        let content = prompt.as_struct().column_by_name("content").unwrap().as_string::<i32>();
        assert!(content.value(0).ends_with("<think>"));
    }

    let fairness = workplace.json("run/prime/fairness.json");
    assert_eq!(fairness["same_puzzles"], true);
    for set in ["test", "verl-train", "verl-test", "excluded"] {
        assert_eq!(fairness["overlap"][set], 0, "{set}");
    }
    let card = std::fs::read_to_string(workplace.path("run/prime/README.md")).unwrap();
    assert!(card.contains("of 2.60"), "the card holds the paper's counts: {card}");
}

#[test]
fn a_killed_run_goes_on_to_equal_bytes() {
    let workplace = workplace(RECIPE);
    workplace.run("whole", &["--threads", "1"]).expect(0);
    let whole = workplace.files("whole");
    for point in [1, 4, 9, 30, 60] {
        let run = format!("killed-{point}");
        workplace.run_killed_at(point, &run, &[]);
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
    }
}

#[test]
fn a_limit_caps_the_traces_of_each_condition() {
    let workplace = workplace(RECIPE);
    workplace.run("run", &["--limit", "7"]).expect(0);
    assert_eq!(table(&workplace, "run", "direct/train.parquet").num_rows(), 7);
    let plan = workplace.call(&["plan", "--json", "recipe.toml"]).expect(0).json();
    assert_eq!(plan["stages"][0]["stage"], "prime");
    workplace.call(&["status", "run"]).expect(0);
}

#[test]
fn twins_of_two_arms_share_their_beginning() {
    let recipe = "[prime]\nconditions = [\"all-strategies\"]\ntrain = 40\ntest = 5\n\n[arm.correct.prime]\nanswers = \"correct\"\n\n[arm.wrong.prime]\nanswers = \"wrong\"\n";
    let workplace = workplace(recipe);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    // The arm `correct` changes nothing: its traces stand where those of all arms do.
    let read = |folder: &str| {
        let file = workplace.path("run").join(folder).join("prime/all-strategies/train.parquet");
        let table = sidecar::read(&file).unwrap();
        let text = table.column_by_name("completion").unwrap().as_string::<i32>().clone();
        let pairs = table.column_by_name("pair_id").unwrap().as_primitive::<UInt64Type>().values().to_vec();
        pairs.into_iter().zip(text.iter().map(|text| text.unwrap().to_owned())).collect::<Vec<_>>()
    };
    let (correct, wrong) = (read(""), read("arms/wrong"));
    assert_eq!(wrong.len(), 40);
    let mut twins = 0;
    for (pair, text) in &correct {
        let Some((_, twin)) = wrong.iter().find(|(other, _)| other == pair) else { continue };
        assert!(text.len().abs_diff(twin.len()) <= (text.len() / 20).max(4));
        twins += 1;
    }
    assert!(twins >= 30, "{twins} of 40 have a twin");
}

#[test]
fn excluded_puzzles_never_come_up() {
    let recipe = "[prime]\nconditions = [\"direct\"]\ntrain = 50\ntest = 5\nsizes = [3]\nnumbers = [1, 9]\nexclude = [\"taken.jsonl\"]\n";
    let workplace = workplace(recipe);
    let taken: String = (1..=9).map(|number| format!("{{\"nums\": [9, {number}, 9], \"target\": 10}}\n")).collect();
    workplace.put("taken.jsonl", taken.as_bytes());
    workplace.run("run", &[]).expect(0);
    for puzzle in traces_of(&table(&workplace, "run", "direct/train.parquet")) {
        assert!(puzzle.numbers().iter().filter(|&&number| number == 9).count() < 2, "{puzzle:?}");
    }
    workplace.put("taken.jsonl", b"{\"nums\": [1, -2, 3]}\n");
    workplace.run("other", &[]).fails(2, "`taken.jsonl`: line 1 has a number");
}

#[test]
fn bad_recipes_are_refused_before_work() {
    let check = |from: &str, to: &str, sentence: &str| {
        assert!(RECIPE.contains(from), "{from}");
        let workplace = workplace(&RECIPE.replace(from, to));
        let ended = workplace.run("run", &[]).fails(2, sentence);
        assert!(!workplace.path("run").exists(), "nothing was made");
        ended
    };
    check("\"direct\"", "\"dircet\"", "unknown variant `dircet`").hints("`direct`");
    check("\"direct\"", "\"dots\"", "key `prime.conditions`: `dots` matches lengths in tokens");
    check("train = 60", "train = 0", "line 5, key `prime.train`");
    check("test = 12", "test = 12\nnumbers = [5, 2]", "key `prime.numbers`: expected the lowest and the highest");
    check("test = 12", "test = 12\nnumbers = [0, 2]", "key `prime.numbers`");
    check("test = 12", "test = 12\nsizes = [9]", "key `prime.sizes`");
    check("test = 12", "test = 12\nnumbers = [1, 2]\ntargets = [500, 600]", "below the lowest target 500");
    check("test = 12", "test = 12\nsizes = [2]\nnumbers = [50, 50]\ntargets = [7, 7]", "can be used");
    check("test = 12", "test = 12\nquery = \"absent.txt\"", "cannot read `absent.txt`");
    check("test = 12", "test = 12\ntokenizer = \"absent.json\"", "cannot load the tokenizer `absent.json`");
    check("test = 12", "test = 12\nexclude = [\"recipe.toml\"]", "ends with neither `.parquet` nor `.jsonl`");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let workplace = workplace(RECIPE);
    workplace.put("file", b"not a folder");
    let ended = workplace.call(&["run", "recipe.toml", "--run-dir", "file/run"]);
    assert!(ended.exit != 0 && ended.stderr.contains("`file"), "{}", ended.stderr);
}

#[test]
fn dots_are_as_long_as_the_thought() {
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/models");
    let found = glob::glob(&format!("{tokenizer}/**/tokenizer.json")).unwrap().flatten().next();
    let Some(path) = found else {
        println!("skipped: dots (no ../shared/data)");
        return;
    };
    let recipe = format!(
        "[prime]\nconditions = [\"all-strategies\", \"dots\"]\ntrain = 20\ntest = 5\ntokenizer = \"{}\"\n",
        Path::new(&path).display()
    );
    let workplace = workplace(&recipe);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    let fairness = workplace.json("run/prime/fairness.json");
    assert_eq!(fairness["length_unit"], "tokens");
    let mean = |condition: &str| fairness["conditions"][condition]["train"]["length"]["mean"].as_f64().unwrap();
    assert!((mean("dots") / mean("all-strategies") - 1.0).abs() < 0.02);
}
