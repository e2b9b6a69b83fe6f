//! A Parquet file: what it is, its columns and row groups; or one row of it.

use super::evidence::Reasons;
use super::{layout, value};
use crate::config::ByteSize;
use crate::data::parquet_table::ParquetTable;
use crate::error::{Exit, Failure};
use arrow::array::ArrayRef;
use indicatif::HumanCount;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Lines shown of one value.
const VALUE_LINES: usize = 16;

/// Row groups listed; `--json` has them all.
const GROUPS_LISTED: usize = 8;

/// What `--json` prints of a file.
#[derive(Serialize)]
struct FileOverview {
    path: String,
    /// `corpus`, `labels`, …: which of this program's kinds it is.
    kind: Option<String>,
    schema_version: Option<String>,
    bytes: u64,
    rows: u64,
    created_by: Option<String>,
    columns: Vec<ColumnOverview>,
    row_groups: Vec<GroupOverview>,
    key_values: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct ColumnOverview {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    compression: String,
    bytes_compressed: u64,
    bytes_uncompressed: u64,
    nulls: Option<u64>,
    min: Option<Value>,
    max: Option<Value>,
}

#[derive(Serialize)]
struct GroupOverview {
    rows: u64,
    bytes_compressed: u64,
    bytes_uncompressed: u64,
}

pub(super) fn file(path: &Path, json: bool) -> anyhow::Result<()> {
    let overview = overview(path, &ParquetTable::open(path)?)?;
    if json {
        return crate::commands::print_json(&overview);
    }
    let mut lines = vec![overview.path.clone()];
    let kind = match (&overview.kind, &overview.schema_version) {
        (Some(kind), Some(version)) => format!("{kind}, schema version {version}"),
        _ => "not written by this program".to_owned(),
    };
    let plain: u64 = overview.columns.iter().map(|column| column.bytes_uncompressed).sum();
    let packed: u64 = overview.columns.iter().map(|column| column.bytes_compressed).sum();
    let ratio =
        if packed > 0 { format!(", {:.1} times compressed", plain as f64 / packed as f64) } else { String::new() };
    lines.push(format!("kind      {kind}"));
    lines.push(format!("size      {} ({} of values{ratio})", ByteSize(overview.bytes), ByteSize(plain)));
    lines.push(format!(
        "rows      {} in {} row group{}",
        HumanCount(overview.rows),
        HumanCount(overview.row_groups.len() as u64),
        if overview.row_groups.len() == 1 { "" } else { "s" }
    ));
    lines.push(format!("writer    {}", layout::shortened(overview.created_by.as_deref().unwrap_or("unknown"), 80)));
    lines.push(String::new());
    lines.extend(columns_table(&overview.columns));
    lines.push(String::new());
    let mut groups: Vec<Vec<String>> = vec![["row group", "rows", "on disk", "values"].map(str::to_owned).to_vec()];
    groups.extend(overview.row_groups.iter().take(GROUPS_LISTED).enumerate().map(|(index, group)| {
        vec![
            index.to_string(),
            HumanCount(group.rows).to_string(),
            ByteSize(group.bytes_compressed).to_string(),
            ByteSize(group.bytes_uncompressed).to_string(),
        ]
    }));
    lines.extend(layout::table(&groups, 1..4));
    if overview.row_groups.len() > GROUPS_LISTED {
        lines.push(format!("… {} more; `--json` prints all", overview.row_groups.len() - GROUPS_LISTED));
    }
    if !overview.key_values.is_empty() {
        lines.push(String::new());
        let fields = overview.key_values.iter().map(|(key, value)| (key.as_str(), value.clone()));
        lines.extend(layout::fields(fields, layout::width(), 2));
    }
    crate::commands::print(&(lines.join("\n") + "\n"))
}

fn columns_table(columns: &[ColumnOverview]) -> Vec<String> {
    let shown = |value: &Option<Value>| {
        value.as_ref().map_or("?".to_owned(), |value| layout::shortened(&value::text(value), 20))
    };
    let heading = ["column", "type", "compression", "on disk", "nulls", "min", "max"];
    let mut rows: Vec<Vec<String>> = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(columns.iter().map(|column| {
        vec![
            layout::shortened(&column.name, 40),
            layout::shortened(&column.kind, 24),
            column.compression.clone(),
            ByteSize(column.bytes_compressed).to_string(),
            column.nulls.map_or("?".to_owned(), |nulls| HumanCount(nulls).to_string()),
            shown(&column.min),
            shown(&column.max),
        ]
    }));
    layout::table(&rows, 3..5)
}

fn overview(path: &Path, table: &ParquetTable) -> anyhow::Result<FileOverview> {
    let footer = table.footer();
    let mut columns = Vec::new();
    for (index, (column, statistics)) in footer.columns.iter().zip(table.statistics()).enumerate() {
        let bound = |value: Option<ArrayRef>| value.and_then(|value| value::json(&value, 0).ok());
        columns.push(ColumnOverview {
            name: column.name.clone(),
            kind: column.kind.clone(),
            compression: compression(table, index),
            bytes_compressed: column.bytes_compressed,
            bytes_uncompressed: column.bytes_uncompressed,
            nulls: statistics.nulls,
            min: bound(statistics.min),
            max: bound(statistics.max),
        });
    }
    // The Arrow schema is said by the columns already, and is long.
    let key_values: BTreeMap<String, String> =
        footer.key_values.iter().filter(|(key, _)| key != "ARROW:schema").cloned().collect();
    Ok(FileOverview {
        path: path.display().to_string(),
        kind: key_values.get("four-habits.kind").cloned(),
        schema_version: key_values.get("four-habits.schema-version").cloned(),
        bytes: table.bytes(),
        rows: table.rows(),
        created_by: footer.created_by.clone(),
        columns,
        row_groups: footer
            .row_groups
            .iter()
            .map(|group| GroupOverview {
                rows: group.rows.unwrap_or(0),
                bytes_compressed: group.bytes_compressed,
                bytes_uncompressed: group.bytes_uncompressed.unwrap_or(0),
            })
            .collect(),
        key_values,
    })
}

/// The codecs of a top-level column's chunks: mostly one.
fn compression(table: &ParquetTable, column: usize) -> String {
    let metadata = table.metadata();
    let schema = metadata.file_metadata().schema_descr();
    let chunks = metadata.row_groups().iter().flat_map(|group| group.columns().iter().enumerate());
    let own = chunks.filter(|(leaf, _)| schema.get_column_root_idx(*leaf) == column);
    let codecs: BTreeSet<String> = own
        .map(|(_, chunk)| {
            let codec = chunk.compression_codec().to_string().to_lowercase();
            if codec == "uncompressed" { "none".to_owned() } else { codec }
        })
        .collect();
    codecs.into_iter().collect::<Vec<_>>().join(", ")
}

/// One row, a field a line; with the cue judge's reasons if it has a text.
pub(super) fn row(path: &Path, row: u64, json: bool) -> anyhow::Result<()> {
    let table = ParquetTable::open(path)?;
    let Some(batch) = table.row(row)? else {
        let rows = table.rows();
        let failure = Failure::new(
            Exit::Usage,
            format!("row {row} is out of range: `{}` has {} rows", path.display(), HumanCount(rows)),
        );
        let hint = match rows {
            0 => "there is nothing to show".to_owned(),
            _ => format!("rows count from 0; the last is {}", rows - 1),
        };
        return Err(failure.hint(hint).into());
    };
    let mut fields = Map::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        fields.insert(field.name().clone(), value::json(column, 0)?);
    }
    let text = fields.get("text").and_then(Value::as_str).map(str::to_owned);
    let reasons = text.as_deref().map(|text| Reasons::new(text, None)).transpose()?;
    if json {
        return crate::commands::print_json(&json!({
            "path": path.display().to_string(),
            "row": row,
            "rows": table.rows(),
            "fields": fields,
            "evidence": reasons.map(|reasons| reasons.json()),
        }));
    }
    let width = layout::width();
    let mut lines = vec![format!("{}, row {row} of {}", path.display(), HumanCount(table.rows())), String::new()];
    let shown = |value: &Value| if value.is_null() { "(null)".to_owned() } else { value::text(value) };
    lines.extend(layout::fields(fields.iter().map(|(name, value)| (name.as_str(), shown(value))), width, VALUE_LINES));
    if let Some(reasons) = reasons {
        lines.push(String::new());
        lines.extend(reasons.lines(width));
    }
    crate::commands::print(&(lines.join("\n") + "\n"))
}
