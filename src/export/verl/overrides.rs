//! A recipe's `[ppo]` in verl's options, and what of it has none.

use crate::config::{Kl, KlWhere, Learner, Ppo, Truncated};
use crate::rl::advantage::AdvantageKind;
use crate::rl::kl::KlEstimator;
use crate::rl::loss::Aggregation;

/// So wide that nothing is ever cut: for what verl cannot switch off.
const NEVER: f64 = 1e6;

/// What is known of the run beside its settings.
pub(super) struct Sizes {
    pub steps: u64,
    /// The tokens of the longest prompt.
    pub longest_prompt: usize,
}

/// Overrides of `verl.trainer.main_ppo` as a shell reads them, and a sentence for each setting that has no counterpart.
pub(super) fn overrides(ppo: &Ppo, sizes: &Sizes, project: &str, stage: &str) -> (Vec<String>, Vec<String>) {
    let mut options = Options::default();
    let longest = sizes.longest_prompt + ppo.max_response_tokens;
    options.add("data.prompt_key", "prompt");
    // The file holds every step's prompts in order.
    options.add("data.shuffle", false);
    options.add("data.train_batch_size", ppo.prompts);
    options.add("data.max_prompt_length", sizes.longest_prompt);
    options.add("data.max_response_length", ppo.max_response_tokens);
    options.add("data.truncation", "error");
    options.add("actor_rollout_ref.rollout.n", ppo.samples);
    options.add("actor_rollout_ref.rollout.temperature", 1.0);
    options.add("actor_rollout_ref.rollout.top_p", 1.0);
    options.add("actor_rollout_ref.rollout.top_k", -1);
    options.add("actor_rollout_ref.rollout.tensor_model_parallel_size", 1);
    options.add("actor_rollout_ref.rollout.val_kwargs.n", ppo.eval.samples);
    options.add("actor_rollout_ref.rollout.val_kwargs.do_sample", true);
    options.add("actor_rollout_ref.rollout.val_kwargs.temperature", 1.0);
    options.add("actor_rollout_ref.rollout.val_kwargs.top_p", 1.0);

    advantage(ppo, &mut options);
    penalty(&ppo.kl, &mut options);

    options.add("actor_rollout_ref.actor.clip_ratio", ppo.clip);
    options.add("actor_rollout_ref.actor.clip_ratio_low", ppo.clip);
    options.add("actor_rollout_ref.actor.clip_ratio_high", ppo.clip_high.unwrap_or(ppo.clip));
    options.add("actor_rollout_ref.actor.clip_ratio_c", ppo.dual_clip.unwrap_or(NEVER));
    options.add("actor_rollout_ref.actor.entropy_coeff", ppo.entropy);
    options.add("actor_rollout_ref.actor.ppo_epochs", ppo.epochs);
    options.add("actor_rollout_ref.actor.use_dynamic_bsz", true);
    options.add("actor_rollout_ref.actor.ppo_max_token_len_per_gpu", ppo.micro_tokens.max(longest));
    let (actor, critic) = ppo.minibatches();
    let prompts = options.in_prompts("actor", actor, ppo);
    options.add("actor_rollout_ref.actor.ppo_mini_batch_size", prompts);
    learner("actor", "actor_rollout_ref.actor", &ppo.actor, &mut options);
    options.aggregation("actor", "actor_rollout_ref.actor", ppo.actor.aggregation.unwrap_or(Aggregation::TokenMean));
    if ppo.advantage.has_critic() {
        let prompts = options.in_prompts("critic", critic, ppo);
        options.add("critic.ppo_mini_batch_size", prompts);
        options.add("critic.ppo_epochs", ppo.epochs);
        options.add("critic.cliprange_value", if ppo.value_clip == 0.0 { NEVER } else { ppo.value_clip });
        options.add("critic.ppo_max_token_len_per_gpu", ppo.micro_tokens.max(longest));
        learner("critic", "critic", &ppo.critic, &mut options);
        options.aggregation("critic", "critic", ppo.critic_aggregation());
        // There the actor learns from this step on, counted from 1; here these are the steps in which it does not.
        let warm_up = if ppo.critic_warm_up == 0 { 0 } else { ppo.critic_warm_up + 1 };
        options.add("trainer.critic_warmup", warm_up);
    } else if 0 < ppo.critic_warm_up {
        options.note("`critic-warm-up` says nothing without a critic");
    }
    if ppo.shuffle {
        options.note("`shuffle`: verl's FSDP workers take mini-batches in the order of prompts");
    }
    match ppo.truncated {
        Truncated::Score => {}
        Truncated::Mask => options.note("`truncated = \"mask\"`: verl learns from responses that hit the limit, too"),
        Truncated::Reward(reward) => {
            options.note(&format!(
                "`truncated = {{ reward = {reward} }}`: a reward function of verl's is not told that a response hit the limit, and scores its text"
            ));
        }
    }
    options.add("trainer.total_epochs", 1);
    options.add("trainer.total_training_steps", sizes.steps);
    options.add("trainer.val_before_train", true);
    let every = |every: u64| if every == 0 { sizes.steps.max(1) } else { every };
    options.add("trainer.test_freq", every(ppo.eval.every));
    options.add("trainer.save_freq", every(ppo.checkpoint.every));
    options.add("trainer.max_actor_ckpt_to_keep", ppo.checkpoint.keep_last);
    if ppo.advantage.has_critic() {
        options.add("trainer.max_critic_ckpt_to_keep", ppo.checkpoint.keep_last);
    }
    if ppo.checkpoint.keep_best {
        options.note("`checkpoint.keep-best`: verl keeps the newest checkpoints alone");
    }
    options.add("trainer.project_name", project);
    options.add("trainer.experiment_name", stage.replace('/', "-"));
    options.add("trainer.logger", "[\"console\"]");
    (options.lines, options.notes)
}

