//! Checkpoints: a Hugging Face folder that transformers loads as it is, and in `trainer/` what training needs to go on exactly.
//!
//! ```text
//! checkpoints/step-000100/   config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json
//!                            trainer/moments.safetensors trainer/state.json
//! checkpoints/latest         the name of the newest one, written when its folder is whole
//! checkpoints/best           the name of the one with the lowest held-out loss
//! ```
//! A folder is written under another name and renamed, and only then named in `latest`: a kill or a full disk in between leaves
//! the previous checkpoint and its name as they were.

use super::adamw::{AdamW, AdamWOptions};
use super::mixture::Cursor;
use super::model_files::ModelFiles;
use super::weights_file::{self, WeightsFile};
use crate::error::{Exit, Failure};
use crate::lm::{Checkpoint, ModelConfig, Parameters};
use crate::run::commit;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How far training is; with weights and moments all that it needs to go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainerState {
    /// A hash of everything that shapes the run: another recipe's checkpoint is not gone on from.
    pub key: String,
    /// Optimizer steps done.
    pub step: u64,
    pub cursor: Cursor,
    /// Updates that the moments have seen.
    pub optimizer_steps: u64,
    /// A running mean of the loss; what an explosion is told from.
    #[serde(with = "super::exact")]
    pub smoothed_loss: f64,
    /// The lowest mean held-out loss of a kept checkpoint, and its step.
    pub best: Option<Best>,
    /// Bytes of `metrics.jsonl` and `samples.jsonl` that belong to the steps done.
    pub metrics_bytes: u64,
    pub samples_bytes: u64,
}

/// The best checkpoint so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    #[serde(with = "super::exact")]
    pub loss: f64,
}

/// A folder of checkpoints.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
    /// How many of the due ones to keep.
    pub keep_last: usize,
    pub keep_best: bool,
    /// Steps between two that are due; 0: only the last step is.
    pub every: u64,
    /// The last step.
    pub steps: u64,
}

const LATEST: &str = "latest";
const BEST: &str = "best";
/// Ends the name of a folder that is being written.
const PARTIAL: &str = ".partial";

