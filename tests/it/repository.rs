//! Promises about the repository itself: generated files, recipes, the size of files, the direction of dependencies.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use crate::program::Workplace;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn generated_files_are_up_to_date() {
    for (name, text) in four_habits::commands::schema::files().expect("schemas") {
        let committed = std::fs::read_to_string(root().join(name)).unwrap_or_default();
        assert!(committed == text, "`{name}` is not up to date: run `cargo run --release -- schema --write`");
    }
}

#[test]
fn every_recipe_reads() {
    let recipes = files("pipelines", "toml");
    assert!(recipes.len() >= 2);
    for path in recipes {
        let recipe = four_habits::config::load(&path).unwrap_or_else(|error| panic!("{error:#}"));
        let text = std::fs::read_to_string(&path).expect("a recipe");
        assert!(text.starts_with('#'), "`{}` begins with a comment on what it does and costs", path.display());
        assert!(!recipe.name().is_empty());
    }
}

#[test]
fn the_quickstart_plans() {
    let quickstart = root().join("pipelines/quickstart.toml");
    let plan = Workplace::new().call(&["plan", "--json", &quickstart.to_string_lossy()]).expect(0).json();
    assert_eq!(plan["inputs"][0]["shards"], 1);
}

#[test]
fn files_are_short() {
    for path in files("src", "rs").into_iter().chain(files("tests", "rs")).chain(files("benches", "rs")) {
        let lines = std::fs::read_to_string(&path).expect("source").lines().count();
        assert!(lines <= 600, "`{}` has {lines} lines: which two ideas live in it?", path.display());
    }
}

/// The core knows no files, clock or network, and nothing of the layers above it.
#[test]
fn dependencies_point_one_way() {
    let check_file = |path: &Path, banned: &[&str]| {
        let text = std::fs::read_to_string(path).expect("source");
        let code = text.split("#[cfg(test)]").next().unwrap_or("");
        for word in banned {
            assert!(!code.contains(word), "`{}` uses `{word}`", path.display());
        }
    };
    let check = |folder: &str, banned: &[&str], except: &[&str]| {
        for path in files(folder, "rs") {
            if !except.iter().any(|except| path.ends_with(except)) {
                check_file(&path, banned);
            }
        }
    };
    let upper = ["crate::stages", "crate::run", "crate::plan", "crate::commands", "crate::config"];
    check(
        "src/countdown",
        &[&upper[..], &["std::fs", "std::net", "SystemTime", "Instant::now", "crate::data", "crate::lm"]].concat(),
        &[],
    );
    check("src/behavior", &[&upper[..], &["std::net", "SystemTime", "Instant::now", "crate::data"]].concat(), &[]);
    check("src/endpoint", &upper, &[]);
    check("src/lm", &[&upper[..], &["crate::data", "crate::behavior", "crate::train"]].concat(), &[]);
    // The numerics of training are pure; what surrounds them in their folder (data, checkpoints, the loop) is not.
    let pure =
        [&upper[..], &["std::fs", "std::net", "SystemTime", "Instant::now", "crate::data", "crate::behavior"]].concat();
    for part in [
        "adamw",
        "arithmetic",
        "attention",
        "batch",
        "head",
        "layer",
        "layer/backward",
        "layer/forward",
        "layer/plan",
        "model",
        "objective",
        "panels",
        "product",
        "rows",
        "schedule",
        "workspace",
    ] {
        check_file(&root().join(format!("src/train/{part}.rs")), &pure);
    }
    check("src/data", &["crate::stages", "crate::plan", "crate::commands", "crate::config", "crate::lm"], &[]);
}
