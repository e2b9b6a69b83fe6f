//! A run that is killed, or told to stop, at any instant and goes on to the bytes of an undisturbed one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::made_documents::{Document, documents, jsonl, parquet};
use super::program::{Ended, RECIPE, Workplace};

const ABORTED: i32 = 134;
const KILLED: i32 = 137;

/// Three units, with rows for the quarantine, and what an undisturbed run makes of them.
fn small() -> (Workplace, BTreeMap<String, Vec<u8>>) {
    let mut first = documents(150, 1);
    first[20].text = None;
    first[90].text = Some(Vec::new());
    let second = documents(300, 2);
    let workplace = Workplace::with(RECIPE, &[("a.jsonl", jsonl(&first)), ("b.parquet", parquet(&second, 200))]);
    workplace.run("whole", &[]).expect(0);
    workplace.verify("whole");
    assert_eq!(workplace.counts("whole", "classify"), [450, 448, 0, 2]);
    let whole = workplace.files("whole");
    (workplace, whole)
}

/// Units whose labels are in place and whose manifest is not still have their journal: nothing is judged twice.
fn assert_labels_are_kept(workplace: &Workplace, run: &str) {
    let names = |folder: &str, suffix: &str| -> Vec<String> {
        let entries = std::fs::read_dir(workplace.path(run).join(folder)).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| Some(name.strip_suffix(suffix)?.to_owned())).filter(|n| !n.starts_with('.')).collect()
    };
    let (done, journals) = (names("manifests/classify", ".json"), names("classify/journal", ".jsonl"));
    for unit in names("classify/labels", ".parquet") {
        assert!(done.contains(&unit) || journals.contains(&unit), "the labels of unit {unit} would be made again");
    }
}

#[test]
fn a_kill_at_any_step_of_any_commit_loses_nothing() {
    let (workplace, whole) = small();
    let (next, completed) = (AtomicUsize::new(1), AtomicUsize::new(usize::MAX));
    let steps = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while completed.load(Ordering::Relaxed) == usize::MAX {
                    let point = next.fetch_add(1, Ordering::Relaxed);
                    let run = format!("killed-{point}");
                    let killed = workplace.run_killed_at(point, &run, &[]);
                    if killed.exit == 0 {
                        completed.fetch_min(point, Ordering::Relaxed);
                    } else {
                        assert_eq!(killed.exit, ABORTED, "{}", killed.stderr);
                        let step = killed.stderr.lines().rev().find_map(|line| line.strip_prefix("killed at point "));
                        let step = step.and_then(|step| step.split_once(": ")).unwrap().1.to_owned();
                        steps.lock().unwrap().insert(step);
                        assert_labels_are_kept(&workplace, &run);
                        workplace.run(&run, &[]).expect(0);
                    }
                    workplace.assert_same(&run, &whole);
                    workplace.verify(&run);
                    std::fs::remove_dir_all(workplace.path(&run)).unwrap();
                }
            });
        }
    });
    let points = completed.into_inner() - 1;
    println!("killed at each of {points} points");
    assert!(points > 80, "{points} points are too few for so many files");
    // Units are committed at the same time, so which one a point belongs to differs from run to run; each kind of step is met.
    let steps = steps.into_inner().unwrap();
    let known = ["write", "sync", "rename", "link"].map(|step| format!("before {step}"));
    let known = known.into_iter().chain(["rename", "link", "commit"].map(|step| format!("after {step}")));
    for step in known.chain(["journal: batch appended".to_owned()]) {
        assert!(steps.contains(&step), "no kill {step}: {steps:?}");
    }
}

#[test]
fn a_run_that_is_killed_again_and_again_still_ends() {
    let (workplace, whole) = small();
    let attempts = (1..).take_while(|&point| workplace.run_killed_at(point, "run", &[]).exit == ABORTED).count();
    assert!(attempts > 10);
    workplace.assert_same("run", &whole);
    workplace.verify("run");
}

/// A task that owns no unit makes the plan and nothing else.
fn make_plan(workplace: &Workplace, run: &str) {
    workplace.run(run, &["--task-index", "1", "--task-count", "2"]).expect(0);
}

#[test]
fn labels_in_the_journal_are_not_made_again() {
    // Six batches of the cue judge in one unit.
    let workplace = Workplace::with(RECIPE, &[("a.jsonl", jsonl(&documents(1400, 3)))]);
    workplace.run("whole", &[]).expect(0);
    let killed_in_journal = |ended: &Ended| ended.stderr.contains("journal: batch appended");
    make_plan(&workplace, "run");
    // The first step of every attempt is the first batch that it judges itself.
    assert!(killed_in_journal(&workplace.run_killed_at(1, "run", &[])));
    let journal = || {
        let entry = std::fs::read_dir(workplace.path("run/classify/journal")).unwrap().next().unwrap();
        std::fs::read(entry.unwrap().path()).unwrap()
    };
    let batches = |journal: &[u8]| journal.iter().filter(|&&byte| byte == b'\n').count() - 1;
    let mut before = journal();
    for done in 2..=6 {
        assert!(killed_in_journal(&workplace.run_killed_at(1, "run", &[])));
        let now = journal();
        assert!(now.starts_with(&before));
        assert_eq!(batches(&now), done);
        before = now;
    }
    let last = workplace.run_killed_at(1, "run", &[]);
    assert!(last.exit == ABORTED && !killed_in_journal(&last), "no batch is left to judge: {}", last.stderr);
    workplace.run("run", &[]).expect(0);
    workplace.assert_same("run", &workplace.files("whole"));
}

