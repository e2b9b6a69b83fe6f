//! Gradients against central differences of the definition, and what training promises beside: equal bits, sums that
//! do not depend on how a batch is cut, and a loss that goes to zero.

use super::adamw::{self, AdamW, AdamWOptions};
use super::objective::{Objective, Prediction, RowLoss};
use super::reference::{Reference, slope};
use super::{TrainBatch, TrainModel, TrainOptions};
use crate::lm::{ModelConfig, Parameters, Precision};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const VOCAB: u32 = 70;

/// Each switch of the decoder is on in one of these.
const CONFIGS: [&str; 4] = [
    r#"{"model_type": "llama", "num_attention_heads": 2, "tie_word_embeddings": true, "hidden_size": 24, "rope_scaling":
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 16}"#,
    r#"{"model_type": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32,
        "use_sliding_window": true, "sliding_window": 5, "max_window_layers": 1"#,
    r#"{"model_type": "qwen3", "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 10, "hidden_size": 20"#,
    r#"{"model_type": "llama", "num_attention_heads": 1, "hidden_size": 80, "attention_bias": true, "mlp_bias": true"#,
];

fn config(index: usize) -> ModelConfig {
    let rest = r#", "vocab_size": 70, "intermediate_size": 36, "num_hidden_layers": 2}"#;
    ModelConfig::from_json(&format!("{}{rest}", CONFIGS[index])).unwrap()
}

/// Weights large enough that everything matters.
fn parameters(config: &ModelConfig) -> Parameters {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut parameters = Parameters::zeros(config);
    for entry in parameters.iter_mut() {
        let (middle, spread) = match entry.shape.len() {
            1 if entry.name.ends_with("norm.weight") => (1.0, 0.5),
            1 => (0.0, 0.5),
            _ => (0.0, 1.5 / (entry.shape[1] as f32).sqrt()),
        };
        entry.values.iter_mut().for_each(|x| *x = middle + spread * random.random_range(-1.0..1.0));
    }
    parameters
}

/// Sequences beyond a block of queries and a panel of keys, of one token, of none, and with rows that predict nothing.
fn batch() -> TrainBatch {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut tokens = |n: usize| (0..n).map(|_| random.random_range(0..VOCAB)).collect::<Vec<u32>>();
    let mut batch = TrainBatch::default();
    batch.push_text(&tokens(101));
    batch.push_text(&tokens(1));
    batch.push_completion(&tokens(4), &tokens(6));
    batch.push_text(&[]);
    batch.push_text(&tokens(50));
    batch
}

/// Compares gradients with central differences of `loss` at some places of every tensor.
fn check_gradients(
    config: &ModelConfig,
    parameters: &Parameters,
    gradients: &Parameters,
    loss: impl Fn(&Reference<'_>) -> f64,
) {
    let mut reference = Reference::new(config, parameters);
    let mut random = ChaCha8Rng::seed_from_u64(9);
    for (tensor, gradient) in gradients.iter().enumerate() {
        let norm = gradient.values.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(norm > 1e-3, "`{}` has no gradient", gradient.name);
        let largest = gradient.values.iter().fold(0f32, |a, b| a.max(b.abs()));
        let places = (0..3).map(|_| random.random_range(0..gradient.values.len()));
        // Among them the place of the largest, where a wrong factor shows best.
        let places = places.chain(gradient.values.iter().position(|x| x.abs() == largest));
        for at in places {
            let expect = slope(&mut reference, tensor, at, &loss);
            let error = (f64::from(gradient.values[at]) - expect).abs();
            assert!(
                error < 1e-4 * f64::from(largest),
                "`{}` at {at}: {} instead of {expect} (largest {largest})",
                gradient.name,
                gradient.values[at]
            );
        }
    }
}

#[test]
fn gradients_equal_central_differences() {
    for index in 0..CONFIGS.len() {
        let (config, batch) = (config(index), batch());
        let parameters = parameters(&config);
        let options = TrainOptions { z_loss: 0.01, ..TrainOptions::default() };
        let mut model = TrainModel::new(config.clone(), parameters.clone(), options).unwrap();
        let mut gradients = parameters.zeros_like();
        let sum = model.loss_and_gradients(&batch, 0.5, &mut gradients).unwrap();
        let loss = |reference: &Reference<'_>| -> f64 {
            let rows = reference.log_probabilities(&batch).into_iter().zip(&batch.targets);
            let loss = rows.filter_map(|((logs, z), target)| Some(0.01 * z * z - logs[(*target)? as usize]));
            0.5 * loss.sum::<f64>()
        };
        let expect = loss(&Reference::new(&config, &parameters));
        assert!((0.5 * (sum.nll + sum.z) - expect).abs() < 1e-4 * expect, "{sum:?} {expect}");
        assert_eq!(model.loss(&batch).unwrap(), sum);
        assert_eq!(sum.targets, batch.target_count() as u64);
        check_gradients(&config, &parameters, &gradients, loss);
    }
}

