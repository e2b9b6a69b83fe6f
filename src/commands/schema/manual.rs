//! The recipe's manual, `docs/recipe.md`, from the doc comments of the configuration's types.

use serde_json::Value;
use std::fmt::Write;

const INTRODUCTION: &str = "\
# Recipes

<!-- Generated from the program's types by `pipeline schema --write`. -->

A recipe is a TOML file with one table per stage, in the order in which the stages run; a stage without a table does not run.
What the data means stands in the recipe; how a run behaves (`--threads`, `--device`, `--task-index`) is a flag.

An experiment is one recipe: each `[arm.NAME]` table overrides keys of the tables above it, the run holds one sub-run per arm,
and stages that are equal in several arms run once.

```toml
[fetch]
sources = [\"sample:\"]

[classify.cue]

[curate.corpus.rich]
where = \"backtracking_count >= 1\"

[arm.strict.curate.corpus.rich]
where = \"backtracking_count >= 2\"

[arm.lenient.curate.corpus.rich]
where = \"backtracking_score >= 0.2\"
```
";

/// The manual of a recipe's JSON Schema.
pub(super) fn recipe(schema: &Value) -> String {
    let mut text = INTRODUCTION.to_owned();
    write_table(&mut text, schema, schema, "");
    text
}

/// One table of keys, then the tables below it.
fn write_table(text: &mut String, root: &Value, table: &Value, path: &str) {
    let Some(properties) = table.get("properties").and_then(Value::as_object) else { return };
    let required: Vec<&str> =
        table.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut below = Vec::new();
    let mut rows = String::new();
    for (key, property) in properties {
        let (target, is_map) = table_of(root, property);
        if let Some(target) = target {
            let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            below.push((if is_map { format!("{name}.NAME") } else { name }, target, description(property)));
            continue;
        }
        let default = match property.get("default").filter(|value| !value.is_null()) {
            Some(value) => format!("`{value}`"),
            None if required.contains(&key.as_str()) => "required".into(),
            None => "–".into(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(rows, "| `{key}` | {} | {default} | {} |", kind(root, property), description(property));
    }
    if !rows.is_empty() {
        if path.is_empty() {
            *text += "\n## At the top\n";
        }
        *text += "\n| key | type | default | meaning |\n|---|---|---|---|\n";
        *text += &rows;
    }
    for (name, target, outer) in below {
        let own = description(target);
        let _ = write!(text, "\n## `[{name}]`\n\n{}\n", if own.is_empty() { outer } else { own });
        write_table(text, root, target, &name);
    }
}

/// The table that a property is, or that it maps names to.
fn table_of<'s>(root: &'s Value, property: &'s Value) -> (Option<&'s Value>, bool) {
    let resolved = resolve(root, property);
    if resolved.get("properties").is_some() {
        return (Some(resolved), false);
    }
    let values = resolved.get("additionalProperties").map(|values| resolve(root, values));
    (values.filter(|values| values.get("properties").is_some()), true)
}

/// Follows a reference; of an optional value, its value.
fn resolve<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let choice = schema.get("anyOf").and_then(Value::as_array).and_then(|choices| choices.first());
    let reference = choice.unwrap_or(schema).get("$ref").and_then(Value::as_str);
    reference.and_then(|reference| root.pointer(reference.trim_start_matches('#'))).unwrap_or(schema)
}

fn kind(root: &Value, property: &Value) -> String {
    let resolved = resolve(root, property);
    let one = |kind: &str| match kind {
        "integer" => "number".to_owned(),
        "number" => "decimal".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" => format!("list of {}", resolved.get("items").map_or("values".into(), kind_plural)),
        other => other.to_owned(),
    };
    let choices = choices(resolved);
    if !choices.is_empty() {
        return choices.join(" or ");
    }
    match resolved.get("type") {
        Some(Value::String(name)) => one(name),
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| *name != "null")
            .map(one)
            .collect::<Vec<_>>()
            .join(" or "),
        _ => "table".into(),
    }
}

/// The values that a name is one of, in quotes.
fn choices(schema: &Value) -> Vec<String> {
    let one_of = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let each = std::iter::once(schema).chain(one_of);
    let values =
        each.flat_map(|one| one.get("enum").and_then(Value::as_array).into_iter().flatten().chain(one.get("const")));
    values.filter_map(Value::as_str).map(|value| format!("`\"{value}\"`")).collect()
}

fn kind_plural(items: &Value) -> String {
    if items.get("$ref").is_some() {
        return "names".into();
    }
    format!("{}s", items.get("type").and_then(Value::as_str).unwrap_or("value"))
}

fn description(schema: &Value) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or("").replace('\n', " ").replace('|', "\\|")
}
