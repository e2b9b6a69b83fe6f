//! A corpus's `where`: an SQL condition over documents and labels, parsed once and evaluated column-wise by polars.

use crate::behavior::Behavior;
use crate::config::{Config, Recipe};
use crate::error::Failure;
use polars::prelude::{Column, DataFrame, DataType, Expr, IntoLazy, NamedFrom, Series};

/// Columns that are read from the shard only if a condition names them.
pub const DOCUMENT_COLUMNS: [&str; 4] = ["url", "text", "date", "metadata"];

/// A parsed condition.
#[derive(Debug, Clone)]
pub struct Condition {
    expression: Expr,
    /// The columns it names, each once.
    columns: Vec<String>,
}

impl Condition {
    /// Parses a condition and tries it on an empty table.
    ///
    /// # Errors
    /// One sentence: the syntax, an unknown column with the nearest known one, or a result that is no truth value.
    pub fn parse(sql: &str) -> Result<Condition, String> {
        let expression =
            polars::sql::sql_expr(sql).map_err(|error| format!("`{sql}` is not an SQL condition: {error}"))?;
        let mut columns = Vec::new();
        for node in &expression {
            match node {
                Expr::Column(name) if !columns.iter().any(|column: &String| column == name.as_str()) => {
                    columns.push(name.to_string())
                }
                // Their value would depend on which other documents share the unit.
                Expr::Agg(_) | Expr::Over { .. } | Expr::Len => {
                    return Err(format!("`{sql}` aggregates over documents; a condition speaks about one document"));
                }
                _ => {}
            }
        }
        for column in &columns {
            let known = known_columns();
            if !known.contains(column) {
                let nearest = known.iter().min_by_key(|name| strsim::damerau_levenshtein(name, column));
                let nearest = nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
                return Err(format!("`{sql}` names the column `{column}`, which does not exist{nearest}"));
            }
        }
        let condition = Condition { expression, columns };
        condition.evaluate(&empty_table()?).map_err(|error| format!("`{sql}` is not a condition: {error}"))?;
        Ok(condition)
    }

    /// Which of url, text, date and metadata it needs.
    pub fn document_columns(&self) -> impl Iterator<Item = &'static str> {
        DOCUMENT_COLUMNS.into_iter().filter(|name| self.columns.iter().any(|column| column == name))
    }

    /// One truth value per row; unknown (null) counts as false, as in SQL.
    pub fn evaluate(&self, table: &DataFrame) -> Result<Vec<bool>, String> {
        let name = "__selected";
        let result = table
            .clone()
            .lazy()
            .with_columns([self.expression.clone().alias(name)])
            .collect()
            .map_err(|error| error.to_string())?;
        let selected = result.column(name).map_err(|error| error.to_string())?;
        let truth = selected
            .bool()
            .map_err(|_| format!("expected true or false for each document, it gives {}", selected.dtype()))?;
        Ok(truth.iter().map(|value| value.unwrap_or(false)).collect())
    }
}

/// Checks the conditions of one arm, located in the recipe.
pub fn check_recipe(recipe: &Recipe, arm: &str, config: &Config) -> Result<(), Failure> {
    for (name, corpus) in config.curate.iter().flat_map(|curate| &curate.corpus) {
        if let Err(message) = Condition::parse(&corpus.condition) {
            let key = format!("curate.corpus.{name}.where");
            return Err(recipe.error_in_arm(arm, &key, &message));
        }
    }
    Ok(())
}

fn known_columns() -> Vec<String> {
    let mut names: Vec<String> =
        DOCUMENT_COLUMNS.into_iter().chain(["id", "char_count", "token_count"]).map(str::to_owned).collect();
    names.extend(
        Behavior::ALL
            .into_iter()
            .flat_map(|behavior| ["score", "count"].map(|what| format!("{}_{what}", behavior.name()))),
    );
    names
}

fn empty_table() -> Result<DataFrame, String> {
    let columns = known_columns().into_iter().map(|name| {
        let data_type = match name.as_str() {
            "char_count" | "token_count" => DataType::Int64,
            name if name.ends_with("_count") => DataType::Int32,
            name if name.ends_with("_score") => DataType::Float32,
            _ => DataType::String,
        };
        Column::from(Series::new_empty(name.into(), &data_type))
    });
    DataFrame::new(0, columns.collect()).map_err(|error| error.to_string())
}

/// A polars column of strings.
pub fn string_column<'a>(name: &str, values: impl Iterator<Item = Option<&'a str>>) -> Column {
    Column::from(Series::new(name.into(), values.collect::<Vec<_>>()))
}

/// A polars column of numbers.
pub fn number_column<T>(name: &str, values: &[T]) -> Column
where
    Series: for<'a> NamedFrom<&'a [T], [T]>,
{
    Column::from(Series::new(name.into(), values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_select_rows() {
        let table = DataFrame::new(
            4,
            vec![
                number_column("backtracking_count", &[0i32, 1, 2, 0]),
                number_column("verification_score", &[0.9f32, 0.1, 0.2, 0.4]),
                string_column(
                    "url",
                    [Some("https://a.org/x"), None, Some("http://b.org"), Some("https://a.net")].into_iter(),
                ),
            ],
        )
        .unwrap();
        let check = |sql: &str, expect: [bool; 4]| {
            assert_eq!(Condition::parse(sql).unwrap().evaluate(&table).unwrap(), expect, "{sql}")
        };
        check("backtracking_count >= 1", [false, true, true, false]);
        check("backtracking_count >= 1 or verification_score > 0.5", [true, true, true, false]);
        check("url like 'https://a.%'", [true, false, false, true]);
        check("not url like 'https://a.%'", [false, false, true, false]);
        check("backtracking_count + 1 = 1 and url is not null", [true, false, false, true]);
        check("true", [true; 4]);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let check = |sql: &str, part: &str| {
            let message = Condition::parse(sql).unwrap_err();
            assert!(message.contains(part), "{sql}: {message}");
        };
        check(
            "backtraking_count >= 1",
            "`backtraking_count`, which does not exist; did you mean `backtracking_count`?",
        );
        check("backtracking_count >=", "is not an SQL condition");
        check("backtracking_count + 1", "expected true or false");
        check("backtracking_count > max(verification_count)", "speaks about one document");
        check("url > 3", "is not a condition");
    }

    #[test]
    fn document_columns_are_known() {
        let columns: Vec<_> =
            Condition::parse("url like '%a%' and token_count > 3").unwrap().document_columns().collect();
        assert_eq!(columns, ["url"]);
    }
}
