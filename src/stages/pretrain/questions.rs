//! A judge's questions as training data: windows of texts, each with questions and the answers of another judge or of annotators.

use crate::behavior::Behavior;
use crate::behavior::cue::{CueJudge, Lexicon};
use crate::behavior::evaluation::{GoldDocument, read_gold};
use crate::behavior::judge::Judge;
use crate::behavior::lm_judge::{Lesson, Lessons};
use crate::config::Answerer;
use crate::error::{Exit, Failure};
use crate::train::documents::{Columns, Content, DataFile, Row, each_batch};
use crate::train::token_file::{TokenDocument, TokenFacts, TokenWriter};
use rayon::prelude::*;
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::Path;

/// A row's questions, as tokens whose last one is the answer.
type Asked = Vec<Vec<u32>>;

/// Writes the questions about all rows of some files into a token file. False: `go_on` said stop, and there is no file.
///
/// A question counts as a row of its own, since each may be held out or left out.
pub(super) fn tokenise(
    files: &[DataFile],
    text: &str,
    answers: Answerer,
    lessons: &Lessons,
    path: &Path,
    go_on: &dyn Fn(u64) -> bool,
) -> anyhow::Result<bool> {
    let names = files.iter().map(|file| file.name.clone()).collect();
    let mut sink =
        Sink { writer: TokenWriter::create(path)?, facts: TokenFacts { files: names, ..TokenFacts::default() } };
    let whole = match answers {
        Answerer::Cue => {
            let mut judge = CueJudge::new(&Lexicon::embedded());
            each_batch(files, &Columns::Text(text.to_owned()), |rows| {
                sink.cue(rows, lessons, &mut judge)?;
                Ok(go_on(sink.facts.rows))
            })?
        }
        Answerer::Labels => {
            for (index, file) in files.iter().enumerate() {
                let open = File::open(&file.path);
                let open =
                    open.map_err(|error| Failure::new(Exit::Usage, format!("cannot read `{}`: {error}", file.name)))?;
                for (row, document) in read_gold(BufReader::new(open), &file.name)?.iter().enumerate() {
                    sink.push(index, row as u64, &labeled(document, lessons)?)?;
                }
            }
            go_on(sink.facts.rows)
        }
    };
    if whole {
        sink.writer.finish(&sink.facts)?;
    }
    Ok(whole)
}

struct Sink {
    writer: TokenWriter,
    facts: TokenFacts,
}

impl Sink {
    fn push(&mut self, file: usize, row: u64, asked: &Asked) -> anyhow::Result<()> {
        if asked.is_empty() {
            self.drop_row("nothing-to-ask");
        }
        for tokens in asked {
            self.facts.rows += 1;
            let learned_from = tokens.len().saturating_sub(1) as u32;
            self.writer.push(TokenDocument { file: file as u32, row, learned_from }, tokens)?;
        }
        Ok(())
    }

    fn drop_row(&mut self, reason: &str) {
        self.facts.rows += 1;
        *self.facts.unusable.entry(reason.to_owned()).or_default() += 1;
    }

    /// What the cue judge answers about the windows of some rows.
    fn cue(&mut self, rows: &[Row], lessons: &Lessons, judge: &mut CueJudge) -> anyhow::Result<()> {
        let windows: Vec<anyhow::Result<Vec<Lesson>>> = rows
            .par_iter()
            .map(|row| match row.content {
                Content::Text(text) => lessons.of(text),
                _ => Ok(Vec::new()),
            })
            .collect();
        for (row, windows) in rows.iter().zip(windows) {
            let text = match &row.content {
                Content::Text(text) => *text,
                Content::Unusable(reason) => {
                    self.drop_row(reason);
                    continue;
                }
                Content::Completion { .. } => anyhow::bail!("completions have no judge"),
            };
            let windows = windows?;
            let texts: Vec<&str> = windows.iter().map(|window| &text[window.span.clone()]).collect();
            let mut asked = Asked::new();
            for ((window, text), labels) in windows.iter().zip(&texts).zip(judge.judge(&texts)?) {
                // A window of blanks is no text to ask about.
                let Ok(labels) = labels else { continue };
                let shown = labels.marks.map(|mark| mark.count > 0);
                let drawn = usize::from(blake3::hash(text.as_bytes()).as_bytes()[0]) % 4;
                for behavior in Behavior::ALL {
                    if shown.contains(&true) || behavior.index() == drawn {
                        asked.push(window.answered(behavior, shown[behavior.index()]));
                    }
                }
            }
            self.push(row.file, row.row, &asked)?;
        }
        Ok(())
    }
}

/// What annotators answered about the windows of a text.
fn labeled(document: &GoldDocument, lessons: &Lessons) -> anyhow::Result<Asked> {
    let windows = lessons.of(&document.text)?;
    let spans: Vec<Range<usize>> = windows.iter().map(|window| window.span.clone()).collect();
    let mut asked = Asked::new();
    for (behavior, count) in Behavior::ALL.into_iter().zip(document.counts()) {
        let quotes = document.quotes(behavior);
        for (window, answer) in windows.iter().zip(answers(&document.text, &spans, count, quotes)) {
            asked.extend(answer.map(|yes| window.answered(behavior, yes)));
        }
    }
    Ok(asked)
}

/// Whether each window of a text shows a behavior, as far as the labels tell.
fn answers<'a>(
    text: &str,
    windows: &[Range<usize>],
    count: u32,
    quotes: impl Iterator<Item = &'a str>,
) -> Vec<Option<bool>> {
    if count == 0 || windows.len() == 1 {
        return vec![Some(count > 0); windows.len()];
    }
    let found: Vec<Option<usize>> = quotes.map(|quote| Some(text.find(quote)? + quote.len() / 2)).collect();
    let holds = |window: &Range<usize>| found.iter().flatten().any(|middle| window.contains(middle));
    // What has no place may be in any window.
    let all_found = !found.is_empty() && found.iter().all(Option::is_some);
    windows.iter().map(|window| if holds(window) { Some(true) } else { all_found.then_some(false) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_answered_by_its_quotes() {
        let check = |count, quotes: &[&str], windows: &[Range<usize>], expect: &[Option<bool>]| {
            assert_eq!(answers("one two three four", windows, count, quotes.iter().copied()), expect, "{quotes:?}");
        };
        let both = [0..8, 8..18];
        check(0, &[], &both, &[Some(false), Some(false)]);
        check(2, &[], std::slice::from_ref(&(0..18)), &[Some(true)]);
        check(1, &["three"], &both, &[Some(false), Some(true)]);
        check(1, &["two three"], &both, &[Some(false), Some(true)]);
        check(2, &["one", "five"], &both, &[Some(true), None]);
        check(1, &[], &both, &[None, None]);
    }
}
