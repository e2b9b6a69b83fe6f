//! Rewritten documents as rows of their Parquet files.

use super::{Entry, Outcome};
use crate::behavior::Behavior;
use crate::behavior::cue::CueJudge;
use crate::behavior::judge::{Judge, Mark};
use crate::data::schema;
use crate::stages::classify::constant;
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use std::sync::Arc;

const QUERY: &str = include_str!("../../../assets/prompts/rewrite-query.txt");

/// The prompt before a completion, in the wire format of priming traces: it ends with `<think>`.
fn query(question: &str) -> String {
    QUERY.trim_end().replacen("{question}", question, 1)
}

/// What is trained on.
fn completion(thoughts: &str, answer: &str) -> String {
    format!("{thoughts}</think>\n<answer> {answer} </answer>")
}

/// Kept rows in the columns of [`schema::rewritten`], with the behaviors that the cue judge counts in the thoughts.
pub(super) fn rewritten(entries: &[&Entry], cues: &mut CueJudge) -> anyhow::Result<(RecordBatch, Vec<[u32; 4]>)> {
    let kept: Vec<(&Entry, [&str; 3], u64)> = entries.iter().filter_map(|entry| parts(entry)).collect();
    let texts: Vec<&str> = kept.iter().map(|(_, [_, thoughts, _], _)| *thoughts).collect();
    let labels = cues.judge(&texts)?;
    let counts: Vec<[u32; 4]> = labels
        .into_iter()
        .map(|labels| labels.map_or([Mark { score: 0.0, count: 0 }; 4], |labels| labels.marks).map(|mark| mark.count))
        .collect();
    let text = |value: &dyn Fn(&Entry, [&str; 3]) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(kept.iter().map(|(entry, parts, _)| value(entry, *parts))))
    };
    let mut columns = vec![
        text(&|_, [question, ..]| query(question)),
        text(&|_, [_, thoughts, answer]| completion(thoughts, answer)),
        text(&|_, [question, ..]| question.to_owned()),
        text(&|_, [_, thoughts, _]| thoughts.to_owned()),
        text(&|_, [.., answer]| answer.to_owned()),
        Arc::new(Int32Array::from_iter_values(kept.iter().map(|(.., tokens)| *tokens as i32))),
    ];
    for behavior in Behavior::ALL {
        let counts = counts.iter().map(|counts| counts[behavior.index()] as i32);
        columns.push(Arc::new(Int32Array::from_iter_values(counts)));
    }
    columns.extend([
        Arc::new(kept.iter().map(|(entry, ..)| entry.url.as_deref()).collect::<StringArray>()) as ArrayRef,
        text(&|entry, _| entry.id.clone()),
    ]);
    Ok((RecordBatch::try_new(schema::rewritten(), columns)?, counts))
}

fn parts(entry: &Entry) -> Option<(&Entry, [&str; 3], u64)> {
    match &entry.outcome {
        Outcome::Worked { question, thoughts, answer, reply_tokens } => {
            Some((entry, [question, thoughts, answer], *reply_tokens))
        }
        _ => None,
    }
}

/// Failed rows in the columns of [`schema::rewrite_quarantine`].
pub(super) fn quarantined(entries: &[&Entry]) -> anyhow::Result<RecordBatch> {
    let failed: Vec<(&Entry, &str, Option<&str>)> = entries
        .iter()
        .filter_map(|entry| match &entry.outcome {
            Outcome::Failed { reason, reply } => Some((*entry, reason.as_str(), reply.as_deref())),
            _ => None,
        })
        .collect();
    let ids = failed.iter().map(|(entry, ..)| entry.id.as_str());
    Ok(RecordBatch::try_new(
        schema::rewrite_quarantine(),
        vec![
            Arc::new(StringArray::from_iter_values(ids)),
            failed.first().map_or_else(|| constant("", 0), |(entry, ..)| constant(&entry.split, failed.len())),
            Arc::new(Int64Array::from_iter_values(failed.iter().map(|(entry, ..)| entry.row as i64))),
            Arc::new(StringArray::from_iter_values(failed.iter().map(|(_, reason, _)| *reason))),
            Arc::new(failed.iter().map(|(.., reply)| *reply).collect::<StringArray>()),
        ],
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_and_completion_are_one_wire_format() {
        let text = query("What is 2 + 2?") + &completion("I add.", "4");
        assert!(text.contains("User: What is 2 + 2? Think between"));
        assert!(text.ends_with("\n<think>I add.</think>\n<answer> 4 </answer>"), "{text}");
    }
}
