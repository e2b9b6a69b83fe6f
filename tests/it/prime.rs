//! Priming traces as a stage: every condition on the same puzzles, equal bytes after any kill, clear errors for bad input.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, UInt64Type};
use four_habits::countdown::condition::Condition;
use four_habits::countdown::puzzle::{Multiset, Puzzle};
use four_habits::countdown::query::QueryTemplate;
use four_habits::countdown::solver::{Rules, is_solvable};
use four_habits::countdown::verdict::{Verdict, judge};
use four_habits::data::sidecar;
use parquet::arrow::ArrowWriter;

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
            assert_eq!(queries.value(row), QueryTemplate::built_in().unwrap().fill(puzzle));
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
        assert_eq!(puzzles.len(), if split == "train" { 30 } else { 6 });
        assert!(multisets(&puzzles).is_disjoint(&priming), "priming traces leak into RL's {split}");
        // Priming and RL ask with the same bytes.
        let template = QueryTemplate::built_in().unwrap();
        let turns = prompts.column_by_name("prompt").unwrap().as_list::<i32>().clone();
        for (turn, puzzle) in turns.iter().zip(&puzzles) {
            let turn = turn.unwrap();
            let content = turn.as_struct().column_by_name("content").unwrap().as_string::<i32>();
            assert_eq!(content.value(0), template.fill(puzzle));
        }
    }

    let fairness = workplace.json("run/prime/fairness.json");
    assert_eq!(fairness["same_puzzles"], true);
    for set in ["test", "verl-train", "verl-test", "excluded"] {
        assert_eq!(fairness["overlap"][set], 0, "{set}");
    }
    let card = std::fs::read_to_string(workplace.path("run/prime/README.md")).unwrap();
    assert!(card.contains("of 2.60"), "the card holds the paper's counts: {card}");
}

/// Every commit of the stage, and of the run around it, is a place to die at.
#[test]
fn a_run_killed_at_any_step_goes_on_to_equal_bytes() {
    let recipe = "[prime]\nconditions = [\"all-strategies\", \"empty\"]\ntrain = 12\ntest = 3\n\n[prime.rl]\ntrain = 5\ntest = 2\n";
    let workplace = workplace(recipe);
    workplace.run("whole", &["--threads", "1"]).expect(0);
    let whole = workplace.files("whole");
    let mut n_killed = 0;
    for point in 1.. {
        let run = format!("killed-{point}");
        if workplace.run_killed_at(point, &run, &[]).exit == 0 {
            break;
        }
        n_killed += 1;
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
    }
    assert!(n_killed > 20, "only {n_killed} steps");
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
    let numbers = || (1..=9).map(|number| [9, number, 9]);
    let lines: String = numbers().map(|numbers| format!("{{\"nums\": {numbers:?}, \"target\": 10}}\n")).collect();
    let csv: String = numbers().map(|[a, b, c]| format!("{a} {b} {c}\n")).collect();
    for (name, bytes) in [
        ("taken.jsonl", lines.into_bytes()),
        ("taken.csv", format!("Puzzles\n{csv}").into_bytes()),
        ("taken.parquet", puzzle_table(numbers().map(|numbers| (numbers.map(i64::from).to_vec(), 10)))),
    ] {
        let recipe = format!(
            "[prime]\nconditions = [\"direct\"]\ntrain = 50\ntest = 5\nsizes = [3]\nnumbers = [1, 9]\nexclude = [\"{name}\"]\n"
        );
        let workplace = workplace(&recipe);
        workplace.put(name, &bytes);
        workplace.run("run", &[]).expect(0);
        for puzzle in traces_of(&table(&workplace, "run", "direct/train.parquet")) {
            assert!(puzzle.numbers().iter().filter(|&&number| number == 9).count() < 2, "{name}: {puzzle:?}");
        }
    }
    let workplace = workplace("[prime]\nconditions = [\"direct\"]\nexclude = [\"taken.jsonl\"]\n");
    workplace.put("taken.jsonl", b"{\"nums\": [1, -2, 3]}\n");
    workplace.run("other", &[]).fails(2, "`taken.jsonl`: row 1 has no numbers, or one that is not whole or below 0");
}