fn advantage(ppo: &Ppo, options: &mut Options) {
    let name = match ppo.advantage {
        AdvantageKind::Gae => "gae",
        AdvantageKind::Grpo | AdvantageKind::GrpoUnscaled => "grpo",
        AdvantageKind::Rloo => "rloo",
        AdvantageKind::ReinforcePlusPlus => "reinforce_plus_plus",
    };
    options.add("algorithm.adv_estimator", name);
    if name == "grpo" {
        options.add("algorithm.norm_adv_by_std_in_grpo", ppo.advantage == AdvantageKind::Grpo);
    }
    options.add("algorithm.gamma", ppo.gamma);
    options.add("algorithm.lam", ppo.lambda);
    if ppo.advantage == AdvantageKind::Gae && !ppo.whiten {
        options.note("`whiten = false`: verl's GAE always whitens advantages over the batch");
    }
}

fn penalty(kl: &Kl, options: &mut Options) {
    let estimator = match kl.estimator {
        KlEstimator::K1 => "kl",
        KlEstimator::K2 => "mse",
        KlEstimator::K3 => "low_var_kl",
    };
    options.add("algorithm.use_kl_in_reward", kl.place == KlWhere::Reward);
    options.add("actor_rollout_ref.actor.use_kl_loss", kl.place == KlWhere::Loss);
    match (kl.place, kl.target) {
        (KlWhere::None, _) => {}
        (KlWhere::Reward, target) => {
            options.add("algorithm.kl_penalty", estimator);
            options.add("algorithm.kl_ctrl.kl_coef", kl.coefficient);
            options.add("algorithm.kl_ctrl.type", if target.is_some() { "adaptive" } else { "fixed" });
            if let Some(target) = target {
                options.add("algorithm.kl_ctrl.target_kl", target);
                options.add("algorithm.kl_ctrl.horizon", kl.horizon);
            }
        }
        (KlWhere::Loss, target) => {
            options.add("actor_rollout_ref.actor.kl_loss_type", estimator);
            options.add("actor_rollout_ref.actor.kl_loss_coef", kl.coefficient);
            if target.is_some() {
                options.note("`kl.target` with `place = \"loss\"`: verl's weight in the loss is fixed");
            }
        }
    }
}

fn learner(name: &str, prefix: &str, learner: &Learner, options: &mut Options) {
    options.add(&format!("{prefix}.optim.lr"), learner.learning_rate);
    options.add(&format!("{prefix}.optim.lr_scheduler_type"), "constant");
    let [first, second] = learner.betas;
    options.add(&format!("{prefix}.optim.betas"), format!("[{first:?},{second:?}]"));
    options.add(&format!("{prefix}.optim.weight_decay"), learner.weight_decay);
    options.add(&format!("{prefix}.optim.override_optimizer_config"), format!("{{eps:{:?}}}", learner.epsilon));
    // There 0 would make every gradient 0.
    options.add(&format!("{prefix}.grad_clip"), if learner.clip == 0.0 { NEVER } else { learner.clip });
    if learner.clip == 0.0 {
        options.note(&format!("`{name}.clip = 0`: verl always limits gradients; the limit is set to {NEVER}"));
    }
}

#[derive(Default)]
struct Options {
    lines: Vec<String>,
    notes: Vec<String>,
}

impl Options {
    fn add(&mut self, key: &str, value: impl Shown) {
        let line = format!("{key}={}", value.shown());
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
        let quoted = format!("'{}'", line.replace('\'', r"'\''"));
        self.lines.push(if line.chars().all(is_plain) { line } else { quoted });
    }

    fn note(&mut self, sentence: &str) {
        self.notes.push(sentence.to_owned());
    }

    /// verl states mini-batches in prompts, and multiplies with the responses of each.
    fn in_prompts(&mut self, name: &str, sequences: usize, ppo: &Ppo) -> usize {
        let prompts = (sequences / ppo.samples).max(1);
        if prompts * ppo.samples != sequences {
            self.note(&format!(
                "`{name}.minibatch = {sequences}`: verl's mini-batches hold all {} responses of a prompt; it is {prompts} prompts there, {} responses",
                ppo.samples,
                prompts * ppo.samples
            ));
        }
        if !ppo.prompts.is_multiple_of(prompts) {
            self.note(&format!(
                "`{name}`: {prompts} prompts per mini-batch do not divide the {} of a step, which verl may refuse",
                ppo.prompts
            ));
        }
        prompts
    }

    fn aggregation(&mut self, name: &str, prefix: &str, aggregation: Aggregation) {
        let mode = match aggregation {
            Aggregation::TokenMean => "token-mean",
            Aggregation::SeqMeanTokenMean => "seq-mean-token-mean",
            Aggregation::SeqMeanTokenSum => "seq-mean-token-sum",
            Aggregation::SeqMeanTokenSumNorm => "seq-mean-token-sum-norm",
        };
        self.add(&format!("{prefix}.loss_agg_mode"), mode);
        if aggregation == Aggregation::SeqMeanTokenSumNorm {
            self.note(&format!(
                "`{name}.aggregation = \"{mode}\"`: verl divides by the response limit and not by the number of responses, which makes the loss larger"
            ));
        }
    }
}

/// A value as Hydra reads it.
trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown {
    ($form:literal: $($type:ty),*) => {
        $(impl Shown for $type {
            fn shown(&self) -> String {
                format!($form, self)
            }
        })*
    };
}
shown!("{}": &str, String, bool, i32, u64, usize);
// `1e-6` and `0.0` are numbers to Hydra; `0` would be one of another type.
shown!("{:?}": f64);
