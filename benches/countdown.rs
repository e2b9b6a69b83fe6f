//! How fast Countdown is, per core: puzzles solved, traces made and checked, text judged and read, the prime stage as a whole.
//!
//! `cargo bench --bench countdown`; `python3 benches/peers/countdown_solver.py` solves the same puzzles in plain Python.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use four_habits::countdown::condition::{Answers, Condition};
use four_habits::countdown::draw::{Draw, PuzzleSpec, Source};
use four_habits::countdown::generate::{Generator, TraceRecord, TraceSpec};
use four_habits::countdown::phrases::Diversity;
use four_habits::countdown::puzzle::{Puzzle, mix};
use four_habits::countdown::query::QueryTemplate;
use four_habits::countdown::solver::{Rules, is_solvable, solutions};
use four_habits::countdown::{compat, counter, verdict};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::process::{Command, Stdio};

/// The `index`-th puzzle of four numbers from 1 to `largest`, targets 10 to `largest` + 1. The Python peer draws the same.
fn puzzle(index: u64, largest: u64) -> Option<Puzzle> {
    let draw = |slot: u64, n: u64| (mix(8 * index + slot) % n) as u32;
    let numbers = [0, 1, 2, 3].map(|slot| 1 + draw(slot, largest));
    Puzzle::new(&numbers, 10 + draw(7, largest - 8)).ok()
}

fn solve(criterion: &mut Criterion) {
    const N: u64 = 2000;
    let mut group = criterion.benchmark_group("countdown/solve");
    group.sample_size(10).throughput(Throughput::Elements(N));
    for largest in [24, 99] {
        let puzzles: Vec<Puzzle> = (0..N).filter_map(|index| puzzle(index, largest)).collect();
        for (name, rules) in [("naturals", Rules::NATURAL), ("rationals", Rules::RATIONAL)] {
            group.bench_function(format!("all/{name}/numbers_to_{largest}"), |bencher| {
                bencher.iter(|| puzzles.iter().map(|puzzle| solutions(puzzle, rules).solutions.len()).sum::<usize>());
            });
            group.bench_function(format!("any/{name}/numbers_to_{largest}"), |bencher| {
                bencher.iter(|| puzzles.iter().filter(|puzzle| is_solvable(puzzle, rules)).count());
            });
        }
    }
    group.finish();
}

fn generator(condition: Condition, answers: Answers, diversity: Diversity, puzzles: PuzzleSpec) -> Option<Generator> {
    let draw = Draw::new(Source::Drawn(puzzles), BTreeSet::new(), None, 1).ok()?;
    let spec = TraceSpec { answers, diversity, ..TraceSpec::new(condition, 1) };
    Generator::new(spec, draw, QueryTemplate::built_in().ok()?, None).ok()
}

fn traces(criterion: &mut Criterion) {
    const N: u64 = 2000;
    let mut group = criterion.benchmark_group("countdown/traces");
    group.sample_size(10).throughput(Throughput::Elements(N));
    use Answers::{Correct, Wrong};
    use Condition::{AllStrategies, Direct, OnlyBacktracking, Scrambled};
    use Diversity::{Full, Terse};
    for (condition, answers, diversity, puzzles, name) in [
        (AllStrategies, Correct, Full, PuzzleSpec::paper(), "paper"),
        (AllStrategies, Wrong, Full, PuzzleSpec::paper(), "paper"),
        (AllStrategies, Correct, Full, PuzzleSpec::three_to_four(), "three_to_four"),
        (AllStrategies, Correct, Terse, PuzzleSpec::paper(), "terse"),
        (OnlyBacktracking, Correct, Full, PuzzleSpec::paper(), "paper"),
        (Scrambled, Correct, Full, PuzzleSpec::paper(), "paper"),
        (Direct, Correct, Full, PuzzleSpec::paper(), "paper"),
    ] {
        let Some(generator) = generator(condition, answers, diversity, puzzles) else { return };
        let answers = if answers == Wrong { "wrong" } else { "correct" };
        group.bench_function(format!("{}/{answers}/{name}", condition.name()), |bencher| {
            bencher.iter(|| (0..N).filter(|&index| generator.trace(index).is_ok()).count());
        });
    }
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let Some(generator) = generator(Condition::AllStrategies, Answers::Correct, Diversity::Full, PuzzleSpec::paper())
    else {
        return;
    };
    let records: Vec<TraceRecord> = (0..2000).filter_map(|index| generator.trace(index).ok()).collect();
    let mut group = criterion.benchmark_group("countdown/read");
    group
        .sample_size(10)
        .throughput(Throughput::Bytes(records.iter().map(|record| record.completion.len() as u64).sum()));
    group.bench_function("counter", |bencher| {
        bencher.iter(|| {
            for record in &records {
                black_box(counter::read(&record.puzzle, counter::thought(&record.completion)));
            }
        });
    });
    group.bench_function("verdict", |bencher| {
        bencher.iter(|| {
            for record in &records {
                black_box(verdict::judge(&record.puzzle, &record.completion));
            }
        });
    });
    let transcripts: Vec<String> =
        records.iter().map(|record| [&*record.query, &*record.completion].concat()).collect();
    group.bench_function("compat", |bencher| {
        bencher.iter(|| {
            for (record, transcript) in records.iter().zip(&transcripts) {
                black_box(compat::score(&record.puzzle, transcript));
            }
        });
    });
    group.finish();
}

/// The program with a recipe of one condition: traces made, gated and measured, Parquet written and synced, the card.
fn stage(criterion: &mut Criterion) {
    const N: u64 = 20_000;
    let Ok(folder) = tempfile::tempdir() else { return };
    let recipe = format!("[prime]\nconditions = [\"all-strategies\"]\ntrain = {N}\ntest = 1\n");
    let recipe_path = folder.path().join("recipe.toml");
    #[expect(clippy::disallowed_methods, reason = "a benchmark's input needs no commit")]
    if std::fs::write(&recipe_path, recipe).is_err() {
        return;
    }
    let mut group = criterion.benchmark_group("countdown/stage");
    group.sample_size(10).throughput(Throughput::Elements(N));
    group.bench_function("all-strategies/one_thread", |bencher| {
        bencher.iter(|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
            command.arg("run").arg(&recipe_path).args(["--threads", "1", "--fresh", "--run-dir"]);
            command.arg(folder.path().join("run")).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        });
    });
    group.finish();
}

criterion_group!(benches, solve, traces, read, stage);
criterion_main!(benches);
