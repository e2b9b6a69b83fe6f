//! Values of Arrow columns, as JSON and as text.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;

/// A value as JSON: numbers, text and truth values as themselves, everything else as Arrow writes it.
pub(super) fn json(column: &ArrayRef, row: usize) -> anyhow::Result<Value> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    let cast = |to: &DataType| arrow::compute::cast(column, to);
    Ok(match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        // The shortest text that means the same number: 0.93, not 0.9300000071525574.
        DataType::Float32 => number(&column.as_primitive::<Float32Type>().value(row).to_string()),
        DataType::Float64 => number(&column.as_primitive::<Float64Type>().value(row).to_string()),
        kind if kind.is_integer() => cast(&DataType::Int64)?.as_primitive::<Int64Type>().value(row).into(),
        // Arrow cannot write everything: a time in a named zone takes a time zone database.
        _ => match ArrayFormatter::try_new(column, &FormatOptions::default().with_display_error(true)) {
            Ok(formatter) => formatter.value(row).to_string().into(),
            Err(error) => format!("({error})").into(),
        },
    })
}

/// NaN and the infinities are no JSON numbers; they stay words.
fn number(text: &str) -> Value {
    text.parse::<serde_json::Number>().map_or_else(|_| text.into(), Value::Number)
}

/// A value as text; nothing for null.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BooleanArray, Date32Array, Float32Array, Int8Array, ListArray, StringArray, UInt64Array};
    use arrow::datatypes::Int32Type;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn values_become_json() {
        let check = |column: ArrayRef, expect: Value| assert_eq!(json(&column, 0).unwrap(), expect);
        check(Arc::new(Int8Array::from(vec![-7])), json!(-7));
        check(Arc::new(UInt64Array::from(vec![u64::MAX])), json!(u64::MAX));
        check(Arc::new(Float32Array::from(vec![0.93f32])), json!(0.93));
        check(Arc::new(Float32Array::from(vec![f32::NAN])), json!("NaN"));
        check(Arc::new(BooleanArray::from(vec![true])), json!(true));
        check(Arc::new(StringArray::from(vec!["a\"b"])), json!("a\"b"));
        check(Arc::new(StringArray::from(vec![None::<&str>])), Value::Null);
        check(Arc::new(Date32Array::from(vec![0])), json!("1970-01-01"));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None])]);
        check(Arc::new(lists), json!("[1, ]"));
    }
}
