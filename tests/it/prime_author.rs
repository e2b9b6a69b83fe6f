//! Priming traces by a language model: a server on loopback that writes good and bad ones, and SmolLM2, which hardly can.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use four_habits::countdown::counter;
use four_habits::countdown::derivation::Notation;
use four_habits::countdown::draw::{Draw, Source};
use four_habits::countdown::puzzle::Puzzle;
use four_habits::countdown::verdict::judge;
use four_habits::data::sidecar;
use serde_json::json;

use super::chat_server::ChatServer;
use super::program::Workplace;

/// A good trace for the puzzle of a prompt, and for one seed in three something else.
fn written(prompt: &str, seed: u64) -> String {
    let (_, rest) = prompt.split_once("numbers [").unwrap();
    let (numbers, rest) = rest.split_once(']').unwrap();
    let (_, rest) = rest.split_once("value ").unwrap();
    let target = rest.split('.').next().unwrap().parse().unwrap();
    let puzzle = Puzzle::from_text(numbers, target).unwrap();
    let draw = Draw::new(Source::Given, BTreeSet::new(), None, 0).unwrap();
    let solution = draw.solution(0, &puzzle).unwrap().expression(Notation::Typographic);
    let [a, b] = [puzzle.numbers()[0], puzzle.numbers()[1]];
    let turn = if prompt.contains("only the computations") {
        String::new()
    } else {
        format!("{a} + {b} = {}. Let me try something else. ", a + b)
    };
    match seed % 9 {
        0 => "I cannot do this.".to_owned(),
        1 => format!("<think>{turn}{solution} = {target}</think>\n<answer>{a} + {b}</answer>"),
        2 => format!(
            "<think>{a} + {b} = {}. {turn}{solution} = {target}</think>\n<answer>{solution}</answer>",
            a + b + 1
        ),
        _ => format!("<think>{turn}{solution} = {target}</think>\n<answer>{solution}</answer>"),
    }
}

fn recipe(server: &ChatServer) -> String {
    format!(
        "seed = 3\n\n[prime]\nconditions = [\"only-backtracking\", \"direct\", \"all-strategies\", \"scrambled\", \"empty\"]\ntrain = 25\ntest = 4\n\n[prime.author]\nattempts = 3\n\n[prime.author.endpoint]\nurl = \"{}\"\nconcurrency = 3\n",
        server.url
    )
}

fn table(workplace: &Workplace, run: &str, name: &str) -> RecordBatch {
    sidecar::read(&workplace.path(run).join("prime").join(name)).unwrap()
}

