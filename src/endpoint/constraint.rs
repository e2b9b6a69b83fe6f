//! Does the server keep an answer to given words, and do its logprobs show it?
//!
//! Servers ignore fields that they do not know (vLLM from 0.12 on ignores `guided_choice`, with status 200), so a
//! constraint is believed only after it was seen to change an answer: a question whose answer is neither yes nor no is
//! asked under each known constraint in turn. Where the logprobs are taken after the constraint, yes and no are all that
//! is shown, and scores are exact however unlikely the two were; elsewhere the plain logprobs are read.

use super::answer::{answer_mass, candidates, text};
use super::client::Client;
use super::question::Asking;
use serde_json::{Map, Value, json};

/// A constraint that works, as fields of a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constraint {
    pub name: &'static str,
    pub fields: Map<String, Value>,
    /// Logprobs show nothing but the answers.
    pub shown: bool,
}

const WORDS: [&str; 12] = ["yes", "Yes", "YES", " yes", " Yes", " YES", "no", "No", "NO", " no", " No", " NO"];
const QUESTION: &str = "What is the capital of France? Answer with its name.";

/// The constraints of vLLM from 0.11 on, of vLLM before 0.12, of SGLang and of llama.cpp.
fn known() -> [(&'static str, Value); 4] {
    let rule: Vec<String> = WORDS.iter().map(|word| format!("\"{word}\"")).collect();
    [
        ("structured_outputs", json!({"structured_outputs": {"choice": WORDS}})),
        ("guided_choice", json!({"guided_choice": WORDS})),
        ("regex", json!({"regex": "( )?(yes|Yes|YES|no|No|NO)"})),
        ("grammar", json!({"grammar": format!("root ::= {}", rule.join(" | "))})),
    ]
}

/// The first constraint that shows in the logprobs, else the first that is honoured at all.
pub(super) fn find(client: &Client, asking: &Asking) -> anyhow::Result<Option<Constraint>> {
    let mut plain = asking.plain(QUESTION);
    // A word may take more tokens than one.
    plain["max_tokens"] = 3.into();
    let unconstrained = client.post(asking.path(), &plain)?;
    if !unconstrained.is_ok_and(|answer| text(&answer).is_some_and(|text| !fires(text))) {
        // A model that says no to this question proves nothing.
        return Ok(None);
    }
    let mut honoured = None;
    for (name, fields) in known() {
        let Value::Object(fields) = fields else { continue };
        let mut body = plain.clone();
        if let Value::Object(body) = &mut body {
            body.extend(fields.clone());
        }
        let Ok(answer) = client.post(asking.path(), &body)? else { continue };
        if !text(&answer).is_some_and(fires) {
            continue;
        }
        let shown = candidates(&answer).is_ok_and(|candidates| answer_mass(&candidates) > 0.999);
        let constraint = Constraint { name, fields, shown };
        if shown {
            return Ok(Some(constraint));
        }
        honoured.get_or_insert(constraint);
    }
    Ok(honoured)
}

/// Whether an answer is one of the words, or the beginning of one.
fn fires(text: &str) -> bool {
    !text.trim().is_empty() && WORDS.iter().any(|word| word.starts_with(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constraint_is_told_by_its_effect() {
        for yes in ["yes", " No", "Y", "no"] {
            assert!(fires(yes), "{yes}");
        }
        for no in ["Paris", "", " ", "The", "yes."] {
            assert!(!fires(no), "{no}");
        }
    }
}
