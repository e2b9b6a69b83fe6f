//! `pipeline doctor [RECIPE]`: what this machine has, and what that means for a recipe.

use crate::cli::Doctor;
use crate::config::{ByteSize, LmConfig, Recipe, Weights};
use crate::data::hub::{Hub, HubConfig};
use crate::error::{Exit, hint_of};
use crate::lm::{Checkpoint, Precision};
use crate::machine::{Disk, Gpu, Memory, Processor, has_cuda, simd_text, version};
use crate::plan::overview::Overview;
use crate::plan::{Plan, Work};
use crate::run::dir::RunDir;
use crate::train::memory::parameter_count;
use indicatif::HumanCount;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the hub may take to answer before it counts as out of reach.
const REACH: Duration = Duration::from_secs(3);

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Diagnosis {
    version: &'static str,
    cuda: bool,
    processor: Processor,
    memory: Option<Memory>,
    run_root: PathBuf,
    disk: Option<Disk>,
    gpus: Vec<Gpu>,
    /// Why there are none.
    no_gpu: Option<String>,
    hub: HubState,
    recipe: Option<Prospect>,
}

#[derive(Debug, Serialize)]
struct HubState {
    endpoint: String,
    /// None when this process is offline by its settings and nobody was asked.
    reachable: Option<bool>,
    because: Option<String>,
    has_token: bool,
    cache: PathBuf,
    cache_disk: Option<Disk>,
}

/// What the machine means for a recipe.
#[derive(Debug, Serialize)]
struct Prospect {
    recipe: PathBuf,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    grade: Grade,
    text: String,
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    /// It is so.
    Fine,
    /// It may fail, or not be what was meant.
    Doubt,
    /// It will fail.
    Wrong,
}

pub fn run(args: &Doctor, json: bool) -> anyhow::Result<Exit> {
    let loaded = args.recipe.as_ref().map(|path| (path, crate::config::load(path)));
    let run_root = match (&args.run_dir, &loaded) {
        (Some(dir), _) => dir.clone(),
        (None, Some((_, Ok(recipe)))) => Path::new("runs").join(recipe.name()),
        (None, _) => PathBuf::from("runs"),
    };
    let config = HubConfig::from_env(|name| std::env::var(name).ok())?;
    let config = HubConfig { connect_timeout: REACH, idle_timeout: REACH, retry_budget: Duration::ZERO, ..config };
    let hub = Hub::new(config, std::sync::Arc::new(|_| {}));
    let (gpus, no_gpu) = match Gpu::all() {
        Ok(gpus) => (gpus, None),
        Err(reason) => (Vec::new(), Some(reason)),
    };
    let mut diagnosis = Diagnosis {
        version: version(),
        cuda: has_cuda(),
        processor: Processor::read(),
        memory: Memory::read(),
        disk: Disk::of(&run_root),
        run_root,
        gpus,
        no_gpu,
        hub: hub_state(&hub),
        recipe: None,
    };
    if let Some((path, loaded)) = loaded {
        let findings = match loaded {
            Ok(recipe) => prospect(&recipe, &diagnosis, &hub),
            Err(error) => vec![Finding::error(&error)],
        };
        diagnosis.recipe = Some(Prospect { recipe: path.clone(), findings });
    }
    if json {
        super::print_json(&diagnosis)?;
    } else {
        super::print(&diagnosis.text())?;
    }
    let findings = diagnosis.recipe.iter().flat_map(|prospect| &prospect.findings);
    let is_hopeless = findings.into_iter().any(|finding| finding.grade == Grade::Wrong);
    Ok(if is_hopeless { Exit::Usage } else { Exit::Done })
}

fn hub_state(hub: &Hub) -> HubState {
    let config = hub.config();
    let (reachable, because) = match hub.reach() {
        _ if config.offline => (None, Some("HF_HUB_OFFLINE is set".to_owned())),
        Ok(()) => (Some(true), None),
        Err(error) => (Some(false), Some(error.to_string())),
    };
    HubState {
        endpoint: config.endpoint.to_string(),
        reachable,
        because,
        has_token: config.token.is_some(),
        cache: config.cache_dir.clone(),
        cache_disk: Disk::of(&config.cache_dir),
    }
}

/// Resolves the recipe as `pipeline plan` does, and compares what it needs with what is here.
fn prospect(recipe: &Recipe, here: &Diagnosis, hub: &Hub) -> Vec<Finding> {
    let overview = Plan::resolve(recipe, None, hub).and_then(|plan| {
        let overview = Overview::new(&plan, &RunDir::new(&here.run_root))?;
        Ok((plan, overview))
    });
    let (plan, overview) = match overview {
        Ok(both) => both,
        Err(error) => return vec![Finding::error(&error)],
    };
    let mut findings =
        vec![Finding::fine(format!("the recipe plans: everything that it names is there ({})", plan.plan_id))];
    if overview.complete() {
        findings.push(Finding::fine(format!("`{}` is complete: nothing is left to do", here.run_root.display())));
        return findings;
    }
    findings.extend(here.disk.map(|disk| {
        compare(
            format!("`{}`", here.run_root.display()),
            "of disk",
            overview.disk_bytes,
            disk.free,
            "choose another folder with `--run-dir`",
        )
    }));
    for stage in overview.stages.iter().filter(|stage| !stage.complete()) {
        if let Some(tokens) = stage.tokens_to_judge.filter(|&tokens| tokens > 0) {
            findings.push(
                Finding::fine(format!("`{}` reads about {} tokens", stage.stage, HumanCount(tokens)))
                    .hint("`pipeline bench judge` measures how many this machine reads in a second"),
            );
        }
        let needs = stage.training.and_then(|training| training.memory_bytes);
        if let (Some(bytes), Some(memory)) = (needs, here.memory) {
            let hint = "take smaller `micro-tokens`, `recompute = true` or a smaller model";
            findings.push(compare(format!("`{}`", stage.stage), "of memory", bytes, memory.available, hint));
        }
    }
    for stage in &plan.stages {
        if let Work::Classify(classify) = &stage.work
            && let Some(lm) = &classify.lm
        {
            findings.extend(judge(lm, here, plan.resources.get(&lm.model).map(|resource| resource.bytes())));
        }
    }
    findings
}

