//! A run split into tasks, in any number and order, with kills and changes of mind, gives the bytes of one run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use super::made_documents::{documents, jsonl, parquet};
use super::program::{Ended, RECIPE, Workplace};

/// Nine units in three shards, and what one run makes of them.
fn nine_units() -> (Workplace, BTreeMap<String, Vec<u8>>) {
    let mut last = documents(150, 3);
    last[4].text = None;
    let data = [
        ("a.parquet", parquet(&documents(800, 1), 200)),
        ("b.parquet", parquet(&documents(750, 2), 200)),
        ("c.jsonl", jsonl(&last)),
    ];
    let workplace = Workplace::with(RECIPE, &data);
    workplace.run("whole", &[]).expect(0);
    assert_eq!(workplace.units("whole").len(), 9);
    let whole = workplace.files("whole");
    (workplace, whole)
}

fn task(index: usize, count: usize) -> [String; 4] {
    ["--task-index".to_owned(), index.to_string(), "--task-count".to_owned(), count.to_string()]
}

fn run_task(workplace: &Workplace, run: &str, index: usize, count: usize) -> Ended {
    workplace.run(run, &task(index, count).each_ref().map(String::as_str))
}

/// The units that `status` lists, in no order.
fn missing(workplace: &Workplace, run: &str, exit: i32) -> BTreeSet<String> {
    let ended = workplace.call(&["status", run, "--missing"]).expect(exit);
    ended.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn any_number_of_tasks_one_after_the_other() {
    let (workplace, whole) = nine_units();
    for count in [1, 2, 3, 5, 12] {
        let run = format!("run-{count}");
        // The last task first: no task waits for another.
        let mut left: BTreeSet<String> = workplace.units("whole").into_iter().collect();
        for index in (0..count).rev() {
            run_task(&workplace, &run, index, count).expect(0);
            for (place, unit) in workplace.units(&run).into_iter().enumerate() {
                if place % count == index {
                    left.remove(&unit);
                }
            }
            assert_eq!(missing(&workplace, &run, 3), left, "after task {index} of {count}");
        }
        workplace.run(&run, &[]).expect(0);
        assert_eq!(missing(&workplace, &run, 0), BTreeSet::new());
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
    }
}

#[test]
fn any_number_of_tasks_at_the_same_time() {
    let (workplace, whole) = nine_units();
    for count in [2, 3, 5] {
        let run = format!("run-{count}");
        let running: Vec<_> = (0..count)
            .map(|index| {
                let task = task(index, count);
                let arguments = ["run", "recipe.toml", "--run-dir", &run].into_iter();
                workplace.spawn(&arguments.chain(task.iter().map(String::as_str)).collect::<Vec<_>>())
            })
            .collect();
        for running in running {
            running.end().expect(0);
        }
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
        // Every line of a log that several processes wrote at once is whole.
        for line in std::fs::read_to_string(workplace.path(&run).join("events.jsonl")).unwrap().lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        }
    }
}

#[test]
fn killed_tasks_and_another_number_of_them() {
    let (workplace, whole) = nine_units();
    for first_kill in [3, 8, 11, 15, 22, 30, 41] {
        let run = format!("run-{first_kill}");
        for (attempt, count) in [3, 2, 5].into_iter().enumerate() {
            for index in 0..count {
                let point = first_kill + 5 * attempt + 3 * index;
                let killed = workplace.run_killed_at(point, &run, &task(index, count).each_ref().map(String::as_str));
                assert!([0, 134].contains(&killed.exit), "{}", killed.stderr);
            }
            workplace.call(&["verify", &run]).expect(3);
        }
        // The units that are left go to whom `status` says.
        let slurm = workplace.call(&["status", &run, "--missing", "--format", "slurm", "--task-count", "4"]);
        if slurm.exit == 3 && !slurm.stdout.trim().is_empty() {
            for index in expand(slurm.stdout.trim()) {
                run_task(&workplace, &run, index, 4).expect(0);
            }
            assert_eq!(missing(&workplace, &run, 3), BTreeSet::new(), "only what needs all units is left");
        }
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
    }
}

/// The numbers of `0-2,5`.
fn expand(ranges: &str) -> Vec<usize> {
    let range = |range: &str| {
        let (start, end) = range.split_once('-').unwrap_or((range, range));
        start.parse::<usize>().unwrap()..=end.parse().unwrap()
    };
    ranges.split(',').flat_map(range).collect()
}

