//! The program undisturbed: what a run writes, says and repeats.

use std::collections::BTreeMap;

use serde_json::Value;

use super::made_documents::{documents, jsonl, parquet};
use super::program::{Ended, RECIPE, Workplace};

fn two_shards() -> Workplace {
    let data = [("a.jsonl", jsonl(&documents(700, 1))), ("b.parquet", parquet(&documents(500, 2), 100))];
    Workplace::with(RECIPE, &data)
}

/// The files that hold documents, labels and statistics.
fn results(workplace: &Workplace, run: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = workplace.files(run);
    files.retain(|name, _| name.ends_with(".parquet") || name.ends_with("statistics.json"));
    files
}

#[test]
fn a_run_is_whole_and_a_second_one_has_nothing_to_do() {
    let workplace = two_shards();
    let first = workplace.run("run", &[]).expect(0);
    assert_eq!(first.stdout, "", "stdout is for data");
    workplace.verify("run");
    let files = workplace.files("run");
    for name in
        ["plan.json", "curate/README.md", "curate/rich/train-00000-of-00001.parquet", "curate/decisions.parquet"]
    {
        assert!(files.contains_key(name), "{name}");
    }
    assert_eq!(workplace.counts("run", "classify"), [1200, 1200, 0, 0]);
    assert_eq!(workplace.counts("run", "curate")[0], 1200);
    workplace.run("run", &[]).expect(0);
    workplace.assert_same("run", &files);
    workplace.call(&["status", "run"]).expect(0);
}

#[test]
fn only_what_is_left_to_do_needs_room_on_disk() {
    // Parquet says how many rows it has, which is what sidecars are estimated from.
    let workplace = Workplace::with(RECIPE, &[("a.parquet", parquet(&documents(900, 2), 100))]);
    let bytes = |arguments: &[&str]| {
        let said = workplace.call(arguments).stdout;
        let overview = workplace.call(&[arguments, &["--json"]].concat()).json();
        let bytes = overview["disk_bytes"].as_u64().unwrap();
        assert_eq!(said.contains("at most about"), bytes > 0, "{said}");
        bytes
    };
    let plan = ["plan", "recipe.toml", "--run-dir", "run"];
    let all = bytes(&plan);
    workplace.run("run", &["--task-index", "0", "--task-count", "2"]).expect(0);
    let left = bytes(&["status", "run"]);
    assert!(0 < left && left < all, "{left} of {all}");
    workplace.run("run", &[]).expect(0);
    assert_eq!([bytes(&["status", "run"]), bytes(&plan)], [0, 0]);
}

#[test]
fn bytes_depend_on_nothing_but_the_recipe_and_the_data() {
    let workplace = two_shards();
    workplace.run("run", &["--threads", "1"]).expect(0);
    let files = workplace.files("run");
    for threads in ["2", "7"] {
        let run = format!("threads-{threads}");
        workplace.run(&run, &["--threads", threads]).expect(0);
        workplace.assert_same(&run, &files);
    }
    // Knobs of throughput are in the plan as they were set, and in nothing else.
    let knobs = "rows-per-unit = 200\nprefetch-shards = 1\nprefetch-bytes = \"1 MiB\"\nkeep-shards = false";
    workplace.put("recipe.toml", RECIPE.replace("rows-per-unit = 200", knobs).as_bytes());
    workplace.run("knobs", &[]).expect(0);
    let mut without_plan = files.clone();
    without_plan.remove("plan.json");
    let mut found = workplace.files("knobs");
    found.remove("plan.json");
    assert!(found == without_plan);
    // A run goes on with other knobs than it began with.
    workplace.run("run", &[]).expect(0);
    workplace.assert_same("run", &files);
}

#[test]
fn shards_may_be_listed_one_by_one() {
    let workplace = two_shards();
    workplace.run("globbed", &[]).expect(0);
    for (run, sources) in
        [("listed", "\"data/a.jsonl\", \"data/b.parquet\""), ("questioned", "\"data/?.jsonl\", \"data/[b-d].parquet\"")]
    {
        workplace.put("recipe.toml", RECIPE.replace("\"data/*\"", sources).as_bytes());
        workplace.run(run, &[]).expect(0);
        assert!(results(&workplace, run) == results(&workplace, "globbed"), "{run}");
    }
    workplace.put("recipe.toml", RECIPE.replace("\"data/*\"", "\"data/b.parquet\", \"data/a.jsonl\"").as_bytes());
    workplace.run("reversed", &[]).expect(0);
    assert!(results(&workplace, "reversed") != results(&workplace, "globbed"));
}

#[test]
fn a_plan_is_the_same_twice_and_touches_nothing() {
    let workplace = two_shards();
    let plan = |_| workplace.call(&["plan", "recipe.toml", "--run-dir", "run", "--json"]).expect(0).stdout;
    let [first, second] = [0, 1].map(plan);
    assert_eq!(first, second);
    assert!(!workplace.path("run").exists());
    let overview: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(overview["inputs"][0]["units"], 4);
    workplace.run("run", &[]).expect(0);
    assert_eq!(workplace.json("run/plan.json")["plan_id"], overview["plan_id"]);
}

#[test]
fn a_limit_is_kept_and_is_part_of_the_plan() {
    let workplace = two_shards();
    // Nobody knows how many documents a JSONL file holds: it is the last one that a limit reads.
    for (limit, classified) in [("1", 1), ("650", 650), ("100000", 700)] {
        let run = format!("run-{limit}");
        workplace.run(&run, &["--limit", limit]).expect(0);
        assert_eq!(workplace.counts(&run, "classify")[0], classified, "{limit}");
        assert_eq!(workplace.counts(&run, "sketch")[0], classified, "{limit}");
        workplace.verify(&run);
    }
    workplace.run("run-1", &[]).fails(2, "`--limit` was 1, is absent");
    workplace.run("run-1", &["--limit", "0"]).expect(2);
}

#[test]
fn events_are_lines_of_json() {
    let workplace = two_shards();
    let ended = workplace.run("run", &["--json"]).expect(0);
    let events: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((named("run-started"), named("run-done")), (1, 1));
    assert_eq!(named("unit-done"), 8, "four units, judged and sketched");
    assert_eq!(events.last().unwrap()["exit_code"], 0);
    assert_eq!(ended.stderr, "");
    let log = std::fs::read_to_string(workplace.path("run/events.jsonl")).unwrap();
    assert!(log.lines().all(|line| ended.stdout.contains(line)));
}

#[test]
fn the_quickstart_finds_what_its_sample_holds() {
    let workplace = Workplace::new();
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/quickstart.toml");
    let ended = workplace.call(&["run", recipe]).expect(0);
    assert_eq!(ended.stdout, "");
    for said in ["verification", "backtracking", "subgoal_setting", "backward_chaining", "next:"] {
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
    }
    workplace.verify("runs/quickstart");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let workplace = two_shards();
    workplace.run("run", &[]).expect(0);
    let mut status = workplace.spawn(&["status", "run", "--json"]);
    drop(status.child.stdout.take());
    assert_eq!(status.end().expect(0).stderr, "");
    // A full disk behind it is one.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = workplace.command(&["status", "run"]).stdout(full).output().unwrap();
    assert!(Ended::of(&output).expect(1).stderr.starts_with("error: cannot write to stdout\n  because: No space"));
}
