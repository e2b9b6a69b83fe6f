//! Reinforcement on questions with known answers, from files of several kinds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::ppo::{RECIPE, workplace};
use super::program::Workplace;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use four_habits::data::sidecar;
use std::collections::BTreeSet;

/// The recipe of puzzles, on questions of a file.
fn recipe(questions: &str) -> String {
    RECIPE
        .replace("compat = \"tinyzero\"", "reward = { solved = 1.0, form = 0.25 }")
        .replace("[ppo.actor]", &format!("[ppo.questions]\n{questions}\n\n[ppo.actor]"))
}

const USUAL: &str = "files = [\"data/questions.jsonl\"]\nquery = \"data/ask.txt\"\nheld-out-share = 0.4";

/// Sums, in the words that the model knows.
fn sums(count: u32) -> String {
    let line = |n: u32| format!("{{\"question\": \"make {n} + 3\", \"answer\": \"so it is\\n#### {}\"}}\n", n + 3);
    (1..=count).map(line).collect()
}

fn started(recipe: &str) -> Workplace {
    let workplace = workplace(recipe);
    workplace.put("data/questions.jsonl", sums(40).as_bytes());
    workplace.put("data/ask.txt", b"use {question} <think>\n");
    workplace
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<String> {
    batch.column_by_name(column).unwrap().as_string::<i32>().iter().flatten().map(str::to_owned).collect()
}

#[test]
fn questions_are_trained_on_and_held_out() {
    let workplace = started(&recipe(USUAL));
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");

    let held_out = sidecar::read(&workplace.path("run/ppo/evaluations/step-000005.parquet")).unwrap();
    assert_eq!(held_out.num_rows(), 12);
    let asked: BTreeSet<String> = texts(&held_out, "prompt").into_iter().collect();
    assert_eq!(asked.len(), 6);
    for (prompt, answer) in texts(&held_out, "prompt").iter().zip(texts(&held_out, "answer")) {
        let number: u32 = answer.parse().unwrap();
        assert_eq!(*prompt, format!("use make {} + 3 <think>", number - 3));
    }
    let of = |name: &str| held_out.column_by_name(name).unwrap().as_primitive::<Int32Type>();
    assert_eq!((of("target").null_count(), of("attempts").null_count()), (12, 12));
    assert_eq!(of("verification_count").null_count(), 0);
    let first = sidecar::read(&workplace.path("run/ppo/rollouts/step-000001.parquet")).unwrap();
    assert!(texts(&first, "prompt").iter().all(|prompt| !asked.contains(prompt)));

    // The report shows them.
    workplace.call(&["report", "run"]).expect(0);
    let page = std::fs::read_to_string(workplace.path("run/report.html")).unwrap();
    assert!(page.contains("the answer is"), "the page shows no question");
    workplace.call(&["inspect", "run/ppo/rollouts/step-000001.parquet", "--row", "0"]).expect(0);

    workplace.run("again", &["--threads", "1"]).expect(0);
    assert_eq!(workplace.files("run/ppo"), workplace.files("again/ppo"));
    let said = workplace.call(&["export", "run/ppo", "--to", "x", "--for", "verl"]);
    said.fails(2, "`[ppo.questions]` is not handed on to verl").hints("GSM8K");
}

#[test]
fn a_killed_run_on_questions_ends_as_one_that_was_not() {
    let workplace = started(&recipe(USUAL));
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    for point in [150, 300] {
        let run = format!("run-{point}");
        workplace.run_killed_at(point, &run, &[]);
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
    }
}

#[test]
fn a_right_answer_earns_what_the_recipe_says() {
    // A reward command sees the answer, which the table of verdicts is held against.
    let script = r#"while read line; do id=${line#*\"id\":}; id=${id%%,*}; case $line in
        *'"problem":{"answer":"'*) echo "{\"id\": $id, \"reward\": 0.5, \"verdict\": \"asked\"}";; *) exit 3;; esac; done"#;
    let command = format!("reward = {{ command = [\"sh\", \"-c\", '''{script}'''] }}");
    let with_command = recipe(USUAL).replace("reward = { solved = 1.0, form = 0.25 }", &command);
    let workplace = started(&with_command.replace("steps = 5", "steps = 1"));
    workplace.run("run", &[]).expect(0);
    let looks = sidecar::read(&workplace.path("run/ppo/rollouts/step-000001.parquet")).unwrap();
    let verdicts =
        arrow::compute::cast(looks.column_by_name("verdict").unwrap(), &arrow::datatypes::DataType::Utf8).unwrap();
    assert!(verdicts.as_string::<i32>().iter().all(|verdict| verdict == Some("asked")));
}