/// A loss of all that an objective can see, different in every row.
struct Odd;

impl Objective for Odd {
    const ENTROPY: bool = true;

    fn row(&self, row: usize, prediction: &Prediction) -> RowLoss {
        let c = row as f32 * 0.01 - 0.3;
        let ratio = (c * prediction.log_probability).exp();
        RowLoss {
            loss: f64::from(ratio - c * prediction.entropy * prediction.entropy),
            log_probability: c * ratio,
            entropy: -2.0 * c * prediction.entropy,
            log_normaliser: 0.0,
        }
    }
}

#[test]
fn any_objective_of_log_probability_and_entropy_has_its_gradient() {
    let (config, batch) = (config(1), batch());
    let parameters = parameters(&config);
    let mut model = TrainModel::new(config.clone(), parameters.clone(), TrainOptions::default()).unwrap();
    let mut gradients = parameters.zeros_like();
    let (found, predictions) = model.minimise(&batch, &Odd, &mut gradients).unwrap();
    let loss = |reference: &Reference<'_>| -> f64 {
        let mut sum = 0.0;
        for (row, (logs, _)) in reference.log_probabilities(&batch).into_iter().enumerate() {
            let Some(target) = batch.targets[row] else { continue };
            let (c, entropy) = (row as f64 * 0.01 - 0.3, -logs.iter().map(|x| x.exp() * x).sum::<f64>());
            sum += (c * logs[target as usize]).exp() - c * entropy * entropy;
        }
        sum
    };
    let expect = loss(&Reference::new(&config, &parameters));
    assert!((found - expect).abs() < 1e-4 * expect.abs(), "{found} {expect}");
    check_gradients(&config, &parameters, &gradients, loss);
    // Forward only gives the same.
    assert_eq!(model.predictions(&batch, true).unwrap(), predictions);
    assert!(model.predictions(&batch, false).unwrap().iter().flatten().all(|prediction| prediction.entropy == 0.0));
}

#[test]
fn hidden_states_pass_gradients_on() {
    let (config, batch) = (config(2), batch());
    let parameters = parameters(&config);
    let mut model = TrainModel::new(config.clone(), parameters.clone(), TrainOptions::default()).unwrap();
    let mut gradients = parameters.zeros_like();
    let hidden = model.hidden(&batch).unwrap().to_vec();
    // The loss is the sum of squares.
    let d_hidden: Vec<f32> = hidden.iter().map(|x| 2.0 * x).collect();
    model.backward_hidden(&d_hidden, &mut gradients).unwrap();
    assert!(model.backward_hidden(&d_hidden, &mut gradients).is_err(), "a second time");
    let loss =
        |reference: &Reference<'_>| -> f64 { reference.all_hidden(&batch).iter().flatten().map(|x| x * x).sum() };
    // The head has no part in it.
    gradients.get_mut("lm_head.weight").unwrap().values.fill(1.0);
    let mut reference = Reference::new(&config, &parameters);
    for tensor in [0, 3, 9] {
        let gradient = &gradients.as_slice()[tensor];
        let largest = gradient.values.iter().fold(0f32, |a, b| a.max(b.abs()));
        let at = gradient.values.iter().position(|x| x.abs() == largest).unwrap();
        let expect = slope(&mut reference, tensor, at, loss);
        assert!((f64::from(gradient.values[at]) - expect).abs() < 1e-4 * expect.abs(), "`{}`", gradient.name);
    }
}

