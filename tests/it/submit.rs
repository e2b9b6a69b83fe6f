//! A recipe handed to a scheduler: what is submitted, and that tasks on this machine give the bytes of one run.

use super::made_documents::{documents, parquet};
use super::program::{RECIPE, Workplace};
use std::io::Write;
use std::process::{Command, Stdio};

fn workplace() -> Workplace {
    let data = [("a.parquet", parquet(&documents(800, 1), 200)), ("b.parquet", parquet(&documents(450, 2), 150))];
    Workplace::with(RECIPE, &data)
}

#[test]
fn local_tasks_give_the_bytes_of_one_run() {
    let workplace = workplace();
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    for tasks in ["1", "3"] {
        let run = format!("run-{tasks}");
        workplace.call(&["submit", "local", "recipe.toml", "--run-dir", &run, "--tasks", tasks]).expect(0);
        workplace.assert_same(&run, &whole);
        workplace.verify(&run);
    }
}

#[test]
fn scripts_are_bash() {
    let workplace = workplace();
    let arguments = ["submit", "slurm", "recipe.toml", "--run-dir", "my run", "--tasks", "4", "--print"];
    let printed =
        workplace.call(&[&arguments[..], &["--", "--gres=gpu:1", "--partition=gpu"]].concat()).expect(0).stdout;
    assert!(!workplace.path("my run").exists(), "`--print` submits and writes nothing");
    assert!(printed.contains("#SBATCH --array=0-3"), "{printed}");
    let (array, finish) = printed.split_once("# finish.sbatch").unwrap();
    assert!(array.contains("#SBATCH --gres=gpu:1") && !finish.contains("--gres"), "{printed}");
    assert!(array.contains("#SBATCH --partition=gpu") && finish.contains("#SBATCH --partition=gpu"), "{printed}");
    let mut bash = Command::new("bash").args(["-n"]).stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(printed.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success(), "{printed}");
}

#[test]
fn a_manifest_needs_an_image_and_a_volume() {
    let workplace = workplace();
    let arguments = ["submit", "k8s", "recipe.toml", "--run-dir", "run", "--tasks", "4"];
    let ended = workplace.call(&[&arguments[..], &["--print"]].concat()).expect(2);
    assert!(ended.stderr.contains("`--image IMAGE` and `--volume CLAIM:PATH`"), "{}", ended.stderr);
    let place = ["--image", "registry/four-habits:0.1", "--volume", "data:/data"];
    let printed = workplace.call(&[&arguments[..], &place, &["--print"]].concat()).expect(0).stdout;
    assert!(
        printed.contains(r#"completions: 4"#) && printed.contains(r#"image: "registry/four-habits:0.1""#),
        "{printed}"
    );
    let ended = workplace.call(&[&arguments[..], &place].concat()).expect(2);
    assert!(ended.stderr.contains("applies nothing"), "{}", ended.stderr);
}

#[test]
fn what_cannot_run_is_said_before_anything_is_submitted() {
    let workplace = workplace();
    workplace.put("recipe.toml", RECIPE.replace("data/*", "nowhere/*").as_bytes());
    for engine in ["local", "slurm", "ray"] {
        let ended = workplace.call(&["submit", engine, "recipe.toml", "--run-dir", "run", "--tasks", "2"]).expect(2);
        assert!(ended.stderr.contains("nowhere/*"), "{}", ended.stderr);
    }
    let ended = workplace.call(&["submit", "local", "recipe.toml", "--run-dir", "run", "--tasks", "0"]).expect(2);
    assert!(ended.stderr.contains("--tasks"), "{}", ended.stderr);
}

#[test]
fn without_slurm_its_absence_is_said() {
    let workplace = workplace();
    let mut command = workplace.command(&["submit", "slurm", "recipe.toml", "--run-dir", "run", "--tasks", "2"]);
    let output = command.env("PATH", "/nonexistent").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot start `sbatch`") && said.contains("--print"), "{said}");
}
