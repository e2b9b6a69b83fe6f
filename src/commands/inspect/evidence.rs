//! Where the cue judge sees a behavior in a text: its reasons, quoted.

use super::layout;
use crate::behavior::Behavior;
use crate::behavior::cue::{CueJudge, Evidence, Lexicon};
use crate::plan::{Stage, Work};
use anyhow::Context;
use serde_json::{Value, json};

/// Cues listed per behavior; `--json` has them all.
const LISTED: usize = 5;

/// Characters shown on either side of a cue.
const AROUND: usize = 60;

/// A text's cues, with the lexicon they come from.
pub(super) struct Reasons<'t> {
    text: &'t str,
    lexicon: String,
    evidence: Vec<Evidence>,
}

impl<'t> Reasons<'t> {
    /// With the lexicon of a stage that judges by cues; with the embedded one otherwise.
    pub(super) fn new(text: &'t str, stage: Option<&Stage>) -> anyhow::Result<Self> {
        let named = stage.and_then(|stage| match &stage.work {
            Work::Classify(classify) => classify.cue.as_ref()?.lexicon.clone(),
            _ => None,
        });
        let lexicon = match &named {
            None => Lexicon::embedded(),
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read lexicon `{path}`"))?;
                Lexicon::parse(&text).with_context(|| format!("lexicon `{path}` is not one"))?
            }
        };
        let evidence = CueJudge::new(&lexicon).explain(text);
        Ok(Self { text, lexicon: named.unwrap_or_else(|| "the embedded lexicon".into()), evidence })
    }

    pub(super) fn json(&self) -> Value {
        let cues = self.evidence.iter().map(|cue| {
            json!({
                "behavior": cue.behavior.name(),
                "quote": &self.text[cue.span.clone()],
                "byte_start": cue.span.start,
                "byte_end": cue.span.end,
                "cue": cue.cue,
                "weight": cue.weight,
            })
        });
        json!({ "lexicon": self.lexicon, "cues": cues.collect::<Vec<_>>() })
    }

    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let mut lines = vec![format!("evidence of the cue judge ({})", self.lexicon)];
        for behavior in Behavior::ALL {
            let cues: Vec<&Evidence> = self.evidence.iter().filter(|cue| cue.behavior == behavior).collect();
            let weight: f32 = cues.iter().map(|cue| cue.weight).sum();
            lines.push(match cues.len() {
                0 => format!("  {:18}  no cue", behavior.name()),
                1 => format!("  {:18}  1 cue, weight {weight:.1}", behavior.name()),
                more => format!("  {:18}  {more} cues, weights sum to {weight:.1}", behavior.name()),
            });
            for cue in cues.iter().take(LISTED) {
                let quote = self.quote(cue);
                let indented = layout::wrapped(&quote, width.saturating_sub(6)).map(|line| format!("      {line}"));
                lines.extend(indented);
            }
            if cues.len() > LISTED {
                lines.push(format!("      … {} more; `--json` prints all", cues.len() - LISTED));
            }
        }
        lines
    }

    /// The cue in `«»` with some text around it, its weight and its place.
    fn quote(&self, cue: &Evidence) -> String {
        let (before, after) = (&self.text[..cue.span.start], &self.text[cue.span.end..]);
        let from = before.char_indices().rev().nth(AROUND - 1).map_or(0, |(at, _)| at);
        let to = after.char_indices().nth(AROUND).map_or(after.len(), |(at, _)| at);
        let line = format!("{}«{}»{}", &before[from..], &self.text[cue.span.clone()], &after[..to]);
        let line = layout::printable(&line).split_whitespace().collect::<Vec<_>>().join(" ");
        let (start, end) = (if from > 0 { "…" } else { "" }, if to < after.len() { "…" } else { "" });
        format!("{:.1} at byte {}: {start}{line}{end}", cue.weight, cue.span.start)
    }
}
