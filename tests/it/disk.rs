//! A disk that is full, read-only or forbidden: one sentence that names the path, and a rerun that finishes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::made_documents::{documents, jsonl, parquet};
use super::program::{Ended, RECIPE, Workplace};

fn two_shards() -> Workplace {
    let data = [("a.jsonl", jsonl(&documents(500, 1))), ("b.parquet", parquet(&documents(400, 2), 200))];
    let workplace = Workplace::with(RECIPE, &data);
    workplace.run("whole", &[]).expect(0);
    workplace
}

/// Runs a shell script that may mount: as root in a mount namespace of its own, else in a user namespace, if the system allows that.
/// `$1` is the program.
pub fn with_mounts(workplace: &Workplace, script: &str) -> Option<Ended> {
    let trial = "mkdir -p mounted && mount -t tmpfs -o size=64k tmpfs mounted";
    for namespace in [&["--mount"][..], &["--mount", "--map-root-user"]] {
        let shell = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(namespace).args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_pipeline")]);
            command.current_dir(workplace.path("")).env("HF_HOME", workplace.path("hf"));
            command.output()
        };
        if shell(trial).is_ok_and(|output| output.status.success()) {
            return Some(Ended::of(&shell(&format!("set -e\n{script}")).unwrap()));
        }
    }
    println!("skipped: a full or read-only disk (this system lets nobody mount)");
    None
}

#[test]
fn a_full_disk_at_any_instant_is_told_and_survived() {
    let workplace = two_shards();
    let whole = workplace.files("whole");
    let total: usize = whole.values().map(Vec::len).sum();
    // A disk for each size from nearly nothing to nearly enough; the run fails on it, and ends once there is room.
    let sizes: Vec<String> = (1..20).map(|part| (total * part / 14 / 4096 * 4).max(8).to_string()).collect();
    let script = format!(
        "mkdir -p mounted results
         for size in {}; do
             mount -t tmpfs -o size=${{size}}k tmpfs mounted
             code=0; \"$1\" run recipe.toml --run-dir mounted/run 2> results/$size.txt || code=$?
             echo $code > results/$size.code
             mount -o remount,size=100m mounted
             \"$1\" run recipe.toml --run-dir mounted/run 2> results/$size.again
             \"$1\" verify --deep mounted/run > /dev/null
             cp -r mounted/run results/run-$size
             umount mounted
         done",
        sizes.join(" ")
    );
    let Some(ended) = with_mounts(&workplace, &script) else { return };
    ended.expect(0);
    let mut full = 0;
    for size in &sizes {
        let read = |suffix: &str| std::fs::read_to_string(workplace.path(format!("results/{size}.{suffix}"))).unwrap();
        let exit = read("code").trim().parse().unwrap();
        let ended = Ended { exit, stdout: String::new(), stderr: read("txt") };
        if exit != 0 {
            full += 1;
            ended.fails(1, "cannot write `mounted/run").fails(1, "the disk is full").hints("free some space");
        }
        workplace.assert_same(&format!("results/run-{size}"), &whole);
    }
    println!("{full} disks of {} were too small", sizes.len());
    assert!(full >= 10, "{full} disks were too small");
}

