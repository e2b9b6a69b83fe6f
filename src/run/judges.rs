//! Making the judge that a recipe names.

use crate::behavior::Behavior;
use crate::behavior::cue::{CueJudge, Lexicon};
use crate::behavior::judge::Judge;
use crate::behavior::lm_judge::{LmJudge, LmJudgeSpec};
use crate::config::{Classify, EndpointJudgeConfig};
use crate::data::hub::{Hub, Notice, Stop};
use crate::endpoint::{EndpointJudge, EndpointJudgeSpec, EndpointSpec};
use crate::error::{Exit, Failure};
use crate::plan::{Location, Plan};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn make(classify: &Classify, plan: &Plan, hub: &Hub) -> anyhow::Result<Box<dyn Judge>> {
    if let Some(lm) = &classify.lm {
        let mut spec = LmJudgeSpec::new(model_path(&lm.model, plan, hub)?);
        spec.window_tokens = lm.window_tokens;
        spec.max_windows = lm.max_windows;
        spec.batch_tokens = lm.batch_tokens;
        spec.thresholds = lm.thresholds.in_order();
        if let Some(folder) = &lm.prompts {
            read_prompts(&mut spec.template, &mut spec.questions, Path::new(folder))?;
        }
        return Ok(Box::new(LmJudge::load(&spec)?));
    }
    if let Some(endpoint) = &classify.endpoint {
        let notice: Notice = Arc::new({
            let hub = hub.clone();
            move |message: &str| hub.notice(message)
        });
        return Ok(Box::new(EndpointJudge::connect(&endpoint_spec(endpoint)?, &notice, hub.stop())?));
    }
    let lexicon = classify.cue.as_ref().and_then(|cue| cue.lexicon.as_deref());
    Ok(Box::new(CueJudge::new(&read_lexicon(lexicon)?)))
}

fn endpoint_spec(config: &EndpointJudgeConfig) -> anyhow::Result<EndpointJudgeSpec> {
    let mut spec = EndpointJudgeSpec::new(EndpointSpec::from(&config.connection()));
    spec.api = config.api;
    spec.tokenizer = config.tokenizer.as_ref().map(PathBuf::from);
    spec.window_tokens = config.window_tokens;
    spec.max_windows = config.max_windows;
    spec.top_logprobs = config.top_logprobs;
    spec.thresholds = config.thresholds.in_order();
    if let Some(folder) = &config.prompts {
        read_prompts(&mut spec.template, &mut spec.questions, Path::new(folder))?;
    }
    Ok(spec)
}

/// The judge of a specification on the command line: `cue`, `cue:LEXICON`, `lm:MODEL`, or `endpoint:URL` with options
/// after commas. `notice` is told what an endpoint can do.
pub fn from_spec(spec: &str, notice: &Notice) -> anyhow::Result<Box<dyn Judge>> {
    match spec.split_once(':') {
        None if spec == "cue" => Ok(Box::new(CueJudge::new(&read_lexicon(None)?))),
        Some(("cue", lexicon)) => Ok(Box::new(CueJudge::new(&read_lexicon(Some(lexicon))?))),
        Some(("lm", model)) if !model.is_empty() => Ok(Box::new(LmJudge::load(&LmJudgeSpec::new(model))?)),
        Some(("endpoint", endpoint)) if !endpoint.is_empty() => {
            Ok(Box::new(EndpointJudge::connect(&parse_endpoint(endpoint)?, notice, &Stop::default())?))
        }
        _ => Err(Failure::new(Exit::Usage, format!("`{spec}` is not a judge"))
            .hint("expected `cue`, `cue:LEXICON`, `lm:MODEL` (a folder or `.gguf` file) or `endpoint:URL[,model=ID,…]`")
            .into()),
    }
}

/// `URL,key=value,…`, the keys those of `[classify.endpoint]`. The URL is not repeated in messages: it may hold a secret.
fn parse_endpoint(text: &str) -> anyhow::Result<EndpointJudgeSpec> {
    let mut parts = text.split(',');
    let mut table = toml::Table::new();
    table.insert("url".into(), parts.next().unwrap_or_default().into());
    for part in parts {
        let (key, value) = part.split_once('=').ok_or_else(|| {
            Failure::new(Exit::Usage, format!("`{part}` is not an option of an endpoint"))
                .hint("expected `key=value` with a key of `[classify.endpoint]`, such as `model=ID`")
        })?;
        let value = value.parse::<i64>().map_or_else(|_| toml::Value::from(value), toml::Value::from);
        table.insert(key.to_owned(), value);
    }
    let config: EndpointJudgeConfig = table.try_into().map_err(|error: toml::de::Error| {
        Failure::new(Exit::Usage, format!("the options of `endpoint:`: {}", error.message().trim()))
    })?;
    endpoint_spec(&config)
}

fn read_lexicon(path: Option<&str>) -> anyhow::Result<Lexicon> {
    let Some(path) = path else { return Ok(Lexicon::embedded()) };
    let text = std::fs::read_to_string(path)
        .with_context(|| Failure::new(Exit::Usage, format!("cannot read lexicon `{path}`")))?;
    Lexicon::parse(&text).with_context(|| Failure::new(Exit::Usage, format!("`{path}` is not a lexicon")))
}

/// The recipe's own prompts, as far as its folder has them.
fn read_prompts(template: &mut String, questions: &mut [String; 4], folder: &Path) -> anyhow::Result<()> {
    let read = |name: &str| -> anyhow::Result<Option<String>> {
        let path = folder.join(format!("{name}.txt"));
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read prompt `{}`", path.display())),
        }
    };
    if let Some(text) = read("document")? {
        *template = text;
    }
    for behavior in Behavior::ALL {
        if let Some(question) = read(behavior.name())? {
            questions[behavior.index()] = question;
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
