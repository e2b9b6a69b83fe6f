//! Proximal policy optimisation of a language model, one step at a time, whole: the algorithm of the paper
//! (arXiv 2503.01307, as `TinyZero` and `verl` run it) and its relatives without a critic.
//!
//! ```text
//! rollouts        n responses per prompt, each from its own seed                      old log-probabilities
//! rewards         a number per response, at its last token
//! reference       log-probabilities of the model at the start                         KL, in the reward or in the loss
//! advantages      GAE(gamma, lambda) from the critic's values, whitened over the whole batch; or GRPO, RLOO, REINFORCE++
//! updates         epochs of mini-batches: the critic's clipped value loss, the actor's clipped surrogate less entropy
//! ```
//!
//! Deviations from verl at the paper's commit, all of them repairs: nothing is padded, so nothing after an end token has a
//! value; losses are averaged over the whole mini-batch and not per micro-batch, so that the micro-batch size changes
//! nothing; actor and critic mini-batches are both stated in sequences.
//!
//! What a model is, how tokens are drawn and weights are moved, is behind [`Policy`], [`Scorer`] and [`Critic`].

use super::advantage::{AdvantageKind, Batch, Discount, advantages};
use super::kl::{KlController, KlEstimator};
use super::loss::{Aggregation, Clip, clipped_surrogate, clipped_value_loss, weights};
use super::rollout::{
    Request, Rollout, RolloutFault, Sampled, Sequence, Truncation, micro_batches, order, requests, sample_seed,
};
use super::statistics::{CriticStatistics, PolicyMeter, PolicyStatistics, explained_variance, mean_of_means};
use super::tokens::{Spans, mean, mean_and_variance, selected};
use crate::error::{Exit, Failure};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One number per token of the responses, end to end.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scores {
    /// log pi(token | what precedes it), at the sampling temperature.
    pub log_probs: Vec<f32>,
    /// The entropy of the distribution that the token was drawn from, in nats.
    pub entropies: Vec<f32>,
}

/// The derivatives of a token's loss.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Slopes {
    pub log_prob: f32,
    pub entropy: f32,
}

/// The derivatives of the loss by a token's log-probability and entropy. It gets the token's place among the response tokens of
/// the sequences at hand, its log-probability and its entropy.
pub type PolicySlopes<'a> = dyn Fn(usize, f32, f32) -> Slopes + Sync + 'a;

/// The derivative of the loss by a token's value. It gets the token's place, as [`PolicySlopes`], and its value.
pub type ValueSlopes<'a> = dyn Fn(usize, f32) -> f32 + Sync + 'a;

