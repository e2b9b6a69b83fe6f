//! Making the judge that a recipe names.

use crate::behavior::Behavior;
use crate::behavior::counting_judge::{CountingJudge, CountingSpec};
use crate::behavior::cue::{CueJudge, Lexicon};
use crate::behavior::judge::Judge;
use crate::behavior::lm_judge::{EMBEDDED_THRESHOLDS, LmJudge, LmJudgeSpec};
use crate::cli::Device;
use crate::config::{self, Classify, EndpointJudgeConfig, LmConfig, LmMode, Thresholds};
use crate::data::hub::{Hub, Notice, Stop};
use crate::endpoint::{EndpointGenerator, EndpointJudge, EndpointJudgeSpec, EndpointSpec};
use crate::error::{Exit, Failure};
use crate::generation::{LocalGenerator, LocalSpec};
use crate::lm::{BatchLimits, Checkpoint, WeightStorage};
use crate::plan::{Location, Plan};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn make(classify: &Classify, plan: &Plan, hub: &Hub, device: Device) -> anyhow::Result<Box<dyn Judge>> {
    if let Some(lm) = &classify.lm {
        return lm_judge(lm, model_path(&lm.model, plan, hub)?, device);
    }
    if let Some(endpoint) = &classify.endpoint {
        let notice: Notice = Arc::new({
            let hub = hub.clone();
            move |message: &str| hub.notice(message)
        });
        return endpoint_judge(endpoint, &notice, hub.stop());
    }
    let lexicon = classify.cue.as_ref().and_then(|cue| cue.lexicon.as_deref());
    Ok(Box::new(CueJudge::new(&read_lexicon(lexicon)?)))
}

/// The judge of a table `[classify.lm]`, whose model lies at `model`.
fn lm_judge(lm: &LmConfig, model: PathBuf, device: Device) -> anyhow::Result<Box<dyn Judge>> {
    let folder = lm.prompts.as_deref().map(Path::new);
    if lm.mode == LmMode::Generate {
        if device == Device::Cuda {
            return Err(Failure::new(Exit::Usage, "a judge in `mode = \"generate\"` runs on the CPU only")
                .hint("use `--device cpu`, or `mode = \"score\"`")
                .into());
        }
        let spec = counting_spec(
            folder,
            (lm.window_tokens, lm.max_windows),
            (lm.max_reply_tokens, lm.temperature, lm.samples),
        )?;
        let limits = BatchLimits { prompt_tokens: lm.batch_tokens, ..BatchLimits::default() };
        let generator = LocalGenerator::load(&LocalSpec { precision: lm.precision, limits, ..LocalSpec::new(model) })?;
        return Ok(Box::new(CountingJudge::new(Box::new(generator), spec)?));
    }
    let checkpoint = Checkpoint::open(&model)?;
    let mut spec = LmJudgeSpec {
        window_tokens: lm.window_tokens,
        max_windows: lm.max_windows,
        batch_tokens: lm.batch_tokens,
        thresholds: match lm.thresholds {
            Some(thresholds) => thresholds.in_order(),
            None if checkpoint.is_embedded() => EMBEDDED_THRESHOLDS,
            None => Thresholds::default().in_order(),
        },
        precision: lm.precision,
        weights: match lm.weights {
            config::Weights::Widened => WeightStorage::Widened,
            config::Weights::Kept => WeightStorage::Kept,
        },
        device: device.open()?,
        ..LmJudgeSpec::new(model)
    };
    if let Some(folder) = folder {
        read_prompts(&mut spec.template, &mut spec.questions, folder, ["document", ""])?;
    }
    Ok(Box::new(LmJudge::of(&checkpoint, &spec)?))
}

/// What a judge in generate mode is asked, from the keys that `[classify.lm]` and `[classify.endpoint]` have in common.
fn counting_spec(
    prompts: Option<&Path>,
    (window_tokens, max_windows): (usize, usize),
    (max_reply_tokens, temperature, samples): (Option<usize>, Option<f32>, Option<u32>),
) -> anyhow::Result<CountingSpec> {
    let defaults = CountingSpec::default();
    let mut spec = CountingSpec {
        window_tokens,
        max_windows,
        max_reply_tokens: max_reply_tokens.unwrap_or(defaults.max_reply_tokens),
        temperature: temperature.unwrap_or(defaults.temperature),
        samples: samples.unwrap_or(defaults.samples),
        ..defaults
    };
    if let Some(folder) = prompts {
        read_prompts(&mut spec.template, &mut spec.questions, folder, ["count", "count_"])?;
    }
    Ok(spec)
}

/// The judge of a table `[classify.endpoint]`, its server reached.
fn endpoint_judge(config: &EndpointJudgeConfig, notice: &Notice, stop: &Stop) -> anyhow::Result<Box<dyn Judge>> {
    if config.mode == LmMode::Score {
        return Ok(Box::new(EndpointJudge::connect(&endpoint_spec(config)?, notice, stop)?));
    }
    let replies = (config.max_reply_tokens, config.temperature, config.samples);
    let folder = config.prompts.as_deref().map(Path::new);
    let spec = counting_spec(folder, (config.window_tokens, config.max_windows), replies)?;
    let generator = EndpointGenerator::connect(&EndpointSpec::from(&config.connection()), notice, stop)?;
    generator.probe()?;
    Ok(Box::new(CountingJudge::new(Box::new(generator), spec)?))
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
        read_prompts(&mut spec.template, &mut spec.questions, Path::new(folder), ["document", ""])?;
    }
    Ok(spec)
}

