//! A tiny Llama on Countdown with two numbers: `9 4 13` asks for `9 + 4`, `9 4 5` for `9 - 4`.

use super::*;
use crate::countdown::puzzle::Puzzle;
use crate::countdown::verdict::{Verdict, judge_answer};
use crate::rl::advantage::{AdvantageKind, Discount};
use crate::rl::kl::{KlController, KlEstimator};
use crate::rl::loss::{Aggregation, Clip};
use crate::rl::ppo::{self, KlPenalty, KlPlace, Models, Ppo, Settings, State, StepStatistics, Surroundings};
use crate::rl::rollout::{Rollout, Truncation, requests};
use crate::train::TrainOptions;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

const END: u32 = 0;
const PLUS: u32 = 19;
const MINUS: u32 = 20;
const LIMIT: usize = 6;

fn config() -> ModelConfig {
    ModelConfig::from_json(
        r#"{"model_type": "llama", "vocab_size": 21, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": true}"#,
    )
    .unwrap()
}

fn question(random: &mut ChaCha8Rng) -> [u32; 3] {
    let (a, b) = (random.random_range(2..=6), random.random_range(1..=5));
    let (high, low) = if b < a { (a, b) } else { (b + 1, a) };
    [high, low, if random.random() { high + low } else { high - low }]
}

fn solves(prompt: &[u32], said: &[u32]) -> bool {
    let word = |token: &u32| match *token {
        PLUS => "+".to_owned(),
        MINUS => "-".to_owned(),
        number => number.to_string(),
    };
    let text: Vec<String> = said.iter().map(word).collect();
    judge_answer(&Puzzle::new(&prompt[..2], prompt[2]).unwrap(), &text.join(" ")) == Verdict::Solved
}

struct Answers;

impl Surroundings for Answers {
    fn rewards(&mut self, rollouts: &[Rollout]) -> anyhow::Result<Vec<f64>> {
        Ok(rollouts.iter().map(|rollout| f64::from(solves(&rollout.prompt_tokens, rollout.said()))).collect())
    }
}

fn model(parameters: Parameters) -> TrainModel {
    TrainModel::new(config(), parameters, TrainOptions::default()).unwrap()
}

/// Weights that have learned the form of an answer, and to choose the sign by chance.
fn primed() -> Parameters {
    let mut model = model(Parameters::random(&config(), 5));
    let mut optimizer = AdamW::new(&model.parameters, AdamWOptions::default());
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..250 {
        let mut batch = TrainBatch::default();
        for _ in 0..32 {
            let prompt = question(&mut random);
            let sign = if random.random() { PLUS } else { MINUS };
            batch.push_completion(&prompt, &[prompt[0], sign, prompt[1], END]);
        }
        let mut gradients = model.parameters.zeros_like();
        model.loss_and_gradients(&batch, 1.0 / batch.target_count() as f32, &mut gradients).unwrap();
        optimizer.step(&mut model.parameters, &gradients, 5e-3);
    }
    model.parameters
}

struct Learner {
    policy: LmPolicy,
    reference: LmReference,
    critic: LmCritic,
    state: State,
}

impl Learner {
    fn new(primed: &Parameters) -> Self {
        let adamw = AdamWOptions { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 };
        let descent = |rate| Descent { rate, clip: 1.0, adamw };
        let head = LmCritic::new_head(&config());
        let head_optimizer = AdamW::new(&head, adamw);
        let optimizer = || AdamW::new(primed, adamw);
        Self {
            policy: LmPolicy::new(
                model(primed.clone()),
                optimizer(),
                descent(1e-3),
                vec![END],
                LIMIT,
                BatchLimits::default(),
            ),
            reference: LmReference { model: model(primed.clone()) },
            critic: LmCritic::new(model(primed.clone()), optimizer(), head, head_optimizer, descent(2e-3)),
            state: State { step: 0, kl: KlController::Fixed { coefficient: 0.001 } },
        }
    }

    fn step(&mut self, settings: &Settings) -> StepStatistics {
        let mut random = ChaCha8Rng::seed_from_u64(self.state.step);
        let prompts: Vec<Arc<[u32]>> = (0..16).map(|_| Arc::from(question(&mut random))).collect();
        let mut ppo = Ppo { settings: settings.clone(), state: self.state };
        let mut models = Models {
            policy: &mut self.policy,
            critic: settings.advantage.has_critic().then_some(&mut self.critic as &mut dyn Critic),
            reference: Some(&mut self.reference),
        };
        let step = ppo.step(&mut models, &prompts, &mut Answers).unwrap();
        self.state = ppo.state;
        step.statistics
    }

