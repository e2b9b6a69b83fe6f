//! Reinforcement learning of language models: PPO with a critic, and its relatives without one, from rule rewards.
//!
//! ```text
//! layout   tokens (sequences end to end, masks)
//! maths    kl · gae · advantage · loss · statistics      slices in, slices and closed-form gradients out
//! rewards  math_answer · reward
//! loop     rollout · ppo (one file, the algorithm) over the traits Policy, Scorer and Critic
//! models   lm_policy (language models behind the traits) · memory
//! ```
//!
//! Invariant: this module knows no files, clock, network or process. A stage gives it models, prompts and rewards.
//!
//! There is no padding. A batch is its responses end to end with a mask of the tokens that the policy chose, and whoever does
//! pad gets the same numbers: nothing is ever read where the mask is false, not even to be multiplied by zero.

pub mod advantage;
pub mod gae;
pub mod kl;
pub mod lm_policy;
pub mod loss;
pub mod math_answer;
pub mod memory;
pub mod ppo;
pub mod reward;
pub mod rollout;
pub mod statistics;
pub mod tokens;

/// Numbers of other projects' tests; `None`, with a line saying so, where they are not at hand.
#[cfg(test)]
fn oracles() -> Option<serde_json::Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/oracles/ppo_gae_oracles.json");
    match std::fs::read_to_string(path) {
        Ok(text) => Some(serde_json::from_str(&text).unwrap()),
        Err(_) => {
            #[expect(clippy::print_stderr, reason = "a test that did not run says so")]
            {
                eprintln!("skipped: the oracles of PPO (no ../shared/data)");
            }
            None
        }
    }
}
