//! Making the judge that a recipe names.

use crate::behavior::Behavior;
use crate::behavior::cue::{CueJudge, Lexicon};
use crate::behavior::judge::Judge;
use crate::behavior::lm_judge::{LmJudge, LmJudgeSpec};
use crate::cli::Device;
use crate::config::Classify;
use crate::data::hub::Hub;
use crate::error::{Exit, Failure};
use crate::plan::{Location, Plan};
use anyhow::Context;
use std::path::{Path, PathBuf};

pub(super) fn make(classify: &Classify, plan: &Plan, hub: &Hub, device: Device) -> anyhow::Result<Box<dyn Judge>> {
    if let Some(lm) = &classify.lm {
        let mut spec = LmJudgeSpec::new(model_path(&lm.model, plan, hub)?);
        spec.device = device.open()?;
        spec.window_tokens = lm.window_tokens;
        spec.max_windows = lm.max_windows;
        spec.batch_tokens = lm.batch_tokens;
        spec.thresholds = [
            lm.thresholds.verification,
            lm.thresholds.backtracking,
            lm.thresholds.subgoal_setting,
            lm.thresholds.backward_chaining,
        ];
        if let Some(folder) = &lm.prompts {
            read_prompts(&mut spec, Path::new(folder))?;
        }
        return Ok(Box::new(LmJudge::load(&spec)?));
    }
    let lexicon = classify.cue.as_ref().and_then(|cue| cue.lexicon.as_deref());
    Ok(Box::new(CueJudge::new(&read_lexicon(lexicon)?)))
}

/// The judge of a specification on the command line: `cue`, `cue:LEXICON` or `lm:MODEL`, the latter on `device`.
pub fn from_spec(spec: &str, device: Device) -> anyhow::Result<Box<dyn Judge>> {
    match spec.split_once(':') {
        None if spec == "cue" => Ok(Box::new(CueJudge::new(&read_lexicon(None)?))),
        Some(("cue", lexicon)) => Ok(Box::new(CueJudge::new(&read_lexicon(Some(lexicon))?))),
        Some(("lm", model)) if !model.is_empty() => {
            let spec = LmJudgeSpec { device: device.open()?, ..LmJudgeSpec::new(model) };
            Ok(Box::new(LmJudge::load(&spec)?))
        }
        _ => Err(Failure::new(Exit::Usage, format!("`{spec}` is not a judge"))
            .hint("expected `cue`, `cue:LEXICON` or `lm:MODEL`, a folder or `.gguf` file")
            .into()),
    }
}

fn read_lexicon(path: Option<&str>) -> anyhow::Result<Lexicon> {
    let Some(path) = path else { return Ok(Lexicon::embedded()) };
    let text = std::fs::read_to_string(path)
        .with_context(|| Failure::new(Exit::Usage, format!("cannot read lexicon `{path}`")))?;
    Lexicon::parse(&text).with_context(|| Failure::new(Exit::Usage, format!("`{path}` is not a lexicon")))
}

/// The recipe's own prompts, as far as its folder has them.
fn read_prompts(spec: &mut LmJudgeSpec, folder: &Path) -> anyhow::Result<()> {
    let read = |name: &str| -> anyhow::Result<Option<String>> {
        let path = folder.join(format!("{name}.txt"));
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read prompt `{}`", path.display())),
        }
    };
    if let Some(template) = read("document")? {
        spec.template = template;
    }
    for behavior in Behavior::ALL {
        if let Some(question) = read(behavior.name())? {
            spec.questions[behavior.index()] = question;
        }
    }
    Ok(())
}

/// The model on this disk; fetched from the hub first if that is where it is.
fn model_path(model: &str, plan: &Plan, hub: &Hub) -> anyhow::Result<PathBuf> {
    if !model.starts_with("hf://") {
        return Ok(model.into());
    }
    let resource = plan.resources.get(model).with_context(|| format!("model `{model}` is not in the plan"))?;
    let mut folder = None;
    for file in &resource.files {
        if let Location::Remote(remote) = &file.location {
            let path = hub
                .fetch(remote, Path::new("."), &|_| {})
                .with_context(|| format!("cannot fetch `{}` of `{model}`", file.name))?;
            folder = path.parent().map(Path::to_owned);
        }
    }
    folder.with_context(|| format!("model `{model}` has no files"))
}
