//! The loop on a language of six tokens, with a policy that is a table of logits by the token before and a critic that is a
//! table of values by the token before: small enough to be exact, and with everything a language model has.

use super::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const V: usize = 6;
const END: u32 = 0;
const LIMIT: usize = 8;

/// A table of weights with AdamW.
#[derive(Debug, Clone, PartialEq)]
struct Table {
    weights: Vec<f32>,
    gradient: Vec<f64>,
    moments: Vec<(f64, f64)>,
    rate: f64,
    steps: i32,
}

impl Table {
    fn new(size: usize, rate: f64) -> Self {
        Self { weights: vec![0.0; size], gradient: vec![0.0; size], moments: vec![(0.0, 0.0); size], rate, steps: 0 }
    }

    fn step(&mut self) -> anyhow::Result<f64> {
        let norm = self.gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        anyhow::ensure!(norm.is_finite(), "the gradient is not finite");
        self.steps += 1;
        for ((weight, gradient), (m, v)) in self.weights.iter_mut().zip(&mut self.gradient).zip(&mut self.moments) {
            *m = 0.9 * *m + 0.1 * *gradient;
            *v = 0.999 * *v + 0.001 * *gradient * *gradient;
            let (m, v) = (*m / (1.0 - 0.9f64.powi(self.steps)), *v / (1.0 - 0.999f64.powi(self.steps)));
            *weight -= (self.rate * m / (v.sqrt() + 1e-8)) as f32;
            *gradient = 0.0;
        }
        Ok(norm)
    }
}

/// The token before each token of a response.
fn contexts<'a>(sequence: &Sequence<'a>) -> impl Iterator<Item = (usize, usize)> + 'a {
    let before = sequence.prompt.last().into_iter().chain(sequence.response);
    before.zip(sequence.response).map(|(&before, &token)| (before as usize, token as usize))
}

#[derive(Debug, Clone, PartialEq)]
struct Bigram {
    table: Table,
    /// Goes on after the end token, as a padded batch would.
    runs_on: bool,
}

impl Bigram {
    fn new(rate: f64) -> Self {
        Self { table: Table::new(V * V, rate), runs_on: false }
    }

    fn log_probs(&self, before: usize) -> Vec<f64> {
        let row: Vec<f64> = self.table.weights[before * V..][..V].iter().map(|&logit| logit.into()).collect();
        let total = row.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        row.iter().map(|logit| logit - total).collect()
    }
}

fn entropy(log_probs: &[f64]) -> f64 {
    log_probs.iter().map(|log_p| -log_p * log_p.exp()).sum()
}

impl Scorer for Bigram {
    fn score(&mut self, sequences: &[Sequence<'_>]) -> anyhow::Result<Scores> {
        let mut scores = Scores::default();
        for (before, token) in sequences.iter().flat_map(contexts) {
            let log_probs = self.log_probs(before);
            scores.log_probs.push(log_probs[token] as f32);
            scores.entropies.push(entropy(&log_probs) as f32);
        }
        Ok(scores)
    }
}

impl Policy for Bigram {
    fn generate(&mut self, requests: &[Request]) -> anyhow::Result<Vec<Sampled>> {
        let draw = |request: &Request| {
            let mut rng = ChaCha8Rng::seed_from_u64(request.seed);
            let mut sampled = Sampled { tokens: vec![], log_probs: vec![] };
            let mut before = *request.prompt_tokens.last().unwrap() as usize;
            for _ in 0..LIMIT {
                let log_probs = self.log_probs(before);
                let mut point: f64 = rng.random();
                let token = log_probs.iter().position(|log_p| {
                    point -= log_p.exp();
                    point < 0.0
                });
                let token = token.unwrap_or(V - 1);
                sampled.tokens.push(token as u32);
                sampled.log_probs.push(log_probs[token] as f32);
                if token as u32 == END && !self.runs_on {
                    break;
                }
                before = token;
            }
            sampled
        };
        Ok(requests.iter().map(draw).collect())
    }

