//! A run's documents read back from their shards, as far as these lie on this disk. Nothing is downloaded.

use crate::data::document::{ColumnMap, Wanted};
use crate::data::hub::{Hub, HubConfig};
use crate::data::sample;
use crate::data::shard::ShardReader;
use crate::error::{Exit, Failure};
use crate::plan::{Input, Location, Shard, Unit, format_of};
use crate::run::dir::RunDir;
use anyhow::Context;
use arrow::array::{Array, StringViewArray};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A document as its shard has it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct SourceDocument {
    pub url: Option<String>,
    pub date: Option<String>,
    pub metadata: Option<String>,
    /// None if it cannot be read; `defect` says why.
    pub text: Option<String>,
    pub defect: Option<String>,
}

/// Reads one row of a unit's shard.
///
/// # Errors
/// A [`Failure`] if the shard is not on this disk, was changed since it was planned, or is damaged.
pub fn read(dir: &RunDir, input: &Input, unit: &Unit, row: u64) -> anyhow::Result<SourceDocument> {
    let shard = &input.shards[unit.shard];
    let path = path_of(dir, shard)?;
    let bytes = std::fs::metadata(&path).with_context(|| format!("cannot read `{}`", path.display()))?.len();
    if bytes != shard.bytes {
        let message =
            format!("shard `{}` has {bytes} bytes, but had {} when it was planned", path.display(), shard.bytes);
        return Err(Failure::new(Exit::BadData, message).hint("restore it to read its documents").into());
    }
    let reader = ShardReader::open(&path, format_of(&shard.name)?, &ColumnMap::from(input.columns()))?;
    let batch = reader.batches(unit.row_groups.clone(), Wanted::ALL, Some(&[row]), 1)?.next();
    let batch = batch.with_context(|| format!("shard `{}` has no row {row}", shard.name))??;
    let value = |column: &StringViewArray| column.is_valid(0).then(|| column.value(0).to_owned());
    Ok(SourceDocument {
        url: value(&batch.url),
        date: value(&batch.date),
        metadata: value(&batch.metadata),
        text: batch.text(0).map(str::to_owned),
        defect: batch.defects.first().map(|defect| defect.reason.clone()),
    })
}

/// Where a shard's bytes are on this disk.
fn path_of(dir: &RunDir, shard: &Shard) -> anyhow::Result<PathBuf> {
    let path = match &shard.location {
        Location::Local(path) => Some(path.clone()),
        Location::Sample => Some(dir.path("fetch").join(sample::NAME)),
        Location::Remote(file) => {
            let mut config = HubConfig::from_env(|name| std::env::var(name).ok())?;
            config.offline = true;
            Hub::new(config, Arc::new(|_| {})).fetch(file, &dir.path("fetch"), &|_| {}).ok()
        }
    };
    path.filter(|path| Path::is_file(path)).ok_or_else(|| {
        let message = format!("shard `{}` is not on this disk", shard.name);
        Failure::new(Exit::Usage, message)
            .hint("a path in a recipe is relative to the folder where `pipeline run` was started")
            .into()
    })
}