#[test]
fn verls_prompts_and_rewritten_corpora_are_read() {
    let workplace = started(&recipe(USUAL).replace("steps = 5", "steps = 0"));
    let check = |name: &str, questions: &str| {
        let share = "\nquery = \"data/ask.txt\"\nheld-out-share = 0.9";
        workplace
            .put("recipe.toml", recipe(&format!("{questions}{share}")).replace("steps = 5", "steps = 0").as_bytes());
        workplace.run(name, &[]).expect(0);
        sidecar::read(&workplace.path(format!("{name}/ppo/evaluations/step-000000.parquet"))).unwrap()
    };
    let chats: String = (1..=40)
        .map(|n| format!("{{\"prompt\": [{{\"role\": \"user\", \"content\": \"make {n}\"}}], \"reward_model\": {{\"ground_truth\": \"{n}\"}}}}\n"))
        .collect();
    workplace.put("data/verl.jsonl", chats.as_bytes());
    let columns = "\nquestion = \"prompt\"\nanswer = \"reward_model.ground_truth\"";
    let looks = check("lines", &format!("files = [\"data/verl.jsonl\"]{columns}"));
    for (prompt, answer) in texts(&looks, "prompt").iter().zip(texts(&looks, "answer")) {
        assert_eq!(*prompt, format!("use make {answer} <think>"));
    }
    // A Parquet file of this program's own: the prompts are chats, and a field of a structure is the answer.
    let rl = RECIPE
        .replace("[pretrain]\n", "[prime.rl]\ntrain = 30\ntest = 4\n\n[pretrain]\n")
        .replace("steps = 5", "steps = 0");
    workplace.put("rl.toml", rl.as_bytes());
    workplace.call(&["run", "rl.toml", "--run-dir", "rl"]).expect(0);
    let columns = "\nquestion = \"prompt\"\nanswer = \"reward_model.ground_truth.target\"";
    let looks = check("parquet", &format!("files = [\"rl/prime/verl/train.parquet\"]{columns}"));
    for (prompt, answer) in texts(&looks, "prompt").iter().zip(texts(&looks, "answer")) {
        assert!(prompt.contains(&format!("make {answer} ")), "{prompt}: {answer}");
    }
}

#[test]
fn bad_questions_are_named_before_anything_runs() {
    let workplace = started(&recipe(USUAL));
    let check = |from: &str, to: &str, expect: &str| {
        workplace.put("wrong.toml", recipe(USUAL).replace(from, to).as_bytes());
        let ended = workplace.call(&["plan", "wrong.toml"]).expect(2);
        assert!(ended.stderr.contains(expect), "{to}: {}", ended.stderr);
    };
    workplace.put("data/none.jsonl", b"\n");
    workplace.put("data/twice.jsonl", [sums(3), sums(1)].concat().as_bytes());
    check("data/questions.jsonl", "data/nowhere.jsonl", "cannot read questions from `data/nowhere.jsonl`");
    check("data/questions.jsonl", "data/none.jsonl", "there is no question in `data/none.jsonl`");
    check("data/questions.jsonl", "data/twice.jsonl", "row 3 of `data/twice.jsonl` asks the same question as row 0");
    check("held-out-share", "answer = \"target\"\nheld-out-share", "line 1 has no `target`");
    check("held-out-share = 0.4", "held-out-share = 1.0", "expected a number between 0 and 1");
    check("files = [\"data/questions.jsonl\"]", "", "expected the name of a Parquet or JSONL file");
    check("[ppo.actor]", "[ppo.puzzles]\nsizes = [3]\n\n[ppo.actor]", "with `[ppo.questions]` none is drawn");
    check("reward = {", "compat = \"tinyzero\"\nreward = {", "TinyZero's scorer judges puzzles");
    workplace.put("data/ask.txt", b"use {question} make <answer>");
    check("steps = 5", "steps = 5", "needs `{question}` once");

    // How long a prompt is, the model's tokenizer says.
    workplace.put("data/ask.txt", b"use {question} <think>\n");
    let long = format!("{{\"question\": \"make {}\", \"answer\": 1}}\n", "1 + ".repeat(200));
    workplace.put("data/questions.jsonl", [sums(9), long].concat().as_bytes());
    let ended = workplace.run("run", &[]);
    ended.fails(2, "row 9 of `data/questions.jsonl` is a prompt of").hints("leave it out");
}
