//! What the writer is asked, and how its reply is read. Pure.

use crate::config::RewriteStyle;
use crate::generation::{Finish, Reply};

/// What a rewritten document consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Worked {
    pub question: String,
    pub thoughts: String,
    pub answer: String,
}

/// Why a reply is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReplyFault {
    #[error("the reply ends at the token limit")]
    Cut,
    #[error("the reply lacks `<question>`, `<thoughts>` or `<answer>`, or has one twice or out of order")]
    Form,
    #[error("the reply leaves a part empty")]
    Empty,
    #[error("the reply repeats itself")]
    Repetition,
}

/// What became of a whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading {
    Worked(Worked),
    /// The writer says that the text poses no problem, or does not settle it.
    NoQuestion,
}

/// What the writer is asked to do with a document. `max_chars` bounds how much of it is shown, to the last whole line.
pub(super) fn ask(template: &str, document: &str, max_chars: usize) -> String {
    template.replacen("{document}", shown(document, max_chars), 1)
}

/// The beginning of a document: at most `max_chars` characters, cut behind a line if that leaves at least half.
fn shown(document: &str, max_chars: usize) -> &str {
    let Some((end, _)) = document.char_indices().nth(max_chars) else { return document };
    let cut = &document[..end];
    match cut.rfind('\n') {
        Some(line) if end / 2 <= line => &cut[..line],
        _ => cut,
    }
}

/// The embedded prompt of a style.
pub const fn embedded_prompt(style: RewriteStyle) -> &'static str {
    match style {
        RewriteStyle::Reasoning => include_str!("../../../assets/prompts/rewrite-reasoning.txt"),
        RewriteStyle::Plain => include_str!("../../../assets/prompts/rewrite-plain.txt"),
    }
}

/// Reads a reply.
pub(super) fn read(reply: &Reply) -> Result<Reading, ReplyFault> {
    let text = reply.text.trim();
    // Models wrap and punctuate it: `NO QUESTION.`, `**NO QUESTION**`.
    let bare: String = text.chars().filter(|c| c.is_alphabetic() || *c == ' ').collect();
    if bare.trim() == "NO QUESTION" {
        return Ok(Reading::NoQuestion);
    }
    if reply.finish == Finish::Length {
        return Err(ReplyFault::Cut);
    }
    let (question, rest) = part(text, "question")?;
    let (thoughts, rest) = part(rest, "thoughts")?;
    let (answer, rest) = part(rest, "answer")?;
    if ["question", "thoughts", "answer"].iter().any(|name| rest.contains(&format!("<{name}>"))) {
        return Err(ReplyFault::Form);
    }
    if [question, thoughts, answer].iter().any(|part| part.is_empty() || *part == "...") {
        return Err(ReplyFault::Empty);
    }
    if repeats(thoughts) {
        return Err(ReplyFault::Repetition);
    }
    Ok(Reading::Worked(Worked { question: question.into(), thoughts: thoughts.into(), answer: answer.into() }))
}

/// The text between the tags of one part, and what follows it.
fn part<'t>(text: &'t str, name: &str) -> Result<(&'t str, &'t str), ReplyFault> {
    let (_, inner) = text.split_once(&format!("<{name}>")).ok_or(ReplyFault::Form)?;
    let (inner, rest) = inner.split_once(&format!("</{name}>")).ok_or(ReplyFault::Form)?;
    // A tag of another part inside means that the parts are nested or that one was never closed; the completion's own
    // tags inside would end it early.
    let tags = ["<question>", "<thoughts>", "<answer>", "</answer>", "<think>", "</think>"];
    if tags.iter().any(|tag| inner.contains(tag)) {
        return Err(ReplyFault::Form);
    }
    Ok((inner.trim(), rest))
}

/// Whether some line makes up half of a long text: what a model stuck in a loop writes.
fn repeats(text: &str) -> bool {
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    let (mut lines, mut most) = (0, 0);
    for line in text.split(['\n', '.']).map(str::trim).filter(|line| line.chars().count() >= 8) {
        let times = seen.entry(line).or_default();
        *times += 1;
        lines += 1;
        most = most.max(*times);
    }
    lines >= 8 && lines <= 2 * most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str, finish: Finish) -> Reply {
        Reply { text: text.into(), finish, prompt_tokens: 1, reply_tokens: 1 }
    }

    #[test]
    fn replies_are_read_or_refused() {
        let check = |text: &str, expect: Result<[&str; 3], ReplyFault>| {
            let read = read(&reply(text, Finish::Stop)).map(|reading| match reading {
                Reading::Worked(worked) => [worked.question, worked.thoughts, worked.answer],
                Reading::NoQuestion => Default::default(),
            });
            assert_eq!(read, expect.map(|parts| parts.map(str::to_owned)), "{text}");
        };
        let whole = "Sure!\n<question>\nWhat is 2 + 2?\n</question>\n<thoughts>I add.\n</thoughts><answer> 4 </answer>";
        check(whole, Ok(["What is 2 + 2?", "I add.", "4"]));
        check(" **NO QUESTION**.", Ok(["", "", ""]));
        check("<question>a</question><answer>4</answer>", Err(ReplyFault::Form));
        check("<thoughts>b</thoughts><question>a</question><answer>4</answer>", Err(ReplyFault::Form));
        check("<question>a<thoughts>b</thoughts></question><answer>4</answer>", Err(ReplyFault::Form));
        check("<question>a</question><thoughts>b</think></thoughts><answer>4</answer>", Err(ReplyFault::Form));
        check("<question>a</question><thoughts>...</thoughts><answer>4</answer>", Err(ReplyFault::Empty));
        check("<question>a</question><thoughts></thoughts><answer>4</answer>", Err(ReplyFault::Empty));
        check(&format!("{whole}{whole}"), Err(ReplyFault::Form));
        let loops = "I try it once more. ".repeat(9);
        check(
            &format!("<question>a</question><thoughts>{loops}</thoughts><answer>4</answer>"),
            Err(ReplyFault::Repetition),
        );
        assert_eq!(read(&reply(whole, Finish::Length)), Err(ReplyFault::Cut));
    }

    #[test]
    fn documents_are_cut_at_a_line() {
        assert_eq!(shown("short", 10), "short");
        assert_eq!(shown("line one\nline two", 12), "line one");
        assert_eq!(shown("a\nlong line without end", 12), "a\nlong line ");
        assert_eq!(shown("ééééé", 3), "ééé");
        assert_eq!(ask("Text: {document}", "a {document}", 100), "Text: a {document}");
    }

    #[test]
    fn prompts_have_their_place() {
        for style in [RewriteStyle::Reasoning, RewriteStyle::Plain] {
            assert_eq!(embedded_prompt(style).matches("{document}").count(), 1);
        }
    }
}
