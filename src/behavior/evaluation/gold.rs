//! Labeled documents as they lie in a file: one JSON object a line.

use crate::behavior::Behavior;
use crate::error::{Exit, Failure};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::BufRead;

/// A document with the counts that annotators gave it. Other fields of the line are ignored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GoldDocument {
    pub id: String,
    pub source: String,
    pub text: String,
    pub verification: u32,
    pub backtracking: u32,
    pub subgoal_setting: u32,
    pub backward_chaining: u32,
    /// What the annotators found, in whatever form they noted it.
    #[serde(default)]
    pub evidence: serde_json::Value,
}

impl GoldDocument {
    /// Quotes that show a behavior, where `evidence` is an object of lists by behavior.
    pub fn quotes(&self, behavior: Behavior) -> impl Iterator<Item = &str> {
        let quotes = self.evidence.get(behavior.name()).and_then(serde_json::Value::as_array);
        quotes.into_iter().flatten().filter_map(serde_json::Value::as_str)
    }

    /// The counts in the order of [`Behavior::ALL`].
    pub fn counts(&self) -> [u32; 4] {
        Behavior::ALL.map(|behavior| match behavior {
            Behavior::Verification => self.verification,
            Behavior::Backtracking => self.backtracking,
            Behavior::SubgoalSetting => self.subgoal_setting,
            Behavior::BackwardChaining => self.backward_chaining,
        })
    }
}

/// Reads labeled documents; blank lines are skipped. `name` is the file's name, for messages.
///
/// An error names the line: one that is no JSON object with these fields, or that repeats an `id`.
pub fn read_gold(reader: impl BufRead, name: &str) -> anyhow::Result<Vec<GoldDocument>> {
    let mut documents = Vec::new();
    let mut ids = BTreeSet::new();
    for (index, line) in reader.lines().enumerate() {
        let bad = |problem: String| {
            Failure::new(Exit::BadData, format!("line {} of `{name}`: {problem}", index + 1)).hint(
                "every line is an object with the strings `id`, `source` and `text` and a count, an integer of at \
                 least 0, for each behavior",
            )
        };
        let line = line.map_err(|error| bad(format!("cannot be read: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let document: GoldDocument = serde_json::from_str(&line).map_err(|error| bad(describe(&error)))?;
        if !ids.insert(document.id.clone()) {
            return Err(bad(format!("the id `{}` was there before", document.id)).into());
        }
        documents.push(document);
    }
    Ok(documents)
}

/// serde_json's message without its own line number, which would always be 1.
fn describe(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.split(" at line ").next().unwrap_or(&message).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = r#"{"id":"a","source":"s","text":"t","verification":1,"backtracking":2,"subgoal_setting":3,"backward_chaining":4,"url":null}"#;

    #[test]
    fn documents() {
        let second = FIRST.replace("\"a\"", "\"b\"");
        let found = read_gold(format!("{FIRST}\n\n{second}\n").as_bytes(), "dev.jsonl").unwrap();
        assert_eq!(found.iter().map(|document| document.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(found[0].counts(), [1, 2, 3, 4]);
    }

    /// A second line that is refused.
    fn refuse(line: &str, expect: &str) {
        let error = read_gold(format!("{FIRST}\n{line}").as_bytes(), "dev.jsonl").unwrap_err();
        assert_eq!(error.to_string(), format!("line 2 of `dev.jsonl`: {expect}"));
        assert_eq!(crate::error::exit_of(&error), Exit::BadData);
    }

    #[test]
    fn errors_name_the_line() {
        refuse(FIRST, "the id `a` was there before");
        refuse(&FIRST.replace("\"text\":\"t\",", ""), "missing field `text`");
        refuse(&FIRST.replace(":3", ":-3"), "invalid value: integer `-3`, expected u32");
        refuse("[1]", "invalid type: integer `1`, expected a string");
        refuse("{", "EOF while parsing an object");
        let error = read_gold(&b"\xff"[..], "dev.jsonl").unwrap_err().to_string();
        assert!(error.starts_with("line 1 of `dev.jsonl`: cannot be read"), "{error}");
    }
}