/// The judge of a specification on the command line: `cue`, `cue:LEXICON`, or `lm:MODEL` and `endpoint:URL` with options
/// after commas. A language model runs on `device`; `notice` is told what an endpoint can do.
pub fn from_spec(spec: &str, device: Device, notice: &Notice) -> anyhow::Result<Box<dyn Judge>> {
    match spec.split_once(':') {
        None if spec == "cue" => Ok(Box::new(CueJudge::new(&read_lexicon(None)?))),
        Some(("cue", lexicon)) => Ok(Box::new(CueJudge::new(&read_lexicon(Some(lexicon))?))),
        Some(("lm", lm)) if !lm.is_empty() => {
            let config: LmConfig = parse_options("lm", "model", lm)?;
            check_options("lm", config.fault())?;
            lm_judge(&config, PathBuf::from(&config.model), device)
        }
        Some(("endpoint", endpoint)) if !endpoint.is_empty() => {
            let config: EndpointJudgeConfig = parse_options("endpoint", "url", endpoint)?;
            check_options("endpoint", config.fault())?;
            endpoint_judge(&config, notice, &Stop::default())
        }
        _ => Err(Failure::new(Exit::Usage, format!("`{spec}` is not a judge"))
            .hint("expected `cue`, `cue:LEXICON`, `lm:MODEL[,mode=generate,…]` (a folder or `.gguf` file) or `endpoint:URL[,model=ID,…]`")
            .into()),
    }
}

/// `FIRST,key=value,table.key=value,…`, the keys those of `[classify.KIND]`, `FIRST` the value of its key `first`. That value is not
/// repeated in messages: an address may hold a secret.
fn parse_options<T: serde::de::DeserializeOwned>(kind: &str, first: &str, text: &str) -> anyhow::Result<T> {
    let mut parts = text.split(',');
    let mut table = toml::Table::new();
    table.insert(first.to_owned(), parts.next().unwrap_or_default().into());
    for part in parts {
        let (key, value) = part.split_once('=').ok_or_else(|| {
            Failure::new(Exit::Usage, format!("`{part}` is not an option of `{kind}:`"))
                .hint(format!("expected `key=value` with a key of `[classify.{kind}]`"))
        })?;
        let number =
            value.parse::<i64>().map(toml::Value::from).or_else(|_| value.parse::<f64>().map(toml::Value::from));
        let value = number.unwrap_or_else(|_| value.into());
        match key.split_once('.') {
            None => table.insert(key.to_owned(), value),
            // A key of a table in the judge's table, such as `thresholds.verification`.
            Some((outer, key)) => {
                let inner = table.entry(outer).or_insert_with(|| toml::Table::new().into());
                inner.as_table_mut().and_then(|inner| inner.insert(key.to_owned(), value))
            }
        };
    }
    table.try_into().map_err(|error: toml::de::Error| {
        Failure::new(Exit::Usage, format!("the options of `{kind}:`: {}", error.message().trim())).into()
    })
}

fn check_options(kind: &str, fault: Option<(&str, &str)>) -> anyhow::Result<()> {
    match fault {
        Some((key, expected)) => {
            Err(Failure::new(Exit::Usage, format!("the option `{key}` of `{kind}:`: {expected}")).into())
        }
        None => Ok(()),
    }
}

fn read_lexicon(path: Option<&str>) -> anyhow::Result<Lexicon> {
    let Some(path) = path else { return Ok(Lexicon::embedded()) };
    let text = std::fs::read_to_string(path)
        .with_context(|| Failure::new(Exit::Usage, format!("cannot read lexicon `{path}`")))?;
    Lexicon::parse(&text).with_context(|| Failure::new(Exit::Usage, format!("`{path}` is not a lexicon")))
}

/// The recipe's own prompts, as far as its folder has them: the file of the template, and what the names of the behaviors'
/// files begin with.
fn read_prompts(
    template: &mut String,
    questions: &mut [String; 4],
    folder: &Path,
    [document, prefix]: [&str; 2],
) -> anyhow::Result<()> {
    let read = |name: &str| -> anyhow::Result<Option<String>> {
        let path = folder.join(format!("{name}.txt"));
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read prompt `{}`", path.display())),
        }
    };
    if let Some(text) = read(document)? {
        *template = text;
    }
    for behavior in Behavior::ALL {
        if let Some(question) = read(&format!("{prefix}{}", behavior.name()))? {
            questions[behavior.index()] = question;
        }
    }
    Ok(())
}

/// The model on this disk; fetched from the hub first if that is where it is.
pub fn model_path(model: &str, plan: &Plan, hub: &Hub) -> anyhow::Result<PathBuf> {
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