    fn accumulate(&mut self, sequences: &[Sequence<'_>], slopes: &PolicySlopes<'_>) -> anyhow::Result<Scores> {
        let scores = self.score(sequences)?;
        for (index, (before, token)) in sequences.iter().flat_map(contexts).enumerate() {
            let log_probs = self.log_probs(before);
            let entropy = entropy(&log_probs);
            let slopes = slopes(index, scores.log_probs[index], scores.entropies[index]);
            for (next, log_p) in log_probs.iter().enumerate() {
                let chosen = f64::from(u8::from(next == token));
                self.table.gradient[before * V + next] += f64::from(slopes.log_prob) * (chosen - log_p.exp())
                    - f64::from(slopes.entropy) * log_p.exp() * (log_p + entropy);
            }
        }
        Ok(scores)
    }

    fn step(&mut self) -> anyhow::Result<f64> {
        self.table.step()
    }
}

#[derive(Debug, Clone, PartialEq)]
struct TableCritic(Table);

/// The two weights that a value is the sum of: one for how the prompt ends, one for the token before.
fn features<'a>(sequence: &Sequence<'a>) -> impl Iterator<Item = [usize; 2]> + 'a {
    let prompt = sequence.prompt.last().map_or(0, |&last| last as usize);
    contexts(sequence).map(move |(before, _)| [V + prompt, before])
}