#[test]
fn missing_units_are_listed_for_slurm() {
    let (workplace, _) = nine_units();
    let slurm = |count: &str, exit: i32| {
        let ended = workplace.call(&["status", "run", "--missing", "--format", "slurm", "--task-count", count]);
        ended.expect(exit).stdout
    };
    run_task(&workplace, "run", 1, 3).expect(0);
    // Units 1, 4 and 7 of nine are done.
    assert_eq!(slurm("3", 3), "0,2\n");
    assert_eq!(slurm("9", 3), "0,2-3,5-6,8\n");
    assert_eq!(slurm("1", 3), "0\n");
    run_task(&workplace, "run", 2, 3).expect(0);
    assert_eq!(slurm("3", 3), "0\n");
    run_task(&workplace, "run", 0, 3).expect(0);
    // The corpora are missing, and no task makes them.
    assert_eq!(slurm("3", 3), "\n");
    workplace.run("run", &[]).expect(0);
    assert_eq!(slurm("3", 0), "\n");
    workplace.call(&["status", "run"]).expect(0);
}

#[test]
fn a_folder_in_use_is_refused() {
    let (workplace, whole) = nine_units();
    let run = ["run", "recipe.toml", "--run-dir", "run", "--json"];
    let in_use = |more: &[&str]| workplace.run("run", more).fails(2, "`run` is in use by").hints("--run-dir");

    let mut first = workplace.spawn(&run);
    first.wait_for("run-started");
    first.signal("STOP");
    in_use(&[]);
    in_use(&["--fresh"]);
    in_use(&["--task-index", "0", "--task-count", "2"]);
    // Looking on needs no lock.
    workplace.call(&["status", "run"]).expect(3);
    first.signal("CONT");
    first.end().expect(0);
    workplace.assert_same("run", &whole);

    let mut task =
        workplace.spawn(&[&run[..3], &["tasks", "--json", "--task-index", "1", "--task-count", "2"]].concat());
    task.wait_for("run-started");
    task.signal("STOP");
    workplace.run("tasks", &[]).fails(2, "`tasks` is in use by another run");
    workplace.run("tasks", &["--task-index", "1", "--task-count", "3"]).fails(2, "`tasks` is in use by task 1");
    workplace.run("tasks", &["--task-index", "0", "--task-count", "2"]).expect(0);
    task.signal("CONT");
    task.end().expect(0);
    workplace.run("tasks", &[]).expect(0);
    workplace.assert_same("tasks", &whole);
}

#[test]
fn tasks_of_two_counts_that_meet_in_a_unit_do_no_harm() {
    let (workplace, whole) = nine_units();
    let arguments = ["run", "recipe.toml", "--run-dir", "run", "--json", "--task-index", "0", "--task-count", "1"];
    let mut all = workplace.spawn(&arguments);
    all.wait_for("unit-done");
    all.signal("STOP");
    let others: Vec<Ended> = (1..4).map(|index| run_task(&workplace, "run", index, 4)).collect();
    all.signal("CONT");
    all.end().expect(0);
    for other in others {
        assert!(other.exit == 0 || other.clone().fails(75, "in the hands of another task").exit == 75);
    }
    workplace.run("run", &[]).expect(0);
    workplace.assert_same("run", &whole);
    workplace.verify("run");
}

#[test]
fn task_numbers_are_checked() {
    let (workplace, _) = nine_units();
    let refused = |more: &[&str]| {
        let ended = workplace.run("run", more).expect(2);
        assert!(!workplace.path("run").exists());
        ended
    };
    refused(&["--task-index", "3", "--task-count", "3"]).fails(2, "`--task-index 3` is out of range");
    for more in [&["--task-index", "3"][..], &["--task-count", "3"], &["--task-index", "0", "--task-count", "0"]] {
        assert!(refused(more).stderr.starts_with("error: "));
    }
}

#[test]
fn tasks_need_the_plan_that_the_first_one_made() {
    let (workplace, _) = nine_units();
    run_task(&workplace, "run", 0, 2).expect(0);
    workplace.put("recipe.toml", RECIPE.replace("rows-per-unit = 200", "rows-per-unit = 400").as_bytes());
    run_task(&workplace, "run", 1, 2).fails(2, "`fetch.rows-per-unit` was 200, is 400").hints("--replan");
}
