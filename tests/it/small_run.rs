//! A run of a dozen documents, some of them hostile, with a lexicon of four phrases: small enough to know by heart.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const LEXICON: &str = "\
[verification]
squash -1.0 2.0
1.0 let me check
[backtracking]
squash -1.0 2.0
1.0 that fails
[subgoal_setting]
squash -1.0 2.0
1.0 the first step
[backward_chaining]
squash -1.0 2.0
1.0 it suffices
";

pub const RECIPE: &str = "\
[fetch]
sources = [\"documents.jsonl\"]

[classify]
max-quarantined-share = 0.5
cue = { lexicon = \"lexicon.txt\" }

[curate]
test-share = 0.0

[curate.corpus.rich]
where = \"verification_count + backtracking_count >= 1\"

[curate.corpus.plain]
where = \"verification_count + backtracking_count = 0\"
match = \"rich\"

[report]
title = \"Small <run>\"
";

/// What people find on the web, and what they should not be able to do to a page or a terminal.
pub const SCRIPT: &str = "<script>alert(1)</script></style></textarea><img src=x onerror=alert(2)> Let me check: \"2 < 3\" & '4 > 3'. It is. Let me check again.";
pub const ESCAPES: &str =
    "Colour \u{1b}[31mred\u{1b}[0m, a bell \u{7}, a null \u{0}, \u{202e}turned\u{202c}. That fails. Well. That fails.";

/// A folder with documents, a lexicon and a recipe, in which the program runs.
pub struct SmallRun {
    folder: TempDir,
}

impl SmallRun {
    /// The folder before anything has run.
    pub fn new(recipe: &str) -> Self {
        let long_word = format!("That fails. Well. That fails. {}", "x".repeat(3000));
        let arabic = "دعنا نتحقق من النتيجة: ٢ + ٢ = ٤. Let me check once more. It is. Let me check again.";
        let documents: [(Option<&str>, &str); 12] = [
            (Some("Let me check: 2 + 2 = 4. That is right."), "https://sums.example.org/a"),
            (Some("We try 7. That fails. We try 8, and let me check it: 8 works."), "https://sums.example.org/b"),
            (Some("Let me check: 2 + 2 = 4. That is right."), "https://copy.example.org/a"),
            (None, "https://sums.example.org/null"),
            (Some("   "), "https://sums.example.org/blank"),
            (Some(SCRIPT), "javascript:alert(3)"),
            (Some(ESCAPES), "https://<b>host</b>/\"><script>"),
            (Some(&long_word), "https://long.example.org/"),
            (Some(arabic), "https://ar.example.org/"),
            (Some("A triangle has three sides and three corners."), "https://plain.example.org/1"),
            (Some("A square has four sides, and all of them are equal."), "https://plain.example.org/2"),
            (Some("It suffices to show the first step, which is a theorem."), "https://plain.example.org/3"),
        ];
        let lines = documents.map(|(text, url)| {
            serde_json::json!({ "url": url, "text": text, "date": "2024-01-01", "metadata": "{}" }).to_string() + "\n"
        });
        let run = Self { folder: TempDir::new().unwrap() };
        run.put("documents.jsonl", &lines.concat());
        run.put("lexicon.txt", LEXICON);
        run.put("small.toml", recipe);
        run
    }

    /// The folder after `pipeline run small.toml`; the run is in `runs/small`.
    pub fn done(recipe: &str) -> Self {
        let run = Self::new(recipe);
        run.ok(&["run", "small.toml"]);
        run
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    pub fn read(&self, relative: &str) -> String {
        std::fs::read_to_string(self.path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own folder")]
    pub fn put(&self, relative: &str, content: &str) {
        std::fs::write(self.path(relative), content).unwrap();
    }

    pub fn pipeline(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
        command.current_dir(self.folder.path()).args(args).output().unwrap()
    }

    /// What a successful command prints on stdout.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.pipeline(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The exit code and what a failing command says; it must not print data.
    #[track_caller]
    pub fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.pipeline(args);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// The corpus's first file.
    pub fn corpus(&self, name: &str) -> String {
        format!("runs/small/curate/{name}/train-00000-of-00001.parquet")
    }
}

/// Files below a folder, by relative path.
pub fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}
