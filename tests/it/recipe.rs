//! Recipes through the program: what is wrong with them is said before anything is made; changes and arms.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use super::made_documents::{documents, jsonl};
use super::program::{RECIPE, Workplace};

fn workplace(recipe: &str) -> Workplace {
    Workplace::with(recipe, &[("a.jsonl", jsonl(&documents(400, 1))), ("b.jsonl", jsonl(&documents(300, 2)))])
}

#[test]
fn mistakes_are_located_before_any_work() {
    let workplace = workplace(RECIPE);
    let check = |from: &str, to: &str, sentence: &str, hint: &str| {
        assert!(RECIPE.contains(from), "{from}");
        workplace.put("recipe.toml", RECIPE.replace(from, to).as_bytes());
        for command in [&["run", "recipe.toml", "--run-dir", "run"][..], &["plan", "recipe.toml"]] {
            let ended = workplace.call(command).fails(2, sentence).hints(hint);
            assert_eq!(ended.stdout, "");
        }
        assert!(!workplace.path("run").exists(), "a folder was made");
    };
    // Keys.
    check("seed = 7", "sed = 7", "`recipe.toml` line 1, key `sed`: unknown field `sed`", "did you mean `seed`?");
    check("[fetch]", "[fetched]", "line 3, key `fetched`: unknown field", "did you mean `fetch`?");
    check("rows-per-unit", "rows_per_unit", "line 5, key `fetch.rows_per_unit`: unknown field", "`rows-per-unit`");
    check("test-share", "train-share", "line 13, key `curate.train-share`: unknown field", "`test-share`");
    check("match =", "matched =", "line 20, key `curate.corpus.minimal.matched`: unknown field", "`match`");
    check("sources =", "# sources =", "line 3, key `fetch`: missing field `sources`", "");
    // Types.
    check("seed = 7", "seed = \"7\"", "line 1, key `seed`: invalid type: string \"7\", expected u64", "");
    check("\"data/*\"", "1", "line 4, key `fetch.sources[0]`: invalid type: integer `1`, expected a string", "");
    check("[report]", "report = true", "key `", "");
    check("= 200", "= 1.5", "line 5, key `fetch.rows-per-unit`: invalid type: floating point `1.5`, expected u64", "");
    // Ranges.
    check("= 200", "= 0", "line 5, key `fetch.rows-per-unit`: expected a number from 1 to 10,000,000", "");
    check("= 200", "= -5", "line 5, key `fetch.rows-per-unit`: invalid value: integer `-5`", "");
    check("[\"data/*\"]", "[]", "line 4, key `fetch.sources`: expected at least one source", "");
    check(
        "= 0.1\n\n[classify.cue]",
        "= 1.1\n\n[classify.cue]",
        "line 8, key `classify.max-quarantined-share`: expected a share",
        "",
    );
    check("test-share = 0.1", "test-share = 1.0", "line 13, key `curate.test-share`: expected a share", "");
    check(
        "test-share = 0.1",
        "deduplicate.bands = 0",
        "key `curate.deduplicate.bands`: expected a number from 1 to 64",
        "",
    );
    // What must stand together.
    check("[classify.cue]", "", "line 7, key `classify`: expected one judge", "");
    check(
        "\"rich\"",
        "\"richer\"",
        "line 20, key `curate.corpus.minimal.match`: expected the name of another corpus",
        "",
    );
    check(
        "\"rich\"",
        "\"minimal\"",
        "line 20, key `curate.corpus.minimal.match`: expected the name of another corpus",
        "",
    );
    check("corpus.minimal]", "corpus.\"ri/ch\"]", "a name is made of letters, digits", "");
    check("match =", "tokens = 5\nmatch =", "a matched corpus takes its budget from the other", "");
    // SQL.
    let sql = "verification_count + backtracking_count = 0";
    check(
        sql,
        "verification_count +",
        "line 19, key `curate.corpus.minimal.where`: `verification_count +` is not an SQL condition",
        "",
    );
    check(
        sql,
        "verifications = 0",
        "line 19, key `curate.corpus.minimal.where`: `verifications = 0` names the column `verifications`, which does not exist; did you mean `verification_",
        "",
    );
    check(
        sql,
        "verification_count + 1",
        "line 19, key `curate.corpus.minimal.where`: `verification_count + 1` is not a condition: expected true or false",
        "",
    );
    check(sql, "verification_count > avg(verification_count)", "a condition speaks about one document", "");
    check(sql, "text = 3", "line 19, key `curate.corpus.minimal.where`: `text = 3` is not a condition", "");
    check(sql, " ", "line 19, key `curate.corpus.minimal.where`: expected an SQL condition", "");
    check(sql, "verification_count = 0; drop table documents", "line 19, key `curate.corpus.minimal.where`", "");
    check(sql, "verification_count in (select 1)", "line 19, key `curate.corpus.minimal.where`", "");
    // TOML.
    check("[fetch]", "[fetch", "`recipe.toml` line 3 is not TOML", "");
    check("seed = 7", "seed = 7\nseed = 8", "`recipe.toml` line 2 is not TOML", "");
    // Files that settings name.
    check(
        "[classify.cue]",
        "[classify.cue]\nlexicon = \"no.txt\"",
        "line 11, key `classify.cue.lexicon`: `no.txt` does not exist",
        "",
    );
    check(
        "[classify.cue]",
        "[classify.lm]\nmodel = \"no/model\"",
        "key `classify.lm.model`: `no/model` does not exist",
        "",
    );
    check(
        "test-share = 0.1",
        "token-counter = \"no.json\"",
        "line 13, key `curate.token-counter`: `no.json` does not exist",
        "",
    );
    let sets = "[curate.decontaminate]\ntest-sets = [\"no.jsonl\"]\nfields = [\"question\"]\n\n[report]";
    check("[report]", sets, "key `curate.decontaminate.test-sets[0]`: `no.jsonl` does not exist", "");
    // Arms.
    check(
        "[report]",
        "[arm.a.curat]\nx = 1\n[report]",
        "line 22, key `arm.a.curat`: unknown field `curat`",
        "`curate`",
    );
    check("[report]", "[arm.\"a b\"]\nseed = 1\n[report]", "a name is made of letters, digits", "");
    check("[report]", "[arm.a.curate]\ntest-share = 2\n[report]", "line 23, key `arm.a.curate.test-share`", "");
    check(
        "[report]",
        "[arm.a.curate.corpus.rich]\nwhere = \"nothing > 1\"\n[report]",
        "line 23, key `arm.a.curate.corpus.rich.where`: `nothing > 1` names",
        "",
    );
    check("[report]", "[arm]\na = 3\n[report]", "key `arm.a`: expected a table of overrides", "");
}

