//! Test sets as text: the named fields of JSONL or Parquet files, for decontamination.

use crate::config::Decontaminate;
use crate::data::decontaminate::{Contamination, Rules};
use crate::data::sidecar;
use anyhow::Context;
use arrow::array::AsArray;
use arrow::datatypes::DataType;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Builds the set of n-grams that must not occur in a corpus.
pub fn load(config: &Decontaminate) -> anyhow::Result<Contamination> {
    let mut items = Vec::new();
    for set in &config.test_sets {
        let path = Path::new(set);
        let name = path.file_stem().map_or_else(|| set.clone(), |stem| stem.to_string_lossy().into_owned());
        let before = items.len();
        let texts = if set.ends_with(".parquet") {
            parquet_texts(path, &config.fields)?
        } else {
            jsonl_texts(path, &config.fields)?
        };
        items.extend(texts.into_iter().map(|text| (name.clone(), text)));
        anyhow::ensure!(items.len() > before, "test set `{set}` has no text in {}", fields_text(&config.fields));
    }
    let rules = Rules { ngram: config.ngram, min_grams: config.min_shared, ..Rules::default() };
    Ok(Contamination::build(items, rules)?)
}

fn jsonl_texts(path: &Path, fields: &[String]) -> anyhow::Result<Vec<String>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read test set `{}`", path.display()))?;
    let mut texts = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read test set `{}`, line {}", path.display(), number + 1))?;
        if line.trim().is_empty() {
            continue;
        }
        let item: serde_json::Value = serde_json::from_str(&line)
            .with_context(|| format!("test set `{}`, line {}, is not JSON", path.display(), number + 1))?;
        texts.extend(fields.iter().filter_map(|field| item.get(field)?.as_str().map(str::to_owned)));
    }
    Ok(texts)
}

fn parquet_texts(path: &Path, fields: &[String]) -> anyhow::Result<Vec<String>> {
    let batch = sidecar::read(path)?;
    let mut texts = Vec::new();
    for field in fields {
        let column = batch
            .column_by_name(field)
            .with_context(|| format!("test set `{}` has no column `{field}`", path.display()))?;
        let column = arrow::compute::cast(column, &DataType::LargeUtf8)
            .with_context(|| format!("column `{field}` of test set `{}` is not text", path.display()))?;
        texts.extend(column.as_string::<i64>().iter().flatten().map(str::to_owned));
    }
    Ok(texts)
}

fn fields_text(fields: &[String]) -> String {
    fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(" or ")
}
