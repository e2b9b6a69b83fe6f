//! What servers' answers hold: probabilities of the next token in either of two shapes, and replies.

use crate::error::{Exit, Failure};
use serde_json::Value;

/// The words that say yes and no, each with and without a blank before it.
const YES: [&str; 3] = ["yes", "Yes", "YES"];
const NO: [&str; 3] = ["no", "No", "NO"];
/// A server shows its likeliest tokens alone. A share of yes that the others could move further than this is none.
const TOLERANCE: f64 = 0.05;

/// A token that may come next, and the natural logarithm of its probability.
pub(super) type Candidate = (String, f64);

/// An answer that has not the shape that was asked for.
pub(super) fn misshapen(url: &str, expected: &str) -> anyhow::Error {
    Failure::new(Exit::Unavailable, format!("`{url}` answers without {expected}"))
        .hint("the server does not speak OpenAI's protocol as this program needs it; see docs/endpoints.md")
        .into()
}

/// The likeliest first tokens of an answer, or what it lacks.
///
/// `/v1/chat/completions`, and llama.cpp everywhere, lists them (`content[0].top_logprobs[{token, logprob}]`); elsewhere
/// `/v1/completions` maps tokens to logarithms (`top_logprobs[0]{token: logprob}`).
pub(super) fn candidates(answer: &Value) -> Result<Vec<Candidate>, &'static str> {
    let choice = answer.pointer("/choices/0").ok_or("`choices`, a list with an answer in it")?;
    let logprobs = choice.get("logprobs").filter(|logprobs| logprobs.is_object()).ok_or("`logprobs`")?;
    let found: Vec<Candidate> = match (logprobs.pointer("/content/0/top_logprobs"), logprobs.pointer("/top_logprobs/0"))
    {
        (Some(Value::Array(list)), _) => list
            .iter()
            .filter_map(|entry| Some((entry.get("token")?.as_str()?.to_owned(), entry.get("logprob")?.as_f64()?)))
            .collect(),
        (_, Some(Value::Object(map))) => {
            map.iter().filter_map(|(token, logprob)| Some((token.clone(), logprob.as_f64()?))).collect()
        }
        _ => Vec::new(),
    };
    if found.is_empty() { Err("the top logprobs of the first token") } else { Ok(found) }
}

/// The text of an answer's first choice, of either kind.
pub(super) fn text(answer: &Value) -> Option<&str> {
    let choice = answer.pointer("/choices/0")?;
    choice.get("text").or_else(|| choice.pointer("/message/content"))?.as_str()
}

/// P(yes) / (P(yes) + P(no)), or why it cannot be known from these candidates.
///
/// What is not shown is at most as likely as the least likely of what is shown, and all of it together as likely as what
/// is shown leaves over.
pub(super) fn share_of_yes(candidates: &[Candidate]) -> Result<f32, String> {
    let probability = |logprob: f64| logprob.min(0.0).exp();
    let side = |words: &[&str]| {
        let shown = candidates.iter().filter(|(token, _)| words.contains(&bare(token)));
        shown.fold((0.0, 0), |(sum, count), (_, logprob)| (sum + probability(*logprob), count + 1))
    };
    let ((yes, yes_shown), (no, no_shown)) = (side(&YES), side(&NO));
    let shown: f64 = candidates.iter().map(|(_, logprob)| probability(*logprob)).sum();
    let least = candidates.iter().map(|(_, logprob)| probability(*logprob)).fold(1.0, f64::min);
    let hidden = |count: usize| (least * 6usize.saturating_sub(count) as f64).min((1.0 - shown).max(0.0));
    if yes + no == 0.0 {
        return Err(format!("neither yes nor no is among the {} likeliest answers", candidates.len()));
    }
    let share = yes / (yes + no);
    let lowest = yes / (yes + no + hidden(no_shown));
    let highest = (yes + hidden(yes_shown)) / (yes + no + hidden(yes_shown));
    if (share - lowest).max(highest - share) > TOLERANCE {
        return Err(format!(
            "yes ({yes:.3}) and no ({no:.3}) are too unlikely among the {} likeliest answers: the share of yes may be anything from {lowest:.2} to {highest:.2}",
            candidates.len()
        ));
    }
    Ok(share as f32)
}

/// How much of what is shown says yes or no, in [0, 1].
pub(super) fn answer_mass(candidates: &[Candidate]) -> f64 {
    let sum = |keep: &dyn Fn(&str) -> bool| -> f64 {
        candidates.iter().filter(|(token, _)| keep(bare(token))).map(|(_, logprob)| logprob.exp()).sum()
    };
    let all = sum(&|_| true);
    if all > 0.0 { sum(&|token| YES.contains(&token) || NO.contains(&token)) / all } else { 0.0 }
}

/// A token without the blank before it, which some servers show as the vocabulary writes it.
fn bare(token: &str) -> &str {
    token.strip_prefix([' ', '▁', 'Ġ']).unwrap_or(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(probabilities: &[(&str, f64)]) -> Vec<Candidate> {
        probabilities.iter().map(|(token, p)| ((*token).to_owned(), p.ln())).collect()
    }

    #[test]
    fn both_shapes_are_read() {
        let chat =
            json!({"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "yes", "logprob": -0.5}]}]}}]});
        let legacy = json!({"choices": [{"logprobs": {"top_logprobs": [{"yes": -0.5}]}}]});
        for answer in [chat, legacy] {
            assert_eq!(candidates(&answer).unwrap(), [("yes".to_owned(), -0.5)]);
        }
        let check =
            |answer: Value, expect: &str| assert!(candidates(&answer).unwrap_err().contains(expect), "{answer}");
        check(json!({}), "choices");
        check(json!({"choices": []}), "choices");
        check(json!({"choices": [{"text": "yes", "logprobs": null}]}), "`logprobs`");
        check(json!({"choices": [{"logprobs": {"top_logprobs": []}}]}), "top logprobs");
        check(json!({"choices": [{"logprobs": {"top_logprobs": [{}]}}]}), "top logprobs");
        check(json!({"choices": [{"logprobs": {"content": [{"token": "yes", "logprob": -0.5}]}}]}), "top logprobs");
    }

    #[test]
    fn variants_add_up() {
        let check = |candidates: &[(&str, f64)], expect: f32| {
            let share = share_of_yes(&of(candidates)).unwrap();
            assert!((share - expect).abs() < 1e-6, "{candidates:?}: {share}");
        };
        check(&[("yes", 0.5), (" Yes", 0.25), ("NO", 0.25)], 0.75);
        check(&[("▁yes", 0.5), ("Ġno", 0.5)], 0.5);
        check(&[("yes", 1.0)], 1.0);
        check(&[("No", 0.999), ("Maybe", 0.001)], 0.0);
    }

    #[test]
    fn what_is_not_shown_is_not_guessed() {
        let why = |candidates: &[(&str, f64)]| share_of_yes(&of(candidates)).unwrap_err();
        assert!(why(&[("The", 0.9), ("A", 0.1)]).contains("neither yes nor no"));
        // No may be as likely as 0.02 six times.
        assert!(why(&[("The", 0.9), ("yes", 0.02)]).contains("from"));
        assert!(share_of_yes(&of(&[("yes", 0.98), ("no", 0.01), ("The", 1e-6)])).is_ok());
    }

    #[test]
    fn the_mass_of_the_answers() {
        assert!((answer_mass(&of(&[("yes", 0.3), (" No", 0.1), ("The", 0.4)])) - 0.5).abs() < 1e-9);
        assert_eq!(answer_mass(&[]), 0.0);
    }
}
