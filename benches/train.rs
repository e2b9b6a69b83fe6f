//! Training steps at the shapes of `../shared/bench/torch_train.py`, 4 sequences of 512: `cargo bench --bench train`.
//!
//! A step is forward, backward, clipping and AdamW on random tokens, as the peer measures it; throughput is in tokens.
//! `cargo bench --bench train -- mini` leaves the large shape out.

#![expect(clippy::expect_used, reason = "a benchmark fails by panicking")]

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use four_habits::lm::{ModelConfig, Parameters, Precision};
use four_habits::train::adamw::{self, AdamW, AdamWOptions};
use four_habits::train::{TrainBatch, TrainModel, TrainOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SEQUENCES: usize = 4;
const LENGTH: usize = 512;

/// Hidden, layers, heads, kv heads, intermediate, vocabulary.
const SHAPES: [(&str, [usize; 6]); 3] = [
    ("mini-0.3m", [96, 3, 4, 4, 384, 160]),
    ("mini-10m", [384, 6, 6, 6, 1024, 512]),
    ("smollm2-135m", [576, 30, 9, 3, 1536, 49152]),
];

/// All that a step needs.
struct Training {
    model: TrainModel,
    gradients: Parameters,
    optimizer: AdamW,
    batch: TrainBatch,
}

impl Training {
    fn new([hidden, layers, heads, kv_heads, inner, vocab]: [usize; 6], precision: Precision) -> Self {
        let config = serde_json::json!({
            "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "intermediate_size": inner, "vocab_size": vocab, "tie_word_embeddings": true,
        });
        let config = ModelConfig::from_json(&config.to_string()).expect("a configuration");
        let parameters = Parameters::random(&config, 0);
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut batch = TrainBatch::default();
        for _ in 0..SEQUENCES {
            let text: Vec<u32> = (0..=LENGTH).map(|_| random.random_range(0..vocab as u32)).collect();
            batch.push(&text[..LENGTH], text[1..].iter().copied().map(Some));
        }
        Self {
            gradients: parameters.zeros_like(),
            optimizer: AdamW::new(&parameters, AdamWOptions::default()),
            model: TrainModel::new(config, parameters, TrainOptions { precision, ..TrainOptions::default() })
                .expect("a model"),
            batch,
        }
    }

    fn step(&mut self) {
        self.gradients.fill(0.0);
        let scale = 1.0 / self.batch.target_count() as f32;
        self.model.loss_and_gradients(&self.batch, scale, &mut self.gradients).expect("a loss");
        adamw::clip_global_norm(&mut self.gradients, 1.0);
        self.optimizer.step(&mut self.model.parameters, &self.gradients, 1e-4);
    }
}

fn train(c: &mut Criterion) {
    for (name, shape) in SHAPES {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements((SEQUENCES * LENGTH) as u64));
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        for precision in [Precision::F32, Precision::Bf16].into_iter().filter(|precision| precision.usable()) {
            // Made only if it is measured.
            let mut training = None;
            group.bench_function(format!("{precision:?}").to_lowercase(), |bencher| {
                let training = training.get_or_insert_with(|| Training::new(shape, precision));
                bencher.iter(|| training.step());
            });
        }
        group.finish();
    }
}

criterion_group!(benches, train);
criterion_main!(benches);
