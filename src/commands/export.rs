//! `pipeline export SOURCE --to DESTINATION`: hands a corpus or a model to others.

use crate::cli::{Audience, Export};
use crate::data::hub::{self, Hub, HubConfig, RepoKind, Target, Upload, parse_hf_target};
use crate::data::objects::{self, Objects};
use crate::error::{Exit, Failure};
use crate::export::verl::ForVerl;
use crate::export::{self, Options, Package};
use crate::run::stop::Stop;
use anyhow::Context;
use indicatif::HumanCount;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// What `--to` means.
enum Destination {
    Folder,
    Hub(Target),
    Bucket { bucket: String, prefix: String },
}

pub fn run(args: &Export, json: bool) -> anyhow::Result<Exit> {
    let destination = destination(args)?;
    check_license(args.license.as_deref())?;
    let repo = match &destination {
        Destination::Hub(target) => Some(target.repo.id.clone()),
        Destination::Folder | Destination::Bucket { .. } => None,
    };
    if let Some(Audience::Verl) = args.audience {
        return for_verl(args, &destination, json);
    }
    let options = Options { license: args.license.clone(), repo };
    let package = Package::collect(&args.source, &options)?;
    let notice = super::notice_on_stderr();
    if !package.is_licensed {
        notice("the card names no licence: say `--license ID`, such as `odc-by` or `apache-2.0`");
    }
    let mut result = json!({
        "to": args.to,
        "kind": package.kind.singular(),
        "files": package.files.iter().map(|file| json!({ "path": file.path, "bytes": file.size })).collect::<Vec<_>>(),
        "bytes": package.bytes(),
    });
    let mut lines = Vec::new();
    match &destination {
        Destination::Folder => {
            export::folder::write(&package, Path::new(&args.to))?;
            lines.push(format!("{} → {}", sum(&package), args.to));
        }
        Destination::Hub(target) => {
            check_kind(&package, target)?;
            if args.yes {
                lines.push(upload(&package, target, args, &notice, &mut result)?);
            } else {
                lines.extend(listing(&package));
                let which = if target.private { "private " } else { "" };
                let kind = package.kind.singular();
                lines.push(format!(
                    "{} → {which}{kind} `{}`, branch `{}`",
                    sum(&package),
                    target.repo.id,
                    target.branch
                ));
                lines.push("nothing was sent: add `--yes` to upload".into());
            }
            result["sent"] = args.yes.into();
        }
        Destination::Bucket { bucket, prefix } => {
            if args.yes {
                let done = Objects::open(bucket)?.write(prefix, &package.files, &|line| notice(line))?;
                result["uploaded"] = json!(done.files);
                result["uploaded_bytes"] = json!(done.bytes);
                result["unchanged"] = json!(done.unchanged);
                let bytes = HumanCount(done.bytes);
                lines.push(format!(
                    "{} files ({bytes} bytes) written to `{}`, {} were there already",
                    done.files, args.to, done.unchanged
                ));
            } else {
                lines.extend(listing(&package));
                lines.push(format!("{} → `{}`", sum(&package), args.to));
                lines.push("nothing was sent: add `--yes` to upload".into());
            }
            result["sent"] = args.yes.into();
        }
    }
    if json {
        super::print_json(&result)?;
    } else {
        super::print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    }
    Ok(Exit::Done)
}

/// A folder for verl's trainer.
fn for_verl(args: &Export, destination: &Destination, json: bool) -> anyhow::Result<Exit> {
    if !matches!(destination, Destination::Folder) || args.license.is_some() {
        return Err(Failure::new(Exit::Usage, "`--for verl` writes a folder, without a licence's card")
            .hint("export the folder once more to send it on")
            .into());
    }
    let notice = super::notice_on_stderr();
    let hub = || Ok(Hub::new(HubConfig::from_env(|name| std::env::var(name).ok())?, Arc::clone(&notice)));
    let ForVerl { package, notes } = export::verl::collect(&args.source, &hub)?;
    export::folder::write(&package, Path::new(&args.to))?;
    for note in &notes {
        notice(&format!("not carried over: {note}"));
    }
    if json {
        super::print_json(&json!({
            "to": args.to,
            "for": "verl",
            "verl": export::verl::VERSION,
            "files": package.files.iter().map(|file| json!({ "path": file.path, "bytes": file.size })).collect::<Vec<_>>(),
            "bytes": package.bytes(),
            "not_carried_over": notes,
        }))?;
    } else {
        super::print(&format!("{} → {}\ntrain: bash {}/launch.sh\n", sum(&package), args.to, args.to))?;
    }
    Ok(Exit::Done)
}