impl Checkpoints {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, keep_last: 1, keep_best: false, every: 0, steps: 0 }
    }

    /// Whether a checkpoint belongs to this step. Others are saved when a signal asks, and go when they are not needed any more.
    pub fn is_due(&self, step: u64) -> bool {
        step == self.steps || (self.every > 0 && step > 0 && step.is_multiple_of(self.every))
    }

    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(name(step))
    }

    /// The newest checkpoint's folder.
    pub fn latest(&self) -> anyhow::Result<Option<PathBuf>> {
        let path = self.folder.join(LATEST);
        let name = match std::fs::read_to_string(&path) {
            Ok(name) => name,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        let step = step_of(name.trim()).ok_or_else(|| {
            Failure::new(Exit::BadData, format!("`{}` names no checkpoint", path.display()))
                .hint("remove it to start training over")
        })?;
        Ok(Some(self.path(step)))
    }

    /// Saves a checkpoint, makes it the newest, and removes those that are not kept.
    pub fn save(
        &self,
        parameters: &Parameters,
        optimizer: &AdamW,
        state: &TrainerState,
        files: &ModelFiles,
    ) -> anyhow::Result<()> {
        self.save_with(state.step, state.best, |folder| write(folder, parameters, optimizer, state, files))
    }

    /// Saves a checkpoint that `write` puts into the folder it is given, as [`Checkpoints::save`] does.
    pub fn save_with(
        &self,
        step: u64,
        best: Option<Best>,
        write: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let path = self.path(step);
        let partial = self.folder.join(name(step) + PARTIAL);
        remove_folder(&partial)?;
        // Of a run that was killed before it named this one.
        remove_folder(&path)?;
        let written = write(&partial);
        if written.is_err() {
            // What a full disk holds of it makes room for the user.
            let _ = remove_folder(&partial);
        }
        written?;
        commit::commit_folder(&partial, &path)?;
        self.point(LATEST, step)?;
        self.sweep_around(step, best)
    }

    /// Writes a pointer, if it does not say so already.
    fn point(&self, pointer: &str, step: u64) -> anyhow::Result<()> {
        let (path, text) = (self.folder.join(pointer), format!("{}\n", name(step)));
        if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
            return Ok(());
        }
        commit::write_atomic(&path, text.as_bytes())
    }

    /// Points to the best checkpoint and removes those that are not kept, after a save or what a killed one left.
    pub fn sweep(&self, state: &TrainerState) -> anyhow::Result<()> {
        self.sweep_around(state.step, state.best)
    }

    /// [`Checkpoints::sweep`] of what the newest and the best checkpoint are.
    pub fn sweep_around(&self, newest: u64, best: Option<Best>) -> anyhow::Result<()> {
        if let Some(best) = best.filter(|_| self.keep_best) {
            self.point(BEST, best.step)?;
        }
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            match step_of(&name) {
                Some(step) => found.push(step),
                None if name.ends_with(PARTIAL) => remove_folder(&self.folder.join(name))?,
                None => {}
            }
        }
        found.sort_unstable();
        let due = found.iter().rev().copied().filter(|&step| self.is_due(step) && step <= newest);
        let kept: Vec<u64> = due.take(self.keep_last).collect();
        for step in found {
            let is_best = self.keep_best && best.is_some_and(|best| best.step == step);
            if step != newest && !is_best && !kept.contains(&step) {
                remove_folder(&self.path(step))?;
            }
        }
        Ok(())
    }

    /// Removes everything.
    pub fn clear(&self) -> anyhow::Result<()> {
        remove_folder(&self.folder)
    }

    /// The steps of the checkpoints that lie here, in order.
    pub fn steps_kept(&self) -> anyhow::Result<Vec<u64>> {
        let entries = std::fs::read_dir(&self.folder)?.collect::<std::io::Result<Vec<_>>>()?;
        let mut steps: Vec<u64> =
            entries.iter().filter_map(|entry| step_of(&entry.file_name().to_string_lossy())).collect();
        steps.sort_unstable();
        Ok(steps)
    }
}

fn write(
    folder: &Path,
    parameters: &Parameters,
    optimizer: &AdamW,
    state: &TrainerState,
    files: &ModelFiles,
) -> anyhow::Result<()> {
    for (name, bytes) in files {
        commit::write_atomic(&folder.join(name), bytes)?;
    }
    let weights = parameters.as_slice().iter().map(|tensor| (tensor.name.clone(), tensor));
    weights_file::write(&folder.join("model.safetensors"), weights)?;
    let trainer = folder.join("trainer");
    let first = optimizer.first_moment.as_slice().iter().map(|tensor| (format!("first.{}", tensor.name), tensor));
    let second = optimizer.second_moment.as_slice().iter().map(|tensor| (format!("second.{}", tensor.name), tensor));
    weights_file::write(&trainer.join("moments.safetensors"), first.chain(second))?;
    let mut text = serde_json::to_vec_pretty(state)?;
    text.push(b'\n');
    commit::write_atomic(&trainer.join("state.json"), &text)
}

/// What training stood at when a checkpoint was saved; none if it is of another run than `key`.
pub fn read_state(folder: &Path, key: &str) -> anyhow::Result<Option<TrainerState>> {
    let path = folder.join("trainer/state.json");
    let damaged = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::BadData, format!("`{}` is damaged: {error}", path.display()))
            .hint("remove its folder and `latest`, and run again")
    };
    let text = std::fs::read(&path).map_err(|error| damaged(&error))?;
    let state: TrainerState = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
    Ok((state.key == key).then_some(state))
}

/// Weights and optimizer of a checkpoint.
pub fn read_tensors(
    folder: &Path,
    config: &ModelConfig,
    options: AdamWOptions,
    state: &TrainerState,
) -> anyhow::Result<(Parameters, AdamW)> {
    let parameters = Parameters::from_checkpoint(&Checkpoint::open(folder)?)?;
    let moments = WeightsFile::open(&folder.join("trainer/moments.safetensors"))?;
    let moment =
        |prefix: &str| Parameters::from_named(config, |name, shape| moments.read(&format!("{prefix}.{name}"), shape));
    let optimizer = AdamW {
        options,
        steps: state.optimizer_steps,
        first_moment: moment("first")?,
        second_moment: moment("second")?,
    };
    Ok((parameters, optimizer))
}

