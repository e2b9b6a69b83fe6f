//! The compiled program in a folder of its own: recipes and data go in, run folders and what it said come out.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::Value;

/// A recipe that uses every stage: documents in `data/`, two corpora, a report.
pub const RECIPE: &str = r#"seed = 7

[fetch]
sources = ["data/*"]
rows-per-unit = 200

[classify]
max-quarantined-share = 0.1

[classify.cue]

[curate]
test-share = 0.1

[curate.corpus.rich]
where = "verification_count + backtracking_count >= 1"

[curate.corpus.minimal]
where = "verification_count + backtracking_count = 0"
match = "rich"

[report]
"#;

/// A folder with recipes, data and run folders; the program's working directory.
pub struct Workplace {
    dir: tempfile::TempDir,
}

impl Workplace {
    /// In memory where the system offers that: the program syncs every file, and this module's users run it a thousand times.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self { dir: dir.unwrap() }
    }

    /// One with `recipe.toml` and documents.
    pub fn with(recipe: &str, data: &[(&str, Vec<u8>)]) -> Self {
        let workplace = Self::new();
        workplace.put("recipe.toml", recipe.as_bytes());
        for (name, bytes) in data {
            workplace.put(&format!("data/{name}"), bytes);
        }
        workplace
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    #[expect(clippy::disallowed_methods, reason = "a test's input needs no commit")]
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// The program with these arguments, not started yet. A backtrace would be printed if there were one.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
        command.args(arguments).current_dir(self.dir.path()).env("RUST_BACKTRACE", "1");
        command.env_remove("FOUR_HABITS_KILL_AT").env("HF_HOME", self.path("hf")).stdin(Stdio::null());
        command
    }

    pub fn call(&self, arguments: &[&str]) -> Ended {
        Ended::of(&self.command(arguments).output().unwrap())
    }

    /// Starts the program, its streams in pipes.
    pub fn spawn(&self, arguments: &[&str]) -> Running {
        Running { child: self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap() }
    }

    /// `run recipe.toml --run-dir RUN`, with more arguments.
    pub fn run(&self, run: &str, more: &[&str]) -> Ended {
        self.call(&[&["run", "recipe.toml", "--run-dir", run], more].concat())
    }

    /// The same, killed at the n-th step of its commits. It ends by itself if there are fewer.
    pub fn run_killed_at(&self, point: usize, run: &str, more: &[&str]) -> Ended {
        let mut command = self.command(&[&["run", "recipe.toml", "--run-dir", run], more].concat());
        Ended::of(&command.env("FOUR_HABITS_KILL_AT", point.to_string()).output().unwrap())
    }

    /// Proves that a finished run is whole, and leaves nothing behind.
    #[track_caller]
    pub fn verify(&self, run: &str) {
        let found = self.call(&["verify", "--deep", "--json", run]).expect(0).json();
        for what in ["problems", "missing", "orphans"] {
            assert_eq!(found[what], serde_json::json!([]), "{run}: {what}");
        }
    }

    /// Proves that a run's files are those of another one.
    #[track_caller]
    pub fn assert_same(&self, run: &str, expect: &BTreeMap<String, Vec<u8>>) {
        let found = self.files(run);
        let names: Vec<_> = found.keys().collect();
        assert_eq!(names, expect.keys().collect::<Vec<_>>(), "{run} holds other files");
        for (name, bytes) in &found {
            assert!(*bytes == expect[name], "`{run}/{name}` differs");
        }
    }

    /// Every file of a run folder by its path, but those that tell of time and of who holds the folder.
    pub fn files(&self, run: &str) -> BTreeMap<String, Vec<u8>> {
        let root = self.path(run);
        let mut files = BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if name != "events.jsonl" && !name.ends_with(".lock") {
                    files.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        files
    }

    /// A JSON file.
    #[track_caller]
    pub fn json(&self, name: &str) -> Value {
        let text = std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        serde_json::from_slice(&text).unwrap()
    }

    /// The sum of the rows that a stage's manifests account for: rows in, kept, dropped, quarantined.
    pub fn counts(&self, run: &str, stage: &str) -> [u64; 4] {
        let mut sum = [0; 4];
        // No unit, no manifest.
        for entry in std::fs::read_dir(self.path(run).join("manifests").join(stage)).into_iter().flatten() {
            let manifest: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
            let counts = &manifest["counts"];
            let number = |value: &Value| value.as_u64().unwrap();
            let dropped = counts["dropped"].as_object().map_or(0, |dropped| dropped.values().map(number).sum());
            let counts = [number(&counts["rows_in"]), number(&counts["kept"]), dropped, number(&counts["quarantined"])];
            assert_eq!(counts[0], counts[1..].iter().sum::<u64>(), "rows are lost: {manifest}");
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        sum
    }

    /// The ids of the plan's units, in order.
    pub fn units(&self, run: &str) -> Vec<String> {
        let plan = self.json(&format!("{run}/plan.json"));
        let units = plan["inputs"].as_array().unwrap().iter().flat_map(|input| input["units"].as_array().unwrap());
        units.map(|unit| unit["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// A program that runs.
pub struct Running {
    pub child: Child,
}

impl Running {
    /// Reads events until one is `event`. The program must have been started with `--json`.
    #[track_caller]
    pub fn wait_for(&mut self, event: &str) {
        let mut lines = BufReader::with_capacity(1, self.child.stdout.as_mut().unwrap()).lines();
        let wanted = format!("\"event\":\"{event}\"");
        assert!(lines.any(|line| line.unwrap().contains(&wanted)), "it ended without `{event}`");
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.unwrap().success(), "cannot send {name}: the program ended too early");
    }

    pub fn end(self) -> Ended {
        Ended::of(&self.child.wait_with_output().unwrap())
    }
}

/// What became of a call.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The exit code; 128 and the signal's number if a signal ended it.
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let ended = Self { exit: code(output.status), stdout: text(&output.stdout), stderr: text(&output.stderr) };
        for alarm in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
            assert!(!ended.stderr.contains(alarm), "{}", ended.stderr);
        }
        ended
    }

    #[track_caller]
    pub fn expect(self, exit: i32) -> Self {
        assert_eq!(self.exit, exit, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The call failed in one sentence, perhaps with causes and a remedy, and said nothing after that.
    #[track_caller]
    pub fn fails(self, exit: i32, sentence: &str) -> Self {
        let ended = self.expect(exit);
        let said: Vec<&str> = ended.stderr.lines().skip_while(|line| !line.starts_with("error: ")).collect();
        let shaped = said.iter().skip(1).all(|line| line.starts_with("  because: ") || line.starts_with("hint: "));
        assert!(!said.is_empty() && shaped, "not one sentence, its causes and a hint: {}", ended.stderr);
        let sentences: String = said.iter().filter(|line| !line.starts_with("hint: ")).copied().collect();
        assert!(sentences.contains(sentence), "expected `{sentence}` in: {}", ended.stderr);
        assert!(sentences.contains('`'), "the thing stands in backticks: {}", ended.stderr);
        ended
    }

    /// The remedy contains this.
    #[track_caller]
    pub fn hints(self, remedy: &str) -> Self {
        let hint = self.stderr.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap_or_default();
        assert!(hint.contains(remedy), "expected the hint `{remedy}` in: {}", self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {}", self.stdout))
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