fn destination(args: &Export) -> anyhow::Result<Destination> {
    if args.to.starts_with("hf://") {
        let (repo, branch) = parse_hf_target(&args.to)?;
        return Ok(Destination::Hub(Target { repo, branch, private: args.private }));
    }
    if args.to.starts_with("s3://") {
        let (bucket, prefix) = objects::parse(&args.to)?;
        if args.private || args.message.is_some() {
            return Err(Failure::new(
                Exit::Usage,
                "`--private` and `--message` are for the Hub, and `--to` names a bucket",
            )
            .into());
        }
        return Ok(Destination::Bucket { bucket, prefix });
    }
    if args.to.contains("://") {
        return Err(Failure::new(Exit::Usage, format!("`{}` is not where an export can go", args.to))
            .hint("name a folder, `hf://datasets/OWNER/NAME` or `s3://BUCKET/PREFIX`")
            .into());
    }
    if args.yes || args.private {
        return Err(
            Failure::new(Exit::Usage, "`--yes` and `--private` are for uploads, and `--to` names a folder").into()
        );
    }
    Ok(Destination::Folder)
}

/// The Hub's ids are short words.
fn check_license(license: Option<&str>) -> anyhow::Result<()> {
    let is_id = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
    };
    match license.filter(|text| !is_id(text)) {
        None => Ok(()),
        Some(text) => Err(Failure::new(Exit::Usage, format!("`{text}` is not the Hub's id of a licence"))
            .hint("expected one such as `odc-by`, `apache-2.0`, `cc-by-4.0` or `other`")
            .into()),
    }
}

fn check_kind(package: &Package, target: &Target) -> anyhow::Result<()> {
    let (is, named) = (package.kind, target.repo.kind);
    if is == named {
        return Ok(());
    }
    let plural = |kind| if kind == RepoKind::Dataset { "datasets" } else { "models" };
    let message = format!("what is exported is a {}, and `--to` names a {}", is.singular(), named.singular());
    Err(Failure::new(Exit::Usage, message).hint(format!("say `hf://{}/{}`", plural(is), target.repo.id)).into())
}

fn upload(
    package: &Package,
    target: &Target,
    args: &Export,
    notice: &crate::data::hub::Notice,
    result: &mut Value,
) -> anyhow::Result<String> {
    let config = HubConfig::from_env(|name| std::env::var(name).ok())?;
    let stop = Stop::on_signals().context("cannot listen to signals")?;
    let hub = Hub::new(config, Arc::clone(notice)).stopped_by(hub::Stop::on(stop.flag()));
    let message =
        args.message.clone().unwrap_or_else(|| format!("Upload with four-habits {}", env!("CARGO_PKG_VERSION")));
    let said = |line: &str| notice(line);
    let done = hub.upload(&Upload { target, files: &package.files, message: &message, said: &said })?;
    result["commit"] = json!(done.commit);
    result["uploaded"] = json!(done.files);
    result["uploaded_bytes"] = json!(done.bytes);
    result["unchanged"] = json!(done.unchanged);
    result["ignored"] = json!(done.ignored);
    let commit = done.commit.map(|commit| format!(", commit {commit}")).unwrap_or_default();
    Ok(format!(
        "{} files ({} bytes) uploaded to `{}`, {} were there already{commit}",
        done.files,
        HumanCount(done.bytes),
        target.repo.id,
        done.unchanged
    ))
}

fn listing(package: &Package) -> impl Iterator<Item = String> {
    package.files.iter().map(|file| format!("{:>15}  {}", HumanCount(file.size).to_string(), file.path))
}

fn sum(package: &Package) -> String {
    format!("{} files, {} bytes", package.files.len(), HumanCount(package.bytes()))
}