/// The judge's weights against the memory.
fn judge(lm: &LmConfig, here: &Diagnosis, file_bytes: Option<u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let parameters = Checkpoint::open(Path::new(&lm.model)).ok().map(|checkpoint| parameter_count(checkpoint.config()));
    let bytes_each = match lm.precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
        Precision::Int8 => 1,
    };
    // Kept tensors take what their file takes; others are converted to the numbers that products multiply.
    let needs = if lm.weights == Weights::Kept { file_bytes } else { parameters.map(|count| count * bytes_each) };
    match (needs, here.memory) {
        (Some(bytes), Some(memory)) => {
            let hint = "take a smaller model, a smaller `precision`, or `weights = \"kept\"`";
            findings.push(compare(
                format!("the weights of the judge `{}`", lm.model),
                "of memory",
                bytes,
                memory.available,
                hint,
            ));
        }
        _ => findings.push(Finding::fine(format!(
            "the memory that the judge `{}` takes is not known before it is fetched",
            lm.model
        ))),
    }
    let simd = &here.processor.simd;
    let lacks = |name: &str| !simd.contains(&name);
    if !here.cuda && lm.precision == Precision::Bf16 && lacks("BF16")
        || lm.precision == Precision::Int8 && lacks("VNNI")
    {
        findings.push(Finding::doubt(
            "this processor has no instructions for the judge's `precision`: it gains memory and no speed",
        ));
    }
    findings
}

fn compare(who: String, what: &str, needs: u64, has: u64, hint: &str) -> Finding {
    let text = |verb: &str| format!("{who} {verb} about {} {what}, and {} are free", ByteSize(needs), ByteSize(has));
    if needs > has {
        Finding { grade: Grade::Wrong, ..Finding::fine(text("would take")) }.hint(hint)
    } else if needs > has / 10 * 8 {
        Finding::doubt(text("takes")).hint(hint)
    } else {
        Finding::fine(text("takes"))
    }
}

impl Finding {
    fn fine(text: impl Into<String>) -> Self {
        Self { grade: Grade::Fine, text: text.into(), hint: None }
    }

    fn doubt(text: impl Into<String>) -> Self {
        Self { grade: Grade::Doubt, ..Self::fine(text) }
    }

    fn error(error: &anyhow::Error) -> Self {
        let text: Vec<String> = error.chain().map(ToString::to_string).collect();
        Self { grade: Grade::Wrong, text: text.join(": "), hint: hint_of(error).map(str::to_owned) }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl Diagnosis {
    fn text(&self) -> String {
        let mut lines = vec![("program", format!("four-habits {}", self.version))];
        let model = self.processor.model.as_ref().map(|model| format!(" of {model}")).unwrap_or_default();
        lines.push(("cores", format!("{}{model}, {}", self.processor.cores, simd_text(&self.processor.simd))));
        let free = |free: u64, total: u64| format!("{} free of {}", ByteSize(free), ByteSize(total));
        lines.push(("memory", self.memory.map_or("unknown".into(), |memory| free(memory.available, memory.total))));
        let disk = self.disk.map_or("unknown".into(), |disk| free(disk.free, disk.total));
        lines.push(("disk", format!("{disk}, at `{}`", self.run_root.display())));
        for gpu in &self.gpus {
            lines.push(("GPU", format!("{}, {}, driver {}", gpu.name, free(gpu.free, gpu.memory), gpu.driver)));
        }
        if let Some(reason) = &self.no_gpu {
            lines.push(("GPU", format!("none: {reason}")));
        } else if !self.cuda && !self.gpus.is_empty() {
            lines.push(("GPU", "this program was built without CUDA and does not use it".into()));
        }
        let hub = &self.hub;
        let token = if hub.has_token { "with a token" } else { "without a token" };
        let state = match (hub.reachable, &hub.because) {
            (Some(true), _) => format!("`{}` answers, {token}", hub.endpoint),
            (None, because) => format!("not asked: {}", because.as_deref().unwrap_or_default()),
            (_, because) => format!("out of reach: {}", because.as_deref().unwrap_or_default()),
        };
        lines.push(("hub", state));
        let room = hub.cache_disk.map_or(String::new(), |disk| format!(", {}", free(disk.free, disk.total)));
        lines.push(("cache", format!("`{}`{room}", hub.cache.display())));
        let mut text: String = lines.iter().map(|(name, value)| format!("{name:9} {value}\n")).collect();
        if let Some(prospect) = &self.recipe {
            text += &format!("\n{}\n", prospect.recipe.display());
            for finding in &prospect.findings {
                let mark = match finding.grade {
                    Grade::Fine => "fine",
                    Grade::Doubt => "doubt",
                    Grade::Wrong => "WRONG",
                };
                text += &format!("  {mark:7} {}\n", finding.text);
                if let Some(hint) = &finding.hint {
                    text += &format!("          hint: {hint}\n");
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_graded_against_what_is_free() {
        let check = |needs, has, expect| {
            assert_eq!(compare("x".into(), "of disk", needs, has, "move").grade, expect, "{needs} of {has}");
        };
        check(70, 100, Grade::Fine);
        check(90, 100, Grade::Doubt);
        check(101, 100, Grade::Wrong);
        check(0, 0, Grade::Fine);
    }
}
