//! What `curate` computes on every document, per core: `cargo bench --bench minhash`.
//!
//! The text is `../shared/data/math_docs` where it exists (`benches/peers/minhash.sh` measures datatrove on the same), else
//! random words. Throughput is in bytes of UTF-8.

#![expect(clippy::expect_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use four_habits::data::decontaminate::{Contamination, Rules};
use four_habits::data::minhash::{MinHasher, Shape};
use four_habits::data::near_duplicates::{Clusters, ExactKey};
use four_habits::data::token_count::TokenCounter;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[path = "../tests/it/math_docs.rs"]
#[expect(dead_code, reason = "benchmarks do not ask where a document is from")]
mod math_docs;

fn texts() -> Vec<String> {
    match math_docs::math_docs("real text, random words instead") {
        Some(documents) => documents.into_iter().map(|document| document.text).collect(),
        None => random_texts(),
    }
}

fn random_texts() -> Vec<String> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let words: Vec<String> = (0..20_000u32).map(|i| format!("{:x}", i.wrapping_mul(0x9e37_79b9) >> (i % 28))).collect();
    let mut text =
        || (0..600).map(|_| words[random.random_range(0..words.len())].as_str()).collect::<Vec<_>>().join(" ");
    (0..5000).map(|_| text()).collect()
}

fn every_document(c: &mut Criterion) {
    let texts = texts();
    let bytes = texts.iter().map(|text| text.len() as u64).sum();
    let hasher = MinHasher::new(Shape::default()).expect("the default shape is one");
    // As many items as MATH and GSM8K have, long and short, of the documents' own words in an order that is not theirs.
    let sentences = texts.iter().flat_map(|text| text.split(". ")).step_by(7).take(12_000);
    let items = sentences.map(|text| ("set", text.split_whitespace().rev().collect::<Vec<_>>().join(" ")));
    let contamination = Contamination::build(items, Rules::default()).expect("the default rules are rules");

    let mut group = c.benchmark_group("document");
    group.throughput(Throughput::Bytes(bytes)).sample_size(20);
    let mut measure = |name: &str, work: &dyn Fn(&str)| {
        group.bench_function(name, |bencher| bencher.iter(|| texts.iter().for_each(|text| work(black_box(text)))));
    };
    measure("minhash", &|text| _ = black_box(hasher.sketch(text)));
    measure("exact_key", &|text| _ = black_box(ExactKey::of(text)));
    measure("decontaminate", &|text| _ = black_box(contamination.check(text)));
    measure("token_count", &|text| _ = black_box(TokenCounter::Pieces.count(text)));
    measure("char_count", &|text| _ = black_box(text.chars().count()));
    group.finish();
}

fn clusters(c: &mut Criterion) {
    const DOCUMENTS: u32 = 1_000_000;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let band: Vec<(u64, u32)> = (0..DOCUMENTS).map(|i| (random.random_range(0..10_000_000), i)).collect();
    let mut group = c.benchmark_group("clusters");
    group.throughput(Throughput::Elements(DOCUMENTS.into())).sample_size(10);
    group.bench_function("band", |bencher| {
        bencher.iter_batched(
            || (Clusters::new(DOCUMENTS), band.clone()),
            |(mut clusters, mut band)| clusters.add_band(&mut band),
            criterion::BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, every_document, clusters);
criterion_main!(benches);