#[test]
fn a_damaged_journal_costs_only_what_is_damaged() {
    let workplace = Workplace::with(RECIPE, &[("a.jsonl", jsonl(&documents(1400, 4)))]);
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    type Damage = fn(&mut Vec<u8>);
    let damages: [Damage; 5] = [
        |journal| journal.truncate(journal.len() - 7),
        |journal| journal.clear(),
        |journal| journal.extend(b"half a li"),
        |journal| *journal.iter_mut().rev().nth(500).unwrap() ^= 1,
        |journal| journal[20] ^= 1,
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let run = format!("run-{number}");
        make_plan(&workplace, &run);
        workplace.run_killed_at(3, &run, &[]).expect(ABORTED);
        let name = std::fs::read_dir(workplace.path(&run).join("classify/journal")).unwrap().next().unwrap().unwrap();
        let name = name.path();
        let mut journal = std::fs::read(&name).unwrap();
        damage(&mut journal);
        workplace.put(name.to_str().unwrap(), &journal);
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
    }
}

/// Enough for a run of some hundred milliseconds.
fn large() -> Workplace {
    let shards: Vec<(String, Vec<Document>)> =
        (0..3).map(|shard| (format!("{shard}.parquet"), documents(1200, 10 + shard))).collect();
    let mut data: Vec<(&str, Vec<u8>)> =
        shards.iter().map(|(name, documents)| (name.as_str(), parquet(documents, 200))).collect();
    data.push(("3.jsonl", jsonl(&documents(600, 20))));
    Workplace::with(RECIPE, &data)
}

#[test]
fn kills_at_random_instants_lose_nothing() {
    const KILLS: usize = 40;
    let workplace = large();
    let started = std::time::Instant::now();
    workplace.run("whole", &[]).expect(0);
    let length = started.elapsed();
    let whole = workplace.files("whole");
    let mut random = ChaCha8Rng::seed_from_u64(0x6b69_6c6c);
    let (mut kills, mut runs) = (0, 0);
    while kills < KILLS {
        let run = format!("run-{runs}");
        // Several kills in a row on one folder, until it is done in spite of them.
        for _ in 0..8 {
            let mut child = workplace.command(&["run", "recipe.toml", "--run-dir", &run]);
            let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(length.mul_f64(random.random_range(0.02..0.7)));
            child.kill().unwrap();
            let ended = Ended::of(&child.wait_with_output().unwrap());
            assert!([0, KILLED].contains(&ended.exit));
            if ended.exit == 0 {
                break;
            }
            kills += 1;
        }
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
        std::fs::remove_dir_all(workplace.path(&run)).unwrap();
        runs += 1;
    }
    println!("killed {kills} times in {runs} runs of {length:.1?}");
}

#[test]
fn signals_stop_a_run_that_then_goes_on() {
    let workplace = large();
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    for (signal, exit) in [("TERM", 75), ("INT", 130), ("USR1", 75)] {
        let run = format!("run-{signal}");
        let mut running = workplace.spawn(&["run", "recipe.toml", "--run-dir", &run, "--json"]);
        running.wait_for("unit-done");
        running.signal(signal);
        let ended = running.end().expect(exit);
        assert!(ended.stdout.contains(&format!("\"exit_code\":{exit}")), "{}", ended.stdout);
        workplace.call(&["status", &run]).expect(3);
        workplace.call(&["verify", &run]).expect(3);
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
    }
}

#[test]
fn a_signal_at_any_time_does_no_harm() {
    let (workplace, whole) = small();
    for (number, event) in ["run-started", "stage-started", "unit-done", "stage-done"].iter().enumerate() {
        let run = format!("run-{number}");
        let mut running = workplace.spawn(&["run", "recipe.toml", "--run-dir", &run, "--json"]);
        running.wait_for(event);
        running.signal("TERM");
        // It may have been done already.
        let ended = running.end();
        assert!([0, 75].contains(&ended.exit), "{}", ended.stderr);
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
    }
}

#[test]
fn a_kill_while_starting_over_leaves_a_folder_that_starts_over() {
    let (workplace, whole) = small();
    for point in [1, 2, 4, 6, 9, 20] {
        let run = format!("run-{point}");
        workplace.run(&run, &[]).expect(0);
        workplace.run_killed_at(point, &run, &["--fresh"]).expect(ABORTED);
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
    }
}

#[test]
fn leftovers_of_killed_writers_are_swept() {
    let (workplace, whole) = small();
    // Point 2 is behind the first temporary's creation.
    workplace.run_killed_at(2, "run", &[]).expect(ABORTED);
    let is_temporary = |path: &Path| path.extension().is_some_and(|extension| extension == "tmp");
    let left = || {
        std::fs::read_dir(workplace.path("run"))
            .unwrap()
            .filter(|entry| is_temporary(&entry.as_ref().unwrap().path()))
            .count()
    };
    assert_eq!(left(), 1);
    workplace.run("run", &[]).expect(0);
    assert_eq!(left(), 0);
    workplace.assert_same("run", &whole);
}