#[test]
fn a_read_only_disk_is_told() {
    let workplace = two_shards();
    let script = "mkdir -p mounted results
        mount -t tmpfs tmpfs mounted
        \"$1\" run recipe.toml --run-dir mounted/run --task-index 0 --task-count 2 2> /dev/null
        mount -o remount,ro mounted
        code=0; \"$1\" run recipe.toml --run-dir mounted/run 2> results/half.txt || code=$?
        echo $code > results/half.code
        code=0; \"$1\" run recipe.toml --run-dir mounted/other 2> results/other.txt || code=$?
        echo $code > results/other.code
        code=0; \"$1\" status mounted/run > /dev/null || code=$?
        echo $code > results/status.code
        mount -o remount,rw mounted
        \"$1\" run recipe.toml --run-dir mounted/run 2> /dev/null
        cp -r mounted/run results/run";
    let Some(ended) = with_mounts(&workplace, script) else { return };
    ended.expect(0);
    let read = |name: &str| std::fs::read_to_string(workplace.path("results").join(name)).unwrap();
    for (name, path) in [("half", "`mounted/run/run.lock`"), ("other", "`mounted/other`")] {
        let exit = read(&format!("{name}.code")).trim().parse().unwrap();
        let ended = Ended { exit, stdout: String::new(), stderr: read(&format!("{name}.txt")) };
        ended.fails(1, &format!("cannot write {path}: the file system is read-only")).hints("--run-dir");
    }
    assert_eq!(read("status.code").trim(), "3", "what is there can still be read");
    workplace.assert_same("results/run", &workplace.files("whole"));
}

#[test]
fn files_above_the_limit_are_told() {
    let workplace = two_shards();
    let whole = workplace.files("whole");
    // Blocks of 512 bytes: room for the plan and some labels, not for all.
    let mut failed = 0;
    for blocks in [1, 4, 9, 12, 16, 24, 40, 80] {
        let run = format!("run-{blocks}");
        let script = format!(
            "trap '' XFSZ; ulimit -f {blocks}; exec {} run recipe.toml --run-dir {run}",
            env!("CARGO_BIN_EXE_pipeline")
        );
        let output = Command::new("sh").args(["-c", &script]).current_dir(workplace.path("")).output().unwrap();
        let ended = Ended::of(&output);
        if ended.exit != 0 {
            failed += 1;
            ended.fails(1, &format!("cannot write `{run}/")).hints("ulimit -f");
        }
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
    }
    assert!(failed >= 4, "{failed} runs met the limit");
}

#[test]
fn a_forbidden_folder_is_told() {
    let workplace = two_shards();
    let nobody = 65534;
    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(workplace.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::create_dir(workplace.path("forbidden")).unwrap();
    mode("", 0o755);
    mode("forbidden", 0o555);
    // Root may write anywhere.
    let is_root =
        std::fs::File::options().write(true).create(true).truncate(true).open(workplace.path("forbidden/try")).is_ok();
    let call = |arguments: &[&str]| {
        let mut command = workplace.command(arguments);
        if is_root {
            command.uid(nobody).gid(nobody);
        }
        command.output()
    };
    // The program itself may lie where only its owner may look.
    if !call(&["--version"]).is_ok_and(|output| output.status.success()) {
        println!("skipped: a forbidden folder (root cannot start the program as somebody else)");
        return;
    }
    let run = |folder: &str| Ended::of(&call(&["run", "recipe.toml", "--run-dir", folder]).unwrap());
    run("forbidden").fails(1, "cannot write `forbidden/run.lock`: permission denied").hints("writable");
    run("forbidden/run").fails(1, "cannot write `forbidden/run`: permission denied").hints("--run-dir");
    // Data that may not be read.
    mode("data/a.jsonl", 0o000);
    std::fs::create_dir(workplace.path("open")).unwrap();
    mode("open", 0o777);
    run("open/run").fails(2, "cannot open `data/a.jsonl`: permission denied");
    mode("data/a.jsonl", 0o644);
    assert_eq!(run("open/run").exit, 0);
    workplace.assert_same("open/run", &workplace.files("whole"));
}

#[test]
fn a_log_that_cannot_be_written_does_not_end_the_run() {
    let workplace = two_shards();
    std::fs::create_dir(workplace.path("run")).unwrap();
    workplace.put("run/.keep", b"");
    let plan = workplace.files("whole")["plan.json"].clone();
    workplace.put("run/plan.json", &plan);
    std::os::unix::fs::symlink("/dev/full", workplace.path("run/events.jsonl")).unwrap();
    workplace.run("run", &[]).expect(0);
    std::fs::remove_file(workplace.path("run/.keep")).unwrap();
    workplace.assert_same("run", &workplace.files("whole"));
}
