//! How fast `CueJudge` reads: MB/s on one core, over real mathematical documents when the checkout has them beside it
//! (`../shared/data/math_docs`), else over generated text.
//!
//! `cargo bench --bench cue`

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use four_habits::behavior::cue::{CueJudge, Lexicon};
use four_habits::behavior::judge::Judge;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use std::path::Path;

const MATH_DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/math_docs");

fn bench(criterion: &mut Criterion) {
    let (source, texts) = match math_docs() {
        Some(texts) => ("math_docs", texts),
        None => ("generated", generated()),
    };
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    // The judge spreads a batch over rayon's threads; with one thread the figure is per core.
    let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let Ok(one_core) = one_core else { return };
    let mut judge = CueJudge::new(&Lexicon::embedded());
    let mut group = criterion.benchmark_group("cue");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(texts.iter().map(|text| text.len() as u64).sum()));
    group.bench_function(format!("judge/{source}/one_core"), |bencher| {
        bencher.iter(|| one_core.install(|| judge.judge(&texts)));
    });
    group.finish();
}

/// The texts of the shards, or none where there is no such folder.
fn math_docs() -> Option<Vec<String>> {
    let mut texts = Vec::new();
    let mut paths: Vec<_> =
        Path::new(MATH_DOCS).read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "parquet")) {
        let reader = SerializedFileReader::new(std::fs::File::open(path).ok()?).ok()?;
        let schema = reader.metadata().file_metadata().schema();
        let column = schema.get_fields().iter().position(|field| field.name() == "text")?;
        for row in reader.get_row_iter(None).ok()? {
            texts.extend(row.ok()?.get_string(column).ok().cloned());
        }
    }
    (!texts.is_empty()).then_some(texts)
}

/// 8 MB of prose, formulas and chains of thought, the same each time.
fn generated() -> Vec<String> {
    let paragraphs = [
        "Let $f$ be continuous on $[0, 1]$ and suppose that $f(0) = f(1)$. Then there is a point $x$ where \
         $f(x) = f(x + 1/2)$, which follows from the intermediate value theorem.\n\n",
        "Wait, that doesn't work. Let me try another combination: 25 * 4 = 100, and 100 - 4 = 96, which is too small.\n\n",
        "It suffices to show that the sequence is bounded. We first find an upper bound:\n\\begin{align}\na_{n+1} &\\le \
         a_n + 2^{-n}\n\\end{align}\nand so, by the triangle inequality, we are done.\n\n",
        "The tables below were compiled by hand in the nineteenth century. They list the values to six digits.\n\n",
    ];
    (0..2_000).map(|document| (0..20).map(|at| paragraphs[(document + at * at) % paragraphs.len()]).collect()).collect()
}

criterion_group!(benches, bench);
criterion_main!(benches);