    /// The same learner as a checkpoint would give it back.
    fn saved_and_loaded(self) -> Self {
        let Self { policy, reference, critic, state } = self;
        let LmPolicy { model: actor, optimizer, descent, end_tokens, max_response, limits, .. } = policy;
        let LmCritic { model: values, optimizer: values_optimizer, head, head_optimizer, descent: rate, .. } = critic;
        Self {
            policy: LmPolicy::new(model(actor.parameters), optimizer, descent, end_tokens, max_response, limits),
            critic: LmCritic::new(model(values.parameters), values_optimizer, head, head_optimizer, rate),
            reference: LmReference { model: model(reference.model.parameters) },
            state,
        }
    }
}

fn settings() -> Settings {
    Settings {
        seed: 3,
        samples: 4,
        end_tokens: vec![END],
        max_response: LIMIT,
        truncation: Truncation::Score,
        recompute_old: false,
        kl: Some(KlPenalty { place: KlPlace::Reward, estimator: KlEstimator::K1 }),
        advantage: AdvantageKind::Gae,
        discount: Discount { gamma: 1.0, lambda: 1.0, whiten: true },
        clip: Clip { low: 0.2, high: 0.2, dual: None },
        value_clip: Some(0.5),
        entropy: 0.001,
        epochs: 1,
        actor_minibatch: 32,
        critic_minibatch: 16,
        micro_batch_tokens: 128,
        shuffle: false,
        actor_aggregation: Aggregation::TokenMean,
        critic_aggregation: Aggregation::TokenMean,
        critic_warmup: 0,
    }
}

/// The policy that samples and the policy that learns are one: cached, batched decoding gives the log-probabilities of a full
/// forward.
#[test]
fn decoding_and_training_agree() {
    let mut policy = Learner::new(&Parameters::random(&config(), 9)).policy;
    let prompts: Vec<Arc<[u32]>> = vec![Arc::from([9u32, 4, 13]), Arc::from([3u32]), Arc::from([1u32, 2, 3, 4, 5])];
    let requests = requests(&prompts, 8, 1, 1);
    let sampled = policy.generate(&requests).unwrap();
    let sequences: Vec<Sequence> = requests
        .iter()
        .zip(&sampled)
        .map(|(request, sampled)| Sequence { prompt: &request.prompt_tokens, response: &sampled.tokens })
        .collect();
    let scores = policy.score(&sequences).unwrap();
    let decoded: Vec<f32> = sampled.iter().flat_map(|sampled| sampled.log_probs.clone()).collect();
    assert_eq!(decoded.len(), scores.log_probs.len());
    for (decoded, scored) in decoded.iter().zip(&scores.log_probs) {
        assert!((decoded - scored).abs() < 1e-5, "{decoded} {scored}");
    }
    assert!(scores.entropies.iter().all(|entropy| (2.9..3.05).contains(entropy)), "near ln 21");
    // A sequence's scores do not depend on its neighbours.
    let alone = policy.score(&sequences[..1]).unwrap().log_probs;
    assert_eq!(alone, scores.log_probs[..alone.len()]);
}

#[test]
fn ppo_learns_which_sign() {
    let settings = Settings { actor_minibatch: 64, entropy: 0.01, ..settings() };
    let mut learner = Learner::new(&primed());
    let figures: Vec<StepStatistics> = (0..180).map(|_| learner.step(&settings)).collect();
    let mean = |figures: &[StepStatistics]| {
        figures.iter().map(|figure| figure.reward_mean).sum::<f64>() / figures.len() as f64
    };
    let (first, last) = (mean(&figures[..20]), mean(&figures[160..]));
    // Each is a mean of 1,280 rewards of 0 or 1: its standard error is below 0.015.
    assert!(first < 0.6 && first + 0.1 < last, "{first} {last}");
    for figure in &figures {
        assert!(figure.first_ratio_error.unwrap() < 1e-4, "{figure:?}");
    }
}

#[test]
fn a_resumed_run_is_the_same_to_the_bit() {
    let settings = Settings { shuffle: true, epochs: 2, ..settings() };
    let parameters = Parameters::random(&config(), 7);
    let (mut whole, mut parted) = (Learner::new(&parameters), Learner::new(&parameters));
    for _ in 0..4 {
        let figures = whole.step(&settings);
        assert_eq!(parted.step(&settings), figures);
        parted = parted.saved_and_loaded();
    }
    assert_eq!(whole.policy.model.parameters, parted.policy.model.parameters);
    assert_eq!(whole.policy.optimizer, parted.policy.optimizer);
    assert_eq!(whole.critic.head, parted.critic.head);
    assert_eq!(whole.critic.optimizer, parted.critic.optimizer);
    assert_ne!(whole.policy.model.parameters, parameters);
}

/// Slopes of the loss by weights, against what central differences of the loss say.
fn check_slope(loss: &mut dyn FnMut(f32) -> f64, gradient: f32, what: &str) {
    let h = 1e-2;
    let slope = (loss(h) - loss(-h)) / (2.0 * f64::from(h));
    let error = (slope - f64::from(gradient)).abs();
    assert!(error < 2e-3 * slope.abs().max(0.5), "{what}: {gradient} and not {slope}");
}

