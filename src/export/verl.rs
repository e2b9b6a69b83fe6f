//! A run's PPO for verl: prompts, model, reward function and launch command in one folder, for those who outgrow one GPU.
//!
//! The stage need not have run: what it would begin with must be there. Options are those of verl [`VERSION`]; what has no counterpart there is
//! said in the folder's README and to the caller.

mod overrides;

use super::package::{Package, stage_manifest};
use crate::config::{Compat, EvaluationSplit, Ppo, TRAINED};
use crate::data::hub::{Content, Hub, Outgoing, RepoKind};
use crate::error::{Exit, Failure};
use crate::lm::Checkpoint;
use crate::plan::{Plan, Stage, Work};
use crate::run::dir::RunDir;
use crate::run::judges;
use crate::stages::ppo::verl::{VerlPrompts, verl_prompts};
use crate::train::vocabulary::Vocabulary;
use anyhow::Context;
use arrow::array::RecordBatch;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value, context};
use overrides::{Sizes, overrides};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::path::{Path, PathBuf};

/// The release whose options are written.
pub const VERSION: &str = "0.7.0";

const SPLIT_FILES: [&str; 2] = ["train.parquet", "test.parquet"];
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// What a prompt's one message says, and nothing around it.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ message['content'] }}{% endfor %}";

/// What is handed on, and what of the recipe is not.
#[derive(Debug)]
pub struct ForVerl {
    pub package: Package,
    /// A sentence for each setting without counterpart.
    pub notes: Vec<String>,
}

/// Puts the folder together. `source` is a `ppo` stage's folder of a run, finished or not begun, to begin where it begins; or its `model` or a
/// checkpoint in it, to begin there.
///
/// # Errors
/// The folder is no `ppo` stage's, the model that it begins with is not made yet, or its reward is a program.
pub fn collect(source: &Path, hub: &dyn Fn() -> anyhow::Result<Hub>) -> anyhow::Result<ForVerl> {
    let (dir, plan, inside) = run_around(source)?;
    let found = plan.stages.iter().find_map(|stage| match &stage.work {
        Work::Ppo(ppo) if inside.starts_with(&stage.folder) => Some((stage, ppo)),
        _ => None,
    });
    let Some((stage, ppo)) = found else {
        let names = plan.stages.iter().filter(|stage| matches!(stage.work, Work::Ppo(_)));
        let names: Vec<String> = names.map(|stage| format!("`{}`", dir.path(&stage.folder).display())).collect();
        let failure = Failure::new(Exit::Usage, format!("`{}` is not the folder of a `ppo` stage", source.display()));
        return Err(if names.is_empty() {
            failure.hint("this run has none: `--for verl` hands on reinforcement").into()
        } else {
            failure.hint(format!("name one of {}", names.join(", "))).into()
        });
    };
    if let Some(command) = &ppo.reward.command {
        let message = format!("the reward is the program `{}`, which verl does not ask", command.join(" "));
        return Err(Failure::new(Exit::Usage, message)
            .hint("export with a rule's reward, and give verl a `custom_reward_function` of your own")
            .into());
    }
    plan.check_resources()?;
    let (model, described) = match inside == Path::new(&stage.folder) {
        true => (beginning(&dir, &plan, stage, ppo, hub)?, format!("the model that PPO begins with, `{}`", ppo.from)),
        false => (dir.path(&inside), format!("`{}`, a model that PPO has trained", inside.display())),
    };
    let seed = ppo.seed.unwrap_or(plan.seed);
    let prompts = verl_prompts(ppo, seed, plan.limit, &model)?;
    assemble(&plan, stage, ppo, &model, &described, &prompts)
}

/// The run that a path is in, and the path within it. The stage's own folder need not be there.
fn run_around(source: &Path) -> anyhow::Result<(RunDir, Plan, PathBuf)> {
    let whole = std::path::absolute(source).with_context(|| format!("`{}` is no path", source.display()))?;
    for above in whole.ancestors() {
        let dir = RunDir::new(above);
        if !dir.plan().is_file() {
            continue;
        }
        let text = std::fs::read(dir.plan()).with_context(|| format!("cannot read `{}`", dir.plan().display()))?;
        let plan = serde_json::from_slice(&text).with_context(|| format!("cannot read `{}`", dir.plan().display()))?;
        let inside = whole.strip_prefix(above).unwrap_or(&whole).to_owned();
        return Ok((dir, plan, inside));
    }
    Err(Failure::new(Exit::Usage, format!("`{}` is not in a run", source.display()))
        .hint("name the folder of a `ppo` stage, such as `runs/ppo/ppo`")
        .into())
}

/// The model that the stage begins with.
fn beginning(
    dir: &RunDir,
    plan: &Plan,
    stage: &Stage,
    ppo: &Ppo,
    hub: &dyn Fn() -> anyhow::Result<Hub>,
) -> anyhow::Result<PathBuf> {
    if !TRAINED.contains(&ppo.from.as_str()) {
        let is_remote = ppo.from.starts_with("hf://");
        return if is_remote { judges::model_path(&ppo.from, plan, &hub()?) } else { Ok(ppo.from.clone().into()) };
    }
    let before = stage.reads.iter().map(|&place| &plan.stages[place]).find(|before| before.work.name() == ppo.from);
    let before = before.with_context(|| format!("the plan has no stage `{}`", ppo.from))?;
    stage_manifest(dir, before, &dir.path(&before.folder))?;
    Ok(dir.path(&before.folder).join("model"))
}