/// A model that says how likely responses are. The reference is one.
pub trait Scorer {
    fn score(&mut self, sequences: &[Sequence<'_>]) -> anyhow::Result<Scores>;
}

/// The model that learns: the actor.
pub trait Policy: Scorer {
    /// Samples a response to each request, in order.
    fn generate(&mut self, requests: &[Request]) -> anyhow::Result<Vec<Sampled>>;

    /// Scores the sequences, and adds the gradient by the weights of the loss that has these slopes to what was accumulated since
    /// the last step.
    fn accumulate(&mut self, sequences: &[Sequence<'_>], slopes: &PolicySlopes<'_>) -> anyhow::Result<Scores>;

    /// Moves the weights by the accumulated gradient, forgets it, and returns its norm before clipping.
    ///
    /// # Errors
    /// If the norm is not finite; then the weights stay as they are.
    fn step(&mut self) -> anyhow::Result<f64>;
}

/// The model that predicts returns, one per token of the responses: what the response will earn from before that token on.
pub trait Critic {
    fn values(&mut self, sequences: &[Sequence<'_>]) -> anyhow::Result<Vec<f32>>;

    /// As [`Policy::accumulate`], with values in place of scores.
    fn accumulate(&mut self, sequences: &[Sequence<'_>], slopes: &ValueSlopes<'_>) -> anyhow::Result<Vec<f32>>;

    /// As [`Policy::step`].
    fn step(&mut self) -> anyhow::Result<f64>;
}

/// The models of a run.
pub struct Models<'a> {
    pub policy: &'a mut dyn Policy,
    /// Present if the advantages are [`AdvantageKind::Gae`].
    pub critic: Option<&'a mut dyn Critic>,
    /// Present if there is a penalty for leaving it.
    pub reference: Option<&'a mut dyn Scorer>,
}

/// Where the penalty for leaving the reference is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KlPlace {
    /// Off each token's reward.
    Reward,
    /// Added to each token's loss.
    Loss,
}

/// The penalty for leaving the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlPenalty {
    pub place: KlPlace,
    pub estimator: KlEstimator,
}

/// Everything that shapes the updates.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub seed: u64,
    /// Responses per prompt.
    pub samples: usize,
    /// The tokens that end a response.
    pub end_tokens: Vec<u32>,
    /// The most tokens a response may have, its end token included.
    pub max_response: usize,
    pub truncation: Truncation,
    /// Score the rollouts once more for the old log-probabilities, and do not take those that came with them.
    pub recompute_old: bool,
    pub kl: Option<KlPenalty>,
    pub advantage: AdvantageKind,
    pub discount: Discount,
    pub clip: Clip,
    /// How far a value may move from the one of the rollouts before its error stops falling.
    pub value_clip: Option<f64>,
    /// The weight of the entropy in the actor's loss.
    pub entropy: f64,
    /// How often the rollouts are gone through.
    pub epochs: usize,
    /// Sequences per update of the actor.
    pub actor_minibatch: usize,
    /// Sequences per update of the critic.
    pub critic_minibatch: usize,
    /// Tokens, prompts included, that are worked on at once. It changes memory and time, not results.
    pub micro_batch_tokens: usize,
    /// Deal the sequences to mini-batches anew in each epoch; else they go in order, a prompt's together.
    pub shuffle: bool,
    pub actor_aggregation: Aggregation,
    pub critic_aggregation: Aggregation,
    /// So many first steps train the critic alone.
    pub critic_warmup: u64,
}

/// What changes from step to step beside the weights: with them, all that a resumed run needs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done.
    pub step: u64,
    pub kl: KlController,
}

/// What a step is doing; told as it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Rollout,
    Reward,
    OldLogProbs,
    Reference,
    Values,
    Critic,
    Actor,
}

impl Phase {
    pub const ALL: [Phase; 7] = [
        Phase::Rollout,
        Phase::Reward,
        Phase::OldLogProbs,
        Phase::Reference,
        Phase::Values,
        Phase::Critic,
        Phase::Actor,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Phase::Rollout => "rollout",
            Phase::Reward => "reward",
            Phase::OldLogProbs => "old_log_probs",
            Phase::Reference => "reference",
            Phase::Values => "values",
            Phase::Critic => "critic",
            Phase::Actor => "actor",
        }
    }
}

/// What the loop asks of whoever runs it.
pub trait Surroundings {
    /// A reward for each rollout.
    fn rewards(&mut self, rollouts: &[Rollout]) -> anyhow::Result<Vec<f64>>;

    /// A phase begins.
    fn enter(&mut self, _phase: Phase) {}
}

/// Figures of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepStatistics {
    /// Counted from 1.
    pub step: u64,
    pub reward_mean: f64,
    pub reward_std: f64,
    pub response_tokens_mean: f64,
    pub response_tokens_max: usize,
    pub truncated_share: f64,
    /// The mean over responses of each one's mean KL(policy || reference) per token by the estimator chosen; absent without a penalty.
    pub kl: Option<f64>,
    pub kl_coefficient: f64,
    /// The largest distance of a ratio from 1 in the first mini-batch, where the policy is still the one that sampled: what is
    /// not 0 is the difference between decoding and training. Absent while only the critic trains.
    pub first_ratio_error: Option<f64>,
    pub policy: Option<PolicyStatistics>,
    pub critic: Option<CriticStatistics>,
    pub actor_updates: usize,
    pub critic_updates: usize,
    /// Means over the updates, before clipping.
    pub actor_gradient_norm: f64,
    pub critic_gradient_norm: f64,
}

/// A step that was done.
#[derive(Debug)]
pub struct Step {
    pub rollouts: Vec<Rollout>,
    pub rewards: Vec<f64>,
    pub statistics: StepStatistics,
}

