//! The prompt. One template for priming and for RL, so that the bytes before a completion are the same in both.

use super::puzzle::Puzzle;
use crate::error::{Exit, Failure};
use std::fmt::Write as _;

/// A template with `{numbers}` (as `[3, 5, 7]`) or `{numbers spaced}` (as `3 5 7`), and `{target}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryTemplate {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Numbers { is_spaced: bool },
    Target,
}

impl QueryTemplate {
    /// TinyZero's wire format in this project's words. It ends with `<think>`, after which every completion begins.
    pub fn built_in() -> Result<Self, Failure> {
        Self::parse(include_str!("../../assets/prompts/countdown.txt"))
    }

    /// A template must ask for the numbers and the target, and end with `<think>`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let fault = |what: String| {
            Failure::new(Exit::Usage, format!("the query template {what}"))
                .hint("it needs `{numbers}` or `{numbers spaced}`, `{target}`, and `<think>` at its end")
        };
        if !text.ends_with("<think>") {
            return Err(fault("does not end with `<think>`".to_owned()));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            pieces.push(Piece::Text(before.to_owned()));
            let (name, after) = after.split_once('}').ok_or_else(|| fault("has a `{` without `}`".to_owned()))?;
            pieces.push(match name {
                "numbers" => Piece::Numbers { is_spaced: false },
                "numbers spaced" => Piece::Numbers { is_spaced: true },
                "target" => Piece::Target,
                _ => return Err(fault(format!("has an unknown slot `{{{name}}}`"))),
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        for (slot, is_slot) in [
            ("`{numbers}`", (|piece| matches!(piece, Piece::Numbers { .. })) as fn(&Piece) -> bool),
            ("`{target}`", |piece| *piece == Piece::Target),
        ] {
            if !pieces.iter().any(is_slot) {
                return Err(fault(format!("has no {slot}")));
            }
        }
        Ok(Self { pieces })
    }

    pub fn fill(&self, puzzle: &Puzzle) -> String {
        let mut text = String::with_capacity(512);
        for piece in &self.pieces {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Target => _ = write!(text, "{}", puzzle.target()),
                Piece::Numbers { is_spaced } => {
                    let gap = if *is_spaced { " " } else { ", " };
                    text.push_str(if *is_spaced { "" } else { "[" });
                    for (index, number) in puzzle.numbers().iter().enumerate() {
                        text.push_str(if index == 0 { "" } else { gap });
                        let _ = write!(text, "{number}");
                    }
                    text.push_str(if *is_spaced { "" } else { "]" });
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::countdown::compat;

    #[test]
    fn the_built_in_query_suits_tinyzeros_scorer() {
        let puzzle = Puzzle::new(&[3, 5, 7], 36).unwrap();
        let query = QueryTemplate::built_in().unwrap().fill(&puzzle);
        assert!(query.contains("[3, 5, 7]") && query.contains("36") && query.ends_with("\n<think>"));
        assert_eq!(compat::score(&puzzle, &format!("{query} </think>\n<answer> 3 * (5 + 7) </answer>")), 1.0);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expect: &str| assert_eq!(QueryTemplate::parse(text).unwrap_err().to_string(), expect);
        check("{numbers} {target}", "the query template does not end with `<think>`");
        check("{numbers} <think>", "the query template has no `{target}`");
        check("{target} <think>", "the query template has no `{numbers}`");
        check("{nums} {target} <think>", "the query template has an unknown slot `{nums}`");
        check("{numbers <think>", "the query template has a `{` without `}`");
        let terse = QueryTemplate::parse("use {numbers spaced} make {target} <think>").unwrap();
        assert_eq!(terse.fill(&Puzzle::new(&[3, 5], 8).unwrap()), "use 3 5 make 8 <think>");
    }
}