impl Critic for TableCritic {
    fn values(&mut self, sequences: &[Sequence<'_>]) -> anyhow::Result<Vec<f32>> {
        let value = |features: [usize; 2]| features.iter().map(|&feature| self.0.weights[feature]).sum();
        Ok(sequences.iter().flat_map(features).map(value).collect())
    }

    fn accumulate(&mut self, sequences: &[Sequence<'_>], slopes: &ValueSlopes<'_>) -> anyhow::Result<Vec<f32>> {
        let values = self.values(sequences)?;
        for (index, features) in sequences.iter().flat_map(features).enumerate() {
            let slope = slopes(index, values[index]);
            features.iter().for_each(|&feature| self.0.gradient[feature] += f64::from(slope));
        }
        Ok(values)
    }

    fn step(&mut self) -> anyhow::Result<f64> {
        self.0.step()
    }
}

/// 1 for "2 3 END", and half of it for each token that is in its place before that.
struct TwoThreeEnd;

impl Surroundings for TwoThreeEnd {
    fn rewards(&mut self, rollouts: &[Rollout]) -> anyhow::Result<Vec<f64>> {
        let earned = |rollout: &Rollout| match rollout.tokens[..] {
            [2, 3, END] => 1.0,
            [2, 3, ..] => 0.5,
            [2, ..] => 0.25,
            _ => 0.0,
        };
        Ok(rollouts.iter().map(earned).collect())
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Learner {
    policy: Bigram,
    critic: TableCritic,
    reference: Bigram,
    state: State,
}

impl Learner {
    fn new() -> Self {
        Self {
            policy: Bigram::new(0.1),
            critic: TableCritic(Table::new(2 * V, 0.1)),
            reference: Bigram::new(0.0),
            state: State { step: 0, kl: KlController::Fixed { coefficient: 0.001 } },
        }
    }

    fn try_step(&mut self, settings: &Settings, surroundings: &mut dyn Surroundings) -> anyhow::Result<Step> {
        let prompts: Vec<Arc<[u32]>> = (0..8).map(|prompt| Arc::from([4, 4 + prompt % 2])).collect();
        let mut ppo = Ppo { settings: settings.clone(), state: self.state };
        let mut models = Models {
            policy: &mut self.policy,
            critic: settings.advantage.has_critic().then_some(&mut self.critic as &mut dyn Critic),
            reference: settings.kl.map(|_| &mut self.reference as &mut dyn Scorer),
        };
        let step = ppo.step(&mut models, &prompts, surroundings);
        self.state = ppo.state;
        step
    }

    fn step(&mut self, settings: &Settings) -> Step {
        self.try_step(settings, &mut TwoThreeEnd).unwrap()
    }
}

fn settings() -> Settings {
    Settings {
        seed: 11,
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
        actor_minibatch: 16,
        critic_minibatch: 4,
        micro_batch_tokens: 40,
        shuffle: false,
        actor_aggregation: Aggregation::TokenMean,
        critic_aggregation: Aggregation::TokenMean,
        critic_warmup: 0,
    }
}

#[test]
fn every_kind_of_advantage_learns() {
    use AdvantageKind::{Gae, Grpo, GrpoUnscaled, ReinforcePlusPlus, Rloo};
    for advantage in [Gae, Grpo, GrpoUnscaled, Rloo, ReinforcePlusPlus] {
        let settings = Settings { advantage, ..settings() };
        let mut learner = Learner::new();
        let rewards: Vec<f64> = (0..60).map(|_| learner.step(&settings).statistics.reward_mean).collect();
        let (first, last) = (rewards[..5].iter().sum::<f64>() / 5.0, rewards[55..].iter().sum::<f64>() / 5.0);
        assert!(first < 0.3 && 0.8 < last, "{advantage:?}: {first} {last}");
    }
}

#[test]
fn variations_learn() {
    let check = |settings: Settings| {
        let mut learner = Learner::new();
        let last: Vec<f64> = (0..60).map(|_| learner.step(&settings).statistics.reward_mean).collect();
        let mean = last[55..].iter().sum::<f64>() / 5.0;
        assert!(0.8 < mean, "{mean} {settings:?}");
    };
    check(Settings { epochs: 2, shuffle: true, ..settings() });
    check(Settings { discount: Discount { gamma: 0.99, lambda: 0.9, whiten: true }, ..settings() });
    check(Settings { recompute_old: true, truncation: Truncation::Mask, ..settings() });
    check(Settings { truncation: Truncation::Reward(-1.0), critic_warmup: 5, ..settings() });
    check(Settings { kl: None, actor_aggregation: Aggregation::SeqMeanTokenMean, ..settings() });
    check(Settings { kl: Some(KlPenalty { place: KlPlace::Loss, estimator: KlEstimator::K3 }), ..settings() });
}

/// verl#853 and the paper's script: with n = 4, half the prompts per mini-batch are 2 updates of the actor and, where that number
/// was forgotten for the critic, 8 of the critic.
#[test]
fn updates_are_counted_in_sequences() {
    let check = |actor_minibatch: usize, critic_minibatch: usize, epochs: usize, expect: (usize, usize)| {
        let settings = Settings { actor_minibatch, critic_minibatch, epochs, ..settings() };
        let statistics = Learner::new().step(&settings).statistics;
        assert_eq!((statistics.actor_updates, statistics.critic_updates), expect);
    };
    check(16, 4, 1, (2, 8));
    check(16, 16, 2, (4, 4));
    check(32, 9, 1, (1, 4));
    check(1000, 1000, 1, (1, 1));
}

#[test]
fn the_first_ratio_is_one() {
    for recompute_old in [false, true] {
        let settings = Settings { recompute_old, actor_minibatch: 4, epochs: 2, ..settings() };
        let mut learner = Learner::new();
        for _ in 0..5 {
            let statistics = learner.step(&settings).statistics;
            assert!(statistics.first_ratio_error.unwrap() < 1e-6);
            let policy = statistics.policy.unwrap();
            assert!(policy.ratio_min < 1.0 && 1.0 < policy.ratio_max && 0.0 < policy.approx_kl3);
        }
    }
}

#[test]
fn micro_batches_change_nothing() {
    let run = |micro_batch_tokens: usize| {
        let settings = Settings { micro_batch_tokens, ..settings() };
        let mut learner = Learner::new();
        let steps: Vec<StepStatistics> = (0..4).map(|_| learner.step(&settings).statistics).collect();
        (learner.policy.table.weights, learner.critic.0.weights, steps)
    };
    let whole = run(100_000);
    for micro_batch_tokens in [1, 17, 64] {
        let parts = run(micro_batch_tokens);
        for (whole, part) in [(&whole.0, &parts.0), (&whole.1, &parts.1)] {
            assert!(whole.iter().zip(part).all(|(a, b)| (a - b).abs() < 1e-6), "{whole:?} {part:?}");
        }
        for (whole, part) in whole.2.iter().zip(&parts.2) {
            let (a, b) = (whole.policy.unwrap(), part.policy.unwrap());
            assert!((a.loss - b.loss).abs() < 1e-6 && (a.entropy - b.entropy).abs() < 1e-6);
            assert!((whole.critic.unwrap().loss - part.critic.unwrap().loss).abs() < 1e-6);
        }
    }
}

/// What a batched decoder leaves after an end token is nobody's business.
#[test]
fn what_follows_the_end_changes_nothing() {
    let run = |runs_on: bool| {
        let mut learner = Learner { policy: Bigram { runs_on, ..Bigram::new(0.1) }, ..Learner::new() };
        let steps: Vec<StepStatistics> = (0..5).map(|_| learner.step(&settings()).statistics).collect();
        (learner.policy.table, learner.critic, steps)
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn a_resumed_run_is_the_same_run() {
    let settings = Settings {
        shuffle: true,
        epochs: 2,
        critic_warmup: 2,
        kl: Some(KlPenalty { place: KlPlace::Reward, estimator: KlEstimator::K3 }),
        ..settings()
    };
    let mut whole = Learner::new();
    whole.state.kl = KlController::Adaptive { coefficient: 0.05, target: 0.02, horizon: 100.0 };
    let mut halved = whole.clone();
    let figures: Vec<StepStatistics> = (0..8).map(|_| whole.step(&settings).statistics).collect();
    let mut resumed = Vec::new();
    for _ in 0..8 {
        resumed.push(halved.step(&settings).statistics);
        halved.state = serde_json::from_str(&serde_json::to_string(&halved.state).unwrap()).unwrap();
    }
    assert_eq!(figures, resumed);
    assert_eq!(whole, halved);
    assert_ne!(whole.state.kl.coefficient(), 0.05);
    assert_eq!(figures.iter().map(|figure| figure.actor_updates).collect::<Vec<_>>(), [0, 0, 4, 4, 4, 4, 4, 4]);
    assert!(figures[..2].iter().all(|figure| figure.policy.is_none() && 0 < figure.critic_updates));
}

#[test]
fn the_penalty_holds_the_policy_near_its_reference() {
    let last_kl = |place: KlPlace, estimator: KlEstimator, coefficient: f64| {
        let settings = Settings { kl: Some(KlPenalty { place, estimator }), ..settings() };
        let mut learner = Learner::new();
        learner.state.kl = KlController::Fixed { coefficient };
        (0..40).map(|_| learner.step(&settings).statistics.kl.unwrap()).last().unwrap()
    };
    for (place, estimator) in
        [(KlPlace::Reward, KlEstimator::K1), (KlPlace::Loss, KlEstimator::K2), (KlPlace::Loss, KlEstimator::K3)]
    {
        let (free, held) = (last_kl(place, estimator, 0.0), last_kl(place, estimator, 2.0));
        assert!(held.abs() < 0.3 * free, "{place:?} {estimator:?}: {free} {held}");
    }
}

#[test]
fn the_critic_comes_to_explain_the_returns() {
    let mut learner = Learner::new();
    let settings = Settings { critic_warmup: 1000, value_clip: None, ..settings() };
    // The prompt decides.
    let mut given = Given(|rollout| f64::from(rollout.prompt_tokens[1] - 4));
    let mut explained = |learner: &mut Learner| {
        let statistics = learner.try_step(&settings, &mut given).unwrap().statistics;
        statistics.critic.unwrap().explained_variance.unwrap()
    };
    assert!(explained(&mut learner).abs() < 0.05);
    (0..30).for_each(|_| _ = explained(&mut learner));
    assert!(0.95 < explained(&mut learner));
    assert_eq!(learner.policy, Bigram::new(0.1), "a warm-up leaves the actor alone");
}

/// A reward that is asked for anything.
struct Given(fn(&Rollout) -> f64);

impl Surroundings for Given {
    fn rewards(&mut self, rollouts: &[Rollout]) -> anyhow::Result<Vec<f64>> {
        Ok(rollouts.iter().map(self.0).collect())
    }
}

#[test]
fn equal_rewards_move_nothing_but_entropy() {
    for advantage in [AdvantageKind::Grpo, AdvantageKind::Rloo, AdvantageKind::ReinforcePlusPlus] {
        let settings = Settings { advantage, kl: None, entropy: 0.0, ..settings() };
        let mut learner = Learner::new();
        let step = learner.try_step(&settings, &mut Given(|_| 0.1)).unwrap();
        assert_eq!(step.statistics.actor_gradient_norm, 0.0, "{advantage:?}");
        assert!(learner.policy.table.weights.iter().all(|weight| *weight == 0.0));
    }
}

#[test]
fn a_step_of_truncated_responses_alone_is_no_error() {
    let mut learner = Learner::new();
    // Token 0 never comes, so that every response is cut.
    learner.policy.table.weights.iter_mut().step_by(V).for_each(|weight| *weight = -1e3);
    let settings = Settings { truncation: Truncation::Mask, kl: None, ..settings() };
    let before = learner.policy.clone();
    let statistics = learner.step(&settings).statistics;
    assert_eq!((statistics.truncated_share, statistics.actor_updates, statistics.critic_updates), (1.0, 0, 0));
    assert_eq!((statistics.policy, statistics.critic), (None, None));
    assert_eq!(learner.policy, before);
    let scored = learner.step(&Settings { truncation: Truncation::Score, ..settings });
    assert_eq!(scored.statistics.actor_updates, 2);
}

#[test]
fn what_is_not_finite_stops_the_run_and_says_where() {
    let check = |mut learner: Learner, reward: fn(&Rollout) -> f64, expect: &str| {
        let error = learner.try_step(&settings(), &mut Given(reward)).unwrap_err();
        assert_eq!(error.to_string(), expect);
        assert!(crate::error::hint_of(&error).is_some());
    };
    check(Learner::new(), |_| f64::NAN, "a reward is NaN in step 1");
    let mut broken = Learner::new();
    broken.critic.0.weights[4] = f32::INFINITY;
    check(broken, |_| 1.0, "a value of the critic is inf in step 1");
    let mut broken = Learner::new();
    broken.reference.table.weights[4 * V] = f32::NAN;
    check(broken, |_| 1.0, "a log-probability of the reference is NaN in step 1");
    let error = Learner::new().try_step(&settings(), &mut Silent).unwrap_err();
    assert_eq!(error.to_string(), "there are 0 rewards for 32 responses");
}

struct Silent;

impl Surroundings for Silent {
    fn rewards(&mut self, _: &[Rollout]) -> anyhow::Result<Vec<f64>> {
        Ok(Vec::new())
    }
}

/// The penalty in the reward is on each token and does not move where the score is: with lambda below 1 it would show.
#[test]
fn rewards_lie_where_they_belong() {
    let mut learner = Learner::new();
    learner.policy.table.weights[4 * V + 2] = 1.0;
    learner.state.kl = KlController::Fixed { coefficient: 0.5 };
    let settings = Settings {
        discount: Discount { gamma: 1.0, lambda: 0.0, whiten: false },
        critic_warmup: 1,
        critic_minibatch: 1000,
        value_clip: None,
        ..settings()
    };
    let ppo = Ppo { settings: settings.clone(), state: learner.state };
    let prompts: Vec<Arc<[u32]>> = vec![Arc::from([4u32])];
    let rollouts = ppo.roll_out(&mut learner.policy, &prompts).unwrap();
    let rewards = TwoThreeEnd.rewards(&rollouts).unwrap();
    let mut models = Models {
        policy: &mut learner.policy,
        critic: Some(&mut learner.critic),
        reference: Some(&mut learner.reference),
    };
    let (experience, kl) = ppo.experience(&mut models, rollouts, &rewards, &mut TwoThreeEnd).unwrap();
    let divergence = |t: usize| experience.old_log_probs[t] - experience.reference[t];
    for (span, reward) in experience.spans.iter().zip(&rewards) {
        for t in span.clone() {
            let score = if t + 1 == span.end { *reward as f32 } else { 0.0 };
            // Values are 0 and lambda is 0, so that an advantage is its token's own reward.
            assert!((experience.advantages[t] - (score - 0.5 * divergence(t))).abs() < 1e-6);
        }
    }
    assert!(kl.is_some_and(|kl| kl != 0.0));
}