fn name(step: u64) -> String {
    format!("step-{step:06}")
}

fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-").filter(|digits| digits.len() >= 6)?.parse().ok()
}

fn remove_folder(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ModelConfig {
        ModelConfig::from_json(
            r#"{"model_type": "llama", "vocab_size": 32, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": true}"#,
        )
        .unwrap()
    }

    fn state(step: u64, best: Option<Best>) -> TrainerState {
        TrainerState {
            key: "k".into(),
            step,
            cursor: Cursor::default(),
            optimizer_steps: step,
            smoothed_loss: 1.0 / 3.0,
            best,
            metrics_bytes: 5,
            samples_bytes: 0,
        }
    }

    fn files() -> ModelFiles {
        let config = br#"{"model_type": "llama", "vocab_size": 32, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": true}"#;
        ModelFiles::from([("config.json".to_owned(), config.to_vec())])
    }

    #[test]
    fn what_was_saved_is_loaded_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path().join("c"));
        let parameters = Parameters::random(&config(), 3);
        let mut optimizer = AdamW::new(&parameters, AdamWOptions::default());
        optimizer.step(&mut parameters.clone(), &Parameters::random(&config(), 4), 0.1);
        checkpoints.save(&parameters, &optimizer, &state(7, None), &files()).unwrap();
        let latest = checkpoints.latest().unwrap().unwrap();
        assert!(latest.ends_with("step-000007"));
        let loaded = read_state(&latest, "k").unwrap().unwrap();
        assert_eq!(loaded, state(7, None));
        assert!(read_state(&latest, "another").unwrap().is_none());
        optimizer.steps = 7;
        let tensors = read_tensors(&latest, &config(), AdamWOptions::default(), &loaded).unwrap();
        assert_eq!(tensors, (parameters, optimizer));
    }

    #[test]
    fn the_last_due_ones_the_best_and_the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoints = Checkpoints::new(folder.path().join("c"));
        (checkpoints.every, checkpoints.steps, checkpoints.keep_last, checkpoints.keep_best) = (10, 45, 2, true);
        let parameters = Parameters::random(&config(), 3);
        let optimizer = AdamW::new(&parameters, AdamWOptions::default());
        let best = Some(Best { step: 10, loss: 1.0 });
        let check = |step, kept: &[u64]| {
            checkpoints.save(&parameters, &optimizer, &state(step, best), &files()).unwrap();
            assert_eq!(checkpoints.steps_kept().unwrap(), kept);
        };
        check(10, &[10]);
        check(20, &[10, 20]);
        check(30, &[10, 20, 30]);
        // 33 was saved for a signal, and goes when a due one is there.
        check(33, &[10, 20, 30, 33]);
        check(40, &[10, 30, 40]);
        check(45, &[10, 40, 45]);
        let named = |pointer| std::fs::read_to_string(folder.path().join("c").join(pointer)).unwrap();
        assert_eq!((named(LATEST).as_str(), named(BEST).as_str()), ("step-000045\n", "step-000010\n"));
    }

    #[test]
    fn a_save_that_was_cut_short_hides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path().join("c"));
        let parameters = Parameters::random(&config(), 3);
        let optimizer = AdamW::new(&parameters, AdamWOptions::default());
        checkpoints.save(&parameters, &optimizer, &state(1, None), &files()).unwrap();
        // One killed while it was written, one before it was named.
        write(&folder.path().join("c/step-000002.partial"), &parameters, &optimizer, &state(2, None), &files())
            .unwrap();
        write(&folder.path().join("c/step-000003"), &parameters, &optimizer, &state(3, None), &files()).unwrap();
        assert!(checkpoints.latest().unwrap().unwrap().ends_with("step-000001"));
        checkpoints.sweep(&state(1, None)).unwrap();
        assert_eq!(checkpoints.steps_kept().unwrap(), [1]);
        assert!(!folder.path().join("c/step-000002.partial").exists());
    }
}
