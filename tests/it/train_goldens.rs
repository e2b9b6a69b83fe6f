//! Training against PyTorch and transformers: loss, every gradient, and the optimizer's steps.
//! `tests/goldens/make_train_goldens.py` made the files.

use four_habits::lm::{ModelConfig, Parameters};
use four_habits::train::adamw::{self, AdamW, AdamWOptions};
use four_habits::train::{TrainBatch, TrainModel, TrainOptions};
use safetensors::SafeTensors;
use std::path::Path;

/// A file of named f32 tensors and the metadata that says what model they are of.
struct Golden {
    bytes: Vec<u8>,
    config: ModelConfig,
    metadata: std::collections::HashMap<String, String>,
}

impl Golden {
    fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/train-{name}.safetensors"));
        let bytes = std::fs::read(path).unwrap();
        let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
        Self { config: ModelConfig::from_json(&metadata["config"]).unwrap(), bytes, metadata }
    }

    fn words<T>(&self, name: &str, read: fn([u8; 4]) -> T) -> Vec<T> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        tensors.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|bytes| read(*bytes)).collect()
    }

    fn parameters(&self, prefix: &str) -> Parameters {
        let find = |name: &str, _: &[usize]| Ok(self.words(&format!("{prefix}.{name}"), f32::from_le_bytes));
        Parameters::from_named(&self.config, find).unwrap()
    }

    fn batch(&self) -> TrainBatch {
        let mut tokens = &self.words("tokens", u32::from_le_bytes)[..];
        let mut batch = TrainBatch::default();
        for length in self.words("lengths", u32::from_le_bytes) {
            let (text, rest) = tokens.split_at(length as usize);
            batch.push_text(text);
            tokens = rest;
        }
        batch
    }
}

/// The relative distance between two tensors.
fn distance(found: &[f32], expect: &[f32]) -> f64 {
    assert_eq!(found.len(), expect.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expect).map(|(a, b)| square(a - b)).sum();
    (difference / expect.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

#[test]
fn loss_and_gradients_equal_those_of_transformers() {
    for name in ["llama", "qwen2", "qwen3"] {
        let golden = Golden::open(name);
        let (parameters, expect) = (golden.parameters("weight"), golden.parameters("gradient"));
        for recompute in [false, true] {
            let options = TrainOptions { recompute, ..TrainOptions::default() };
            let mut model = TrainModel::new(golden.config.clone(), parameters.clone(), options).unwrap();
            let batch = golden.batch();
            let mut gradients = parameters.zeros_like();
            let targets = batch.target_count() as f64;
            let sum = model.loss_and_gradients(&batch, (1.0 / targets) as f32, &mut gradients).unwrap();
            let loss = f64::from(golden.words("loss", f32::from_le_bytes)[0]);
            assert!((sum.nll / targets - loss).abs() < 1e-5 * loss, "{name}: {} {loss}", sum.nll / targets);
            for (found, expect) in gradients.iter().zip(expect.iter()) {
                let distance = distance(&found.values, &expect.values);
                assert!(distance < 1e-4, "{name}: `{}` is off by {distance}", found.name);
            }
        }
    }
}

#[test]
fn adamw_steps_like_torch() {
    let golden = Golden::open("adamw");
    let options: serde_json::Value = serde_json::from_str(&golden.metadata["options"]).unwrap();
    let number = |key: &str| options[key].as_f64().unwrap();
    let mut parameters = golden.parameters("weight");
    let betas = (options["betas"][0].as_f64().unwrap(), options["betas"][1].as_f64().unwrap());
    let options = AdamWOptions { betas, eps: number("eps"), weight_decay: number("weight_decay") };
    let mut optimizer = AdamW::new(&parameters, options);
    for (step, norm) in golden.words("norms", f32::from_le_bytes).into_iter().enumerate() {
        let mut gradients = golden.parameters(&format!("gradient.{step}"));
        let found = adamw::clip_global_norm(&mut gradients, number("clip"));
        assert!((found - f64::from(norm)).abs() < 1e-6 * found, "{found} {norm}");
        optimizer.step(&mut parameters, &gradients, number("lr") / (step + 1) as f64);
        for (found, expect) in parameters.iter().zip(golden.parameters(&format!("weight.{step}")).iter()) {
            let distance = distance(&found.values, &expect.values);
            assert!(distance < 1e-6, "step {step}: `{}` is off by {distance}", found.name);
        }
    }
    assert_eq!(optimizer.steps, 4);
}
