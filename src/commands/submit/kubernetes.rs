//! Kubernetes: an Indexed Job, printed.

use super::{Job, render};
use crate::error::{Exit, Failure};
use minijinja::context;

pub(super) fn manifest(job: &Job) -> anyhow::Result<String> {
    let (Some(image), Some((claim, mount))) =
        (&job.args.image, job.args.volume.as_deref().and_then(|volume| volume.split_once(':')))
    else {
        return Err(Failure::new(Exit::Usage, "`submit k8s` needs `--image IMAGE` and `--volume CLAIM:PATH`")
            .hint("an image with `pipeline` on its PATH, and a shared volume for recipe and run folder")
            .into());
    };
    let list: Vec<String> = job.arguments().iter().map(|argument| scalar(argument)).collect();
    render(
        include_str!("../../../assets/submit/job.yaml.jinja"),
        context! {
            name => job.name.as_str(),
            tasks => job.args.tasks,
            attempts => job.args.attempts,
            gpus => job.args.gpus,
            image => scalar(image),
            claim => scalar(claim),
            mount => scalar(mount),
            list => list,
        },
    )
}

/// A string as YAML reads it: JSON strings are YAML.
fn scalar(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