/// The rollouts of a step with all that is learned from them. Slices have one number per response token, end to end.
struct Experience {
    rollouts: Vec<Rollout>,
    spans: Spans,
    /// What the losses read: all tokens, without those of responses that are not learned from.
    mask: Vec<bool>,
    old_log_probs: Vec<f32>,
    /// Empty without a penalty.
    reference: Vec<f32>,
    /// Empty without a critic.
    old_values: Vec<f32>,
    advantages: Vec<f32>,
    returns: Vec<f32>,
}

/// The loop's state and settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Ppo {
    pub settings: Settings,
    pub state: State,
}

impl Ppo {
    /// Rolls out, judges and learns once.
    ///
    /// # Errors
    /// Whatever a model or the rewards fail with, and a [`Failure`] where a number is not finite. Nothing was learned from an
    /// update that failed, but earlier updates of the step may have been made: go on from the last checkpoint.
    pub fn step(
        &mut self,
        models: &mut Models<'_>,
        prompts: &[Arc<[u32]>],
        surroundings: &mut dyn Surroundings,
    ) -> anyhow::Result<Step> {
        surroundings.enter(Phase::Rollout);
        let rollouts = self.roll_out(models.policy, prompts)?;
        surroundings.enter(Phase::Reward);
        let rewards = surroundings.rewards(&rollouts)?;
        self.check_rewards(&rollouts, &rewards)?;
        let (experience, kl) = self.experience(models, rollouts, &rewards, surroundings)?;

        let mut statistics = self.describe(&experience, &rewards, kl);
        if let Some(critic) = models.critic.as_deref_mut().filter(|_| self.settings.advantage.has_critic()) {
            surroundings.enter(Phase::Critic);
            self.train_critic(critic, &experience, &mut statistics)?;
        }
        if self.settings.critic_warmup <= self.state.step || !self.settings.advantage.has_critic() {
            surroundings.enter(Phase::Actor);
            self.train_actor(models.policy, &experience, &mut statistics)?;
        }
        if let Some(kl) = kl {
            self.state.kl.update(kl, experience.rollouts.len());
        }
        self.state.step += 1;
        Ok(Step { rollouts: experience.rollouts, rewards, statistics })
    }

    fn roll_out(&self, policy: &mut dyn Policy, prompts: &[Arc<[u32]>]) -> anyhow::Result<Vec<Rollout>> {
        let Settings { samples, seed, end_tokens, max_response, .. } = &self.settings;
        let requests = requests(prompts, *samples, *seed, self.state.step);
        let sampled = policy.generate(&requests)?;
        if sampled.len() != requests.len() {
            return Err(RolloutFault::Count { asked: requests.len(), found: sampled.len() }.into());
        }
        let pairs = requests.iter().zip(sampled);
        Ok(pairs
            .map(|(request, sampled)| Rollout::new(request, sampled, end_tokens, *max_response))
            .collect::<Result<_, _>>()?)
    }

    fn check_rewards(&self, rollouts: &[Rollout], rewards: &[f64]) -> anyhow::Result<()> {
        if rewards.len() != rollouts.len() {
            let message = format!("there are {} rewards for {} responses", rewards.len(), rollouts.len());
            return Err(Failure::new(Exit::Failed, message).into());
        }
        self.check_finite("a reward", rewards.iter().copied())
    }