#[test]
fn a_recipe_that_cannot_be_read_is_named() {
    let workplace = workplace(RECIPE);
    workplace.call(&["run", "no.toml"]).fails(2, "cannot read recipe `no.toml`").hints("`pipelines/`");
    workplace.call(&["run", "data"]).fails(2, "cannot read recipe `data`");
    workplace.put("latin.toml", b"# caf\xe9\n");
    workplace.call(&["run", "latin.toml"]).fails(2, "cannot read recipe `latin.toml`");
    workplace.call(&["run"]).expect(2);
}

/// Corpora and their statistics by path.
fn corpora(workplace: &Workplace, run: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = workplace.files(run);
    files.retain(|name, _| name.contains("curate/") && (name.ends_with(".parquet") || name.ends_with(".json")));
    files.retain(|name, _| !name.starts_with("manifests/"));
    files
}

#[test]
fn a_changed_recipe_is_refused_and_can_be_adopted() {
    let workplace = workplace(RECIPE);
    workplace.run("run", &[]).expect(0);
    let before = workplace.files("run");
    let changed = RECIPE.replace("test-share = 0.1", "test-share = 0.25").replace("seed = 7", "seed = 8");
    workplace.put("recipe.toml", changed.as_bytes());
    workplace
        .run("run", &[])
        .fails(
            2,
            "`run` belongs to another plan; what differs: `curate.test-share` was 0.1, is 0.25, `seed` was 7, is 8",
        )
        .hints("--replan");
    workplace.assert_same("run", &before);

    // What the change does not touch is kept: labels are not made again.
    let ended = workplace.run("run", &["--replan", "--json"]).expect(0);
    assert!(!ended.stdout.contains("\"stage\":\"classify\""), "{}", ended.stdout);
    assert!(ended.stdout.contains("\"stage\":\"curate\""), "{}", ended.stdout);
    let after = workplace.files("run");
    for (name, bytes) in &before {
        let kept =
            name.starts_with("classify/") || name.starts_with("sketch/") || name.starts_with("manifests/classify");
        assert!(!kept || after[name] == *bytes, "{name}");
    }
    workplace.verify("run");
    workplace.run("anew", &[]).expect(0);
    assert!(corpora(&workplace, "run") == corpora(&workplace, "anew"));
    assert!(corpora(&workplace, "run") != before);

    // And back again.
    workplace.put("recipe.toml", RECIPE.as_bytes());
    workplace.run("run", &["--replan"]).expect(0);
    workplace.assert_same("run", &before);
    // With nothing changed it changes nothing.
    workplace.run("run", &["--replan"]).expect(0);
    workplace.assert_same("run", &before);
}