const PLACES: [(&str, usize); 5] = [
    ("model.embed_tokens.weight", 9 * 32 + 3),
    ("model.layers.0.self_attn.q_proj.weight", 77),
    ("model.layers.1.mlp.down_proj.weight", 100),
    ("model.layers.0.input_layernorm.weight", 5),
    ("model.norm.weight", 8),
];

fn sequences() -> [Sequence<'static>; 2] {
    [
        Sequence { prompt: &[9, 4, 13], response: &[9, PLUS, 4, END] },
        Sequence { prompt: &[7], response: &[MINUS, MINUS, 2] },
    ]
}

/// Weights large enough for slopes to show.
fn large() -> Parameters {
    let mut parameters = Parameters::random(&config(), 13);
    for parameter in parameters.iter_mut().filter(|parameter| 1 < parameter.shape.len()) {
        parameter.values.iter_mut().for_each(|value| *value *= 12.0);
    }
    parameters
}

#[test]
fn the_policys_gradient_is_the_slope() {
    let slopes = |index: usize| ppo::Slopes { log_prob: 1.0 - index as f32 / 4.0, entropy: 0.5 * index as f32 };
    let mut learner = Learner::new(&large());
    learner.policy.accumulate(&sequences(), &|index, _, _| slopes(index)).unwrap();
    for (name, at) in PLACES {
        let gradient = learner.policy.gradients.get(name).unwrap().values[at];
        let mut loss = |nudge: f32| {
            let mut policy = Learner::new(&large()).policy;
            policy.model.parameters.get_mut(name).unwrap().values[at] += nudge;
            let scores = policy.score(&sequences()).unwrap();
            let terms = scores.log_probs.iter().zip(&scores.entropies).enumerate();
            terms
                .map(|(index, (log_prob, entropy))| {
                    let slopes = slopes(index);
                    f64::from(slopes.log_prob * log_prob) + f64::from(slopes.entropy * entropy)
                })
                .sum()
        };
        check_slope(&mut loss, gradient, name);
    }
}

#[test]
fn the_critics_gradient_is_the_slope() {
    let mut head = LmCritic::new_head(&config());
    for (index, value) in head.as_mut_slice()[0].values.iter_mut().enumerate() {
        *value = (index as f32 * 0.7).sin();
    }
    let critic = || {
        let Learner { critic, .. } = Learner::new(&large());
        LmCritic { head: head.clone(), ..critic }
    };
    let mut trained = critic();
    let slope = |index: usize| 1.0 - index as f32 / 3.0;
    let values = trained.accumulate(&sequences(), &|index, _| slope(index)).unwrap();
    assert_eq!(values, critic().values(&sequences()).unwrap());
    let total = |critic: &mut LmCritic| -> f64 {
        let values = critic.values(&sequences()).unwrap();
        values.iter().enumerate().map(|(index, value)| f64::from(slope(index) * value)).sum()
    };
    for (name, at) in PLACES {
        let gradient = trained.gradients.get(name).unwrap().values[at];
        let mut loss = |nudge: f32| {
            let mut critic = critic();
            critic.model.parameters.get_mut(name).unwrap().values[at] += nudge;
            total(&mut critic)
        };
        check_slope(&mut loss, gradient, name);
    }
    for (tensor, at) in [(0, 4), (1, 0)] {
        let gradient = trained.head_gradients.as_slice()[tensor].values[at];
        let mut loss = |nudge: f32| {
            let mut critic = critic();
            critic.head.as_mut_slice()[tensor].values[at] += nudge;
            total(&mut critic)
        };
        check_slope(&mut loss, gradient, "the head");
    }
}

#[test]
fn a_gradient_that_is_no_number_moves_nothing() {
    let mut policy = Learner::new(&large()).policy;
    let before = policy.model.parameters.clone();
    policy.accumulate(&sequences(), &|_, _, _| ppo::Slopes { log_prob: f32::NAN, entropy: 0.0 }).unwrap();
    let error = policy.step().unwrap_err();
    assert_eq!(error.to_string(), "the length of the policy's gradient is NaN");
    assert_eq!(policy.model.parameters, before);
}

#[test]
fn a_prompt_that_fills_the_context_is_named() {
    let mut policy = Learner::new(&large()).policy;
    let prompts: Vec<Arc<[u32]>> = vec![Arc::from([3u32]), Arc::from(vec![3u32; 16])];
    let error = policy.generate(&requests(&prompts, 1, 1, 1)).unwrap_err();
    assert!(error.to_string().contains("prompt 2 has no response: the prompt has 16 tokens"), "{error}");
}
