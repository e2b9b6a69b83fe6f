//! A unit that fails for a reason of its own does not stop the others, and is left alone after three attempts.

use super::made_documents::{documents, parquet};
use super::program::{Ended, RECIPE, Workplace};

#[test]
fn the_others_go_on_without_a_unit_that_fails() {
    let workplace = Workplace::with(RECIPE, &[("a.parquet", parquet(&documents(800, 1), 200))]);
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    let bad = workplace.units("whole").remove(1);
    let run_failing = |more: &[&str]| {
        let mut command = workplace.command(&[&["run", "recipe.toml", "--run-dir", "run"], more].concat());
        Ended::of(&command.env("FOUR_HABITS_FAIL_UNIT", &bad).output().unwrap())
    };
    let status = || {
        let status = workplace.call(&["status", "run", "--json"]).expect(3).json();
        let classify = status["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "classify").unwrap();
        (classify["done"].as_u64().unwrap(), classify["poison"].as_object().unwrap().len())
    };
    for attempt in 1..=3 {
        // Its labels and its sketch both fail: an error for each.
        let ended = run_failing(&[]).expect(65);
        assert!(ended.stderr.contains(&format!("unit `{bad}` failed ({attempt} of 3 attempts)")), "{}", ended.stderr);
        assert!(ended.stderr.contains("`pipeline status` lists these"), "{}", ended.stderr);
        assert_eq!(status(), (3, usize::from(attempt == 3)));
    }
    // Now it is left alone, also when it would succeed.
    let ended = workplace.run("run", &[]).expect(65);
    assert!(ended.stderr.contains("left alone") && ended.stderr.contains("made to fail"), "{}", ended.stderr);
    assert_eq!(status(), (3, 1));
    let listed = workplace.call(&["status", "run"]).expect(3).stdout;
    assert!(listed.contains(&format!("unit `{bad}` is left alone")), "{listed}");

    workplace.run("run", &["--retry-failed"]).expect(0);
    workplace.assert_same("run", &whole);
    workplace.verify("run");
}

#[test]
fn what_concerns_all_units_stops_the_run() {
    let workplace = Workplace::with(RECIPE, &[("a.parquet", parquet(&documents(800, 1), 200))]);
    workplace.run("run", &["--limit", "200"]).expect(0);
    std::fs::remove_file(workplace.path("data/a.parquet")).unwrap();
    let ended = workplace.run("run", &["--limit", "200", "--fresh"]).expect(2);
    assert!(!ended.stderr.contains("attempts"), "{}", ended.stderr);
    assert!(!workplace.path("run/attempts").exists());
}