#[test]
fn a_new_plan_leaves_no_corpus_of_the_old_one() {
    let workplace = workplace(RECIPE);
    workplace.run("run", &[]).expect(0);
    let without_minimal =
        RECIPE.split("[curate.corpus.minimal]").next().unwrap().replace("0.1\n\n[curate.c", "0.0\n\n[curate.c");
    workplace.put("recipe.toml", without_minimal.as_bytes());
    workplace.run("run", &["--replan"]).expect(0);
    let names: Vec<String> = corpora(&workplace, "run").into_keys().collect();
    assert_eq!(
        names,
        ["curate/decisions.parquet", "curate/rich/train-00000-of-00001.parquet", "curate/statistics.json"]
    );
}

#[test]
fn a_killed_replan_is_taken_up() {
    let workplace = workplace(RECIPE);
    workplace.run("anew", &[]).expect(0);
    for point in [1, 2, 3, 5, 8, 13, 21, 34] {
        let run = format!("run-{point}");
        workplace.put("recipe.toml", RECIPE.replace("count >= 1", "count >= 2").as_bytes());
        workplace.run(&run, &[]).expect(0);
        workplace.put("recipe.toml", RECIPE.as_bytes());
        workplace.run_killed_at(point, &run, &["--replan"]).expect(134);
        workplace.run(&run, &["--replan"]).expect(0);
        assert!(corpora(&workplace, &run) == corpora(&workplace, "anew"), "killed at {point}");
        workplace.verify(&run);
    }
}

#[test]
fn a_killed_replan_can_be_taken_back() {
    let workplace = workplace(RECIPE);
    let changed = RECIPE.replace("count >= 1", "count >= 2");
    workplace.run("before", &[]).expect(0);
    let before = workplace.files("before");
    for point in (6..50).step_by(6) {
        let run = format!("run-{point}");
        workplace.put("recipe.toml", RECIPE.as_bytes());
        workplace.run(&run, &[]).expect(0);
        workplace.put("recipe.toml", changed.as_bytes());
        workplace.run_killed_at(point, &run, &["--replan"]).expect(134);
        workplace.put("recipe.toml", RECIPE.as_bytes());
        workplace.run(&run, &["--replan"]).expect(0);
        workplace.assert_same(&run, &before);
        workplace.verify(&run);
    }
}

#[test]
fn files_that_settings_name_may_not_change_in_between() {
    let recipe =
        RECIPE.replace("[report]", "[curate.decontaminate]\ntest-sets = [\"tests.jsonl\"]\nfields = [\"question\"]");
    let workplace = workplace(&recipe);
    let question = |words: &str| format!("{{\"question\": \"{words}\"}}\n").into_bytes();
    let item = "a question of more than thirteen words that no document of ours repeats at all";
    workplace.put("tests.jsonl", &question(item));
    workplace.run("run", &["--task-index", "0", "--task-count", "2"]).expect(0);
    workplace.put("tests.jsonl", &question(&item.replace("ours", "mine")));
    workplace.run("run", &[]).fails(2, "`tests.jsonl` was changed since the run was planned").hints("--replan");
    std::fs::remove_file(workplace.path("tests.jsonl")).unwrap();
    workplace.run("run", &[]).fails(2, "`tests.jsonl` does not exist");
    workplace.put("tests.jsonl", &question(item));
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
}