/// A Parquet file of puzzles as the public 3-to-4 set has them.
fn puzzle_table(rows: impl Iterator<Item = (Vec<i64>, i64)>) -> Vec<u8> {
    let (numbers, targets): (Vec<Vec<i64>>, Vec<i64>) = rows.unzip();
    let lists = numbers.iter().map(|numbers| Some(numbers.iter().copied().map(Some).collect::<Vec<_>>()));
    let numbers: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists));
    let targets: ArrayRef = Arc::new(Int64Array::from(targets));
    let batch = RecordBatch::try_from_iter([("nums", numbers), ("target", targets)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn puzzle_files_are_sifted_and_every_row_is_accounted_for() {
    let recipe = "[prime]\nconditions = [\"direct\", \"all-strategies\"]\ntrain = 20\ntest = 2\npuzzles = [\"a.jsonl\", \"b.parquet\"]\nexclude = [\"taken.jsonl\"]\n\n[prime.rl]\ntrain = 10\ntest = 2\n";
    let workplace = workplace(recipe);
    let mut lines: String =
        (1..60).map(|n| format!("{{\"numbers\": [{n}, 5, 7], \"target\": {}}}\n", n + 12)).collect();
    for odd in [
        "[1, 1, 1], \"target\": 500",
        "[0, 5], \"target\": 5",
        "[1.5, 5], \"target\": 5",
        "[1,2,3,4,5,6,7], \"target\": 5",
    ] {
        lines.insert_str(0, &format!("{{\"numbers\": {odd}}}\n"));
    }
    workplace.put("a.jsonl", lines.as_bytes());
    workplace.put("b.parquet", &puzzle_table((60..140).map(|n| (vec![7, n, 5], n + 12))));
    workplace.put("taken.jsonl", b"{\"nums\": [7, 5, 3]}\n");
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    let fairness = workplace.json("run/prime/fairness.json");
    let mut of_split = Vec::new();
    for (part, used) in [("train", 20), ("test", 2), ("verl-train", 10), ("verl-test", 2)] {
        let counts = &fairness["puzzles"][part];
        let unused = counts["unused"].as_object().unwrap();
        let n_unused: u64 = unused.values().map(|rows| rows.as_u64().unwrap()).sum();
        assert_eq!(counts["used"], used, "{counts}");
        assert_eq!(counts["rows"].as_u64().unwrap(), used + n_unused, "{counts}");
        assert_eq!((&unused["out-of-range"], &unused["not-whole"]), (&2.into(), &1.into()), "{counts}");
        of_split.push(unused.get("unsolvable").map_or(0, |rows| rows.as_u64().unwrap()));
    }
    assert_eq!(of_split[0] + of_split[2] + of_split[1].max(of_split[3]), 1, "the unsolvable row is in one split");
    let train = traces_of(&table(&workplace, "run", "direct/train.parquet"));
    assert_eq!(train, traces_of(&table(&workplace, "run", "all-strategies/train.parquet")));
    let first: Vec<u32> = train.iter().map(|puzzle| puzzle.target()).collect();
    assert!(first.is_sorted(), "rows come in the files' order: {first:?}");
    let card = std::fs::read_to_string(workplace.path("run/prime/README.md")).unwrap();
    assert!(card.contains("`a.jsonl`, `b.parquet`") && card.contains("other-split"), "{card}");

    // Another content is another plan.
    let ids = |run: &str| workplace.json(&format!("{run}/plan.json"))["plan_id"].clone();
    workplace.put("b.parquet", &puzzle_table((60..141).map(|n| (vec![7, n, 5], n + 12))));
    workplace.run("changed", &[]).expect(0);
    assert_ne!(ids("run"), ids("changed"));
    // More than there is: said with the reasons, and nothing is repeated.
    workplace.put("recipe.toml", recipe.replace("train = 20", "train = 500").as_bytes());
    workplace.run("short", &[]).fails(65, "puzzles for `train`, and 500 are wanted").hints("add puzzle files");
    workplace.put("recipe.toml", recipe.replace("a.jsonl", "absent.jsonl").as_bytes());
    workplace.run("absent", &[]).fails(2, "absent.jsonl");
    workplace.put("recipe.toml", recipe.replace("test = 2\np", "test = 2\ntargets = [1, 2]\np").as_bytes());
    workplace.run("none", &[]).fails(65, "out-of-range");
}

#[test]
fn public_puzzle_sets_are_read_as_they_come() {
    let data = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/countdown"));
    if !data.exists() {
        println!("skipped: public puzzle sets (no ../shared/data)");
        return;
    }
    let check = |name: &str, train: u64, rules: Rules| {
        let file = data.join(name);
        let workplace = workplace(&format!(
            "[prime]\nconditions = [\"all-strategies\"]\ntrain = {train}\ntest = 20\npuzzles = [\"{}\"]\n\n[prime.rl]\ntrain = 50\ntest = 20\n",
            file.display()
        ));
        workplace.run("run", &[]).expect(0);
        let train_puzzles = traces_of(&table(&workplace, "run", "all-strategies/train.parquet"));
        assert_eq!(train_puzzles.len() as u64, train);
        assert!(train_puzzles.iter().all(|puzzle| is_solvable(puzzle, rules)));
        let numbers: BTreeSet<Multiset> = train_puzzles.iter().map(Puzzle::multiset).collect();
        let test = traces_of(&table(&workplace, "run", "all-strategies/test.parquet"));
        assert!(test.iter().all(|puzzle| !numbers.contains(&puzzle.multiset())));
        workplace.json("run/prime/fairness.json")["puzzles"]["train"].clone()
    };
    let counts = check("beibeizzz_raw_train.parquet", 300, Rules::NATURAL);
    assert!(counts["rows"].as_u64().unwrap() < 1000, "no more is read than is used: {counts}");
    let counts = check("tot_24.csv", 300, Rules::NATURAL);
    assert!(counts["unused"]["unsolvable"].as_u64().is_none_or(|rows| rows < 20), "{counts}");
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
    check("test = 12", "test = 12\nexclude = [\"recipe.toml\"]", "ends with none of `.parquet`, `.jsonl` and `.csv`");
    check("test = 12", "test = 12\npuzzles = [\"recipe.toml\"]", "ends with none of `.parquet`, `.jsonl` and `.csv`");
    check("test = 12", "test = 12\npuzzles = [\"absent.csv\"]", "absent.csv");
    check("test = 12", "test = 12\ntargets = [0, 5]", "key `prime.targets`: expected the lowest and the highest");
    check("test = 12", "test = 12\ntargets = [5, 2000000]", "key `prime.targets`");
    check("test = 12", "test = 12\nnumbers = [1, 4294967296]", "key `prime.numbers[1]`");
    check("test = 12", "test = 12\nnumbers = [1, 1000000]\nsizes = [6]", "too large to be searched exactly");
    check("train = 60", "train = 99999999999999", "key `prime.train`");
    check("train = 60", "train = -1", "line 5");
    check("train = 30", "train = 0", "key `prime.rl.train`");
    check("train = 60", "train = 60\nverl = true", "unknown field `verl`");
    check("test = 12", "test = 12\nwrong-share = 2.0", "key `prime.wrong-share`");
    check("test = 12", "test = 12\nauthor = { attempts = 0 }", "expected one author");
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
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/models/smollm2_tokenizer_rebuilt_from_gguf.json");
    if !Path::new(path).exists() {
        println!("skipped: dots (no ../shared/data)");
        return;
    }
    let tokenizer = tokenizers::Tokenizer::from_file(path).unwrap();
    let recipe = format!(
        "[prime]\nconditions = [\"all-strategies\", \"dots\"]\ntrain = 20\ntest = 5\ntokenizer = \"{}\"\n",
        Path::new(path).display()
    );
    let workplace = workplace(&recipe);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    // Thought by thought, by the tokenizer itself.
    let thoughts = |condition: &str| {
        let train = table(&workplace, "run", &format!("{condition}/train.parquet"));
        let completions = train.column_by_name("completion").unwrap().as_string::<i32>().clone();
        let thoughts = completions.iter().map(|text| text.unwrap().split_once("</think>").unwrap().0.trim().to_owned());
        thoughts.collect::<Vec<_>>()
    };
    for (dots, thought) in thoughts("dots").iter().zip(thoughts("all-strategies")) {
        let n_tokens = |text: &str| tokenizer.encode_fast(text, false).unwrap().len();
        assert!(dots.chars().all(|c| c == '.' || c == ' '), "{dots}");
        assert_eq!(n_tokens(dots), n_tokens(&thought), "{thought}");
    }
    let fairness = workplace.json("run/prime/fairness.json");
    assert_eq!(fairness["length_unit"], "tokens");
    let mean = |condition: &str| fairness["conditions"][condition]["train"]["length"]["mean"].as_f64().unwrap();
    assert!((mean("dots") / mean("all-strategies") - 1.0).abs() < 0.02);
}
