//! Traces and RL prompts as rows of their Parquet files.

use super::authored::Rejected;
use crate::behavior::Behavior;
use crate::countdown::generate::TraceRecord;
use crate::countdown::puzzle::Puzzle;
use crate::countdown::query::QueryTemplate;
use crate::data::schema;
use anyhow::Context;
use arrow::array::{
    ArrayRef, DictionaryArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Int32Type, SchemaRef};
use std::sync::Arc;

/// What opens a thought: the query ends with it, and in a chat the assistant's turn begins with it.
const OPENING: &str = "<think>";

/// Traces in the columns of [`schema::traces`].
pub(super) fn traces(made: &[(TraceRecord, usize)]) -> anyhow::Result<RecordBatch> {
    let schema = schema::traces();
    let rows = || made.iter().map(|(trace, _)| trace);
    let puzzles: Vec<&Puzzle> = rows().map(|trace| &trace.puzzle).collect();
    // The two turns together are query and completion, byte for byte.
    let turns = rows().flat_map(|trace| {
        let question = trace.query.strip_suffix(OPENING).unwrap_or(&trace.query);
        [("user", question.to_owned()), ("assistant", [OPENING, &trace.completion].concat())]
    });
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows().map(|trace| &trace.query))),
        Arc::new(StringArray::from_iter_values(rows().map(|trace| &trace.completion))),
        numbers(&puzzles, type_of(&schema, "numbers")?)?,
        targets(&puzzles),
        names(rows().map(|trace| Some(trace.condition.name()))),
        names(rows().map(|trace| Some(trace.verdict.name()))),
        names(rows().map(|trace| trace.stratum.map(|stratum| stratum.name()))),
    ];
    for behavior in Behavior::ALL {
        let counts = rows().map(|trace| trace.counts[behavior.index()] as i32);
        columns.push(Arc::new(Int32Array::from_iter_values(counts)));
    }
    columns.push(Arc::new(UInt64Array::from_iter_values(rows().map(|trace| trace.pair_id))));
    columns.push(messages(turns, 2, type_of(&schema, "messages")?)?);
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// Puzzles in the columns of [`schema::verl`]; `first` is the first one's number in its file.
pub(in crate::stages) fn prompts(
    puzzles: &[Puzzle],
    query: &QueryTemplate,
    split: &str,
    first: u64,
) -> anyhow::Result<RecordBatch> {
    let schema = schema::verl();
    let borrowed: Vec<&Puzzle> = puzzles.iter().collect();
    let same = |text: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(puzzles.iter().map(|_| text))) };
    let truth_type = field_type(type_of(&schema, "reward_model")?, "ground_truth")?;
    let truth =
        structure(truth_type, vec![numbers(&borrowed, field_type(truth_type, "numbers")?)?, targets(&borrowed)])?;
    let index = Int64Array::from_iter_values((0..puzzles.len() as u64).map(|place| (first + place) as i64));
    let columns = vec![
        same("countdown"),
        messages(puzzles.iter().map(|puzzle| ("user", query.fill(puzzle))), 1, type_of(&schema, "prompt")?)?,
        same("math"),
        structure(type_of(&schema, "reward_model")?, vec![same("rule"), truth])?,
        structure(type_of(&schema, "extra_info")?, vec![same(split), Arc::new(index)])?,
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// Replies that no trace was made of, in the columns of [`schema::rejected`].
pub(super) fn rejected(rejected: &[&Rejected]) -> anyhow::Result<RecordBatch> {
    let schema = schema::rejected();
    let rows = || rejected.iter().copied();
    let puzzles: Vec<&Puzzle> = rows().map(|one| &one.puzzle).collect();
    let columns: Vec<ArrayRef> = vec![
        numbers(&puzzles, type_of(&schema, "numbers")?)?,
        targets(&puzzles),
        names(rows().map(|one| Some(one.split))),
        Arc::new(Int32Array::from_iter_values(rows().map(|one| one.attempt as i32))),
        names(rows().map(|one| Some(one.reason))),
        Arc::new(StringArray::from_iter_values(rows().map(|one| &one.detail))),
        Arc::new(rows().map(|one| one.reply.as_deref()).collect::<StringArray>()),
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}

fn type_of<'s>(schema: &'s SchemaRef, name: &str) -> anyhow::Result<&'s DataType> {
    Ok(schema.field_with_name(name)?.data_type())
}

fn field_type<'s>(structure: &'s DataType, name: &str) -> anyhow::Result<&'s DataType> {
    let DataType::Struct(fields) = structure else { anyhow::bail!("{structure} has no fields") };
    let field = fields.find(name).with_context(|| format!("{structure} lacks `{name}`"))?;
    Ok(field.1.data_type())
}

fn names<'n>(names: impl Iterator<Item = Option<&'n str>>) -> ArrayRef {
    Arc::new(names.collect::<DictionaryArray<Int32Type>>())
}

fn targets(puzzles: &[&Puzzle]) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(puzzles.iter().map(|puzzle| puzzle.target() as i32)))
}

/// The numbers in the order in which the query states them.
fn numbers(puzzles: &[&Puzzle], list: &DataType) -> anyhow::Result<ArrayRef> {
    let all = puzzles.iter().flat_map(|puzzle| puzzle.numbers()).map(|&number| number as i32);
    let lengths = puzzles.iter().map(|puzzle| puzzle.numbers().len());
    lists(list, lengths, Arc::new(Int32Array::from_iter_values(all)))
}

/// Chats of `each` turns.
fn messages(
    turns: impl Iterator<Item = (&'static str, String)>,
    each: usize,
    list: &DataType,
) -> anyhow::Result<ArrayRef> {
    let (roles, contents): (Vec<&str>, Vec<String>) = turns.unzip();
    let DataType::List(element) = list else { anyhow::bail!("{list} is no list") };
    let rows = roles.len() / each;
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(roles)), Arc::new(StringArray::from(contents))];
    let turns = structure(element.data_type(), columns)?;
    lists(list, std::iter::repeat_n(each, rows), turns)
}

fn lists(list: &DataType, lengths: impl Iterator<Item = usize>, values: ArrayRef) -> anyhow::Result<ArrayRef> {
    let DataType::List(element) = list else { anyhow::bail!("{list} is no list") };
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, None)?))
}

fn structure(structure: &DataType, columns: Vec<ArrayRef>) -> anyhow::Result<ArrayRef> {
    let DataType::Struct(fields) = structure else { anyhow::bail!("{structure} has no fields") };
    Ok(Arc::new(StructArray::try_new(fields.clone(), columns, None)?))
}
