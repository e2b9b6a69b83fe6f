//! `pipeline inspect PATH`: a run, a Parquet file, a row of one, or a document of a run with all that became of it.

mod document;
mod evidence;
mod layout;
mod lookup;
mod parquet;
mod run;
mod training;
mod value;

use crate::cli::Inspect;
use crate::error::{Exit, Failure};
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub fn run(args: &Inspect, json: bool) -> anyhow::Result<Exit> {
    let path = &args.path;
    if !path.exists() {
        return Err(Failure::new(Exit::Usage, format!("`{}` does not exist", path.display()))
            .hint("name a run folder, such as `runs/quickstart`, or a Parquet file")
            .into());
    }
    if path.is_dir() {
        let (dir, plan) = super::existing_plan(path)?;
        match (&args.id, args.row) {
            (Some(id), _) => document::run(&plan, &dir, id, json)?,
            (None, Some(_)) => {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("`--row` is of a Parquet file, and `{}` is a run folder", path.display()),
                )
                .hint("name a file of the run, or a document by `--id`")
                .into());
            }
            (None, None) => run::run(&plan, &dir, json)?,
        }
        return Ok(Exit::Done);
    }
    if args.id.is_some() {
        return Err(Failure::new(
            Exit::Usage,
            format!("`--id` is of a run folder, and `{}` is a file", path.display()),
        )
        .hint("name the run folder, which knows where the document came from and what became of it")
        .into());
    }
    if !is_parquet(path) {
        return Err(Failure::new(
            Exit::Usage,
            format!("`{}` is neither a run folder nor a Parquet file", path.display()),
        )
        .hint("`pipeline inspect` reads run folders and Parquet files")
        .into());
    }
    match args.row {
        Some(row) => parquet::row(path, row, json)?,
        None => parquet::file(path, json)?,
    }
    Ok(Exit::Done)
}

/// By its name, or by how it begins. What cannot be opened is told by whoever opens it.
fn is_parquet(path: &Path) -> bool {
    let mut magic = [0; 4];
    let begins = || File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"PAR1";
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) || { begins }()
}