fn texts(table: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column =
        arrow::compute::cast(table.column_by_name(column).unwrap(), &arrow::datatypes::DataType::Utf8).unwrap();
    column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

fn puzzles(table: &RecordBatch) -> Vec<Puzzle> {
    let lists = table.column_by_name("numbers").unwrap().as_list::<i32>();
    let targets = table.column_by_name("target").unwrap().as_primitive::<Int32Type>();
    let numbers = |list: &dyn Array| -> Vec<u32> {
        list.as_primitive::<Int32Type>().values().iter().map(|&number| number as u32).collect()
    };
    lists
        .iter()
        .zip(targets.values())
        .map(|(list, &target)| Puzzle::new(&numbers(&list.unwrap()), target as u32).unwrap())
        .collect()
}

/// Nothing unverified passes: what the files say of each trace is what its text says.
fn check_traces(workplace: &Workplace, run: &str, condition: &str) -> usize {
    let table = table(workplace, run, &format!("{condition}/train.parquet"));
    let completions = texts(&table, "completion");
    let counts = table.column_by_name("backtracking_count").unwrap().as_primitive::<Int32Type>();
    for (row, puzzle) in puzzles(&table).iter().enumerate() {
        let text = completions[row].as_ref().unwrap();
        assert_eq!(judge(puzzle, text).name(), "solved", "{text}");
        let reading = counter::read(puzzle, counter::thought(text));
        assert_eq!(reading.n_false, 0, "{text}");
        assert_eq!(reading.counts[1] as i32, counts.value(row), "{text}");
        assert!(
            !text.contains(['×', '÷', '−']) || !text.rsplit('\n').next().unwrap().contains(['×', '÷', '−']),
            "{text}"
        );
    }
    table.num_rows()
}

/// Replies that were refused, by reason.
fn rejected(workplace: &Workplace, run: &str, condition: &str) -> BTreeMap<String, u64> {
    let table = table(workplace, run, &format!("{condition}/rejected.parquet"));
    let mut reasons = BTreeMap::new();
    for reason in texts(&table, "reason") {
        *reasons.entry(reason.unwrap()).or_default() += 1;
    }
    reasons
}

#[test]
fn a_model_behind_a_server_writes_and_what_is_wrong_is_kept_apart() {
    let server = ChatServer::start(written);
    let workplace = Workplace::with(&recipe(&server), &[]);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    let n_replies = server.replies.load(Ordering::Relaxed) as u64;
    let fairness = workplace.json("run/prime/fairness.json");
    assert_eq!(fairness["author"]["replies"], n_replies);
    assert_eq!((&fairness["same_puzzles"], &fairness["overlap"]["test"]), (&true.into(), &0.into()));
    let mut n_rejected = 0;
    for condition in ["only-backtracking", "direct", "all-strategies"] {
        assert_eq!(check_traces(&workplace, "run", condition), 25);
        let reasons = rejected(&workplace, "run", condition);
        assert_eq!(json!(reasons), fairness["author"]["rejected"][condition]);
        n_rejected += reasons.values().sum::<u64>();
        let known = ["form", "verdict", "false-statements", "excluded-behavior", "plain", "counts", "scorer"];
        assert!(reasons.keys().all(|reason| known.contains(&reason.as_str())), "{reasons:?}");
    }
    for condition in ["scrambled", "empty"] {
        assert_eq!(table(&workplace, "run", &format!("{condition}/train.parquet")).num_rows(), 25);
    }
    let n_passed: u64 = fairness["author"]["passed"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(n_passed + n_rejected, n_replies);
    assert!(n_rejected > 10, "{n_rejected}");
    let card = std::fs::read_to_string(workplace.path("run/prime/README.md")).unwrap();
    assert!(card.contains("Written by `writer` (endpoint, test)") && card.contains("## Replies"), "{card}");
}

#[test]
fn replies_that_were_paid_for_survive_a_kill() {
    let server = ChatServer::start(written);
    let workplace = Workplace::with(&recipe(&server), &[]);
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    let n_whole = server.replies.load(Ordering::Relaxed);
    let replies_of = |run: &str, kill_at: Option<usize>| {
        let before = server.replies.load(Ordering::Relaxed);
        match kill_at {
            Some(point) => assert_ne!(workplace.run_killed_at(point, run, &[]).exit, 0, "killed at {point}"),
            None => _ = workplace.run(run, &[]).expect(0),
        }
        server.replies.load(Ordering::Relaxed) - before
    };
    for point in [6, 9, 14, 20, 26] {
        let run = format!("killed-{point}");
        let first = replies_of(&run, Some(point));
        let rest = replies_of(&run, None);
        assert!(
            first + rest <= n_whole + 6,
            "a batch of at most 6 is asked for twice: {first} and {rest} of {n_whole}"
        );
        workplace.assert_same(&run, &whole);
    }
}

#[test]
fn a_small_model_fails_the_gates_and_every_failure_is_counted() {
    let model = std::env::var_os("FOUR_HABITS_SMOLLM2").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/models/SmolLM2-135M-Instruct.Q4_1.gguf"),
        Into::into,
    );
    #[expect(clippy::print_stderr, reason = "says why nothing was tested")]
    if !model.exists() {
        eprintln!("skipped: traces by SmolLM2 (run .ci/models)");
        return;
    }
    let recipe = format!(
        "[prime]\nconditions = [\"direct\"]\ntrain = 2\ntest = 1\nsizes = [3]\n\n[prime.author]\nattempts = 1\npuzzles-per-trace = 2\nmax-reply-tokens = 48\n\n[prime.author.lm]\nmodel = \"{}\"\n",
        model.display()
    );
    let workplace = Workplace::with(&recipe, &[]);
    let ended = workplace.run("run", &[]);
    let reasons = rejected(&workplace, "run", "direct");
    let n_rejected: u64 = reasons.values().sum();
    match ended.exit {
        0 => assert!(check_traces(&workplace, "run", "direct") > 0),
        _ => {
            _ = ended.fails(65, "no trace for `train` that passes").hints("rejected.parquet");
            // One puzzle in vain for `test`, or one that passed; all four for `train`.
            assert!((4..=6).contains(&n_rejected), "{reasons:?}");
        }
    }
    assert!(n_rejected > 0, "{reasons:?}");
}

#[test]
fn an_author_that_cannot_be_is_refused_before_work() {
    let server = ChatServer::start(written);
    let good = recipe(&server);
    let check = |from: &str, to: &str, sentence: &str| {
        assert!(good.contains(from), "{from}");
        let workplace = Workplace::with(&good.replace(from, to), &[]);
        workplace.run("run", &[]).fails(2, sentence);
    };
    check("attempts = 3", "attempts = 0", "key `prime.author.attempts`");
    check("attempts = 3", "puzzles-per-trace = 0", "key `prime.author.puzzles-per-trace`");
    check("attempts = 3", "temperature = -1.0", "key `prime.author.temperature`");
    check("attempts = 3", "lm = { model = \"x.gguf\" }", "key `prime.author`: expected one author");
    check("\"all-strategies\", ", "", "are made of a model's `all-strategies` traces");
    check(&format!("url = \"{}\"", server.url), "url = \"nowhere\"", "key `prime.author.endpoint.url`");
}