fn gradients_of(options: TrainOptions, batches: &[&TrainBatch]) -> Parameters {
    let config = config(1);
    let parameters = parameters(&config);
    let mut gradients = parameters.zeros_like();
    let mut model = TrainModel::new(config, parameters, options).unwrap();
    for batch in batches {
        model.loss_and_gradients(batch, 0.01, &mut gradients).unwrap();
    }
    gradients
}

fn distance(a: &Parameters, b: &Parameters) -> f64 {
    let mut difference = a.clone();
    for (a, b) in difference.iter_mut().zip(b.iter()) {
        a.values.iter_mut().zip(&b.values).for_each(|(a, b)| *a -= b);
    }
    adamw::global_norm(&difference) / adamw::global_norm(b)
}

#[test]
fn bits_do_not_depend_on_threads_or_on_what_was_before() {
    let batch = batch();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let five = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    for precision in [Precision::F32, Precision::Bf16].into_iter().filter(|precision| precision.usable()) {
        let options = TrainOptions { precision, ..TrainOptions::default() };
        let expect = one.install(|| gradients_of(options, &[&batch]));
        assert_eq!(five.install(|| gradients_of(options, &[&batch])), expect);
        assert_eq!(gradients_of(TrainOptions { recompute: true, ..options }, &[&batch]), expect);
    }
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let batch = batch();
    let mut parts = [TrainBatch::default(), TrainBatch::default()];
    for (index, rows) in batch.sequences.iter().enumerate() {
        let targets = batch.targets[rows.clone()].iter().copied();
        parts[index % 2].push(&batch.tokens[rows.clone()], targets);
    }
    let together = gradients_of(TrainOptions::default(), &[&batch]);
    let apart = gradients_of(TrainOptions::default(), &[&parts[0], &parts[1], &TrainBatch::default()]);
    assert!(distance(&apart, &together) < 1e-5);
}

#[test]
fn bfloat16_stays_close() {
    if !Precision::Bf16.usable() {
        return;
    }
    let batch = batch();
    let exact = gradients_of(TrainOptions::default(), &[&batch]);
    let rounded = gradients_of(TrainOptions { precision: Precision::Bf16, ..TrainOptions::default() }, &[&batch]);
    let distance = distance(&rounded, &exact);
    assert!(distance > 1e-5 && distance < 0.03, "{distance}");
}

#[test]
fn a_batch_is_learnt_by_heart() {
    for precision in [Precision::F32, Precision::Bf16].into_iter().filter(|precision| precision.usable()) {
        let (config, batch) = (config(0), batch());
        let parameters = Parameters::random(&config, 1);
        let mut optimizer = AdamW::new(&parameters, AdamWOptions::default());
        let mut gradients = parameters.zeros_like();
        let options = TrainOptions { precision, ..TrainOptions::default() };
        let mut model = TrainModel::new(config, parameters, options).unwrap();
        let targets = batch.target_count();
        let first = model.loss(&batch).unwrap().nll / targets as f64;
        assert!((first - f64::from(VOCAB).ln()).abs() < 0.2, "{first}");
        for _ in 0..150 {
            gradients.fill(0.0);
            model.loss_and_gradients(&batch, 1.0 / targets as f32, &mut gradients).unwrap();
            adamw::clip_global_norm(&mut gradients, 1.0);
            optimizer.step(&mut model.parameters, &gradients, 1e-2);
        }
        let last = model.loss(&batch).unwrap().nll / targets as f64;
        assert!(last < 0.05, "{precision:?}: {last}");
    }
}

#[test]
fn another_models_batch_or_gradients_are_refused() {
    let config = config(0);
    let mut model = TrainModel::new(config.clone(), parameters(&config), TrainOptions::default()).unwrap();
    let mut batch = TrainBatch::default();
    batch.push_text(&[1, VOCAB]);
    assert!(model.loss(&batch).unwrap_err().to_string().contains("token 70 is beyond"));
    batch.tokens[1] = 1;
    batch.targets[0] = None;
    let mut gradients = Parameters::zeros(&self::config(1));
    assert!(model.loss_and_gradients(&batch, 1.0, &mut gradients).is_err());
    assert_eq!(model.loss(&batch).unwrap().targets, 0);
    assert_eq!(model.loss(&TrainBatch::default()).unwrap().targets, 0);
}