fn assemble(
    plan: &Plan,
    stage: &Stage,
    ppo: &Ppo,
    model: &Path,
    described: &str,
    prompts: &VerlPrompts,
) -> anyhow::Result<ForVerl> {
    let mut files = model_files(model)?;
    let mut add = |path: &str, bytes: Vec<u8>| {
        files.push(Outgoing {
            path: path.into(),
            size: bytes.len() as u64,
            content: Content::Bytes(bytes),
            sha256: None,
        });
    };
    for (name, rows) in SPLIT_FILES.into_iter().zip([&prompts.train, &prompts.test]) {
        add(name, parquet(rows, &stage.key)?);
    }
    let steps = ppo.steps_within(plan.limit);
    let sizes = Sizes { steps, longest_prompt: prompts.longest };
    let (lines, notes) = overrides(ppo, &sizes, &plan.name, &stage.folder);
    let reward = context! {
        name => &plan.name,
        version => env!("CARGO_PKG_VERSION"),
        rule => if ppo.compat == Some(Compat::TinyZero) { "tinyzero" } else { "table" },
        solved => python(ppo.reward.solved),
        form => python(ppo.reward.form),
        missing => python(ppo.reward.missing),
        after_assistant => match &prompts.after_assistant {
            // A JSON string is one of Python's.
            Some(text) => serde_json::to_string(text)?,
            None => "None".to_owned(),
        },
    };
    add("reward.py", render(include_str!("../../assets/verl/reward.py.jinja"), reward)?);
    let launch = context! {
        name => &plan.name,
        stage => &stage.folder,
        plan_id => &plan.plan_id,
        verl => VERSION,
        has_critic => ppo.advantage.has_critic(),
        overrides => lines,
    };
    add("launch.sh", render(include_str!("../../assets/verl/launch.sh.jinja"), launch)?);
    let split = match ppo.eval.split {
        EvaluationSplit::Validation => "validation",
        EvaluationSplit::Test => "test",
    };
    let readme = context! {
        name => &plan.name,
        stage => &stage.folder,
        plan_id => &plan.plan_id,
        version => env!("CARGO_PKG_VERSION"),
        verl => VERSION,
        train_rows => prompts.train.num_rows(),
        test_rows => prompts.test.num_rows(),
        steps,
        prompts => ppo.prompts,
        split,
        model => described,
        notes => &notes,
        has_critic => ppo.advantage.has_critic(),
        eval_samples => ppo.eval.samples,
    };
    add("README.md", render(include_str!("../../assets/verl/README.md.jinja"), readme)?);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(ForVerl { package: Package { kind: RepoKind::Model, files, is_licensed: true }, notes })
}

/// A model folder's files, with a chat template that adds nothing: verl puts every prompt through one.
fn model_files(model: &Path) -> anyhow::Result<Vec<Outgoing>> {
    if !model.is_dir() {
        let message = format!("`{}` is not a Hugging Face folder, and verl reads no other model", model.display());
        return Err(Failure::new(Exit::Usage, message).hint("convert it, and name the folder in `ppo.from`").into());
    }
    let checkpoint = Checkpoint::open(model)?;
    let starts = !Vocabulary::of_checkpoint(&checkpoint, model)?.tokenizer().start().is_empty();
    let mut names = Vec::new();
    super::package::walk(model, model, &mut names)?;
    // `trainer/` of a checkpoint is for going on with training here.
    names.retain(|name| {
        !name.contains('/') && name != "README.md" && name != TOKENIZER_CONFIG && name != "chat_template.jinja"
    });
    let mut files = Vec::new();
    for name in names {
        let from = model.join(&name);
        let size = std::fs::metadata(&from).with_context(|| format!("cannot read `{}`", from.display()))?.len();
        files.push(Outgoing { path: format!("model/{name}"), content: Content::File(from), size, sha256: None });
    }
    let path = model.join(TOKENIZER_CONFIG);
    let mut config = match path.is_file() {
        true => serde_json::from_slice(&std::fs::read(&path)?)
            .with_context(|| format!("`{}` is no JSON", path.display()))?,
        false => serde_json::json!({ "tokenizer_class": "PreTrainedTokenizerFast" }),
    };
    let start = if starts { "{{ bos_token }}" } else { "" };
    config["chat_template"] = [start, CHAT_TEMPLATE].concat().into();
    let bytes = (serde_json::to_string_pretty(&config)? + "\n").into_bytes();
    let (path, size) = (format!("model/{TOKENIZER_CONFIG}"), bytes.len() as u64);
    files.push(Outgoing { path, size, content: Content::Bytes(bytes), sha256: None });
    Ok(files)
}

fn parquet(rows: &RecordBatch, stage_key: &str) -> anyhow::Result<Vec<u8>> {
    let pairs = crate::data::schema::key_values("verl", stage_key);
    let pairs = pairs.into_iter().map(|(key, value)| parquet::file::metadata::KeyValue::new(key, value));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_key_value_metadata(Some(pairs.collect()));
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties.build()))?;
    writer.write(rows)?;
    Ok(writer.into_inner()?)
}

fn render(template: &str, values: Value) -> anyhow::Result<Vec<u8>> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_template("file", template).context("a template is wrong")?;
    Ok((environment.get_template("file")?.render(values)? + "\n").into_bytes())
}

/// A number as Python reads it.
fn python(number: f64) -> String {
    format!("{number:?}")
}