    /// Everything that is learned from, and the mean divergence from the reference if it is asked for.
    fn experience(
        &self,
        models: &mut Models<'_>,
        rollouts: Vec<Rollout>,
        rewards: &[f64],
        surroundings: &mut dyn Surroundings,
    ) -> anyhow::Result<(Experience, Option<f64>)> {
        let settings = &self.settings;
        let spans = Spans::new(rollouts.iter().map(|rollout| rollout.tokens.len()));
        let everything = vec![true; spans.tokens()];
        let mut old_log_probs: Vec<f32> = rollouts.iter().flat_map(|rollout| rollout.log_probs.clone()).collect();
        if settings.recompute_old {
            surroundings.enter(Phase::OldLogProbs);
            old_log_probs = self.in_parts(&rollouts, |part| Ok(models.policy.score(part)?.log_probs))?;
            self.check_finite("a log-probability of the policy", old_log_probs.iter().map(|&value| f64::from(value)))?;
        }

        let mut reference = Vec::new();
        if let (Some(_), Some(model)) = (settings.kl, models.reference.as_deref_mut()) {
            surroundings.enter(Phase::Reference);
            reference = self.in_parts(&rollouts, |part| Ok(model.score(part)?.log_probs))?;
            self.check_finite("a log-probability of the reference", reference.iter().map(|&value| f64::from(value)))?;
        }
        let mut old_values = Vec::new();
        if let Some(critic) = models.critic.as_deref_mut().filter(|_| settings.advantage.has_critic()) {
            surroundings.enter(Phase::Values);
            old_values = self.in_parts(&rollouts, |part| critic.values(part))?;
            self.check_finite("a value of the critic", old_values.iter().map(|&value| f64::from(value)))?;
        }

        // r_t = score at the last token - beta KL_t
        let mut token_rewards = vec![0.0; spans.tokens()];
        let mut kl = None;
        if let Some(penalty) = settings.kl.filter(|_| !reference.is_empty()) {
            let divergences: Vec<f32> = old_log_probs
                .iter()
                .zip(&reference)
                .map(|(&log_prob, &reference)| penalty.estimator.value(log_prob.into(), reference.into()) as f32)
                .collect();
            kl = Some(mean_of_means(&spans, &everything, &divergences));
            if penalty.place == KlPlace::Reward {
                let beta = self.state.kl.coefficient();
                token_rewards = divergences.iter().map(|&divergence| (-beta * f64::from(divergence)) as f32).collect();
            }
        }
        for ((span, rollout), reward) in spans.iter().zip(&rollouts).zip(rewards) {
            let reward = match settings.truncation {
                Truncation::Reward(instead) if rollout.is_truncated => instead,
                _ => *reward,
            };
            token_rewards[span.end - 1] += reward as f32;
        }

        let groups: Vec<usize> = rollouts.iter().map(|rollout| rollout.prompt).collect();
        let batch =
            Batch { spans: &spans, mask: &everything, rewards: &token_rewards, values: &old_values, groups: &groups };
        let estimate = advantages(settings.advantage, &batch, settings.discount);
        let is_learned = |rollout: &Rollout| settings.truncation != Truncation::Mask || !rollout.is_truncated;
        let mask = rollouts.iter().flat_map(|rollout| vec![is_learned(rollout); rollout.tokens.len()]).collect();
        let experience = Experience {
            rollouts,
            mask,
            old_log_probs,
            reference,
            old_values,
            advantages: estimate.advantages,
            returns: estimate.returns,
            spans,
        };
        Ok((experience, kl))
    }