#[test]
fn starting_over_deletes_what_runs_made_and_nothing_else() {
    let workplace = workplace(RECIPE);
    workplace.run("run", &[]).expect(0);
    let before = workplace.files("run");
    workplace.put("run/notes.txt", b"mine");
    workplace.put("run/slurm/1.log", b"mine");
    let changed = RECIPE.replace("seed = 7", "seed = 9");
    workplace.put("recipe.toml", changed.as_bytes());
    workplace.run("run", &["--fresh"]).expect(0);
    let after = workplace.files("run");
    assert_eq!(after["notes.txt"], b"mine");
    assert_eq!(after["slurm/1.log"], b"mine");
    assert!(after["plan.json"] != before["plan.json"]);
    workplace.verify("run");
    // A folder that is not there, and one that is empty, are as fresh as can be.
    workplace.run("other", &["--fresh"]).expect(0);
    std::fs::create_dir(workplace.path("empty")).unwrap();
    workplace.run("empty", &["--fresh"]).expect(0);
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let workplace = workplace(RECIPE);
    for (name, bytes) in [
        ("report/thesis.tex", &b"years of work"[..]),
        ("curate/museum.txt", b"paintings"),
        ("classify/animals.csv", b"cat,dog"),
        ("events.jsonl", b"{\"concert\": 1}"),
        ("plan.json", b"{\"holiday\": \"Crete\"}"),
    ] {
        let folder = name.replace('/', "-");
        workplace.put(&format!("{folder}/{name}"), bytes);
        workplace.put(&format!("{folder}/more.txt"), b"more");
        for more in [&["--fresh"][..], &[], &["--replan"], &["--task-index", "0", "--task-count", "1"]] {
            workplace.run(&folder, more).fails(2, &format!("`{folder}")).hints("--run-dir");
            assert_eq!(std::fs::read(workplace.path(&folder).join(name)).unwrap(), bytes);
            assert_eq!(std::fs::read_dir(workplace.path(&folder)).unwrap().count(), 2, "{folder} {more:?}");
        }
    }
    // Files that no run would ever touch do not matter.
    workplace.put("logs-only/slurm-1.out", b"log");
    workplace.run("logs-only", &["--fresh"]).expect(0);
    assert_eq!(workplace.files("logs-only")["slurm-1.out"], b"log");
}

const ARMS: &str = r#"
[arm.plain]

[arm.strict.curate.corpus.rich]
where = "verification_count + backtracking_count >= 3"

[arm.small.curate.corpus.rich]
tokens = 2000
"#;

#[test]
fn arms_share_what_is_equal() {
    let workplace = workplace(&format!("{RECIPE}{ARMS}"));
    let ended = workplace.run("run", &["--json"]).expect(0);
    workplace.verify("run");
    let started =
        |stage: &str| ended.stdout.matches(&format!("\"event\":\"stage-started\",\"stage\":\"{stage}\"")).count();
    assert_eq!((started("classify"), started("sketch")), (1, 1));
    assert_eq!([started("curate"), started("arms/strict/curate"), started("arms/small/curate")], [1, 1, 1]);
    assert!(!workplace.path("run/arms/plain").exists(), "it equals the base and has its folder");
    let units = ended.stdout.matches("\"event\":\"unit-done\",\"stage\":\"classify\"").count();
    assert_eq!(units, 2, "every unit is judged once");

    // The arms' corpora are what recipes of their own would give.
    workplace.put("recipe.toml", RECIPE.as_bytes());
    workplace.run("base", &[]).expect(0);
    workplace.put("recipe.toml", RECIPE.replace("count >= 1", "count >= 3").as_bytes());
    workplace.run("strict", &[]).expect(0);
    let arms = corpora(&workplace, "run");
    for (run, prefix) in [("base", ""), ("strict", "arms/strict/")] {
        for (name, bytes) in corpora(&workplace, run) {
            assert!(arms[&format!("{prefix}{name}")] == bytes, "{prefix}{name}");
        }
    }
    assert!(
        arms["arms/small/curate/rich/train-00000-of-00001.parquet"].len()
            < arms["curate/rich/train-00000-of-00001.parquet"].len()
    );
}

#[test]
fn arms_survive_kills_and_tasks() {
    let workplace = workplace(&format!("{RECIPE}{ARMS}"));
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    for point in (5..200).step_by(23) {
        let run = format!("run-{point}");
        workplace.run_killed_at(point, &run, &["--task-index", "0", "--task-count", "2"]);
        workplace.run_killed_at(point, &run, &[]);
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
    }
}

#[test]
fn arms_may_read_other_documents() {
    let arms = "\n[arm.a.fetch]\nsources = [\"data/a.jsonl\"]\n\n[arm.b.fetch]\nsources = [\"data/b.jsonl\"]\n";
    let workplace = workplace(&format!("{RECIPE}{arms}"));
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    assert_eq!(workplace.counts("run", "arms/a/classify"), [400, 400, 0, 0]);
    assert_eq!(workplace.counts("run", "arms/b/classify"), [300, 300, 0, 0]);
}
