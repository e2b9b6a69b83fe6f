//! `pipeline schema`: the formats of everything that users write or read, generated from the types.

mod manual;

use crate::cli::Schema;
use crate::config::Config;
use crate::data::schema;
use crate::error::{Exit, Failure};
use crate::run::commit;
use crate::run::events::Event;
use crate::run::manifest::Manifest;
use arrow::datatypes::{DataType, SchemaRef};
use schemars::schema_for;
use serde_json::{Value, json};
use std::path::Path;

pub fn run(args: &Schema) -> anyhow::Result<Exit> {
    let files = files()?;
    if args.write {
        for (name, text) in &files {
            commit::write_atomic(Path::new(name), text.as_bytes())?;
        }
    } else if args.check {
        let stale: Vec<&str> = files
            .iter()
            .filter(|(name, text)| std::fs::read_to_string(name).ok().as_ref() != Some(text))
            .map(|(name, _)| *name)
            .collect();
        if !stale.is_empty() {
            return Err(Failure::new(
                Exit::Failed,
                format!("generated files are not up to date: {}", stale.join(", ")),
            )
            .hint("run `cargo run --release -- schema --write`")
            .into());
        }
    } else {
        let all: serde_json::Map<String, Value> = files
            .iter()
            .filter(|(name, _)| name.ends_with(".json"))
            .map(|(name, text)| Ok(((*name).to_owned(), serde_json::from_str(text)?)))
            .collect::<anyhow::Result<_>>()?;
        super::print_json(&all)?;
    }
    Ok(Exit::Done)
}

/// The generated files of the repository, by path.
pub fn files() -> anyhow::Result<Vec<(&'static str, String)>> {
    let pretty = |value: Value| -> anyhow::Result<String> { Ok(serde_json::to_string_pretty(&value)? + "\n") };
    Ok(vec![
        ("schemas/recipe.schema.json", pretty(recipe())?),
        ("schemas/event.schema.json", pretty(schema_for!(Event).to_value())?),
        ("schemas/manifest.schema.json", pretty(schema_for!(Manifest).to_value())?),
        ("schemas/parquet.json", pretty(parquet())?),
        ("docs/recipe.md", manual::recipe(&recipe())),
    ])
}

/// A recipe is a configuration and, under `arm`, pieces of one that override it.
fn recipe() -> Value {
    let mut value = schema_for!(Config).to_value();
    if let Some(properties) = value.pointer_mut("/properties").and_then(Value::as_object_mut) {
        properties.insert(
            "arm".into(),
            json!({
                "description": "Arms of an experiment, by name. Each overrides keys of the tables above; stages that are equal in several arms run once.",
                "type": "object",
                "additionalProperties": { "type": "object" }
            }),
        );
    }
    value
}

/// The columns of every Parquet kind, in order.
fn parquet() -> Value {
    json!({
        "schema-version": schema::VERSION,
        "labels": columns(&schema::labels()),
        "quarantine": columns(&schema::quarantine()),
        "sketch (with 14 bands)": columns(&schema::sketch(14)),
        "corpus": columns(&schema::corpus()),
        "rewritten": columns(&schema::rewritten()),
        "rewrite-quarantine": columns(&schema::rewrite_quarantine()),
        "arithmetic": columns(&schema::arithmetic()),
        "traces": columns(&schema::traces()),
        "rejected": columns(&schema::rejected()),
        "verl": columns(&schema::verl()),
        "metrics": columns(&schema::metrics()),
        "rollouts": columns(&schema::rollouts()),
        "ppo-metrics": columns(&schema::ppo_metrics()),
        "decisions (with the corpora `minimal` and `rich`)": columns(&schema::decisions(["minimal", "rich"].into_iter())),
    })
}

fn columns(schema: &SchemaRef) -> Value {
    schema.fields().iter().map(|field| json!({ "name": field.name(), "type": type_name(field.data_type()), "nullable": field.is_nullable() })).collect()
}

/// The type as readers see it; views and dictionaries are encodings.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "string".into(),
        DataType::Dictionary(_, values) => type_name(values),
        DataType::List(element) => format!("list<{}>", type_name(element.data_type())),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("{}: {}", field.name(), type_name(field.data_type())));
            format!("struct<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}