    /// A number per response token, from a model that gets as much at once as the settings allow.
    fn in_parts(
        &self,
        rollouts: &[Rollout],
        mut numbers: impl FnMut(&[Sequence<'_>]) -> anyhow::Result<Vec<f32>>,
    ) -> anyhow::Result<Vec<f32>> {
        let sequences: Vec<Sequence> = rollouts.iter().map(Rollout::sequence).collect();
        let lengths: Vec<usize> = sequences.iter().map(Sequence::len).collect();
        let mut all = Vec::new();
        for part in micro_batches(&lengths, self.settings.micro_batch_tokens) {
            let tokens: usize = sequences[part.clone()].iter().map(|sequence| sequence.response.len()).sum();
            let numbers = numbers(&sequences[part])?;
            self.check_count(numbers.len(), tokens)?;
            all.extend(numbers);
        }
        Ok(all)
    }

    /// The mini-batches of one epoch, each a list of sequences.
    fn minibatches(&self, sequences: usize, size: usize, epoch: usize, salt: u64) -> Vec<Vec<usize>> {
        let seed = sample_seed(self.settings.seed ^ salt, self.state.step, epoch as u64, 0);
        let order = order(sequences, self.settings.shuffle.then_some(seed));
        order.chunks(size.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// One update's worth of sequences, cut into micro-batches: for each, its sequences and the places of their tokens.
    fn parts<'e>(&self, experience: &'e Experience, minibatch: &[usize]) -> Vec<(Vec<Sequence<'e>>, Vec<usize>)> {
        let sequences: Vec<Sequence> = minibatch.iter().map(|&index| experience.rollouts[index].sequence()).collect();
        let lengths: Vec<usize> = sequences.iter().map(Sequence::len).collect();
        let parts = micro_batches(&lengths, self.settings.micro_batch_tokens).into_iter();
        parts
            .map(|part| {
                let places = minibatch[part.clone()].iter().flat_map(|&index| experience.spans.get(index)).collect();
                (sequences[part].to_vec(), places)
            })
            .collect()
    }

    /// Each token's share in a mini-batch's loss, at its place in the whole batch; 0 elsewhere.
    fn shares(&self, experience: &Experience, minibatch: &[usize], aggregation: Aggregation) -> Vec<f32> {
        let spans = Spans::new(minibatch.iter().map(|&index| experience.spans.get(index).len()));
        let places: Vec<usize> = minibatch.iter().flat_map(|&index| experience.spans.get(index)).collect();
        let mask: Vec<bool> = places.iter().map(|&place| experience.mask[place]).collect();
        let mut shares = vec![0.0; experience.spans.tokens()];
        let weights = weights(aggregation, &spans, &mask, self.settings.max_response);
        places.iter().zip(weights).for_each(|(&place, weight)| shares[place] = weight);
        shares
    }

    fn train_critic(
        &self,
        critic: &mut dyn Critic,
        experience: &Experience,
        statistics: &mut StepStatistics,
    ) -> anyhow::Result<()> {
        let settings = &self.settings;
        let Experience { old_values, returns, mask, .. } = experience;
        let error = |t: usize, value: f32| {
            clipped_value_loss(value.into(), old_values[t].into(), returns[t].into(), settings.value_clip)
        };
        let (mut total, mut clipped, mut tokens, mut norms) = (0.0, 0u64, 0u64, 0.0);
        for epoch in 0..settings.epochs {
            for minibatch in self.minibatches(experience.rollouts.len(), settings.critic_minibatch, epoch, 1) {
                let shares = self.shares(experience, &minibatch, settings.critic_aggregation);
                if shares.iter().all(|share| *share == 0.0) {
                    continue;
                }
                for (sequences, places) in self.parts(experience, &minibatch) {
                    let slope = |index: usize, value: f32| match shares[places[index]] {
                        0.0 => 0.0,
                        share => (f64::from(share) * error(places[index], value).gradient) as f32,
                    };
                    let values = critic.accumulate(&sequences, &slope)?;
                    self.check_count(values.len(), places.len())?;
                    for (&t, &value) in places.iter().zip(&values).filter(|(t, _)| shares[**t] != 0.0) {
                        let error = error(t, value);
                        total += f64::from(shares[t]) * error.value;
                        clipped += u64::from(error.is_clipped);
                        tokens += 1;
                    }
                    self.check_finite("the critic's loss", [total].into_iter())?;
                }
                norms += critic.step()?;
                statistics.critic_updates += 1;
            }
        }
        let updates = statistics.critic_updates.max(1) as f64;
        statistics.critic_gradient_norm = norms / updates;
        statistics.critic = (0 < tokens).then(|| CriticStatistics {
            loss: total / updates,
            clip_fraction: clipped as f64 / tokens as f64,
            explained_variance: explained_variance(old_values, returns, mask),
            value_mean: mean(selected(old_values, mask)),
            return_mean: mean(selected(returns, mask)),
        });
        Ok(())
    }

    fn train_actor(
        &self,
        policy: &mut dyn Policy,
        experience: &Experience,
        statistics: &mut StepStatistics,
    ) -> anyhow::Result<()> {
        let settings = &self.settings;
        let in_loss = settings.kl.filter(|kl| kl.place == KlPlace::Loss && !experience.reference.is_empty());
        let beta = self.state.kl.coefficient();
        let surrogate = |t: usize, log_prob: f64| {
            let (old, advantage) = (experience.old_log_probs[t].into(), experience.advantages[t].into());
            clipped_surrogate(log_prob, old, advantage, settings.clip)
        };
        // The penalty in the loss and its slope.
        let penalty = |t: usize, log_prob: f64| match in_loss {
            Some(KlPenalty { estimator, .. }) => {
                let reference = experience.reference[t].into();
                (beta * estimator.value(log_prob, reference), beta * estimator.gradient(log_prob, reference))
            }
            None => (0.0, 0.0),
        };
        let mut meter = PolicyMeter::default();
        let mut norms = 0.0;
        for epoch in 0..settings.epochs {
            for minibatch in self.minibatches(experience.rollouts.len(), settings.actor_minibatch, epoch, 2) {
                let shares = self.shares(experience, &minibatch, settings.actor_aggregation);
                if shares.iter().all(|share| *share == 0.0) {
                    continue;
                }
                let mut loss = 0.0;
                for (sequences, places) in self.parts(experience, &minibatch) {
                    let slopes = |index: usize, log_prob: f32, _: f32| {
                        let t = places[index];
                        if shares[t] == 0.0 {
                            return Slopes::default();
                        }
                        let (share, log_prob) = (f64::from(shares[t]), log_prob.into());
                        Slopes {
                            log_prob: (share * (surrogate(t, log_prob).gradient + penalty(t, log_prob).1)) as f32,
                            entropy: (-share * settings.entropy) as f32,
                        }
                    };
                    let scores = policy.accumulate(&sequences, &slopes)?;
                    self.check_count(scores.log_probs.len(), places.len())?;
                    self.check_count(scores.entropies.len(), places.len())?;
                    for (index, &t) in places.iter().enumerate().filter(|(_, t)| shares[**t] != 0.0) {
                        let (log_prob, entropy) = (scores.log_probs[index].into(), scores.entropies[index].into());
                        let surrogate = surrogate(t, log_prob);
                        let value = surrogate.value + penalty(t, log_prob).0 - settings.entropy * entropy;
                        loss += f64::from(shares[t]) * value;
                        meter.token(surrogate, entropy, log_prob, experience.old_log_probs[t].into());
                    }
                    self.check_finite("the policy's loss", [loss].into_iter())?;
                }
                norms += policy.step()?;
                meter.update(loss);
                statistics.actor_updates += 1;
                if statistics.actor_updates == 1 {
                    let farthest = |found: PolicyStatistics| (found.ratio_max - 1.0).max(1.0 - found.ratio_min);
                    statistics.first_ratio_error = meter.finish().map(farthest);
                }
            }
        }
        statistics.actor_gradient_norm = norms / statistics.actor_updates.max(1) as f64;
        statistics.policy = meter.finish();
        Ok(())
    }

    fn describe(&self, experience: &Experience, rewards: &[f64], kl: Option<f64>) -> StepStatistics {
        let rollouts = &experience.rollouts;
        let (reward_mean, variance) = mean_and_variance(rewards.iter().copied());
        StepStatistics {
            step: self.state.step + 1,
            reward_mean,
            reward_std: variance.sqrt(),
            response_tokens_mean: mean(rollouts.iter().map(|rollout| rollout.tokens.len() as f64)),
            response_tokens_max: rollouts.iter().map(|rollout| rollout.tokens.len()).max().unwrap_or(0),
            truncated_share: mean(rollouts.iter().map(|rollout| f64::from(u8::from(rollout.is_truncated)))),
            kl,
            kl_coefficient: self.state.kl.coefficient(),
            first_ratio_error: None,
            policy: None,
            critic: None,
            actor_updates: 0,
            critic_updates: 0,
            actor_gradient_norm: 0.0,
            critic_gradient_norm: 0.0,
        }
    }

    fn check_count(&self, found: usize, asked: usize) -> anyhow::Result<()> {
        if found == asked {
            return Ok(());
        }
        Err(Failure::new(Exit::Failed, format!("a model gave {found} numbers for {asked} tokens")).into())
    }

    fn check_finite(&self, what: &str, mut values: impl Iterator<Item = f64>) -> anyhow::Result<()> {
        let Some(broken) = values.find(|value| !value.is_finite()) else { return Ok(()) };
        Err(Failure::new(Exit::Failed, format!("{what} is {broken} in step {}", self.state.step + 1))
            .hint("the run can go on from its last checkpoint; lower the learning rate, or clip gradients harder")
            .into())
    }
}

#[cfg(test)]
mod tests;
